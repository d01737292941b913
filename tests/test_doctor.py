from __future__ import annotations

import importlib.metadata
import json
import os

import pytest

from sing_nb.book import doctor
from sing_nb.book.doctor import can_run, diagnose, diagnosis_table, profile_table, report
from sing_nb.cli import main
from sing_nb.errors import SingError
from sing_nb.models import hub
from sing_nb.study.profile import load_profile, profile_names


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A machine without a network and with empty caches; the folder of the hub's cache."""
    import torch
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "_answers", lambda url: False)
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "torch"))
    monkeypatch.setenv("SING_CACHE", str(tmp_path / "sing"))
    monkeypatch.setenv("SING_BUILD", str(tmp_path / "build"))
    monkeypatch.delenv("IMAGENET", raising=False)
    yield tmp_path
    torch.hub.set_dir(before)


def fill(folder, repository, *files):
    """A file in the hub's cache, laid out as its client lays it out."""
    from huggingface_hub.file_download import repo_folder_name

    home = folder / "hub" / repo_folder_name(repo_id=repository, repo_type="model")
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs/main").write_text("0" * 40)
    for file in files:
        path = home / "snapshots" / ("0" * 40) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")


def row(findings, check):
    (found,) = findings[findings["check"] == check].itertuples()
    return found


def test_without_a_hub_it_says_exactly_what_is_missing(offline):
    found = diagnose("imagenette")
    missing = set(found.loc[~found["ok"], "check"])
    profile = load_profile("imagenette")
    assert missing == {
        *(f"weights of {name}" for name in profile.everyone),
        *(f"joint space {name}" for name in profile.spaces), "pictures",
    }
    one = row(found, "weights of efficientnet-b0")
    assert "timm/tf_efficientnet_b0.ns_jft_in1k is not in the cache" in one.found
    assert str(offline / "hub") in one.advice
    assert str(offline / "torch") in row(found, "weights of resnet50-tv").advice
    assert not can_run(found, "imagenette")


def test_weights_in_the_caches_are_found(offline):
    fill(offline, "timm/tf_efficientnet_b0.ns_jft_in1k", "model.safetensors")
    fill(offline, "timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors")
    fill(offline, "timm/vit_base_patch16_clip_224.openai", "README.md")  # a part is not enough
    torch_files = offline / "torch/checkpoints"
    torch_files.mkdir(parents=True)
    (torch_files / "resnet50-0676ba61.pth").write_bytes(b"weights")
    found = diagnose("imagenette").set_index("check")["ok"]
    assert found["weights of efficientnet-b0"]
    assert found["weights of resnet50-tv"]
    assert found["joint space open_clip/ViT-B-32-quickgelu:openai"]
    assert not found["joint space open_clip/ViT-B-16-quickgelu:openai"]
    assert not found["weights of densenet121"]


def test_unclip_needs_every_part(offline):
    name = load_profile("paper").renderer.removeprefix("unclip/")
    stem = "diffusion_pytorch_model.bin"
    parts = ("text_proj", "decoder", "super_res_first", "super_res_last")
    fill(offline, name, "text_encoder/pytorch_model.bin", *(f"{part}/{stem}" for part in parts[:3]))
    found = row(diagnose("paper"), "drawings")
    assert not found.ok
    assert "(super_res_last)" in found.found
    fill(offline, name, f"super_res_last/{stem}")
    assert row(diagnose("paper"), "drawings").ok


def test_a_variable_that_is_not_set_is_named(offline, tmp_path, monkeypatch):
    assert "export IMAGENET=" in row(diagnose("paper"), "pictures").found
    for wnid in ("n01440764", "n02102040"):
        (tmp_path / "imagenet/val" / wnid).mkdir(parents=True)
    monkeypatch.setenv("IMAGENET", str(tmp_path / "imagenet"))
    assert row(diagnose("paper"), "pictures").ok


def test_small_models_of_ones_own_are_found(offline, tmp_path, monkeypatch):
    from miniatures import small_open_clip

    space, weights = small_open_clip(tmp_path / "clip"), tmp_path / "own.safetensors"
    found = diagnose("imagenette", {
        "models": [f"timm/test_resnet:{weights}", "no_model", "timm/resnet50.a1_in2k"],
        "joint_space": space, "other_spaces": ["open_clip/ViT-B-32:opnai"],
    })
    assert row(found, f"joint space {space}").ok
    assert str(weights) in row(found, f"weights of timm/test_resnet:{weights}").found
    assert "Unknown classifier 'no_model'" in row(found, "weights of no_model").found
    assert "resnet50.a1_in1k" in row(found, "weights of timm/resnet50.a1_in2k").found
    assert "ViT-B-32:openai" in row(found, "joint space open_clip/ViT-B-32:opnai").found


@pytest.mark.parametrize(
    ("changed", "check", "status"),
    [
        ({"memory_gb": 1e6}, "memory", "missing"), ({"disk_gb": 1e6}, "disk", "missing"),
        ({"gpu_gb": 1e6}, "device", "slow"), ({"memory_gb": 0.1}, "memory", "ok"),
    ],
)
def test_this_machine_is_held_against_what_is_expected(
    offline, monkeypatch, changed, check, status
):
    smoke = load_profile("smoke")
    monkeypatch.setattr(doctor, "load_profile", lambda name, overrides=None: load_profile(
        "smoke", {"expected": smoke.expected | changed}
    ))
    assert row(diagnose("smoke"), check).status == status


def test_packages_are_held_against_the_projects_ranges(monkeypatch):
    assert doctor._packages().status == "ok"
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.1" if name == "timm" else real(name)
    )
    found = doctor._packages()
    assert found.status == "missing"
    assert "timm 0.1 (needs >=" in found.found


def test_a_check_that_breaks_is_a_finding():
    def look():
        raise RuntimeError("no\nluck")

    found = doctor._guarded(look)
    assert found.status == "missing"
    assert "RuntimeError: no luck" in found.found


def test_the_report_is_one_narrow_table(offline, capsys):
    assert main(["doctor"]) == 0  # apt can fetch the stamps
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    lines = {line.split()[0]: line for line in text.splitlines() if line and line[0] != " "}
    assert "can run" in lines["offline"]
    assert "cannot run" in lines["paper"]
    assert text.count("Connect this machine, or copy the cache") == 6  # once a cache and profile
    assert list(lines)[3:] == ["offline", "smoke", "report", "imagenette", "paper", "imagenet13"]


def test_the_exit_code_is_that_of_the_profile_asked_for(offline, capsys, monkeypatch):
    assert main(["doctor", "--profile", "imagenette", "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert {found["profile"] for found in content["findings"]} == {"imagenette"}
    assert main(["doctor", "--profile", "offlin"]) == 1
    assert "did you mean 'offline'" in capsys.readouterr().err
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert main(["doctor", "--profile", "offline"]) == 1
    assert "no apt-get" in capsys.readouterr().out


def test_tables_for_the_page(offline):
    table = profile_table()
    assert table["profile"].tolist()[:2] == ["offline", "smoke"]
    assert set(table["profile"]) == set(profile_names())
    assert table["hours"].notna().all()
    assert str(offline) not in table.to_string()
    assert os.path.expanduser("~") not in table.to_string()
    here = diagnosis_table(diagnose("imagenette"))
    assert here.loc[0, "here"] == "cannot run"
    assert "pictures" in here.loc[0, "because"]
    assert report(diagnose("smoke")).splitlines()[0].startswith("This machine: ")
    with pytest.raises(SingError, match="Unknown profile"):
        diagnose("none")


def test_a_hub_profile_is_refused_before_anything_runs_and_in_one_message(offline, capsys):
    assert main(["check", "--profile", "paper"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("sing check: the profile paper cannot run here. The profile offline")
    for part in ("weights of dinovit", "run `export IMAGENET=<folder>` first", "copy the cache"):
        assert part in said.err
    assert "Traceback" not in said.err


def test_overrides_are_what_is_examined(offline, mini_paper):
    assert can_run(diagnose("paper", mini_paper), "paper")
    found = diagnose("paper", mini_paper | {"joint_space": "open_clip/local-dir:/nowhere"})
    assert not can_run(found, "paper")


def test_in_a_notebook_an_error_is_its_message_and_no_traceback(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_cell("import sing_nb\nsing_nb.load_classifier('timm/resnet50_of_nowhere')")
    said = capsys.readouterr()
    shown = said.out + said.err
    assert "resnet50_of_nowhere" in shown
    assert "Traceback" not in shown
    assert len(shown.splitlines()) <= 2
