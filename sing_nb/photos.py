"""Image level: what one photo's classifier says, what its words gain and lose, and whether mistakes
differ from what is right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from .metrics import pairwise_angle
from .stats import random_basis
from .study import Study

__all__ = ["mistake_differences", "mistakes", "photo_cards", "top_classes", "word_changes"]


def _removals(
    study: Study, model: str, pictures: Sequence[str]
) -> tuple[np.ndarray, torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Rows of pictures, their features, the same without the null part, and without random ones."""
    rows = study.rows(pictures)
    f = study.features(model)[rows]
    return rows, f, study.spaces(model).remove_null(f), list(study.random_removals(model, f))


def mistakes(study: Study, model: str, count: int) -> list[str]:
    """Pictures that a classifier gets wrong, the surest wrong answers first, one a label.

    Parameters
    ----------
    study : Study
    model : str
    count : int
        How many at most; half of them, rounded up, are whole photographs while there are any.

    Returns
    -------
    list of str
        Names of labelled photographs, then of scored pictures of a true class.
    """
    table = study.images(model)
    wrong = table[table["correct"].eq(False)]
    rows = study.rows(wrong["picture"])
    sure = torch.softmax(study.logits(model)[rows].double(), 1).amax(1).numpy()
    wrong = wrong.assign(sure=sure).sort_values("sure", ascending=False, kind="stable")
    wrong = wrong.drop_duplicates("label")
    whole = wrong.loc[wrong["source"] == "photo", "picture"].tolist()[: (count + 1) // 2]
    others = wrong.loc[wrong["source"] != "photo", "picture"].tolist()
    return [*whole, *others[: count - len(whole)]]


def top_classes(study: Study, model: str, pictures: Sequence[str], k: int = 5) -> pd.DataFrame:
    """Logits and probabilities of each picture's k likeliest classes, in three states.

    Returns
    -------
    pandas.DataFrame
        picture, name (unique, for people), ``state`` (``translated``: the photo as it is; ``null
        part removed``; ``random part removed``), ``class``, ``rank`` (of the photo as it is, from
        1), ``logit`` and ``probability`` (0 to 1).
    """
    _, f, removed, random = _removals(study, model, pictures)
    clf = study.classifier(model)
    states = {
        "translated": f, "null part removed": removed, "random part removed": random[0]
    }
    best, names = clf.logits(f).topk(k, dim=1).indices, study.class_names(model)
    tables = []
    for state, moved in states.items():
        logits = clf.logits(moved).double()
        tables.append(
            pd.DataFrame(
                {
                    "picture": np.repeat(pictures, k), "name": np.repeat(study.names(pictures), k),
                    "state": state, "class": [names[i] for i in best.flatten()],
                    "rank": np.tile(np.arange(1, k + 1), len(pictures)),
                    "logit": logits.gather(1, best).flatten().numpy(),
                    "probability": torch.softmax(logits, 1).gather(1, best).flatten().numpy(),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def word_changes(
    study: Study, model: str, pictures: Sequence[str], k: int = 5, near: int = 50,
    chosen_by: int = -1,
) -> pd.DataFrame:
    """Words that a picture gains and loses most when its null part goes, equation (7) a word.

    Parameters
    ----------
    study : Study
    model : str
    pictures : sequence of str
    k : int
        Words gained and words lost for each picture, at most.
    near : int
        Only words among so many nearest ones, before or after, count: far words turn as well, but
        say little of the picture.
    chosen_by : int
        The removal that the words are chosen by: -1 = null removal, else a random subspace, which
        shows how large the largest changes are where nothing but chance chose the subspace.

    Returns
    -------
    pandas.DataFrame
        One row a picture, word and removal: picture, name, word, ``kind`` (null part removed or
        random part removed), ``draw`` (-1, or the number of the random subspace), ``before``
        (angle, degrees) and ``attribute_score`` (degrees: positive = gained, the equivalent lies
        nearer to the word).
    """
    rows, f, removed, random = _removals(study, model, pictures)
    text = study.text(study.vocabulary)
    before, *after = (
        pairwise_angle(study.translate(model, one, rows), text) for one in (f, removed, *random))
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
            for draw in range(-1, len(random)):
                records.append(
                    {
                        "picture": picture, "name": name, "word": study.vocabulary[word],
                        "kind": "null part removed" if draw < 0 else "random part removed",
                        "draw": draw, "before": float(before[number, word]),
                        "attribute_score": float(scores[draw + 1, word]),
                    }
                )
    columns = ["picture", "name", "word", "kind", "draw", "before", "attribute_score"]
    return pd.DataFrame(records, columns=columns)


def photo_cards(study: Study, model: str, pictures: Sequence[str]) -> pd.DataFrame:
    """One row a picture: what it is, what the classifier says, and how its equivalent differs.

    Returns
    -------
    pandas.DataFrame
        Rows of ``Study.images`` in the order asked for, with ``name`` (unique, for people),
        ``menu`` (the same, but a mistake says so) and ``probability`` (of the predicted class,
        0 to 1).
    """
    rows = study.rows(pictures)
    sure = torch.softmax(study.logits(model)[rows].double(), 1).amax(1).numpy()
    names = study.pictures["picture"].iloc[rows]
    table = study.images(model).set_index("picture").loc[names].reset_index()
    table = table.assign(name=study.names(pictures), probability=sure)
    called = table["name"] + " (called " + table["predicted"] + ")"
    return table.assign(menu=table["name"].mask(table["correct"].eq(False), called))


def mistake_differences(study: Study, model: str) -> pd.DataFrame:
    """Do mistakes have a larger null share or Image Score than what is classified correctly?

    Only pictures of :meth:`Study.scored` count.

    Parameters
    ----------
    study : Study
    model : str

    Returns
    -------
    pandas.DataFrame
        ``quantity`` (``null_share``, 0 to 1, or ``image_score``, degrees), ``over`` (``all
        pictures``: median of the wrong ones minus median of the right ones; ``same subject``, or
        ``same class`` where every subject is a single photo: the mean of that difference over
        those that have both), ``kind`` (null space removed; random control, the mean over
        subspaces of the same size, for the Image Score also of the same energy; difference of the
        two), ``value``, ``low``, ``high`` (95 %, whole subjects or classes drawn), ``wrong``
        (pictures) and ``drawn`` (how many subjects or classes). Nan where no picture is wrong, or
        every one.
    """
    table = study.scored(model)
    f, spaces = study.features(model), study.spaces(model)
    f = f[study.rows(table["picture"])].double()
    energy = f.square().sum(1)
    random = [
        (f @ torch.as_tensor(random_basis(spaces.features, spaces.null_dim, study.config.seed + i)))
        .square().sum(1) / energy
        for i in range(study.config.control_draws)
    ]
    table = table.assign(null_share_control=torch.stack(random).mean(0).numpy())
    wrong = table["correct"].eq(False).to_numpy()
    subjects = table["subject"].to_numpy()
    kinds = {
        "null space removed": lambda gap: gap[0], "random control": lambda gap: gap[1],
        "difference": lambda gap: gap[0] - gap[1],
    }
    groups, within = subjects, "same subject"
    if table["subject"].is_unique:
        groups, within = table["label"].to_numpy(), "same class"
    records = []
    for quantity in ("null_share", "image_score"):
        values = np.column_stack([table[[quantity, f"{quantity}_control"]], wrong])
        own = {name: _gap(values[groups == name]) for name in np.unique(groups)}
        both = {name: gap for name, gap in own.items() if np.isfinite(gap).all()}
        ways = {"all pictures": (values, subjects, _gap)}
        if both:
            mean = (np.array(list(both.values())), list(both), lambda v: v.mean(0))
            ways[within] = mean
        for over, (rows, clusters, gap) in ways.items():
            for kind, part in kinds.items():
                interval = dict.fromkeys(("value", "low", "high"), np.nan)
                if np.isfinite(gap(rows)).all():
                    interval = study.interval(
                        rows, clusters, lambda v, gap=gap, part=part: part(gap(v))
                    )
                records.append(
                    {"quantity": quantity, "over": over, "kind": kind, **interval,
                     "wrong": int(wrong.sum()), "drawn": len(set(clusters))}
                )
    return pd.DataFrame(records)


def _gap(values: np.ndarray) -> np.ndarray:
    """Medians of the wrong rows minus those of the right ones; nan where one kind is missing."""
    wrong = values[:, -1] == 1
    if wrong.all() or not wrong.any():
        return np.full(values.shape[1] - 1, np.nan)
    return np.median(values[wrong, :-1], axis=0) - np.median(values[~wrong, :-1], axis=0)
