"""One executed notebook as one page that opens from disk and asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..book.page import VEGALITE, bundle_script, chart_html
from ..errors import SingError
from ..pictures.fetch import data_dir, write_atomic

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["charts", "page"]

BOOK = data_dir().parent / "book"
#: What the book resolves and nothing resolves here.
SPHINX = {
    "link to a chapter": re.compile(r"\]\([\w/.-]+\.(?:ipynb|md)[)#]"),
    "role": re.compile(r"\{[a-z][\w:.-]*\}`[^`]*`"),
    "number of the run": re.compile(r"\{\{\s*\w+\s*\}\}"),
    "target": re.compile(r"^\([\w-]+\)=\s*$", re.MULTILINE),
    "directive": re.compile(r"^\s*(?:`{3,}|:{3,})\{[a-z][\w:.-]*\}.*$", re.MULTILINE),
}
HEADING = re.compile(
    r'<h([23])(?: id="[^"]*")?>(.*?)(?:<a class="anchor-link"[^>]*>[^<]*</a>)?</h\1>', re.DOTALL
)
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
    """Write an executed notebook as one HTML file that needs no network and no other file.

    Its code is left out; outputs, text and figures stay, with the captions that
    :func:`sing_nb.show` gave them, and numbers. Charts are drawn by the script and the styles
    of the book, which the file holds, as it does the library that draws them. A content security
    policy forbids everything else: other scripts, as in the name of a folder, and every request.

    Parameters
    ----------
    notebook : path
        Executed, in nbformat 4.
    target : path
        The file to write, atomically.
    title : str
        Plain text, the page's title and first heading; one that the notebook has is left out.
    description : str, optional
        One sentence of plain text, for lists of search results.
    closing : str, optional
        Markdown that follows the last cell.

    Returns
    -------
    pathlib.Path
        The target.

    Raises
    ------
    SingError
        If the notebook cannot be read, a chart has no alt text, or a cell's text holds what only
        the book resolves: a link to a chapter, a role, a target, a directive or a ``{{ key }}``.
    """
    import nbformat
    from nbconvert import HTMLExporter

    node = _read(notebook)
    number = 0
    for cell in node.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\A# .*\n?", "", cell.source)
            _refuse_sphinx(cell.source, notebook)
        elif cell.cell_type == "code":
            number = _figures(cell, number, notebook)
    if closing:
        node.cells.append(nbformat.v4.new_markdown_cell(closing))
    drawn = any('class="sing-chart"' in str(cell.get("outputs", "")) for cell in node.cells)
    static = BOOK / "_static"
    scripts = [THEME, *([bundle_script()] if drawn else []), _text(static / "sing-charts.js")]
    # The element would end here, wherever in the script it stands.
    scripts = [re.sub(r"</(?=script)", r"<\\/", script, flags=re.IGNORECASE) for script in scripts]
    styles = [
        _text(BOOK / "templates" / "standalone" / "page.css"), _text(static / "sing.css"),
    ]
    exporter = HTMLExporter(
        template_name="standalone", extra_template_basedirs=[str(BOOK / "templates")],
    )
    about = {
        "title": title, "description": description, "policy": _policy(scripts),
        "scripts": scripts, "styles": "\n".join(styles),
    }
    text, _ = exporter.from_notebook_node(node, {"page": about})
    return write_atomic(Path(target), _with_contents(text))


def charts(notebook: Path | str) -> dict[str, dict]:
    """Vega-Lite specs of a notebook's charts by the names that :func:`sing_nb.show` gave them."""
    found = {}
    for cell in _read(notebook).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if VEGALITE in data:
                found[str(data.get("text/plain", "")).partition(":")[0]] = data[VEGALITE]
    return found


def _read(notebook: Path | str) -> NotebookNode:
    import nbformat

    try:
        text = Path(notebook).read_text(encoding="utf-8")
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("nbformat") != 4:
            raise ValueError("it is JSON, but not of nbformat 4")
        nbformat.validate(content)
        return nbformat.reads(text, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise SingError(
            f"{notebook} is no notebook that can be read ({' '.join(str(error).split())[:200]}); "
            f"run the chapter again."
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SingError(
            f"{path}, a part of every page, cannot be read ({error.strerror}); restore it with "
            f"`git checkout book/`."
        ) from error


def _refuse_sphinx(text: str, notebook: Path | str) -> None:
    # What stands in code is shown as it is written, in the book and here.
    bare = re.sub(r"^```(?!\{).*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for what, pattern in SPHINX.items():
        if found := pattern.search(bare):
            raise SingError(
                f"{Path(notebook).name}: the {what} {found.group().strip()!r} means something in "
                f"the book alone, and a page of its own has no use for it."
            )


def _figures(cell: NotebookNode, number: int, notebook: Path | str) -> int:
    """Turn a cell's charts into elements that the page draws; returns the figures so far."""
    from nbconvert.filters import markdown2html

    cell.outputs = [output for output in cell.outputs if not _is_caption(output)]
    for output in cell.outputs:
        data, about = output.get("data", {}), output.get("metadata", {}).get(VEGALITE, {})
        if VEGALITE not in data:
            continue
        caption, name = str(about.get("caption", "")), str(about.get("name", ""))
        _refuse_sphinx(caption, notebook)
        spec = data[VEGALITE]
        if not str(spec.get("description", "")).strip():
            raise SingError(
                f"{Path(notebook).name}: a chart has no alt text; show it by sing.show."
            )
        drawing = chart_html(spec, str(data.get("image/png", "")))
        if caption:
            number += 1
            inner = markdown2html(caption).strip()
            inner = re.sub(r"\A<p>(.*)</p>\Z", r"\1", inner, flags=re.DOTALL)
            anchor = f' id="{html.escape(name)}"' if name else ""
            drawing = (
                f'<figure{anchor}>{drawing}<figcaption><p><span class="caption-number">Figure '
                f'{number}. </span><span class="caption-text">{inner}</span></p></figcaption>'
                f"</figure>"
            )
        output.data = {"text/html": drawing}
    return number


def _is_caption(output: NotebookNode) -> bool:
    """Whether it is JupyterLab's caption of a chart, which here stands in the figure."""
    return bool(output.get("metadata", {}).get("text/markdown", {}).get("caption"))


def _policy(scripts: list[str]) -> str:
    """A content security policy: these scripts, pictures inside the file, and nothing else."""
    sums = (
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    )
    # Vega makes functions of a chart's expressions; only a script that may run can do so.
    allowed = " ".join(["'unsafe-eval'", *(f"'sha256-{one}'" for one in sums)])
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        f"base-uri 'none'; form-action 'none'"
    )


def _with_contents(text: str) -> str:
    """Give every heading a name of its own, and list them before the text."""
    seen: dict[str, int] = {}
    entries = []

    def named(match: re.Match) -> str:
        level, inner = match.groups()
        plain = html.unescape(re.sub(r"<[^>]+>", "", inner)).strip()
        name = re.sub(r"[^\w]+", "-", plain.lower()).strip("-") or "section"
        seen[name] = seen.get(name, 0) + 1
        name = name if seen[name] == 1 else f"{name}-{seen[name]}"
        kind = ' class="inner"' if level == "3" else ""
        entries.append(f'<li{kind}><a href="#{name}">{html.escape(plain)}</a></li>')
        return f'<h{level} id="{name}">{inner}</h{level}>'

    head, body = text.split("<!--contents-->", 1)
    body = HEADING.sub(named, body)
    contents = (
        '<nav class="contents" aria-label="Contents"><details><summary>Contents</summary><ol>'
        f'{"".join(entries)}</ol></details></nav>'
    ) if entries else ""
    return f"{head}{contents}{body}"
