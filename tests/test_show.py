"""What a chapter shows and finds: figures with captions, verdicts, boxes, estimates as text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import altair as alt
import ipywidgets
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
        stops=[alt.GradientStop(color="white", offset=0), alt.GradientStop(color="red", offset=1)],
    )
    return (
        alt.Chart(frame, height=100, **options)
        .mark_bar(clip=True, color=fill)
        .encode(x="name:N", y="angle:Q")
    )


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
    # IPython's display would print; the notebook's front end is not ours.
    monkeypatch.setattr("IPython.display.display",
                        lambda bundle, raw, metadata: found.append((bundle, metadata)))
    return found


def read(path):
    return json.loads(Path(path).read_text())


# --- figures ------------------------------------------------------------------------------------


def test_a_figure_is_kept_as_spec_data_and_svg(page):
    show(bars())
    spec = read(page / "bars.vl.json")
    assert spec["description"] == ALT
    assert spec["width"] == "container"
    (rows,) = read(page / "bars.data.json").values()
    assert [row["angle"] for row in rows] == [1.5, 20.0, 37.25]
    svg = (page / "bars.svg").read_text()
    assert svg.startswith("<svg")
    assert ">angle</text>" in svg


def test_nothing_is_kept_where_a_person_runs_a_chapter(page, shown, monkeypatch, tmp_path):
    monkeypatch.delenv("SING_PAGE")
    monkeypatch.chdir(tmp_path)
    show(bars())
    assert len(shown) == 2
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_two_runs_write_equal_bytes(page):
    show(bars())
    first = {path.name: path.read_bytes() for path in page.iterdir()}
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


def test_jupyterlab_gets_an_older_spec_with_a_width_of_its_own(shown):
    # JupyterLab measures a cell that has no width yet, and drew such charts 0 pixels wide.
    show(bars())
    new, old = (shown[0][0][f"application/vnd.vegalite.v{n}+json"] for n in (6, 5))
    assert (new["width"], old["width"]) == ("container", 640)
    assert {**old, "$schema": 0, "width": 0} == {**new, "$schema": 0, "width": 0}


def test_a_width_that_was_chosen_stays_and_so_do_plots_side_by_side(shown):
    show(bars(width=200))
    show(bars(width=200) | bars(width=100))
    assert shown[0][0][VEGALITE]["width"] == 200
    assert "width" not in shown[2][0][VEGALITE]


def test_a_live_figure_is_a_widget_for_a_kernel_and_a_chart_for_the_page(shown):
    slider = ipywidgets.IntSlider()
    show(bars(), live=slider)
    bundle, told = shown[0]
    assert bundle[WIDGET]["model_id"] == slider.model_id
    assert told[VEGALITE]["live"] is True
    assert bundle[VEGALITE]["mark"]["type"] == "bar"


def test_a_readers_own_chart_asks_no_host():
    # Altair's own way has a notebook load its libraries from a host in the internet.
    bundle = bars()._repr_mimebundle_()
    assert "text/html" not in bundle
    assert bundle["image/png"].startswith("iVBOR")


def test_every_row_is_drawn_however_many(page):
    frame = pd.DataFrame({"x": range(6000)})  # altair alone refuses more than 5000
    show(alt.Chart(frame).mark_point().encode(x="x:Q"))
    (rows,) = read(page / "bars.data.json").values()
    assert len(rows) == 6000


@pytest.mark.parametrize("name", ["Bars", "a b", "../bars", "bars_1", ""])
def test_names_with_other_letters_are_refused(page, name):
    with pytest.raises(sing.SingError, match="a-z, 0-9 and hyphens; got "):
        show(bars(), name)
    assert not list(page.iterdir())


@pytest.mark.parametrize(("said", "words"), [
    ({"alt": "A chart"}, "alt text of bars says too little: 'A chart'"),
    ({"caption": "Bars"}, "caption of bars says too little: 'Bars'"),
    ({"caption": ""}, "caption of bars says too little"),
])
def test_texts_that_say_nothing_are_refused(page, said, words):
    with pytest.raises(sing.SingError, match=re.escape(words)):
        show(bars(), **said)
    assert not list(page.iterdir())


# --- findings -----------------------------------------------------------------------------------


def judge(item="figure 3", holds=True, **options):
    return sing.found(item, "It is 0.6 (0.3 to 0.9).", holds=holds, paper="It is large.",
                      rule="The interval lies above zero.", **options)


def gathered(folder):
    return sing.read_found(SimpleNamespace(folder=folder, config=SimpleNamespace(name="tiny")))


@pytest.mark.parametrize(("holds", "words", "mark"), [
    (True, "holds here", "✓"), (False, "does not hold here", "≠"),
    (None, "cannot be told here", "?"),
])
def test_a_finding_has_its_verdict_in_words(page, tmp_path, holds, words, mark):
    text = judge(holds=holds).data
    assert text.startswith(f"> **{mark} Figure 3: {words}.** It is 0.6 (0.3 to 0.9).")
    assert "*The paper:* It is large. *The rule:* The interval lies above zero." in text
    (row,) = gathered(tmp_path).to_dict("records")
    assert row == {
        "item": "figure 3", "paper": "It is large.", "here": "It is 0.6 (0.3 to 0.9).",
        "rule": "The interval lies above zero.", "verdict": words, "claim": False,
        "chapter": "01_tiny", "mark": mark}


def test_numpys_truth_is_truth(page, tmp_path):
    import numpy as np

    judge(holds=np.bool_(False))
    assert gathered(tmp_path)["verdict"].tolist() == ["does not hold here"]


def test_findings_are_gathered_in_the_books_order(page, tmp_path, monkeypatch):
    judge("figure 9", claim=True)
    monkeypatch.setenv("SING_PAGE", str(page.parent / "00_first"))
    judge("equation 3")
    judge("equation 1")
    found = gathered(tmp_path)
    assert found["item"].tolist() == ["equation 3", "equation 1", "figure 9"]
    assert found["claim"].tolist() == [False, False, True]


def test_one_item_is_judged_once_in_a_chapter(page, tmp_path):
    judge()
    with pytest.raises(sing.SingError, match="'figure 3' was found already in this chapter"):
        judge(holds=False)
    assert gathered(tmp_path)["verdict"].tolist() == ["holds here"]


def test_one_item_is_judged_once_in_the_book(page, tmp_path, monkeypatch):
    judge()
    monkeypatch.setenv("SING_PAGE", str(page.parent / "02_other"))
    judge(holds=False)
    with pytest.raises(sing.SingError, match=re.escape("figure 3 (01_tiny), figure 3 (02_other)")):
        gathered(tmp_path)


def test_nothing_is_kept_of_a_finding_where_a_person_runs_a_chapter(page, monkeypatch):
    monkeypatch.delenv("SING_PAGE")
    for _ in range(2):  # a cell may be run again
        assert judge().data.startswith("> **✓ Figure 3")
    assert not list(page.iterdir())


@pytest.mark.parametrize(("text", "words"), [
    (None, "Nothing was found yet for the profile 'tiny'"),
    ('[{"item": "fig', "01_tiny found, is damaged"),
])
def test_what_is_missing_or_damaged_is_said_with_what_to_do(page, tmp_path, text, words):
    if text:
        (page / "found.json").write_text(text)
    with pytest.raises(sing.SingError, match=words):
        gathered(tmp_path)


# --- texts --------------------------------------------------------------------------------------


def test_a_box_is_a_table_of_four_rows():
    lines = sing.box("Does it\n move?", "9.2°", "10.1°", "No.").data.splitlines()
    assert lines[1] == "| :-- | :-- |"
    assert lines[2:] == ["| **The question** | Does it move? |", "| **The number** | 9.2° |",
                         "| **Its control** | 10.1° |", "| **What we say** | No. |"]


@pytest.mark.parametrize(("row", "options", "text"), [
    ((9.2, 8.7, 9.9), {}, "9.2° (8.7 to 9.9)"),
    ((-0.25, -1.0, 0.5), {"digits": 2}, "−0.25° (−1.00 to 0.50)"),
    ((0.5, 0.4, 0.6), {"unit": ""}, "0.5 (0.4 to 0.6)"),
    ((0.5, float("nan"), float("nan")), {}, "0.5° (no interval)"),
    ((float("nan"), 0.0, 1.0), {}, "not measured"),
])
def test_an_estimate_is_written_with_its_interval(row, options, text):
    assert sing.span(dict(zip(("value", "low", "high"), row)), **options) == text


# --- the API page -------------------------------------------------------------------------------


def test_the_api_page_has_every_public_name():
    page = (Path(sing.__file__).parents[1] / "book" / "api.md").read_text(encoding="utf-8")
    told = set(re.findall(r"auto\w+:: (\w+)", page))
    assert set(sing.__all__) <= told
    assert set(explorers.__all__) <= told
    assert set(widgets.__all__) <= told
