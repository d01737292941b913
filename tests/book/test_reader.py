"""Charts answer a reader's mouse, keys and fingers; and the checks that say so can fail."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import pydata_sphinx_theme
import pytest
import vl_convert

pytest.importorskip("playwright")

import reader
from browser import (
    DESKTOP,
    PHONE,
    find_chromium,
    inspect_page,
    new_page,
    open_browser,
    serve,
    wait_for_charts,
)

from sing_nb.book.page import chart_html

STATIC = Path(__file__).resolve().parents[2] / "book" / "_static"
THEME = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"
PAGE = """<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Dots</title>
<link rel="stylesheet" href="pydata-sphinx-theme.css"><link rel="stylesheet" href="sing.css">
<script src="sing-charts.js"></script><script type="module" src="vega-bundle.js"></script>
<style>{style}</style></head><body><main class="bd-main"><article class="bd-article"
style="padding: 1rem"><h1>Dots</h1>{body}<p style="height: 2000px">End</p></article></main></body>
</html>"""
FIGURE = """<figure>{chart}<figcaption><p><span class="caption-number">Fig. 1 </span>
<span class="caption-text">Dots.</span></p></figcaption></figure>"""

pytestmark = pytest.mark.skipif(
    not find_chromium() and not os.environ.get("CI"),
    reason="no Chromium: apt-get install chromium, or set SING_CHROMIUM")

_at = np.random.default_rng(0).uniform(0, 10, (60, 2)).round(2)
DOTS = pd.DataFrame({"x": _at[:, 0], "y": _at[:, 1], "kind": list("ab") * 30})


def dots(width="container"):
    return alt.Chart(DOTS, width=width, height=220).mark_circle(size=90).encode(
        x="x:Q", y="y:Q", color="kind:N", tooltip=alt.Tooltip("x:Q", title="across (degrees)"))


def brushed(read=True):
    """Dots, and bars that count the chosen ones."""
    brush = alt.selection_interval(name="brush")
    bars = alt.Chart(DOTS, width=300, height=220).mark_bar().encode(x="count()", y="kind:N")
    return dots(300).add_params(brush) | (bars.transform_filter(brush) if read else bars)


def slid(read=True):
    """Dots above a height that a slider sets."""
    cut = alt.param(name="cut", value=2, bind=alt.binding_range(
        min=0, max=9, step=1, name="least height (degrees) "))
    chart = dots().add_params(cut)
    return chart.transform_filter("datum.y >= cut") if read else chart


def chosen(binding=alt.binding_radio):
    """Dots of the one kind that buttons or a menu choose."""
    kind = alt.param(name="only", value="a", bind=binding(options=["a", "b"], name="kind "))
    return dots().add_params(kind).transform_filter("datum.kind == only")


@pytest.fixture(scope="module")
def open_page(tmp_path_factory):
    """Opens a page with the given charts in a real browser, in the book's own style."""
    folder = tmp_path_factory.mktemp("reader")
    for path in (STATIC / "sing-charts.js", STATIC / "sing.css",
                 THEME / "styles" / "pydata-sphinx-theme.css"):
        shutil.copy2(path, folder)
    (folder / "vega-bundle.js").write_text(vl_convert.javascript_bundle())
    with serve(folder) as address, open_browser() as browser:
        @contextlib.contextmanager
        def opened(*charts, size=DESKTOP, theme="light", style="", touch=False):
            specs = [chart.properties(description="Dots of two kinds.").to_dict()
                     for chart in charts]
            body = "".join(FIGURE.format(chart=chart_html(spec)) for spec in specs)
            (folder / "index.html").write_text(PAGE.format(theme=theme, style=style, body=body))
            with new_page(browser, size, theme, touch) as page:
                report = inspect_page(page, f"{address}/index.html", theme)
                assert report.problems() == []
                yield page
                assert report.page_errors == report.console_errors == []

        yield opened


def test_choices_and_focus_survive_a_new_theme_and_a_new_width(open_page):
    store = "chart(0).view.data('brush_store').map((row) => row.values)"
    with open_page(brushed(), slid()) as page:
        reader._drag(page, reader._ask(page, "plotOf(0, 'brush')"), 0.1, 0.6)
        page.locator("input[type=range]").focus()
        page.keyboard.press("End")
        before = reader._ask(page, store)
        assert before
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        wait_for_charts(page, "dark")
        page.set_viewport_size({"width": 700, "height": 800})
        page.wait_for_timeout(200)
        wait_for_charts(page, "dark")
        assert np.allclose(before, reader._ask(page, store))
        assert page.locator("input[type=range]").input_value() == "9"
        assert page.evaluate("document.activeElement.name") == "cut"


def swipe(page, start, end):
    """Move one finger, as Chromium reports it."""
    finger = page.context.new_cdp_session(page)
    for share in np.linspace(0, 1, 9):
        at = {key: start[key] + share * (end[key] - start[key]) for key in "xy"}
        finger.send("Input.dispatchTouchEvent", {
            "type": "touchStart" if not share else "touchMove", "touchPoints": [at]})
        page.wait_for_timeout(16)
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_timeout(250)


def test_a_finger_brushes_sideways_and_scrolls_upwards(open_page):
    with open_page(brushed(), size=PHONE, touch=True) as page:
        box = reader._ask(page, "plotOf(0, 'brush')")
        at = {"x": box["x"] + 0.1 * box["width"], "y": box["y"] + 0.5 * box["height"]}
        swipe(page, at, {"x": at["x"] + 0.6 * box["width"], "y": at["y"] + 40})
        assert reader._ask(page, "chosen(0, 'brush')")
        assert page.evaluate("scrollY") == 0
        swipe(page, {**at, "x": box["x"] + 0.9 * box["width"]},
              {"x": box["x"] + 0.9 * box["width"], "y": at["y"] - 200})
        assert page.evaluate("scrollY") > 100
