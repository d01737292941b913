"""Two runs, one of them killed again and again and with nothing in its caches, are one book."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import psutil
import pytest
from conftest import environment

from sing_nb.pictures.fetch import SOURCES, cache_dir

ROOT = Path(__file__).resolve().parents[2]
# `SING_KILLS=10 pytest tests/test_killed.py` is the long form.
KILLS = int(os.environ.get("SING_KILLS", "3"))
LATEST = 60  # seconds that a run is left at most before it is killed


def make_book(build: Path) -> psutil.Popen:
    """Start `make book PROFILE=smoke` with a build folder and a cache of its own.

    The pictures are not downloaded again; heads, embeddings of texts and the like start cold.
    """
    (build / "cache").mkdir(exist_ok=True)
    for name in SOURCES:
        if not (build / "cache" / name).exists():
            (build / "cache" / name).symlink_to(cache_dir() / name)
    log = (build / "make.log").open("a")
    return psutil.Popen(
        ["make", "-C", str(ROOT), "book", "PROFILE=smoke"], stdout=log, stderr=subprocess.STDOUT,
        env=environment(SING_BUILD=str(build), SING_CACHE=str(build / "cache")))


def kill_at_once(process: psutil.Popen) -> None:
    """`kill -9` for a process and all that it started, as when the power goes."""
    family = [*process.children(recursive=True), process]
    for one in family:
        one.suspend()  # or a parent would notice, and clean up
    family += [child for one in family for child in one.children() if child not in family]
    for one in family:
        one.kill()
    psutil.wait_procs(family, timeout=30)


def data_of(figures: Path) -> dict[str, bytes]:
    """What figures show, by file name."""
    return {path.name: path.read_bytes() for path in figures.glob("*/*.json")
            if path.name.endswith((".data.json", ".vl.json"))}


@pytest.mark.slow
def test_a_second_run_killed_at_random_moments_shows_the_same_figures(smoke_book, tmp_path):
    moments, killed = random.Random(7), 0
    for _ in range(KILLS):
        process = make_book(tmp_path)
        try:
            process.wait(timeout=moments.uniform(5, LATEST))
            break  # done before its moment came
        except psutil.TimeoutExpired:
            kill_at_once(process)
            killed += 1
    assert killed > 0
    done = make_book(tmp_path).wait()
    assert done == 0, (tmp_path / "make.log").read_text()[-3000:]

    undisturbed = data_of(smoke_book.parent / "figures")
    resumed = data_of(tmp_path / "smoke" / "figures")
    assert resumed.keys() == undisturbed.keys()
    # Features and tables that older code left in _build/smoke differ in their last digits.
    assert [name for name in resumed if resumed[name] != undisturbed[name]] == [], (
        "are results of older code in _build? then: make clean")
