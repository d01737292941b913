from __future__ import annotations

import numpy as np
import pytest
from conftest import ends

from sing_nb.study import tables
from sing_nb.study.joint_spaces import pair_table, space_table


@pytest.fixture(scope="module")
def pairs(fresh, smoke):
    return pair_table(fresh(config=smoke.config))


def ratio(study, model):
    scored = tables.scored(study, model)
    return scored["image_score"].median() / scored["attribute_score"].abs().median()


def test_scores_are_of_the_space_and_the_classifier_that_they_stand_for(fresh, smoke):
    spaces = space_table(fresh(config=smoke.config))
    ratios = spaces[(spaces["quantity"] == "ratio") & (spaces["kind"] == "null space removed")]
    ratios = ratios.set_index(["joint", "model"])["value"]
    for tower in smoke.config.spaces:
        space = smoke.in_space(tower)
        for model in smoke.config.everyone:
            assert ratios[tower, model] == pytest.approx(ratio(space, model))
    assert ratios.nunique() == 9


def test_a_pair_is_neutral_where_neither_built_the_space(pairs):
    neutral = set(pairs.loc[pairs["neutral"], ["space", "first", "second"]].apply(tuple, axis=1))
    zero, one, two = (f"EfficientNet-Lite{n}" for n in range(3))
    assert neutral == {(zero, one, two), (one, zero, two), (two, zero, one)}


def test_differences_are_second_minus_first_in_the_pairs_space(pairs, smoke):
    for row in pairs.to_dict("records"):
        space = smoke.in_space(row["joint"])
        first, second = (row[k].replace("EfficientNet-L", "l") for k in ("first", "second"))
        assert row["value"] == pytest.approx(ratio(space, second) - ratio(space, first))
        assert row["low"] <= row["value"] <= row["high"]


def test_intervals_are_paired_over_subjects(pairs, smoke):
    space = smoke.in_space("lite0")
    one, two = (tables.scored(space, name).sort_values("picture") for name in ("lite1", "lite2"))
    assert one["picture"].tolist() == two["picture"].tolist()
    names, subjects = sorted(set(one["subject"])), one["subject"].to_numpy()
    rng, found = np.random.default_rng(space.config.seed), []
    for _ in range(space.config.bootstrap_draws):
        drawn = rng.integers(0, len(names), len(names))
        rows = np.concatenate([np.flatnonzero(subjects == names[i]) for i in drawn])
        ratios = [
            t["image_score"].iloc[rows].median() / t["attribute_score"].iloc[rows].abs().median()
            for t in (one, two)]
        found.append(ratios[1] - ratios[0])
    row = pairs[(pairs["joint"] == "lite0") & pairs["neutral"]].iloc[0]
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(found, ends(len(names)))))
