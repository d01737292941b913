"""What classes are called: the labels of a study's pictures, and other names of their classes."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from ..errors import unknown
from ..models.prompts import class_aliases, imagenet_names
from ..pictures.images import stamp_labels
from ..pictures.labels import match_labels, unmatched
from ..progress import say

if TYPE_CHECKING:
    from .study import Study

__all__ = ["label_of", "truth", "usual_names"]


def label_of(study: Study, name: str) -> str:
    """The label that a name means; a SingError with the nearest one if nothing is called so."""
    own = {label.lower(): label for label in study.labels}
    if name.lower() in own:  # what most questions are about: the rest takes a second to read
        return own[name.lower()]
    names = study.names_of_labels
    if name.lower() not in names:
        near = get_close_matches(name.lower(), names, n=1)
        other = name.lower() in class_aliases()
        advice = " It is an ImageNet class, but no picture shows it." if other else ""
        raise unknown("class", name, {*near, *study.labels}, advice)
    return names[name.lower()]


def usual_names(study: Study) -> dict[str, str]:
    """The label of every usual name, in lower case; those of the stamps are known everywhere."""
    stamps = stamp_labels()
    every = {index: label for label, index in stamps.items()}
    if study.config.pictures != "stamps":
        every = dict(enumerate(imagenet_names())) | every
    # Where several labels share a class, one that this profile shows comes first.
    every |= dict(study.subjects[["class_index", "label"]].itertuples(index=False))
    names = {
        alias: every[index] for alias, indices in class_aliases().items()
        for index in sorted(indices) if index in every
    }
    known = {
        label.lower(): every.get(index, label) if index >= 0 else label
        for label, index in stamps.items()
    }
    return names | known | {label.lower(): label for label in study.labels}


def truth(study: Study, model: str) -> np.ndarray:
    """Which logit of a classifier is right, for every picture; -1 where none is.

    ImageNet's 1000 classes are known by their order, others by their names.
    """
    labels = study.pictures["label"]
    clf, names = study.classifier(model), study.class_names(model)
    if len(clf.head.weight) == len(imagenet_names()):
        return study.pictures["class_index"].to_numpy()
    said = unmatched(filter(None, labels[study.is_scored]), names, clf.title)
    if said and said not in clf.notes:  # which a report shows
        clf.notes.append(said)
        say(said)
    found = match_labels(filter(None, labels), names)
    return labels.map(found).fillna(-1).astype(int).to_numpy()
