"""Heads and features that a study can work with, and which logit is right for each picture."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import SingError
from ..method.nullspace import HeadSpaces
from ..models.classifier import Classifier
from ..models.prompts import imagenet_names
from ..pictures.cache import content_key, loaded, read_or_none
from ..pictures.fetch import cache_dir, say_once
from ..pictures.labels import match_labels, unmatched
from ..progress import say

if TYPE_CHECKING:
    from .study import Study

__all__ = ["check_features", "kept_spaces", "spaces_with_null", "truth"]

LONGEST = 1e15  # of a feature; the inverse is the shortest


def kept_spaces(weight: torch.Tensor) -> HeadSpaces:
    """`HeadSpaces.from_weight`, the same to the bit in every process."""
    key = content_key(weight.detach(), torch.__version__)
    path = cache_dir() / "heads" / f"svd-{key}.safetensors"
    found = read_or_none(path, partial(loaded, HeadSpaces))
    if found is None:
        found = HeadSpaces.from_weight(weight)
        try:
            found.save(path)
        except SingError as error:
            say_once(f"{error} SING_CACHE names another; each process computes this anew.")
    return found


def spaces_with_null(clf: Classifier) -> HeadSpaces:
    """The spaces of a classifier's head; a SingError if nothing is null."""
    spaces = kept_spaces(clf.head.weight)
    if spaces.null_dim == 0:
        raise SingError(
            f"{clf.title} has an empty null space: its head reads all {spaces.features} features "
            f"with {len(clf.head.weight)} classes (rank {spaces.rank}), so that there is nothing "
            f"to remove. Take it off the models. `spaces.near_null(energy=0.01)` of a HeadSpaces "
            f"gives the directions that carry 1 % of the head's energy, which are weak and not "
            f"null.")
    return spaces


def check_features(title: str, f: torch.Tensor, scored: np.ndarray) -> None:
    """Refuse features (n, m) of pictures that nothing can be fitted on; `scored` is a mask."""
    if not f.isfinite().all():
        raise SingError(f"{title}: its features hold NaN or infinite numbers.")
    f = f[torch.tensor(scored)]
    if len(f) and bool((f == f[0]).all()):
        what = "zero" if not f[0].any() else "the same"
        raise SingError(
            f"{title} gives features that are {what} for each of {len(f)} pictures, so "
            f"that they tell nothing of them. Is it a dead network (ReLUs that never fire), "
            f"are its weights those that were trained, does its transform keep the picture?")
    lengths = f.double().norm(dim=1)
    longest = float(lengths.max()) if len(lengths) else 1.0
    if not 1 / LONGEST < longest < LONGEST:
        raise SingError(
            f"{title} gives features of a length up to {longest:.1e}, whose squares float32 "
            f"cannot hold. Divide them by some number inside the model and multiply the head "
            f"by it: the logits stay as they are.")
    if dead := int((lengths == 0).sum()):
        say(
            f"{title}: {dead} of {len(f)} pictures have a feature that is zero. They are "
            f"kept: nothing of them is null, and an equivalent is the picture itself.")


def truth(study: Study, model: str) -> np.ndarray:
    """Which logit of a classifier is right, for every picture; -1 where none is."""
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
