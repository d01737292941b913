"""Principal and null space of a linear head. Equations (1) to (3) and (9)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .errors import SingError

__all__ = ["HeadSpaces"]


@dataclass(frozen=True)
class HeadSpaces:
    """The two subspaces that a head W (c, m) splits its features into.

    Projections use the thinner of the two bases; an m x m projector is never formed.

    Attributes
    ----------
    singular_values : torch.Tensor
        (min(c, m),), float64, descending.
    rank : int
        Number of singular values above the tolerance.
    features : int
        m, the width of a feature.
    tolerance : float
        Singular values at or below it count as zero.
    """

    singular_values: torch.Tensor
    rank: int
    features: int
    tolerance: float
    _basis: torch.Tensor = field(repr=False)  # (m, k) orthonormal columns, float64
    _basis_is_null: bool = field(repr=False)

    @classmethod
    def from_weight(cls, weight: torch.Tensor, rtol: float | None = None) -> HeadSpaces:
        """Split a head by a float64 SVD, equation (1).

        Parameters
        ----------
        weight : torch.Tensor
            (c, m), in the dtype it was stored in: its rounding decides what counts as zero.
        rtol : float, optional
            Relative tolerance; ``max(c, m) * eps`` of the stored dtype by default.

        Returns
        -------
        HeadSpaces

        Raises
        ------
        SingError
            If the weight is not a finite, non-zero matrix.
        """
        if weight.ndim != 2:
            raise SingError(
                f"A head's weight has the shape (classes, features); got {tuple(weight.shape)}. "
                f"Flatten a 1 x 1 convolution with weight.flatten(1)."
            )
        if not torch.isfinite(weight).all():
            raise SingError("The head's weight holds NaN or infinite values; load it again.")
        c, m = weight.shape
        if rtol is None:
            eps_of = weight.dtype if weight.dtype.is_floating_point else torch.float64
            rtol = max(c, m) * torch.finfo(eps_of).eps
        _, values, right = torch.linalg.svd(weight.detach().cpu().double(), full_matrices=True)
        tolerance = float(values[0]) * rtol
        rank = int((values > tolerance).sum())
        if rank == 0:
            raise SingError("The head's weight is zero: every feature gives the same logits.")
        return cls.from_svd(values, right, rank, tolerance)

    @classmethod
    def from_svd(
        cls, values: torch.Tensor, right: torch.Tensor, rank: int, tolerance: float = 0.0
    ) -> HeadSpaces:
        """The spaces of the head's best approximation of a given rank.

        Parameters
        ----------
        values : torch.Tensor
            (min(c, m),), singular values, descending.
        right : torch.Tensor
            (m, m), right singular vectors as rows.
        rank : int
            How many directions are kept, from 1 to the number of singular values. Below the rank
            of the head these are the spaces of another, truncated head.
        tolerance : float
            Kept as it is.
        """
        if not 1 <= rank <= len(values):
            raise SingError(f"The rank must lie between 1 and {len(values)}; got {rank}.")
        m = len(right)
        null_is_thin = m - rank <= rank
        basis = right[rank:] if null_is_thin else right[:rank]
        return cls(values, rank, m, tolerance, basis.T.contiguous(), null_is_thin)

    @classmethod
    def for_probabilities(cls, weight: torch.Tensor) -> HeadSpaces:
        """The spaces of the probabilities: softmax ignores a shift that all logits share.

        The null space is that of W minus its mean row. Where some feature direction shifts all
        logits alike, it is one dimension larger than the head's own.

        Parameters
        ----------
        weight : torch.Tensor
            (c, m).
        """
        centred = weight.detach().double()
        # Rounded as coarsely as the head was stored, or a shift that is none would count.
        rtol = max(weight.shape) * torch.finfo(weight.dtype).eps
        return cls.from_weight(centred - centred.mean(0), rtol)

    @property
    def null_dim(self) -> int:
        """Dimension of the null space, m - rank."""
        return self.features - self.rank

    def principal(self, f: torch.Tensor) -> torch.Tensor:
        """Principal part of features (n, m), equation (3); same dtype and device as f."""
        return f - self.null(f) if self._basis_is_null else self._project(f)

    def null(self, f: torch.Tensor) -> torch.Tensor:
        """Null part of features (n, m), equation (3); same dtype and device as f."""
        return self._project(f) if self._basis_is_null else f - self._project(f)

    def remove_null(self, f: torch.Tensor) -> torch.Tensor:
        """The equivalent without its null part, f - null(f), equation (9)."""
        return self.principal(f)

    def null_share(self, f: torch.Tensor) -> torch.Tensor:
        """Share of each feature's squared length that lies in the null space, (n,), 0 to 1."""
        f = f.double()
        return self.null(f).square().sum(-1) / f.square().sum(-1)

    def _project(self, f: torch.Tensor) -> torch.Tensor:
        if f.shape[-1] != self.features:
            raise SingError(
                f"This head reads {self.features} features; got {tuple(f.shape)}. Use features of "
                f"the same classifier."
            )
        basis = self._basis.to(f.device)
        return ((f.double() @ basis) @ basis.T).to(f.dtype)
