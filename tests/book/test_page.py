"""The rendered page: a tiny book is staged, built and opened in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import altair as alt
import nbformat
import pandas as pd
import pytest

pytest.importorskip("playwright")

from browser import (
    find_chromium,
    inspect_page,
    new_page,
    open_browser,
    serve,
)

from sing_nb.book.page import chart_html, stage_book

ROOT = Path(__file__).resolve().parents[2]

TOC = "format: jb-book\nroot: intro\nchapters:\n  - file: 01_charts\n"
SAID = """Lite0 moves by **9.2 degrees**, see [the bars](01_charts.ipynb); $W f = 0$.

| | |
| :-- | :-- |
| **The question** | Does $f$ move? |
"""
ALT_SLIDER = 'Bars of "angle" < 40 degrees: </script> longer for a later class.'


def slider_chart() -> alt.Chart:
    """Bars that a slider cuts off, with the kind of text that breaks careless HTML."""
    frame = pd.DataFrame({"name": [f"class {i}" for i in range(8)], "angle": range(5, 45, 5)})
    cut = alt.param(
        name="cut", value=40, bind=alt.binding_range(min=0, max=40, step=5, name="largest angle")
    )
    return (
        alt.Chart(frame, width="container", height=160, description=ALT_SLIDER)
        .mark_bar()
        .encode(x="angle:Q", y="name:N", tooltip=["name", "angle"])
        .add_params(cut)
        .transform_filter("datum.angle <= cut")
    )


def wide_chart() -> alt.HConcatChart:
    """Two views side by side, too wide for a phone, with a menu and black ink."""
    frame = pd.DataFrame(
        {"x": range(12), "y": [i * i % 7 for i in range(12)], "kind": list("abc") * 4}
    )
    pick = alt.selection_point(
        fields=["kind"], value="a", bind=alt.binding_select(options=list("abc"), name="kind ")
    )
    points = (
        alt.Chart(
            frame, width=330, height=200, title="A title so long that a phone needs two lines"
        )
        .mark_point(filled=True)
        .encode(
            x="x:Q",
            y="y:Q",
            color=alt.Color("kind:N", title="kind of picture"),
            opacity=alt.condition(pick, alt.value(1.0), alt.value(0.1)),
        )
        .add_params(pick)
    )
    text = (
        alt.Chart(frame, width=330, height=200)
        .mark_text(color="black")
        .encode(x="x:Q", y="y:Q", text="kind:N")
    )
    return (points | text).properties(description="The same points twice, as dots and as letters.")


def shown(chart: alt.TopLevelMixin, name: str, caption: str, live: bool = False) -> list:
    """What `sing.show` leaves in a notebook: the chart, and its caption for JupyterLab."""
    spec, told = chart.to_dict(), {"caption": caption, "name": name}
    data = {
        "application/vnd.vegalite.v6+json": spec, "application/vnd.vegalite.v5+json": spec,
        "text/plain": "a chart",
    }
    if live:
        data["application/vnd.jupyter.widget-view+json"] = {
            "model_id": "2f", "version_major": 2, "version_minor": 0}
        told["live"] = True
    output = nbformat.v4.new_output
    return [
        output("display_data", data, metadata={"application/vnd.vegalite.v6+json": told}),
        output("display_data", {"text/markdown": f"*{caption}*"},
               metadata={"text/markdown": {"caption": True}}),
    ]


def code_cell(source: str, outputs: list = (), **metadata) -> nbformat.NotebookNode:
    """Return a cell that has been run."""
    return nbformat.v4.new_code_cell(
        source, metadata=metadata, outputs=list(outputs), execution_count=1)


def output(mime: str, text: str) -> list:
    """Return what a cell displays in one form."""
    return [nbformat.v4.new_output("display_data", {mime: text, "text/plain": "text"})]


def write_notebook(path: Path, cells: list) -> None:
    """Write a notebook that has been run."""
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }), path)


def write_book(folder: Path) -> dict[str, Path]:
    """Write the sources of a two-page book; returns the arguments of `stage_book`."""
    root, executed = folder / "root", folder / "executed"
    for path in (root / "book", executed):
        path.mkdir(parents=True)
    shutil.copy2(ROOT / "_config.yml", root)
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    (root / "book" / "_toc.yml").write_text(TOC)
    table = pd.DataFrame({f"column {i}": [0.123456, 1.5, 2.25] for i in range(14)})
    text = nbformat.v4.new_markdown_cell
    write_notebook(executed / "intro.ipynb", [
        text("# A tiny book\n\n$$ f = f_{\\parallel} + f_{\\perp}, \\qquad \\mathbb{R}^m $$"),
        code_cell("said", output("text/markdown", SAID)),
        code_cell("show", shown(wide_chart(), "fig-best", "A chart, with $x$ in its *caption*.")),
    ])
    write_notebook(executed / "01_charts.ipynb", [
        text("# Charts\n\nBack to the [introduction](intro.ipynb)."),
        code_cell("seed: int = 3", tags=["parameters"]),
        code_cell("seed = 4", tags=["injected-parameters"]),
        code_cell("one()", shown(slider_chart(), "fig-slider", "Bars, cut.")),
        code_cell("two()", shown(wide_chart(), "fig-live", "Points, again.", live=True)),
        code_cell("table", output("text/html", table.to_html())),
    ])
    return {"executed_dir": executed, "out_dir": folder / "stage", "root": root}


def build(stage: Path) -> subprocess.CompletedProcess[str]:
    """Build a staged book the way the project does: a warning is an error."""
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(stage)]
    return subprocess.run(
        [*command, "-W", "-n", "--keep-going"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300, check=False)


# --- without a browser ----------------------------------------------------------------------------


def test_chart_html_survives_any_text():
    """Neither the alt text nor the spec can end their element early."""
    spec = {"description": ALT_SLIDER, "title": "</script><!--"}
    text = chart_html(spec)
    body = text.split('<script type="application/json">')[1].split("</script>")[0]
    assert json.loads(body) == spec
    assert text.count("</script>") == 1
    assert "&quot;angle&quot; &lt; 40" in text


def test_stage_book_names_the_page_that_is_missing_and_leaves_the_old_folder(tmp_path):
    book = write_book(tmp_path)
    stage_book(**book)
    (book["executed_dir"] / "01_charts.ipynb").unlink()
    with pytest.raises(ValueError, match=r"01_charts.*make book"):
        stage_book(**book)
    assert (book["out_dir"] / "01_charts.ipynb").is_file()


def test_build_fails_on_what_is_missing(tmp_path):
    """No alt text, or a link to a page that is not there: each is a warning, so the build fails."""
    book = write_book(tmp_path)
    path = book["executed_dir"] / "01_charts.ipynb"
    notebook = nbformat.read(path, as_version=4)
    del notebook.cells[3].outputs[0].data["application/vnd.vegalite.v6+json"]["description"]
    notebook.cells[0].source += " And [nothing](07_nothing.ipynb)."
    nbformat.write(notebook, path)
    done = build(stage_book(**book))
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "07_nothing" in said
    assert "a chart has no alt text" in said


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_book(tmp_path_factory) -> Path:
    """Build the tiny book once; returns its html folder."""
    stage = stage_book(**write_book(tmp_path_factory.mktemp("tiny")))
    done = build(stage)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return stage / "_build" / "html"


@pytest.fixture(scope="module")
def site(tiny_book):
    """Serve the tiny book and open a browser; gives both."""
    if not find_chromium() and not os.environ.get("CI"):
        pytest.skip("no Chromium: apt-get install chromium, or set SING_CHROMIUM")
    with serve(tiny_book) as address, open_browser() as browser:
        yield address, browser


def test_pages_are_small_and_name_no_vega_host(tiny_book):
    """The bundle is written once and loaded only by pages with charts."""
    assert (tiny_book / "_static" / "vega-bundle.js").stat().st_size > 500_000
    page = (tiny_book / "01_charts.html").read_text()
    assert page.count("vega-bundle.js") == 1
    assert "unpkg.com" not in page
    assert "THEBE_JS_URL" not in page
    assert "kernelName" not in page
    assert "vega-bundle.js" not in (tiny_book / "search.html").read_text()
    intro = (tiny_book / "intro.html").read_text()
    assert "<strong>9.2 degrees</strong>" in intro
    assert 'href="01_charts.html"' in intro
    assert intro.count("in its <em>caption</em>") == 1  # in the figure, and not once more below it
    assert "Parameters and their defaults" in page  # folded
    assert "Parameters this page was made with" in page
    # A live figure keeps its chart, says where it is live, and loads nothing for the widget.
    assert page.count('class="sing-live"') == 1
    figure = page.split('id="fig-live"')[1].split("cell docutils")[0]
    assert figure.index('class="sing-chart"') < figure.index('class="sing-live"')
    assert "jupyter.widget" not in page
    assert "require.js" not in page


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", ["intro", "01_charts"])
def test_page_is_whole(site, name, size, theme):
    """No outside request, no error, every chart drawn, named and numbered, no sideways scroll."""
    address, browser = site
    with new_page(browser, size, theme) as page:
        report = inspect_page(page, f"{address}/{name}.html", theme)
        assert report.problems() == []
        assert [c["number"] for c in report.charts] == (
            ["Fig. 1"] if name == "intro" else ["Fig. 2", "Fig. 3"]
        )
        if name == "intro":
            assert page.locator("mjx-container").count() == 4
        else:
            assert report.charts[0]["alt"] == ALT_SLIDER
        for plot in page.locator(".sing-plot").all():
            svg, column = plot.locator("svg").bounding_box(), plot.bounding_box()
            assert svg["width"] <= column["width"] + 1


def test_broken_chart_says_so(site, tiny_book):
    """A chart that cannot be drawn shows its alt text, and the report names it."""
    address, browser = site
    page_file = tiny_book / "broken.html"
    text = (tiny_book / "01_charts.html").read_text()
    page_file.write_text(text.replace('"mark":{"type":"bar"}', '"mark":{"type":"nothing"}', 1))
    with new_page(browser) as page:
        report = inspect_page(page, f"{address}/broken.html")
        assert any("is not drawn" in problem for problem in report.problems())
        assert "It shows: Bars of" in page.locator(".sing-error").inner_text()
    page_file.unlink()


def test_report_catches_an_outside_request_and_a_wide_page(site, tiny_book):
    """The checks themselves can fail."""
    address, browser = site
    page_file = tiny_book / "bad.html"
    bad = (
        '<div style="width:3000px">wide</div><script src="https://example.com/x.js"></script>'
        "<script>undefinedName()</script></article>"
    )
    text = (tiny_book / "intro.html").read_text()
    text = text.replace("</article>", bad).replace('aria-label="The', 'data-x="The')
    page_file.write_text(text)
    with new_page(browser, (390, 844)) as page:
        found = "\n".join(inspect_page(page, f"{address}/bad.html").problems())
    page_file.unlink()
    for expected in (
        "outside host: https://example.com",
        "page error",
        "scrolls sideways",
        "has no alt text",
    ):
        assert expected in found
