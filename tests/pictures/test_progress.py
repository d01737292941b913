from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torchvision import transforms

from sing_nb.models.classifier import wrap_classifier
from sing_nb.pictures import features
from sing_nb.pictures.images import photos, picture_table, store_pictures
from sing_nb.progress import Stopped


class Told(list):
    """What a function was told; it may say stop at a step."""

    def __init__(self, stop=None):
        super().__init__()
        self.stop = stop

    def __call__(self, done, total, what):
        self.append((done, total, what))
        if done == self.stop:
            raise Stopped


def test_stopped_features_keep_whole_shards_and_end_their_threads(tmp_path, monkeypatch):
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    turn = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])
    model, table = wrap_classifier(layers, turn, name="tiny/net"), photos().head(3)
    monkeypatch.setattr(features, "SHARD", 1)
    folders, told = (tmp_path / "pictures", tmp_path / "kept"), Told(stop=2)
    threads = set(threading.enumerate())
    with pytest.raises(Stopped) as held:  # as a notebook holds the last error and its frames
        features.compute_features(model, table, *folders, progress=told)
    assert told == [(done, 3, "features of tiny/net") for done in (0, 1, 2)]
    files = sorted(folders[1].rglob("*.safetensors"))
    assert [path.stem for path in files] == ["0000", "0001"]
    assert set(threading.enumerate()) == threads
    assert held.tb is not None

    written, again = [path.stat().st_mtime_ns for path in files], Told()
    found = features.compute_features(model, table, *folders, progress=again)
    assert [done for done, _, _ in again] == [2, 3]
    assert [path.stat().st_mtime_ns for path in files] == written
    whole = features.compute_features(model, table, folders[0], tmp_path / "x", progress=False)
    assert torch.equal(found.features, whole.features)


def test_stopped_drawing_keeps_whole_pictures(tmp_path):
    table = picture_table(views=1, clipart_views=0, seed=0, stamp_subjects=40, clipart_files=0)
    drawn = table[table["source"] == "stamp"]
    with pytest.raises(Stopped):
        store_pictures(drawn, tmp_path, progress=Told(stop=2))
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert 2 <= len(kept) < len(drawn)
    told = Told()
    store_pictures(drawn, tmp_path, progress=told)
    assert told[0] == (0, len(drawn) - len(kept), "drawing pictures")
    assert len(list(tmp_path.glob("*.jpg"))) == len(drawn)
