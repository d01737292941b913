"""Principal and null space of a linear head. Equations (1) to (3) and (9)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import SingError
from ..pictures.cache import content_key, keep, kept
from .metrics import check_real

__all__ = ["HeadSpaces", "NearNullSpaces"]


@dataclass(frozen=True)
class HeadSpaces:
    """The two subspaces that a head W (c, m) splits its features into.

    Projections use the thinner of the two bases; an m x m projector is never formed. Where the
    null space is empty (m <= c and full rank), null parts are zero and features their own
    equivalents; :meth:`describe` says so.

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
    card : dict
        What is to be known of it, where it was saved with one (:mod:`sing_nb.pictures.cards`).
    """

    singular_values: torch.Tensor
    rank: int
    features: int
    tolerance: float
    _basis: torch.Tensor = field(repr=False)  # (m, k) orthonormal columns, float64
    _basis_is_null: bool = field(repr=False)
    _right: torch.Tensor = field(repr=False)  # (m, m), rows, float64
    card: dict = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_weight(
        cls, weight: torch.Tensor, rtol: float | None = None, folder: Path | None = None
    ) -> HeadSpaces:
        """Split a head by a float64 SVD, equation (1).

        Parameters
        ----------
        weight : torch.Tensor
            (c, m), in the dtype it was stored in: its rounding decides what counts as zero.
        rtol : float, optional
            Relative tolerance, from 0 to less than 1. By default ``max(c, m) * eps`` of the stored
            dtype; for float16 and bfloat16, where that would exceed every singular value, what
            rounding to them adds (see :func:`_rounding`).
        folder : pathlib.Path, optional
            Where the decomposition is kept, in a file named by a hash of the weight: the next
            process loads it, the same to the bit, in a tenth of the time. A damaged file is
            computed again.

        Returns
        -------
        HeadSpaces

        Raises
        ------
        SingError
            If the weight is not a finite, non-zero matrix.
        """
        check_real(weight, "weights of a head", whole=True)
        if rtol is not None and not (isinstance(rtol, (int, float)) and 0 <= rtol < 1):
            raise SingError(
                f"The tolerance is a share of the largest singular value, from 0 to less than 1, "
                f"or None for that of the rounding; got {rtol!r}."
            )
        return cls._split(weight.detach(), weight, rtol, folder)

    @classmethod
    def _split(
        cls, matrix: torch.Tensor, stored: torch.Tensor, rtol: float | None = None,
        folder: Path | None = None,
    ) -> HeadSpaces:
        """Split a matrix whose rounding is that of another one."""
        if stored.ndim != 2:
            raise SingError(
                f"A head's weight has the shape (classes, features); got {tuple(stored.shape)}. "
                f"Flatten a 1 x 1 convolution with weight.flatten(1)."
            )
        if not stored.numel():
            raise SingError(
                f"A head of the shape (classes, features) = {tuple(stored.shape)} is empty; "
                f"expected at least one of each."
            )
        if not torch.isfinite(stored).all():
            raise SingError("The head's weight holds NaN or infinite values; load it again.")
        values, right = _decomposed(matrix, folder)
        top = float(values[0])
        tolerance = _rounding(stored, top) if rtol is None else top * rtol
        rank = int((values > tolerance).sum())
        if rank == 0:
            raise SingError(
                "The head's weight is zero: every feature gives the same logits, and every "
                "direction is null. Train the head, or load its weights."
            )
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
        return cls(values, rank, m, tolerance, basis.T.contiguous(), null_is_thin, right)

    @classmethod
    def for_probabilities(cls, weight: torch.Tensor, folder: Path | None = None) -> HeadSpaces:
        """The spaces of the probabilities: softmax ignores a shift that all logits share.

        The null space is that of W minus its mean row. Where some feature direction shifts all
        logits alike, it is one dimension larger than the head's own.

        Parameters
        ----------
        weight : torch.Tensor
            (c, m).
        folder : pathlib.Path, optional
            As for :meth:`from_weight`.
        """
        centred = weight.detach().double()
        # Rounded as coarsely as the head was stored, or a shift that is none would count.
        return cls._split(centred - centred.mean(0), weight, folder=folder)

    @property
    def null_dim(self) -> int:
        """Dimension of the null space, m - rank."""
        return self.features - self.rank

    @property
    def null_basis(self) -> torch.Tensor:
        """Orthonormal basis of the null space, (m, null_dim), float64."""
        return self._right[self.rank :].T

    @property
    def right(self) -> torch.Tensor:
        """Right singular vectors as rows, (m, m), float64; those from the rank on are null."""
        return self._right

    def truncated(self, rank: int) -> HeadSpaces:
        """The spaces of the head's best approximation of a lower rank, see :meth:`from_svd`."""
        return HeadSpaces.from_svd(self.singular_values, self._right, rank, self.tolerance)

    @property
    def has_null_space(self) -> bool:
        """Whether any change of a feature leaves all logits alone."""
        return self.null_dim > 0

    def describe(self) -> str:
        """One sentence on the size of the null space, also where it is empty."""
        if self.has_null_space:
            return (
                f"The head leaves {self.null_dim} of {self.features} feature dimensions unread: "
                f"its null space."
            )
        return (
            f"The head reads all {self.features} feature dimensions: its null space is empty, and "
            f"no change of a feature leaves all logits alone. near_null(energy) gives the "
            f"directions that it reads least."
        )

    def near_null(self, energy: float) -> NearNullSpaces:
        """The directions that the head reads least, by a stated share of its energy.

        Parameters
        ----------
        energy : float
            Between 0 and 1, both excluded: the squared singular values of the directions given
            up sum to at most this share of ``|W|_F^2``. There is no default, for it decides.

        Returns
        -------
        NearNullSpaces
            The head's null space, if it has one, is a part of it.

        Raises
        ------
        SingError
            If the energy lies outside its range.
        """
        if not 0 < energy < 1:
            raise SingError(
                f"The energy of a near-null space is a share between 0 and 1, for example 0.01; "
                f"got {energy}."
            )
        squares = self.singular_values[: self.rank].square()
        beyond = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
        # beyond[k] is the energy given up when the first k directions are read. A share that is
        # met exactly must not be missed by rounding.
        read = int((beyond > energy * beyond[0] * (1 + 1e-12)).sum())
        return NearNullSpaces(
            energy=energy,
            share=float(beyond[read] / beyond[0]),
            null_dim=self.null_dim,
            gain=float(self.singular_values[read]) if read < self.rank else 0.0,
            _spaces=self.truncated(read),
        )

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
        """Share of each feature's squared length that lies in the null space, (n,), 0 to 1.

        A feature that is zero, as a dead ReLU network gives it, has no part anywhere: 0.
        """
        check_real(f, "features", whole=True, shapes=True)
        f = f.double()
        whole = f.square().sum(-1)
        return self.null(f).square().sum(-1) / whole.masked_fill(whole == 0, 1)

    def _project(self, f: torch.Tensor) -> torch.Tensor:
        check_real(f, "features", shapes=True)
        if not f.ndim or f.shape[-1] != self.features:
            raise SingError(
                f"This head reads {self.features} features; got {tuple(f.shape)}. Use features of "
                f"the same classifier."
            )
        basis = self._basis.to(f.device)
        return ((f.double() @ basis) @ basis.T).to(f.dtype)


@dataclass(frozen=True)
class NearNullSpaces:
    """The directions a head reads least, from :meth:`HeadSpaces.near_null`.

    Not a null space: removing this part changes the logits, by at most :meth:`logit_bound`.

    Attributes
    ----------
    energy : float
        The share of ``|W|_F^2`` that was asked for.
    share : float
        The share that the near-null directions hold, at most `energy`.
    null_dim : int
        How many of them the head does not read at all.
    gain : float
        The largest singular value among them: the most that a unit step changes the logits.
    """

    energy: float
    share: float
    null_dim: int
    gain: float
    _spaces: HeadSpaces = field(repr=False)

    @property
    def features(self) -> int:
        """m, the width of a feature."""
        return self._spaces.features

    @property
    def near_null_dim(self) -> int:
        """How many directions are near-null, those of the null space included."""
        return self._spaces.null_dim

    def near_null(self, f: torch.Tensor) -> torch.Tensor:
        """Near-null part of features (n, m); same dtype and device as f."""
        return self._spaces.null(f)

    def remove_near_null(self, f: torch.Tensor) -> torch.Tensor:
        """Features (n, m) without their near-null part; the logits change."""
        return self._spaces.principal(f)

    def near_null_share(self, f: torch.Tensor) -> torch.Tensor:
        """Share of each feature's squared length that is near-null, (n,), 0 to 1."""
        return self._spaces.null_share(f)

    def logit_bound(self, f: torch.Tensor) -> torch.Tensor:
        """Most that removing the near-null part can change the logits of features (n, m).

        Returns
        -------
        torch.Tensor
            (n,), float64: ``gain * |near-null part|``, which bounds the Euclidean length of the
            change of all logits and so each of them.
        """
        return self.gain * self._spaces.null(f.double()).norm(dim=-1)

    def describe(self) -> str:
        """One sentence on what is given up, and how much of it is not null."""
        if not self.near_null_dim:
            return (
                f"No direction of the head holds {self.energy:g} of its energy or less: the "
                f"near-null space is empty; ask for a larger share."
            )
        return (
            f"{self.near_null_dim} of {self.features} feature dimensions hold {self.share:.3g} of "
            f"the head's energy (at most {self.energy:g} was asked for); {self.null_dim} of them "
            f"are null, the others change logits by up to {self.gain:.3g} times their length."
        )


def _decomposed(matrix: torch.Tensor, folder: Path | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Singular values and all right singular vectors (rows) of a matrix, in float64."""
    # A truncated head has any of the right singular vectors in its null space: all are kept.
    path = None if folder is None else Path(folder) / (
        f"svd-{content_key(matrix, torch.__version__)}.safetensors"
    )
    found = None if path is None else kept(path)
    if found is None:
        _, values, right = torch.linalg.svd(matrix.cpu().double(), full_matrices=True)
        if path is not None:
            keep(path, {"values": values, "columns": right.T}, optional=True)
        return values, right
    # Columns, as LAPACK returns them: products of the same numbers in another layout differ in
    # their last bits.
    return found[0]["values"], found[0]["columns"].T


def _rounding(stored: torch.Tensor, top: float) -> float:
    """Singular values that rounding alone may add to a head, from the dtype it was stored in.

    ``max(c, m) * eps * top`` is NumPy's rule. With the eps of float16 it exceeds the largest
    singular value itself, so there the rounding is counted: an entry w is off by at most
    ``eps |w| / 2``, uniformly, hence ``s = eps |w| / sqrt(12)`` on average, and a c x m matrix of
    such errors has a norm of about ``s (sqrt(c) + sqrt(m))``. Taken is 1.7 times that.
    """
    dtype = stored.dtype if stored.dtype.is_floating_point else torch.float64
    c, m = stored.shape
    info = torch.finfo(dtype)
    if dtype.itemsize > 2:
        return max(c, m) * info.eps * top
    # Below the smallest normal number the steps stay as large as they are there.
    step = info.eps * stored.detach().double().abs().clamp_min(info.tiny)
    return float(step.square().mean().sqrt()) * (c**0.5 + m**0.5) / 2
