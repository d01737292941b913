from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import degrees, prompt_of

from sing_nb.study import steering
from sing_nb.study.steering import RANDOM, TOWARDS

JELLYFISH = "an image of a jellyfish"
PROMPTS = [JELLYFISH, "a snowy hill"]


class ByHand:
    """One picture's feature, translator and null space, in plain float64."""

    def __init__(self, smoke, plain, picture, text):
        number = smoke.row(picture)
        row = smoke.pictures.iloc[number]
        self.label, self.subject, self.f, self.null = (
            row["label"], row["subject"], plain.f[number], plain.null)
        fitted = plain.translators[row["fold"]]
        self.weight, self.bias = fitted.weight.double().numpy(), fitted.bias.double().numpy()
        self.text, self.own_text = smoke.space.encode_text(
            [text, prompt_of(self.label)]).double().numpy()

    def translate(self, f):
        return f @ self.weight.T + self.bias

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


def test_pushes_reach_the_target_and_prompts_more_than_by_chance_and_the_logits_stay(pushed):
    there = pushed[pushed["reachable"]]
    assert len(there) > len(pushed) / 4
    np.testing.assert_allclose(there["image_score"], 15, atol=1e-3)
    assert pushed["logit_change"].max() < 1e-3
    assert (there["limit"] > 15).all()
    score = there.groupby("kind")["attribute_score"]
    assert score.mean()[TOWARDS] > score.mean()[RANDOM] + 1
    assert score.min()[TOWARDS] > 0


def test_pushes_out_of_reach_have_no_scores_and_those_of_zero_stay(smoke, pictures):
    found = steering.pushes(smoke, "lite0", pictures[:4], [JELLYFISH], [0, 150])[0]
    still, away = found[found["target"] == 0], found[~found["reachable"]]
    assert (len(still), len(away)) == (8, 8)
    scores = ["step", "image_score", "attribute_score", "own_score"]
    assert away[scores].isna().all(axis=None)
    assert (away["limit"] <= 150).all()
    assert (still[scores] == 0).all(axis=None)
    assert (found["logit_change"] == 0).all()
    assert (found["length"] == 1).all()
    for column in ("word", "photo", "rank"):
        assert (still[column] == still[f"{column}_before"]).all()


def test_the_limit_is_what_no_step_exceeds(smoke, plain, pushed):
    steps = np.concatenate([np.geomspace(1e-3, 1e6, 200), np.linspace(0.1, 50, 300)])
    for row in pushed[pushed["kind"] == TOWARDS].iloc[::4].itertuples():
        hand = ByHand(smoke, plain, row.picture, row.prompt)
        z, direction = hand.translate(hand.f), hand.direction()
        assert row.limit == pytest.approx(degrees(z, hand.weight @ direction), abs=1e-3)
        scanned = degrees(z, hand.translate(hand.f + steps[:, None] * direction))
        assert scanned.max() <= row.limit + 1e-3
        assert scanned.max() > row.limit - 0.1


def test_every_classifier_is_pushed_and_kept(smoke, pictures):
    found = steering.pushed_everywhere(smoke, pictures[:3], [JELLYFISH], [10.0], 1)
    assert found["model"].unique().tolist() == smoke.config.models
    fresh = pd.concat([steering.pushes(smoke, model, pictures[:3], [JELLYFISH], [10.0])[0]
                       for model in smoke.config.models], ignore_index=True)
    # Kept by another process, perhaps: float32 may round otherwise there.
    pd.testing.assert_frame_equal(found, fresh, check_dtype=False)
    other = steering.pushed_everywhere(smoke, pictures[:3], [JELLYFISH], [11.0], 1)
    assert set(other["target"]) == {11.0}


def test_a_push_is_measured_by_autograd_svd_and_numpy(smoke, plain, pushed):
    table, words = smoke.pictures, smoke.text(smoke.vocabulary).double().numpy()
    for row in pushed[pushed["kind"] == TOWARDS].query("reachable").iloc[::3].itertuples():
        hand = ByHand(smoke, plain, row.picture, row.prompt)
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
