"""Planted truths: the algebra by hand, the split, and what happens where nothing is planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import roc_auc_score

from sing_nb.checks import plants
from sing_nb.checks.blind_heads import Asked, Split
from sing_nb.checks.controls import (
    GroupedProbe,
    all_mean_directions,
    discriminant_directions,
    plant_head,
    planted_null,
)
from sing_nb.checks.intervals import cluster_bootstrap
from sing_nb.errors import SingError
from sing_nb.method.nullspace import HeadSpaces

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((12, 20))
X = RNG.standard_normal((90, 20)) * np.linspace(0.5, 3, 20)
FOLDS = np.arange(90) // 6 % 3
Y = np.column_stack([X[:, 0] + RNG.standard_normal(90), X[:, 5] - X[:, 7], RNG.standard_normal(90)])


# --- planting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_a_planted_head_cannot_see_the_direction_and_keeps_its_rank(count):
    directions = RNG.standard_normal((20, count))
    head = plant_head(torch.tensor(WEIGHT), torch.tensor(directions))
    assert np.abs(head.numpy() @ directions).max() < 1e-12
    spaces = HeadSpaces.from_weight(head)
    assert (spaces.rank, spaces.null_dim) == (12, 8)
    other = torch.tensor(np.linalg.svd(directions)[0][:, count:])  # what is orthogonal is kept
    assert torch.allclose(head @ other, torch.tensor(WEIGHT) @ other)


@pytest.mark.parametrize("inside", [False, True])
def test_the_turned_null_space_is_that_of_the_planted_head(inside):
    null = np.linalg.svd(WEIGHT)[2][12:].T
    directions = null[:, :2] * 3 if inside else RNG.standard_normal((20, 2))
    back, planted = planted_null(null, directions)
    found = null @ null.T - back @ back.T + planted @ planted.T
    spaces = HeadSpaces.from_weight(
        plant_head(torch.tensor(WEIGHT), torch.tensor(directions)), rtol=1e-10)
    expected = spaces.null(torch.eye(20, dtype=torch.float64)).numpy()
    assert np.abs(found - expected).max() < 1e-10


def test_without_its_mean_direction_no_linear_readout_finds_a_concept():
    there = (X[:, 2] + X[:, 3] + RNG.standard_normal(90) > 0).astype(float)
    (direction,) = all_mean_directions(X, there[:, None], np.zeros(90))
    difference = X[there == 1].mean(0) - X[there == 0].mean(0)
    assert np.allclose(direction[:, 0], difference / np.linalg.norm(difference))
    assert LinearRegression().fit(X, there).score(X, there) > 0.3
    left = X - X @ direction @ direction.T
    assert abs(LinearRegression().fit(left, there).score(left, there)) < 1e-10
    # Equal numbers whose mean is another number: no direction comes of the rounding.
    halves = np.arange(90) // 45
    values = np.column_stack([np.where(halves == 0, there, -0.1234567), there])
    assert values[45:, 0].mean() != values[45, 0]
    one, two = all_mean_directions(X, values, halves)
    assert one.shape == (20, 1)
    assert two.shape == (20, 2)
    assert np.allclose(one, two[:, :1])


def test_discriminants_are_ridge_fitted_on_what_the_ones_before_leave():
    found = discriminant_directions(X, Y, 3, 7.0)
    left = X.copy()
    for step in range(3):
        own = Ridge(alpha=7.0).fit(left, Y[:, 1]).coef_
        own /= np.linalg.norm(own)
        assert np.allclose(found[1][:, step], own, atol=1e-8)
        left = left - np.outer(left @ own, own)


# --- held-out readouts --------------------------------------------------------------------------


def by_hand(x, lam):
    out = np.empty_like(Y)
    for fold in range(3):
        test = fold == FOLDS
        out[test] = Ridge(alpha=lam).fit(x[~test], Y[~test]).predict(x[test])
    return out


def test_readouts_are_ridge_held_out_by_fold_before_and_after_changes():
    directions = np.linalg.qr(RNG.standard_normal((20, 3)))[0]
    kept, taken = directions[:, :1], directions[:, 1:]
    less, none = X - X @ kept @ kept.T, np.empty((90, 0))
    probe = GroupedProbe(less @ less.T, Y, FOLDS, 5.0)
    changes = [(none, none), (X @ kept, X @ taken), (none, X @ taken[:, :1]), (X @ kept, none)]
    changed = [less, X - X @ taken @ taken.T, less - np.outer(X @ taken[:, 0], taken[:, 0]), X]
    constant = np.stack([Y[fold != FOLDS].mean(0) for fold in FOLDS])
    energy = ((Y - constant) ** 2).sum(0)
    for one, r2, features in zip(
            probe.predictions(changes), probe.r2s(changes), changed, strict=True):
        expected = by_hand(features, 5.0)
        assert np.allclose(one, expected)
        assert np.allclose(r2, 1 - ((Y - expected) ** 2).sum(0) / energy)
    other = GroupedProbe(less @ less.T, Y[::-1], FOLDS, 5.0)
    assert np.allclose(probe.of(Y[::-1]).r2(), other.r2())
    with pytest.raises(SingError, match="at least 2 folds"):
        GroupedProbe(X @ X.T, Y, np.zeros(90), 5.0)


def test_the_rank_of_a_sham_is_uniform_and_that_of_a_plant_is_first():
    """12 concepts in noise: a direction of shuffled values hides no concept before others."""
    rng, shams, firsts = np.random.default_rng(1), [], []
    for _ in range(60):
        values = rng.standard_normal((160, 12))
        x = values @ rng.standard_normal((12, 30))
        x += rng.standard_normal((160, 30))
        folds, half = np.arange(80) % 4, slice(80, None)
        probe = GroupedProbe(x[half] @ x[half].T, values[half], folds, 5.0)
        full, concept = probe.r2(), rng.integers(12)
        for found, own in (
            (firsts, values[:80, concept]), (shams, rng.permutation(values[:80, concept])),
        ):
            (direction,) = all_mean_directions(x[:80], own[:, None], np.zeros(80))
            lost = full - probe.r2s([(np.empty((80, 0)), x[half] @ direction)])[0]
            found.append((np.sum(lost > lost[concept]) + rng.uniform()) / 12)
    assert kstest(shams, "uniform").pvalue > 0.01
    assert np.mean(firsts) < 0.2


# --- the smoke study ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(smoke):
    return plants.plant_runs(smoke)


def test_concepts_are_the_known_factors_and_what_the_pixels_say(smoke):
    table = plants.concept_values(smoke)
    pictures = smoke.pictures.loc[table["row"]]
    assert (table["subject"].to_numpy() == pictures["subject"].to_numpy()).all()
    assert np.allclose(table["view: scale"], pictures["scale"])
    noise = (pictures["background"] == "noise").to_numpy()
    assert (table["background: noise"].to_numpy() == noise).all()
    # Light and dark backgrounds are light and dark in the picture's pixels.
    plain = pictures["background"].to_numpy() == "plain"
    pair = table.loc[plain, ["background: lightness", "pixels: lightness of the border"]]
    assert pair.corr().iloc[0, 1] > 0.6


def test_scores_of_a_planted_head_are_those_of_its_own_svd(smoke, plain):
    """The quick turn of the null space gives what a head with new weights gives."""
    run = Split(smoke, "lite0", 0)
    asked, direction = run.asked(), run.first.directions()[1]
    found, same = asked.scores([direction, direction])
    assert all(np.allclose(found[name], same[name]) for name in found)
    weight = plant_head(torch.tensor(plain.weight), torch.tensor(direction))
    basis = HeadSpaces.from_weight(weight, rtol=1e-7).null_basis.numpy()
    assert basis.shape == (1280, 280)
    (other,) = Asked(
        smoke, "lite0", asked.half, run.lam, run.text, basis, run.clipart, run.seed).scores()
    for name in ("hidden", "principal", "joint", "attribute_score", "image_score"):
        assert np.allclose(found[name], other[name], atol=1e-6), name


def test_runs_hold_every_kind_of_head_and_thresholds_come_from_calibration(runs):
    assert set(runs["head"]) == {"untouched", "planted", "sham", "circular", "permuted"}
    own = runs[runs["calibration"]]
    assert set(own["head"]) == {"untouched", "sham", "permuted"}
    assert not set(own["seed"]) & set(runs.loc[~runs["calibration"], "seed"])
    limits = plants.thresholds(runs)
    for score in plants.SCORES:
        above = (own[score] > limits[score]).groupby(own["head"]).mean()
        assert above.max() <= 0.01
    changed = runs.assign(hidden=runs["hidden"].where(runs["calibration"], 9.0))
    assert plants.thresholds(changed)["hidden"] == limits["hidden"]
    assert (runs["hidden"] <= 1).all()


def test_an_area_is_the_share_of_pairs_in_the_right_order(smoke, runs):
    table = plants.score_table(smoke).set_index(["kind", "score", "quantity"])
    own = runs[~runs["calibration"] & runs["head"].isin(["untouched", "planted"])]
    positive = own["plant"] == own["concept"]
    for score in plants.SCORES:
        row = table.loc[("planted", score, "auc")]
        ahead = np.subtract.outer(*(own[score].to_numpy()[side] for side in (positive, ~positive)))
        assert row["value"] == pytest.approx(((ahead > 0) + (ahead == 0) / 2).mean())
        assert row["low"] <= row["value"] <= row["high"]
    pair = np.column_stack([positive, own["hidden"]])
    drawn = cluster_bootstrap(  # by rows, sample by sample
        pair, own["concept"], lambda v: roc_auc_score(*v.T) if v[:, 0].sum() > 0 else np.nan,
        draws=smoke.config.bootstrap_draws, seed=smoke.config.seed)
    row = table.loc[("planted", "hidden", "auc")]
    assert (row["low"], row["high"]) == pytest.approx((drawn.low, drawn.high))
    one = own[own["head"] == "planted"].groupby(["model", "seed", "plant"], sort=False)
    first = np.mean([part["hidden"].idxmax() == part.index[part["concept"] == name[2]][0]
                     and (part["hidden"] == part["hidden"].max()).sum() == 1 for name, part in one])
    assert table.loc[("planted", "hidden", "first"), "value"] == pytest.approx(first)
