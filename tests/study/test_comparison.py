from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from scipy.special import erf
from sklearn.linear_model import Ridge

from sing_nb import Study
from sing_nb.errors import SingError
from sing_nb.models import networks
from sing_nb.models.networks import ARCHITECTURES, LOSSES, build, train
from sing_nb.study.comparison import run, split
from sing_nb.study.profile import Architecture, Loss


def data(n=200, m=12, d=5, noise=0.05, seed=0):
    """Features, and embeddings that are one affine map of them plus noise, whatever the seed."""
    weight = torch.randn(d, m, generator=torch.Generator().manual_seed(99)) / m**0.5
    rng = torch.Generator().manual_seed(seed)
    f = torch.randn(n, m, generator=rng)
    return f, f @ weight.T + 0.3 + noise * torch.randn(n, d, generator=rng)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_the_paper(name):
    z, e = torch.randn(2, 3, 4, dtype=torch.float64)
    y, t = z.numpy(), e.numpy()
    cosine = np.sum(y * t, 1) / (np.linalg.norm(y, axis=1) * np.linalg.norm(t, axis=1))
    # Equation (14), summed over dimensions, then the mean over rows; equation (15).
    squared, angular = np.mean(np.linalg.norm(y - t, axis=1) ** 2), np.mean(1 - cosine)
    wanted = {"mse": squared, "cosine": angular, "both": squared + angular}[name]
    assert float(LOSSES[name](z, e)) == pytest.approx(wanted, rel=1e-12)


def test_mlp3_is_its_formula():
    module = build("mlp3", 12, 5, hidden=7, seed=3).double().eval()
    f = torch.randn(4, 12, dtype=torch.float64)
    weights = {key: value.detach().numpy() for key, value in module.state_dict().items()}

    def norm(v):
        return (v - v.mean(1, keepdims=True)) / np.sqrt(v.var(1, keepdims=True) + 1e-5)

    x = f.numpy() @ weights["0.weight"].T + weights["0.bias"]
    for number in ("1", "2"):
        x = norm(x) * weights[f"{number}.0.weight"] + weights[f"{number}.0.bias"]
        gelu = x * (1 + erf(x / np.sqrt(2))) / 2
        x = gelu @ weights[f"{number}.3.weight"].T + weights[f"{number}.3.bias"]
    np.testing.assert_allclose(module(f).detach().numpy(), x, rtol=1e-10)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_starts_from_the_constant_that_was_given(name):
    start = torch.arange(5.0)
    module = build(name, 12, 5, hidden=7, start=start).eval()
    torch.testing.assert_close(module(torch.randn(3, 12)), start.expand(3, 5))
    assert build(name, 12, 5, hidden=7).eval()(torch.randn(3, 12)).std() > 0.01


def test_a_profile_may_name_what_there_is():
    assert {"ridge", *ARCHITECTURES} == set(get_args(Architecture))
    assert set(LOSSES) == set(get_args(Loss))


@pytest.fixture
def fast(monkeypatch):
    for name, value in (("LEARNING_RATE", 1e-2), ("WEIGHT_DECAY", 0), ("BATCH", 8)):
        monkeypatch.setattr(networks, name, value)


def test_the_linear_one_ends_at_least_squares(fast, monkeypatch):
    monkeypatch.setattr(networks, "BATCH", 200)
    f, z = data()
    module, curve = train(
        build("linear", 12, 5, start=z.mean(0)), (f, z), (f, z), epochs=400, patience=400)
    design = np.column_stack([f.numpy(), np.ones(len(f))]).astype(float)
    solution, residual, *_ = np.linalg.lstsq(design, z.numpy().astype(float), rcond=None)
    np.testing.assert_allclose(module[0].weight.detach().numpy(), solution[:-1].T, atol=1e-3)
    np.testing.assert_allclose(module[0].bias.detach().numpy(), solution[-1], atol=1e-3)
    assert curve["mse"].iloc[-1] == pytest.approx(residual.sum() / len(f), rel=1e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_overfitting_is_stopped_and_the_best_state_kept_and_seeds_decide(fast, loss):
    # Few, noisy rows to fit on: a wide network learns something, then learns them by heart.
    rows, held_out, states = data(24, noise=1.0), data(300, noise=0.0, seed=7), []
    for seed in (2, 2, 3):
        start = build("mlp3", 12, 5, hidden=64, start=rows[1].mean(0))
        module, curve = train(start, rows, held_out, loss, epochs=300, patience=8, seed=seed)
        states.append(module[0].weight.detach())
    curve = curve.set_index("epoch")[loss]
    assert 0 < curve.idxmin() == curve.index[-1] - 8 < 292
    with torch.no_grad():  # dropout is off
        kept = float(LOSSES[loss](module(held_out[0]), held_out[1]))
    assert kept == pytest.approx(curve.min(), rel=1e-6)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert len(train(build("linear", 12, 5), rows, held_out, loss, epochs=3, patience=50)[1]) == 4


@pytest.fixture(scope="module")
def study():
    """The smoke pictures in three folds, two of them tested."""
    return Study("smoke", progress=False, folds=3, sweep_folds=2)


@pytest.mark.parametrize("fold", [0, 1, 2])
def test_no_subject_is_in_two_parts(study, fold):
    parts = [study.pictures.iloc[rows] for rows in split(study, fold)]
    subjects = [set(part["subject"]) for part in parts]
    assert all(subjects)
    assert sum(map(len, subjects)) == len(set.union(*subjects))
    train, validation, test = parts
    assert set(validation["source"]) == set(test["source"]) == {"stamp"}
    assert set(train["source"]) == {"stamp", "clipart"}
    assert (set(test["fold"]), set(validation["fold"])) == ({fold}, {(fold + 1) % 3})
    assert set(test["view"]) == {0, 1}  # sweep_views


def test_two_folds_leave_nothing_to_fit_on_without_drawings():
    few = Study("smoke", progress=False, folds=2, clipart_files=0)
    with pytest.raises(SingError, match="none is left to fit on"):
        split(few, 0)


def test_ridge_is_that_of_scikit_learn_on_the_same_rows(study):
    found = run(study, "ridge", "mse")
    f, z = (t.numpy().astype(float) for t in (study.features("lite0"), study.embeddings))
    for fold in (0, 1):
        train, validation, test = split(study, fold)
        fits = [Ridge(alpha=lam).fit(f[train], z[train]) for lam in study.config.lambdas]
        best = min(fits, key=lambda one: ((one.predict(f[validation]) - z[validation])**2).sum())
        answer, truth, mean = best.predict(f[test]), z[test], z[train].mean(0)
        rows = found[found["fold"] == fold]
        assert rows["picture"].tolist() == study.pictures["picture"].iloc[test].tolist()
        np.testing.assert_allclose(np.stack(rows["embedding"]), answer, atol=2e-3)
        np.testing.assert_allclose(
            rows["squared_error"], ((answer - truth) ** 2).sum(1), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(
            rows["target_energy"], ((truth - truth.mean(0)) ** 2).sum(1), rtol=1e-4)
        for name, guess in (("", answer), ("constant_", np.tile(mean, (len(truth), 1)))):
            lengths = np.linalg.norm(guess, axis=1) * np.linalg.norm(truth, axis=1)
            cosine = (guess * truth).sum(1) / lengths
            np.testing.assert_allclose(rows[f"{name}cosine"], cosine, atol=1e-4)
            np.testing.assert_allclose(
                rows[f"{name}angle"], np.degrees(np.arccos(cosine)), atol=2e-2)


def test_a_trained_run_tests_subjects_that_it_never_saw_and_is_kept(study):
    found = run(study, "linear", "cosine")
    truth = study.embeddings[study.rows(found["picture"])].numpy().astype(float)
    answer = np.stack(found["embedding"]).astype(float)
    lengths = np.linalg.norm(answer, axis=1) * np.linalg.norm(truth, axis=1)
    np.testing.assert_allclose(found["cosine"], (answer * truth).sum(1) / lengths, atol=2e-3)
    again = run(Study("smoke", progress=False, folds=3, sweep_folds=2), "linear", "cosine")
    assert again["cosine"].tolist() == found["cosine"].tolist()
