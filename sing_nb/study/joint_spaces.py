"""Does the comparison of models survive a change of joint space? Figure 12a's question.

In ConSE every classifier of a study takes its turn as the tower that builds the space; a
classifier in its own space is a control and is never ranked. Otherwise the spaces are those of
the profile, as the paper's CLIP and EVA02.
"""

from __future__ import annotations

from itertools import combinations

import pandas as pd

from . import tables
from .study import Study

__all__ = ["pair_table", "space_table"]


def space_table(study: Study) -> pd.DataFrame:
    """Every classifier in every space: medians of IS, |AS| and their ratio, with intervals.

    Returns
    -------
    pandas.DataFrame
        Rows of ``tables.models`` with ``joint`` (the space), ``space`` (its title) and
        ``circular`` (the classifier built this space itself).
    """
    return study.stored("space-table", lambda: _space_table(study), *study.config.everyone)


def _space_table(study: Study) -> pd.DataFrame:
    parts = []
    for joint in study.config.spaces:
        table = tables.models(study.in_space(joint))
        table["joint"], table["space"] = joint, study.space_title(joint)
        table["title"] = table["model"].map(lambda name: study.classifier(name).title)
        parts.append(table.assign(circular=table["model"] == joint))
    return pd.concat(parts, ignore_index=True)


def pair_table(study: Study) -> pd.DataFrame:
    """Differences in IS/|AS| of all pairs of classifiers in every space, paired by picture.

    Returns
    -------
    pandas.DataFrame
        joint, space, first, second (titles), value, low, high (second minus first; 95 %, cluster
        bootstrap over subjects), ``control`` (the same difference under random removals, mean
        over subspaces) with ``control_low`` and ``control_high``, ``excess`` (value minus control)
        with ``excess_low`` and ``excess_high`` (95 %, over subjects and random subspaces), and
        ``neutral`` (neither of the two built the space).
    """
    return study.stored("pair-table", lambda: _pair_table(study), *study.config.everyone)


def _pair_table(study: Study) -> pd.DataFrame:
    title = {name: study.classifier(name).title for name in study.config.everyone}
    records = []
    for joint in study.config.spaces:
        space = study.in_space(joint)
        for first, second in combinations(study.config.everyone, 2):
            records.append(
                {
                    "joint": joint, "space": study.space_title(joint), "first": title[first],
                    "second": title[second], **tables.model_difference(space, first, second),
                    **_beside("control", tables.model_difference(
                        space, first, second, kind="random control")),
                    **_beside("excess", tables.difference_excess(space, first, second)),
                    "neutral": joint not in (first, second),
                }
            )
    return pd.DataFrame(records)


def _beside(name: str, interval: dict[str, float]) -> dict[str, float]:
    return {name: interval["value"], f"{name}_low": interval["low"],
            f"{name}_high": interval["high"]}
