"""The two spaces of a head against SciPy's null space, in every shape, dtype and rank."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.linalg
import torch

from sing_nb.errors import SingError
from sing_nb.method.nullspace import HeadSpaces


def head(c, m, values, seed=0):
    """A (c, m) head with the given singular values; the other ones are zero."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((c, len(values))))[0]
    right = np.linalg.qr(rng.standard_normal((m, len(values))))[0]
    return torch.tensor((left * values) @ right.T)


def features(m, n=6, seed=1):
    return torch.tensor(np.random.default_rng(seed).standard_normal((n, m)))


# Null space thinner than the principal space, thicker, empty (wide and tall), tall but deficient.
SHAPES = [(12, 15, 12), (4, 20, 4), (9, 9, 9), (30, 8, 8), (30, 8, 5), (10, 15, 7)]


@pytest.fixture(params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def case(request):
    c, m, rank = request.param
    weight = head(c, m, np.linspace(3, 1, rank))
    return weight, HeadSpaces.from_weight(weight), features(m), rank


def test_parts_are_those_of_scipys_null_space(case):
    weight, spaces, f, rank = case
    basis = scipy.linalg.null_space(weight.numpy(), rcond=1e-10)
    assert (spaces.rank, spaces.null_dim) == (rank, basis.shape[1])
    null = f.numpy() @ basis @ basis.T
    np.testing.assert_allclose(spaces.null(f), null, atol=1e-12)
    np.testing.assert_allclose(spaces.principal(f), f.numpy() - null, atol=1e-12)
    np.testing.assert_allclose(spaces.remove_null(f), f.numpy() - null, atol=1e-12)
    np.testing.assert_allclose(spaces.null_share(f), (null**2).sum(1) / (f.numpy()**2).sum(1))
    np.testing.assert_allclose(spaces.remove_null(f) @ weight.T, f @ weight.T, atol=1e-12)


def test_no_square_matrix_is_kept_and_the_spaces_say_what_they_are():
    spaces = HeadSpaces.from_weight(head(10, 500, np.ones(10)))
    kept = [part for part in vars(spaces).values() if isinstance(part, torch.Tensor)]
    assert max(part.untyped_storage().nbytes() for part in kept) == 8 * 10 * 500
    assert repr(spaces) == "HeadSpaces(10 x 500, rank 10, null 490)"
    assert repr(HeadSpaces.from_weight(torch.ones(9, 4))) == "HeadSpaces(9 x 4, rank 1, null 3)"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_without_null_space_features_are_their_own_equivalents(dtype):
    spaces = HeadSpaces.from_weight(head(30, 8, np.linspace(2, 1, 8)).to(dtype))
    f = features(8).to(dtype)
    assert spaces.null_dim == 0
    assert torch.equal(spaces.principal(f), f)
    assert torch.equal(spaces.null(f), torch.zeros_like(f))
    assert torch.equal(spaces.null_share(f), torch.zeros(6, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_parts_keep_the_dtype_of_the_features(dtype):
    spaces = HeadSpaces.from_weight(torch.nn.Linear(9, 4).weight)  # a parameter
    for part in (spaces.null, spaces.principal, spaces.remove_null):
        found = part(torch.ones(2, 9, dtype=dtype))
        assert (found.dtype, found.requires_grad) == (dtype, False)


def test_features_of_nothing_and_none_at_all():
    spaces = HeadSpaces.from_weight(head(3, 6, [3, 2, 1]))
    zeros = torch.zeros(2, 6)
    assert spaces.null_share(zeros).tolist() == [0, 0]
    assert spaces.null(zeros[:0]).shape == (0, 6)
    assert spaces.null_share(torch.full((1, 6), torch.nan)).isnan().all()  # and not 0


# --- what counts as zero ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weak_rows_on_the_grid_of_half_precision_are_read(dtype):
    # Ten rows of fifty a 256th as large as the others, all of them exact in bfloat16: the model
    # multiplies by just these numbers, so all fifty directions are read.
    weight = torch.randn(50, 200, generator=torch.Generator().manual_seed(0))
    weight[:10] *= 2.0**-8
    stored = weight.bfloat16().to(dtype)
    spaces = HeadSpaces.from_weight(stored)
    assert (spaces.rank, spaces.null_dim) == (50, 150)
    f = features(200).float()
    change = (spaces.remove_null(f) - f).double() @ stored.double().T
    assert change.abs().max() < 1e-5
    assert HeadSpaces.for_probabilities(stored).rank == 49


def test_a_deficiency_survives_the_rounding_of_float32():
    stored = head(20, 50, np.linspace(2, 1, 19)).float()
    # Seen in float64 the rounding fills the rank up; the rule must know where it comes from.
    assert np.linalg.matrix_rank(stored.double().numpy()) == 20
    assert HeadSpaces.from_weight(stored).rank == 19
    assert HeadSpaces.from_weight(stored.double()).rank == 20


@pytest.mark.parametrize(("factor", "dtype"), [
    (1e-30, torch.float32), (1e30, torch.float32), (1e300, torch.float64)])
def test_rank_does_not_depend_on_the_scale_of_the_head(factor, dtype):
    weight = head(10, 16, np.linspace(2, 0.01, 9)).to(dtype)
    assert HeadSpaces.from_weight(weight * factor).rank == 9


def test_tolerance_can_be_chosen():
    weight = head(3, 5, [1.0, 0.5, 0.01])
    spaces = HeadSpaces.from_weight(weight, rtol=0.1)
    assert (spaces.rank, spaces.tolerance) == (2, pytest.approx(0.1))
    for rtol in (-1, 1, float("nan"), "small"):
        with pytest.raises(SingError, match="tolerance is a share"):
            HeadSpaces.from_weight(weight, rtol=rtol)


@pytest.mark.parametrize(("weight", "said"), [
    (torch.full((2, 3), torch.nan), "NaN or infinite"), (torch.ones(2, 3) / 0, "NaN or infinite"),
    (torch.zeros(2, 3), "weight is zero"), (torch.ones(2, 3, 1, 1), "flatten"),
    (torch.ones(0, 3), "at least one"), (torch.ones(2, 3).to("meta"), "weights of a head"),
    ([[1.0, 2.0]], "weights of a head")])
def test_heads_that_are_none_are_refused(weight, said):
    for make in (HeadSpaces.from_weight, HeadSpaces.for_probabilities):
        with pytest.raises(SingError, match=said):
            make(weight)


def test_features_of_another_classifier_are_refused():
    spaces = HeadSpaces.from_weight(torch.ones(2, 3))
    for part in (spaces.null, spaces.principal, spaces.remove_null, spaces.null_share):
        with pytest.raises(SingError, match=r"reads 3 features; got \(5, 4\)"):
            part(torch.ones(5, 4))
    with pytest.raises(SingError, match=r"int64.*float"):  # parts would be cut off to whole numbers
        spaces.null(torch.ones(5, 3).long())


# --- near-null and truncated heads --------------------------------------------------------------


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
    assert near.null_dim == dropped
    f = features(m)
    part = f.numpy() @ basis @ basis.T
    np.testing.assert_allclose(near.null(f), part, atol=1e-12)
    if near.rank < len(values):
        change = np.linalg.norm(part @ weight.numpy().T, axis=1)
        bound = float(near.singular_values[near.rank]) * np.linalg.norm(part, axis=1)
        assert (change <= bound + 1e-12).all()


def test_a_share_that_is_met_exactly_is_met():
    spaces = HeadSpaces.from_weight(torch.eye(10).double())
    assert [spaces.near_null(k / 10).null_dim for k in range(1, 10)] == list(range(1, 10))


@pytest.mark.parametrize("energy", [0, 1, -0.1, float("nan")])
def test_an_energy_that_is_no_share_is_refused(energy):
    with pytest.raises(SingError, match="between 0 and 1"):
        HeadSpaces.from_weight(torch.eye(3)).near_null(energy)


@pytest.mark.parametrize(("c", "m", "rank"), [(12, 15, 12), (12, 15, 5), (12, 15, 1), (30, 8, 3)])
def test_spaces_of_a_rank_are_those_of_the_best_approximation(c, m, rank):
    weight = head(c, m, np.linspace(3, 1, min(c, m))).numpy()
    left, values, right = np.linalg.svd(weight)
    cut = (left[:, :rank] * values[:rank]) @ right[:rank]
    basis = scipy.linalg.null_space(cut, rcond=1e-10)
    f = features(m)
    for spaces in (HeadSpaces.from_weight(torch.tensor(weight)).truncated(rank),
                   HeadSpaces.from_svd(torch.tensor(values), torch.tensor(right), rank)):
        assert (spaces.rank, spaces.null_dim) == (rank, m - rank)
        np.testing.assert_allclose(spaces.null(f), f.numpy() @ basis @ basis.T, atol=1e-12)
    with pytest.raises(SingError, match=f"between 1 and {min(c, m)}; got 0"):
        spaces.truncated(0)


# --- what leaves probabilities alone ------------------------------------------------------------


def of_rank(c, m, rank, shift):
    """A (c, m) head of a rank whose columns span the vector of ones, or do not."""
    columns = np.random.default_rng(0).standard_normal((c, rank))
    if shift:
        columns[:, 0] = 1
    return torch.tensor(columns @ np.random.default_rng(1).standard_normal((rank, m)))


@pytest.mark.parametrize(("weight", "more"), [
    (of_rank(5, 9, 5, True), 1), (of_rank(7, 9, 4, True), 1), (of_rank(20, 6, 6, True), 1),
    (of_rank(5, 9, 5, False), 1),  # of full row rank: its columns span everything
    (of_rank(7, 9, 4, False), 0), (of_rank(20, 6, 6, False), 0), (of_rank(20, 6, 3, False), 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_have_one_more_dimension_where_a_direction_shifts_all_logits(
    weight, more, dtype
):
    wider = HeadSpaces.for_probabilities(weight.to(dtype))
    assert wider.null_dim == HeadSpaces.from_weight(weight.to(dtype)).null_dim + more
    basis = scipy.linalg.null_space(weight.numpy() - weight.numpy().mean(0), rcond=1e-5)
    f = features(weight.shape[1])
    np.testing.assert_allclose(wider.null(f), f.numpy() @ basis @ basis.T, atol=1e-5)


def test_saved_spaces_come_back_exactly_and_other_files_are_refused(tmp_path):
    f, path = features(15), tmp_path / "new" / "s.safetensors"
    for one in (HeadSpaces.from_weight(head(12, 15, np.linspace(3, 1, 9))).truncated(5),
                HeadSpaces.for_probabilities(head(12, 15, np.linspace(3, 1, 12)))):
        found = HeadSpaces.load(dataclasses.replace(one, card={"model": "tiny"}).save(path))
        assert (repr(found), found.card, found.tolerance) == (
            repr(one), {"model": "tiny"}, one.tolerance)
        assert torch.equal(found.null(f), one.null(f))
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    for bad in (bytes(content), content[:-4], b"text"):
        path.write_bytes(bad)
        with pytest.raises(SingError, match="safetensors"):
            HeadSpaces.load(path)
