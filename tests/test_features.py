from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

import sing_nb.features as module
from sing_nb.errors import SingError
from sing_nb.features import Running, compute_features, feature_key, run_device
from sing_nb.heads import wrap_classifier
from sing_nb.images import photos


def transform(side=16):
    return transforms.Compose([transforms.Resize((side, side)), transforms.ToTensor()])


def classifier(seed=0, side=16):
    torch.manual_seed(seed)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    )
    return wrap_classifier(layers, transform(side), name="tiny/net")


@pytest.fixture(scope="module")
def table():
    return photos().head(3)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD", 1)


def plain_loop(table, model):
    rows = []
    with torch.no_grad():
        for path in table["path"]:
            x = transform()(Image.open(path).convert("RGB"))[None]
            pooled = model.module[:-1](x)
            rows.append((pooled[0].numpy(), model.module(x)[0].numpy()))
    return tuple(np.array(part) for part in zip(*rows))


def compute(model, table, folder, **running):
    return compute_features(
        model, table, folder / "pictures", folder / "kept", running=Running(**running),
        progress=False,
    )


def shards(folder):
    return sorted((folder / "kept").rglob("*.safetensors"))


def state(files):
    return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files]


def assert_close(found, expected):
    for part, truth in zip(found, expected, strict=True):
        assert part.shape == truth.shape
        error = np.linalg.norm(part.numpy() - truth) / np.linalg.norm(truth)
        assert error < 1e-4


def test_features_are_those_of_a_plain_loop(table, tmp_path):
    model = classifier()
    found = compute(model, table, tmp_path)
    assert found.features.shape == (3, 8)
    assert_close(found, plain_loop(table, model))


def test_batches_and_shards_do_not_show(table, tmp_path, small_shards, monkeypatch):
    whole = compute(classifier(), table, tmp_path / "one")
    monkeypatch.setattr(module, "SHARD", 2)
    found = compute(classifier(), table, tmp_path / "two", batch=1)
    assert [len(shards(tmp_path / name)) for name in ("one", "two")] == [3, 2]
    assert_close(found, [part.numpy() for part in whole])


@pytest.mark.parametrize("damage", ["deleted", "truncated"])
def test_only_a_lost_shard_is_computed_again(table, tmp_path, small_shards, damage):
    first = compute(classifier(), table, tmp_path)
    files = shards(tmp_path)
    before = state(files)
    assert len(files) == 3
    if damage == "deleted":
        files[1].unlink()
    else:
        files[1].write_bytes(files[1].read_bytes()[:-10])
    again = compute(classifier(), table, tmp_path)
    after = state(files)
    assert [a == b for a, b in zip(before, after)] == [True, False, True]
    assert_close(again, [part.numpy() for part in first])


def test_what_is_complete_is_only_loaded(table, tmp_path):
    first = compute(classifier(), table, tmp_path)
    before = state(shards(tmp_path))
    again = compute(classifier(), table, tmp_path)
    assert state(shards(tmp_path)) == before
    assert torch.equal(again.features, first.features)


def test_the_key_follows_weights_transform_and_pictures(table):
    key = feature_key(classifier(), table)
    assert feature_key(classifier(), table) == key
    assert feature_key(classifier(seed=1), table) != key
    assert feature_key(classifier(side=20), table) != key
    assert feature_key(classifier(), table.head(2)) != key
    assert feature_key(classifier(), table.iloc[::-1]) != key


def test_the_key_sees_statistics_that_are_no_parameters(table):
    model = classifier()
    key = feature_key(model, table)
    model.module[1].running_mean += 1
    assert feature_key(model, table) != key


def test_the_key_survives_the_computation(table, tmp_path):
    model = classifier()
    key = feature_key(model, table)
    compute(model, table, tmp_path)
    assert feature_key(model, table) == key


def test_other_weights_do_not_touch_what_is_kept(table, tmp_path):
    first = compute(classifier(), table, tmp_path)
    other = compute(classifier(seed=1), table, tmp_path)
    assert not torch.allclose(first.features, other.features)
    assert torch.equal(compute(classifier(), table, tmp_path).features, first.features)


def test_nan_features_are_refused_and_not_kept(table, tmp_path):
    model = classifier()
    model.module[0].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(SingError, match="NaN or infinite features"):
        compute(model, table, tmp_path)
    assert not shards(tmp_path)


def test_a_classifier_without_transform_is_refused(table, tmp_path):
    model = classifier()
    model.transform = None
    with pytest.raises(SingError, match="has no transform"):
        compute(model, table, tmp_path)


def test_worker_processes_give_the_same_pictures_in_the_same_order(table, tmp_path, small_shards):
    alone = compute(classifier(), table, tmp_path / "one")
    found = compute(classifier(), table, tmp_path / "two", workers=2, batch=2)
    assert_close(found, [part.numpy() for part in alone])


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.02), ("float16", 0.005)])
def test_mixed_precision_agrees_with_float32_and_is_kept_apart(
    table, tmp_path, precision, tolerance
):
    exact = compute(classifier(), table, tmp_path)
    mixed = compute(classifier(), table, tmp_path, precision=precision)
    assert mixed.features.dtype == torch.float32
    error = (mixed.features - exact.features).norm() / exact.features.norm()
    assert 0 < error < tolerance
    # The logits are those of the head in float32, whatever the network ran in.
    weight, bias = classifier().head
    again = mixed.features.numpy() @ weight.numpy().T + bias.numpy()
    assert np.allclose(mixed.logits.numpy(), again, atol=1e-5)
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_a_device_that_is_not_here_is_refused():
    assert run_device("cpu") == torch.device("cpu")
    with pytest.raises(SingError, match="device=auto takes a GPU if there is one"):
        run_device("a toaster")
