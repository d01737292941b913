"""A small head on a network's features, for a dozen groups of subjects, as most readers have one.

scikit-learn fits it on features that a study has already; whole subjects are held out.
"""

from __future__ import annotations

from pathlib import Path

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

__all__ = ["coarse_groups", "fit_head", "grouped_classifier"]

LEAST_SUBJECTS = (8, 4, 2)  # of a group: the first for which there are two groups or more
MOST_GROUPS = 12
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # scikit-learn's C, of standardised features
FOLDS, INNER = 5, 2


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
        large = _large(groups, table["subject"], least)[:MOST_GROUPS]
        if len(large) > 1:
            return groups.where(groups.isin(large), "").rename("group")
    raise SingError(
        f"A head on groups needs at least two groups with two subjects each; "
        f"{study.config.pictures} has {len(large)}. Give more pictures, or classes of their own.")


def _large(groups: pd.Series, subjects: pd.Series, least: int) -> list[str]:
    """Groups with so many subjects, the largest first."""
    count = subjects[groups != ""].groupby(groups).nunique().sort_values(
        ascending=False, kind="stable")
    return count.index[count >= least].tolist()


def fit_head(study: Study, model: str) -> tuple[np.ndarray, np.ndarray, list[str], dict]:
    """Weight, bias and names of a head for :func:`coarse_groups`; how often it is right."""
    groups = coarse_groups(study).to_numpy()
    rows = np.flatnonzero(groups != "")
    x, y = study.features(model)[rows].double().numpy(), groups[rows]
    subjects, seed = study.pictures["subject"].to_numpy()[rows], study.config.seed
    right = np.zeros(len(y))
    for learned, held_out in _folds(FOLDS, y, subjects, seed):
        strength = _strength(x[learned], y[learned], subjects[learned], seed)
        right[held_out] = _right(x, y, learned, held_out, strength)
    strength = _strength(x, y, subjects, seed)
    accuracy = study.interval(right, subjects) | {
        "chance": float(pd.Series(y).value_counts(normalize=True).iloc[0]), "strength": strength,
        "pictures": len(y), "subjects": len(set(subjects))}
    weight, bias, names = _fit(x, y, strength)
    return weight, bias, names.tolist(), accuracy


def _folds(most: int, y: np.ndarray, subjects: np.ndarray, seed: int) -> list[tuple]:
    """Rows to learn from and rows held out: whole subjects; none where one stands alone."""
    count = min(most, pd.Series(subjects).groupby(y).nunique().min())
    if count < 2:
        return []
    folds = StratifiedGroupKFold(int(count), shuffle=True, random_state=seed)
    return list(folds.split(y, y, subjects))


def _strength(x: np.ndarray, y: np.ndarray, subjects: np.ndarray, seed: int) -> float:
    """The C that names most pictures of held-out subjects right; of equals the smallest."""
    folds = _folds(INNER, y, subjects, seed)
    right = [sum(_right(x, y, *fold, strength).sum() for fold in folds) for strength in STRENGTHS]
    return STRENGTHS[int(np.argmax(right))]


def _right(
    x: np.ndarray, y: np.ndarray, learned: np.ndarray, held_out: np.ndarray, strength: float
) -> np.ndarray:
    """Which held-out pictures a head that was fitted on others names right."""
    weight, bias, names = _fit(x[learned], y[learned], strength)
    return names[(x[held_out] @ weight.T + bias).argmax(1)] == y[held_out]


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
    c, features = study.config, study.features(model)
    key = content_key(study.feature_key(model), *coarse_groups(study), Path(__file__), c.seed,
                      c.bootstrap_draws)[:12]
    path = study.folder / "heads" / f"{slug(model)}-groups-{key}.safetensors"
    if kept(path) is None:
        weight, bias, *about = fit_head(study, model)
        keep(path, {"weight": torch.tensor(weight).float(), "bias": torch.tensor(bias).float()},
             about)
    head, (names, accuracy) = kept(path)
    clf = with_head(study.classifier(model), head["weight"], head["bias"], class_names=names,
                    name=f"{model}-groups")
    clf.title, clf.accuracy = f"{len(names)}-group head", accuracy
    study.add(clf, features=FeatureSet(features, clf.logits(features)))
    return clf
