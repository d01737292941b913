from __future__ import annotations

import numpy as np
import pytest
import torch

from sing_nb.errors import SingError
from sing_nb.method.stages import chosen_lambdas, frame, principal_first
from sing_nb.method.steer import random_basis
from sing_nb.method.translator import RidgeFitter, grouped_cv, nested_cv

Ridge = pytest.importorskip("sklearn.linear_model").Ridge


def fitter(x, z):
    return RidgeFitter(x.shape[1], z.shape[1]).update(torch.tensor(x), torch.tensor(z))


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


def test_a_frame_ends_with_its_subspace():
    basis = random_basis(9, 4, 0)
    full = frame(basis).numpy()
    np.testing.assert_allclose(full.T @ full, np.eye(9), atol=1e-12)
    np.testing.assert_allclose(full[:, 5:] @ full[:, 5:].T, basis @ basis.T, atol=1e-12)
    with pytest.raises(SingError, match="1 to 8; got 9"):
        frame(np.eye(9))
