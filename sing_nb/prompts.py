"""What classes are called, and how a label becomes a prompt."""

from __future__ import annotations

from functools import cache

__all__ = ["imagenet_names", "prompt"]


def prompt(label: str) -> str:
    """The paper's prompt for a label: "an image of a <label>", with the right article."""
    article = "an" if label[:1].lower() in "aeiou" else "a"
    return f"an image of {article} {label}"


@cache
def imagenet_names() -> tuple[str, ...]:
    """The 1000 ImageNet-1k class names as curated by open_clip, in the order of the logits."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return tuple(IMAGENET_CLASSNAMES)
