"""Show a figure in a notebook and keep it as spec, data and SVG; hand numbers to the prose."""

from __future__ import annotations

import base64
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from .errors import SingError
from .fetch import write_atomic

if TYPE_CHECKING:
    import ipywidgets
    from IPython.display import HTML

__all__ = [
    "Gallery", "between", "judge", "merge_parts", "power", "sentences", "span", "verdict",
    "write_chart",
]

# Sizes that read at a phone's width too; colours are the page's business.
TYPE = {
    "axis": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"},
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"},
    "text": {"fontSize": 12},
}
#: What a claim may turn out to be.
CLAIMS = ("holds", "does not hold", "cannot be told here")
PAPER_WIDTH = 640  # pixels, where a chart that fills its column is saved as a file
VEGALITE = "application/vnd.vegalite.v6+json"
WIDGET = "application/vnd.jupyter.widget-view+json"


class Gallery:
    """Where one chapter's figures and numbers go.

    Making one has Altair show every chart of the notebook as :meth:`show` does, so that none asks
    the internet for the libraries that draw it.

    Parameters
    ----------
    folder : pathlib.Path
        ``_build/<profile>/figures``.
    chapter : str
        Stem of the chapter, for the list of figures.
    """

    def __init__(self, folder: Path, chapter: str) -> None:
        self.folder, self.chapter = Path(folder), chapter
        self._figures: list[dict[str, str]] = []
        self._numbers: dict[str, str] = {}
        if alt.renderers.active == "default":  # a renderer that the reader chose stays
            alt.renderers.register("sing", _bundle)
            alt.renderers.enable("sing")

    def show(
        self, chart: alt.TopLevelMixin, name: str, alt_text: str,
        live: ipywidgets.Widget | None = None,
    ) -> None:
        """Display a chart and write ``<name>.vl.json``, ``<name>.data.json``, ``<name>.svg``.

        Parameters
        ----------
        chart : altair chart
        name : str
            Unique in the book; letters, digits and hyphens.
        alt_text : str
            What the figure shows, for readers who do not see it.
        live : ipywidgets.Widget, optional
            What JupyterLab shows in its place; the page keeps the chart, and says so.
        """
        from IPython.display import display

        if not re.fullmatch(r"[a-z0-9-]+", name):
            raise SingError(f"A figure's name is made of a-z, 0-9 and hyphens; got {name!r}.")
        if len(alt_text.split()) < 5:
            raise SingError(f"The alt text of {name} says too little: {alt_text!r}.")
        with alt.data_transformers.enable("default", max_rows=None):
            spec = chart.to_dict()
        spec["description"] = alt_text
        spec["config"] = {**spec.get("config", {}), **TYPE}
        svg, files = write_chart(self.folder, name, spec)
        self._figures.append({"name": name, "chapter": self.chapter, "alt": alt_text, **files})
        self._keep()
        bundle = {**_bundle(spec, svg), "text/plain": f"{name}: {alt_text}"}
        if live is None:
            display(bundle, raw=True)
        else:
            bundle[WIDGET] = live._repr_mimebundle_()[WIDGET]
            # The page is made from one type of a bundle: it learns of the widget from this.
            display(bundle, raw=True, metadata={VEGALITE: {"live": True}})

    def tell(self, **numbers: str) -> None:
        """Give numbers, as text, to the prose of this chapter and of the introduction.

        Where a person watches, a folded table says what stands for each name in the prose.
        """
        from IPython.display import HTML, display
        from myst_nb import glue

        for key, value in numbers.items():
            if not isinstance(value, str):
                raise SingError(f"{key} must be formatted text; got {value!r}.")
            # A hyphen before a digit is a minus sign, except in an exponent.
            numbers[key] = re.sub(r"(?<![\w)])-(?=\d)", "\N{MINUS SIGN}", value)
            glue(key, numbers[key], display=False)
        self._numbers.update(numbers)
        self._keep()
        if not os.environ.get("SING_QUIET"):
            # JupyterLab shows the prose's roles as they are written, so a person needs the key.
            display(HTML(_key(numbers)))

    def _keep(self) -> None:
        part = {"figures": self._figures, "numbers": self._numbers}
        write_atomic(self.folder / "parts" / f"{self.chapter}.json", json.dumps(part, indent=1))


def write_chart(folder: Path, name: str, spec: dict) -> tuple[str, dict[str, str]]:
    """Keep a chart as ``<name>.vl.json``, ``<name>.data.json`` and ``<name>.svg``.

    Returns
    -------
    svg : str
        As it came from the converter.
    files : dict
        Names of the files: spec, data, svg.
    """
    files = {"spec": f"{name}.vl.json", "data": f"{name}.data.json", "svg": f"{name}.svg"}
    svg = vl_convert.vegalite_to_svg(_fixed_width(spec))
    write_atomic(folder / files["spec"], json.dumps(spec, sort_keys=True))
    write_atomic(folder / files["data"], json.dumps(spec.get("datasets", {})))
    write_atomic(folder / files["svg"], _stable_ids(svg))
    return svg, files


def span(row: Mapping[str, float], unit: str = "°", digits: int = 1) -> str:
    """An estimate with its interval as text: ``9.2° (8.7 to 9.9)``, or what of it is missing.

    Parameters
    ----------
    row : mapping
        With ``value``, ``low`` and ``high``.
    unit : str
        Written after the estimate.
    digits : int
        Decimals.
    """
    if not math.isfinite(row["value"]):
        return "not measured"
    value, low, high = (f"{row[key]:.{digits}f}" for key in ("value", "low", "high"))
    if not (math.isfinite(row["low"]) and math.isfinite(row["high"])):
        return f"{value}{unit} (no interval)"
    return f"{value}{unit} ({low} to {high})"


def between(values: Iterable[float], form: str = "") -> str:
    """What several numbers share, as text: ``1000`` if they are equal, else ``24 to 1048``.

    Parameters
    ----------
    values : iterable of float
    form : str
        Format of a number, as in ``.0%``.
    """
    values = list(values)
    return " to ".join(dict.fromkeys(format(value, form) for value in (min(values), max(values))))


def power(value: float) -> str:
    """A small or large number with one digit, as ``9 × 10⁻⁶``, that no line break parts."""
    digit, exponent = f"{value:.0e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digit}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10{raised}"


def sentences(table: pd.DataFrame) -> HTML:
    """A table whose cells hold text, shown whole and with line breaks; nothing reads ``–``."""
    from IPython.display import HTML

    table = table.astype(object).where(table.notna() & (table != ""), "–")
    table = table.rename_axis(None).rename_axis(None, axis=1)
    with pd.option_context("display.max_colwidth", None):
        return HTML(table.to_html(classes="sentences", border=0))


def verdict(holds: bool) -> str:
    """What the paper map says of a result of the paper: ``holds here`` or ``differs here``."""
    return "holds here" if holds else "differs here"


def judge(*found: Mapping[str, float] | bool | None) -> str:
    """What the table of claims says: ``holds``, ``does not hold`` or ``cannot be told here``.

    Parameters
    ----------
    *found : mapping, bool or None
        Everything that the claim needs: an interval with ``low`` and ``high`` that has to lie
        above zero, or a fact that needs none. An interval below zero refutes the claim; one that
        holds zero (or none: nan) leaves it open, as None does, which could not be asked.

    Raises
    ------
    SingError
        If nothing was found.
    """
    if not found:
        raise SingError("A claim needs at least one interval or fact to be judged by; got none.")
    signs = []
    for one in found:
        if one is None:
            signs.append(0)
        elif isinstance(one, bool | np.bool_):
            signs.append(1 if one else -1)
        else:
            signs.append(int(one["low"] > 0) - int(one["high"] < 0))
    return CLAIMS[0] if min(signs) > 0 else CLAIMS[1] if min(signs) < 0 else CLAIMS[2]


def merge_parts(folder: Path, chapters: Iterable[str]) -> None:
    """Write ``manifest.json`` (all figures) and ``numbers.json`` from the chapters' parts.

    Raises
    ------
    SingError
        If two chapters use one name.
    """
    figures, numbers = [], {}
    for chapter in chapters:
        path = Path(folder) / "parts" / f"{chapter}.json"
        part = {"figures": [], "numbers": {}}
        if path.is_file():
            try:
                part |= json.loads(path.read_text(encoding="utf-8"))
            except (ValueError, TypeError) as error:
                raise SingError(
                    f"{path}, what chapter {chapter} showed, is damaged ({error}). Run that "
                    f"chapter again: sing chapter --chapter {chapter}, with the same profile."
                ) from error
        figures += part["figures"]
        twice = numbers.keys() & part["numbers"].keys()
        if twice:
            raise SingError(f"{chapter} tells numbers that another chapter told: {sorted(twice)}.")
        numbers.update(part["numbers"])
    names = [figure["name"] for figure in figures]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise SingError(f"Figures with the same name: {twice}.")
    write_atomic(Path(folder) / "manifest.json", json.dumps(figures, indent=1))
    write_atomic(Path(folder) / "numbers.json", json.dumps(numbers, indent=1))


def _key(numbers: Mapping[str, str]) -> str:
    """The numbers of the prose by their names, folded."""
    count = "1 value" if len(numbers) == 1 else f"{len(numbers)} values"
    table = sentences(pd.DataFrame({"value": numbers})).data
    return f"<details><summary>{count} for the text</summary>{table}</details>"


def _bundle(spec: dict, svg: str | None = None, **options: object) -> dict[str, object]:
    """A chart for the page, for JupyterLab and, as a picture, for what draws no charts."""
    paper = _fixed_width(spec)
    # The same picture as vegalite_to_png, which would lay the chart out a second time.
    png = vl_convert.svg_to_png(svg or vl_convert.vegalite_to_svg(paper), scale=1.5)
    # JupyterLab draws Vega-Lite 5, which is the same for our charts, and measures the width of
    # a cell that has none yet: a chart as wide as its container would be 0 pixels wide.
    older = {**paper, "$schema": "https://vega.github.io/schema/vega-lite/v5.json"}
    return {
        VEGALITE: spec,
        "application/vnd.vegalite.v5+json": older,
        "image/png": base64.b64encode(png).decode(),
        "text/plain": str(spec.get("description", "a chart")),
    }


def _fixed_width(spec: dict, width: int = PAPER_WIDTH) -> dict:
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
        svg,
    )
