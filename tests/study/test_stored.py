"""`@stored` computes a table once, and again where anything that counts has changed."""

from __future__ import annotations

import pandas as pd
import pytest

import sing_nb
from sing_nb.study.stored import code_key, stored

COMPUTED = []


@stored(keys=["redeals"])
def counted(study, model, words=("a",)):
    COMPUTED.append((model, list(words)))
    return pd.DataFrame({"words": list(words), "model": model, "deals": study.config.redeals})


@pytest.fixture
def study(smoke, tmp_path, monkeypatch):
    def make(**overrides):
        made = sing_nb.Study("smoke", progress=False, **overrides)
        made.folder = tmp_path
        made._keys, made.__dict__["embedding_key"] = smoke._keys, smoke.embedding_key
        return made

    smoke.feature_key("lite0"), smoke.feature_key("lite1")
    COMPUTED.clear()
    return make


def test_a_table_is_computed_once_and_then_read(study):
    first = counted(study(), "lite0", ["a", "b"])
    again = counted(study(), "lite0", words=("a", "b"))
    pd.testing.assert_frame_equal(first, again)
    assert COMPUTED == [("lite0", ["a", "b"])]


def test_other_arguments_models_and_profile_keys_are_other_tables(study):
    one = study()
    counted(one, "lite0")
    counted(one, "lite1")
    counted(one, "lite0", ["b"])
    assert counted(study(redeals=7), "lite0")["deals"].tolist() == [7]
    counted(study(seed=3), "lite0")
    assert len(COMPUTED) == 5
    assert len(list(one.folder.glob("tables/counted-lite*.parquet"))) == 5


def test_what_one_does_to_a_table_does_not_stay(study):
    one = study()
    table = counted(one, "lite0")
    table["words"] = "changed"
    assert counted(one, "lite0")["words"].tolist() == ["a"]


def test_only_code_that_does_something_counts(tmp_path):
    texts = {
        "plain": "def f(x):\n    return x + 1\n",
        "explained": '"""A file."""\ndef f(x):\n    """More."""\n    # why\n    return (x + 1)\n',
        "other": "def f(x):\n    return x + 2\n"}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    plain, explained, other = (code_key(str(tmp_path / f"{name}.py")) for name in texts)
    assert plain == explained != other
