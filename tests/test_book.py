"""The smoke book as a whole: chapters through papermill, figures kept, nothing done twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import vl_convert

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_ran_through_papermill_without_noise(smoke_book, chapter):
    notebook = json.loads((smoke_book.parent / "chapters" / f"{chapter}.ipynb").read_text())
    assert notebook["metadata"]["papermill"]["parameters"]["profile"] == "smoke"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    # What a library prints to stderr would stand on the page, or break a figure in two.
    streams = [o for cell in code for o in cell["outputs"] if o["output_type"] == "stream"]
    assert streams == []


def test_every_figure_is_kept_as_spec_data_and_svg(smoke_book):
    folder = smoke_book.parent / "figures"
    figures = json.loads((folder / "manifest.json").read_text())
    assert len(figures) >= 12
    assert {figure["chapter"] for figure in figures} == set(CHAPTERS)
    for figure in figures:
        spec = json.loads((folder / figure["spec"]).read_text())
        assert spec["description"] == figure["alt"]
        data = json.loads((folder / figure["data"]).read_text())
        assert sum(map(len, data.values())) > 0
        svg = (folder / figure["svg"]).read_text()
        assert svg.startswith("<svg")
        assert "<path" in svg or "<image" in svg


def test_specs_are_drawn_by_vega_without_complaint(smoke_book):
    folder = smoke_book.parent / "figures"
    for figure in json.loads((folder / "manifest.json").read_text()):
        spec = json.loads((folder / figure["spec"]).read_text())
        assert vl_convert.vegalite_to_vega(spec)["marks"]


def test_numbers_in_prose_are_numbers(smoke_book):
    numbers = json.loads((smoke_book.parent / "figures" / "numbers.json").read_text())
    assert len(numbers) > 40
    for key, text in numbers.items():
        assert text
        assert "nan" not in text.lower().split(), key


def test_a_second_run_does_nothing(smoke_book):
    before = {path: path.stat().st_mtime_ns for path in smoke_book.rglob("*.html")}
    command = ["make", "-C", str(ROOT), "book", "PROFILE=smoke"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in smoke_book.rglob("*.html")} == before


def test_a_failed_chapter_names_its_cell_and_keeps_what_stood(smoke_book):
    chapter = smoke_book.parent / "chapters" / "08_steering.ipynb"
    before = chapter.read_bytes()
    command = [
        sys.executable, "-m", "snakemake", str(chapter),
        "--snakefile", str(ROOT / "book/Snakefile"), "--cores", "1", "--nolock",
        "--config", "profile=smoke", "settings=target_is=200",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "08_steering.ipynb: cell" in said
    assert "between 0 and 180 degrees" in said
    assert chapter.read_bytes() == before
    assert (chapter.parent / "failed" / chapter.name).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PROFILE=smok"], "did you mean 'smoke'"),
        (["PROFILE=smoke", "SET=viws=3"], "did you mean 'views'"),
        (["PROFILE=smoke", "SET=views=three"], "views in the overrides must be int"),
        (["PROFILE=smoke", "SET=target_is=far"], "target_is in the settings"),
    ],
)
def test_wrong_settings_stop_before_anything_runs(arguments, message):
    done = subprocess.run(
        ["make", "-C", str(ROOT), "book", *arguments], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
