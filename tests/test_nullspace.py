from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from sing_nb.errors import SingError
from sing_nb.method.nullspace import HeadSpaces, NearNullSpaces


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("c", "m", "rank"), [(300, 400, 300), (300, 400, 299), (400, 300, 299)])
def test_large_heads_in_half_precision_keep_their_rank(c, m, rank, dtype):
    # max(c, m) * eps alone would be 0.4 and 3 times the largest singular value.
    stored = head(c, m, np.linspace(2, 0.5, rank)).to(dtype)
    spaces = HeadSpaces.from_weight(stored)
    assert (spaces.rank, spaces.null_dim) == (rank, m - rank)
    assert HeadSpaces.for_probabilities(stored).rank in (rank, rank - 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_real_head_in_half_precision_keeps_its_rank(dtype, lite0):
    assert HeadSpaces.from_weight(lite0.head.weight.to(dtype)).rank == 1000
    assert HeadSpaces.for_probabilities(lite0.head.weight.to(dtype)).rank == 999


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_tolerance_of_half_precision_bounds_its_rounding(dtype):
    rng = np.random.default_rng(5)
    for scale in (1.0, 3e-6):  # the second lies below float16's normal numbers
        exact = torch.tensor(rng.standard_normal((120, 80)) * scale)
        stored = exact.to(dtype)
        error = np.linalg.norm((stored.double() - exact).numpy(), 2)
        assert error < HeadSpaces.from_weight(stored).tolerance < 3 * error


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("c", "m"), [(30, 8), (8, 8), (1000, 64)])
def test_without_null_space_features_are_their_own_equivalents(c, m, dtype):
    spaces = HeadSpaces.from_weight(head(c, m, np.linspace(2, 1, m)).to(dtype))
    f = torch.randn(3, m, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert (spaces.null_dim, spaces.has_null_space) == (0, False)
    for part in (spaces.remove_null(f), spaces.principal(f)):
        assert part.dtype == dtype
        assert torch.equal(part, f)
    assert torch.equal(spaces.null(f), torch.zeros_like(f))
    assert torch.equal(spaces.null_share(f), torch.zeros(3, dtype=torch.float64))
    assert "null space is empty" in spaces.describe()
    assert "near_null(energy)" in spaces.describe()


def test_a_head_with_a_null_space_says_how_large_it_is():
    spaces = HeadSpaces.from_weight(head(4, 9, [3, 2, 1, 1]))
    assert spaces.has_null_space
    assert "5 of 9 feature dimensions" in spaces.describe()


# --- the near-null space ------------------------------------------------------------------------


@pytest.mark.parametrize("energy", [0.001, 0.05, 0.3, 0.99])
@pytest.mark.parametrize(("c", "m", "rank"), [(30, 8, 8), (30, 8, 5), (6, 11, 6)])
def test_the_near_null_space_is_numpys(c, m, rank, energy):
    weight = head(c, m, np.geomspace(3, 0.1, rank))
    _, values, right = np.linalg.svd(weight.numpy())
    squares = np.zeros(m)
    squares[: len(values)] = values**2
    # As many of the smallest directions as hold at most that share of |W|_F^2.
    allowed = energy * (weight.numpy() ** 2).sum()
    dropped = max(k for k in range(m + 1) if squares[m - k:].sum() <= allowed + 1e-12)
    basis = right[m - dropped:].T

    near = HeadSpaces.from_weight(weight).near_null(energy)
    assert isinstance(near, NearNullSpaces)
    assert (near.near_null_dim, near.null_dim, near.features) == (dropped, m - rank, m)
    assert near.energy == energy
    assert near.share == pytest.approx(squares[m - dropped:].sum() / squares.sum(), abs=1e-12)
    assert near.share <= energy
    assert near.gain == pytest.approx(squares[m - dropped:].max(initial=0) ** 0.5, abs=1e-12)
    f = np.random.default_rng(1).standard_normal((6, m))
    part = f @ basis @ basis.T
    np.testing.assert_allclose(near.near_null(torch.tensor(f)), part, atol=1e-12)
    np.testing.assert_allclose(near.remove_near_null(torch.tensor(f)), f - part, atol=1e-12)
    np.testing.assert_allclose(
        near.near_null_share(torch.tensor(f)), (part**2).sum(1) / (f**2).sum(1), atol=1e-12
    )
    change = np.linalg.norm(part @ weight.numpy().T, axis=1)
    bound = near.logit_bound(torch.tensor(f)).numpy()
    assert (change <= bound + 1e-12).all()
    np.testing.assert_allclose(bound, near.gain * np.linalg.norm(part, axis=1), atol=1e-12)


def test_the_bound_on_the_logits_is_reached_along_the_largest_dropped_direction():
    weight = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5]))
    # Squares 9, 4, 1, 0.25 of 14.25: a tenth is 1.425, which the last two fill with 1.25.
    near = HeadSpaces.from_weight(weight).near_null(0.1)
    assert (near.near_null_dim, near.gain) == (2, pytest.approx(1.0))
    assert near.share == pytest.approx(1.25 / 14.25)
    f = torch.tensor([[5.0, 5.0, 2.0, 0.0], [5.0, 5.0, 0.0, 2.0]])
    change = (near.near_null(f) @ weight.T).norm(dim=1)
    torch.testing.assert_close(change, torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(near.logit_bound(f), torch.tensor([2.0, 2.0]).double())
    assert "2 of 4 feature dimensions" in near.describe()
    assert "0 of them are null" in near.describe()


def test_a_share_that_is_met_exactly_is_met():
    spaces = HeadSpaces.from_weight(torch.eye(10).double())
    assert [spaces.near_null(k / 10).near_null_dim for k in range(1, 10)] == list(range(1, 10))


def test_a_share_too_small_for_any_direction_gives_nothing_up():
    near = HeadSpaces.from_weight(torch.eye(4)).near_null(0.1)
    f = torch.randn(2, 4)
    assert (near.near_null_dim, near.share, near.gain) == (0, 0.0, 0.0)
    assert torch.equal(near.remove_near_null(f), f)
    assert torch.equal(near.logit_bound(f), torch.zeros(2).double())
    assert "ask for a larger share" in near.describe()


@pytest.mark.parametrize("energy", [0, 1, -0.1, 1.5, float("nan")])
def test_an_energy_that_is_no_share_is_refused(energy):
    with pytest.raises(SingError, match="between 0 and 1"):
        HeadSpaces.from_weight(torch.eye(3)).near_null(energy)
    with pytest.raises(TypeError):
        HeadSpaces.from_weight(torch.eye(3)).near_null()  # no default decides in silence


def test_nothing_near_null_answers_to_the_names_of_the_null_space():
    near = HeadSpaces.from_weight(torch.eye(3)).near_null(0.5)
    assert not any(hasattr(near, name) for name in ("null", "remove_null", "principal", "rank"))


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
