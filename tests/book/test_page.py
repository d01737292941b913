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
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

pytest.importorskip("playwright")

from browser import find_chromium, inspect_page, new_page, open_browser, serve

from sing_nb.book.page import chart_html, stage_book

ROOT = Path(__file__).resolve().parents[2]
VEGALITE = "application/vnd.vegalite.v6+json"
SAID = "Lite0 moves by **9.2 degrees**, see [the bars](01_charts.ipynb); $W f = 0$."
ALT = 'Bars of "angle" < 40 degrees: </script> longer for a later class.'


def slider_chart():
    """Bars that a slider cuts off, with the kind of text that breaks careless HTML."""
    frame = pd.DataFrame({"name": [f"class {i}" for i in range(8)], "angle": range(5, 45, 5)})
    cut = alt.param(
        name="cut", value=40, bind=alt.binding_range(min=0, max=40, step=5, name="largest angle"))
    return (
        alt.Chart(frame, width="container", height=160, description=ALT)
        .mark_bar().encode(x="angle:Q", y="name:N", tooltip=["name", "angle"])
        .add_params(cut).transform_filter("datum.angle <= cut"))


def wide_chart():
    """Two views side by side, too wide for a phone, with a long title and black ink."""
    frame = pd.DataFrame({"x": range(12), "y": [i * i % 7 for i in range(12)]})
    points = alt.Chart(
        frame, width=330, height=200, title="A title so long that a phone needs two lines"
    ).mark_point().encode(x="x:Q", y="y:Q")
    text = alt.Chart(frame, width=330).mark_text(color="black", text="a").encode(x="x:Q", y="y:Q")
    return (points | text).properties(description="The same points twice, as dots and letters.")


def shown(chart, name, caption, live=False):
    """A cell with what `sing.show` leaves in a notebook: the chart, its caption for JupyterLab."""
    spec, told = chart.to_dict(), {"caption": caption, "name": name}
    data = {VEGALITE: spec, VEGALITE.replace("v6", "v5"): spec, "text/plain": "a chart"}
    if live:
        data["application/vnd.jupyter.widget-view+json"] = {
            "model_id": "2f", "version_major": 2, "version_minor": 0}
        told["live"] = True
    return new_code_cell("show()", execution_count=1, outputs=[
        new_output("display_data", data, metadata={VEGALITE: told}),
        new_output("display_data", {"text/markdown": f"*{caption}*"},
                   metadata={"text/markdown": {"caption": True}})])


def said(mime, text):
    output = new_output("display_data", {mime: text, "text/plain": "text"})
    return new_code_cell("said", execution_count=1, outputs=[output])


def write_book(folder):
    """Write the sources of a two-page book; returns the arguments of `stage_book`."""
    root, executed = folder / "root", folder / "executed"
    for path in (root / "book", executed):
        path.mkdir(parents=True)
    shutil.copy2(ROOT / "_config.yml", root)
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    (root / "book" / "_toc.yml").write_text(
        "format: jb-book\nroot: intro\nchapters:\n  - file: 01_charts\n")
    table = pd.DataFrame({f"column {i}": [0.123456, 1.5, 2.25] for i in range(14)})
    pages = {
        "intro": [
            new_markdown_cell("# A tiny book\n\n$$ f = f_{\\parallel} + f_{\\perp} $$"),
            said("text/markdown", SAID),
            shown(wide_chart(), "fig-best", "A chart, with $x$ in its *caption*.")],
        "01_charts": [
            new_markdown_cell("# Charts\n\nBack to the [introduction](intro.ipynb)."),
            new_code_cell("seed: int = 3", metadata={"tags": ["parameters"]}),
            new_code_cell("seed = 4", metadata={"tags": ["injected-parameters"]}),
            shown(slider_chart(), "fig-slider", "Bars, cut."),
            shown(wide_chart(), "fig-live", "Points, again.", live=True),
            said("text/html", table.to_html())]}
    for name, cells in pages.items():
        nbformat.write(new_notebook(cells=cells, metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3"},
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        }), executed / f"{name}.ipynb")
    return {"executed_dir": executed, "out_dir": folder / "stage", "root": root}


def build(stage):
    """Build a staged book the way the project does: a warning is an error."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("jupyter-book")), "build", str(stage), "-W", "-n",
         "--keep-going"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300, check=False)


def test_chart_html_survives_any_text():
    spec = {"description": ALT, "title": "</script><!--"}
    text = chart_html(spec)
    body = text.split('<script type="application/json">')[1].split("</script>")[0]
    assert json.loads(body) == spec
    assert text.count("</script>") == 1
    assert "&quot;angle&quot; &lt; 40" in text


def test_a_build_fails_on_a_missing_alt_text_and_a_missing_page(tmp_path):
    book = write_book(tmp_path)
    path = book["executed_dir"] / "01_charts.ipynb"
    notebook = nbformat.read(path, as_version=4)
    del notebook.cells[3].outputs[0].data[VEGALITE]["description"]
    notebook.cells[0].source += " And [nothing](07_nothing.ipynb)."
    nbformat.write(notebook, path)
    done = build(stage_book(**book))
    assert done.returncode != 0
    assert "07_nothing" in done.stdout + done.stderr
    assert "a chart has no alt text" in done.stdout + done.stderr


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_book(tmp_path_factory):
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


def test_pages_hold_what_they_show_and_name_no_other_host(tiny_book):
    assert (tiny_book / "_static" / "vega-bundle.js").stat().st_size > 500_000
    page, intro = ((tiny_book / f"{name}.html").read_text() for name in ("01_charts", "intro"))
    assert page.count("vega-bundle.js") == 1
    assert "vega-bundle.js" not in (tiny_book / "search.html").read_text()
    for text in ("unpkg.com", "THEBE_JS_URL", "kernelName", "jupyter.widget", "require.js"):
        assert text not in page
    assert "<strong>9.2 degrees</strong>" in intro
    assert 'href="01_charts.html"' in intro
    assert intro.count("in its <em>caption</em>") == 1  # in the figure, and not once more below it
    assert "Parameters and their defaults" in page  # folded
    assert "Parameters this page was made with" in page
    # A live figure keeps its chart and says where it is live.
    assert page.count('class="sing-live"') == 1
    figure = page.split('id="fig-live"')[1].split("cell docutils")[0]
    assert figure.index('class="sing-chart"') < figure.index('class="sing-live"')


@pytest.mark.parametrize(("size", "theme"), [((1280, 900), "light"), ((390, 844), "dark")])
@pytest.mark.parametrize("name", ["intro", "01_charts"])
def test_page_is_whole(site, name, size, theme):
    """No outside request, no error, every chart drawn, named and numbered, no sideways scroll."""
    address, browser = site
    with new_page(browser, size, theme) as page:
        report = inspect_page(page, f"{address}/{name}.html", theme)
        assert report.problems() == []
        numbers = ["Fig. 1"] if name == "intro" else ["Fig. 2", "Fig. 3"]
        assert [chart["number"] for chart in report.charts] == numbers
        assert page.locator("mjx-container").count() == (3 if name == "intro" else 0)
        for plot in page.locator(".sing-plot").all():
            svg, column = plot.locator("svg").bounding_box(), plot.bounding_box()
            assert svg["width"] <= column["width"] + 1
