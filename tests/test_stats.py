from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from sing_nb.errors import SingError
from sing_nb.stats import cluster_bootstrap, ellipse, random_basis, rank_correlation


def clustered(rng, clusters=40, size=5, mean=2.0):
    """Views of subjects: as much spread between subjects as within them."""
    values = mean + rng.standard_normal((clusters, 1)) + rng.standard_normal((clusters, size))
    return values.ravel(), np.repeat(np.arange(clusters), size)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = 0
    for run in range(200):
        _, low, high = cluster_bootstrap(*clustered(rng), draws=200, seed=run)
        hits += low <= 2.0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_clusters_give_wider_intervals_than_rows():
    values, clusters = clustered(np.random.default_rng(1), size=10)
    _, low, high = cluster_bootstrap(values, clusters)
    naive = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(0), n_resamples=1000
    ).confidence_interval
    assert high - low > 1.5 * (naive.high - naive.low)


def test_the_estimate_is_the_statistic_of_all_rows():
    values, clusters = clustered(np.random.default_rng(2))
    found = cluster_bootstrap(values, clusters, np.median, draws=50)
    assert found.estimate == np.median(values)
    assert found.low < found.estimate < found.high


def test_standard_error_is_that_of_the_cluster_means():
    # Clusters of one size: the bootstrap mean has the standard error s / sqrt(n) of their means.
    values, clusters = clustered(np.random.default_rng(3), clusters=60)
    _, low, high = cluster_bootstrap(values, clusters, level=0.6827, draws=4000)
    means = values.reshape(60, 5).mean(1)
    assert (high - low) / 2 == pytest.approx(means.std() / np.sqrt(60), rel=0.06)


def test_clusters_need_not_be_sorted_or_numbers():
    values, clusters = clustered(np.random.default_rng(4))
    names = np.array([f"subject {number:02d}" for number in clusters])
    order = np.random.default_rng(5).permutation(len(values))
    expected = cluster_bootstrap(values, clusters)
    found = cluster_bootstrap(values[order], names[order].tolist())
    assert tuple(found) == pytest.approx(tuple(expected))


def test_rows_of_several_columns_stay_together():
    values, clusters = clustered(np.random.default_rng(6))
    pairs = np.column_stack([values, 2 * values])
    found = cluster_bootstrap(pairs, clusters, lambda v: float(v[:, 1].sum() / v[:, 0].sum()))
    assert tuple(found) == pytest.approx((2, 2, 2))


def test_a_single_cluster_says_nothing_about_another():
    found = cluster_bootstrap([1.0, 2.0, 6.0], ["a", "a", "a"])
    assert found.estimate == 3
    assert np.isnan(found.low)
    assert np.isnan(found.high)


def test_intervals_follow_from_the_seed():
    values, clusters = clustered(np.random.default_rng(7))
    again = [cluster_bootstrap(values, clusters, draws=50, seed=seed) for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([1.0, 2.0], ["a"])])
def test_values_without_clusters_are_refused(values, clusters):
    with pytest.raises(SingError, match="one cluster a value"):
        cluster_bootstrap(values, clusters)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_every_vertex_has_the_mahalanobis_distance_of_the_level(level):
    rng = np.random.default_rng(8)
    points = rng.standard_normal((200, 2)) @ [[2, 1], [0, 0.3]] + [5, -1]
    outline = ellipse(points, level)
    away = outline - points.mean(0)
    inverse = np.linalg.inv(np.cov(points.T))
    distance = np.sqrt(np.einsum("ni,ij,nj->n", away, inverse, away))
    # For two dimensions chi2.ppf(level) = -2 log(1 - level).
    np.testing.assert_allclose(distance, np.sqrt(-2 * np.log(1 - level)))
    np.testing.assert_allclose(outline[0], outline[-1], atol=1e-12)


def test_points_on_a_line_still_have_an_outline():
    outline = ellipse([[0, 0], [1, 1], [2, 2]])
    assert np.isfinite(outline).all()
    np.testing.assert_allclose(outline[:, 0], outline[:, 1], atol=1e-6)


@pytest.mark.parametrize("points", [np.zeros((2, 2)), np.zeros((5, 3)), np.zeros(4)])
def test_an_ellipse_needs_three_points_in_the_plane(points):
    with pytest.raises(SingError, match="at least 3 points"):
        ellipse(points)


def test_rank_correlation_is_scipys():
    rng = np.random.default_rng(9)
    a = rng.integers(0, 15, 40)  # with ties
    b = a + rng.standard_normal(40) * 6
    found = rank_correlation(a, b)
    expected = scipy.stats.spearmanr(a, b)
    assert (found["rho"], found["p"], found["n"]) == (
        pytest.approx(expected.statistic), pytest.approx(expected.pvalue), 40,
    )
    assert found["low"] < found["rho"] < found["high"]


def test_interval_of_a_rank_correlation_by_hand():
    # Ranks 3 1 2 5 4 against 1 2 3 4 5: sum d^2 = 4+1+1+1+1 = 8, rho = 1 - 6*8 / (5*24) = 0.6.
    # Fisher z = atanh 0.6 = 0.693147; spread = 1.959964 sqrt((1 + 0.18) / 2) = 1.505472;
    # tanh(-0.812325) = -0.670870 and tanh(2.198619) = 0.975677.
    found = rank_correlation(np.arange(5), np.array([3, 1, 2, 5, 4]))
    assert found["rho"] == pytest.approx(0.6)
    assert found["low"] == pytest.approx(-0.670870, abs=1e-5)
    assert found["high"] == pytest.approx(0.975677, abs=1e-5)


def test_a_perfect_rank_correlation_has_finite_bounds():
    found = rank_correlation(np.arange(12), np.arange(12) ** 3)
    assert found["rho"] == pytest.approx(1)
    assert 0.9 < found["low"] <= found["high"] <= 1


def test_random_basis_is_orthonormal():
    basis = random_basis(30, 7, seed=0)
    assert basis.shape == (30, 7)
    np.testing.assert_allclose(basis.T @ basis, np.eye(7), atol=1e-12)


def test_random_basis_follows_from_the_seed():
    np.testing.assert_array_equal(random_basis(30, 7, seed=3), random_basis(30, 7, seed=3))
    assert np.abs(random_basis(30, 7, seed=3) - random_basis(30, 7, seed=4)).max() > 0.01


def test_random_subspaces_prefer_no_direction():
    # The mean projector of uniformly random 2-dimensional subspaces of 5 dimensions is 2/5 I.
    projectors = [b @ b.T for b in (random_basis(5, 2, seed) for seed in range(2000))]
    np.testing.assert_allclose(np.mean(projectors, axis=0), 0.4 * np.eye(5), atol=0.03)


@pytest.mark.parametrize("size", [0, 6])
def test_a_subspace_does_not_exceed_its_space(size):
    with pytest.raises(SingError, match="cannot have"):
        random_basis(5, size, seed=0)


def test_three_pairs_say_nothing_about_a_correlation():
    found = rank_correlation([1, 2, 3], [4, 5, 6])
    assert (found["rho"], found["low"], found["high"]) == (pytest.approx(1), -1, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [2, 7, 12, 130])
def test_means_of_single_rows_are_the_same_to_the_bit_all_at_once(n, dtype):
    rng = np.random.default_rng(n)
    values, clusters = rng.standard_normal(n).astype(dtype), rng.permutation(n)
    fast = cluster_bootstrap(values, clusters, draws=200, seed=3)
    assert fast == cluster_bootstrap(values, clusters, lambda v: np.mean(v), draws=200, seed=3)
