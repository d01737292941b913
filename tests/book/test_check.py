"""What `sing check` finds of a profile's needs, on a machine without a network."""

from __future__ import annotations

import re

import pytest

from sing_nb.book.check import needs
from sing_nb.cli import main
from sing_nb.models import hub
from sing_nb.study.profile import load_profile


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A machine without a network and with empty caches; its home."""
    import torch
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "_answers", lambda url: False)
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "torch"))
    monkeypatch.setenv("SING_BUILD", str(tmp_path / "build"))
    monkeypatch.delenv("IMAGENET", raising=False)
    yield tmp_path
    torch.hub.set_dir(before)


def missing(config):
    return {one.what for one in needs(config) if not one.there}


def test_the_offline_profile_needs_no_hub(offline):
    assert missing(load_profile("offline")) == set()


def test_without_a_hub_it_says_exactly_what_is_missing_until_a_cache_has_it(offline):
    config = load_profile("imagenette")
    names = {f"weights of {name}" for name in (*config.everyone, *config.spaces)}
    assert missing(config) == {*names, "pictures"}
    (offline / "hub" / "models--timm--tf_efficientnet_b0.ns_jft_in1k").mkdir(parents=True)
    (offline / "hub" / "models--timm--vit_base_patch32_clip_224.openai").mkdir()
    (offline / "torch" / "checkpoints").mkdir(parents=True)
    (offline / "torch" / "checkpoints" / "resnet50-0676ba61.pth").touch()
    assert missing(config) == {
        "pictures", "weights of densenet121", "weights of open_clip/ViT-B-16-quickgelu:openai"}


def test_the_command_prints_it_and_its_exit_code_says_whether_all_is_there(offline, capsys):
    assert main(["check", "--profile", "smoke"]) == 0
    text = capsys.readouterr().out
    assert "It takes about 0.04 hours" in text
    assert "MISSING" not in text
    assert main(["check", "--profile", "paper"]) == 1
    text = capsys.readouterr().out
    assert "14 GB of " in text
    assert set(re.findall(r"^MISSING  ([^:]+(?::[^: ]+)*): ", text, re.MULTILINE)) == missing(
        load_profile("paper"))


def test_in_a_notebook_an_error_is_its_message_and_no_traceback(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_cell("import sing_nb\nsing_nb.load_classifier('timm/resnet50_of_nowhere')")
    said = capsys.readouterr()
    assert "resnet50_of_nowhere" in said.out + said.err
    assert len((said.out + said.err).splitlines()) <= 2
