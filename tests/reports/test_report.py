"""A real report, small: what it holds, what it says, and what a kill or a second run does to it."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image, ImageDraw
from torch import nn

import sing_nb
from sing_nb import SingError
from sing_nb.reports import report as room
from sing_nb.reports.own import own_study

MINE = """\
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 24, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(96, 4))
    net.class_names = ["broom", "goldfish", "tangerine", "zebra"]
    return net
"""
SMALL = {
    "clipart_files": 24, "bootstrap_draws": 60, "control_draws": 2, "folds": 3, "redeals": 2,
    "information_draws": 1, "kernel_size": 20}


def draw(folder, each=6):
    rng = np.random.default_rng(0)
    colours = {"broom": "olive", "goldfish": "orangered", "orange": "orange", "zebra": "white"}
    for number, (name, colour) in enumerate(colours.items()):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            noise = rng.integers(0, 90, (48, 48, 3)) + 20 * number
            picture = Image.fromarray(noise.astype(np.uint8))
            x, y = rng.integers(2, 20, 2)
            ImageDraw.Draw(picture).ellipse((x, y, x + 24, y + 24), fill=colour)
            picture.save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A reader's folder: a file of ten lines, pictures of four kinds, one of them broken."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "mine.py").write_text(MINE)
    draw(folder / "photos")
    (folder / "photos" / "zebra" / "<b>cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "photos" / "zebra" / "labels.txt").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="module")
def made(home, build):
    """The report, made in this process from the reader's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("SING_BUILD", str(build))
        patch.setenv("OMP_NUM_THREADS", "1")
        return sing_nb.report(
            "mine.py:build", "photos", "found", ask=["snow", "a hand"], settings=SMALL,
            progress=False)


def sums(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def soup(made):
    return BeautifulSoup(made.page.read_text(encoding="utf-8"), "html.parser")


def test_the_page_says_how_it_was_made(made, soup, home):
    text = soup.find("h2", id="how-this-report-was-made").find_next_siblings()
    text = " ".join(one.get_text(" ", strip=True) for one in text)
    assert made.card["command"] in soup.get_text()
    assert str(home / "photos") in text
    assert "24 pictures of 24 subjects" in text
    also = made.card["data"]["also_fitted_on"]
    assert ("also fitted on" in text) == bool(also)
    assert "1 picture could not be used" in text
    assert "<b>cut.png" in text
    # What was left out as no picture, and a label that is the name of no class.
    assert "labels.txt" in text
    assert any("orange" in note and note in text for note in made.card["notes"])
    assert "seed 0" in text
    assert torch.__version__.partition("+")[0] in text
    assert "It came without a transform" in text


def test_translator_and_spaces_can_be_loaded_and_used(made, home):
    f = torch.randn(5, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    spaces = sing_nb.HeadSpaces.load(made.folder / "spaces.safetensors")
    translator = sing_nb.Translator.load(made.folder / "translator.safetensors")
    assert spaces.card["command"] == made.card["command"]
    sys.path.insert(0, str(home))
    try:
        import mine
    finally:
        sys.path.remove(str(home))
    weight = mine.build()[-1].weight.detach().double().numpy()
    right = np.linalg.svd(weight)[2]
    null = f.numpy() @ right[4:].T @ right[4:]
    np.testing.assert_allclose(spaces.null(f).numpy(), null, atol=1e-6)
    assert (spaces.rank, spaces.null_dim) == (4, 92)
    z = translator(f.float())
    assert z.shape == (5, translator.weight.shape[0])
    assert translator.card["model"].endswith("mine.py:build")
    assert "kept:" not in json.dumps(made.card)


@pytest.mark.slow
def test_the_recorded_command_makes_it_again_and_a_kill_leaves_the_old_one(
    made, home, tmp_path, monkeypatch
):
    """Run as it is typed, with a cache of its own; once killed while the new one is written."""
    before = sums(made.folder)
    words = shlex.split(made.card["command"])
    assert words[:2] == ["sing", "report"]
    command = [sys.executable, "-m", "sing_nb.cli", *words[1:]]
    env = os.environ | {
        "SING_BUILD": str(tmp_path / "build"), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(room.__file__).parents[2])}
    running = subprocess.Popen(
        command, cwd=home, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        start_new_session=True)
    try:
        while not (left := list(home.glob(".found.new-*"))) and running.poll() is None:
            time.sleep(0.05)
        assert left, running.stderr.read().decode()[-2000:]
        # Nobody else may write here meanwhile, and the old report is whole.
        monkeypatch.setenv("SING_BUILD", str(tmp_path / "build"))
        with pytest.raises(SingError, match="Another run is writing"):
            room.report("lite0", home / "photos", made.folder, progress=False)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
    assert sums(made.folder) == before

    done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert str(made.page) in done.stdout
    assert "Traceback" not in done.stderr
    assert not list(home.glob(".found.new-*"))
    after = sums(made.folder)
    assert after.keys() == before.keys()
    csv = [name for name in before if name.endswith((".csv", ".data.json", ".svg"))]
    assert {name: after[name] for name in csv} == {name: before[name] for name in csv}
    card = json.loads((made.folder / "card.json").read_text())
    assert shlex.split(card["command"])[1:] == words[1:]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("SING_BUILD", str(tmp_path / "build"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiny(classes=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, classes))


def test_a_folder_of_something_else_is_left_as_it_is(here):
    draw(here / "photos", 2)
    (here / "notes").mkdir()
    (here / "notes" / "thesis.txt").write_text("years")
    with pytest.raises(SingError, match=r"holds thesis\.txt, which no report wrote"):
        sing_nb.report("lite0", "photos", "notes", progress=False)
    (here / "file").write_text("x")
    with pytest.raises(SingError, match="is a file; a report is a folder"):
        sing_nb.report("lite0", "photos", "file", progress=False)
    for out in (".", "photos", "photos/report"):
        with pytest.raises(SingError, match="cannot lie in its pictures' folder"):
            sing_nb.report("lite0", "photos", out, progress=False)
    assert (here / "notes" / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize(("options", "message"), [
    ({"images": "nowhere"}, "nowhere is not there; images is a folder with one folder"),
    ({"class_names": "none.txt"}, "none.txt cannot be read as a text file"),
    ({"model": "lite2", "beside": "lite2", "transform": None}, "beside is the same one"),
    ({"class_names": "names.txt"}, "3 class names for 4 logits"),
    ({"settings": {"models": ["lite0"]}}, "is its model .--model., not the setting models"),
    ({"settings": {"pictures": "stamps"}, "images": "photos"}, "not both"),
    ({"transform": "resize"}, "transform is str"),
    ({"model": 3}, "a torch.nn.Module or a Classifier; got int"),
    ({"model": nn.ReLU()}, "no linear")])
def test_bad_arguments_are_told_before_anything_is_computed(here, options, message):
    draw(here / "photos", 2)
    (here / "names.txt").write_text("a\nb\nc\n")
    given = {"model": tiny(), "images": "photos", "transform": lambda picture: picture} | options
    with pytest.raises(SingError, match=message):
        sing_nb.report(**given, progress=False)
    assert not (here / "report").exists()
    assert not (here / "build").exists()


def transform(picture):
    """Picture to tensor, as a reader would write it."""
    data = np.asarray(picture.convert("RGB").resize((32, 32)), dtype=np.float32)
    return torch.from_numpy(data / 255).permute(2, 0, 1)


def test_a_module_of_this_process_gets_a_name_that_others_can_load(here):
    draw(here / "photos", 2)
    names = ["broom", "goldfish", "orange", "zebra"]
    (here / "names.txt").write_text("\ufeff" + "\n".join(names) + "\n\n", encoding="utf-8")
    study, name = own_study(
        tiny(), "photos", class_names="names.txt", transform=transform, progress=False,
        beside="lite0", settings={"clipart_files": 2, "tower": "lite1"})
    assert study.config.models == [name, "lite0"]
    loaded = sing_nb.load_classifier(name)
    assert loaded.class_names == study.class_names(name) == names
    assert loaded.title == study.title(name) == "Sequential"
    torch.testing.assert_close(loaded.head.weight, tiny()[-1].weight.detach(), rtol=0, atol=0)
    # As a chapter's kernel has it: the same key, so that it finds the features that lie there.
    other = sing_nb.Study("report", progress=False, **room._overrides(study.config))
    assert other.config == study.config
    assert other.feature_key(name) == study.feature_key(name)
    features = study.features(name)
    torch.testing.assert_close(other.features(name), features, rtol=0, atol=0)
    again = own_study(tiny(), "photos", class_names=names, transform=transform, progress=False,
                      settings={"clipart_files": 2})
    assert again[1] == name
    another = own_study(tiny(), "photos", transform=transform, progress=False,
                        settings={"clipart_files": 2})
    assert another[1] != name
