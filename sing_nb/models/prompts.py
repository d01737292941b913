"""What ImageNet's classes are called, and how a label becomes a prompt."""

from __future__ import annotations

import csv
import re
from functools import cache

from ..errors import SingError
from ..pictures.fetch import data_dir

__all__ = ["class_aliases", "complete_prompt", "imagenet_names", "prompt"]

_PICTURE = re.compile(
    r"(an?\s+|the\s+)?(\w+\s+)?(image|photo|photograph|picture|painting|drawing|sketch)s?\s+of\b",
    re.IGNORECASE)


def prompt(label: str) -> str:
    """The paper's prompt for a label: "an image of a <label>", with the right article."""
    article = "an" if label[:1].lower() in "aeiou" else "a"
    return f"an image of {article} {label}"


def complete_prompt(words: str) -> str:
    """A prompt from what a person typed: "jellyfish" becomes "an image of a jellyfish"."""
    words = " ".join(words.split())
    if not any(letter.isalnum() for letter in words):
        came = f"got {words!r}" if words else "it is empty"
        raise SingError(f"A prompt needs a word, and {came}; type one, such as “jellyfish”.")
    if _PICTURE.match(words):
        return words
    if re.match(r"(an?|the|some|two|three|many)\s", words, re.IGNORECASE):
        return f"an image of {words}"
    return prompt(words)


@cache
def _classes() -> list[dict[str, str]]:
    # A file of ours: the libraries that know this take seconds to load, in every process.
    with (data_dir() / "imagenet.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@cache
def imagenet_names() -> tuple[str, ...]:
    """The 1000 ImageNet-1k class names as curated by open_clip, in the order of the logits."""
    return tuple(row["name"] for row in _classes())


@cache
def class_aliases() -> dict[str, frozenset[int]]:
    """Which ImageNet-1k classes (0 to 999) a lower-case name may mean; "crane" means two."""
    found: dict[str, set[int]] = {}
    for index, row in enumerate(_classes()):
        short = re.sub(r" \(.*\)", "", row["name"])
        for alias in (row["name"], short, *row["synonyms"].split("|")):
            found.setdefault(alias.lower(), set()).add(index)
    return {alias: frozenset(indices) for alias, indices in found.items()}
