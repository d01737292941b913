"""Caches that lie, disks that are full or read-only: noticed, said in one line, made again."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sing_nb import Study, wrap_classifier
from sing_nb.pictures.fetch import cache_dir
from sing_nb.study import tables

ROOT = Path(__file__).resolve().parents[2]


def flip(path):
    """Turn one bit of what it holds; what describes columns has no checksum in Parquet."""
    content = bytearray(path.read_bytes())
    content[len(content) // 10] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "one bit": flip}
each_damage = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)


def to_tensor(picture):
    pixels = np.asarray(picture.resize((8, 8)), dtype=np.float32).copy()
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def study_of(photos):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.Linear(12, 3))
    study = Study(
        "report", progress=False, models=["tiny"], pictures=f"folder:{photos}", also_fit="none",
        bootstrap_draws=20, folds=2)
    study.add(wrap_classifier(module, to_tensor, ["zebra", "hammer", "lemon"], "tiny"))
    return study


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory):
    """Cache and build folder of a finished study of a small classifier, and its results."""
    home = tmp_path_factory.mktemp("made")
    (home / "cache").mkdir()
    if (cache_dir() / "texts").is_dir():  # the names of the tower's classes: seconds of encoding
        shutil.copytree(cache_dir() / "texts", home / "cache" / "texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SING_CACHE", str(home / "cache"))
        patch.setenv("SING_BUILD", str(home / "build"))
        results = results_of(study_of(photos))
    return home, results


def results_of(study):
    model = study.config.models[0]
    return {
        "features": study.features(model), "embeddings": study.embeddings,
        "translators": torch.cat([one.weight for one in study.translators(model)]),
        "images": torch.tensor(tables.images(study, model)["image_score"].to_numpy())}


@pytest.fixture
def spoilt(made, tmp_path, monkeypatch):
    """Makes the study anew, from a copy of those files that may be spoilt before."""
    home, results = made
    shutil.copytree(home / "build", tmp_path / "build")
    monkeypatch.setenv("SING_CACHE", str(home / "cache"))
    monkeypatch.setenv("SING_BUILD", str(tmp_path / "build"))
    return tmp_path / "build" / "report", results


KINDS = {
    "features": "features/tiny-*/0000.safetensors", "embeddings": "features/embeddings-*",
    "translators": "translators/tiny-*-1.safetensors", "images": "tables/images-tiny-*"}


@each_damage
@pytest.mark.parametrize("kind", KINDS)
def test_a_spoilt_file_is_noticed_and_made_again(kind, damage, spoilt, photos, capsys):
    folder, expected = spoilt
    (path,) = folder.glob(KINDS[kind])
    right = path.read_bytes()
    damage(path)
    capsys.readouterr()
    found = results_of(study_of(photos))
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)
    said = [line for line in capsys.readouterr().err.splitlines() if "made again" in line]
    assert len(said) == 1
    assert path.name in said[0]
    assert path.read_bytes() == right
    results_of(study_of(photos))
    assert "made again" not in capsys.readouterr().err


def namespace():
    """A prefix for commands in a space where discs can be mounted; None where there is none."""
    for way in (["unshare", "-m"], ["unshare", "-rm"]):
        try:
            trial = [*way, "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
            if subprocess.run(trial, capture_output=True, check=False).returncode == 0:
                return way
        except OSError:
            pass
    return None


WAY = namespace() if sys.platform == "linux" else None


@pytest.mark.skipif(WAY is None, reason="no disks can be mounted here")
def test_a_full_disk_and_one_that_is_read_only(tmp_path):
    code = f"""
        import os, subprocess
        from pathlib import Path
        import pandas as pd, torch
        from sing_nb import SingError
        from sing_nb.pictures.cache import keep, keep_table, kept, kept_table
        from sing_nb.study.heads import kept_spaces
        from sing_nb.cli import main

        def say(act):
            try:
                return act()
            except SingError as error:
                print("SAID", error)

        home = Path({str(tmp_path)!r})
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(home)], check=True)
        os.environ["SING_BUILD"] = os.environ["SING_CACHE"] = str(home)
        table = pd.DataFrame({{"x": range(10)}})
        keep_table(home / "one.parquet", table)
        (home / "large").write_bytes(b"x" * 200_000)
        say(lambda: keep(home / "two.safetensors", {{"a": torch.randn(99_000)}}))
        say(lambda: keep_table(home / "one.parquet", pd.DataFrame({{"x": torch.randn(99_000)}})))
        assert kept_table(home / "one.parquet").equals(table)
        print(sorted(os.listdir(home)))
        # Nothing is left half: with room, the same works.
        (home / "large").unlink()
        keep(home / "two.safetensors", {{"a": torch.ones(9)}})
        assert kept(home / "two.safetensors")

        subprocess.run(["mount", "-o", "remount,ro", str(home)], check=True)
        assert kept_table(home / "one.parquet").equals(table)
        say(lambda: keep(home / "three.safetensors", {{"a": torch.ones(9)}}))
        spaces = kept_spaces(torch.ones(2, 5))
        print("null", spaces.null_dim)
        print("exit", main(["fetch", "--profile", "smoke"]))
    """
    done = subprocess.run([*WAY, sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT,
                          capture_output=True, text=True, timeout=120)
    out = done.stdout
    assert done.returncode == 0, done.stderr[-3000:]
    assert out.count("SAID") == 3
    assert out.count("No space left on device") == 2
    assert "['large', 'one.parquet']" in out
    assert "Read-only file system" in out
    assert "null 4" in out
    assert "exit 1" in out
