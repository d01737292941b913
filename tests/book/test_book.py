"""The smoke book as a whole: chapters through papermill, figures kept, nothing done twice."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import vl_convert

import sing_nb as sing

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
MAKE = ["make", "-C", str(ROOT), "book", "PROFILE=smoke"]
SNAKEMAKE = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "book/Snakefile"),
             "--cores", "1", "--nolock", "--config", "profile=smoke"]


def run(command, **options):
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **options)


def executed(book, chapter):
    text = (book.parent / "chapters" / f"{chapter}.ipynb").read_text(encoding="utf-8")
    return json.loads(text)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_ran_through_papermill_without_noise(smoke_book, chapter):
    notebook = executed(smoke_book, chapter)
    assert notebook["metadata"]["papermill"]["parameters"]["profile"] == "smoke"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    for output in (output for cell in code for output in cell["outputs"]):
        # What a library says on stderr would stand on the page, or break a figure in two.
        assert output.get("name") != "stderr"
        text = "".join(output.get("data", {}).get("text/markdown", ""))
        assert "nan" not in re.findall(r"[a-z]+", text.lower()), text


def test_every_figure_is_kept_as_spec_data_and_svg(smoke_book):
    kept = sorted((smoke_book.parent / "figures").glob("*/*.vl.json"))
    names = [path.name for path in kept]
    assert sorted(set(names)) == sorted(names)  # links reach each by its name
    assert 25 <= len(kept) <= 42
    for path in kept:
        assert vl_convert.vegalite_to_vega(json.loads(path.read_text()))["marks"]
        base = str(path).removesuffix(".vl.json")
        data = json.loads(Path(f"{base}.data.json").read_text())
        assert sum(map(len, data.values())) > 0, path.name
        svg = Path(f"{base}.svg").read_text()
        assert "<path" in svg or "<image" in svg


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


def test_a_chapter_reads_whole_by_plain_nbconvert(smoke_book, tmp_path):
    run([sys.executable, "-m", "nbconvert", "--to", "html", "--output-dir", str(tmp_path),
         "--output", "page", str(smoke_book.parent / "chapters" / "02_svd.ipynb")], check=True)
    page = (tmp_path / "page.html").read_text()
    captions = ["".join(output["data"]["text/markdown"])
                for cell in executed(smoke_book, "02_svd")["cells"]
                for output in cell.get("outputs", []) if output["metadata"].get("text/markdown")]
    assert captions
    for caption in captions:  # each stands below its picture
        assert all(word in page for word in re.findall(r"[A-Za-z]{4,}", caption)[:3])
    assert page.count("<img") + page.count("vega") >= len(captions)


def test_a_second_run_does_nothing_in_five_seconds(smoke_book):
    before = {path: path.stat().st_mtime_ns for path in smoke_book.rglob("*.html")}
    begun = time.monotonic()
    done = run(MAKE)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in smoke_book.rglob("*.html")} == before
    assert time.monotonic() - begun < 15  # five on a machine without other tests


def planned(*settings):
    """Rules that would run, and why."""
    done = run([*SNAKEMAKE, f"settings={' '.join(settings)}", "--dry-run", "--quiet", "rules"])
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(re.findall(r"^(\w+) +(\d+)$", done.stdout, re.MULTILINE))


def test_what_changed_runs_again_and_no_more(smoke_book):
    chapter, page = ROOT / "book" / "06_classes.ipynb", ROOT / "sing_nb" / "charts" / "__init__.py"
    last = {"last": "2", "render": "1", "book": "1"}
    assert planned() == {}
    assert planned("target_is=20") == {"chapter": "1", **last, "total": "5"}  # chapter 08's own
    everything = planned("bootstrap_draws=99")
    assert (everything["chapter"], everything["translator"]) == ("12", "3")
    assert "network" not in everything
    for path, chapters in ((chapter, "1"), (page, "12")):
        content, times = path.read_bytes(), path.stat()
        try:
            path.write_bytes(content + b"\n")
            found = planned()
        finally:
            path.write_bytes(content)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert found == {"chapter": chapters, **last, "total": str(int(chapters) + 4)}


def test_a_failed_chapter_names_its_cell_and_keeps_what_stood(smoke_book):
    chapter = smoke_book.parent / "chapters" / "08_steering.ipynb"
    before = chapter.read_bytes()
    done = run([*SNAKEMAKE, "settings=target_is=200", "--", "chapters/08_steering.ipynb"])
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "08_steering.ipynb: cell" in said
    assert "between 0 and 180 degrees" in said
    assert chapter.read_bytes() == before
    assert (chapter.parent / "failed" / chapter.name).is_file()
    # Its mark is gone: the next run does not take what stood for what was asked.
    assert not (smoke_book.parent / "stages" / "chapter-08_steering.json").exists()
    assert run(MAKE).returncode == 0
