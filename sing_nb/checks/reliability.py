"""How far a score would come out the same again: translators of other subjects, other pictures.

Translators are refitted on other deals of the subjects, so that a score becomes a sample; the share
of its variance that belongs to the picture or the class is its reliability.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch

from ..errors import SingError
from ..method.metrics import scores
from ..method.translator import RidgeFitter, Translator
from ..study.study import Study, stored
from ..study.tables import KINDS, scored
from .intervals import deal

__all__ = ["agreement_icc", "grouped_icc", "model_reliability", "translator_spread"]

HALVES, REDEALT = "translators of disjoint halves", "translators of other deals"
PICTURES = "pictures of the class"
SCORES = ("image_score", "attribute_score")


# --- intraclass correlations ----------------------------------------------------------------------


def agreement_icc(values: np.ndarray) -> np.ndarray:
    """Intraclass correlation of single measurements, for absolute agreement: ICC(A,1).

    With the mean squares of objects R, raters C and error E of the two-way random-effects
    decomposition: ``(R - E) / (R + (k - 1) E + k (C - E) / n)``. McGraw and Wong (1996), "Forming
    inferences about some intraclass correlation coefficients", table 4.

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

    Examples
    --------
    >>> agreement_icc([[1.0, 1.0], [2.0, 2.0], [5.0, 5.0]]).item()
    1.0
    """
    values = np.asarray(values, dtype=float)
    if values.ndim < 2 or min(values.shape[-2:]) < 2:
        raise SingError(
            f"An intraclass correlation needs at least 2 objects and 2 measurements of each; got "
            f"{values.shape}. Refit more translators, or show more pictures."
        )
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


def grouped_icc(groups: np.ndarray) -> np.ndarray:
    """Reliability of group means by the one-way decomposition: ICC(1,k) for groups of any size.

    ``(B - W) / B`` with the mean squares between and within groups (McGraw and Wong 1996). Of
    groups (..., groups, 3) by size, mean and sum of squares about that mean: (...), at most 1, the
    share of the variance of a group's mean that is the group's; nan where no group has two members,
    or all means are equal.

    >>> grouped_icc([[2, 1.0, 0.0], [2, 3.0, 0.0]]).item()
    1.0
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

    Raises
    ------
    SingError
        If the profile asks for fewer than 2 deals or random subspaces.
    """
    if study.config.redeals < 2 or study.config.control_draws < 2:
        raise SingError(
            f"A spread needs at least 2 deals of the subjects and 2 random subspaces; the profile "
            f"has redeals {study.config.redeals} and control_draws {study.config.control_draws}."
        )
    counted = scored(study, model)
    rows = study.rows(counted["picture"])
    f, text = study.features(model)[rows], study.text(counted["label"])
    states = torch.stack(
        [f, study.spaces(model).remove_null(f), *study.random_removals(model, f)])
    always = study.fitter(model, study.pictures["source"] == "clipart")
    tables = []
    for number in range(study.config.redeals):
        group = _deal(study, number)
        maps = list(_refits(study, model, always, group))
        for part, name in enumerate(("all", "first half", "second half")):
            z = torch.empty(*states.shape[:2], text.shape[-1])
            for fold, fitted in enumerate(maps):
                own = torch.tensor(group[rows] // 2 == fold)
                z[:, own] = fitted[part](states[:, own])
            moved = scores(z[0], z[1:], text)  # without the null part, and without random ones
            table = counted[["picture", "subject", "label"]].assign(deal=number, part=name)
            for column, drawn in moved._asdict().items():
                table[column] = drawn[0].numpy()
                table[f"{column}_control"] = drawn[2:].mean(0).numpy()
                table[f"{column}_other"] = drawn[1].numpy()
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


# --- reliability ----------------------------------------------------------------------------------


@stored(keys=["redeals"])
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
    drawn, own = translator_spread(study, model), _own_scores(study, model)
    parts = {REDEALT: ["all"], HALVES: ["first half", "second half"]}
    keys = drawn.drop_duplicates("picture").set_index("picture")
    records = []
    for kind, quantity in product(
            KINDS, [name + end for name, end in product(SCORES, ("", "_excess"))]):
        about = {"kind": kind, "quantity": quantity}
        for over, names in parts.items():
            chosen = drawn[drawn["part"].isin(names)]
            values = chosen.assign(value=_numbers(chosen, **about)).pivot_table(
                "value", "picture", ["deal", "part"]).loc[keys.index]
            by_class = values.groupby(keys["label"].to_numpy()).median()
            about["over"] = over
            records.append({"level": "picture"} | about | _agreement(
                study, values.to_numpy(), keys["subject"], over))
            if len(by_class) > 1:
                records.append({"level": "class"} | about | _agreement(
                    study, by_class.to_numpy(), by_class.index, over))
            del about["over"]
        groups = _numbers(own, **about).groupby(own["label"]).agg(["size", "mean", "var"])
        if len(groups) > 1 and groups["size"].max() > 1:
            records.append({"level": "class", "over": PICTURES} | about | _grouped(study, groups))
    return pd.DataFrame(records).assign(model=model, title=study.title(model))


def _numbers(table: pd.DataFrame, kind: str, quantity: str) -> pd.Series:
    base = quantity.removesuffix("_excess")
    found = table[base if kind == KINDS[0] else f"{base}_other"]
    return found if quantity == base else found - table[f"{base}_control"]


def _own_scores(study: Study, model: str) -> pd.DataFrame:
    """Scores under the study's own translators, with the columns of :func:`translator_spread`."""
    table, first = scored(study, model), scored(study, model, draw=0)
    draws = study.config.control_draws
    for name in SCORES:
        one = first[f"{name}_control"]
        table[f"{name}_other"] = one
        table[f"{name}_control"] = (draws * table[f"{name}_control"] - one) / (draws - 1)
    return table


def _agreement(study: Study, values: np.ndarray, clusters: Sequence, over: str) -> dict:
    """ICC(A,1) of values (n, raters): over deals all raters are one group, of halves each two."""
    n = len(values)
    x = values.reshape(n, -1, 2 if over == HALVES else values.shape[1])  # (n, groups, k)
    x = x - x.mean((0, 2), keepdims=True)
    # Mean squares follow from sums over objects: a sample of clusters adds up those of clusters.
    rows = np.column_stack(
        [np.ones(n), x.reshape(n, -1), x.sum(-1) ** 2, (x**2).sum(-1)])
    sums = pd.DataFrame(rows).groupby(np.asarray(clusters)).sum().to_numpy()
    ends = np.cumsum([1, values.shape[1], x.shape[1]])

    def statistic(means: np.ndarray) -> np.ndarray:
        n, raters, objects, squares = np.split(len(sums) * means, ends, axis=1)
        found = _icc(n, raters.reshape(len(n), *x.shape[1:]), objects, squares)
        return found.clip(min=0).mean(-1)

    return study.interval(sums, np.arange(len(sums)), statistic, of_means=True) | {
        "objects": n, "spread": float(np.sqrt(x.var(-1, ddof=1).mean())),
        "between": float(values.mean(1).std(ddof=1)),
    }


def _grouped(study: Study, groups: pd.DataFrame) -> dict:
    """Reliability of the means of groups with the columns size, mean and var."""
    size = groups["size"]
    inside = (groups["var"] * (size - 1)).fillna(0)
    values = np.column_stack([size, groups["mean"], inside])
    return study.interval(
        values, groups.index, lambda drawn: np.fmax(grouped_icc(drawn), 0), vectorized=True) | {
        "objects": len(size), "between": float(groups["mean"].std(ddof=1)),
        "spread": float(np.sqrt(inside.sum() / (size - 1).sum() / size.mean())),
    }
