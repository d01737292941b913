"""The rendered book, for Sphinx and MyST-NB: charts that need no network, and the book's sources.

It imports nothing that takes long to load: neither torch nor altair.
"""

from __future__ import annotations

import html
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from docutils import nodes

from ..errors import SingError
from .chapters import toc_files

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["ChartRenderer", "bundle_script", "chart_html", "setup", "stage_book"]

VEGALITE = "application/vnd.vegalite.v6+json"
VEGALITE_LAB = "application/vnd.vegalite.v5+json"  # the same for JupyterLab; no use on a page
WIDGET = "application/vnd.jupyter.widget-view+json"
MARKDOWN = "text/markdown"
BUNDLE = "vega-bundle.js"
#: Below a figure that a running kernel answers; sing.show(..., live=...) marks it.
LIVE = '<p class="sing-live">In JupyterLab this figure answers live: <code>make lab</code></p>'
NO_ALT = "a chart has no alt text: give it one with chart.properties(description='what it shows')"
#: What papermill calls a cell -> the line a reader clicks to unfold it.
FOLDED_CELLS = {
    "parameters": "Parameters and their defaults",
    "injected-parameters": "Parameters this page was made with"}


# --- charts ---------------------------------------------------------------------------------------


def chart_html(spec: dict[str, Any], picture: str = "") -> str:
    """The element that ``sing-charts.js`` draws, of a Vega-Lite spec."""
    alt = html.escape(str(spec.get("description", "")).strip(), quote=True)
    # No "<" at all: "</script>" would end the element early and "<!--" would change how it is read.
    body = json.dumps(spec, separators=(",", ":")).replace("<", "\\u003c")
    instead = f'<img src="data:image/png;base64,{picture}" alt="{alt}">' if picture else alt
    return (
        f'<div class="sing-chart" role="figure" aria-label="{alt}">'
        f'<script type="application/json">{body}</script>'
        f"<noscript><p>{instead}</p></noscript></div>")


class ChartRenderer:
    """MyST-NB renderer that turns a notebook's chart into an element the page can draw."""

    mime_priority_overrides: ClassVar = [("html", VEGALITE, 1)]

    @staticmethod
    def handle_mime(renderer: Any, data: Any, inline: bool) -> list[nodes.Element] | None:
        """Nodes of one output; None leaves it to MyST-NB, an empty list shows nothing."""
        live = nodes.raw("", LIVE, format="html")
        told = data.output_metadata.get(data.mime_type, {})
        if data.mime_type == VEGALITE:
            if not str(data.content.get("description", "")).strip():
                renderer.logger.warning(NO_ALT, line=data.line, subtype="alt_text")
            # Not "text_html", the usual class, which the theme keeps light in dark mode.
            node = nodes.raw("", chart_html(data.content), format="html", classes=["output"])
            if "caption" in told:  # a chart that a cell ends with, without sing.show, has none
                node = _figure(renderer, data, node, told)
            return [node, live] if told.get("live") else [node]
        if data.mime_type == WIDGET:
            return [live]  # it needs a kernel: without this note the page would show a hole
        is_caption = data.mime_type == MARKDOWN and told.get("caption")  # stands in the figure
        return [] if is_caption or data.mime_type == VEGALITE_LAB else None


def _figure(renderer: Any, data: Any, chart: nodes.raw, told: dict[str, Any]) -> nodes.figure:
    """A chart as a figure that Sphinx numbers, with the caption and name of its output."""
    from myst_nb.core.render import MimeData

    caption = MimeData(MARKDOWN, told["caption"], cell_metadata=data.cell_metadata, line=data.line)
    figure = nodes.figure("", chart, names=[told["name"]])
    figure += nodes.caption("", "", *renderer.render_markdown_inline(caption))
    figure.source, figure.line = renderer.renderer.document["source"], data.line
    renderer.renderer.document.note_explicit_target(figure, figure)
    return figure


# --- Sphinx ---------------------------------------------------------------------------------------


def bundle_script() -> str:
    """Vega, Vega-Lite and vega-embed as one script, which defines ``window.vegaEmbed``."""
    import vl_convert

    # The bundle is written as a module. Browsers refuse modules in pages opened from disk, and it
    # imports and exports nothing, so a strict function does the same and works there too.
    return f'(function(){{"use strict";{vl_convert.javascript_bundle()}}})();\n'


def _write_bundle(app: Sphinx, error: Exception | None) -> None:
    """Write that script beside the other static files."""
    if error is None and app.builder.format == "html":
        Path(app.outdir, "_static", BUNDLE).write_text(bundle_script(), encoding="utf-8")


def _choose_scripts(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Load Vega only where there is a chart, and thebe nowhere: it asks an outside host."""
    scripts = context["script_files"]
    scripts[:] = [
        script for script in scripts if "thebe" not in str(script.filename)
        and "THEBE_JS_URL" not in (script.attributes.get("body") or "")]
    if 'class="sing-chart"' in context.get("body", ""):
        app.add_js_file(BUNDLE, loading_method="defer")  # during this event: on this page only


def _drop_thebe_settings(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Drop thebe's settings from the end of the page: they name an outside host to no purpose."""
    for node in list(doctree.findall(nodes.raw)):
        text = node.astext()
        if "text/x-thebe-config" in text or "<script>kernelName" in text:
            node.parent.remove(node)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension with Sphinx; Jupyter Book itself loads all scripts of ``_static``."""
    # After thebe (500) has added what is dropped here.
    app.connect("doctree-resolved", _drop_thebe_settings, priority=900)
    app.connect("html-page-context", _choose_scripts, priority=900)
    app.connect("build-finished", _write_bundle)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


# --- the folder the book is built from ------------------------------------------------------------


def stage_book(
    executed_dir: str | os.PathLike, out_dir: str | os.PathLike, root: str | os.PathLike = "."
) -> Path:
    """Lay out the folder that ``jupyter-book build`` reads, in the place of an older one."""
    executed, out, book = Path(executed_dir), Path(out_dir).resolve(), Path(root, "book")
    pages = toc_files(book)
    for page in pages:
        if not (executed / f"{page}.ipynb").is_file() and not (book / f"{page}.md").is_file():
            raise SingError(
                f"{book / '_toc.yml'} names {page!r}, and there is neither {book / page}.md nor "
                f"{executed / page}.ipynb. Write the page, or run the chapter: make book.")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(book / "_static", out / "_static")
    for source in (Path(root, "_config.yml"), book / "_toc.yml", *book.glob("*.md")):
        shutil.copy2(source, out)
    for page in pages:
        if (executed / f"{page}.ipynb").is_file():
            _stage_notebook(executed / f"{page}.ipynb", out / f"{page}.ipynb")
    return out


def _stage_notebook(source: Path, target: Path) -> None:
    """Copy an executed notebook with its parameter cells folded: they belong on the page."""
    notebook = json.loads(source.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        tags = cell["metadata"].setdefault("tags", [])
        for tag, prompt in FOLDED_CELLS.items():
            if tag in tags:
                cell["metadata"]["mystnb"] = {"code_prompt_show": prompt}
                cell["metadata"]["tags"] = sorted({*tags, "hide-input"})
    target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False), encoding="utf-8")
