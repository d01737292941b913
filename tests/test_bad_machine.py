"""Caches that lie, disks that are full or read-only, folders that are files, two runs at once.

What is damaged is noticed by its checksum, made again, and that is said in one line; what cannot
be written is said with what to do, and nothing half-written is believed later.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

from sing_nb import SingError, Study, read_found, wrap_classifier
from sing_nb.cli import main
from sing_nb.method.translator import RidgeFitter, Translator
from sing_nb.models.joint import TextFiles
from sing_nb.models.prompts import class_aliases
from sing_nb.pictures.cache import keep, keep_table, kept, kept_table, opened
from sing_nb.pictures.fetch import cache_dir, make_folder, write_atomic
from sing_nb.study import tables
from sing_nb.study.heads import kept_spaces
from sing_nb.study.profile import build_dir

ROOT = Path(__file__).resolve().parents[1]


def flip(path, at=-1):
    """Turn one bit."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "one bit": lambda path: flip(path, path.stat().st_size // 2),
    "last bit": flip,
    "text": lambda path: path.write_text("<html>404 Not Found</html>" * 40),
}
each_damage = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)


# --- files that carry their checksum ------------------------------------------------------------

TABLE = pd.DataFrame({
    "name": ["zebra", "Ärger", None], "score": [1.5, np.nan, -2.0], "number": [1, 2, 3],
    "whole": [[1, 2], [], [3]], "kind": pd.Categorical(["a", "b", "a"]),
}, index=pd.Index([3, 1, 2], name="row"))


@each_damage
@pytest.mark.parametrize("kind", ["translator", "statistics"])
def test_damaged_translators_are_refused(kind, damage, tmp_path):
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    fitter = RidgeFitter(6, 4).update(x, x[:, :4])
    one = fitter.solve(1.0, {"model": "one"}) if kind == "translator" else fitter
    path = one.save(tmp_path / "one.safetensors")
    assert type(one).load(path)
    damage(path)
    with pytest.raises(SingError, match=r"one\.safetensors"):
        type(one).load(path)


def test_a_translator_of_older_code_and_one_that_is_no_map(tmp_path):
    path = tmp_path / "one.safetensors"
    parts = {"weight": torch.ones(4, 6), "bias": torch.ones(4)}
    safetensors.torch.save_file(parts, path, {"card": '{"model": "x"}'})
    assert Translator.load(path).card == {"model": "x"}
    safetensors.torch.save_file(parts | {"bias": torch.ones(5)}, path, {"card": "{}"})
    with pytest.raises(SingError, match="expected a weight"):
        Translator.load(path)


@each_damage
def test_damaged_texts_and_decompositions_are_computed_again(damage, tmp_path, monkeypatch):
    monkeypatch.setenv("SING_CACHE", str(tmp_path))
    texts = TextFiles(tmp_path / "texts", 5)
    unit = torch.nn.functional.normalize(torch.arange(1.0, 6), dim=0)
    texts.save("a hand", unit)
    assert torch.equal(texts.load("a hand"), unit)
    damage(texts._file("a hand"))
    assert texts.load("a hand") is None

    weight = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    fresh = kept_spaces(weight)
    (path,) = (tmp_path / "heads").iterdir()
    damage(path)
    assert torch.equal(kept_spaces(weight).vectors, fresh.vectors)
    assert kept(path)  # written anew


@each_damage
def test_damaged_names_are_looked_up_again(damage, tmp_path, monkeypatch):
    monkeypatch.setenv("SING_CACHE", str(tmp_path))
    class_aliases.cache_clear()
    try:
        right = class_aliases()
        (path,) = (tmp_path / "names").iterdir()
        damage(path)
        class_aliases.cache_clear()
        assert class_aliases() == right
        assert json.loads(path.read_text())  # written anew
    finally:
        class_aliases.cache_clear()


@each_damage
def test_a_damaged_note_of_a_chapter_says_which_to_run(damage, tmp_path, smoke):
    row = {"item": "equation 1", "paper": "p", "here": "h", "rule": "r",
           "verdict": "holds here", "claim": False}
    note = write_atomic(tmp_path / "figures" / "02_svd" / "found.json", json.dumps(
        [{**row, "item": f"equation {i}"} for i in range(50)]))
    study = SimpleNamespace(folder=tmp_path, config=smoke.config)
    assert len(read_found(study)) == 50
    damage(note)
    try:
        json.loads(note.read_text(errors="replace"))
    except ValueError:
        with pytest.raises(SingError, match="sing chapter --chapter 02_svd"):
            read_found(study)


# --- a study whose files were spoiled -----------------------------------------------------------


def to_tensor(picture):
    pixels = np.asarray(picture.resize((8, 8)), dtype=np.float32).copy()
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255


def tiny(name="tiny", seed=0):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.Linear(12, 3))
    return wrap_classifier(module, to_tensor, ["zebra", "hammer", "lemon"], name)


def study_of(photos, name="tiny", seed=0, **options):
    study = Study(
        "report", progress=False, models=[name], pictures=f"folder:{photos}", also_fit="none",
        bootstrap_draws=20, folds=2, **options,
    )
    study.add(tiny(name, seed))
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
        study = study_of(photos)
        results = results_of(study)
        study.statistics("tiny", (0, 1))
        # Another classifier's, to be put in the place of the first one's.
        results_of(study_of(photos, "other", 1))
    return home, results


def results_of(study):
    model = study.config.models[0]
    return {
        "features": study.features(model), "embeddings": study.embeddings,
        "translators": torch.cat([one.weight for one in study.translators(model)]),
        "images": torch.tensor(tables.images(study, model)["image_score"].to_numpy()),
    }


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
    "translators": "translators/tiny-*-1.safetensors", "images": "tables/images-tiny-*",
}


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
    if kind == "images" and not said:
        return  # Parquet has checksums of its pages, and none of what describes them
    assert len(said) == 1
    assert path.name in said[0]
    assert path.read_bytes() == right
    results_of(study_of(photos))
    assert "made again" not in capsys.readouterr().err


def test_an_untouched_study_is_only_read(spoilt, photos, capsys):
    folder, expected = spoilt
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    for name, value in results_of(study_of(photos)).items():
        assert torch.equal(value, expected[name])
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert after == before
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["features", "translators"])
def test_a_file_of_another_classifier_is_noticed(kind, spoilt, photos, capsys):
    folder, expected = spoilt
    (path,) = folder.glob(KINDS[kind])
    (other,) = folder.glob(KINDS[kind].replace("tiny", "other"))
    assert other.read_bytes() != path.read_bytes()
    shutil.copy(other, path)
    for name, value in results_of(study_of(photos)).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5)
    assert "made again" in capsys.readouterr().err


def test_a_shard_of_other_pictures_or_of_no_numbers_is_noticed(spoilt, photos, capsys):
    folder, expected = spoilt
    (path,) = folder.glob(KINDS["features"])
    held, about = opened(path)
    keep(path, {name: part[:5] for name, part in held.items()}, about)
    assert torch.equal(study_of(photos).features("tiny"), expected["features"])
    assert "expected {'features': (32, 12)" in capsys.readouterr().err
    spoiled = held["features"].clone()
    spoiled[3, 3] = torch.nan
    keep(path, held | {"features": spoiled}, about)
    assert torch.equal(study_of(photos).features("tiny"), expected["features"])
    assert "NaN" in capsys.readouterr().err


@each_damage
def test_spoilt_statistics_are_summed_up_again(damage, spoilt, photos, capsys):
    folder, _ = spoilt
    path = next(iter(sorted(folder.glob("statistics/*-0.safetensors"))))
    right = RidgeFitter.load(path)
    damage(path)
    found = study_of(photos).statistics("tiny", (0, 1))[0]
    assert found.n == right.n
    assert torch.equal(found.solve(1.0).weight, right.solve(1.0).weight)
    assert "made again" in capsys.readouterr().err


def test_what_a_killed_run_leaves_is_not_believed(spoilt, photos, capsys):
    folder, expected = spoilt
    (shard,) = folder.glob(KINDS["features"])
    (shard.parent / f".{shard.name}.k3jd9x").write_bytes(shard.read_bytes()[:100])
    (shard.parent / "0001.safetensors").write_bytes(b"")
    (shard.parent / "card.json").write_text('{"mod')
    shard.unlink()
    assert torch.equal(study_of(photos).features("tiny"), expected["features"])
    assert json.loads((shard.parent / "card.json").read_text())["rows"] == 32


# --- disks and folders --------------------------------------------------------------------------


def test_a_folder_that_is_a_file(tmp_path, monkeypatch, photos, capsys):
    (tmp_path / "file").write_text("")
    for act in (
        lambda: write_atomic(tmp_path / "file" / "deep" / "one.json", "{}"),
        lambda: make_folder(tmp_path / "file" / "deep"),
        lambda: keep_table(tmp_path / "file" / "one.parquet", TABLE),
    ):
        with pytest.raises(SingError, match=r"(Not a directory|File exists).*SING_BUILD"):
            act()
    # What is kept to save time is computed all the same, which is said once.
    monkeypatch.setenv("SING_CACHE", str(tmp_path / "file"))
    weight = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        assert kept_spaces(weight).null_dim == 3
    said = capsys.readouterr().err
    assert said.count("was not written") == 1
    assert "SING_CACHE" in said

    monkeypatch.setenv("SING_BUILD", str(tmp_path / "file"))
    monkeypatch.setenv("SING_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SingError, match="SING_BUILD is where results go"):
        study_of(photos).features("tiny")
    assert main(["fetch", "--profile", "smoke", "--set", f"pictures=folder:{photos}", "--set",
                 "tower=null", "--set", "joint_space=open_clip/x"]) == 1
    said = capsys.readouterr().err
    assert "SING_BUILD" in said
    assert "Traceback" not in said


def test_odd_places_for_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, place in (
        ("relative/deep", tmp_path / "relative" / "deep"), ("with space", tmp_path / "with space"),
        ("Ünïcode 🦓", tmp_path / "Ünïcode 🦓"), ("link", tmp_path / "link"),
        ("~/results", tmp_path / "home" / "results"),
    ):
        monkeypatch.setenv("SING_BUILD", name)
        monkeypatch.setenv("SING_CACHE", name)
        assert build_dir("smoke") == place / "smoke"
        assert cache_dir() == place
        # Chapters run elsewhere, and find the same place.
        assert os.environ["SING_BUILD"] == os.environ["SING_CACHE"] == str(place)
        keep_table(build_dir("smoke") / "one.parquet", TABLE)
        assert len(kept_table(place / "smoke" / "one.parquet")) == 3


def run(code, *, prefix=(), env=None, **options):
    """A Python process of its own; what it printed."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True,
        timeout=120, check=False, cwd=ROOT, env=env, **options,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_file_that_the_disk_does_not_take_leaves_the_old_one(tmp_path):
    out = run(f"""
        import os, resource
        from pathlib import Path
        from sing_nb import SingError
        from sing_nb.pictures.fetch import write_atomic
        path = write_atomic(Path({str(tmp_path)!r}) / "one.bin", b"old")
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            write_atomic(path, b"x" * 10_000)
        except SingError as error:
            print(error)
        write_atomic(path.with_name("two.bin"), b"x" * 10_000, optional=True)
        print(os.listdir(path.parent), path.read_bytes())
    """)
    assert "one.bin was not written" in out
    assert "File too large" in out
    assert "['one.bin'] b'old'" in out


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
    out = run(f"""
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
        # A checkout that nobody may write to does for everything that goes elsewhere.
        subprocess.run(["mount", "--bind", {str(ROOT)!r}, {str(ROOT)!r}], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", {str(ROOT)!r}], check=True)
        print("check", main(["check", "--profile", "smoke"]))
    """, prefix=WAY)
    assert out.count("SAID") == 3
    assert out.count("No space left on device") == 2
    assert "['large', 'one.parquet']" in out
    assert "Read-only file system" in out
    assert "null 4" in out
    assert "exit 1" in out
    assert "check 0" in out


def test_a_terminal_of_another_alphabet_and_no_home(tmp_path):
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0",
           "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0",
           "SING_CACHE": str(tmp_path / "cache"), "SING_BUILD": str(tmp_path / "build")}
    done = subprocess.run(
        [sys.executable, "-m", "sing_nb", "check", "--profile", "zebra \N{ZEBRA FACE}"],
        capture_output=True, env=env, cwd=ROOT, timeout=120, check=False)
    said = done.stderr.decode("ascii")
    assert done.returncode == 1
    assert "Unknown profile 'zebra" in said
    assert "Traceback" not in said


def test_too_many_open_files_and_too_little_memory(tmp_path):
    out = run(f"""
        import resource, sys
        from pathlib import Path
        import torch
        from sing_nb import SingError
        from sing_nb.pictures.cache import keep, kept
        from sing_nb.cli import _said
        from sing_nb.method.translator import RidgeFitter
        path = keep(Path({str(tmp_path)!r}) / "one.safetensors", {{"a": torch.ones(9)}})
        held = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        try:
            while True:
                held.append(open("/dev/null"))
        except OSError:
            pass
        try:
            keep(path, {{"a": torch.zeros(9)}})
        except SingError as error:
            print("SAID", error)
        for file in held:
            file.close()
        assert kept(path)[0]["a"].sum() == 9
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 10**8, used + 10**8))
        try:
            RidgeFitter(30_000, 9).update(torch.ones(20_000, 30_000), torch.ones(20_000, 9))
        except (RuntimeError, MemoryError) as error:
            print("MEMORY", _said(error))
    """)
    assert "SAID" in out
    assert "Too many open files" in out
    assert "Memory ran out" in out


def test_two_runs_at_once_leave_what_one_leaves(tmp_path, photos):
    code = f"""
        import sys, time
        from pathlib import Path
        import numpy as np, pandas as pd, torch
        from torch import nn
        from sing_nb.pictures.features import compute_features
        from sing_nb.pictures.cache import keep_table
        from sing_nb.models.classifier import wrap_classifier
        from sing_nb.method.translator import RidgeFitter

        def to_tensor(picture):
            pixels = np.asarray(picture.resize((8, 8)), dtype=np.float32).copy()
            return torch.from_numpy(pixels).permute(2, 0, 1) / 255

        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.Linear(12, 3))
        clf = wrap_classifier(module, to_tensor, name="tiny")
        home, number = Path({str(tmp_path)!r}), sys.argv[1]
        files = sorted(Path({str(photos)!r}).rglob("*.png"))
        table = pd.DataFrame({{"picture": [str(f) for f in files], "source": "folder",
                               "path": [str(f) for f in files]}})
        (home / f"ready-{{number}}").touch()
        begun = time.monotonic()
        while len(list(home.glob("ready-*"))) < 2:
            assert time.monotonic() - begun < 90, "the other process never came"
            time.sleep(0.002)
        for turn in range(8):
            found = compute_features(clf, table, home, home / f"features-{{turn}}", progress=False)
            fitter = RidgeFitter(12, 3).update(*found)
            fitter.save(home / "out" / "fitter.safetensors")
            fitter.solve(1.0, {{"model": "tiny"}}).save(home / "out" / "one.safetensors")
            keep_table(home / "out" / "table.parquet", pd.DataFrame(found.features.numpy()))
    """
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(number)], env=env,
                         stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for number in range(2)
    ]
    for one in both:
        _, said = one.communicate(timeout=120)
        assert one.returncode == 0, said[-2000:]
        assert "made again" not in said  # neither saw a part of what the other wrote
    shards = sorted(tmp_path.glob("features-*/tiny-*/0000.safetensors"))
    assert len(shards) == 8
    assert len({path.read_bytes() for path in shards}) == 1
    table, (held, _) = kept_table(tmp_path / "out" / "table.parquet"), opened(shards[0])
    np.testing.assert_array_equal(table.to_numpy(), held["features"].numpy())
    assert torch.equal(
        RidgeFitter.load(tmp_path / "out" / "fitter.safetensors").solve(1.0).weight,
        Translator.load(tmp_path / "out" / "one.safetensors").weight)
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]  # no temporary file
