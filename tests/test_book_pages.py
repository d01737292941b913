"""Every page of the built smoke book, opened in a real browser."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

pytest.importorskip("playwright")

from browser import (
    DESKTOP,
    PHONE,
    drawing,
    find_chromium,
    inspect_page,
    move_input,
    new_page,
    open_browser,
    serve,
    shoot,
)

from sing_nb.page import _toc_files

ROOT = Path(__file__).resolve().parents[1]
TOC = ROOT / "book" / "_toc.yml"
PAGES = _toc_files(yaml.safe_load(TOC.read_text())) if TOC.is_file() else []

# In CI a missing browser is a failure and no reason to skip.
pytestmark = pytest.mark.skipif(
    not find_chromium() and not os.environ.get("CI"),
    reason="no Chromium: apt-get install chromium, or set SING_CHROMIUM",
)


@pytest.fixture(scope="module")
def site(smoke_book):
    """Serve the smoke book and open a browser; gives address, browser, folder."""
    with serve(smoke_book) as address, open_browser() as browser:
        yield address, browser, Path(smoke_book)


def page_name(name: str) -> str:
    """Return a page's name without the ending of its source."""
    return name.removesuffix(".ipynb").removesuffix(".md")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole(site, name, size, theme):
    """No outside request, no error, every chart drawn, named and numbered, no sideways scroll."""
    address, browser, folder = site
    kind = "desktop" if size == DESKTOP else "phone"
    name = page_name(name)
    with new_page(browser, size, theme) as page:
        report = inspect_page(page, f"{address}/{name}.html", theme)
        shots = folder.parent / "screenshots"
        shoot(page, shots / f"{name.replace('/', '-')}-{kind}-{theme}.png")
        assert report.problems() == []
        bare = page.locator("article figure:not(:has(figcaption .caption-number))")
        assert bare.count() == 0, "a figure without number and caption"
        without_alt = page.locator("article img:not([alt]), article img[alt='']")
        assert without_alt.count() == 0, "a picture without alt text"


@pytest.mark.parametrize("name", PAGES)
def test_every_input_changes_its_chart(site, name):
    """Moving any slider, menu or button of a chart changes what is drawn."""
    address, browser, _ = site
    with new_page(browser) as page:
        report = inspect_page(page, f"{address}/{page_name(name)}.html")
        dead = []
        for chart, found in enumerate(report.charts):
            for number in range(found["inputs"]):
                before = drawing(page, chart)
                kind = move_input(page, chart, number)
                if drawing(page, chart) == before:
                    dead.append(f"chart {chart + 1}, input {number + 1} ({kind})")
        assert dead == []
        assert report.page_errors == []
        assert report.console_errors == []
