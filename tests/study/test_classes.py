from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from conftest import degrees, prompt_of, random_part

from sing_nb.method.metrics import angle
from sing_nb.study import classes, tables


@pytest.fixture(scope="module")
def asked(smoke):
    return smoke.subjects["label"][1], ["horse", "snow", "kitchen", "desert", "fur"]


@pytest.fixture(scope="module")
def angles_by_hand(smoke, plain, asked):
    label, concepts = asked
    rows = np.flatnonzero((plain.table["label"] == label) & smoke.is_scored)
    f = plain.f[rows]
    null = plain.null(f)
    text = smoke.space.encode_text([prompt_of(word) for word in concepts]).double().numpy()

    def angles(features):
        return degrees(plain.translate(features, rows)[:, None], text[None])

    control = [
        angles(np.stack([
            one - random_part(one, np.linalg.norm(part), smoke.config.seed + draw)
            for one, part in zip(f, null)]))
        for draw in range(smoke.config.control_draws)]
    return angles(f), angles(f - null), np.stack(control)


def test_angles_to_concepts_are_those_of_plain_numpy(smoke, asked, angles_by_hand):
    table = classes.string_graph(smoke, "lite0", *asked).set_index("concept").loc[asked[1]]
    for name, expected in zip(("before", "after"), angles_by_hand):
        np.testing.assert_allclose(table[name], expected.mean(0), atol=0.01)


def test_a_string_graph_knows_its_control_and_its_strongest(smoke, asked, angles_by_hand):
    label, concepts = asked
    table = classes.string_graph(smoke, "lite0", label, concepts).set_index("concept")
    before, _, other = angles_by_hand
    control = (before - other).mean(1)
    for column, concept in enumerate(concepts):
        row, own = table.loc[concept], control[:, column]
        found = row[["attribute_score_control", "control_low", "control_high"]].astype(float)
        np.testing.assert_allclose(found, [own.mean(), own.min(), own.max()], atol=0.01)
    size = table["attribute_score"].abs()
    assert table["strength"].sort_values().index.tolist() == (
        size.sort_values(ascending=False).index.tolist())
    by_alias = classes.string_graph(smoke, "lite0", "Loxodonta africana", ["snow"])
    pd.testing.assert_frame_equal(
        by_alias, classes.string_graph(smoke, "lite0", "African elephant", ["snow"]))


def test_the_excess_of_a_concept_is_over_subjects_and_more_subspaces(smoke):
    concepts = smoke.concepts[:3]
    found = classes.concept_excess(smoke, concepts)
    assert set(found["model"]) == set(smoke.config.everyone)
    assert (found["draws"] == 4 * smoke.config.control_draws).all()
    own = found[found["model"] == "lite0"].set_index("concept")
    moved, gaps = [], []
    for label in tables.classes(smoke, "lite0")["label"]:
        rows = np.flatnonzero((smoke.pictures["label"] == label).to_numpy() & smoke.is_scored)
        f = smoke.features("lite0")[rows]
        before, after, *other = (
            angle(smoke.translate("lite0", x, rows)[:, None], smoke.text(concepts)[None]).numpy()
            for x in (f, smoke.spaces("lite0").remove_null(f),
                      *smoke.random_removals("lite0", f, 8)))
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
