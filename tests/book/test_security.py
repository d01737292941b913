"""Nothing that somebody else wrote is run: each attack holds code that would leave a mark."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import sing_nb
from sing_nb.book.chapters import resolve
from sing_nb.errors import SingError
from sing_nb.method.nullspace import HeadSpaces
from sing_nb.method.translator import RidgeFitter, Translator
from sing_nb.models.joint import load_joint_space
from sing_nb.models.published import import_translator
from sing_nb.pictures.folders import hub_pictures
from sing_nb.pictures.images import open_picture
from sing_nb.study import profile

ROOT = Path(__file__).resolve().parents[2]


class Code:
    """Unpickled, it leaves a mark: a folder."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.fixture
def attack(tmp_path):
    """Writes a file with code in it; after the test, the code must not have run."""
    mark = tmp_path / "the code ran"

    def write(path, text=""):
        path.parent.mkdir(parents=True, exist_ok=True)
        if text:
            path.write_text(text.replace("MARK", repr(str(mark))))
        else:
            torch.save({"state_dict": Code(mark)}, path)
        return path

    yield write
    assert not mark.exists()


def by_open_clip(write, home):
    from miniatures import clip_config

    write(home / "open_clip_pytorch_model.bin")
    (home / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": clip_config(), "preprocess_cfg": {}}))
    load_joint_space(f"open_clip/local-dir:{home}")


def by_the_authors_translators(write, home):
    write(home / "best.pt")
    (home / "metadata.yaml").write_text(yaml.safe_dump({
        "model_name": "x", "translator_name": "linear", "architecture": "linear",
        "embedding_backend": "kakao_karlo_v1_alpha_image_variations", "in_dim": 4, "out_dim": 768,
        "checkpoint_file": "best.pt"}))
    import_translator(home)


def by_a_data_set(write, home):
    pytest.importorskip("datasets")
    write(home / "train.pkl")
    write(home / "home.py", "import os\nos.mkdir(MARK)\n")
    (home / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: train.pkl\n---\n")
    hub_pictures(str(home), progress=False)


@pytest.mark.parametrize("read", [by_open_clip, by_the_authors_translators, by_a_data_set])
def test_code_in_a_file_or_folder_is_never_run(attack, tmp_path, read):
    (tmp_path / "home").mkdir()
    with pytest.raises(SingError):
        read(attack, tmp_path / "home")


@pytest.mark.parametrize("read", [
    HeadSpaces.load, Translator.load, RidgeFitter.load], ids=["spaces", "Translator", "fitter"])
def test_code_in_what_was_handed_on_is_never_run(attack, tmp_path, read):
    with pytest.raises(SingError):
        read(attack(tmp_path / "handed.safetensors"))


def test_code_in_the_results_of_a_study_is_never_run(attack, smoke, tmp_path, monkeypatch):
    # Translators of another person's build folder; pictures and features are the session's own.
    smoke.features("lite0")
    (tmp_path / "smoke").mkdir()
    for part in ("pictures", "features"):
        (tmp_path / "smoke" / part).symlink_to(smoke.folder / part)
    monkeypatch.setenv("SING_BUILD", str(tmp_path))

    def fitted():
        study = sing_nb.Study("smoke", progress=False, lambdas=[7.0], models=["lite0"])
        return study.translators("lite0")[0].weight

    before = fitted()
    files = list((tmp_path / "smoke" / "translators").iterdir())
    assert files
    for file in files:
        attack(file)
    assert torch.equal(fitted(), before)


def test_code_in_yaml_is_never_run(attack, tmp_path, monkeypatch):
    evil = "a: !!python/object/apply:os.mkdir [MARK]\n"
    attack(tmp_path / "metadata.yaml", evil)
    attack(tmp_path / "profiles" / "evil.yaml", evil)
    with pytest.raises(SingError):
        import_translator(tmp_path)
    with pytest.raises(SingError):
        resolve("smoke", [f"'seed={(tmp_path / 'metadata.yaml').read_text()[3:]}'"], [])
    monkeypatch.setattr(profile, "data_dir", lambda: tmp_path)
    with pytest.raises(SingError):
        profile.load_profile("evil")


def test_a_picture_is_given_to_no_other_program(tmp_path, monkeypatch):
    # PostScript is a program, which Pillow would have run by Ghostscript, of any name.
    from PIL import EpsImagePlugin

    (tmp_path / "bin").mkdir()
    mark, gs = tmp_path / "the code ran", tmp_path / "bin" / "gs"
    gs.write_text(f"#!/bin/sh\nmkdir {str(mark)!r}\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(gs.parent) + os.pathsep + os.environ["PATH"])
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(SingError):
        open_picture(path).convert("RGB")
    assert not mark.exists()
    # It is an attack: a program that opens whatever Pillow can read is caught.
    with pytest.raises(subprocess.CalledProcessError), Image.open(path) as picture:
        picture.load()
    assert mark.exists()


def test_jupyterlab_listens_on_this_machine_only_with_its_token():
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"jupyter lab --ServerApp\.ip=127\.0\.0\.1", make)
    assert not re.search(r"(?i)IdentityProvider|\.token=|password|allow_origin", make)


def test_the_page_on_trust_names_tests_that_exist():
    page = (ROOT / "book" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    written = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) >= 8
    assert {name for name in named if f"def {name}(" not in written} == set()


def test_an_audit_without_network_says_so_and_fails_nothing(tmp_path):
    # A proxy at a port where nobody listens: the real pip-audit, and no network on any machine.
    away = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "audit"), str(tmp_path / "new" / "audit.json"), "60"],
        env={**os.environ, **away, "NO_PROXY": "", "no_proxy": ""}, capture_output=True, text=True,
        check=True)
    assert "cannot be reached" in done.stdout
    assert json.loads((tmp_path / "new" / "audit.json").read_text())["checked"] is False


def test_names_of_profiles_do_not_leave_their_folder():
    for name in ("../profiles/smoke", "/etc/passwd", "smoke/../smoke", "..", ""):
        with pytest.raises(SingError, match="Unknown profile"):
            profile.load_profile(name)
