"""One executed notebook as one page: what it holds and refuses, and what a browser does with it."""

from __future__ import annotations

import re

import altair as alt
import nbformat
import pandas as pd
import pytest
from browser import PHONE, inspect_page, new_page, open_browser
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from sing_nb.book.figures import VEGALITE, bundle
from sing_nb.reports.page import page

SMALL_PHONE = (360, 780)


def shown(data, kind="display_data", about=None):
    """A code cell with one output, and something on the error stream."""
    cell = new_code_cell("secret = 1")
    cell.outputs = [
        new_output("stream", name="stderr", text="a bar of progress"),
        new_output(kind, data=data, metadata=about or {})]
    return cell


def figure(caption="Bars of *three* heights.", name="fig-bars"):
    """What sing.show gives: a chart, and its caption once more for JupyterLab."""
    table = pd.DataFrame({"word": ["snow", "</script>", "sea"], "angle": [3.0, 5.0, 4.0]})
    chart = alt.Chart(table, width="container").mark_bar().encode(
        alt.X("angle", title="angle (degrees)"), alt.Y("word"))
    spec = chart.to_dict() | {"description": "Three bars for three words."}
    data = {**bundle(spec), "text/plain": "three-bars: Three bars for three words."}
    cell = shown(data, about={VEGALITE: {"caption": caption, "name": name}} if caption else None)
    cell.outputs.append(new_output(
        "display_data", data={"text/markdown": f"*{caption}*"},
        metadata={"text/markdown": {"caption": True}}))
    return cell


def written(path, *cells):
    nbformat.write(new_notebook(cells=list(cells)), path / "in.ipynb")
    return path / "in.ipynb"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    wide = pd.DataFrame([range(30)] * 3, columns=[f"column {i}" for i in range(30)])
    return written(
        tmp_path_factory.mktemp("notebook"),
        new_markdown_cell("# Title of the chapter\n\nThe first words."),
        new_code_cell("profile: str = 'offline'", metadata={"tags": ["parameters"]}),
        new_code_cell("profile = 'smoke'", metadata={"tags": ["injected-parameters"]}),
        new_markdown_cell("## Scores\n\nIn code `{ref}` stands as it is.\n\n```\n{{ key }}\n```"),
        figure(),
        shown({"text/markdown": "## Scores\n\n**Two** of them."}),
        figure("And *again*.", "fig-again"),
        shown({"text/html": wide.to_html(), "text/plain": "wide"}, "execute_result"),
        shown({"text/plain": "3 < 4"}, "execute_result"))


@pytest.fixture(scope="module")
def text(notebook):
    target = notebook.with_name("index.html")
    page(notebook, target, "What <b> ignores", description="It's \"short\".",
         closing="## How it was made\n\nBy hand.")
    return target.read_text(encoding="utf-8")


def test_headings_have_names_of_their_own_and_a_list(text):
    body = text.partition("<body>")[2]
    assert re.findall('<h2 id="([^"]+)"', body) == ["scores", "scores-2", "how-it-was-made"]
    listed = re.search('<nav class="contents".*?</nav>', body, re.DOTALL).group()
    assert re.findall('href="#([^"]+)"', listed) == ["scores", "scores-2", "how-it-was-made"]


@pytest.fixture(scope="module")
def browser():
    with open_browser() as found:
        yield found


@pytest.mark.parametrize(("size", "theme"), [((1280, 900), "light"), (SMALL_PHONE, "dark")])
def test_it_opens_from_disk_draws_and_asks_for_nothing(browser, notebook, text, size, theme):
    asked = []
    with new_page(browser, size, theme) as tab:
        tab.on("request", lambda request: asked.append(request.url))
        address = notebook.with_name("index.html").as_uri()
        found = inspect_page(tab, address, theme)
        assert [url for url in asked if not url.startswith("data:")] == [address]
        # The library lies in the page, so that none is loaded.
        assert [problem for problem in found.problems() if "loads Vega 0" not in problem] == []
        assert [chart["drawn"] for chart in found.charts] == [theme, theme]
        box = tab.locator(".sing-chart svg").first.bounding_box()
        assert box["width"] > 0.8 * min(size[0], 700)
        assert tab.locator(".sing-scroll").count() == 1
        folded = tab.locator(".contents details").evaluate("(el) => !el.open")
        assert folded == (size[0] < 1000)
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.textContent") == "Skip to the text"
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (theme == "light")


def test_scripts_in_names_do_not_run(browser, tmp_path):
    bad = (
        "<script>window.ran = 1</script> <img src='x' onerror='window.ran = 2'> "
        "<a href='javascript:window.ran = 3' id='bad'>a</a> "
        "<img src='http://192.0.2.1/seen.png'><iframe src='data:text/html,x'></iframe>")
    target = page(written(
        tmp_path, shown({"text/markdown": bad}), shown({"text/html": bad}), figure()),
        tmp_path / "index.html", bad)
    sent = []
    with new_page(browser, PHONE, "light") as tab:
        tab.on("requestfinished", lambda request: sent.append(request.url))
        found = inspect_page(tab, target.as_uri())
        tab.locator("#bad").first.click()
        assert tab.evaluate("window.ran") is None
        assert [chart["ready"] for chart in found.charts] == [True]
        assert [url for url in sent if not url.startswith("data:")] == [target.as_uri()]
        assert found.outside == []  # the policy stopped it before anything was asked for
