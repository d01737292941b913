"""The marks and the explorers that charts are made of."""

from __future__ import annotations

import re

import altair as alt
import numpy as np
import pandas as pd
import pytest
import vl_convert

from sing_nb import charts, widgets
from sing_nb.book.figures import bundle
from sing_nb.charts import explorers
from sing_nb.study import tables

TABLE = pd.DataFrame({
    "title": ["A", "A", "B", "B"] * 2, "kind": [*charts.KINDS] * 4,
    "measure": ["IS"] * 4 + ["AS"] * 4, "value": np.arange(8.0), "low": np.arange(8.0) - 0.5,
    "high": np.arange(8.0) + 0.75})


def dots(table=TABLE, **options):
    return charts.dots(
        table, "title", "degrees", charts.colours("kind", charts.KINDS, table), beside="kind",
        tooltip=charts.tips("title", "value | median (°) | .1f", *charts.ends(".1f")), **options)


def rows(spec):
    return max(spec["datasets"].values(), key=len)


def test_dots_draw_the_interval_that_they_are_given():
    spec = dots(zero=0).to_dict()
    line, rule, point = spec["layer"]
    assert line["mark"]["strokeDash"]
    assert [rule["encoding"][end]["field"] for end in ("x", "x2")] == ["low", "high"]
    assert point["encoding"]["x"]["field"] == "value"
    assert rule["encoding"]["x"]["title"] == "degrees"
    drawn = pd.DataFrame(rows(spec))[["value", "low", "high"]]
    pd.testing.assert_frame_equal(drawn, TABLE[["value", "low", "high"]])
    assert spec["height"] == 2 * 40


@pytest.fixture(scope="module")
def counterpart(smoke):
    return widgets.NullSpaceExplorer(smoke, photos=["badger", "photo-00"]).counterpart()


def texts(chart):
    """All texts that a chart writes, as wide as on a page."""
    with alt.data_transformers.enable("default", max_rows=None):
        spec = bundle({**chart.to_dict(), "description": "-"})["application/vnd.vegalite.v5+json"]
    svg = vl_convert.vegalite_to_svg(spec)
    return re.findall(r">([^<>]+)<", svg)


def test_no_label_of_the_photo_explorer_is_cut(counterpart):
    assert not [text for text in texts(counterpart) if text.endswith("…")]


def test_no_label_of_the_violins_is_cut(smoke):
    names = {label: f"{label} of the great white north"[:28].strip() for label in smoke.labels}
    pictures, classes = (
        {"A": table.assign(label=table["label"].map(names))}
        for table in (tables.scored(smoke, "lite0"), tables.classes(smoke, "lite0")))
    assert set(names.values()) <= set(texts(explorers.class_violins(pictures, 99, classes)))
