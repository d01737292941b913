from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
import transformers
from PIL import Image
from timm.models import save_for_hf
from torch import nn

import sing_nb
from sing_nb.errors import SingError
from sing_nb.models import classifier
from sing_nb.models.classifier import load_classifier, model_names, wrap_classifier
from sing_nb.pictures.images import open_picture, photos


def seeded(make):
    torch.manual_seed(0)
    return make()


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5))


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 5, 1), nn.Flatten()
    )


def batch(n=4, side=2):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_features_are_what_enters_the_last_linear_layer():
    module, x = seeded(mlp).eval(), batch()
    classifier = wrap_classifier(module)
    torch.testing.assert_close(classifier.features(x), module[:-1](x))
    torch.testing.assert_close(classifier.logits(classifier.features(x)), module(x))
    assert classifier.head.weight.shape == (5, 8)
    np.testing.assert_array_equal(classifier.head.weight, module[-1].weight.detach())


def test_a_convolution_of_1_x_1_is_a_head():
    module, x = seeded(convolutional).eval(), batch(side=6)
    classifier = wrap_classifier(module)
    features, logits = classifier.run(x)
    torch.testing.assert_close(features, module[:3](x).flatten(1))
    torch.testing.assert_close(logits, module(x))
    torch.testing.assert_close(classifier.logits(features), logits)
    assert classifier.head.weight.shape == (5, 8)


def test_a_head_without_bias():
    module, x = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False))), batch()
    classifier = wrap_classifier(module)
    assert classifier.head.bias is None
    torch.testing.assert_close(classifier.logits(x.flatten(1)), module(x))


def test_a_wrapped_module_is_put_into_evaluation_mode():
    module = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 5)))
    classifier, x = wrap_classifier(module.train()), batch()
    assert torch.equal(classifier.features(x), classifier.features(x))
    assert torch.equal(classifier.features(x), x.flatten(1))


def test_traced_features_are_those_of_a_run():
    module, x = seeded(convolutional), batch(side=6)
    classifier = wrap_classifier(module)
    traced = classifier.traced(x)
    other = batch(n=7, side=6) + 1
    for found, expected in zip(traced(other), classifier.run(other)):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Flatten(), nn.ReLU()),
        timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0),
    ],
    ids=["plain", "timm"],
)
def test_a_module_without_head_is_refused(module):
    with pytest.raises(SingError, match="no linear head found"):
        wrap_classifier(module, name="backbone")


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


def test_two_heads_that_are_not_averaged_are_refused():
    class Summed(TwoHeads):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(SingError, match="not the last step"):
        wrap_classifier(seeded(Summed)).run(batch())
    with pytest.raises(SingError, match="different numbers of classes"):
        wrap_classifier(TwoHeads(classes=(5, 4)))


class UnusedHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(12, 5), nn.Linear(12, 5)

    def forward(self, x):
        return self.used(x.flatten(1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Softmax(dim=1)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Hardtanh(-0.1, 0.1)),
        UnusedHead,
    ],
    ids=["softmax", "clipped", "unused"],
)
def test_a_head_that_is_not_the_last_step_is_refused(make):
    classifier = wrap_classifier(seeded(make), name="odd")
    with pytest.raises(SingError, match=r"odd"):
        classifier.run(batch())


def test_class_names_must_match_the_logits():
    with pytest.raises(SingError, match="4 class names for 5 logits"):
        wrap_classifier(mlp(), class_names=list("abcd"))
    assert wrap_classifier(mlp(), class_names=tuple("abcde")).class_names == list("abcde")


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lite00", "did you mean 'lite0'"),
        ("resnet", "timm/<architecture>:<file>"),
        ("timm/", "Unknown classifier"),
        ("keras/vgg16", "Unknown classifier"),
        ("timm/resnet500", "no model 'resnet500'; nearest: resnet50"),
        ("timm/resnet50.a1_in2k", "no such weights of resnet50; nearest: resnet50.a1_in1k"),
        ("timm/resnet50d_gn", "no model 'resnet50d_gn'; nearest: resnet50_gn"),
        ("torchvision/resnat50:DEFAULT", "no model 'resnat50'; nearest: resnet50"),
        ("torchvision/resnet50:NONE", "there are IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"),
        ("torchvision/resnet50", "write torchvision/resnet50:IMAGENET1K_V2"),
        # Detectors are models of torchvision, too.
        ("torchvision/fasterrcnn_resnet50_fpn:DEFAULT", "no model"),
    ],
)
def test_wrong_names_are_told_before_any_download(name, told, no_hub):
    with pytest.raises(SingError, match=told):
        load_classifier(name)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("timm/vit_small_patch16_224.dino", "timm/vit_small_patch16_224.augreg_in1k"),
        ("timm/vit_base_patch14_dinov2.lvd142m", "transformers/facebook/dinov2-large-imagenet1k"),
        ("timm/convnextv2_atto.fcmae", "timm/convnextv2_atto.fcmae_ft_in1k"),
    ],
)
def test_backbones_without_a_head_name_variants_that_have_one(name, variant, no_hub):
    with pytest.raises(SingError, match="backbone without a head") as caught:
        load_classifier(name)
    assert variant in str(caught.value)
    for word in str(caught.value).replace(";", " ").replace(",", " ").split():
        if word.startswith("timm/") and word != name:
            assert timm.get_pretrained_cfg(word.removeprefix("timm/")).num_classes


@pytest.fixture
def no_hub(monkeypatch):
    """The hub must not even be asked."""

    def asked(what, *args, **kwargs):
        raise AssertionError(f"the hub was asked for {what}")

    monkeypatch.setattr(classifier, "from_hub", asked)


@pytest.fixture
def unreachable(monkeypatch):
    """A hub that does not answer, known without waiting for it."""
    from sing_nb.models import hub

    monkeypatch.setattr(hub, "hub_reachable", lambda url=None: False)


@pytest.mark.parametrize(
    "name", ["timm/test_vit.r160_in1k", "torchvision/squeezenet1_1:IMAGENET1K_V1",
             "transformers/nobody/no-such-model", "resnet50"],
)
def test_without_a_hub_the_message_says_what_works(name, unreachable, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    with pytest.raises(SingError, match="lite0, lite1 and lite2 need no hub") as caught:
        load_classifier(name)
    assert str(tmp_path) in str(caught.value)


# --- checkpoints of one's own -------------------------------------------------------------------


def saved(model, path):
    if path.suffix == ".safetensors":
        safetensors.torch.save_model(model, str(path))
    else:
        torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("library", "architecture", "file", "c", "m"),
    [
        ("timm", "test_resnet", "mine.safetensors", 7, 96),
        ("timm", "test_vit", "mine.pth", 1000, 64),
        ("timm", "deit_tiny_distilled_patch16_224", "mine.safetensors", 3, 2 * 192),
        ("torchvision", "mobilenet_v3_small", "mine.pth", 7, 1024),
        ("torchvision", "regnet_x_400mf", "mine.safetensors", 4, 400),  # not on torch's meta device
    ],
)
def test_a_checkpoint_of_ones_own(library, architecture, file, c, m, tmp_path, no_hub):
    make = timm.create_model if library == "timm" else torchvision.models.get_model
    model = seeded(lambda: make(architecture, num_classes=c)).eval()
    path = saved(model, tmp_path / file)
    classifier = load_classifier(f"{library}/{architecture}:{path}")
    assert classifier.head.weight.shape == (c, m)
    assert classifier.title == f"{architecture} (mine)"
    assert (classifier.class_names is None) == (c != 1000)
    # From a picture, through its own transform.
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8))
    x = classifier.transform(picture)[None]
    with torch.inference_mode():
        torch.testing.assert_close(classifier.run(x)[1], model(x))


def test_a_model_in_timms_own_layout(tmp_path, no_hub):
    model = seeded(lambda: timm.create_model("test_vit", num_classes=3, img_size=32)).eval()
    save_for_hf(model, str(tmp_path / "mine"), model_config={"label_names": list("abc")})
    classifier = load_classifier(f"timm/local-dir:{tmp_path / 'mine'}")
    assert (classifier.title, classifier.class_names) == ("mine", list("abc"))
    x = batch(side=32)
    with torch.inference_mode():
        torch.testing.assert_close(classifier.run(x)[1], model(x))
    with pytest.raises(SingError, match=r"expected a folder with config\.json"):
        load_classifier(f"timm/local-dir:{tmp_path}")


def test_a_checkpoint_in_half_precision_keeps_what_it_was_stored_in(tmp_path):
    model = seeded(lambda: timm.create_model("test_vit", num_classes=7)).half()
    deficient = model.head.weight.data.float()
    deficient[6] = deficient[:6].mean(0)  # rank 6, up to rounding
    model.head.weight.data = deficient.half()
    classifier = load_classifier(f"timm/test_vit:{saved(model, tmp_path / 'half.pth')}")
    assert (classifier.dtype, classifier.head.weight.dtype) == (torch.float32, torch.float16)
    assert np.linalg.matrix_rank(classifier.head.weight.double().numpy()) == 7
    assert sing_nb.HeadSpaces.from_weight(classifier.head.weight).rank == 6


def test_an_image_classifier_of_transformers(tmp_path, no_hub):
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14,
        id2label=dict(enumerate("abcde")),
    )
    model = seeded(lambda: transformers.Dinov2ForImageClassification(config)).eval()
    model.save_pretrained(tmp_path)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}
    transformers.BitImageProcessor(**sizes).save_pretrained(tmp_path)
    classifier = load_classifier(f"transformers/{tmp_path}")
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


def test_a_backbone_of_transformers_gets_no_random_head(tmp_path, no_hub):
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    transformers.BitImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(SingError, match=r"lacks classifier\.bias.*random numbers"):
        load_classifier(f"transformers/{tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SingError, match="not an image classifier"):
        load_classifier(f"transformers/{tmp_path}")


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code of a pickle ran')",)


def spoilt(how, path):
    model = seeded(lambda: timm.create_model("test_vit", num_classes=7))
    if how == "code":
        torch.save({"state_dict": Code()}, path)
    elif how == "no weights":
        path.write_bytes(b"not a checkpoint")
    elif how == "no head":
        torch.save({k: v for k, v in model.state_dict().items() if "head" not in k}, path)
    elif how == "shapes":
        torch.save({k: v[..., :-1] for k, v in model.state_dict().items()}, path)
    elif how == "other model":
        torch.save(timm.create_model("test_vit2", num_classes=7).state_dict(), path)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("missing", "there is no checkpoint"), ("code", "code in a pickle is never run"),
        ("no weights", "could not be read as weights"),
        ("no head", r"holds no head: head\.weight is missing"),
        ("shapes", "does not fit the architecture"),
        ("other model", "does not fit the architecture"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(how, told, tmp_path):
    path = tmp_path / "odd.pth"
    spoilt(how, path)
    with pytest.raises(SingError, match=told):
        load_classifier(f"timm/test_vit:{path}")


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
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, num_labels=1000,
        ))


@pytest.mark.parametrize("name", model_names())
def test_every_row_of_models_yaml_has_the_sizes_of_its_architecture(name):
    row = model_names()[name]
    classifier = wrap_classifier(architecture(row), name=name)
    assert tuple(classifier.head.weight.shape) == (row["classes"], row["features"])
    assert row["null_dim"] == max(0, row["features"] - row["classes"])


def test_every_row_of_models_yaml_is_well_formed():
    rows = model_names()
    needed = {"source", "id", "title", "features", "classes", "null_dim"}
    assert len({row["title"] for row in rows.values()}) == len(rows)
    for name, row in rows.items():
        assert needed <= row.keys() <= needed | {"weights", "paper", "translator", "note"}, name
        weights = row.get("weights", "")
        if row["source"] == "torchvision":
            assert weights in torchvision.models.get_model_weights(row["id"]).__members__, name
        elif weights:
            assert importlib.util.find_spec(weights.removeprefix("package:")), name
        elif row["source"] == "timm":
            config = timm.get_pretrained_cfg(row["id"])
            assert "." in row["id"], name
            assert config.has_weights, name
            assert config.num_classes == row["classes"], name


def test_models_yaml_holds_the_papers_models():
    rows = model_names()
    # One row a published translator: the thirteen of table 3. Where the paper's text names
    # another model than its authors' code there is a row more, and the note says so.
    published = [name for name, row in rows.items() if "translator" in row]
    assert len(published) == 13
    assert all("thirteen" in rows[name]["paper"] for name in published)
    five = [name for name in published if "five" in rows[name]["paper"]]
    assert five == ["resnet50-tv", "dinovit", "resnext101-wsl", "efficientnet-b0", "bit-resnet50"]
    others = [name for name, row in rows.items() if "paper" in row and name not in published]
    assert others == ["dinovit-tv", "efficientnet-b4", "swin-base"]
    assert all("note" in rows[name] for name in others)


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


def test_lite0_has_280_null_dimensions(lite0):
    spaces = sing_nb.HeadSpaces.from_weight(lite0.head.weight)
    assert (spaces.features, spaces.rank, spaces.null_dim) == (1280, 1000, 280)
    assert np.linalg.matrix_rank(lite0.head.weight.double().numpy()) == 1000


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
