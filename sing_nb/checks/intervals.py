"""Intervals over subjects: cluster bootstraps, also of a score against a random control.

Views of one subject are not independent, so whole subjects are drawn with replacement. A control
is a sample as well, of random subspaces: :func:`excess` draws both.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
import scipy  # scipy.stats comes when it is used, half a second

from ..errors import SingError
from .resampling import Means, Medians, Rows

__all__ = ["Interval", "cluster_bootstrap", "deal", "excess", "excess_test", "rank_correlation"]


class Interval(NamedTuple):
    """An estimate with its interval; arrays for a statistic of several numbers."""

    estimate: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray


# --- one sample of clusters ---------------------------------------------------------------------


def cluster_bootstrap(
    values: np.ndarray,
    clusters: Sequence[Hashable],
    statistic: Callable[..., float | np.ndarray] = np.mean,
    *, level: float = 0.95, draws: int = 1000, seed: int = 0, vectorized: bool = False,
    of_means: bool = False, of_medians: bool = False,
) -> Interval:
    """Expanded percentile interval of a statistic, whole clusters drawn with replacement.

    The percentiles lie as much farther out as Student's t does beside the normal distribution
    (Hesterberg 2015, "What teachers should know about the bootstrap", section 5.3): plain ones are
    too narrow by a factor of about sqrt(1 - 1/k) for k clusters. Simulated (tests/checks), 95 %
    intervals of means, medians, paired differences and ratios of medians cover the truth in 93 to
    97 % of the runs from 20 clusters on. Of 8 clusters they cover it in some 91 %, and of fewer
    they say little.

    Parameters
    ----------
    values : numpy.ndarray
        (n,) or (n, ...), one row an observation; columns stay together, so that paired statistics
        (a difference, a ratio of medians) are resampled as pairs.
    clusters : sequence
        (n,), the cluster (subject) of each row.
    statistic : callable
        Of an array like `values`, a number or an array of numbers; the mean by default. numpy.mean
        and numpy.median are taken over rows, column by column, and are the fastest.
    level : float
        Confidence level, 0 to 1.
    draws : int
        Bootstrap samples.
    seed : int
        Seed of the draws.
    vectorized : bool
        Whether the statistic takes many samples at once, (samples, n, ...), and gives (samples,)
        or (samples, numbers).
    of_means, of_medians : bool
        Whether the statistic takes means or medians over rows, (samples, ...), in place of
        samples. No sample is made then, which saves most of the time.

    Returns
    -------
    Interval
        In the unit of the statistic. With a single cluster the bounds are nan: nothing can be
        said about another subject.

    Raises
    ------
    SingError
        If there are no values, or not one cluster a value.

    Examples
    --------
    Four pictures of two subjects are two observations:

    >>> cluster_bootstrap([1.0, 2.0, 5.0, 6.0], ["cat", "cat", "dog", "dog"])
    Interval(estimate=3.5, low=1.5, high=5.5)
    """
    values, members, count = _checked(values, clusters)
    kind, many = _way(statistic, vectorized, of_means, of_medians)
    estimate = many(kind.whole(values)[None])[0]
    if count < 2:
        return _interval(estimate)
    drawn = np.random.default_rng(seed).integers(0, count, (draws, count))
    taken = kind(values, members)
    sample = np.concatenate([many(taken(drawn[batch])) for batch in taken.batches(draws)])
    return _interval(estimate, _quantiles(sample, level, count - 1, count / (count - 1)))


def _checked(values: np.ndarray, clusters: Sequence[Hashable]) -> tuple[np.ndarray, ...]:
    """Values, the number of each row's cluster, and how many clusters there are."""
    values, clusters = np.asarray(values), np.asarray(clusters)
    if len(values) == 0 or len(values) != len(clusters):
        raise SingError(
            f"Statistics of clusters need one cluster a value and at least one value; got "
            f"{len(values)} values and {len(clusters)} clusters.")
    names, members = np.unique(clusters, return_inverse=True)
    return values, members, len(names)


def _interval(estimate: np.ndarray, ends: np.ndarray | None = None) -> Interval:
    if ends is None:  # one cluster says nothing about another
        ends = np.full((2, *np.shape(estimate)), np.nan)
    return Interval(*(part if np.ndim(part) else float(part) for part in (estimate, *ends)))


def _way(
    statistic: Callable, vectorized: bool, of_means: bool, of_medians: bool
) -> tuple[type[Rows], Callable]:
    """What is made of drawn clusters, and the statistic as a function of many of these."""
    if of_means or of_medians:
        return (Medians if of_medians else Means), statistic
    if statistic in (np.mean, np.median):
        return (Medians if statistic is np.median else Means), _as_it_is
    return Rows, statistic if vectorized else _one_by_one(statistic)


def _as_it_is(columns: np.ndarray) -> np.ndarray:
    return columns


def _one_by_one(statistic: Callable) -> Callable:
    return lambda *samples: np.array([statistic(*one) for one in zip(*samples)])


def _quantiles(
    sample: np.ndarray, level: float, freedom: np.ndarray, stretch: np.ndarray
) -> np.ndarray:
    """Expanded percentiles, both (...), of bootstrap samples (draws, ...)."""
    out = scipy.stats.t.ppf((1 + level) / 2, freedom) * np.sqrt(stretch)
    tails = np.broadcast_to(scipy.stats.norm.sf(out), sample.shape[1:])
    ends = np.full((2, *sample.shape[1:]), np.nan)
    for at in np.ndindex(tails.shape):
        column = sample[(slice(None), *at)]
        # A ratio of medians that are zero, as of pictures whose features are, has no interval.
        told = column[~np.isnan(column)]
        if len(told) and np.isfinite(tails[at]):
            ends[(slice(None), *at)] = np.quantile(told, [tails[at], 1 - tails[at]])
    return ends


# --- a score against a control --------------------------------------------------------------------


def excess(
    score: np.ndarray,
    control: np.ndarray,
    clusters: Sequence[Hashable],
    statistic: Callable[..., float | np.ndarray] | None = None,
    *, level: float = 0.95, draws: int = 1000, seed: int = 0, vectorized: bool = False,
    of_means: bool = False, of_medians: bool = False,
) -> Interval:
    """A score minus its control, where the control is a sample too: crossed bootstrap."""
    if statistic is None:
        statistic, of_means = _mean_excess, True
    crossed = _Crossed(
        score, control, clusters, *_way(statistic, vectorized, of_means, of_medians), seed)
    if crossed.count < 2:
        return _interval(crossed.estimate)
    _, freedom, stretch = crossed.variance(draws)
    sample = crossed.samples(draws, True, True)
    return _interval(crossed.estimate, _quantiles(sample, level, freedom, stretch))


def excess_test(
    score: np.ndarray, control: np.ndarray, clusters: Sequence[Hashable],
    *, draws: int = 1000, seed: int = 0,
) -> np.ndarray:
    """Two-sided p-values of mean excesses: Student's t with the variance of :func:`excess`."""
    crossed = _Crossed(score, control, clusters, Means, _mean_excess, seed)
    if crossed.count < 2:
        return crossed.estimate * np.nan
    total, freedom, stretch = crossed.variance(draws)
    error = np.sqrt(total * stretch)
    size = np.abs(crossed.estimate) / np.where(error > 0, error, 1)
    return np.where(error > 0, 2 * scipy.stats.t.sf(size, freedom), np.where(size > 0, 0.0, 1.0))


def _mean_excess(score: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Of means over rows, (samples, ...) and (samples, D, ...)."""
    return score - control.mean(1)


class _Crossed:
    """Samples of a statistic with subjects drawn anew, or random subspaces, or both."""

    def __init__(self, score, control, clusters, kind: type[Rows], many: Callable, seed: int):
        score, members, self.count = _checked(score, clusters)
        control = np.asarray(control)
        if control.ndim < 2 or len(control) != len(score) or control.shape[1] == 0:
            raise SingError(
                f"excess needs a control of shape (n, draws) with n = {len(score)}; got "
                f"{control.shape}. Put one row an observation and one column a random subspace.")
        self.score, self.control = kind(score, members), kind(control, members)
        self.subspaces, self.many = control.shape[1], many
        self.estimate = many(kind.whole(score)[None], kind.whole(control)[None])[0]
        self.rng = np.random.default_rng(seed)

    def samples(self, number: int, subjects: bool, subspaces: bool) -> np.ndarray:
        drawn, chosen = [], []
        step = self.control.at_once if subjects else number
        for start in range(0, number, step):
            part = min(step, number - start)
            if subjects:
                drawn.append(self.rng.integers(0, self.count, (part, self.count)))
            if subspaces:
                few = max(1, self.subspaces - 1)
                chosen.append(self.rng.integers(0, self.subspaces, (part, few)))
        drawn = np.concatenate(drawn) if subjects else np.arange(self.count)[None]
        chosen = np.concatenate(chosen) if subspaces else None
        return np.concatenate([self._of(drawn[batch] if subjects else drawn,
                                        chosen[batch] if subspaces else None)
                               for batch in self.control.batches(number)])

    def _of(self, drawn: np.ndarray, chosen: np.ndarray | None) -> np.ndarray:
        score, control = self.score(drawn), self.control(drawn)
        if chosen is not None:
            axis = self.control.columns_at
            score = np.broadcast_to(score, (len(chosen), *score.shape[1:]))
            between = tuple(at for at in range(1, control.ndim) if at != axis)
            control = np.take_along_axis(control, np.expand_dims(chosen, between), axis)
        return self.many(score, control)

    def variance(self, draws: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Variance of the statistic, its degrees of freedom, and what it is too small by."""
        few = min(draws, 200)
        by_subject = self.samples(few, True, False).var(0)
        by_subspace = self.samples(few, False, True).var(0)
        total = by_subject + by_subspace
        spread = np.where(total > 0, total, 1)
        parts = by_subject**2 / (self.count - 1) + by_subspace**2 / max(1, self.subspaces - 1)
        freedom = np.where(parts > 0, total**2 / np.where(parts > 0, parts, 1), np.inf)
        return total, freedom, 1 + by_subject / spread / (self.count - 1)


# --- correlations, and who goes where -------------------------------------------------------------


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
        ``p`` and ``n``. The variance of Fisher's z is ``(1 + rho^2 / 2) / (n - 3)`` (Bonett and
        Wright 2000).

    Examples
    --------
    >>> found = rank_correlation([1, 2, 3, 4, 5], [1, 2, 3, 5, 4])
    >>> round(found["rho"], 3), found["n"]
    (0.9, 5)
    """
    result, n = scipy.stats.spearmanr(a, b), len(a)
    rho = float(result.statistic)
    variance = (1 + rho**2 / 2) / (n - 3) if n > 3 else np.inf
    spread = scipy.stats.norm.ppf((1 + level) / 2) * np.sqrt(variance)
    z = np.arctanh(np.clip(rho, -0.999999, 0.999999))
    return {
        "rho": rho, "low": float(np.tanh(z - spread)), "high": float(np.tanh(z + spread)),
        "p": float(result.pvalue), "n": n}


def deal(
    subjects: int, parts: int, seed: int | Sequence[int], strata: Sequence | None = None
) -> np.ndarray:
    """Deal subjects to parts of about the same size."""
    place = np.random.default_rng(seed).permutation(subjects)
    if strata is not None:
        place[np.lexsort((place, np.asarray(strata, dtype=str)))] = np.arange(subjects)
    return place % parts
