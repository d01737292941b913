from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from conftest import ends
from sklearn.linear_model import Ridge

import sing_nb
from sing_nb.errors import SingError
from sing_nb.method.translator import grouped_cv
from sing_nb.study import classes, neighbours, tables


def degrees(a, b):
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


class ByHand:
    """What the study computes for Lite0, in plain float64 NumPy."""

    def __init__(self, study):
        self.study = study
        self.table = study.pictures
        self.f = study.features("lite0").double().numpy()
        self.fold = self.table["fold"].to_numpy()
        self.weight, self.bias = (
            part.double().numpy() for part in study.classifier("lite0").head
        )

    @cached_property
    def null_basis(self):
        right = np.linalg.svd(self.weight, full_matrices=True)[2]
        return right[1000:].T

    def null(self, f):
        return f @ self.null_basis @ self.null_basis.T

    def translate(self, f, fold):
        fitted = self.study.translators("lite0")[fold]  # -1 is the one fitted on all
        return f @ fitted.weight.double().numpy().T + fitted.bias.double().numpy()

    def logits(self, f):
        return f @ self.weight.T + self.bias

    def random_part(self, f, length, seed):
        gaussian = np.random.default_rng(seed).standard_normal((1280, 280))
        basis = np.linalg.qr(gaussian)[0]
        part = f @ basis @ basis.T
        return part * length / np.linalg.norm(part)


@pytest.fixture(scope="module")
def by_hand(smoke):
    return ByHand(smoke)


@pytest.fixture(scope="module")
def images(smoke):
    return tables.images(smoke, "lite0")


def prompt_of(label):
    return f"an image of {'an' if label[0].lower() in 'aeiou' else 'a'} {label}"


# --- pictures and folds -------------------------------------------------------------------------


def test_folds_part_subjects_and_never_views(smoke):
    stamps = smoke.pictures[smoke.pictures["source"] == "stamp"]
    assert stamps[["subject", "fold"]].drop_duplicates()["subject"].is_unique
    assert (stamps.groupby("subject").size() >= 3).all()
    sizes = stamps.groupby("fold")["subject"].nunique()
    assert sizes.index.tolist() == [0, 1]
    assert sizes.max() - sizes.min() <= 1


def test_clip_art_and_photographs_belong_to_no_fold(smoke):
    others = smoke.pictures[smoke.pictures["source"] != "stamp"]
    assert set(others["source"]) == {"clipart", "photo"}
    assert (others["fold"] == -1).all()


def test_features_and_logits_belong_to_the_rows(smoke, by_hand):
    assert by_hand.f.shape == (len(smoke.pictures), 1280)
    np.testing.assert_allclose(by_hand.logits(by_hand.f), smoke.logits("lite0"), atol=2e-3)


def test_examples_show_the_subject_at_its_largest(smoke):
    labels = smoke.subjects["label"].tolist()[:3]
    for label, name in zip(labels, smoke.examples(labels)):
        rows = smoke.pictures[smoke.pictures["label"] == label]
        rows = rows[rows["source"] == "stamp"]
        assert rows.loc[rows["scale"].idxmax(), "picture"] == name


def test_a_picture_can_be_found_as_a_file(smoke):
    name = smoke.pictures["picture"][0]
    assert smoke.picture_path(name).is_file()
    with pytest.raises(SingError, match="Unknown picture"):
        smoke.picture_path("nothing")


# --- translators --------------------------------------------------------------------------------


def test_a_picture_is_translated_by_the_translator_that_never_saw_its_subject(smoke, by_hand):
    fits = smoke.translators("lite0")
    assert [fitted.card["held_out_fold"] for fitted in fits] == [0, 1, None]
    rows = np.arange(len(by_hand.table))
    found = smoke.translate("lite0", smoke.features("lite0"), rows).numpy()
    for number in rows:
        expected = by_hand.translate(by_hand.f[number], by_hand.fold[number])
        np.testing.assert_allclose(found[number], expected, atol=2e-4)


@pytest.mark.parametrize("held_out", [0, 1, None])
def test_translators_are_fitted_without_their_fold_and_without_photographs(
    smoke, by_hand, held_out
):
    fitted = smoke.translators("lite0")[-1 if held_out is None else held_out]
    keep = (by_hand.fold != held_out) & (by_hand.table["source"] != "photo").to_numpy()
    z = smoke.embeddings.double().numpy()
    expected = Ridge(alpha=fitted.card["lambda"], solver="svd").fit(by_hand.f[keep], z[keep])
    f = by_hand.f[::5]
    found = f @ fitted.weight.double().numpy().T + fitted.bias.double().numpy()
    np.testing.assert_allclose(found, expected.predict(f), atol=1e-4)
    assert fitted.card["pictures"] == keep.sum()
    assert fitted.card["subjects"] == by_hand.table["subject"][keep].nunique()
    if held_out is not None:
        own = by_hand.fold == held_out
        rest = ((expected.predict(by_hand.f[own]) - z[own]) ** 2).sum()
        r2 = 1 - rest / ((z[own] - z[own].mean(0)) ** 2).sum()
        assert fitted.card["held_out_r2"] == pytest.approx(r2, abs=1e-4)


def test_the_final_lambda_is_the_best_of_the_path(smoke):
    lams = smoke.lambdas("lite0")
    path = grouped_cv(*smoke.fold_fitters(smoke.features("lite0"), smoke.embeddings), lams)
    assert smoke.translator("lite0").card["lambda"] == lams[int(path.mean(0).argmax())]


# --- scores of pictures -------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["stamp", "photo"])
def test_scores_of_one_picture_are_those_of_plain_numpy(smoke, by_hand, images, source):
    row = images[images["source"] == source].iloc[1]
    number = by_hand.table.index[by_hand.table["picture"] == row["picture"]][0]
    f, fold = by_hand.f[number], by_hand.fold[number]
    text = smoke.space.encode_text([prompt_of(row["label"])])[0].double().numpy()
    null = by_hand.null(f)
    z, moved = by_hand.translate(f, fold), by_hand.translate(f - null, fold)
    assert row["image_score"] == pytest.approx(degrees(z, moved), abs=0.01)
    score = degrees(z, text) - degrees(moved, text)
    assert row["attribute_score"] == pytest.approx(score, abs=0.01)
    assert row["label_angle"] == pytest.approx(degrees(z, text), abs=0.01)
    own = smoke.embeddings[number].double().numpy()
    assert row["translator_error"] == pytest.approx(degrees(z, own), abs=0.01)
    assert row["null_share"] == pytest.approx((null @ null) / (f @ f), abs=1e-5)
    winner = by_hand.logits(f).argmax()
    assert row["predicted"] == smoke.classifier("lite0").class_names[winner]
    assert bool(row["correct"]) == (winner == row["class_index"])

    controls = []
    for seed in range(smoke.config.control_draws):
        other = f - by_hand.random_part(f, np.linalg.norm(null), smoke.config.seed + seed)
        w = by_hand.translate(other, fold)
        change = np.abs(by_hand.logits(other) - by_hand.logits(f)).max()
        controls.append((degrees(z, w), degrees(z, text) - degrees(w, text), change))
    expected = np.mean(controls, axis=0)
    names = ["image_score_control", "attribute_score_control", "logit_change_control"]
    np.testing.assert_allclose(row[names].astype(float), expected, atol=0.01)


def test_every_control_draw_is_a_random_part_of_the_same_size(smoke, by_hand):
    controls = tables.controls(smoke, "lite0")
    rows = np.flatnonzero(by_hand.table["source"] != "clipart")[::9]
    names = by_hand.table["picture"].to_numpy()[rows]
    for draw in range(smoke.config.control_draws):
        own = controls[controls["draw"] == draw].set_index("picture").loc[names]
        for number, row in zip(rows, own.to_dict("records")):
            f, fold = by_hand.f[number], by_hand.fold[number]
            length = np.linalg.norm(by_hand.null(f))
            other = f - by_hand.random_part(f, length, smoke.config.seed + draw)
            z, w = by_hand.translate(f, fold), by_hand.translate(other, fold)
            text = smoke.text([by_hand.table["label"][number]])[0].double().numpy()
            change = np.abs(by_hand.logits(other) - by_hand.logits(f)).max()
            assert row["image_score"] == pytest.approx(degrees(z, w), abs=0.01)
            score = degrees(z, text) - degrees(w, text)
            assert row["attribute_score"] == pytest.approx(score, abs=0.01)
            assert row["logit_change"] == pytest.approx(change, abs=0.01)


def test_the_controls_of_a_draw_are_its_own(smoke):
    controls = tables.controls(smoke, "lite0").set_index(["picture", "draw"])
    for draw in range(smoke.config.control_draws):
        scored = tables.scored(smoke, "lite0", draw)
        for name in ("image_score", "attribute_score", "logit_change"):
            expected = [controls.loc[(picture, draw), name] for picture in scored["picture"]]
            assert scored[f"{name}_control"].tolist() == expected
    backwards = tables.scored(smoke, "lite0")["picture"].tolist()[::-1]
    found = tables.by_draw(smoke, "lite0", "image_score", backwards)
    assert found.shape == (len(backwards), smoke.config.control_draws)
    assert found[2].tolist() == controls.loc[backwards[2], "image_score"].sort_index().tolist()


def test_null_removal_leaves_the_logits_and_the_control_does_not(images):
    assert images["logit_change"].max() < 1e-3
    assert images["logit_change_control"].min() > 1e-2


def test_every_stamp_and_photograph_is_scored_once(smoke, images):
    expected = smoke.pictures.loc[smoke.pictures["source"] != "clipart", "picture"]
    assert images["picture"].tolist() == expected.tolist()
    scores = ["image_score", "attribute_score", "translator_error", "label_angle", "null_share"]
    assert np.isfinite(images[scores]).all(axis=None)
    assert images["image_score"].between(0, 180).all()


def test_only_subjects_of_a_true_class_are_right_or_wrong(images):
    assert images.loc[images["class_index"] < 0, "correct"].isna().all()
    assert images.loc[images["class_index"] >= 0, "correct"].notna().all()


# --- tables -------------------------------------------------------------------------------------


def test_every_score_has_an_interval_and_its_control(smoke):
    table = tables.models(smoke)
    for (model, kind), rows in table.groupby(["model", "kind"]):
        assert rows["quantity"].is_unique, (model, kind)
    for model in ("lite0", "lite1", "lite2"):
        own = table[table["model"] == model]
        for quantity in ("image_score", "attribute_score", "ratio"):
            kinds = set(own.loc[own["quantity"] == quantity, "kind"])
            assert kinds == {"null space removed", "random control"}
    assert {"image_score_excess", "translator_error"} <= set(table["quantity"])
    assert np.isfinite(table[["value", "low", "high"]]).all(axis=None)
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    assert (table["low"] < table["high"]).all()


def test_the_tower_comes_last_and_is_marked(smoke):
    table = tables.models(smoke)
    assert table["model"].drop_duplicates().tolist() == ["lite0", "lite1", "lite2"]
    marked = table["role"] == "control: the tower itself"
    assert (marked == (table["model"] == "lite2")).all()


def test_scores_of_models_are_medians_of_their_pictures(smoke, images):
    rows = images[(images["source"] == "stamp") & (images["class_index"] >= 0)]
    table = tables.models(smoke).query("model == 'lite0'").set_index(["quantity", "kind"])["value"]
    draws = [tables.scored(smoke, "lite0", draw) for draw in range(smoke.config.control_draws)]
    for kind, parts, suffix in (
        ("null space removed", [rows], ""), ("random control", draws, "_control")
    ):
        # Of a control each draw has its own medians, which are averaged.
        moved = np.array([np.median(t[f"image_score{suffix}"]) for t in parts])
        towards = np.array([np.median(np.abs(t[f"attribute_score{suffix}"])) for t in parts])
        assert table["image_score", kind] == pytest.approx(moved.mean())
        assert table["attribute_score", kind] == pytest.approx(towards.mean())
        assert table["ratio", kind] == pytest.approx((moved / towards).mean())
    excess = np.median(rows["image_score"] - rows["image_score_control"])
    assert table["image_score_excess", "null space removed"] == pytest.approx(excess)


def test_a_difference_of_models_is_paired(smoke):
    ratios = tables.models(smoke).query("quantity == 'ratio' and kind == 'null space removed'")
    ratios = ratios.set_index("model")["value"]
    found = tables.model_difference(smoke, "lite0", "lite1")
    assert found["value"] == pytest.approx(ratios["lite1"] - ratios["lite0"])
    assert found["low"] <= found["value"] <= found["high"]
    assert tables.model_difference(smoke, "lite0", "lite0") == {"value": 0, "low": 0, "high": 0}


def test_scores_of_classes_are_medians_of_their_views(smoke, images):
    found = tables.classes(smoke, "lite0")
    assert found["as_median"].is_monotonic_increasing
    scored = images[(images["source"] == "stamp") & (images["class_index"] >= 0)]
    assert set(found["label"]) == set(scored["label"])
    for row in found.to_dict("records"):
        own = scored[scored["label"] == row["label"]]
        low, middle, high = np.quantile(own["attribute_score"], [0.25, 0.5, 0.75])
        assert (row["as_low"], row["as_median"], row["as_high"]) == pytest.approx(
            (low, middle, high)
        )
        assert row["as_abs"] == pytest.approx(np.median(np.abs(own["attribute_score"])))
        assert row["is_median"] == pytest.approx(np.median(own["image_score"]))
        draws = [tables.scored(smoke, "lite0", draw) for draw in range(smoke.config.control_draws)]
        drawn = [table[table["label"] == row["label"]] for table in draws]
        for name, column in (("as_abs", "attribute_score"), ("is_median", "image_score")):
            medians = [np.median(np.abs(part[f"{column}_control"])) for part in drawn]
            assert row[f"{name}_control"] == pytest.approx(np.mean(medians))
        right = (own["predicted"].map(list(smoke.classifier("lite0").class_names).index)
                 == own["class_index"])
        assert row["accuracy"] == pytest.approx(right.mean())
        assert (row["views"], row["stamps"]) == (len(own), own["path"].nunique())


def test_a_string_graph_is_the_mean_angle_before_and_after(smoke, by_hand):
    label, concepts = smoke.subjects["label"][0], ["horse", "snow", "kitchen"]
    table = classes.string_graph(smoke, "lite0", label, concepts).set_index("concept")
    rows = np.flatnonzero(
        (by_hand.table["label"] == label) & (by_hand.table["source"] == "stamp")
    )
    f, fold = by_hand.f[rows], by_hand.fold[rows[0]]
    for concept in concepts:
        text = smoke.space.encode_text([prompt_of(concept)])[0].double().numpy()
        before = degrees(by_hand.translate(f, fold), text).mean()
        after = degrees(by_hand.translate(f - by_hand.null(f), fold), text).mean()
        row = table.loc[concept]
        assert row["before"] == pytest.approx(before, abs=0.01)
        assert row["after"] == pytest.approx(after, abs=0.01)
        assert row["attribute_score"] == pytest.approx(before - after, abs=0.01)
        assert row["low"] <= row["attribute_score"] <= row["high"]
    with pytest.raises(SingError, match="Unknown class"):
        classes.string_graph(smoke, "lite0", "no such thing")


def test_accuracy_and_null_space_of_every_classifier(smoke):
    table = tables.accuracy(smoke)
    assert table["model"].tolist() == ["lite0", "lite1", "lite2"]
    assert (table["right"] >= 18).all()
    assert (table["photos"] == 20).all()
    assert (table[["classes", "features", "rank", "null_dim"]] == [1000, 1280, 1000, 280]).all(
        axis=None
    )
    assert (table["largest_logit_change"] < 1e-3).all()


# --- single pictures ----------------------------------------------------------------------------


def test_the_nearest_words_are_those_of_the_smallest_angles(smoke):
    z = smoke.embeddings[:2]
    found = neighbours.words(smoke, z, 3)
    texts = smoke.space.encode_text([prompt_of(word) for word in smoke.vocabulary])
    for number in range(2):
        angles = degrees(z[number].double().numpy(), texts.double().numpy())
        rows = found[found["row"] == number]
        assert rows["rank"].tolist() == [1, 2, 3]
        np.testing.assert_allclose(rows["angle"], np.sort(angles)[:3], atol=1e-3)
        np.testing.assert_allclose(
            [angles[smoke.vocabulary.index(word)] for word in rows["word"]], rows["angle"],
            atol=1e-3,
        )


def test_the_vocabulary_has_every_word_once(smoke):
    lower = [word.lower() for word in smoke.vocabulary]
    assert len(set(lower)) == len(lower)
    assert {label.lower() for label in smoke.subjects["label"]} <= set(lower)


def test_nearest_pictures_are_one_a_subject_and_never_the_own(smoke):
    own = smoke.pictures["subject"][0]
    found = neighbours.nearest(smoke, smoke.embeddings[:1], k=4, exclude=own)
    subjects = smoke.pictures.set_index("picture")["subject"][found["picture"]]
    assert subjects.is_unique
    assert own not in set(subjects)
    assert found["angle"].is_monotonic_increasing
    # Of all pictures that may be chosen, the first one is the nearest.
    z = smoke.embeddings.double().numpy()
    allowed = (smoke.pictures["source"] != "clipart") & (smoke.pictures["subject"] != own)
    assert found["angle"][0] == pytest.approx(degrees(z[0], z[allowed]).min(), abs=1e-3)


# --- another tower ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(smoke):
    return smoke.in_space("lite0")


def test_another_tower_shares_pictures_features_and_heads(smoke, other):
    assert other.config.tower == "lite0"
    assert other.config.models == ["lite1", "lite2"]
    assert set(other.config.everyone) == set(smoke.config.everyone)
    changed = {"tower", "models"}
    mine, theirs = (study.config.model_dump() for study in (smoke, other))
    assert {key for key in mine if mine[key] != theirs[key]} == changed
    pd.testing.assert_frame_equal(other.pictures, smoke.pictures)
    for name in smoke.config.everyone:
        assert other.features(name) is smoke.features(name)
        assert other.spaces(name) is smoke.spaces(name)
    assert (other.title("lite0"), other.title("lite2")) == (
        "EfficientNet-Lite0 (tower)", "EfficientNet-Lite2"
    )


def test_the_own_tower_is_the_study_itself(smoke):
    assert smoke.in_space("lite2") is smoke


def test_embeddings_of_another_tower_are_its_logits_in_words(smoke, other):
    # ConSE by hand: logits above the first that does not speak weigh centred class names.
    names = smoke.classifier("lite0").class_names
    raw = smoke.space.encoder([prompt_of(name) for name in names]).double().numpy()
    words = raw - raw.mean(0)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    logits = smoke.logits("lite0").double().numpy()
    floor = np.sort(logits, axis=1)[:, [-(smoke.config.top_classes + 1)]]
    z = np.maximum(logits - floor, 0) @ words
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    np.testing.assert_allclose(other.embeddings, z, atol=1e-5)
    assert not np.allclose(other.embeddings, smoke.embeddings, atol=0.05)


def test_translators_of_another_tower_lead_into_its_space(smoke, other):
    fitted = other.translators("lite1")[1]
    assert fitted.card["tower"] == "lite0"
    keep = (smoke.pictures["fold"] != 1) & (smoke.pictures["source"] != "photo")
    f, z = smoke.features("lite1").double().numpy(), other.embeddings.double().numpy()
    by_hand = Ridge(alpha=fitted.card["lambda"], solver="svd").fit(f[keep], z[keep])
    found = f[::5] @ fitted.weight.double().numpy().T + fitted.bias.double().numpy()
    np.testing.assert_allclose(found, by_hand.predict(f[::5]), atol=1e-4)


def test_tables_of_another_tower_are_kept_apart(smoke, other, images):
    found = tables.images(other, "lite1").set_index("picture")
    rows = np.flatnonzero(smoke.pictures["picture"].isin(found.index))
    f, spaces = smoke.features("lite1")[rows], smoke.spaces("lite1")
    z, moved = (
        other.translate("lite1", part, rows).double().numpy()
        for part in (f, spaces.remove_null(f))
    )
    expected = pd.Series(degrees(z, moved), smoke.pictures["picture"][rows])
    np.testing.assert_allclose(found["image_score"], expected[found.index], atol=1e-3)
    assert not np.allclose(
        found["image_score"], tables.images(smoke, "lite1")["image_score"], atol=0.01
    )


# --- keeping ------------------------------------------------------------------------------------


def stored(study, name):
    files = study.folder.glob(f"tables/{name}-*.parquet")
    return {path: path.stat().st_mtime_ns for path in files}


def test_a_second_study_reads_the_same_tables(smoke, images):
    models, before = tables.models(smoke), stored(smoke, "*")
    again = sing_nb.Study("smoke", progress=False)
    pd.testing.assert_frame_equal(tables.images(again, "lite0"), images)
    pd.testing.assert_frame_equal(tables.models(again), models)
    assert stored(smoke, "*") == before


def test_what_one_does_to_a_table_does_not_stay(smoke, images):
    table = tables.images(smoke, "lite0")
    table["image_score"] = -1.0
    pd.testing.assert_frame_equal(tables.images(smoke, "lite0"), images)


def test_overrides_give_other_results_in_other_files(smoke, images):
    before = stored(smoke, "images-lite0")
    other = sing_nb.Study("smoke", progress=False, temperature=2, control_draws=1, lambdas=[50])
    found = tables.images(other, "lite0")
    changed = {"temperature": 2.0, "control_draws": 1, "lambdas": [50.0]}
    assert smoke.config.model_copy(update=changed) == other.config
    assert not np.allclose(found["image_score"], images["image_score"], atol=0.01)
    after = stored(smoke, "images-lite0")
    assert before.items() <= after.items()
    again = sing_nb.Study("smoke", progress=False)
    pd.testing.assert_frame_equal(tables.images(again, "lite0"), images)


def test_wrong_overrides_are_refused():
    with pytest.raises(SingError, match="did you mean 'views'"):
        sing_nb.Study("smoke", vews=3)
    with pytest.raises(SingError, match="8 subjects are too few for 5 folds"):
        _ = sing_nb.Study("smoke", folds=5).pictures


def test_an_unknown_label_gets_a_suggestion(smoke):
    label = smoke.subjects["label"][0]
    with pytest.raises(SingError, match=f"did you mean '{label}'"):
        smoke.examples([label + "x"])


def test_the_scores_follow_from_the_seed_alone(smoke):
    # A bootstrap or a control that asked the global generators would differ.
    torch.manual_seed(1)
    fresh = sing_nb.Study("smoke", progress=False)
    table = tables.model.__wrapped__(fresh, "lite1")
    pd.testing.assert_frame_equal(table, tables.model(smoke, "lite1"), check_dtype=False)


# --- excess over the control --------------------------------------------------------------------


def test_excess_of_a_model_is_that_of_numpy(smoke):
    scored = tables.scored(smoke, "lite0")
    drawn = tables.controls(smoke, "lite0").set_index("picture")
    table = tables.models(smoke).query("model == 'lite0'").set_index(["quantity", "kind"])
    kind = "null space removed"
    for name in ("image_score", "attribute_score"):
        mean = drawn.groupby("picture")[name].mean().loc[scored["picture"]].to_numpy()
        expected = np.median(scored[name].to_numpy() - mean)
        assert table.loc[(f"{name}_excess", kind), "value"] == pytest.approx(expected)
    one = drawn[drawn.index.isin(scored["picture"])]
    sizes = one.assign(a=one["attribute_score"].abs())
    sizes = sizes.groupby("draw")[["image_score", "a"]].median()
    size = scored["attribute_score"].abs().median()
    assert table.loc[("attribute_size_excess", kind), "value"] == pytest.approx(
        size - sizes["a"].mean())
    assert table.loc[("ratio_excess", kind), "value"] == pytest.approx(
        scored["image_score"].median() / size - (sizes["image_score"] / sizes["a"]).mean())
    excess = table[table.index.get_level_values(0).str.endswith("_excess")]
    assert (excess["low"] <= excess["value"]).all()
    assert (excess["value"] <= excess["high"]).all()


def test_a_constant_translator_errs_by_the_angle_to_the_mean_of_the_others(smoke):
    scored = tables.scored(smoke, "lite0")
    z, fold = smoke.embeddings.double().numpy(), smoke.pictures["fold"].to_numpy()
    angles = []
    for row in smoke.rows(scored["picture"]):
        others = z[(fold != fold[row]) & (smoke.pictures["source"] != "photo").to_numpy()].mean(0)
        cosine = others @ z[row] / np.linalg.norm(others) / np.linalg.norm(z[row])
        angles.append(np.degrees(np.arccos(cosine)))
    table = tables.models(smoke).query("model == 'lite0' and quantity == 'translator_error'")
    found = table.set_index("kind")["value"]
    assert found["constant"] == pytest.approx(np.median(angles))


def test_intervals_of_a_class_draw_its_pictures(smoke):
    label = smoke.labels[0]
    scored = tables.scored(smoke, "lite0").query("label == @label")
    values = scored["attribute_score"].to_numpy()
    row = tables.classes(smoke, "lite0").set_index("label").loc[label]
    drawn = np.random.default_rng(smoke.config.seed).integers(
        0, len(values), (smoke.config.bootstrap_draws, len(values)))
    low, high = np.quantile(np.median(values[drawn], axis=1), ends(len(values)))
    assert (row["as_median_low"], row["as_median_high"]) == pytest.approx((low, high))
    gap = values - scored["attribute_score_control"].to_numpy()
    assert row["as_excess"] == pytest.approx(np.median(gap))
    gap = scored["image_score"] - scored["image_score_control"]
    assert row["is_excess"] == pytest.approx(np.median(gap))
    assert row["as_excess_low"] <= row["as_excess"] <= row["as_excess_high"]


def test_the_accuracy_on_photos_has_wilsons_interval(smoke):
    row = tables.accuracy(smoke).iloc[0]
    n, share, z = row["photos"], row["share"], scipy.stats.norm.ppf(0.975)
    middle, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert row["chance"] == 1 / row["classes"]


def test_a_fitter_holds_the_rows_that_it_is_asked_for(smoke):
    mask = (smoke.pictures["source"] == "clipart").to_numpy()
    one, same = smoke.fitter("lite0", mask), smoke.fitter("lite0", np.flatnonzero(mask))
    assert one.n == same.n == mask.sum()
    z = smoke.embeddings[torch.tensor(mask)].double().numpy()
    zero = torch.zeros(one.d, one.m), torch.zeros(one.d)
    residual, energy = one.squared_errors(*zero)
    assert residual == pytest.approx((z**2).sum())
    assert energy == pytest.approx(((z - z.mean(0)) ** 2).sum())
    assert same.squared_errors(*zero) == (residual, energy)
