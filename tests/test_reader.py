"""Charts answer a reader's mouse, keys and fingers; and the checks that say so can fail."""

from __future__ import annotations

import contextlib
import os
import re
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
from PIL import Image

from sing_nb.book.page import chart_html
from sing_nb.pictures.images import thumbnail

STATIC = Path(__file__).resolve().parents[1] / "book" / "_static"
THEME = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static"

pytestmark = pytest.mark.skipif(
    not find_chromium() and not os.environ.get("CI"),
    reason="no Chromium: apt-get install chromium, or set SING_CHROMIUM",
)

_at = np.random.default_rng(0).uniform(0, 10, (60, 2)).round(2)
DOTS = pd.DataFrame({"x": _at[:, 0], "y": _at[:, 1], "kind": list("ab") * 30})
DIM = alt.value(0.9), alt.value(0.2)


def dots(width=300):
    return alt.Chart(DOTS, width=width, height=220).mark_circle(size=90).encode(
        x="x:Q", y="y:Q", color="kind:N")


def brushed(read=True):
    """Dots, and bars that count the chosen ones."""
    brush = alt.selection_interval(name="brush")
    bars = alt.Chart(DOTS, width=300, height=220).mark_bar().encode(x="count()", y="kind:N")
    return dots().add_params(brush) | (bars.transform_filter(brush) if read else bars)


def picked(read=True, bind=alt.Undefined, **how):
    """Dots of which a click, a legend or a pointer brings out a kind."""
    pick = alt.selection_point(name="pick", fields=["kind"], bind=bind, **how)
    chart = dots("container").add_params(pick)
    return chart.encode(opacity=alt.condition(pick, *DIM)) if read else chart


def slid(read=True):
    """Dots above a height that a slider sets."""
    cut = alt.param(name="cut", value=2, bind=alt.binding_range(
        min=0, max=9, step=1, name="least height (degrees) "))
    chart = dots("container").add_params(cut)
    return chart.transform_filter("datum.y >= cut") if read else chart


def chosen(options=("a", "b"), look="radio"):
    """Dots of the one kind that buttons or a menu choose."""
    binding = {"radio": alt.binding_radio, "menu": alt.binding_select}[look]
    kind = alt.param(name="only", value="a", bind=binding(options=list(options), name="kind "))
    return dots("container").add_params(kind).transform_filter("datum.kind == only")


def pictured():
    """Dots whose tooltip has a number and a picture."""
    uri = thumbnail(Image.new("RGB", (300, 200), "teal"), 200)
    return dots("container").transform_calculate(image=f"'{uri}'").encode(
        tooltip=["image:N", alt.Tooltip("x:Q", title="across (degrees)")])


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
        def opened(*charts, size=DESKTOP, theme="light", hint=None, style="", touch=False):
            body = ""
            for chart in charts:
                spec = chart.properties(description="Dots of two kinds.").to_dict()
                if hint is not None:
                    spec["usermeta"] = {"hint": hint}
                body += (f'<figure>{chart_html(spec)}<figcaption><p><span class="caption-number">'
                         'Fig. 1 </span><span class="caption-text">Dots.</span></p></figcaption>'
                         "</figure>")
            (folder / "index.html").write_text(
                f'<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8">'
                '<meta name="viewport" content="width=device-width"><title>Dots</title>'
                '<link rel="stylesheet" href="pydata-sphinx-theme.css">'
                '<link rel="stylesheet" href="sing.css"><script src="sing-charts.js"></script>'
                f'<script type="module" src="vega-bundle.js"></script><style>{style}</style></head>'
                '<body>'
                '<main class="bd-main"><article class="bd-article" style="padding: 1rem"><h1>Dots'
                f'</h1>{body}<p style="height: 2000px">End</p></article></main></body></html>')
            with new_page(browser, size, theme, touch) as page:
                report = inspect_page(page, f"{address}/index.html", theme)
                assert report.problems() == []
                yield page
                assert report.page_errors == []
                assert report.console_errors == []

        yield opened


# --- what answers, and what does not ------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_charts_that_answer_are_good(open_page, theme):
    charts = [brushed(), picked(), picked(bind="legend"), picked(on="pointerover"), slid(),
              chosen(), chosen(look="menu"), pictured()]
    with open_page(*charts, theme=theme) as page:
        found = reader.tab_through(page) + reader.unnamed_inputs(page) + reader.faint_texts(page)
        for chart in range(len(charts)):
            for act in (reader.turn_inputs, reader.press_inputs, reader.try_selections,
                        reader.try_tooltips):
                found += act(page, chart)
        assert found == []


@pytest.mark.parametrize(("chart", "act", "said"), [
    (brushed(read=False), reader.try_selections, "brush brush: what is chosen changes no mark"),
    (picked(read=False), reader.try_selections, "click pick.*changes no mark"),
    (picked(read=False, bind="legend"), reader.try_selections, "legend pick.*changes no mark"),
    (picked(read=False, on="pointerover"), reader.try_selections, "hover pick.*changes no mark"),
    (slid(read=False), reader.turn_inputs, "range .*draws what 2 draws"),
    (slid(read=False), reader.press_inputs, "keys move it and no mark"),
    (chosen(["a", "no such kind"]), reader.turn_inputs, "no such kind draws nothing"),
    (chosen(["a"], look="menu"), reader.turn_inputs, "there is nothing to choose"),
])
def test_what_does_not_answer_is_found(open_page, chart, act, said):
    with open_page(chart) as page:
        found = act(page, 0)
        assert any(re.search(said, text) for text in found), found


def test_tooltips_without_what_they_promise_are_found(open_page):
    with open_page(pictured(), style="#vg-tooltip-element td.value { display: none }") as page:
        found = reader.try_tooltips(page, 0)
        assert any("without its numbers" in text for text in found), found
    with open_page(pictured(), style="#vg-tooltip-element { margin-left: -2000px }") as page:
        assert any("cut by the window" in text for text in reader.try_tooltips(page, 0))


def test_inputs_that_keys_or_ears_cannot_find_are_found(open_page):
    with open_page(slid(), chosen(), style=".sing-inputs * { outline: none !important }") as page:
        assert "the focus ring of 'kind' has a contrast of 0.0:1" in reader.tab_through(page)
        page.evaluate("""() => {
          for (const node of document.querySelectorAll("[role=radiogroup]")) {
            node.removeAttribute("aria-label");
          }
          document.querySelector("input[type=range]").tabIndex = -1;
        }""")
        assert reader.unnamed_inputs(page) == ["an input without a name: - radiogroup:"]
    with open_page(slid()) as page:
        page.evaluate("document.querySelector('input[type=range]').tabIndex = -1")
        assert reader.tab_through(page, 20) == ["Tab never reaches 'least height (degrees)'"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_coloured_text_is_legible_and_an_illegible_one_is_found(open_page, theme):
    """Colours of the palette are too pale for small text on white, so the page darkens them."""
    rows = pd.DataFrame({"x": range(4), "kind": list("abcd")})
    texts = alt.Chart(rows, width="container", height=80).mark_text(text="word").encode(
        x="x:Q", color=alt.Color("kind:N", legend=None, scale=alt.Scale(
            range=["#e69f00", "#56b4e9", "#8a8a8a", "#2b7bba"])))
    with open_page(texts, theme=theme) as page:
        assert reader.faint_texts(page) == []
        shown = page.locator(".mark-text.role-mark text").evaluate_all(
            "(all) => all.map((el) => getComputedStyle(el).fill)")
        assert len(set(shown)) == 4
    with open_page(texts, theme=theme, style=".mark-text text { fill: #777 !important }") as page:
        (found,) = reader.faint_texts(page)
        # By WCAG's formula #777 has a relative luminance of 0.1845, the theme's dark page 0.0090.
        ratio = 1.05 / 0.2345 if theme == "light" else 0.2345 / 0.0590
        assert f"{ratio:.1f}:1" in found


def test_a_page_that_is_too_heavy_or_loads_vega_twice_is_found(open_page):
    from browser import PageReport

    said = PageReport("", megabytes=7.24, bundles=["a", "b"]).problems()
    assert said == ["weighs 7.2 MB of 6", "loads Vega 2 times for 0 charts"]


# --- what a reader chose stays --------------------------------------------------------------------


def test_choices_and_focus_survive_a_new_theme_and_a_new_width(open_page):
    charts = [brushed(), picked(), picked(bind="legend"), slid()]
    with open_page(*charts) as page:
        ask = reader._ask
        reader._drag(page, ask(page, "plotOf(0, 'brush')"), 0.1, 0.6)
        for chart, count, go in ((1, "keepPlaces(1, 4, false)", "goTo(0)"),
                                 (2, "legendEntries(2).length", "goToLegend(2, 1)")):
            assert ask(page, count) > 0
            page.mouse.click(*ask(page, go).values())
            ask(page, f"settle({chart})")
        page.locator("input[type=range]").focus()
        page.keyboard.press("End")

        def state():
            stores = [f"chart({i}).view.data('{name}_store').map((row) => row.values)"
                      for i, name in enumerate(("brush", "pick", "pick"))]
            return [ask(page, store) for store in stores]

        def counts():
            labels = page.locator(".mark-rect.role-mark path[aria-label^=Count]").evaluate_all(
                "(all) => all.map((el) => el.ariaLabel)")
            return sorted(labels)

        before, bars = state(), counts()
        assert len(bars) == 2
        assert all(before)
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        wait_for_charts(page, "dark")
        page.set_viewport_size({"width": 700, "height": 800})
        page.wait_for_timeout(200)
        wait_for_charts(page, "dark")
        after = state()
        assert np.allclose(before[0], after[0])
        assert after[1:] == before[1:]
        assert counts() == bars
        assert page.locator("input[type=range]").input_value() == "9"
        assert page.evaluate("document.activeElement.name") == "cut"
        box = ask(page, "plotOf(0, 'brush')")
        page.mouse.dblclick(box["x"] + 5, box["y"] + 5)
        ask(page, "settle(0)")
        assert state()[0] == []


def test_a_hint_says_what_cannot_be_seen_and_is_text(open_page):
    with open_page(brushed(), picked(bind="legend"), slid()) as page:
        assert page.locator(".sing-hint").all_inner_texts() == [
            "Drag over the plot to choose a part of it; a double click lets go.",
            "Click a name in the legend to bring it out; with shift, one more; a double click "
            "brings all back.",
        ]
    with open_page(slid(), hint="<b>Look</b> & see") as page:
        assert page.locator(".sing-hint").inner_text() == "<b>Look</b> & see"
        assert page.locator(".sing-hint b").count() == 0


# --- a phone --------------------------------------------------------------------------------------


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


def test_a_finger_brushes_sideways_scrolls_upwards_and_taps_for_a_tooltip(open_page):
    with open_page(brushed(), pictured(), size=PHONE, touch=True) as page:
        assert "Drag sideways" in page.locator(".sing-hint").first.inner_text()
        store = "chart(0).view.data('brush_store').map((row) => row.values)"
        box = reader._ask(page, "plotOf(0, 'brush')")
        at = {"x": box["x"] + 0.1 * box["width"], "y": box["y"] + 0.5 * box["height"]}
        before = page.evaluate("scrollY")
        swipe(page, at, {"x": at["x"] + 0.6 * box["width"], "y": at["y"] + 40})
        chosen_now = reader._ask(page, store)
        assert chosen_now
        assert page.evaluate("scrollY") == before
        swipe(page, {**at, "x": box["x"] + 0.9 * box["width"]},
              {"x": box["x"] + 0.9 * box["width"], "y": at["y"] - 200})
        wait_for_charts(page, "light")
        assert page.evaluate("scrollY") > before + 100
        assert np.allclose(reader._ask(page, store), chosen_now)
        assert reader._ask(page, "keepPlaces(1, 3, true)")
        reader._ask(page, "goTo(0)")
        page.wait_for_timeout(300)
        at = reader._ask(page, "goTo(0)")
        page.touchscreen.tap(at["x"], at["y"])
        shown = reader._ask(page, "tip()")
        assert re.search(r"across \(degrees\)\s+\d", shown["text"])
        assert (shown["image"], shown["cut"]) == (True, False)
        picture = page.locator("#vg-tooltip-element img").bounding_box()
        assert 0 < picture["width"] <= 112
        assert picture["width"] / picture["height"] == pytest.approx(1.5, abs=0.05)
        page.evaluate("scrollBy(0, 100)")
        page.wait_for_timeout(100)
        assert reader._ask(page, "tip()") is None
