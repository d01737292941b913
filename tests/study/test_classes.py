from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from conftest import degrees, prompt_of, random_part

from sing_nb.charts import explorers
from sing_nb.errors import SingError
from sing_nb.method.metrics import angle
from sing_nb.models.prompts import class_aliases, imagenet_names
from sing_nb.study import classes, tables


def text_of(smoke, words):
    return smoke.space.encode_text([prompt_of(word) for word in words]).double().numpy()


# --- names --------------------------------------------------------------------------------------


def test_every_class_has_its_curated_name_and_wordnets_names():
    aliases = class_aliases()
    assert aliases["arabian camel"] == aliases["dromedary"] == aliases["camelus dromedarius"]
    assert aliases["arabian camel"] == {imagenet_names().index("arabian camel")}
    assert aliases["ram"] == {imagenet_names().index("ram (adult male sheep)")}
    assert len(aliases["crane"]) == 2  # the bird and the machine
    assert frozenset().union(*aliases.values()) == frozenset(range(1000))


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Arabian camel", "dromedary"), ("Camelus dromedarius", "dromedary"),
        ("dromedary", "dromedary"), ("ZEBRA", "zebra"), ("fire engine", "fire truck"),
        ("crane", "crowned crane"),  # no stamp shows the machine
        ("giraffe", "giraffe"),  # a label without an ImageNet class
    ])
def test_a_class_is_found_by_any_usual_name(smoke, name, label):
    assert smoke.label(name) == label


def test_a_wrong_name_gets_the_nearest_right_one(smoke):
    with pytest.raises(SingError, match="Unknown class 'Arabian camell'; did you mean 'arabian c"):
        smoke.label("Arabian camell")
    with pytest.raises(SingError, match=r"'jellyfish'.* ImageNet class, but no picture shows it"):
        smoke.known(["jellyfish"])


def test_known_labels_come_first_and_once(smoke):
    have = smoke.subjects["label"].tolist()
    chosen = smoke.known(["Arabian camel", "Loxodonta africana", have[0], have[0].upper()], 4)
    assert chosen[:2] == ["African elephant", have[0]]  # the camel is in another profile
    assert len(chosen) == len(set(chosen)) == 4
    assert set(chosen) <= set(have)


# --- concepts -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(smoke):
    return smoke.subjects["label"][1], ["horse", "snow", "kitchen", "desert", "fur"]


@pytest.fixture(scope="module")
def angles_by_hand(smoke, plain, asked):
    label, concepts = asked
    rows = np.flatnonzero((plain.table["label"] == label) & smoke.is_scored)
    f = plain.f[rows]
    null, text = plain.null(f), text_of(smoke, concepts)

    def angles(features):
        return degrees(plain.translate(features, rows)[:, None], text[None])

    control = [
        angles(np.stack([
            one - random_part(one, np.linalg.norm(part), smoke.config.seed + draw)
            for one, part in zip(f, null)]))
        for draw in range(smoke.config.control_draws)]
    return angles(f), angles(f - null), np.stack(control)


def test_angles_to_concepts_are_those_of_plain_numpy(smoke, asked, angles_by_hand):
    for found, expected in zip(classes.concept_angles(smoke, "lite0", *asked), angles_by_hand):
        np.testing.assert_allclose(found, expected, atol=0.01)


def test_a_string_graph_knows_its_control_and_its_strongest(smoke, asked, angles_by_hand):
    label, concepts = asked
    table = classes.string_graph(smoke, "lite0", label, concepts).set_index("concept")
    before, _, other = angles_by_hand
    control = (before - other).mean(1)
    for column, concept in enumerate(concepts):
        row, own = table.loc[concept], control[:, column]
        found = row[["attribute_score_control", "control_low", "control_high"]].astype(float)
        np.testing.assert_allclose(found, [own.mean(), own.min(), own.max()], atol=0.01)
        assert row["beyond"] == (np.abs(own) < abs(row["attribute_score"])).mean()
    size = table["attribute_score"].abs()
    assert table["strength"].sort_values().index.tolist() == (
        size.sort_values(ascending=False).index.tolist())
    by_alias = classes.string_graph(smoke, "lite0", "Loxodonta africana", ["snow"])
    pd.testing.assert_frame_equal(
        by_alias, classes.string_graph(smoke, "lite0", "African elephant", ["snow"]))


# --- figures ------------------------------------------------------------------------------------


def rows_with(chart, *columns):
    (found,) = [
        pd.DataFrame(rows) for rows in chart.to_dict()["datasets"].values()
        if rows and set(columns) <= set(rows[0])]
    return found


def test_classes_with_two_views_have_dots_and_no_shapes(smoke):
    table = tables.scored(smoke, "lite0").groupby("label").head(2)
    chart = explorers.class_violins({"Lite0": table})
    assert len(rows_with(chart, "label", "m", "c")) == table["label"].nunique()
    assert not [rows for rows in chart.to_dict()["datasets"].values() if rows and "h" in rows[0]]


@pytest.mark.parametrize("shown", [None, 2])
def test_violins_are_sorted_by_each_classifiers_own_medians(smoke, shown):
    parts = {smoke.title(model): tables.scored(smoke, model) for model in smoke.config.everyone}
    middles = rows_with(explorers.class_violins(parts, shown), "label", "m", "c")
    for number, (model, table) in enumerate(zip(smoke.config.everyone, parts.values())):
        own = middles[middles["t"] == number].sort_values("p")
        order = tables.classes(smoke, model)["label"].tolist()
        assert own["label"].tolist() == (order if shown is None else order[:2] + order[-2:])
        groups = table.groupby("label")
        for column, score in (("m", "attribute_score"), ("c", "attribute_score_control")):
            expected = groups[score].median()[own["label"]]
            np.testing.assert_allclose(own[column], expected, atol=6e-4)


def test_whiskers_stand_where_the_arrow_would_end(smoke):
    label = smoke.subjects["label"][0]
    table = classes.string_graph(smoke, "lite0", label).assign(label=label, title="Lite0")
    kept = rows_with(explorers.string_graph(table), "concept", "near").set_index("concept")
    for row in table.itertuples():
        own = kept.loc[row.concept]
        assert own["near"] == pytest.approx(row.before - row.high, abs=1e-3)
        assert own["near"] - 1e-3 <= row.after <= own["far"] + 1e-3


# --- concepts over all classes ------------------------------------------------------------------


def test_the_excess_of_a_concept_is_over_subjects_and_more_subspaces(smoke):
    concepts = smoke.concepts[:3]
    found = classes.concept_excess(smoke, concepts)
    assert set(found["model"]) == set(smoke.config.everyone)
    assert (found["draws"] == 4 * smoke.config.control_draws).all()
    own = found[found["model"] == "lite0"].set_index("concept")
    moved, gaps = [], []
    for label in tables.classes(smoke, "lite0")["label"]:
        before, after, _ = classes.concept_angles(smoke, "lite0", label, concepts)
        rows = np.flatnonzero((smoke.pictures["label"] == label).to_numpy() & smoke.is_scored)
        other = [
            angle(smoke.translate("lite0", f, rows)[:, None], smoke.text(concepts)[None]).numpy()
            for f in smoke.random_removals("lite0", smoke.features("lite0")[rows], 8)]
        moved.append((before - after).mean(0))
        gaps.append((np.mean(other, axis=0) - after).mean(0))
    # In smoke every class is one stamp.
    assert own["subjects"].unique() == [len(moved)]
    assert own.loc[concepts, "value"].to_numpy() == pytest.approx(np.mean(moved, 0), abs=5e-3)
    assert own.loc[concepts, "excess"].to_numpy() == pytest.approx(np.mean(gaps, 0), abs=5e-3)
    assert (own["excess_low"] <= own["excess"]).all()
    assert (own["excess"] <= own["excess_high"]).all()
    adjusted = scipy.stats.false_discovery_control(own["p"], method="by")
    assert own["p_fdr"].to_numpy() == pytest.approx(adjusted)
