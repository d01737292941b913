"""Every table and figure about models, classes or concepts carries an interval and a control.

The tables are found by introspection: public functions whose first parameter is ``study`` and that
are annotated with ``pd.DataFrame``. A new one is walked
without an edit here; what it asks for beside ``study`` is given by name (see ``given``).
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re

import pandas as pd
import pytest

import sing_nb
from sing_nb.study import comparison, steering

ABOUT = {"model", "title", "label", "class", "concept"}
CONTROL = re.compile(r"control|random|chance|constant|permuted|untouched", re.IGNORECASE)

#: No estimates of models, classes or concepts, or such as have their intervals elsewhere.
EXEMPT = {
    "neighbours.words": "words nearest to given embeddings",
    "neighbours.around": "pictures nearest to given embeddings",
    "neighbours.looks": "pictures nearest to given embeddings",
    "neighbours.nearest": "pictures nearest to given embeddings",
    "comparison.paired_differences": "differences from ridge, which is the control",
    "trials.trials": "single trials with known answers, which trial_table summarises",
    "plants.plant_runs": "single planted runs, which score_table summarises",
    "pushes.trail": "one photo, along its own null part and along its control",
    "pushes.explored": "single photos, along every direction"}
FIGURES_EXEMPT = {
    "spectrum": "singular values of the weights: nothing is sampled",
    "method": "one photo at a time, an example of the steps",
    "translator-words": "one photo at a time and the words nearest to it",
    "class-ranks": "places of classes; their correlation has its interval in the text",
    "lambda-path": "the folds themselves are shown; R2 = 0 is a constant's",
    "linked-models": "one dot a picture, each beside its own control",
    "slide": "one picture along its own null part, beside a random part",
    "paired-differences": "differences from ridge, which is the control"}


def tables():
    """Name and callable of everything public that gives a table of a study."""
    found = {}
    for room in pkgutil.walk_packages(sing_nb.__path__, "sing_nb."):
        if "book" in room.name or room.name.endswith("widgets"):
            continue
        module = importlib.import_module(room.name)
        for name, function in inspect.getmembers(module, inspect.isfunction):
            own = function.__module__ == module.__name__ and not name.startswith("_")
            if own and gives_table(function) and next(iter(
                    inspect.signature(function).parameters), None) == "study":
                found[f"{room.name.rpartition('.')[2]}.{name}"] = function
    return found


def gives_table(function):
    return inspect.signature(function).return_annotation in ("pd.DataFrame", pd.DataFrame)


TABLES = tables()


@pytest.fixture(scope="module")
def given(smoke):
    """What tables ask for, by the parameter's name."""
    pictures = smoke.examples(smoke.labels[:3])
    values = {
        "study": lambda: smoke, "model": lambda: "lite0",
        "models": lambda: list(smoke.config.models), "label": lambda: smoke.labels[0],
        "concepts": lambda: smoke.concepts[:4], "place": lambda: smoke.concepts[0],
        "pictures": lambda: pictures, "picture": lambda: pictures[0],
        "states": lambda: ["translated", "null part removed"],
        "kinds": lambda: KINDS, "first": lambda: "lite0",
        "second": lambda: "lite1", "found": lambda: comparison.runs(smoke),
        "prompts": lambda: ["an image of a dog"], "prompt": lambda: "an image of a dog",
        "angles": lambda: [0.0, 5.0], "target_is": lambda: 5.0, "words": lambda: "a dog",
        "pushed": lambda: steering.pushes(smoke, "lite0", pictures, ["an image of a dog"], [5.0])}
    made = {}

    def give(name):
        if name not in made:
            made[name] = values[name]()
        return made[name]

    return values, give


KINDS = ["null part removed", "random null direction", "random direction"]


def arguments(name, function, given):
    values, give = given
    wanted = [
        p.name for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    unknown = [one for one in wanted if one not in values]
    assert not unknown, f"{name} asks for {unknown}: say in `given` what to give, or give a default"
    return [give(one) for one in wanted]


def lacks(table):
    """What a table about models, classes or concepts lacks; nothing if it is not about them."""
    names = set(table.columns) | {name for name in table.index.names if name}
    # A row a picture is a measurement, no estimate.
    if not ABOUT & names or {"picture", "row"} & names:
        return []
    ends = [name for name in names if re.fullmatch(r"(.+_)?low", str(name))]
    interval = any(re.sub(r"low$", "high", name) in names for name in ends)
    texts = [
        str(value) for column in table.columns
        if not pd.api.types.is_numeric_dtype(table[column])
        for value in pd.unique(table[column].dropna().astype(str))]
    control = any(CONTROL.search(text) for text in [*map(str, names), *texts])
    return ["an interval"] * (not interval) + ["a control"] * (not control)


@pytest.mark.parametrize("name", sorted(set(TABLES) - set(EXEMPT)))
def test_a_table_has_its_interval_and_its_control(name, given, smoke):
    function = TABLES[name]
    found = function(*arguments(name, function, given))
    missing = lacks(found)
    assert not missing, (
        f"{name} is about {sorted(ABOUT & set(found.columns))} and lacks {missing}: add columns "
        f"low/high (or <x>_low/<x>_high) and a control (a kind, or <x>_control), or say in EXEMPT "
        f"why it needs none")


def test_no_exemption_outlives_its_table():
    assert set(EXEMPT) <= set(TABLES)


def test_the_walk_finds_the_tables_that_chapters_show():
    shown = {"tables.models", "tables.classes", "classes.string_graph",
             "classes.concept_excess", "joint_spaces.pair_table", "truncation.truncated_heads",
             "robustness.group_accuracies", "steering.contrasts"}
    assert shown <= set(TABLES) - set(EXEMPT)


def test_the_walk_fails_on_a_table_without():
    whole = {"model": "a", "value": 1.0, "low": 0.0, "high": 2.0, "kind": "random control"}
    for left_out, missing in (
        ((), []), (("model",), []), (("kind",), ["a control"]), (("high",), ["an interval"]),
        (("low", "kind"), ["an interval", "a control"]),
    ):
        row = {name: value for name, value in whole.items() if name not in left_out}
        assert lacks(pd.DataFrame([row])) == missing
        figure = {"mark": "point", "datasets": {"x": [row]}}
        assert figure_lacks(figure, {"x": [row]}) == missing
    assert lacks(pd.DataFrame([{"model": "a", "picture": "b", "value": 1.0}])) == []


# --- figures ------------------------------------------------------------------------------------


def scored_sets(data):
    """Datasets about models, classes or concepts that hold numbers, and no single pictures."""
    for rows in data.values():
        names = {key for row in rows for key in row}
        if not ABOUT & names or "picture" in names:
            continue
        if any(isinstance(value, float) for row in rows for value in row.values()):
            yield names


def figure_lacks(spec, data):
    if not list(scored_sets(data)):
        return []
    fields = {key for rows in data.values() for row in rows for key in row}
    ends = [name for name in fields if re.fullmatch(r"(.+_)?low", name)]
    interval = any(re.sub(r"low$", "high", name) in fields for name in ends)
    # The rest of the description: titles, filters, tooltips, names of fields and of kinds.
    texts = json.dumps({key: part for key, part in spec.items() if key not in (
        "datasets", "description")})
    values = {value for rows in data.values() for row in rows for key, value in row.items()
              if key in ("kind", "title", "name", "state", "what") and isinstance(value, str)}
    control = CONTROL.search(texts) or any(map(CONTROL.search, [*fields, *values]))
    return ["an interval"] * (not interval) + ["a control"] * (not control)


def test_a_figure_with_scores_shows_interval_and_control(smoke_book):
    wanting, scored, names = {}, 0, set()
    for path in sorted((smoke_book.parent / "figures").glob("*/*.vl.json")):
        spec, name = json.loads(path.read_text()), path.name.removesuffix(".vl.json")
        data = json.loads(path.with_name(f"{name}.data.json").read_text())
        names.add(name)
        scored += bool(list(scored_sets(data)))
        if missing := figure_lacks(spec, data):
            wanting[name] = missing
    assert scored >= 8
    assert set(FIGURES_EXEMPT) <= names
    assert {name: what for name, what in wanting.items() if name not in FIGURES_EXEMPT} == {}
