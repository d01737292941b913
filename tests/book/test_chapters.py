"""Settings are checked before anything runs; a chapter that fails replaces nothing."""

from __future__ import annotations

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from sing_nb.book.chapters import resolve, run_chapter
from sing_nb.errors import SingError
from sing_nb.study.study import Study

PARAMETERS = """\
profile: str = "offline"  # a file in data/profiles
overrides: dict = {}  # keys of the profile with other values
angle: float = 40.0  # degrees
count: int = 3
words: list = ["a camel"]
loud: bool = False
"""
BODY = "print('got', profile, overrides, angle, count, words, loud)"


def chapter(folder, name="01_tiny", parameters=PARAMETERS, body=BODY):
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# Tiny"),
            new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            new_code_cell(body)],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"}})
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def printed(path):
    cells = nbformat.read(path, as_version=4).cells
    return "".join(out.get("text", "") for cell in cells for out in cell.get("outputs", []))


def test_settings_go_to_the_profile_and_to_the_chapters_that_have_them(tmp_path):
    one = chapter(tmp_path)
    two = chapter(tmp_path, "02_other", "profile: str = 'offline'\ncount: int = 1\n")
    text = ["views=6 count=5", 'words="[a shark, a jeep]"', "angle=20"]
    config, overrides, parameters = resolve("smoke", text, [one, two])
    assert config.views == 6
    assert overrides == {"views": 6}
    assert parameters == {
        "01_tiny": {"count": 5, "words": ["a shark", "a jeep"], "angle": 20.0},
        "02_other": {"count": 5}}
    assert type(parameters["01_tiny"]["angle"]) is float
    _, overrides, parameters = resolve("smoke", [""], [one])
    assert (overrides, parameters) == ({}, {"01_tiny": {}})


def test_a_parameter_without_annotation_is_refused(tmp_path):
    with pytest.raises(SingError, match=r"01_tiny\.ipynb: the parameter count needs"):
        resolve("smoke", ["count=4"], [chapter(tmp_path, parameters="count = 3")])


WATCHED = BODY + """
import sing_nb, ipywidgets
from IPython.display import display
print(sing_nb.Study("smoke").progress)
display(ipywidgets.IntSlider(7))
"""


def test_a_chapter_runs_with_its_settings_quietly_and_replaces_the_old_result(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("SING_QUIET", raising=False)
    notebook, results = chapter(tmp_path, body=WATCHED), tmp_path / "results"
    results.mkdir()
    (results / "01_tiny.ipynb").write_text("old")
    found = run_chapter(
        notebook, results, "smoke", {"views": 6}, {"angle": 20.0, "words": ["é ü"]},
        progress=False)
    assert found == results / "01_tiny.ipynb"
    assert printed(found) == "got smoke {'views': 6} 20.0 3 ['é ü'] False\nFalse\n"
    assert not list((results / "failed").iterdir())
    assert printed(notebook) == ""  # the source stays without outputs
    assert Study("smoke").progress is True  # here a person may watch again
    assert "widgets" not in nbformat.read(found, as_version=4).metadata


def test_a_chapter_that_fails_names_its_cell_and_keeps_the_old_result(tmp_path):
    notebook, results = chapter(tmp_path, body="print('before')\n1 / 0"), tmp_path / "results"
    results.mkdir()
    (results / "01_tiny.ipynb").write_text("old")
    with pytest.raises(SingError, match="ZeroDivisionError: division by zero") as caught:
        run_chapter(notebook, results, "smoke", {}, {}, progress=False)
    partial = results / "failed" / "01_tiny.ipynb"
    assert str(partial) in str(caught.value)
    assert (results / "01_tiny.ipynb").read_text() == "old"
    assert "before" in printed(partial)
    # The number is the cell's place in the chapter as a reader has it, counted from 1.
    number = int(str(caught.value).split("cell ")[1].split()[0])
    assert "1 / 0" in nbformat.read(notebook, as_version=4).cells[number - 1].source
