"""How long work reports: by a bar, not at all, or to a function that may stop it."""

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
    """One line on the error stream, past progress bars."""
    tqdm.write(text.strip(), file=sys.stderr)


def progress_bar(
    progress: Progress, iterable: Iterable | None = None, *, total: int, desc: str, unit: str,
    initial: int = 0, **options: object,
) -> tqdm | _Told:
    """A bar as tqdm's: a context with ``update(n)``, or around an iterable.

    Parameters
    ----------
    progress : bool or callable
        True: on a terminal and in a notebook. A function is told ``(done, total, desc)`` at the
        start and at every step; what it raises ends the work.
    iterable : iterable, optional
        What is gone through.
    total, initial : int
        Steps in all, of which so many are done; of 0 in all nothing is shown.
    desc, unit : str
        What is going on, and what a step is.
    **options
        For tqdm.
    """
    if callable(progress):
        return _Told(progress, iterable, total, desc, initial)
    return tqdm(
        iterable, total=total, desc=desc, unit=unit, initial=initial,
        disable=None if progress and total else True, **options,
    )


class _Told:
    """The part of tqdm's interface that long work uses, told to a function."""

    def __init__(
        self, tell: Callable[[int, int, str], None], iterable: Iterable | None, total: int,
        desc: str, initial: int,
    ) -> None:
        self.tell, self.iterable = tell, iterable
        self.n, self.total, self.desc = initial, total, desc

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
