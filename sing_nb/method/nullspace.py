"""Principal and null space of a linear head. Equations (1) to (3) and (9)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import SingError
from .files import read_tensors, write_tensors
from .metrics import check_real, exact

__all__ = ["HeadSpaces"]


@dataclass(frozen=True, eq=False, repr=False)
class HeadSpaces:
    r"""The two subspaces that a head W (c, m) splits its features into.

    With :math:`W = U S V^\top` and r = rank W, the first r columns of V span what the head reads
    (the principal space); what is orthogonal to them changes no logit (the null space). Only thin
    factors are kept, in float64 on the CPU; parts of features come back in their dtype, on their
    device. Where the null space is empty (m <= c and full rank), null parts are zero.

    Examples
    --------
    >>> import torch
    >>> spaces = HeadSpaces.from_weight(torch.tensor([[3.0, 4.0]]))
    >>> spaces
    HeadSpaces(1 x 2, rank 1, null 1)
    >>> spaces.null(torch.tensor([[1.0, 2.0]]))
    tensor([[-0.3200,  0.2400]])
    """

    singular_values: torch.Tensor  # (k,), float64, descending; k = min(c, m)
    vectors: torch.Tensor  # (k, m), float64: right singular vectors as rows
    rank: int  # number of singular values above the tolerance
    tolerance: float  # singular values at or below it count as zero
    classes: int  # c; k where it is not known
    card: dict = field(default_factory=dict)  # what is to be known of it: saved with it

    @classmethod
    def from_weight(cls, weight: torch.Tensor, rtol: float | None = None) -> HeadSpaces:
        """Split a head by a float64 SVD, equation (1).

        Parameters
        ----------
        weight : torch.Tensor
            (c, m), of any floating type; refused if it is not a finite, non-zero matrix.
        rtol : float, optional
            What share of the largest singular value counts as zero, from 0 to less than 1. By
            default ``max(c, m) * eps`` of the dtype, NumPy's rule; for half precision that of
            float32, in which models multiply: the stored numbers are what they read.

        Examples
        --------
        >>> import torch
        >>> HeadSpaces.from_weight(torch.eye(3)[:2]).null_dim
        1
        """
        if rtol is not None and not (isinstance(rtol, (int, float)) and 0 <= rtol < 1):
            raise SingError(
                f"The tolerance is a share of the largest singular value, from 0 to less than 1, "
                f"or None for that of the rounding; got {rtol!r}.")
        return cls._split(_checked(weight), _rounding(weight) if rtol is None else rtol)

    @classmethod
    def for_probabilities(cls, weight: torch.Tensor) -> HeadSpaces:
        """The spaces of W minus its mean row: softmax ignores a shift that all logits share."""
        matrix = _checked(weight)
        return cls._split(matrix - matrix.mean(0), _rounding(weight))

    @classmethod
    def _split(cls, matrix: torch.Tensor, rtol: float) -> HeadSpaces:
        _, values, right = torch.linalg.svd(matrix, full_matrices=False)
        tolerance = float(values[0]) * rtol
        rank = int((values > tolerance).sum())
        if rank == 0:
            raise SingError(
                "The head's weight is zero: every feature gives the same logits, and every "
                "direction is null. Train the head, or load its weights.")
        return cls.from_svd(values, right, rank, tolerance, len(matrix))

    @classmethod
    def from_svd(
        cls, values: torch.Tensor, right: torch.Tensor, rank: int, tolerance: float = 0.0,
        classes: int = 0,
    ) -> HeadSpaces:
        """Spaces of the best approximation of a rank, by singular values and vectors (as rows)."""
        if not 1 <= rank <= len(values):
            raise SingError(f"The rank must lie between 1 and {len(values)}; got {rank}.")
        # Products of the same numbers in another layout differ in their last bits: one for all.
        vectors = right[: len(values)].contiguous()
        return cls(values, vectors, rank, tolerance, classes or len(values))

    def truncated(self, rank: int) -> HeadSpaces:
        """The spaces of the head's best approximation of a lower rank."""
        return HeadSpaces.from_svd(
            self.singular_values, self.vectors, rank, self.tolerance, self.classes)

    def near_null(self, energy: float) -> HeadSpaces:
        """Spaces whose null part is what the head reads *least*: without it, logits change.

        The squared singular values that are given up sum to at most a share `energy` of |W|_F^2.
        """
        if not 0 < energy < 1:
            raise SingError(
                f"The energy of a near-null space is a share between 0 and 1, for example 0.01; "
                f"got {energy}.")
        # What is given up when the first 0, 1, ... directions are read. A share that is met exactly
        # must not be missed by rounding.
        beyond = self.singular_values[: self.rank].square().flip(0).cumsum(0).flip(0)
        return self.truncated(int((beyond > energy * beyond[0] * (1 + 1e-12)).sum()))

    @property
    def features(self) -> int:
        """m, the width of a feature."""
        return self.vectors.shape[1]

    @property
    def null_dim(self) -> int:
        """Dimension of the null space, m - rank."""
        return self.features - self.rank

    @property
    def principal_basis(self) -> torch.Tensor:
        """Orthonormal basis of the principal space, (m, rank), float64: right singular vectors."""
        return self.vectors[: self.rank].T

    @property
    def null_basis(self) -> torch.Tensor:
        """Orthonormal basis of the null space, (m, null_dim), float64; computed when asked for."""
        return torch.linalg.qr(self.principal_basis, mode="complete").Q[:, self.rank :]

    def save(self, path: str | Path) -> Path:
        """Write the spaces and their card as one safetensors file, atomically."""
        held = {"values": self.singular_values, "vectors": self.vectors}
        about = {"rank": self.rank, "tolerance": self.tolerance, "classes": self.classes}
        return write_tensors(path, held, "spaces", {**about, "card": self.card})

    @classmethod
    def load(cls, path: str | Path) -> HeadSpaces:
        """Read spaces that :meth:`save` wrote; :class:`SingError` if it is another file."""
        held, about = read_tensors(path, "spaces")
        try:
            return cls(held["values"], held["vectors"], **about)
        except (KeyError, TypeError) as error:
            raise SingError(f"{path} is of other code ({error}); write it again.") from error

    def __repr__(self) -> str:
        size = f"{self.classes} x {self.features}"
        return f"HeadSpaces({size}, rank {self.rank}, null {self.null_dim})"

    def principal(self, f: torch.Tensor) -> torch.Tensor:
        """Principal part of features (n, m), equation (3); same dtype and device as f."""
        check_real(f, "features")
        return self._parts(f)[0].to(f)

    def null(self, f: torch.Tensor) -> torch.Tensor:
        """Null part of features (n, m), equation (3); same dtype and device as f."""
        check_real(f, "features")
        return self._parts(f)[1].to(f)

    def remove_null(self, f: torch.Tensor) -> torch.Tensor:
        """The equivalent without its null part, f - null(f), equation (9)."""
        return self.principal(f)

    def null_share(self, f: torch.Tensor) -> torch.Tensor:
        """Share (n,) of each feature's squared length that is null, 0 to 1; of a zero feature 0."""
        whole = exact(f, "features").square().sum(-1)
        return self._parts(f)[1].square().sum(-1) / whole.masked_fill(whole == 0, 1)

    def _parts(self, f: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Principal and null part in float64."""
        f = exact(f, "features")
        if not f.ndim or f.shape[-1] != self.features:
            raise SingError(
                f"This head reads {self.features} features; got {tuple(f.shape)}. Use features of "
                f"the same classifier.")
        if not self.null_dim:
            return f.clone(), torch.zeros_like(f)
        principal = (f @ self.principal_basis) @ self.principal_basis.T
        return principal, f - principal


def _checked(weight: torch.Tensor) -> torch.Tensor:
    """The weight of a head in float64."""
    matrix = exact(weight, "weights of a head").detach()
    if matrix.ndim != 2 or not matrix.numel():
        raise SingError(
            f"A head's weight has the shape (classes, features), with at least one of each; got "
            f"{tuple(matrix.shape)}. Flatten a 1 x 1 convolution with weight.flatten(1).")
    if not torch.isfinite(matrix).all():
        raise SingError("The head's weight holds NaN or infinite values; load it again.")
    return matrix


def _rounding(weight: torch.Tensor) -> float:
    """What share of the largest singular value the model's rounding may make of a zero."""
    short = weight.is_floating_point() and weight.dtype != torch.float64
    return max(weight.shape) * torch.finfo(torch.float32 if short else torch.float64).eps
