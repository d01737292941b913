"""How much of a concept can be read from features, and how much of it from what a head reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats
from scipy.linalg import cho_factor, cho_solve

from ..checks.blind_heads import FOLDS, READABLE, hidden_share
from ..checks.intervals import cluster_bootstrap, deal
from ..method.steer import random_basis
from ..progress import progress_bar

__all__ = ["VERDICTS", "Readouts", "decided", "measured", "readout", "standardised"]

VERDICTS = ("ignores it", "keeps it", "cannot be told")
# Shares hidden: between "next to nothing" and "a good part" lies a zone where the two answers are
# not worth telling apart (an indifference zone, as in tests of equivalence). Chosen on two splits
# of the trials of EfficientNet-Lite0 and one of Lite1, whose others they are reported on.
THRESHOLD, THRESHOLD_HIGH = 0.1, 0.3
LEAST_SUBJECTS = 20  # from which on an interval holds what it promises (`checks.intervals`)
LAMBDAS = (0.3, 1.0, 3.0, 10.0, 30.0)  # of the readout, in units of its features' variance
CONTROLS = 3  # random subspaces, at most
AT_ONCE = 200  # concepts whose bootstrap samples are held together


def readout(
    features: np.ndarray, values: np.ndarray, folds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Held-out ridge predictions (n, t) of values, each with the lambda that other folds choose."""
    features = features - features.mean(0)
    variance = float(features.var(0).sum()) or 1.0
    constant, paths = np.empty_like(values), np.empty((len(LAMBDAS), *values.shape))
    names, whole = np.unique(folds), None
    for fold in names:
        test, train = folds == fold, folds != fold
        centre, mean = features[train].mean(0), values[train].mean(0)
        own, far, target = features[train] - centre, features[test] - centre, values[train] - mean
        constant[test] = mean
        if own.shape[1] > len(own):  # the smaller of the two normal equations
            gram, right, reach = own @ own.T, target, far @ own.T
        else:
            # Of all rows, once, without those of the fold: products of few rows cost little.
            whole = features.T @ features if whole is None else whole
            gram = whole - features[test].T @ features[test] - len(own) * np.outer(centre, centre)
            right, reach = own.T @ target, far
        for at, lam in enumerate(LAMBDAS):
            paths[at][test] = mean + reach @ _solved(gram, lam * variance, right)
    errors = np.stack([((values - paths)[:, folds == fold] ** 2).sum(1) for fold in names])
    predicted = np.empty_like(values)
    for fold, own in zip(names, errors):
        rows = np.flatnonzero(folds == fold)
        best = (errors.sum(0) - own).argmin(0)
        predicted[rows] = paths[best[None], rows[:, None], np.arange(values.shape[1])[None]]
    return predicted, constant


def _solved(gram: np.ndarray, ridge: float, right: np.ndarray) -> np.ndarray:
    """(gram + ridge I)^-1 right."""
    raised = gram.copy()
    raised[np.diag_indices_from(raised)] += ridge
    return cho_solve(cho_factor(raised, overwrite_a=True), right)


def weights(features: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """Ridge weights (m, lambdas) of each concept, fitted on all rows."""
    own = features - features.mean(0)
    gram, along = own.T @ own, own.T @ (values - values.mean(0))
    solved = [_solved(gram, lam * own.var(0).sum(), along) for lam in LAMBDAS]
    return list(np.stack(solved, axis=2).transpose(1, 0, 2))


def standardised(values: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and variance 1; 0 where one does not vary."""
    spread = np.where(np.ptp(values, axis=0) > 1e-9, values.std(0), np.inf)
    return (values - values.mean(0)) / spread


class Readouts:
    """Concepts of some pictures, read from whole features; heads come one by one."""

    def __init__(
        self, features: np.ndarray, values: np.ndarray, subjects: Sequence,
        strata: Sequence | None, seed: int,
    ) -> None:
        names, first, self.members = np.unique(
            np.asarray(subjects, dtype=str), return_index=True, return_inverse=True)
        self.features, self.subjects, self.seed = features, len(names), seed
        self.values = standardised(np.asarray(values, dtype=float))
        self.able = self.subjects >= 4  # else there are no folds of two subjects
        if self.able:
            groups = None if strata is None else np.asarray(strata, dtype=str)[first]
            count = min(FOLDS, self.subjects // 2)
            self.folds = deal(self.subjects, count, seed, groups)[self.members]
            predicted, constant = readout(features, self.values, self.folds)
            self.full, self.total = ((self.values - part) ** 2 for part in (predicted, constant))

    def errors(self, basis: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Squared errors (n, columns, 3): whole feature, what `basis` reads, the mean."""
        target = self.values[:, columns]
        predicted, _ = readout(self.features @ basis, target, self.folds)
        return np.stack(
            [self.full[:, columns], (target - predicted) ** 2, self.total[:, columns]], axis=2)

    def share(self, basis: np.ndarray) -> np.ndarray:
        """Hidden shares (t,) of all concepts."""
        columns = np.arange(self.values.shape[1])
        if not self.able:
            return np.full(len(columns), np.nan)
        found = _shares(self.errors(basis, columns).mean(0))[len(columns):]
        return np.where(self.values.any(0), found, np.nan)

    def of(
        self, basis: np.ndarray, columns: Sequence[int] | None = None, draws: int = 1000
    ) -> pd.DataFrame:
        """Readable and hidden shares of all or some concepts, with intervals."""
        columns = np.arange(self.values.shape[1]) if columns is None else np.asarray(columns)
        found = np.full((3, 2, len(columns)), np.nan)  # estimate, low, high; full, hidden
        varies = np.flatnonzero(self.values[:, columns].any(0))
        if self.able and len(varies):
            errors = self.errors(basis, columns[varies])
            for start in range(0, len(varies), AT_ONCE):
                own = slice(start, start + AT_ONCE)
                interval = cluster_bootstrap(
                    errors[:, own], self.members, _shares, draws=draws, seed=self.seed,
                    of_means=True)
                found[:, :, varies[own]] = np.reshape(interval, (3, 2, -1))
        return pd.DataFrame({
            f"{what}{end}": found[at, which] for which, what in enumerate(("full", "hidden"))
            for at, end in enumerate(("", "_low", "_high"))
        }).assign(pictures=len(self.features), subjects=self.subjects)


def _shares(means: np.ndarray) -> np.ndarray:
    """R2 of whole features and hidden shares (..., 2 t) of mean squared errors (..., t, 3)."""
    r2 = 1 - means[..., :2] / np.maximum(means[..., 2:], 1e-12)
    return np.concatenate([r2[..., 0], hidden_share(r2[..., 0], r2[..., 1])], axis=-1)


def measured(
    features: np.ndarray, values: np.ndarray, subjects: Sequence, basis: np.ndarray,
    strata: Sequence | None = None, *, controls: int = CONTROLS, draws: int = 1000, seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """How much of concepts' values is readable in features, and hidden from what a head reads."""
    with progress_bar(progress, total=2 + controls, desc="readouts", unit="readout") as bar:
        asked = Readouts(features, values, subjects, strata, seed)
        bar.update(1)
        found = asked.of(basis, draws=draws)
        bar.update(1)
        shares = []
        for number in range(controls):
            shares.append(asked.share(random_basis(*basis.shape, seed + 2 + number)))
            bar.update(1)
    if not shares:
        return found.assign(hidden_control=np.nan, hidden_control_high=np.nan)
    mean, high = np.mean(shares, axis=0), np.full(len(found), np.nan)
    if controls > 1:  # the upper end for one more view that is drawn like these
        wide = stats.t.ppf(0.95, controls - 1) * np.sqrt(1 + 1 / controls)
        high = mean + wide * np.std(shares, axis=0, ddof=1)
    return found.assign(hidden_control=mean, hidden_control_high=high)


def decided(table: pd.DataFrame) -> np.ndarray:
    """The answers to what :func:`measured` found, by the rule of :func:`~.asking.ask`."""
    able = (table["subjects"] >= LEAST_SUBJECTS) & (table["full_low"] >= READABLE)
    some, little = table["hidden_low"] > THRESHOLD, table["hidden_high"] < THRESHOLD_HIGH
    found = np.select([able & some & ~little, able & little & ~some], VERDICTS[:2], VERDICTS[2])
    return found.astype(object)
