"""Every chapter in a real JupyterLab with a real kernel; chapter 01 as a reader would use it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from lab import open_notebook, serve_lab
from PIL import Image, ImageDraw

from sing_nb.models.prompts import imagenet_names
from sing_nb.study import tables

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
#: What a page would turn into something, and JupyterLab shows as it is written.
RAW = re.compile(r"\{[a-z][\w:-]*\}`|\{\{|^:::|\\begin\{|\$\$", re.MULTILINE)
VEGALITE = "application/vnd.vegalite.v6+json"


@pytest.fixture(scope="module")
def lab(smoke_book, chromium, tmp_path_factory):
    """`make lab` on copies of all chapters, with the results of the smoke book; and a browser."""
    with serve_lab(smoke_book.parent, CHAPTERS, tmp_path_factory.mktemp("lab")) as address:
        yield address, chromium


@pytest.fixture(scope="module")
def shots(smoke_book):
    (smoke_book.parent / "screenshots").mkdir(exist_ok=True)
    return smoke_book.parent / "screenshots"


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_runs_and_reads_whole(lab, shots, name):
    address, browser = lab
    # JupyterLab would open what the last test left open as well.
    address = address.replace("01_setup.ipynb", f"{name}.ipynb") + "&reset"
    with open_notebook(browser, address) as notebook:
        notebook.run_all()
        assert notebook.tracebacks() == []
        for index, cell in enumerate(notebook.cells()):
            figures = sum(VEGALITE in output.get("data", {}) for output in cell["outputs"])
            if cell["kind"] == "markdown":
                text = notebook.show_at(index).locator(".jp-RenderedMarkdown").inner_text()
                assert RAW.findall(text) == [], text
            elif figures:
                shown = notebook.show_at(index)
                drawn = shown.locator(".vega-embed canvas, .vega-embed svg, .jupyter-widgets, img")
                drawn.first.wait_for(timeout=30_000)
                captions = shown.locator(".jp-RenderedMarkdown", has_text="Figure.")
                assert captions.count() >= figures
                assert all(len(text.split()) >= 5 for text in captions.all_inner_texts())
        notebook.page.screenshot(path=shots / f"lab-{name}.png")
        assert notebook.outside == []
        assert notebook.errors == []


@pytest.fixture(scope="module")
def notebook(lab):
    """Chapter 01, run from the menu."""
    address, browser = lab
    with open_notebook(browser, f"{address}&reset") as opened:
        opened.run_all()
        yield opened


@pytest.fixture
def explorer(notebook):
    """The null-space explorer, in view."""
    found = notebook.show_cell("widgets.NullSpaceExplorer(").locator(".sing-explorer")
    found.wait_for(timeout=30_000)
    return found


def scores(explorer):
    """Rows of the explorer's table of numbers, by their first cell."""
    rows = explorer.locator(".sing-numbers tr").evaluate_all(
        "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent.trim()))")
    return {row[0]: row[1:] for row in rows if row}


def wait_for(explorer, holds):
    """The numbers, once the kernel has answered with such that something holds of them."""
    for _ in range(300):
        now = scores(explorer)
        if now and holds(now):
            return now
        explorer.page.wait_for_timeout(50)
    raise AssertionError(f"the kernel did not answer so: the numbers read {now}")


def degrees(text):
    return float(text.replace("−", "-").rstrip("°"))


def push_slider(notebook, explorer, name, key="ArrowRight", times=1):
    handle = notebook.field(explorer, name).get_by_role("slider")
    handle.focus()
    for _ in range(times):
        notebook.page.keyboard.press(key)


def shark():
    """A picture that no profile has, as the content of a PNG."""
    picture = Image.new("RGB", (320, 240), "navy")
    ImageDraw.Draw(picture).polygon([(40, 180), (160, 40), (280, 180)], fill="silver")
    content = io.BytesIO()
    picture.save(content, "png")
    return content.getvalue()


STEP = "step (lengths of the null part)"
PROMPTED = "Attribute Score towards the prompt"
LOOK = "(el) => el.outerHTML + (el.toDataURL?.() ?? '')"


def test_the_chapter_runs_in_two_clicks_without_an_error(notebook):
    assert notebook.clicks == 2  # Run, Run All Cells: the notebook was open already
    assert notebook.tracebacks() == []
    # Nothing pops up that would have to be clicked away, as the offer of news from the internet.
    assert notebook.page.locator(".Toastify__toast, .jp-Dialog").count() == 0


def test_a_figure_moves_within_three_clicks(notebook):
    figure = notebook.show_cell('"null-plane"')
    assert notebook.colours(figure) > 50  # there are photos on it
    before = figure.locator("canvas").first.evaluate(LOOK)
    slider = figure.locator(".vega-bind input[type=range]")
    notebook.click(slider, position={"x": 10, "y": 5})
    notebook.page.wait_for_timeout(300)
    assert figure.locator("canvas").first.evaluate(LOOK) != before
    assert notebook.clicks == 3


def test_the_explorer_says_what_the_tables_say(explorer, smoke):
    # The chapter's first photo, its null part removed: a row of the table of all pictures.
    (picture,) = smoke.examples([explorer.locator("figure img").first.get_attribute("alt")])
    table = tables.images(smoke, "lite0")
    (row,) = table[table["picture"] == picture].itertuples()
    assert degrees(scores(explorer)["Image Score"][0]) == pytest.approx(row.image_score, abs=0.051)


def test_a_slider_that_is_moved_by_keys_changes_the_numbers(notebook, explorer):
    before = scores(explorer)
    chart = explorer.locator(".vega-embed svg, .vega-embed canvas").first
    chart.wait_for()
    drawn = chart.evaluate(LOOK)
    assert before[STEP] == ["1.00", "1.00"]
    push_slider(notebook, explorer, STEP, times=10)
    far = wait_for(explorer, lambda now: now[STEP][0] == "1.50")
    push_slider(notebook, explorer, STEP, "Home")
    back = wait_for(explorer, lambda now: now[STEP][0] == "−1.00")
    images = [degrees(found["Image Score"][0]) for found in (before, far, back)]
    assert images[1] > images[0]
    assert images[2] > 0
    explorer.page.wait_for_timeout(300)
    assert chart.evaluate(LOOK) != drawn
    # Wherever the photo is pushed, its classifier takes it for the same.
    assert before["taken for, after"][0] == far["taken for, after"][0]


def test_a_prompt_that_is_typed_changes_the_answer(notebook, explorer):
    words, before = notebook.field(explorer, "prompt").locator("input"), scores(explorer)
    assert PROMPTED not in before
    words.fill("a birthday cake")
    words.press("Enter")
    cake = wait_for(explorer, lambda now: PROMPTED in now)
    words.fill("thunderstorm")
    words.press("Enter")
    wait_for(explorer, lambda now: now[PROMPTED] != cake[PROMPTED])


def test_a_picture_of_ones_own_is_pushed(notebook, explorer):
    before, thumbnail = scores(explorer), explorer.locator("figure img").first
    source = thumbnail.get_attribute("src")
    notebook.choose_file(explorer.locator("button.widget-upload"), "my shark.png", shark())
    after = wait_for(explorer, lambda now: now["Image Score"] != before["Image Score"])
    assert thumbnail.get_attribute("src") != source
    assert explorer.locator("figure figcaption").first.inner_text() == "my shark.png"
    taken_for = after["taken for, before"][0].rsplit(" (", 1)[0]
    assert taken_for in imagenet_names()


def test_nothing_went_wrong_and_nobody_else_was_asked(notebook, explorer, shots):
    for theme in ("light", "dark"):
        notebook.wear(theme)
        notebook.show_cell("widgets.NullSpaceExplorer(")
        notebook.page.wait_for_timeout(500)
        notebook.page.screenshot(path=shots / f"lab-explorer-{theme}.png")
    assert notebook.tracebacks() == []
    assert notebook.outside == []
    assert notebook.errors == []
