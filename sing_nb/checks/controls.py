"""Heads that are made blind to known directions, and readouts that are held out by group."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve

from ..errors import SingError

__all__ = [
    "GroupedProbe", "all_mean_directions", "discriminant_directions", "plant_head", "planted_null"]


def plant_head(weight: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """A head that cannot see given feature directions: W (I - U U^T)."""
    if directions.ndim != 2 or len(directions) != weight.shape[1] or not directions.any():
        raise SingError(
            f"Directions for a head of {weight.shape[1]} features have the shape "
            f"({weight.shape[1]}, k) and are not all zero; got {tuple(directions.shape)}.")
    basis = torch.as_tensor(_orthonormal(directions.detach().double().numpy()))
    wide = weight.detach().double()
    return (wide - (wide @ basis) @ basis.T).to(weight.dtype)


def planted_null(null: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How planting turns a head's null space, without another SVD of the head."""
    planted = _orthonormal(directions)
    return null @ _orthonormal(null.T @ planted, 1e-9), planted


def _orthonormal(vectors: np.ndarray, least: float = 0.0) -> np.ndarray:
    """Orthonormal basis of what columns span, without what is shorter than rounding or `least`."""
    left, values, _ = np.linalg.svd(vectors, full_matrices=False)
    return left[:, values > max(1e-9 * float(values[0]), least)]


def all_mean_directions(
    features: np.ndarray, values: np.ndarray, parts: np.ndarray
) -> list[np.ndarray]:
    """Directions of concepts in the features."""
    found: list[list[np.ndarray]] = [[] for _ in values.T]
    for part in np.unique(parts):
        own = parts == part
        # By its range: the mean of equal numbers may be another number, and what is left of them
        # then a direction made of rounding errors.
        varies = np.ptp(values[own], axis=0) > 0
        along = (features[own] - features[own].mean(0)).T @ (values[own] - values[own].mean(0))
        for directions, one, there in zip(found, along.T, varies, strict=True):
            if there and np.linalg.norm(one) > 0:
                directions.append(one / np.linalg.norm(one))
    return [np.stack(directions, axis=1) for directions in found]


def discriminant_directions(
    features: np.ndarray, values: np.ndarray, k: int, lam: float
) -> np.ndarray:
    """The k ridge discriminants of each concept, one after the other (Ravfogel et al., 2020)."""
    x = features - features.mean(0)
    factor = cho_factor(x.T @ x + lam * np.eye(x.shape[1]))
    start = cho_solve(factor, x.T @ (values - values.mean(0)))
    found, solved = (np.empty((values.shape[1], x.shape[1], k)) for _ in range(2))
    for step in range(k):
        for first, whole, halfway in zip(start.T, found, solved, strict=True):
            w, basis, done = first, whole[:, :step], halfway[:, :step]
            if step:
                w = first - done @ np.linalg.solve(basis.T @ done, basis.T @ first)
                w = w - basis @ (basis.T @ w)  # rounding
            whole[:, step] = w / np.linalg.norm(w)
        # One solve for all concepts: a triangle is read once, not once per concept.
        solved[:, :, step] = cho_solve(factor, found[:, :, step].T).T
    return found


class GroupedProbe:
    """Held-out ridge readouts from features' Gram matrix, and again after a few directions changed.
    """

    def __init__(
        self, gram: np.ndarray, targets: np.ndarray, folds: np.ndarray, lam: float
    ) -> None:
        self._factors = []
        for fold in np.unique(folds):
            test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            if not len(train):
                raise SingError("A held-out readout needs at least 2 folds; got one.")
            own, other = gram[np.ix_(train, train)], gram[np.ix_(test, train)]
            mean = own.mean(0)
            own = own - mean - mean[:, None] + mean.mean()
            other = other - other.mean(1, keepdims=True) - mean + mean.mean()
            own[np.diag_indices_from(own)] += lam
            factor = cho_factor(own, overwrite_a=True, check_finite=False)
            self._factors.append((test, train, other, factor))
        self._fit(targets)

    def _fit(self, targets: np.ndarray) -> None:
        self.targets = np.asarray(targets, dtype=float)
        self.constant, self._duals = np.empty_like(self.targets), []
        for test, train, _, factor in self._factors:
            self.constant[test] = self.targets[train].mean(0)
            self._duals.append(cho_solve(factor, self.targets[train] - self.constant[test[0]]))

    def of(self, targets: np.ndarray) -> GroupedProbe:
        """Readouts of other targets (n, t) from the same features: nothing is factored again."""
        other = copy.copy(self)
        other._fit(targets)
        return other

    def predictions(self, changes: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Held-out predictions (changes, n, t) for each of several changes of the features."""
        every = np.hstack([part for change in changes for part in change])
        signs = np.repeat(np.tile([1.0, -1.0], len(changes)),
                          [part.shape[1] for change in changes for part in change])
        ends = np.cumsum([0, *(sum(part.shape[1] for part in change) for change in changes)])
        out = np.repeat(self.constant[None], len(changes), axis=0)
        for (test, train, other, factor), dual in zip(self._factors, self._duals):
            plain = other @ dual
            centre = every[train].mean(0)
            own, far = every[train] - centre, every[test] - centre
            solved = cho_solve(factor, own, check_finite=False)
            across, loads = other @ solved, own.T @ dual
            for at, mine in enumerate(map(slice, ends[:-1], ends[1:])):
                sign, within = signs[mine], own[:, mine].T @ solved[:, mine]
                inner = np.linalg.solve(np.diag(sign) + within, loads[mine])
                out[at, test] += plain - across[:, mine] @ inner + far[:, mine] @ (
                    sign[:, None] * (loads[mine] - within @ inner))
        return out

    def r2s(self, changes: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Held-out R2 (changes, t) about the training mean, of :meth:`predictions`; at most 1."""
        error = ((self.targets - self.predictions(changes)) ** 2).sum(1)
        total = ((self.targets - self.constant) ** 2).sum(0)
        return 1 - error / np.where(total > 0, total, np.inf)

    def r2(self) -> np.ndarray:
        """Held-out R2 (t,) of the features as they are; below 0 when worse than the mean."""
        nothing = np.empty((len(self.constant), 0))
        return self.r2s([(nothing, nothing)])[0]
