"""Every page of the built smoke book, opened in a real browser and used."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import reader
from browser import (
    DESKTOP,
    PHONE,
    inspect_page,
    measure_overflow,
    new_page,
    shoot,
    wait_for_charts,
)

from sing_nb.book.chapters import toc_files

PAGES = toc_files(Path(__file__).resolve().parents[2] / "book")


@pytest.fixture(scope="module")
def shots(smoke_book):
    return smoke_book.parent / "screenshots"


@pytest.mark.parametrize(("size", "theme"), [
    (DESKTOP, "light"), (PHONE, "dark"),
    pytest.param(DESKTOP, "dark", marks=pytest.mark.slow),
    pytest.param(PHONE, "light", marks=pytest.mark.slow),
], ids=["desktop-light", "phone-dark", "desktop-dark", "phone-light"])
@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole(site, shots, name, size, theme):
    """No outside request, no error, every chart drawn, named, numbered and legible, none too wide.
    """
    address, browser = site
    kind = "desktop" if size == DESKTOP else "phone"
    with new_page(browser, size, theme) as page:
        report = inspect_page(page, f"{address}/{name}.html", theme)
        shoot(page, shots / f"{name}-{kind}-{theme}.png")
        assert report.problems() == []
        assert {url.split("?")[0] for url in report.bundles} <= {
            f"{address}/_static/vega-bundle.js"}
        assert reader.faint_texts(page) == []
        thin = page.locator("figcaption .caption-text").evaluate_all(
            "(all) => all.filter((e) => getComputedStyle(e).fontWeight < 400).length")
        assert thin == 0, "a caption too thin to read"
        if size == DESKTOP:
            cut = page.locator(".sing-scroll").evaluate_all(
                "(all) => all.filter((e) => e.scrollWidth > e.clientWidth + 1)"
                ".map((e) => e.innerText.slice(0, 80))")
            assert cut == [], "a table whose last columns a reader has to scroll to"
        bare = page.locator("article figure:not(:has(figcaption .caption-number))")
        assert bare.count() == 0, "a figure without number and caption"
        without_alt = page.locator("article img:not([alt]), article img[alt='']")
        assert without_alt.count() == 0, "a picture without alt text"


@pytest.mark.parametrize("name", PAGES)
def test_every_input_changes_its_chart(site, shots, name):
    """Every value of every slider, menu and button draws its own marks, and a phone holds them."""
    address, browser = site
    with new_page(browser, PHONE) as page:
        report = inspect_page(page, f"{address}/{name}.html")
        charts = range(len(report.charts))
        assert [said for chart in charts for said in reader.turn_inputs(page, chart)] == []
        for chart in charts:
            reader.shoot_used(page, chart, shots / f"{name}-chart{chart + 1}-used.png")
        assert measure_overflow(page) == []
        assert report.page_errors == []
        assert report.console_errors == []


@pytest.mark.parametrize("name", PAGES)
def test_every_chart_answers_mouse_and_keys(site, name):
    """Tab reaches each input and keys work it; brushes, clicks, legends and tooltips answer."""
    address, browser = site
    with new_page(browser) as page:
        report = inspect_page(page, f"{address}/{name}.html")
        charts = range(len(report.charts))
        assert reader.unnamed_inputs(page) == []
        assert reader.tab_through(page) == []
        for act in (reader.press_inputs, reader.try_selections, reader.try_tooltips):
            assert [said for chart in charts for said in act(page, chart)] == [], act.__doc__
        assert report.page_errors == []
        assert report.console_errors == []


@contextlib.contextmanager
def linked_views(site, size=DESKTOP, touch=False):
    """Opens chapter 05; gives its tab and the number of its linked views."""
    address, browser = site
    with new_page(browser, size, touch=touch) as page:
        report = inspect_page(page, f"{address}/05_models.html")
        yield page, page.locator("div.sing-chart").evaluate_all(
            "(all) => all.findIndex((one) => one.closest('#fig-linked-models'))")
        assert report.page_errors == report.console_errors == []


def test_choices_and_focus_survive_a_new_theme_and_a_new_width(site):
    with linked_views(site) as (page, chart):
        store = f"chart({chart}).view.data('brush_store').map((row) => row.values)"
        reader.drag(page, reader.ask(page, f"plotOf({chart}, 'brush')"), 0.1, 0.6)
        slider = page.locator("#fig-linked-models input[type=range]")
        slider.focus()
        page.keyboard.press("End")
        before = reader.ask(page, store), slider.input_value()
        assert before[0]
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        wait_for_charts(page, "dark")
        page.set_viewport_size({"width": 700, "height": 800})
        page.wait_for_timeout(200)
        wait_for_charts(page, "dark")
        assert np.allclose(before[0], reader.ask(page, store))
        assert slider.input_value() == before[1]
        assert page.evaluate("document.activeElement.name") == "least"


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


def test_a_finger_brushes_sideways_and_scrolls_upwards(site):
    with linked_views(site, PHONE, touch=True) as (page, chart):
        box = reader.ask(page, f"plotOf({chart}, 'brush')")
        before = page.evaluate("scrollY")
        at = {"x": box["x"] + 0.1 * box["width"], "y": box["y"] + 0.5 * box["height"]}
        swipe(page, at, {"x": at["x"] + 0.6 * box["width"], "y": at["y"] + 40})
        assert reader.ask(page, f"chosen({chart}, 'brush')")
        assert page.evaluate("scrollY") == before
        at["x"] = box["x"] + 0.9 * box["width"]
        swipe(page, at, {"x": at["x"], "y": at["y"] - 200})
        assert page.evaluate("scrollY") > before + 100
