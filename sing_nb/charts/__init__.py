"""What the book's figures are composed of in their chapters: colours, menus, tooltips, intervals.

What several chapters and the live widgets draw whole is in :mod:`sing_nb.charts.explorers`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import altair as alt
import pandas as pd

__all__ = [
    "BLUE", "CONTROL", "GREEN", "GREY", "KINDS", "NULL", "ORANGE", "PINK", "SKY", "VERMILION",
    "colours", "dots", "ends", "menu", "model_colours", "rule", "seen", "tips"]

BLUE, VERMILION, GREEN, ORANGE, PINK, SKY, GREY = (
    "#2b7bba", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#8a8a8a")
#: What was removed or pushed lies in the null space; or is random and as long, the control.
NULL, CONTROL = VERMILION, GREY
KINDS = {"null space removed": NULL, "random control": CONTROL}


def seen(table: pd.DataFrame, column: str) -> list:
    """Values of a column, each once, in the order of the table."""
    return list(dict.fromkeys(table[column]))


def menu(name: str, options: Sequence, label: str, value: object = None) -> alt.Parameter:
    """A menu that sets the parameter `name`, or its only option where there is nothing to choose.
    """
    options = list(options)
    bind = alt.binding_select(options=options, name=label) if len(options) > 1 else alt.Undefined
    return alt.param(name=name, value=options[0] if value is None else value, bind=bind)


def tips(*said: str) -> list[alt.Tooltip]:
    """Tooltips, each as ``column | title | format``: ``tips("title", "value | AS (°) | +.2f")``."""
    rows = []
    for one in said:
        column, title, form = (part.strip() for part in f"{one}||".split("|")[:3])
        kind = "" if ":" in column else ":Q" if form else ":N"
        options = {"title": title} if title else {}
        rows.append(alt.Tooltip(f"{column}{kind}", **options, **({"format": form} if form else {})))
    return rows


def ends(form: str, low: str = "low", high: str = "high") -> tuple[str, str]:
    """The two tooltips of a 95 % interval, for :func:`tips`."""
    return f"{low} | 95 % from | {form}", f"{high} | to | {form}"


def colours(
    column: str, palette: Mapping[str, str], table: pd.DataFrame, title: str | None = None,
    columns: int = 2,
) -> alt.Color:
    """A colour for each value of a column that the table holds, with a legend above the plot."""
    names = [name for name in palette if name in set(table[column])]
    return alt.Color(
        f"{column}:N", title=title,
        scale=alt.Scale(domain=names, range=[palette[name] for name in names]),
        legend=alt.Legend(orient="top", columns=columns, symbolOpacity=1, symbolStrokeWidth=2))


def model_colours(table: pd.DataFrame, column: str = "title") -> alt.Color:
    """One colour per classifier; a tower, which built the word space, is grey as controls are."""
    names = seen(table, column)
    cycle = itertools.cycle([BLUE, GREEN, PINK, ORANGE, SKY])
    palette = {name: GREY if name.endswith("(tower)") else next(cycle) for name in names}
    return colours(column, palette, table, columns=3)


def rule(value: float = 0, axis: str = "x") -> alt.Chart:
    """A dashed grey line to compare with."""
    table = pd.DataFrame({axis: [value]})
    return alt.Chart(table).mark_rule(color=GREY, strokeDash=[4, 4]).encode(**{axis: f"{axis}:Q"})


def dots(
    table: pd.DataFrame, y: str, x: str, colour: alt.Color, *, tooltip: Sequence[alt.Tooltip] = (),
    beside: str | None = None, choose: Sequence[tuple[str, str]] = (), zero: float | None = None,
    row: int = 40,
) -> alt.LayerChart:
    """A dot with its 95 % interval on every row."""
    base = alt.Chart(table)
    for column, _ in choose:
        base = base.transform_filter(f"datum.{column} == chosen_{column}")
    base = base.encode(
        y=alt.Y(f"{y}:N", sort=seen(table, y), title=None, axis=alt.Axis(labelLimit=180)),
        color=colour)
    if beside:
        base = base.encode(yOffset=alt.YOffset(f"{beside}:N", sort=seen(table, beside)))
    layers = [] if zero is None else [rule(zero)]
    layers += [
        base.mark_rule(strokeWidth=3).encode(x=alt.X("low:Q", title=x), x2="high:Q"),
        base.mark_point(filled=True, size=90, opacity=1).encode(x="value:Q", tooltip=list(tooltip))]
    chart = alt.layer(*layers).properties(height=row * table[y].nunique())
    menus = [menu(f"chosen_{column}", seen(table, column), label) for column, label in choose]
    return chart.add_params(*menus) if menus else chart
