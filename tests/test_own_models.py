"""Classifiers of one's own: code by its name, TorchScript, other heads, heads that are kept."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
import zipfile
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

from sing_nb.errors import SingError
from sing_nb.models.classifier import (
    KeptClassifier,
    as_classifier,
    keep_classifier,
    load_classifier,
    resolve_name,
    with_head,
    wrap_classifier,
)
from sing_nb.pictures.cache import keep
from sing_nb.pictures.features import FeatureSet, compute_features, feature_key
from sing_nb.pictures.fetch import slug

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
        nn.Dropout(0.5), nn.Linear(8, classes),
    )


def quiet(make, *args):
    with warnings.catch_warnings():  # torch announces the end of torch.jit
        warnings.simplefilter("ignore")
        return make(*args)


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


def test_random_weights_are_the_same_in_every_process_and_draw_nothing_from_this_one(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def classifier():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), repr\n")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    clf = load_classifier("mine:classifier")
    assert torch.equal(torch.rand(2), expected)
    code = (
        "import sing_nb, sys; c = sing_nb.load_classifier('mine:classifier');"
        "from sing_nb.pictures.features import feature_key; import pandas as pd;"
        "print(feature_key(c, pd.DataFrame({'picture': ['a']})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == feature_key(clf, pd.DataFrame({"picture": ["a"]}))


RETURNS = {
    "module": "return net()",
    "tuple": "return net(), shrink",
    "triple": "return net(), shrink, list('abcde')",
    "mapping": "return {'module': net(), 'transform': shrink, 'class_names': list('abcde')}",
    "classifier": (
        "return sing_nb.wrap_classifier(net(), transform=shrink, class_names=list('abcde'))"
    ),
    "script": "return torch.jit.script(net())",
    "attributes": "m = net(); m.transform, m.class_names = shrink, list('abcde'); return m",
}


@pytest.mark.parametrize("how", RETURNS)
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_what_a_factory_may_return(how, tmp_path):
    (tmp_path / "code.py").write_text(
        "import numpy, sing_nb, torch\nfrom torch import nn\n"
        "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))\n"
        "def shrink(picture):\n"
        "    small = numpy.asarray(picture.resize((2, 2)), dtype='float32')\n"
        "    return torch.tensor(small).permute(2, 0, 1)\n"
        f"def make():\n    {RETURNS[how]}\n"
    )
    clf = load_classifier(f"{tmp_path}/code.py:make")
    assert (clf.class_names == list("abcde")) == (how in ("triple", "mapping", "classifier",
                                                         "attributes"))
    own = how not in ("module", "script")
    x = clf.transform(Image.new("RGB", (9, 9), (10, 20, 30)))
    assert x.shape == ((3, 2, 2) if own else (3, 224, 224))
    if own:
        assert x[:, 0, 0].tolist() == [10, 20, 30]
    assert [note for note in clf.notes if "transform" in note] == ([] if own else [clf.notes[-1]])
    assert clf.run(pictures(side=2))[1].shape == (3, 5)
    assert clf.name == f"{tmp_path}/code.py:make"


def test_a_timm_module_is_prepared_for_as_timm_does(tmp_path):
    (tmp_path / "code.py").write_text(
        "import timm\ndef make():\n    return timm.create_model('test_vit', num_classes=4)\n")
    clf = load_classifier("code:make")
    assert clf.transform(Image.new("RGB", (500, 300))).shape == (3, 160, 160)
    assert "160 x 160" in clf.notes[-1]
    assert as_classifier(timm.create_model("test_vit"), "x").class_names[0] == "tench"


def test_siblings_are_imported_and_two_files_of_one_stem_do_not_collide(tmp_path, monkeypatch):
    for folder, classes in (("one", 3), ("two", 4)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sizes.py").write_text(f"CLASSES = {classes}\n")
        (tmp_path / folder / "model.py").write_text(
            "from torch import nn\nfrom sizes import CLASSES\n"
            "def make():\n    import sizes\n"
            "    assert sizes.CLASSES == CLASSES\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES))\n")
    before = list(sys.path)
    found = [load_classifier(f"{folder}/model.py:make") for folder in ("one", "two", "one")]
    assert [len(clf.head.weight) for clf in found] == [3, 4, 3]
    assert sys.path == before
    # What the reader has imported under that name is there again.
    monkeypatch.syspath_prepend(str(tmp_path / "two"))
    sys.modules.pop("sizes", None)
    import sizes

    load_classifier("one/model.py:make")
    assert sys.modules["sizes"] is sizes
    assert sizes.CLASSES == 4
    del sys.modules["sizes"]


def test_modules_of_a_package_import_each_other(tmp_path):
    (tmp_path / "kit8a").mkdir()
    (tmp_path / "kit8a" / "__init__.py").write_text("")
    (tmp_path / "kit8a" / "parts.py").write_text("WIDTH = 12\n")
    (tmp_path / "kit8a" / "nets.py").write_text(
        "from torch import nn\nfrom .parts import WIDTH\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.last = nn.Linear(WIDTH, 3)\n"
        "    def forward(self, x):\n        return self.last(x.flatten(1))\n")
    for name in ("kit8a.nets:Net", "kit8a/nets.py:Net", f"{tmp_path}/kit8a/nets.py:Net"):
        assert load_classifier(name).head.weight.shape == (3, 12)
    assert resolve_name("kit8a.nets:Net") == f"{tmp_path}/kit8a/nets.py:Net"


def test_features_depend_on_the_code_and_on_what_it_imports(tmp_path):
    (tmp_path / "helper8a.py").write_text("from torch import nn\nAFTER = nn.ReLU\n")
    (tmp_path / "own.py").write_text(
        "from torch import nn\nimport helper8a\ndef make():\n"
        "    return nn.Sequential(nn.Flatten(), helper8a.AFTER(), nn.Linear(12, 3))\n")
    table = pd.DataFrame({"picture": ["a", "b"]})

    def key():
        return feature_key(load_classifier("own:make"), table)

    first = key()
    assert key() == first
    (tmp_path / "helper8a.py").write_text("from torch import nn\nAFTER = nn.Tanh\n")
    assert load_classifier("own:make").module[1].__class__ is nn.Tanh  # the same weights
    second = key()
    assert second != first
    (tmp_path / "stranger.py").write_text("x = 1\n")
    assert key() == second


BAD = {
    "import numpyy": ("make", r"importing it failed.*No module named 'numpyy'.*Install numpyy"),
    "def make(:": ("make", r"importing it failed \(.*odd\.py, line 1\): SyntaxError"),
    "raise OSError('no disk')": ("make", r"importing it failed \(.*odd\.py, line 1\): OSError: no"),
    "def make():\n    return open('gone.pth')": (
        "make", r"make\(\) failed \(.*odd\.py, line 2\): FileNotFoundError.*gone\.pth"),
    "def make():\n    raise SystemExit(2)": ("make", r"line 2\): SystemExit: 2"),
    "def make(path, size=3):\n    pass": ("make", r"make\(\) needs arguments \(path\)"),
    "def make():\n    return None": ("make", "gives NoneType; expected a torch.nn.Module"),
    "def make():\n    return {'fc.weight': __import__('torch').zeros(2)}": (
        "make", "gives a state dict"),
    "def make():\n    return 'resnet18'": ("make", "gives str"),
    "from torch import nn\ndef make():\n    return nn.Linear": ("make", "the class Linear, not an"),
    "from torch import nn\ndef make():\n    return nn.ReLU()": ("make", "no linear head found"),
    "from torch import nn\ndef make():\n    return nn.Linear(2, 3), 5": (
        "make", "its transform is int"),
    "from torch import nn\ndef make():\n    return nn.Linear(2, 3), None, ['a', 'b']": (
        "make", "2 class names for 3 logits"),
    "from torch import nn\ndef make():\n    return nn.Linear(2, 3), None, 'abc'": (
        "make", "its class names are str"),
    "def build_model():\n    pass": (
        "build_modle", "has no 'build_modle'; did you mean build_model"),
    "": ("make", "has no 'make'; it defines nothing"),
}


@pytest.mark.parametrize("code", BAD)
def test_what_is_wrong_with_code_is_told_with_its_place(code, tmp_path):
    factory, told = BAD[code]
    (tmp_path / "odd.py").write_text(code)
    with pytest.raises(SingError, match=told) as caught:
        load_classifier(f"odd.py:{factory}")
    assert str(caught.value).startswith(f"odd.py:{factory}")
    assert "Traceback" not in str(caught.value)


def test_what_code_prints_goes_to_standard_error(tmp_path, capsys):
    (tmp_path / "loud.py").write_text(
        "print('importing')\nfrom torch import nn\n"
        "def make():\n    print('making')\n    return nn.Linear(2, 3)\n")
    load_classifier("loud:make")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "importing\nmaking\n")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mone.py:classifier", r"no file .*mone\.py\. There is mine\.py"),
        ("gone/mine.py:classifier", "There is no folder .*gone either"),
        ("mone:classifier", "did you mean 'mine:classifier'"),
        ("mine.py", r"is a file; write mine\.py:<factory>"),
        ("weights.pth", r"is a file; write torchscript:weights\.pth"),
        ("weights.safetensors", r"is a file; write timm/<architecture>:weights\.safetensors"),
        ("weighs.pth", r"did you mean 'weights\.pth'"),
        (".", "is a folder; write timm/local-dir"),
        ("resnet18", "did you mean .*torchvision/resnet18:IMAGENET1K_V1"),
        ("resnet50:IMAGENET1K_V2", "did you mean 'torchvision/resnet50:IMAGENET1K_V2'"),
        ("resnet50.a1_in1k", r"did you mean 'timm/resnet50\.a1_in1k'"),
        ("torchvision.models:resnet81", "did you mean resnet18"),
        ("sys:exit", "Unknown classifier 'sys:exit'"),
        ("torch.nope:make", "importing it failed.*No module named 'torch.nope'"),
        ("torchscript:gone.pt", r"there is no file .*gone\.pt"),
        ("kept:gone.safetensors", r"gone\.safetensors is missing, damaged"),
        ("../secret\n:x", "Unknown classifier"),
        ("", "Unknown classifier ''"),
    ],
)
def test_names_that_mean_nothing_name_what_is_near(name, told, tmp_path):
    (tmp_path / "mine.py").write_text(TEN_LINES)
    for file in ("weights.pth", "weights.safetensors"):
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(SingError, match=told):
        load_classifier(name)


def test_odd_characters_in_names_make_no_odd_files(tmp_path):
    folder = tmp_path / "Größe & mehr: 100 %"
    folder.mkdir()
    (folder / "mein netz.py").write_text(TEN_LINES)
    clf = load_classifier(f"{folder}/mein netz.py:classifier")
    assert clf.head.weight.shape == (3, 512)
    part = slug(clf.name)
    assert len(part) < 80
    assert not set(part) & set("/\\:&% \n")
    assert part != slug(clf.name.replace("100", "101"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lite0", "lite0"), ("timm/resnet50.a1_in1k", None), ("nonsense", None),
        ("torchvision/vgg16:IMAGENET1K_V1", None), ("transformers/facebook/dinov2", None),
        ("timm/hf-hub:some/where", None), ("torchvision.models:resnet18", None),
        ("timm/resnet18:a.pth", "timm/resnet18:{}/a.pth"),
        ("torchvision/resnet18:w/a.safetensors", "torchvision/resnet18:{}/w/a.safetensors"),
        ("timm/resnet18:/w/a.pth", None), ("timm/local-dir:mine", "timm/local-dir:{}/mine"),
        ("transformers/folder", "transformers/{}/folder"),
        ("torchscript:a.pt", "torchscript:{}/a.pt"), ("kept:k/x", "kept:{}/k/x"),
        ("a.py:make", "{}/a.py:make"), ("there:make", "{}/there.py:make"),
        ("gone:make", None), ("/x/a.py:make", None),
    ],
)
def test_names_for_a_process_in_another_folder(name, expected, tmp_path):
    home = tmp_path / "home"
    (home / "folder").mkdir(parents=True)
    (home / "there.py").write_text("")
    assert resolve_name(name, home) == (expected or name).format(home)
    assert resolve_name(resolve_name(name, home), tmp_path) == resolve_name(name, home)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(12, 3)

    def forward(self, x):
        return self.last(nn.functional.relu(x.flatten(1)))


def edited(self, x):
    return self.last(nn.functional.gelu(x.flatten(1)))


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
    sent = ForkingPickler.dumps(plain.transform)  # as to a process that prepares pictures
    assert ForkingPickler.loads(sent)(picture).shape == (3, 2, 2)
    # A network whose every class is installed needs no such mark.
    assert as_classifier(tiny(), "x", transform=repr).transform is repr


# --- TorchScript --------------------------------------------------------------------------------


class Pooled(nn.Module):
    """A head that reads a map of positions; its logits are averaged."""

    def __init__(self):
        super().__init__()
        self.trunk, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return self.last(torch.relu(self.trunk(x))).mean((2, 3))


class ByHand(nn.Module):
    """Its last step is addmm, as in archives of older versions of torch."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, 12)), nn.Parameter(torch.randn(5))

    def forward(self, x):
        return torch.addmm(self.bias, x.flatten(1)[:, :12], self.weight.t())


MODELS = {
    "resnet": lambda: torchvision.models.resnet18(weights=None, num_classes=5),
    "timm": lambda: timm.create_model("test_vit", num_classes=5, img_size=64),
    "tiny": tiny, "pooled": Pooled, "addmm": ByHand,
}


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.parametrize("model", MODELS)
def test_an_archive_gives_what_the_model_gives(model, how, tmp_path):
    module = seeded(MODELS[model])
    make = torch.jit.script if how == "script" else lambda m: torch.jit.trace(m, pictures(2))
    quiet(make, module).save(tmp_path / "a.pt")
    clf = load_classifier("torchscript:a.pt")
    assert clf.title == "a.pt"
    for n in (1, 2, 5):  # an archive is traced with one size of batch, and run with others
        features, logits = clf.run(pictures(n, seed=n))
        with torch.inference_mode():
            torch.testing.assert_close(logits, module(pictures(n, seed=n)))
        by_hand = features.double().numpy() @ clf.head.weight.double().numpy().T
        by_hand += clf.head.bias.double().numpy()
        np.testing.assert_allclose(logits, by_hand, rtol=1e-4, atol=1e-5)
    if model == "addmm":
        assert torch.equal(features, pictures(5, seed=5).flatten(1)[:, :12])
    else:
        known = wrap_classifier(module)
        torch.testing.assert_close(clf.head.weight, known.head.weight)
        torch.testing.assert_close(features, known.features(pictures(5, seed=5)))
    frozen = clf.traced(pictures(2))
    assert frozen != clf.run
    torch.testing.assert_close(frozen(pictures(3))[0], clf.run(pictures(3))[0])


def test_an_archive_in_training_mode_with_dropout_runs_in_evaluation_mode(tmp_path):
    module = seeded(tiny)
    quiet(torch.jit.script, copy.deepcopy(module).train()).save(tmp_path / "a.pt")
    clf = load_classifier("torchscript:a.pt")
    torch.testing.assert_close(clf.run(pictures())[1], module(pictures()).detach())


def test_an_archive_in_half_precision(tmp_path):
    module = seeded(tiny).half()
    quiet(torch.jit.script, module).save(tmp_path / "half.pt")
    clf = load_classifier("torchscript:half.pt")
    assert (clf.dtype, clf.head.weight.dtype) == (torch.float16, torch.float16)
    features, logits = clf.run(pictures())
    assert features.dtype == logits.dtype == torch.float32
    with torch.inference_mode():
        torch.testing.assert_close(logits, module(pictures().half()).float())


def test_a_frozen_archive_is_told_from_another_by_its_content(tmp_path):
    table, keys = pd.DataFrame({"picture": ["a"]}), []
    for seed in (0, 1):
        module = seeded(tiny, seed)
        module[-1].load_state_dict(seeded(tiny, 0)[-1].state_dict())  # the same head
        frozen = quiet(torch.jit.freeze, quiet(torch.jit.script, module))
        frozen.save(tmp_path / f"{seed}.pt")
        clf = load_classifier(f"torchscript:{seed}.pt")
        torch.testing.assert_close(clf.run(pictures())[1], module(pictures()).detach())
        keys.append(feature_key(clf, table))
    assert keys[0] != keys[1]
    assert keys[1] == feature_key(load_classifier("torchscript:1.pt"), table)


def test_an_archive_follows_a_cast_and_can_be_copied(tmp_path):
    module = seeded(tiny)
    quiet(torch.jit.trace, module, pictures(2)).save(tmp_path / "a.pt")
    clf = load_classifier("torchscript:a.pt").to(torch.float64)
    logits = clf.run(pictures())[1]
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits, module.double()(pictures().double()).detach())
    again = copy.deepcopy(clf.module)
    torch.testing.assert_close(again(pictures().double()), logits)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(12, 5)

    def forward(self, x, scale: float):
        return self.last(x.flatten(1)) * scale


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Softmax(1)), "not the last step"),
        (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), "no linear head found in its graph"),
        (Twice, "needs 'scale' beside the pictures"),
    ],
    ids=["softmax", "no head", "arguments"],
)
def test_archives_without_a_last_linear_layer_are_refused(make, told, tmp_path):
    quiet(torch.jit.script, seeded(make)).save(tmp_path / "a.pt")
    with pytest.raises(SingError, match=told):
        load_classifier("torchscript:a.pt").run(pictures(side=2))


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return exec, ("open('canary', 'w').close()",)


def other_file(kind, path):
    state = seeded(tiny).state_dict()
    if kind == "state dict":
        torch.save(state, path)
    elif kind == "old state dict":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif kind == "module":
        torch.save(seeded(tiny), path)
    elif kind == "code":
        torch.save({"state_dict": Code()}, path)
    elif kind == "safetensors":
        safetensors.torch.save_file(state, path)
    elif kind == "cut":
        quiet(torch.jit.script, seeded(tiny)).save(path)
        path.write_bytes(path.read_bytes()[:-200])
    elif kind in ("damaged", "other program"):
        module = seeded(tiny)
        quiet(torch.jit.script, module).save(path)
        content = bytearray(path.read_bytes())
        if kind == "damaged":  # by one bit of a weight
            content[content.find(module[-1].weight.detach().numpy().tobytes()) + 5] ^= 1
            path.write_bytes(content)
            return
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, part in parts.items():
                archive.writestr(name, part.replace(b"def forward", b"def forwurd("))
    else:
        path.write_bytes({"empty": b"", "text": b"hello, I am no model at all"}[kind])


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("state dict", r"weights without a network \(a state dict\); give the architecture: timm/"),
        ("module", "a pickle of a whole module.*never opened"),
        ("code", "a pickle of a whole module.*never opened"),
        ("old state dict", "no TorchScript archive"),
        ("safetensors", "holds safetensors, weights without a network"),
        ("cut", "no TorchScript archive"), ("damaged", "damaged, its checksum of a/data/"),
        ("other program", "could not be read as TorchScript"),
        ("empty", "it is empty"), ("text", "expected what torch.jit.save wrote"),
    ],
)
def test_other_files_are_told_from_an_archive_and_no_pickle_is_run(kind, told, tmp_path):
    other_file(kind, tmp_path / "a.pt")
    with pytest.raises(SingError, match=told):
        load_classifier("torchscript:a.pt")
    assert not (tmp_path / "canary").exists()


# --- checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s},
        lambda s: {"net": s, "optimizer": {"lr": 0.1}},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}},
        lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    ],
    ids=["state_dict", "model", "net", "parallel", "lightning", "compiled"],
)
def test_checkpoints_of_training_loops_are_unwrapped(wrap, tmp_path):
    model = seeded(lambda: timm.create_model("test_resnet", num_classes=7))
    torch.save(wrap(model.state_dict()), tmp_path / "a.pth")
    clf = load_classifier("timm/test_resnet:a.pth")
    with torch.inference_mode():
        torch.testing.assert_close(clf.run(pictures())[1], model(pictures()))


@pytest.mark.parametrize(
    ("name", "made", "told"),
    [
        ("timm/resnet18", "resnet34", r"80 unknown to it.*It fits torchvision/resnet34: write "),
        ("torchvision/resnet18", "resnet34", "It fits torchvision/resnet34: write torchvision/"),
        ("torchvision/resnet18", "squeezenet1_1", r"no head: fc\.weight is missing among its 52"),
    ],
)
def test_weights_of_another_architecture_name_the_one_they_fit(name, made, told, tmp_path):
    module = torchvision.models.get_model(made, weights=None, num_classes=3)
    torch.save(module.state_dict(), tmp_path / "a.pth")
    with pytest.raises(SingError, match=told):
        load_classifier(f"{name}:a.pth")


def test_a_checkpoint_of_which_one_bit_is_wrong_is_refused(tmp_path):
    model = seeded(lambda: timm.create_model("test_resnet", num_classes=7))
    torch.save(model.state_dict(), tmp_path / "a.pth")
    content = bytearray((tmp_path / "a.pth").read_bytes())
    content[content.find(model.fc.weight.detach().numpy().tobytes()) + 5] ^= 1
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(SingError, match="damaged, its checksum of a/data/"):
        load_classifier("timm/test_resnet:a.pth")


def test_an_archive_that_is_given_an_architecture_needs_none(tmp_path):
    quiet(torch.jit.script, seeded(tiny)).save(tmp_path / "a.pt")
    with pytest.raises(SingError, match=r"write torchscript:a\.pt"):
        load_classifier("timm/resnet18:a.pt")


# --- another head -------------------------------------------------------------------------------


def new_head(m, classes=3, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(classes, m, generator=generator),
            torch.randn(classes, generator=generator))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("model", ["resnet", "timm", "tiny", "pooled", "script"])
def test_another_head_reads_the_same_features(model, bias, tmp_path):
    if model == "script":
        quiet(torch.jit.script, seeded(tiny)).save(tmp_path / "a.pt")
        base = load_classifier("torchscript:a.pt")
    else:
        base = wrap_classifier(seeded(MODELS[model]), transform=repr)
    old = base.head.weight.clone()
    features, logits = base.run(pictures())
    weight, shift = new_head(old.shape[1])
    clf = with_head(base, weight, shift if bias else None, name="small", title="Small",
                    class_names=list("abc"))
    assert (clf.name, clf.title, clf.class_names) == ("small", "Small", list("abc"))
    assert clf.transform is base.transform
    torch.testing.assert_close(clf.head.weight, weight)
    again, made = clf.run(pictures())
    torch.testing.assert_close(again, features)
    expected = features.double().numpy() @ weight.double().numpy().T
    np.testing.assert_allclose(made, expected + (shift.numpy() if bias else 0), rtol=1e-4,
                               atol=1e-4)
    frozen = clf.traced(pictures())
    assert frozen != clf.run
    torch.testing.assert_close(frozen(pictures())[1], made, rtol=1e-4, atol=1e-4)
    # The base is as it was.
    assert torch.equal(base.head.weight, old)
    torch.testing.assert_close(base.run(pictures())[1], logits)


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


def test_heads_that_do_not_fit_are_refused():
    base = wrap_classifier(tiny(), name="base")
    weight, shift = new_head(8)
    for bad, told in (
        ({"weight": weight[:, :7]}, r"\(3, 7\) does not read the 8 features of base"),
        ({"weight": weight[0]}, "expected \\(classes, 8\\)"),
        ({"weight": weight[:0]}, "expected \\(classes, 8\\)"),
        ({"bias": shift[:2]}, r"bias of shape \(2,\) for 3 classes"),
        ({"class_names": ["a"]}, "1 class names for 3 classes"),
        ({"weight": weight / 0}, "NaN or infinite"),
    ):
        with pytest.raises(SingError, match=told):
            with_head(base, **{"weight": weight, "bias": shift, "name": "x"} | bad)
    deit = wrap_classifier(timm.create_model("deit_tiny_distilled_patch16_224", num_classes=4))
    with pytest.raises(SingError, match="two heads"):
        with_head(deit, torch.randn(3, 384), name="x")


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
    assert isinstance(found, KeptClassifier)
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
        with pytest.raises(SingError, match="network of Tiny stayed with the process"):
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


# --- what else meets such names -----------------------------------------------------------------


def test_notes_vanish_as_what_they_miss_is_given():
    clf = as_classifier(tiny(), "x")
    assert len(clf.notes) == 2
    given = as_classifier(clf, "y", transform=repr, class_names=list("abcde"))
    assert given.notes == []
    assert (given.name, clf.name, len(clf.notes)) == ("y", "x", 2)  # the first one is as it was
    assert given.transform is repr
    kept_names = as_classifier(clf, "z", class_names=list("abcde"))
    assert kept_names.notes == clf.notes[1:]


def test_notes_of_an_archive_are_kept_with_its_head(tmp_path):
    quiet(torch.jit.script, seeded(tiny)).save(tmp_path / "a.pt")
    first, second = (load_classifier("torchscript:a.pt") for _ in range(2))
    assert first.notes == second.notes
    assert len(second.notes) == 2
    assert not second.is_built


def test_features_of_code_of_ones_own_are_computed_from_files(tmp_path):
    (tmp_path / "mine.py").write_text(TEN_LINES)
    clf = load_classifier("mine:classifier")
    rng = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(rng.integers(0, 255, (80, 90, 3), np.uint8)).save(tmp_path / f"{index}.png")
    table = pd.DataFrame({
        "picture": list("abc"), "source": "folder",
        "path": [str(tmp_path / f"{index}.png") for index in range(3)],
    })
    found = compute_features(clf, table, tmp_path, tmp_path / "features", progress=False)
    assert isinstance(found, FeatureSet)
    x = torch.stack([clf.transform(Image.open(path).convert("RGB")) for path in table["path"]])
    torch.testing.assert_close(found.features, clf.run(x)[0], rtol=1e-3, atol=1e-4)
    (folder,) = (tmp_path / "features").iterdir()
    assert folder.name.startswith(slug("mine:classifier"))
