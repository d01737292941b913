"""Profiles: files and settings that are taken as they are, or refused with what was expected."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

import sing_nb.study.profile as module
from sing_nb.errors import SingError
from sing_nb.study.profile import load_profile, profile_names

ROOT = Path(__file__).resolve().parents[2]
BASE = "models: [lite0]\ntower: lite2\n"
BOMB = "models: &a0 [x]\n" + "".join(
    f"{key}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n"
    for i, key in enumerate(["lambdas", "sweep_losses", "other_spaces", "expected", "about"]))
FILES = {
    "unknown key": (BASE + "foldss: 3\n", "did you mean 'folds'"),
    "words": (BASE + "folds: five\n", "folds in .*odd.yaml: .* integer; got 'five'"),
    "a truth value": (BASE + "folds: yes\n", r"integer; got True \(bool\)"),
    "a date": (BASE + "about: 2020-01-01\n", "valid string"),
    "a cost of words": (BASE + "expected: {hours: many}\n", "expected hours .* number"),
    "a key twice": (BASE + "folds: 3\nfolds: 4\n", "'folds' stands there twice"),
    "an alias bomb": (BOMB, "valid"),
    "not YAML": ("models: [lite0\n", "is not YAML"),
    "not UTF-8": (b"about: caf\xe9\nmodels: [lite0]\n", "not UTF-8"),
    "nested too deeply": ("a: " + "[" * 9000 + "]" * 9000, "too deeply"),
    "Python": (BASE + "about: !!python/object/apply:os.getcwd []\n", "is not YAML"),
    "empty": ("", "lacks models"),
    "a list": ("- a\n", "lines of the form `key: value`"),
    "a number as key": (BASE + "3: 4\n", "Unknown profile key")}
SETTINGS = [
    ({"vews": 3}, "did you mean 'views'"), ({"name": "other"}, "Unknown profile key"),
    ({"views": "3"}, r"views in the overrides: .* integer; got '3' \(str\)"),
    ({"views": 3.0}, "integer"), ({"models": "lite0"}, "list"), ({"models": [1]}, "string"),
    ({"temperature": True}, "number"), ({"temperature": float("nan")}, "finite"),
    ({"lambdas": [1.0, "2"]}, "number"), ({"lambdas": [0.0]}, "greater than 0"),
    ({"lambdas": []}, "at least 1"), ({"models": []}, "at least 1"), ({"models": [""]}, "pattern"),
    ({"folds": 1}, "or equal to 2"), ({"folds": 10**30}, "less than"), ({"seed": -1}, "or equal"),
    ({"also_fit": "defalt"}, "did you mean 'default'"), ({"batch": 0}, "greater than"),
    ({"expected": {"hour": 3}}, "did you mean 'hours'"),
    ({"tower": "lite0"}, "never ranked in the space that it builds"),
    ({"models": ["lite0", "lite0"]}, "lite0 more than once"),
    ({"joint_space": "open_clip/a:b"}, "Name a tower for conse, or none"),
    ({"tower": None}, "Name a tower for conse, or none"),
    ({"other_spaces": ["open_clip/a:b"]}, "turns as towers"),
    ({"sweep_folds": 3}, "at most 2 of them; got 3"),
    ({"sweep_losses": ["mse"]}, "needs mse and cosine"),
    ({"sweep_architectures": ["linear"]}, "needs ridge")]


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """A folder of profiles to spoil."""
    folder = tmp_path / "data" / "profiles"
    shutil.copytree(ROOT / "data" / "profiles", folder)
    monkeypatch.setattr(module, "data_dir", lambda: tmp_path / "data")
    return folder


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_loads_with_the_values_of_its_file(name):
    profile = load_profile(name)
    assert profile.name == name
    for key, value in yaml.safe_load((ROOT / f"data/profiles/{name}.yaml").read_text()).items():
        assert getattr(profile, key) == value, key


def test_overrides_win_over_the_file():
    profile = load_profile("smoke", {"views": 6, "models": ["lite1"], "clipart_files": None})
    assert (profile.views, profile.models, profile.clipart_files) == (6, ["lite1"], None)
    assert load_profile("smoke").views == 3


@pytest.mark.parametrize("kind", FILES)
def test_bad_files_are_refused(kind, profiles):
    content, said = FILES[kind]
    (profiles / "odd.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SingError, match=said) as caught:
        load_profile("odd")
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(("overrides", "said"), SETTINGS, ids=str)
def test_bad_settings_are_refused(overrides, said):
    with pytest.raises(SingError, match=said):
        load_profile("smoke", overrides)


def test_how_a_run_is_run_does_not_rename_its_tables():
    other = {"device": "cpu", "workers": 2, "batch": 8, "precision": "float16"}
    other |= {"renderer": "nearest"}
    assert repr(load_profile("paper", other)) == repr(load_profile("paper"))
    assert repr(load_profile("paper", {"total_pictures": 9})) != repr(load_profile("paper"))
