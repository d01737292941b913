"""What classes are called, and how a label becomes a prompt."""

from __future__ import annotations

import importlib.util
import json
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path

from ..errors import SingError
from ..pictures.cache import content_key
from ..pictures.fetch import cache_dir, write_atomic

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
    # The file alone: with its package come all networks, a second for every process.
    package = Path(importlib.util.find_spec("open_clip").origin).parent
    spec = importlib.util.spec_from_file_location("_names", package / "zero_shot_metadata.py")
    metadata = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(metadata)
    return tuple(metadata.IMAGENET_CLASSNAMES)


@cache
def class_aliases() -> dict[str, frozenset[int]]:
    """Which ImageNet-1k classes a name may mean: curated names and WordNet's synonyms.

    Returns
    -------
    dict
        Lower-case name to class indices (0 to 999); a few names, as "crane", mean two classes.
    """
    libraries = [f"{name} {version(name)}" for name in ("timm", "open_clip_torch")]
    path = cache_dir() / "names" / f"{content_key(Path(__file__), *libraries)}.json"
    try:
        found, checksum = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        found = checksum = None
    if checksum is None or checksum != content_key(found):
        found = _class_aliases()
        # In the order of the file, for which the checksum is.
        found = dict(sorted(found.items()))
        write_atomic(path, json.dumps([found, content_key(found)]), optional=True)
    return {alias: frozenset(indices) for alias, indices in found.items()}


def _class_aliases() -> dict[str, list[int]]:
    from timm.data import ImageNetInfo  # brings all networks, which takes seconds

    info, found = ImageNetInfo("imagenet-1k"), {}
    for index, name in enumerate(imagenet_names()):
        # "Arabian camel, dromedary, Camelus dromedarius: one-humped camel of the hot deserts ..."
        synonyms = info.index_to_description(index, detailed=True).split(":")[0].split(", ")
        for alias in (name, re.sub(r" \(.*\)", "", name), *synonyms):
            found.setdefault(alias.lower(), set()).add(index)
    return {alias: sorted(indices) for alias, indices in found.items()}
