from __future__ import annotations

import numpy as np
import pytest
import torch

from sing_nb.errors import SingError
from sing_nb.metrics import angle, attribute_score, image_score, match_length


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
