"""Stratified subsets of pictures: by class, by seed, the smaller within the larger."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..errors import SingError, printable
from ..progress import say
from .images import decoded, open_picture
from .labels import ClassName

__all__ = ["Pair", "Seen", "check_counts", "choose_pictures", "content_hash", "say"]

Pair = tuple[str, str | int]
"""A class and one of its pictures: the name of a file or the number of a row."""


class Seen(NamedTuple):
    """A picture that was looked at.

    Attributes
    ----------
    path : str
        Its file.
    stem : str
        Start of its name.
    sha : str
        SHA-256 of its content, 64 hexadecimal digits.
    """

    path: str
    stem: str
    sha: str


class Skipped(list):
    """``{"path", "reason"}`` of each picture that was passed over, for people.

    Not copied with a table's attributes: pandas does that at every step, and of 2,000 entries it
    took 27 ms.
    """

    def __deepcopy__(self, memo: dict) -> Skipped:
        return self


Look = Callable[[list[Pair]], "dict[Pair, Seen | str]"]
"""Looks at pictures; a text says why one cannot be used."""


def check_counts(per_class: int | None, total: int | None) -> None:
    """Refuse numbers of pictures that are not whole numbers of at least 1."""
    for name, value in (("per_class", per_class), ("total", total)):
        if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
            raise SingError(f"{name} must be a whole number of at least 1; got {value!r}.")


def choose_pictures(
    candidates: Mapping[str, Sequence[str | int]], named: Mapping[str, ClassName], look: Look,
    per_class: int | None, total: int | None, seed: int, what: str,
) -> pd.DataFrame:
    """The table of a stratified choice; only pictures that it comes across are looked at.

    In every round each class, in an order drawn by the seed, gives its next picture, in an order
    drawn by the seed, until there are `total` or `per_class` rounds are over. What cannot be used
    is passed over, so that the shares stay as they are. The choice for a smaller `total` is a part
    of that for a larger one.

    Parameters
    ----------
    candidates : mapping
        Pictures of each class.
    named : mapping
        What the classes are called; others are left out.
    look : callable
        Looks at pictures: :class:`Seen`, or a text that says why one cannot be used.
    per_class, total : int or None
        At most so many of a class, and in all.
    seed : int
    what : str
        Whose pictures they are, for messages.

    Returns
    -------
    pandas.DataFrame
        Picture table by class and picture; ``attrs["skipped"]`` lists ``{"path", "reason"}``. On
        the error stream it says what was skipped and if there are fewer than asked for.

    Raises
    ------
    SingError
        If fewer than two classes have pictures left.
    """

    def drawn(*parts: object) -> bytes:
        text = "\0".join(map(str, (seed, *parts))).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(text, digest_size=8).digest()

    order = {
        name: sorted(candidates[name], key=lambda key, name=name: (drawn(name, key), key))
        for name in sorted(named, key=lambda name: (drawn(name), name))
    }
    seen: dict[Pair, Seen | str] = {}
    what = printable(what)
    while True:
        taken, skipped = _rounds(order, seen, per_class, total)
        unknown = [pair for pair in taken if pair not in seen]
        if not unknown:
            break
        seen |= look(unknown)
    if skipped:
        some = "; ".join(reason.rstrip(".") for reason in list(skipped.values())[:3])
        say(f"{len(skipped)} pictures of {what} were skipped: {printable(some)}"
            + ("; ..." if len(skipped) > 3 else ""))
    left = {named[name][:2] for name, _ in taken}
    if not taken or (len(left) < 2 and total != 1):
        raise SingError(
            f"{what} has no two classes with pictures that can be read. "
            f"{len(skipped)} were skipped: {'; '.join(list(skipped.values())[:3])}"
        )
    if total is not None and len(taken) < total:
        say(f"{total:,} pictures of {what} were asked for, and {len(taken):,} are there"
             + (f" with at most {per_class} of a class" if per_class else "") + ".")
    elif per_class is not None and total is None:
        counts = Counter(name for name, _ in taken)
        short = [name for name in order if counts[name] < per_class]
        if short:
            say(f"{len(short)} of {len(order)} classes of {what} have fewer than {per_class} "
                 f"pictures, for example {short[0]}.")
    table = _table([(named[name], seen[name, key]) for name, key in sorted(taken)])
    table.attrs["skipped"] = Skipped(
        {"path": printable(f"{name}/{key}"), "reason": printable(reason)}
        for (name, key), reason in skipped.items()
    )
    return table


def _rounds(
    order: Mapping[str, Sequence[str | int]], seen: Mapping[Pair, Seen | str],
    per_class: int | None, total: int | None,
) -> tuple[list[Pair], dict[Pair, str]]:
    """Each class in turn gives its next good picture; one that was not looked at counts as good."""
    taken: list[Pair] = []
    skipped: dict[Pair, str] = {}
    contents: dict[str, str] = {}
    rest = {name: iter(keys) for name, keys in order.items()}
    rounds = 0
    while rest and (per_class is None or rounds < per_class):
        for name in list(rest):
            if len(taken) == total:
                return taken, skipped
            for key in rest[name]:
                found = seen.get((name, key))
                if isinstance(found, Seen):
                    if found.sha in contents:
                        skipped[name, key] = (
                            f"{name}/{key} has the same content as {contents[found.sha]} and "
                            f"would count twice; nothing is to do"
                        )
                        continue
                    contents[found.sha] = f"{name}/{key}"
                elif found is not None:
                    skipped[name, key] = found
                    continue
                taken.append((name, key))
                break
            else:
                del rest[name]
        rounds += 1
    return taken, skipped


def _table(rows: Iterable[tuple[ClassName, Seen]]) -> pd.DataFrame:
    records = []
    for one, seen in rows:
        stem = re.sub(r"[^\w.-]+", "_", seen.stem)[:60]
        picture = f"{stem}-{seen.sha[:10]}"
        records.append(
            {
                "picture": picture, "source": "folder", "path": seen.path,
                "subject": one.subject or picture, "label": one.label, "class_index": one.index,
                "view": 0, "background": "", "hue": np.nan, "saturation": np.nan,
                "lightness": np.nan, "scale": np.nan, "x": np.nan, "y": np.nan, "flip": False,
            }
        )
    return pd.DataFrame(records)


def content_hash(data: bytes, name: str) -> tuple[str, str]:
    """SHA-256 (64 hexadecimal digits) and format of a picture's bytes.

    Parameters
    ----------
    data : bytes
        Content of a file.
    name : str
        What messages call it.

    Returns
    -------
    (str, str)

    Raises
    ------
    SingError
        If it is empty, no picture, too large, cut off or damaged.
    """
    if not data:
        raise SingError(f"{printable(name)} is empty; replace it or remove it.")
    with open_picture(io.BytesIO(data), name=name) as picture:
        # One that is damaged behind its header would else stop the features, after minutes. For a
        # photograph of 500 x 375 it takes 1 ms, a seventh of what a small network does, once.
        kind = picture.format
        decoded(picture, name)
    return hashlib.sha256(data).hexdigest(), kind
