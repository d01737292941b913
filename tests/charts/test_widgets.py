"""The null-space explorer answers like `pushes`, live and as the chart of a page."""

from __future__ import annotations

import datetime
import re

import numpy as np
import pytest

from sing_nb import widgets
from sing_nb.study import pushes, tables

MODEL = "lite0"


@pytest.fixture
def explorer(smoke):
    return widgets.NullSpaceExplorer(smoke, photos=["badger", "photo-00"])


@pytest.fixture(scope="module")
def counterpart(smoke):
    """The chart of an explorer whose prompt cannot be used, which the box has said."""
    return widgets.NullSpaceExplorer(smoke, photos=["badger", "photo-00"], prompt="").counterpart()


def cells(widget):
    """Rows of a table in HTML: first cell to the others."""
    rows = re.findall(r"<tr>(.*?)</tr>", widget.value, re.DOTALL)
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    return {first: rest for first, *rest in found}


def number(text):
    return float(re.match(r"[+−]?[\d.]+", text)[0].replace("−", "-"))


def file(content, name="mine.jpg"):
    """What the browser hands over for one dropped file."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return ({"name": name, "type": "image/jpeg", "size": len(content), "last_modified": now,
             "content": memoryview(content)},)


def said(explorer):
    return re.sub(r"<[^>]+>", "", explorer.said.value)


def state(explorer):
    return [getattr(explorer, part).value for part in ("picture", "numbers", "words", "photos")]


def test_it_opens_with_the_null_part_removed(smoke, explorer):
    wanted = tables.images(smoke, MODEL).set_index("picture").loc[explorer.photo.value]
    control = tables.controls(smoke, MODEL).query("draw == 0").set_index("picture").loc[wanted.name]
    shown = cells(explorer.numbers)
    assert [number(text) for text in shown["Image Score"]] == pytest.approx(
        [wanted["image_score"], control["image_score"]], abs=0.051)
    assert [number(text) for text in shown[
        f"Attribute Score towards “an image of a {wanted['label']}”"]] == pytest.approx(
        [wanted["attribute_score"], control["attribute_score"]], abs=0.051)
    logit, logit_control = shown["largest change of a logit"]
    assert "e−0" in logit  # 4.8e−06, say
    assert number(logit_control) == pytest.approx(control["logit_change"], rel=0.05)
    assert number(shown["translator error"][0]) == pytest.approx(
        wanted["translator_error"], abs=0.051)
    assert shown["taken for, after"][0].startswith(wanted["predicted"])
    assert said(explorer) == ""


def test_every_control_changes_the_numbers(smoke, explorer):
    seen = [explorer.numbers.value]
    for control, value in (
        ("step", 2.0), ("direction", "random"), ("prompt", "teapot"), ("mode", "target"),
        ("target", 12.0), ("towards", "teapot"), ("model", "lite1"), ("photo", "photo-00"),
    ):
        getattr(explorer, control).value = value
        assert said(explorer) == "", control
        assert explorer.numbers.value not in seen, control
        seen.append(explorer.numbers.value)
    photo = pushes.known(smoke, "lite1", "photo-00")
    wanted = pushes.answer(smoke, "lite1", photo, "prompt", "teapot", "teapot", target=12.0)
    shown = cells(explorer.numbers)
    assert number(shown["Image Score"][0]) == 12.0
    assert number(shown["step (lengths of the null part)"][0]) == pytest.approx(
        wanted.scores["step"][0], abs=0.0051)
    for name in ("towards the prompt", "towards “an image of a teapot”"):
        assert number(shown[f"Attribute Score {name}"][0]) == pytest.approx(
            wanted.scores["attribute_score"][0], abs=0.051)
    for word in wanted.words["word"]:
        assert word in explorer.words.value
    assert explorer.words.value.count("<strong>+ ") == wanted.words["gained"].sum()
    labels = re.findall(r'alt="(.*?), [\d.]+° away"', explorer.photos.value)
    assert labels == wanted.photos["label"].tolist()


def test_the_chart_follows_without_being_drawn_again(smoke, explorer):
    chart, params = explorer.chart.chart, explorer.chart.params
    explorer.step.value = 2.5
    explorer.direction.value = "control"
    assert explorer.chart.chart is chart
    assert params.step == 2.5
    photo = pushes.known(smoke, MODEL, explorer.photo.value)
    wanted = pushes.answer(smoke, MODEL, photo, "control", step=2.5).scores
    for dots, (_, row) in zip(params.dots, wanted.iterrows(), strict=True):
        assert dots == pytest.approx([row["image_score"], row["attribute_score"]], abs=0.01)
    trail = [row for row in params.trail if row["held"] == 0]
    steps = np.linspace(*pushes.STEPS, 41).round(3)
    table = pushes.trail(smoke, MODEL, photo, "control", "", "", steps).query("kind == 'control'")
    assert [row["turn"] for row in trail] == pytest.approx(table["image_score"], abs=1e-3)
    assert {row["way"] for row in trail} == {"random part of the same size"}


def test_an_own_picture_is_explored(smoke, explorer):
    explorer.photo.value = "photo-00"
    explorer.towards.value = "teapot"
    wanted = cells(explorer.numbers)
    explorer.upload.value = file(smoke.picture_path("photo-00").read_bytes(), "<b>me</b>.jpg")
    assert explorer.photo.label == "your picture: <b>me</b>.jpg"
    assert "&lt;b&gt;me&lt;/b&gt;.jpg" in explorer.picture.value
    assert "<b>" not in explorer.picture.value
    shown = cells(explorer.numbers)
    for row in ("Image Score", "Attribute Score towards “an image of a teapot”"):
        assert [number(text) for text in shown[row]] == pytest.approx(
            [number(text) for text in wanted[row]], abs=0.11)
    explorer.model.value = "lite1"  # the same file, seen by another classifier
    photo = pushes.uploaded(smoke, "lite1", smoke.picture_path("photo-00").read_bytes())
    found = pushes.answer(smoke, "lite1", photo, "remove", "", "teapot", step=1.0)
    assert number(cells(explorer.numbers)["Image Score"][0]) == pytest.approx(
        found.scores["image_score"][0], abs=0.051)
    explorer.photo.value = "photo-00"
    assert "me.jpg" not in explorer.picture.value


@pytest.mark.parametrize(("control", "value", "words"), [
    ("prompt", "!!!", "type one, such as “jellyfish”"), ("target", 120, "the limit is"),
    ("upload", file(b"no picture", "holiday.png"), "holiday.png is not a picture")])
def test_bad_input_is_said_and_the_last_answer_stays(explorer, control, value, words):
    explorer.prompt.value = "teapot"
    explorer.mode.value = "target" if control == "target" else "step"
    before, picture = state(explorer), explorer.photo.value
    getattr(explorer, control).value = value
    assert words in said(explorer)
    assert 'role="alert"' in explorer.said.value
    assert (state(explorer), explorer.photo.value) == (before, picture)
    explorer.direction.value = "remove"
    explorer.mode.value = "step"
    assert said(explorer) == ""
    assert state(explorer) != before


def test_what_people_type_is_no_markup(explorer):
    explorer.prompt.value = "<img src=x onerror=alert(1)>"
    explorer.towards.value = "<script>alert(2)</script>"
    for value in state(explorer):
        assert "<script" not in value
        assert "onerror=alert(1)>" not in value
    assert "&lt;script&gt;" in explorer.numbers.value


def test_the_counterpart_holds_the_answers(smoke, counterpart):
    spec = counterpart.to_dict()
    assert "towards “an image of a jellyfish”" in str(spec["params"])
    parts = sorted(spec["datasets"].values(), key=len)
    rows = next(table for table in parts if table and "turn" in table[0])
    pictures = next(table for table in parts if table and "image" in table[0])
    assert len({row["picture"] for row in pictures}) == len(pictures)
    wanted = tables.images(smoke, MODEL).set_index("picture").loc["photo-00"]
    row = next(
        row for row in rows
        if row["way"] == "remove the null part" and row["step"] == 1
        and row["who"] == wanted["label"])
    assert row["turn"] == pytest.approx(wanted["image_score"], abs=0.051)
    assert row["own"] == pytest.approx(wanted["attribute_score"], abs=0.051)
    used = {name for row in rows for name in (row["picture"], *row["photos"])}
    assert used == {picture["picture"] for picture in pictures}
    photo = next(one for one in spec["params"] if one["name"] == "photo")
    assert photo["value"] == [{"who": rows[0]["who"]}]
    assert photo["bind"]["options"] == list(dict.fromkeys(row["who"] for row in rows))
    steps = next(one for one in spec["params"] if one["name"] == "step")
    grid = np.arange(steps["bind"]["min"], steps["bind"]["max"] + 1e-9, steps["bind"]["step"])
    assert np.allclose(grid, sorted({row["step"] for row in rows}))
