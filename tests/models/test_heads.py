"""Heads by hand, names, what libraries load, data/models.yaml, and the real weights of Lite0-2."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image
from timm.models import save_for_hf
from torch import nn

import sing_nb
from sing_nb.errors import SingError
from sing_nb.models import hub, load
from sing_nb.models.classifier import wrap_classifier
from sing_nb.models.load import load_classifier, model_names
from sing_nb.pictures.images import open_picture, photos


def seeded(make):
    torch.manual_seed(0)
    return make()


def batch(n=4, side=2):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


class TwoHeads(nn.Module):
    """Like a distilled DeiT: two tokens, two heads, averaged logits."""

    def __init__(self, classes=(5, 5), bias=True):
        super().__init__()
        self.one, self.two = (nn.Linear(6, c, bias=bias) for c in classes)

    def get_classifier(self):
        return self.one, self.two

    def forward(self, x):
        return (self.one(x.flatten(1)[:, :6]) + self.two(x.flatten(1)[:, 6:])) / 2


@pytest.mark.parametrize("bias", [True, False])
def test_two_averaged_heads_are_one_that_reads_both_features(bias):
    module, x = seeded(lambda: TwoHeads(bias=bias)), batch()
    classifier = wrap_classifier(module)
    features, logits = classifier.run(x)
    torch.testing.assert_close(features, x.flatten(1))
    one, two = module.one.weight.detach(), module.two.weight.detach()
    np.testing.assert_allclose(classifier.head.weight, np.hstack([one, two]) / 2)
    by_hand = features.numpy() @ np.hstack([one, two]).T / 2
    if bias:
        by_hand += (module.one.bias.detach() + module.two.bias.detach()).numpy() / 2
    else:
        assert classifier.head.bias is None
    np.testing.assert_allclose(logits, by_hand, atol=1e-6)
    # Two heads of five classes read twelve features: seven are left unread, not one of six.
    assert sing_nb.HeadSpaces.from_weight(classifier.head.weight).null_dim == 12 - 5


def test_two_heads_that_do_not_go_together_are_refused():
    with pytest.raises(SingError, match="different numbers of classes"):
        wrap_classifier(TwoHeads(classes=(5, 4)))


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lite00", "did you mean 'lite0'"),
        ("keras/vgg16", "timm/<architecture>:<file>"),
        ("timm/resnet500", "no model 'resnet500'; nearest: resnet50"),
        ("timm/resnet50.a1_in2k", "no such weights; nearest: resnet50.a1_in1k"),
        ("torchvision/resnat50:DEFAULT", "no model 'resnat50'; nearest: resnet50"),
        ("torchvision/resnet50:NONE", "there are IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
        ("torchvision/resnet50", "write torchvision/resnet50:IMAGENET1K_V2"),
        (None, "name is a text"),
        # Detectors are models of torchvision, too.
        ("torchvision/fasterrcnn_resnet50_fpn:DEFAULT", "no model")])
def test_wrong_names_are_told_before_any_download(name, told, no_hub):
    with pytest.raises(SingError, match=told):
        load_classifier(name)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("timm/vit_small_patch16_224.dino", "vit_small_patch16_224.augreg_in1k"),
        ("timm/vit_base_patch14_dinov2.lvd142m", "transformers/facebook/dinov2-large-imagenet1k"),
        ("timm/convnextv2_atto.fcmae", "convnextv2_atto.fcmae_ft_in1k")])
def test_backbones_without_a_head_name_variants_that_have_one(name, variant, no_hub):
    with pytest.raises(SingError, match="backbone without a head") as caught:
        load_classifier(name)
    assert variant in str(caught.value)


@pytest.fixture
def no_hub(monkeypatch):
    """The hub must not even be asked."""

    def asked(what, *args, **kwargs):
        raise AssertionError(f"the hub was asked for {what}")

    monkeypatch.setattr(load, "from_hub", asked)


@pytest.fixture
def unreachable(monkeypatch):
    """A hub that does not answer, known without waiting for it."""
    monkeypatch.setattr(hub, "hub_reachable", lambda url=None: False)


@pytest.mark.parametrize(
    "name", ["timm/test_vit.r160_in1k", "torchvision/squeezenet1_1:IMAGENET1K_V1",
             "transformers/nobody/no-such-model", "resnet50"])
def test_without_a_hub_the_message_says_what_works(name, unreachable, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    with pytest.raises(SingError, match="lite0, lite1 and lite2 need no hub") as caught:
        load_classifier(name)
    assert str(tmp_path) in str(caught.value)


# --- files and folders of libraries -------------------------------------------------------------


def test_a_model_in_timms_own_layout(tmp_path, no_hub):
    model = seeded(lambda: timm.create_model("test_vit", num_classes=3, img_size=32)).eval()
    save_for_hf(model, str(tmp_path / "mine"), model_config={"label_names": list("abc")})
    classifier = load_classifier(f"timm/local-dir:{tmp_path / 'mine'}")
    assert (classifier.title, classifier.class_names) == ("mine", list("abc"))
    x = batch(side=32)
    with torch.inference_mode():
        torch.testing.assert_close(classifier.run(x)[1], model(x))
    with pytest.raises(SingError, match=r"no image classifier.*config\.json"):
        load_classifier(f"timm/local-dir:{tmp_path}")


@pytest.fixture
def dinov2(tmp_path):
    """A small image classifier of transformers in a folder, without its preprocessor."""
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14,
        id2label=dict(enumerate("abcde")))
    model = seeded(lambda: transformers.Dinov2ForImageClassification(config)).eval()
    model.save_pretrained(tmp_path / "dino")
    return model, tmp_path / "dino"


def test_an_image_classifier_of_transformers(dinov2, no_hub):
    model, folder = dinov2
    with pytest.raises(SingError, match=r"no preprocessor_config\.json.*save_pretrained\('"):
        load_classifier(f"transformers/{folder}")
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}
    transformers.BitImageProcessor(**sizes).save_pretrained(folder)
    classifier = load_classifier(f"transformers/{folder}")
    assert classifier.class_names == list("abcde")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    x = classifier.transform(picture)[None]
    assert x.shape == (1, 3, 28, 28)
    with torch.inference_mode():
        tokens = model.dinov2(x).last_hidden_state
        torch.testing.assert_close(classifier.run(x)[1], model(x).logits)
    expected = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1)
    torch.testing.assert_close(classifier.features(x), expected)
    # Kept features depend on the processor's settings, which its description must hold.
    assert '"height": 28' in repr(classifier.transform)


def test_a_backbone_of_transformers_gets_no_random_head(dinov2, no_hub):
    model, folder = dinov2
    model.dinov2.save_pretrained(folder)
    transformers.BitImageProcessor().save_pretrained(folder)
    with pytest.raises(SingError, match=r"lacks classifier\.bias.*random numbers"):
        load_classifier(f"transformers/{folder}")
    (folder / "config.json").write_text("{}")
    with pytest.raises(SingError, match="no image classifier"):
        load_classifier(f"transformers/{folder}")


# --- code in weights is never run: one attack a loader ------------------------------------------


class Code:
    """Unpickled, it leaves a mark: a folder."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("name", [
    "timm/test_vit:{}/weights.pth", "timm/test_vit:{}/weights.safetensors",
    "torchvision/resnet18:{}/weights.ckpt", "kept:{}/weights.safetensors", "timm/local-dir:{}",
    "transformers/{}"])
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_weights_is_never_run(name, how, tmp_path):
    folder, mark = tmp_path / "net", tmp_path / "the code ran"
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=3)
    # For transformers both ways: a pickle of weights, and a module of the folder named as class.
    config.auto_map = {"AutoModelForImageClassification": "own.Own", "AutoConfig": "own.Config"}
    config.save_pretrained(folder)
    transformers.ConvNextImageProcessor().save_pretrained(folder)
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    if name.startswith("timm/local"):
        (folder / "config.json").write_text(json.dumps(
            {"architecture": "test_vit", "num_classes": 1000, "pretrained_cfg": {}}))
    for file in ("weights.pth", "weights.ckpt", "weights.safetensors", "pytorch_model.bin"):
        evil = {"state_dict": Code(mark)}
        if how == "torch":
            torch.save(evil, folder / file)
        else:
            (folder / file).write_bytes(pickle.dumps(evil))
    with pytest.raises(SingError):
        load_classifier(name.format(folder))
    assert not mark.exists()


# --- data/models.yaml ---------------------------------------------------------------------------


def architecture(row):
    """A row's model without weights, on no device."""
    with torch.device("meta"):
        if row["source"] == "timm":
            return timm.create_model(row["id"], pretrained=False)
        if row["source"] == "torchvision":
            return torchvision.models.get_model(row["id"], weights=None)
        # The published configuration of DINOv2-L, which lies on the hub.
        assert row["id"] == "facebook/dinov2-large-imagenet1k-1-layer"
        return transformers.Dinov2ForImageClassification(transformers.Dinov2Config(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, num_labels=1000))


@pytest.mark.parametrize("name", model_names())
def test_every_row_of_models_yaml_has_the_sizes_of_its_architecture(name):
    row = model_names()[name]
    classifier = wrap_classifier(architecture(row), name=name)
    assert tuple(classifier.head.weight.shape) == (row["classes"], row["features"])
    assert row["null_dim"] == max(0, row["features"] - row["classes"])


# --- real weights -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled():
    table = photos()
    return table, [open_picture(path).convert("RGB") for path in table["path"]]


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2"])
def test_real_weights_name_at_least_18_of_20_photos(name, labelled):
    table, pictures = labelled
    classifier = sing_nb.load_classifier(name)
    _, logits = classifier.run(torch.stack([classifier.transform(p) for p in pictures]))
    right = logits.argmax(1).numpy() == table["class_index"].to_numpy()
    assert right.sum() >= 18
    first = int(right.argmax())
    assert classifier.class_names[logits[first].argmax()] == table["label"][first]


def test_lite0_is_its_features_and_its_head(lite0, labelled):
    x = torch.stack([lite0.transform(picture) for picture in labelled[1][:2]])
    features, logits = lite0.run(x)
    with torch.inference_mode():
        own = lite0.module(x)
        pooled = lite0.module.forward_head(lite0.module.forward_features(x), pre_logits=True)
    torch.testing.assert_close(features, pooled)
    torch.testing.assert_close(logits, own)
    weight, bias = (part.double().numpy() for part in lite0.head)
    by_hand = features.double().numpy() @ weight.T + bias
    np.testing.assert_allclose(by_hand, own.numpy(), atol=1e-4)
    traced = lite0.traced(x)(x)
    assert (traced[0] - features).norm() / features.norm() < 1e-4
    torch.testing.assert_close(traced[1], logits, rtol=1e-3, atol=1e-3)
