from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from sing_nb.study import steering, tables
from sing_nb.study.steering import RANDOM, TOWARDS, _random_directions

JELLYFISH = "an image of a jellyfish"
PROMPTS = [JELLYFISH, "a snowy hill"]


def degrees(a, b):
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


class ByHand:
    """One picture's feature, translator and null space, in plain float64."""

    def __init__(self, study, picture, text):
        self.study = study
        row = study.pictures.set_index("picture").loc[picture]
        number = study.pictures.index[study.pictures["picture"] == picture][0]
        self.label, self.subject = row["label"], row["subject"]
        self.f = study.features("lite0")[int(number)].double().numpy()
        fitted = study.translators("lite0")[row["fold"]]
        self.weight = fitted.weight.double().numpy()
        self.bias = fitted.bias.double().numpy()
        self.head = study.classifier("lite0").head.weight.double().numpy()
        self.text = study.space.encode_text([text])[0].double().numpy()
        article = "an" if self.label[0].lower() in "aeiou" else "a"
        self.own_text = study.space.encode_text([f"an image of {article} {self.label}"])[0].numpy()

    def translate(self, f):
        return f @ self.weight.T + self.bias

    def null(self, v):
        basis = np.linalg.svd(self.head, full_matrices=True)[2][1000:]
        return v @ basis.T @ basis

    def direction(self):
        """Autograd through a cosine that is written out, projected by a fresh SVD."""
        f = torch.tensor(self.f, requires_grad=True)
        z = torch.tensor(self.weight) @ f + torch.tensor(self.bias)
        text = torch.tensor(self.text)
        ((z * text).sum() / (z.square().sum() * text.square().sum()).sqrt()).backward()
        found = self.null(f.grad.numpy())
        return found / np.linalg.norm(found)


@pytest.fixture(scope="module")
def pictures(smoke):
    return smoke.examples(smoke.subjects["label"].tolist())


@pytest.fixture(scope="module")
def pushed(smoke, pictures):
    return steering.pushes(smoke, "lite0", pictures, PROMPTS, [15.0], draws=2)


# --- pushes -------------------------------------------------------------------------------------


def test_every_picture_is_pushed_to_every_prompt_and_to_the_control(pictures, pushed):
    assert len(pushed) == len(pictures) * 2 * 3
    keys = ["picture", "prompt", "kind", "draw"]
    assert not pushed.duplicated(keys).any()
    assert pushed.groupby("kind")["draw"].agg(set).to_dict() == {TOWARDS: {0}, RANDOM: {0, 1}}
    assert set(pushed["model"]) == {"lite0"}


def test_pushes_reach_the_target_and_the_logits_stay(pushed):
    there = pushed[pushed["reachable"]]
    assert len(there) > len(pushed) / 4
    np.testing.assert_allclose(there["image_score"], 15, atol=1e-3)
    assert pushed["logit_change"].max() < 1e-3
    assert (there["limit"] > 15).all()


def test_pushes_out_of_reach_have_no_scores(smoke, pictures):
    found = steering.pushes(smoke, "lite0", pictures[:4], [JELLYFISH], [150.0])
    away = found[~found["reachable"]]
    assert len(away) >= 4
    scores = ["step", "image_score", "attribute_score", "own_score"]
    assert away[scores].isna().all(axis=None)
    assert (away["limit"] <= 150).all()
    assert (away["logit_change"] == 0).all()
    assert (away["length"] == 1).all()


def test_a_push_is_measured_by_autograd_svd_and_numpy(smoke, pushed):
    for row in pushed[pushed["kind"] == TOWARDS].query("reachable").iloc[::3].itertuples():
        hand = ByHand(smoke, row.picture, row.prompt)
        z = hand.translate(hand.f)
        moved = hand.translate(hand.f + row.step * np.linalg.norm(hand.f) * hand.direction())
        assert degrees(z, moved) == pytest.approx(15, abs=1e-3)
        expected = degrees(z, hand.text) - degrees(moved, hand.text)
        assert row.attribute_score == pytest.approx(expected, abs=1e-3)
        expected = degrees(z, hand.own_text) - degrees(moved, hand.own_text)
        assert row.own_score == pytest.approx(expected, abs=1e-3)
        assert row.length == pytest.approx(np.linalg.norm(moved) / np.linalg.norm(z), abs=1e-4)


def test_what_lies_nearest_is_found_by_numpy(smoke, pushed):
    table = smoke.pictures
    words = smoke.text(smoke.vocabulary).double().numpy()
    for row in pushed[pushed["kind"] == TOWARDS].query("reachable").iloc[::3].itertuples():
        hand = ByHand(smoke, row.picture, row.prompt)
        moved = hand.translate(hand.f + row.step * np.linalg.norm(hand.f) * hand.direction())
        for z, end in ((moved, ""), (hand.translate(hand.f), "_before")):
            to_words = degrees(z, words)
            assert getattr(row, f"word{end}") == smoke.vocabulary[to_words.argmin()]
            rank = 1 + (to_words < degrees(z, hand.text) - 1e-6).sum()
            assert abs(getattr(row, f"rank{end}") - rank) <= 1  # float32 ties
            angles = pd.Series(degrees(z, smoke.embeddings.double().numpy()))
            photo = table["source"] != "clipart"
            others = photo & (table["subject"] != hand.subject)
            assert getattr(row, f"photo_or_own{end}") == table["label"][angles[photo].idxmin()]
            assert getattr(row, f"photo{end}") == table["label"][angles[others].idxmin()]


def test_what_lies_nearest_is_the_same_in_small_blocks(smoke, pictures, pushed, monkeypatch):
    monkeypatch.setattr(steering, "BLOCK", 1)
    found = steering.pushes(smoke, "lite0", pictures, PROMPTS, [15.0], draws=2)
    pd.testing.assert_frame_equal(found, pushed)


def test_random_directions_are_unit_vectors_of_the_null_space(smoke):
    both = _random_directions(smoke, "lite0", 8, 2)
    head = smoke.classifier("lite0").head.weight.double().numpy()
    seen = np.linalg.svd(head, full_matrices=True)[2][:1000]
    for directions in both:
        np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(directions.numpy() @ seen.T, 0, atol=1e-6)
    # Two draws, and two pictures, have nothing in common: 280 dimensions, so about 0.06.
    assert (both[0] * both[1]).sum(1).abs().max() < 0.3
    assert float((both[0][0] * both[0][1]).sum().abs()) < 0.3


def test_a_random_push_goes_along_its_random_direction(smoke, pictures, pushed):
    directions = _random_directions(smoke, "lite0", len(pictures), 2)
    for row in pushed[pushed["kind"] == RANDOM].query("reachable").iloc[::5].itertuples():
        hand = ByHand(smoke, row.picture, row.prompt)
        along = directions[row.draw][pictures.index(row.picture)].numpy()
        z, length = hand.translate(hand.f), row.step * np.linalg.norm(hand.f)
        moved = hand.translate(hand.f + length * along)
        assert degrees(z, moved) == pytest.approx(15, abs=1e-3)
        expected = degrees(z, hand.text) - degrees(moved, hand.text)
        assert row.attribute_score == pytest.approx(expected, abs=1e-3)
        assert row.limit == pytest.approx(degrees(z, hand.weight @ along), abs=1e-3)


def test_the_limit_is_what_no_step_exceeds(smoke, pushed):
    steps = np.concatenate([np.geomspace(1e-3, 1e6, 200), np.linspace(0.1, 50, 300)])
    for row in pushed[pushed["kind"] == TOWARDS].iloc[::4].itertuples():
        hand = ByHand(smoke, row.picture, row.prompt)
        z, direction = hand.translate(hand.f), hand.direction()
        assert row.limit == pytest.approx(degrees(z, hand.weight @ direction), abs=1e-3)
        scanned = degrees(z, hand.translate(hand.f + steps[:, None] * direction))
        assert scanned.max() <= row.limit + 1e-3
        assert scanned.max() > row.limit - 0.1


def test_zero_degrees_is_the_picture_itself(smoke, pictures):
    found = steering.pushes(smoke, "lite0", pictures[:3], [JELLYFISH], [0, 10])
    still = found[found["target"] == 0]
    assert len(still) == 6
    scores = ["image_score", "attribute_score", "own_score", "logit_change"]
    assert (still[scores] == 0).all(axis=None)
    assert (still["length"] == 1).all()
    for column in ("word", "photo", "photo_or_own", "rank"):
        assert (still[column] == still[f"{column}_before"]).all()


def test_prompts_are_approached_more_than_by_chance(pushed):
    there = pushed[pushed["reachable"]]
    score = there.groupby("kind")["attribute_score"].mean()
    assert score[TOWARDS] > score[RANDOM] + 1
    assert (there.loc[there["kind"] == TOWARDS, "attribute_score"] > 0).all()


def test_every_classifier_is_pushed_and_kept(smoke, pictures):
    found = steering.pushed_everywhere(smoke, pictures[:3], [JELLYFISH], [10.0], 1)
    assert found["model"].unique().tolist() == smoke.config.models
    fresh = pd.concat([steering.pushes(smoke, model, pictures[:3], [JELLYFISH], [10.0], 1)
                       for model in smoke.config.models], ignore_index=True)
    # Kept by another process, perhaps: float32 may round otherwise there.
    pd.testing.assert_frame_equal(found, fresh, check_dtype=False)
    other = steering.pushed_everywhere(smoke, pictures[:3], [JELLYFISH], [11.0], 1)
    assert set(other["target"]) == {11.0}


# --- what they add up to ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [False, True])
def test_mean_and_deviation_follow_from_the_rows(smoke, pushed, size):
    table = steering.scores(smoke, pushed, ("prompt", "kind"), size=size)
    assert len(table) == 4
    for row in table.to_dict("records"):
        own = pushed[(pushed["prompt"] == row["prompt"]) & (pushed["kind"] == row["kind"])]
        values = own["attribute_score"].to_numpy()[own["reachable"].to_numpy()]
        values = np.abs(values) if size else values
        assert row["value"] == pytest.approx(values.sum() / len(values))
        deviation = np.sqrt(((values - values.mean()) ** 2).sum() / (len(values) - 1))
        assert row["sd"] == pytest.approx(deviation)
        assert row["low"] < row["value"] < row["high"]
        assert row["pictures"] == 8
        short = {p for p, there in zip(own["picture"], own["reachable"]) if not there}
        assert row["unreached"] == len(short)
        assert row["reached"] == own["reachable"].mean()
        assert row["limit_low"] == min(own["limit"])
        assert row["limit"] == np.median(own["limit"])


def test_one_subject_has_a_mean_but_no_interval(smoke):
    subject = smoke.subjects["subject"][0]
    views = smoke.pictures.loc[smoke.pictures["subject"] == subject, "picture"].tolist()
    found = steering.scores(smoke, steering.pushes(smoke, "lite0", views, [JELLYFISH], [5.0]))
    assert found["value"].notna().all()
    assert found[["low", "high"]].isna().all(axis=None)


def test_photos_of_one_class_have_an_interval_and_yardsticks(fresh, smoke):
    # As in a folder of classes: every picture is a subject, and a label has several.
    pictures = smoke.pictures.assign(subject=smoke.pictures["picture"])
    scored = pictures[smoke.is_scored]
    folder = fresh(pictures=pictures, subjects=scored)
    own = scored.loc[scored["label"] == scored["label"].iloc[0], "picture"].tolist()
    found = steering.pushes(smoke, "lite0", own, [JELLYFISH], [5.0])
    (row, _) = steering.scores(folder, found).to_dict("records")
    assert row["low"] < row["value"] < row["high"]
    (row,) = steering.contrasts(folder, found).to_dict("records")
    assert row["low"] < row["value"] < row["high"]
    sticks = steering.yardsticks(folder, "lite0")
    names = ["two photos of one class", "two classes", "null part removed"]
    assert sticks["what"].tolist() == names
    views = steering.yardsticks(smoke, "lite0")  # a stamp's label is its subject
    np.testing.assert_allclose(sticks["value"][:2], views["value"][:2])


def test_where_nobody_arrives_nothing_is_claimed(smoke, pictures):
    found = steering.pushes(smoke, "lite0", pictures, [JELLYFISH], [179.9])
    (row,) = steering.scores(smoke, found[found["kind"] == TOWARDS]).to_dict("records")
    assert row["unreached"] == row["pictures"] == 8
    assert np.isnan([row["value"], row["low"], row["high"], row["sd"]]).all()
    assert steering.changes(smoke, found).empty
    (row,) = steering.contrasts(smoke, found).to_dict("records")
    assert row["pictures"] == 0
    assert np.isnan([row["value"], row["low"], row["high"]]).all()


def test_differences_are_paired_by_picture(smoke, pictures, pushed):
    both = pd.concat([
        pushed, steering.pushes(smoke, "lite1", pictures, PROMPTS, [15.0], draws=2)
    ])
    found = steering.contrasts(smoke, both).set_index(["contrast", "model"])
    assert len(found) == 3
    sizes = {}
    for row in both[both["reachable"]].itertuples():
        key = row.model, row.kind, row.picture, row.prompt
        sizes.setdefault(key, []).append(abs(row.attribute_score))

    def difference(one, two):
        pairs = [(np.mean(sizes[(*one, *key)]), np.mean(sizes[(*two, *key)]))
                 for key in itertools.product(pictures, PROMPTS)
                 if (*one, *key) in sizes and (*two, *key) in sizes]
        return np.mean([a - b for a, b in pairs])

    for model in ("lite0", "lite1"):
        expected = difference((model, TOWARDS), (model, RANDOM))
        assert found.loc[("prompt - random", model), "value"] == pytest.approx(expected)
    row = found.loc[("classifiers", "lite1")]
    expected = difference(("lite1", TOWARDS), ("lite0", TOWARDS))
    assert row["value"] == pytest.approx(expected)
    assert row["low"] < row["value"] < row["high"]


def test_changes_are_counted_by_subject(smoke, pushed):
    found = steering.changes(smoke, pushed).set_index(["kind", "reading"])
    assert len(found) == 6
    for kind, (column, reading) in itertools.product((TOWARDS, RANDOM), steering.READINGS.items()):
        there = pushed[(pushed["kind"] == kind) & pushed["reachable"]]
        different = [a != b for a, b in zip(there[column], there[f"{column}_before"])]
        row = found.loc[(kind, reading)]
        assert row["value"] == pytest.approx(np.mean(different))
        assert row["low"] <= row["value"] <= row["high"]


def test_yardsticks_are_medians_of_pairs(smoke):
    found = steering.yardsticks(smoke, "lite0").set_index("what")
    table = smoke.pictures[smoke.pictures["source"] == "stamp"]
    z = {}
    for row, one in table.iterrows():
        fitted = smoke.translators("lite0")[one["fold"]]
        f = smoke.features("lite0")[row].double().numpy()
        z[row] = f @ fitted.weight.double().numpy().T + fitted.bias.double().numpy()
    views, subjects = [], []
    for subject, own in table.groupby("subject"):
        views.append(np.median(
            [degrees(z[a], z[b]) for a, b in itertools.combinations(own.index, 2)]))
        others = table[(table["subject"] != subject) & (table["fold"] == own["fold"].iloc[0])]
        subjects.append(np.median(
            [degrees(z[a], z[b]) for a in own.index for b in others.index]))
    assert found.loc["two views of one subject", "value"] == pytest.approx(np.median(views), 1e-6)
    assert found.loc["two subjects", "value"] == pytest.approx(np.median(subjects), 1e-6)
    images = tables.images(smoke, "lite0").query("source == 'stamp'")
    removed = [np.median(part["image_score"]) for _, part in images.groupby("subject")]
    assert found.loc["null part removed", "value"] == pytest.approx(np.median(removed))
    assert (found["low"] <= found["value"]).all()
    assert (found["value"] <= found["high"]).all()


def test_a_class_that_is_missing_is_replaced_by_the_nearest(smoke):
    have = smoke.subjects["label"].tolist()
    assert steering.nearest_label(smoke, have[3]) == (have[3], 0.0)
    text = smoke.text(["zeppelin", *have]).double().numpy()
    angles = degrees(text[0], text[1:])
    label, gap = steering.nearest_label(smoke, "zeppelin")
    assert label == have[angles.argmin()]
    assert gap == pytest.approx(angles.min(), abs=1e-6)


# --- photos -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ladder(smoke, pictures):
    return steering.ladder_photos(smoke, "lite0", pictures[:2], JELLYFISH, [5, 10.0, 20.0], k=2)


def test_a_ladder_starts_with_the_photo_and_climbs(smoke, pictures, ladder):
    steps = ["IS 0°", "IS 5°", "IS 10°", "IS 20°"]
    assert ladder["state"].unique().tolist() == steps
    for _, group in ladder.groupby(["name", "kind"]):
        assert group["place"].value_counts().to_dict() == {"photo": 1, "1": 4, "2": 4}
    itself = ladder[ladder["place"] == "photo"]
    assert (itself["target"] == 0).all()
    assert set(itself["picture"]) == set(pictures[:2])
    near = ladder[ladder["place"] != "photo"]
    assert (near["label"] != near["name"]).all()


def test_a_rung_is_measured_in_numpy(smoke, ladder):
    labels = dict(zip(smoke.pictures["label"], smoke.pictures["subject"]))
    rungs = ladder[(ladder["kind"] == TOWARDS) & (ladder["place"] == "1") & ladder["reachable"]]
    assert len(rungs) >= 6
    photos = smoke.pictures[smoke.pictures["source"] != "clipart"]
    for rung in rungs.itertuples():
        (picture,) = smoke.examples([rung.name])
        hand = ByHand(smoke, picture, JELLYFISH)
        z = hand.translate(hand.f)
        moved = hand.translate(hand.f + rung.step * np.linalg.norm(hand.f) * hand.direction())
        score = 0 if rung.target == 0 else degrees(z, moved)
        assert rung.image_score == pytest.approx(score, abs=1e-3)
        assert score == pytest.approx(rung.target, abs=1e-3)
        expected = degrees(z, hand.text) - degrees(moved, hand.text)
        assert rung.attribute_score == pytest.approx(expected, abs=1e-3)
        others = photos[photos["subject"] != labels[rung.name]]
        angles = degrees(moved, smoke.embeddings[others.index.tolist()].double().numpy())
        assert rung.picture == others["picture"].iloc[angles.argmin()]
        assert rung.angle == pytest.approx(angles.min(), abs=1e-3)
