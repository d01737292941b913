from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from sing_nb.errors import SingError
from sing_nb.heads import wrap_classifier
from sing_nb.images import open_picture, photos
from sing_nb.joint import ConseSpace, load_joint_space

NAMES = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen"]
PROMPTS = [f"an image of {'an' if name[0] in 'ae' else 'a'} {name}" for name in NAMES]


def encoder(texts):
    """Unit vectors that follow from the text and share a large common part, as sentences do."""
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in texts]
    rows = np.array([3 + np.random.default_rng(seed).standard_normal(16) for seed in seeds])
    return torch.tensor(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture
def tower():
    torch.manual_seed(0)
    return wrap_classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(12, len(NAMES))), class_names=NAMES, name="tiny"
    )


@pytest.fixture
def logits():
    return np.random.default_rng(1).standard_normal((6, len(NAMES))) * 3


def class_vectors():
    raw = encoder(PROMPTS).numpy()
    return unit(raw - raw.mean(0))


@pytest.mark.parametrize("top", [1, 3, 7])
def test_the_largest_logits_speak_by_what_they_exceed_the_next_one(tower, logits, top):
    expected = []
    for row in logits:
        order = np.argsort(row)[::-1]
        floor = row[order[top]]
        expected.append(sum((row[k] - floor) * class_vectors()[k] for k in order[:top]))
    found = ConseSpace(tower, encoder, top).encode_logits(torch.tensor(logits))
    np.testing.assert_allclose(found, unit(np.array(expected)), atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_temperature_weighs_all_classes_by_softmax(tower, logits, temperature):
    weights = np.exp(logits / temperature)
    weights /= weights.sum(1, keepdims=True)
    space = ConseSpace(tower, encoder, 3, temperature)
    found = space.encode_logits(torch.tensor(logits))
    np.testing.assert_allclose(found, unit(weights @ class_vectors()), atol=1e-6)


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_embeddings_have_unit_length(tower, logits, temperature):
    space = ConseSpace(tower, encoder, 3, temperature)
    pictures = space.encode_logits(torch.tensor(logits))
    texts = space.encode_text(["a red car", "snow"])
    for found in (pictures, texts):
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
        assert found.shape[1] == space.dimensions == 16


def test_texts_are_centred_by_the_mean_of_the_class_prompts(tower):
    space = ConseSpace(tower, encoder, 3)
    texts = ["a red car", "snow"]
    expected = unit(encoder(texts).numpy() - encoder(PROMPTS).numpy().mean(0))
    np.testing.assert_allclose(space.encode_text(texts), expected, atol=1e-12)
    # A class name as a text lies where the class lies.
    np.testing.assert_allclose(space.encode_text(PROMPTS), class_vectors(), atol=1e-12)


def test_pictures_are_embedded_by_the_towers_logits(tower):
    x = torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    space = ConseSpace(tower, encoder, 3)
    torch.testing.assert_close(space.encode_images(x), space.encode_logits(tower.module(x)))


def test_texts_asked_again_give_the_same_embeddings_in_any_order(tower):
    space = ConseSpace(tower, encoder, 3)
    first = space.encode_text(["snow", "sand", "snow"])
    again = space.encode_text(["sand", "rain", "snow"])
    assert torch.equal(first[0], first[2])
    assert torch.equal(again[[2, 0]], first[:2])
    fresh = ConseSpace(tower, encoder, 3).encode_text(["rain"])
    assert torch.equal(again[[1]], fresh)


def test_one_text_may_come_alone(tower):
    space = ConseSpace(tower, encoder, 3)
    assert torch.equal(space.encode_text("snow"), space.encode_text(["snow"]))


@pytest.mark.parametrize("texts", ["", ["snow", "  "]])
def test_an_empty_prompt_is_refused(tower, texts):
    with pytest.raises(SingError, match="prompt is empty"):
        ConseSpace(tower, encoder, 3).encode_text(texts)


def test_logits_of_another_tower_are_refused(tower):
    with pytest.raises(SingError, match=r"tiny has 8 logits; got \(2, 7\)"):
        ConseSpace(tower, encoder, 3).encode_logits(torch.ones(2, 7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "top must lie"), ((8,), "top must lie"), ((3, 0.0), "temperature must be above 0")],
)
def test_impossible_weightings_are_refused(tower, arguments, message):
    with pytest.raises(SingError, match=message):
        ConseSpace(tower, encoder, *arguments)


def test_a_tower_without_class_names_is_refused():
    nameless = wrap_classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 8)))
    with pytest.raises(SingError, match="no class names"):
        ConseSpace(nameless, encoder, 3)


@pytest.mark.parametrize("name", ["clip", "open_clip/ViT-B-32"])
def test_an_unknown_space_is_refused(name):
    with pytest.raises(SingError, match="expected 'conse' or"):
        load_joint_space(name)


def test_real_photos_lie_near_their_class_names(smoke):
    space, table = smoke.space, photos()
    pictures = [open_picture(path).convert("RGB") for path in table["path"]]
    z = space.encode_images(torch.stack([space.tower.transform(p) for p in pictures])).numpy()
    names = space.tower.class_names
    texts = [f"an image of {'an' if n[0].lower() in 'aeiou' else 'a'} {n}" for n in names]
    cosine = z @ space.encode_text(texts).numpy().T
    nearest = np.argsort(-cosine, axis=1)[:, :10]
    near = [truth in row for truth, row in zip(table["class_index"], nearest)]
    assert sum(near) >= 16
    # The words say what the picture shows beyond the list of classes, too.
    words = ["a wild animal", "a kitchen", "a beach"]
    text = space.encode_text([f"an image of {word}" for word in words]).numpy()
    animals = table["class_index"].to_numpy() < 398  # ImageNet counts its animals first
    assert ((z[animals] @ text.T).argmax(1) == 0).mean() > 0.8
