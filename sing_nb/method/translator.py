"""From classifier features to a joint image-text space: ridge regression, equation (4).

Fitted from sums over rows, in float64 on the CPU (Apple's MPS has no float64): rows come in pieces
from any device, and whole folds are taken out again without fitting anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, combinations, pairwise
from pathlib import Path

import numpy as np
import torch

from ..errors import SingError
from .files import read_tensors, write_tensors
from .metrics import check_real, exact

__all__ = ["RidgeFitter", "RidgePath", "Translator", "grouped_cv", "nested_cv"]

BLOCK = 2**23  # numbers of rows that are worked on at once: 64 MB in float64
EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False, repr=False)
class Translator:
    r"""A fitted affine map from features to embeddings, :math:`T(f) = W f + b`.

    Examples
    --------
    >>> import torch
    >>> T = Translator(torch.tensor([[1.0, 2.0]]), torch.tensor([3.0]))
    >>> T(torch.tensor([[1.0, 1.0]])), T.linear(torch.tensor([[1.0, 1.0]]))
    (tensor([[6.]]), tensor([[3.]]))
    """

    weight: torch.Tensor  # (d, m)
    bias: torch.Tensor  # (d,)
    card: dict = field(default_factory=dict)  # lambda, held-out error ...: saved with it

    def __repr__(self) -> str:
        return f"Translator({self.weight.shape[1]} -> {self.weight.shape[0]})"

    def __call__(self, f: torch.Tensor) -> torch.Tensor:
        """Translate features (n, m) to embeddings (n, d), in the dtype and on the device of f."""
        return self.linear(f) + self.bias.to(f)

    def linear(self, v: torch.Tensor) -> torch.Tensor:
        """Translate differences of features; T(f + v) = T(f) + T.linear(v), (n, d)."""
        check_real(v, "features")
        if not v.ndim or v.shape[-1] != self.weight.shape[1]:
            raise SingError(
                f"This translator reads {self.weight.shape[1]} features; got {tuple(v.shape)}. "
                f"It was fitted for {self.card.get('model', 'another classifier')}.")
        return v @ self.weight.to(v).T

    def save(self, path: str | Path) -> Path:
        """Write the map and its card as one safetensors file, atomically."""
        return write_tensors(path, {"weight": self.weight, "bias": self.bias}, "card", self.card)

    @classmethod
    def load(cls, path: str | Path) -> Translator:
        """Read a translator that :meth:`save` wrote; :class:`SingError` if it is another file."""
        held, card = read_tensors(path, "card")
        shapes = {name: tuple(tensor.shape) for name, tensor in held.items()}
        weight = shapes.get("weight", ())
        if len(weight) != 2 or shapes != {"weight": weight, "bias": weight[:1]}:
            raise SingError(
                f"{path} is not a translator: it holds {shapes}; expected a weight (d, m) and a "
                f"bias (d,). Fit one with RidgeFitter.")
        return cls(held["weight"], held["bias"], card)


class RidgeFitter:
    r"""Ridge regression from sums over rows: count, means and centred products, nothing else.

    Minimises, with a free bias as in scikit-learn's Ridge,

    .. math:: \sum_i |W f_i + b - z_i|^2 + \lambda |W|^2

    Any number of rows fits into memory, and fitters of different rows can be merged, or taken out
    of each other (Chan, Golub and LeVeque 1983). Its sums of n rows are ``feature_mean`` (m,),
    ``target_mean`` (d,) and, about them, ``gram`` X^T X, ``cross`` X^T Z, ``energy`` diag(Z^T Z).

    Parameters
    ----------
    m, d : int
        Width of features and of embeddings.

    Raises
    ------
    SingError
        If a width is no whole number above 0; from its methods, if rows do not fit.

    Examples
    --------
    >>> import torch
    >>> F, Z = torch.tensor([[-1.0], [0.0], [1.0]]), torch.tensor([[1.0], [3.0], [5.0]])
    >>> T = RidgeFitter(1, 1).update(F, Z).solve(2.0)  # 4 / (2 + lambda)
    >>> T.weight, T.bias
    (tensor([[1.]]), tensor([3.]))
    """

    SUMS = ("feature_mean", "target_mean", "gram", "cross", "energy")

    def __init__(self, m: int, d: int) -> None:
        if not all(isinstance(width, (int, np.integer)) and width > 0 for width in (m, d)):
            raise SingError(
                f"The widths of features and embeddings are whole numbers from 1; got {m!r} and "
                f"{d!r}.")
        self.m, self.d, self.n = m, d, 0
        self.feature_mean, self.target_mean, self.gram, self.cross, self.energy = (
            torch.zeros(size, dtype=torch.float64) for size in (m, d, (m, m), (m, d), d))

    def update(self, features: torch.Tensor, targets: torch.Tensor) -> RidgeFitter:
        """Add rows, features (n, m) and targets (n, d) of any type and device; returns self."""
        check_real(features, "features", whole=True)
        check_real(targets, "targets", whole=True)
        shapes = tuple(features.shape), tuple(targets.shape)
        count = features.numel() // self.m
        if shapes != ((count, self.m), (count, self.d)):
            raise SingError(
                f"Expected features (n, {self.m}) and targets (n, {self.d}); got "
                f"{shapes[0]} and {shapes[1]}.")
        size = max(1, BLOCK // (self.m + self.d))
        blocks = list(zip(features.detach().split(size), targets.detach().split(size)))
        if not all(torch.isfinite(part).all() for block in blocks for part in block):
            raise SingError("Features or targets hold NaN or infinite values; drop those rows.")
        for rows in blocks if count else []:
            x, z = exact(rows[0], "features"), exact(rows[1], "targets")
            block = RidgeFitter(self.m, self.d)
            block.n, block.feature_mean, block.target_mean = len(x), x.mean(0), z.mean(0)
            x, z = x - block.feature_mean, z - block.target_mean
            block.gram, block.cross, block.energy = x.T @ x, x.T @ z, z.square().sum(0)
            self.merge(block)
        return self

    def merge(self, other: RidgeFitter) -> RidgeFitter:
        """Add another fitter's rows; returns self."""
        return self._combine(other, 1)

    def without(self, other: RidgeFitter) -> RidgeFitter:
        """A new fitter with another's rows taken out again (they must be among this one's)."""
        if other.n > self.n:
            raise SingError(f"Of {self.n} rows, {other.n} cannot be taken out.")
        return self.copy()._combine(other, -1)

    def _combine(self, other: RidgeFitter, sign: int) -> RidgeFitter:
        if (self.m, self.d) != (other.m, other.d):
            raise SingError(
                f"Fitters of different widths: ({self.m}, {self.d}) and ({other.m}, {other.d}).")
        if not other.n:
            return self
        n, total = sign * other.n, self.n + sign * other.n
        if not total:
            return RidgeFitter(self.m, self.d)
        # Products about the two means, and what the means' distance adds about the common one.
        x, z = other.feature_mean - self.feature_mean, other.target_mean - self.target_mean
        apart = self.n * n / total
        self.gram.add_(other.gram, alpha=sign).addr_(x, x, alpha=apart)
        self.cross.add_(other.cross, alpha=sign).addr_(x, z, alpha=apart)
        self.energy.add_(other.energy, alpha=sign).add_(z.square(), alpha=apart)
        self.feature_mean.add_(x, alpha=n / total)
        self.target_mean.add_(z, alpha=n / total)
        self.n = total
        return self

    def copy(self) -> RidgeFitter:
        """An independent copy."""
        return self.part(slice(None))

    def part(self, features: slice, targets: slice = slice(None)) -> RidgeFitter:
        """The fitter of some columns only, as if the others had never been there."""
        mean, goal = self.feature_mean[features].clone(), self.target_mean[targets].clone()
        found = RidgeFitter(len(mean), len(goal))
        found.n, found.feature_mean, found.target_mean = self.n, mean, goal
        found.gram = self.gram[features][:, features].clone()
        found.cross = self.cross[features][:, targets].clone()
        found.energy = self.energy[targets].clone()
        return found

    def residuals(self, weight: torch.Tensor, bias: torch.Tensor) -> RidgeFitter:
        """Of rows [X1, X2] and Z, the fitter of X2 and Z - X1 W^T - b, for W (d, k) and b (d,)."""
        k, weight, bias = weight.shape[1], weight.double(), bias.double()
        if not 0 < k < self.m or len(weight) != self.d:
            raise SingError(
                f"Residuals need a map of some of the {self.m} features to {self.d} targets, so "
                f"that others are left; got {tuple(weight.shape)}.")
        found = self.part(slice(k, None))
        found.target_mean -= weight @ self.feature_mean[:k] + bias
        found.cross -= self.gram[k:, :k] @ weight.T
        found.energy += ((weight @ self.gram[:k, :k]) * weight).sum(1)
        found.energy -= 2 * (weight.T * self.cross[:k]).sum(0)
        return found

    def squared_errors(self, weight: torch.Tensor, bias: torch.Tensor) -> tuple[float, float]:
        """Sums of squares over rows and dimensions: left by a map (d, m), (d,); about the mean."""
        self._has_two()
        weight, bias = weight.double(), bias.double()
        offset, total = weight @ self.feature_mean + bias - self.target_mean, self.energy.sum()
        left = total - 2 * (weight.T * self.cross).sum() + ((weight @ self.gram) * weight).sum()
        return float(left + self.n * offset.square().sum()), float(total)

    def path(self) -> RidgePath:
        """One eigendecomposition that serves any number of lambdas."""
        self._has_two()
        values, vectors = torch.linalg.eigh(self.gram)
        # Directions in which rows do not differ but for rounding get no weight, whatever lambda.
        there = values > values[-1] * self.m * EPS
        values, vectors = values[there], vectors[:, there]
        return RidgePath(
            values, vectors, vectors.T @ self.cross, self.feature_mean, self.target_mean)

    def solve(self, lam: float, card: dict | None = None) -> Translator:
        """The float32 translator for one lambda, the weight of ``|W|^2``, from two rows or more."""
        _check_lambda(lam)
        self._has_two()
        if lam <= self.m * EPS * float(self.gram.trace()):  # no Cholesky factor below rounding
            return self.path().translator(lam, card)
        factor = torch.linalg.cholesky(self.gram + lam * torch.eye(self.m, dtype=torch.float64))
        weight = torch.cholesky_solve(self.cross, factor).T
        bias = self.target_mean - weight @ self.feature_mean
        return Translator(weight.float(), bias.float(), {"lambda": lam, **(card or {})})

    def _has_two(self) -> None:
        if self.n < 2:
            raise SingError(f"A ridge needs at least 2 rows, to be fitted or scored; got {self.n}.")
        if not self.gram.isfinite().all():
            raise SingError(
                "The features are so large that their squares are infinite in float64. Divide them "
                "by a common factor, such as their mean length.")

    def save(self, path: str | Path) -> Path:
        """Write the sums as one safetensors file, atomically; load and merge them anywhere."""
        sizes = {"m": self.m, "d": self.d, "n": self.n}
        sums = {name: getattr(self, name) for name in self.SUMS}
        return write_tensors(path, sums, "ridge_statistics", sizes)

    @classmethod
    def load(cls, path: str | Path) -> RidgeFitter:
        """Read sums that :meth:`save` wrote; :class:`SingError` if it is another file."""
        held, sizes = read_tensors(path, "ridge_statistics")
        if set(held) != set(cls.SUMS):
            raise SingError(f"{path} was written by older code; write it again with save.")
        found = cls(sizes["m"], sizes["d"])
        vars(found).update(held, n=sizes["n"])
        return found


@dataclass(frozen=True, eq=False, repr=False)
class RidgePath:
    """Ridge solutions for every lambda, from one eigendecomposition of the centred Gram matrix."""

    values: torch.Tensor  # (r,): eigenvalues of X^T X that are more than rounding
    vectors: torch.Tensor  # (m, r): their eigenvectors V
    loads: torch.Tensor  # (r, d): V^T X^T Z
    feature_mean: torch.Tensor  # (m,)
    target_mean: torch.Tensor  # (d,)

    def coefficients(self, lam: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (d, m) and bias (d,) in float64."""
        _check_lambda(lam)
        weight = (self.vectors @ (self.loads / (self.values + lam)[:, None])).T
        return weight, self.target_mean - weight @ self.feature_mean

    def translator(self, lam: float, card: dict | None = None) -> Translator:
        """The float32 translator for one lambda."""
        weight, bias = self.coefficients(lam)
        return Translator(weight.float(), bias.float(), {"lambda": lam, **(card or {})})

    def scores(
        self, held_out: RidgeFitter, lams: Sequence[float], widths: Sequence[int] | None = None
    ) -> torch.Tensor:
        """R2 (lambdas,) on another fitter's rows about their mean; (lambdas, targets) by widths."""
        # The residual is a quadratic form in 1 / (value + lambda), so that lambdas cost nothing.
        held_out._has_two()
        shrink = 1 / (self.values + torch.tensor(lams, dtype=torch.float64)[:, None])
        gram = self.vectors.T @ held_out.gram @ self.vectors
        cross = self.vectors.T @ held_out.cross
        shift = self.vectors.T @ (held_out.feature_mean - self.feature_mean)
        off = self.target_mean - held_out.target_mean
        found = []
        for start, end in pairwise(accumulate(widths or [held_out.d], initial=0)):
            loads, total = self.loads[:, start:end], held_out.energy[start:end].sum()
            offset = (shrink * shift) @ loads + off[start:end]
            left = total + ((shrink @ (gram * (loads @ loads.T))) * shrink).sum(1)
            left -= 2 * shrink @ (loads * cross[:, start:end]).sum(1)
            found.append(1 - (left + held_out.n * offset.square().sum(1)) / total)
        return torch.stack(found, 1) if widths else found[0]


def _check_lambda(lam: float) -> None:
    if not (isinstance(lam, (int, float, np.number)) and 0 < lam < math.inf):
        raise SingError(f"lambda must be above 0; got {lam!r}. Give a finite number.")


def _all_of(always: RidgeFitter, folds: Sequence[RidgeFitter]) -> RidgeFitter:
    total = always.copy()
    for fold in folds:
        total.merge(fold)
    return total


def grouped_cv(
    always: RidgeFitter, folds: Sequence[RidgeFitter], lams: Sequence[float],
    widths: Sequence[int] | None = None,
) -> torch.Tensor:
    """R2 (folds, lambdas[, targets]) on each fold of a fit on `always` and the other folds."""
    if len(folds) < 2:
        raise SingError(f"Cross-validation needs at least 2 folds; got {len(folds)}.")
    total = _all_of(always, folds)
    return torch.stack([total.without(fold).path().scores(fold, lams, widths) for fold in folds])


def nested_cv(
    always: RidgeFitter, folds: Sequence[RidgeFitter], lams: Sequence[float],
    widths: Sequence[int] | None = None,
) -> torch.Tensor:
    """R2 (folds, folds, lambdas[, targets]) on the second fold of a fit without both."""
    count, total = len(folds), _all_of(always, folds)
    shape = count, count, len(lams), *([len(widths)] if widths else [])
    found = torch.full(shape, torch.nan, dtype=torch.float64)
    for i, j in combinations(range(count), 2):
        path = total.without(folds[i]).without(folds[j]).path()
        found[i, j] = path.scores(folds[j], lams, widths)
        found[j, i] = path.scores(folds[i], lams, widths)
    return found
