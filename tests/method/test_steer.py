"""Pushes against autograd and bisection; controls and pushes of one size against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.special
import torch

from sing_nb.errors import SingError
from sing_nb.method.nullspace import HeadSpaces
from sing_nb.method.steer import (
    matched_removal,
    null_direction,
    random_basis,
    random_part,
    steer,
    steer_all,
    turning_step,
)
from sing_nb.method.translator import Translator

M, D, C = 12, 6, 5


def degrees(a, b):
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


def drawn(seed, *shape):
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


@pytest.fixture
def parts():
    weight, translator = drawn(0, C, M), Translator(drawn(1, D, M), drawn(2, D))
    return weight, HeadSpaces.from_weight(weight), translator, drawn(3, 20, M), drawn(4, D)


# --- one prompt ---------------------------------------------------------------------------------


@pytest.mark.parametrize("own_text", [False, True])
def test_null_directions_are_the_projected_gradient_of_autograd(parts, own_text):
    weight, spaces, translator, f, text = parts
    text = drawn(5, len(f), D) if own_text else text
    variable = f.clone().requires_grad_()
    torch.nn.functional.cosine_similarity(translator(variable), text, dim=-1).sum().backward()
    null = scipy.linalg.null_space(weight.numpy())
    expected = variable.grad.numpy() @ null @ null.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = null_direction(f, translator, text, spaces)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    np.testing.assert_allclose(found.numpy() @ weight.numpy().T, 0, atol=1e-12)


def test_hand_worked_step():
    # z = (2, 0) is turned along (0, 1): by 40 degrees when step / 2 = tan 40; 90 degrees is never
    # reached, only approached.
    z, up = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    step, limit = turning_step(z, up, 40.0)
    assert step.item() == pytest.approx(2 * np.tan(np.radians(40)))
    assert limit.item() == pytest.approx(90)
    assert torch.isnan(turning_step(z, up, 90.0)[0])
    assert torch.isfinite(turning_step(z, up, 89.9)[0])


@pytest.mark.parametrize("target", [1.0, 40.0, 120.0])
def test_steps_are_those_of_bisection(parts, target):
    weight, spaces, translator, f, text = parts
    found = steer(f, translator, text, spaces, target_is=target)
    assert torch.equal(found.reachable, found.limit > target)
    w, b = translator.weight.numpy(), translator.bias.numpy()
    for i in range(len(f)):
        along, start = found.direction[i].numpy(), f[i].numpy()

        def turned(step, along=along, start=start):
            return degrees(start @ w.T + b, (start + step * along) @ w.T + b)

        if not found.reachable[i]:
            assert turned(1e8) < target
            assert torch.equal(found.features[i], f[i])
            assert found.step[i].isnan()
            continue
        step = scipy.optimize.brentq(lambda step: turned(step) - target, 0, 1e7, xtol=1e-12)
        assert found.step[i].item() == pytest.approx(step, rel=1e-6)
        moved = found.features[i].numpy() @ w.T + b
        nearer = degrees(start @ w.T + b, text.numpy()) - degrees(moved, text.numpy())
        assert found.image_score[i].item() == pytest.approx(target, abs=1e-9)
        assert found.attribute_score[i].item() == pytest.approx(nearer, abs=1e-6)
    np.testing.assert_allclose(found.features @ weight.T, f @ weight.T, atol=1e-7)


def test_a_given_step_is_taken_and_dtypes_are_kept(parts):
    _, spaces, translator, f, text = parts
    found = steer(f.float(), translator, text, spaces, step=0.5)
    assert (found.features.dtype, found.direction.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(found.features, f.float() + 0.5 * found.direction)
    assert found.reachable.all()
    assert (found.step == 0.5).all()
    assert (found.attribute_score > 0).all()  # uphill


# --- all prompts at once ------------------------------------------------------------------------


def assert_same(found, f, translator, texts, spaces, **how):
    for column, text in enumerate(texts):
        one = steer(f, translator, text, spaces, **how)
        for name in ("step", "image_score", "attribute_score", "limit"):
            torch.testing.assert_close(
                getattr(found, name)[:, column], getattr(one, name), rtol=1e-6, atol=1e-7,
                equal_nan=True)
        assert torch.equal(found.reachable[:, column], one.reachable)


HOW = [{"target_is": 20.0}, {"step": 0.3}, {"step": 1e-4}]


@pytest.mark.parametrize("how", HOW)
def test_all_prompts_give_what_each_gives(parts, how):
    _, spaces, translator, f, _ = parts
    texts = drawn(6, 7, D) * 5
    found = steer_all(f, translator, texts, spaces, **how)
    assert (found.step.shape, found.features) == ((20, 7), None)
    assert_same(found, f, translator, texts, spaces, **how)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("side", [1, -1])
def test_a_text_next_to_a_feature_or_its_opposite_keeps_its_digits(parts, how, side):
    # The gradient is the small part of the text that is not along z: a difference of large numbers.
    _, spaces, translator, f, _ = parts
    size = torch.tensor([[1e-2], [1e-3], [1e-5], [1e-6]])
    texts = side * (translator(f[:4]) + size * drawn(7, D))
    assert_same(steer_all(f, translator, texts, spaces, **how), f, translator, texts, spaces, **how)


def test_a_translator_blind_to_the_null_space_turns_nothing():
    spaces = HeadSpaces.from_weight(torch.eye(M)[:C].double())
    blind = Translator(drawn(8, D, M) * (torch.arange(M) < C), torch.zeros(D).double())
    found = steer_all(drawn(9, 6, M), blind, drawn(10, 2, D), spaces, target_is=10.0)
    assert not found.reachable.any()
    assert found.step.isnan().all()
    assert found.image_score.isnan().all()
    found = steer_all(drawn(9, 6, M), blind, drawn(10, 2, D), spaces, step=2.0)
    assert (found.image_score == 0).all()


def test_what_cannot_be_steered_is_refused(parts):
    _, spaces, translator, f, text = parts
    full = HeadSpaces.from_weight(torch.eye(M))
    for push, goal in ((steer, text), (steer_all, text[None])):
        for arguments in ({}, {"step": 1.0, "target_is": 10.0}):
            with pytest.raises(SingError, match="one of them"):
                push(f, translator, goal, spaces, **arguments)
        for target in (0.0, -5.0, 180.0):
            with pytest.raises(SingError, match="between 0 and 180"):
                push(f, translator, goal, spaces, target_is=target)
        with pytest.raises(SingError, match="null space is empty"):
            push(f, translator, goal, full, step=1.0)
        with pytest.raises(SingError, match=f"reads {M} features"):
            push(torch.ones(2, M + 1), translator, goal, spaces, step=1.0)
    with pytest.raises(SingError, match=rf"\(p, {D}\).*got \({D},\)"):
        steer_all(f, translator, text, spaces, step=1.0)


# --- controls of the same size ------------------------------------------------------------------


def test_random_bases_are_orthonormal_follow_the_seed_and_favour_no_direction():
    basis = random_basis(30, 7, seed=0)
    np.testing.assert_allclose(basis.T @ basis, np.eye(7), atol=1e-12)
    np.testing.assert_array_equal(basis, random_basis(30, 7, seed=0))
    assert np.abs(basis - random_basis(30, 7, seed=1)).max() > 0.01
    projectors = [b @ b.T for b in (random_basis(5, 2, seed) for seed in range(2000))]
    np.testing.assert_allclose(np.mean(projectors, axis=0), 2 / 5 * np.eye(5), atol=0.03)
    for size in (0, 6):
        with pytest.raises(SingError, match=f"5 dimensions cannot have {size}"):
            random_basis(5, size, seed=0)


def test_matched_removal_takes_the_given_length_from_the_given_subspace():
    f, energy, basis = drawn(11, 8, M), drawn(12, 8).abs() + 0.1, random_basis(M, 4, 0)
    taken = f.numpy() - matched_removal(f, energy, basis).numpy()
    np.testing.assert_allclose(np.linalg.norm(taken, axis=1), energy)
    # Only the length of the removed part changes, not where it points.
    np.testing.assert_allclose(degrees(taken, f.numpy() @ basis @ basis.T), 0, atol=1e-4)
    half = matched_removal(f.half(), energy, basis)
    assert half.dtype == torch.float16
    zeros = torch.zeros(2, M)
    assert torch.equal(matched_removal(zeros, torch.zeros(2), basis), zeros)


def test_a_random_part_is_as_long_as_what_it_is_like():
    f, like = drawn(13, 8, M), drawn(14, 8, M)
    part = random_part(f, like=like, size=4, seed=3).numpy()
    basis = random_basis(M, 4, 3)
    np.testing.assert_allclose(part @ basis @ basis.T, part, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(part, axis=1), np.linalg.norm(like, axis=1))



