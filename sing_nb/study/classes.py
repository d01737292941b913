"""Class level: pictures of a few classes for linked views, and words that classes move towards.

Offline, most classes are one or two photo stamps, so nothing there is an interval for *a* class:
intervals draw whole subjects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import scipy
import torch

from ..checks.intervals import cluster_means, excess_test
from ..method.metrics import pairwise_angle
from .study import Study

__all__ = ["class_pictures", "concept_excess"]


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
        One row per classifier and picture, classes in that order: model, title, label, picture,
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
        Of more classes, so many evenly over their order by the first classifier's median AS.
    draws : int, optional
        Random subspaces; four times the profile's by default, for of few of them small p-values
        come too easily.

    Returns
    -------
    pandas.DataFrame
        One row per classifier and concept: model, title, concept, ``subjects``, ``draws``,
        ``value`` (AS, degrees, mean over subjects of their pictures' means) with ``low`` and
        ``high`` (95 %, cluster bootstrap over subjects), ``control`` (mean over random removals),
        ``excess`` (their difference) with ``excess_low`` and ``excess_high`` (95 %, over subjects
        and over random subspaces), ``p`` (two-sided, that the excess is zero:
        `intervals.excess_test`) and ``p_fdr`` (adjusted by Benjamini and Yekutieli
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
