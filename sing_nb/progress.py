"""Progress of long work: a bar on a terminal or in a notebook, and lines past it."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from tqdm.auto import tqdm

__all__ = ["progress_bar", "say"]


def say(text: str) -> None:
    """Write one line to the error stream, past progress bars."""
    tqdm.write(text.strip(), file=sys.stderr)


def progress_bar(
    shown: bool, iterable: Iterable | None = None, *, total: int, **options: object
) -> tqdm:
    """tqdm's bar, in a pipe or where there is nothing to do none."""
    return tqdm(iterable, total=total, disable=None if shown and total else True, **options)
