"""The authors' folder layout, written with random weights; what does not fit it is refused."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from sing_nb.errors import SingError
from sing_nb.models.classifier import wrap_classifier
from sing_nb.models.load import model_names
from sing_nb.models.published import import_translator

M, D = 20, 768
METADATA = {
    "model_name": "densenet", "translator_name": "linear", "architecture": "linear",
    "embedding_backend": "kakao_karlo_v1_alpha_image_variations", "in_dim": M, "out_dim": D,
    "hidden_dim": M, "checkpoint_file": "best.pt"}


def write(folder, state=None, **metadata):
    """A folder of the authors' layout with random weights; None takes a key away."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {k: v for k, v in (METADATA | metadata).items() if v is not None}
    (folder / "metadata.yaml").write_text(yaml.safe_dump(found, sort_keys=False))
    torch.save(weights() if state is None else state, folder / "best.pt")
    return folder


def weights(m=M):
    generator = torch.Generator().manual_seed(0)
    return nn.ParameterDict({  # their files hold an OrderedDict of tensors
        "weight": torch.randn(D, m, generator=generator),
        "bias": torch.randn(D, generator=generator),
    }).state_dict()


def classifier(name, m=M):
    return wrap_classifier(nn.Sequential(nn.Flatten(), nn.Linear(m, 5)), name=name)


def test_a_published_translator_is_an_affine_map_whose_card_says_where_it_is_from(tmp_path):
    folder = write(tmp_path)
    translator = import_translator(folder, classifier("densenet121"))
    f = np.random.default_rng(0).standard_normal((3, M))
    state = weights()
    expected = f @ state["weight"].double().numpy().T + state["bias"].double().numpy()
    np.testing.assert_allclose(translator(torch.tensor(f)), expected, atol=1e-5)  # no unit vectors
    card = translator.card
    assert (card["model"], card["published_name"]) == ("densenet121", "densenet/linear")
    assert card["sha256"] == hashlib.sha256((folder / "best.pt").read_bytes()).hexdigest()


def test_the_right_one_is_found_in_the_authors_folder(tmp_path):
    write(tmp_path / "densenet" / "linear")
    write(tmp_path / "convnext" / "linear", model_name="convnext")
    found = import_translator(tmp_path, classifier("convnext-base"))
    assert found.card["published_name"] == "convnext/linear"
    long_name = "torchvision/densenet121:IMAGENET1K_V1"
    assert import_translator(tmp_path, classifier(long_name)).card["model"] == long_name


@pytest.mark.parametrize(
    ("name", "m", "told"),
    [
        ("densenet121", 21, "reads 20 features; densenet121 has 21"),
        ("convnext-base", M, "published for it is convnext"),  # of one width, but other features
        ("swin-base", M, "published for it is none")])
def test_a_translator_of_another_classifier_is_refused(name, m, told, tmp_path):
    with pytest.raises(SingError, match=told):
        import_translator(write(tmp_path), classifier(name, m))


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"model_name": None}, "lacks model_name"),
        ({"architecture": "3layer"}, "lacks architecture or has something else"),
        ({"embedding_backend": "open_clip"}, "Another CLIP needs another translator"),
        ({"in_dim": 21}, r"promises .*21"),
        ({"checkpoint_file": "../best.pt"}, "leaves its folder"),
        ({"checkpoint_file": "other.pt"}, "there is no file .*other.pt")])
def test_metadata_that_does_not_fit_is_refused(metadata, told, tmp_path):
    with pytest.raises(SingError, match=told):
        import_translator(write(tmp_path, **metadata))


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code of a pickle ran')",)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (Code(), "code in a pickle is never run"),
        ([1, 2], "could not be read as weights"),
        ({"weight": torch.ones(D, M)}, "promises"),
        (weights(M + 1), "promises"),
        (weights() | {"bias": torch.full((D,), torch.nan)}, "finite numbers")],
    ids=["code", "list", "no-bias", "width", "nan"])
def test_checkpoints_that_are_not_its_weights_are_refused(state, told, tmp_path):
    with pytest.raises(SingError, match=told):
        import_translator(write(tmp_path, state))


def test_the_thirteen_have_a_classifier_each():
    assert sum("translator" in row for row in model_names().values()) == 13
