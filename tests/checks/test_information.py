from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import rbf_kernel

from sing_nb.checks import information
from sing_nb.checks.information import kernel_map
from sing_nb.errors import SingError
from sing_nb.study import tables


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
    parts = information.information_table(smoke)
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
