from __future__ import annotations

import io
import multiprocessing
import sys
import threading

import pytest
import torch
from torch import nn
from torchvision import transforms
from tqdm.auto import tqdm

from sing_nb.models.classifier import wrap_classifier
from sing_nb.pictures import features
from sing_nb.pictures.images import photos, picture_table, store_pictures
from sing_nb.progress import Stopped, progress_bar


class Told(list):
    """What a function was told; it may say stop at a step."""

    def __init__(self, stop=None):
        super().__init__()
        self.stop = stop

    def __call__(self, done, total, what):
        self.append((done, total, what))
        if done == self.stop:
            raise Stopped


ARGUMENTS = {"total": 3, "desc": "drawing", "unit": "picture"}


def test_a_function_is_told_the_start_and_every_step():
    told = Told()
    with progress_bar(told, initial=1, **ARGUMENTS) as bar:
        bar.update(1)
        bar.update(1)
    assert told == [(1, 3, "drawing"), (2, 3, "drawing"), (3, 3, "drawing")]


def test_around_an_iterable_a_step_is_told_when_it_is_done():
    told, seen = Told(), []
    for letter in progress_bar(told, iter("abc"), **ARGUMENTS):
        seen.append((letter, len(told)))
    assert seen == [("a", 1), ("b", 2), ("c", 3)]
    assert [done for done, _, _ in told] == [0, 1, 2, 3]


def test_what_the_function_raises_ends_the_work():
    seen = iter(progress_bar(Told(stop=2), "abc", **ARGUMENTS))
    assert [next(seen), next(seen)] == ["a", "b"]
    with pytest.raises(Stopped):
        next(seen)


def test_nothing_is_told_where_there_is_nothing_to_do():
    told = Told()
    with progress_bar(told, total=0, desc="drawing", unit="picture"):
        pass
    assert told == []


@pytest.mark.parametrize("progress", [True, False])
def test_yes_and_no_are_tqdm(progress, capsys):
    with progress_bar(progress, file=sys.stderr, **ARGUMENTS) as bar:
        bar.update(2)
        assert isinstance(bar, tqdm)
        # Not on a terminal here, where tqdm stays silent either way.
        assert bar.disable
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_drawn_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for progress, total, drawn in ((True, 3, True), (False, 3, False), (True, 0, False)):
        screen = Terminal()
        with progress_bar(progress, total=total, desc="drawing", unit="picture", file=screen):
            pass
        assert ("drawing" in screen.getvalue()) is drawn


# --- stopping real work -------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """Three photos, a small network, and a shard for each photo."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    turn = transforms.Compose([transforms.Resize((16, 16)), transforms.ToTensor()])
    monkeypatch.setattr(features, "SHARD", 1)
    return wrap_classifier(layers, turn, name="tiny/net"), photos().head(3)


@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_features_keep_whole_shards_and_end_their_processes(small, tmp_path, workers):
    model, table = small
    folders = tmp_path / "pictures", tmp_path / "kept"
    running, told = features.Running(workers=workers), Told(stop=2)
    threads = set(threading.enumerate())
    with pytest.raises(Stopped) as held:  # as a notebook holds the last error and its frames
        features.compute_features(model, table, *folders, running=running, progress=told)
    assert told == [(done, 3, "features of tiny/net") for done in (0, 1, 2)]
    files = sorted(folders[1].rglob("*.safetensors"))
    assert [path.stem for path in files] == ["0000", "0001"]
    assert multiprocessing.active_children() == []
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)  # a closed queue's thread ends by itself, a moment after its process
        assert not thread.is_alive(), thread
    assert held.tb is not None

    written, again = [path.stat().st_mtime_ns for path in files], Told()
    found = features.compute_features(model, table, *folders, progress=again)
    assert [done for done, _, _ in again] == [2, 3]
    assert [path.stat().st_mtime_ns for path in files] == written
    whole = features.compute_features(model, table, *folders[:1], tmp_path / "x", progress=False)
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
