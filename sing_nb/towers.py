"""Does the comparison of models survive a change of joint space? Figure 12a's question, offline.

Every classifier of a study takes its turn as the tower that builds the ConSE space. A classifier
in its own space is a control and is never ranked.
"""

from __future__ import annotations

from itertools import combinations

import pandas as pd

from .study import Study

__all__ = ["pair_table", "same_order", "space_table"]


def space_table(study: Study) -> pd.DataFrame:
    """Every classifier in every space: medians of IS, |AS| and their ratio, with intervals.

    Returns
    -------
    pandas.DataFrame
        Rows of ``Study.models`` with ``tower``, ``space`` (its title) and ``circular`` (the
        classifier built this space itself).
    """
    return study.stored("space-table", lambda: _space_table(study), *study.config.everyone)


def _space_table(study: Study) -> pd.DataFrame:
    tables = []
    for tower in study.config.everyone:
        table = study.with_tower(tower).models()
        table["tower"], table["space"] = tower, study.classifier(tower).title
        table["title"] = table["model"].map(lambda name: study.classifier(name).title)
        tables.append(table.assign(circular=table["model"] == tower))
    return pd.concat(tables, ignore_index=True)


def pair_table(study: Study) -> pd.DataFrame:
    """Differences in IS/|AS| of all pairs of classifiers in every space, paired by picture.

    Returns
    -------
    pandas.DataFrame
        tower, space, first, second (titles), value, low, high (second minus first; 95 %, cluster
        bootstrap over subjects), and ``neutral`` (neither of the two built the space).
    """
    return study.stored("pair-table", lambda: _pair_table(study), *study.config.everyone)


def _pair_table(study: Study) -> pd.DataFrame:
    title = {name: study.classifier(name).title for name in study.config.everyone}
    records = []
    for tower in study.config.everyone:
        space = study.with_tower(tower)
        for first, second in combinations(study.config.everyone, 2):
            records.append(
                {
                    "tower": tower, "space": title[tower], "first": title[first],
                    "second": title[second], **space.model_difference(first, second),
                    "neutral": tower not in (first, second),
                }
            )
    return pd.DataFrame(records)


def same_order(table: pd.DataFrame) -> bool:
    """Whether IS/|AS| puts the classifiers of :func:`space_table` in one order in every space."""
    ratio = table[(table["quantity"] == "ratio") & (table["kind"] == "null space removed")]
    places = ratio.pivot_table("value", "title", "tower").rank()
    return bool(places.nunique(axis=1).eq(1).all())
