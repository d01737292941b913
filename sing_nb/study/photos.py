"""Image level: what one photo is taken for, and which words it gains and loses."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from ..method.metrics import pairwise_angle
from . import tables
from .study import Study

__all__ = ["photo_cards", "word_changes"]


def word_changes(
    study: Study, model: str, pictures: Sequence[str], k: int = 5, near: int = 50,
    chosen_by: int = -1,
) -> pd.DataFrame:
    """Words that a picture gains and loses most when its null part goes, equation (7) a word."""
    rows, text = study.rows(pictures), study.text(study.vocabulary)
    f = study.features(model)[rows]
    states = f, study.spaces(model).remove_null(f), *study.random_removals(model, f)
    before, *after = (pairwise_angle(study.translate(model, x, rows), text) for x in states)
    angles, chooser = torch.stack(after), chosen_by + 1
    records = []
    for number, (picture, name) in enumerate(zip(pictures, study.names(pictures))):
        ranks = [a.argsort().argsort() for a in (before[number], angles[chooser, number])]
        words = torch.nonzero(torch.minimum(*ranks) < near).flatten()
        scores = before[number] - angles[:, number]
        own = scores[chooser]
        order = words[own[words].argsort(descending=True)]
        chosen = [*(w for w in order[:k] if own[w] > 0), *(w for w in order[-k:] if own[w] < 0)]
        for word in map(int, chosen):
            for draw in range(-1, len(angles) - 1):
                records.append({
                    "picture": picture, "name": name, "word": study.vocabulary[word],
                    "kind": "null part removed" if draw < 0 else "random part removed",
                    "draw": draw, "before": float(before[number, word]),
                    "attribute_score": float(scores[draw + 1, word])})
    columns = ["picture", "name", "word", "kind", "draw", "before", "attribute_score"]
    return pd.DataFrame(records, columns=columns)


def photo_cards(study: Study, model: str, pictures: Sequence[str]) -> pd.DataFrame:
    """One row per picture: what it is, what the classifier says, and how its equivalent differs."""
    rows = study.rows(pictures)
    sure = torch.softmax(study.logits(model)[rows].double(), 1).amax(1).numpy()
    names = study.pictures["picture"].iloc[rows]
    table = tables.images(study, model).set_index("picture").loc[names].reset_index()
    table = table.assign(name=study.names(pictures), probability=sure)
    called = table["name"] + " (called " + table["predicted"] + ")"
    return table.assign(menu=table["name"].mask(table["correct"].eq(False), called))
