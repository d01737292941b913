"""Do translated features still tell classes apart? Figure 12c, a check of translators."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .study import Study, stored

__all__ = ["group_probabilities"]

STATES = ("principal features", "translated")
FEWEST_SUBJECTS, MOST_GROUPS = 8, 10


def _subject_groups(study: Study) -> pd.Series:
    """Group of each scored picture, for groups with enough subjects; ten groups at most."""
    scored = study.pictures[study.is_scored]
    if study.config.pictures == "stamps":
        group = scored["path"].str.extract(r".*/stamps/[^/]+/([^/.]+)", expand=False)
    else:
        group = scored["label"]
    subjects = scored["subject"].groupby(group).nunique().sort_values()
    enough = min(FEWEST_SUBJECTS, subjects.iloc[-2])
    names = sorted(subjects.index[subjects >= enough])
    if len(names) > MOST_GROUPS:  # the subsets of many groups are too many to count
        names = [names[at] for at in np.linspace(0, len(names) - 1, MOST_GROUPS).astype(int)]
    return group[group.isin(names)].rename("group")


@stored
def group_probabilities(study: Study, model: str) -> pd.DataFrame:
    """Held-out probability of every group for every picture of one, from two kinds of features."""
    from sklearn.linear_model import LogisticRegression  # here: a second that few need
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    group = _subject_groups(study)
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
        subject=pictures["subject"].to_numpy(), group=group.loc[table["row"]].to_numpy())
