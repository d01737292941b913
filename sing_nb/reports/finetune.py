"""A small head on a network's features, for a dozen groups of subjects, as most readers have one.

scikit-learn fits it on features that a study has already; whole subjects are held out.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from ..errors import SingError
from ..models.classifier import Classifier
from ..models.lazy import with_head
from ..pictures.cache import content_key, keep, kept
from ..pictures.features import FeatureSet
from ..pictures.fetch import slug
from ..study.study import Study

__all__ = ["FittedHead", "coarse_groups", "fit_head", "grouped_classifier"]

LEAST_SUBJECTS = (8, 4, 2)  # of a group: the first for which there are two groups or more
MOST_GROUPS = 12
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # scikit-learn's C, of standardised features
FOLDS, INNER = 5, 2


class FittedHead(NamedTuple):
    """A linear head, and how often it names a held-out subject's picture right."""

    weight: torch.Tensor  # (groups, m), float32: logits = f W^T + b of the network's own features
    bias: torch.Tensor  # (groups,), float32
    class_names: list[str]
    # ``value``, ``low``, ``high`` (share named right; 95 %, over subjects), ``chance`` (the share
    # of the largest group), ``strength`` (scikit-learn's C), ``pictures`` and ``subjects``.
    accuracy: dict[str, float]


def coarse_groups(study: Study) -> pd.Series:
    """The group of every picture of a study, in their order, empty for pictures of none."""
    table, scored = study.pictures, study.is_scored
    for least in LEAST_SUBJECTS:
        groups = table["label"].where(scored, "")
        if study.config.pictures == "stamps":
            folders = table["path"].str.extract(r".*/stamps/([^/]+)/([^/.]+)").where(
                pd.Series(scored, table.index), "").fillna("")
            fine = folders[1].isin(_large(folders[1], table["subject"], least))
            groups = folders[1].where(fine, folders[0])
        kept = _large(groups, table["subject"], least)[:MOST_GROUPS]
        if len(kept) > 1:
            return groups.where(groups.isin(kept), "").rename("group")
    raise SingError(
        f"A head on groups needs at least two groups with two subjects each; "
        f"{study.config.pictures} has {len(kept)}. Give more pictures, or classes of their own.")


def _large(groups: pd.Series, subjects: pd.Series, least: int) -> list[str]:
    """Groups with so many subjects, the largest first."""
    count = subjects[groups != ""].groupby(groups).nunique().sort_values(
        ascending=False, kind="stable")
    return count.index[count >= least].tolist()


def fit_head(study: Study, model: str) -> FittedHead:
    """A linear head that tells :func:`coarse_groups` apart, on the stored features of a network."""
    table = study.pictures.assign(group=coarse_groups(study))
    rows = np.flatnonzero(table["group"] != "")
    x = study.features(model)[rows].double().numpy()
    y, subjects = table["group"].to_numpy()[rows], table["subject"].to_numpy()[rows]
    fewest = int(pd.Series(subjects).groupby(y).nunique().min())
    seed, right = study.config.seed, np.zeros(len(y))
    folds = StratifiedGroupKFold(min(FOLDS, fewest), shuffle=True, random_state=seed)
    for learned, held_out in folds.split(x, y, subjects):
        strength = _strength(x[learned], y[learned], subjects[learned], seed)
        weight, bias, names = _fit(x[learned], y[learned], strength)
        right[held_out] = names[(x[held_out] @ weight.T + bias).argmax(1)] == y[held_out]
    strength = _strength(x, y, subjects, seed)
    weight, bias, names = _fit(x, y, strength)
    accuracy = study.interval(right, subjects) | {
        "chance": float(pd.Series(y).value_counts(normalize=True).iloc[0]), "strength": strength,
        "pictures": len(y), "subjects": len(set(subjects))}
    return FittedHead(
        torch.tensor(weight, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32),
        [str(name) for name in names], accuracy)


def _strength(x: np.ndarray, y: np.ndarray, subjects: np.ndarray, seed: int) -> float:
    """The C that names most pictures of held-out subjects right; of equals the smallest."""
    fewest = int(pd.Series(subjects).groupby(y).nunique().min())
    if fewest < 2:  # a subject alone cannot be held out: shrink as strongly as we ever do
        return STRENGTHS[0]
    folds = StratifiedGroupKFold(min(INNER, fewest), shuffle=True, random_state=seed)
    right = np.zeros(len(STRENGTHS))
    for learned, held_out in folds.split(x, y, subjects):
        for at, strength in enumerate(STRENGTHS):
            weight, bias, names = _fit(x[learned], y[learned], strength)
            right[at] += (names[(x[held_out] @ weight.T + bias).argmax(1)] == y[held_out]).sum()
    return STRENGTHS[int(right.argmax())]


def _fit(
    x: np.ndarray, y: np.ndarray, strength: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight (classes, m), bias and class names, for features that are not standardised."""
    mean, spread = x.mean(0), x.std(0)
    spread = np.where(spread > 0, spread, 1)
    fitted = LogisticRegression(C=strength, max_iter=2000).fit((x - mean) / spread, y)
    weight, bias = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:  # one row, the log-odds: half to either class is the same model
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / spread
    return weight, bias - weight @ mean, fitted.classes_


def grouped_classifier(study: Study, model: str) -> Classifier:
    """The network of a classifier with a head on :func:`coarse_groups`, taken into the study."""
    head = _kept_head(study, model)
    base, name = study.classifier(model), f"{model}-groups"
    clf = with_head(base, head.weight, head.bias, name=name, class_names=head.class_names)
    clf.title = f"{len(head.class_names)}-group head"
    clf.accuracy = head.accuracy
    features = study.features(model)
    study.add(clf, features=FeatureSet(features, clf.logits(features)))
    return clf


def _kept_head(study: Study, model: str) -> FittedHead:
    groups = coarse_groups(study)
    c = study.config
    key = content_key(
        study.feature_key(model), *groups, Path(__file__), c.seed, c.bootstrap_draws)[:12]
    path = study.folder / "heads" / f"{slug(model)}-groups-{key}.safetensors"
    found = kept(path)
    if found is None:
        head = fit_head(study, model)
        keep(path, {"weight": head.weight, "bias": head.bias}, head[2:])
        found = kept(path)
    parts, (class_names, accuracy) = found
    return FittedHead(parts["weight"], parts["bias"], class_names, accuracy)
