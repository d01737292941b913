from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

import sing_nb.pictures.features as module
from sing_nb.errors import SingError
from sing_nb.models.classifier import wrap_classifier
from sing_nb.pictures.features import Running, compute_features, feature_key
from sing_nb.pictures.images import photos


def transform(side=16):
    return transforms.Compose([transforms.Resize((side, side)), transforms.ToTensor()])


def layers(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5))


def classifier(seed=0, side=16):
    return wrap_classifier(layers(seed), transform(side), name="tiny/net")


@pytest.fixture(scope="module")
def table():
    return photos().head(3)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "SHARD", 1)


@pytest.fixture
def two_threads():
    have = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(have)


def plain_loop(table, model):
    rows = []
    with torch.no_grad():
        for path in table["path"]:
            x = transform()(Image.open(path).convert("RGB"))[None]
            rows.append((model.module[:-1](x)[0].numpy(), model.module(x)[0].numpy()))
    return tuple(np.array(part) for part in zip(*rows))


def compute(model, table, folder, *, part=None, **running):
    return compute_features(
        model, table, folder / "pictures", folder / "kept", running=Running(**running), part=part,
        progress=False)


def shards(folder):
    return sorted((folder / "kept").rglob("*.safetensors"))


def state(files):
    return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files]


def assert_close(found, expected, tolerance=1e-4):
    for part, truth in zip(found, expected, strict=True):
        assert part.shape == truth.shape
        error = np.linalg.norm(part.numpy() - np.asarray(truth)) / np.linalg.norm(truth)
        assert error < tolerance


def test_features_are_those_of_a_plain_loop(table, tmp_path, two_threads):
    large = pd.concat([table] * 4, ignore_index=True)  # three groups, the last one short
    found = compute(classifier(), large, tmp_path)
    assert_close(found, [np.tile(part, (4, 1)) for part in plain_loop(table, classifier())])


@pytest.mark.parametrize("short", ["lite0", "lite1", "lite2"])
def test_real_features_are_those_of_timms_own_loop(short, tmp_path):
    import sing_nb

    ours = sing_nb.load_classifier(short)
    model = timm.create_model(f"tf_efficientnet_{short}").eval()
    model.load_state_dict(ours.module.state_dict())
    config = timm.data.resolve_data_config(model=model)
    turn = timm.data.create_transform(**config, is_training=False)
    table = photos().head(6)
    with torch.no_grad():
        batch = torch.stack([turn(Image.open(path).convert("RGB")) for path in table["path"]])
        pooled = model.forward_head(model.forward_features(batch), pre_logits=True)
        own = pooled, model.get_classifier()(pooled)
    assert_close(compute(ours, table, tmp_path), own, tolerance=1e-5)


class Watched(nn.Sequential):
    """Counts how many threads are inside at once."""

    inside = most = 0

    def forward(self, x):
        if torch.jit.is_tracing():
            raise RuntimeError("not to be traced")
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.02)
        self.inside -= 1
        return super().forward(x)


def test_what_cannot_be_traced_is_never_run_by_two_threads_at_once(table, tmp_path, two_threads):
    watched, large = Watched(*layers()), pd.concat([table] * 8, ignore_index=True)
    found = compute(wrap_classifier(watched, transform(), name="odd"), large, tmp_path, workers=4)
    assert watched.most == 1
    assert_close(found, [np.tile(part, (8, 1)) for part in plain_loop(table, classifier())])


@pytest.mark.parametrize("damage", ["deleted", "truncated", "another's"])
def test_only_a_lost_shard_is_computed_again(table, tmp_path, small_shards, damage):
    first = compute(classifier(), table, tmp_path)
    files = shards(tmp_path)
    before = state(files)
    if damage == "deleted":
        files[1].unlink()
    else:
        files[1].write_bytes(
            files[1].read_bytes()[:-10] if damage == "truncated" else files[0].read_bytes())
    again = compute(classifier(), table, tmp_path)
    assert [a == b for a, b in zip(before, state(files), strict=True)] == [True, False, True]
    assert torch.equal(again.features, first.features)
    compute(classifier(seed=1), table, tmp_path)  # another's shards lie elsewhere
    assert torch.equal(compute(classifier(), table, tmp_path).features, first.features)


def test_the_key_follows_weights_statistics_transform_and_pictures(table, tmp_path):
    model = classifier()
    key = feature_key(model, table)
    compute(model, table, tmp_path)
    assert feature_key(model, table) == feature_key(classifier(), table) == key
    moved = classifier()
    moved.module[1].running_mean += 1
    others = [
        feature_key(moved, table), feature_key(classifier(seed=1), table),
        feature_key(classifier(side=20), table), feature_key(classifier(), table.head(2)),
        feature_key(classifier(), table.iloc[::-1])]
    assert len({key, *others}) == 6


def test_what_gives_no_features_is_refused_and_nothing_is_kept(table, tmp_path):
    model = classifier()
    model.module[0].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(SingError, match="NaN"):
        compute(model, table, tmp_path)
    with pytest.raises(SingError, match="has no transform"):
        compute(wrap_classifier(layers(), name="tiny"), table, tmp_path)
    with pytest.raises(SingError, match="device=auto takes a GPU if there is one"):
        compute(classifier(), table, tmp_path, device="a toaster")
    assert not shards(tmp_path)


def test_mixed_precision_agrees_with_float32_and_is_kept_apart(table, tmp_path):
    exact = compute(classifier(), table, tmp_path)
    mixed = compute(classifier(), table, tmp_path, precision="bfloat16")
    error = (mixed.features - exact.features).norm() / exact.features.norm()
    assert 0 < error < 0.02
    # The logits are those of the head in float32, whatever the network ran in.
    weight, bias = classifier().head
    again = mixed.features.numpy() @ weight.numpy().T + bias.numpy()
    assert np.allclose(mixed.logits.numpy(), again, atol=1e-5)
    assert len(list((tmp_path / "kept").iterdir())) == 2


# --- killed -------------------------------------------------------------------------------------

SLOW = """
import sys, time
import torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_features
import sing_nb.pictures.features as features

def slow(picture, turn=test_features.transform()):
    time.sleep(0.1)
    return turn(picture)

features.SHARD = 2
model = test_features.classifier()
model.transform = slow
torch.set_num_threads(2)
folder = Path(sys.argv[2])
features.compute_features(
    model, test_features.photos(), folder / "pictures", folder / "kept", key="k", progress=False
)
"""


@pytest.mark.slow
def test_a_killed_run_keeps_every_shard_that_it_finished(tmp_path, monkeypatch):
    run = subprocess.Popen([sys.executable, "-c", SLOW, str(Path(__file__).parent), str(tmp_path)])
    try:
        deadline = time.monotonic() + 120
        while len(shards(tmp_path)) < 3 and time.monotonic() < deadline:
            assert run.poll() is None
            time.sleep(0.01)
    finally:
        run.kill()
        run.wait()
    files = shards(tmp_path)
    before = state(files)
    assert 3 <= len(files) < 10
    monkeypatch.setattr(module, "SHARD", 2)
    folders = (tmp_path / "pictures", tmp_path / "kept")
    found = compute_features(classifier(), photos(), *folders, key="k", progress=False)
    assert state(files) == before
    assert len(shards(tmp_path)) == 10
    assert torch.equal(found.features, compute(classifier(), photos(), tmp_path / "whole").features)


# --- parts --------------------------------------------------------------------------------------


def test_parts_are_the_files_of_a_whole_run(table, tmp_path, small_shards):
    whole = compute(classifier(), table, tmp_path / "whole")
    parts = tmp_path / "parts"
    found = [compute(classifier(), table, parts, part=(index, 4)) for index in (3, 0, 2, 1)]
    assert sorted(len(part.features) for part in found) == [0, 1, 1, 1]
    empty = next(part for part in found if not len(part.features))
    assert [part.shape for part in empty] == [(0, 8), (0, 5)]
    # In any order, they leave the same files with the same content.
    for one, other in zip(shards(tmp_path / "whole"), shards(parts), strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes()
    before = state(shards(parts))
    assert torch.equal(compute(classifier(), table, parts).features, whole.features)
    assert state(shards(parts)) == before
