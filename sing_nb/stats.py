"""Intervals, ellipses, rank correlations and control subspaces.

Views of one subject are not independent, so every interval is a cluster bootstrap: whole subjects
are drawn with replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from .errors import SingError

__all__ = [
    "Interval",
    "cluster_bootstrap",
    "ellipse",
    "holm",
    "random_basis",
    "rank_correlation",
]


AT_ONCE = 10**7  # values of all bootstrap samples that are held together


class Interval(NamedTuple):
    """An estimate with its percentile interval."""

    estimate: float
    low: float
    high: float


def cluster_bootstrap(
    values: np.ndarray,
    clusters: Sequence[Hashable],
    statistic: Callable[..., float] = np.mean,
    *, level: float = 0.95, draws: int = 1000, seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic, whole clusters drawn with replacement.

    Parameters
    ----------
    values : numpy.ndarray
        (n,) or (n, k), one row an observation; columns stay together, so that paired statistics
        (a difference, a ratio of medians) are resampled as pairs.
    clusters : sequence
        (n,), the cluster (subject) of each row.
    statistic : callable
        Of an array like `values`; the mean by default.
    level : float
        Confidence level, 0 to 1.
    draws : int
        Bootstrap samples.
    seed : int
        Seed of the draws.

    Returns
    -------
    Interval
        In the unit of the statistic. With a single cluster the bounds are nan: nothing can be
        said about another subject.

    Raises
    ------
    SingError
        If there are no values, or not one cluster a value.
    """
    values, clusters = np.asarray(values), np.asarray(clusters)
    if len(values) == 0 or len(values) != len(clusters):
        raise SingError(
            f"cluster_bootstrap needs one cluster a value and at least one value; got "
            f"{len(values)} values and {len(clusters)} clusters."
        )
    estimate = float(statistic(values))
    names, members = np.unique(clusters, return_inverse=True)
    if len(names) < 2:
        return Interval(estimate, np.nan, np.nan)
    order = np.argsort(members, kind="stable")
    rng = np.random.default_rng(seed)
    if statistic is np.mean and len(names) == values.size and draws * values.size <= AT_ONCE:
        # The same draws and sums, to the bit, for a tenth of the time.
        sample = values[order][rng.integers(0, len(names), (draws, len(names)))].mean(1)
    else:
        rows = np.split(order, np.cumsum(np.bincount(members))[:-1])
        drawn = (rng.integers(0, len(rows), len(rows)) for _ in range(draws))
        sample = [statistic(values[np.concatenate([rows[i] for i in one])]) for one in drawn]
    low, high = np.nanquantile(sample, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))


def ellipse(points: np.ndarray, level: float = 0.5, vertices: int = 73) -> np.ndarray:
    """Outline of the normal ellipse that holds a share `level` of the points.

    Parameters
    ----------
    points : numpy.ndarray
        (n, 2).
    level : float
        Share of a two-dimensional normal distribution inside, 0 to 1.
    vertices : int
        Points of the closed outline.

    Returns
    -------
    numpy.ndarray
        (vertices, 2); every vertex lies at the Mahalanobis distance sqrt(chi2.ppf(level, 2)).
    """
    points = np.asarray(points, dtype=float)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise SingError(f"An ellipse needs at least 3 points (n, 2); got {points.shape}.")
    radius = np.sqrt(scipy.stats.chi2.ppf(level, df=2))
    turn = np.linspace(0, 2 * np.pi, vertices)
    circle = np.column_stack([np.cos(turn), np.sin(turn)])
    values, vectors = np.linalg.eigh(np.cov(points.T))
    return points.mean(0) + radius * circle * np.sqrt(values.clip(0)) @ vectors.T


def rank_correlation(a: np.ndarray, b: np.ndarray, *, level: float = 0.95) -> dict[str, float]:
    """Spearman's rank correlation with a Fisher-z interval and a two-sided p-value.

    Parameters
    ----------
    a, b : numpy.ndarray
        (n,), paired values of n classes.
    level : float
        Confidence level.

    Returns
    -------
    dict
        ``rho`` (-1 to 1), ``low``, ``high`` (-1 and 1 for up to 3 values, which show nothing),
        ``p`` and ``n``.
    """
    result = scipy.stats.spearmanr(a, b)
    n = len(a)
    # Bonett and Wright (2000): variance of Fisher's z for Spearman's coefficient.
    rho = float(result.statistic)
    variance = (1 + rho**2 / 2) / (n - 3) if n > 3 else np.inf
    spread = scipy.stats.norm.ppf((1 + level) / 2) * np.sqrt(variance)
    z = np.arctanh(np.clip(rho, -0.999999, 0.999999))
    return {
        "rho": rho, "low": float(np.tanh(z - spread)), "high": float(np.tanh(z + spread)),
        "p": float(result.pvalue), "n": n,
    }


def holm(p: Sequence[float]) -> np.ndarray:
    """P-values adjusted for being looked at together, Holm (1979): the step-down Bonferroni.

    Parameters
    ----------
    p : sequence of float
        (n,), two-sided p-values of n tests.

    Returns
    -------
    numpy.ndarray
        (n,), in the same order, 0 to 1: below a level exactly where Holm rejects at that level,
        which bounds the chance of any false rejection, however the tests depend on each other.
    """
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted


def random_basis(dimensions: int, size: int, seed: int) -> np.ndarray:
    """Orthonormal basis (dimensions, size) of a uniformly random subspace."""
    if not 0 < size <= dimensions:
        raise SingError(f"A subspace of {dimensions} dimensions cannot have {size}.")
    gaussian = np.random.default_rng(seed).standard_normal((dimensions, size))
    basis, triangle = np.linalg.qr(gaussian)
    return basis * np.sign(np.diagonal(triangle))
