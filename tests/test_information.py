from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import rbf_kernel

import sing_nb
from sing_nb.checks import information
from sing_nb.checks.controls import chosen_lambdas, frame, kernel_map, principal_first
from sing_nb.checks.intervals import random_basis
from sing_nb.errors import SingError
from sing_nb.method.translator import RidgeFitter, grouped_cv, nested_cv
from sing_nb.study import tables
from sing_nb.study.profile import load_profile


def fitter(x, z):
    return RidgeFitter(x.shape[1], z.shape[1]).update(torch.tensor(x), torch.tensor(z))


# --- the algebra of sufficient statistics -------------------------------------------------------


def rows(n=70, m=9, d=4, seed=0, mean=3.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, m)) @ rng.standard_normal((m, m)) + mean
    return x, x @ rng.standard_normal((m, d)) + rng.standard_normal((n, d)) - mean


def test_a_part_of_a_fitter_is_a_fitter_of_those_columns():
    x, z = rows()
    part = fitter(x, z).part(slice(2, 6), slice(1, 3))
    weight, bias = part.path().coefficients(5.0)
    expected = Ridge(alpha=5.0, solver="svd").fit(x[:, 2:6], z[:, 1:3])
    np.testing.assert_allclose(weight, expected.coef_, rtol=1e-9)
    np.testing.assert_allclose(bias, expected.intercept_, rtol=1e-9)


@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_residuals_from_statistics_are_those_of_the_rows(mean):
    x, z = rows(mean=mean)
    rng = np.random.default_rng(1)
    weight, bias = rng.standard_normal((4, 5)), rng.standard_normal(4)
    left = fitter(x, z).residuals(torch.tensor(weight), torch.tensor(bias))
    by_hand = z - x[:, :5] @ weight.T - bias
    found, offset = left.path().coefficients(2.0)
    expected = Ridge(alpha=2.0, solver="svd").fit(x[:, 5:], by_hand)
    np.testing.assert_allclose(found, expected.coef_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(offset, expected.intercept_, rtol=1e-6, atol=1e-6)
    residual, total = left.squared_errors(torch.zeros(4, 4), torch.zeros(4))
    assert residual == pytest.approx((by_hand**2).sum(), rel=1e-8)
    assert total == pytest.approx(((by_hand - by_hand.mean(0)) ** 2).sum(), rel=1e-8)
    # They add up like rows do.
    halves = [fitter(x[a], z[a]).residuals(torch.tensor(weight), torch.tensor(bias))
              for a in (slice(0, 30), slice(30, 70))]
    both, _ = halves[0].merge(halves[1]).path().coefficients(2.0)
    np.testing.assert_allclose(both, found, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", [(4, 9), (4, 0), (3, 5)])
def test_residuals_need_columns_that_are_left(shape):
    with pytest.raises(SingError, match="so that others are left"):
        fitter(*rows()).residuals(torch.zeros(shape), torch.zeros(shape[0]))


def test_targets_side_by_side_score_as_they_do_alone():
    x, z = rows()
    always, folds = fitter(x[:20], z[:20]), [fitter(x[a:a + 25], z[a:a + 25]) for a in (20, 45)]
    lams = [0.1, 10.0, 1000.0]
    for cv in (grouped_cv, nested_cv):
        together = cv(always, folds, lams, [1, 3])
        for at, own in enumerate((slice(0, 1), slice(1, 4))):
            alone = cv(always.part(slice(None), own),
                       [fold.part(slice(None), own) for fold in folds], lams)
            torch.testing.assert_close(together[..., at], alone, equal_nan=True)


# --- two stages ---------------------------------------------------------------------------------

FIRST, REST, GROUPS = 12, 6, 5


def planted(gain, seed=0, subjects=60, views=4):
    """Features whose null part is correlated with the principal part, and adds `gain`."""
    rng = np.random.default_rng(seed)
    n = subjects * views
    principal = np.repeat(rng.standard_normal((subjects, FIRST)), views, 0)
    principal += 0.3 * rng.standard_normal((n, FIRST))
    own = np.repeat(rng.standard_normal((subjects, REST)), views, 0)
    null = principal @ rng.standard_normal((FIRST, REST)) / 3 + own
    z = principal @ rng.standard_normal((FIRST, 3)) + gain * own @ rng.standard_normal((REST, 3))
    z += np.repeat(rng.standard_normal((subjects, 3)), views, 0)
    fold = np.repeat(np.arange(subjects) % (GROUPS + 1), views) - 1  # -1 is always fitted on
    return np.hstack([principal, null]), z, fold


def fitters(x, z, fold):
    return fitter(x[fold < 0], z[fold < 0]), [
        fitter(x[fold == g], z[fold == g]) for g in range(GROUPS)]


LAMS = [0.3, 3.0, 30.0, 300.0]


def held_out(x, z, fold, staged):
    """R2 of the first stage and of both, on folds that neither saw."""
    alone, both, energy = 0.0, 0.0, 0.0
    for g in range(GROUPS):
        own = torch.tensor(x[fold == g])
        goal = z[fold == g]
        alone += ((staged[g].first(own[:, :FIRST]).numpy() - goal) ** 2).sum()
        both += ((staged[g](own).numpy() - goal) ** 2).sum()
        energy += ((goal - goal.mean(0)) ** 2).sum()
    return 1 - alone / energy, 1 - both / energy


def test_both_stages_are_scikit_learns_ridge_on_cross_fitted_residuals():
    x, z, fold = planted(1.0)
    always, folds = fitters(x, z, fold)
    out = 2
    staged = principal_first(always, folds, FIRST, LAMS)[out]
    lam, second = staged.first.card["lambda"], staged.rest.card["lambda"]
    left, null = [], []
    for g in set(range(GROUPS)) - {out}:
        seen, own = ~np.isin(fold, [out, g]), fold == g
        first = Ridge(alpha=lam, solver="svd").fit(x[seen, :FIRST], z[seen])
        left.append(z[own] - first.predict(x[own, :FIRST]))
        null.append(x[own, FIRST:])
    left, null = np.concatenate(left), np.concatenate(null)
    rest = Ridge(alpha=second, solver="svd").fit(null, left)
    first = Ridge(alpha=lam, solver="svd").fit(x[fold != out, :FIRST], z[fold != out])
    np.testing.assert_allclose(staged.rest.weight, rest.coef_, rtol=1e-4, atol=1e-5)
    test = x[fold == out]
    np.testing.assert_allclose(
        staged(torch.tensor(test)), first.predict(test[:, :FIRST]) + rest.predict(test[:, FIRST:]),
        rtol=1e-4, atol=1e-4)
    # An average null part changes nothing: the mean residual is the first stage's.
    mean = torch.tensor(null.mean(0)[None])
    np.testing.assert_allclose(staged.rest(mean), 0, atol=1e-5)


def test_both_lambdas_are_those_that_nested_cross_validation_by_hand_finds():
    x, z, fold = planted(0.3, seed=3)
    out = 1
    staged = principal_first(*fitters(x, z, fold), FIRST, LAMS, lambdas=[3.0] * (GROUPS + 1))[out]
    inner = [g for g in range(GROUPS) if g != out]
    candidates = [*LAMS, 1e5, 3e5, 1e6, 3e6, 1e7]
    gains = np.zeros(len(candidates))
    for score in inner:
        def left(g, without):
            seen, own = ~np.isin(fold, without), fold == g
            first = Ridge(alpha=3.0, solver="svd").fit(x[seen, :FIRST], z[seen])
            return x[own, FIRST:], z[own] - first.predict(x[own, :FIRST])

        parts = [left(g, [out, score, g]) for g in inner if g != score]
        null, residual = (np.concatenate(part) for part in zip(*parts))
        test, goal = left(score, [out, score])
        energy = ((goal - goal.mean(0)) ** 2).sum()
        nothing = ((goal - residual.mean(0)) ** 2).sum()
        for at, lam in enumerate(candidates):
            rest = Ridge(alpha=lam, solver="svd").fit(null, residual)
            gains[at] += (nothing - ((goal - rest.predict(test)) ** 2).sum()) / energy
    expected = candidates[gains.argmax()] if gains.max() > 0 else None
    assert staged.rest.card["lambda"] == expected


def test_unique_information_is_found_where_it_was_planted():
    alone, both = held_out(*(case := planted(1.0)), principal_first(*fitters(*case), FIRST, LAMS))
    assert both - alone > 0.05


def test_nothing_is_found_where_the_null_part_only_repeats_the_principal_one():
    gains, silent = [], 0
    for seed in range(8):
        case = planted(0.0, seed)
        staged = principal_first(*fitters(*case), FIRST, LAMS)
        alone, both = held_out(*case, staged)
        gains.append(both - alone)
        silent += sum(one.rest.card["lambda"] is None for one in staged)
        # A ridge on everything reads the null part nevertheless.
        x, z, _ = case
        assert np.abs(Ridge(alpha=3.0).fit(x, z).coef_[:, FIRST:]).max() > 0.02
    assert np.mean(gains) < 0.003
    assert silent > 0


def test_the_held_out_fold_changes_nothing():
    x, z, fold = planted(0.5)
    other = z.copy()
    other[fold == 0] = np.random.default_rng(9).standard_normal(other[fold == 0].shape) * 50
    one, two = (principal_first(*fitters(x, goal, fold), FIRST, LAMS)[0] for goal in (z, other))
    assert one.first.card == two.first.card
    assert one.rest.card == two.rest.card
    torch.testing.assert_close(one.first.weight, two.first.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(one.rest.weight, two.rest.weight, rtol=1e-3, atol=1e-4)


def test_two_stages_are_one_affine_map():
    x, z, fold = planted(1.0)
    directions = frame(random_basis(FIRST + REST, REST, 4))
    features = torch.tensor(x)
    inside = (features @ directions).numpy()
    staged = principal_first(*fitters(inside, z, fold), FIRST, LAMS)[-1]
    whole = staged.affine(directions, {"model": "tiny"})
    torch.testing.assert_close(whole(features), staged(torch.tensor(inside)), rtol=1e-4, atol=1e-4)
    assert whole.card["model"] == "tiny"
    assert {"lambda", "lambda_null"} <= whole.card.keys()


def test_two_stages_need_folds_and_columns():
    x, z, fold = planted(0.0)
    always, folds = fitters(x, z, fold)
    with pytest.raises(SingError, match="Take at least 3"):
        principal_first(RidgeFitter(FIRST + REST, 3), folds[:2], FIRST, LAMS)
    with pytest.raises(SingError, match="1 to 17 columns; got 18"):
        principal_first(always, folds, FIRST + REST, LAMS)
    # With rows that are always fitted on, two folds will do; the middle lambda is taken.
    staged = principal_first(always, folds[:2], FIRST, LAMS)
    assert staged[0].rest.card["lambda"] == LAMS[2]


def test_lambdas_are_chosen_among_the_other_folds():
    x, z, fold = planted(1.0)
    always, folds = fitters(x, z, fold)
    found = chosen_lambdas(always, folds, LAMS)
    nested = nested_cv(always, folds, LAMS).nanmean(1).argmax(1)
    assert [lam for (lam,) in found[:-1]] == [LAMS[i] for i in nested]
    assert found[-1] == [LAMS[int(grouped_cv(always, folds, LAMS).mean(0).argmax())]]
    assert chosen_lambdas(always, folds[:2], LAMS)[0] == [LAMS[2]]


# --- frames and the non-linear map --------------------------------------------------------------


def test_a_frame_ends_with_its_subspace():
    basis = random_basis(9, 4, 0)
    full = frame(basis).numpy()
    np.testing.assert_allclose(full.T @ full, np.eye(9), atol=1e-12)
    np.testing.assert_allclose(full[:, 5:] @ full[:, 5:].T, basis @ basis.T, atol=1e-12)
    with pytest.raises(SingError, match="1 to 8; got 9"):
        frame(np.eye(9))


def test_the_kernel_map_is_a_gaussian_of_hellingers_distance():
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.standard_normal((60, 5)))
    mapped = kernel_map(logits, np.arange(60), 60, variance=2.5).numpy()
    roots = np.exp(logits.numpy() / 2)
    roots = np.sqrt(roots / roots.sum(1, keepdims=True))
    apart = ((roots[:, None] - roots[None]) ** 2).sum(-1)[np.triu_indices(60, 1)]
    # All landmarks: the approximation is exact, up to the scale that gives the variance.
    kernel = rbf_kernel(roots, gamma=1 / np.sort(apart)[(len(apart) - 1) // 2])
    scale = (mapped**2).sum(1).mean()
    np.testing.assert_allclose(mapped @ mapped.T / scale, kernel, atol=1e-6)
    assert mapped.var(0).sum() == pytest.approx(2.5)
    again = kernel_map(logits, np.arange(60), 60, variance=2.5).numpy()
    np.testing.assert_array_equal(mapped, again)


def test_the_kernel_map_needs_different_pictures():
    with pytest.raises(SingError, match="all have the same"):
        kernel_map(torch.ones(9, 4), np.arange(9), 3)


# --- tables of a study --------------------------------------------------------------------------


def test_errors_of_the_null_part_are_scikit_learns(smoke, plain):
    table = information.picture_table(smoke, "lite0")
    own = table[(table["space"] == "lite2") & (table["version"] == "null")]
    pictures, z = smoke.pictures, smoke.embeddings.double().numpy()
    fold, drawn = pictures["fold"].to_numpy(), (pictures["source"] == "clipart").to_numpy()
    null = plain.f @ plain.null_basis
    lam = smoke.config.lambdas[len(smoke.config.lambdas) // 2]  # of two folds none can choose
    for held in (0, 1):
        seen, test = drawn | (fold == 1 - held), fold == held
        expected = Ridge(alpha=lam, solver="svd").fit(null[seen], z[seen]).predict(null[test])
        error = ((expected - z[test]) ** 2).sum(1)
        found = own.set_index("picture").loc[pictures["picture"][test], "squared_error"]
        np.testing.assert_allclose(found, error, rtol=1e-4)


def test_unique_r2_is_the_difference_of_two_r2(smoke):
    parts = information.information_table(smoke).query("quantity == 'r2'")
    parts = parts.set_index(["model", "joint", "version", "kind"])["value"]
    unique = information.unique_table(smoke)
    checked = 0
    for row in unique[unique["kind"] == "null space removed"].itertuples():
        both, alone = (parts[row.model, row.joint, version, row.kind]
                       for version in (information.BASES[row.base], row.base))
        assert row.value == pytest.approx(both - alone, abs=1e-9)
        checked += 1
    assert checked == 3 * 3 + 5  # every space for a ridge, two (the tower's own: one) otherwise
    floor = unique[unique["kind"] == "circular floor"].set_index(["model", "joint", "base"])
    own = unique[(unique["kind"] == "null space removed") & unique["circular"]]
    for row in own.itertuples():
        assert floor.loc[(row.model, row.joint, row.base), "value"] == pytest.approx(row.value)


def test_null_removal_of_the_paper_is_that_of_the_study(smoke):
    found = information.picture_table(smoke, "lite0")
    found = found[(found["space"] == "lite2") & (found["version"] == "whole")
                  & (found["draw"] < 0)].set_index("picture")
    expected = tables.images(smoke, "lite0").set_index("picture").loc[found.index]
    for score in ("image_score", "attribute_score"):
        np.testing.assert_allclose(found[score], expected[score], atol=2e-3)


# --- the book with the repaired translator ------------------------------------------------------


@pytest.fixture(scope="module")
def repaired(smoke):
    study = sing_nb.Study("smoke", progress=False, translator="principal-first")
    study._features, study._classifiers = smoke._features, smoke._classifiers
    return study


def test_a_study_can_be_made_with_the_repaired_translator(smoke, repaired):
    fits = repaired.fitted("lite0")
    assert [one.card["kind"] for one in fits] == ["principal-first"] * 3
    assert {one.card["kind"] for one in smoke.fitted("lite0")} == {"ridge"}
    table = information.picture_table(smoke, "lite0")
    own = table[(table["space"] == "lite2") & (table["version"] == "principal-first")
                & (table["draw"] < 0)].set_index("picture")
    images = tables.images(repaired, "lite0").set_index("picture").loc[own.index]
    np.testing.assert_allclose(images["image_score"], own["image_score"], atol=5e-3)
    assert (images["logit_change"] < 1e-2).all()


def test_the_setting_is_part_of_what_results_are_stored_under(smoke, repaired):
    assert repr(smoke.config) != repr(repaired.config)
    assert smoke._hash() != repaired._hash()


def test_other_translators_are_unknown():
    with pytest.raises(SingError, match="did you mean 'principal-first'"):
        load_profile("smoke", {"translator": "principal_first"})
    with pytest.raises(SingError, match="Leave one of the two out"):
        load_profile("paper", {"translator": "principal-first", "published_translators": "x"})


def test_settings_of_this_chapter_recompute_no_other(smoke):
    other = smoke.config.model_copy(update={"information_draws": 7, "kernel_size": 9})
    assert repr(other) == repr(smoke.config)
