"""Progress of long work: a bar, nothing, or a function that is told of it and may stop it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from tqdm.auto import tqdm

__all__ = ["Progress", "Stopped", "progress_bar", "say"]

Progress: TypeAlias = "bool | Callable[[int, int, str], None]"
"""Whether to show a bar; or a function of done, total and what is going on, which may raise
:class:`Stopped`."""


class Stopped(Exception):
    """Long work was asked to stop. What was finished before is kept."""


def say(text: str) -> None:
    """Write one line to the error stream, past progress bars."""
    tqdm.write(text.strip(), file=sys.stderr)


def progress_bar(
    progress: Progress, iterable: Iterable | None = None, *, total: int, desc: str, unit: str,
    initial: int = 0, **options: object,
) -> tqdm | _Told:
    """tqdm's bar on a terminal or in a notebook, or the same interface for a function."""
    if callable(progress):
        return _Told(progress, iterable, total, desc, initial)
    return tqdm(
        iterable, total=total, desc=desc, unit=unit, initial=initial,
        disable=None if progress and total else True, **options)


class _Told:
    """The part of tqdm's interface that long work uses."""

    def __init__(
        self, tell: Callable[[int, int, str], None], iterable: Iterable | None, total: int,
        desc: str, initial: int,
    ) -> None:
        self.tell, self.iterable, self.total, self.desc, self.n = (
            tell, iterable, total, desc, initial)

    def __enter__(self) -> _Told:
        self.update(0)
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __iter__(self) -> Iterator:
        self.update(0)
        for one in self.iterable:
            yield one
            self.update(1)

    def update(self, n: int) -> None:
        self.n += n
        if self.total:
            self.tell(self.n, self.total, self.desc)
