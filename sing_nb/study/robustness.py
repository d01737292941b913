"""Do translated features still tell classes apart? Figure 12c, a check of translators."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import scipy

from .study import Study

__all__ = ["accuracy_correlation", "group_accuracies", "group_probabilities", "subject_groups"]

STATES = ("principal features", "translated")
MOST_GROUPS = 10


def subject_groups(study: Study, at_least: int = 8) -> pd.Series:
    """Group of each scored picture, for groups with enough subjects; ten groups at most."""
    scored = study.pictures[study.is_scored]
    if study.config.pictures == "stamps":
        group = scored["path"].str.extract(r".*/stamps/[^/]+/([^/.]+)", expand=False)
    else:
        group = scored["label"]
    subjects = scored["subject"].groupby(group).nunique().sort_values()
    enough = min(at_least, subjects.iloc[-2])
    names = sorted(subjects.index[subjects >= enough])
    if len(names) > MOST_GROUPS:  # the subsets of many groups are too many to count
        names = [names[at] for at in np.linspace(0, len(names) - 1, MOST_GROUPS).astype(int)]
    return group[group.isin(names)].rename("group")


def group_probabilities(study: Study, model: str, at_least: int = 8) -> pd.DataFrame:
    """Held-out probability of every group for every picture of one, from two kinds of features."""
    name = f"groups-{model}-{at_least}"
    return study.stored(name, lambda: _probabilities(study, model, at_least), model)


def _probabilities(study: Study, model: str, at_least: int) -> pd.DataFrame:
    from sklearn.linear_model import LogisticRegression  # here: a second that few need
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    group = subject_groups(study, at_least)
    rows, names = group.index.to_numpy(copy=True), sorted(set(group))
    fold = study.pictures["fold"].to_numpy()[rows]
    principal = study.spaces(model).principal(study.features(model)[rows])
    tables = []
    for number in np.unique(fold):
        test = fold == number
        if group[~test].nunique() < 2:  # a handful of subjects may leave nothing to tell apart
            continue
        translated = study.translators(model)[number](principal)
        for state, values in zip(STATES, (principal.double().numpy(), translated.double().numpy())):
            head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
            head.fit(values[~test], group[~test])
            found = pd.DataFrame(0.0, index=rows[test], columns=names)
            found[head.classes_] = head.predict_proba(values[test])
            tables.append(found.assign(state=state))
    table = pd.concat(tables).rename_axis("row").reset_index()
    pictures = study.pictures.loc[table["row"]]
    return table.assign(
        subject=pictures["subject"].to_numpy(), group=group.loc[table["row"]].to_numpy()
    )


def group_accuracies(
    study: Study, models: Sequence[str], size: int = 4, at_least: int = 8
) -> pd.DataFrame:
    """Balanced accuracy before and after translation, for every model and subset of groups."""
    records = []
    for model in models:
        parts = _by_state(group_probabilities(study, model, at_least))
        names = sorted(set(parts[STATES[0]]["group"]))
        for subset in _subsets(names, size):
            record = {"model": model, "title": study.title(model), "subset": ", ".join(subset)}
            for name, state in zip(("before", "after"), STATES):
                part, right = parts[state], _right(parts[state], subset)
                low, high = _balanced_ends(study, right, part["group"], part["subject"])
                record |= {name: right.groupby(part["group"]).mean().mean(),
                           f"{name}_low": low, f"{name}_high": high}
            records.append(record | {"chance": 1 / len(subset)})
    return pd.DataFrame(records)


def _balanced_ends(
    study: Study, right: pd.Series, group: pd.Series, subject: pd.Series
) -> tuple[float, float]:
    """95 % interval of a balanced accuracy over subjects; `right` is nan outside the subset."""
    inside = right.notna()
    codes = pd.get_dummies(group[inside]).to_numpy(dtype=float)
    hits, size = codes * right[inside].to_numpy()[:, None], codes.shape[1]

    def balanced(v: np.ndarray) -> np.ndarray:
        hit, count = np.split(v.sum(1), [size], axis=1)
        # A group that a draw leaves out has no recall there; the others have.
        recall = np.divide(hit, count, out=np.full_like(hit, np.nan), where=count > 0)
        return np.nanmean(recall, axis=1)

    sums = pd.DataFrame(np.hstack([hits, codes])).groupby(subject[inside].to_numpy()).sum()
    found = study.interval(sums.to_numpy(), sums.index, balanced, vectorized=True)
    return found["low"], found["high"]


def accuracy_correlation(
    study: Study, models: Sequence[str], size: int = 4, at_least: int = 8
) -> dict[str, float]:
    """Pearson's correlation of accuracy before and after translation, over models and subsets."""
    before, after, groups, subjects = [], [], None, None
    for model in models:
        parts = _by_state(group_probabilities(study, model, at_least))
        names = sorted(set(parts[STATES[0]]["group"]))
        groups = parts[STATES[0]]["group"].to_numpy()
        subjects = parts[STATES[0]]["subject"].to_numpy()
        for subset in _subsets(names, size):
            before.append(_right(parts[STATES[0]], subset).to_numpy())
            after.append(_right(parts[STATES[1]], subset).to_numpy())
    if len(set(groups)) < 2:  # one group is always right, and a constant correlates with nothing
        return {"value": np.nan, "low": np.nan, "high": np.nan, "n": len(before)}
    right = np.column_stack([*before, *after])
    codes, count = pd.factorize(groups)[0], len(before)

    def correlation(index: np.ndarray) -> float:
        drawn, code = right[index], codes[index]
        recall = [np.nan_to_num(drawn[code == group]).mean(0) for group in np.unique(code)]
        inside = [~np.isnan(drawn[code == group]).any(0) for group in np.unique(code)]
        balanced = np.sum(recall, axis=0) / np.sum(inside, axis=0)
        return float(scipy.stats.pearsonr(balanced[:count], balanced[count:]).statistic)

    return study.interval(np.arange(len(right)), subjects, correlation) | {"n": count}


def _by_state(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {
        state: part.sort_values("row").reset_index(drop=True)
        for state, part in table.groupby("state", sort=False)
    }


def _subsets(names: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [*combinations(names, size), tuple(names)] if size < len(names) else [tuple(names)]


def _right(part: pd.DataFrame, subset: Sequence[str]) -> pd.Series:
    """1 where the largest probability of the subset is the true group's; nan outside the subset."""
    right = (part[list(subset)].idxmax(axis=1) == part["group"]).astype(float)
    return right.where(part["group"].isin(subset))
