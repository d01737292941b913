from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import timm
import torch
from torch import nn

import sing_nb
from sing_nb.errors import SingError
from sing_nb.heads import load_classifier, model_names, wrap_classifier
from sing_nb.images import open_picture, photos


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
    """Like a distilled DeiT: timm's get_classifier gives a tuple."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(12, 5), nn.Linear(12, 5)

    def get_classifier(self):
        return self.one, self.two


def test_two_heads_are_refused():
    with pytest.raises(SingError, match=r"no linear head found.*tuple"):
        wrap_classifier(TwoHeads())


def pooled_afterwards():
    # As in SqueezeNet: the 1 x 1 convolution reads every place, the mean comes last.
    return nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


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
        pooled_afterwards,
        UnusedHead,
    ],
    ids=["softmax", "clipped", "pooled-afterwards", "unused"],
)
def test_a_head_that_is_not_the_last_step_is_refused(make):
    classifier = wrap_classifier(seeded(make), name="odd")
    with pytest.raises(SingError, match=r"odd"):
        classifier.run(batch())


def test_class_names_must_match_the_logits():
    with pytest.raises(SingError, match="4 class names for 5 logits"):
        wrap_classifier(mlp(), class_names=list("abcd"))
    assert wrap_classifier(mlp(), class_names=tuple("abcde")).class_names == list("abcde")


def test_unknown_names_get_a_suggestion():
    with pytest.raises(SingError, match="did you mean 'lite0'"):
        load_classifier("lite00")
    with pytest.raises(SingError, match="wrap_classifier"):
        load_classifier("xyz")


@pytest.mark.parametrize("name", ["torchvision/resnet50:NONE", "torchvision/resnat50:DEFAULT"])
def test_unknown_torchvision_names_are_refused(name):
    with pytest.raises(SingError, match="no such model and weights"):
        load_classifier(name)


def test_every_row_of_models_yaml_is_well_formed():
    rows = model_names()
    assert {"lite0", "lite1", "lite2"} <= rows.keys()
    assert len({row["title"] for row in rows.values()}) == len(rows)
    for name, row in rows.items():
        assert row.keys() == {"timm", "weights", "title"}, name
        assert timm.is_model(row["timm"].split(".")[0]), name
        if row["weights"] != "hub":
            kind, package = row["weights"].split(":")
            assert kind == "package", name
            assert importlib.util.find_spec(package), name


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
