from __future__ import annotations

import numpy as np
import pytest
from conftest import degrees, prompt_of, random_part
from scipy.special import softmax

from sing_nb.study import photos, tables


@pytest.fixture(scope="module")
def pictures(smoke):
    table = tables.images(smoke, "lite0")
    wrong = table.loc[table["correct"].eq(False), "picture"]
    some = smoke.examples(smoke.subjects["label"].tolist()[:2])
    return list(dict.fromkeys([*some, *wrong.iloc[[0, -1]]]))


def test_cards_are_the_rows_of_the_study_and_mark_mistakes(smoke, plain, pictures):
    cards = photos.photo_cards(smoke, "lite0", pictures)
    assert cards["picture"].tolist() == pictures
    images = tables.images(smoke, "lite0").set_index("picture")
    for card in cards.to_dict("records"):
        own = images.loc[card["picture"]]
        for column in ("null_share", "image_score", "attribute_score_control", "translator_error"):
            assert card[column] == own[column]
        logits = plain.logits(plain.f[smoke.row(card["picture"])])
        assert card["probability"] == pytest.approx(softmax(logits).max(), abs=1e-3)
        wrong = logits.argmax() != own["class_index"]
        assert card["menu"] == card["name"] + f" (called {own['predicted']})" * int(wrong)
    assert cards["name"].is_unique


@pytest.mark.parametrize("chosen_by", [-1, 0])
def test_word_changes_are_those_of_plain_numpy(smoke, plain, pictures, chosen_by):
    picture, k, near = pictures[-1], 4, 30
    found = photos.word_changes(smoke, "lite0", [picture], k, near, chosen_by)
    number = smoke.row(picture)
    f = plain.f[number]
    null = plain.null(f)
    parts = [null] + [
        random_part(f, np.linalg.norm(null), smoke.config.seed + draw)
        for draw in range(smoke.config.control_draws)]
    texts = smoke.space.encode_text([prompt_of(word) for word in smoke.vocabulary])
    texts = texts.double().numpy()
    before = degrees(plain.translate([f], [number])[0], texts)
    after = [degrees(plain.translate([f - part], [number])[0], texts) for part in parts]
    score = before - after[chosen_by + 1]
    close = {*np.argsort(before)[:near], *np.argsort(after[chosen_by + 1])[:near]}
    order = sorted(close, key=lambda i: -score[i])
    expected = [i for i in order[:k] if score[i] > 0] + [i for i in order[-k:] if score[i] < 0]
    own = found[found["draw"] == chosen_by]
    assert own["word"].tolist() == [smoke.vocabulary[i] for i in expected]
    assert len(found) == len(expected) * len(parts)
    for draw in range(-1, smoke.config.control_draws):
        rows = found[found["draw"] == draw]
        change = (before - after[draw + 1])[expected]
        np.testing.assert_allclose(rows["attribute_score"], change, atol=0.01)
        np.testing.assert_allclose(rows["before"], before[expected], atol=0.01)
        assert set(rows["kind"]) == {f"{'null' if draw < 0 else 'random'} part removed"}
