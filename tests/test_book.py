"""The smoke book as a whole: chapters through papermill, figures kept, nothing done twice."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import vl_convert

import sing_nb as sing

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_ran_through_papermill_without_noise(smoke_book, chapter):
    notebook = json.loads((smoke_book.parent / "chapters" / f"{chapter}.ipynb").read_text())
    assert notebook["metadata"]["papermill"]["parameters"]["profile"] == "smoke"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    # What a library says on stderr would stand on the page, or break a figure in two.
    assert [o for cell in code for o in cell["outputs"] if o.get("name") == "stderr"] == []


def figures(book):
    """Spec files of the book's figures, by the chapter's name and theirs."""
    paths = sorted((book.parent / "figures").glob("*/*.vl.json"))
    return {(path.parent.name, path.name.removesuffix(".vl.json")): path for path in paths}


def test_every_figure_is_kept_as_spec_data_and_svg(smoke_book):
    kept = figures(smoke_book)
    assert {chapter for chapter, _ in kept} <= set(CHAPTERS)
    assert len(kept) >= 25
    names = [name for _, name in kept]
    assert sorted(set(names)) == sorted(names)  # links reach each by its name
    for path in kept.values():
        spec = json.loads(path.read_text())
        assert vl_convert.vegalite_to_vega(spec)["marks"]
        base = str(path).removesuffix(".vl.json")
        data = json.loads(Path(f"{base}.data.json").read_text())
        assert sum(map(len, data.values())) > 0, path.name
        svg = Path(f"{base}.svg").read_text()
        assert svg.startswith("<svg")
        assert "<path" in svg or "<image" in svg


def test_a_reader_is_not_buried_in_figures(smoke_book):
    assert len(figures(smoke_book)) <= 42


def test_sentences_hold_numbers_and_not_what_is_missing(smoke_book):
    said = 0
    for chapter in CHAPTERS:
        notebook = json.loads((smoke_book.parent / "chapters" / f"{chapter}.ipynb").read_text())
        for cell in notebook["cells"]:
            for output in cell.get("outputs", []):
                text = "".join(output.get("data", {}).get("text/markdown", ""))
                said += bool(text)
                assert "nan" not in re.findall(r"[a-z]+", text.lower()), (chapter, text)
    assert said > 60


def test_every_item_of_the_paper_has_one_verdict_and_stands_on_its_pages(smoke_book, smoke):
    found = sing.read_found(smoke)  # refuses two verdicts on one item
    items = set(found["item"])
    equations = {f"equation {number}" for number in range(1, 20)}
    drawn = {f"figure {name}" for name in (*range(2, 12), "12a", "12b", "12c", *range(13, 17))}
    assert equations | drawn | {"table 1", "table 2", "table 3"} <= items
    assert found["claim"].sum() >= 10
    pages = {name: (smoke_book / f"{name}.html").read_text()
             for name in ("intro", "paper_map", *found["chapter"].unique())}
    for row in found.itertuples():
        said = f"{row.item[0].upper()}{row.item[1:]}: {row.verdict}"
        assert said in pages[row.chapter], said
        assert said in pages["paper_map"], said
        if row.claim:
            assert f"{row.mark} {row.verdict}" in pages["intro"]


@pytest.mark.parametrize("chapter", ["intro", "02_svd", "07_images"])
def test_a_chapter_reads_whole_by_plain_nbconvert(smoke_book, chapter, tmp_path):
    source = smoke_book.parent / "chapters" / f"{chapter}.ipynb"
    subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "html", "--output-dir", str(tmp_path),
         "--output", "page", str(source)], check=True, capture_output=True)
    page = (tmp_path / "page.html").read_text()
    outputs = [o for cell in json.loads(source.read_text())["cells"]
               for o in cell.get("outputs", []) if o.get("metadata", {}).get("text/markdown")]
    assert outputs
    for output in outputs:  # each figure's caption stands below its picture
        words = re.findall(r"[A-Za-z]{4,}", "".join(output["data"]["text/markdown"]))[:3]
        assert all(word in page for word in words)
    assert page.count("<img") + page.count("vega") >= len(outputs)


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
        sys.executable, "-m", "snakemake", "chapters/08_steering.ipynb",
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
        (["PROFILE=smoke", "SET=views=three"], "views in the overrides"),
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
