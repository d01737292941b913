from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import degrees

from sing_nb import SingError
from sing_nb.method import metrics
from sing_nb.study import neighbours, pushes, tables

MODEL = "lite0"


@pytest.fixture(scope="module")
def pictures(smoke):
    """A stamp and a photograph that no translator is fitted on."""
    table = tables.images(smoke, MODEL)
    return [table.loc[table["source"] == source, "picture"].iloc[0] for source in
            ("stamp", "photo")]


@pytest.fixture(scope="module")
def photo(smoke, pictures):
    return pushes.known(smoke, MODEL, pictures[0])


def test_one_step_of_removal_is_the_book_s_own_null_removal(smoke, pictures):
    table = tables.images(smoke, MODEL).set_index("picture")
    control = tables.controls(smoke, MODEL).query("draw == 0").set_index("picture")
    for picture in pictures:
        one = pushes.known(smoke, MODEL, picture)
        found = pushes.answer(smoke, MODEL, one, "remove", step=1.0)
        push, held = (row for _, row in found.scores.iterrows())
        for name in ("image_score", "attribute_score"):
            assert push[name] == pytest.approx(table.loc[picture, name], abs=1e-3)
            assert held[name] == pytest.approx(control.loc[picture, name], abs=1e-3)
        assert held["logit_change"] == pytest.approx(control.loc[picture, "logit_change"], 1e-3)
        assert push["logit_change"] < 1e-4
        assert found.translator_error == pytest.approx(table.loc[picture, "translator_error"])
        assert push["before"] == push["after"] == table.loc[picture, "predicted"]


def test_scores_are_those_of_plain_numpy(smoke, plain, photo):
    number = smoke.row(photo.name)
    f = plain.f[number]
    null = plain.null(f)
    text = smoke.text([photo.label]).double().numpy()[0]
    steps = [-1.0, 0.5, 2.0]
    found = pushes.trail(smoke, MODEL, photo, "remove", "", "", steps).query("kind == 'remove'")
    z = plain.translate([f], [number])[0]
    for step, (_, row) in zip(steps, found.iterrows(), strict=True):
        moved = plain.translate([f - step * null], [number])[0]
        assert row["image_score"] == pytest.approx(degrees(z, moved), abs=1e-3)
        change = degrees(z, text) - degrees(moved, text)
        assert row["attribute_score"] == pytest.approx(change, abs=1e-3)


@pytest.mark.parametrize("kind", [kind for kind in pushes.DIRECTIONS if kind != "control"])
def test_only_the_control_moves_logits(smoke, plain, photo, kind):
    delta = pushes.course(smoke, MODEL, photo, kind, "jellyfish").delta.numpy()[0]
    null = plain.null(plain.f[smoke.row(photo.name)])
    assert np.linalg.norm(delta) == pytest.approx(np.linalg.norm(null), rel=1e-4)
    assert np.abs(plain.weight @ delta).max() < 1e-4
    push, held = pushes.answer(
        smoke, MODEL, photo, kind, "jellyfish", step=3.0).scores["logit_change"]
    assert push < 1e-3 < 0.3 < held


@pytest.mark.parametrize("kind", list(pushes.DIRECTIONS))
def test_a_target_is_reached(smoke, photo, kind):
    found = pushes.answer(smoke, MODEL, photo, kind, "teapot", target=12.5)
    assert found.scores["image_score"][0] == pytest.approx(12.5, abs=1e-3)
    same = pushes.answer(smoke, MODEL, photo, kind, "teapot", step=found.scores["step"][0])
    assert same.scores["image_score"].tolist() == found.scores["image_score"].tolist()
    assert pushes.answer(smoke, MODEL, photo, kind, "teapot", target=0.0).scores["step"][0] == 0


def test_words_and_photos_are_those_of_the_two_places(smoke, plain, photo):
    found = pushes.answer(smoke, MODEL, photo, "prompt", "teapot", step=3.0)
    number = smoke.row(photo.name)
    delta = pushes.course(smoke, MODEL, photo, "prompt", "teapot").delta.numpy()[0]
    for state, f in (("before", plain.f[number]), ("after", plain.f[number] + 3 * delta)):
        z = torch.tensor(plain.translate([f], [number]))
        words = found.words[found.words["state"] == state]
        assert words["word"].tolist() == neighbours.words(smoke, z, 5)["word"].tolist()
        near = found.photos.loc[found.photos["state"] == state, "picture"]
        assert near.tolist() == neighbours.nearest(smoke, z, 4, photo.subject)["picture"].tolist()
    subject = smoke.pictures["subject"].iloc[smoke.rows(found.photos["picture"])]
    assert photo.subject not in set(subject)
    words = {state: set(part["word"]) for state, part in found.words.groupby("state")}
    assert set(found.words.query("gained")["word"]) == words["after"] - words["before"] != set()


@pytest.mark.parametrize("source", [0, 1])
def test_the_file_of_a_known_picture_gives_its_numbers(smoke, pictures, source):
    known = pushes.known(smoke, MODEL, pictures[source])
    own = pushes.uploaded(smoke, MODEL, smoke.picture_path(known.name).read_bytes(), "mine.jpg")
    assert (own.name, own.label, own.subject) == ("mine.jpg", "", None)
    assert (own.f - known.f).norm() < 1e-4 * known.f.norm()
    assert float(metrics.angle(own.z, known.z)) < 0.02
    assert own.image == known.image
    # No translator was fitted on a photograph: the same one reads it here.
    if source:
        wanted, found = (
            pushes.answer(smoke, MODEL, one, "remove", "", "teapot", step=1.0).scores
            for one in (known, own))
        for name in ("image_score", "attribute_score", "probability_after"):
            assert found[name].to_numpy() == pytest.approx(wanted[name].to_numpy(), abs=5e-3)


@pytest.mark.parametrize(("content", "said"), [
    (b"", "is empty"), (b"not a picture", "not a picture that can be read")])
def test_a_file_that_is_no_picture_is_refused(smoke, content, said):
    with pytest.raises(SingError, match=rf"holiday\.png.*{said}"):
        pushes.uploaded(smoke, MODEL, content, "holiday.png")


def test_what_is_computed_beforehand_are_the_answers(smoke, pictures):
    table = pushes.explored(smoke, MODEL, pictures, "teapot")
    assert len(table) == 2 * 4 * 13
    for _, row in table[table["step"] == 1.5].iterrows():
        one = pushes.known(smoke, MODEL, row["picture"])
        found = pushes.answer(smoke, MODEL, one, row["kind"], "teapot", step=1.5)
        for name in ("image_score", "attribute_score", "prompt_score"):
            assert row[name] == pytest.approx(found.scores[name][0], abs=1e-4)
        after = found.words.query("state == 'after'"), found.photos.query("state == 'after'")
        assert row["words"] == after[0]["word"].tolist()[:4]
        assert row["photos"] == after[1]["picture"].tolist()[:3]
        assert row["labels"] == after[1]["label"].tolist()[:3]
