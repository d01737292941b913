"""The rendered page: what it holds, and what stops a build."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment
from nbformat import write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from sing_nb.book.page import chart_html, stage_book
from sing_nb.errors import SingError

ROOT = Path(__file__).resolve().parents[2]
VEGALITE = "application/vnd.vegalite.v6+json"


def test_chart_html_survives_any_text():
    alt = 'Bars of "angle" < 40 degrees: </script> longer for a later class.'
    spec = {"description": alt, "title": "</script><!--"}
    text = chart_html(spec)
    body = text.split('<script type="application/json">')[1].split("</script>")[0]
    assert json.loads(body) == spec
    assert text.count("</script>") == 1
    assert "&quot;angle&quot; &lt; 40" in text


def test_a_build_fails_on_a_missing_alt_text_and_a_missing_page(tmp_path):
    root, executed = tmp_path / "root", tmp_path / "executed"
    for path in (root / "book", executed):
        path.mkdir(parents=True)
    shutil.copy2(ROOT / "_config.yml", root)
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    (root / "book" / "_toc.yml").write_text(
        "format: jb-book\nroot: intro\nparts:\n- chapters:\n  - file: words\n")
    (root / "book" / "words.md").write_text("# Words\n")
    with pytest.raises(SingError, match=r"intro\.ipynb\. Write the page, or run the chapter"):
        stage_book(executed, tmp_path / "stage", root)
    chart = {"mark": "bar", "data": {"values": [{"x": 1}]}, "encoding": {"x": {"field": "x"}}}
    write(new_notebook(cells=[
        new_markdown_cell("# A tiny book\n\nAnd [nothing](07_nothing.ipynb)."),
        new_code_cell("chart", outputs=[new_output("display_data", {VEGALITE: chart})]),
    ], metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}),
        executed / "intro.ipynb")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("jupyter-book")), "build", "-W", "-n", "--keep-going",
         str(stage_book(executed, tmp_path / "stage", root))],
        capture_output=True, text=True, env=environment(PYTHONPATH=str(ROOT)), timeout=300)
    assert done.returncode != 0
    assert "07_nothing" in done.stdout + done.stderr
    assert "a chart has no alt text" in done.stdout + done.stderr


def test_pages_hold_what_they_show_and_name_no_other_host(smoke_book):
    assert (smoke_book / "_static" / "vega-bundle.js").stat().st_size > 500_000
    page = (smoke_book / "01_setup.html").read_text(encoding="utf-8")
    assert page.count("vega-bundle.js") == 1
    assert "vega-bundle.js" not in (smoke_book / "search.html").read_text(encoding="utf-8")
    for text in ("unpkg.com", "THEBE_JS_URL", "kernelName", "jupyter.widget", "require.js"):
        assert text not in page
    assert "<strong>Figure.</strong>" not in page  # JupyterLab's caption, below the page's own
    assert "Parameters and their defaults" in page  # folded
    assert "Parameters this page was made with" in page
    # A live figure keeps its chart and says where it is live.
    assert page.count('class="sing-live"') == 1
    figure = page.split('id="fig-try-setup"')[1].split("cell docutils")[0]
    assert figure.index('class="sing-chart"') < figure.index('class="sing-live"')
