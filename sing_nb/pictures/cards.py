"""Translators, spaces and tables saved with a card that says what they are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from safetensors import safe_open

from ..errors import SingError
from ..method.files import read_tensors, write_tensors
from ..method.nullspace import HeadSpaces
from ..method.translator import Translator
from .cache import keep_table, kept_table

__all__ = ["load", "save"]

KINDS = {Translator: "translator", HeadSpaces: "spaces", pd.DataFrame: "table"}


def save(
    path: str | Path, thing: Translator | HeadSpaces | pd.DataFrame,
    card: Mapping[str, object] | None = None,
) -> Path:
    """Write a translator or spaces (.safetensors) or a table (.parquet) with a card, atomically."""
    path = Path(path)
    kind = next((name for one, name in KINDS.items() if isinstance(thing, one)), None)
    ending = ".parquet" if kind == "table" else ".safetensors"
    if kind is None or path.suffix != ending:
        raise SingError(
            f"A Translator or HeadSpaces is saved as .safetensors, a table (DataFrame) as "
            f".parquet; got a {type(thing).__name__} and {path.name!r}.")
    own = thing.attrs.get("card", {}) if kind == "table" else thing.card
    card = {**(card or {}), **own, "holds": kind}
    try:
        json.dumps(card)
    except (TypeError, ValueError) as error:
        raise SingError(
            f"A card holds text, numbers, true and false, lists, mappings, as JSON does: {error}."
        ) from error
    if kind == "table":
        plain = thing.copy(deep=False)
        plain.attrs = {"card": card}
        return keep_table(path, plain)
    if kind == "translator":
        return dataclasses.replace(thing, card=card).save(path)
    held = {"values": thing.singular_values, "vectors": thing.vectors}
    about = {"rank": thing.rank, "tolerance": thing.tolerance, "classes": thing.classes}
    return write_tensors(path, held, "spaces", {**about, "card": card})


def load(path: str | Path) -> Translator | HeadSpaces | pd.DataFrame:
    """Read a translator, the spaces of a head or a table that sing_nb saved.

    Parameters
    ----------
    path : path
        A ``.safetensors`` or ``.parquet`` file of a report, or of :func:`save`.

    Returns
    -------
    Translator, HeadSpaces or pandas.DataFrame
        Exact to the bit, with its card in ``.card``, of a table in ``.attrs["card"]``.

    Raises
    ------
    SingError
        If the file is missing, damaged or of another kind. Code that a pickle holds is never run.

    Examples
    --------
    >>> import tempfile
    >>> import torch, sing_nb as sing
    >>> from sing_nb.pictures import cards
    >>> translator = sing.Translator(torch.eye(2), torch.zeros(2), {"model": "mine"})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = sing.load(cards.save(f"{folder}/t.safetensors", translator))
    >>> found.card
    {'holds': 'translator', 'model': 'mine'}
    """
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            return kept_table(path)
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
        if "card" in metadata:
            return Translator.load(path)
        held, about = read_tensors(path, "spaces")
        card = about.pop("card")
        spaces = HeadSpaces.from_svd(held["values"], held["vectors"], **about)
        return dataclasses.replace(spaces, card=card)
    except Exception as error:  # of files of anything, readers raise many kinds
        raise SingError(
            f"{path} cannot be read as a translator, spaces or a table that sing_nb saved "
            f"({error}). If it was one, copy it again; classifiers' weights are read by "
            f"load_classifier."
        ) from error
