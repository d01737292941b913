from __future__ import annotations

import numpy as np
import pytest
import torch

from sing_nb.errors import SingError
from sing_nb.method.metrics import (
    angle,
    attribute_score,
    attribute_scores,
    image_score,
    match_length,
    pairwise_angle,
)


def by_arccos(a, b):
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(cosine))


def test_angle_is_the_arc_cosine_of_the_cosine():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 50, 7))
    found = angle(torch.tensor(a), torch.tensor(b)).numpy()
    np.testing.assert_allclose(found, by_arccos(a, b), rtol=1e-9)


@pytest.mark.parametrize("degrees", [0.003, 0.01, 0.03, 1.0, 179.99])
def test_small_and_flat_angles_survive_float32_input(degrees):
    turned = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    found = angle(torch.tensor([1.0, 0.0]), torch.tensor(turned, dtype=torch.float32))
    assert found.item() == pytest.approx(degrees, rel=1e-5)


def test_angle_does_not_depend_on_length():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([-4.0, 3.0])
    assert angle(a * 1e-20, b * 1e20).item() == pytest.approx(90)


def test_angle_is_given_in_float64():
    assert angle(torch.ones(2).half(), torch.tensor([0.0, 1.0]).half()).dtype == torch.float64


def test_opposite_vectors_are_180_degrees_apart():
    a = torch.tensor([1.0, 2.0, -3.0])
    assert angle(a, -2 * a).item() == pytest.approx(180)


def test_angles_broadcast():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((3, 1, 5)), rng.standard_normal((1, 4, 5))
    found = angle(torch.tensor(a), torch.tensor(b)).numpy()
    assert found.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            assert found[i, j] == pytest.approx(by_arccos(a[i, 0], b[0, j]))


def test_angle_to_a_zero_vector_is_nan():
    assert torch.isnan(angle(torch.zeros(3), torch.ones(3)))


def test_vectors_of_other_lengths_are_refused():
    with pytest.raises(SingError, match=r"\(2, 3\).*\(2, 4\)"):
        angle(torch.ones(2, 3), torch.ones(2, 4))


def test_attribute_score_is_positive_towards_the_text():
    # z lies at 0 degrees, the text at 90, the equivalent at 45: 90 - 45 = +45; backwards -45.
    z, text = torch.tensor([[1.0, 0.0]]), torch.tensor([0.0, 1.0])
    half = torch.tensor([[2.0, 2.0]])
    assert attribute_score(z, half, text).item() == pytest.approx(45)
    assert attribute_score(half, z, text).item() == pytest.approx(-45)


def test_attribute_score_of_several_prompts_a_picture():
    rng = np.random.default_rng(2)
    z, moved, text = (rng.standard_normal(s) for s in ((3, 1, 6), (3, 1, 6), (3, 4, 6)))
    found = attribute_score(*map(torch.tensor, (z, moved, text))).numpy()
    np.testing.assert_allclose(found, by_arccos(z, text) - by_arccos(moved, text), atol=1e-9)


def test_image_score_is_symmetric_and_zero_for_no_change():
    rng = np.random.default_rng(3)
    z, moved = (torch.tensor(v) for v in rng.standard_normal((2, 9, 5)))
    assert torch.equal(image_score(z, moved), image_score(moved, z))
    np.testing.assert_allclose(image_score(z, moved), by_arccos(z.numpy(), moved.numpy()))
    assert (image_score(z, z) == 0).all()


def test_hand_worked_length():
    # (3, 4) has length 5 and is asked for length 10.
    found = match_length(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, -10.0]]))
    np.testing.assert_allclose(found, [[6.0, 8.0]])


def test_matching_lengths_turns_nothing():
    z_tilde, z = torch.tensor(np.random.default_rng(5).standard_normal((2, 40, 9)))
    found = match_length(z_tilde, z).numpy()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(z, axis=1), rtol=1e-12)
    before, after = by_arccos(z_tilde.numpy(), z.numpy()), by_arccos(found, z.numpy())
    np.testing.assert_allclose(after, before, atol=1e-6)


# --- all pairs ----------------------------------------------------------------------------------


def test_all_pairs_are_the_arc_cosine_of_numpy():
    rng = np.random.default_rng(11)
    a, b = rng.standard_normal((30, 8)) * 1e-12, rng.standard_normal((20, 8)) * 1e12
    found = pairwise_angle(torch.tensor(a), torch.tensor(b)).numpy()
    np.testing.assert_allclose(found, by_arccos(a[:, None], b[None]), rtol=1e-12)


def test_pairs_near_0_and_180_degrees_keep_their_digits():
    # In the plane the angle is known: from 1e-7 degrees, which an arc cosine cannot see, across
    # the change from one formula to the other at 0.81 degrees.
    turn = np.concatenate([np.geomspace(1e-7, 20, 400), 180 - np.geomspace(1e-7, 20, 400)])
    vectors = np.stack([np.cos(np.radians(turn)), np.sin(np.radians(turn))], 1)
    start = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    found = pairwise_angle(start, torch.tensor(vectors) * 3).numpy()[0]
    np.testing.assert_allclose(found[:400], turn[:400], rtol=1e-10)
    np.testing.assert_allclose(found[400:], turn[400:], atol=1e-10)


def test_all_pairs_agree_with_angle():
    rng = np.random.default_rng(12)
    a = torch.tensor(rng.standard_normal((40, 100)))
    near = a + torch.logspace(-9, 1, 40, dtype=torch.float64)[:, None] * torch.tensor(
        rng.standard_normal((40, 100)))
    b = torch.cat([a, -2 * a, near, -near])
    found, expected = pairwise_angle(a, b), angle(a[:, None], b[None])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert (found.diagonal() == 0).all()
    assert (found[:, 40:].diagonal() == 180).all()


def test_small_angles_of_float32_pairs_survive():
    turned = np.array([[np.cos(np.radians(0.003)), np.sin(np.radians(0.003))]])
    found = pairwise_angle(torch.tensor([[1.0, 0.0]]), torch.tensor(turned, dtype=torch.float32))
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(0.003, rel=1e-5)


def test_pairs_with_a_zero_vector_are_nan_and_no_others():
    a, b = torch.eye(3), torch.eye(3)
    a[1], b[2] = 0, 0
    expected = np.array([[0, 90, np.nan], [np.nan] * 3, [90, 90, np.nan]])
    np.testing.assert_array_equal(pairwise_angle(a, b), expected)


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((2, 3), (3,)), ((2, 1, 3), (4, 3))])
def test_pairs_of_other_shapes_are_refused(shapes):
    a, b = map(torch.ones, shapes)
    with pytest.raises(SingError, match=r"two matrices of one width.*got \(2, "):
        pairwise_angle(a, b)


@pytest.mark.parametrize("steep", [False, True])
def test_pairs_take_no_more_memory_than_their_block(held, steep):
    rng = np.random.default_rng(13)
    n = 60 if steep else 600  # what is far too much for the block
    a, b = (torch.tensor(rng.standard_normal((rows, 50))) for rows in (n, 40))
    if steep:  # every pair by the exact formula, the worst case
        a, b = a[:1] + 1e-6 * a, a[:1] + 1e-6 * b
    whole = pairwise_angle(a, b)
    with held:
        found = pairwise_angle(a, b, block=6400)
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-12)
    assert (whole.max() < 0.1) == steep
    beside = (n * 40 + 40 * 50) * 8  # the result, and b at unit length
    assert beside < held.most < beside + 6400 * 8


def test_one_vector_a_pair_would_take_more(held):
    a, b = torch.ones(60, 50), torch.ones(40, 50)
    with held:
        angle(a[:, None], b[None])
    assert held.most > 60 * 40 * 50 * 8


def test_a_block_of_one_number_gives_the_same():
    rng = np.random.default_rng(14)
    a, b = (torch.tensor(rng.standard_normal((rows, 5))) for rows in (7, 4))
    np.testing.assert_allclose(pairwise_angle(a, b, block=1), angle(a[:, None], b[None]))
    assert pairwise_angle(a[:0], b).shape == (0, 4)


def test_attribute_scores_towards_all_prompts():
    rng = np.random.default_rng(15)
    z, moved, texts = (rng.standard_normal((rows, 6)) for rows in (9, 9, 4))
    found = attribute_scores(*map(torch.tensor, (z, moved, texts))).numpy()
    assert found.shape == (9, 4)
    expected = by_arccos(z[:, None], texts) - by_arccos(moved[:, None], texts)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    each = [attribute_score(*map(torch.tensor, (z, moved, text))).numpy() for text in texts]
    np.testing.assert_allclose(found, np.stack(each, 1), atol=1e-10)
