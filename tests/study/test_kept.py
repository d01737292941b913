"""What one process leaves to the next: tensors, decompositions, heads, keys of features."""


import pandas as pd
import pytest
import safetensors.torch
import torch

import sing_nb
from sing_nb.method.nullspace import HeadSpaces
from sing_nb.pictures.features import feature_key
from sing_nb.study.heads import kept_spaces


def flip(path, at=-1):
    """Turn one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "heads"


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_kept_spaces_are_the_same_to_the_bit_and_those_of_their_weight(shape, cache):
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    weight[-1] = weight[:-1].sum(0)
    f = torch.randn(4, shape[1], generator=torch.Generator().manual_seed(1))
    fresh = HeadSpaces.from_weight(weight)
    for turn in range(3):  # computed, read, and computed again where one bit is wrong
        spaces = kept_spaces(weight)
        (path,) = cache.iterdir()
        assert repr(spaces) == repr(fresh)
        assert spaces.tolerance == fresh.tolerance
        assert torch.equal(spaces.singular_values, fresh.singular_values)
        assert torch.equal(spaces.null(f), fresh.null(f))
        if turn == 1:
            flip(path)
    assert HeadSpaces.load(path)  # written anew
    other = kept_spaces(weight.flip(0) + 1)
    assert not torch.equal(other.singular_values, fresh.singular_values)
    assert len(list(cache.iterdir())) == 2


@pytest.fixture
def own(tmp_path):
    """A checkpoint of one's own, and its name."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=7)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "own.safetensors")
    return model.eval(), f"timm/test_resnet:{tmp_path / 'own.safetensors'}"


def test_a_kept_classifier_is_the_one_that_was_built(own, cache):
    model, name = own
    first, second = sing_nb.load_classifier(name), sing_nb.load_classifier(name)
    assert len(list(cache.iterdir())) == 1
    for clf in (first, second):
        assert not clf.is_built
        assert torch.equal(clf.head.weight, model.get_classifier().weight)
        assert torch.equal(clf.head.bias, model.get_classifier().bias)
        assert clf.class_names is None
        assert clf.title == "test_resnet (own)"
        assert "classes=7" in repr(clf)
        assert not clf.is_built
        x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            torch.testing.assert_close(clf.run(x)[1], model(x))
        assert clf.is_built
        assert clf.title == "test_resnet (own)"
        assert clf.transform is not None
    with pytest.raises(AttributeError, match="wieght"):
        _ = second.wieght


def test_a_feature_key_is_remembered_until_the_network_is_built(own, cache):
    name, table = own[1], pd.DataFrame({"picture": ["a", "b"]})
    clf = sing_nb.load_classifier(name)
    key = feature_key(clf, table)
    built = sing_nb.load_classifier(name)
    assert built.module
    assert key == feature_key(built, table)
    again = sing_nb.load_classifier(name)
    assert feature_key(again, table) == key
    assert not again.is_built  # it was read
    assert feature_key(again, table.iloc[::-1]) != key
    # In memory weights may be changed: then they count, and not what is remembered.
    again.module.get_classifier().weight[0, 0] += 1
    assert feature_key(again, table) != key
    assert feature_key(sing_nb.load_classifier(name), table) == key
    (path,) = [p for p in cache.glob("*.txt") if p.read_text() == key]
    path.write_text("nonsense")
    assert feature_key(sing_nb.load_classifier(name), table) == key
