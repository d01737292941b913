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
    directions,
    matched_perturbations,
    matched_removal,
    move,
    null_direction,
    steer,
    steer_all,
    step_for_angle,
    turning_step,
)
from sing_nb.method.translator import Translator

M, D, C = 12, 6, 5


def degrees(a, b):
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    weight = torch.tensor(rng.standard_normal((C, M)))
    translator = Translator(
        torch.tensor(rng.standard_normal((D, M))), torch.tensor(rng.standard_normal(D))
    )
    f = torch.tensor(rng.standard_normal((20, M)))
    text = torch.tensor(rng.standard_normal(D))
    return weight, HeadSpaces.from_weight(weight), translator, f, text


@pytest.mark.parametrize("own_text", [False, True])
def test_directions_are_the_gradient_of_the_cosine(parts, own_text):
    _, _, translator, f, text = parts
    if own_text:
        text = torch.tensor(np.random.default_rng(1).standard_normal((len(f), D)))
    variable = f.clone().requires_grad_()
    torch.nn.functional.cosine_similarity(translator(variable), text, dim=-1).sum().backward()
    torch.testing.assert_close(directions(f, translator, text), variable.grad)


def test_null_directions_are_unit_vectors_that_the_head_cannot_see(parts):
    weight, spaces, translator, f, text = parts
    found = null_direction(f, translator, text, spaces)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    np.testing.assert_allclose(found.numpy() @ weight.numpy().T, 0, atol=1e-12)
    # Uphill: it is the gradient's projection, so a small push raises the cosine.
    assert ((found * directions(f, translator, text)).sum(1) > 0).all()


def test_hand_worked_step():
    # T is the identity, f = (2, 0), the direction (0, 1): phi = 90 degrees and the push turns f
    # by 40 degrees when step / 2 = tan 40; 90 degrees is never reached, only approached.
    translator = Translator(torch.eye(2), torch.zeros(2))
    f, up = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    step, limit = step_for_angle(f, up, translator, 40.0)
    assert step.item() == pytest.approx(2 * np.tan(np.radians(40)))
    assert limit.item() == pytest.approx(90)
    assert torch.isnan(step_for_angle(f, up, translator, 90.0)[0])
    assert torch.isfinite(step_for_angle(f, up, translator, 89.9)[0])


@pytest.mark.parametrize("target", [1.0, 10.0, 40.0])
def test_the_step_reaches_the_target_angle(parts, target):
    _, spaces, translator, f, text = parts
    direction = null_direction(f, translator, text, spaces)
    step, limit = step_for_angle(f, direction, translator, target)
    reachable = torch.isfinite(step)
    assert torch.equal(reachable, limit > target)
    assert reachable.sum() > 5
    weight, bias = translator.weight.numpy(), translator.bias.numpy()
    z = f.numpy() @ weight.T + bias
    moved = (f + step[:, None] * direction).numpy() @ weight.T + bias
    np.testing.assert_allclose(degrees(z, moved)[reachable], target, atol=1e-3)
    assert (step[reachable] > 0).all()


def test_no_step_reaches_the_limit(parts):
    _, spaces, translator, f, text = parts
    direction = null_direction(f, translator, text, spaces)
    _, limit = step_for_angle(f, direction, translator, 1.0)
    weight, bias = translator.weight.numpy(), translator.bias.numpy()
    far = (f + 1e7 * direction).numpy() @ weight.T + bias
    np.testing.assert_allclose(degrees(f.numpy() @ weight.T + bias, far), limit, atol=1e-3)


def test_steering_to_a_target(parts):
    weight, spaces, translator, f, text = parts
    found = steer(f, translator, text, spaces, target_is=30.0)
    there = found.reachable.numpy()
    assert there.sum() > 0
    z, moved = translator(f).numpy(), translator(found.features).numpy()
    np.testing.assert_allclose(degrees(z, moved)[there], 30, atol=1e-3)
    np.testing.assert_allclose(found.image_score.numpy()[there], 30, atol=1e-3)
    expected = degrees(z, text.numpy()) - degrees(moved, text.numpy())
    np.testing.assert_allclose(found.attribute_score.numpy()[there], expected[there], atol=1e-6)
    np.testing.assert_allclose(found.features @ weight.T, f @ weight.T, atol=1e-9)


def test_unreachable_pictures_are_counted_and_stay_as_they_are(parts):
    _, spaces, translator, f, text = parts
    limit = steer(f, translator, text, spaces, step=1.0).limit
    target = float(limit.sort().values[10]) + 0.01  # eleven of the twenty have a lower limit
    found = steer(f, translator, text, spaces, target_is=target)
    assert int((~found.reachable).sum()) == 11
    assert torch.equal(found.features[~found.reachable], f[~found.reachable])
    for values in (found.step, found.image_score, found.attribute_score):
        assert torch.isnan(values[~found.reachable]).all()
        assert torch.isfinite(values[found.reachable]).all()


def test_steering_by_a_step(parts):
    _, spaces, translator, f, text = parts
    found = steer(f, translator, text, spaces, step=0.5)
    np.testing.assert_allclose(np.linalg.norm(found.features - f, axis=1), 0.5)
    assert found.reachable.all()
    assert (found.step == 0.5).all()
    z, moved = translator(f).numpy(), translator(found.features).numpy()
    np.testing.assert_allclose(found.image_score, degrees(z, moved), atol=1e-6)


def test_a_step_of_zero_changes_nothing(parts):
    _, spaces, translator, f, text = parts
    found = steer(f, translator, text, spaces, step=0.0)
    assert torch.equal(found.features, f)
    assert (found.image_score == 0).all()


def test_steered_features_keep_their_dtype(parts):
    _, spaces, translator, f, text = parts
    found = steer(f.float(), translator, text.float(), spaces, target_is=5.0)
    assert found.features.dtype == torch.float32


def test_moving_along_a_given_direction_measures_what_steering_measures(parts):
    _, spaces, translator, f, text = parts
    direction = null_direction(f, translator, text, spaces)
    moved = move(f, direction, translator, text, target_is=20.0)
    steered = steer(f, translator, text, spaces, target_is=20.0)
    assert torch.equal(moved.features, steered.features)


def test_a_turn_inside_the_joint_space_is_that_of_the_feature(parts):
    _, spaces, translator, f, text = parts
    direction = null_direction(f, translator, text, spaces)
    step, limit = turning_step(translator(f), translator.linear(direction), 20.0)
    expected, phi = step_for_angle(f, direction, translator, 20.0)
    np.testing.assert_allclose(step, expected)
    np.testing.assert_allclose(limit, phi)


# --- all pictures towards all prompts -----------------------------------------------------------


def same(found, f, translator, texts, spaces, **how):
    """Hold steer_all's table against steer, prompt by prompt."""
    for j, text in enumerate(texts):
        one = steer(f, translator, text, spaces, **how)
        assert torch.equal(found.reachable[:, j], one.reachable)
        for name in ("step", "image_score", "attribute_score", "limit"):
            np.testing.assert_allclose(getattr(found, name)[:, j], getattr(one, name),
                                       rtol=1e-8, atol=1e-9, err_msg=f"{name} of text {j}")


@pytest.mark.parametrize(
    "how", [{"step": 0.7}, {"step": 0.0}, {"step": -0.7}, {"step": 1e6}, {"target_is": 1e-4},
            {"target_is": 30.0}, {"target_is": 70.0}, {"target_is": 150.0}])
def test_all_prompts_at_once_give_what_each_gives(parts, how):
    _, spaces, translator, f, _ = parts
    texts = torch.tensor(np.random.default_rng(8).standard_normal((7, D))) * 5
    found = steer_all(f, translator, texts, spaces, **how)
    assert found.step.shape == (20, 7)
    assert found.step.dtype == torch.float64
    same(found, f, translator, texts, spaces, **how)
    if "target_is" in how:
        assert torch.equal(found.reachable, found.limit > how["target_is"])
        np.testing.assert_allclose(
            found.image_score[found.reachable], how["target_is"], rtol=1e-9)


def test_all_steps_are_those_of_autograd_and_bisection(parts):
    weight, spaces, translator, f, _ = parts
    texts = torch.tensor(np.random.default_rng(9).standard_normal((4, D)))
    found = steer_all(f, translator, texts, spaces, target_is=40.0)
    assert found.reachable.sum() > 10
    null = scipy.linalg.null_space(weight.numpy())
    a, b = translator.weight.numpy(), translator.bias.numpy()

    def by_hand(i, j):
        variable = f[i].clone().requires_grad_()
        z = torch.tensor(a) @ variable + torch.tensor(b)
        ((z @ texts[j]) / (z.norm() * texts[j].norm())).backward()
        along = null @ (null.T @ variable.grad.numpy())
        along /= np.linalg.norm(along)
        z = f[i].numpy() @ a.T + b

        def moved(step):
            return (f[i].numpy() + step * along) @ a.T + b

        step = scipy.optimize.brentq(
            lambda step: degrees(z, moved(step)) - 40, 0, 1e6, xtol=1e-12, rtol=1e-14)
        return step, degrees(z, texts[j].numpy()) - degrees(moved(step), texts[j].numpy())

    for i, j in found.reachable.nonzero().tolist():
        step, score = by_hand(i, j)
        assert float(found.step[i, j]) == pytest.approx(step, rel=1e-6)
        assert float(found.attribute_score[i, j]) == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("how", [{"target_is": 20.0}, {"step": 0.3}, {"step": 1e-4}])
@pytest.mark.parametrize("side", [1, -1])
def test_a_text_next_to_a_feature_or_its_opposite_keeps_its_digits(parts, how, side):
    # The gradient is the small part of the text that is not along z: sums of squares lose it.
    _, spaces, translator, f, _ = parts
    aside = torch.tensor(np.random.default_rng(10).standard_normal((4, D)))
    size = torch.tensor([[1e-2], [1e-3], [1e-5], [1e-6]])
    texts = side * (translator(f[:4]) + size * aside)
    same(steer_all(f, translator, texts, spaces, **how), f, translator, texts, spaces, **how)


@pytest.mark.parametrize("side", [1, -1])
def test_a_push_along_the_embedding_keeps_its_digits(side):
    # One null direction, which the translator turns into v: phi is the angle of z and v, 1e-3
    # degrees or 180 minus that, and no target beyond it is reached.
    rng = np.random.default_rng(12)
    v, texts = rng.standard_normal(D), torch.tensor(rng.standard_normal((3, D)))
    across = np.linalg.qr(np.stack([v, rng.standard_normal(D)], 1))[0][:, 1]
    z = side * (v + np.linalg.norm(v) * np.radians(1e-3) * across)
    spaces = HeadSpaces.from_weight(torch.eye(M)[: M - 1].double())
    translator = Translator(
        torch.tensor(np.concatenate([np.zeros((D, M - 1)), v[:, None]], 1)), torch.tensor(z))
    f = torch.zeros(1, M, dtype=torch.float64)
    for how in ({"step": 1e-3}, {"target_is": 5e-4}):
        found = steer_all(f, translator, texts, spaces, **how)
        same(found, f, translator, texts, spaces, **how)
        off = torch.minimum(found.limit, 180 - found.limit)
        np.testing.assert_allclose(off, 1e-3, rtol=1e-6)


def test_a_translator_blind_to_the_null_space_turns_nothing():
    spaces = HeadSpaces.from_weight(torch.eye(M)[:C].double())
    rng = np.random.default_rng(13)
    blind = np.zeros((D, M))
    blind[:, :C] = rng.standard_normal((D, C))
    f, texts = torch.tensor(rng.standard_normal((6, M))), torch.tensor(rng.standard_normal((2, D)))
    translator = Translator(torch.tensor(blind), torch.zeros(D).double())
    found = steer_all(f, translator, texts, spaces, target_is=10.0)
    assert not found.reachable.any()
    assert torch.isnan(found.step).all()
    assert torch.isnan(found.image_score).all()
    found = steer_all(f, translator, texts, spaces, step=2.0)
    assert (found.image_score == 0).all()
    np.testing.assert_allclose(found.attribute_score, 0, atol=1e-12)


def test_all_prompts_in_small_blocks_and_float32(parts):
    _, spaces, translator, f, _ = parts
    f, texts = f.float(), torch.tensor(np.random.default_rng(14).standard_normal((5, D))).float()
    whole = steer_all(f, translator, texts, spaces, target_is=25.0)
    small = steer_all(f, translator, texts, spaces, target_is=25.0, block=1)
    for one, other in zip(whole, small, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    same(whole, f, translator, texts, spaces, target_is=25.0)


@pytest.mark.parametrize("close", [False, True])
def test_steering_takes_no_more_memory_than_its_block(held, close):
    rng = np.random.default_rng(15)
    spaces = HeadSpaces.from_weight(torch.tensor(rng.standard_normal((20, 60))))
    translator = Translator(*(torch.tensor(rng.standard_normal(s)) for s in ((15, 60), 15)))
    n = 60 if close else 600  # what is far too much for the block
    f = torch.tensor(rng.standard_normal((n, 60)))
    texts = torch.tensor(rng.standard_normal((20, 15)))
    if close:  # every pair is worked out by itself
        texts = translator(f[:1]) + 1e-3 * texts
        f = f[:1] + 1e-5 * f
    block = 30_000
    with held:
        steer_all(f, translator, texts, spaces, target_is=5.0, block=block)
    result = n * 20 * (4 * 8 + 1)
    fixed = 8 * (3 * 15 * 60 + 15 * 15 + 20 * 15)  # A and what it is made of, B, texts
    assert held.most < 2 * result + fixed + 8 * block  # twice: blocks, and what they are joined to
    assert held.most > result


def test_all_prompts_refuse_what_one_refuses(parts):
    _, spaces, translator, f, text = parts
    with pytest.raises(SingError, match="one of them"):
        steer_all(f, translator, text[None], spaces)
    with pytest.raises(SingError, match="between 0 and 180"):
        steer_all(f, translator, text[None], spaces, target_is=180.0)
    with pytest.raises(SingError, match="null space is empty"):
        steer_all(f, translator, text[None], HeadSpaces.from_weight(torch.eye(M)), step=1.0)
    with pytest.raises(SingError, match=rf"\(p, {D}\).*got \({D},\)"):
        steer_all(f, translator, text, spaces, step=1.0)
    with pytest.raises(SingError, match=f"reads {M} features"):
        steer_all(torch.ones(2, M + 1), translator, text[None], spaces, step=1.0)


def test_matched_removal_takes_the_given_length_from_the_given_subspace():
    rng = np.random.default_rng(3)
    f, energy = rng.standard_normal((8, M)), rng.uniform(0.1, 2, 8)
    basis = np.linalg.qr(rng.standard_normal((M, 4)))[0]
    left = matched_removal(torch.tensor(f), torch.tensor(energy), basis).numpy()
    taken = f - left
    np.testing.assert_allclose(np.linalg.norm(taken, axis=1), energy)
    np.testing.assert_allclose(taken, taken @ basis @ basis.T, atol=1e-12)
    # Only the length of the removed part changes, not where it points.
    own = f @ basis @ basis.T
    np.testing.assert_allclose(degrees(taken, own), 0, atol=1e-4)


def test_matched_removal_keeps_the_dtype():
    basis = np.eye(M)[:, :2]
    assert matched_removal(torch.ones(2, M).half(), torch.ones(2), basis).dtype == torch.float16


def test_step_and_target_exclude_each_other(parts):
    _, spaces, translator, f, text = parts
    for arguments in ({}, {"step": 1.0, "target_is": 10.0}):
        with pytest.raises(SingError, match="one of them"):
            steer(f, translator, text, spaces, **arguments)


@pytest.mark.parametrize("target", [0.0, -5.0, 180.0, 200.0])
def test_impossible_targets_are_refused(parts, target):
    _, spaces, translator, f, text = parts
    with pytest.raises(SingError, match="between 0 and 180"):
        steer(f, translator, text, spaces, target_is=target)


def test_an_empty_null_space_is_refused(parts):
    _, _, translator, f, text = parts
    square = HeadSpaces.from_weight(torch.eye(M))
    with pytest.raises(SingError, match="null space is empty"):
        steer(f, translator, text, square, target_is=10.0)


def test_features_of_another_classifier_are_refused(parts):
    _, spaces, translator, _, text = parts
    with pytest.raises(SingError, match=f"reads {M} features"):
        steer(torch.ones(2, M + 1), translator, text, spaces, target_is=10.0)


# --- pushes of one length -----------------------------------------------------------------------

NULL_KINDS = {"null part removed", "random null direction"}


def pushes_of(weight, f, sensitive=None, seed=0):
    spaces, wider = HeadSpaces.from_weight(weight), HeadSpaces.for_probabilities(weight)
    sensitive = weight[(f @ weight.T).argmax(1)] if sensitive is None else sensitive
    return {
        kind: delta.numpy()
        for kind, delta in matched_perturbations(f, sensitive, spaces, wider, seed).items()
    }


def test_pushes_are_as_long_as_the_null_part(parts):
    weight, _, _, f, _ = parts
    basis = np.linalg.svd(weight.numpy())[2][C:].T
    length = np.linalg.norm(f.numpy() @ basis, axis=1)
    found = pushes_of(weight, f)
    assert found.keys() == NULL_KINDS | {
        "common shift", "random direction", "principal direction"
    }
    for kind, delta in found.items():
        assert delta.dtype == np.float64
        np.testing.assert_allclose(np.linalg.norm(delta, axis=1), length, rtol=1e-6, err_msg=kind)


def test_null_pushes_lie_in_the_null_space_and_the_others_do_not(parts):
    weight, _, _, f, _ = parts
    for kind, delta in pushes_of(weight, f).items():
        moved = np.abs(delta @ weight.numpy().T).max(1)
        assert (moved < 1e-12).all() if kind in NULL_KINDS else (moved > 0.01).all(), kind


def test_the_null_part_is_taken_away_and_not_added(parts):
    weight, _, _, f, _ = parts
    basis = scipy.linalg.null_space(weight.numpy())
    delta = pushes_of(weight, f)["null part removed"]
    np.testing.assert_allclose(delta, -f.numpy() @ basis @ basis.T, atol=1e-12)
    np.testing.assert_allclose((f.numpy() + delta) @ basis, 0, atol=1e-12)


def test_the_random_null_direction_is_none_of_the_features(parts):
    weight, _, _, f, _ = parts
    found = pushes_of(weight, f)
    turn = degrees(found["random null direction"], found["null part removed"])
    assert ((turn > 5) & (turn < 175)).all()


def test_a_common_shift_moves_all_logits_by_one_number_and_no_probability(parts):
    weight, _, _, f, _ = parts
    delta = pushes_of(weight, f)["common shift"]
    moved = delta @ weight.numpy().T
    np.testing.assert_allclose(moved, moved[:, :1].repeat(C, axis=1), atol=1e-12)
    assert (np.abs(moved[:, 0]) > 0.1).all()
    # The shortest direction that does so is the least-squares answer to W v = 1.
    shortest = np.linalg.pinv(weight.numpy()) @ np.ones(C)
    np.testing.assert_allclose(
        np.abs(delta @ shortest), np.linalg.norm(delta, axis=1) * np.linalg.norm(shortest)
    )
    before, after = (scipy.special.softmax(v @ weight.numpy().T, axis=1)
                     for v in (f.numpy(), f.numpy() + delta))
    assert np.abs(after - before).max() < 1e-6
    centred = weight.numpy() - weight.numpy().mean(0)
    basis = scipy.linalg.null_space(centred)
    assert basis.shape[1] == M - C + 1
    np.testing.assert_allclose(delta @ basis @ basis.T, delta, atol=1e-12)


def test_pushes_of_a_real_head(lite0):
    weight = lite0.head.weight
    f = torch.randn(5, 1280, generator=torch.Generator().manual_seed(1)).abs()
    found = pushes_of(weight, f)
    right = np.linalg.svd(weight.double().numpy())[2]
    length = np.linalg.norm(f.double().numpy() @ right[1000:].T, axis=1)
    logits = f.double().numpy() @ weight.double().numpy().T
    for kind, delta in found.items():
        np.testing.assert_allclose(np.linalg.norm(delta, axis=1), length, rtol=1e-6, err_msg=kind)
        moved = delta @ weight.double().numpy().T
        if kind in NULL_KINDS:
            assert np.abs(moved).max() < 1e-10
        changed = np.abs(scipy.special.softmax(logits + moved, axis=1)
                         - scipy.special.softmax(logits, axis=1)).max(1)
        assert (changed < 1e-6).all() == (kind in NULL_KINDS | {"common shift"}), kind
    moved = found["common shift"] @ weight.double().numpy().T
    assert np.ptp(moved, axis=1).max() < 1e-8
    assert np.abs(moved).min() > 0.01


def test_without_a_common_shift_there_is_no_such_push():
    # Rank 3 of 7 classes: no direction of feature space moves all logits alike.
    rng = np.random.default_rng(5)
    weight = torch.tensor(rng.standard_normal((7, 3)) @ rng.standard_normal((3, M)))
    fitted = weight.numpy() @ np.linalg.pinv(weight.numpy(), rcond=1e-10) @ np.ones(7)
    assert np.abs(fitted - 1).max() > 0.1
    found = pushes_of(weight, torch.tensor(rng.standard_normal((4, M))))
    assert found.keys() == NULL_KINDS | {"random direction", "principal direction"}


def test_without_a_null_space_nothing_is_pushed_along_it():
    rng = np.random.default_rng(6)
    weight = torch.tensor(rng.standard_normal((20, M)))
    found = pushes_of(weight, torch.tensor(rng.standard_normal((4, M))))
    assert found.keys() == {"random direction", "principal direction"}
    assert all((delta == 0).all() for delta in found.values())  # as long as nothing


def test_the_principal_push_goes_against_the_sensitive_direction(parts):
    weight, _, _, f, _ = parts
    winner = (f.numpy() @ weight.numpy().T).argmax(1)
    against = -weight.numpy()[winner]
    delta = pushes_of(weight, f)["principal direction"]
    np.testing.assert_allclose(degrees(delta, against), 0, atol=1e-5)
    # No other direction of this length lowers the predicted logit as much.
    rows = np.arange(len(f))
    drop = (delta @ weight.numpy().T)[rows, winner]
    for other in pushes_of(weight, f).values():
        assert ((other @ weight.numpy().T)[rows, winner] >= drop - 1e-12).all()


def test_a_seed_decides_the_random_pushes_and_only_those(parts):
    weight, _, _, f, _ = parts
    torch.manual_seed(1)  # which the pushes must not ask
    one, again, other = (pushes_of(weight, f, seed=seed) for seed in (3, 3, 4))
    for kind in one:
        np.testing.assert_array_equal(one[kind], again[kind])
        same = np.allclose(np.abs(one[kind]), np.abs(other[kind]))
        assert same == (not kind.startswith("random")), kind


def test_random_directions_favour_no_direction():
    # Of an isotropic direction every coordinate has the mean square 1/M; the standard error of
    # the mean over 4000 rows is below 0.003.
    rng = np.random.default_rng(7)
    weight, f = torch.tensor(rng.standard_normal((C, M))), torch.tensor(
        rng.standard_normal((4000, M)))
    delta = pushes_of(weight, f)["random direction"]
    unit = delta / np.linalg.norm(delta, axis=1, keepdims=True)
    np.testing.assert_allclose(unit.T @ unit / len(f), np.eye(M) / M, atol=0.012)


