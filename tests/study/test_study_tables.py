"""Every table of estimates carries a 95 % interval and a control."""

from __future__ import annotations

import re

import pytest

from sing_nb.checks import information, nuisances, plants, reliability, truncation
from sing_nb.reports import asking
from sing_nb.study import classes, joint_spaces, tables

CONTROL = re.compile(r"control|random|chance|constant|permuted|untouched", re.IGNORECASE)
TABLES = {
    "accuracy": lambda study: tables.accuracy(study),
    "answers": lambda study: asking.ask(study, "lite0", ["snow", "a dog"]),
    "classes": lambda study: tables.classes(study, "lite0"),
    "concept excess": lambda study: classes.concept_excess(study, study.concepts[:4]),
    "detection of plants": plants.score_table,
    "factors": lambda study: asking.factors(study, "lite0"),
    "invariances": nuisances.invariances,
    "models": tables.models,
    "pairs of models": joint_spaces.pair_table,
    "reliability": lambda study: reliability.model_reliability(study, "lite0"),
    "removal curves": truncation.removal_curves,
    "sizes of the paper": truncation.paper_sizes,
    "string graph": lambda study: classes.string_graph(study, "lite0", study.labels[0]),
    "truncated heads": truncation.truncated_heads,
    "unique information": information.unique_table,
    "versions of the translator": information.version_table,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_its_interval_and_its_control(name, smoke):
    found = TABLES[name](smoke)
    columns = set(map(str, found.columns))
    assert any(column.endswith("low") and re.sub("low$", "high", column) in columns
               for column in columns)
    words = {str(value) for column in found.select_dtypes(exclude="number")
             for value in found[column].unique()}
    assert any(CONTROL.search(text) for text in columns | words)
