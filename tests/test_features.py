from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

import sing_nb.pictures.features as module
from sing_nb.errors import SingError
from sing_nb.models.classifier import wrap_classifier
from sing_nb.pictures.features import Running, compute_features, feature_key, part_rows, run_device
from sing_nb.pictures.images import photos


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


@pytest.fixture
def two_threads():
    have = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(have)


def test_real_features_are_those_of_timms_own_loop(lite0, tmp_path, two_threads):
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(lite0.module.state_dict())
    config = timm.data.resolve_data_config(model=model)
    turn = timm.data.create_transform(**config, is_training=False)
    table = photos().head(17)
    with torch.no_grad():
        batch = torch.stack([turn(Image.open(path).convert("RGB")) for path in table["path"]])
        pooled = model.forward_head(model.forward_features(batch), pre_logits=True)
        own = pooled, model.get_classifier()(pooled)
    # They are two groups, the second one short.
    found = compute(lite0, table, tmp_path, batch=32)
    assert torch.get_num_threads() == two_threads
    for part, truth in zip(found, own, strict=True):
        error = (part - truth).norm(dim=1) / truth.norm(dim=1)
        assert 0 < error.max() < 1e-4


class Watched(nn.Sequential):
    """Counts how many threads are inside at once."""

    inside = most = 0

    def forward(self, x):
        if torch.jit.is_tracing():
            raise RuntimeError("not to be traced")
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.05)
        self.inside -= 1
        return super().forward(x)


def test_what_cannot_be_traced_is_never_run_by_two_threads_at_once(table, tmp_path, two_threads):
    watched = Watched(*classifier().module)
    large = pd.concat([table] * 22, ignore_index=True)
    found = compute(wrap_classifier(watched, transform(), name="odd"), large, tmp_path)
    assert watched.most == 1
    assert_close(found, [np.tile(part, (22, 1)) for part in plain_loop(table, classifier())])


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


@pytest.fixture
def bfloat16(monkeypatch):
    monkeypatch.setattr(module, "_has_bfloat16", lambda device: True)


def noted(folder):
    return {
        path.parent.name[-8:] == "bfloat16": json.loads(path.read_text())
        for path in (folder / "kept").rglob("card.json")
    }


def test_a_network_that_loses_by_bfloat16_keeps_float32(table, tmp_path, bfloat16, monkeypatch):
    found = compute(classifier(), table, tmp_path, precision="auto")
    assert torch.equal(found.features, compute(classifier(), table, tmp_path / "b").features)
    card = noted(tmp_path)[False]
    assert card["auto"].startswith("float32: bfloat16 differs by ")
    assert card["rows"] == 3
    # What was decided stays, even if it would be decided otherwise now.
    monkeypatch.setattr(module, "BFLOAT16", 1.0)
    before = state(shards(tmp_path))
    compute(classifier(), table, tmp_path, precision="auto")
    assert state(shards(tmp_path)) == before
    assert set(noted(tmp_path)) == {False}


def test_a_network_that_loses_nothing_takes_bfloat16(table, tmp_path, bfloat16):
    # Its features are means of pixels: no layer runs in bfloat16 before the head.
    layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    model = wrap_classifier(layers, transform(), name="means")
    found = compute(model, table, tmp_path, precision="auto")
    assert noted(tmp_path)[True]["auto"].startswith("bfloat16: ")
    expected = [transform()(Image.open(path)).mean(dim=(1, 2)) for path in table["path"]]
    assert torch.allclose(found.features, torch.stack(expected), atol=1e-6)


def test_without_bfloat16_in_hardware_it_is_not_tried(table, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    compute(classifier(), table, tmp_path, precision="auto", device="cpu")
    assert noted(tmp_path)[False]["auto"] == "float32: no bfloat16 in hardware"


def fitting(monkeypatch, free):
    monkeypatch.setattr(module, "_free_memory", lambda device: free)
    example = torch.rand(4, 3, 16, 16)
    return module._fitting_batch(classifier().run, example, torch.device("cpu"))


def test_the_batch_that_fits_follows_the_free_memory(monkeypatch):
    # A picture has 3 x 16 x 16 numbers; the layers write 8 x 14 x 14, of which two or three are
    # held at once.
    picture, layer = 4 * 3 * 16 * 16, 4 * 8 * 14 * 14
    least, most = 2 * picture + 2 * layer, 3 * picture + 4 * layer
    found = fitting(monkeypatch, 4 * 40 * most)
    assert found in (32, 64)
    assert 2 * found * most > 40 * most
    assert found * least <= 40 * most
    assert fitting(monkeypatch, 2 * 4 * 40 * most) == 2 * found
    assert fitting(monkeypatch, 1e12) == 256
    assert fitting(monkeypatch, 1.0) == 1


def test_the_batch_that_fits_does_not_show(table, tmp_path, monkeypatch):
    whole = compute(classifier(), table, tmp_path / "one")
    monkeypatch.setattr(module, "_free_memory", lambda device: 1.0)
    found = compute(classifier(), table, tmp_path / "two", batch=0)
    assert_close(found, [part.numpy() for part in whole])


def test_free_memory_is_some_of_what_there_is():
    total = psutil.virtual_memory().total
    assert 0 < module._free_memory(torch.device("cpu")) < total


def test_compiling_has_to_pay_off(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setenv("CXX", sys.executable)  # some program that is there
    assert not module._is_worth_compiling("auto", 6830, cpu)
    assert module._is_worth_compiling("auto", 1_281_167, cpu)
    assert not module._is_worth_compiling("never", 1_281_167, cpu)
    assert module._is_worth_compiling("always", 1, cpu)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not module._is_worth_compiling("auto", 1_281_167, cpu)


class Two(nn.Module):
    """Two heads whose logits are averaged, as in a distilled DeiT."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(3, 5), nn.Linear(3, 5)

    def get_classifier(self):
        return self.one, self.other

    def forward(self, x):
        x = x.mean(dim=(2, 3))
        return (self.one(x) + self.other(2 * x)) / 2








def test_a_device_that_is_not_here_is_refused():
    assert run_device("cpu") == torch.device("cpu")
    with pytest.raises(SingError, match="device=auto takes a GPU if there is one"):
        run_device("a toaster")


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
    whole = compute_features(
        classifier(), photos(), folders[0], tmp_path / "whole", key="k", progress=False
    )
    assert torch.equal(found.features, whole.features)
    assert torch.equal(found.logits, whole.logits)


# --- parts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "count"), [(0, 1), (0, 3), (1, 2), (512, 2), (6830, 7), (6830, 20)])
def test_parts_cover_the_table_in_whole_shards(n, count):
    parts = [part_rows(n, (index, count)) for index in range(count)]
    assert [row for part in parts for row in part] == list(range(n))
    assert all(part.start % 512 == 0 for part in parts)
    sizes = [-(-len(part) // 512) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert part_rows(n) == range(n)


@pytest.mark.parametrize("part", [(2, 2), (-1, 2), (0, 0)])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(SingError, match=rf"no part {part[0]} of {part[1]}; expected"):
        part_rows(100, part)


def test_parts_are_the_files_of_a_whole_run(table, tmp_path, small_shards):
    whole = compute(classifier(), table, tmp_path / "whole")
    folders = (tmp_path / "pictures", tmp_path / "parts" / "kept")
    found = [
        compute_features(classifier(), table, *folders, part=(index, 4), progress=False)
        for index in (3, 0, 2, 1)
    ]
    assert sorted(len(part.features) for part in found) == [0, 1, 1, 1]
    empty = next(part for part in found if not len(part.features))
    assert [part.shape for part in empty] == [(0, 8), (0, 5)]
    # In any order, they leave the same files with the same content.
    for one, other in zip(shards(tmp_path / "whole"), shards(tmp_path / "parts"), strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes()
    before = state(shards(tmp_path / "parts"))
    joined = compute_features(classifier(), table, *folders, progress=False)
    assert state(shards(tmp_path / "parts")) == before
    assert torch.equal(joined.features, whole.features)
