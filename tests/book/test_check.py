"""What `sing check` finds of a profile's needs, on a machine without a network."""

from __future__ import annotations

import json

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


def test_the_papers_profile_names_its_variable_and_its_decoder(offline, tmp_path, monkeypatch):
    found = {one.what: one for one in needs(load_profile("paper"))}
    assert "export IMAGENET=" in found["pictures"].found
    assert not found["drawings"].there
    for wnid in ("n01440764", "n02102040"):
        (tmp_path / "imagenet/val" / wnid).mkdir(parents=True)
    monkeypatch.setenv("IMAGENET", str(tmp_path / "imagenet"))
    assert "pictures" not in missing(load_profile("paper"))


def test_names_of_ones_own_are_looked_for(offline, tmp_path):
    own = tmp_path / "own.safetensors"
    own.touch()
    found = missing(load_profile("imagenette", {
        "models": [f"timm/test_resnet:{own}", "timm/test_resnet:/nowhere/x.pth", "mine.py:build",
                   "timm/resnet50.a1_in2k"],
        "joint_space": "open_clip/ViT-B-32:opnai", "other_spaces": []}))
    assert found == {
        "pictures", "weights of timm/test_resnet:/nowhere/x.pth",
        "weights of timm/resnet50.a1_in2k", "weights of open_clip/ViT-B-32:opnai"}


@pytest.mark.parametrize(("key", "what"), [("memory_gb", {"memory"}), ("disk_gb", {"disk"}),
                                           ("gpu_gb", set())])  # without a GPU it is only slow
def test_this_machine_is_held_against_what_is_expected(offline, key, what):
    smoke = load_profile("smoke")
    assert missing(load_profile("smoke", {"expected": smoke.expected | {key: 1e6}})) == what


def test_the_command_prints_it_and_its_exit_code_says_whether_all_is_there(offline, capsys):
    assert main(["check", "--profile", "smoke"]) == 0
    text = capsys.readouterr().out
    assert "It takes about 0.04 hours" in text
    assert "MISSING" not in text
    assert main(["check", "--profile", "paper", "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["expected"]["gpu_gb"] == 14
    assert {one["what"] for one in content["needs"] if not one["there"]} == missing(
        load_profile("paper"))


def test_in_a_notebook_an_error_is_its_message_and_no_traceback(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_cell("import sing_nb\nsing_nb.load_classifier('timm/resnet50_of_nowhere')")
    said = capsys.readouterr()
    assert "resnet50_of_nowhere" in said.out + said.err
    assert len((said.out + said.err).splitlines()) <= 2
