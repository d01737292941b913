"""Planted truths: heads that were made blind to a known concept, and which score finds it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..study.study import Study, stored
from .blind_heads import FOLDS, READABLE, Asked, Split, hidden_share
from .concepts import concept_values, split_subjects
from .controls import all_mean_directions, discriminant_directions
from .intervals import cluster_bootstrap

__all__ = [
    "FOLDS", "READABLE", "SCORES", "concept_values", "hidden_share", "plant_runs", "power_table",
    "score_table", "split_subjects", "thresholds"]

SCORES = {
    "hidden": "hidden share (readout)",
    "joint": "unique information in the joint space",
    "attribute_excess": "excess AS (AS − control)",
    "attribute_score": "AS",
    "image_score": "IS"}
ALARMS = 0.01  # share of calibration runs of each kind that may lie above a threshold
CALIBRATION = 1000  # added to the seeds of the runs that thresholds are chosen on
SHUFFLES = 5
DIRECTIONS = {"mean": (1, 2, 4, 8), "discriminant": (1, 2, 4, 8, 16, 32)}
SUBJECTS, PICTURES = (10, 20, 40, 80), (1, 2, 4, 8)
KEYS = ("plant_splits", "plant_concepts", "plant_pictures")


# --- runs ----------------------------------------------------------------------------------------


@stored(models="models", keys=KEYS)
def plant_runs(study: Study) -> pd.DataFrame:
    """Every score of every concept on untouched heads, plants, shams and shuffled concepts."""
    tables = []
    for model in study.config.models:
        for split in range(study.config.plant_splits):
            for calibration in (False, True):
                seed = study.config.seed + split + CALIBRATION * calibration
                tables += [table.assign(calibration=calibration)
                           for table in _one_run(Split(study, model, seed), calibration)]
    return _rounded(tables)


def _rounded(tables: list[pd.DataFrame]) -> pd.DataFrame:
    found = pd.concat(tables, ignore_index=True)
    numbers = found.select_dtypes(float).columns
    return found.assign(**found[numbers].round(5))


def _one_run(run: Split, calibration: bool) -> Iterator[pd.DataFrame]:
    asked, first = run.asked(), run.first
    yield run.records("untouched", "", *asked.scores())
    shuffled = [first.shuffled(run.seed + number) for number in range(SHUFFLES)]
    moved = np.column_stack([shuffled[c % SHUFFLES][:, c] for c in range(len(run.names))])
    plants = {"sham": first.directions(moved)}
    if not calibration:
        # How not to test: along the translator's own direction for the concept.
        own = next(iter(asked.weights.values())) @ run.text.T
        plants |= {"planted": first.directions(), "circular": list(own.T[:, :, None])}
    found = [asked.scores(directions) for directions in plants.values()]
    for name, *several in zip(run.names, *found, strict=True):
        for head, scores in zip(plants, several, strict=True):
            yield run.records(head, name, scores)
    for number in range(SHUFFLES):
        yield run.records("permuted", "", *asked.shuffled(run.seed + number).scores())


def thresholds(runs: pd.DataFrame) -> pd.Series:
    """The value of each score above which it is an alarm, from calibration runs alone."""
    own = runs[runs["calibration"]]
    return own.groupby("head")[list(SCORES)].quantile(1 - ALARMS, interpolation="higher").max()


# --- how well they are found ----------------------------------------------------------------------


def _area(study: Study, own: pd.DataFrame, score: str) -> dict:
    """Area under the ROC curve of planted concepts among all, with an interval over concepts."""
    positive, score = (own["plant"] == own["concept"]).to_numpy(), own[score].to_numpy()
    names, members = np.unique(own["concept"], return_inverse=True)
    count, above, whose = len(names), score[positive], members[positive]
    ours, theirs = (np.bincount(members[part], minlength=count) for part in (positive, ~positive))
    won = np.empty((count, count))  # pairs won by positives of a concept against negatives of one
    for other in range(count):
        against = np.sort(score[~positive & (members == other)])
        ranks = (np.searchsorted(against, above) + np.searchsorted(against, above, "right")) / 2
        won[:, other] = np.bincount(whose, weights=ranks, minlength=count)

    def area(drawn: np.ndarray) -> np.ndarray:
        times = np.apply_along_axis(np.bincount, 1, drawn, minlength=count)
        pairs = (times @ ours) * (times @ theirs)
        wins = ((times @ won) * times).sum(1)
        return np.where(pairs > 0, wins / np.where(pairs > 0, pairs, 1), np.nan)

    found = cluster_bootstrap(
        np.arange(count), np.arange(count), area, vectorized=True,
        draws=study.config.bootstrap_draws, seed=study.config.seed)
    return dict(zip(("value", "low", "high"), found, strict=True))


def _detected(study: Study, own: pd.DataFrame, kind: str, score: str, limit: float) -> dict:
    """``auc``, ``first`` and ``found`` of one kind of plants among untouched heads."""
    positive = own["plant"] == own["concept"]
    plants = own[own["head"] == kind]
    mine, key = positive[plants.index], [plants[name] for name in ("model", "seed", "plant")]
    place = plants.groupby(key)[score].rank(ascending=False, method="max")[mine]
    names = plants["plant"][mine]
    return {
        "auc": _area(study, own, score),
        "first": study.interval((place == 1).to_numpy(float), names),
        "found": study.interval((plants[score][mine] > limit).to_numpy(float), names)}


@stored(models="models", keys=KEYS)
def score_table(study: Study) -> pd.DataFrame:
    """How well each score finds plants: honest ones, the sham control and the circular kind."""
    runs = plant_runs(study)
    limits, shown, records = thresholds(runs), runs[~runs["calibration"]], []
    for kind in ("planted", "sham", "circular"):
        own = shown[shown["head"].isin(["untouched", kind])]
        for score, name in SCORES.items():
            about = {"score": score, "name": name, "kind": kind}
            found = _detected(study, own, kind, score, limits[score])
            records += [about | {"quantity": quantity} | row for quantity, row in found.items()]
    return pd.DataFrame(records)


# --- power --------------------------------------------------------------------------------------


@stored(models="models", keys=KEYS)
def power_table(study: Study) -> pd.DataFrame:
    """How well the hidden share finds plants, by subjects, pictures and planted directions."""
    tables = []
    for model in study.config.models:
        for split in range(min(2, study.config.plant_splits)):  # the longest part of the chapter
            run = Split(study, model, study.config.seed + split)
            whole, first = run.asked(), run.first
            for axis, size, table in _fewer(run.tables[1], run.seed):
                asked = whole if len(table) == len(run.tables[1]) else run.asked(table)
                tables += _planted(run, asked, first.directions(), axis, size, "mean")
            found = discriminant_directions(
                first.features, first.values, max(DIRECTIONS["discriminant"]), run.lam)
            for size in DIRECTIONS["discriminant"]:
                plants = [one[:, :size] for one in found]
                tables += _planted(run, whole, plants, "directions", size, "discriminant")
            for size in DIRECTIONS["mean"]:
                parts = split_subjects(run.tables[0], size, run.seed)
                plants = all_mean_directions(first.features, first.values, parts)
                tables += _planted(run, whole, plants, "directions", size, "mean")
    found = _rounded(tables).groupby(["axis", "method", "size"], sort=False)
    return pd.DataFrame([
        dict(zip(("axis", "method", "size"), key)) | _area(study, own, "hidden")
        for key, own in found])


def _planted(
    run: Split, asked: Asked, plants: list[np.ndarray], axis: str, size: int, method: str
) -> list[pd.DataFrame]:
    """Readouts of the untouched head, and of heads blind to each concept."""
    untouched, *planted = asked.scores([None, *plants], readout=True)
    tables = [run.records("untouched", "", untouched)]
    tables += [run.records("planted", name, scores)
               for name, scores in zip(run.names, planted, strict=True)]
    return [table.assign(axis=axis, size=size, method=method) for table in tables]


def _fewer(table: pd.DataFrame, seed: int) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """The second half with fewer subjects, and with fewer pictures of each."""
    order = np.random.default_rng(seed).permutation(np.unique(table["subject"]))
    place = table["subject"].map({name: at for at, name in enumerate(order)})
    for size in [*(level for level in SUBJECTS if 2 * FOLDS <= level < len(order)), len(order)]:
        yield "subjects", size, table[place < size].reset_index(drop=True)
    mixed = table.sample(frac=1, random_state=seed)
    number = mixed.groupby("subject").cumcount().loc[table.index]
    typical = int(number.groupby(table["subject"]).max().median()) + 1
    for size in [level for level in PICTURES if level < typical]:
        yield "pictures", size, table[number < size].reset_index(drop=True)
    yield "pictures", typical, table
