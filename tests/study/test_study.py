"""A study's translators, scores and tables against plain NumPy, SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from conftest import degrees, ends, prompt_of, random_part
from sklearn.linear_model import Ridge

import sing_nb
from sing_nb.errors import SingError
from sing_nb.study import neighbours, tables

NULL = "null space removed"


@pytest.fixture(scope="module")
def images(smoke):
    return tables.images(smoke, "lite0")


# --- pictures, folds, translators ---------------------------------------------------------------


def test_folds_part_subjects_and_never_views(smoke):
    stamps = smoke.pictures[smoke.pictures["source"] == "stamp"]
    assert stamps[["subject", "fold"]].drop_duplicates()["subject"].is_unique
    sizes = stamps.groupby("fold")["subject"].nunique()
    assert sizes.index.tolist() == [0, 1]
    assert sizes.max() - sizes.min() <= 1
    # Drawings are in every fit, photographs in none: neither has a fold.
    others = smoke.pictures[smoke.pictures["source"] != "stamp"]
    assert set(others["source"]) == {"clipart", "photo"}
    assert (others["fold"] == -1).all()


@pytest.mark.parametrize("held_out", [0, 1, None])
def test_translators_are_fitted_without_their_fold_and_without_photographs(smoke, plain, held_out):
    fitted = smoke.translators("lite0")[-1 if held_out is None else held_out]
    fold, z = plain.table["fold"].to_numpy(), smoke.embeddings.double().numpy()
    keep = (fold != held_out) & (plain.table["source"] != "photo").to_numpy()
    expected = Ridge(alpha=fitted.card["lambda"], solver="svd").fit(plain.f[keep], z[keep])
    f = plain.f[::5]
    found = f @ fitted.weight.double().numpy().T + fitted.bias.double().numpy()
    np.testing.assert_allclose(found, expected.predict(f), atol=1e-4)
    assert fitted.card["pictures"] == keep.sum()
    assert fitted.card["subjects"] == plain.table["subject"][keep].nunique()
    if held_out is not None:
        own = fold == held_out
        rest = ((expected.predict(plain.f[own]) - z[own]) ** 2).sum()
        r2 = 1 - rest / ((z[own] - z[own].mean(0)) ** 2).sum()
        assert fitted.card["held_out_r2"] == pytest.approx(r2, abs=1e-4)


# --- scores of pictures -------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["stamp", "photo"])
def test_scores_of_one_picture_are_those_of_plain_numpy(smoke, plain, images, source):
    row = images[images["source"] == source].iloc[1]
    number = plain.table.index[plain.table["picture"] == row["picture"]][0]
    f, here = plain.f[number], [number]
    text = smoke.space.encode_text([prompt_of(row["label"])])[0].double().numpy()
    null = plain.null(f)
    z, moved = plain.translate([f], here)[0], plain.translate([f - null], here)[0]
    own = smoke.embeddings[number].double().numpy()
    expected = {
        "image_score": degrees(z, moved),
        "attribute_score": degrees(z, text) - degrees(moved, text),
        "label_angle": degrees(z, text), "translator_error": degrees(z, own)}
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, abs=0.01), name
    assert row["null_share"] == pytest.approx((null @ null) / (f @ f), abs=1e-5)
    winner = plain.logits(f).argmax()
    assert row["predicted"] == smoke.classifier("lite0").class_names[winner]
    assert bool(row["correct"]) == (winner == row["class_index"])

    drawn = tables.controls(smoke, "lite0").query("picture == @row['picture']").set_index("draw")
    for draw in range(smoke.config.control_draws):
        other = f - random_part(f, np.linalg.norm(null), smoke.config.seed + draw)
        w = plain.translate([other], here)[0]
        change = np.abs(plain.logits(other) - plain.logits(f)).max()
        score = degrees(z, text) - degrees(w, text)
        for name, value in zip(("image_score", "attribute_score", "logit_change"),
                               (degrees(z, w), score, change)):
            assert drawn.loc[draw, name] == pytest.approx(value, abs=0.01)
    for name in ("image_score", "attribute_score", "logit_change"):
        assert row[f"{name}_control"] == pytest.approx(drawn[name].mean())


# --- classifiers and classes --------------------------------------------------------------------


def test_scores_of_models_are_medians_of_their_pictures(smoke, images):
    table = tables.models(smoke)
    assert table["model"].drop_duplicates().tolist() == ["lite0", "lite1", "lite2"]
    assert ((table["role"] == "control: the tower itself") == (table["model"] == "lite2")).all()
    rows = images[(images["source"] == "stamp") & (images["class_index"] >= 0)]
    value = table.query("model == 'lite0'").set_index(["quantity", "kind"])["value"]
    draws = [tables.scored(smoke, "lite0", draw) for draw in range(smoke.config.control_draws)]
    sizes = {}
    for kind, parts, end in ((NULL, [rows], ""), ("random control", draws, "_control")):
        # Of a control each draw has its own medians, which are averaged.
        moved = np.array([np.median(t[f"image_score{end}"]) for t in parts])
        towards = np.array([np.median(np.abs(t[f"attribute_score{end}"])) for t in parts])
        sizes[kind] = moved.mean(), towards.mean(), (moved / towards).mean()
        for name, size in zip(tables.QUANTITIES, sizes[kind]):
            assert value[name, kind] == pytest.approx(size)
    for name in ("image_score", "attribute_score"):
        gap = np.median(rows[name] - rows[f"{name}_control"])
        assert value[f"{name}_excess", NULL] == pytest.approx(gap)
    _, size, ratio = np.subtract(sizes[NULL], sizes["random control"])
    assert value["attribute_size_excess", NULL] == pytest.approx(size)
    assert value["ratio_excess", NULL] == pytest.approx(ratio)


def test_a_constant_translator_errs_by_the_angle_to_the_mean_of_the_others(smoke):
    scored = tables.scored(smoke, "lite0")
    z, fold = smoke.embeddings.double().numpy(), smoke.pictures["fold"].to_numpy()
    fitted = (smoke.pictures["source"] != "photo").to_numpy()
    angles = [degrees(z[(fold != fold[row]) & fitted].mean(0), z[row])
              for row in smoke.rows(scored["picture"])]
    found = tables.model(smoke, "lite0").query("kind == 'constant'")["value"].item()
    assert found == pytest.approx(np.median(angles))


def test_a_difference_of_models_is_paired(smoke):
    value = tables.models(smoke).set_index(["quantity", "kind", "model"])["value"]
    for kind in tables.KINDS:
        for quantity in tables.QUANTITIES:
            found = tables.model_difference(smoke, "lite0", "lite1", quantity, kind)
            one, two = (value[quantity, kind, name] for name in ("lite0", "lite1"))
            assert found["value"] == pytest.approx(two - one)
            assert found["low"] <= found["value"] <= found["high"]
    excess = [value["ratio_excess", NULL, name] for name in ("lite0", "lite1")]
    found = tables.difference_excess(smoke, "lite0", "lite1")
    assert found["value"] == pytest.approx(excess[1] - excess[0])
    same = tables.model_difference(smoke, "lite0", "lite0")
    assert same == {"value": 0, "low": 0, "high": 0}


def test_scores_of_classes_are_medians_of_their_views(smoke, images):
    found = tables.classes(smoke, "lite0")
    assert found["as_median"].is_monotonic_increasing
    scored = images[(images["source"] == "stamp") & (images["class_index"] >= 0)]
    assert set(found["label"]) == set(scored["label"])
    draws = [tables.scored(smoke, "lite0", draw) for draw in range(smoke.config.control_draws)]
    for row in found.to_dict("records"):
        own = scored[scored["label"] == row["label"]]
        quarters = np.quantile(own["attribute_score"], [0.25, 0.5, 0.75])
        assert (row["as_low"], row["as_median"], row["as_high"]) == pytest.approx(tuple(quarters))
        drawn = [table[table["label"] == row["label"]] for table in draws]
        for name, column in (("as_abs", "attribute_score"), ("is_median", "image_score")):
            assert row[name] == pytest.approx(np.median(np.abs(own[column])))
            medians = [np.median(np.abs(part[f"{column}_control"])) for part in drawn]
            assert row[f"{name}_control"] == pytest.approx(np.mean(medians))
        for name, column in (("as_excess", "attribute_score"), ("is_excess", "image_score")):
            gap = np.median(own[column] - own[f"{column}_control"])
            assert row[name] == pytest.approx(gap)
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert row["accuracy"] == pytest.approx(own["correct"].astype(float).mean())
        assert (row["views"], row["stamps"]) == (len(own), own["path"].nunique())
    # Its interval draws the pictures of the class.
    row, values = found.iloc[0], scored.query("label == @found.label[0]")["attribute_score"]
    drawn = np.random.default_rng(smoke.config.seed).integers(
        0, len(values), (smoke.config.bootstrap_draws, len(values)))
    low, high = np.quantile(np.median(values.to_numpy()[drawn], axis=1), ends(len(values)))
    assert (row["as_median_low"], row["as_median_high"]) == pytest.approx((low, high))


def test_accuracy_and_null_space_of_every_classifier(smoke):
    table = tables.accuracy(smoke)
    assert table["model"].tolist() == ["lite0", "lite1", "lite2"]
    assert (table["right"] >= 18).all()
    assert (table[["photos", "classes", "features", "rank", "null_dim"]]
            == [20, 1000, 1280, 1000, 280]).all(axis=None)
    row = table.iloc[0]
    n, share, z = row["photos"], row["share"], scipy.stats.norm.ppf(0.975)
    middle, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    wilson = ((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n))
    assert (row["low"], row["high"]) == pytest.approx(wilson)


# --- what is near -------------------------------------------------------------------------------


def test_nearest_pictures_are_one_per_subject_and_never_the_own(smoke):
    own = smoke.pictures["subject"][0]
    found = neighbours.nearest(smoke, smoke.embeddings[:1], k=4, exclude=own)
    subjects = smoke.pictures.set_index("picture")["subject"][found["picture"]]
    assert subjects.is_unique
    assert own not in set(subjects)
    z = smoke.embeddings.double().numpy()
    allowed = (smoke.pictures["source"] != "clipart") & (smoke.pictures["subject"] != own)
    assert found["angle"].is_monotonic_increasing
    assert found["angle"][0] == pytest.approx(degrees(z[0], z[allowed]).min(), abs=1e-3)


# --- another tower, keeping ---------------------------------------------------------------------


def test_embeddings_of_another_tower_are_its_logits_in_words(smoke):
    # ConSE by hand: logits above the first that does not speak weigh centred class names.
    names = smoke.classifier("lite0").class_names
    raw = smoke.space.encoder([prompt_of(name) for name in names]).double().numpy()
    words = raw - raw.mean(0)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    logits = smoke.logits("lite0").double().numpy()
    floor = np.sort(logits, axis=1)[:, [-(smoke.config.top_classes + 1)]]
    z = np.maximum(logits - floor, 0) @ words
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    np.testing.assert_allclose(smoke.in_space("lite0").embeddings, z, atol=1e-5)


def test_other_settings_give_other_results_in_other_files(smoke, images):
    other = sing_nb.Study("smoke", progress=False, temperature=2, control_draws=1, lambdas=[50])
    found = tables.images(other, "lite0")["image_score"]
    assert not np.allclose(found, images["image_score"], atol=0.01)


@pytest.mark.parametrize(("name", "label"), [
    ("ZEBRA", "zebra"), ("Loxodonta africana", "African elephant"),
    ("Arabian camel", "Arabian camel")])  # which only other profiles show
def test_a_class_is_found_by_any_usual_name(smoke, name, label):
    shown = smoke.labels
    assert smoke.label(name) == label
    have = shown[0]
    chosen = smoke.known([name, have, have.upper()], 4)
    assert chosen[: 1 + (label in shown)] == [label, have][label not in shown:]
    assert len(set(chosen)) == 4
    for wrong, said in (("zebbra", "did you mean 'zebra'"), ("jellyfish", "no picture shows it")):
        with pytest.raises(SingError, match=said):
            smoke.known([wrong])
