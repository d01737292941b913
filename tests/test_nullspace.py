from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from sing_nb.errors import SingError
from sing_nb.nullspace import HeadSpaces


def head(c, m, values, seed=0):
    """A (c, m) head with the given singular values; the other ones are zero."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((c, len(values))))[0]
    right = np.linalg.qr(rng.standard_normal((m, len(values))))[0]
    return torch.tensor((left * values) @ right.T)


# Null space thinner than the principal space, thicker, empty (wide and tall), tall but deficient.
SHAPES = [(12, 15, 12), (4, 20, 4), (9, 9, 9), (30, 8, 8), (30, 8, 5), (10, 15, 7)]


@pytest.fixture(params=SHAPES, ids=lambda shape: "c{}-m{}-rank{}".format(*shape))
def case(request):
    c, m, rank = request.param
    weight = head(c, m, np.linspace(2, 1, rank))
    features = torch.tensor(np.random.default_rng(1).standard_normal((6, m)))
    return weight, HeadSpaces.from_weight(weight), features, rank


def test_rank_and_null_dimensions_add_up(case):
    weight, spaces, _, rank = case
    assert (spaces.rank, spaces.null_dim) == (rank, weight.shape[1] - rank)
    np.testing.assert_allclose(
        spaces.singular_values, np.linalg.svd(weight.numpy(), compute_uv=False), atol=1e-12
    )


def test_parts_are_scipys_projections(case):
    weight, spaces, f, _ = case
    basis = scipy.linalg.null_space(weight.numpy(), rcond=1e-10)
    null = f.numpy() @ basis @ basis.T
    np.testing.assert_allclose(spaces.null(f), null, atol=1e-12)
    np.testing.assert_allclose(spaces.principal(f), f.numpy() - null, atol=1e-12)
    np.testing.assert_allclose(spaces.remove_null(f), f.numpy() - null, atol=1e-12)


def test_logits_do_not_notice_the_null_part(case):
    weight, spaces, f, _ = case
    torch.testing.assert_close(spaces.remove_null(f) @ weight.T, f @ weight.T)
    assert (spaces.null(f) @ weight.T).abs().max() < 1e-12


def test_projections_are_idempotent_and_orthogonal(case):
    _, spaces, f, _ = case
    null, principal = spaces.null(f), spaces.principal(f)
    torch.testing.assert_close(spaces.null(null), null)
    torch.testing.assert_close(spaces.principal(principal), principal)
    assert spaces.null(principal).abs().max() < 1e-12
    assert (null * principal).sum(1).abs().max() < 1e-12


def test_null_share_is_pythagoras(case):
    weight, spaces, f, _ = case
    # What the row space explains by least squares is principal; the rest is the null share.
    rows = weight.numpy().T
    rest = f.numpy().T - rows @ np.linalg.lstsq(rows, f.numpy().T, rcond=1e-10)[0]
    share = (rest**2).sum(0) / (f.numpy() ** 2).sum(1)
    np.testing.assert_allclose(spaces.null_share(f), share, atol=1e-12)


def test_hand_worked_head():
    # W = [3 4] reads along (0.6, 0.8). f = (1, 2): the principal part is 2.2 (0.6, 0.8)
    # = (1.32, 1.76), the null part (-0.32, 0.24); W f = 11 = W principal.
    spaces = HeadSpaces.from_weight(torch.tensor([[3.0, 4.0]]))
    f = torch.tensor([[1.0, 2.0]])
    torch.testing.assert_close(spaces.principal(f), torch.tensor([[1.32, 1.76]]))
    torch.testing.assert_close(spaces.null(f), torch.tensor([[-0.32, 0.24]]))
    assert spaces.null_share(f).item() == pytest.approx((0.32**2 + 0.24**2) / 5)


def test_a_head_without_null_space_gives_zero_null_parts():
    spaces = HeadSpaces.from_weight(head(30, 8, np.linspace(2, 1, 8)))
    f = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert spaces.null_dim == 0
    assert torch.equal(spaces.null(f), torch.zeros_like(f))
    assert torch.equal(spaces.principal(f), f)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rounding_of_the_stored_dtype_does_not_hide_a_deficiency(dtype):
    stored = head(20, 50, np.linspace(2, 1, 19)).to(dtype)
    # Seen in float64 the rounding fills the rank up; the rule must know where it comes from.
    assert np.linalg.matrix_rank(stored.double().numpy()) == 20
    assert HeadSpaces.from_weight(stored).rank == 19
    assert HeadSpaces.from_weight(stored.double()).rank == 20


@pytest.mark.parametrize("factor", [1e-5, 1e5])
def test_rank_does_not_depend_on_the_scale_of_the_head(factor):
    weight = head(10, 16, np.linspace(2, 0.01, 9)).float()
    scaled = HeadSpaces.from_weight(weight * factor)
    assert scaled.rank == HeadSpaces.from_weight(weight).rank == 9


def test_tolerance_can_be_chosen():
    weight = head(3, 5, [1.0, 0.5, 0.01])
    spaces = HeadSpaces.from_weight(weight, rtol=0.1)
    assert spaces.rank == 2
    assert spaces.tolerance == pytest.approx(0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_parts_keep_the_dtype_of_the_features(dtype):
    spaces = HeadSpaces.from_weight(head(4, 9, [3, 2, 1, 1]).float())
    f = torch.ones(2, 9, dtype=dtype)
    for part in (spaces.null, spaces.principal, spaces.remove_null):
        assert part(f).dtype == dtype


@pytest.mark.parametrize(("c", "m"), [(4, 9), (9, 10)])
def test_parts_keep_the_device_of_the_features(c, m):
    spaces = HeadSpaces.from_weight(head(c, m, np.linspace(2, 1, c)))
    f = torch.ones(2, m, device="meta")
    assert spaces.null(f).device.type == spaces.principal(f).device.type == "meta"


def test_a_head_of_parameters_is_no_obstacle():
    layer = torch.nn.Linear(6, 3)
    f = torch.ones(2, 6)
    assert not HeadSpaces.from_weight(layer.weight).null(f).requires_grad


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_head_with_nan_or_infinity_is_refused(value):
    weight = torch.ones(2, 3)
    weight[1, 1] = value
    with pytest.raises(SingError, match="NaN or infinite"):
        HeadSpaces.from_weight(weight)


def test_a_convolution_that_is_not_flattened_is_refused():
    with pytest.raises(SingError, match=r"flatten"):
        HeadSpaces.from_weight(torch.ones(2, 3, 1, 1))


def test_a_zero_head_is_refused():
    with pytest.raises(SingError, match="zero"):
        HeadSpaces.from_weight(torch.zeros(2, 3))


def test_features_of_another_width_are_refused():
    spaces = HeadSpaces.from_weight(torch.ones(2, 3))
    for part in (spaces.null, spaces.principal, spaces.remove_null, spaces.null_share):
        with pytest.raises(SingError, match=r"reads 3 features; got \(5, 4\)"):
            part(torch.ones(5, 4))


# --- spaces of truncated heads ------------------------------------------------------------------


@pytest.mark.parametrize(("c", "m", "rank"), [(12, 15, 12), (12, 15, 5), (12, 15, 1), (30, 8, 3)])
def test_spaces_of_a_rank_are_those_of_the_best_approximation(c, m, rank):
    weight = head(c, m, np.linspace(3, 1, min(c, m))).numpy()
    left, values, right = np.linalg.svd(weight)
    cut = (left[:, :rank] * values[:rank]) @ right[:rank]
    spaces = HeadSpaces.from_svd(torch.tensor(values), torch.tensor(right), rank, tolerance=0.25)
    assert (spaces.rank, spaces.null_dim, spaces.features) == (rank, m - rank, m)
    assert spaces.tolerance == 0.25
    np.testing.assert_array_equal(spaces.singular_values, values)
    basis = scipy.linalg.null_space(cut, rcond=1e-10)
    f = np.random.default_rng(2).standard_normal((6, m))
    np.testing.assert_allclose(spaces.null(torch.tensor(f)), f @ basis @ basis.T, atol=1e-12)
    principal = spaces.principal(torch.tensor(f)).numpy()
    np.testing.assert_allclose(principal @ weight.T, f @ cut.T, atol=1e-12)


@pytest.mark.parametrize("rank", [-1, 0, 5])
def test_a_rank_that_no_head_of_this_size_has_is_refused(rank):
    _, values, right = torch.linalg.svd(head(4, 9, [4, 3, 2, 1]))
    with pytest.raises(SingError, match=f"between 1 and 4; got {rank}"):
        HeadSpaces.from_svd(values, right, rank)


# --- what leaves probabilities alone ------------------------------------------------------------


def with_shift(c, m, rank, seed=0):
    """A (c, m) head of the given rank whose columns span the vector of ones."""
    rng = np.random.default_rng(seed)
    columns = np.column_stack([np.ones(c), rng.standard_normal((c, rank - 1))])
    return torch.tensor(columns @ rng.standard_normal((rank, m)))


def without_shift(c, m, rank, seed=0):
    """A (c, m) head of the given rank whose columns do not span the vector of ones."""
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.standard_normal((c, rank)) @ rng.standard_normal((rank, m)))


@pytest.mark.parametrize(
    ("weight", "more"),
    [
        (with_shift(5, 9, 5), 1), (with_shift(7, 9, 4), 1), (with_shift(20, 6, 6), 1),
        (without_shift(7, 9, 4), 0), (without_shift(20, 6, 6), 0), (without_shift(20, 6, 3), 0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_probabilities_have_one_dimension_more_where_a_direction_shifts_all_logits(
    weight, more, dtype
):
    stored = weight.to(dtype)
    wider = HeadSpaces.for_probabilities(stored)
    assert wider.null_dim == HeadSpaces.from_weight(stored).null_dim + more
    centred = weight.numpy() - weight.numpy().mean(0)
    basis = scipy.linalg.null_space(centred, rcond=1e-5)
    f = torch.tensor(np.random.default_rng(3).standard_normal((6, weight.shape[1])))
    np.testing.assert_allclose(wider.null(f), f.numpy() @ basis @ basis.T, atol=1e-5)


def test_a_head_of_full_row_rank_always_has_a_common_shift():
    # Its columns span everything, the vector of ones included.
    weight = without_shift(5, 9, 5)
    assert HeadSpaces.for_probabilities(weight).null_dim == 9 - 5 + 1


def test_the_wider_space_of_a_real_head(lite0):
    weight = lite0.head.weight
    wider, narrow = HeadSpaces.for_probabilities(weight), HeadSpaces.from_weight(weight)
    assert (narrow.rank, narrow.null_dim) == (1000, 280)
    assert (wider.rank, wider.null_dim) == (999, 281)
    centred = weight.double().numpy() - weight.double().numpy().mean(0)
    assert np.linalg.matrix_rank(centred) == 999
    f = torch.randn(4, 1280, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(wider.null(f).numpy() @ centred.T, 0, atol=1e-10)
    # All of the narrow space lies in the wider one.
    np.testing.assert_allclose(wider.null(narrow.null(f)), narrow.null(f), atol=1e-10)
