from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from sing_nb.errors import SingError
from sing_nb.method.translator import RidgeFitter, Translator, grouped_cv, nested_cv


def data(n=80, m=12, d=5, seed=0, mean=0.0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, m)) @ rng.standard_normal((m, m))
    z = x @ rng.standard_normal((m, d)) + rng.standard_normal((n, d)) + 3
    return x + mean, z + mean


def fitter(x, z):
    return RidgeFitter(x.shape[1], z.shape[1]).update(torch.tensor(x), torch.tensor(z))


def assert_like_ridge(fit, x, z, lam, rtol=1e-7):
    weight, bias = fit.path().coefficients(lam)
    expected = Ridge(alpha=lam, solver="svd").fit(x, z)
    scale = np.abs(expected.coef_).max()
    np.testing.assert_allclose(weight.numpy(), expected.coef_, rtol=rtol, atol=rtol * scale)
    predicted = x @ weight.numpy().T + bias.numpy()
    np.testing.assert_allclose(predicted, expected.predict(x), rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("lam", [1e-3, 1.0, 300.0])
def test_solution_is_scikit_learns_ridge(lam):
    x, z = data()
    assert_like_ridge(fitter(x, z), x, z, lam)


@pytest.mark.parametrize("lam", [0.1, 10.0])
def test_fewer_pictures_than_features(lam):
    x, z = data(n=15, m=40)
    assert_like_ridge(fitter(x, z), x, z, lam)


def test_hand_worked_ridge():
    # x = -1, 0, 1 and z = 1, 3, 5: centred x'x = 2, x'z = 4, so w = 4 / (2 + 2) = 1, b = 3.
    fit = fitter(np.array([[-1.0], [0.0], [1.0]]), np.array([[1.0], [3.0], [5.0]]))
    translator = fit.solve(2.0)
    assert translator.weight.item() == pytest.approx(1)
    assert translator.bias.item() == pytest.approx(3)
    # Residuals 1-2, 3-3, 5-4: 1 + 0 + 1 = 2; about the mean 3: 4 + 0 + 4 = 8.
    assert fit.squared_errors(translator.weight, translator.bias) == pytest.approx((2, 8))


def test_translator_is_float32_and_knows_its_lambda():
    x, z = data()
    translator = fitter(x, z).solve(10.0, {"model": "tiny"})
    assert translator.weight.dtype == translator.bias.dtype == torch.float32
    assert translator.card == {"lambda": 10.0, "model": "tiny"}


def test_rows_in_pieces_are_rows_at_once():
    x, z = data()
    pieces = RidgeFitter(12, 5)
    for start in range(0, 80, 17):
        pieces.update(torch.tensor(x[start : start + 17]), torch.tensor(z[start : start + 17]))
    pieces.update(torch.empty(0, 12), torch.empty(0, 5))
    assert pieces.n == 80
    assert_like_ridge(pieces, x, z, 1.0)


def test_order_of_merging_is_irrelevant():
    x, z = data(mean=50)
    parts = [slice(0, 20), slice(20, 60), slice(60, 80)]
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        merged = RidgeFitter(12, 5)
        for index in order:
            merged.merge(fitter(x[parts[index]], z[parts[index]]))
        assert_like_ridge(merged, x, z, 1.0)


def test_merging_leaves_the_other_fitter_alone():
    x, z = data()
    one, two = fitter(x[:30], z[:30]), fitter(x[30:], z[30:])
    one.merge(two)
    one.update(torch.tensor(x[:5]), torch.tensor(z[:5]))
    assert_like_ridge(two, x[30:], z[30:], 1.0)


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_taking_rows_out_is_fitting_without_them(mean):
    x, z = data(mean=mean)
    everything, part = fitter(x, z), fitter(x[50:], z[50:])
    rest = everything.without(part)
    assert rest.n == 50
    assert_like_ridge(rest, x[:50], z[:50], 1.0)
    # The one it was taken from still has all rows.
    assert everything.n == 80
    assert_like_ridge(everything, x, z, 1.0)


def test_a_large_common_mean_costs_no_digits():
    # A ridge with a free bias does not see a common shift, so the unshifted data is the answer.
    x, z = data()
    far = fitter(x[:40] + 1e6, z[:40] - 1e6).merge(fitter(x[40:] + 1e6, z[40:] - 1e6))
    weight, _ = far.path().coefficients(1.0)
    expected = Ridge(alpha=1.0, solver="svd").fit(x, z).coef_
    np.testing.assert_allclose(weight, expected, rtol=1e-6, atol=1e-7)


def test_grouped_cross_validation_is_scikit_learn_by_hand():
    x, z = data(n=90)
    always, folds = slice(0, 30), [slice(30, 55), slice(55, 70), slice(70, 90)]
    lams = [0.1, 10.0, 1000.0]
    scores = grouped_cv(fitter(x[always], z[always]), [fitter(x[f], z[f]) for f in folds], lams)
    assert scores.shape == (3, 3)
    for row, held_out in enumerate(folds):
        keep = np.ones(90, bool)
        keep[held_out] = False
        for column, lam in enumerate(lams):
            model = Ridge(alpha=lam, solver="svd").fit(x[keep], z[keep])
            expected = r2_score(
                z[held_out], model.predict(x[held_out]), multioutput="variance_weighted"
            )
            assert scores[row, column].item() == pytest.approx(expected, rel=1e-8)


def test_cross_validation_does_not_change_what_it_is_given():
    x, z = data()
    always, folds = fitter(x[:40], z[:40]), [fitter(x[40:60], z[40:60]), fitter(x[60:], z[60:])]
    first = grouped_cv(always, folds, [1.0])
    assert torch.equal(grouped_cv(always, folds, [1.0]), first)
    assert [always.n, *(fold.n for fold in folds)] == [40, 20, 20]


@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_squared_errors_are_those_of_the_rows(mean):
    x, z = data(mean=mean)
    rng = np.random.default_rng(5)
    weight, bias = rng.standard_normal((5, 12)), rng.standard_normal(5)
    found = fitter(x, z).squared_errors(torch.tensor(weight), torch.tensor(bias))
    residual = ((x @ weight.T + bias - z) ** 2).sum()
    assert found == pytest.approx((residual, ((z - z.mean(0)) ** 2).sum()), rel=1e-8)


def test_only_the_linear_part_distributes():
    x, z = data()
    translator = fitter(x, z).solve(1.0)
    f, v = (torch.tensor(part) for part in (x[:4], x[4:8]))
    torch.testing.assert_close(translator(f + v), translator(f) + translator.linear(v))
    assert not torch.allclose(translator(f + v), translator(f) + translator(v), atol=0.1)
    np.testing.assert_allclose(
        translator(f), x[:4] @ translator.weight.double().numpy().T + translator.bias.numpy()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_translations_keep_the_dtype_of_the_features(dtype):
    x, z = data()
    assert fitter(x, z).solve(1.0)(torch.ones(2, 12, dtype=dtype)).dtype == dtype


def test_a_saved_translator_comes_back_exactly(tmp_path):
    x, z = data()
    card = {"model": "tiny", "held_out_fold": None, "held_out_r2": 0.25}
    saved = fitter(x, z).solve(3.0, card)
    loaded = Translator.load(saved.save(tmp_path / "new" / "t.safetensors"))
    assert torch.equal(loaded.weight, saved.weight)
    assert torch.equal(loaded.bias, saved.bias)
    assert loaded.card == {"lambda": 3.0, **card}


class MakesFolder:
    """Unpickled, it would run code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_a_pickle_is_refused_and_never_run(tmp_path, write):
    proof = tmp_path / "ran"
    with (tmp_path / "t.safetensors").open("wb") as file:
        write(MakesFolder(str(proof)), file)
    with pytest.raises(SingError, match="not a translator in safetensors format"):
        Translator.load(tmp_path / "t.safetensors")
    assert not proof.exists()


def test_other_contents_and_missing_files_are_refused(tmp_path):
    with pytest.raises(SingError, match="No translator at"):
        Translator.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(SingError, match="not a translator"):
        Translator.load(tmp_path / "text.safetensors")
    saved = Translator(torch.ones(2, 3), torch.ones(2)).save(tmp_path / "half.safetensors")
    saved.write_bytes(saved.read_bytes()[:-4])
    with pytest.raises(SingError, match="not a translator"):
        Translator.load(saved)


def test_wrong_widths_are_refused():
    with pytest.raises(SingError, match=r"\(n, 3\).*\(n, 2\).*\(4, 5\)"):
        RidgeFitter(3, 2).update(torch.ones(4, 5), torch.ones(4, 2))
    with pytest.raises(SingError, match="Expected features"):
        RidgeFitter(3, 2).update(torch.ones(4, 3), torch.ones(5, 2))
    with pytest.raises(SingError, match="different widths"):
        RidgeFitter(3, 2).merge(RidgeFitter(3, 4))
    translator = Translator(torch.ones(2, 3), torch.ones(2), {"model": "tiny"})
    with pytest.raises(SingError, match=r"reads 3 features.*tiny"):
        translator(torch.ones(1, 4))


@pytest.mark.parametrize("where", [0, 1])
def test_nan_rows_are_refused_and_leave_no_trace(where):
    rows = [torch.ones(4, 3), torch.ones(4, 2)]
    rows[where][2, 1] = torch.nan
    fit = RidgeFitter(3, 2)
    with pytest.raises(SingError, match="NaN"):
        fit.update(*rows)
    assert fit.n == 0


def test_impossible_fits_are_refused():
    x, z = data()
    with pytest.raises(SingError, match="at least 2 pictures"):
        RidgeFitter(3, 2).solve(1.0)
    for lam in (0.0, -1.0, float("nan")):
        with pytest.raises(SingError, match="lambda must be above 0"):
            fitter(x, z).solve(lam)
    with pytest.raises(SingError, match="at least 2 folds"):
        grouped_cv(fitter(x, z), [fitter(x, z)], [1.0])


def test_nested_cross_validation_is_scikit_learns_on_what_is_left():
    x, z = data(n=100)
    parts = np.split(np.arange(100), [10, 40, 65])  # the first is always fitted on
    always, *folds = (fitter(x[part], z[part]) for part in parts)
    found = nested_cv(always, folds, [0.5, 50.0]).numpy()
    assert np.isnan(found[np.arange(3), np.arange(3)]).all()
    for out in range(3):
        for held in set(range(3)) - {out}:
            (third,) = set(range(3)) - {out, held}
            rows = np.r_[parts[0], parts[third + 1]]
            for column, lam in enumerate([0.5, 50.0]):
                model = Ridge(alpha=lam, solver="svd").fit(x[rows], z[rows])
                test = parts[held + 1]
                said = model.predict(x[test])
                expected = r2_score(z[test], said, multioutput="variance_weighted")
                assert found[out, held, column] == pytest.approx(expected, rel=1e-8)
