"""Beyond one machine: parts that add up, and jobs on a real Slurm where one can be started."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from conftest import environment
from slurm import slurm, why_not

import sing_nb
from sing_nb.method.translator import RidgeFitter
from sing_nb.pictures import features
from sing_nb.study.fits import summed

ROOT = Path(__file__).resolve().parents[2]


def snakemake(build, *options, settings="", profile="smoke", **added):
    """Run Snakemake on the book's rules with a build folder of its own."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "book" / "Snakefile"),
         "--config", f"profile={profile}", f"settings={settings}",
         "--nolock", "--quiet", "rules", *options],
        env=environment(SING_BUILD=str(build), PYTHONPATH=str(ROOT), **added), cwd=ROOT,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)


@pytest.fixture
def build(smoke, tmp_path):
    """A build folder with the smoke study's pictures and features, and nothing else."""
    smoke.features("lite0"), smoke.features("lite2")
    for name in ("features", "pictures"):
        shutil.copytree(smoke.folder / name, tmp_path / "smoke" / name)
    return tmp_path


def test_seven_parts_give_the_translators_of_one(smoke, tmp_path, monkeypatch):
    whole = smoke.fitted("lite0")
    whole_shards = {
        model: {"features": smoke.features(model), "logits": smoke.logits(model)}
        for model in ("lite0", "lite2")}
    monkeypatch.setattr(features, "SHARD", 8)  # smoke is smaller than one real shard
    monkeypatch.setenv("SING_BUILD", str(tmp_path))
    study = sing_nb.Study("smoke", progress=False, shards=7)
    for model, found in whole_shards.items():
        home = study.folder / "features" / f"{model}-{study.feature_key(model)}"
        home.mkdir(parents=True)
        for start in range(0, len(smoke.pictures), 8):
            rows = {name: part[start : start + 8].clone() for name, part in found.items()}
            safetensors.torch.save_file(rows, home / f"{start // 8:04d}.safetensors")

    sizes = [
        sum(one.n for one in study.statistics("lite0", (index, 7)).values()) for index in range(7)]
    assert sum(size > 0 for size in sizes) > 3  # the last ones hold photographs alone
    assert sum(sizes) == int((smoke.pictures["source"] != "photo").sum())

    def refuse(*_):
        raise AssertionError("a fit from parts needs no row")

    monkeypatch.setattr(RidgeFitter, "update", refuse)
    parts = study.fitted("lite0")
    assert len(parts) == len(whole) == study.config.folds + 1
    for one, other in zip(parts, whole):
        assert one.card["lambda"] == other.card["lambda"]
        torch.testing.assert_close(one.weight, other.weight, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(one.bias, other.bias, rtol=1e-6, atol=1e-6)


def planned_jobs(text):
    found = re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE)
    return {name: int(count) for name, count in found if name not in ("total", "book")}


@pytest.mark.parametrize(("profile", "settings", "jobs"), [
    ("smoke", "shards=3", {"network": 3 * (3 + 1), "statistics": 3 * 3, "translator": 3,
                           "sweep": 3, "space": 2, "chapter": 12, "last": 2}),
    # 13 classifiers and two spaces in 7 parts each, and what gathers them.
    ("imagenet13", "", {"network": 15 * (7 + 1), "statistics": 13 * 7, "translator": 13,
                        "sweep": 5, "space": 1, "chapter": 12, "last": 2})])
def test_a_run_in_parts_has_the_jobs_that_are_counted_by_hand(tmp_path, profile, settings, jobs):
    done = snakemake(tmp_path, "-n", "--cores", "2", profile=profile, settings=settings)
    assert done.returncode == 0, done.stdout[-2000:]
    found = planned_jobs(done.stdout)
    assert {name: found[name] for name in jobs} == jobs


@pytest.mark.parametrize("name", ["local", "slurm", "kubernetes"])
def test_snakemake_and_its_plugins_take_the_options_of_a_cluster(name):
    from snakemake.cli import parse_args
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    home = ROOT / "data" / "cluster" / name
    options = yaml.safe_load((home / "config.yaml").read_text(encoding="utf-8"))
    _, args = parse_args(["--workflow-profile", str(home), "-n"])
    for key in options:
        assert hasattr(args, key.replace("-", "_")), key
    if name != "local":
        plugin = ExecutorPluginRegistry().get_plugin(name)
        settings = plugin.get_settings(args)
        assert args.executor == name
        if name == "kubernetes":
            (volume,) = settings.persistent_volumes
            assert (volume.name, str(volume.path)) == ("sing", "/work")


@pytest.mark.slow
@pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")
def test_a_part_runs_as_jobs_of_a_real_slurm(smoke, build, tmp_path_factory):
    # Smoke has one shard of pictures, which is the second of two parts.
    mark = build / "smoke" / "stages" / "statistics-lite0.part-2-of-2.json"
    with slurm(tmp_path_factory.mktemp("slurm") / "home") as added:
        done = snakemake(
            build, "--workflow-profile", str(ROOT / "data" / "cluster" / "slurm"),
            "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2",
            "--slurm-logdir", str(build / "logs"), "--seconds-between-status-checks", "1",
            "--default-resources", "mem_mb=1000", "runtime=10", "slurm_partition=test",
            "slurm_account=none", "--retries", "0", "--latency-wait", "20", "--jobs", "2",
            "--", f"stages/{mark.name}", settings="shards=2 models=[lite0]",
            OMP_NUM_THREADS="1", **added)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "has been submitted with SLURM jobid" in done.stdout
    assert mark.is_file()
    files = sorted((build / "smoke" / "statistics").glob("lite0-*-2-of-2-*.safetensors"))
    always, folds = summed(smoke, "lite0")
    found = {int(path.stem.rsplit("of-2-")[1]): RidgeFitter.load(path) for path in files}
    assert found.keys() == {-1, *range(smoke.config.folds)}
    for fold, one in {-1: always, **dict(enumerate(folds))}.items():
        assert found[fold].n == one.n
        torch.testing.assert_close(found[fold].solve(10.0).weight, one.solve(10.0).weight)
