"""What one process leaves to the next: whole, or made again; names and files of any content."""

from __future__ import annotations

import math
import re

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from sing_nb.pictures.cache import content_key, keep, kept
from sing_nb.pictures.fetch import slug, write_atomic

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


def test_a_slug_is_one_safe_part_of_a_path_and_no_other_names():
    names = ["lite0", "Lite0", "timm/resnet50.a1_in1k", "timm-resnet50.a1_in1k", "../../etc/passwd",
             "..", ".", "", " ", "a b", "naïve 日本", "\ud800", "x" * 500, "x" * 501, "CON", "-rf"]
    found = [slug(name) for name in names]
    assert len(set(found)) == len(names)
    assert all(re.fullmatch(r"\w[\w.-]*", one) and len(one.encode()) < 100 for one in found), found
