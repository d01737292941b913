"""Ridge from sums against NumPy's least squares and scikit-learn, where it is easy and hard."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from sing_nb.errors import SingError
from sing_nb.method import translator
from sing_nb.method.translator import RidgeFitter, Translator, grouped_cv, nested_cv

LAMS = [1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3]


def data(n=80, m=12, d=4, seed=0, mean=0.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, m)) @ rng.standard_normal((m, m))
    z = x @ rng.standard_normal((m, d)) + rng.standard_normal((n, d)) + 3
    return x + mean, z + mean


def fitter(x, z):
    return RidgeFitter(x.shape[1], z.shape[1]).update(torch.tensor(x), torch.tensor(z))


def ridge(x, z, lam):
    """Weight (d, m) and bias: least squares with the penalty as further rows, by NumPy."""
    m, d = x.shape[1], z.shape[1]
    rows = np.vstack([x - x.mean(0), lam**0.5 * np.eye(m)])
    weight = np.linalg.lstsq(rows, np.vstack([z - z.mean(0), np.zeros((m, d))]), rcond=None)[0].T
    return weight, z.mean(0) - weight @ x.mean(0)


def assert_like(fit, x, z, lam=1.0, rtol=1e-7):
    expected, offset = ridge(x, z, lam)
    weight, bias = fit.path().coefficients(lam)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(weight, expected, rtol=0, atol=rtol * scale)
    np.testing.assert_allclose(bias, offset, rtol=1e-6, atol=1e-6 * (1 + np.abs(offset).max()))
    direct = fit.solve(lam)
    np.testing.assert_allclose(direct.weight, expected, rtol=0, atol=1e-6 * scale)


def r2(x, z, weight, bias):
    return 1 - ((x @ weight.T + bias - z) ** 2).sum() / ((z - z.mean(0)) ** 2).sum()


def test_hand_worked_ridge():
    # x = -1, 0, 1 and z = 1, 3, 5: centred x'x = 2, x'z = 4, so w = 4 / (2 + 2) = 1, b = 3.
    fit = fitter(np.array([[-1.0], [0.0], [1.0]]), np.array([[1.0], [3.0], [5.0]]))
    solved = fit.solve(2.0, {"model": "tiny"})
    assert (solved.weight.item(), solved.bias.item()) == pytest.approx((1, 3))
    assert solved.weight.dtype == solved.bias.dtype == torch.float32
    assert solved.card == {"lambda": 2.0, "model": "tiny"}
    # Residuals 1-2, 3-3, 5-4: 1 + 0 + 1 = 2; about the mean 3: 4 + 0 + 4 = 8.
    assert fit.squared_errors(solved.weight, solved.bias) == pytest.approx((2, 8))


# --- hard Gram matrices -------------------------------------------------------------------------


def collinear(x):
    left, _, right = np.linalg.svd(x, full_matrices=False)
    return left * np.logspace(2, -4, x.shape[1]) @ right


HARD = {
    "plain": (lambda x: x, 120), "far from zero": (lambda x: x + 1e5, 120),
    "tiny": (lambda x: 1e-6 * x, 120), "huge": (lambda x: 1e6 * x, 120),
    "doubled columns": (lambda x: np.hstack([x, x]), 120),
    "constant columns": (lambda x: np.hstack([x, np.full((len(x), 2), 7.0)]), 120),
    "collinear": (collinear, 120), "uneven columns": (lambda x: x * np.logspace(-3, 3, 32), 120),
    "fewer rows than columns": (lambda x: x, 26),
    "few doubled rows": (lambda x: np.vstack([x, x])[:15], 15)}


@pytest.mark.parametrize("name", HARD)
def test_hard_gram_matrices_give_numpys_coefficients(name):
    make, n = HARD[name]
    x, z = data(n, 32)
    x = make(x)
    for lam in LAMS:
        assert_like(fitter(x, z), x, z, lam * float(x.var()))


@pytest.mark.parametrize("name", HARD)
def test_hard_gram_matrices_give_scikit_learns_choice_of_lambda(name):
    linear, selection = (pytest.importorskip(f"sklearn.{part}")
                         for part in ("linear_model", "model_selection"))
    make, n = HARD[name]
    x, z = data(n, 32)
    x = make(x)
    lams = [lam * float(x.var()) for lam in LAMS]
    deal = list(selection.GroupKFold(3).split(x, z, np.arange(n) // 3))
    peer = selection.GridSearchCV(
        linear.Ridge(solver="svd"), {"alpha": lams}, cv=deal,
        scoring=lambda model, x, z: r2(x, z, model.coef_, model.intercept_)).fit(x, z)
    folds = [fitter(x[rows], z[rows]) for _, rows in deal]
    scores = grouped_cv(RidgeFitter(x.shape[1], 4), folds, lams).mean(0).numpy()
    np.testing.assert_allclose(scores, peer.cv_results_["mean_test_score"], rtol=1e-6, atol=1e-7)
    assert lams[int(scores.argmax())] == peer.best_params_["alpha"]


def test_features_that_do_not_differ_say_nothing():
    x, z = np.full((9, 3), 7.0), data(9)[1]
    for solved in (fitter(x, z).solve(1.0), fitter(x, z).path().translator(1.0)):
        assert torch.equal(solved.weight, torch.zeros(4, 3))
        np.testing.assert_allclose(solved.bias, z.mean(0), rtol=1e-6)
    scores = grouped_cv(fitter(x, z), [fitter(x, z), fitter(x, z)], LAMS)
    assert (scores.abs() < 1e-12).all()


@pytest.mark.parametrize("n", [3, 2])
def test_a_lambda_below_rounding_gives_the_least_norm_solution(n):
    # Twice the same feature: half the weight each.
    x = torch.tensor([[0.0, 0], [2, 2], [4, 4]]) if n == 3 else torch.tensor([[0.0] * 4, [2.0] * 4])
    fit = RidgeFitter(x.shape[1], 1).update(x, 3 * x[:, :1] + 1)
    solved = fit.solve(1e-300)
    torch.testing.assert_close(solved.weight, torch.full((1, x.shape[1]), 3 / x.shape[1]))
    torch.testing.assert_close(solved.bias, torch.tensor([1.0]))


# --- rows in pieces -----------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.0, 50.0, 1e4])
def test_pieces_in_any_order_and_rows_taken_out_again(mean, monkeypatch):
    monkeypatch.setattr(translator, "BLOCK", 100)  # some rows at a time
    x, z = data(mean=mean)
    parts = [slice(0, 20), slice(20, 60), slice(60, 80)]
    for order in ([0, 1, 2], [2, 0, 1]):
        merged = RidgeFitter(12, 4)
        for index in order:
            merged.merge(fitter(x[parts[index]], z[parts[index]]))
        assert merged.n == 80
        assert_like(merged, x, z)
        merged.merge(RidgeFitter(12, 4)).update(torch.empty(0, 12), torch.empty(0, 4))
        assert_like(merged, x, z)
    part = fitter(x[60:], z[60:])
    rest = merged.without(part)
    assert_like(rest, x[:60], z[:60])
    # Neither of the two has changed, and nothing is left of all rows without all rows.
    assert_like(merged, x, z)
    assert_like(part, x[60:], z[60:])
    assert_like(merged.without(merged).merge(part), x[60:], z[60:])
    with pytest.raises(SingError, match="Of 20 rows, 80 cannot be taken out"):
        part.without(merged)


def test_some_columns_and_what_a_map_of_them_leaves():
    x, z = data(60, 40, mean=3.0)
    fit = fitter(x, z)
    assert_like(fit.part(slice(3, 30), slice(1, 3)), x[:, 3:30], z[:, 1:3])
    rng = np.random.default_rng(2)
    weight, bias = rng.standard_normal((4, 15)), rng.standard_normal(4)
    left = fit.residuals(torch.tensor(weight), torch.tensor(bias))
    missed = z - x[:, :15] @ weight.T - bias
    assert_like(left, x[:, 15:], missed)
    assert float(left.energy.sum()) == pytest.approx(((missed - missed.mean(0)) ** 2).sum())
    assert_like(fit, x, z)  # which has not changed
    whole = rng.standard_normal((4, 40))
    residual = ((x @ whole.T + bias - z) ** 2).sum()
    assert fit.squared_errors(torch.tensor(whole), torch.tensor(bias)) == pytest.approx(
        (residual, ((z - z.mean(0)) ** 2).sum()), rel=1e-8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_rows_and_features_of_a_gpu_are_worked_on_by_the_cpu():
    from sing_nb.method.metrics import angle
    from sing_nb.method.nullspace import HeadSpaces
    from sing_nb.method.steer import steer, steer_all

    x, z = (torch.tensor(part).float() for part in data())
    fit = RidgeFitter(12, 4).update(x.cuda(), z.cuda())
    torch.testing.assert_close(fit.gram, RidgeFitter(12, 4).update(x, z).gram)
    solved = fit.solve(1.0)
    spaces = HeadSpaces.from_weight(torch.eye(12)[:5].cuda())
    assert spaces.null(x.cuda()).is_cuda
    torch.testing.assert_close(spaces.null(x.cuda()).cpu(), spaces.null(x))
    torch.testing.assert_close(solved(x.cuda()).cpu(), solved(x), rtol=1e-4, atol=1e-3)
    assert not angle(x.cuda(), x).is_cuda
    one = steer(x.cuda(), solved, z[0].cuda(), spaces, target_is=5.0)
    assert one.features.is_cuda
    torch.testing.assert_close(one.step, steer(x, solved, z[0], spaces, target_is=5.0).step)
    every = steer_all(x.cuda(), solved, z[:2].cuda(), spaces, target_is=5.0)
    torch.testing.assert_close(every.step[:, 0], one.step, equal_nan=True)


# --- cross-validation ---------------------------------------------------------------------------


def test_cross_validation_is_that_of_refits_by_numpy():
    x, z = data(n=100)
    parts = np.split(np.arange(100), [10, 40, 65])  # the first is always fitted on
    always, *folds = (fitter(x[part], z[part]) for part in parts)
    lams = [0.5, 50.0]

    def expected(held, out, lam, columns=slice(None)):
        rows = np.concatenate([part for at, part in enumerate(parts) if at - 1 not in {held, *out}])
        fitted = ridge(x[rows], z[rows][:, columns], lam)
        return r2(x[parts[held + 1]], z[parts[held + 1]][:, columns], *fitted)

    once, apart = (grouped_cv(always, folds, lams, widths) for widths in (None, [1, 3]))
    nested = nested_cv(always, folds, lams)
    assert nested[range(3), range(3)].isnan().all()
    for held in range(3):
        for at, lam in enumerate(lams):
            assert once[held, at].item() == pytest.approx(expected(held, (), lam), rel=1e-8)
            assert apart[held, at].tolist() == pytest.approx(
                [expected(held, (), lam, own) for own in (slice(0, 1), slice(1, 4))], rel=1e-7)
            for out in {0, 1, 2} - {held}:
                assert nested[out, held, at].item() == pytest.approx(
                    expected(held, (out,), lam), rel=1e-8)
    # An infinite lambda is the mean; what was given is as it was.
    means = always.copy().merge(folds[1]).path().scores(folds[0], [torch.inf])
    mean = z[np.r_[parts[0], parts[2]]].mean(0)
    assert means.item() == pytest.approx(r2(x[parts[1]], z[parts[1]], np.zeros((4, 12)), mean))
    assert torch.equal(grouped_cv(always, folds, lams), once)


# --- the map ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_only_the_linear_part_distributes_and_dtypes_are_kept(dtype):
    fitted = Translator(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([3.0, 0.0]))
    f, v = torch.tensor([[1.0, 1.0]], dtype=dtype), torch.tensor([[0.0, 2.0]], dtype=dtype)
    assert (fitted(f).tolist(), fitted(f).dtype) == ([[6.0, 1.0]], dtype)
    assert torch.equal(fitted(f + v), fitted(f) + fitted.linear(v))
    assert not torch.equal(fitted(f + v), fitted(f) + fitted(v))
    assert repr(Translator(torch.ones(2, 3), torch.ones(2))) == "Translator(3 -> 2)"


def test_what_cannot_be_fitted_or_translated_is_refused():
    x, z = (torch.tensor(part) for part in data())
    fit = RidgeFitter(12, 4).update(x, z)
    before = fit.gram.clone()
    infinite = x.clone()
    infinite[70, 2] = torch.inf
    for features, targets, said in (
        (x[:, :5], z, r"\(n, 12\).*\(n, 4\).*\(80, 5\)"), (x, z[:5], "Expected features"),
        (x[None], z[None], "Expected features"), (x[0, 0], z, r"got \(\)"),
        (infinite, z, "NaN or infinite"), (x, z * torch.nan, "NaN or infinite"),
        (x.tolist(), z, "torch tensor"),
    ):
        with pytest.raises(SingError, match=said):
            fit.update(features, targets)
    assert (fit.n, torch.equal(fit.gram, before)) == (80, True)  # nothing is left of them
    for lam in (0.0, -1.0, float("nan"), torch.inf, "much"):
        with pytest.raises(SingError, match="lambda must be above 0"):
            fit.solve(lam)
    for wrong, said in (
        (lambda: RidgeFitter(3, 2).solve(1.0), "at least 2 rows"),
        (lambda: RidgeFitter(3, 0), "whole numbers"),
        (lambda: fit.merge(RidgeFitter(3, 4)), "different widths"),
        (lambda: grouped_cv(fit, [fit], [1.0]), "at least 2 folds"),
        (lambda: fit.path().scores(RidgeFitter(12, 4), [1.0]), "at least 2 rows.*scored; got 0"),
        (lambda: RidgeFitter(12, 4).without(RidgeFitter(12, 3)), "different widths"),
        (lambda: RidgeFitter(12, 4).update(x * 1e200, z).solve(1.0), "infinite in float64"),
        (lambda: fit.residuals(torch.ones(4, 12), torch.ones(4)), "others are left"),
        (lambda: fit.solve(1.0, {"model": "tiny"})(torch.ones(1, 4)), r"reads 12 features.*tiny"),
    ):
        with pytest.raises(SingError, match=said):
            wrong()


# --- files --------------------------------------------------------------------------------------


def test_a_saved_translator_comes_back_exactly(tmp_path):
    x, z = data()
    saved = fitter(x, z).solve(3.0, {"model": "tiny", "held_out_fold": None})
    loaded = Translator.load(saved.save(tmp_path / "new" / "t.safetensors"))
    assert torch.equal(loaded.weight, saved.weight)
    assert torch.equal(loaded.bias, saved.bias)
    assert loaded.card == saved.card == {"lambda": 3.0, "model": "tiny", "held_out_fold": None}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["t.safetensors"]


def test_saved_sums_of_shards_are_merged(tmp_path):
    x, z = data(100, 30)
    merged = RidgeFitter(30, 4)
    for number, rows in enumerate(np.array_split(np.arange(100), 4)):
        path = fitter(x[rows], z[rows]).save(tmp_path / f"{number}.safetensors")
        merged.merge(RidgeFitter.load(path))
    assert merged.n == 100
    assert_like(merged, x, z)


class MakesFolder:
    """Unpickled, it would run code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", [Translator, RidgeFitter])
def test_other_files_are_refused_and_no_pickle_is_run(tmp_path, kind):
    x, z = data()
    good = {Translator: fitter(x, z).solve(1.0), RidgeFitter: fitter(x, z)}
    files = {name: tmp_path / f"{name}.safetensors" for name in (
        "missing", "text", "pickle", "torch", "short", "flipped", "other", "shape", "bare")}
    files["text"].write_text("hello")
    with files["pickle"].open("wb") as file:
        pickle.dump(MakesFolder(str(tmp_path / "ran")), file)
    torch.save(MakesFolder(str(tmp_path / "ran")), files["torch"])
    for name in ("short", "flipped"):
        good[kind].save(files[name])
    content = bytearray(files["flipped"].read_bytes())
    files["short"].write_bytes(content[:-4])
    content[-9] ^= 1
    files["flipped"].write_bytes(content)
    good[RidgeFitter if kind is Translator else Translator].save(files["other"])
    card = {"card": "{}", "ridge_statistics": '{"m": 3, "d": 2, "n": 9}'}
    safetensors.torch.save_file({"weight": torch.ones(2, 3)}, files["shape"], card)
    safetensors.torch.save_file({"weight": torch.ones(2, 3)}, files["bare"])
    for path in files.values():
        with pytest.raises(SingError, match=path.name):
            kind.load(path)
    assert not (tmp_path / "ran").exists()
