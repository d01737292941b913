"""What holds for every file, name and setting: searched by hypothesis."""

from __future__ import annotations

import json
import math
import string

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from sing_nb.errors import SingError
from sing_nb.method.nullspace import HeadSpaces
from sing_nb.method.translator import Translator
from sing_nb.models.prompts import complete_prompt
from sing_nb.pictures import cards
from sing_nb.pictures.cache import content_key, keep, kept
from sing_nb.pictures.fetch import slug, write_atomic
from sing_nb.study.profile import Profile, cast, load_profile


@pytest.fixture(scope="module", autouse=True)
def _no_folder_in_the_checkout(tmp_path_factory):
    set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


def examples(count):
    """The same examples in every run, however slow the machine."""
    return settings(derandomize=True, deadline=None, database=None, max_examples=count)


SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16])


def normal(seed, *shape):
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


@st.composite
def heads(draw):
    """A (c, m) head of any rank, as stored in any type."""
    c, m = draw(st.integers(1, 12)), draw(st.integers(2, 16))
    rank, seed = draw(st.integers(1, min(c, m))), draw(SEEDS)
    return (normal(seed, c, rank) @ normal(seed + 1, rank, m)).to(draw(DTYPES))


# --- files --------------------------------------------------------------------------------------

NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8,
           torch.bool)


@st.composite
def tensors(draw, dtypes=NUMBERS, shape=None):
    """Any bits at all: also NaN with a message, minus zero and numbers below the smallest."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(st.lists(st.integers(0, 4), max_size=3)) if shape is None else shape
    size = math.prod(shape) * dtype.itemsize
    content = draw(st.binary(min_size=size, max_size=size))
    if dtype == torch.bool:
        content = bytes(one % 2 for one in content)
    flat = torch.tensor(list(content), dtype=torch.uint8).view(dtype) if size else (
        torch.empty(0, dtype=dtype))
    return flat.reshape(shape)


def same_bits(a, b):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    return a.contiguous().view(-1).view(torch.uint8).tolist() == (
        b.contiguous().view(-1).view(torch.uint8).tolist())


# With half of a surrogate pair, which UTF-8 cannot hold and names of files may.
TEXTS = st.text(st.characters(exclude_categories=[]), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
CARDS = st.dictionaries(TEXTS.filter(lambda key: key not in cards.OWN), JSON, max_size=4)


def given_card(found):
    return {key: value for key, value in found.items() if key not in cards.OWN}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@examples(40)
@given(data=st.data(), card=CARDS)
def test_translators_come_back_to_the_bit(folder, data, card):
    d, m = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    floats = NUMBERS[:4]
    one = Translator(data.draw(tensors(floats, (d, m))), data.draw(tensors(floats, (d,))), card)
    for path, load in (
        (one.save(folder / "a.safetensors"), Translator.load),
        (cards.save(folder / "b.safetensors", one), cards.load),
    ):
        found = load(path)
        assert same_bits(found.weight, one.weight)
        assert same_bits(found.bias, one.bias)
        assert given_card(found.card) == card
        assert json.dumps(given_card(found.card), sort_keys=True) == json.dumps(
            card, sort_keys=True)  # True is not 1, and -0.0 not 0


@examples(30)
@given(weight=heads(), card=CARDS)
def test_spaces_come_back_to_the_bit(folder, weight, card):
    one = HeadSpaces.from_weight(weight)
    found = cards.load(cards.save(folder / "s.safetensors", one, card))
    assert given_card(found.card) == card
    assert (found.rank, found.features, found.tolerance) == (one.rank, one.features, one.tolerance)
    for part in ("singular_values", "vectors"):
        assert same_bits(getattr(found, part), getattr(one, part))
    f = normal(3, 4, one.features)
    assert same_bits(found.null(f), one.null(f))
    assert same_bits(found.principal(f), one.principal(f))


@examples(40)
@given(held=st.dictionaries(st.sampled_from("abc"), tensors(), max_size=3), about=JSON,
       at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_kept_tensors_come_back_to_the_bit_or_not_at_all(folder, held, about, at, bit):
    path = keep(folder / "k.safetensors", held, about)
    found, said = kept(path)
    assert said == about
    assert found.keys() == held.keys()
    assert all(same_bits(found[name], held[name]) for name in held)
    whole = bytearray(path.read_bytes())
    whole[int(at * len(whole))] ^= 1 << bit
    path.write_bytes(whole)
    damaged = kept(path)
    if damaged is not None:  # a space more in the header is no damage
        assert damaged[1] == about
        assert all(same_bits(damaged[0][name], held[name]) for name in held)


COLUMNS = {
    "text": st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.none(),
    "real": st.floats() | st.none(), "whole": st.integers(-(2**63), 2**63 - 1),
    "truth": st.booleans(),
}


@examples(40)
@given(data=st.data(), rows=st.integers(0, 5), card=CARDS)
def test_tables_come_back_exactly(folder, data, rows, card):
    one = pd.DataFrame({
        name: data.draw(st.lists(values, min_size=rows, max_size=rows))
        for name, values in COLUMNS.items()
    })
    one["real"], one["whole"] = one["real"].astype(float), one["whole"].astype("int64")
    one["truth"], one["text"] = one["truth"].astype(bool), one["text"].astype("str")
    found = cards.load(cards.save(folder / "t.parquet", one, card))
    assert given_card(found.attrs["card"]) == card
    pd.testing.assert_frame_equal(found, one, check_exact=True)


@examples(60)
@given(card=st.dictionaries(st.sampled_from([
    "model", "classifier", "data", "error", "versions", "settings", "lambda", "lambdas", "tower",
    "joint_space", "holds", "format", "pictures", "subjects", "kind", "date", "odd"]), JSON))
def test_every_card_can_be_shown(card):
    lines = cards.text(card).split("\n")
    assert all(line.isprintable() for line in lines)


@examples(80)
@given(first=st.one_of(TEXTS, tensors(), st.integers(), st.floats()),
       other=st.one_of(TEXTS, tensors(), st.integers(), st.floats()))
def test_hashes_are_of_content(first, other):
    assert content_key(first) == content_key(first)
    assert content_key(first, other) != content_key(first)
    if type(first) is not type(other) or (
        not isinstance(first, torch.Tensor) and repr(first) != repr(other)
    ):
        assert content_key(first) != content_key(other)


@examples(25)
@given(content=st.binary(max_size=50) | st.text(max_size=20), before=st.binary(max_size=5))
def test_a_file_is_written_whole_and_nothing_else(folder, content, before):
    home = folder / "atomic"
    path = write_atomic(home / "a.bin", before)
    assert path.read_bytes() == before
    write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [one.name for one in home.iterdir()] == ["a.bin"]


@examples(20)
@given(before=st.text(max_size=5), half=st.characters(categories=["Cs"]))
def test_a_failed_write_leaves_the_old_file(folder, before, half):
    home = folder / "failed"
    path = write_atomic(home / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, before + half)
    assert path.read_text() == "old"
    assert [one.name for one in home.iterdir()] == ["a.txt"]


# --- names, settings, prompts -------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_categories=[]), max_size=90) | st.text(
    string.ascii_letters + "./-_: ", max_size=90)


@examples(150)
@given(NAMES)
def test_a_slug_is_one_safe_part_of_a_path(name):
    found = slug(name)
    assert found
    assert found == slug(name)
    assert not set("/\\\0:*?\"<>| \n") & set(found)
    assert found[0] not in ".-"
    assert len(found.encode()) <= 64  # with hashes and endings far from the 255 of a file name


@examples(150)
@given(NAMES, NAMES)
def test_slugs_of_different_names_differ(first, other):
    assume(first != other)
    assert slug(first) != slug(other)


def test_slugs_that_results_lie_under_stay():
    # A changed slug would have everything computed anew.
    assert slug("a\ud800") != slug("a\ud801")
    for name in ("lite0", "timm", "a_b-c.d", "x" * 60):
        assert slug(name) == name
    assert slug("timm/resnet50.a1_in1k") == "timm-resnet50.a1_in1k-" + slug(
        "timm/resnet50.a1_in1k")[-6:]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner,
                                                                max_size=2),
    max_leaves=5,
)
KINDS = [int, float, str, bool, dict, list[int], list[float], list[str], str | None, int | None]


def fits(value, kind):
    """What a value of a kind is, from the words of `cast`: itself, or a whole number as a real."""
    if kind in (str | None, int | None):
        return value is None or fits(value, str if kind == str | None else int)
    if getattr(kind, "__origin__", None) is list:
        return type(value) is list and all(fits(one, kind.__args__[0]) for one in value)
    return type(value) is kind or (kind is float and type(value) is int and abs(value) < 2**1023)


@examples(200)
@given(VALUES, st.sampled_from(KINDS))
def test_a_setting_is_taken_as_it_is_or_refused(value, kind):
    if not fits(value, kind):
        with pytest.raises(SingError, match="must be"):
            cast("key", value, kind, "a test")
        return
    found = cast("key", value, kind, "a test")
    assert found == value or (found != found and value != value) or repr(found) == repr(value)
    if kind is float:
        assert type(found) is float


KEYS = sorted(set(Profile.__dataclass_fields__) - {"name"})


@examples(150)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), VALUES, max_size=2))
def test_any_settings_give_a_profile_or_a_message(overrides):
    try:
        found = load_profile("smoke", overrides)
    except SingError:
        return
    for key, value in overrides.items():
        assert getattr(found, key) == value or value != value or "nan" in repr(value)


@examples(150)
@given(st.text(max_size=30) | st.text("an image of the some photo", max_size=30))
def test_a_completed_prompt_is_complete(words):
    if not any(letter.isalnum() for letter in words):
        with pytest.raises(SingError, match="needs a word"):
            complete_prompt(words)
        return
    found = complete_prompt(words)
    assert complete_prompt(found) == found
    assert " ".join(words.split()) in found
