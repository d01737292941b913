"""A reader's own classifiers: code by its name, checkpoints, other heads, heads that are kept."""

from __future__ import annotations

import argparse
import sys

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

from sing_nb.book.chapters import resolve
from sing_nb.errors import SingError
from sing_nb.models.classifier import wrap_classifier
from sing_nb.models.lazy import LazyClassifier, keep_classifier, with_head
from sing_nb.models.load import load_classifier, resolve_name
from sing_nb.models.own import as_classifier
from sing_nb.pictures.cache import keep
from sing_nb.pictures.features import feature_key

# What a newcomer writes.
TEN_LINES = """import torchvision
from torch import nn


def classifier():
    model = torchvision.models.resnet18(weights=None)
    model.fc = nn.Linear(512, 3)
    model.class_names = ["cat", "dog", "fish"]
    return model
"""


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """A cache and a working folder of its own."""
    monkeypatch.setenv("SING_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def seeded(make, seed=0):
    torch.manual_seed(seed)
    return make().eval()


def pictures(n=3, side=64, seed=1):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def tiny(classes=5):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(8, classes))


# --- code by its name ---------------------------------------------------------------------------


def test_ten_lines_of_a_newcomer(tmp_path):
    (tmp_path / "mine.py").write_text(TEN_LINES)
    clf = load_classifier("mine.py:classifier")
    assert clf.head.weight.shape == (3, 512)
    assert clf.class_names == ["cat", "dog", "fish"]
    assert clf.title == "classifier (mine.py)"
    (note,) = clf.notes
    assert note.startswith("It came without a transform")
    # The usual transform, by an independent account of it.
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (300, 400, 3), np.uint8))
    x = clf.transform(picture)
    small = picture.resize((341, 256), Image.BILINEAR).crop((58, 16, 282, 240))
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected = (np.asarray(small) / 255 - mean) / deviation
    np.testing.assert_allclose(x.permute(1, 2, 0), expected, atol=0.05)
    features, logits = clf.run(x[None])
    weight, bias = (part.double().numpy() for part in clf.head)
    np.testing.assert_allclose(logits, features.double().numpy() @ weight.T + bias, atol=1e-4)
    # As a module of the working folder, and from any other folder.
    for name in ("mine:classifier", resolve_name("mine:classifier")):
        again = load_classifier(name)
        assert torch.equal(again.head.weight, clf.head.weight)  # random, and the same
    assert resolve_name("mine:classifier") == f"{tmp_path / 'mine.py'}:classifier"


RETURNS = {
    "tuple": "return net(), shrink",
    "triple": "return net(), shrink, list('abcde')",
    "mapping": "return {'module': net(), 'transform': shrink, 'class_names': list('abcde')}",
    "classifier": (
        "return sing_nb.wrap_classifier(net(), transform=shrink, class_names=list('abcde'))"),
    "attributes": "m = net(); m.transform, m.class_names = shrink, list('abcde'); return m"}


@pytest.mark.parametrize("how", RETURNS)
def test_what_a_factory_may_return(how, tmp_path):
    (tmp_path / "code.py").write_text(
        "import numpy, sing_nb, torch\nfrom torch import nn\n"
        "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))\n"
        "def shrink(picture):\n"
        "    small = numpy.asarray(picture.resize((2, 2)), dtype='float32')\n"
        "    return torch.tensor(small).permute(2, 0, 1)\n"
        f"def make():\n    {RETURNS[how]}\n")
    clf = load_classifier(f"{tmp_path}/code.py:make")
    assert clf.class_names == list("abcde" if how != "tuple" else "01234")
    x = clf.transform(Image.new("RGB", (9, 9), (10, 20, 30)))
    assert x.shape == (3, 2, 2)
    assert x[:, 0, 0].tolist() == [10, 20, 30]
    assert len(clf.notes) == (how == "tuple")
    assert clf.run(pictures(side=2))[1].shape == (3, 5)
    assert clf.name == f"{tmp_path}/code.py:make"


def test_siblings_are_read_anew_and_two_files_of_one_stem_do_not_collide(tmp_path):
    for folder, classes in (("one", 3), ("two", 4)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sizes.py").write_text(f"CLASSES = {classes}\n")
        (tmp_path / folder / "model.py").write_text(
            "import torchvision\nfrom sizes import CLASSES\n"
            "def make():\n    import sizes\n"
            "    assert sizes.CLASSES == CLASSES\n"
            "    return torchvision.models.resnet18(num_classes=CLASSES)\n")
    before = list(sys.path)
    found = [load_classifier(f"{folder}/model.py:make") for folder in ("one", "two", "one")]
    assert [len(clf.head.weight) for clf in found] == [3, 4, 3]
    (tmp_path / "one" / "sizes.py").write_text("CLASSES = 11\n")
    assert len(load_classifier("one/model.py:make").head.weight) == 11
    assert sys.path == before


def test_features_depend_on_the_code_and_on_what_it_imports(tmp_path):
    (tmp_path / "helper8a.py").write_text("SLOPE = 0.1\n")
    (tmp_path / "own.py").write_text(
        "from torch import nn\nfrom helper8a import SLOPE\ndef make():\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LeakyReLU(SLOPE),"
        " nn.Linear(12, 3))\n")
    table = pd.DataFrame({"picture": ["a", "b"]})

    def key():
        return feature_key(load_classifier("own:make"), table)

    first = key()
    assert key() == first
    (tmp_path / "helper8a.py").write_text("SLOPE = 0.2\n")  # the same weights
    second = key()
    assert second != first
    (tmp_path / "stranger.py").write_text("x = 1\n")
    assert key() == second


BAD = {
    "import numpyy": r"failed \(.*odd\.py, line 1\).*No module named 'numpyy'",
    "def make(:": "failed: SyntaxError.*odd.py, line 1",
    "def make():\n    return open('gone.pth')": (
        r"failed \(.*odd\.py, line 2\): FileNotFoundError.*gone\.pth"),
    "def make():\n    raise SystemExit(2)": r"line 2\): SystemExit: 2",
    "def make(path, size=3):\n    pass": "missing 1 required positional argument: 'path'.*without",
    "def make():\n    return {'fc.weight': __import__('torch').zeros(2)}": "gives dict; expected",
    "from torch import nn\ndef make():\n    return nn.Linear": "gives the class Linear",
    "from torch import nn\ndef make():\n    return nn.ReLU()": "no linear head found",
    "from torch import nn\ndef make():\n    return nn.Linear(2, 3), 5": "its transform fails",
    "from torch import nn\ndef make():\n    return nn.Linear(2, 3), None, ['a', 'b']": (
        "2 class names for 3 logits"),
    "from torch import nn\ndef make():\n    return nn.Linear(2, 3)": (
        r"fails on a batch of 2 pictures \(3, 224, 224\)"),  # before any picture is drawn
    "def build():\n    pass": "has no attribute 'make'"}


@pytest.mark.parametrize("code", BAD)
def test_what_is_wrong_with_code_is_told_with_its_place(code, tmp_path):
    (tmp_path / "odd.py").write_text(code)
    with pytest.raises(SingError, match=BAD[code]) as caught:
        load_classifier("odd.py:make")
    assert str(caught.value).startswith("odd.py:make")


def test_an_auxiliary_layer_is_named_as_soon_as_code_is_loaded_and_its_way_works(tmp_path):
    lines = (
        "import sing_nb\nfrom torch import nn\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())\n"
        "        self.head, self.aux = nn.Linear(12, 5), nn.Linear(12, 7)\n"
        "    def forward(self, x):\n        return self.head(self.pool(x))\n"
        "def make():\n    return {}\n")
    (tmp_path / "net.py").write_text(lines.format("Net()"))
    with pytest.raises(SingError, match=r"sing\.wrap_classifier\(module, head='head'\)"):
        load_classifier("net.py:make")
    (tmp_path / "net.py").write_text(lines.format("sing_nb.wrap_classifier(Net(), head='head')"))
    assert load_classifier("net.py:make").head.weight.shape == (5, 12)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mone.py:classifier", r"no file .*mone\.py"),
        ("mone:classifier", "Unknown classifier 'mone:classifier'"),
        ("resnet50:IMAGENET1K_V2", "did you mean torchvision/resnet50:IMAGENET1K_V2"),
        ("mine.py", r"did you mean mine\.py:<factory>"),
        ("weights.ckpt", r"timm/<architecture>:weights\.ckpt or torchvision/<archit"),
        (".", "did you mean transformers/"),
        ("resnet18", "did you mean torchvision/resnet18:DEFAULT"),
        ("kept:gone.safetensors", r"gone\.safetensors is missing, damaged"),
        ("model.onnx", r"\.onnx file.*What works.*mine\.py:build"),
        ("timm/resnet18:model.h5", r"\.h5 file.*What works"),
        ("torchscript:a.pt", r"torchscript file.*load\(file\)\.state_dict\(\)"),
        ("../secret\n:x", "Unknown classifier"),
        ("", "Unknown classifier ''")])
def test_names_that_mean_nothing_name_what_is_near(name, told, tmp_path):
    (tmp_path / "mine.py").write_text(TEN_LINES)
    (tmp_path / "weights.ckpt").write_bytes(b"x")
    with pytest.raises(SingError, match=told):
        load_classifier(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lite0", "lite0"), ("timm/resnet50.a1_in1k", None), ("nonsense", None),
        ("torchvision/vgg16:IMAGENET1K_V1", None), ("transformers/facebook/dinov2", None),
        ("timm/hf-hub:some/where", None), ("torchvision.models:resnet18", None),
        ("timm/resnet18:a.ckpt", "timm/resnet18:{}/a.ckpt"),
        ("torchvision/resnet18:w/a.pth.tar", "torchvision/resnet18:{}/w/a.pth.tar"),
        ("timm/resnet18:/w/a.pth", None), ("timm/local-dir:mine", "timm/local-dir:{}/mine"),
        ("transformers/folder", "transformers/{}/folder"), ("kept:k/x", "kept:{}/k/x"),
        ("a.py:make", "{}/a.py:make"), ("there:make", "{}/there.py:make"),
        ("gone:make", None), ("/x/a.py:make", None)])
def test_names_for_a_process_in_another_folder(name, expected, tmp_path):
    home = tmp_path / "home"
    (home / "folder").mkdir(parents=True)
    (home / "there.py").write_text("")
    assert resolve_name(name, home) == (expected or name).format(home)
    assert resolve_name(resolve_name(name, home), tmp_path) == resolve_name(name, home)


def test_files_in_the_settings_of_a_run_are_made_absolute_before_chapters_run(tmp_path):
    _, overrides, _ = resolve("smoke", ["models=[timm/resnet18:c/a.ckpt,lite0]"], [])
    assert overrides["models"] == [f"timm/resnet18:{tmp_path}/c/a.ckpt", "lite0"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 3)

    def forward(self, x):
        return self.last(nn.functional.relu(x.mean((2, 3))))


def edited(self, x):
    return self.last(nn.functional.gelu(x.mean((2, 3))))


class Halved:
    """A transform whose description is Python's own."""

    def __init__(self, size):
        self.size = size

    def __call__(self, picture):
        pixels = np.asarray(picture.resize((self.size, self.size)), np.float32)
        return torch.tensor(pixels).permute(2, 0, 1) / 2


def test_features_depend_on_what_a_network_of_ones_own_does(monkeypatch):
    table = pd.DataFrame({"picture": ["a"]})
    plain, again = (as_classifier(seeded(Net), "net", transform=Halved(2)) for _ in range(2))
    assert feature_key(plain, table) == feature_key(again, table)
    with monkeypatch.context() as patch:
        patch.setattr(Net, "forward", edited)  # as when a notebook's cell is run again
        other = as_classifier(seeded(Net), "net", transform=Halved(2))
    assert feature_key(plain, table) != feature_key(other, table)  # the same weights
    larger = as_classifier(seeded(Net), "net", transform=Halved(3))
    assert feature_key(plain, table) != feature_key(larger, table)
    picture = Image.new("RGB", (9, 9), (10, 20, 30))
    assert plain.transform(picture)[:, 0, 0].tolist() == [5, 10, 15]
    # A network whose every class is installed needs no such mark.
    halved = Halved(9)
    assert as_classifier(tiny(), "x", transform=halved).transform is halved


# --- checkpoints --------------------------------------------------------------------------------


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def shifted(state):
    return {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}


CHECKPOINTS = {  # what is written; what the notes say was taken and what was left
    "plain": (lambda s: s, ()),
    "state_dict": (lambda s: {"state_dict": s, "epoch": 3}, ()),
    "net": (lambda s: {"net": s, "optimizer": {"lr": 0.1}}, ()),
    "parallel": (lambda s: prefixed(s, "module."), ()),
    "compiled": (lambda s: prefixed(s, "_orig_mod."), ()),
    "lightning": (lambda s: {"state_dict": prefixed(s, "model."), "hyper_parameters": {}}, ()),
    "weighted loss": (
        lambda s: {"state_dict": prefixed(s, "model.") | {"criterion.weight": torch.ones(7)}},
        ("state_dict/model.* were taken", "state_dict/criterion*")),
    "average": (
        lambda s: {"state_dict": prefixed(s, "ema_model.") | prefixed(shifted(s), "model.")},
        ("state_dict/ema_model.* were taken", "left out: state_dict/model.*")),
    "timm": (
        lambda s: {"state_dict": shifted(s), "state_dict_ema": s, "arch": "test_resnet"},
        ("state_dict_ema/* were taken", "left out: state_dict/*"))}


@pytest.mark.parametrize("library", ["timm", "torchvision"])
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints_of_training_loops(kind, library, tmp_path):
    write, said = CHECKPOINTS[kind]
    name, make = {
        "timm": ("test_resnet", timm.create_model),
        "torchvision": ("shufflenet_v2_x0_5", torchvision.models.get_model),
    }[library]
    model = seeded(lambda: make(name, num_classes=7))
    torch.save(write(model.state_dict()), tmp_path / "own.ckpt")
    clf = load_classifier(f"{library}/{name}:own.ckpt")  # a relative path
    assert clf.head.weight.shape[0] == 7
    with torch.inference_mode():
        torch.testing.assert_close(clf.run(pictures())[1], model(pictures()))
    again = load_classifier(f"{library}/{name}:own.ckpt")
    assert (clf.notes, clf.title) == (again.notes, f"{name} (own)")
    assert len(clf.notes) == 1 + bool(said)  # how pictures are prepared is said in any case
    assert all(text in clf.notes[0] for text in said)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_pictures_are_prepared_as_a_checkpoint_says(library, tmp_path):
    state = torchvision.models.resnet18(num_classes=5).state_dict()
    settings = argparse.Namespace(
        model="resnet18", mean=[0.5] * 3, std=[0.25] * 3, img_size=160, crop_pct=1.0, lr=None)
    torch.save({"state_dict": state, "args": settings}, tmp_path / "model_best.pth.tar")
    clf = load_classifier(f"{library}/resnet18:model_best.pth.tar")
    assert "as the file says (img_size, mean, std, crop_pct): 160 x 160" in clf.notes[-1]
    pixels = clf.transform(Image.new("RGB", (320, 320), (255, 0, 127)))
    assert pixels.shape == (3, 160, 160)
    np.testing.assert_allclose(pixels[:, 80, 80], [2, -2, 0], atol=0.02)


def flipped(path, part):
    content = bytearray(path.read_bytes())
    content[content.find(part.detach().numpy().tobytes()) + 5] ^= 1
    path.write_bytes(content)


def spoil(kind, path):
    model = seeded(lambda: timm.create_model("test_resnet", num_classes=7))
    state = model.state_dict()
    torch.save({
        "no head": {k: v for k, v in state.items() if "fc" not in k}, "list": [1, 2],
        "another": seeded(lambda: timm.create_model("test_vit", num_classes=7)).state_dict(),
        "shapes": {k: v[..., :-1] if v.ndim > 1 else v for k, v in state.items()},
        "missing": {k: v for k, v in state.items() if "layer3" not in k},
        "larger": state | {"layer3.7.conv.weight": torch.ones(2)},
        "quantised": {k: (9 * v).to(torch.int8) if v.ndim > 1 else v for k, v in state.items()},
        "NaN": state | {"fc.weight": torch.full((7, 96), torch.nan)}, "module": model,
    }.get(kind, state), path)
    if kind == "text":
        path.write_text("<html>404 Not Found</html>")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-5000])
    elif kind == "one bit":
        flipped(path, model.fc.weight)


@pytest.mark.parametrize(("kind", "told"), [
    ("gone", "there is no file"), ("text", "could not be read as weights"),
    ("cut", "could not be read"), ("list", "it holds list"), ("one bit", "checksum of .* is wrong"),
    ("module", r"torch\.save\(module\.state_dict\(\)"),
    ("no head", r"holds no head: fc\.weight is missing"), ("another", "holds no head"),
    ("shapes", "of another shape"), ("missing", r"missing \(layer3"),
    ("larger", r"1 unknown to it \(layer3\.7\.conv\.weight\)"),
    ("quantised", "not of a floating type.*before they are quantised"), ("NaN", "holds NaN")])
def test_bad_checkpoints(kind, told, tmp_path):
    if kind != "gone":
        spoil(kind, tmp_path / "own.pth")
    with pytest.raises(SingError, match=told):
        load_classifier("timm/test_resnet:own.pth")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))  # no head of it is kept


# --- another head -------------------------------------------------------------------------------


class Pooled(nn.Module):
    """A head that reads a map of positions; its logits are averaged."""

    def __init__(self):
        super().__init__()
        self.trunk, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return self.last(torch.relu(self.trunk(x))).mean((2, 3))


def new_head(m, classes=3, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(classes, m, generator=generator), torch.randn(classes, generator=generator))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("make", [tiny, Pooled])
def test_another_head_reads_the_same_features(make, bias):
    base = wrap_classifier(seeded(make), transform=repr)
    features, logits = base.run(pictures())
    weight, shift = new_head(8)
    clf = with_head(base, weight, shift if bias else None, name="small", class_names=list("abc"))
    assert (clf.name, clf.class_names, clf.transform) == ("small", list("abc"), base.transform)
    again, made = clf.run(pictures())
    torch.testing.assert_close(again, features)
    expected = features.double().numpy() @ weight.double().numpy().T
    np.testing.assert_allclose(made, expected + (shift.numpy() if bias else 0), rtol=1e-4,
                               atol=1e-4)
    torch.testing.assert_close(clf.traced(pictures())(pictures())[1], made, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(base.run(pictures())[1], logits)  # the base is as it was


def test_another_head_on_a_network_that_is_not_built_builds_none(tmp_path):
    model = seeded(lambda: timm.create_model("test_resnet", num_classes=7))
    torch.save(model.state_dict(), tmp_path / "a.pth")
    base = load_classifier("timm/test_resnet:a.pth")
    weight, shift = new_head(96)
    clf = with_head(base, weight, shift, name="small")
    other = with_head(base, 2 * weight, shift, name="small")
    assert other.origin != clf.origin == with_head(base, weight, shift, name="small").origin
    assert not clf.is_built
    assert not base.is_built
    table = pd.DataFrame({"picture": ["a"]})
    assert feature_key(clf, table) != feature_key(base, table)
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(pictures()), pre_logits=True)
        torch.testing.assert_close(clf.run(pictures())[0], expected)
        torch.testing.assert_close(base.run(pictures())[1], model(pictures()))
    assert (clf.name, clf.head.weight.shape) == ("small", (3, 96))
    # A base whose network is in memory, where it may have been changed, is copied.
    with torch.no_grad():
        base.module.conv1[0].weight.mul_(2)
    changed = with_head(base, weight, shift, name="small")
    assert not torch.equal(changed.run(pictures())[0], expected)
    torch.testing.assert_close(changed.run(pictures())[0], base.run(pictures())[0])


# --- a head without its network -----------------------------------------------------------------


def test_a_classifier_of_this_process_is_known_in_another_by_what_was_kept(tmp_path):
    module = seeded(tiny)
    clf = as_classifier(module, "in memory", class_names=list("abcde"))
    clf.title = "Tiny"
    table = pd.DataFrame({"picture": ["a", "b"], "source": "folder", "path": ["a.png", "b.png"]})
    for file in table["path"]:
        Image.new("RGB", (300, 300)).save(tmp_path / file)
    key = feature_key(clf, table)
    name = keep_classifier(clf, tmp_path / "own.safetensors", key, table["picture"])
    assert name == f"kept:{tmp_path / 'own.safetensors'}"
    found = load_classifier(name)
    assert isinstance(found, LazyClassifier)
    assert (found.name, found.own_name, found.title) == (name, "in memory", "Tiny")
    assert found.class_names == list("abcde")
    assert found.notes == clf.notes
    assert len(found.notes) == 1
    assert torch.equal(found.head.weight, clf.head.weight)
    assert torch.equal(found.head.bias, clf.head.bias)
    assert feature_key(found, table) == key
    for attempt in (
        lambda: found.run(pictures()), lambda: found.module, lambda: found.transform,
        lambda: feature_key(found, table.iloc[:1]),
    ):
        with pytest.raises(SingError, match="network of Tiny stayed with"):
            attempt()
    assert repr(found).endswith("classes=5, features=8)")


def test_kept_heads_that_are_damaged_or_something_else_are_refused(tmp_path):
    clf = as_classifier(seeded(tiny), "x")
    path = tmp_path / "own.safetensors"
    name = keep_classifier(clf, path, "k", ["a"])
    content = path.read_bytes()
    for bad in (content[:-1], content[:-5] + bytes([content[-5] ^ 1]) + content[-4:], b"", b"text"):
        path.write_bytes(bad)
        with pytest.raises(SingError, match="missing, damaged, or not what keep_classifier"):
            load_classifier(name)
    keep(path, {"other": torch.zeros(2)}, ["not", "a", "head"])
    with pytest.raises(SingError, match="missing, damaged"):
        load_classifier(name)
