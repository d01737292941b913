"""What a chapter shows and finds: figures with captions, verdicts, boxes, estimates as text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import altair as alt
import ipywidgets
import numpy as np
import pandas as pd
import pytest

import sing_nb as sing
from sing_nb import widgets
from sing_nb.charts import explorers

ALT = "Three bars that grow from left to right."
CAPTION = "Three angles: look at the *largest*."
VEGALITE = "application/vnd.vegalite.v6+json"
WIDGET = "application/vnd.jupyter.widget-view+json"


def bars(**options):
    """A chart with a clip path and a gradient, whose ids the converter numbers."""
    frame = pd.DataFrame({"name": list("abc"), "angle": [1.5, 20.0, 37.25]})
    fill = alt.Gradient(
        gradient="linear", x1=0, x2=1, y1=0, y2=1,
        stops=[alt.GradientStop(color="white", offset=0), alt.GradientStop(color="red", offset=1)])
    return (
        alt.Chart(frame, height=100, **options)
        .mark_bar(clip=True, color=fill)
        .encode(x="name:N", y="angle:Q"))


def show(chart, name="bars", caption=CAPTION, alt=ALT, **options):
    sing.show(chart, name, caption=caption, alt=alt, **options)


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The folder of a chapter that `make book` runs."""
    folder = tmp_path / "figures" / "01_tiny"
    folder.mkdir(parents=True)
    monkeypatch.setenv("SING_PAGE", str(folder))
    return folder


@pytest.fixture
def shown(monkeypatch):
    """What is displayed: pairs of a bundle and its metadata."""
    found = []
    monkeypatch.setattr("IPython.display.display",
                        lambda bundle, raw, metadata: found.append((bundle, metadata)))
    return found


def test_a_figure_is_kept_as_spec_data_and_svg_the_same_in_each_run(page):
    show(bars())
    first = {path.name: path.read_bytes() for path in page.iterdir()}
    spec = json.loads(first["bars.vl.json"])
    assert (spec["description"], spec["width"]) == (ALT, "container")
    (rows,) = json.loads(first["bars.data.json"]).values()
    assert [row["angle"] for row in rows] == [1.5, 20.0, 37.25]
    assert b">angle</text>" in first["bars.svg"]
    show(bars(), "other")
    show(bars())
    assert {name: (page / name).read_bytes() for name in first} == first


def test_a_figure_brings_its_caption_for_pages_and_for_notebooks(shown):
    show(bars())
    (bundle, told), (below, mark) = shown
    assert told == {VEGALITE: {"caption": CAPTION, "name": "fig-bars"}}
    assert below == {"text/markdown": f"**Figure.** {CAPTION}"}
    assert mark == {"text/markdown": {"caption": True}}  # the page leaves this one out
    assert bundle["text/plain"] == f"bars: {ALT}"
    assert bundle["image/png"].startswith("iVBOR")  # a PNG's first bytes in base64
    # JupyterLab measures a cell that has no width yet, and drew such charts 0 pixels wide.
    new, old = (bundle[f"application/vnd.vegalite.v{n}+json"] for n in (6, 5))
    assert (new["width"], old["width"]) == ("container", 640)
    assert {**old, "$schema": 0, "width": 0} == {**new, "$schema": 0, "width": 0}


def test_a_live_figure_is_a_widget_for_a_kernel_and_a_chart_for_the_page(shown):
    slider = ipywidgets.IntSlider()
    show(bars(width=200), live=slider)
    bundle, told = shown[0]
    assert bundle[WIDGET]["model_id"] == slider.model_id
    assert told[VEGALITE]["live"] is True
    assert bundle[VEGALITE]["width"] == 200


def test_a_readers_own_chart_asks_no_host_and_draws_every_row():
    # Altair's own way loads its libraries from a host, and refuses more than 5000 rows.
    frame = pd.DataFrame({"x": range(6000)})
    bundle = alt.Chart(frame).mark_point().encode(x="x:Q").properties(description=ALT)
    with alt.data_transformers.enable("default", max_rows=None):
        bundle = bundle._repr_mimebundle_()
    assert "text/html" not in bundle
    assert bundle["image/png"].startswith("iVBOR")


def judge(item="figure 3", holds=True, **options):
    return sing.found(item, "It is 0.6 (0.3 to 0.9).", holds=holds, paper="It is large.",
                      rule="The interval lies above zero.", **options)


def gathered(folder):
    return sing.read_found(SimpleNamespace(folder=folder, config=SimpleNamespace(name="tiny")))


@pytest.mark.parametrize(("holds", "words", "mark"), [
    (True, "holds here", "✓"), (np.bool_(False), "does not hold here", "≠"),
    (None, "cannot be told here", "?")])
def test_a_finding_has_its_verdict_in_words(page, tmp_path, holds, words, mark):
    text = judge(holds=holds).data
    assert text.startswith(f"> **{mark} Figure 3: {words}.** It is 0.6 (0.3 to 0.9).")
    (row,) = gathered(tmp_path).to_dict("records")
    assert row == {
        "item": "figure 3", "paper": "It is large.", "here": "It is 0.6 (0.3 to 0.9).",
        "rule": "The interval lies above zero.", "verdict": words, "claim": False,
        "chapter": "01_tiny", "mark": mark}


def test_findings_are_gathered_in_the_books_order_and_an_item_is_judged_once(
    page, tmp_path, monkeypatch
):
    judge("figure 9", claim=True)
    with pytest.raises(sing.SingError, match="'figure 9' was found already in this chapter"):
        judge("figure 9", holds=False)
    monkeypatch.setenv("SING_PAGE", str(page.parent / "00_first"))
    judge("equation 3")
    judge("equation 1")
    found = gathered(tmp_path)
    assert found["item"].tolist() == ["equation 3", "equation 1", "figure 9"]
    assert found["claim"].tolist() == [False, False, True]
    judge("figure 9")
    with pytest.raises(sing.SingError, match=re.escape("figure 9 (00_first), figure 9 (01_tiny)")):
        gathered(tmp_path)


@pytest.mark.parametrize(("text", "words"), [
    (None, "Nothing was found yet for the profile 'tiny'"),
    ('[{"item": "fig', "sing chapter --chapter 01_tiny")])
def test_what_is_missing_or_damaged_is_said_with_what_to_do(page, tmp_path, text, words):
    if text:
        (page / "found.json").write_text(text)
    with pytest.raises(sing.SingError, match=words):
        gathered(tmp_path)


def test_a_box_is_a_table_of_four_rows():
    lines = sing.box("Does it\n move?", "9.2°", "|AS|", "No.").data.splitlines()
    assert lines[2:] == ["| **The question** | Does it move? |", "| **The number** | 9.2° |",
                         r"| **Its control** | \|AS\| |", "| **What we say** | No. |"]


@pytest.mark.parametrize(("row", "options", "text"), [
    ((9.2, 8.7, 9.9), {}, "9.2° (8.7 to 9.9)"),
    ((-0.25, -1.0, 0.5), {"digits": 2}, "−0.25° (−1.00 to 0.50)"),
    ((0.5, float("nan"), float("nan")), {"unit": ""}, "0.5 (no interval)"),
    ((float("nan"), 0.0, 1.0), {}, "not measured")])
def test_an_estimate_is_written_with_its_interval(row, options, text):
    assert sing.span(dict(zip(("value", "low", "high"), row)), **options) == text


def test_the_api_page_has_every_public_name():
    page = (Path(sing.__file__).parents[1] / "book" / "api.md").read_text(encoding="utf-8")
    told = set(re.findall(r"auto\w+:: (\w+)", page))
    assert {*sing.__all__, *explorers.__all__, *widgets.__all__} <= told
