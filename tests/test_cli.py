"""The manners of the command line: help, exit codes, streams, and what it says of failures."""

from __future__ import annotations

import errno
import json
import math
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
import yaml

import sing_nb.cli as cli
from sing_nb.book.costs import MACHINES
from sing_nb.errors import SingError
from sing_nb.study.profile import load_profile, profile_names

ROOT = Path(__file__).resolve().parents[1]
HERE = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
COMMANDS = cli.sing.commands


def sing(*words, env=(), **options):
    """The program itself, as a shell starts it."""
    return subprocess.run(
        [sys.executable, "-m", "sing_nb", *words], capture_output=True, text=True, timeout=120,
        env={**HERE, **dict(env)}, **options,
    )


def parsed(line):
    """Parameters of a command line after `sing`, read by its own parser."""
    words = shlex.split(re.split(r" [|>] ", line)[0])
    name, *words = words[words.index("sing") + 1 :]
    told = {"quiet": False, "debug": False, "command": "", "argv": []}
    parent = cli.sing.make_context("sing", [name], obj=told)
    return name, COMMANDS[name].make_context(name, words, parent=parent).params


@pytest.fixture
def command():
    """Adds commands of a test's own to the program for a while."""
    added = []

    def add(function, **options):
        cli._command("tried", cli.STAGES, examples=["sing tried"], **options)(function)
        added.append("tried")

    yield add
    for name in added:
        COMMANDS.pop(name, None)


# --- help ---------------------------------------------------------------------------------------


def test_help_groups_the_commands_and_lists_the_exit_codes(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    own, stages = text.split("Your own classifier:")[1].split("Stages of a run:")
    assert re.findall(r"^  (\S+)", own, re.MULTILINE) == ["report", "ask", "card", "doctor"]
    listed = re.findall(r"^  ([a-z-]+)  ", stages.split("Exit codes:")[0], re.MULTILINE)
    assert [*("report", "ask", "card", "doctor"), *listed] == list(COMMANDS)
    assert re.findall(r"^  (\d+) ", text.split("Exit codes:")[1], re.MULTILINE) == [
        "0", "1", "2", "130"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_ends_with_examples_that_parse(name, capsys):
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    lines = text.split("Examples:\n")[1].rstrip().splitlines()
    assert lines == [f"  {line}" for line in COMMANDS[name].examples]
    assert lines
    for line in lines:
        found, values = parsed(line)
        assert found == name
        assert values.get("profile") in {*profile_names(), None}
    for option in ("--quiet", "--debug"):
        assert option in text


def test_examples_name_what_there_is():
    pairs = [(name, parsed(line)[1]) for name, one in COMMANDS.items() for line in one.examples]
    known = yaml.safe_load((ROOT / "data" / "models.yaml").read_text(encoding="utf-8"))
    for name, values in pairs:
        if name in ("features", "translator", "tables", "controls", "statistics"):
            profile = load_profile(values["profile"])
            assert values.get("model") in {*profile.everyone, None}
            assert values.get("space") in {*profile.spaces, None}
        if name in ("ask", "report") and not re.search("[:/]", values["model"]):
            assert values["model"] in known
    (architecture,) = {v["architecture"] for n, v in pairs if n == "sweep"} - {None}
    assert (architecture, "cosine") in load_profile("offline").sweep
    (machine,) = [option for option in COMMANDS["plan"].params if option.name == "machine"]
    assert set(machine.type.choices) == set(MACHINES)


def test_settings_of_examples_are_taken():
    for line in (line for one in COMMANDS.values() for line in one.examples if "--set" in line):
        name, values = parsed(line)
        if name in ("report", "ask"):
            assert cli._settings(values["profile"], values["settings"])
        else:
            _, overrides, parameters = cli._checked(values["profile"], values["settings"])
            assert overrides or any(parameters.values())


def called(text):
    """(command, its options) wherever a file calls `sing`."""
    for name, rest in re.findall(
        r"(?:\bsing|\{SING\}|sing_nb) ([a-z-]+)\b((?:[^\n|`#\"]|\"\s*\n\s*\")*)", text
    ):
        if name in COMMANDS:
            yield name, set(re.findall(r"(?<=\s)--[a-z-]+(?![a-z-]*\})", rest))


@pytest.mark.parametrize("path", ["book/Snakefile", "Makefile", "README.md", ".ci/run"])
def test_whoever_calls_a_command_finds_its_options(path):
    calls = list(called((ROOT / path).read_text(encoding="utf-8")))
    for name, options in calls:
        known = {text for option in COMMANDS[name].params for text in option.opts} | {"--help"}
        assert options <= known, (name, options - known)
    if path == "book/Snakefile":
        assert {name for name, _ in calls} == {*COMMANDS} - {
            "report", "ask", "card", "doctor", "plan"}
        for name in {name for name, _ in calls}:  # what {OPTIONS} stands for
            assert {"profile", "settings", "threads"} <= {o.name for o in COMMANDS[name].params}


def test_the_version(capsys):
    import importlib.metadata

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"sing, version {importlib.metadata.version('sing-nb')}\n"


def test_nothing_heavy_is_loaded_before_a_command_needs_it():
    heavy = ("torch", "numpy", "pandas", "yaml", "tqdm", "rich", "papermill", "timm", "asyncio")
    done = subprocess.run(
        [sys.executable, "-c", "import sys, sing_nb.cli as cli; cli.main(['report', '-h']); "
         f"print([name for name in {heavy} if name in sys.modules])"],
        capture_output=True, text=True, env=HERE,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_the_tab_key_completes():
    def complete(*words):
        done = sing(env={"_SING_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words),
                         "COMP_CWORD": str(len(words) - 1)})
        return [line.split(",")[1] for line in done.stdout.splitlines()]

    assert complete("sing", "fe") == ["fetch", "features"]
    assert complete("sing", "features", "--profile", "sm") == ["smoke"]
    assert complete("sing", "ask", "--model", "lite") == ["lite0", "lite1", "lite2"]
    assert complete("sing", "ask", "--quiet", "--cla") == ["--class-names"]


# --- exit codes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "said"), [
    (["fearures"], "No such command 'fearures'. Did you mean 'features'?"),
    (["qqq"], "No such command 'qqq'. Known: report, ask, card, doctor, fetch,"),
    (["features", "--modle", "lite0"], "--model"),
    (["--qiet", "check"], "--quiet"),
    (["features"], "Missing option '--model'"),
    (["ask", "--model", "lite0"], "Missing argument 'WORDS...'"),
    (["features", "--model", "lite0", "--threads", "two"], "'two' is not a valid integer"),
    (["features", "--model", "lite0", "--threads", "0"], "0 is not in the range x>=1"),
    (["plan", "--machine", "tpu"], "'tpu' is not one of 'cpu', 'gpu'"),
    (["fetch", "--json"], "No such option"),  # it prints nothing that a program could read
    (["card", "one", "two"], "unexpected extra argument"),
    ([], "Usage: sing"),
])
def test_wrong_usage_is_two(words, said, capsys):
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(("words", "said"), [
    (["check", "--profile", "smok"], "sing check: Unknown profile 'smok'; did you mean 'smoke'?"),
    (["check", "--set", "views=x"], "sing check: views in the overrides must be int; got 'x'"),
    (["check", "--set", "vieuws=3"], "Unknown setting 'vieuws'; did you mean 'views'?"),
    (["check", "--set", "views"], "A setting reads key=value; got 'views'"),
    (["chapter", "--profile", "smoke", "--chapter", "99_none"], "No chapter '99_none'; the table"),
    (["features", "--profile", "smoke", "--model", "lite9"], "did you mean 'lite2'"),
    (["card", "nowhere.safetensors"], "sing card: nowhere.safetensors"),
    (["report", "--model", "lite0", "--set", "vieuws=3"], "sing report: Unknown setting 'vieuws'"),
    (["ask", "--model", "lite0", "--profile", "smok", "snow"], "sing ask: Unknown profile 'smok'"),
])
def test_what_cannot_be_done_is_one_and_said_on_stderr(words, said, capsys):
    assert cli.main(words) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert "Traceback" not in shown.err


def raised(error):
    def run():
        """Fail."""
        raise error

    return run


def test_an_unforeseen_error_is_one_line_and_advice(command, capsys):
    command(raised(RuntimeError("mat1 and mat2\n  cannot be multiplied")))
    assert cli.main(["tried"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "sing tried: RuntimeError: mat1 and mat2 cannot be multiplied"
    assert len(lines) == 2
    for part in ("--debug", "report it as an issue", "a file of yours"):
        assert part in lines[1]
    # With --debug, before the command's name or after it, and the cause of a plain error, too.
    for words in (["--debug", "tried"], ["tried", "--debug"]):
        assert cli.main(words) == 1
        text = capsys.readouterr().err
        assert text.startswith("Traceback")
        assert "test_cli.py" in text
        assert "\nsing tried: RuntimeError: mat1" in text


def test_debug_shows_what_lies_behind_a_plain_error(command, capsys):
    def run():
        """Fail."""
        try:
            {}["inner"]
        except KeyError as error:
            raise SingError("give another key") from error

    command(run)
    assert cli.main(["tried"]) == 1
    assert capsys.readouterr().err == "sing tried: give another key\n"
    assert cli.main(["tried", "--debug"]) == 1
    text = capsys.readouterr().err
    assert "KeyError: 'inner'" in text
    assert text.endswith("sing tried: give another key\n")


@pytest.mark.parametrize(("error", "advice"), [
    (MemoryError(), "Memory ran out. Use smaller batches or fewer pictures (--set batch="),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "Memory ran"),
    (OSError(errno.ENOSPC, "No space left on device", "/x"), "The disk is full. Make room"),
    (ValueError("I/O error: No space left on device (os error 28)"), "The disk is full"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "SING_BUILD (results) and SING_CACHE"),
    (PermissionError(errno.EACCES, "Permission denied", "/x"), "may not read or write there"),
    (OSError(errno.EROFS, "Read-only file system", "/x"), "may not read or write there"),
    (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), "did not foresee"),
    (EOFError("Ran out of input"), "did not foresee"),  # no Control-C, as click would have it
])
def test_failures_of_the_machine_get_advice(error, advice, command, capsys):
    command(raised(error))
    assert cli.main(["tried"]) == 1
    text = capsys.readouterr().err
    assert text.startswith(f"sing tried: {type(error).__name__}")
    assert advice in text
    assert "Traceback" not in text


def test_settings_that_the_advice_names_exist():
    fields = load_profile("report").__dataclass_fields__
    for key in re.findall(r"--set (\w+)=", cli._advice(MemoryError())):
        assert key in fields


def test_a_command_says_its_own_exit_code(command):
    command(lambda: 1)
    assert cli.main(["tried"]) == 1


def test_only_what_was_not_read_is_no_error():
    # The pipe's reader is gone before anything is written.
    shell = f"{shlex.quote(sys.executable)} -m sing_nb.cli %s | true; echo ${{PIPESTATUS[0]}}"
    for words in ("--help", "check --profile smoke --help"):
        done = subprocess.run(["bash", "-c", shell % words], capture_output=True, text=True,
                              env=HERE)
        assert (done.stdout, done.stderr) == ("0\n", "")
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "sing_nb", "--help"], stdout=full,
                              stderr=subprocess.PIPE, text=True, env=HERE)
    assert done.returncode == 1
    assert "The disk is full" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pipe_that_breaks_elsewhere_is_an_error(command, capsys):
    command(raised(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    assert cli.main(["tried"]) == 1
    assert "BrokenPipeError" in capsys.readouterr().err


def test_control_c_is_one_line_and_the_same_command_goes_on(tmp_path):
    words = [sys.executable, "-m", "sing_nb", "fetch", "--profile", "smoke",
             "--set", "clipart_files=800"]  # seconds of drawing: nobody is that late
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
    assert err.splitlines() == [f"sing fetch: interrupted. {cli.KEPT}"]
    kept = drawn()
    assert not list(tmp_path.rglob("stages/fetch.json"))
    again = subprocess.run(words, capture_output=True, text=True, env=env, timeout=120)
    assert again.returncode == 0, again.stderr
    assert len(list(tmp_path.rglob("stages/fetch.json"))) == 1
    after = drawn()
    assert len(after) > len(kept) >= 5
    assert {path: after[path] for path in kept} == kept


# --- what goes where ----------------------------------------------------------------------------


def test_quiet_reaches_studies_and_ends_with_the_command(command, monkeypatch):
    seen = []
    command(lambda: seen.append(os.environ.get("SING_QUIET")))
    monkeypatch.delenv("SING_QUIET", raising=False)
    for words in (["tried"], ["tried", "--quiet"], ["--quiet", "tried"], ["tried"]):
        assert cli.main(words) == 0
    assert seen == [None, "1", "1", None]
    monkeypatch.setenv("SING_QUIET", "1")
    assert cli.main(["tried", "--quiet"]) == 0
    assert os.environ["SING_QUIET"] == "1"


def test_what_a_terminal_cannot_show_is_no_error():
    done = subprocess.run(
        [sys.executable, "-c", "import sing_nb.cli as cli\n"
         "cli._command('tried', cli.STAGES, examples=[])(lambda: print('雪 \\U0001f600'))\n"
         "raise SystemExit(cli.main(['tried']))"],
        capture_output=True, text=True, env={**HERE, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stdout) == (0, "\\u96ea \\U0001f600\n"), done.stderr


def test_json_of_a_plan_is_the_plan(capsys):
    from sing_nb.book import costs

    words = ["plan", "--profile", "smoke", "--machine", "cpu"]
    assert cli.main([*words, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    profile = load_profile("smoke")
    pd.testing.assert_frame_equal(
        pd.DataFrame(content["jobs"]), costs.plan(profile, machine="cpu"), check_dtype=False)
    value = {row["quantity"]: row["value"] for row in content["costs"]}
    assert value["hours"] == pytest.approx(pd.DataFrame(content["jobs"])["hours"].sum(), rel=0.05)


def test_json_holds_what_json_can(capsys):
    cli._print_json({
        "a": np.float32(0.5), "b": [np.int64(3), float("nan"), math.inf], "c": Path("x/y"),
        1: np.array([[1.5, np.nan]]), "d": {"e": None, "f": True}, "g": pd.Timestamp(0),
        "h": "雪",
    })
    assert json.loads(capsys.readouterr().out) == {
        "a": 0.5, "b": [3, None, None], "c": "x/y", "1": [[1.5, None]],
        "d": {"e": None, "f": True}, "g": "1970-01-01 00:00:00", "h": "雪",
    }


ANSWERS = pd.DataFrame({
    "prompt": ["snow", "a [bold]hand[/bold]"], "verdict": ["ignores it", "cannot be told"],
    "hidden": [0.713, np.nan], "hidden_low": [0.6449, np.nan], "hidden_high": [0.79, np.nan],
    "hidden_control": [0.2, np.nan],
})


def test_answers_are_a_table_for_people(capsys):
    cli._print_table(cli._answer_table(ANSWERS))
    head, *rows = capsys.readouterr().out.splitlines()
    assert re.split(r" {2,}", head) == [
        "asked", "the head", "hidden", "95 % interval", "by a random part"]
    assert re.split(r" {2,}", rows[0]) == ["snow", "ignores it", "71 %", "64 % to 79 %", "20 %"]
    assert re.split(r" {2,}", rows[1])[:3] == ["a [bold]hand[/bold]", "cannot be told", "?"]


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
    table, told = capsys.readouterr().out.split("\n\n", 1)
    assert [line.split("  ")[0] for line in table.splitlines()] == ["asked", "snow", "a hand"]
    assert "EfficientNet-Lite0" in told


def test_names_send_a_terminal_no_commands(command, capsys):
    command(raised(SingError("No class '\x1b[2Jcat\r'.\nGive another: caf\u00e9.")))
    assert cli.main(["tried"]) == 1
    assert capsys.readouterr().err == (
        "sing tried: No class '\\x1b[2Jcat\\r'.\nGive another: caf\u00e9.\n")
    COMMANDS.pop("tried")
    command(raised(KeyError("\x1b[2Jcat")))
    assert cli.main(["tried"]) == 1
    cli._print_markdown("**\x1b[2Jcat**")
    cli._print_table(cli._answer_table(ANSWERS.assign(prompt=["\x1b[2Jsnow", "hand"])))
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "\\x1b[2Jsnow" in shown.out


def on_a_terminal(code):
    """What a program shows on a terminal of 80 columns."""
    shown = bytearray()

    def keep(handle):
        data = os.read(handle, 4096)
        shown.extend(data)
        return data

    pid, handle = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS="80", PYTHONPATH=str(ROOT))
        os.execv(sys.executable, [sys.executable, "-c", code])
    while True:
        try:
            if not keep(handle):
                break
        except OSError:  # what Linux says at the end
            break
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, shown.decode()
    return shown.decode()


SHOW = (
    "import pandas as pd, sing_nb.cli as cli\n"
    "cli._print_table(pd.DataFrame({'asked': ['a [bold]hand[/bold]'], 'the head': ['keeps it']}))\n"
    "cli._print_markdown('# What it ignores\\n\\n- **1,268** of 1,280 [directions](x.html)')\n"
)


def test_formatting_is_for_terminals_only(capsys):
    shown = on_a_terminal(SHOW)
    assert "\x1b[1m" in shown  # bold
    plain = re.sub(r"\x1b[^m]*m|\x1b\][^\x1b]*\x1b\\", "", shown)
    assert "a [bold]hand[/bold]" in plain
    assert "**" not in plain
    cli._print_markdown(
        "**What it *ignores***\n\n- **1,268** of 1,280 [directions](x.html), not `W`\n"
        "- \\*as typed\\* &lt;b&gt; 2 * 3 * 4, a_b\n" + "- " + "word " * 30
    )
    assert capsys.readouterr().out.splitlines() == [
        "What it ignores", "", " • 1,268 of 1,280 directions, not W",
        " • *as typed* <b> 2 * 3 * 4, a_b", " • " + " ".join(["word"] * 19),
        "   " + " ".join(["word"] * 11),
    ]


def test_the_command_that_makes_it_again():
    words = ["report", "--model", "a b.py:f", "--quiet", "--ask", "it's", "--json"]
    line = cli._command_line(words)
    assert line == """sing report --model 'a b.py:f' --ask 'it'"'"'s'"""
    assert parsed(line)[1]["questions"] == ("it's",)


def test_click_is_told_every_parameter():
    for name, one in COMMANDS.items():
        assert one.part in (cli.OWN, cli.STAGES)
        for option in one.params:
            if isinstance(option, click.Option):
                assert option.help, (name, option.opts)
                assert option.help.endswith((".", "minutes).")), (name, option.opts)
