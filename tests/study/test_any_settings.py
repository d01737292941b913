"""Any settings give a profile or a message, never another error: searched by hypothesis."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from sing_nb.errors import SingError
from sing_nb.study.profile import Profile, load_profile

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner,
                                                                max_size=2),
    max_leaves=5,
)
KEYS = sorted(set(Profile.model_fields) - {"name"})


@pytest.fixture(scope="module", autouse=True)
def _no_folder_in_the_checkout(tmp_path_factory):
    set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


@settings(derandomize=True, deadline=None, database=None, max_examples=150)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), VALUES, max_size=2))
def test_any_settings_give_a_profile_or_a_message(overrides):
    try:
        found = load_profile("smoke", overrides)
    except SingError:
        return
    for key, value in overrides.items():
        assert getattr(found, key) == value or value != value or "nan" in repr(value)
