"""What classes of pictures are called, and which logit of a network a label means."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from ..errors import SingError
from ..models.prompts import class_aliases, imagenet_names

__all__ = ["ClassName", "match_labels", "name_classes", "unmatched"]


class ClassName(NamedTuple):
    """Label ("an image of a ...") and ImageNet-1k index or -1."""

    label: str
    index: int


@cache
def _synsets() -> dict[str, tuple[str, str]]:
    """Curated and WordNet's own name of every synset of ImageNet, which has 21,843."""
    from timm.data import ImageNetInfo  # brings all networks, which takes seconds

    words = ImageNetInfo("imagenet-21k-goog").label_descriptions(as_dict=True)
    found = {wnid: (text.split(",")[0],) * 2 for wnid, text in words.items()}
    info = ImageNetInfo("imagenet-1k")
    for name, wnid, text in zip(imagenet_names(), info.label_names(), info.label_descriptions()):
        found[wnid] = (name, text.split(",")[0])  # "missile" and "sunglasses" are two classes each
    return found


@cache
def _indices() -> dict[str, int]:
    """ImageNet-1k's class of a synset, or of a name that means no other class."""
    from timm.data import ImageNetInfo

    meant: dict[str, set[int]] = {}
    for alias, indices in class_aliases().items():
        meant.setdefault(_forms(alias)[0].casefold(), set()).update(indices)
    synsets = {wnid: index for index, wnid in enumerate(ImageNetInfo("imagenet-1k").label_names())}
    return synsets | {name: min(indices) for name, indices in meant.items() if len(indices) == 1}


def _index(name: str) -> int:
    return _indices().get(name, _indices().get(_forms(name)[0].casefold(), -1))


def _forms(name: str) -> tuple[str, str, str]:
    """What a name may be called in words, the shortest first."""
    if re.fullmatch(r"n\d{8}", name):
        curated, own = _synsets().get(name, ("", ""))
        return curated, own, own
    # Composed and decomposed letters are the same; what steers a terminal is no letter.
    name = re.sub(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "", name)
    whole = re.sub(r"[_\s-]+", " ", unicodedata.normalize("NFC", name)).strip()
    short = whole.split(",")[0]
    return re.sub(r"^\d+[. ]+(?=.*[^\W\d])", "", short), short, whole


def _distinct(names: Sequence[str]) -> list[str]:
    """The shortest form of each name that no other name has, or else the whole name."""
    forms = [_forms(name) for name in names]
    counts = [Counter(form.casefold() for form in level) for level in zip(*forms)]
    return [
        next((form for form, count in zip(each, counts) if count[form.casefold()] == 1), each[-1])
        for each in forms]


def _in_imagenet_order(names: Sequence[str]) -> bool:
    """Whether a thousand names are ImageNet-1k's in the order of the logits."""
    right = sum(
        any(index in class_aliases().get(part.strip().lower(), ()) for part in name.split(","))
        for index, name in enumerate(names))
    return len(names) == 1000 and right > 900  # lists differ in a few; another order in nearly all


def name_classes(names: Iterable[str], what: str) -> tuple[dict[str, ClassName], list[str]]:
    """Label and index of every class, and notes on which names are one class."""
    names = list(names)
    ordered = _in_imagenet_order(names)
    named: dict[str, ClassName] = {}
    spelled: dict[str, str] = {}  # the name that first had a label
    merged = []
    for place, (name, label) in enumerate(zip(names, _distinct(names))):
        index = _index(name if name in _synsets() else label)  # a synset says which class it is
        if ordered:
            index, label = place, imagenet_names()[place]
        if not re.search(r"[^\W\d_]", label):
            raise SingError(
                f"The class {name!r} of {what} has no name in words, and a label must complete 'an "
                f"image of a ...'. Call it by its name, such as tench.")
        first = spelled.setdefault(label.casefold(), name)
        if first != name:
            merged.append(f"{name} and {first}")
            label = named[first].label
        named[name] = ClassName(label, index)
    notes = [f"Folders of {what} that have one name are one class: {'; '.join(merged)}."]
    return named, notes if merged else []


def match_labels(labels: Iterable[str], class_names: Sequence[str]) -> dict[str, int]:
    """Which logit of a network each label means, one to one; labels that mean none are left out."""
    places: dict[str, list[int]] = {}
    for index, name in enumerate(_distinct(class_names)):
        places.setdefault(name.casefold(), []).append(index)
    found: dict[str, int] = {}
    for label in dict.fromkeys(labels):
        forms = [form.casefold() for form in reversed(_forms(label))]
        where = next((places[form] for form in forms if form in places), [])
        if len(where) > 1:
            raise SingError(
                f"Logits {', '.join(map(str, where))} are all called {label!r}, and pictures are "
                f"labelled so: which one is right cannot be told. Give each a name of its own.")
        if where:
            found[label] = where[0]
    counts = Counter(found.values())
    return {label: index for label, index in found.items() if counts[index] == 1}


def unmatched(labels: Iterable[str], class_names: Sequence[str], model: str) -> str:
    """A sentence that names the labels that are no class of a network; empty if all are one."""
    labels = list(dict.fromkeys(labels))
    found = match_labels(labels, class_names)
    odd = [label for label in labels if label not in found]
    if not odd:
        return ""
    free = [name for index, name in enumerate(class_names) if index not in found.values()]
    return (
        f"{len(odd)} of {len(labels)} labels of the pictures are no class of {model}, and their "
        f"pictures count as neither right nor wrong: {', '.join(odd[:10])}. Its classes without "
        f"pictures: {', '.join(free[:10]) or 'none'}.")
