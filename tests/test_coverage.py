from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from sing_nb.coverage import coverage, interval_widths
from sing_nb.errors import SingError


def test_widths_are_medians_with_two_intervals(fresh, smoke):
    found = interval_widths(fresh())
    scored = smoke.scored("lite0", draw=0)
    own = found.set_index(["quantity", "kind"]).sort_index()
    assert len(found) == 2 * 2 * 2
    for quantity in ("image_score", "attribute_score"):
        for kind, end in (("null space removed", ""), ("random control", "_control")):
            median = np.median(np.abs(scored[quantity + end]))
            assert own.loc[(quantity, kind), "value"].tolist() == pytest.approx([median] * 2)
    assert (found["low"] <= found["value"]).all()
    assert (found["high"] >= found["value"]).all()


def shared(scored):
    """A table in which views of a subject are all alike."""
    middle = scored.groupby("subject")["image_score"].transform("median")
    return scored.assign(image_score=middle, image_score_control=middle + 1)


def test_intervals_over_pictures_are_too_narrow_where_views_are_alike(fresh, smoke):
    rng, table = np.random.default_rng(0), smoke.scored("lite0", draw=0)
    wide = table.loc[table.index.repeat(12)].reset_index(drop=True)  # more subjects than smoke has
    wide["subject"] = [f"{name}-{copy % 12}" for copy, name in enumerate(wide["subject"])]
    move = dict(zip(wide["subject"].unique(), rng.normal(size=wide["subject"].nunique())))
    alike = shared(wide.assign(image_score=wide["subject"].map(move)))
    found = coverage(fresh(scored=lambda model, draw=None: alike), runs=150, draws=200)
    own = found.set_index(["kind", "resampled"])
    over = own.loc[("null space removed", "subjects")]
    assert over["low"] < 0.95 < over["high"] + 0.02
    assert own.loc[("null space removed", "pictures"), "high"] < over["low"]
    bounds = binomtest(round(over["value"] * 150), 150).proportion_ci(method="wilson")
    assert (over["low"], over["high"]) == pytest.approx((bounds.low, bounds.high))


def test_a_coverage_needs_a_run(smoke):
    with pytest.raises(SingError, match="at least one run"):
        coverage(smoke, runs=0)
