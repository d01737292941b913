from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from test_study import ByHand, degrees, prompt_of

from sing_nb import classes, figures
from sing_nb.errors import SingError
from sing_nb.metrics import angle
from sing_nb.prompts import class_aliases, imagenet_names
from sing_nb.stats import holm


@pytest.fixture(scope="module")
def by_hand(smoke):
    return ByHand(smoke)


@pytest.fixture(scope="module")
def agreement(smoke):
    return classes.class_agreement(smoke)


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
    ],
)
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


# --- scores of classes --------------------------------------------------------------------------


def test_scores_of_classes_are_those_of_plain_numpy(smoke, by_hand):
    found = classes.class_scores(smoke, "lite0").set_index(["draw", "label"])
    draws = range(-1, smoke.config.control_draws)
    assert sorted(found.index.unique("draw")) == list(draws)
    label = smoke.subjects["label"][2]
    rows = (by_hand.table["label"] == label) & (by_hand.table["source"] == "stamp")
    f, fold = by_hand.f[rows], by_hand.fold[rows][0]
    (text,) = text_of(smoke, [label])
    before = degrees(by_hand.translate(f, fold), text)
    for draw in draws:
        part = by_hand.null(f)
        if draw >= 0:
            length = np.linalg.norm(part, axis=1)
            part = np.stack([
                by_hand.random_part(one, size, smoke.config.seed + draw)
                for one, size in zip(f, length)
            ])
        scores = before - degrees(by_hand.translate(f - part, fold), text)
        row = found.loc[(draw, label)]
        assert row["as_median"] == pytest.approx(np.median(scores), abs=0.01)
        assert row["as_abs"] == pytest.approx(np.median(np.abs(scores)), abs=0.01)


def test_null_removal_is_that_of_the_study(smoke):
    own = classes.class_scores(smoke, "lite1").query("draw == -1").set_index("label")
    table = smoke.classes("lite1").set_index("label")
    pd.testing.assert_frame_equal(
        own[["as_median", "as_abs"]], table.loc[own.index, ["as_median", "as_abs"]], atol=1e-4
    )


def test_spread_and_share_follow_from_the_scores(smoke):
    found = classes.class_spread(smoke).set_index(["model", "quantity", "kind"])
    assert set(found.index.unique("model")) == {"lite0", "lite1", "lite2"}
    scores = classes.class_scores(smoke, "lite0")
    by_draw = scores.groupby("draw")
    expected = {
        "small": by_draw["as_abs"].apply(lambda v: (v < 1).mean()),
        "middle": by_draw["as_abs"].median(),
        "spread": by_draw["as_median"].quantile(0.75) - by_draw["as_median"].quantile(0.25),
    }
    for quantity, values in expected.items():
        rows = found.sort_index().loc[("lite0", quantity)]
        null, control = values[-1], values.drop(-1).mean()
        assert rows.loc["null space removed", "value"] == pytest.approx(null)
        assert rows.loc["random control", "value"] == pytest.approx(control)
        assert rows.loc["difference", "value"] == pytest.approx(null - control)
    assert (found["low"] <= found["value"]).all()
    assert (found["value"] <= found["high"]).all()


def test_the_difference_of_spreads_is_second_minus_first(smoke):
    spread = classes.class_spread(smoke).query("quantity == 'spread'")
    value = spread[spread["kind"] == "null space removed"].set_index("model")["value"]
    found = classes.spread_difference(smoke, "lite0", "lite1")
    assert found["value"] == pytest.approx(value["lite1"] - value["lite0"])
    assert found["low"] < found["high"]


# --- agreement ----------------------------------------------------------------------------------


def test_all_pairs_are_correlated_once_by_size_and_by_sign(smoke, agreement):
    titles = [smoke.title(model) for model in smoke.config.everyone]
    pairs = {(titles[0], titles[1]), (titles[0], titles[2]), (titles[1], titles[2])}
    for measure in ("|AS|", "AS"):
        rows = agreement[agreement["measure"] == measure]
        assert set(zip(rows["first"], rows["second"])) == pairs
        assert len(rows) == 3


@pytest.mark.parametrize(("measure", "column"), [("|AS|", "as_abs"), ("AS", "as_median")])
def test_correlations_are_scipys(smoke, agreement, measure, column):
    row = agreement[agreement["measure"] == measure].iloc[0]
    one, two = (
        classes.class_scores(smoke, model).pivot_table(column, "label", "draw")
        for model in ("lite0", "lite1")
    )
    two = two.loc[one.index]
    expected = scipy.stats.spearmanr(one[-1], two[-1])
    assert row["rho"] == pytest.approx(expected.statistic)
    assert row["p"] == pytest.approx(expected.pvalue)
    draws = range(smoke.config.control_draws)
    control = np.mean([scipy.stats.spearmanr(one[d], two[d]).statistic for d in draws])
    assert row["rho_control"] == pytest.approx(control)
    assert row["excess"] == pytest.approx(expected.statistic - control)


def test_p_values_are_adjusted_over_the_whole_table(agreement):
    p = agreement["p"].to_numpy()
    # Holm by its definition: walk up the sorted p-values, and never come down again.
    expected, running = {}, 0.0
    for place, index in enumerate(np.argsort(p)):
        running = max(running, min(1.0, (len(p) - place) * p[index]))
        expected[index] = running
    np.testing.assert_allclose(agreement["p_holm"], [expected[i] for i in range(len(p))])


def test_holm_rejects_what_holms_procedure_rejects():
    # Holm (1979): compare the i-th smallest with level / (n - i + 1), stop at the first failure.
    p = [0.012, 0.4, 0.001, 0.03, 0.012]
    np.testing.assert_allclose(holm(p), [0.048, 0.4, 0.005, 0.06, 0.048])
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.uniform(size=6) ** 3
        adjusted = holm(p)
        assert (adjusted >= p).all()
        assert (adjusted <= np.minimum(1, 6 * p) + 1e-12).all()  # never worse than Bonferroni
        rejected = set()
        for place, index in enumerate(np.argsort(p)):
            if p[index] > 0.05 / (6 - place):
                break
            rejected.add(index)
        assert set(np.flatnonzero(adjusted <= 0.05)) == rejected


# --- concepts -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(smoke):
    return smoke.subjects["label"][1], ["horse", "snow", "kitchen", "desert", "fur"]


@pytest.fixture(scope="module")
def angles_by_hand(smoke, by_hand, asked):
    label, concepts = asked
    rows = (by_hand.table["label"] == label) & (by_hand.table["source"] == "stamp")
    f, fold = by_hand.f[rows], by_hand.fold[rows][0]
    null, text = by_hand.null(f), text_of(smoke, concepts)

    def angles(features):
        return degrees(by_hand.translate(features, fold)[:, None], text[None])

    control = [
        angles(np.stack([
            one - by_hand.random_part(one, np.linalg.norm(part), smoke.config.seed + draw)
            for one, part in zip(f, null)
        ]))
        for draw in range(smoke.config.control_draws)
    ]
    return angles(f), angles(f - null), np.stack(control)


def test_angles_to_concepts_are_those_of_plain_numpy(smoke, asked, angles_by_hand):
    for found, expected in zip(smoke.concept_angles("lite0", *asked), angles_by_hand):
        np.testing.assert_allclose(found, expected, atol=0.01)


def test_a_string_graph_knows_its_control_and_its_strongest(smoke, asked, angles_by_hand):
    label, concepts = asked
    table = smoke.string_graph("lite0", label, concepts).set_index("concept")
    before, _, other = angles_by_hand
    control = (before - other).mean(1)
    for column, concept in enumerate(concepts):
        row, own = table.loc[concept], control[:, column]
        found = row[["attribute_score_control", "control_low", "control_high"]].astype(float)
        np.testing.assert_allclose(found, [own.mean(), own.min(), own.max()], atol=0.01)
        assert row["beyond"] == (np.abs(own) < abs(row["attribute_score"])).mean()
    size = table["attribute_score"].abs()
    assert table["strength"].sort_values().index.tolist() == (
        size.sort_values(ascending=False).index.tolist()
    )
    by_alias = smoke.string_graph("lite0", "Loxodonta africana", ["snow"])
    pd.testing.assert_frame_equal(
        by_alias, smoke.string_graph("lite0", "African elephant", ["snow"])
    )


def test_the_summary_of_concepts_follows_from_the_angles(smoke, asked, angles_by_hand):
    label, concepts = asked
    found = classes.concept_summary(smoke, "lite0", label, concepts, "desert")
    found = found.set_index("quantity")
    before, after, other = angles_by_hand
    mean = before.mean(0)
    strength = np.median(np.abs(mean - after.mean(0)))
    control = np.mean([np.median(np.abs(mean - moved.mean(0))) for moved in other])
    texts = text_of(smoke, [label, *concepts])
    name = degrees(texts[0], texts[1:])
    expected = {
        "strength": strength, "strength_control": control, "strength_excess": strength - control,
        "lead": mean[3] - np.delete(mean, 3).min(),
        "order_before": scipy.stats.spearmanr(name, mean).statistic,
        "order_after": scipy.stats.spearmanr(name, after.mean(0)).statistic,
        "order_control": scipy.stats.spearmanr(name, other.mean((0, 1))).statistic,
    }
    assert set(found.index) == set(expected)
    for quantity, value in expected.items():
        assert found.loc[quantity, "value"] == pytest.approx(value, abs=0.01), quantity
    without = classes.concept_summary(smoke, "lite0", label, ["horse", "snow", "fur"], "desert")
    assert set(without["quantity"]) == set(expected) - {"lead"}


def test_the_lead_is_negative_exactly_for_the_nearest_concept(smoke, asked):
    label, concepts = asked
    near = smoke.string_graph("lite0", label, concepts)["concept"].tolist()
    for place, concept in enumerate(near):
        table = classes.concept_summary(smoke, "lite0", label, concepts, concept)
        lead = table.set_index("quantity").loc["lead"]
        assert (lead["value"] < 0) == (place == 0)


def test_the_difference_of_two_classes_is_second_minus_first(smoke):
    one, two = smoke.subjects["label"][:2]
    concepts = ["horse", "snow", "kitchen"]
    values = [
        classes.concept_summary(smoke, "lite0", label, concepts, "snow").iloc[0]["value"]
        for label in (one, two)
    ]
    found = classes.concept_difference(smoke, "lite0", one, two, concepts)
    assert found["value"] == pytest.approx(values[1] - values[0])
    assert found["low"] <= found["high"]
    assert classes.concept_difference(smoke, "lite0", one, one, concepts)["value"] == 0


# --- figures ------------------------------------------------------------------------------------


def rows_with(chart, *columns):
    (found,) = [
        pd.DataFrame(rows) for rows in chart.to_dict()["datasets"].values()
        if rows and set(columns) <= set(rows[0])
    ]
    return found


def test_classes_with_two_views_have_dots_and_no_shapes(smoke):
    table = smoke.scored("lite0").groupby("label").head(2)
    chart = figures.class_violins({"Lite0": table})
    assert len(rows_with(chart, "label", "m", "c")) == table["label"].nunique()
    assert not [rows for rows in chart.to_dict()["datasets"].values() if rows and "h" in rows[0]]


@pytest.mark.parametrize("shown", [None, 2])
def test_violins_are_sorted_by_each_classifiers_own_medians(smoke, shown):
    tables = {smoke.title(model): smoke.scored(model) for model in smoke.config.everyone}
    middles = rows_with(figures.class_violins(tables, shown), "label", "m", "c")
    for number, (model, table) in enumerate(zip(smoke.config.everyone, tables.values())):
        own = middles[middles["t"] == number].sort_values("p")
        order = smoke.classes(model)["label"].tolist()
        assert own["label"].tolist() == (order if shown is None else order[:2] + order[-2:])
        groups = table.groupby("label")
        for column, score in (("m", "attribute_score"), ("c", "attribute_score_control")):
            expected = groups[score].median()[own["label"]]
            np.testing.assert_allclose(own[column], expected, atol=6e-4)


def test_of_too_many_classes_some_evenly_over_the_order_are_drawn(smoke):
    table = smoke.scored("lite0")
    middles = rows_with(figures.class_violins({"Lite0": table}, most=3), "label", "m", "c")
    order = smoke.classes("lite0")["label"].tolist()
    expected = [order[0], order[(len(order) - 1) // 2], order[-1]]
    assert middles.sort_values("p")["label"].tolist() == expected


def test_the_short_string_graph_shows_the_extremes_alone(smoke):
    label = smoke.subjects["label"][0]
    table = smoke.string_graph("lite0", label).assign(label=label, title="Lite0")
    kept = rows_with(figures.string_graph(table, extremes=3), "concept", "near")
    order = table.loc[table["attribute_score"].abs().sort_values().index, "concept"].tolist()
    assert set(kept["concept"]) == {*order[:3], *order[-3:]}
    assert len(rows_with(figures.string_graph(table), "concept", "near")) == len(table)


def test_whiskers_stand_where_the_arrow_would_end(smoke):
    label = smoke.subjects["label"][0]
    table = smoke.string_graph("lite0", label).assign(label=label, title="Lite0")
    kept = rows_with(figures.string_graph(table), "concept", "near").set_index("concept")
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
    for label in classes.class_scores(smoke, "lite0")["label"].unique():
        before, after, _ = smoke.concept_angles("lite0", label, concepts)
        rows = np.flatnonzero((smoke.pictures["label"] == label).to_numpy() & smoke.is_scored)
        other = [
            angle(smoke.translate("lite0", f, rows)[:, None], smoke.text(concepts)[None]).numpy()
            for f in smoke.random_removals("lite0", smoke.features("lite0")[rows], 8)
        ]
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


def test_pairs_of_classifiers_have_their_intervals(smoke):
    pairs = classes.class_pairs(smoke, "lite0", "lite1").set_index(["kind", "label"])
    for side, model in (("x", "lite0"), ("y", "lite1")):
        table = smoke.classes(model).set_index("label")
        own = pairs.loc["null space removed"].loc[table.index]
        for end in ("", "_low", "_high"):
            assert own[f"{side}{end}"].to_numpy() == pytest.approx(table[f"as_abs{end}"].to_numpy())
    assert pairs.loc["random control", "x_low"].isna().all()
    assert pairs.loc["random control", "x"].notna().all()
