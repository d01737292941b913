"""Translators, spaces and tables with a card: exact, and never believed broken."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

import sing_nb
from sing_nb.errors import SingError
from sing_nb.method.files import write_tensors
from sing_nb.method.nullspace import HeadSpaces
from sing_nb.method.translator import Translator
from sing_nb.pictures import cards
from sing_nb.pictures.cache import keep

CARD = {"model": "own", "note": "naïve 日本 \ud800", "list": [1, 2.5, None, True, {"deep": "x"}]}


def translator(**card):
    rng = torch.Generator().manual_seed(0)
    return Translator(torch.randn(3, 4, generator=rng), torch.randn(3, generator=rng), card)


def spaces():
    return HeadSpaces.from_weight(torch.randn(2, 5, generator=torch.Generator().manual_seed(1)))


def table():
    return pd.DataFrame({
        "name": ["a", "None", "é"], "score": [0.1 + 0.2, np.nan, 1e-300], "n": [1, 2, 3]})


THINGS = {"translator.safetensors": translator, "spaces.safetensors": spaces,
          "table.parquet": table}


@pytest.fixture(params=THINGS)
def saved(request, tmp_path):
    return cards.save(tmp_path / "new" / request.param, THINGS[request.param](), CARD)


def test_a_card_comes_back_with_what_the_file_is(saved):
    found = sing_nb.load(saved)
    card = found.attrs["card"] if saved.stem == "table" else found.card
    assert card == CARD | {"holds": saved.stem}
    before = saved.read_bytes()
    assert cards.save(saved, found).read_bytes() == before  # and may be saved again


def test_spaces_come_back_exactly(tmp_path):
    weight = torch.randn(6, 9, generator=torch.Generator().manual_seed(2))
    weight[5] = weight[4]
    f = torch.randn(7, 9, generator=torch.Generator().manual_seed(3))
    plain = HeadSpaces.from_weight(weight)
    for one in (plain, plain.truncated(2), HeadSpaces.for_probabilities(weight)):
        found = sing_nb.load(cards.save(tmp_path / "s.safetensors", one))
        assert (found.rank, found.null_dim, found.tolerance) == (
            one.rank, one.null_dim, one.tolerance)
        assert torch.equal(found.singular_values, one.singular_values)
        for part in ("principal", "null", "null_share"):
            assert torch.equal(getattr(found, part)(f), getattr(one, part)(f))


def test_a_changed_bit_changes_nothing_or_is_refused(saved):
    whole, before, refused = saved.read_bytes(), sing_nb.load(saved), 0
    for at in np.unique(np.linspace(0, len(whole) - 1, 60).astype(int)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        saved.write_bytes(damaged)
        try:
            found = sing_nb.load(saved)
        except SingError:
            refused += 1
            continue
        if isinstance(before, pd.DataFrame):  # the footer carries no checksum
            assert found.set_axis(before.columns, axis=1).equals(before)
    assert refused > (15 if saved.stem == "table" else 50)


FOREIGN = {
    "weights": lambda path: path.write_bytes(safetensors.torch.save({"w": torch.zeros(2, 3)})),
    "a file of the cache": lambda path: keep(path, {"w": torch.zeros(2, 3)}, {"rank": 1}),
    "a rank that is none": lambda path: write_tensors(
        path, {"values": torch.ones(2), "vectors": torch.eye(3)[:2]}, "spaces",
        {"rank": 9, "tolerance": 0.0, "classes": 2, "card": {}}),
    "nothing": lambda path: path.touch(),
    "huge header": lambda path: path.write_bytes((2**60).to_bytes(8, "little") + b'{"a": 1}'),
    "folder": lambda path: path.mkdir(),
    "missing": lambda path: None}


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN)
def test_what_is_something_else_is_refused(tmp_path, write):
    write(tmp_path / "x.safetensors")
    with pytest.raises(SingError, match=r"x\.safetensors cannot be read as a translator"):
        sing_nb.load(tmp_path / "x.safetensors")


class Code:
    """Unpickled, it would make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
@pytest.mark.parametrize("name", ["a.safetensors", "a.parquet"])
def test_code_in_a_pickle_is_never_run(tmp_path, write, name):
    with (tmp_path / name).open("wb") as file:
        write(Code(tmp_path / "ran"), file)
    for read in (sing_nb.load,):
        with pytest.raises(SingError, match="cannot be read"):
            read(tmp_path / name)
    assert not (tmp_path / "ran").exists()
