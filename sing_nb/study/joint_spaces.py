"""Does the comparison of models survive a change of joint space? Figure 12a's question."""

from __future__ import annotations

from itertools import combinations

import pandas as pd

from . import tables
from .study import Study, stored

__all__ = ["pair_table", "space_table"]


@stored
def space_table(study: Study) -> pd.DataFrame:
    """Every classifier in every space: medians of IS, |AS| and their ratio, with intervals."""
    parts = []
    for joint in study.config.spaces:
        table = tables.models(study.in_space(joint))
        table["joint"], table["space"] = joint, study.space_title(joint)
        table["title"] = table["model"].map(lambda name: study.classifier(name).title)
        parts.append(table.assign(circular=table["model"] == joint))
    return pd.concat(parts, ignore_index=True)


@stored
def pair_table(study: Study) -> pd.DataFrame:
    """Differences in IS/|AS| of all pairs of classifiers in every space, paired by picture."""
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
                    "neutral": joint not in (first, second)})
    return pd.DataFrame(records)


def _beside(name: str, interval: dict[str, float]) -> dict[str, float]:
    return {name: interval["value"], f"{name}_low": interval["low"],
            f"{name}_high": interval["high"]}
