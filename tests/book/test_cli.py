"""The command line: help, exit codes, what goes to which stream, what it says of failures."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sing_nb.cli as cli

ROOT = Path(__file__).resolve().parents[2]
HERE = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
COMMANDS = cli.sing.commands
PROGRAM = [sys.executable, "-m", "sing_nb.cli"]


# --- help and usage -----------------------------------------------------------------------------


def test_help_lists_the_commands_and_the_exit_codes(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    listed = re.findall(r"^  ([a-z-]+)  ", text.split("Commands:")[1], re.MULTILINE)
    assert listed == sorted(COMMANDS)
    assert re.findall(r"^    (\d+) ", text, re.MULTILINE) == ["0", "1", "2", "130"]


@pytest.mark.parametrize("words", [
    ["fearures"], ["features", "--modle", "lite0"], ["features"], ["ask", "--model", "lite0"],
    ["features", "--model", "lite0", "--threads", "0"], ["fetch", "--json"], ["card", "a", "b"],
    ["features", "--model", "lite0", "--part", "3/2"], []])
def test_wrong_usage_is_two(words, capsys):
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Usage: sing" in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(("words", "said"), [
    (["check", "--profile", "smok"], "sing check: Unknown profile 'smok'; did you mean 'smoke'?"),
    (["check", "--set", "vieuws=3"], "Unknown setting 'vieuws'; did you mean 'views'?"),
    (["chapter", "--profile", "smoke", "--chapter", "99_none"], "Unknown chapter '99_none'"),
    (["features", "--profile", "smoke", "--model", "lite9"], "lite9"),
    (["ask", "--model", "lite0", "--profile", "smok", "snow"], "sing ask: Unknown profile 'smok'")])
def test_what_cannot_be_done_is_one_and_said_on_stderr(words, said, capsys):
    assert cli.main(words) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert "Traceback" not in shown.err


# --- failures -----------------------------------------------------------------------------------


def test_control_c_is_one_line_and_the_same_command_goes_on(tmp_path):
    words = [*PROGRAM, "fetch", "--profile", "smoke", "--set", "clipart_files=800"]
    env = {**HERE, "SING_BUILD": str(tmp_path)}
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=env, start_new_session=True)

    def drawn():
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")}

    while running.poll() is None and len(drawn()) < 5:
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: its workers, too
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err.strip() == f"sing fetch: interrupted. {cli.KEPT}"
    kept = drawn()
    assert not list(tmp_path.rglob("stages/fetch.json"))
    again = subprocess.run(words, capture_output=True, text=True, env=env, timeout=120)
    assert again.returncode == 0, again.stderr
    assert len(list(tmp_path.rglob("stages/fetch.json"))) == 1
    after = drawn()
    assert len(after) > len(kept) >= 5
    assert {path: after[path] for path in kept} == kept


# --- what goes where ----------------------------------------------------------------------------


def test_nothing_heavy_is_loaded_before_a_command_needs_it():
    heavy = ("torch", "numpy", "pandas", "yaml", "tqdm", "rich", "papermill", "timm", "asyncio")
    code = (f"import sys, sing_nb.cli as cli; cli.main(['report', '-h']); "
            f"print([name for name in {heavy} if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=HERE)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_an_answer_of_a_real_study_on_both_streams(smoke, capsys):
    from sing_nb.reports import asking

    words = ["ask", "--model", "lite0", "--profile", "smoke", "snow", "a hand"]
    assert cli.main([*words, "--json", "--quiet"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    content = json.loads(shown.out)
    assert content["model"] == "lite0"
    expected = asking.ask(smoke, "lite0", ["snow", "a hand"])
    answers = pd.DataFrame(content["answers"])
    assert answers["prompt"].tolist() == ["snow", "a hand"]
    assert answers["verdict"].tolist() == expected["verdict"].tolist()
    for column in ("hidden", "hidden_low", "hidden_high", "hidden_control", "full"):
        np.testing.assert_allclose(answers[column].astype(float), expected[column], rtol=1e-9)
    assert cli.main(words) == 0
    title, table, told = capsys.readouterr().out.split("\n\n", 2)
    assert [line.split("  ")[0] for line in table.splitlines()[2:]] == ["snow", "a hand"]
    assert re.fullmatch(r"EfficientNet-Lite0 \(\d+ pictures of 8 subjects\)", title)
    assert told.startswith("snow: 8 subjects are too few")
