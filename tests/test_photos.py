from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_study import ByHand, degrees, prompt_of

from sing_nb import figures, photos


@pytest.fixture(scope="module")
def by_hand(smoke):
    return ByHand(smoke)


@pytest.fixture(scope="module")
def pictures(smoke):
    some = smoke.examples(smoke.subjects["label"].tolist()[:2])
    return list(dict.fromkeys([*some, *photos.mistakes(smoke, "lite0", 3)]))


def row_of(by_hand, picture):
    return by_hand.table.index[by_hand.table["picture"] == picture][0]


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


# --- mistakes -----------------------------------------------------------------------------------


def test_mistakes_are_mistakes_by_the_logits(smoke, by_hand):
    found = photos.mistakes(smoke, "lite0", 6)
    assert len(found) >= 3
    sources = []
    for picture in found:
        row = by_hand.table.loc[row_of(by_hand, picture)]
        assert row["class_index"] >= 0
        assert by_hand.logits(by_hand.f[row.name]).argmax() != row["class_index"]
        sources.append(row["source"])
    # Of the smoke pictures, photographs and stamps are wrong: photographs first.
    assert sources == sorted(sources)
    assert {"photo", "stamp"} == set(sources)


def test_mistakes_are_the_surest_one_a_label(smoke, by_hand):
    table = by_hand.table
    logits = by_hand.logits(by_hand.f)
    wrong = (
        (table["source"] == "stamp") & (table["class_index"] >= 0)
        & (logits.argmax(1) != table["class_index"])
    )
    sure = pd.Series([softmax(line).max() for line in logits])[wrong]
    best = sure.groupby(table["label"][wrong]).max().sort_values(ascending=False)
    found = [p for p in photos.mistakes(smoke, "lite0", 40) if not p.startswith("photo-")]
    assert [table["label"][row_of(by_hand, picture)] for picture in found] == best.index.tolist()
    assert photos.mistakes(smoke, "lite0", 0) == []


def test_at_most_half_of_the_mistakes_are_photographs(smoke):
    for count in (1, 2, 3):
        found = photos.mistakes(smoke, "lite0", count)
        assert sum(picture.startswith("photo-") for picture in found) <= (count + 1) // 2


# --- what the classifier says -------------------------------------------------------------------


def test_top_classes_have_the_probabilities_of_the_logits(smoke, by_hand, pictures):
    table = photos.top_classes(smoke, "lite0", pictures, k=3)
    names = smoke.classifier("lite0").class_names
    for picture in pictures:
        f = by_hand.f[row_of(by_hand, picture)]
        null = by_hand.null(f)
        random = by_hand.random_part(f, np.linalg.norm(null), smoke.config.seed)
        states = {
            "translated": f, "null part removed": f - null, "random part removed": f - random
        }
        best = np.argsort(-by_hand.logits(f))[:3]
        for state, moved in states.items():
            rows = table[(table["picture"] == picture) & (table["state"] == state)]
            logits = by_hand.logits(moved)
            assert rows["class"].tolist() == [names[i] for i in best]
            np.testing.assert_allclose(rows["logit"], logits[best], atol=2e-3)
            np.testing.assert_allclose(rows["probability"], softmax(logits)[best], atol=1e-3)


def test_the_equivalent_has_the_same_logits_and_the_control_has_not(smoke, pictures):
    table = photos.top_classes(smoke, "lite0", pictures)
    logits = table.pivot_table("logit", ["picture", "rank"], "state")
    assert (logits["null part removed"] - logits["translated"]).abs().max() < 1e-3
    assert (logits["random part removed"] - logits["translated"]).abs().max() > 0.1


def test_cards_are_the_rows_of_the_study_and_mark_mistakes(smoke, by_hand, pictures):
    cards = photos.photo_cards(smoke, "lite0", pictures)
    assert cards["picture"].tolist() == pictures
    images = smoke.images("lite0").set_index("picture")
    for card in cards.to_dict("records"):
        own = images.loc[card["picture"]]
        for column in ("null_share", "image_score", "attribute_score_control", "translator_error"):
            assert card[column] == own[column]
        logits = by_hand.logits(by_hand.f[row_of(by_hand, card["picture"])])
        assert card["probability"] == pytest.approx(softmax(logits).max(), abs=1e-3)
        wrong = logits.argmax() != own["class_index"]
        assert card["menu"] == card["name"] + f" (called {own['predicted']})" * int(wrong)
    assert cards["name"].is_unique


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen_by", [-1, 0])
def test_word_changes_are_those_of_plain_numpy(smoke, by_hand, pictures, chosen_by):
    picture, k, near = pictures[-1], 4, 30
    found = photos.word_changes(smoke, "lite0", [picture], k, near, chosen_by)
    number = row_of(by_hand, picture)
    f, fold = by_hand.f[number], by_hand.fold[number]
    null = by_hand.null(f)
    parts = [null] + [
        by_hand.random_part(f, np.linalg.norm(null), smoke.config.seed + draw)
        for draw in range(smoke.config.control_draws)
    ]
    texts = smoke.space.encode_text([prompt_of(word) for word in smoke.vocabulary])
    texts = texts.double().numpy()
    before = degrees(by_hand.translate(f, fold), texts)
    after = [degrees(by_hand.translate(f - part, fold), texts) for part in parts]
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


# --- do mistakes differ? ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gaps(smoke):
    return photos.mistake_differences(smoke, "lite0").set_index(["quantity", "over", "kind"])


def test_gaps_are_medians_of_wrong_minus_right(smoke, by_hand, gaps):
    table = smoke.scored("lite0")
    wrong = (table["correct"] == False).to_numpy()  # noqa: E712 (a column of objects)
    f = by_hand.f[[row_of(by_hand, picture) for picture in table["picture"]]]
    shares = []
    for seed in range(smoke.config.control_draws):
        gaussian = np.random.default_rng(smoke.config.seed + seed).standard_normal((1280, 280))
        basis = np.linalg.qr(gaussian)[0]
        shares.append(((f @ basis) ** 2).sum(1) / (f**2).sum(1))
    columns = {
        ("null_share", "null space removed"): table["null_share"].to_numpy(),
        ("null_share", "random control"): np.mean(shares, axis=0),
        ("image_score", "null space removed"): table["image_score"].to_numpy(),
        ("image_score", "random control"): table["image_score_control"].to_numpy(),
    }
    subjects = table["subject"].to_numpy()
    mixed = [s for s in set(subjects) if 0 < wrong[subjects == s].mean() < 1]
    assert mixed
    for (quantity, kind), values in columns.items():
        expected = np.median(values[wrong]) - np.median(values[~wrong])
        found = gaps.loc[(quantity, "all pictures", kind), "value"]
        assert found == pytest.approx(expected, abs=1e-6)
        expected = np.mean([
            np.median(values[wrong & (subjects == s)]) - np.median(values[~wrong & (subjects == s)])
            for s in mixed
        ])
        row = gaps.loc[(quantity, "same subject", kind)]
        assert row["value"] == pytest.approx(expected, abs=1e-6)
        assert row["drawn"] == len(mixed)
    assert (gaps["wrong"] == wrong.sum()).all()


def test_the_difference_is_null_minus_control(gaps):
    for quantity in ("null_share", "image_score"):
        for over in ("all pictures", "same subject"):
            value = gaps.sort_index().loc[(quantity, over), "value"]
            expected = value["null space removed"] - value["random control"]
            assert value["difference"] == pytest.approx(expected)
    assert (gaps["low"] <= gaps["high"]).all()


def test_where_every_photo_is_a_subject_gaps_are_within_classes(fresh, smoke):
    table = smoke.scored("lite0")
    table = table.assign(subject=table["picture"], correct=np.arange(len(table)) % 3 != 0)
    found = photos.mistake_differences(fresh(scored=lambda model: table), "lite0")
    found = found.set_index(["quantity", "over", "kind"])
    assert set(found.index.unique("over")) == {"all pictures", "same class"}
    expected = []
    for _, own in table.groupby("label"):
        wrong, right = (own.loc[own["correct"] == is_so, "image_score"] for is_so in (False, True))
        if len(wrong) and len(right):
            expected.append(np.median(wrong) - np.median(right))
    row = found.loc[("image_score", "same class", "null space removed")]
    assert row["value"] == pytest.approx(np.mean(expected))
    assert row["drawn"] == len(expected) > 1
    assert found.loc[("image_score", "all pictures", "difference"), "drawn"] == len(table)


@pytest.mark.parametrize("correct", [True, False])
def test_without_mistakes_or_without_anything_else_nothing_is_claimed(fresh, smoke, correct):
    table = smoke.scored("lite0").assign(correct=correct)
    found = photos.mistake_differences(fresh(scored=lambda model: table), "lite0")
    assert set(found["over"]) == {"all pictures"}
    assert found[["value", "low", "high"]].isna().all(axis=None)


# --- figures ------------------------------------------------------------------------------------


def test_pictures_are_embedded_once_and_not_in_every_row(smoke, pictures):
    states = ["translated", "null part removed", "random part removed"]
    charts = {
        figures.word_changes: photos.word_changes(smoke, "lite0", pictures),
        figures.top_classes: photos.top_classes(smoke, "lite0", pictures),
        figures.photo_words: smoke.photo_words("lite0", pictures, states, k=3),
    }
    for chart, table in charts.items():
        spec = chart(smoke.with_thumbnails(table, side=32)).to_dict()
        count = sum("image" in row for rows in spec["datasets"].values() for row in rows)
        assert count == len(pictures), chart.__name__


def test_words_stand_in_the_order_of_their_bars(smoke, pictures):
    table = photos.word_changes(smoke, "lite0", pictures[:1])
    spec = figures.word_changes(smoke.with_thumbnails(table, side=32)).to_dict()
    (rows,) = [pd.DataFrame(r) for r in spec["datasets"].values() if "place" in r[0]]
    bars = rows[rows["draw"] < 0].set_index("word")["attribute_score"]
    place = rows.groupby("word")["place"].agg(["min", "max"])
    assert (place["min"] == place["max"]).all()
    assert place["min"].sort_values().index.tolist() == (
        bars.sort_values(ascending=False).index.tolist()
    )
