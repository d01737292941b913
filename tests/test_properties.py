"""What holds for every file, name and setting: searched by hypothesis."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from sing_nb.errors import SingError
from sing_nb.models.prompts import complete_prompt
from sing_nb.pictures import cards
from sing_nb.study.profile import Profile, load_profile


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


# --- names, settings, prompts -------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner,
                                                                max_size=2),
    max_leaves=5,
)


KEYS = sorted(set(Profile.model_fields) - {"name"})


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
