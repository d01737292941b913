from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from conftest import ends

from sing_nb.checks.intervals import cluster_bootstrap, deal, excess, excess_test, rank_correlation


def clustered(rng, clusters=40, size=5, mean=2.0):
    """Views of subjects: as much spread between subjects as within them."""
    values = mean + rng.standard_normal((clusters, 1)) + rng.standard_normal((clusters, size))
    return values.ravel(), np.repeat(np.arange(clusters), size)


# --- simulations: what intervals and p-values promise, on 500 data sets with a known truth --------

RUNS = 500


def pairs(rng, clusters, size=6):
    """Two columns of clustered values that depend on each other; means 2 and 3, medians too."""
    one = rng.standard_normal((clusters, 1)) + rng.standard_normal((clusters, size))
    two = rng.standard_normal((clusters, 1)) + rng.standard_normal((clusters, size)) + one / 2
    return np.column_stack([2 + one.ravel(), 3 + two.ravel()]), np.repeat(range(clusters), size)


STATISTICS = {
    "mean": (lambda v: v[:, :, 0].mean(1), 2.0),
    "median": (lambda v: np.median(v[:, :, 0], axis=1), 2.0),
    "paired difference": (lambda v: (v[:, :, 1] - v[:, :, 0]).mean(1), 1.0),
    "ratio of medians": (lambda v: np.divide(*np.median(v, axis=1).T[::-1]), 1.5)}


@pytest.mark.parametrize("clusters", [20, 84])
def test_intervals_cover_the_truth_as_often_as_they_say(clusters):
    def statistic(v):
        return np.column_stack([one(v) for one, _ in STATISTICS.values()])

    truth, hits = np.array([truth for _, truth in STATISTICS.values()]), 0
    for run in range(RUNS):
        values, names = pairs(np.random.default_rng([run, clusters]), clusters)
        _, low, high = cluster_bootstrap(
            values, names, statistic, draws=200, seed=run, vectorized=True)
        hits = hits + ((low <= truth) & (truth <= high))
    shares = dict(zip(STATISTICS, hits / RUNS))
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


def crossed(rng, clusters, subspaces, truth=0.3, size=4, spread=0.15):
    """Scores and controls that share subjects; every random subspace has its own level."""
    subject = rng.standard_normal((clusters, 1))
    score = subject + truth + rng.standard_normal((clusters, size)) / 2
    score += rng.standard_normal((clusters, 1)) / 2
    control = subject[:, :, None] + rng.standard_normal((clusters, size, subspaces)) / 2
    control += spread * rng.standard_normal(subspaces)
    control += 0.3 * rng.standard_normal((clusters, 1, subspaces))
    return score.ravel(), control.reshape(-1, subspaces), np.repeat(range(clusters), size)


@pytest.mark.parametrize("spread", [0.05, 0.15])
def test_an_excess_covers_the_truth_over_subjects_and_subspaces(spread):
    hits = naive = 0
    for run in range(RUNS):
        score, control, names = crossed(np.random.default_rng([run, 7]), 84, 5, spread=spread)
        found = excess(score, control, names, draws=200, seed=run, vectorized=True)
        assert found.estimate == pytest.approx(score.mean() - control.mean())
        hits += found.low <= 0.3 <= found.high
        alone = cluster_bootstrap(score - control.mean(1), names, draws=100, seed=run)
        naive += alone.low <= 0.3 <= alone.high
    assert 0.93 <= hits / RUNS <= 0.97
    # Five subspaces taken for the truth would promise too much.
    assert naive / RUNS < 0.93


def test_p_values_are_uniform_under_the_null():
    tests = [excess_test(*crossed(np.random.default_rng([run, 3]), 40, 8, truth=0.0), draws=150,
                         seed=run) for run in range(RUNS)]
    assert scipy.stats.kstest(tests, "uniform").pvalue > 0.05


# --- excess -------------------------------------------------------------------------------------


def test_an_excess_has_the_variance_of_both_samples():
    # Normal levels, no interaction: var = var of subject means / k + var of subspaces / D.
    rng = np.random.default_rng(5)
    subject, subspace = rng.standard_normal(60), rng.standard_normal(12)
    control = np.zeros((60, 12)) + subspace
    found = excess(subject, control, np.arange(60), level=0.6827, draws=4000, vectorized=True)
    a, b = subject.var(ddof=1) / 60, subspace.var(ddof=1) / 12
    freedom = (a + b) ** 2 / (a**2 / 59 + b**2 / 11)
    half = scipy.stats.t.ppf(0.84135, freedom) * np.sqrt(a + b)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.08)
    p = excess_test(subject, control, np.arange(60), draws=4000)
    by_hand = 2 * scipy.stats.t.sf(abs(found.estimate) / np.sqrt(a + b), freedom)
    assert p == pytest.approx(by_hand, abs=0.05)


@pytest.mark.parametrize("sizes", [[4] * 12, [1, 5, 2] * 4])
@pytest.mark.parametrize("over", ["means", "medians"])
def test_means_and_medians_of_samples_are_those_of_their_rows(sizes, over):
    rng, take = np.random.default_rng(10), {"means": np.mean, "medians": np.median}[over]
    names = rng.permutation(np.repeat(np.arange(12), sizes))
    values = rng.standard_normal((len(names), 2, 3))
    values[:, 0] = values[:, 0].round()  # ties
    control, how = rng.standard_normal((len(names), 5, 2)), {"draws": 60, "seed": 3}

    def ratio(columns):
        return columns[:, 0] / columns[:, 1]

    rows = cluster_bootstrap(
        values, names, lambda v: ratio(take(v, axis=1)), vectorized=True, **how)
    found = cluster_bootstrap(values, names, ratio, **{f"of_{over}": True}, **how)
    exact = {"rtol": 0, "atol": 0} if over == "medians" else {"rtol": 1e-12}
    for one, two in zip(found, rows, strict=True):
        np.testing.assert_allclose(one, two, **exact)

    def beyond(score, control):
        return score - np.abs(control).mean(1)

    rows = excess(
        values[:, 0, :2], control, names, vectorized=True, **how,
        statistic=lambda s, c: beyond(take(s, axis=1), take(c, axis=1)))
    found = excess(values[:, 0, :2], control, names, beyond, **{f"of_{over}": True}, **how)
    for one, two in zip(found, rows, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12)


def test_a_missing_value_makes_the_medians_of_the_samples_that_hold_it_missing():
    rng, names = np.random.default_rng(11), np.repeat(np.arange(6), 3)
    values = rng.standard_normal((18, 2))
    values[4, 1] = np.nan
    rows, found = [], []
    for kept, how, statistic in (
        (rows, {"vectorized": True}, lambda v: np.median(v, axis=1)),
        (found, {"of_medians": True}, lambda medians: medians),
    ):
        def keep(v, kept=kept, statistic=statistic):
            kept.append(statistic(v))
            return kept[-1]

        cluster_bootstrap(values, names, keep, draws=50, **how)
    assert 0 < np.isnan(found[-1][:, 1]).sum() < 50
    np.testing.assert_array_equal(found[-1], rows[-1])


def test_percentiles_are_expanded_as_by_hand():
    values, names = clustered(np.random.default_rng(9), clusters=9)
    rows, rng = np.arange(45).reshape(9, 5), np.random.default_rng(0)
    sample = [values[rows[rng.integers(0, 9, 9)]].mean() for _ in range(400)]
    found = cluster_bootstrap(values, names, draws=400)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(sample, ends(9))))
    plain = np.quantile(sample, [0.025, 0.975])
    assert found.low < plain[0]
    assert found.high > plain[1]


# --- the cluster bootstrap ----------------------------------------------------------------------


def test_a_single_cluster_says_nothing_about_another():
    found = cluster_bootstrap([1.0, 2.0, 6.0], ["a", "a", "a"])
    assert found.estimate == 3
    assert np.isnan([found.low, found.high]).all()
    found = excess(np.ones(3), np.zeros((3, 2)), ["a"] * 3)
    assert found.estimate == 1
    assert np.isnan([found.low, found.high]).all()
    assert np.isnan(excess_test(np.ones(3), np.zeros((3, 2)), ["a"] * 3))


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(9)
    a = rng.integers(0, 15, 40)  # with ties
    b = a + rng.standard_normal(40) * 6
    found = rank_correlation(a, b)
    expected = scipy.stats.spearmanr(a, b)
    assert (found["rho"], found["p"], found["n"]) == (
        pytest.approx(expected.statistic), pytest.approx(expected.pvalue), 40)
    assert found["low"] < found["rho"] < found["high"]


def test_interval_of_a_rank_correlation_by_hand():
    # Ranks 3 1 2 5 4 against 1 2 3 4 5: sum d^2 = 4+1+1+1+1 = 8, rho = 1 - 6*8 / (5*24) = 0.6.
    # Fisher z = atanh 0.6 = 0.693147; spread = 1.959964 sqrt((1 + 0.18) / 2) = 1.505472;
    # tanh(-0.812325) = -0.670870 and tanh(2.198619) = 0.975677.
    found = rank_correlation(np.arange(5), np.array([3, 1, 2, 5, 4]))
    assert found["rho"] == pytest.approx(0.6)
    assert found["low"] == pytest.approx(-0.670870, abs=1e-5)
    assert found["high"] == pytest.approx(0.975677, abs=1e-5)
    found = rank_correlation([1, 2, 3], [4, 5, 6])  # too few to say anything
    assert (found["rho"], found["low"], found["high"]) == (pytest.approx(1), -1, 1)


# --- dealing subjects ---------------------------------------------------------------------------


def test_every_part_gets_its_share_of_subjects_and_of_every_stratum():
    strata = ["b"] * 10 + ["a"] * 5 + ["c"] * 1
    part = deal(16, 5, 3, strata)
    assert np.ptp(np.bincount(part, minlength=5)) <= 1
    assert (np.bincount(part[:10]) == 2).all()
    assert sorted(part[10:15]) == list(range(5))
    # The draw alone, where there are no strata: a permutation cut into parts.
    assert (deal(16, 5, 3) == np.random.default_rng(3).permutation(16) % 5).all()
