from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from sing_nb.errors import SingError
from sing_nb.method.translator import Translator
from sing_nb.models.classifier import wrap_classifier
from sing_nb.models.load import model_names
from sing_nb.models.published import import_translator, published_translators

M, D = 20, 768
METADATA = {
    "model_name": "densenet", "translator_name": "linear", "architecture": "linear",
    "embedding_backend": "kakao_karlo_v1_alpha_image_variations", "in_dim": M, "out_dim": D,
    "hidden_dim": M, "checkpoint_file": "best.pt",
}


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


def test_a_published_translator_is_an_affine_map(tmp_path):
    translator = import_translator(write(tmp_path))
    f = np.random.default_rng(0).standard_normal((3, M))
    state = weights()
    expected = f @ state["weight"].double().numpy().T + state["bias"].double().numpy()
    np.testing.assert_allclose(translator(torch.tensor(f)), expected, atol=1e-5)
    # Not normalised: the length of an embedding is kept.
    assert (translator(torch.tensor(f)).norm(dim=1) > 10).all()


def test_its_card_says_where_it_is_from(tmp_path):
    folder = write(tmp_path / "linear")
    card = import_translator(folder, classifier("densenet121")).card
    assert card["model"] == "densenet121"
    assert card["published_name"] == "densenet/linear"
    assert "not fitted here" in card["origin"]
    assert "not normalised" in card["targets"]
    assert card["backend"] == METADATA["embedding_backend"]
    assert card["sha256"] == hashlib.sha256((folder / "best.pt").read_bytes()).hexdigest()
    # And it is kept when the translator is saved as this package's own.
    kept = Translator.load(import_translator(folder).save(tmp_path / "kept.safetensors"))
    assert kept.card["sha256"] == card["sha256"]


def test_the_right_one_is_found_in_the_authors_folder(tmp_path):
    write(tmp_path / "densenet" / "linear")
    write(tmp_path / "convnext" / "linear", model_name="convnext")
    found = import_translator(tmp_path, classifier("convnext-base"))
    assert found.card["published_name"] == "convnext/linear"
    long_name = "torchvision/densenet121:IMAGENET1K_V1"
    assert import_translator(tmp_path, classifier(long_name)).card["model"] == long_name


def test_a_translator_of_another_classifier_is_refused(tmp_path):
    folder = write(tmp_path)
    with pytest.raises(SingError, match=r"reads 20 features; densenet121 has 21"):
        import_translator(folder, classifier("densenet121", 21))
    # Of the same width, but other features.
    with pytest.raises(SingError, match=r"take the one named convnext"):
        import_translator(folder, classifier("convnext-base"))
    with pytest.raises(SingError, match=r"none was published for it"):
        import_translator(folder, classifier("swin-base"))
    # What nobody knows is taken at its width.
    assert import_translator(folder, classifier("my own")).card["model"] == "my own"


def test_keys_of_compiled_models_are_read(tmp_path):
    state = {f"_orig_mod.{key}": value for key, value in weights().items()}
    translator = import_translator(write(tmp_path, state))
    torch.testing.assert_close(translator.weight, weights()["weight"])


@pytest.mark.parametrize("key", [key for key in METADATA if key != "hidden_dim"])
def test_incomplete_metadata_is_refused(key, tmp_path):
    with pytest.raises(SingError, match=f"lacks {key}"):
        import_translator(write(tmp_path, **{key: None}))


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"in_dim": "20"}, "lacks in_dim or has another type"),
        ({"architecture": "3layer"}, "only 'linear' is read"),
        ({"embedding_backend": "open_clip"}, "Another CLIP needs another translator"),
        ({"out_dim": 512}, "writes 512 dimensions"),
        ({"in_dim": 21}, r"promises .*21"),
        ({"checkpoint_file": "../best.pt"}, "leaves its folder"),
        ({"checkpoint_file": "/etc/hostname"}, "leaves its folder"),
        ({"checkpoint_file": "other.pt"}, "has no other.pt"),
    ],
)
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
        ([1, 2], "holds {}"),
        ({"weight": torch.ones(D, M)}, "holds"),
        (weights() | {"more": torch.ones(1)}, "more"),
        (weights(M + 1), "promises"),
        (weights() | {"bias": torch.full((D,), torch.nan)}, "NaN"),
        (weights() | {"bias": torch.ones(D, dtype=torch.int64)}, "whole numbers"),
    ],
    ids=["code", "list", "no-bias", "more", "width", "nan", "integers"],
)
def test_checkpoints_that_are_not_its_weights_are_refused(state, told, tmp_path):
    with pytest.raises(SingError, match=told):
        import_translator(write(tmp_path, state))


def test_missing_and_broken_files_are_told(tmp_path):
    with pytest.raises(SingError, match=r"There is no .*metadata\.yaml"):
        import_translator(tmp_path)
    folder = write(tmp_path)
    (folder / "best.pt").write_bytes(b"version https://git-lfs/spec\noid sha256:0\n")
    with pytest.raises(SingError, match="git lfs pull"):
        import_translator(folder)
    (folder / "metadata.yaml").write_text("a: [")
    with pytest.raises(SingError, match="is not YAML"):
        import_translator(folder)


def test_the_thirteen_have_a_classifier_each():
    names = published_translators()
    assert len(names) == 13
    assert all(model_names()[short]["translator"] == theirs for theirs, short in names.items())
