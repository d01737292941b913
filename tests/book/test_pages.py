"""Every page of the built smoke book, opened in a real browser."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("playwright")

from browser import (
    DESKTOP,
    PHONE,
    find_chromium,
    inspect_page,
    measure_overflow,
    new_page,
    open_browser,
    serve,
    shoot,
)
from reader import (
    faint_texts,
    press_inputs,
    shoot_used,
    tab_through,
    try_selections,
    try_tooltips,
    turn_inputs,
    unnamed_inputs,
)

from sing_nb.book.chapters import toc_files

PAGES = toc_files(Path(__file__).resolve().parents[2] / "book")

# In CI a missing browser is a failure and no reason to skip.
pytestmark = pytest.mark.skipif(
    not find_chromium() and not os.environ.get("CI"),
    reason="no Chromium: apt-get install chromium, or set SING_CHROMIUM")


@pytest.fixture(scope="module")
def site(smoke_book):
    """Serve the smoke book and open a browser; gives address, browser, folder."""
    with serve(smoke_book) as address, open_browser() as browser:
        yield address, browser, Path(smoke_book)


@pytest.mark.parametrize(("size", "theme"), [
    (DESKTOP, "light"), (PHONE, "dark"),
    pytest.param(DESKTOP, "dark", marks=pytest.mark.slow),
    pytest.param(PHONE, "light", marks=pytest.mark.slow),
], ids=["desktop-light", "phone-dark", "desktop-dark", "phone-light"])
@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole(site, name, size, theme):
    """No outside request, no error, every chart drawn, named, numbered and legible, none too wide.

    The page is below 6 MB with all it loads, and Vega is one file that is loaded once.
    """
    address, browser, folder = site
    kind = "desktop" if size == DESKTOP else "phone"
    with new_page(browser, size, theme) as page:
        report = inspect_page(page, f"{address}/{name}.html", theme)
        shots = folder.parent / "screenshots"
        shoot(page, shots / f"{name}-{kind}-{theme}.png")
        assert report.problems() == []
        assert {url.split("?")[0] for url in report.bundles} <= {
            f"{address}/_static/vega-bundle.js"}
        assert faint_texts(page) == []
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
def test_every_input_changes_its_chart(site, name):
    """Every value of every slider, menu and button draws its own marks, and a phone holds them."""
    address, browser, folder = site
    with new_page(browser, PHONE) as page:
        report = inspect_page(page, f"{address}/{name}.html")
        dead = [said for chart in range(len(report.charts)) for said in turn_inputs(page, chart)]
        assert dead == []
        shots = folder.parent / "screenshots"
        for chart in range(len(report.charts)):
            shoot_used(page, chart, shots / f"{name}-chart{chart + 1}-used.png")
        assert measure_overflow(page) == []
        assert report.page_errors == []
        assert report.console_errors == []


@pytest.mark.parametrize("name", PAGES)
def test_every_chart_answers_mouse_and_keys(site, name):
    """Tab reaches each input and keys work it; brushes, clicks, legends and tooltips answer."""
    address, browser, _ = site
    with new_page(browser) as page:
        report = inspect_page(page, f"{address}/{name}.html")
        charts = range(len(report.charts))
        assert unnamed_inputs(page) == []
        assert tab_through(page) == []
        for act in (press_inputs, try_selections, try_tooltips):
            assert [said for chart in charts for said in act(page, chart)] == [], act.__doc__
        assert report.page_errors == []
        assert report.console_errors == []
