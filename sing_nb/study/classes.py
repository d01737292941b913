"""Class level: pictures of a few classes for linked views, and words that classes move towards.

Offline, most classes are one or two photo stamps, so nothing there is an interval for *a* class:
intervals draw whole subjects.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import scipy
import torch

from ..checks.intervals import cluster_bootstrap, excess_test
from ..method.metrics import pairwise_angle
from . import tables
from .profile import unknown
from .study import Study, stored

__all__ = ["class_pictures", "concept_excess", "string_graph"]


def _spread_classes(study: Study, most: int) -> list[str]:
    """At most so many classes, evenly over their order by the first classifier's median AS."""
    scored = tables.scored(study, study.config.everyone[0])
    order = scored.groupby("label")["attribute_score"].median().sort_values(kind="stable").index
    places = np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int)
    return order[places].tolist()


def class_pictures(study: Study, most: int = 20, each: int = 12) -> pd.DataFrame:
    """Pictures of a few classes with their scores under every classifier, for linked views."""
    chosen = _spread_classes(study, most)
    columns = [
        "label", "picture", "attribute_score", "image_score", "attribute_score_control",
        "image_score_control", "translator_error"]
    parts = []
    for model in study.config.everyone:
        scored = tables.scored(study, model, draw=0)[columns]
        own = scored[scored["label"].isin(chosen)].groupby("label").head(each)
        own = own.sort_values("label", key=lambda names: names.map(chosen.index), kind="stable")
        parts.append(own.assign(model=model, title=study.title(model)))
    return pd.concat(parts, ignore_index=True)


@stored
def concept_excess(
    study: Study, concepts: Sequence[str], most: int = 90, draws: int | None = None
) -> pd.DataFrame:
    """Towards which concepts do classes move at all, more than under random removals?"""
    draws, concepts = draws or 4 * study.config.control_draws, list(concepts)
    chosen, parts = _spread_classes(study, most), []
    how = {"draws": study.config.bootstrap_draws, "seed": study.config.seed}
    text = study.text(concepts)
    for model in study.config.everyone:
        scored = tables.scored(study, model)
        scored = scored[scored["label"].isin(chosen)]
        at = study.rows(scored["picture"])
        f = study.features(model)[at]
        before, after, *random = (
            pairwise_angle(study.translate(model, part, at), text).numpy() for part in (
                f, study.spaces(model).remove_null(f),
                *study.random_removals(model, f, draws)))
        moved, other = before - after, np.stack([before - one for one in random], axis=1)
        rows = [np.flatnonzero(scored["subject"] == name) for name in scored["subject"].unique()]
        moved, other = (np.stack([v[own].mean(0) for own in rows]) for v in (moved, other))
        subjects = np.arange(len(rows))
        score = cluster_bootstrap(moved, subjects, **how)
        beyond = study.excess(moved, other, subjects)
        p = excess_test(moved, other, subjects, **how)
        parts.append(pd.DataFrame({
            "model": model, "title": study.title(model), "concept": concepts,
            "subjects": len(rows), "draws": draws, "value": score.estimate, "low": score.low,
            "high": score.high, "control": other.mean((0, 1)), "excess": beyond["value"],
            "excess_low": beyond["low"], "excess_high": beyond["high"], "p": p,
            "p_fdr": (
                scipy.stats.false_discovery_control(p, method="by") if np.isfinite(p).all()
                else np.nan)}))
    return pd.concat(parts, ignore_index=True)


@lru_cache(maxsize=64)  # some 100 kB each; what is asked next is often the same class
def _class_states(study: Study, model: str, label: str) -> tuple[torch.Tensor, ...]:
    """Translated features (views, d) of a class: before, after null removal, each control."""
    rows = np.flatnonzero((study.pictures["label"] == label).to_numpy() & study.is_scored)
    f = study.features(model)[rows]
    states = [f, study.spaces(model).remove_null(f), *study.random_removals(model, f)]
    return tuple(study.translate(model, state, rows) for state in states)


def string_graph(
    study: Study, model: str, label: str, concepts: Sequence[str] | None = None
) -> pd.DataFrame:
    """Angles from a class's pictures to concepts, before and after null removal."""
    concepts, label = list(concepts or study.concepts), study.label(label)
    if label not in study.labels:
        raise unknown("class", label, study.labels)
    text = study.text(concepts)
    before, after, *random = (
        pairwise_angle(z, text).numpy() for z in _class_states(study, model, label))
    other = np.stack(random)
    views, moved = np.arange(len(before)), before - after
    c, shifts = study.config, before - other
    score = cluster_bootstrap(moved, views, draws=c.bootstrap_draws, seed=c.seed)
    beyond = study.excess(moved, shifts.swapaxes(0, 1), views)
    control = shifts.mean(1)
    table = pd.DataFrame({
        "concept": concepts, "before": before.mean(0), "after": after.mean(0),
        "attribute_score": score.estimate, "low": score.low, "high": score.high,
        "attribute_score_control": control.mean(0), "control_low": control.min(0),
        "control_high": control.max(0),
        "excess": beyond["value"], "excess_low": beyond["low"], "excess_high": beyond["high"]})
    table["strength"] = table["attribute_score"].abs().rank(ascending=False, method="first")
    return table.sort_values("before").reset_index(drop=True)
