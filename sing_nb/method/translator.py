"""From classifier features to a joint image-text space: ridge regression, equation (4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate, combinations, pairwise
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open
from scipy.linalg.blas import dsyrk, dtrmm
from threadpoolctl import threadpool_limits

from ..errors import SingError
from ..pictures.cache import checksum
from ..pictures.fetch import write_atomic
from .metrics import check_real

__all__ = ["RidgeFitter", "RidgePath", "Translator", "grouped_cv", "nested_cv"]

BLOCK = 64 * 2**20  # bytes of rows in float64 that are worked on at once


@dataclass(frozen=True)
class Translator:
    """A fitted affine map from features (n, m) to embeddings (n, d).

    Attributes
    ----------
    weight : torch.Tensor
        (d, m).
    bias : torch.Tensor
        (d,).
    card : dict
        What it was fitted on, its lambda, its held-out error: saved with it.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    card: dict = field(default_factory=dict)

    def __call__(self, f: torch.Tensor) -> torch.Tensor:
        """Translate features: f W^T + b, (n, d), in the dtype of f."""
        return self.linear(f) + self.bias.to(f)

    def linear(self, v: torch.Tensor) -> torch.Tensor:
        """Translate differences of features; T(f + v) = T(f) + T.linear(v), (n, d)."""
        check_real(v, "features", shapes=True)
        if not v.ndim or v.shape[-1] != self.weight.shape[1]:
            raise SingError(
                f"This translator reads {self.weight.shape[1]} features; got {tuple(v.shape)}. "
                f"It was fitted for {self.card.get('model', 'another classifier')}."
            )
        return v @ self.weight.to(v).T

    def save(self, path: str | Path) -> Path:
        """Write the map and its card as one safetensors file, atomically."""
        tensors = {"weight": self.weight.contiguous(), "bias": self.bias.contiguous()}
        about = {"card": _sealed(self.card, tensors)}
        return write_atomic(Path(path), safetensors.torch.save(tensors, about))

    @classmethod
    def load(cls, path: str | Path) -> Translator:
        """Read a translator that :meth:`save` wrote.

        Raises
        ------
        SingError
            If the file is missing, damaged (were it by one bit) or holds something else.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                # Copies: what is mapped would end the process where someone cuts the file short.
                found = {name: file.get_tensor(name).clone() for name in ("weight", "bias")}
            card = _unsealed(metadata.get("card", "{}"), found)
            weight, bias = found.values()
            if weight.ndim != 2 or bias.shape != weight.shape[:1]:
                raise SingError(
                    f"a weight {tuple(weight.shape)} and a bias {tuple(bias.shape)} are no map; "
                    f"expected (d, m) and (d,)"
                )
            return cls(weight, bias, card)
        except FileNotFoundError as error:
            raise SingError(f"No translator at {path}; fit one with RidgeFitter.") from error
        except Exception as error:  # safetensors raises its own kinds for broken files
            raise SingError(
                f"{path} is not a translator in safetensors format ({error}); fit it again."
            ) from error


def _sealed(card: Mapping[str, object], held: Mapping[str, torch.Tensor]) -> str:
    """A card as JSON, with a checksum of itself and of the tensors that it is written with."""
    text = json.dumps(card, sort_keys=True)
    return json.dumps({**card, "checksum": checksum(held, text)}, sort_keys=True)


def _unsealed(text: str, held: Mapping[str, torch.Tensor]) -> dict:
    """The card, if its checksum is right or, as in files of older code, missing."""
    card = dict(json.loads(text))
    written = card.pop("checksum", None)
    if written not in (None, checksum(held, json.dumps(card, sort_keys=True))):
        raise SingError("its checksum differs: the file was damaged")
    return card


def _check_lambda(lam: float) -> None:
    if not (isinstance(lam, (int, float, np.number)) and 0 < lam < np.inf):
        raise SingError(f"lambda must be above 0; got {lam!r}. Give a finite number.")


@dataclass
class _Sums:
    """Sums over rows that were shifted by one row, so that a large common mean costs no digits."""

    shift: torch.Tensor  # (m + d,)
    total: torch.Tensor  # (m + d,): of the shifted rows, as all below
    gram: torch.Tensor  # (m, m): X^T X, of which only the lower triangle is kept up
    cross: torch.Tensor  # (m, d): X^T Z
    energy: torch.Tensor  # (d,): the diagonal of Z^T Z

    @classmethod
    def zero(cls, m: int, d: int, shift: torch.Tensor) -> _Sums:
        sizes = [(m + d,), (m, m), (m, d), (d,)]
        return cls(shift, *(torch.zeros(size, dtype=torch.float64) for size in sizes))

    def copy(self) -> _Sums:
        return _Sums(*(value.clone() for value in vars(self).values()))

    def add_rows(self, features: torch.Tensor, targets: torch.Tensor, sign: int) -> None:
        m, d = self.cross.shape
        size = max(1, BLOCK // (8 * (m + d)))
        for x, z in zip(features.split(size), targets.split(size), strict=True):
            x, z = x - self.shift[:m], z - self.shift[m:]  # float64, as the shift is
            # In place, the upper triangle of a Fortran array: half the work of a product.
            dsyrk(sign, x.numpy().T, beta=1, c=self.gram.numpy().T, overwrite_c=1, lower=0)
            self.cross.addmm_(x.T, z, alpha=sign)
            self.energy += sign * z.square().sum(0)
            self.total += sign * torch.cat([x.sum(0), z.sum(0)])

    def add_sums(self, other: _Sums, n: int, sign: int) -> None:
        """Add those of n other rows, or take them out."""
        # Rows r + step: their products follow from the sums, no row is needed again.
        m = len(self.cross)
        step = other.shift - self.shift
        total = other.total + n * step
        (step_x, step_z), (total_x, total_z) = step.split([m, len(step) - m]), total.split(
            [m, len(step) - m])
        own_x, own_z = other.total[:m], other.total[m:]
        for mine, their, left, right in (
            (self.gram, other.gram, (own_x, step_x), (step_x, total_x)),
            (self.cross, other.cross, (own_x, step_z), (step_x, total_z)),
        ):
            mine.add_(their, alpha=sign).addr_(*left, alpha=sign).addr_(*right, alpha=sign)
        self.energy += sign * (other.energy + own_z * step_z + step_z * total_z)
        self.total += sign * total

    def centred(self, n: int) -> tuple[torch.Tensor, ...]:
        """Mean (m + d,), gram, cross and energy about it."""
        m, mean = len(self.cross), self.total / n
        x, z = mean[:m], mean[m:]
        return (
            mean + self.shift, torch.addr(self.gram, x, x, alpha=-n),
            torch.addr(self.cross, x, z, alpha=-n), self.energy - n * z.square(),
        )


class RidgeFitter:
    """Ridge regression from sufficient statistics: counts, means and cross-products only.

    Minimises ``|X W^T + b - Z|^2 + lam |W|^2`` (the bias is free), as in scikit-learn's Ridge.
    All sums and products are float64, whatever the rows are: products in float32 would take half
    the time, and lose the digits that 1e-5 of a coefficient needs where features are collinear.

    Rows come in blocks of any size and are not kept, so that any number of them fits into memory.
    Only while they are fewer than half the features, rows are smaller than what they sum up to and
    are kept instead; the solution is that of the dual problem then, in (n, n).

    Parameters
    ----------
    m, d : int
        Width of features and of embeddings.
    """

    def __init__(self, m: int, d: int) -> None:
        if not all(isinstance(width, (int, np.integer)) and width > 0 for width in (m, d)):
            raise SingError(
                f"The widths of features and embeddings are whole numbers from 1; got {m!r} and "
                f"{d!r}."
            )
        self.m, self.d = m, d
        self.n = 0
        # Either the rows, blocks of (features, targets), or their sums.
        self._rows: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._sums: _Sums | None = None

    def save(self, path: str | Path) -> Path:
        """Write the statistics as one safetensors file, atomically.

        Fitters of shards that were saved apart are loaded and merged anywhere. While there are few
        rows, the file holds the rows.
        """
        card = {"m": self.m, "d": self.d, "n": self.n}
        if self._sums is not None:
            tensors = vars(self._sums)
        elif self._rows:
            tensors = dict(zip(("features", "targets"), self._all_rows(), strict=True))
        else:
            tensors = {}
        tensors = {name: value.contiguous() for name, value in tensors.items()}
        about = {"ridge_statistics": _sealed(card, tensors)}
        return write_atomic(Path(path), safetensors.torch.save(tensors, about))

    @classmethod
    def load(cls, path: str | Path) -> RidgeFitter:
        """Read statistics that :meth:`save` wrote.

        Raises
        ------
        SingError
            If the file is missing or holds something else.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                names = file.keys()
                values = {name: file.get_tensor(name).clone() for name in names}
            card = _unsealed(metadata["ridge_statistics"], values)
            fitter = cls(card["m"], card["d"])
            fitter.n = card["n"]
            if "features" in values:
                fitter._rows = [(values["features"], values["targets"])]
            elif values:
                fitter._sums = _Sums(**values)
            return fitter
        except FileNotFoundError as error:
            raise SingError(f"No statistics at {path}; RidgeFitter.save writes them.") from error
        except Exception as error:  # safetensors raises its own kinds for broken files
            raise SingError(
                f"{path} does not hold ridge statistics in safetensors format ({error!r}); write "
                f"it again with RidgeFitter.save."
            ) from error

    def update(self, features: torch.Tensor, targets: torch.Tensor) -> RidgeFitter:
        """Add rows; returns self.

        Memory stays at the statistics and one block of rows in float64 (64 MB).

        Parameters
        ----------
        features : torch.Tensor
            (n, m), of any floating type.
        targets : torch.Tensor
            (n, d).
        """
        for values, what in ((features, "features"), (targets, "targets")):
            check_real(values, what, whole=True)
        features, targets = features.detach(), targets.detach()
        if (
            features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets)
            or features.shape[1] != self.m or targets.shape[1] != self.d
        ):
            raise SingError(
                f"Expected features (n, {self.m}) and targets (n, {self.d}); got "
                f"{tuple(features.shape)} and {tuple(targets.shape)}."
            )
        for values in (features, targets):
            size = max(1, BLOCK // (8 * max(1, values.shape[1])))
            if not all(torch.isfinite(block).all() for block in values.split(size)):
                raise SingError("Features or targets hold NaN or infinite values; drop those rows.")
        self._add_rows([(features, targets)], 1)
        return self

    def merge(self, other: RidgeFitter) -> RidgeFitter:
        """Add another fitter's rows; returns self."""
        return self._combine(other, 1)

    def without(self, other: RidgeFitter) -> RidgeFitter:
        """A new fitter with another's rows taken out again (they must be among this one's)."""
        return self.copy()._combine(other, -1)

    def copy(self) -> RidgeFitter:
        """An independent copy."""
        twin = RidgeFitter(self.m, self.d)
        twin.n, twin._rows = self.n, list(self._rows)
        twin._sums = None if self._sums is None else self._sums.copy()
        return twin

    def part(self, features: slice, targets: slice = slice(None)) -> RidgeFitter:
        """The fitter of some columns only, as if the others had never been there."""
        x, z = torch.arange(self.m)[features], torch.arange(self.d)[targets]
        small = RidgeFitter(len(x), len(z))
        if self._sums is None:
            return small._add_rows([(a[:, x], b[:, z]) for a, b in self._rows], 1)
        both, sums = torch.cat([x, self.m + z]), self._sums
        small.n = self.n
        small._sums = _Sums(
            sums.shift[both], sums.total[both], sums.gram[x][:, x], sums.cross[x][:, z],
            sums.energy[z])
        return small

    def residuals(self, weight: torch.Tensor, bias: torch.Tensor) -> RidgeFitter:
        """The fitter of the other columns on what a map of the first ones leaves of the targets.

        The statistics of the rows ``[X2, Z - X1 W^T - b]`` follow from those of ``[X1, X2, Z]``:
        no row is needed again.

        Parameters
        ----------
        weight : torch.Tensor
            (d, k): the map reads the first k < m columns.
        bias : torch.Tensor
            (d,).

        Returns
        -------
        RidgeFitter
            Of the m - k other columns and d targets.
        """
        k, m, weight, bias = weight.shape[1], self.m, weight.double(), bias.double()
        if not 0 < k < m or len(weight) != self.d:
            raise SingError(
                f"Residuals need a map of some of the {self.m} features to {self.d} targets, so "
                f"that others are left; got {tuple(weight.shape)}."
            )
        other = RidgeFitter(m - k, self.d)
        if self._sums is None:
            left = [(x[:, k:], z - x[:, :k] @ weight.T - bias) for x, z in self._rows]
            return other._add_rows(left, 1)
        sums, other.n = self._sums, self.n
        first = _symmetric(sums.gram[:k, :k])
        energy = (
            sums.energy - 2 * (weight.T * sums.cross[:k]).sum(0)
            + ((weight @ first) * weight).sum(1)
        )
        other._sums = _Sums(
            *(torch.cat([of[k:m], of[m:] - weight @ of[:k] - offset])
              for of, offset in ((sums.shift, bias), (sums.total, 0))),
            sums.gram[k:, k:].clone(), sums.cross[k:] - sums.gram[k:, :k] @ weight.T, energy)
        return other

    def _all_rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        features, targets = zip(*self._rows, strict=True)
        return torch.cat(features), torch.cat(targets)

    def _combine(self, other: RidgeFitter, sign: int) -> RidgeFitter:
        if (self.m, self.d) != (other.m, other.d):
            raise SingError(
                f"Fitters of different widths: ({self.m}, {self.d}) and ({other.m}, {other.d})."
            )
        if sign < 0 and other.n > self.n:
            raise SingError(f"Of {self.n} pictures, {other.n} cannot be taken out.")
        if other._sums is None:
            return self._add_rows(other._rows, sign)
        if self._sums is None:
            self._sum_up(other._sums.shift)
        self._sums.add_sums(other._sums, other.n, sign)
        self.n += sign * other.n
        return self

    def _add_rows(
        self, rows: Sequence[tuple[torch.Tensor, torch.Tensor]], sign: int
    ) -> RidgeFitter:
        """Add blocks of rows or take them out: as rows while there are few, else as sums."""
        rows = [(x, z) for x, z in rows if len(x)]
        total = self.n + sign * sum(len(x) for x, _ in rows)
        kept = self._sums is None and 2 * total <= self.m
        if kept and sign > 0:
            fresh = [(x.to(torch.float64, copy=True), z.to(torch.float64, copy=True))
                     for x, z in rows]
            self._rows = self._rows + fresh
        elif kept and (left := _left(self._rows, rows)) is not None:
            self._rows = left
        elif rows:
            if self._sums is None:
                first = self._rows[0] if self._rows else rows[0]
                self._sum_up(torch.cat([part[0].double() for part in first]))
            for x, z in rows:
                self._sums.add_rows(x, z, sign)
        self.n = total
        return self

    def _sum_up(self, shift: torch.Tensor) -> None:
        """Put sums in the place of the rows."""
        self._sums = _Sums.zero(self.m, self.d, shift.clone())
        for x, z in self._rows:
            self._sums.add_rows(x, z, 1)
        self._rows = []

    def _centred_rows(self) -> tuple[torch.Tensor, ...]:
        """Means (m,) and (d,), and the rows about them."""
        x, z = self._all_rows()
        return x.mean(0), z.mean(0), x - x.mean(0), z - z.mean(0)

    def _has_two(self) -> None:
        if self.n < 2:
            raise SingError(f"A translator needs at least 2 pictures to fit; got {self.n}.")
        # A Gram matrix is as large as its diagonal; float32 features cannot overflow it.
        if self._sums is not None and not self._sums.gram.diagonal().isfinite().all():
            raise SingError(
                "The features are so large that their squares are infinite in float64. Divide them "
                "by a common factor, such as their mean length."
            )

    def path(self) -> RidgePath:
        """One eigendecomposition that serves any number of lambdas.

        Of the (m, m) Gram matrix, or of few rows one singular value decomposition.
        """
        self._has_two()
        if self._sums is None:
            x_mean, z_mean, x, z = self._centred_rows()
            left, values, right = np.linalg.svd(x.numpy(), full_matrices=False)
            cross = values[:, None] * (left.T @ z.numpy())
            return RidgePath(
                *(torch.from_numpy(np.ascontiguousarray(part))
                  for part in (values**2, right.T, cross)),
                x_mean, z_mean, self.n, z.square().sum(0))
        mean, gram, cross, energy = self._sums.centred(self.n)
        # NumPy's lets other threads run meanwhile, and reads the lower triangle. Of one thread: two
        # gain a fifth on idle processors, and wait many times as long for a busy one.
        with threadpool_limits(1, user_api="blas"):
            values, vectors = np.linalg.eigh(gram.numpy())
        loads = torch.from_numpy(vectors.T @ cross.numpy())
        return RidgePath(
            torch.from_numpy(values).clamp_min(0), torch.from_numpy(vectors), loads,
            mean[: self.m], mean[self.m :], self.n, energy)

    def solve(self, lam: float, card: dict | None = None) -> Translator:
        """Fit for one lambda: by a Cholesky factor, or by :meth:`path` if lambda is below rounding.

        Parameters
        ----------
        lam : float
            Weight of ``|W|^2``, above 0.
        card : dict, optional
            Saved with the translator.

        Returns
        -------
        Translator
            float32.
        """
        return self._by_cholesky(lam, card, True) or self.path().translator(lam, card)

    def solve_directly(self, lam: float, card: dict | None = None) -> Translator:
        """:meth:`solve` by a Cholesky factor or not at all.

        Parameters
        ----------
        lam, card
            As for :meth:`solve`.

        Raises
        ------
        SingError
            If lambda is not above 0, or so small that the features' Gram matrix stays singular.
        """
        found = self._by_cholesky(lam, card)
        if found is None:
            raise SingError(
                f"lambda {lam:g} is too small for these {self.n} pictures: their Gram matrix is "
                f"singular to rounding. Take a larger one, or solve()."
            )
        return found

    def _by_cholesky(
        self, lam: float, card: dict | None, careful: bool = False
    ) -> Translator | None:
        """None where it fails; careful, also where rounding alone may have kept it from failing."""
        _check_lambda(lam)
        self._has_two()
        if self._sums is None:  # the dual: W^T = X^T (X X^T + lam)^-1 Z
            x_mean, z_mean, x, right = self._centred_rows()
            gram = x @ x.T
        else:
            mean, gram, right, _ = self._sums.centred(self.n)
            x_mean, z_mean = mean[: self.m], mean[self.m :]
        if careful and lam <= len(gram) * torch.finfo(torch.float64).eps * gram.trace():
            return None
        gram.diagonal().add_(lam)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if failed:
            return None
        weight = torch.cholesky_solve(right, factor).T
        if self._sums is None:
            weight = weight @ x
        bias = z_mean - weight @ x_mean
        return Translator(weight.float(), bias.float(), {"lambda": lam, **(card or {})})

    def squared_errors(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[float, float]:
        """Residual and total sum of squares of an affine map on this fitter's rows.

        Both follow from the statistics alone. The total is taken about these rows' own mean.

        Parameters
        ----------
        weight : torch.Tensor
            (d, m).
        bias : torch.Tensor
            (d,).

        Returns
        -------
        residual, total : float
            Sums of squares over rows and dimensions.
        """
        self._has_two()
        weight, bias = weight.double(), bias.double()
        if self._sums is None:
            x, z = self._all_rows()
            residual = (x @ weight.T + bias - z).square().sum()
            return float(residual), float((z - z.mean(0)).square().sum())
        mean, gram, cross, energy = self._sums.centred(self.n)
        offset = weight @ mean[: self.m] + bias - mean[self.m :]
        total = float(energy.sum())
        residual = (
            total
            - 2 * float((weight.T * cross).sum())
            + float(((weight @ _symmetric(gram)) * weight).sum())
            + self.n * float(offset.square().sum())
        )
        return residual, total

    def _turned(self, vectors: np.ndarray) -> tuple[torch.Tensor, ...]:
        """Mean (m + d,), V^T X^T X V, V^T X^T Z and the targets' energy, about the mean."""
        self._has_two()
        if self._sums is None:
            x_mean, z_mean, x, z = self._centred_rows()
            turned = x.numpy() @ vectors
            return (torch.cat([x_mean, z_mean]), turned.T @ turned, turned.T @ z.numpy(),
                    z.square().sum(0))
        mean, gram, cross, energy = self._sums.centred(self.n)
        joint = vectors.T @ cross.numpy()
        # With a Cholesky factor L of the Gram matrix, L^T V is a product with a triangle, and its
        # own product with itself symmetric: half the work of two products. A little on the
        # diagonal, which is taken off again, keeps fewer rows than features from being singular.
        little = float(1e-12 * gram.trace())
        gram.diagonal().add_(little)
        try:
            factor = np.linalg.cholesky(gram.numpy())
        except np.linalg.LinAlgError:
            gram.diagonal().sub_(little)
            return mean, vectors.T @ _symmetric(gram).numpy() @ vectors, joint, energy
        # A transposed view is what BLAS takes without a copy: L^T V = (V^T L)^T.
        turned = dtrmm(1, factor.T, vectors.T, side=1, lower=0, trans_a=1)
        turned = turned @ turned.T
        turned[np.diag_indices_from(turned)] -= little
        return mean, turned, joint, energy


def _symmetric(lower: torch.Tensor) -> torch.Tensor:
    """The whole of a symmetric matrix of which the lower triangle is given."""
    return lower.tril() + lower.tril(-1).T


def _left(
    rows: Sequence[tuple[torch.Tensor, torch.Tensor]],
    out: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
    """Blocks of rows without others, or None where those are not among them block by block."""
    left = list(rows)
    for block in out:
        for at, own in enumerate(left):
            if all(a is b or torch.equal(a, b) for a, b in zip(own, block, strict=True)):
                del left[at]
                break
        else:
            return None
    return left


@dataclass(frozen=True)
class RidgePath:
    """Ridge solutions for every lambda from one eigendecomposition of the centred Gram matrix.

    Attributes
    ----------
    values, vectors : torch.Tensor
        (r,) and (m, r): eigenvalues and eigenvectors of X^T X; r = m, or fewer where there are
        few rows and the others are zero.
    cross : torch.Tensor
        (r, d): V^T X^T Z.
    feature_mean, target_mean : torch.Tensor
        (m,) and (d,).
    n : int
        Rows that were fitted on.
    energy : torch.Tensor
        (d,): their targets' sums of squares about the mean.
    """

    values: torch.Tensor
    vectors: torch.Tensor
    cross: torch.Tensor
    feature_mean: torch.Tensor
    target_mean: torch.Tensor
    n: int
    energy: torch.Tensor

    def coefficients(self, lam: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (d, m) and bias (d,) in float64."""
        _check_lambda(lam)
        weight = (self.vectors @ (self._shrinkages([lam]).T * self.cross)).T
        return weight, self.target_mean - weight @ self.feature_mean

    def _shrinkages(self, lams: Sequence[float]) -> torch.Tensor:
        """``1 / (value + lambda)``, (lambdas, r); zero where both are nothing beside rounding."""
        total = self.values + torch.tensor(lams, dtype=torch.float64)[:, None]
        noise = self.values.max() * len(self.vectors) * torch.finfo(torch.float64).eps
        return torch.where(total > noise, 1 / total, 0)

    def scores(
        self, held_out: RidgeFitter, lams: Sequence[float], widths: Sequence[int] | None = None
    ) -> torch.Tensor:
        """R2 of every lambda on another fitter's rows, about those rows' own mean.

        The residual is a quadratic form in the shrinkages ``1 / (value + lambda)``, so that a
        lambda costs next to nothing.

        Parameters
        ----------
        held_out : RidgeFitter
            Rows to score on.
        lams : sequence of float
        widths : sequence of int, optional
            Widths of targets that lie side by side, to be scored each by itself.

        Returns
        -------
        torch.Tensor
            (lambdas,), or (lambdas, targets) if `widths` are given.
        """
        vectors, n = self.vectors.numpy(), held_out.n
        mean, gram, joint, energy = held_out._turned(vectors)
        m, cross = held_out.m, self.cross.numpy()
        shift = vectors.T @ (mean[:m] - self.feature_mean).numpy()
        off = (self.target_mean - mean[m:]).numpy()
        gram += n * np.outer(shift, shift)
        shrink = self._shrinkages(lams).numpy()
        found = []
        for own in _side_by_side(widths or [held_out.d]):
            load, total = cross[:, own], float(energy[own].sum())
            linear = (load * joint[:, own]).sum(1) - n * shift * (load @ off[own])
            both = load @ load.T
            both *= gram
            residual = (
                total + n * (off[own] ** 2).sum() - 2 * shrink @ linear
                + ((shrink @ both) * shrink).sum(1)
            )
            found.append(torch.from_numpy(1 - residual / total))
        return torch.stack(found, 1) if widths else found[0]

    def gcv(self, lams: Sequence[float], widths: Sequence[int] | None = None) -> torch.Tensor:
        r"""Generalised cross-validation: what a new row would be missed by, without one held out.

        .. math:: \mathrm{GCV}(\lambda)
            = \frac{n \, \|Z - H_\lambda Z\|^2}{(n - \mathrm{tr} H_\lambda)^2}, \qquad
            \mathrm{tr} H_\lambda = 1 + \sum_i \frac{s_i}{s_i + \lambda}

        with the hat matrix :math:`H_\lambda` of the centred features and their mean, and the
        eigenvalues :math:`s_i` of their Gram matrix (Golub, Heath and Wahba 1979). It is
        leave-one-out, which scikit-learn's RidgeCV takes, with every row's leverage
        :math:`H_{ii}` replaced by their mean: no row is needed, and no fit beyond this one.

        Both leave out one *row*. Where rows come in groups (views of one subject), the others of
        the group stay in the fit and give the row away: lambda comes out too small and the score
        too good. This package's translators take :func:`grouped_cv`, K-fold with whole groups
        held out, for this reason; GCV is for rows that are independent.

        Parameters
        ----------
        lams : sequence of float
            Candidates, above 0.
        widths : sequence of int, optional
            Widths of targets that lie side by side, to be scored each by itself.

        Returns
        -------
        torch.Tensor
            (lambdas,), or (lambdas, targets) if `widths` are given: squared error a row, summed
            over dimensions; the smallest is best.
        """
        if not all(lam > 0 for lam in lams):
            raise SingError(f"Each lambda must be above 0; got {list(lams)}.")
        # By direction, of which n - 1 rows have no more: what its fit explains, and what lambda
        # leaves of that. Differences of large numbers would cost digits where little is left.
        values, at = self.values.topk(min(len(self.values), self.n - 1))
        found = values > values[0] * len(self.vectors) * torch.finfo(torch.float64).eps
        explained = self.cross[at].square() * (found / values.where(found, 1))[:, None]
        outside = (self.energy - explained.sum(0)).clamp_min(0)
        if int(found.sum()) == self.n - 1:
            outside = torch.zeros_like(outside)
        shrink = self._shrinkages(lams)[:, at]
        left = torch.where(
            shrink > 0, torch.tensor(lams, dtype=torch.float64)[:, None] * shrink, 1)
        missed = outside + left.square() @ explained
        freedom = self.n - 1 - len(values) + left.sum(1)  # n - tr H
        scores = self.n * missed / freedom.square()[:, None]
        if widths is None:
            return scores.sum(1)
        return torch.stack([scores[:, own].sum(1) for own in _side_by_side(widths)], 1)

    def gcv_lambda(self, lams: Sequence[float]) -> float:
        """The lambda that :meth:`gcv` finds best; of equals, the first."""
        return float(lams[int(self.gcv(lams).argmin())])

    def translator(self, lam: float, card: dict | None = None) -> Translator:
        """The float32 translator for one lambda."""
        weight, bias = self.coefficients(lam)
        return Translator(weight.float(), bias.float(), {"lambda": lam, **(card or {})})


def grouped_cv(
    always: RidgeFitter, folds: Sequence[RidgeFitter], lams: Sequence[float],
    widths: Sequence[int] | None = None,
) -> torch.Tensor:
    """Held-out R2 of every lambda in every fold, groups kept together by the caller.

    Parameters
    ----------
    always : RidgeFitter
        Rows that are fitted on in every fold and never scored.
    folds : sequence of RidgeFitter
        Rows by fold; a group lies in one fold only.
    lams : sequence of float
        Candidates.
    widths : sequence of int, optional
        Widths of targets that lie side by side, to be scored each by itself.

    Returns
    -------
    torch.Tensor
        (folds, lambdas), R2 about the held-out rows' own mean; at most 1, below 0 when worse than
        that mean. With `widths`, (folds, lambdas, targets).
    """
    if len(folds) < 2:
        raise SingError(f"Cross-validation needs at least 2 folds; got {len(folds)}.")
    total = _all_of(always, folds)
    return torch.stack(_each(
        lambda fold: total.without(fold).path().scores(fold, lams, widths), folds))


def _all_of(always: RidgeFitter, folds: Sequence[RidgeFitter]) -> RidgeFitter:
    total = always.copy()
    for fold in folds:
        total.merge(fold)
    return total


def _each(function: Callable, items: Iterable) -> list:
    """The function of every item, one thread each with one BLAS thread.

    Two eigendecompositions side by side on two processors take little longer than one on both, for
    half of it moves memory, and much less where another process is busy there.
    """
    workers = torch.get_num_threads()
    if workers < 2:
        return [function(item) for item in items]
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))


def _side_by_side(widths: Sequence[int]) -> list[slice]:
    ends = list(accumulate(widths, initial=0))
    return [slice(*pair) for pair in pairwise(ends)]


def nested_cv(
    always: RidgeFitter, folds: Sequence[RidgeFitter], lams: Sequence[float],
    widths: Sequence[int] | None = None,
) -> torch.Tensor:
    """:func:`grouped_cv` among the other folds, for every fold that is kept out of it.

    The fit without folds i and j serves both as j's score when i is kept out and the reverse, so
    half the eigendecompositions of repeated cross-validation are enough.

    Parameters
    ----------
    always, folds, lams, widths
        As in :func:`grouped_cv`.

    Returns
    -------
    torch.Tensor
        (folds, folds, lambdas): R2 on the second fold of what is fitted without both; nan where
        both are the same. With `widths`, (folds, folds, lambdas, targets).
    """
    count = len(folds)
    shape = count, count, len(lams), *([len(widths)] if widths else [])
    scores = torch.full(shape, torch.nan, dtype=torch.float64)
    total = _all_of(always, folds)

    def both(pair: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = (folds[number] for number in pair)
        path = total.without(first).without(second).path()
        return path.scores(second, lams, widths), path.scores(first, lams, widths)

    pairs = list(combinations(range(count), 2))
    for (i, j), (second, first) in zip(pairs, _each(both, pairs), strict=True):
        scores[i, j], scores[j, i] = second, first
    return scores
