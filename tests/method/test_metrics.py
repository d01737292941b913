"""Angles and scores against NumPy's arc cosine, and where that loses its digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sing_nb.errors import SingError
from sing_nb.method.metrics import angle, attribute_score, match_length, pairwise_angle, scores


def by_arccos(a, b):
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(cosine))


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def test_angle_is_the_arc_cosine_of_the_cosine_and_broadcasts():
    a, b = drawn(1, 3, 1, 5), drawn(2, 1, 4, 5)
    found = angle(torch.tensor(a), torch.tensor(b))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, by_arccos(a, b), rtol=1e-9)


@pytest.mark.parametrize("degrees", [1e-7, 0.003, 0.03, 1.0, 179.99])
def test_small_and_flat_angles_survive_float32_input(degrees):
    turned = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    found = angle(torch.tensor([1.0, 0.0]), torch.tensor(turned, dtype=torch.float32))
    assert found.item() == pytest.approx(degrees, rel=1e-5)


def test_the_angle_of_a_zero_vector_is_nan():
    assert torch.isnan(angle(torch.zeros(3), torch.ones(3)))
    assert torch.isnan(pairwise_angle(torch.zeros(1, 3), torch.ones(1, 3)))


@pytest.mark.parametrize("other", [(2, 5), (3, 4), (4, 2), ()])
def test_vectors_that_do_not_go_together_are_refused(other):
    with pytest.raises(SingError, match="angle needs"):
        angle(torch.ones(2, 4), torch.ones(other))


SPOILED = {
    "a list": lambda x: x.tolist(), "a NumPy array": lambda x: x.numpy(),
    "complex": lambda x: x.to(torch.complex64), "truth values": lambda x: x > 0,
    "sparse": lambda x: x.to_sparse(), "without numbers": lambda x: x.to("meta")}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_what_is_no_tensor_of_real_numbers_is_refused(spoil):
    with pytest.raises(SingError, match="The vectors"):
        angle(spoil(torch.ones(2, 3)), torch.ones(2, 3))


def test_attribute_score_is_positive_towards_the_text():
    # z lies at 0 degrees, the text at 90, the equivalent at 45: 90 - 45 = +45; backwards -45.
    z, text = torch.tensor([[1.0, 0.0]]), torch.tensor([0.0, 1.0])
    half = torch.tensor([[2.0, 2.0]])
    assert attribute_score(z, half, text).item() == pytest.approx(45)
    assert attribute_score(half, z, text).item() == pytest.approx(-45)


def test_several_texts_are_paired_or_crossed_as_the_caller_says():
    # As many texts as pictures: nothing in the shapes tells which is meant.
    z, moved, texts = drawn(3, 3, 4, 6)
    rows = [torch.tensor(part) for part in (z, moved, texts)]
    np.testing.assert_allclose(
        attribute_score(*rows, paired=True), by_arccos(z, texts) - by_arccos(moved, texts))
    crossed = by_arccos(z[:, None], texts) - by_arccos(moved[:, None], texts)
    np.testing.assert_allclose(attribute_score(*rows, paired=False), crossed, atol=1e-9)
    with pytest.raises(SingError, match="paired=True"):
        attribute_score(*rows)
    one = attribute_score(*rows[:2], rows[2][:1])  # one text is meant for all
    np.testing.assert_allclose(one, crossed[:, 0], atol=1e-9)


def test_both_scores_of_many_moves_at_once():
    z, texts, moved = drawn(5, 6, 4), drawn(6, 6, 4), drawn(7, 3, 6, 4)
    found = scores(*(torch.tensor(part) for part in (z, moved, texts)))
    np.testing.assert_allclose(found.image_score, by_arccos(z, moved))
    np.testing.assert_allclose(
        found.attribute_score, by_arccos(z, texts) - by_arccos(moved, texts), atol=1e-9)


def test_all_pairs_are_those_of_angle():
    a, b = drawn(8, 30, 8) * 1e-12, drawn(9, 20, 8) * 1e12
    b[0], b[1] = a[0], -a[1] * 1e9
    found = pairwise_angle(torch.tensor(a), torch.tensor(b))
    expected = angle(torch.tensor(a)[:, None], torch.tensor(b))
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    apart = expected[2:, 2:]
    np.testing.assert_allclose(found[2:, 2:], apart, rtol=1e-12)
    with pytest.raises(SingError, match="All pairs need"):
        pairwise_angle(torch.ones(2, 3), torch.ones(3))


def test_matching_lengths_turns_nothing():
    # (3, 4) has length 5 and is asked for length 10.
    found = match_length(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, -10.0]]))
    np.testing.assert_allclose(found, [[6.0, 8.0]])
