from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from sing_nb.fetch import data_dir
from sing_nb.overview import method_steps, wording

STATES = ["whole", "null part removed"]


def degrees(a, b):
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


@pytest.fixture(scope="module")
def pictures(smoke):
    """A stamp and a photograph: the one is translated by its fold, the other by all."""
    first = smoke.pictures.drop_duplicates("source").set_index("source")["picture"]
    return [first["stamp"], first["photo"]]


@pytest.fixture(scope="module")
def steps(smoke, pictures):
    return method_steps(smoke, "lite0", pictures, k=3)


@pytest.fixture(scope="module")
def by_hand(plain, pictures):
    rows = np.array([np.flatnonzero(plain.table["picture"] == name)[0] for name in pictures])
    f = plain.f[rows]
    return rows, {"whole": f, "null part removed": f - plain.null(f)}


def test_one_row_a_picture_and_state(steps, pictures, plain):
    assert steps["state"].tolist() == np.repeat(STATES, 2).tolist()
    assert steps["picture"].tolist() == pictures * 2
    label = plain.table.set_index("picture")["label"]
    assert steps["name"].tolist() == label[pictures * 2].tolist()


def test_the_null_share_is_the_photos_own(steps, by_hand, plain):
    f = by_hand[1]["whole"]
    share = (plain.null(f) ** 2).sum(1) / (f**2).sum(1)
    np.testing.assert_allclose(steps["null_share"], np.tile(share, 2), rtol=1e-5)


@pytest.mark.parametrize("state", STATES)
def test_logits_are_the_largest_with_their_names(steps, by_hand, plain, smoke, state):
    logits = plain.logits(by_hand[1][state])
    names = smoke.classifier("lite0").class_names
    for said, line in zip(steps.loc[steps["state"] == state, "logits"], logits):
        best = np.argsort(-line)[:3]
        # Numbers last: class names may hold commas.
        found = re.findall(r"(.+?) (-?\d+\.\d\d)(?:, |$)", said)
        assert [name for name, _ in found] == [names[i] for i in best]
        np.testing.assert_allclose([float(v) for _, v in found], line[best], atol=0.0051)


def test_what_is_removed_changes_no_word_about_the_logits(steps):
    whole, removed = (steps.loc[steps["state"] == state, "logits"].tolist() for state in STATES)
    assert whole == removed


@pytest.mark.parametrize("state", STATES)
def test_words_are_the_nearest_with_their_angles(steps, by_hand, plain, smoke, state):
    rows, features = by_hand
    texts = smoke.text(smoke.vocabulary).double().numpy()
    z = plain.translate(features[state], rows)
    for said, line in zip(steps.loc[steps["state"] == state, "words"], z):
        angles = degrees(line, texts)
        best = np.argsort(angles)[:3]
        found = re.findall(r"(.+?) (\d+)°(?:, |$)", said)
        assert [name for name, _ in found] == [smoke.vocabulary[i] for i in best]
        np.testing.assert_allclose([float(v) for _, v in found], angles[best], atol=0.51)


def test_scores_are_0_for_the_photo_itself_and_plain_numpys_without_its_null_part(
    steps, by_hand, plain, smoke
):
    own = steps[steps["state"] == "whole"]
    assert (own[["image_score", "attribute_score"]] == 0).all(axis=None)
    rows, features = by_hand
    z, moved = (plain.translate(features[state], rows) for state in STATES)
    other = steps[steps["state"] == "null part removed"]
    np.testing.assert_allclose(other["image_score"], degrees(z, moved), atol=0.01)
    text = smoke.text(other["name"].tolist()).double().numpy()
    score = degrees(z, text) - degrees(moved, text)
    np.testing.assert_allclose(other["attribute_score"], score, atol=0.01)
    assert other["image_score"].min() > 0.1


def test_a_picture_may_be_named_by_its_beginning(smoke, pictures, steps):
    stem = pictures[0].rsplit("-", 1)[0]
    again = method_steps(smoke, "lite0", [stem], k=3)
    assert again["words"].tolist() == steps.loc[[0, 2], "words"].tolist()


# --- sentences ----------------------------------------------------------------------------------

SENTENCES = yaml.safe_load((data_dir() / "wording.yaml").read_text(encoding="utf-8"))
BOOK = Path(__file__).resolve().parents[1] / "book"


def test_every_sentence_has_a_text_for_both_cases_and_a_chapter():
    chapters = "".join(path.read_text(encoding="utf-8") for path in BOOK.glob("*.ipynb"))
    cases = [
        {"conse", "clip"}, {"stamps", "folder"}, {"nearest", "unclip"}, {"fitted", "published"},
    ]
    for name, texts in SENTENCES.items():
        assert set(texts) in cases, name
        assert f'=\\"{name}\\"' in chapters, name


def test_sentences_can_be_said_of_the_offline_kind(smoke):
    # What only a chapter knows stands in braces, too.
    chapters = dict.fromkeys(re.findall(r"{(\w+)}", str(SENTENCES)), "said")
    own = wording(smoke, one="classes_photos", two="sweep_same", three="pictured")
    assert own["one"].startswith("Of the 8 classes, 8 are a single photo stamp.")
    assert "2 views of each stamp" in own["two"]
    assert "unCLIP was not run" in own["three"]
    for name, text in wording(smoke, chapters, **{name: name for name in SENTENCES}).items():
        assert text, name
        assert "{" not in text, name


def test_sentences_are_plain_text():
    # Glue puts them on the page as they are: a reader would see the marks.
    for name, texts in SENTENCES.items():
        for text in texts.values():
            assert not re.search(r"`|\*\w|\w\*|{\w+:\w+}", text), name


def test_a_chapter_may_add_what_only_it_knows(smoke):
    said = wording(smoke, {"floor": "3.1°"}, here="floor")["here"]
    assert said.startswith("EfficientNet-Lite2 builds the joint space")
    assert "It is 3.1°: this is the floor" in said
