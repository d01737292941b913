"""Every form of head that researchers bring, small and with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn

from sing_nb.errors import SingError
from sing_nb.method.nullspace import HeadSpaces
from sing_nb.models.classifier import wrap_classifier

CLASSES = 7
tv = torchvision.models


def timm_model(name, **kwargs):
    return timm.create_model(name, pretrained=False, num_classes=CLASSES, **kwargs)


def bit():
    # The head of BiT is a 1 x 1 convolution behind a pooling.
    from timm.models.resnetv2 import ResNetV2

    return ResNetV2(layers=(1, 1, 1, 1), channels=(128,) * 4, stem_chs=32, num_classes=CLASSES)


def narrow_vgg(make, first):
    """A VGG of few channels; its first large layer is never allocated."""
    with torch.device("meta"):
        model = make()
    parent, name, layer = first(model)
    setattr(parent, name, layer)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        std = 1 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.data.normal_(0, std, generator=generator)
    return model


def torchvision_vgg():
    features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    return narrow_vgg(
        lambda: tv.VGG(features, num_classes=CLASSES, init_weights=False),
        lambda model: (model.classifier, "0", nn.Linear(4 * 7 * 7, 4096)),
    )


def timm_vgg():
    from timm.models.vgg import VGG

    return narrow_vgg(
        lambda: VGG(cfg=(4, "M", 8), num_classes=CLASSES),
        lambda model: (model.pre_logits, "fc1", nn.Conv2d(8, 4096, 7)),
    )


def dinov2():
    # The paper's kind: [class token; mean patch token], so 32 features from 16 channels.
    return transformers.Dinov2ForImageClassification(transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14,
        num_labels=CLASSES,
    ))


def small(kind, **kwargs):
    return kind(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=16, num_labels=CLASSES, **kwargs,
    )


class MeanOfTokens(nn.Module):
    """A head on every token, averaged afterwards: the same as the head on the mean token."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.embed(x).flatten(2).transpose(1, 2)).mean(1)


# name: (how it is built, side of a picture, width m)
FORMS = {
    "timm-resnet": (lambda: timm_model("test_resnet"), 64, 96),
    "timm-resnext": (
        lambda: timm_model("resnext50_32x4d", layers=(1, 1, 1, 1), cardinality=2), 32, 2048),
    "timm-bit": (bit, 64, 128),
    "timm-densenet": (
        lambda: timm_model("densenet121", block_config=(2, 2), growth_rate=8), 64, 32),
    "timm-vgg": (timm_vgg, 32, 4096),
    "timm-mobilenetv3": (lambda: timm_model("mobilenetv3_small_050"), 32, 1024),
    "timm-efficientnet": (lambda: timm_model("test_efficientnet"), 64, 256),
    "timm-nfnet": (lambda: timm_model("test_nfnet"), 64, 192),
    "timm-convnext": (lambda: timm_model("test_convnext"), 64, 64),
    "timm-coatnet": (lambda: timm_model("test_coatnet"), 160, 128),
    "timm-swin": (
        lambda: timm_model("swin_tiny_patch4_window7_224", img_size=56, depths=(1, 1),
                           num_heads=(2, 4), embed_dim=16), 56, 32),
    "timm-vit": (lambda: timm_model("test_vit", img_size=32), 32, 64),
    "timm-vit-mean-token": (
        lambda: timm_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=48,
                           global_pool="avg"), 32, 48),
    "timm-deit-distilled": (
        lambda: timm_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1,
                           embed_dim=48), 32, 2 * 48),
    "timm-levit": (
        lambda: timm_model("levit_128s", img_size=64, depth=(1, 1, 1), embed_dim=(32, 32, 48),
                           num_heads=(2, 2, 3), key_dim=8), 64, 2 * 48),
    "timm-repvit": (lambda: timm_model("repvit_m0_9", embed_dim=(8, 16), depth=(1, 1)), 64, 2 * 16),
    "timm-crossvit": (lambda: timm_model("crossvit_tiny_240"), 240, 96 + 192),
    "timm-deit3": (
        lambda: timm_model("deit3_small_patch16_224", img_size=32, depth=1, embed_dim=48,
                           init_values=1.0), 32, 48),
    "timm-eva02": (
        lambda: timm_model("eva02_tiny_patch14_224", img_size=28, depth=1, embed_dim=48,
                           num_heads=2), 28, 48),
    "timm-beit": (
        lambda: timm_model("beit_base_patch16_224", img_size=32, depth=1, embed_dim=48,
                           num_heads=2), 32, 48),
    "torchvision-vit": (
        lambda: tv.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=CLASSES), 32, 16),
    "torchvision-vgg": (torchvision_vgg, 32, 4096),
    "torchvision-densenet": (lambda: tv.DenseNet(8, (2, 2), 16, num_classes=CLASSES), 64, 32),
    "torchvision-mobilenetv3": (lambda: tv.mobilenet_v3_small(num_classes=CLASSES), 32, 1024),
    "torchvision-swin": (
        lambda: tv.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [7, 7], num_classes=CLASSES),
        56, 32),
    "torchvision-convnext": (
        lambda: tv.ConvNeXt([tv.convnext.CNBlockConfig(16, None, 2)], num_classes=CLASSES),
        32, 16),
    "transformers-dinov2": (dinov2, 28, 32),
    "transformers-vit": (
        lambda: transformers.ViTForImageClassification(small(transformers.ViTConfig)), 32, 16),
    "transformers-deit-distilled": (
        lambda: transformers.DeiTForImageClassificationWithTeacher(
            small(transformers.DeiTConfig)), 32, 2 * 16),
    "sequential": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.GELU(),
                              nn.Linear(20, CLASSES)), 8, 20),
    "convolution-averaged-afterwards": (
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, CLASSES, 1),
                              nn.AdaptiveAvgPool2d(1), nn.Flatten()), 8, 16),
    "token-heads-averaged-afterwards": (MeanOfTokens, 32, 16),
}


def classifier_of(form):
    torch.manual_seed(0)
    make, side, _ = FORMS[form]
    module, x = make(), torch.randn(3, 3, side, side)
    # Untrained batch norms do not normalise and many libraries start heads near zero: logits
    # would be biases, and every test would pass.
    for name, parameter in module.named_parameters():
        if name.endswith("cls_token"):
            nn.init.normal_(parameter)
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            module.train()(x)
    clf = wrap_classifier(module, name=form)
    for layer in clf.layers:
        nn.init.normal_(layer.weight, std=0.3)
        nn.init.normal_(layer.bias, std=0.1)
    return wrap_classifier(clf.module, name=form), x


def own_logits(clf, x):
    with torch.no_grad():
        output = clf.module(x)
    return getattr(output, "logits", output)


def with_features(clf, x, f):
    """What the model itself gives when these features enter its head, or heads."""
    parts = f.split([layer.weight.shape[1] for layer in clf.layers], dim=1)
    hooks = [
        layer.register_forward_pre_hook(
            # Where the head reads many positions, all of them get the same features.
            lambda layer, args, part=part: (
                part[:, :, None, None].expand_as(args[0])
                if isinstance(layer, nn.Conv2d) and args[0].ndim == 4
                else part.reshape(len(part), *[1] * (args[0].ndim - 2), -1).expand_as(args[0]),
            )
        )
        for layer, part in zip(clf.layers, parts)
    ]
    try:
        return own_logits(clf, x)
    finally:
        for hook in hooks:
            hook.remove()


def apart(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("form", FORMS)
def test_features_and_head_are_the_models_own(form):
    clf, x = classifier_of(form)
    features, logits = clf.run(x)
    own = own_logits(clf, x)
    assert features.shape == (3, FORMS[form][2])
    assert clf.head.weight.shape == (CLASSES, FORMS[form][2])
    assert apart(clf.logits(features), own) < 1e-4
    torch.testing.assert_close(logits, own)
    # Pictures differ in their features, or the next lines would say little.
    assert apart(features[:1], features[1:2]) > 1e-4

    spaces = HeadSpaces.from_weight(clf.head.weight)
    assert spaces.null_dim == FORMS[form][2] - CLASSES
    equivalent = spaces.remove_null(features)
    assert apart(equivalent, features) > 1e-2
    assert apart(clf.logits(equivalent), own) < 1e-4
    assert apart(with_features(clf, x, equivalent), own) < 1e-4
    # The control: without the principal part they are the biases.
    assert apart(with_features(clf, x, spaces.null(features)), own) > 0.1


@pytest.mark.parametrize(
    "form", ["timm-resnet", "timm-deit-distilled", "torchvision-vit", "transformers-dinov2",
             "convolution-averaged-afterwards"],
)
def test_frozen_models_give_the_same(form):
    clf, x = classifier_of(form)
    run = clf.traced(x)
    for batch in (x, x[:2] * 0.5):
        for found, expected in zip(run(batch), clf.run(batch), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


# Of the logits' length; a step of the dtype is 1e-3 (float16) and 8e-3 (bfloat16).
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 4e-3), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize(
    "form", ["timm-bit", "timm-vit", "timm-deit-distilled", "transformers-dinov2", "sequential"]
)
def test_half_precision(form, dtype, tolerance):
    clf, x = classifier_of(form)
    half = wrap_classifier(clf.module.to(dtype), name=form)
    assert half.dtype == half.head.weight.dtype == dtype
    features, logits = half.run(x)  # float32 pictures are cast
    assert features.dtype == logits.dtype == torch.float32
    own = own_logits(half, x.to(dtype))
    assert torch.equal(logits, own.float())  # widened, not computed otherwise
    assert apart(half.logits(features), own.float()) < tolerance
    spaces = HeadSpaces.from_weight(half.head.weight)
    assert spaces.null_dim == FORMS[form][2] - CLASSES
    equivalent = spaces.remove_null(features)
    assert apart(half.logits(equivalent), half.logits(features)) < 1e-4


# --- refused, with the reason -------------------------------------------------------------------


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(x.flatten(1)) + self.head(x.flatten(1).flip(1))


class EachToken(nn.Module):
    """The head reads every token and the class token's logits are picked afterwards."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        return self.head(x.flatten(2).transpose(1, 2))[:, 0]


class TokensInTheBatch(EachToken):
    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2).reshape(-1, 3)
        return self.head(tokens).reshape(len(x), -1, 5)[:, 0]


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(x.flatten(1)), x


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Twice, r"reads \[\(4, 12\), \(4, 12\)\]"),
        (EachToken, "nor its mean over positions or tokens"),
        (TokensInTheBatch, r"of 4 pictures it reads \[\(16, 3\)\]"),
        (Pair, "returns tuple"),
        # SqueezeNet clips between the head and the mean.
        (lambda: nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                               nn.Flatten()), "nor its mean over positions or tokens"),
    ],
    ids=["twice", "each-token", "tokens-in-the-batch", "pair", "clipped-between"],
)
def test_heads_without_one_feature_a_picture_are_refused(make, reason):
    torch.manual_seed(0)
    clf = wrap_classifier(make(), name="odd")
    with pytest.raises(SingError, match=reason):
        clf.run(torch.randn(4, 3, 2, 2))


class Late(nn.Module):
    """Registers an auxiliary layer after its head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        self.probe = nn.Linear(12, 5)

    def forward(self, x):
        return self.body(x)


def test_an_auxiliary_layer_defined_last_is_told_from_the_head_which_is_named():
    x, module = torch.randn(2, 3, 2, 2), Late()
    with pytest.raises(SingError, match=r"not used.* made by body\.1 \(5, 12\).*head='body\.1'"):
        wrap_classifier(module).run(x)
    for head in ("body.1", module.body[1]):
        clf = wrap_classifier(module, head=head)
        torch.testing.assert_close(clf.features(x), x.flatten(1))
    for head in ("body.2", "body", nn.Linear(12, 5)):
        with pytest.raises(SingError, match=r"is no linear layer.*body\.1, probe"):
            wrap_classifier(module, head=head)


# --- one logit, and steps behind the head -------------------------------------------------------


class Ends(nn.Module):
    """Twelve features and a head, with a step behind it."""

    def __init__(self, classes, step):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.step = nn.Linear(12, classes), step
        nn.init.normal_(self.head.weight)

    def forward(self, x):
        return self.step(self.head(x.flatten(1)))


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize("step", [nn.Identity(), nn.Sigmoid()], ids=["logit", "probability"])
@pytest.mark.parametrize("n", [1, 5])
def test_one_logit_is_two_classes_by_its_sign(step, squeeze, n):
    module = Ends(1, nn.Sequential(step, nn.Flatten(0)) if squeeze else step)
    clf = wrap_classifier(module, name="binary")
    assert clf.class_names == ["negative", "positive"]
    assert "one logit" in clf.notes[0]
    x = 3 * torch.randn(n, 3, 2, 2)
    features, logits = clf.run(x)
    w, b = module.head.weight[0].double().numpy(), float(module.head.bias)
    z = features.double().numpy() @ w + b
    assert clf.head.weight.shape == (2, 12)
    np.testing.assert_array_equal(logits.argmax(1).numpy(), z > 0)
    np.testing.assert_allclose(logits.softmax(1)[:, 1], 1 / (1 + np.exp(-z)), rtol=1e-4)
    torch.testing.assert_close(clf.logits(features), logits)
    spaces = HeadSpaces.from_weight(clf.head.weight)
    assert (spaces.rank, spaces.null_dim) == (1, 11)
    frozen = clf.traced(x)(x)
    torch.testing.assert_close(frozen[1], logits, rtol=1e-4, atol=1e-5)


STEPS = {
    "softmax": (lambda z: z.softmax(1), 1), "log-softmax": (lambda z: z.log_softmax(1), 1),
    "temperature": (lambda z: z / 2.5, 0.4),
    "softmax of a temperature": (lambda z: (z / 0.5).softmax(1), 2),
    "sharp softmax": (lambda z: (9 * z).softmax(1), 9),
    "sigmoid": (torch.sigmoid, 1), "sum of two": (lambda z: z + z, 2),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_keeps_the_order_of_the_classes_is_recognised(step):
    function, scale = STEPS[step]
    module = Ends(4, function)
    clf, x = wrap_classifier(module, name="ends"), torch.randn(6, 3, 2, 2)
    features, logits = clf.run(x)
    np.testing.assert_array_equal(features, x.flatten(1))
    expected = scale * module.head(x.flatten(1))
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(clf.head.weight, scale * module.head.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(clf.logits(features), logits, rtol=1e-4, atol=1e-4)
    if "softmax" in step:  # then the probabilities are the model's own
        own = module(x).exp() if step == "log-softmax" else module(x)
        torch.testing.assert_close(logits.softmax(1), own, rtol=1e-3, atol=1e-5)
    notes = list(clf.notes)
    assert len(notes) == ("softmax" in step or step == "sigmoid") + (scale != 1)
    clf.run(x[:, :, :1].repeat(1, 1, 2, 1))
    clf.to(torch.float64).run(x)  # checked anew, and nothing is counted twice
    assert clf.notes == notes


@pytest.mark.parametrize("step", [
    lambda z: -z, torch.relu, lambda z: z.clamp(-0.1, 0.1), lambda z: z**3,
    lambda z: z - z.mean(0), lambda z: z.flip(1), lambda z: z.softmax(0),
], ids=["negative", "relu", "clipped", "cube", "batch", "turned", "softmax over pictures"])
def test_other_steps_are_refused(step):
    with pytest.raises(SingError, match="is not the output"):
        wrap_classifier(Ends(4, step)).run(torch.randn(6, 3, 2, 2))
