"""A chapter in a real JupyterLab with a real kernel, used as a reader would use it."""

from __future__ import annotations

import io
import os

import pytest
from PIL import Image, ImageDraw

pytest.importorskip("playwright")

from browser import find_chromium, open_browser
from lab import borrow_results, copy_chapter, open_notebook, serve_lab

from sing_nb.models.prompts import imagenet_names
from sing_nb.study import tables

# In CI a missing browser is a failure and no reason to skip.
pytestmark = pytest.mark.skipif(
    not find_chromium() and not os.environ.get("CI"),
    reason="no Chromium: apt-get install chromium, or set SING_CHROMIUM")

OWN_CHART = """\
import altair as alt
import pandas as pd

alt.Chart(pd.DataFrame({"reader": list("abc"), "bars": [1, 2, 3]})).mark_bar().encode(
    x="reader", y="bars", color="reader")
"""


@pytest.fixture(scope="module")
def notebook(smoke, tmp_path_factory):
    """Chapter 01 on the smoke profile, opened by `make lab` and run from its menu."""
    for model in smoke.config.everyone:
        smoke.features(model)  # a first run computes these for a minute, which is not the question
    home = tmp_path_factory.mktemp("lab")
    borrow_results(smoke.folder, home / "build" / "smoke")
    copy_chapter("01_setup", home / "book", [OWN_CHART], profile="smoke")
    places = serve_lab(home / "book", home / "own", SING_BUILD=str(home / "build"))
    with places as address, open_browser() as browser, open_notebook(browser, address) as opened:
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


def shark(background="navy"):
    """A picture that no profile has, as the content of a PNG."""
    picture = Image.new("RGB", (320, 240), background)
    ImageDraw.Draw(picture).polygon([(40, 180), (160, 40), (280, 180)], fill="silver")
    content = io.BytesIO()
    picture.save(content, "png")
    return content.getvalue()


STEP = "step (lengths of the null part)"
PROMPTED = "Attribute Score towards the prompt"
LOOK = "(el) => el.outerHTML + (el.toDataURL?.() ?? '')"


# --- the notebook ---------------------------------------------------------------------------------


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


# --- the explorer ---------------------------------------------------------------------------------


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


def test_nothing_went_wrong_and_nobody_else_was_asked(notebook, explorer, smoke):
    shots = smoke.folder / "screenshots"
    shots.mkdir(exist_ok=True)
    for theme in ("light", "dark"):
        notebook.wear(theme)
        notebook.show_cell("widgets.NullSpaceExplorer(")
        notebook.page.wait_for_timeout(500)
        notebook.page.screenshot(path=shots / f"lab-explorer-{theme}.png")
    assert notebook.tracebacks() == []
    assert notebook.outside == []
    assert notebook.errors == []
