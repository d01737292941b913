"""One executed notebook as one page that opens from disk and asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html

from ..book.page import VEGALITE, bundle_script, chart_html
from ..pictures.fetch import data_dir, write_atomic

__all__ = ["charts", "page"]

BOOK = data_dir().parent / "book"
HEADING = re.compile(
    r'<h([23])(?: id="[^"]*")?>(.*?)(?:<a class="anchor-link"[^>]*>[^<]*</a>)?</h\1>', re.DOTALL)
# Charts are redrawn when `data-theme` changes; a narrow page keeps its contents folded.
THEME = """(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const page = document.documentElement;
  const follow = () => { page.dataset.theme = dark.matches ? "dark" : "light"; };
  dark.addEventListener("change", follow);
  follow();
  document.addEventListener("DOMContentLoaded", () => {
    const contents = document.querySelector(".contents details");
    if (contents) contents.open = window.matchMedia("(min-width: 66rem)").matches;
  });
})();"""


def page(
    notebook: Path | str, target: Path | str, title: str, *, description: str = "",
    closing: str = "",
) -> Path:
    """Write an executed notebook as one HTML file that needs no network and no other file."""
    node = nbformat.read(notebook, as_version=4)
    number = 0
    for cell in node.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\A# .*\n?", "", cell.source)
        elif cell.cell_type == "code":
            number = _draw(cell, number)
    if closing:
        node.cells.append(nbformat.v4.new_markdown_cell(closing))
    static = BOOK / "_static"
    scripts = [THEME, *([bundle_script()] if number else []),
               (static / "sing-charts.js").read_text(encoding="utf-8")]
    # The element would end here, wherever in the script it stands.
    scripts = [re.sub(r"</(?=script)", r"<\\/", script, flags=re.IGNORECASE) for script in scripts]
    styles = [path.read_text(encoding="utf-8") for path in (
        BOOK / "templates" / "standalone" / "page.css", static / "sing.css")]
    exporter = HTMLExporter(
        template_name="standalone", extra_template_basedirs=[str(BOOK / "templates")])
    about = {"title": title, "description": description, "policy": _policy(scripts),
             "scripts": scripts, "styles": "\n".join(styles)}
    text, _ = exporter.from_notebook_node(node, {"page": about})
    return write_atomic(Path(target), _with_contents(text))


def charts(notebook: Path | str) -> dict[str, dict]:
    """Vega-Lite specs of a notebook's charts by the names that :func:`sing_nb.show` gave them."""
    cells = nbformat.read(notebook, as_version=4).cells
    shown = [output.data for cell in cells for output in cell.get("outputs", [])
             if VEGALITE in output.get("data", {})]
    return {str(data.get("text/plain", "")).partition(":")[0]: data[VEGALITE] for data in shown}


def _draw(cell: nbformat.NotebookNode, number: int) -> int:
    """Turn a cell's charts into elements that the page draws; returns the figures so far."""
    # JupyterLab's caption of a chart stands in the figure here.
    cell.outputs = [output for output in cell.outputs if not output.get(
        "metadata", {}).get("text/markdown", {}).get("caption")]
    for output in cell.outputs:
        data, about = output.get("data", {}), output.get("metadata", {}).get(VEGALITE, {})
        if VEGALITE not in data:
            continue
        number += 1
        drawing = chart_html(data[VEGALITE], str(data.get("image/png", "")))
        caption = re.sub(r"\A<p>(.*)</p>\Z", r"\1", markdown2html(
            str(about.get("caption", ""))).strip(), flags=re.DOTALL)
        name = html.escape(str(about.get("name", f"figure-{number}")))
        output.data = {"text/html": (
            f'<figure id="{name}">{drawing}<figcaption><p><span class="caption-number">Figure '
            f'{number}. </span><span class="caption-text">{caption}</span></p></figcaption>'
            f"</figure>")}
    return number


def _policy(scripts: list[str]) -> str:
    """A content security policy: these scripts, pictures inside the file, and nothing else."""
    sums = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            for script in scripts)
    # Vega makes functions of a chart's expressions; only a script that may run can do so.
    allowed = " ".join(["'unsafe-eval'", *(f"'sha256-{one}'" for one in sums)])
    return (f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
            f"base-uri 'none'; form-action 'none'")


def _with_contents(text: str) -> str:
    """Give every heading a name of its own, and list them before the text."""
    seen: dict[str, int] = {}
    entries = []

    def named(match: re.Match) -> str:
        level, inner = match.groups()
        words = html.unescape(re.sub(r"<[^>]+>", "", inner)).strip()
        name = re.sub(r"[^\w]+", "-", words.lower()).strip("-") or "section"
        seen[name] = seen.get(name, 0) + 1
        name = name if seen[name] == 1 else f"{name}-{seen[name]}"
        kind = ' class="inner"' if level == "3" else ""
        entries.append(f'<li{kind}><a href="#{name}">{html.escape(words)}</a></li>')
        return f'<h{level} id="{name}">{inner}</h{level}>'

    head, body = text.split("<!--contents-->", 1)
    body = HEADING.sub(named, body)
    contents = ('<nav class="contents" aria-label="Contents"><details><summary>Contents</summary>'
                f'<ol>{"".join(entries)}</ol></details></nav>')
    return f"{head}{contents if entries else ''}{body}"
