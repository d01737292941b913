from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import sing_nb.study.profile as module
from sing_nb.errors import SingError
from sing_nb.study.profile import build_dir, cast, load_profile, profile_names

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_loads_with_the_values_of_its_file(name):
    profile = load_profile(name)
    assert profile.name == name
    for key, value in yaml.safe_load((ROOT / f"data/profiles/{name}.yaml").read_text()).items():
        assert getattr(profile, key) == value, key


def test_the_profiles_of_the_book_are_there():
    assert {"offline", "smoke"} <= set(profile_names())


def test_overrides_win_over_the_file():
    profile = load_profile("smoke", {"views": 6, "models": ["lite1"], "clipart_files": None})
    assert (profile.views, profile.models, profile.clipart_files) == (6, ["lite1"], None)
    assert load_profile("smoke").views == 3


def test_the_tower_comes_last_among_all():
    assert load_profile("smoke").everyone == ["lite0", "lite1", "lite2"]


def test_unknown_profiles_and_keys_get_a_suggestion():
    with pytest.raises(SingError, match="'offlin'; did you mean 'offline'"):
        load_profile("offlin")
    with pytest.raises(SingError, match=r"'vews'; did you mean 'views'"):
        load_profile("smoke", {"vews": 3})
    with pytest.raises(SingError, match="Unknown profile key"):
        load_profile("smoke", {"name": "other"})


@pytest.mark.parametrize(
    ("text", "message"),
    [("about: a: b\n", r"odd\.yaml is not YAML: .* line 1"), ("- lite0\n", "`key: value`")],
)
def test_a_file_that_is_no_profile_is_named(text, message, tmp_path, monkeypatch):
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "odd.yaml").write_text(text)
    monkeypatch.setattr(module, "data_dir", lambda: tmp_path)
    with pytest.raises(SingError, match=message):
        load_profile("odd")


def test_a_profiles_name_does_not_leave_the_folder():
    with pytest.raises(SingError, match="Unknown profile"):
        load_profile("../models")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("views", "3"), ("views", 3.0), ("views", True), ("views", None), ("models", "lite0"),
        ("models", [1]), ("tower", ["lite2"]), ("temperature", "warm"), ("temperature", True),
        ("lambdas", [1.0, "2"]), ("stamp_subjects", "all"), ("seed", [0]),
    ],
)
def test_values_of_another_type_are_refused(key, value):
    with pytest.raises(SingError, match=f"{key} in the overrides must be"):
        load_profile("smoke", {key: value})


def test_an_int_becomes_a_float_where_one_is_wanted():
    profile = load_profile("smoke", {"temperature": 2, "lambdas": [1, 10.5]})
    assert [type(v) for v in (profile.temperature, *profile.lambdas)] == [float] * 3
    assert profile.lambdas == [1.0, 10.5]
    assert type(cast("x", 2, int, "a test")) is int


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"tower": "lite0"}, "never ranked in the space that it builds"),
        ({"models": []}, "models is empty"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"views": 0}, "views must be at least 1"),
        ({"control_draws": 0}, "control_draws must be at least 1"),
        ({"bootstrap_draws": -1}, "bootstrap_draws must be at least 1"),
    ],
)
def test_impossible_runs_are_refused(overrides, message):
    with pytest.raises(SingError, match=message):
        load_profile("smoke", overrides)


def test_a_file_without_models_is_refused(tmp_path, monkeypatch):
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "half.yaml").write_text("tower: lite2\n")
    monkeypatch.setattr(module, "data_dir", lambda: tmp_path)
    with pytest.raises(SingError, match=r"half\.yaml lacks models"):
        load_profile("half")


def test_results_lie_under_build_or_where_one_says(monkeypatch):
    monkeypatch.delenv("SING_BUILD", raising=False)
    assert build_dir("smoke") == ROOT / "_build" / "smoke"
    monkeypatch.setenv("SING_BUILD", "/elsewhere")
    assert build_dir("smoke") == Path("/elsewhere/smoke")


def test_a_tower_is_for_conse_and_for_nothing_else():
    with pytest.raises(SingError, match=r"Name a tower for conse, or none"):
        load_profile("smoke", {"joint_space": "open_clip/ViT-B-32-quickgelu:openai"})
    with pytest.raises(SingError, match=r"Name a tower for conse, or none"):
        load_profile("smoke", {"tower": None})
    with pytest.raises(SingError, match="the classifiers take turns as towers"):
        load_profile("smoke", {"other_spaces": ["open_clip/ViT-B-32-quickgelu:openai"]})


def test_the_spaces_of_a_comparison_are_towers_or_joint_spaces():
    assert load_profile("smoke").spaces == ["lite0", "lite1", "lite2"]
    paper = load_profile("paper")
    assert paper.everyone == paper.models
    assert paper.spaces == [paper.joint_space, *paper.other_spaces]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"precision": "float8"}, "Unknown precision 'float8'"),
        ({"expected": {"hour": 3}}, "did you mean 'hours'"),
        ({"workers": -1}, "counts processes, from 0"),
        ({"batch": -1}, "or is 0 for what memory takes; got -1"),
        ({"compile": "alway"}, "did you mean 'always'"),
    ],
)
def test_how_a_run_is_run_is_checked(overrides, message):
    with pytest.raises(SingError, match=message):
        load_profile("paper", overrides)


def test_how_a_run_is_run_does_not_rename_its_tables():
    other = {"device": "cpu", "workers": 2, "batch": 0, "compile": "never"}
    other |= {"precision": "auto", "renderer": "nearest"}
    assert repr(load_profile("paper", other)) == repr(load_profile("paper"))
    assert repr(load_profile("paper", {"total_pictures": 9})) != repr(load_profile("paper"))


def test_prose_that_compares_two_classifiers_asks_for_two():
    assert load_profile("smoke").pair == ("lite0", "lite1")
    with pytest.raises(SingError, match="models has only lite0"):
        _ = load_profile("smoke", {"models": ["lite0"]}).pair
