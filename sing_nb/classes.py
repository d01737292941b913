"""Class level: how unevenly classes leak, whether classifiers agree on them, and which concepts a
class is tied to.

Offline, most classes are one or two photo stamps, so nothing there is an interval for *a* class.
Intervals across classes draw whole classes; intervals of a class's concepts draw its pictures:
views of a stamp, or photos.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import scipy
import torch

from .metrics import angle, pairwise_angle
from .stats import cluster_means, excess_test, holm, rank_correlation
from .study import Study

__all__ = [
    "class_agreement",
    "class_pairs",
    "class_pictures",
    "class_scores",
    "class_spread",
    "concept_difference",
    "concept_excess",
    "concept_scores",
    "concept_summary",
    "spread_difference",
]

SMALL = 1.0  # degrees: the paper's steadier classifier has "typically |AS| < 1"
KINDS = ("null space removed", "random control", "difference")


def class_scores(study: Study, model: str) -> pd.DataFrame:
    """Median AS and |AS| of each class, after null removal and after each random removal.

    The control is kept draw by draw. The mean AS over random subspaces is smaller in size than
    any single one, so that null removal would look strong beside it.

    Parameters
    ----------
    study : Study
    model : str

    Returns
    -------
    pandas.DataFrame
        One row a class and removal: label, ``draw`` (-1 = null space removed, else the number of
        the random subspace), ``as_median`` and ``as_abs`` (median |AS|), degrees.
    """
    scored = study.scored(model)[["picture", "label", "attribute_score"]]
    drawn = study.controls(model)[["picture", "draw", "attribute_score"]]
    scores = pd.concat(
        [scored.assign(draw=-1), drawn.merge(scored[["picture", "label"]], on="picture")]
    )
    scores["size"] = scores["attribute_score"].abs()
    groups = scores.groupby(["draw", "label"])
    return pd.DataFrame(
        {"as_median": groups["attribute_score"].median(), "as_abs": groups["size"].median()}
    ).reset_index()


def _spread_classes(study: Study, most: int) -> list[str]:
    """At most so many classes, evenly over their order by the first classifier's median AS."""
    scored = study.scored(study.config.everyone[0])
    order = scored.groupby("label")["attribute_score"].median().sort_values(kind="stable").index
    places = np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int)
    return order[places].tolist()


def class_pictures(study: Study, most: int = 20, each: int = 12) -> pd.DataFrame:
    """Pictures of a few classes with their scores under every classifier, for linked views.

    Parameters
    ----------
    study : Study
    most : int
        Classes, evenly over their order by the first classifier's median AS.
    each : int
        Pictures of a class, the first ones.

    Returns
    -------
    pandas.DataFrame
        One row a classifier and picture, classes in that order: model, title, label, picture,
        ``attribute_score``, ``image_score``, the same with ``_control`` (one random part of the
        same size removed) and ``translator_error``, degrees.
    """
    chosen = _spread_classes(study, most)
    columns = [
        "label", "picture", "attribute_score", "image_score", "attribute_score_control",
        "image_score_control", "translator_error",
    ]
    tables = []
    for model in study.config.everyone:
        scored = study.scored(model, draw=0)[columns]
        own = scored[scored["label"].isin(chosen)].groupby("label").head(each)
        own = own.sort_values("label", key=lambda names: names.map(chosen.index), kind="stable")
        tables.append(own.assign(model=model, title=study.title(model)))
    return pd.concat(tables, ignore_index=True)


def class_pairs(study: Study, first: str, second: str) -> pd.DataFrame:
    """Median |AS| of each class under two classifiers, after null removal and after a random one.

    Returns
    -------
    pandas.DataFrame
        One row a class and ``kind`` (null space removed, or random control: the first random
        subspace): label, ``x`` and ``y`` (first and second classifier, degrees) and, for null
        removal, both with ``_low`` and ``_high`` (as in ``Study.classes``: 95 % over the pictures
        of this class; nan for the control and for a single picture).
    """
    parts = []
    for side, model in (("x", first), ("y", second)):
        table = class_scores(study, model).query("draw < 1")
        ends = study.classes(model).set_index("label")[["as_abs_low", "as_abs_high"]]
        ends = ends.reindex(table["label"]).set_axis([f"{side}_low", f"{side}_high"], axis=1)
        ends = ends.set_index(table.index)
        ends[table["draw"] >= 0] = np.nan
        kind = table["draw"].map({-1: KINDS[0], 0: KINDS[1]})
        table = table[["label"]].assign(kind=kind, **{side: table["as_abs"]}, **ends)
        parts.append(table.set_index(["kind", "label"]))
    return parts[0].join(parts[1]).reset_index()


def _removals(study: Study, model: str, column: str) -> pd.DataFrame:
    """One row a class, one column a removal: -1 is the null space, the others are random."""
    return class_scores(study, model).pivot_table(column, "label", "draw")


def class_spread(study: Study) -> pd.DataFrame:
    """How many classes hardly leak, and how unevenly they do, for every classifier.

    Parameters
    ----------
    study : Study

    Returns
    -------
    pandas.DataFrame
        model, title, ``quantity`` (``small``: share of the classes whose |AS| is below 1 degree,
        0 to 1; ``middle``: median |AS| of the classes; ``spread``: interquartile range of the
        classes' median AS; degrees), ``kind`` (null space removed; random control, the mean over
        random subspaces; or their difference), ``value`` with its 95 % interval ``low`` to
        ``high`` (whole classes drawn).
    """
    return study.stored("class-spread", lambda: _class_spread(study), *study.config.everyone)


def _class_spread(study: Study) -> pd.DataFrame:
    quantities = {
        "small": ("as_abs", lambda v: np.mean(v < SMALL, axis=1)),
        "middle": ("as_abs", lambda v: np.median(v, axis=1)),
        "spread": ("as_median", lambda v: scipy.stats.iqr(v, axis=1)),
    }
    records = []
    for model in study.config.everyone:
        for quantity, (column, score) in quantities.items():
            table = _removals(study, model, column)
            statistics = (
                lambda v, score=score: score(v[:, :, :1])[:, 0],
                lambda v, score=score: score(v[:, :, 1:]).mean(1),
                lambda v, score=score: score(v[:, :, :1])[:, 0] - score(v[:, :, 1:]).mean(1),
            )
            for kind, statistic in zip(KINDS, statistics):
                records.append(
                    {"model": model, "title": study.title(model), "quantity": quantity,
                     "kind": kind}
                    | study.interval(table.to_numpy(), table.index, statistic, vectorized=True)
                )
    return pd.DataFrame(records)


def spread_difference(study: Study, first: str, second: str) -> dict[str, float]:
    """How much wider the second classifier's class medians spread than the first's.

    Returns
    -------
    dict
        ``value``, ``low`` and ``high``: interquartile range of the classes' median AS under the
        second minus that under the first, degrees, 95 %, whole classes drawn as pairs.
    """
    one, two = (_removals(study, model, "as_median")[-1] for model in (first, second))
    pair = np.column_stack([one, two.loc[one.index]])
    return study.interval(
        pair, one.index, lambda v: float(np.diff(scipy.stats.iqr(v, axis=0))[0])
    )


def class_agreement(study: Study) -> pd.DataFrame:
    """Do classifiers leak the same classes? Spearman's rank correlation for every pair.

    Parameters
    ----------
    study : Study

    Returns
    -------
    pandas.DataFrame
        One row a ``measure`` (``|AS|`` or ``AS``: classes in the order of their median absolute or
        signed score) and pair: first, second (titles), n (classes), ``rho`` with ``low`` and
        ``high`` (95 %, Fisher's z), ``p`` (two-sided) and ``p_holm`` (adjusted over all rows);
        ``rho_control`` (mean over random subspaces) and ``excess`` (rho minus that), each with
        ``_low`` and ``_high`` (95 %, whole classes drawn).
    """
    return study.stored("class-agreement", lambda: _class_agreement(study), *study.config.everyone)


def _class_agreement(study: Study) -> pd.DataFrame:
    records = []
    for measure, column in (("|AS|", "as_abs"), ("AS", "as_median")):
        for first, second in combinations(study.config.everyone, 2):
            one, two = (_removals(study, model, column) for model in (first, second))
            both = np.hstack([one, two.loc[one.index]])
            control, excess = _control_and_excess(
                study.interval(both, one.index, _agreements, vectorized=True))
            records.append(
                {"measure": measure, "first": study.title(first), "second": study.title(second)}
                | rank_correlation(one[-1], two.loc[one.index, -1])
                | {"rho_control": control["value"], "rho_control_low": control["low"],
                   "rho_control_high": control["high"], "excess": excess["value"],
                   "excess_low": excess["low"], "excess_high": excess["high"]}
            )
    table = pd.DataFrame(records)
    return table.assign(p_holm=holm(table["p"]))


def _agreements(samples: np.ndarray) -> np.ndarray:
    """Of samples (samples, n, 2 k): the control's mean rho and what the first exceeds it by.

    Spearman's rho of each column of the left half with its partner in the right half.
    """
    ranks = scipy.stats.rankdata(samples, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):  # no correlation where a sample holds one class only
        ranks /= np.linalg.norm(ranks, axis=1, keepdims=True)
    left, right = np.split(ranks, 2, axis=2)
    rho = (left * right).sum(1)
    control = rho[:, 1:].mean(1)
    return np.column_stack([control, rho[:, 0] - control])


def _control_and_excess(found: dict[str, np.ndarray]) -> list[dict[str, float]]:
    return [{key: float(value[at]) for key, value in found.items()} for at in range(2)]


def concept_summary(
    study: Study, model: str, label: str, concepts: Sequence[str], place: str
) -> pd.DataFrame:
    """What a class's string graph says as a whole, with intervals.

    Parameters
    ----------
    study : Study
    model, label : str
        As in ``Study.string_graph``.
    concepts : sequence of str
    place : str
        Concept whose angle is compared with the nearest other one.

    Returns
    -------
    pandas.DataFrame
        ``quantity``, ``value``, ``low``, ``high``. Over pictures, 95 %: ``strength`` (median over
        concepts of |AS|, degrees), ``strength_control`` (mean over random subspaces),
        ``strength_excess`` (their difference) and ``lead`` (mean angle of `place` minus that of
        the nearest other concept, degrees: negative = it is the nearest; left out where it was
        not asked). Over concepts, 95 %, Fisher's z: ``order_before``, ``order_after``,
        ``order_control`` (Spearman's correlation of the angles to the class's pictures with the
        angles to the class's *name*).
    """
    before, after, other = study.concept_angles(model, label, concepts)
    views, own = np.arange(len(before)), np.array(concepts) == place
    moves = before[:, None] - np.stack([after, *other], axis=1)  # (views, 1 + draws, concepts)

    def lead(samples: np.ndarray) -> np.ndarray:
        mean = samples.mean(1)
        return mean[:, own][:, 0] - mean[:, ~own].min(1)

    def strengths(samples: np.ndarray) -> np.ndarray:
        null, *control = np.median(np.abs(samples.mean(1)), axis=2).T
        control = np.mean(control, axis=0)
        return np.column_stack([null, control, null - control])

    found = study.interval(moves, views, strengths, vectorized=True)
    over_views = {name: {key: float(value[at]) for key, value in found.items()}
                  for at, name in enumerate(("strength", "strength_control", "strength_excess"))}
    if place in concepts:
        over_views["lead"] = study.interval(before, views, lead, vectorized=True)
    text = study.text([study.label(label), *concepts])
    name = angle(text[:1], text[1:]).numpy()
    over_concepts = {
        "order_before": before.mean(0), "order_after": after.mean(0),
        "order_control": other.mean((0, 1)),
    }
    records = [{"quantity": quantity} | row for quantity, row in over_views.items()]
    for quantity, angles in over_concepts.items():
        found = rank_correlation(name, angles)
        records.append(
            {"quantity": quantity, "value": found["rho"], "low": found["low"],
             "high": found["high"]}
        )
    return pd.DataFrame(records)


def concept_scores(
    study: Study, concepts: Sequence[str] | None = None, most: int = 90
) -> pd.DataFrame:
    """Every class's AS towards every concept, as the string graph has it, all at once.

    Parameters
    ----------
    study : Study
    concepts : sequence of str, optional
        Those of ``data/concepts.yaml`` by default.
    most : int
        Of more classes, so many evenly over their order by the first classifier's median AS.

    Returns
    -------
    pandas.DataFrame
        One row a classifier, class and concept: model, title, label, concept, ``pictures`` (of
        the class), ``attribute_score`` (degrees, mean over pictures; + = the equivalents lie
        nearer to the concept), its ``low`` and ``high`` (95 % over the pictures of this class
        only, nan for a single one), ``control`` (mean over random removals) with
        ``control_low`` and ``control_high`` (smallest and largest of them), and ``excess`` (the
        score minus the control) with ``excess_low`` and ``excess_high`` (95 %, over these
        pictures and over random subspaces).
    """
    concepts = list(concepts or study.concepts)
    asked = hashlib.sha256(repr(concepts).encode()).hexdigest()[:12]
    return study.stored(
        f"concept-scores-{most}-{asked}", lambda: _concept_scores(study, concepts, most),
        *study.config.everyone)


def _concept_moves(
    study: Study, concepts: Sequence[str], chosen: Sequence[str], draws: int
) -> Iterator[tuple[str, pd.DataFrame, np.ndarray, np.ndarray]]:
    """Each classifier, its pictures of the classes, their AS (n, k) and controls (n, draws, k)."""
    text = study.text(concepts)
    for model in study.config.everyone:
        scored = study.scored(model)
        scored = scored[scored["label"].isin(chosen)]
        rows = study.rows(scored["picture"])
        f = study.features(model)[rows]

        def angles(features: torch.Tensor, model=model, rows=rows) -> np.ndarray:
            return pairwise_angle(study.translate(model, features, rows), text).numpy()

        before = angles(f)
        moved = before - angles(study.spaces(model).remove_null(f))
        other = [before - angles(one) for one in study.random_removals(model, f, draws)]
        yield model, scored, moved, np.stack(other, axis=1)


def _concept_scores(study: Study, concepts: list[str], most: int) -> pd.DataFrame:
    chosen, c, tables = _spread_classes(study, most), study.config, []
    for model, scored, moved, other in _concept_moves(
        study, concepts, chosen, c.control_draws
    ):
        for label in chosen:
            own = (scored["label"] == label).to_numpy()
            views = np.arange(own.sum())
            score = cluster_means(moved[own], views, draws=c.bootstrap_draws, seed=c.seed)
            beyond, control = study.excess(moved[own], other[own], views), other[own].mean(0)
            tables.append(pd.DataFrame({
                "model": model, "title": study.title(model), "label": label, "concept": concepts,
                "pictures": own.sum(), "attribute_score": score.estimate, "low": score.low,
                "high": score.high, "control": control.mean(0), "control_low": control.min(0),
                "control_high": control.max(0), "excess": beyond["value"],
                "excess_low": beyond["low"], "excess_high": beyond["high"],
            }))
    return pd.concat(tables, ignore_index=True)


def concept_excess(
    study: Study, concepts: Sequence[str] | None = None, most: int = 90, draws: int | None = None
) -> pd.DataFrame:
    """Towards which concepts do classes move at all, more than under random removals?

    Parameters
    ----------
    study : Study
    concepts : sequence of str, optional
        Those of ``data/concepts.yaml`` by default.
    most : int
        Classes, as in :func:`concept_scores`.
    draws : int, optional
        Random subspaces; four times the profile's by default, for of few of them small p-values
        come too easily.

    Returns
    -------
    pandas.DataFrame
        One row a classifier and concept: model, title, concept, ``subjects``, ``draws``,
        ``value`` (AS, degrees, mean over subjects of their pictures' means) with ``low`` and
        ``high`` (95 %, cluster bootstrap over subjects), ``control`` (mean over random removals),
        ``excess`` (their difference) with ``excess_low`` and ``excess_high`` (95 %, over subjects
        and over random subspaces), ``p`` (two-sided, that the excess is zero:
        :func:`~sing_nb.stats.excess_test`) and ``p_fdr`` (adjusted by Benjamini and Yekutieli
        over the rows of one classifier, however concepts depend on each other: below a level, no
        larger share of what is found is false, on average).
    """
    concepts = list(concepts or study.concepts)
    draws = draws or 4 * study.config.control_draws
    asked = hashlib.sha256(repr(concepts).encode()).hexdigest()[:12]
    return study.stored(
        f"concept-excess-{most}-{draws}-{asked}",
        lambda: _concept_excess(study, concepts, most, draws),
        *study.config.everyone)


def _concept_excess(study: Study, concepts: list[str], most: int, draws: int) -> pd.DataFrame:
    chosen, tables = _spread_classes(study, most), []
    how = {"draws": study.config.bootstrap_draws, "seed": study.config.seed}
    for model, scored, moved, other in _concept_moves(study, concepts, chosen, draws):
        rows = [np.flatnonzero(scored["subject"] == name) for name in scored["subject"].unique()]
        moved, other = (np.stack([v[own].mean(0) for own in rows]) for v in (moved, other))
        subjects = np.arange(len(rows))
        score, beyond = cluster_means(moved, subjects, **how), study.excess(moved, other, subjects)
        p = excess_test(moved, other, subjects, **how)
        tables.append(pd.DataFrame({
            "model": model, "title": study.title(model), "concept": concepts,
            "subjects": len(rows), "draws": draws, "value": score.estimate, "low": score.low,
            "high": score.high, "control": other.mean((0, 1)), "excess": beyond["value"],
            "excess_low": beyond["low"], "excess_high": beyond["high"], "p": p,
            "p_fdr": (
                scipy.stats.false_discovery_control(p, method="by") if np.isfinite(p).all()
                else np.nan
            ),
        }))
    return pd.concat(tables, ignore_index=True)


def concept_difference(
    study: Study, model: str, first: str, second: str, concepts: Sequence[str]
) -> dict[str, float]:
    """How much more the second class moves against the concepts than the first.

    Returns
    -------
    dict
        ``value``, ``low``, ``high``: ``strength`` of the second minus that of the first (see
        :func:`concept_summary`), degrees; 95 %, pictures drawn within each class; nan where a
        class has one only.
    """
    shifts = []
    for label in (first, second):
        before, after, _ = study.concept_angles(model, label, concepts)
        shifts.append(before - after)

    def difference(i: np.ndarray, j: np.ndarray) -> float:
        one, two = (np.median(np.abs(s[v].mean(0))) for s, v in zip(shifts, (i, j)))
        return float(two - one)

    views = [np.arange(len(shift)) for shift in shifts]
    low = high = np.nan
    if min(map(len, views)) > 1:
        low, high = scipy.stats.bootstrap(
            views, difference, vectorized=False, method="percentile",
            n_resamples=study.config.bootstrap_draws, random_state=study.config.seed,
        ).confidence_interval
    return {"value": difference(*views), "low": float(low), "high": float(high)}
