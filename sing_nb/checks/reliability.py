"""The noise floor: how far a picture's score would come out the same with another translator.

Translators are refitted on other deals of the subjects, so that a score becomes a sample; the share
of its variance that belongs to the picture is its reliability.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch

from ..errors import SingError
from ..method.metrics import image_score
from ..method.translator import RidgeFitter, Translator
from ..study.study import Study, stored
from ..study.tables import KINDS, scored
from .intervals import deal

__all__ = ["agreement_icc", "model_reliability", "translator_spread"]

HALVES, REDEALT = "translators of disjoint halves", "translators of other deals"


# --- intraclass correlations ----------------------------------------------------------------------


def agreement_icc(values: np.ndarray) -> np.ndarray:
    """Intraclass correlation of single measurements, for absolute agreement: ICC(A,1)."""
    values = np.asarray(values, dtype=float)
    if values.ndim < 2 or min(values.shape[-2:]) < 2:
        raise SingError(
            f"An intraclass correlation needs at least 2 objects and 2 measurements of each; got "
            f"{values.shape}. Refit more translators, or show more pictures.")
    x = values - values.mean((-2, -1), keepdims=True)
    return _icc(values.shape[-2], x.sum(-2), (x.sum(-1) ** 2).sum(-1), (x**2).sum((-2, -1)))


def _icc(n: np.ndarray, raters: np.ndarray, objects: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """ICC(A,1) of n objects: raters' sums (..., k); objects' squared sums, squares (...)."""
    k = raters.shape[-1]
    all_of_it = raters.sum(-1) ** 2 / (n * k)
    by_object, by_rater = objects / k, (raters**2).sum(-1) / n
    own = (by_object - all_of_it) / (n - 1)
    error = (squares - by_object - by_rater + all_of_it) / ((n - 1) * (k - 1))
    rater = (by_rater - all_of_it) / (k - 1)
    with np.errstate(invalid="ignore"):
        return (own - error) / (own + (k - 1) * error + k * (rater - error) / n)


# --- translators from other deals -----------------------------------------------------------------


def _deal(study: Study, number: int) -> np.ndarray:
    """Group of every picture's subject, 0 to 2 folds - 1; two groups make a fold; -1: none."""
    subjects = study.subjects.sort_values("subject")
    strata = None if study.config.pictures == "stamps" else subjects["label"]
    # From 1, for NumPy takes [seed, 0] for the plain seed, which dealt the study's own folds.
    seed = [study.config.seed, 1 + number]
    dealt = deal(len(subjects), 2 * study.config.folds, seed, strata)
    group = dict(zip(subjects["subject"], dealt, strict=True))
    found = study.pictures["subject"].where(study.is_scored).map(group)
    return found.fillna(-1).astype(int).to_numpy()


def _refits(
    study: Study, model: str, always: RidgeFitter, group: np.ndarray
) -> Iterator[tuple[Translator, Translator, Translator]]:
    """For every fold of a deal the translator of all other subjects, and of each half of them."""
    parts = [study.fitter(model, group == number) for number in range(2 * study.config.folds)]
    lam, sides = study.fitted(model)[-1].card["lambda"], [always.copy(), always.copy()]
    for number, part in enumerate(parts):
        sides[number % 2].merge(part)
    for fold in range(study.config.folds):
        # A fold is two groups, one of either side.
        halves = [side.without(parts[2 * fold + half]) for half, side in enumerate(sides)]
        # Both halves hold the rows that are always fitted on; together they are to hold them once.
        both = halves[0].copy().merge(halves[1]).without(always)
        yield tuple(one.solve(lam) for one in (both, *halves))


@stored(keys=["redeals"])
def translator_spread(study: Study, model: str) -> pd.DataFrame:
    """Scores of every counted picture under translators that were fitted on other subjects."""
    if study.config.redeals < 2:
        raise SingError(
            f"A spread needs at least 2 deals of the subjects; the profile has redeals "
            f"{study.config.redeals}.")
    counted = scored(study, model)
    rows = study.rows(counted["picture"])
    f = study.features(model)[rows]
    states = torch.stack(
        [f, study.spaces(model).remove_null(f), next(iter(study.random_removals(model, f)))])
    always = study.fitter(model, study.drawings(model))
    tables = []
    for number in range(study.config.redeals):
        group = _deal(study, number)
        maps = list(_refits(study, model, always, group))
        for part, name in enumerate(("all", "first half", "second half")):
            z = torch.empty(*states.shape[:2], study.embeddings.shape[1])
            for fold, fitted in enumerate(maps):
                own = torch.tensor(group[rows] // 2 == fold)
                z[:, own] = fitted[part](states[:, own])
            null, random = image_score(z[0], z[1:]).numpy()
            tables.append(counted[["picture", "subject"]].assign(
                deal=number, part=name, image_score=null, image_score_control=random))
    return pd.concat(tables, ignore_index=True)


# --- reliability ----------------------------------------------------------------------------------


@stored(keys=["redeals"])
def model_reliability(study: Study, model: str) -> pd.DataFrame:
    """How far a picture's Image Score would come out the same again, for one classifier."""
    drawn = translator_spread(study, model)
    subjects = drawn.drop_duplicates("picture").set_index("picture")["subject"]
    whole, records = drawn["part"] == "all", []
    for over, own in ((REDEALT, drawn[whole]), (HALVES, drawn[~whole])):
        for kind, column in zip(KINDS, ("image_score", "image_score_control")):
            values = own.pivot_table(column, "picture", ["deal", "part"]).loc[subjects.index]
            records.append({"over": over, "kind": kind} | _agreement(
                study, values.to_numpy(), subjects, over))
    return pd.DataFrame(records).assign(model=model, title=study.title(model))


def _agreement(study: Study, values: np.ndarray, clusters: Sequence, over: str) -> dict:
    """ICC(A,1) of values (n, raters): over deals all raters are one group, of halves each two."""
    n = len(values)
    x = values.reshape(n, -1, 2 if over == HALVES else values.shape[1])  # (n, groups, k)
    x = x - x.mean((0, 2), keepdims=True)
    # Mean squares follow from sums over objects: a sample of clusters adds up those of clusters.
    rows = np.column_stack([np.ones(n), x.reshape(n, -1), x.sum(-1) ** 2, (x**2).sum(-1)])
    sums = pd.DataFrame(rows).groupby(np.asarray(clusters)).sum().to_numpy()
    ends = np.cumsum([1, values.shape[1], x.shape[1]])

    def statistic(means: np.ndarray) -> np.ndarray:
        n, raters, objects, squares = np.split(len(sums) * means, ends, axis=1)
        found = _icc(n, raters.reshape(len(n), *x.shape[1:]), objects, squares)
        return found.clip(min=0).mean(-1)

    return study.interval(sums, np.arange(len(sums)), statistic, of_means=True) | {
        "spread": float(np.sqrt(x.var(-1, ddof=1).mean())),
        "between": float(values.mean(1).std(ddof=1))}
