"""The noise floor: how much of a score is the translator's.

Translators are refitted on other deals of the subjects, so that a score becomes a sample; the share
of its variance that belongs to the picture or the class is its reliability.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch

from ..errors import SingError
from ..method.metrics import scores
from ..method.translator import RidgeFitter, Translator
from ..study import tables
from ..study.study import Study
from ..study.tables import KINDS
from .intervals import deal

__all__ = ["agreement_icc", "grouped_icc", "model_reliability", "translator_spread"]

HALVES, REDEALT = "translators of disjoint halves", "translators of other deals"
PICTURES = "pictures of the class"
SCORES = ("image_score", "attribute_score", "image_score_excess", "attribute_score_excess")


# --- intraclass correlations ----------------------------------------------------------------------


def agreement_icc(values: np.ndarray) -> np.ndarray:
    """Intraclass correlation of single measurements, for absolute agreement: ICC(A,1).

    The two-way random-effects variance decomposition objects x raters without replication, with
    the mean squares of objects R, raters C and error E:
    ``(R - E) / (R + (k - 1) E + k (C - E) / n)``. McGraw and Wong (1996), "Forming inferences
    about some intraclass correlation coefficients", table 4; Shrout and Fleiss (1979) call it
    ICC(2,1).

    Parameters
    ----------
    values : numpy.ndarray
        (..., n, k): n objects (pictures), each measured by k raters (translators).

    Returns
    -------
    numpy.ndarray
        (...), at most 1: the share of the variance of one measurement that is the object's. 0 or
        below where measurements of one object agree no better than those of several; nan where
        all values are equal.

    Raises
    ------
    SingError
        If there are fewer than two objects or raters.
    """
    objects, _, error, raters = _mean_squares(values)
    n, k = np.shape(values)[-2:]
    with np.errstate(invalid="ignore"):
        return (objects - error) / (
            objects + (k - 1) * error + k * (raters - error) / n)


def _mean_squares(values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean squares of objects, within objects, error and raters, of (..., n, k)."""
    values = np.asarray(values, dtype=float)
    if values.ndim < 2 or min(values.shape[-2:]) < 2:
        raise SingError(
            f"An intraclass correlation needs at least 2 objects and 2 measurements of each; got "
            f"{values.shape}. Refit more translators, or show more pictures."
        )
    n, k = values.shape[-2:]
    grand = values.mean((-2, -1), keepdims=True)
    row, column = values.mean(-1, keepdims=True), values.mean(-2, keepdims=True)
    objects = k * ((row - grand) ** 2).sum((-2, -1)) / (n - 1)
    raters = n * ((column - grand) ** 2).sum((-2, -1)) / (k - 1)
    error = ((values - row - column + grand) ** 2).sum((-2, -1)) / ((n - 1) * (k - 1))
    within = ((values - row) ** 2).sum((-2, -1)) / (n * (k - 1))
    return objects, within, error, raters


def grouped_icc(groups: np.ndarray) -> np.ndarray:
    """Reliability of group means by the one-way decomposition: ICC(1,k) for groups of any size.

    ``(B - W) / B`` with the mean squares between and within groups, McGraw and Wong (1996),
    table 4: of the variance of a group's mean, over groups of about the same size, the share that
    is the group's.

    Parameters
    ----------
    groups : numpy.ndarray
        (..., groups, 3): size, mean and sum of squares about that mean.

    Returns
    -------
    numpy.ndarray
        (...), at most 1; nan where no group has two members, or all means are equal.
    """
    size, mean, inside = np.moveaxis(np.asarray(groups, dtype=float), -1, 0)
    count, free = size.shape[-1], (size - 1).sum(-1)
    grand = (size * mean).sum(-1, keepdims=True) / size.sum(-1, keepdims=True)
    between = (size * (mean - grand) ** 2).sum(-1) / max(1, count - 1)
    defined = (free > 0) & (between > 0)
    found = 1 - inside.sum(-1) / np.where(defined, free * between, 1)
    return np.where(defined, found, np.nan)


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
    study: Study, model: str, always: RidgeFitter, group: np.ndarray, lam: float
) -> dict[int, tuple[Translator, Translator, Translator]]:
    """For every fold of a deal the translator of all other subjects, and of each half of them."""
    parts = [study.fitter(model, group == number) for number in range(2 * study.config.folds)]
    found, sides = {}, [always.copy(), always.copy()]
    for number, part in enumerate(parts):
        sides[number % 2].merge(part)
    for fold in range(study.config.folds):
        # A fold is two groups, one of either side.
        halves = [side.without(parts[2 * fold + half]) for half, side in enumerate(sides)]
        # Both halves hold the rows that are always fitted on; together they are to hold them once.
        both = halves[0].copy().merge(halves[1]).without(always)
        found[fold] = tuple(one.solve(lam) for one in (both, *halves))
    return found


def translator_spread(study: Study, model: str) -> pd.DataFrame:
    """Scores of every counted picture under translators that were fitted on other subjects.

    The subjects are dealt anew ``redeals`` times, by seed, into twice as many groups as there are
    folds. A picture is translated by the map of all groups outside its fold, and by the two maps of
    disjoint halves of them; lambda is the study's. Two deals share most of the subjects they are
    fitted on, so that they agree rather too well; the two halves share none (but what is fitted on
    in every fold), have half as many, and agree rather too badly. The truth lies between. Where
    the profile uses published translators, those fitted by this run stand in for them.

    Parameters
    ----------
    study : Study
    model : str

    Returns
    -------
    pandas.DataFrame
        picture, subject, label, deal, ``part`` (all, first half, second half), and in degrees
        image_score, attribute_score (towards the own class; signed), and ``..._control`` and
        ``..._other``: the mean over all random subspaces but the first, and the first alone.
    """
    name = f"translator-spread-{model}-{study.config.redeals}"
    return study.stored(name, lambda: _spread(study, model), model)


def _spread(study: Study, model: str) -> pd.DataFrame:
    if study.config.redeals < 2 or study.config.control_draws < 2:
        raise SingError(
            f"A spread needs at least 2 deals of the subjects and 2 random subspaces; the profile "
            f"has redeals {study.config.redeals} and control_draws {study.config.control_draws}."
        )
    scored = tables.scored(study, model)
    rows = study.rows(scored["picture"])
    f, text = study.features(model)[rows], study.text(scored["label"])
    states = [f, study.spaces(model).remove_null(f), *study.random_removals(model, f)]
    always = study.fitter(model, study.pictures["source"] == "clipart")
    lam = study.fitted(model)[-1].card["lambda"]
    parts = []
    for number in range(study.config.redeals):
        group = _deal(study, number)
        fold = group[rows] // 2
        maps = _refits(study, model, always, group, lam)
        for part, name in enumerate(("all", "first half", "second half")):
            translated = [_by_fold(maps, part, fold, state) for state in states]
            z, *others = translated  # without the null part, and without each random one
            both = scores(z, torch.stack(others), text)._asdict()
            table = scored[["picture", "subject", "label"]].assign(deal=number, part=name)
            for column, drawn in both.items():
                table[column] = drawn[0].numpy()
                table[f"{column}_control"] = drawn[2:].mean(0).numpy()
                table[f"{column}_other"] = drawn[1].numpy()
            parts.append(table)
    return pd.concat(parts, ignore_index=True)


def _by_fold(maps: dict, part: int, fold: np.ndarray, f: torch.Tensor) -> torch.Tensor:
    out = torch.empty(len(f), next(iter(maps.values()))[part].weight.shape[0])
    for number in np.unique(fold):
        chosen = torch.tensor(fold == number)
        out[chosen] = maps[number][part](f[chosen])
    return out


# --- reliability ----------------------------------------------------------------------------------


def model_reliability(study: Study, model: str) -> pd.DataFrame:
    """How far a picture's and a class's score would come out the same again, for one classifier.

    Each is the share of the variance of one number that belongs to its object, an intraclass
    correlation: over translators by :func:`agreement_icc`; of a class over its pictures by
    :func:`grouped_icc` (of the mean over its pictures).

    Parameters
    ----------
    study : Study
    model : str
        In the study's list or not.

    Returns
    -------
    pandas.DataFrame
        model, title, ``level`` (picture, class), ``over`` (what is done again), ``objects`` (how
        many), ``quantity`` (image_score; attribute_score, signed; both as ``_excess``: minus the
        mean over random subspaces), ``kind`` (null space removed; random control: one random
        subspace in place of the null space, in its excess minus the mean over the others), value,
        low, high, 1 = always the same and 0 = all noise (95 %, cluster bootstrap over subjects,
        for a class over classes), ``spread`` and ``between``, degrees: standard deviation of one
        object's number when done again, and of the objects' means.
    """
    name = f"reliability-{model}-{study.config.redeals}"
    return study.stored(name, lambda: pd.DataFrame(_reliability_of(study, model)), model)


def _reliability_of(study: Study, model: str) -> list[dict]:
    records = []
    who = {"model": model, "title": study.title(model)}
    drawn = translator_spread(study, model)
    keys = drawn.drop_duplicates("picture").set_index("picture")
    for (over, parts), kind, quantity in product(
        ((REDEALT, ["all"]), (HALVES, ["first half", "second half"])), KINDS, SCORES
    ):
        chosen = drawn[drawn["part"].isin(parts)]
        values = chosen.assign(value=_measure(chosen, kind, quantity)).pivot_table(
            "value", "picture", ["deal", "part"]).loc[keys.index]
        labels = keys["label"].to_numpy()
        what = {"over": over, "kind": kind, "quantity": quantity}
        records.append({"level": "picture"} | who | what | _agreement(
            study, values.to_numpy(), keys["subject"], over))
        by_class = values.groupby(labels).median()
        if len(by_class) > 1:
            records.append({"level": "class"} | who | what | _agreement(
                study, by_class.to_numpy(), by_class.index, over))
    return records + [{"level": "class"} | who | one for one in _over_pictures(study, model)]


def _measure(table: pd.DataFrame, kind: str, quantity: str) -> pd.Series:
    base = quantity.removesuffix("_excess")
    found = table[base if kind == KINDS[0] else f"{base}_other"]
    return found if quantity == base else found - table[f"{base}_control"]


def _together(values: np.ndarray, over: str) -> np.ndarray:
    """Measurements (..., n, raters) by what is compared: (..., groups, n, k).

    Over deals all raters are one group; of halves each deal's two are a group.
    """
    size = 2 if over == HALVES else values.shape[-1]
    return np.moveaxis(values.reshape(*values.shape[:-1], -1, size), -2, -3)


def _agreement(study: Study, values: np.ndarray, clusters: Sequence, over: str) -> dict:
    groups = _together(values, over)
    # Mean squares follow from sums over objects: a sample of clusters adds up those of clusters.
    x = groups - groups.mean((-2, -1), keepdims=True)
    raters = x.shape[0] * x.shape[2]
    rows = np.column_stack([
        np.ones(len(values)), np.moveaxis(x, 1, 0).reshape(len(values), raters),
        x.sum(-1).T ** 2, (x**2).sum(-1).T])
    sums = pd.DataFrame(rows).groupby(np.asarray(clusters)).sum().to_numpy()

    def statistic(means: np.ndarray) -> np.ndarray:
        n, of_raters, of_objects, squares = np.split(
            len(sums) * means, np.cumsum([1, raters, len(x)]), axis=1)
        return _icc_of_sums(
            n, of_raters.reshape(len(n), len(x), -1), of_objects, squares).clip(min=0).mean(-1)

    found = study.interval(sums, np.arange(len(sums)), statistic, of_means=True)
    within = _mean_squares(groups)[1].mean()
    return found | {"objects": len(values), "spread": float(np.sqrt(within)),
                    "between": float(values.mean(1).std(ddof=1))}


def _icc_of_sums(
    n: np.ndarray, raters: np.ndarray, objects: np.ndarray, squares: np.ndarray
) -> np.ndarray:
    """:func:`agreement_icc` (samples, groups) of sums over objects.

    Parameters
    ----------
    n : numpy.ndarray
        (samples, 1), objects.
    raters : numpy.ndarray
        (samples, groups, k), each rater's sum.
    objects, squares : numpy.ndarray
        (samples, groups): sums of the objects' squared sums, and of all squares.
    """
    k = raters.shape[-1]
    all_of_it = raters.sum(-1) ** 2 / (n * k)
    by_object, by_rater = objects / k, (raters**2).sum(-1) / n
    own = (by_object - all_of_it) / (n - 1)
    error = (squares - by_object - by_rater + all_of_it) / ((n - 1) * (k - 1))
    rater = (by_rater - all_of_it) / (k - 1)
    with np.errstate(invalid="ignore"):
        return (own - error) / (own + (k - 1) * error + k * (rater - error) / n)


def _over_pictures(study: Study, model: str) -> list[dict]:
    """Of classes over their pictures, with the study's own translators."""
    table, first = tables.scored(study, model), tables.scored(study, model, draw=0)
    draws = study.config.control_draws
    for name in ("image_score", "attribute_score"):
        one = first[f"{name}_control"]
        table[f"{name}_other"] = one
        table[f"{name}_control"] = (draws * table[f"{name}_control"] - one) / (draws - 1)
    records = []
    for kind, quantity in product(KINDS, SCORES):
        values = _measure(table, kind, quantity).groupby(table["label"])
        mean, size = values.mean(), values.size()
        inside = values.var(ddof=0) * size
        if len(size) < 2 or (size > 1).sum() == 0:
            continue
        groups = np.column_stack([size, mean, inside])
        records.append(
            {"over": PICTURES, "kind": kind, "quantity": quantity, "objects": len(size)}
            | study.interval(groups, size.index, lambda v: np.fmax(grouped_icc(v), 0),
                             vectorized=True)
            | {"spread": float(np.sqrt(inside.sum() / (size - 1).sum() / size.mean())),
               "between": float(mean.std(ddof=1))}
        )
    return records
