"""What one process leaves to the next: whole, or made again; names and files of any content."""

from __future__ import annotations

import math
import string

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from sing_nb.errors import SingError
from sing_nb.pictures.cache import content_key, keep, keep_table, kept, kept_table, read_or_none
from sing_nb.pictures.fetch import slug, write_atomic

TABLE = pd.DataFrame({
    "name": ["zebra", "Ärger", None], "score": [1.5, np.nan, -2.0], "number": [1, 2, 3],
    "whole": [[1, 2], [], [3]], "kind": pd.Categorical(["a", "b", "a"]),
}, index=pd.Index([3, 1, 2], name="row"))
NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8,
           torch.bool)
# With half of a surrogate pair, which UTF-8 cannot hold and names of files may.
TEXTS = st.text(st.characters(exclude_categories=[]), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8)


def flip(path, at=-1):
    """Turn one bit."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "a text": lambda path: path.write_text("<html>404 Not Found</html>" * 40)}
each_damage = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)


@pytest.fixture(scope="module", autouse=True)
def _no_folder_in_the_checkout(tmp_path_factory):
    set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


def examples(count):
    """The same examples in every run, however slow the machine."""
    return settings(derandomize=True, deadline=None, database=None, max_examples=count)


@st.composite
def tensors(draw):
    """Any bits at all: also NaN with a message, minus zero and numbers below the smallest."""
    dtype = draw(st.sampled_from(NUMBERS))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    size = math.prod(shape) * dtype.itemsize
    content = draw(st.binary(min_size=size, max_size=size))
    if dtype == torch.bool:
        content = bytes(one % 2 for one in content)
    flat = torch.tensor(list(content), dtype=torch.uint8).view(dtype) if size else (
        torch.empty(0, dtype=dtype))
    return flat.reshape(shape)


def same_bits(a, b):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


# --- tensors --------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("spoil", [
    *DAMAGE.values(), flip, lambda path: path.unlink(),
    lambda path: safetensors.torch.save_file({"half": torch.ones(2)}, path),
], ids=[*DAMAGE, "one bit", "missing", "of another program"])
def test_damaged_files_count_as_missing(spoil, tmp_path):
    path = keep(tmp_path / "deep" / "one.safetensors", {"turned": torch.eye(3)[:, :2].T})
    assert torch.equal(kept(path)[0]["turned"], torch.eye(3)[:, :2].T)
    spoil(path)
    assert kept(path) is None


# --- tables ---------------------------------------------------------------------------------------


def test_a_table_comes_back_as_pandas_would_bring_it(tmp_path):
    TABLE.to_parquet(tmp_path / "plain.parquet")
    path = keep_table(tmp_path / "one.parquet", TABLE)
    expected = pd.read_parquet(tmp_path / "plain.parquet")
    pd.testing.assert_frame_equal(kept_table(path), expected)
    pd.testing.assert_frame_equal(pd.read_parquet(path), expected)  # for anyone without this code
    before = path.read_bytes()
    assert keep_table(path, TABLE).read_bytes() == before
    with pytest.raises(SingError, match="one type each"):
        keep_table(path, pd.DataFrame({"x": [1, "a"]}))
    assert path.read_bytes() == before


@each_damage
def test_what_is_made_again_is_said_in_one_line(damage, tmp_path, capsys):
    path = keep_table(tmp_path / "one.parquet", TABLE)
    assert len(read_or_none(path, kept_table)) == 3
    damage(path)
    assert read_or_none(path, kept_table) is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(path) in said
    assert "made again" in said
    assert read_or_none(tmp_path / "missing.parquet", kept_table) is None
    assert capsys.readouterr().err == ""


# --- keys, names, files ---------------------------------------------------------------------------


def test_keys_tell_contents_apart(tmp_path):
    (tmp_path / "file").write_text("abc")
    one = torch.zeros(2, 3)
    parts = [
        (one,), (one.T,), (one.double(),), (one + 1e-45,), (one, one), ("abc",), ("ab", "c"),
        (tmp_path / "file",), (str(tmp_path / "file"),), ()]
    assert len({content_key(*each) for each in parts}) == len(parts)
    assert content_key(one.clone(), 1) == content_key(one, 1)


@examples(50)
@given(content=st.binary(max_size=50) | TEXTS, before=st.binary(max_size=5))
def test_a_file_is_written_whole_or_left_alone(folder, content, before):
    path = write_atomic(folder / "atomic" / "a.bin", before)
    try:
        write_atomic(path, content)
    except UnicodeEncodeError:  # half of a surrogate pair
        assert path.read_bytes() == before
    else:
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [one.name for one in path.parent.iterdir()] == ["a.bin"]


NAMES = st.text(st.characters(exclude_categories=[]), max_size=90) | st.text(
    string.ascii_letters + "./-_: ", max_size=90)


@examples(150)
@given(NAMES, NAMES)
def test_a_slug_is_one_safe_part_of_a_path_and_no_other_names(name, other):
    found = slug(name)
    assert found
    assert not set("/\\\0:*?\"<>| \n") & set(found)
    assert found[0] not in ".-"
    assert len(found.encode()) <= 64  # with hashes and endings far from the 255 of a file name
    assume(name != other)
    assert found != slug(other)


def test_slugs_that_results_lie_under_stay():
    # A changed slug would have everything computed anew.
    for name in ("lite0", "timm", "a_b-c.d", "x" * 60):
        assert slug(name) == name
    assert slug("timm/resnet50.a1_in1k") == "timm-resnet50.a1_in1k-" + slug(
        "timm/resnet50.a1_in1k")[-6:]
