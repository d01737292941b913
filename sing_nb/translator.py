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

    def scores(self, held_out: RidgeFitter, lams: Sequence[float]) -> torch.Tensor:
        """R2 of every lambda on another fitter's rows, (lambdas,), about those rows' own mean.

        In the eigenvectors' coordinates a lambda costs one product of (m, m) and (m, d).
        """
        mean, cross = held_out._centred()
        m = held_out.m
        gram = self.vectors.T @ cross[:m, :m] @ self.vectors
        joint = self.vectors.T @ cross[:m, m:]
        shift = self.vectors.T @ (mean[:m] - self.feature_mean)
        energy = cross[m:, m:].diagonal().sum()
        found = torch.empty(len(lams), dtype=torch.float64)
        for place, lam in enumerate(lams):
            weight = self.cross / (self.values + lam)[:, None]
            offset = shift @ weight + self.target_mean - mean[m:]
            residual = (
                energy - 2 * (weight * joint).sum() + (weight * (gram @ weight)).sum()
                + held_out.n * offset.square().sum()
            )
            found[place] = 1 - residual / energy
        return found

    def translator(self, lam: float, card: dict | None = None) -> Translator:
        """The float32 translator for one lambda."""
        weight, bias = self.coefficients(lam)
        return Translator(weight.float(), bias.float(), {"lambda": lam, **(card or {})})


def grouped_cv(
    always: RidgeFitter, folds: Sequence[RidgeFitter], lams: Sequence[float]
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

    Returns
    -------
    torch.Tensor
        (folds, lambdas), R2 about the held-out rows' own mean; at most 1, below 0 when worse than
        that mean.
    """
    if len(folds) < 2:
        raise SingError(f"Cross-validation needs at least 2 folds; got {len(folds)}.")
    total = always.copy()
    for fold in folds:
        total.merge(fold)
    return torch.stack([total.without(fold).path().scores(fold, lams) for fold in folds])


def nested_cv(
    always: RidgeFitter, folds: Sequence[RidgeFitter], lams: Sequence[float]
) -> torch.Tensor:
    """:func:`grouped_cv` among the other folds, for every fold that is kept out of it.

    The fit without folds i and j serves both as j's score when i is kept out and the reverse, so
    half the eigendecompositions of repeated cross-validation are enough.

    Parameters
    ----------
    always, folds, lams
        As in :func:`grouped_cv`.

    Returns
    -------
    torch.Tensor
        (folds, folds, lambdas): R2 on the second fold of what is fitted without both; nan where
        both are the same.
    """
    count = len(folds)
    scores = torch.full((count, count, len(lams)), torch.nan, dtype=torch.float64)
    total = always.copy()
    for fold in folds:
        total.merge(fold)
    for i, j in combinations(range(count), 2):
        path = total.without(folds[i]).without(folds[j]).path()
        scores[i, j] = path.scores(folds[j], lams)
        scores[j, i] = path.scores(folds[i], lams)
    return scores
