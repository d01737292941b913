"""Profiles, settings and names that are wrong: each is said, and nothing is computed on it."""

from __future__ import annotations

import re

import pytest

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
        (["chapter", "--profile", "smoke", "--chapter", "../01_setup"], 1, "Unknown chapter"),
        (["features", "--profile", "smoke", "--model", "lite9"], 1, "did you mean"),
    ):
        assert main(arguments) == code, arguments
        shown = capsys.readouterr().err
        assert said in shown
        assert "Traceback" not in shown


# --- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("setting", "said"), [
    ("folds", "key=value; got 'folds'"), ("=3", "Unknown setting ''"), ("folds=[1", "is not YAML"),
    ("folds=", "integer; got None"), ("folds=!!python/name:os.system", "is not YAML"),
    ("models=lite0", "valid list"), ("about='x", "in quotes"), ("name=x", "Unknown setting"),
    ("concepts_asked=3", "must be"), ("photos=3", "must be"), ("folds=2.0", "integer"),
])
def test_settings_that_are_none(setting, said, capsys):
    assert main(["check", "--profile", "smoke", "--set", setting]) == 1
    shown = capsys.readouterr().err
    assert re.search(said, shown), shown
    assert "Traceback" not in shown
    assert "did not foresee" not in shown
