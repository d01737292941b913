"""Ridge from statistics where it is hard: few rows, singular Gram matrices, many lambdas, files."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import make_scorer, r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold

from sing_nb.errors import SingError
from sing_nb.method import translator
from sing_nb.method.translator import RidgeFitter, Translator, grouped_cv

LAMS = [1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3]


def data(n=80, m=12, d=4, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, m)) @ rng.standard_normal((m, m))
    return x, x @ rng.standard_normal((m, d)) + noise * rng.standard_normal((n, d)) + 3


def fitter(x, z):
    return RidgeFitter(x.shape[1], z.shape[1]).update(torch.tensor(x), torch.tensor(z))


def assert_like(fit, x, z, lam=1.0, rtol=1e-8):
    expected = Ridge(alpha=lam, solver="svd").fit(x, z)
    weight, bias = fit.path().coefficients(lam)
    scale = np.abs(expected.coef_).max()
    np.testing.assert_allclose(weight, expected.coef_, rtol=0, atol=rtol * scale)
    np.testing.assert_allclose(bias, expected.intercept_, rtol=1e-6, atol=1e-6)
    direct = fit.solve_directly(lam)
    np.testing.assert_allclose(direct.weight, expected.coef_, rtol=0, atol=1e-6 * scale)


# --- hard Gram matrices ---------------------------------------------------------------------------


def doubled(x):
    return np.hstack([x, x])


def constant(x):
    return np.hstack([x, np.full((len(x), 2), 7.0), np.zeros((len(x), 1))])


def far(x):
    return x + 1e5


def collinear(x):
    left, _, right = np.linalg.svd(x, full_matrices=False)
    return left * np.logspace(2, -4, x.shape[1]) @ right


def uneven(x):
    return x * np.logspace(-3, 3, x.shape[1])


HARD = {
    "plain": (lambda x: x, 120), "far from zero": (far, 120),
    "tiny": (lambda x: 1e-6 * x, 120), "huge": (lambda x: 1e6 * x, 120),
    "doubled columns": (doubled, 120), "constant columns": (constant, 120),
    "collinear": (collinear, 120), "uneven columns": (uneven, 120),
    "fewer rows than columns": (lambda x: x, 26), "few rows": (lambda x: x, 15),
    "few doubled rows": (lambda x: np.vstack([x, x])[:15], 15),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_gram_matrices_give_scikit_learns_coefficients_and_lambda(name):
    make, n = HARD[name]
    x, z = data(n, 32)
    x = make(x)
    lams = [lam * float(x.var()) for lam in LAMS]
    for lam in lams:
        assert_like(fitter(x, z), x, z, lam, rtol=1e-7)

    groups = np.arange(n) // 3
    scorer = make_scorer(r2_score, multioutput="variance_weighted")
    peer = GridSearchCV(Ridge(solver="svd"), {"alpha": lams}, scoring=scorer, cv=GroupKFold(3))
    peer.fit(x, z, groups=groups)
    folds = [fitter(x[rows], z[rows]) for _, rows in GroupKFold(3).split(x, z, groups)]
    scores = grouped_cv(RidgeFitter(x.shape[1], 4), folds, lams).mean(0).numpy()
    np.testing.assert_allclose(scores, peer.cv_results_["mean_test_score"], rtol=1e-6, atol=1e-8)
    assert lams[int(scores.argmax())] == peer.best_params_["alpha"]


@pytest.mark.parametrize("n", [3, 2])
def test_a_lambda_below_rounding_gives_the_least_norm_solution(n):
    # Twice the same feature: half the weight each, of sums (3 rows) and of rows (2 of 4 columns).
    x = torch.tensor([[0.0, 0], [2, 2], [4, 4]]) if n == 3 else torch.tensor([[0.0] * 4, [2.0] * 4])
    fit = RidgeFitter(x.shape[1], 1).update(x, 3 * x[:, :1] + 1)
    for solved in (fit.solve(1e-300), fit.path().translator(1e-300)):
        torch.testing.assert_close(solved.weight, torch.full((1, x.shape[1]), 3 / x.shape[1]))
        torch.testing.assert_close(solved.bias, torch.tensor([1.0]))


def test_cross_validation_in_threads_is_that_in_one():
    x, z = data(150, 20)
    folds = [fitter(x[part], z[part]) for part in np.array_split(np.arange(150), 5)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        many = grouped_cv(RidgeFitter(20, 4), folds, LAMS)
        nested = translator.nested_cv(RidgeFitter(20, 4), folds, LAMS)
        torch.set_num_threads(1)
        one = grouped_cv(RidgeFitter(20, 4), folds, LAMS)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(many, one, rtol=1e-12, atol=1e-12)
    assert nested[0, 1].tolist() == pytest.approx(
        folds[2].copy().merge(folds[3]).merge(folds[4]).path().scores(folds[1], LAMS).tolist())


# --- generalised cross-validation -----------------------------------------------------------------


def hat(x, lam):
    """The hat matrix of ridge with a free bias, by the book."""
    n = len(x)
    x = x - x.mean(0)
    return np.full((n, n), 1 / n) + x @ np.linalg.solve(x.T @ x + lam * np.eye(x.shape[1]), x.T)


@pytest.mark.parametrize(("n", "m"), [(70, 12), (30, 40), (14, 40)])
def test_gcv_is_that_of_the_dense_hat_matrix(n, m):
    x, z = data(n, m, noise=3)
    lams, path = [0.1, 10.0, 300.0], fitter(x + 50, z - 20).path()
    scores, apart = path.gcv(lams), path.gcv(lams, widths=[1, 3])
    for at, lam in enumerate(lams):
        left = z - hat(x, lam) @ z
        expected = n * (left**2).sum(0) / (n - np.trace(hat(x, lam))) ** 2
        assert scores[at].item() == pytest.approx(expected.sum(), rel=1e-7)
        assert apart[at].tolist() == pytest.approx([expected[0], expected[1:].sum()], rel=1e-7)
    assert path.gcv_lambda(lams) == lams[int(scores.argmin())]
    with pytest.raises(SingError, match=r"above 0; got \[1.0, 0.0\]"):
        path.gcv([1.0, 0.0])


def test_gcv_ignores_groups_and_trusts_copies():
    # Views: every subject thrice, almost the same. Held out together they tell nothing of each
    # other; one at a time, the other two give it away, and next to no shrinkage looks best.
    rng = np.random.default_rng(0)
    subjects, noise = rng.standard_normal((40, 30)), 4 * rng.standard_normal((40, 3))
    views = np.repeat(np.arange(40), 3)
    x = subjects[views] + 0.01 * rng.standard_normal((120, 30))
    z = (subjects @ rng.standard_normal((30, 3)) / 4 + noise)[views]
    lams = list(np.logspace(-2, 4, 13))
    folds = [fitter(x[views % 5 == fold], z[views % 5 == fold]) for fold in range(5)]
    grouped = lams[int(grouped_cv(RidgeFitter(30, 3), folds, lams).mean(0).argmax())]
    assert fitter(x, z).path().gcv_lambda(lams) < grouped / 5


# --- few rows, and rows in pieces -----------------------------------------------------------------


@pytest.mark.parametrize("block", [64 * 2**20, 1000])
@pytest.mark.parametrize("n", [14, 60])
def test_rows_and_sums_are_one_fitter(n, block, monkeypatch):
    # Of 40 columns: 14 rows stay rows, 60 are summed up, and both meet.
    monkeypatch.setattr(translator, "BLOCK", block)
    x, z = data(n, 40)
    cut = n - 9
    few, rest = fitter(x[cut:], z[cut:]), fitter(x[:cut], z[:cut])
    assert_like(rest.copy().merge(few), x, z)
    assert_like(few.copy().merge(rest), x, z)
    assert_like(rest.copy().merge(few).without(few), x[:cut], z[:cut])
    assert_like(few.copy().merge(rest).without(rest), x[cut:], z[cut:], rtol=1e-7)
    # Rows that were cut elsewhere are found as well, by their sums.
    assert_like(fitter(x, z).without(few), x[:cut], z[:cut], rtol=1e-7)
    assert_like(rest, x[:cut], z[:cut])
    assert_like(few, x[cut:], z[cut:])

    assert_like(few.part(slice(3, 30), slice(1, 3)), x[cut:, 3:30], z[cut:, 1:3])
    assert_like(few.part(slice(0, 4)), x[cut:, :4], z[cut:])
    rng = np.random.default_rng(2)
    weight, bias = rng.standard_normal((4, 15)), rng.standard_normal(4)
    left = z - x[:, :15] @ weight.T - bias
    both = few.copy().merge(rest).residuals(torch.tensor(weight), torch.tensor(bias))
    assert_like(both, x[:, 15:], left)
    apart = [part.residuals(torch.tensor(weight), torch.tensor(bias)) for part in (rest, few)]
    assert_like(apart[0].merge(apart[1]), x[:, 15:], left)

    whole = rng.standard_normal((4, 40))
    found = few.squared_errors(torch.tensor(whole), torch.tensor(bias))
    missed = ((x[cut:] @ whole.T + bias - z[cut:]) ** 2).sum()
    assert found == pytest.approx((missed, ((z[cut:] - z[cut:].mean(0)) ** 2).sum()), rel=1e-9)


def test_what_a_caller_does_to_rows_afterwards_is_no_matter():
    x, z = data(10, 40)
    rows = torch.tensor(x)
    fit = RidgeFitter(40, 4).update(rows, torch.tensor(z))
    rows.zero_()
    assert_like(fit, x, z)


def test_more_rows_than_there_are_cannot_be_taken_out():
    x, z = data(30, 5)
    with pytest.raises(SingError, match="Of 10 pictures, 20 cannot be taken out"):
        fitter(x[:10], z[:10]).without(fitter(x[10:], z[10:]))


def test_a_bad_row_far_down_leaves_no_trace(monkeypatch):
    monkeypatch.setattr(translator, "BLOCK", 100)
    x, z = data(60, 5)
    x[50, 2] = np.inf
    fit = RidgeFitter(5, 4)
    with pytest.raises(SingError, match="NaN or infinite"):
        fit.update(torch.tensor(x), torch.tensor(z))
    assert fit.n == 0
    assert_like(fit.update(torch.tensor(x[:50]), torch.tensor(z[:50])), x[:50], z[:50])


def memory(what):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{what}:\s+(\d+) kB", status)[1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_rows_are_not_copied_as_a_whole(monkeypatch):
    monkeypatch.setattr(translator, "BLOCK", 2 * 2**20)
    x, z = torch.ones(40000, 256), torch.ones(40000, 8)
    fit = RidgeFitter(256, 8).update(x[:2000], z[:2000])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    fit.update(x, z)
    assert memory("VmHWM") - before < 0.5 * x.nbytes  # a float64 copy alone would be 2


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 14, 60])
def test_saved_statistics_come_back_and_go_on(tmp_path, n):
    x, z = data(90, 40)
    path = fitter(x[:n], z[:n]).save(tmp_path / "new" / "s.safetensors")
    loaded = RidgeFitter.load(path)
    assert (loaded.m, loaded.d, loaded.n) == (40, 4, n)
    assert_like(loaded.update(torch.tensor(x[n:]), torch.tensor(z[n:])), x, z)


def test_seven_shards_are_one(tmp_path):
    x, z = data(100, 30)
    merged = RidgeFitter(30, 4)
    for number, rows in enumerate(np.array_split(np.arange(100), 7)):
        path = fitter(x[rows], z[rows]).save(tmp_path / f"{number}.safetensors")
        merged.merge(RidgeFitter.load(path))
    assert_like(merged, x, z)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(SingError, match="No statistics at"):
        RidgeFitter.load(tmp_path / "none.safetensors")
    other = Translator(torch.ones(2, 3), torch.ones(2)).save(tmp_path / "translator.safetensors")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"sum": 1}))
    x, z = data()
    half = fitter(x, z).save(tmp_path / "half.safetensors")
    half.write_bytes(half.read_bytes()[:-8])
    for path in (other, tmp_path / "pickle", half):
        with pytest.raises(SingError, match="does not hold ridge statistics"):
            RidgeFitter.load(path)
