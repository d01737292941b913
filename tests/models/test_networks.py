"""Networks as translators: losses, shapes and training against NumPy, SciPy and least squares."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from scipy.special import erf

from sing_nb.errors import SingError
from sing_nb.models.networks import ARCHITECTURES, LOSSES, build, train
from sing_nb.study.profile import Architecture, Loss


def data(n=200, m=12, d=5, noise=0.05, seed=0):
    """Features, and embeddings that are one affine map of them plus noise, whatever the seed."""
    weight = torch.randn(d, m, generator=torch.Generator().manual_seed(99)) / m**0.5
    rng = torch.Generator().manual_seed(seed)
    f = torch.randn(n, m, generator=rng)
    return f, f @ weight.T + 0.3 + noise * torch.randn(n, d, generator=rng)


# --- losses -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients_are_those_of_the_paper(name):
    z = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    e = torch.randn(3, 4, dtype=torch.float64)
    loss = LOSSES[name](z, e)
    (found,) = torch.autograd.grad(loss, z)
    y, t = z.detach().numpy(), e.numpy()
    length, goal = (np.linalg.norm(v, axis=1, keepdims=True) for v in (y, t))
    cosine = np.sum(y * t, 1, keepdims=True) / (length * goal)
    # Equation (14), summed over dimensions, then the mean over rows; equation (15).
    squared, angular = np.mean(np.linalg.norm(y - t, axis=1) ** 2), np.mean(1 - cosine)
    wanted = {"mse": squared, "cosine": angular, "both": squared + angular}[name]
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-12)
    turn = -(t / goal - y / length * cosine) / length
    wanted = {"mse": 2 * (y - t), "cosine": turn, "both": 2 * (y - t) + turn}[name] / len(y)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9, atol=1e-12)


# --- shapes -------------------------------------------------------------------------------------


def linear(i, o):
    return i * o + o


def block(i, o):
    return 2 * i + linear(i, o)  # LayerNorm has a gain and a shift for each input


COUNTS = {
    "linear": lambda m, d, h: linear(m, d),
    "mlp3": lambda m, d, h: linear(m, h) + block(h, h) + block(h, d),
    "mlp4": lambda m, d, h: linear(m, h) + 2 * block(h, h) + block(h, d),
    "residual": lambda m, d, h: linear(m, h) + block(h, m) + linear(m, d),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameters_are_as_many_as_the_layers_say(name):
    m, d, h = 12, 5, 7
    module = build(name, m, d, hidden=h)
    assert sum(p.numel() for p in module.parameters()) == COUNTS[name](m, d, h)
    assert module(torch.randn(3, m)).shape == (3, d)


def test_mlp3_is_its_formula():
    module = build("mlp3", 12, 5, hidden=7, seed=3).double().eval()
    f = torch.randn(4, 12, dtype=torch.float64)
    weights = {key: value.detach().numpy() for key, value in module.state_dict().items()}
    def gelu(v):
        return v * (1 + erf(v / np.sqrt(2))) / 2

    def norm(v):
        return (v - v.mean(1, keepdims=True)) / np.sqrt(v.var(1, keepdims=True) + 1e-5)

    x = f.numpy() @ weights["0.weight"].T + weights["0.bias"]
    for number in ("1", "2"):
        x = norm(x) * weights[f"{number}.0.weight"] + weights[f"{number}.0.bias"]
        x = gelu(x) @ weights[f"{number}.3.weight"].T + weights[f"{number}.3.bias"]
    np.testing.assert_allclose(module(f).detach().numpy(), x, rtol=1e-10)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_starts_from_the_constant_that_was_given(name):
    start = torch.arange(5.0)
    module = build(name, 12, 5, hidden=7, start=start).eval()
    torch.testing.assert_close(module(torch.randn(3, 12)), start.expand(3, 5))
    assert build(name, 12, 5, hidden=7).eval()(torch.randn(3, 12)).std() > 0.01


def test_unknown_names_and_no_rows_are_refused():
    with pytest.raises(SingError, match="Unknown architecture 'mpl3'; did you mean 'mlp3'"):
        build("mpl3", 4, 2)
    with pytest.raises(SingError, match="Unknown loss 'cosin'; did you mean 'cosine'"):
        train(build("linear", 12, 5), data(), data(), "cosin")
    with pytest.raises(SingError, match="got 200 and 0"):
        train(build("linear", 12, 5), data(), (torch.zeros(0, 12), torch.zeros(0, 5)))


def test_a_profile_may_name_what_there_is():
    assert {"ridge", *ARCHITECTURES} == set(get_args(Architecture))
    assert set(LOSSES) == set(get_args(Loss))


# --- training -----------------------------------------------------------------------------------


def test_the_linear_one_ends_at_least_squares():
    f, z = data()
    module = build("linear", 12, 5, start=z.mean(0))
    found = train(module, (f, z), (f, z), "mse", epochs=400, patience=400, batch=200,
                  learning_rate=1e-2, weight_decay=0)
    design = np.column_stack([f.numpy(), np.ones(len(f))]).astype(float)
    solution, residual, *_ = np.linalg.lstsq(design, z.numpy().astype(float), rcond=None)
    np.testing.assert_allclose(found.module[0].weight.detach().numpy(), solution[:-1].T, atol=1e-3)
    np.testing.assert_allclose(found.module[0].bias.detach().numpy(), solution[-1], atol=1e-3)
    assert found.curve["train_mse"].iloc[-1] == pytest.approx(residual.sum() / len(f), rel=1e-3)


def test_overfitting_is_stopped_and_the_best_state_kept():
    # Few, noisy rows to fit on: a wide network learns something, then learns them by heart.
    rows, held_out = data(24, noise=1.0), data(300, noise=0.0, seed=7)
    module = build("mlp3", 12, 5, hidden=128, dropout=0.0, start=rows[1].mean(0))
    found = train(module, rows, held_out, epochs=300, patience=8, batch=8, learning_rate=1e-3)
    curve = found.curve.set_index("epoch")
    assert found.stopped
    assert found.best == curve["validation_mse"].idxmin()
    assert curve.index[-1] == found.best + 8 < 300
    assert found.best > 0
    # It went on learning the rows by heart after its best epoch.
    assert curve["train_mse"].iloc[-1] < curve.loc[found.best, "train_mse"]
    with torch.no_grad():
        kept = float((found.module(held_out[0]) - held_out[1]).square().sum(1).mean())
    assert kept == pytest.approx(curve.loc[found.best, "validation_mse"], rel=1e-6)
    assert not found.module.training


def test_a_run_that_is_cut_off_says_so():
    rows = data()
    cut = train(build("linear", 12, 5), rows, rows, epochs=3, learning_rate=1e-3)
    assert not cut.stopped
    assert cut.best == 3
    assert cut.curve["epoch"].tolist() == [0, 1, 2, 3]


def test_what_is_watched_is_what_is_minimised():
    rows, held_out = data(noise=0.5), data(100, noise=0.5, seed=5)
    for loss, column, pick in (("mse", "validation_mse", "idxmin"),
                               ("cosine", "validation_cosine", "idxmax")):
        module = build("linear", 12, 5, start=rows[1].mean(0))
        found = train(module, rows, held_out, loss, epochs=30, patience=3, learning_rate=1e-2)
        assert found.best == getattr(found.curve[column], pick)()


def test_the_curve_is_measured_without_dropout():
    rows, held_out = data(), data(50, seed=5)
    module = build("mlp3", 12, 5, hidden=16, dropout=0.5, start=rows[1].mean(0))
    found = train(module, rows, held_out, epochs=2, patience=5, learning_rate=1e-3)
    first = found.curve.iloc[0]
    start = rows[1].mean(0)
    for part, (_, z) in (("train", rows), ("validation", held_out)):
        assert first[f"{part}_mse"] == pytest.approx(
            float((z - start).square().sum(1).mean()), rel=1e-5)
        unit = (z / z.norm(dim=1, keepdim=True)) @ (start / start.norm())
        assert first[f"{part}_cosine"] == pytest.approx(float(unit.mean()), abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_seed_gives_the_same_bits(loss):
    rows, held_out = data(), data(50, seed=5)
    torch.manual_seed(8)
    before = torch.get_rng_state()
    states = []
    for seed in (2, 2, 3):
        module = build("mlp3", 12, 5, hidden=16, start=rows[1].mean(0), seed=0)
        found = train(module, rows, held_out, loss, epochs=3, seed=seed, learning_rate=1e-3)
        assert found.best > 0
        states.append(torch.cat([p.detach().flatten() for p in found.module.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert torch.equal(torch.get_rng_state(), before)
