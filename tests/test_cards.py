"""Translators, spaces and tables with a card: exact, told by content, and never believed broken."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

import sing_nb
from sing_nb.errors import SingError
from sing_nb.method.nullspace import HeadSpaces
from sing_nb.method.translator import RidgeFitter, Translator
from sing_nb.pictures import cards
from sing_nb.pictures.cache import checksum, keep
from sing_nb.study import tables

CARD = {"model": "own", "note": "naïve 日本 \ud800", "list": [1, 2.5, None, True, {"deep": "x"}]}


def translator(**card):
    rng = torch.Generator().manual_seed(0)
    return Translator(torch.randn(3, 4, generator=rng), torch.randn(3, generator=rng), card)


def spaces():
    return HeadSpaces.from_weight(torch.randn(2, 5, generator=torch.Generator().manual_seed(1)))


def table():
    return pd.DataFrame({
        "name": ["a", "None", "é"], "score": [0.1 + 0.2, np.nan, 1e-300], "n": [1, 2, 3],
        "right": [True, False, True]})


THINGS = {"t.safetensors": translator, "s.safetensors": spaces, "a.parquet": table, "a.csv": table}


@pytest.fixture(params=THINGS)
def saved(request, tmp_path):
    return cards.save(tmp_path / "new" / request.param, THINGS[request.param](), CARD)


def card(found):
    return found.attrs["card"] if isinstance(found, pd.DataFrame) else found.card


# --- what was saved comes back ------------------------------------------------------------------


def test_a_card_comes_back_with_what_the_file_is(saved):
    found = card(sing_nb.load(saved))
    own = {"holds", "format", "content"}
    assert {key: found[key] for key in found if key not in own} == CARD
    assert own < set(found)
    assert cards.card_of(saved) == found
    assert found["holds"] == {"t": "translator", "s": "spaces", "a": "table"}[saved.stem[0]]


def test_a_translator_comes_back_exactly_and_translator_load_reads_it(tmp_path):
    one = translator(**{"lambda": 3.0, "held_out_fold": 2})
    path = cards.save(tmp_path / "t.safetensors", one, {"lambda": 99.0, "seed": 0})
    for found in (sing_nb.load(path), Translator.load(path)):
        assert torch.equal(found.weight, one.weight)
        assert torch.equal(found.bias, one.bias)
        # What the translator knows of itself is not that of the study's card.
        about = found.card
        assert (about["lambda"], about["held_out_fold"], about["seed"]) == (3.0, 2, 0)


def test_spaces_come_back_exactly(tmp_path):
    weight = torch.randn(6, 9, generator=torch.Generator().manual_seed(2))
    weight[5] = weight[4]
    f = torch.randn(7, 9, generator=torch.Generator().manual_seed(3))
    plain = HeadSpaces.from_weight(weight)
    for one in (plain, plain.truncated(2), HeadSpaces.for_probabilities(weight)):
        found = sing_nb.load(cards.save(tmp_path / "s.safetensors", one))
        assert (found.rank, found.null_dim, found.tolerance) == (
            one.rank, one.null_dim, one.tolerance)
        for part in ("principal", "null", "null_share"):
            assert torch.equal(getattr(found, part)(f), getattr(one, part)(f))
        assert torch.equal(found.null_basis, one.null_basis)


def test_tables_come_back_exactly(tmp_path):
    one = table()
    for name in ("a.parquet", "a.csv"):
        found = sing_nb.load(cards.save(tmp_path / name, one, CARD))
        pd.testing.assert_frame_equal(found, one, check_exact=True)
    # Parquet keeps an index and types; others read the file without us.
    typed = one.astype({"n": "int8"}).set_index("name")
    path = cards.save(tmp_path / "b.parquet", typed)
    pd.testing.assert_frame_equal(sing_nb.load(path), typed, check_exact=True)
    pd.testing.assert_frame_equal(pd.read_parquet(path), typed, check_exact=True)
    assert one.attrs == {}


def test_tables_of_lists_and_of_nothing_come_back(tmp_path):
    for one in (pd.DataFrame({"words": [["a", "b"], []]}), pd.DataFrame({"x": []})):
        found = sing_nb.load(cards.save(tmp_path / "a.parquet", one))
        assert [*map(list, found.iloc[:, 0].map(list))] == one.iloc[:, 0].tolist()


def test_what_was_loaded_can_be_saved_again_with_the_same_content(saved, tmp_path):
    first = sing_nb.load(saved)
    again = sing_nb.load(cards.save(tmp_path / f"again{saved.suffix}", first))
    assert card(again) == card(first)


def test_the_content_is_a_hash_of_the_thing_and_not_of_its_card(tmp_path):
    def content(name, one, more):
        return cards.card_of(cards.save(tmp_path / name, one, more))["content"]

    assert content("a.csv", table(), CARD) == content("a.csv", table(), CARD | {"seed": 1})
    assert content("a.csv", table(), CARD) != content("a.csv", table()[::-1], CARD)
    # The same of a table in both forms, and independently of kept.content_key.
    text = (tmp_path / "b.csv", content("b.csv", table(), CARD))[0].read_text(encoding="utf-8")
    digest = hashlib.sha256(repr(text).encode() + b"\0").hexdigest()[:20]
    assert content("b.csv", table(), CARD) == content("b.parquet", table(), CARD) == digest
    name = "t.safetensors"
    assert content(name, translator(), {}) == content(name, translator(), CARD)
    # And what is written is the same to the byte, in this process and the next.
    for name, make in THINGS.items():
        one = cards.save(tmp_path / name, make(), CARD).read_bytes()
        assert cards.save(tmp_path / name, make(), CARD).read_bytes() == one


def test_kept_translators_of_a_study_are_read_too(tmp_path):
    path = translator(model="own", held_out_r2=float("nan")).save(tmp_path / "t.safetensors")
    found = sing_nb.load(path)
    assert found.card["model"] == "own"
    assert np.isnan(found.card["held_out_r2"])


def test_a_header_of_any_length_is_told_from_a_pickle(tmp_path):
    # Safetensors begin with its length, of which one in 256 begins as pickles do.
    starts = set()
    for size in range(0, 300, 4):
        path = cards.save(tmp_path / "t.safetensors", translator(note="x" * size))
        starts.add(path.read_bytes()[0])
        assert sing_nb.load(path).card["note"] == "x" * size
    assert 0x80 in starts


# --- what is broken, foreign or newer -----------------------------------------------------------


def test_a_changed_bit_changes_nothing_or_is_refused(saved):
    # Bits that hold no content (padding, statistics of Parquet) may change.
    whole, before = saved.read_bytes(), sing_nb.load(saved)
    refused = 0
    for at in np.unique(np.linspace(0, len(whole) - 1, 60).astype(int)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        saved.write_bytes(damaged)
        try:
            found = sing_nb.load(saved)
        except SingError:
            refused += 1
            continue
        assert card(found) == card(before)
        if isinstance(found, pd.DataFrame):
            pd.testing.assert_frame_equal(found, before)
    assert refused > 25


def test_a_file_that_was_cut_is_refused(saved):
    whole = saved.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:size])
        with pytest.raises(SingError, match=r"damaged|is empty|neither|fit"):
            sing_nb.load(saved)


def test_a_card_of_another_table_is_refused(tmp_path):
    one = cards.save(tmp_path / "a.csv", table(), CARD)
    other = cards.save(tmp_path / "b.csv", table()[:2], CARD)
    os.replace(tmp_path / "b.card.json", tmp_path / "a.card.json")
    with pytest.raises(SingError, match=r"a\.csv or its card are not those"):
        sing_nb.load(one)
    with pytest.raises(SingError, match=r"no card b\.card\.json beside it; pandas\.read_csv"):
        sing_nb.load(other)


def test_a_card_that_was_edited_is_refused(tmp_path):
    path = cards.save(tmp_path / "t.safetensors", translator(), {"error": 80.0})
    with safetensors.safe_open(str(path), framework="pt") as file:
        metadata, held = file.metadata(), {key: file.get_tensor(key) for key in ("weight", "bias")}
    better = metadata | {"card": metadata["card"].replace("80", "10")}
    path.write_bytes(safetensors.torch.save(held, better))
    with pytest.raises(SingError, match="checksum differs"):
        sing_nb.load(path)


def test_a_newer_format_is_not_guessed_at(saved, monkeypatch):
    monkeypatch.setattr(cards, "FORMAT", 2)
    found = cards.load(saved)
    cards.save(saved, found)
    monkeypatch.undo()
    with pytest.raises(SingError, match=r"newer sing_nb(.|\n)*pdate"):
        cards.load(saved)


def foreign(folder, name):
    """A file that is none of ours, under a name that could be."""
    path = folder / "x.safetensors"
    weights = {"head.weight": torch.zeros(2, 3)}
    writers = {
        "weights": lambda: path.write_bytes(safetensors.torch.save(weights)),
        "statistics": lambda: RidgeFitter(2, 1).update(
            torch.zeros(3, 2), torch.zeros(3, 1)).save(path),
        "cache": lambda: keep(path, weights),
        "parquet": lambda: table().to_parquet(path),
        "text": lambda: path.write_text("hello, this is a text"),
        "json": lambda: path.write_text('{"model": "x"}'),
        "zeros": lambda: path.write_bytes(bytes(100)),
        "huge header": lambda: path.write_bytes((2**60).to_bytes(8, "little") + b'{"a": 1}'),
        "folder": path.mkdir,
        "missing": lambda: None,
    }
    writers[name]()
    return path


@pytest.mark.parametrize(("name", "message"), [
    ("weights", r"holds no translator.*1 tensors \(head\.weight\).*load_classifier"),
    ("statistics", "RidgeFitter.load"), ("cache", "cache"), ("parquet", "pandas.read_parquet"),
    ("text", "neither safetensors nor Parquet"), ("json", "is JSON.*card_of"),
    ("zeros", "neither"), ("huge header", "neither"), ("folder", "a folder.*card.json"),
    ("missing", "not there"),
])
def test_what_is_something_else_is_called_by_its_name(tmp_path, name, message):
    with pytest.raises(SingError, match=message) as raised:
        sing_nb.load(foreign(tmp_path, name))
    assert str(tmp_path) in str(raised.value)


class Code:
    """Unpickled, it would make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
@pytest.mark.parametrize("name", ["a.safetensors", "a.parquet", "a.csv"])
def test_code_in_a_pickle_is_never_run(tmp_path, write, name):
    with (tmp_path / name).open("wb") as file:
        write(Code(tmp_path / "ran"), file)
    (tmp_path / "a.card.json").write_text('{"model": "x"}')
    for read in (sing_nb.load, cards.card_of):
        with pytest.raises(SingError, match="nothing of it was run"):
            read(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_tensors_that_make_no_space_are_refused(tmp_path):
    good = cards.save(tmp_path / "s.safetensors", spaces())
    whole = safetensors.torch.load(good.read_bytes())
    with safetensors.safe_open(str(good), framework="pt") as file:
        about = json.loads(file.metadata()["sing"])
    del about["checksum"]
    for change, held in (
        ({"rank": 9}, whole), ({"rank": 0}, whole), ({"holds": "translator"}, whole),
        ({"card": "[]"}, whole), ({}, whole | {"values": torch.ones(9, dtype=torch.float64)}),
        ({}, {"values": whole["values"]}), ({}, whole | {"vectors": torch.eye(5)[:4].double()}),
    ):
        said = about | change
        said["checksum"] = checksum(held, json.dumps(said, sort_keys=True))  # whoever made it can
        bad = tmp_path / "bad.safetensors"
        bad.write_bytes(safetensors.torch.save(held, {"sing": json.dumps(said)}))
        with pytest.raises(SingError, match=r"damaged|rank must lie"):
            sing_nb.load(bad)


@pytest.mark.parametrize(("thing", "name", "more", "message"), [
    ([1, 2], "a.safetensors", {}, "got list"), (translator(), "t.pt", {}, "saved as .safetensors"),
    (table(), "t.pkl", {}, "saved as .parquet or .csv"),
    (translator(), "t.safetensors", {"a": np.float32(1)}, "as JSON does"),
    (translator(), "t.safetensors", {"a": {(1, 2): 3}}, "as JSON does"),
    (pd.DataFrame({"x": [1, "a"]}), "t.parquet", {}, "one type each"),
])
def test_what_cannot_be_saved_is_said_and_nothing_written(tmp_path, thing, name, more, message):
    with pytest.raises(SingError, match=message):
        cards.save(tmp_path / name, thing, more)
    assert list(tmp_path.iterdir()) == []


# --- cards of reports, and for people -----------------------------------------------------------


def test_a_reports_folder_page_and_card_have_one_card(tmp_path):
    (tmp_path / "card.json").write_text(json.dumps(CARD))
    (tmp_path / "index.html").write_text("<html>")
    for path in (tmp_path, tmp_path / "index.html", tmp_path / "card.json"):
        assert cards.card_of(path) == CARD
    (tmp_path / "card.json").write_text('["model"]')
    with pytest.raises(SingError, match="no card"):
        cards.card_of(tmp_path)
    (tmp_path / "card.json").write_text('{"model": "x", "format": 7}')
    with pytest.raises(SingError, match="newer"):
        cards.card_of(tmp_path)
    (tmp_path / "card.json").write_text('{"model": ')
    with pytest.raises(SingError, match="not JSON"):
        cards.card_of(tmp_path)
    (tmp_path / "card.json").unlink()
    with pytest.raises(SingError, match=r"has no card\.json"):
        cards.card_of(tmp_path)


def test_the_card_of_a_study_says_what_its_results_depend_on(smoke, plain):
    found = cards.study_card(smoke, "lite0", command="sing report --model lite0")
    json.dumps(found, allow_nan=False)  # a strict reader, such as a browser's
    c, m = plain.weight.shape
    clf = found["classifier"]
    assert (clf["classes"], clf["features"], clf["rank"], clf["null_dim"]) == (c, m, 1000, m - 1000)
    assert clf["class"] == "EfficientNet"
    data, table = found["data"], smoke.pictures
    stamps = table[table["source"] == "stamps"] if "stamps" in set(table["source"]) else (
        table[table["fold"] >= 0])
    assert (data["pictures"], data["subjects"]) == (len(stamps), stamps["subject"].nunique())
    assert (data["skipped"], data["source"]) == (0, "stamps")
    assert found["lambda"] == plain.translators[-1].card["lambda"]
    assert found["lambdas"] == [one.card["lambda"] for one in plain.translators[:-1]]
    # The held-out error by hand: median angle of translations by the fold that never saw them.
    scored = tables.scored(smoke, "lite0")["picture"]
    rows = smoke.rows(scored)
    moved, z = plain.translate(plain.f[rows], rows), smoke.embeddings.double().numpy()[rows]
    cosine = (moved * z).sum(1) / np.linalg.norm(moved, axis=1) / np.linalg.norm(z, axis=1)
    error = found["error"]
    assert error["value"] == pytest.approx(np.median(np.degrees(np.arccos(cosine))), rel=1e-5)
    assert error["low"] <= error["value"] <= error["high"]
    assert error["constant_low"] <= error["constant_value"] <= error["constant_high"]
    assert found["versions"]["torch"] == torch.__version__.split("+")[0] or (
        found["versions"]["torch"] == torch.__version__)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["date"])
    assert found["settings"]["views"] == smoke.config.views
    again = cards.study_card(smoke, "lite0", command="sing report --model lite0")
    assert {**again, "date": 0} == {**found, "date": 0}


def test_skipped_pictures_are_counted_and_named(smoke, fresh):
    pictures = smoke.pictures.copy()
    pictures.attrs["skipped"] = [
        {"path": f"cat/{n}.jpg", "reason": "cut short"} for n in range(120)]
    found = cards.study_card(fresh(pictures=pictures), "lite0")
    assert found["data"]["skipped"] == 120
    assert len(found["data"]["skipped_first"]) == 100
    assert "120 pictures (cat/0.jpg: cut short; cat/1.jpg: cut short; " in " ".join(
        cards.text(found).split())


def test_a_card_for_people_is_aligned_and_has_units(smoke):
    shown = cards.text(cards.study_card(smoke, "lite0", command="sing report --model lite0"))
    lines = shown.splitlines()
    margin = lines[0].index("lite0")
    assert all(line[margin - 1] == " " and line[margin] != " " for line in lines)
    assert max(map(len, lines)) <= 100
    assert re.search(r"held-out error +\d+\.\d degrees \(\d+\.\d to \d+\.\d, 95 %\)", shown)
    assert "1000 classes, 1280 features, rank 1000: null space of 280 dimensions" in shown
    assert re.search(r"command +sing report --model lite0", shown)


@pytest.mark.parametrize("odd", [
    {}, {"model": None}, {"classifier": "x", "data": [1], "error": {"value": "x"}, "versions": 3},
    {"data": {"skipped_first": 3}}, {"holds": []}, {"data": {"skipped_first": [1], "skipped": 1}},
    {"pictures": 3}, {"lambda": [1], "lambdas": 3, "settings": "s"},
])
def test_any_card_can_be_shown(odd):
    assert isinstance(cards.text(odd), str)


def test_escape_sequences_of_a_card_do_not_reach_the_terminal():
    shown = cards.text({"model": "a\x1b[2Jb", "no\x1bte": "x\r\u202ey\x07"})
    assert shown.splitlines()[0].endswith("a�[2Jb")
    assert all(letter.isprintable() for line in shown.splitlines() for letter in line)


def test_parquet_pages_carry_checksums(tmp_path):
    # One flipped bit of a page is noticed by Parquet itself, in any reader that looks.
    path = cards.save(tmp_path / "a.parquet", pd.DataFrame({"x": np.arange(1000.0)}))
    damaged = bytearray(path.read_bytes())
    damaged[500] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(OSError, match=r"(?i)crc"):
        pq.read_table(path, page_checksum_verification=True)
