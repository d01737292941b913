from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from miniatures import CLIP_MEAN, CLIP_STD, clip_config, small_open_clip
from PIL import Image
from torch import nn

from sing_nb.errors import SingError
from sing_nb.models.classifier import wrap_classifier
from sing_nb.models.joint import (
    ConseSpace,
    SentenceEncoder,
    fingerprint,
    joint_spaces,
    load_joint_space,
)
from sing_nb.pictures.images import open_picture, photos

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


def test_the_space_says_what_it_stands_for(tower):
    space = ConseSpace(tower, encoder, 3)
    assert (space.name, space.title) == ("conse", "ConSE over tiny")
    assert "stands in for CLIP" in space.about
    assert "tiny" in space.about


# --- open_clip ----------------------------------------------------------------------------------

WORDS = ["an image of a camel", "snow", "an image of a red car", "a kitchen", "two dogs"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    small_open_clip(folder)
    return folder


@pytest.fixture
def clip(clip_folder):
    return load_joint_space(f"open_clip/local-dir:{clip_folder}")


@pytest.fixture(scope="module")
def bare(clip_folder):
    """The same model without our loader: open_clip's class and the file's weights."""
    import open_clip

    model = open_clip.CLIP(**clip_config())
    model.load_state_dict(safetensors.torch.load_file(clip_folder / "open_clip_model.safetensors"))
    return model.eval().requires_grad_(False)


@pytest.fixture
def pixels():
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def test_texts_are_embedded_by_the_model_and_its_tokens(clip, bare):
    from open_clip.tokenizer import SimpleTokenizer

    raw = bare.encode_text(SimpleTokenizer(context_length=77)(WORDS)).numpy()
    found = clip.encode_text(WORDS)
    np.testing.assert_allclose(found, unit(raw), atol=1e-6)
    assert found.dtype == torch.float32
    assert found.shape == (5, clip.dimensions) == (5, 32)
    assert clip.encode_text([]).shape == (0, 32)


def test_pictures_are_embedded_at_their_length_or_at_one(clip, bare, pixels):
    raw = bare.encode_image(pixels).numpy()
    np.testing.assert_allclose(clip.encode_images(pixels, normalise=False), raw, rtol=1e-4)
    np.testing.assert_allclose(clip.encode_images(pixels), unit(raw), atol=1e-6)
    assert np.ptp(np.linalg.norm(raw, axis=1)) > 0.01  # lengths are something to keep


def test_pictures_are_transformed_as_the_checkpoint_says(clip):
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (32, 48, 3), dtype=np.uint8), "RGB"
    )
    middle = np.asarray(picture)[:, 8:40].transpose(2, 0, 1) / 255  # shorter side fits already
    expected = (middle - np.array(CLIP_MEAN)[:, None, None]) / np.array(CLIP_STD)[:, None, None]
    np.testing.assert_allclose(clip.transform(picture), expected, atol=1e-5)


def test_prompts_in_batches_are_the_same_prompts(clip, clip_folder, monkeypatch):
    whole = clip.encode_text(WORDS)
    monkeypatch.setattr("sing_nb.models.joint.TEXTS", 2)
    parts = load_joint_space(clip.name).encode_text([*WORDS, WORDS[0]])
    np.testing.assert_allclose(parts[:5], whole, atol=1e-6)
    assert torch.equal(parts[5], parts[0])


def test_texts_are_kept_on_disk_for_the_same_weights_only(clip_folder, tmp_path):
    def load(folder=clip_folder, **more):
        return load_joint_space(f"open_clip/local-dir:{folder}", cache=tmp_path / "texts", **more)

    first = load().encode_text(WORDS)
    files = sorted((tmp_path / "texts").rglob("*.safetensors"))
    assert len(files) == len(WORDS)
    again = load()
    assert again.key == files[0].parent.name
    again.module.token_embedding.weight.zero_()  # whatever it said now would be another thing
    assert torch.equal(again.encode_text(WORDS), first)
    # One file is cut short, one holds something else: both are made again.
    files[0].write_bytes(files[0].read_bytes()[:-20])
    files[1].write_bytes(safetensors.torch.save({"embedding": torch.ones(3)}))
    np.testing.assert_allclose(load().encode_text(WORDS), first, atol=1e-6)
    again = load()
    assert again.key
    again.module.token_embedding.weight.zero_()
    np.testing.assert_allclose(again.encode_text(WORDS), first, atol=1e-6)
    # Other weights and another precision have embeddings of their own.
    small_open_clip(tmp_path / "other", seed=1)
    other = load(tmp_path / "other").encode_text(WORDS)
    assert not torch.allclose(other, first, atol=0.1)
    load(precision="bfloat16").encode_text(WORDS[:1])
    assert len(list((tmp_path / "texts").iterdir())) == 3


def test_the_fingerprint_follows_every_weight():
    def build():
        return nn.Linear(2, 2, dtype=torch.bfloat16)

    torch.manual_seed(0)
    one = build()
    two = build()
    two.load_state_dict(one.state_dict())
    assert fingerprint({"a": one}) == fingerprint({"a": two}) != fingerprint({"b": one})
    two.bias.data[1] += 1
    assert fingerprint({"a": one}) != fingerprint({"a": two})


def test_half_precision_gives_nearly_the_same_embeddings(clip, pixels):
    low = load_joint_space(clip.name, precision="bfloat16")
    for found, exact in (
        (low.encode_images(pixels), clip.encode_images(pixels)),
        (low.encode_text(WORDS), clip.encode_text(WORDS)),
    ):
        assert found.dtype == torch.float32
        cosine = (found * exact).sum(1)
        assert 0.999 < cosine.min() < 1 - 1e-7
        np.testing.assert_allclose(found.norm(dim=1), 1, rtol=1e-5)


def test_a_weights_file_is_loaded_by_its_path(clip, clip_folder, pixels, tmp_path):
    import open_clip

    (tmp_path / "sing-small.json").write_text(json.dumps(clip_config()))
    open_clip.add_model_config(tmp_path / "sing-small.json")
    weights = clip_folder / "open_clip_model.safetensors"
    space = load_joint_space(f"open_clip/sing-small:{weights}")
    assert torch.equal(space.encode_images(pixels), clip.encode_images(pixels))
    assert space.title == "CLIP sing-small (open_clip_model.safetensors)"
    with pytest.raises(SingError, match=r"could not be read: .* a state dict of this arch"):
        load_joint_space(f"open_clip/ViT-B-32:{weights}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-L-14:openai", "QuickGELU .* Take open_clip/ViT-L-14-quickgelu:openai"),
        ("ViT-B-32-quickgelu:laion2b_s34b_b79k", r"no weights .* Its tags: openai"),
        ("ViTL-14:openai", "no model 'ViTL-14'; did you mean ViT-L-14"),
        ("EVA02-L-14:merged2b", "did you mean merged2b_s4b_b131k"),
        ("ViT-L-14:missing/weights.pt", "or give a weights file that exists"),
        ("ViT-L-14:{notes}", "no file of weights; expected one that ends in .safetensors"),
        ("local-dir:{folder}", "it has no open_clip_config.json"),
        ("local-dir:{empty}", "holds no weights; expected open_clip_model.safetensors"),
    ],
)
def test_what_cannot_be_right_is_refused_before_a_network_is_asked(
    name, message, tmp_path, monkeypatch
):
    def asked(*arguments, **keywords):
        pytest.fail("the hub was asked")

    monkeypatch.setattr("sing_nb.models.joint.from_hub", asked)
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "open_clip_config.json").write_text("{}")
    name = name.format(notes=tmp_path / "notes.txt", folder=tmp_path, empty=tmp_path / "empty")
    with pytest.raises(SingError, match=message):
        load_joint_space(f"open_clip/{name}")


def test_an_unknown_precision_is_refused(clip_folder):
    with pytest.raises(SingError, match="Unknown precision 'half'; expected one of float32"):
        load_joint_space(f"open_clip/local-dir:{clip_folder}", precision="half")


@pytest.mark.parametrize("texts", ["", ["snow", "  "]])
def test_open_clip_refuses_an_empty_prompt(clip, texts):
    with pytest.raises(SingError, match="prompt is empty"):
        clip.encode_text(texts)


def test_without_a_hub_one_message_says_what_was_wanted(monkeypatch, tmp_path, caplog, capfd):
    from huggingface_hub import constants

    monkeypatch.setattr("sing_nb.models.hub.hub_reachable", lambda url=None: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SingError, match=r"joint space open_clip/EVA02-L-14:merged2b_s4b_b131k"):
        load_joint_space("open_clip/EVA02-L-14:merged2b_s4b_b131k")
    assert not caplog.records
    assert "".join(capfd.readouterr()) == ""


def test_the_listed_spaces_are_open_clips(monkeypatch):
    import open_clip

    rows = joint_spaces()
    assert len(rows) >= 4
    for name, row in rows.items():
        assert {"title", "dimensions", "role", "note"} == set(row)
        if name != "conse":
            architecture, tag = name.removeprefix("open_clip/").split(":")
            assert (architecture, tag) in open_clip.list_pretrained()
            config = open_clip.get_model_config(architecture)
            assert config["embed_dim"] == row["dimensions"]


def test_a_text_reads_the_same_in_every_company():
    encoder = SentenceEncoder()
    texts = ["a dog", "an image of a dromedary at noon", "snow", "a violin on a chair"]
    whole = encoder(texts).float()
    alone = torch.cat([encoder([text]) for text in texts])
    assert torch.equal(whole, alone.float())


def test_sentences_are_kept_on_disk_to_the_bit(tmp_path):
    texts = ["a dog", "snow", "a dog"]
    first = SentenceEncoder(tmp_path)(texts)
    assert torch.equal(first.float(), SentenceEncoder()(texts).float())
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 2
    again = SentenceEncoder(tmp_path)
    assert torch.equal(again(texts), first)
    assert "_network" not in vars(again)  # all on disk: the model is not even loaded
    # One file is cut short, one holds something else: both are made again.
    files[0].write_bytes(files[0].read_bytes()[:-20])
    files[1].write_bytes(safetensors.torch.save({"embedding": torch.ones(3)}))
    assert torch.equal(SentenceEncoder(tmp_path)(texts).float(), first.float())
