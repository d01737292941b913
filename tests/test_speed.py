from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from sing_nb import figures, speed
from sing_nb.__main__ import main
from sing_nb.errors import SingError

ROOT = Path(__file__).resolve().parents[1]
SUITE = '''
import time


class Nap:
    """A race whose lengths are known."""

    title, work = "Napping", "some hundredths of a second"
    labels = {"time_sing_short": "a short nap", "time_long": "a long one"}
    bounds = {"time_long": 2.0, ("time_sing_short", "time_endless"): 1000.0}
    limits = {"time_sing_short": 5.0}
    number, repeat, rounds, warmup_time = 1, 1, 2, 0

    def time_sing_short(self):
        time.sleep(0.02)

    def time_long(self):
        time.sleep(0.2)

    def time_broken(self):
        raise RuntimeError("this one fails")


class Longer:
    title, growth = "Longer naps", "naps"
    params, param_names = [[1, 2, 4]], ["naps"]
    number, repeat, rounds, warmup_time = 1, 1, 2, 0

    def time_sing(self, naps):
        time.sleep(0.05 * naps)
'''


def suite(folder, **files):
    """A folder of benchmarks with asv's configuration."""
    (folder / "bench").mkdir(parents=True)
    (folder / "bench" / "__init__.py").write_text("")
    for name, text in files.items():
        (folder / "bench" / f"{name}.py").write_text(text)
    config = json.loads(speed.SUITE.read_text())
    config |= {"repo": str(ROOT), "benchmark_dir": "bench", "results_dir": "results"}
    (folder / "asv.conf.json").write_text(json.dumps(config))
    return folder / "asv.conf.json"


# --- asv itself ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """What asv gave for a suite of naps, and the record of it."""
    home = tmp_path_factory.mktemp("home")  # asv keeps the machine's description there
    config = suite(home, naps=SUITE)
    done = subprocess.run(
        [sys.executable, "-c", "import sys, pathlib; from sing_nb import speed; "
         "speed.run('', *map(pathlib.Path, sys.argv[1:]))", str(config), str(home / "bench.json")],
        env={**os.environ, "HOME": str(home), "GIT_CONFIG_COUNT": "1",
             "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"},
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return home / "bench.json"


def test_a_race_is_measured_by_asv_and_becomes_a_row(raced):
    (row,) = speed.races(raced).to_dict("records")
    assert (row["race"], row["ours"], row["peer"]) == ("Napping", "a short nap", "a long one")
    # A nap never ends early.
    assert 0.02 <= row["value_ours"] < row["value_peer"]
    assert row["value_peer"] >= 0.2
    assert row["low"] <= row["ratio"] <= row["high"]
    assert row["rounds"] == 2
    assert row["met"] == (row["ratio"] >= 2)
    (limit,) = speed.limits(raced).to_dict("records")
    assert limit["met"]
    assert limit["value"] == pytest.approx(row["value_ours"])


def test_growth_is_measured_by_asv(raced):
    (row,) = speed.growth(raced).to_dict("records")
    assert (row["of"], row["sizes"]) == ("naps", [1, 2, 4])
    assert all(value >= 0.05 * size for value, size in zip(row["values"], row["sizes"]))


def test_a_benchmark_that_fails_is_reported_and_costs_no_other(raced):
    content = speed.read(raced)
    assert content["failed"] == [{"topic": "naps", "race": "Napping", "who": "broken"}]
    assert speed.problems(content)[0] == "failed: Napping (naps): broken"
    assert speed.told(raced)["speed_failed"] == "Without a result: Napping (broken)."


# --- ratios and exponents by hand ---------------------------------------------------------------


RIDGE = '''
class Path:
    title, work, rounds = "Path", "n = 10", 3
    labels = {"time_sing": "ours"}
    bounds = {"time_grid": 20.0, "time_one": 1 / 3}

    def time_sing(self): ...
    def time_grid(self): ...
    def time_one(self): ...
    def peakmem_sing(self): ...
    def peakmem_grid(self): ...
'''


def results(folder, **rows):
    """A result of asv as it lies on disk: benchmark -> (result, params, samples)."""
    columns = ["result", "params", "samples"]
    target = folder / "results" / speed.MACHINE / "abc-existing-py.json"
    target.parent.mkdir(parents=True)
    target.write_text(json.dumps({"result_columns": columns, "results": {
        name.replace("__", "."): list(row) for name, row in rows.items()}}))


@pytest.fixture
def by_hand(tmp_path):
    config = suite(tmp_path, ridge=RIDGE)
    results(
        tmp_path,
        # Two samples in each of three rounds.
        ridge__Path__time_sing=([1], [], [[1.0, 3.0, 1.0, 1.0, 4.0, 4.0]]),
        ridge__Path__time_grid=([1], [], [[30.0, 50.0, 10.0, 20.0, 100.0, 100.0]]),
        ridge__Path__time_one=([1], [], [[0.5, 0.5, 0.5, 0.5, 1.0, 1.0]]),
        ridge__Path__peakmem_sing=([100], []), ridge__Path__peakmem_grid=([250], []),
    )
    return speed.collect("ridge", config)


def test_ratios_are_those_of_each_round(by_hand):
    grid, one, memory = by_hand["races"]
    # Medians of the rounds: ours 2, 1, 4; the grid's 40, 15, 100.
    assert (grid["ratio"], grid["low"], grid["high"]) == (20.0, 15.0, 25.0)
    assert (grid["value_ours"], grid["value_peer"]) == (2.0, 40.0)
    assert grid["met"] is True
    assert (one["peer"], one["ratio"], one["met"]) == ("one", 0.25, False)
    assert (memory["unit"], memory["ratio"], memory["met"]) == ("bytes", 2.5, None)


def test_parameters_that_do_not_grow_are_cases_of_a_race(tmp_path):
    config = suite(tmp_path, spaces='''
class Head:
    rounds, params, param_names = 1, [[8, 9]], ["m"]
    def time_sing(self, m): ...
    def time_peer(self, m): ...
''')
    results(tmp_path, spaces__Head__time_sing=([1, None], [["8", "9"]], [[1.0], None]),
            spaces__Head__time_peer=([2, 3], [["8", "9"]], [[2.0], [3.0]]))
    found = speed.collect("spaces", config)
    (row,) = found["races"]
    assert (row["case"], row["ratio"]) == ("m = 8", 2.0)
    assert found["failed"] == [{"topic": "spaces", "race": "Head", "who": "sing"}]


def test_a_benchmark_that_was_skipped_is_neither_a_row_nor_a_failure(tmp_path):
    config = suite(tmp_path, features='''
class Openvino:
    rounds = 1
    def time_sing(self): ...
    def time_openvino(self): ...
''')
    results(tmp_path, features__Openvino__time_sing=([1.0], [], [[1.0]]),
            features__Openvino__time_openvino=([float("nan")], [], [None]))
    assert not any(speed.collect("features", config).values())


def test_curves_of_growth_are_apart_for_other_parameters(tmp_path):
    config = suite(tmp_path, more='''
class Rows:
    rounds, growth, params, param_names = 1, "n", [[2, 4], [10, 20, 40]], ["d", "n"]
    def time_sing(self, d, n): ...
''')
    samples = [[d * n**2.0] for d in (2, 4) for n in (10, 20, 40)]
    results(tmp_path, more__Rows__time_sing=(
        [1] * 6, [["2", "4"], ["10", "20", "40"]], samples))
    rows = speed.collect("more", config)["growth"]
    assert [row["case"] for row in rows] == ["d = 2", "d = 4"]
    for row, d in zip(rows, (2, 4)):
        assert row["exponent"] == pytest.approx(2, abs=1e-12)
        assert row["at_one"] == pytest.approx(d)


def test_the_exponent_is_the_slope_of_the_logarithms():
    rng = np.random.default_rng(0)
    x = np.array([100, 200, 400, 800, 1600])
    y = 3e-4 * x**1.3 * np.exp(rng.normal(scale=0.1, size=5))
    found = speed.exponent(x, y)
    (slope, constant), covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    assert found["exponent"] == pytest.approx(slope)
    assert found["at_one"] == pytest.approx(np.exp(constant))
    # polyfit's covariance is scaled by the residuals over n - 2.
    reach = scipy.stats.t.ppf(0.975, 3) * covariance[0, 0] ** 0.5
    assert [found["low"], found["high"]] == pytest.approx([slope - reach, slope + reach])


def test_two_sizes_have_a_slope_and_no_interval():
    found = speed.exponent([1, 10], [1, 100])
    assert found["exponent"] == pytest.approx(2)
    assert found["low"] is found["high"] is None


@pytest.mark.parametrize(("sizes", "values"), [([5], [1]), ([5, 5], [1, 2]), ([1, 2], [1, 0])])
def test_an_exponent_needs_sizes_and_times(sizes, values):
    with pytest.raises(SingError, match="two or more different sizes"):
        speed.exponent(sizes, values)


# --- the record ---------------------------------------------------------------------------------


def record(*topics, machine="this", **parts):
    rows = [{"topic": topic, "race": topic} for topic in topics]
    return {"machine": {"name": machine}, "races": rows, "limits": [], "growth": [], "failed": [],
            **parts}


def test_what_was_not_measured_stays_only_on_the_same_machine():
    old, new = record("ridge", "growth"), record("growth")
    kept = speed.merge(new, old, ["growth"])
    assert [row["topic"] for row in kept["races"]] == ["growth", "ridge"]
    other = speed.merge(record("growth", machine="another"), old, ["growth"])
    assert [row["topic"] for row in other["races"]] == ["growth"]
    # A race that no longer exists goes when its topic is measured.
    assert speed.merge(record(), old, ["growth"])["races"] == [{"topic": "ridge", "race": "ridge"}]


def test_an_unknown_topic_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(SingError, match="did you mean 'ridge'"):
        speed.run("rigde", suite(tmp_path, ridge=RIDGE), tmp_path / "bench.json")
    assert not (tmp_path / "bench.json").exists()


def test_the_command_refuses_it_too(capsys):
    assert main(["bench", "--only", "rigde"]) == 1
    assert "did you mean 'ridge'" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "message"), [
    (None, "There is no .*make bench"), ("{", "is not JSON"), ("{}", "lacks failed, growth"),
])
def test_a_record_that_is_none_says_what_to_do(tmp_path, text, message):
    if text is not None:
        (tmp_path / "bench.json").write_text(text)
    with pytest.raises(SingError, match=message):
        speed.read(tmp_path / "bench.json")


@pytest.mark.parametrize(("value", "unit", "text"), [
    (12.345, "seconds", "12.3 s"), (0.0123456, "seconds", "12.3 ms"), (0.9996, "seconds", "1.00 s"),
    (156, "seconds", "156 s"), (3e-6, "seconds", "3.00 µs"), (8.1e8, "bytes", "810 MB"),
    (1e9, "bytes", "1.00 GB"), (1234, "seconds", "1,234 s"),
])
def test_amounts_have_three_digits_and_their_unit(value, unit, text):
    assert speed.amount(value, unit) == text


def test_the_record_in_git_can_be_shown():
    topics = {row["topic"] for part in speed.PARTS for row in speed.read()[part]}
    assert topics <= set(speed.topics())
    assert all(speed.told().values())
    assert len(speed.race_words()) == len(speed.races())


def test_the_record_names_a_machine_and_not_its_name():
    found = speed.this_machine()
    assert found["cores"] >= 1
    assert found["processor"]
    assert found["versions"]["torch"].split(".")[0].isdigit()
    assert os.uname().nodename not in json.dumps(found).split('"')


# --- figures ------------------------------------------------------------------------------------


def write(folder, content):
    content["machine"] = speed.this_machine()
    (folder / "bench.json").write_text(json.dumps(content))
    return folder / "bench.json"


def layer_rows(chart):
    return [row for table in chart.to_dict()["datasets"].values() for row in table]


def test_the_chart_of_races_shows_outcomes_by_colour_and_shape(by_hand, tmp_path):
    table = speed.races(write(tmp_path, by_hand))
    chart = figures.races(table)
    rows = [row for row in layer_rows(chart) if "outcome" in row]
    assert [row["outcome"] for row in rows] == ["bound met", "bound missed", "no bound"]
    assert [row["ratio"] for row in rows] == [20.0, 0.25, 2.5]
    for channel in ("color", "shape"):
        (scale,) = {json.dumps(layer["encoding"][channel]["scale"])
                    for layer in chart.to_dict()["layer"]
                    if channel in layer.get("encoding", {})}
        assert len(set(json.loads(scale)["range"])) == 3


def test_the_table_in_words_has_units_spread_and_bound(by_hand, tmp_path):
    table = speed.race_words(write(tmp_path, by_hand))
    assert table["ours"].tolist() == ["ours: 2.00 s", "ours: 2.00 s", "sing: 100 B"]
    assert table["the other / ours"].tolist() == [
        "20 [15, 25]; bound 20: met", "0.25 [0.25, 0.5]; bound 0.333: missed", "2.5 [2.5, 2.5]"]


def test_charts_of_an_empty_record_are_empty_and_not_broken(tmp_path):
    path = write(tmp_path, record())
    grown = speed.growth(path)
    for chart in (figures.races(speed.races(path)), figures.exponents(grown),
                  figures.growth_curves(grown)):
        assert not [row for row in layer_rows(chart) if {"ratio", "exponent", "fitted"} & {*row}]
    assert all(speed.told(path).values())


def test_the_fitted_line_passes_through_what_was_fitted(tmp_path):
    sizes, values = [1, 2, 4], [0.1, 0.2, 0.4]
    row = {"topic": "growth", "race": "Rows", "work": "", "case": "", "who": "ours", "of": "n",
           "unit": "seconds", "sizes": sizes, "values": values, "measured": "2026-01-01",
           **speed.exponent(sizes, values)}
    path = write(tmp_path, record(growth=[row]))
    found = [row for row in layer_rows(figures.growth_curves(speed.growth(path)))
             if "fitted" in row]
    assert [row["fitted"] for row in found] == pytest.approx(values)
    assert speed.told(path)["speed_steep"] == "“Rows” (exponent 1.00 in n)"
