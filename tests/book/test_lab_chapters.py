"""Every chapter in a real JupyterLab: it runs, its figures have captions, its text reads whole."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

pytest.importorskip("playwright")

from browser import find_chromium, open_browser
from lab import borrow_results, copy_chapter, open_notebook, serve_lab

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
#: What a page would turn into something, and JupyterLab shows as it is written.
RAW = re.compile(r"\{[a-z][\w:-]*\}`|\{\{|^:::|\\begin\{|\$\$", re.MULTILINE)

# In CI a missing browser is a failure and no reason to skip.
pytestmark = pytest.mark.skipif(
    not find_chromium() and not os.environ.get("CI"),
    reason="no Chromium: apt-get install chromium, or set SING_CHROMIUM")


@pytest.fixture(scope="module")
def lab(smoke_book, tmp_path_factory):
    """JupyterLab on copies of all chapters, with the results of the smoke book."""
    home = tmp_path_factory.mktemp("lab")
    borrow_results(smoke_book.parent, home / "build" / "smoke")
    (home / "build" / "smoke" / "figures").symlink_to(smoke_book.parent / "figures")
    for name in CHAPTERS:
        copy_chapter(name, home / "book", profile="smoke")
    with (
        serve_lab(home / "book", home / "own", SING_BUILD=str(home / "build")) as address,
        open_browser() as browser,
    ):
        yield browser, address


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_runs_and_reads_whole(lab, name, smoke):
    browser, address = lab
    # JupyterLab would open what the last test left open as well.
    address = address.replace("01_setup.ipynb", f"{name}.ipynb") + "&reset"
    with open_notebook(browser, address) as notebook:
        notebook.run_all()
        assert notebook.tracebacks() == []
        cells = notebook.cells()
        for index, cell in enumerate(cells):
            if cell["kind"] == "markdown":
                shown = notebook.show_at(index)
                shown.locator(".jp-RenderedMarkdown").wait_for()
                text = shown.locator(".jp-RenderedMarkdown").inner_text()
                assert RAW.findall(text) == [], text
            figures = sum("application/vnd.vegalite.v6+json" in output.get("data", {})
                          for output in cell["outputs"])
            if figures:
                shown = notebook.show_at(index)
                drawn = shown.locator(".vega-embed canvas, .vega-embed svg, .jupyter-widgets, img")
                drawn.first.wait_for(timeout=30_000)
                captions = shown.locator(".jp-RenderedMarkdown", has_text="Figure.")
                assert captions.count() >= figures
                assert all(len(text.split()) >= 5 for text in captions.all_inner_texts())
        notebook.page.screenshot(path=smoke.folder / "screenshots" / f"lab-{name}.png")
        assert notebook.outside == []
        assert notebook.errors == []
