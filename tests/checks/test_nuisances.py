from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from sing_nb.checks.nuisances import (
    EFFECTS,
    design,
    has_factors,
    invariances,
    shares,
    variance_shares,
)

ALIKE, EACH = EFFECTS
FACTORS = ["background", "hue", "saturation", "lightness", "scale", "x", "y", "flip"]


def views(blocks=40, seed=0):
    """Factors of 12 views a cut-out, drawn as images.stamps draws them."""
    rng, n = np.random.default_rng(seed), 12 * blocks
    view = np.tile(np.arange(12), blocks)
    table = pd.DataFrame({
        "background": np.array(["plain", "gradient", "noise"])[view % 3],
        "hue": rng.uniform(0, 360, n), "saturation": rng.uniform(0.05, 0.45, n),
        "lightness": rng.uniform(0.15, 0.9, n), "scale": rng.uniform(0.55, 0.88, n),
        "x": rng.uniform(0.4, 0.6, n), "y": rng.uniform(0.4, 0.6, n), "flip": (view // 3) % 2 == 1})
    return table, np.repeat(np.arange(blocks), 12)


def centred(values, groups):
    return values - pd.DataFrame(values).groupby(groups).transform("mean").to_numpy()


@pytest.fixture(scope="module")
def case():
    """Values of 7 columns in which every factor does something, and their shares."""
    table, blocks = views()
    rng, factors = np.random.default_rng(1), design(table)
    values = rng.normal(size=(40, 7))[blocks] + rng.normal(size=(480, 7))
    for columns in factors.values():
        each = rng.normal(size=(40, columns.shape[1], 7)) + rng.normal(size=(columns.shape[1], 7))
        values += np.einsum("nk,nkm->nm", columns, each[blocks])
    return values, factors, blocks, variance_shares(values, factors, blocks, blocks)


def test_subjects_explain_what_a_one_way_analysis_of_variance_says(case):
    values, _, blocks, found = case
    total = np.square(values - values.mean(0)).sum()
    within = np.square(centred(values, blocks)).sum()
    expected = (total - within - 39 * within / (480 - 40)) / total
    assert found["whole", EACH] == pytest.approx(expected)
    assert found["every", EACH] == pytest.approx(1 - expected)


def rest(y, x):
    return y - LinearRegression().fit(x, y).predict(x)


@pytest.mark.parametrize("name", ["background", "colour", "scale", "place", "flip"])
def test_slopes_of_each_subject_are_regressions_of_each_with_adjusted_r2(case, name):
    values, factors, blocks, found = case
    total, explained = np.square(values - values.mean(0)).sum(), 0
    for block in range(40):
        own = blocks == block
        held = np.hstack([factors[other][own] for other in ("background", "flip") if other != name])
        y, x = rest(values[own], held), rest(factors[name][own], held)
        k, free = x.shape[1], 12 - 1 - held.shape[1]
        share = 1 - np.square(rest(y, x)).sum() / np.square(y).sum()
        adjusted = 1 - (1 - share) * free / (free - k)  # Ezekiel 1930, by the residuals' degrees
        # A factor's variance, column by column of a basis, that is left beside the held ones.
        whole = np.cov(factors[name][own].T).reshape(k, k)
        kept = np.trace(np.linalg.solve(whole, np.cov(x.T).reshape(k, k))) / k
        explained += adjusted * np.square(y).sum() / kept
    assert found[name, EACH] == pytest.approx(explained / total)


@pytest.mark.parametrize("name", ["background", "colour", "scale", "place", "flip"])
def test_a_shared_slope_counts_products_of_different_subjects_only(case, name):
    values, factors, blocks, found = case
    total = np.square(values - values.mean(0)).sum()
    inner = centred(values, blocks)
    columns = {key: centred(v, blocks) for key, v in factors.items()}

    def explained(names):
        """Fitted squares, but each subject answered with the slopes of the others' sums."""
        x = np.hstack([columns[key] for key in names])
        inverse, sums = np.linalg.inv(x.T @ x), x.T @ inner
        return sum(
            ((x[blocks == b].T @ inner[blocks == b]) * (
                inverse @ (sums - x[blocks == b].T @ inner[blocks == b]))).sum()
            for b in range(40))

    unique = explained(columns) - explained([key for key in columns if key != name])
    assert found[name, ALIKE] == pytest.approx(unique / total)


def test_what_is_planted_is_found_in_its_size():
    table, blocks = views(300)
    rng, factors = np.random.default_rng(2), design(table)
    flip = factors["flip"] - 0.5
    size = (factors["scale"] - factors["scale"].mean()) / factors["scale"].std()
    # Variances: 4 of subjects, 1 of a shared flip, 1 of each one's own, 1 of each one's scale, 3
    # of noise; of 10.
    values = 2 * rng.normal(size=(300, 5))[blocks] + 2 * flip
    values += rng.normal(size=(300, 5))[blocks] * 2 * flip + np.sqrt(3) * rng.normal(size=(3600, 5))
    values += rng.normal(size=(300, 5))[blocks] * size
    found = variance_shares(values, factors, blocks, blocks)
    assert found["whole", EACH] == pytest.approx(0.4, abs=0.03)
    assert found["flip", ALIKE] == pytest.approx(0.1, abs=0.02)
    assert found["flip", EACH] == pytest.approx(0.2, abs=0.03)
    assert found["scale", EACH] == pytest.approx(0.1, abs=0.02)
    for name in ("background", "colour", "scale", "place"):
        assert abs(found[name, ALIKE]) < 0.005
    for name in ("background", "colour", "place"):
        assert abs(found[name, EACH]) < 0.02


# --- of a study ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(fresh):
    return shares(fresh())


def test_the_null_part_of_a_study_is_taken_apart(table, smoke, plain):
    rows = np.flatnonzero(smoke.is_scored)
    path = smoke.pictures["path"].to_numpy()[rows]
    values = plain.null(plain.f[rows])
    total = np.square(values - values.mean(0)).sum()
    within = np.square(centred(values, path)).sum()
    groups = len(np.unique(path))
    expected = (within + (groups - 1) * within / (len(rows) - groups)) / total
    row = table.query(
        "model == 'lite0' and quantity == 'features' and kind == 'null space' and "
        "factor == 'all nuisances'")
    assert row["value"].tolist() == pytest.approx([expected], rel=1e-5)


def test_ratios_are_those_of_the_shares(table, fresh):
    found = invariances(fresh())
    own = table.query("model == 'lite0' and quantity == 'features'").set_index(
        ["factor", "effect", "kind"])["value"]
    for _, rows in found.groupby(["factor", "effect"]):
        key = tuple(rows.iloc[0][["factor", "effect"]])
        value = rows.set_index("kind")["value"]
        for kind in ("null space", "random control"):
            assert value[kind] == pytest.approx(own[(*key, kind)] / own[(*key, "principal space")])
        gap = value["null space"] - value["random control"]
        assert value["null - control"] == pytest.approx(gap)
    assert {"subject", "all nuisances"} <= set(found["factor"])


def test_pictures_without_factors_are_compared_by_class(fresh, smoke):
    study = fresh(pictures=smoke.pictures.drop(columns=FACTORS))
    assert has_factors(fresh())
    assert not has_factors(study)
    found = shares(study)
    assert set(found["factor"]) == {"class", "within a class"}
    assert set(found["effect"]) == {EACH}
    pair = found.pivot_table("value", ["model", "quantity", "kind"], "factor").sum(axis=1)
    np.testing.assert_allclose(pair, 1)
