"""Do the intervals of this book hold what they say? Asked of this run's own pictures.

Views of one subject resemble each other, so that an interval over pictures, as if each were a
subject, is too narrow. Both kinds are made here, side by side, and both are put to the test: the
scored subjects stand for a population whose median is known, studies are drawn from it, and it is
counted how many of their intervals hold that median.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy

from .errors import SingError
from .stats import cluster_bootstrap
from .study import Study

__all__ = ["coverage", "interval_widths"]

OVER = ("subjects", "pictures")
KINDS = {"null space removed": "", "random control": "_control"}
SCORES = ("image_score", "attribute_score")


def interval_widths(study: Study) -> pd.DataFrame:
    """Medians with their interval over subjects, beside the one over pictures.

    Parameters
    ----------
    study : Study

    Returns
    -------
    pandas.DataFrame
        model, title, role, ``quantity`` (image_score, attribute_score [absolute]), ``kind`` (null
        space removed, random control: one random subspace), ``resampled`` (``subjects``, as
        everywhere in the book, or ``pictures``, as if they were independent), ``value``, ``low``
        and ``high`` (median, degrees, 95 %).
    """
    return study.stored("interval-widths", lambda: _widths(study), *study.config.everyone)


def _same(medians: np.ndarray) -> np.ndarray:
    return medians


def _widths(study: Study) -> pd.DataFrame:
    c, records = study.config, []
    for model in c.everyone:
        table = study.scored(model, draw=0)
        role = "control: the tower itself" if model == c.tower else "compared"
        for kind, end in KINDS.items():
            for quantity in SCORES:
                values = table[f"{quantity}{end}"].abs().to_numpy()
                for over, clusters in zip(OVER, (table["subject"], np.arange(len(table)))):
                    found = cluster_bootstrap(
                        values, clusters, _same, draws=c.bootstrap_draws, seed=c.seed,
                        of_medians=True)
                    records.append({
                        "model": model, "title": study.title(model), "role": role,
                        "quantity": quantity, "kind": kind, "resampled": over,
                        **dict(zip(("value", "low", "high"), found)),
                    })
    return pd.DataFrame(records)


def coverage(study: Study, runs: int = 200, draws: int = 400) -> pd.DataFrame:
    """How often intervals of the median Image Score hold the median of the population.

    The population is this run's scored pictures. A run draws as many subjects as there are, with
    replacement, each with all its pictures, and asks for both intervals.

    Parameters
    ----------
    study : Study
    runs : int
        Studies that are drawn, at least 1.
    draws : int
        Bootstrap samples of each interval.

    Returns
    -------
    pandas.DataFrame
        model, title (of the first classifier), ``kind``, ``resampled`` as in
        :func:`interval_widths`, ``value`` (share of the runs, 0 to 1; 0.95 is wanted), ``low``,
        ``high`` (95 %, Wilson: over the runs, which are independent), ``runs``.

    Raises
    ------
    SingError
        If there is no run.
    """
    if runs < 1:
        raise SingError(f"A coverage is counted over at least one run; got {runs}.")
    model = study.config.models[0]
    name = f"coverage-{runs}-{draws}"
    return study.stored(name, lambda: _coverage(study, model, runs, draws), model)


def _coverage(study: Study, model: str, runs: int, draws: int) -> pd.DataFrame:
    table, records = study.scored(model, draw=0), []
    members = [np.flatnonzero(part) for part in (
        table["subject"].to_numpy() == subject for subject in table["subject"].unique())]
    rng = np.random.default_rng(study.config.seed)
    drawn = [rng.integers(0, len(members), len(members)) for _ in range(runs)]
    for kind, end in KINDS.items():
        values = table[f"image_score{end}"].to_numpy()
        truth, hits = np.median(values), dict.fromkeys(OVER, 0)
        for seed, chosen in enumerate(drawn):
            rows = [members[i] for i in chosen]
            # A subject that is drawn twice counts as two.
            subjects = np.repeat(np.arange(len(rows)), list(map(len, rows)))
            sample = values[np.concatenate(rows)]
            for over, clusters in zip(OVER, (subjects, np.arange(len(sample)))):
                _, low, high = cluster_bootstrap(
                    sample, clusters, _same, draws=draws, seed=seed, of_medians=True)
                hits[over] += bool(low <= truth <= high)
        for over, count in hits.items():
            bounds = scipy.stats.binomtest(count, runs).proportion_ci(method="wilson")
            records.append({
                "model": model, "title": study.title(model), "kind": kind, "resampled": over,
                "value": count / runs, "low": bounds.low, "high": bounds.high, "runs": runs,
            })
    return pd.DataFrame(records)
