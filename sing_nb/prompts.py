"""What classes are called, and how a label becomes a prompt."""

from __future__ import annotations

import re
from functools import cache

from .errors import SingError

__all__ = ["class_aliases", "complete_prompt", "imagenet_names", "prompt"]

_PICTURE = re.compile(
    r"(an?\s+|the\s+)?(\w+\s+)?(image|photo|photograph|picture|painting|drawing|sketch)s?\s+of\b",
    re.IGNORECASE,
)


def prompt(label: str) -> str:
    """The paper's prompt for a label: "an image of a <label>", with the right article."""
    article = "an" if label[:1].lower() in "aeiou" else "a"
    return f"an image of {article} {label}"


def complete_prompt(words: str) -> str:
    """A prompt from what a person typed: "jellyfish" becomes "an image of a jellyfish".

    What says itself what kind of picture it is, "a sketch of a camel", stays as it is.

    Raises
    ------
    SingError
        If no letter and no digit was typed.
    """
    words = " ".join(words.split())
    if not any(letter.isalnum() for letter in words):
        came = f"got {words!r}" if words else "it is empty"
        raise SingError(
            f"A prompt needs a word, and {came}; type one, such as “jellyfish” or “an image of a "
            f"birthday cake”."
        )
    if _PICTURE.match(words):
        return words
    if re.match(r"(an?|the|some|two|three|many)\s", words, re.IGNORECASE):
        return f"an image of {words}"
    return prompt(words)


@cache
def imagenet_names() -> tuple[str, ...]:
    """The 1000 ImageNet-1k class names as curated by open_clip, in the order of the logits."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return tuple(IMAGENET_CLASSNAMES)


@cache
def class_aliases() -> dict[str, frozenset[int]]:
    """Which ImageNet-1k classes a name may mean: curated names and WordNet's synonyms.

    Returns
    -------
    dict
        Lower-case name to class indices (0 to 999); a few names, as "crane", mean two classes.
    """
    from timm.data import ImageNetInfo

    info, found = ImageNetInfo("imagenet-1k"), {}
    for index, name in enumerate(imagenet_names()):
        # "Arabian camel, dromedary, Camelus dromedarius: one-humped camel of the hot deserts ..."
        synonyms = info.index_to_description(index, detailed=True).split(":")[0].split(", ")
        for alias in (name, re.sub(r" \(.*\)", "", name), *synonyms):
            found.setdefault(alias.lower(), set()).add(index)
    return {alias: frozenset(indices) for alias, indices in found.items()}
