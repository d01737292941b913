from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

import sing_nb
from sing_nb import widgets
from sing_nb.models.prompts import prompt
from sing_nb.study import classes, tables
from sing_nb.widgets import ConceptExplorer, ModelComparer

WORDS = ["sand", "fish", "birthday cake", "snow"]


def said(box):
    """What a box of HTML says, in plain words."""
    return re.sub(r"<[^>]+>", "", box.value)


def rows(chart):
    """The rows that a live chart shows, from the spec that goes to the browser."""
    (table,) = [table for table in chart.spec["datasets"].values() if len(table[0]) > 1]
    return pd.DataFrame(table)


# --- concepts -----------------------------------------------------------------------------------


@pytest.fixture
def concepts(smoke):
    return ConceptExplorer(smoke, "lite0", "", WORDS)


def unit(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def moved(plain, smoke, label, words):
    """AS of a class towards words, mean over its pictures, in NumPy."""
    table = smoke.pictures
    at = np.flatnonzero(((table["label"] == label) & (table["source"] == "stamp")).to_numpy())
    f, text = plain.f[at], smoke.space.encode_text([prompt(w) for w in words])
    before, after = (
        np.degrees(np.arccos(unit(plain.translate(z, at)) @ text.double().numpy().T))
        for z in (f, f - plain.null(f)))
    return (before - after).mean(0)


def test_typed_words_get_their_scores(concepts, smoke, plain):
    asked = ["pyramid", "teapot", "sand"]
    concepts.words.value = "pyramid,  teapot ;sand\nSand,, an image of a pyramid"
    shown = rows(concepts.chart).set_index("concept")["attribute_score"]
    label = concepts.label.value
    assert np.allclose(shown[asked], moved(plain, smoke, label, asked), atol=2e-3)
    assert len(shown) == 3
    strongest = shown.abs().idxmax()
    assert f"“{strongest}”: {abs(shown[strongest]):.2f}°" in said(concepts.sentence)
    assert f"pictures of “{label}”" in said(concepts.sentence)
    assert all(word in said(concepts.numbers) for word in asked)
    assert concepts.said.value == ""


def test_whether_random_removals_do_the_same_is_said(smoke):
    table = classes.string_graph(smoke, "lite0", smoke.labels[0], WORDS)
    best = table["strength"].idxmin()
    for beyond, words in ((1.0, "more than under every one of 2"), (0.5, "1 of 2 random removals")):
        table.loc[best, "beyond"] = beyond
        assert words in widgets._strongest(table, "x", 2)


def test_class_and_classifier_are_chosen(concepts, smoke):
    other = next(label for label in concepts.label.options if label != concepts.label.value)
    concepts.label.value = other
    concepts.model.value = "lite1"
    expected = classes.string_graph(smoke, "lite1", other, WORDS)
    shown = rows(concepts.chart)
    assert set(shown["title"]) == {smoke.title("lite1")}
    for column in ("before", "after", "low", "high", "attribute_score_control", "control_low"):
        assert np.allclose(shown[column], expected[column], atol=1e-3)


def test_the_live_chart_has_a_width_and_no_menu(concepts):
    assert concepts.chart.spec["width"] == widgets.LIVE_WIDTH
    assert "params" not in concepts.chart.spec


@pytest.mark.parametrize(("text", "words"), [
    ("", "No words came; type a few"),
    (" , ;", "such as: saddle, desert, fur"),
    ("sand, $$$", "&#x27;$$$&#x27; has no letter"),
    ("x" * 61, "has 61 letters"),
    (", ".join(f"word {n}" for n in range(33)), "33 concepts came, and the chart shows at most 30"),
])
def test_bad_words_are_said_and_the_last_answer_stays(concepts, text, words):
    before = concepts.sentence.value, concepts.chart.spec
    concepts.words.value = text
    assert words in concepts.said.value
    assert 'role="alert"' in concepts.said.value
    assert (concepts.sentence.value, concepts.chart.spec) == before
    concepts.words.value = "sand"
    assert concepts.said.value == ""


def test_typed_markup_is_text(concepts):
    concepts.words.value = "<img src=x onerror=alert(1)>"
    for box in (concepts.sentence, concepts.numbers):
        assert "<img" not in box.value
        assert "&lt;img src=x onerror=alert(1)&gt;" in box.value


def test_unknown_names_are_said_and_there_is_an_answer(smoke):
    label = ConceptExplorer(smoke, label="no such thing")
    assert "Unknown class &#x27;no such thing&#x27;" in label.said.value
    model = ConceptExplorer(smoke, "lite00")
    assert "did you mean &#x27;lite0&#x27;?" in model.said.value
    assert label.sentence.value
    assert model.model.value == "lite0"


def test_words_one_by_one_are_words_together(smoke):
    label = smoke.labels[1]
    together = classes.string_graph(smoke, "lite1", label, WORDS).set_index("concept")
    for word in WORDS:
        one = classes.string_graph(smoke, "lite1", label, [word]).set_index("concept")
        columns = together.columns.drop("strength")
        pd.testing.assert_frame_equal(one[columns], together.loc[[word], columns])


def test_the_page_gets_a_chart_of_several_classes(concepts, smoke):
    chart = concepts.counterpart().to_dict()
    params = {one["name"]: one for one in chart["params"]}
    assert params["subject"]["value"] == concepts.label.value
    assert params["classifier"]["bind"]["options"] == [smoke.title("lite0"), smoke.title("lite1")]
    assert params["most"]["bind"]["max"] == len(smoke.concepts)
    (table,) = [pd.DataFrame(part) for part in chart["datasets"].values()]
    assert len(table) == table["label"].nunique() * 2 * len(smoke.concepts)
    top = table[table["strength"] == 1].iloc[0]
    sentence = json.loads(re.search(r"\((\{.*\})\)", params["strongest"]["expr"])[1])
    assert len(sentence) == table["label"].nunique() * 2
    first, second = sentence[f"{top['label']}\n{top['title']}"]
    assert f"moves most: {top['concept']}, {abs(top['attribute_score']):.2f}°" in first
    assert ("every" in second) == (top["beyond"] == 1)
    assert len(json.dumps(chart)) < 400_000


# --- classifiers --------------------------------------------------------------------------------


@pytest.fixture
def comparer(smoke):
    return ModelComparer(smoke)


def medians(smoke, model, suffix):
    """Median IS and |AS| of a classifier's scored pictures; of a control, one column a draw."""
    table = tables.images(smoke, model)
    table = table[(table["source"] == "stamp") & (table["class_index"] >= 0)]
    if not suffix:
        return np.median(table[["image_score", "attribute_score"]].abs(), axis=0)[:, None]
    drawn = tables.controls(smoke, model)
    drawn = drawn[drawn["picture"].isin(table["picture"])].assign(
        size=lambda t: t["attribute_score"].abs())
    return drawn.groupby("draw")[["image_score", "size"]].median().to_numpy().T


@pytest.mark.parametrize("kind", ["null space removed", "random control"])
@pytest.mark.parametrize("measure", ["image_score", "attribute_score", "ratio"])
def test_two_classifiers_are_compared(comparer, smoke, measure, kind):
    comparer.measure.value, comparer.kind.value = measure, kind
    values = []
    for model in ("lite0", "lite1"):
        size, towards = medians(smoke, model, "control" if "control" in kind else "")
        score = {"image_score": size, "attribute_score": towards, "ratio": size / towards}
        values.append(score[measure].mean())
    found = tables.model_difference(smoke, "lite0", "lite1", measure, kind)
    assert found["value"] == pytest.approx(values[1] - values[0], abs=1e-5)
    assert found["low"] <= found["value"] <= found["high"]
    numbers = said(comparer.numbers).replace("\N{MINUS SIGN}", "-")
    assert f"{found['value']:.2f}" in numbers
    for model, value in zip(("lite0", "lite1"), values):
        assert f"{value:.2f}" in numbers
        assert smoke.title(model) in numbers
        error = tables.scored(smoke, model)["translator_error"].median()
        assert f"{error:.1f}° (" in numbers
    assert set(rows(comparer.chart)["quantity"]) == {measure}
    together = found["low"] <= 0 <= found["high"]
    assert ("cannot be told apart" in said(comparer.sentence)) is together
    assert ("random removal" in said(comparer.sentence)) is ("control" in kind)


@pytest.mark.parametrize(("asked", "words"), [
    (("ratioo", "random control"), "Unknown quantity 'ratioo'; did you mean 'ratio'"),
    (("ratio", "control"), "Unknown kind 'control'; did you mean 'random control'"),
])
def test_what_is_compared_has_a_name(smoke, asked, words):
    with pytest.raises(sing_nb.SingError, match=re.escape(words)):
        tables.model_difference(smoke, "lite0", "lite1", *asked)


@pytest.mark.parametrize(("difference", "words"), [
    ((2.0, 1.0, 3.0), "clearly larger for B than for A, by 2.00 (1.00 to 3.00)"),
    ((-2.0, -3.0, -1.0), "clearly larger for A than for B, by 2.00 (1.00 to 3.00)"),
    ((-2.0, -3.0, 1.0), "cannot be told apart by IS / |AS|: second minus first is −2.00 (−3.00 to"),
    ((2.0, np.nan, np.nan), "cannot be said of one subject"),
])
def test_a_plain_sentence_says_who_has_more(difference, words):
    row = dict(zip(("value", "low", "high"), difference))
    assert words in widgets._compared(["A", "B"], row, "ratio", "null space removed")


def test_one_classifier_on_both_sides_is_said(comparer):
    comparer.second.value = "lite0"
    assert "choose two" in comparer.said.value
    comparer.first.value = "lite1"
    assert comparer.said.value == ""


@pytest.mark.parametrize(("first", "second", "words"), [
    ("lite00", "", "Unknown classifier of this study &#x27;lite00&#x27;; did you mean &#x27;lite0"),
    ("", "lite2", "is never ranked in its own space"),
])
def test_wrong_names_to_begin_with_are_said(smoke, first, second, words):
    made = ModelComparer(smoke, first, second)
    assert words in made.said.value
    assert (made.first.value, made.second.value) == ("lite0", "lite1")
    assert made.sentence.value


def test_the_page_gets_linked_views(comparer):
    chart = comparer.counterpart().to_dict()
    assert {"vconcat", "params"} <= set(chart)


def test_explorers_work_without_a_tower(mini):
    concepts = ConceptExplorer(mini, "", "", WORDS)
    assert concepts.sentence.value
    assert concepts.counterpart().to_dict()["params"]
    comparer = ModelComparer(mini)
    assert comparer.said.value == ""
    assert mini.title(mini.config.models[1]) in said(comparer.numbers)
    assert comparer.counterpart().to_dict()["vconcat"]
