"""Models that are wrong: each is said once, with what to do, and nothing is computed on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sing_nb import SingError, Study, wrap_classifier
from sing_nb.pictures.features import FeatureSet
from sing_nb.reports.report import own_study


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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
    (lambda logits, h: {"out": logits}, "returns dict, not logits"),
    (lambda logits, h: 1 / 0, r"fails on a batch of 4 pictures \(3, 8, 8\): ZeroDivisionError"),
    (lambda logits, h: logits[:, :2], "is not the output"),
], ids=["dict", "raises", "fewer logits"])
def test_models_that_give_no_logits(out, said):
    with pytest.raises(SingError, match=said):
        wrap_classifier(Small(out=out)).run(X)


def test_a_model_that_works_in_place_does_not_change_the_pictures_it_is_given():
    class InPlace(Small):
        def forward(self, x):
            return super().forward(x.mul_(0.5))

    x = X.clone()
    first, second = (wrap_classifier(InPlace()).run(x)[0] for _ in range(2))
    assert torch.equal(x, X)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, wrap_classifier(Small()).run(X / 2)[0])


@pytest.mark.parametrize(("module", "said"), [
    (Small, "got Small. Of a class make"), (Small().state_dict(), "load_state_dict"),
    (nn.Identity(), "no linear head found"),
], ids=["a class", "a state dict", "no head"])
def test_what_is_no_module_with_a_head(module, said):
    with pytest.raises(SingError, match=said):
        wrap_classifier(module)


def test_weights_that_are_nothing():
    module = Small()
    module.head.bias.data[0] = torch.inf
    with pytest.raises(SingError, match=r"last linear layer \(3, 12\) holds NaN or infinite"):
        wrap_classifier(module)
    module = Small()
    module.net.weight.data[0] = torch.nan
    with pytest.raises(SingError, match="NaN or infinite features"):
        wrap_classifier(module).run(X)
    with pytest.raises(SingError, match="device meta"):
        wrap_classifier(Small().to("meta")).run(X)


@pytest.mark.parametrize(("names", "said"), [
    (["a", "b"], "2 class names for 3 logits"), ("abc", "list of texts"),
    (["a", "", "c"], "none of them empty")])
def test_class_names_that_do_not_fit(names, said):
    with pytest.raises(SingError, match=said):
        wrap_classifier(Small(), class_names=names)


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
    (lambda h: h - h.mean(0), "depend on the others of its batch"),
    (lambda h: 1e-30 * h, "squares float32 cannot hold"),
    (lambda h: torch.where(h[:, :1] > h[:, :1].mean(), h / 0, h), "NaN or infinite features"),
], ids=["dead", "all equal", "noise", "batch", "1e-30", "NaN for some"])
def test_a_study_refuses_features_that_say_nothing(bend, said, study_of):
    with pytest.raises(SingError, match=said):
        study_of(Small(bend)).features("mine")


def test_a_head_without_null_space_loads_and_a_report_of_it_says_so_at_once(study_of, photos):
    clf = wrap_classifier(Small(c=20), to_tensor, name="wide")
    assert clf.run(X)[1].shape == (4, 20)
    with pytest.raises(SingError, match=r"empty null space.*near_null\(energy=0\.01\)"):
        own_study(clf, photos, progress=False)  # which computes no features yet
    # As many classes as features and more, but of lower rank, is fine; one class, too.
    module = Small(c=20)
    module.head.weight.data[5:] = module.head.weight.data[:5].repeat(3, 1)
    assert study_of(module).spaces("mine").null_dim == 7
    assert study_of(Small(c=1)).spaces("mine").null_dim == 11


def test_a_label_that_two_logits_share_is_no_truth(study_of):
    assert set(study_of(Small(), ["zebra", "Lemon", "x"]).truth("mine")[:12]) == {-1, 0, 1}
    with pytest.raises(SingError, match=r"Logits 0, 2 are all called 'zebra'"):
        study_of(Small(), ["zebra", "lemon", "Zebra"]).truth("mine")


def test_one_logit_names_pictures_right_by_its_sign(study_of):
    study = study_of(Small(c=1), ["hammer", "zebra"])
    z = study.logits("mine").double().numpy()
    truth, said = study.truth("mine"), z.argmax(1)
    scored = study.is_scored & (truth >= 0)
    assert set(truth[scored]) == {0, 1}  # not one class that is always right
    np.testing.assert_array_equal(said, z[:, 1] > 0)


def test_features_that_a_study_is_given_must_be_of_its_pictures(study_of):
    study = study_of(Small())
    other = wrap_classifier(Small(), to_tensor, name="other")
    with pytest.raises(SingError, match="of all pictures; got"):
        study.add(other, FeatureSet(drawn(5, 12), drawn(5, 3)))
    with pytest.raises(SingError, match="'mine' already"):
        study.add(wrap_classifier(Small(), to_tensor, name="mine"))
