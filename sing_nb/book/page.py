"""The rendered book: charts as figures that need no network, and the folder the book is built from.

Sphinx loads this module as an extension and MyST-NB as a mime renderer, so it imports nothing
that takes long to load: neither torch nor altair.
"""

from __future__ import annotations

import html
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["ChartRenderer", "bundle_script", "chart_html", "setup", "stage_book", "toc_files"]

VEGALITE = "application/vnd.vegalite.v6+json"
#: The same spec again, for JupyterLab, which draws no newer version. The page has no use for it.
VEGALITE_LAB = "application/vnd.vegalite.v5+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
MARKDOWN = "text/markdown"
BUNDLE = "vega-bundle.js"

#: What papermill calls a cell -> the line a reader clicks to unfold it.
FOLDED_CELLS = {
    "parameters": "Parameters and their defaults",
    "injected-parameters": "Parameters this page was made with",
}


# --- charts ---------------------------------------------------------------------------------------


def chart_html(spec: dict[str, Any], picture: str = "") -> str:
    """Write a Vega-Lite spec as the element that ``sing-charts.js`` draws.

    Parameters
    ----------
    spec : dict
        A Vega-Lite spec. Its ``description`` becomes the alt text.
    picture : str, optional
        The same chart as a PNG in base64, for who runs no scripts; by default they read the alt
        text.

    Returns
    -------
    str
        One HTML element, without any outside reference.
    """
    alt = html.escape(str(spec.get("description", "")).strip(), quote=True)
    # No "<" at all: "</script>" would end the element early and "<!--" would change how it is read.
    body = json.dumps(spec, separators=(",", ":")).replace("<", "\\u003c")
    instead = f'<img src="data:image/png;base64,{picture}" alt="{alt}">' if picture else alt
    return (
        f'<div class="sing-chart" role="figure" aria-label="{alt}">'
        f'<script type="application/json">{body}</script>'
        f"<noscript><p>{instead}</p></noscript></div>"
    )


def _chart_node(spec: dict[str, Any]) -> nodes.raw:
    # Not "text_html", the usual class: the theme gives those a light background in dark mode.
    return nodes.raw("", chart_html(spec), format="html", classes=["output"])


def _lacks_alt(spec: dict[str, Any]) -> bool:
    return not str(spec.get("description", "")).strip()


#: Below a figure that a running kernel answers; sing.show(..., live=...) marks it.
LIVE = '<p class="sing-live">In JupyterLab this figure answers live: <code>make lab</code></p>'
NO_ALT = "a chart has no alt text: give it one with chart.properties(description='what it shows')"


class ChartRenderer:
    """MyST-NB renderer that turns a notebook's chart into an element the page can draw."""

    mime_priority_overrides: ClassVar = [
        (builder, VEGALITE, 1) for builder in ("html", "dirhtml", "singlehtml")
    ]

    @staticmethod
    def handle_mime(renderer: Any, data: Any, inline: bool) -> list[nodes.Element] | None:
        """Render one output, or return None to leave it to MyST-NB.

        Parameters
        ----------
        renderer : myst_nb.core.render.NbElementRenderer
            The renderer that asks; its logger knows the page.
        data : myst_nb.core.render.MimeData
            One entry of a mime bundle.
        inline : bool
            Whether the output stands inside a paragraph.

        Returns
        -------
        list of docutils.nodes.Element or None
            The nodes to show.
        """
        if data.mime_type == VEGALITE:
            if _lacks_alt(data.content):
                renderer.logger.warning(NO_ALT, line=data.line, subtype="alt_text")
            told = data.output_metadata.get(VEGALITE, {})
            note = [nodes.raw("", LIVE, format="html")] if told.get("live") else []
            if "caption" not in told:  # a chart that a cell ends with, not shown by sing.show
                return [_chart_node(data.content), *note]
            return [_figure(renderer, data, told), *note]
        if data.mime_type == MARKDOWN and data.output_metadata.get(MARKDOWN, {}).get("caption"):
            # JupyterLab's caption: here it stands in the figure.
            return []
        if data.mime_type == VEGALITE_LAB:
            # MyST-NB warns of types nobody claims; an empty answer claims it and shows nothing.
            return []
        if data.mime_type == WIDGET:
            # A widget needs a running kernel. Without this note the page would show a hole.
            return [nodes.raw("", LIVE, format="html")]
        return None


def _figure(renderer: Any, data: Any, told: dict[str, Any]) -> nodes.figure:
    """A chart as a figure that Sphinx numbers, with the caption and name of its output."""
    from myst_nb.core.render import MimeData

    caption = MimeData(
        MARKDOWN, told["caption"], cell_metadata=data.cell_metadata, line=data.line)
    figure = nodes.figure("", _chart_node(data.content), names=[told["name"]])
    figure += nodes.caption("", "", *renderer.render_markdown_inline(caption))
    figure.source, figure.line = renderer.renderer.document["source"], data.line
    renderer.renderer.document.note_explicit_target(figure, figure)
    return figure


# --- Sphinx ---------------------------------------------------------------------------------------


def bundle_script() -> str:
    """Vega, Vega-Lite and vega-embed as one script, which defines ``window.vegaEmbed``."""
    import vl_convert  # here: it is slow to load, and a chapter that imports us has no need of it

    # The bundle is written as a module. Browsers refuse modules in pages opened from disk, and it
    # imports and exports nothing, so a strict function does the same and works there too.
    return f'(function(){{"use strict";{vl_convert.javascript_bundle()}}})();\n'


def _write_bundle(app: Sphinx, error: Exception | None) -> None:
    """Write that script beside the other static files."""
    if error is not None or app.builder.format != "html":
        return
    target = Path(app.outdir, "_static", BUNDLE)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(bundle_script(), encoding="utf-8")


def _choose_scripts(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Load Vega only where there is a chart, and thebe nowhere."""
    if app.builder.format != "html":
        return

    def is_thebe(script: Any) -> bool:
        # thebe declares its names twice, which is an error on every page, and asks an outside host.
        body = (getattr(script, "attributes", None) or {}).get("body") or ""
        return "THEBE_JS_URL" in body or "thebe" in str(getattr(script, "filename", "") or "")

    context["script_files"] = [s for s in context["script_files"] if not is_thebe(s)]
    if 'class="sing-chart"' in context.get("body", ""):
        script = f"_static/{BUNDLE}"
        context["script_files"].append(_deferred(script))


def _deferred(filename: str) -> Any:
    """Return a script that loads beside the page and runs before it counts as loaded."""
    from sphinx.builders.html._assets import _JavaScript

    return _JavaScript(filename, priority=400, defer="defer")


def _drop_thebe_config(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Drop thebe's settings from the end of the page: they name an outside host to no purpose."""
    for node in list(doctree.findall(nodes.raw)):
        text = node.astext()
        if "text/x-thebe-config" in text or "<script>kernelName" in text:
            node.parent.remove(node)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension with Sphinx.

    Jupyter Book loads every script and style of ``_static`` by itself: ours need no mention here.
    """
    # After thebe (500) has added what is dropped here.
    app.connect("doctree-resolved", _drop_thebe_config, priority=900)
    app.connect("html-page-context", _choose_scripts, priority=900)
    app.connect("build-finished", _write_bundle)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


# --- the folder the book is built from ------------------------------------------------------------


def toc_files(toc: Any) -> list[str]:
    """List every page that a table of contents names, in order."""
    if isinstance(toc, list):
        return [name for part in toc for name in toc_files(part)]
    if not isinstance(toc, dict):
        return []
    own = [str(toc[key]) for key in ("root", "file") if key in toc]
    return own + [name for value in toc.values() for name in toc_files(value)]


def _find_page(name: str, book: Path, executed: Path) -> Path:
    """Return the file behind one name of the table of contents."""
    stem = name.removesuffix(".ipynb").removesuffix(".md")
    notebook, page = executed / f"{stem}.ipynb", book / f"{stem}.md"
    if not name.endswith(".md") and notebook.is_file():
        return notebook
    if not name.endswith(".ipynb") and page.is_file():
        return page
    if (book / f"{stem}.ipynb").is_file():
        raise ValueError(
            f"{book / '_toc.yml'} names {name!r}, but {notebook} does not exist: the chapter has "
            f"not been run. Run 'make book', which runs it first."
        )
    raise ValueError(
        f"{book / '_toc.yml'} names {name!r}, but there is neither {page} nor "
        f"{book / f'{stem}.ipynb'}. Write the page or take its line out of the table of contents."
    )


def _stage_notebook(source: Path, target: Path) -> None:
    """Copy an executed notebook with its parameter cells folded away."""
    notebook = json.loads(source.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        metadata = cell.setdefault("metadata", {})
        tags = metadata.setdefault("tags", [])
        for tag, prompt in FOLDED_CELLS.items():
            if tag in tags:
                # Folded and not removed: what a page was made with belongs on the page.
                if not {"hide-input", "remove-input", "remove-cell", "hide-cell"} & set(tags):
                    tags.append("hide-input")
                metadata.setdefault("mystnb", {}).setdefault("code_prompt_show", prompt)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def stage_book(
    executed_dir: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    root: str | os.PathLike[str] = ".",
) -> Path:
    """Lay out the folder that ``jupyter-book build`` reads.

    Parameters
    ----------
    executed_dir : path
        Where the executed chapters are, named as the table of contents names them.
    out_dir : path
        The folder to make. One that is there already is replaced as a whole.
    root : path, default "."
        The repository, which holds ``_config.yml`` and ``book/``.

    Returns
    -------
    pathlib.Path
        ``out_dir``, absolute.

    Raises
    ------
    ValueError
        Where the table of contents names a page that is not there, or a source file is missing.
    """
    executed, out, root = Path(executed_dir), Path(out_dir).resolve(), Path(root).resolve()
    book = root / "book"
    for needed in (root / "_config.yml", book / "_toc.yml"):
        if not needed.is_file():
            raise ValueError(f"{needed} is missing: is {root} the root of the repository?")
    toc = yaml.safe_load((book / "_toc.yml").read_text(encoding="utf-8"))
    names = toc_files(toc)
    pages = {name: _find_page(name, book, executed) for name in names}

    staging = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        for source in (*book.glob("*.md"), book / "_toc.yml"):
            shutil.copy2(source, staging)
        if (book / "_static").is_dir():
            shutil.copytree(book / "_static", staging / "_static")
        for name, source in pages.items():
            if source.suffix == ".ipynb":
                _stage_notebook(source, staging / f"{name.removesuffix('.ipynb')}.ipynb")
            elif source.parent != book:
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, staging / source.relative_to(book))
        shutil.copy2(root / "_config.yml", staging)
        # Only now, whole and checked, does it take the place of what was there.
        shutil.rmtree(out, ignore_errors=True)
        staging.replace(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return out
