import numpy as np
import pytest

import sing_nb as sing


def degrees(a, b):
    """Angles by the textbook formula in float64."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))


def test_folds_split_subjects_and_never_views(smoke):
    stamps = smoke.pictures[smoke.pictures["source"] == "stamp"]
    assert (stamps.groupby("subject")["fold"].nunique() == 1).all()
    assert set(stamps["fold"]) == set(range(smoke.config.folds))
    others = smoke.pictures[smoke.pictures["source"] != "stamp"]
    assert set(others["fold"]) == {-1}


def test_a_picture_is_translated_by_the_map_that_never_saw_its_subject(smoke):
    fits = smoke.translators("lite0")
    assert [fit.card["held_out_fold"] for fit in fits] == [*range(smoke.config.folds), None]
    rows = np.flatnonzero((smoke.pictures["source"] == "stamp").to_numpy())[::3]
    f = smoke.features("lite0")[rows]
    found = smoke.translate("lite0", f, rows).numpy()
    for place, row in enumerate(rows):
        own = fits[smoke.pictures["fold"][row]]
        expected = own.weight.numpy() @ f[place].numpy() + own.bias.numpy()
        np.testing.assert_allclose(found[place], expected, rtol=1e-3, atol=1e-4)


def test_held_out_r2_equals_scikit_learns(smoke):
    from sklearn.metrics import r2_score

    for fold, fit in enumerate(smoke.translators("lite0")[:-1]):
        rows = np.flatnonzero((smoke.pictures["fold"] == fold).to_numpy())
        f, z = smoke.features("lite0")[rows].numpy(), smoke.embeddings[rows].numpy()
        found = f.astype(float) @ fit.weight.numpy().T.astype(float) + fit.bias.numpy()
        # Our total is over all dimensions together: scikit-learn's variance-weighted mean.
        expected = r2_score(z, found, multioutput="variance_weighted")
        assert fit.card["held_out_r2"] == pytest.approx(expected, abs=1e-4)


def test_scores_of_one_picture_follow_from_numpy_alone(smoke):
    table = smoke.images("lite0")
    one = table[table["source"] == "stamp"].iloc[4]
    row = int(np.flatnonzero((smoke.pictures["picture"] == one["picture"]).to_numpy())[0])
    f = smoke.features("lite0")[row].numpy().astype(float)
    weight = smoke.classifier("lite0").head.weight.numpy().astype(float)
    right = np.linalg.svd(weight, full_matrices=True)[2]
    null = right[1000:].T @ (right[1000:] @ f)
    fit = smoke.translators("lite0")[one["fold"]]
    w, b = fit.weight.numpy().astype(float), fit.bias.numpy().astype(float)
    z, z_removed = w @ f + b, w @ (f - null) + b
    text = smoke.text([one["label"]])[0].numpy()
    assert one["image_score"] == pytest.approx(degrees(z, z_removed), abs=1e-3)
    expected = degrees(z, text) - degrees(z_removed, text)
    assert one["attribute_score"] == pytest.approx(expected, abs=1e-3)
    assert one["null_share"] == pytest.approx(null @ null / (f @ f), rel=1e-4)
    own = smoke.embeddings[row].numpy()
    assert one["translator_error"] == pytest.approx(degrees(z, own), abs=1e-3)


def test_null_removal_moves_no_logit_and_its_control_does(smoke):
    for model in smoke.config.everyone:
        table = smoke.images(model)
        assert table["logit_change"].max() < 1e-3
        assert table["logit_change_control"].min() > 0.05


def test_heads_and_labelled_photos(smoke):
    table = smoke.accuracy()
    assert (table["right"] >= 18).all()
    assert (table["photos"] == 20).all()
    assert (table["rank"] == 1000).all()
    assert (table["null_dim"] == 280).all()
    assert (table["largest_logit_change"] < 1e-3).all()


def test_models_carry_intervals_controls_and_the_towers_mark(smoke):
    table = smoke.models()
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    scores = table[table["quantity"].isin(["image_score", "attribute_score", "ratio"])]
    kinds = scores.groupby(["model", "quantity"])["kind"].agg(set)
    assert (kinds == {"null space removed", "random control"}).all()
    tower = table["model"] == smoke.config.tower
    assert table.loc[tower, "role"].str.startswith("control").all()
    assert (table.loc[~tower, "role"] == "compared").all()


def test_steering_reaches_its_target_and_no_logit_notices(smoke):
    pictures = smoke.examples(smoke.subjects["label"][:3])
    table = smoke.steering("lite0", ["an image of a jellyfish"], 20.0, pictures)
    reached = table[table["reachable"]]
    assert len(reached) >= 3
    np.testing.assert_allclose(reached["image_score"], 20, atol=1e-3)
    assert reached["logit_change"].max() < 1e-3
    towards = reached[reached["kind"] == "towards the prompt"]
    assert (towards["attribute_score"] > 0).all()


def test_a_second_study_reads_the_same_tables(smoke):
    again = sing.Study("smoke", progress=False)
    assert again.images("lite0").equals(smoke.images("lite0"))
    assert again.models().equals(smoke.models())


def test_overrides_give_other_results_beside_the_first(smoke):
    before = smoke.images("lite0")
    other = sing.Study("smoke", progress=False, top_classes=20)
    assert not other.images("lite0")["image_score"].equals(before["image_score"])
    assert sing.Study("smoke", progress=False).images("lite0").equals(before)


def test_unknown_names_get_the_nearest_right_one(smoke):
    with pytest.raises(sing.SingError, match="did you mean"):
        smoke.string_graph("lite0", smoke.subjects["label"][0] + "s")
    with pytest.raises(sing.SingError, match="Unknown picture"):
        smoke.row("no-such-picture")


def test_string_graph_angles_follow_from_numpy(smoke):
    label = smoke.subjects["label"][0]
    graph = smoke.string_graph("lite0", label, ["sand", "water"]).set_index("concept")
    rows = np.flatnonzero((smoke.pictures["label"] == label).to_numpy())
    f = smoke.features("lite0")[rows].numpy().astype(float)
    fit = smoke.translators("lite0")[smoke.pictures["fold"][rows[0]]]
    z = f @ fit.weight.numpy().T.astype(float) + fit.bias.numpy()
    for concept in ("sand", "water"):
        text = smoke.text([concept])[0].numpy()
        assert graph.loc[concept, "before"] == pytest.approx(degrees(z, text).mean(), abs=1e-3)
    difference = graph["before"] - graph["after"]
    np.testing.assert_allclose(graph["attribute_score"], difference, atol=1e-6)


def test_nearest_pictures_leave_out_the_own_subject_and_repeat_none(smoke):
    picture = smoke.examples(smoke.subjects["label"][:1])[0]
    row = smoke.row(picture)
    subject = smoke.pictures["subject"][row]
    near = smoke.nearest(smoke.embeddings[[row]], k=4, exclude=subject)
    merged = near.merge(smoke.pictures, on="picture")
    assert subject not in set(merged["subject"])
    assert merged["subject"].is_unique
    assert near["angle"].is_monotonic_increasing
