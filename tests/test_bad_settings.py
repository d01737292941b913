"""Profiles, settings and names that are wrong: each is said, and nothing is computed on it."""

from __future__ import annotations

import re
import shutil

import pytest

import sing_nb.study.profile as profile_module
from sing_nb import SingError, Study
from sing_nb.book.chapters import chapter_files, resolve
from sing_nb.cli import main
from sing_nb.models.joint import load_joint_space
from sing_nb.study.profile import load_profile


@pytest.mark.parametrize(("ask", "nearest"), [
    (lambda: load_joint_space("consee"), "conse"),
    (lambda: load_profile("SMOKE"), "did you mean 'smoke'"),
    (lambda: load_profile("smoke", {"foldss": 2}), "did you mean 'folds'"),
    (lambda: load_profile("smoke", {"translator": "rigde"}), "did you mean 'ridge'"),
    (lambda: Study("smoke", progress=False).label("zebar"), "zebra"),
    (lambda: Study("smoke", progress=False).examples(["zebar"]), "Unknown label 'zebar'"),
    (lambda: Study("smoke", progress=False).in_space("lite9"), "lite"),
    (lambda: Study("smoke", progress=False).row("zebra-9"), "Unknown picture"),
    (lambda: resolve("smoke", ["fold=2"], chapter_files(main_book())), "did you mean 'folds'"),
], ids=["space", "profile", "key", "choice", "class", "label", "study's space", "picture",
        "setting"])
def test_unknown_names_suggest_the_nearest(ask, nearest):
    with pytest.raises(SingError, match=nearest):
        ask()


def main_book():
    from sing_nb.cli import BOOK

    return BOOK


def test_unknown_commands_chapters_and_profiles_end_with_an_exit_code(capsys):
    for arguments, code, said in (
        (["featurs"], 2, "features"),
        (["check", "--profile", "../smoke"], 1, "Unknown profile '../smoke'"),
        (["check", "--profile", "smok"], 1, "did you mean 'smoke'"),
        (["chapter", "--profile", "smoke", "--chapter", "../01_setup"], 1, "No chapter"),
        (["features", "--profile", "smoke", "--model", "lite9"], 1, "did you mean"),
    ):
        assert main(arguments) == code, arguments
        shown = capsys.readouterr().err
        assert said in shown
        assert "Traceback" not in shown


# --- settings -----------------------------------------------------------------------------------

BASE = "models: [lite0]\ntower: lite2\n"
BOMB = "models: &a0 [x]\n" + "".join(
    f"{key}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n"
    for i, key in enumerate(["lambdas", "sweep_losses", "other_spaces", "expected", "about"])
)
PROFILES = {
    "unknown key": (BASE + "foldss: 3\n", "did you mean 'folds'"),
    "wrong type": (BASE + "folds: five\n", "folds in .* must be int; got 'five'"),
    "a truth value": (BASE + "folds: yes\n", r"must be int; got True \(bool\)"),
    "a key twice": (BASE + "folds: 3\nfolds: 4\n", "'folds' stands there twice"),
    "an alias bomb": (BOMB, "must be"),
    "not YAML": ("models: [lite0\n", "is not YAML"),
    "two documents": (BASE + "---\n" + BASE, "is not YAML"),
    "a tab": ("models:\n\t- x\n", "is not YAML"),
    "not UTF-8": (b"about: caf\xe9\nmodels: [lite0]\n", "not UTF-8"),
    "UTF-16": (BASE.encode("utf-16"), "not UTF-8"),
    "a zero byte": (BASE + "\0", "is not YAML"),
    "nested too deeply": ("a: " + "[" * 9000 + "]" * 9000, "too deeply"),
    "Python": (BASE + "about: !!python/object/apply:os.getcwd []\n", "is not YAML"),
    "empty": ("", "lacks models"),
    "a list": ("- a\n", "lines of the form `key: value`"),
    "a number as key": (BASE + "3: 4\n", "Unknown profile key"),
    "a list as key": (BASE + "? [a]\n: b\n", "is not YAML"),
    "no classifier": ("models: []\ntower: lite2\n", "models is empty"),
    "a classifier twice": ("models: [lite0, lite0]\ntower: lite2\n", "lite0 more than once"),
    "a nameless one": ("models: ['']\ntower: lite2\n", "is empty"),
    "a date": (BASE + "about: 2020-01-01\n", "must be str"),
    "a cost of words": (BASE + "expected: {hours: many}\n", "hours in expected must be float"),
}
NUMBERS = {
    "folds": (1, -2, 10**30), "views": (0, -1, 10**9), "clipart_views": (-1,),
    "stamp_subjects": (0, -3), "total_pictures": (0, -1), "seed": (-1, 2**64),
    "bootstrap_draws": (0, 10**12), "control_draws": (0, 10**9), "top_classes": (0,),
    "temperature": (0.0, -1.0, float("nan")), "workers": (-1, 10**6), "batch": (-1,),
    "lambdas": ([], [0.0], [-1.0], [float("nan")], [float("inf")]), "redeals": (-1,),
    "plant_splits": (0,), "kernel_size": (0,), "shards": (0,),
}


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """A folder of profiles to spoil."""
    folder = tmp_path / "data" / "profiles"
    shutil.copytree(profile_module.data_dir() / "profiles", folder)
    monkeypatch.setattr(profile_module, "data_dir", lambda: tmp_path / "data")
    return folder


@pytest.mark.parametrize("kind", PROFILES)
def test_bad_profiles(kind, profiles):
    content, said = PROFILES[kind]
    (profiles / "odd.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SingError, match=said) as caught:
        load_profile("odd")
    assert len(str(caught.value)) < 2000


def test_profiles_that_are_no_files(profiles):
    (profiles / "folder.yaml").mkdir()
    (profiles / "nowhere.yaml").symlink_to("/nowhere/at/all")
    for name in ("folder", "nowhere"):
        with pytest.raises(SingError, match="cannot be read"):
            load_profile(name)
    for name in ("../data/profiles/smoke", "/etc/passwd", "smoke.yaml", "", "smoke\n"):
        with pytest.raises(SingError, match="Unknown profile"):
            load_profile(name)


@pytest.mark.parametrize("content", [
    BASE.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + BASE.encode(),
    (BASE + "about: 🦓 Ärger\n").encode(),
], ids=["Windows line ends", "byte order mark", "emoji"])
def test_profiles_that_other_editors_wrote(content, profiles):
    (profiles / "odd.yaml").write_bytes(content)
    assert load_profile("odd").models == ["lite0"]


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_out_of_range(key):
    for value in NUMBERS[key]:
        with pytest.raises(SingError, match=key):
            load_profile("smoke", {key: value})


@pytest.mark.parametrize(("setting", "said"), [
    ("folds", "key=value; got 'folds'"), ("=3", "Unknown setting ''"), ("folds=[1", "is not YAML"),
    ("folds=", "must be int; got None"), ("folds=!!python/name:os.system", "is not YAML"),
    ("models=lite0", "must be list"), ("about='x", "in quotes"), ("name=x", "Unknown setting"),
    ("concepts_asked=3", "must be"), ("photos=3", "must be"), ("folds=2.0", "must be int"),
])
def test_settings_that_are_none(setting, said, capsys):
    assert main(["check", "--profile", "smoke", "--set", setting]) == 1
    shown = capsys.readouterr().err
    assert re.search(said, shown), shown
    assert "Traceback" not in shown
    assert "did not foresee" not in shown
