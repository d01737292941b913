"""How fast: races against other implementations, growth with size, and the record of both.

The benchmarks are classes of asv (airspeed velocity) in ``tests/bench``; ``make bench`` runs them
and keeps what they gave in ``data/expected/bench.json``, with the machine. The book quotes that
file: seconds measured while a book is built would differ from run to run.
"""

from __future__ import annotations

import datetime
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from scipy import stats

from .errors import SingError
from .fetch import data_dir, write_atomic
from .profile import unknown

__all__ = [
    "RECORD", "SUITE", "amount", "collect", "exponent", "growth", "limits", "machine", "merge",
    "problems", "race_words", "races", "read", "report", "run", "this_machine", "told", "topics",
]

#: The benchmarks, with asv's configuration.
SUITE = data_dir().parent / "tests" / "bench" / "asv.conf.json"
#: What ``make bench`` measured last; kept in git, since the book's own runs measure nothing.
RECORD = data_dir() / "expected" / "bench.json"
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "timm", "openvino", "asv")
PARTS = ("races", "limits", "growth", "failed")
KINDS = {"time": "seconds", "peakmem": "bytes"}
MACHINE = "sing-bench"  # asv files results by this; the machine's own name is nobody's business


# --- measuring ----------------------------------------------------------------------------------


def topics(config: Path = SUITE) -> list[str]:
    """Names of the files with benchmarks, as ``make bench ONLY=...`` takes them."""
    return sorted(path.stem for path in _folder(config).glob("[!_]*.py"))


def run(
    only: str = "", config: Path = SUITE, record: Path = RECORD, rounds: int | None = None,
) -> dict:
    """Run the benchmarks with asv, one topic after the other, and record what they gave.

    Within a topic asv runs the first round of every benchmark, then the second, each in a new
    process: what is compared was measured in turn. A benchmark that fails is recorded as failed
    and costs no other. asv itself keeps a line about the machine in ``~/.asv-machine.json``.

    Parameters
    ----------
    only : str
        Names of topics, with spaces between them; all if empty. What was recorded of the others
        stays, if it was measured on this machine with the same packages.
    config : pathlib.Path
        asv's configuration, beside or above the benchmarks.
    record : pathlib.Path
        The file that is written.
    rounds : int, optional
        How often each is measured, in place of what its class says: 1 for a quick look.

    Returns
    -------
    dict
        What was written: `machine` and the lists `races`, `limits`, `growth`, `failed`.

    Raises
    ------
    SingError
        For an unknown topic, or if asv is missing.
    """
    known = topics(config)
    asked = only.split() or known
    for name in asked:
        if name not in known:
            raise unknown("topic of benchmarks", name, known)
    if importlib.util.find_spec("asv") is None:
        raise SingError("asv runs the benchmarks and is missing here; use `make bench`, which "
                        "installs it, or pip install -e '.[bench]'.")
    results = _results(config)
    shutil.rmtree(results, ignore_errors=True)  # asv would add to what an older run left
    new = {"machine": this_machine(), **{part: [] for part in PARTS}}
    _asv("machine", "--config", str(config), "--yes", "--machine", MACHINE)
    for topic in asked:
        print(f"\n--- {topic} ---", flush=True)
        code = _asv(
            "run", "--config", str(config), "--environment", f"existing:{sys.executable}",
            "--machine", MACHINE, "--set-commit-hash", "HEAD", "--no-pull", "--record-samples",
            "--show-stderr", "--bench", rf"^{topic}\.",
            *(["--attribute", f"rounds={rounds}"] if rounds else []),
        )
        # 2 means that some benchmark failed: it is without a result, which `collect` sees.
        found = collect(topic, config, rounds) if code in (0, 2) else {"failed": [
            {"topic": topic, "race": "", "who": f"asv ended with {code}; see above"}]}
        for part, rows in found.items():
            new[part] += rows
        # Written after every topic: what was measured stays if a later one is stopped.
        content = merge(new, read(record) if record.is_file() else None, asked)
        write_atomic(record, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return content


def _asv(*words: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "asv", *words], stdin=subprocess.DEVNULL, check=False
    ).returncode


def _folder(config: Path) -> Path:
    return (config.parent / json.loads(config.read_text())["benchmark_dir"]).resolve()


def _results(config: Path) -> Path:
    return (config.parent / json.loads(config.read_text())["results_dir"]).resolve()


def this_machine() -> dict[str, object]:
    """What seconds depend on: processor, cores, threads, memory (GB), system, versions; no name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (
        os.cpu_count() or 1)
    return {
        "processor": _processor(), "cores": cores,
        "threads": int(os.environ.get("OMP_NUM_THREADS") or cores), "memory_gb": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES if _version(name)},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


# --- from asv's samples to races and growth -----------------------------------------------------


def collect(topic: str, config: Path = SUITE, rounds: int | None = None) -> dict[str, list[dict]]:
    """What asv measured of one topic, as rows.

    A class of benchmarks is a race, or with an attribute `growth` (the name of a parameter) a
    measurement of growth; see ``tests/bench/__init__.py`` for what it may say about itself.

    Parameters
    ----------
    topic : str
        Stem of the file with the benchmarks.
    config : pathlib.Path
    rounds : int, optional
        How many were run, if not as many as the class says.

    Returns
    -------
    dict of list
        The rows of :func:`races`, :func:`limits`, :func:`growth` and, under `failed`, benchmarks
        without a result.
    """
    measured = _measured(_results(config))
    today = datetime.date.today().isoformat()
    found: dict[str, list[dict]] = {part: [] for part in PARTS}
    for race in _classes(_folder(config), topic):
        common = {"topic": topic, "race": getattr(race, "title", race.__name__),
                  "work": getattr(race, "work", "")}
        methods = [name for name in _methods(race) if f"{topic}.{race.__name__}.{name}" in measured]
        samples = {name: measured[f"{topic}.{race.__name__}.{name}"] for name in methods}
        medians = {
            name: {case: own and _rounds(own, rounds or int(getattr(race, "rounds", 2)))
                   for case, own in cases.items()} for name, cases in samples.items()}
        found["failed"] += [
            {"topic": topic, "race": common["race"], "who": _label(race, name)}
            for name, cases in samples.items() if None in cases.values()
        ]
        if getattr(race, "growth", None):
            found["growth"] += [{**common, **row, "measured": today}
                                for row in _growth_rows(race, medians)]
            continue
        for row in _race_rows(race, medians):
            found["races"].append({**common, **row, "measured": today})
        for row in _limit_rows(race, medians):
            found["limits"].append({**common, **row, "measured": today})
    return found


def _measured(results: Path) -> dict[str, dict[tuple[str, ...], list[float] | None]]:
    """Benchmark -> values of its parameters -> samples of all rounds; None where it failed."""
    found: dict[str, dict[tuple[str, ...], list[float] | None]] = {}
    for path in sorted((results / MACHINE).glob("*-existing*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, row in content["results"].items():
            entry = dict(zip(content["result_columns"], row))
            cases = _product(entry["params"])
            values = entry["result"] or [None] * len(cases)
            samples = entry.get("samples") or [None] * len(cases)
            found[name] = {
                case: None if value is None else many or [value]
                for case, value, many in zip(cases, values, samples, strict=True)
                # nan: its setup raised NotImplementedError, asv's way to skip it.
                if value is None or not np.isnan(value)
            }
    return found


def _product(params: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    cases: list[tuple[str, ...]] = [()]
    for values in params:
        cases = [(*case, value) for case in cases for value in values]
    return cases


def _classes(folder: Path, topic: str) -> Iterator[type]:
    """Classes of benchmarks of a file, in its order."""
    package = f"sing_bench_{abs(hash(folder))}"
    if package not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            package, folder / "__init__.py", submodule_search_locations=[str(folder)])
        sys.modules[package] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    module: ModuleType = importlib.import_module(f"{package}.{topic}")
    for one in vars(module).values():
        if inspect.isclass(one) and one.__module__ == module.__name__ and _methods(one):
            yield one


def _methods(race: type) -> list[str]:
    names = [name for base in reversed(race.__mro__) for name in vars(base)]
    return [name for name in dict.fromkeys(names) if name.split("_")[0] in KINDS]


def _ours(name: str) -> bool:
    return name.split("_", 1)[1].startswith("sing")


def _label(race: type, name: str) -> str:
    return getattr(race, "labels", {}).get(name, name.split("_", 1)[1].replace("_", " "))


def _rounds(samples: Sequence[float], rounds: int) -> list[float]:
    """The median of each round's samples; asv lists the samples of a round together."""
    if len(samples) % rounds:  # memory is measured once
        return [float(np.median(samples))]
    return np.median(np.reshape(samples, (rounds, -1)), axis=1).tolist()


def _race_rows(race: type, medians: Mapping[str, Mapping]) -> Iterator[dict]:
    """Every pair of ours and a peer, of one kind and with one set of parameters."""
    bounds, names = getattr(race, "bounds", {}), getattr(race, "param_names", [])
    for ours in filter(_ours, medians):
        for peer in (name for name in medians if not _ours(name)):
            kind = ours.split("_")[0]
            if peer.split("_")[0] != kind:
                continue
            bound = bounds.get((ours, peer), bounds.get(peer))
            for case, mine in medians[ours].items():
                theirs = medians[peer].get(case)
                if mine is None or theirs is None:
                    continue
                # Rounds are paired: what slowed one round down slowed both.
                ratios = np.divide(theirs, mine) if len(mine) == len(theirs) else np.array(
                    [np.median(theirs) / np.median(mine)])
                ratio = float(np.median(ratios))
                yield {
                    "case": ", ".join(f"{n} = {v}" for n, v in zip(names, case)),
                    "ours": _label(race, ours), "peer": _label(race, peer), "unit": KINDS[kind],
                    "value_ours": float(np.median(mine)), "value_peer": float(np.median(theirs)),
                    "ratio": ratio, "low": float(ratios.min()), "high": float(ratios.max()),
                    "rounds": len(ratios), "bound": bound,
                    "met": None if bound is None else ratio >= bound,
                }


def _limit_rows(race: type, medians: Mapping[str, Mapping]) -> Iterator[dict]:
    """What ours alone may take at most."""
    for name, limit in getattr(race, "limits", {}).items():
        for own in medians.get(name, {}).values():
            if own is not None:
                value = float(np.median(own))
                yield {"ours": _label(race, name), "unit": KINDS[name.split("_")[0]],
                       "value": value, "limit": limit, "met": value <= limit}


def _growth_rows(race: type, medians: Mapping[str, Mapping]) -> Iterator[dict]:
    names = list(race.param_names)
    if race.growth not in names:
        raise SingError(f"{race.__name__}: growth is {race.growth!r}, which is none of the "
                        f"parameters {names}.")
    place = names.index(race.growth)
    for name, cases in medians.items():
        curves: dict[tuple[str, ...], dict[float, float]] = {}
        for case, own in cases.items():
            if own is not None:
                rest = case[:place] + case[place + 1:]
                curves.setdefault(rest, {})[float(case[place])] = float(np.median(own))
        others = names[:place] + names[place + 1:]
        for rest, points in curves.items():
            sizes = sorted(points)
            values = [points[size] for size in sizes]
            yield {
                "case": ", ".join(f"{n} = {v}" for n, v in zip(others, rest)),
                "who": _label(race, name), "of": race.growth, "unit": KINDS[name.split("_")[0]],
                "sizes": sizes, "values": values, **exponent(sizes, values),
            }


def exponent(sizes: Sequence[float], values: Sequence[float]) -> dict[str, float | None]:
    """Fit ``value = constant * size ** exponent`` by least squares of the logarithms.

    Parameters
    ----------
    sizes, values : sequence of float
        Positive; at least two different sizes.

    Returns
    -------
    dict
        `exponent` and the ends `low`, `high` of its 95 % interval (Student's t with two degrees of
        freedom less than there are sizes; None for two sizes), and `at_one`, the fitted value at
        size 1.

    Raises
    ------
    SingError
        For fewer than two sizes, or values that have no logarithm.
    """
    x, y = np.asarray(sizes, float), np.asarray(values, float)
    if len(set(x)) < 2 or x.shape != y.shape or not (x > 0).all() or not (y > 0).all():
        raise SingError(f"An exponent needs two or more different sizes and a positive value for "
                        f"each; got sizes {list(sizes)} and values {list(values)}.")
    line = stats.linregress(np.log(x), np.log(y))
    reach = stats.t.ppf(0.975, len(x) - 2) * line.stderr if len(x) > 2 else None
    return {
        "exponent": float(line.slope),
        "low": None if reach is None else float(line.slope - reach),
        "high": None if reach is None else float(line.slope + reach),
        "at_one": float(np.exp(line.intercept)),
    }


def merge(new: Mapping, old: Mapping | None, measured: Sequence[str]) -> dict:
    """New rows, and the old ones of topics that were not measured, if the machine is the same."""
    same = old is not None and old["machine"] == new["machine"]
    return {"machine": new["machine"], **{
        part: sorted(
            [*new[part], *(row for row in (old[part] if same else [])
                           if row["topic"] not in measured)],
            key=lambda row: row["topic"],
        ) for part in PARTS
    }}


# --- reading ------------------------------------------------------------------------------------


def read(path: Path = RECORD) -> dict:
    """What was recorded.

    Raises
    ------
    SingError
        If there is no record, or it is none.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SingError(f"There is no {path}; `make bench` measures and writes it.") from error
    except json.JSONDecodeError as error:
        raise SingError(f"{path} is not JSON ({error}); `make bench` writes it anew.") from error
    missing = {"machine", *PARTS} - (content.keys() if isinstance(content, dict) else set())
    if missing:
        raise SingError(f"{path} lacks {', '.join(sorted(missing))}; `make bench` writes it anew.")
    return content


def machine(path: Path = RECORD) -> dict[str, object]:
    """The machine of the record, as :func:`this_machine` tells it."""
    return read(path)["machine"]


def races(path: Path = RECORD) -> pd.DataFrame:
    """Ours against a peer, one row a pair.

    Returns
    -------
    pandas.DataFrame
        topic, race, work, case (values of parameters, or empty), ours, peer, unit (``seconds`` or
        ``bytes``), value_ours and value_peer (medians over rounds), ratio (peer / ours, median
        over rounds, 2 = we take half), low and high (the smallest and largest of a round), rounds,
        bound (what the ratio has to reach, or nan), met (True, False, or None without a bound),
        measured (date).
    """
    columns = ["topic", "race", "work", "case", "ours", "peer", "unit", "value_ours", "value_peer",
               "ratio", "low", "high", "rounds", "bound", "met", "measured"]
    return pd.DataFrame(read(path)["races"], columns=columns).astype({"bound": float})


def limits(path: Path = RECORD) -> pd.DataFrame:
    """What ours alone may take: topic, race, work, ours, unit, value, limit, met, measured."""
    columns = ["topic", "race", "work", "ours", "unit", "value", "limit", "met", "measured"]
    return pd.DataFrame(read(path)["limits"], columns=columns)


def growth(path: Path = RECORD) -> pd.DataFrame:
    """How values grow with a size, one row a curve.

    Returns
    -------
    pandas.DataFrame
        topic, race, work, case, who, of (the name of what grows), unit, sizes and values (lists),
        exponent with low and high (95 % interval, nan for two sizes), at_one, measured.
    """
    columns = ["topic", "race", "work", "case", "who", "of", "unit", "sizes", "values", "exponent",
               "low", "high", "at_one", "measured"]
    table = pd.DataFrame(read(path)["growth"], columns=columns)
    return table.astype({"exponent": float, "low": float, "high": float})


def race_words(path: Path = RECORD) -> pd.DataFrame:
    """:func:`races` as text for a page: times with their units, ratios with their spread."""
    table = races(path)
    rows = list(table.itertuples())
    outcome = {True: "met", False: "missed"}
    return pd.DataFrame({
        "race": [f"{row.race}, {row.case}" if row.case else row.race for row in rows],
        "size": table["work"],
        "ours": [f"{row.ours}: {amount(row.value_ours, row.unit)}" for row in rows],
        "the other": [f"{row.peer}: {amount(row.value_peer, row.unit)}" for row in rows],
        "the other / ours": [
            f"{row.ratio:.3g} [{row.low:.3g}, {row.high:.3g}]"
            + ("" if np.isnan(row.bound) else f"; bound {row.bound:.3g}: {outcome[row.met]}")
            for row in rows],
    })


def told(path: Path = RECORD) -> dict[str, str]:
    """What chapter 15 says of the record, by the names of its texts (``speed_...``).

    Returns
    -------
    dict
        speed_machine, speed_versions, speed_dates, speed_failed, speed_pairs, speed_rounds,
        speed_bounds, speed_met, speed_missed, speed_limits, speed_curves, speed_steep, speed_flat.
    """
    content = read(path)
    here, table, curves = content["machine"], races(path), growth(path)
    curves = curves[curves["unit"] == "seconds"]
    bounded = table[table["bound"].notna()]
    failed = [f"{row['race'] or row['topic']} ({row['who']})" for row in content["failed"]]
    missed = [row.removeprefix("missed: ") for row in problems(content)
              if row.startswith("missed: ")]
    within = [
        f"{row['race']}: {row['ours']} takes {amount(row['value'], row['unit'])} of the "
        f"{amount(row['limit'], row['unit'])} that it may take." for row in content["limits"]
    ]
    memory = "" if here["memory_gb"] is None else f", {here['memory_gb']:.0f} GB of memory"
    days = sorted({row["measured"] for part in PARTS for row in content[part]
                   if "measured" in row}) or ["never"]
    rounds = sorted(set(table["rounds"])) or [0]
    powers = curves.sort_values("exponent")
    steepness = ["none"] * 2 if powers.empty else [
        f"“{row['race']}” (exponent {row['exponent']:.2f} in {row['of']})"
        for _, row in powers.iloc[[-1, 0]].iterrows()]
    return {
        "speed_machine": f"{here['processor']}, {here['cores']} cores, {here['threads']} "
        f"thread{'s' if here['threads'] > 1 else ''} for linear algebra{memory}, {here['system']}, "
        f"Python {here['python']}",
        "speed_versions": ", ".join(f"{name} {number}" for name, number in
                                    here["versions"].items()),
        "speed_dates": " to ".join(dict.fromkeys([days[0], days[-1]])),
        "speed_failed": f"Without a result: {'; '.join(failed)}." if failed
        else "Every benchmark gave a result.",
        "speed_pairs": str(len(table)),
        "speed_rounds": " to ".join(dict.fromkeys(map(str, [rounds[0], rounds[-1]]))),
        "speed_bounds": str(len(bounded)), "speed_met": str(int(bounded["met"].astype(bool).sum())),
        "speed_missed": f"Missed: {'; '.join(missed)}." if missed else "None is missed.",
        "speed_limits": " ".join(within) or "No limit was set for what we take alone.",
        "speed_curves": str(len(curves)), "speed_steep": steepness[0],
        "speed_flat": steepness[1],
    }


def problems(content: Mapping) -> list[str]:
    """Bounds that were missed and benchmarks that failed, one sentence each."""
    found = [f"failed: {row['race']} ({row['topic']}): {row['who']}" for row in content["failed"]]
    found += [
        f"missed: {row['race']}: {row['ours']} is {row['ratio']:.2f} times as fast as "
        f"{row['peer']}, and should be {row['bound']:.2f} times" if row["unit"] == "seconds" else
        f"missed: {row['race']}: {row['peer']} takes {row['ratio']:.2f} times the memory of "
        f"{row['ours']}, and should take {row['bound']:.2f} times"
        for row in content["races"] if row["met"] is False
    ]
    found += [
        f"missed: {row['race']}: {row['ours']} takes {amount(row['value'], row['unit'])}, and "
        f"may take {amount(row['limit'], row['unit'])}"
        for row in content["limits"] if row["met"] is False
    ]
    return found


def amount(value: float, unit: str) -> str:
    """Seconds or bytes for people, with three digits: ``1.23 s``, ``45.6 ms``, ``812 MB``."""
    steps = ([(1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")] if unit == "seconds"
             else [(1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")])
    # Three digits of 999.7 ms are those of a second.
    size, name = next((step for step in steps if value >= 0.9995 * step[0]), steps[-1])
    shown = f"{value / size:#.3g}"
    return f"{shown.rstrip('.') if 'e' not in shown else f'{value / size:,.0f}'} {name}"


def report(content: Mapping) -> str:
    """The record as text for a terminal."""
    lines = []
    for row in content["races"]:
        bound = "" if row["bound"] is None else (
            f"  bound {row['bound']:.3g}: {'met' if row['met'] else 'MISSED'}")
        name = f"{row['race']}{' (' + row['case'] + ')' if row['case'] else ''}"
        lines.append(
            f"{name}: {row['ours']} {amount(row['value_ours'], row['unit'])}, {row['peer']} "
            f"{amount(row['value_peer'], row['unit'])}: ratio {row['ratio']:.3g} "
            f"[{row['low']:.3g}, {row['high']:.3g}]{bound}")
    for row in content["limits"]:
        lines.append(
            f"{row['race']}: {row['ours']} {amount(row['value'], row['unit'])}  limit "
            f"{amount(row['limit'], row['unit'])}: {'met' if row['met'] else 'MISSED'}")
    for row in content["growth"]:
        ends = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
        lines.append(f"{row['race']}: {row['who']} grows as {row['of']}^{row['exponent']:.2f}"
                     f"{ends}{', ' + row['case'] if row['case'] else ''}")
    return "\n".join(lines + problems(content))
