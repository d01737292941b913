"""The one error type of this package, and names of files as messages may show them."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable

__all__ = ["SingError", "printable", "unknown"]

# Control characters (also those that clear or colour a terminal), halves of characters (which no
# file in UTF-8 can hold), and what turns the direction of the text that follows.
_UNSAFE = r"\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069"


class SingError(ValueError):
    """Bad input or a missing part: says what was expected, what came, and what to do.

    Examples
    --------
    >>> raise sing.SingError("a.onnx is no model that can be run; save its weights instead.")
    Traceback (most recent call last):
    sing_nb.errors.SingError: a.onnx is no model that can be run; save its weights instead.
    """

    def __str__(self) -> str:
        # Names of files come from anywhere; lines and tabs are our own.
        return _escaped(super().__str__(), _UNSAFE)

    def _render_traceback_(self) -> list[str]:
        # IPython's own hook: the message says what to do, forty lines of our code do not.
        return [f"{type(self).__name__}: {self}"]


def printable(name: str | os.PathLike) -> str:
    """A name of a file on one line, as any terminal and any UTF-8 file takes it."""
    return _escaped(os.fspath(name), _UNSAFE + r"\n\t")


def _escaped(text: str, unsafe: str) -> str:
    return re.sub(
        f"[{unsafe}]", lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def unknown(what: str, name: str, known: Iterable[str], advice: str = "") -> SingError:
    """An error for an unknown name, with the nearest right one."""
    known = sorted(known)
    small = {other.lower(): other for other in known}
    close = difflib.get_close_matches(str(name), known, n=1) or [
        small[near] for near in difflib.get_close_matches(str(name).lower(), small, n=1)]
    hint = f"did you mean {close[0]!r}? " if close else ""
    return SingError(f"Unknown {what} {name!r}; {hint}Known: {', '.join(known)}.{advice}")
