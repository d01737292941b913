"""What a chapter depends on, held against small edits of a copy of the package."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from sing_nb import provenance
from sing_nb.errors import SingError
from sing_nb.profile import Profile
from sing_nb.provenance import chapter_uses

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))


def forget():
    for kept in (provenance._room, provenance._homes):
        kept.cache_clear()
    provenance._REACHED.clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package, and a function that edits it: ``edit(room, before, after)``."""
    home = tmp_path / "sing_nb"
    shutil.copytree(ROOT / "sing_nb", home, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "HOME", home)
    forget()

    def edit(room, pattern, after):
        path = home / f"{room}.py"
        text, count = re.subn(pattern, after, path.read_text(encoding="utf-8"), count=1)
        assert count == 1, pattern
        path.write_text(text, encoding="utf-8")
        forget()

    yield edit
    forget()


def codes():
    return {name: chapter_uses(ROOT / "book" / f"{name}.ipynb").code for name in CHAPTERS}


def changed(before):
    return {name for name, code in codes().items() if code != before[name]}


def those_that_say(*words):
    """Chapters whose cells hold one of these words."""
    texts = {name: (ROOT / "book" / f"{name}.ipynb").read_text() for name in CHAPTERS}
    return {name for name, text in texts.items() if any(word in text for word in words)}


def test_an_edited_figure_function_concerns_the_chapters_that_use_it(package):
    before = codes()
    package("figures", r"def plant_power\(", "def plant_power(*unused, ")
    assert changed(before) == those_that_say("figures.plant_power") == {"10_planted_truths"}


def test_an_edited_helper_concerns_all_that_call_it_through_others(package):
    before = codes()
    package("figures", r"def photo_neighbours\(", "def photo_neighbours(*unused, ")
    using = those_that_say("figures.photo_neighbours")
    assert {"07_images", "13_validation"} <= using <= changed(before)
    before = codes()
    # Every chapter asks a study, and a study asks this.
    package("stats", r"def cluster_bootstrap\(", "def cluster_bootstrap(unused, ")
    assert changed(before) >= those_that_say("sing.Study(")


def test_what_stands_between_definitions_concerns_nobody(package):
    before = codes()
    package("figures", r"\ndef plant_power\(", "\n# Aside.\n\n\ndef plant_power(")
    package("study", '"""A study: everything', '"""A study, and everything')
    assert changed(before) == set()


def test_what_runs_on_import_concerns_all_that_import_it(package):
    before = codes()
    package("figures", r"\ndef plant_power\(", "\nprint(1)\n\n\ndef plant_power(")
    assert changed(before) >= those_that_say("figures.")


def test_a_module_used_as_a_value_counts_as_a_whole(package, tmp_path):
    def notebook(code):
        path = tmp_path / "one.ipynb"
        cell = {"cell_type": "code", "metadata": {}, "source": code.splitlines(keepends=True)}
        path.write_text(json.dumps({"cells": [cell]}), encoding="utf-8")
        return path

    by_name = "from sing_nb import figures\nfigures.energy(None)\n"
    by_value = "from sing_nb import figures\ngetattr(figures, 'ener' + 'gy')(None)\n"
    before = [chapter_uses(notebook(code)).code for code in (by_name, by_value)]
    package("figures", r"def plant_power\(", "def plant_power(*unused, ")
    after = [chapter_uses(notebook(code)).code for code in (by_name, by_value)]
    assert [a == b for a, b in zip(before, after)] == [True, False]
    with pytest.raises(SingError, match="line 1 is not Python"):
        chapter_uses(notebook("def :\n"))
    with pytest.raises(SingError, match="no module 'figure'"):
        chapter_uses(notebook("from sing_nb.figure import energy\nenergy()\n"))


def test_keys_of_one_analysis_concern_the_chapters_that_read_them():
    keys = {name: chapter_uses(ROOT / "book" / f"{name}.ipynb").keys for name in CHAPTERS}

    def readers(key):
        return {name for name in CHAPTERS if key in keys[name]}

    assert readers("sweep_epochs") == readers("sweep_losses") == {"12_translators"}
    assert readers("plant_splits") == readers("plant_concepts") == {"10_planted_truths"}
    assert readers("plant_pictures") == {"10_planted_truths", "11_your_model"}
    two = {"09_what_could_fool_us", "11_your_model"}
    assert readers("redeals") == readers("information_draws") == two
    assert readers("about") == readers("expected") == {"14_hub_profiles"}
    # Whatever results are stored under concerns everyone.
    always = {field.name for field in dataclasses.fields(Profile) if field.repr} - {"name"}
    assert all(always <= found for found in keys.values())
