from __future__ import annotations

import json
import re

import altair as alt
import ipywidgets
import pandas as pd
import pytest

from sing_nb.errors import SingError
from sing_nb.gallery import WIDGET, Gallery, between, merge_parts, power, sentences, span, verdict

ALT = "Three bars that grow from left to right."


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


def read(path):
    return json.loads(path.read_text())


def test_a_figure_is_kept_as_spec_data_and_svg(tmp_path):
    Gallery(tmp_path, "01_tiny").show(bars(width="container"), "bars", ALT)
    spec = read(tmp_path / "bars.vl.json")
    assert spec["description"] == ALT
    assert spec["width"] == "container"
    assert spec["mark"]["type"] == "bar"
    (rows,) = read(tmp_path / "bars.data.json").values()
    assert [row["angle"] for row in rows] == [1.5, 20.0, 37.25]
    svg = (tmp_path / "bars.svg").read_text()
    assert svg.startswith("<svg")
    assert ">angle</text>" in svg
    assert read(tmp_path / "parts" / "01_tiny.json")["figures"] == [
        {
            "name": "bars", "chapter": "01_tiny", "alt": ALT, "spec": "bars.vl.json",
            "data": "bars.data.json", "svg": "bars.svg",
        }
    ]


def test_a_figure_is_shown_for_pages_and_notebooks_alike(tmp_path, monkeypatch):
    shown = []
    # IPython's display would print; the notebook's front end is not ours.
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append(bundle))
    Gallery(tmp_path, "01_tiny").show(bars(), "bars", ALT)
    (bundle,) = shown
    new, old = (bundle[f"application/vnd.vegalite.v{n}+json"] for n in (6, 5))
    assert {**old, "$schema": new["$schema"]} == new
    assert "v5" in old["$schema"]
    assert bundle["text/plain"] == f"bars: {ALT}"
    assert bundle["image/png"].startswith("iVBOR")  # a PNG's first bytes in base64


def test_a_chart_as_wide_as_its_page_has_a_width_of_its_own_in_jupyterlab(tmp_path, monkeypatch):
    # JupyterLab measures a cell that has no width yet, and drew such charts 0 pixels wide.
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append(bundle))
    Gallery(tmp_path, "01_tiny").show(bars().properties(width="container"), "bars", ALT)
    new, old = (shown[0][f"application/vnd.vegalite.v{n}+json"] for n in (6, 5))
    assert new["width"] == "container"
    assert old["width"] == 640


def test_a_live_figure_is_a_widget_for_a_kernel_and_a_chart_for_the_page(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "IPython.display.display",
        lambda bundle, raw, metadata=None: shown.append((bundle, metadata)),
    )
    slider = ipywidgets.IntSlider()
    book = Gallery(tmp_path, "01_tiny")
    book.show(bars(), "still", ALT)
    book.show(bars(), "moving", ALT, live=slider)
    (still, plain), (moving, marked) = shown
    assert moving.pop(WIDGET)["model_id"] == slider.model_id
    assert moving.keys() == still.keys()  # with a PNG, for where neither is drawn
    assert plain is None
    assert marked == {"application/vnd.vegalite.v6+json": {"live": True}}
    assert (tmp_path / "moving.vl.json").is_file()


def test_a_readers_own_chart_is_shown_like_those_of_the_book(tmp_path, monkeypatch):
    # Altair's own way has a notebook load its libraries from a host in the internet.
    with alt.renderers.enable("default"):
        Gallery(tmp_path, "01_tiny")
        bundle = bars()._repr_mimebundle_()
    assert "text/html" not in bundle
    assert bundle["application/vnd.vegalite.v5+json"]["mark"]["type"] == "bar"
    assert bundle["image/png"].startswith("iVBOR")


def test_a_renderer_that_a_reader_chose_stays(tmp_path):
    with alt.renderers.enable("svg"):
        Gallery(tmp_path, "01_tiny")
        assert alt.renderers.active == "svg"


def test_every_row_is_drawn_however_many(tmp_path):
    frame = pd.DataFrame({"x": range(6000)})  # altair alone refuses more than 5000
    chart = alt.Chart(frame).mark_point().encode(x="x:Q")
    Gallery(tmp_path, "01_tiny").show(chart, "many", ALT)
    (rows,) = read(tmp_path / "many.data.json").values()
    assert len(rows) == 6000


@pytest.mark.parametrize("name", ["Bars", "a b", "../bars", "bars_1", ""])
def test_names_with_other_letters_are_refused(tmp_path, name):
    with pytest.raises(SingError, match="a-z, 0-9 and hyphens"):
        Gallery(tmp_path, "01_tiny").show(bars(), name, ALT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "A chart.", "bars bars bars bars"])
def test_alt_text_that_says_too_little_is_refused(tmp_path, text):
    with pytest.raises(SingError, match="alt text of bars says too little"):
        Gallery(tmp_path, "01_tiny").show(bars(), "bars", text)


def test_svg_of_one_chart_is_the_same_each_time(tmp_path):
    first, second = Gallery(tmp_path / "a", "01_tiny"), Gallery(tmp_path / "b", "01_tiny")
    first.show(bars(), "bars", ALT)
    second.show(bars(), "bars", ALT)
    svg = (tmp_path / "a" / "bars.svg").read_text()
    assert (tmp_path / "b" / "bars.svg").read_text() == svg
    assert "url(#" in svg  # there were ids to keep stable
    for name in set(part.split(")")[0].strip("'\"") for part in svg.split("url(#")[1:]):
        assert f'id="{name}"' in svg


def test_numbers_are_kept_as_text_with_true_minus_signs(tmp_path):
    book = Gallery(tmp_path, "01_tiny")
    book.tell(drop="-3.5° (-4 to -2)", tiny="9e-06", name="CLIP-like", range="2-3")
    assert read(tmp_path / "parts" / "01_tiny.json")["numbers"] == {
        "drop": "−3.5° (−4 to −2)", "tiny": "9e-06", "name": "CLIP-like", "range": "2-3",
    }


def test_numbers_that_are_not_formatted_are_refused(tmp_path):
    with pytest.raises(SingError, match=r"drop must be formatted text; got 3\.5"):
        Gallery(tmp_path, "01_tiny").tell(drop=3.5)


def part(folder, chapter, figures=(), **numbers):
    content = {"figures": [{"name": name} for name in figures], "numbers": numbers}
    (folder / "parts").mkdir(exist_ok=True)
    (folder / "parts" / f"{chapter}.json").write_text(json.dumps(content))


def test_parts_are_merged_in_the_order_of_the_chapters(tmp_path):
    part(tmp_path, "02", ["c"], z="3")
    part(tmp_path, "01", ["b", "a"], x="1", y="2")
    part(tmp_path, "09_removed", ["a"], x="9")
    merge_parts(tmp_path, ["01", "02", "03_without_figures"])
    assert [figure["name"] for figure in read(tmp_path / "manifest.json")] == ["b", "a", "c"]
    assert read(tmp_path / "numbers.json") == {"x": "1", "y": "2", "z": "3"}


def test_a_figure_name_used_twice_is_refused(tmp_path):
    part(tmp_path, "01", ["a", "b"])
    part(tmp_path, "02", ["b"])
    with pytest.raises(SingError, match=r"same name: \['b'\]"):
        merge_parts(tmp_path, ["01", "02"])


def test_a_number_told_twice_is_refused(tmp_path):
    part(tmp_path, "01", x="1")
    part(tmp_path, "02", x="1")
    with pytest.raises(SingError, match=r"02 tells numbers .* \['x'\]"):
        merge_parts(tmp_path, ["01", "02"])


def test_estimates_are_written_with_their_interval():
    row = {"value": 9.24, "low": 8.66, "high": 9.9}
    assert span(row) == "9.2° (8.7 to 9.9)"
    assert span(row, unit="", digits=2) == "9.24 (8.66 to 9.90)"
    nan = float("nan")
    assert span({"value": 9.24, "low": nan, "high": nan}) == "9.2° (no interval)"
    assert span({"value": nan, "low": nan, "high": nan}) == "not measured"


@pytest.mark.parametrize(
    ("value", "text"),
    [(9.1e-6, "9\xa0×\xa010⁻⁶"), (2e12, "2\xa0×\xa010¹²"), (1.0, "1\xa0×\xa010⁰")],
)
def test_small_and_large_numbers_are_powers_of_ten(value, text):
    assert power(value) == text


def test_verdicts_are_the_words_of_the_paper_map():
    assert [verdict(True), verdict(False)] == ["holds here", "differs here"]


@pytest.mark.parametrize(
    ("values", "form", "text"),
    [([1000, 1000], "", "1000"), ([1048, 24, 280], "", "24 to 1048"),
     ([0.218, 0.222], ".0%", "22%"), ([0.51, 0.02], ".0%", "2% to 51%")],
)
def test_numbers_that_read_alike_are_said_once(values, form, text):
    assert between(values, form) == text


def test_a_table_of_sentences_is_shown_whole_and_escaped():
    long = "word " * 40
    shown = sentences(pd.DataFrame({"note": [long, "", "a < b"], "hours": [1.5, None, 2]})).data
    assert long.strip() in shown
    assert "a &lt; b" in shown
    assert shown.count("<td>–</td>") == 2
    assert 'class="dataframe sentences"' in shown


@pytest.mark.parametrize("quiet", ["", "1"])
def test_a_person_sees_what_stands_for_the_names_in_the_prose(tmp_path, monkeypatch, quiet):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda what, **_: shown.append(what))
    monkeypatch.setenv("SING_QUIET", quiet)
    Gallery(tmp_path, "01_tiny").tell(tiny_share="-3 %", tiny_name="<b>")
    tables = [what.data for what in shown if hasattr(what, "data") and "details" in what.data]
    if quiet:
        assert tables == []
    else:
        (table,) = tables
        assert "2 values for the text" in table
        rows = re.findall(r"<th>(tiny\w+)</th>\s*<td>(.*?)</td>", table)
        assert rows == [("tiny_share", "\N{MINUS SIGN}3 %"), ("tiny_name", "&lt;b&gt;")]
