"""Numbers, models, names and settings that are wrong: each is said, and nothing is computed on it.

A message holds what came, what was wanted and what to do; there is no traceback in another
library's words.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
import struct

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import sing_nb.study.profile as profile_module
from sing_nb import SingError, Study, load_classifier, wrap_classifier
from sing_nb.book.chapters import chapter_files, resolve
from sing_nb.cli import main
from sing_nb.method.translator import RidgeFitter, Translator
from sing_nb.models.joint import load_joint_space
from sing_nb.study.profile import load_profile


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


W = drawn(3, 6)
F, Z = drawn(20, 6, seed=1), drawn(20, 4, seed=2)
SPOILED = {
    "a list": lambda x: x.tolist(), "a NumPy array": lambda x: x.numpy(),
    "complex": lambda x: x.to(torch.complex64), "truth values": lambda x: x > 0,
    "sparse": lambda x: x.to_sparse(),
}


def spoiled(*names):
    return pytest.mark.parametrize("spoil", [SPOILED[name] for name in names], ids=names)


# --- modules ------------------------------------------------------------------------------------


class Small(nn.Module):
    """192 numbers of a picture to 12 features to c logits; `bend` does something to features."""

    def __init__(self, bend=None, out=None, c=3):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.head = nn.Linear(192, 12), nn.Linear(12, c)
        self.bend, self.out = bend, out

    def forward(self, x):
        h = self.net(x.flatten(1))
        logits = self.head(self.bend(h) if self.bend else h)
        return self.out(logits, h) if self.out else logits


X = drawn(4, 3, 8, 8)


@pytest.mark.parametrize(("out", "said"), [
    (lambda logits, h: (logits, h), "returns tuple, not logits"),
    (lambda logits, h: {"out": logits}, "returns dict, not logits"),
    (lambda logits, h: None, "returns NoneType, not logits"),
    (lambda logits, h: logits.softmax(1), "not the last step of this model"),
    (lambda logits, h: 1 / 0, r"fails on a batch of 4 pictures \(3, 8, 8\): ZeroDivisionError"),
    (lambda logits, h: h @ torch.ones(5, 2), "fails on a batch.*RuntimeError"),
], ids=["tuple", "dict", "nothing", "softmax", "raises", "wrong shapes inside"])
def test_models_that_give_no_logits(out, said):
    with pytest.raises(SingError, match=said):
        wrap_classifier(Small(out=out)).run(X)


@pytest.mark.parametrize(("x", "said"), [
    (X.numpy(), "pictures given to custom.*ndarray"), (X[:, :, :7], "size of picture"),
    (X[0], "fails on a batch of 3"), (X * torch.nan, "NaN or infinite features"),
], ids=["a NumPy array", "another size", "one picture, no batch", "NaN"])
def test_batches_that_a_model_cannot_read(x, said):
    with pytest.raises(SingError, match=said):
        wrap_classifier(Small()).run(x)


def test_an_empty_batch_and_one_in_bytes():
    clf = wrap_classifier(Small())
    assert [tuple(part.shape) for part in clf.run(X[:0])] == [(0, 12), (0, 3)]
    pixels = (X * 50).clamp(0, 255).to(torch.uint8)
    assert torch.equal(clf.run(pixels)[0], clf.run(pixels.float())[0])


def test_a_model_that_changes_its_pictures_is_told_from_one_that_copies_them():
    class InPlace(Small):
        def forward(self, x):
            return super().forward(x.mul_(0.5) if self.bend is None else x.clone().mul_(0.5))

    with pytest.raises(SingError, match=r"changes the pictures that it is given.*x\.clone"):
        wrap_classifier(InPlace()).run(X.clone())
    assert wrap_classifier(InPlace(bend=nn.Identity())).run(X)[0].shape == (4, 12)


@pytest.mark.parametrize(("module", "said"), [
    (Small, "got Small: call the class"), (Small().state_dict(), "call load_state_dict"),
    (len, "got builtin_function_or_method"), (nn.Identity(), "no linear head found"),
    (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "lazy layer"),
], ids=["a class", "a state dict", "a function", "no head", "a lazy layer"])
def test_what_is_no_module_with_a_head(module, said):
    with pytest.raises(SingError, match=said):
        wrap_classifier(module)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_quantised_model_is_said_to_be_one():
    from torch.ao.quantization import quantize_dynamic

    with pytest.raises(SingError, match=r"quantised.*as it was before"):
        wrap_classifier(quantize_dynamic(Small(), {nn.Linear}))


def test_weights_that_are_nothing():
    for spoil in (lambda w: w.fill_(torch.nan), lambda w: w[0, 0].fill_(torch.inf)):
        module = Small()
        spoil(module.head.weight.data)
        with pytest.raises(SingError, match=r"last linear layer \(3, 12\) holds NaN"):
            wrap_classifier(module)
    module = Small()
    module.head.bias.data[0] = torch.inf
    with pytest.raises(SingError, match="holds NaN or infinite"):
        wrap_classifier(module)
    module = Small()
    module.net.weight.data[0] = torch.nan
    with pytest.raises(SingError, match="NaN or infinite features"):
        wrap_classifier(module).run(X)
    with pytest.raises(SingError, match="device meta"):
        wrap_classifier(Small().to("meta")).run(X)


def test_a_model_left_in_training_mode_is_put_out_of_it():
    module = Small(bend=nn.Sequential(nn.BatchNorm1d(12), nn.Dropout(0.5))).train()
    clf = wrap_classifier(module)
    clf.check_steady(X)
    assert torch.equal(clf.run(X)[0], clf.run(X)[0])


@pytest.mark.parametrize(("names", "said"), [
    (["a", "b"], "2 class names for 3 logits"), ("abc", "list of texts"), ([1, 2, 3], "got 1"),
    (["a", "", "c"], "none of them empty"), (["a", None, "c"], "got None"),
])
def test_class_names_that_do_not_fit(names, said):
    with pytest.raises(SingError, match=said):
        wrap_classifier(Small(), class_names=names)


def test_class_names_with_line_ends_are_one_line():
    names = wrap_classifier(Small(), class_names=["a\r", "b\nc", "d\te "]).class_names
    assert names == ["a", "b c", "d e"]


@pytest.mark.parametrize(("options", "said"), [
    ({"transform": 3}, "transform is int"), ({"name": None}, "name is a text"),
    ({"name": " "}, "name is a text"), ({"head": "haed"}, "its last ones are net, head"),
])
def test_other_things_that_a_wrapped_model_needs(options, said):
    with pytest.raises(SingError, match=said):
        wrap_classifier(Small(), **options)


# --- a study of a bad model ---------------------------------------------------------------------


def to_tensor(picture):
    pixels = np.asarray(picture.resize((8, 8)), dtype=np.float32).copy()
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


@pytest.fixture
def study_of(photos, tmp_path, monkeypatch):
    """Makes the study of a classifier on those pictures, in folders of its own."""
    monkeypatch.setenv("SING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SING_BUILD", str(tmp_path / "build"))

    def make(module, names=None, name="mine"):
        study = Study(
            "report", progress=False, models=[name], pictures=f"folder:{photos}", also_fit="none")
        study.add(wrap_classifier(module, to_tensor, names, name))
        return study

    return make


@pytest.mark.parametrize(("bend", "said"), [
    (lambda h: (h - 1e9).relu(), "features that are zero for each of 12 pictures.*dead network"),
    (lambda h: 0 * h + 1, "the same for each of 12 pictures"),
    (lambda h: h + torch.randn_like(h), "run twice on the same pictures.*random numbers"),
    (lambda h: nn.functional.dropout(h), "run twice on the same pictures.*dropout"),
    (lambda h: h - h.mean(0), "depend on the others of its batch"),
    (lambda h: 1e30 * h, "squares float32 cannot hold"),
    (lambda h: 1e-30 * h, "squares float32 cannot hold"),
    (lambda h: torch.where(h[:, :1] > h[:, :1].mean(), h / 0, h), "NaN or infinite features"),
], ids=["dead", "all equal", "noise", "dropout", "batch", "1e30", "1e-30", "NaN for some"])
def test_a_study_refuses_features_that_say_nothing(bend, said, study_of):
    with pytest.raises(SingError, match=said):
        study_of(Small(bend)).features("mine")


def test_a_study_keeps_pictures_whose_feature_is_zero_and_says_so(study_of, capsys):
    study = study_of(Small(lambda h: h * (h[:, :1] > -0.1)))
    f = study.features("mine")[torch.tensor(study.is_scored)]
    dead = int((f == 0).all(1).sum())
    assert 0 < dead < 12
    assert f"mine: {dead} of 12 pictures have a feature that is zero" in capsys.readouterr().err


def test_a_study_of_a_head_without_null_space_offers_the_near_null_one(study_of):
    with pytest.raises(SingError, match=r"empty null space.*near_null\(energy=0\.01\)"):
        study_of(Small(c=20)).spaces("mine")
    # As many classes as features and more, but of lower rank, is fine; one class, too.
    module = Small(c=20)
    module.head.weight.data[5:] = module.head.weight.data[:5].repeat(3, 1)
    assert study_of(module).spaces("mine").null_dim == 7
    assert study_of(Small(c=1)).spaces("mine").null_dim == 11


def test_a_label_that_two_logits_share_is_no_truth(study_of):
    assert set(study_of(Small(), ["zebra", "Lemon", "x"]).truth("mine")[:12]) == {-1, 0, 1}
    with pytest.raises(SingError, match=r"Logits 0, 2 of mine are all called 'zebra'"):
        study_of(Small(), ["zebra", "lemon", "Zebra"]).truth("mine")


def test_features_that_a_study_is_given_must_be_of_its_pictures(study_of):
    from sing_nb.pictures.features import FeatureSet

    study = study_of(Small())
    other = wrap_classifier(Small(), to_tensor, name="other")
    with pytest.raises(SingError, match="of all pictures; got"):
        study.add(other, FeatureSet(drawn(5, 12), drawn(5, 3)))
    for f, said in ((torch.full((32, 12), torch.nan), "NaN"), (torch.zeros(32, 12), "zero for")):
        with pytest.raises(SingError, match=said):
            study_of(Small()).add(other, FeatureSet(f, drawn(32, 3)))
    with pytest.raises(SingError, match="'mine' already"):
        study.add(wrap_classifier(Small(), to_tensor, name="mine"))


# --- files of weights ---------------------------------------------------------------------------


class Canary:
    """What a pickle could do: leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.fixture(scope="module")
def weights():
    """Weights of a small network of timm."""
    import timm

    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=7).state_dict()


def whole(weights, path):
    safetensors.torch.save_file(weights, path)
    return path.read_bytes()


def changed(**parts):
    def write(weights, path):
        new = {k.replace(".", "_"): k for k in weights}
        safetensors.torch.save_file(weights | {new.get(k, k): v for k, v in parts.items()}, path)
    return write


FILES = {
    "cut": lambda w, p: p.write_bytes(whole(w, p)[:-1000]),
    "zero bytes": lambda w, p: p.write_bytes(b""),
    "short header": lambda w, p: p.write_bytes(struct.pack("<Q", 50) + whole(w, p)[8:]),
    "huge header": lambda w, p: p.write_bytes(struct.pack("<Q", 2**60) + whole(w, p)[8:]),
    "text": lambda w, p: p.write_text("<html>404 Not Found</html>" * 9),
    "pickle": lambda w, p: p.write_bytes(pickle.dumps({"fc.weight": Canary(p.parent / "canary")})),
    "missing part": lambda w, p: safetensors.torch.save_file(dict([*w.items()][1:]), p),
    "extra part": changed(extra=torch.ones(2)),
    "another shape": changed(fc_weight=torch.ones(7)),
    "no head": lambda w, p: safetensors.torch.save_file({"a": torch.ones(2)}, p),
    "NaN": changed(fc_weight=torch.full((7, 96), torch.nan)),
    "quantised": lambda w, p: safetensors.torch.save_file(
        {k: v.to(torch.int8) if v.is_floating_point() else v for k, v in w.items()}, p),
    "another network's": lambda w, p: safetensors.torch.save_file(
        __import__("timm").create_model("test_vit", num_classes=7).state_dict(), p),
}
SAID = {
    "missing part": "does not fit the architecture", "extra part": "does not fit.*extra",
    "another shape": "does not fit the architecture", "no head": "holds no head",
    "NaN": "holds NaN", "quantised": r"as torch\.int8.*before it is quantised",
    "another network's": "holds no head",
}


@pytest.mark.parametrize("kind", FILES)
def test_bad_safetensors(kind, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("SING_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "own.safetensors"
    FILES[kind](weights, path)
    with pytest.raises(SingError, match=SAID.get(kind, "could not be read as weights")):
        load_classifier(f"timm/test_resnet:{path}")
    assert not (tmp_path / "canary").exists()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))  # no head of it is kept


@pytest.mark.parametrize("kind", ["cut", "zero bytes", "pickle", "module", "list", "tensor"])
def test_bad_pth(kind, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("SING_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "own.pth"
    torch.save({
        "pickle": Canary(tmp_path / "canary"), "module": nn.Linear(2, 3), "list": [1, 2],
        "tensor": torch.ones(3),
    }.get(kind, weights), path)
    if kind in ("cut", "zero bytes"):
        path.write_bytes(path.read_bytes()[:-5000] if kind == "cut" else b"")
    with pytest.raises(SingError, match="code in a pickle is never run"):
        load_classifier(f"timm/test_resnet:{path}")
    assert not (tmp_path / "canary").exists()


def test_a_pickle_called_a_translator_is_never_run(tmp_path):
    for load in (Translator.load, RidgeFitter.load):
        path = tmp_path / "one.safetensors"
        path.write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
        with pytest.raises(SingError, match="in safetensors format"):
            load(path)
    assert not (tmp_path / "canary").exists()


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ask", "nearest"), [
    (lambda: load_classifier("lite9"), "lite[012]"),
    (lambda: load_classifier("timm/resnet5000"), "resnet50"),
    (lambda: load_classifier("torchvision/resnet5:DEFAULT"), "resnet50"),
    (lambda: load_classifier("torchvision/vgg16:IMAGENET"), "IMAGENET1K_V1"),
    (lambda: load_joint_space("consee"), "conse"),
    (lambda: load_profile("SMOKE"), "did you mean 'smoke'"),
    (lambda: load_profile("smoke", {"foldss": 2}), "did you mean 'folds'"),
    (lambda: load_profile("smoke", {"translator": "rigde"}), "did you mean 'ridge'"),
    (lambda: Study("smoke", progress=False).label("zebar"), "zebra"),
    (lambda: Study("smoke", progress=False).examples(["zebar"]), "Unknown label 'zebar'"),
    (lambda: Study("smoke", progress=False).in_space("lite9"), "lite"),
    (lambda: Study("smoke", progress=False).row("zebra-9"), "Unknown picture"),
    (lambda: resolve("smoke", ["fold=2"], chapter_files(main_book())), "did you mean 'folds'"),
], ids=["classifier", "timm", "torchvision", "weights", "space", "profile", "key", "choice",
        "class", "label", "study's space", "picture", "setting"])
def test_unknown_names_suggest_the_nearest(ask, nearest):
    with pytest.raises(SingError, match=nearest):
        ask()


def main_book():
    from sing_nb.cli import BOOK

    return BOOK


@pytest.mark.parametrize("name", [None, 3, b"lite0", ["lite0"], {}])
def test_names_that_are_no_text(name):
    with pytest.raises(SingError, match="name is a text; got"):
        load_classifier(name)
    with pytest.raises(SingError, match="Unknown profile"):
        load_profile(str(name))


def test_unknown_commands_chapters_and_profiles_end_with_an_exit_code(capsys):
    for arguments, code, said in (
        (["featurs"], 2, "features"),
        (["check", "--profile", "../smoke"], 1, "Unknown profile '../smoke'"),
        (["check", "--profile", "smok"], 1, "did you mean 'smoke'"),
        (["chapter", "--profile", "smoke", "--chapter", "../01_setup"], 1, "No chapter"),
        (["features", "--profile", "smoke", "--model", "lite9"], 1, "did you mean"),
    ):
        assert main(arguments) == code, arguments
        shown = capsys.readouterr().err
        assert said in shown
        assert "Traceback" not in shown


# --- settings -----------------------------------------------------------------------------------

BASE = "models: [lite0]\ntower: lite2\n"
BOMB = "models: &a0 [x]\n" + "".join(
    f"{key}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n"
    for i, key in enumerate(["lambdas", "sweep_losses", "other_spaces", "expected", "about"])
)
PROFILES = {
    "unknown key": (BASE + "foldss: 3\n", "did you mean 'folds'"),
    "wrong type": (BASE + "folds: five\n", "folds in .* must be int; got 'five'"),
    "a truth value": (BASE + "folds: yes\n", r"must be int; got True \(bool\)"),
    "a key twice": (BASE + "folds: 3\nfolds: 4\n", "'folds' stands there twice"),
    "an alias bomb": (BOMB, "must be"),
    "not YAML": ("models: [lite0\n", "is not YAML"),
    "two documents": (BASE + "---\n" + BASE, "is not YAML"),
    "a tab": ("models:\n\t- x\n", "is not YAML"),
    "not UTF-8": (b"about: caf\xe9\nmodels: [lite0]\n", "not UTF-8"),
    "UTF-16": (BASE.encode("utf-16"), "not UTF-8"),
    "a zero byte": (BASE + "\0", "is not YAML"),
    "nested too deeply": ("a: " + "[" * 9000 + "]" * 9000, "too deeply"),
    "Python": (BASE + "about: !!python/object/apply:os.getcwd []\n", "is not YAML"),
    "empty": ("", "lacks models"),
    "a list": ("- a\n", "lines of the form `key: value`"),
    "a number as key": (BASE + "3: 4\n", "Unknown profile key"),
    "a list as key": (BASE + "? [a]\n: b\n", "is not YAML"),
    "no classifier": ("models: []\ntower: lite2\n", "models is empty"),
    "a classifier twice": ("models: [lite0, lite0]\ntower: lite2\n", "lite0 more than once"),
    "a nameless one": ("models: ['']\ntower: lite2\n", "is empty"),
    "a date": (BASE + "about: 2020-01-01\n", "must be str"),
    "a cost of words": (BASE + "expected: {hours: many}\n", "hours in expected must be float"),
}
NUMBERS = {
    "folds": (1, -2, 10**30), "views": (0, -1, 10**9), "clipart_views": (-1,),
    "stamp_subjects": (0, -3), "total_pictures": (0, -1), "seed": (-1, 2**64),
    "bootstrap_draws": (0, 10**12), "control_draws": (0, 10**9), "top_classes": (0,),
    "temperature": (0.0, -1.0, float("nan")), "workers": (-1, 10**6), "batch": (-1,),
    "lambdas": ([], [0.0], [-1.0], [float("nan")], [float("inf")]), "redeals": (-1,),
    "plant_splits": (0,), "kernel_size": (0,), "shards": (0,),
}


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """A folder of profiles to spoil."""
    folder = tmp_path / "data" / "profiles"
    shutil.copytree(profile_module.data_dir() / "profiles", folder)
    monkeypatch.setattr(profile_module, "data_dir", lambda: tmp_path / "data")
    return folder


@pytest.mark.parametrize("kind", PROFILES)
def test_bad_profiles(kind, profiles):
    content, said = PROFILES[kind]
    (profiles / "odd.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SingError, match=said) as caught:
        load_profile("odd")
    assert len(str(caught.value)) < 2000


def test_profiles_that_are_no_files(profiles):
    (profiles / "folder.yaml").mkdir()
    (profiles / "nowhere.yaml").symlink_to("/nowhere/at/all")
    for name in ("folder", "nowhere"):
        with pytest.raises(SingError, match="cannot be read"):
            load_profile(name)
    for name in ("../data/profiles/smoke", "/etc/passwd", "smoke.yaml", "", "smoke\n"):
        with pytest.raises(SingError, match="Unknown profile"):
            load_profile(name)


@pytest.mark.parametrize("content", [
    BASE.replace("\n", "\r\n").encode(), b"\xef\xbb\xbf" + BASE.encode(),
    (BASE + "about: 🦓 Ärger\n").encode(),
], ids=["Windows line ends", "byte order mark", "emoji"])
def test_profiles_that_other_editors_wrote(content, profiles):
    (profiles / "odd.yaml").write_bytes(content)
    assert load_profile("odd").models == ["lite0"]


@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_out_of_range(key):
    for value in NUMBERS[key]:
        with pytest.raises(SingError, match=key):
            load_profile("smoke", {key: value})


@pytest.mark.parametrize(("setting", "said"), [
    ("folds", "key=value; got 'folds'"), ("=3", "Unknown setting ''"), ("folds=[1", "is not YAML"),
    ("folds=", "must be int; got None"), ("folds=!!python/name:os.system", "is not YAML"),
    ("models=lite0", "must be list"), ("about='x", "in quotes"), ("name=x", "Unknown setting"),
    ("concepts_asked=3", "must be"), ("photos=3", "must be"), ("folds=2.0", "must be int"),
])
def test_settings_that_are_none(setting, said, capsys):
    assert main(["check", "--profile", "smoke", "--set", setting]) == 1
    shown = capsys.readouterr().err
    assert re.search(said, shown), shown
    assert "Traceback" not in shown
    assert "did not foresee" not in shown
