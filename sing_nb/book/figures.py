"""Show a chart with its caption: the same in JupyterLab, and numbered on the page."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import altair as alt
import vl_convert

from ..errors import SingError
from ..pictures.fetch import write_atomic

if TYPE_CHECKING:
    import ipywidgets

__all__ = ["TYPE", "bundle", "page_folder", "show", "write_chart"]

# Sizes that read at a phone's width too; colours are the page's business.
TYPE = {
    "axis": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"},
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"},
    "text": {"fontSize": 12}}
FILE_WIDTH = 640  # pixels, where a chart that fills its column is saved as a file
VEGALITE = "application/vnd.vegalite.v6+json"
WIDGET = "application/vnd.jupyter.widget-view+json"


def show(
    chart: alt.TopLevelMixin, name: str, *, caption: str, alt: str,
    live: ipywidgets.Widget | None = None,
) -> None:
    """Display a chart with its caption; the page numbers it, and ``make book`` keeps data and SVG.

    Parameters
    ----------
    chart : altair chart
        A single or layered view without a width becomes as wide as the page.
    name : str
        Unique in the book; letters, digits and hyphens. Links reach it as ``#fig-<name>``.
    caption : str
        What a reader looks for in the figure, as inline Markdown.
    alt : str
        What the figure shows, for readers who do not see it.
    live : ipywidgets.Widget, optional
        What a running kernel shows in the chart's place.

    Examples
    --------
    >>> import altair, pandas, sing_nb as sing
    >>> table = pandas.DataFrame({"rank": [1, 2], "value": [2.0, 0.5]})
    >>> line = altair.Chart(table).mark_line().encode(x="rank", y="value")
    >>> sing.show(line, "tiny", caption="Two singular values of a tiny head.",
    ...           alt="A line falls from 2 to 0.5.")  # doctest: +SKIP
    """
    from IPython.display import display

    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise SingError(f"A figure's name is made of a-z, 0-9 and hyphens; got {name!r}.")
    for what, text in (("alt text", alt), ("caption", caption)):
        if len(text.split()) < 5:
            raise SingError(f"The {what} of {name} says too little: {text!r}.")
    spec = _spec(chart, alt)
    svg = write_chart(page_folder(), name, spec)
    shown = {**bundle(spec, svg), "text/plain": f"{name}: {alt}"}
    told: dict[str, object] = {"caption": caption, "name": f"fig-{name}"}
    if live is not None:
        shown[WIDGET] = live._repr_mimebundle_()[WIDGET]
        told["live"] = True
    display(shown, raw=True, metadata={VEGALITE: told})
    # The page has the caption below the figure already, and leaves this one out.
    told = {"text/markdown": {"caption": True}}
    display({"text/markdown": f"**Figure.** {caption}"}, raw=True, metadata=told)


def page_folder() -> Path | None:
    """Folder of the chapter that `make book` is running; none where a person runs it."""
    named = os.environ.get("SING_PAGE")
    return Path(named) if named else None


def write_chart(folder: Path | None, name: str, spec: dict) -> str:
    """Keep a chart as spec, data and SVG in a folder, if there is one; the SVG is returned."""
    svg = vl_convert.vegalite_to_svg(_fixed_width(spec))
    if folder is not None:
        write_atomic(folder / f"{name}.vl.json", json.dumps(spec, sort_keys=True))
        write_atomic(folder / f"{name}.data.json", json.dumps(spec.get("datasets", {})))
        write_atomic(folder / f"{name}.svg", _stable_ids(svg))
    return svg


def bundle(spec: dict, svg: str | None = None, **options: object) -> dict[str, object]:
    """A chart for the page, for JupyterLab and, as a picture, for what draws no charts."""
    fixed = _fixed_width(spec)
    # The same picture as vegalite_to_png, which would lay the chart out a second time.
    png = vl_convert.svg_to_png(svg or vl_convert.vegalite_to_svg(fixed), scale=1.5)
    # JupyterLab draws Vega-Lite 5, which is the same for our charts, and measures the width of
    # a cell that has none yet: a chart as wide as its container would be 0 pixels wide.
    older = {**fixed, "$schema": "https://vega.github.io/schema/vega-lite/v5.json"}
    return {
        VEGALITE: spec,
        "application/vnd.vegalite.v5+json": older,
        "image/png": base64.b64encode(png).decode(),
        "text/plain": str(spec.get("description", "a chart"))}


def _spec(chart: alt.TopLevelMixin, text: str) -> dict:
    with alt.data_transformers.enable("default", max_rows=None):
        spec = chart.to_dict()
    spec["description"] = text
    spec["config"] = {**spec.get("config", {}), **TYPE}
    composed = {"vconcat", "hconcat", "concat", "facet", "repeat"} & spec.keys()
    if not composed and "width" not in spec:
        spec["width"] = "container"
    return spec


def _fixed_width(spec: dict, width: int = FILE_WIDTH) -> dict:
    """A spec whose views are no longer as wide as their container, but a number of pixels."""
    fixed = {**spec, "width": width} if spec.get("width") == "container" else {**spec}
    for way in {"vconcat", "hconcat"} & spec.keys():
        # Beside the plots there are axes, and gaps between them.
        share = (width - 40) // (len(spec[way]) if way == "hconcat" else 1)
        fixed[way] = [_fixed_width(view, share) for view in spec[way]]
    return fixed


def _stable_ids(svg: str) -> str:
    """Number clip paths and gradients from 0: the converter counts on within a process."""
    seen: dict[str, str] = {}
    return re.sub(
        r"\b(clip|gradient_)(\d+)\b",
        lambda match: seen.setdefault(match.group(0), f"{match.group(1)}{len(seen)}"),
        svg)


# Charts that a cell ends with are shown without asking the internet for what draws them.
if alt.renderers.active == "default":  # a renderer that the reader chose stays
    alt.renderers.register("sing", bundle)
    alt.renderers.enable("sing")
