from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from sing_nb.study import steering
from sing_nb.study.steering import RANDOM, TOWARDS

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
    return steering.pushes(smoke, "lite0", pictures, PROMPTS, [15.0], draws=2)[0]


# --- pushes -------------------------------------------------------------------------------------


def test_pushes_reach_the_target_and_the_logits_stay(pushed):
    there = pushed[pushed["reachable"]]
    assert len(there) > len(pushed) / 4
    np.testing.assert_allclose(there["image_score"], 15, atol=1e-3)
    assert pushed["logit_change"].max() < 1e-3
    assert (there["limit"] > 15).all()


def test_pushes_out_of_reach_have_no_scores(smoke, pictures):
    found = steering.pushes(smoke, "lite0", pictures[:4], [JELLYFISH], [150.0])[0]
    away = found[~found["reachable"]]
    assert len(away) >= 4
    scores = ["step", "image_score", "attribute_score", "own_score"]
    assert away[scores].isna().all(axis=None)
    assert (away["limit"] <= 150).all()
    assert (away["logit_change"] == 0).all()
    assert (away["length"] == 1).all()


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
    found = steering.pushes(smoke, "lite0", pictures[:3], [JELLYFISH], [0, 10])[0]
    still = found[found["target"] == 0]
    assert len(still) == 6
    scores = ["image_score", "attribute_score", "own_score", "logit_change"]
    assert (still[scores] == 0).all(axis=None)
    assert (still["length"] == 1).all()
    for column in ("word", "photo", "rank"):
        assert (still[column] == still[f"{column}_before"]).all()


def test_prompts_are_approached_more_than_by_chance(pushed):
    there = pushed[pushed["reachable"]]
    score = there.groupby("kind")["attribute_score"].mean()
    assert score[TOWARDS] > score[RANDOM] + 1
    assert (there.loc[there["kind"] == TOWARDS, "attribute_score"] > 0).all()


def test_every_classifier_is_pushed_and_kept(smoke, pictures):
    found = steering.pushed_everywhere(smoke, pictures[:3], [JELLYFISH], [10.0], 1)
    assert found["model"].unique().tolist() == smoke.config.models
    fresh = pd.concat([steering.pushes(smoke, model, pictures[:3], [JELLYFISH], [10.0])[0]
                       for model in smoke.config.models], ignore_index=True)
    # Kept by another process, perhaps: float32 may round otherwise there.
    pd.testing.assert_frame_equal(found, fresh, check_dtype=False)
    other = steering.pushed_everywhere(smoke, pictures[:3], [JELLYFISH], [11.0], 1)
    assert set(other["target"]) == {11.0}


def test_a_push_is_measured_by_autograd_svd_and_numpy(smoke, pushed):
    table, words = smoke.pictures, smoke.text(smoke.vocabulary).double().numpy()
    for row in pushed[pushed["kind"] == TOWARDS].query("reachable").iloc[::3].itertuples():
        hand = ByHand(smoke, row.picture, row.prompt)
        z = hand.translate(hand.f)
        moved = hand.translate(hand.f + row.step * np.linalg.norm(hand.f) * hand.direction())
        assert degrees(z, moved) == pytest.approx(15, abs=1e-3)
        for score, text in ((row.attribute_score, hand.text), (row.own_score, hand.own_text)):
            assert score == pytest.approx(degrees(z, text) - degrees(moved, text), abs=1e-3)
        assert row.length == pytest.approx(np.linalg.norm(moved) / np.linalg.norm(z), abs=1e-4)
        for place, end in ((moved, ""), (z, "_before")):
            to_words = degrees(place, words)
            assert getattr(row, f"word{end}") == smoke.vocabulary[to_words.argmin()]
            rank = 1 + (to_words < degrees(place, hand.text) - 1e-6).sum()
            assert abs(getattr(row, f"rank{end}") - rank) <= 1  # float32 ties
            angles = pd.Series(degrees(place, smoke.embeddings.double().numpy()))
            others = (table["source"] != "clipart") & (table["subject"] != hand.subject)
            assert getattr(row, f"photo{end}") == table["label"][angles[others].idxmin()]


def test_a_random_push_goes_somewhere_in_the_null_space(smoke, pictures):
    table, z = steering.pushes(smoke, "lite0", pictures[:4], [JELLYFISH], [10.0], draws=2)
    random = table[table["kind"] == RANDOM]
    # Two draws, and two pictures, have nothing in common; the head sees none of them.
    turns = (z.double() / z.double().norm(dim=1, keepdim=True))[random.index.to_numpy(copy=True)]
    assert len(np.unique(turns.numpy().round(6), axis=0)) == len(random) == 8
    assert random["logit_change"].max() < 1e-3


def test_means_are_over_subjects_that_arrive(smoke, pushed):
    table = steering.means(smoke, pushed, "attribute_score", ["prompt", "kind"])
    for row in table.to_dict("records"):
        own = pushed[(pushed["prompt"] == row["prompt"]) & (pushed["kind"] == row["kind"])]
        assert row["value"] == pytest.approx(own.loc[own["reachable"], "attribute_score"].mean())
        assert row["low"] < row["value"] < row["high"]
    nobody = steering.means(smoke, pushed.assign(reachable=False), "attribute_score", ["kind"])
    assert nobody[["value", "low", "high"]].isna().all(axis=None)
