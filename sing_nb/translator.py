"""From classifier features to a joint image-text space: ridge regression, equation (4)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open

from .errors import SingError
from .fetch import write_atomic

__all__ = ["RidgeFitter", "RidgePath", "Translator", "grouped_cv", "nested_cv"]


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
        if v.shape[-1] != self.weight.shape[1]:
            raise SingError(
                f"This translator reads {self.weight.shape[1]} features; got {tuple(v.shape)}. "
                f"It was fitted for {self.card.get('model', 'another classifier')}."
            )
        return v @ self.weight.to(v).T

    def save(self, path: str | Path) -> Path:
        """Write the map and its card as one safetensors file, atomically."""
        tensors = {"weight": self.weight.contiguous(), "bias": self.bias.contiguous()}
        content = safetensors.torch.save(tensors, {"card": json.dumps(self.card, sort_keys=True)})
        return write_atomic(Path(path), content)

    @classmethod
    def load(cls, path: str | Path) -> Translator:
        """Read a translator that :meth:`save` wrote.

        Raises
        ------
        SingError
            If the file is missing or holds something else.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                card = json.loads((file.metadata() or {}).get("card", "{}"))
                return cls(file.get_tensor("weight"), file.get_tensor("bias"), card)
        except FileNotFoundError as error:
            raise SingError(f"No translator at {path}; fit one with RidgeFitter.") from error
        except Exception as error:  # safetensors raises its own kinds for broken files
            raise SingError(
                f"{path} is not a translator in safetensors format ({error}); fit it again."
            ) from error


class RidgeFitter:
    """Ridge regression from sufficient statistics: counts, means and cross-products only.

    Minimises ``|X W^T + b - Z|^2 + lam |W|^2`` (the bias is free), as in scikit-learn's Ridge.
    All sums are float64.

    Parameters
    ----------
    m, d : int
        Width of features and of embeddings.
    """

    def __init__(self, m: int, d: int) -> None:
        self.m, self.d = m, d
        self.n = 0
        self._sum = torch.zeros(m + d, dtype=torch.float64)
        # One block of [X Z]^T [X Z]: Gram, cross-products and target energy together. The columns
        # are shifted by the first row seen, so that a large common mean costs no digits.
        self._cross = torch.zeros(m + d, m + d, dtype=torch.float64)
        self._shift: torch.Tensor | None = None

    def update(self, features: torch.Tensor, targets: torch.Tensor) -> RidgeFitter:
        """Add rows; returns self.

        Parameters
        ----------
        features : torch.Tensor
            (n, m).
        targets : torch.Tensor
            (n, d).
        """
        if (
            features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets)
            or features.shape[1] != self.m or targets.shape[1] != self.d
        ):
            raise SingError(
                f"Expected features (n, {self.m}) and targets (n, {self.d}); got "
                f"{tuple(features.shape)} and {tuple(targets.shape)}."
            )
        if not (torch.isfinite(features).all() and torch.isfinite(targets).all()):
            raise SingError("Features or targets hold NaN or infinite values; drop those rows.")
        rows = torch.cat([features.double(), targets.double()], dim=1)
        if self._shift is None and len(rows):
            self._shift = rows[0].clone()
        rows = rows - self._shift if len(rows) else rows
        self.n += len(rows)
        self._sum += rows.sum(0)
        self._cross += rows.T @ rows
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
        twin.n, twin._shift = self.n, self._shift
        twin._sum, twin._cross = self._sum.clone(), self._cross.clone()
        return twin

    def part(self, features: slice, targets: slice = slice(None)) -> RidgeFitter:
        """The fitter of some columns only, as if the others had never been there."""
        chosen = torch.arange(self.m)[features], torch.arange(self.d)[targets]
        columns = torch.cat([chosen[0], self.m + chosen[1]])
        small = RidgeFitter(len(chosen[0]), len(chosen[1]))
        small.n, small._sum = self.n, self._sum[columns]
        small._cross = self._cross[columns][:, columns]
        small._shift = None if self._shift is None else self._shift[columns]
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
        k, m, weight = weight.shape[1], self.m, weight.double()
        if not 0 < k < m or len(weight) != self.d:
            raise SingError(
                f"Residuals need a map of some of the {self.m} features to {self.d} targets, so "
                f"that others are left; got {tuple(weight.shape)}."
            )
        other = RidgeFitter(m - k, self.d)
        other.n = self.n
        if self._shift is None:
            return other

        sums, cross, shift = self._sum, self._cross, self._shift
        said = cross[:, :k] @ weight.T  # what the map says beside every column, (m + d, d)
        joint = cross[k:m, m:] - said[k:m]
        targets = cross[m:, m:] - said[m:] - said[m:].T + weight @ said[:k]
        other._cross = torch.cat([
            torch.cat([cross[k:m, k:m], joint], 1), torch.cat([joint.T, targets], 1)])
        other._sum = torch.cat([sums[k:m], sums[m:] - weight @ sums[:k]])
        other._shift = torch.cat([shift[k:m], shift[m:] - weight @ shift[:k] - bias.double()])
        return other

    def _combine(self, other: RidgeFitter, sign: int) -> RidgeFitter:
        if (self.m, self.d) != (other.m, other.d):
            raise SingError(
                f"Fitters of different widths: ({self.m}, {self.d}) and ({other.m}, {other.d})."
            )
        if other._shift is None:
            return self
        if self._shift is None:
            self._shift = other._shift
        step = other._shift - self._shift
        total = other._sum + other.n * step
        # Rows r + step: their cross-products follow from the sums, no row is needed again.
        moved = (
            other._cross + torch.outer(other._sum, step) + torch.outer(step, total)
        )
        self.n += sign * other.n
        self._sum += sign * total
        self._cross += sign * moved
        return self

    def _centred(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self.n < 2:
            raise SingError(f"A translator needs at least 2 pictures to fit; got {self.n}.")
        mean = self._sum / self.n
        return mean + self._shift, self._cross - self.n * torch.outer(mean, mean)

    def path(self) -> RidgePath:
        """One eigendecomposition that serves any number of lambdas."""
        mean, cross = self._centred()
        m = self.m
        values, vectors = torch.linalg.eigh(cross[:m, :m])
        return RidgePath(
            values.clamp_min(0), vectors, vectors.T @ cross[:m, m:], mean[:m], mean[m:]
        )

    def solve(self, lam: float, card: dict | None = None) -> Translator:
        """Fit for one lambda.

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
        return self.path().translator(lam, card)

    def solve_directly(self, lam: float, card: dict | None = None) -> Translator:
        """:meth:`solve` by a Cholesky factor: several times faster for one lambda and many refits.

        Parameters
        ----------
        lam, card
            As for :meth:`solve`; the answers agree to rounding.

        Raises
        ------
        SingError
            If lambda is not above 0, or so small that the features' Gram matrix stays singular.
        """
        if not lam > 0:
            raise SingError(f"lambda must be above 0; got {lam}.")
        mean, cross = self._centred()
        m = self.m
        gram = cross[:m, :m].clone()
        gram.diagonal().add_(lam)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if failed:
            raise SingError(
                f"lambda {lam:g} is too small for these {self.n} pictures: their Gram matrix is "
                f"singular to rounding. Take a larger one, or solve()."
            )
        weight = torch.cholesky_solve(cross[:m, m:], factor).T
        bias = mean[m:] - weight @ mean[:m]
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
        mean, cross = self._centred()
        m = self.m
        weight = weight.double()
        offset = weight @ mean[:m] + bias.double() - mean[m:]
        total = float(cross[m:, m:].diagonal().sum())
        residual = (
            total
            - 2 * float((weight.T * cross[:m, m:]).sum())
            + float(((weight @ cross[:m, :m]) * weight).sum())
            + self.n * float(offset.square().sum())
        )
        return residual, total


@dataclass(frozen=True)
class RidgePath:
    """Ridge solutions for every lambda from one eigendecomposition of the centred Gram matrix.

    Attributes
    ----------
    values, vectors : torch.Tensor
        (m,) and (m, m): eigenvalues and eigenvectors of X^T X.
    cross : torch.Tensor
        (m, d): V^T X^T Z.
    feature_mean, target_mean : torch.Tensor
        (m,) and (d,).
    """

    values: torch.Tensor
    vectors: torch.Tensor
    cross: torch.Tensor
    feature_mean: torch.Tensor
    target_mean: torch.Tensor

    def coefficients(self, lam: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (d, m) and bias (d,) in float64."""
        if not lam > 0:
            raise SingError(f"lambda must be above 0; got {lam}.")
        weight = (self.vectors @ (self.cross / (self.values + lam)[:, None])).T
        return weight, self.target_mean - weight @ self.feature_mean

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
        mean, cross = held_out._centred()
        m, n = held_out.m, held_out.n
        joint = self.vectors.T @ cross[:m, m:]
        shift = self.vectors.T @ (mean[:m] - self.feature_mean)
        gram = self.vectors.T @ cross[:m, :m] @ self.vectors + n * torch.outer(shift, shift)
        shrink = 1 / (self.values + torch.tensor(lams, dtype=torch.float64)[:, None])
        found, start = [], 0
        for width in widths or [held_out.d]:
            own = slice(start, start + width)
            load, off = self.cross[:, own], (self.target_mean - mean[m:])[own]
            linear = (load * joint[:, own]).sum(1) - n * shift * (load @ off)
            energy = cross[m:, m:].diagonal()[own].sum()
            residual = (
                energy + n * off.square().sum() - 2 * shrink @ linear
                + ((shrink @ (gram * (load @ load.T))) * shrink).sum(1)
            )
            found.append(1 - residual / energy)
            start += width
        return torch.stack(found, 1) if widths else found[0]

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
    total = always.copy()
    for fold in folds:
        total.merge(fold)
    return torch.stack([total.without(fold).path().scores(fold, lams, widths) for fold in folds])


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
    total = always.copy()
    for fold in folds:
        total.merge(fold)
    for i, j in combinations(range(count), 2):
        path = total.without(folds[i]).without(folds[j]).path()
        scores[i, j] = path.scores(folds[j], lams, widths)
        scores[j, i] = path.scores(folds[i], lams, widths)
    return scores
