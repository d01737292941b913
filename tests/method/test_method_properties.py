"""What holds for every head, angle, translator and push: searched by hypothesis."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis")

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.extra import numpy as hnp

from sing_nb.method.metrics import angle, attribute_score, image_score, pairwise_angle, scores
from sing_nb.method.nullspace import HeadSpaces
from sing_nb.method.steer import null_direction, random_basis, steer, steer_all
from sing_nb.method.translator import Translator


@pytest.fixture(scope="module", autouse=True)
def _no_folder_in_the_checkout(tmp_path_factory):
    set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


def examples(count):
    """The same examples in every run, however slow the machine."""
    return settings(derandomize=True, deadline=None, database=None, max_examples=count)


SEEDS = st.integers(0, 2**32 - 1)
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16])


def normal(seed, *shape):
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


@st.composite
def heads(draw, null=False):
    """A (c, m) head of any rank, with doubled rows, as stored in any type."""
    c, m = draw(st.integers(1, 12)), draw(st.integers(2, 16))
    if null:
        c = min(c, m - 1)
    rank = draw(st.integers(1, min(c, m)))
    seed, dtype = draw(SEEDS), draw(DTYPES)
    # float16 ends at 65504 and loses digits below 6e-5.
    power = draw(st.integers(-2, 2) if dtype == torch.float16 else st.integers(-6, 6))
    left, right = normal(seed, c, rank), normal(seed + 1, rank, m)
    if draw(st.booleans()) and c > 1:
        left[c // 2 :] = left[: c - c // 2].clone()
    return (10.0**power * left @ right).to(dtype)


@st.composite
def features(draw, m, rows=5):
    power, dtype = draw(st.integers(-6, 6)), draw(st.sampled_from([torch.float64, torch.float32]))
    return (10.0**power * normal(draw(SEEDS), rows, m)).to(dtype)


def rounding(f):
    """Rounding of rows in their own type, (n, 1)."""
    return 20 * torch.finfo(f.dtype).eps * f.double().norm(dim=1, keepdim=True)


# --- the two spaces of a head -------------------------------------------------------------------


@examples(80)
@given(st.data())
def test_the_parts_of_a_feature_are_projections(data):
    spaces = HeadSpaces.from_weight(data.draw(heads()))
    f = data.draw(features(spaces.features))
    null, principal = spaces.null(f), spaces.principal(f)
    for rest in (
        null + principal - f, spaces.null(null) - null, spaces.principal(principal) - principal,
        spaces.null(principal), spaces.principal(null),
    ):
        assert (rest.double().abs() <= rounding(f)).all()
    # Orthogonal: lengths by Pythagoras.
    square = f.double().norm(dim=1) ** 2
    both = null.double().norm(dim=1) ** 2 + principal.double().norm(dim=1) ** 2
    assert ((both - square).abs() <= 1e-5 * square).all()
    share = spaces.null_share(f)
    assert ((share >= 0) & (share <= 1 + 1e-12)).all()


@examples(80)
@given(st.data())
def test_logits_notice_principal_directions_and_no_null_one(data):
    weight = data.draw(heads())
    spaces = HeadSpaces.from_weight(weight)
    assert spaces.rank + spaces.null_dim == weight.shape[1]
    stored, top = weight.double(), float(spaces.singular_values[0])
    # What counts as zero is at most the tolerance; the rest is rounding of the SVD.
    bound = spaces.tolerance + 1e-13 * top * max(weight.shape)
    if spaces.null_dim:
        mixed = normal(data.draw(SEEDS), spaces.null_dim, 4)
        directions = spaces.null_basis @ (mixed / mixed.norm(dim=0))
        assert (stored @ directions).norm(dim=0).max() <= bound
    f = data.draw(features(spaces.features)).double()
    change = (spaces.remove_null(f) - f) @ stored.T
    assert (change.norm(dim=1) <= bound * f.norm(dim=1)).all()
    seen = (stored @ spaces.principal_basis).norm(dim=0)
    assert seen.min() >= spaces.singular_values[spaces.rank - 1] - bound


@examples(40)
@given(heads(), st.integers(-30, 30), st.booleans())
def test_spaces_depend_on_neither_the_unit_nor_the_order_of_classes(weight, power, double):
    # In float64: a smaller type would lose digits or end; powers of two round nothing.
    weight = weight.double()
    assert HeadSpaces.from_weight(2.0**power * weight).rank == HeadSpaces.from_weight(weight).rank
    rows = torch.cat([weight, weight]) if double else weight.flip(0)
    more = HeadSpaces.from_weight(rows, rtol=1e-9)
    less = HeadSpaces.from_weight(weight, rtol=1e-9)
    assert more.rank == less.rank == np.linalg.matrix_rank(weight.numpy(), rtol=1e-9)
    f = normal(0, 4, weight.shape[1])
    torch.testing.assert_close(more.null(f), less.null(f), rtol=0, atol=1e-6)


# --- angles and scores --------------------------------------------------------------------------

# Vectors whose squares neither overflow nor vanish.
COORDINATES = st.floats(-1e60, 1e60).map(lambda x: 0.0 if abs(x) < 1e-60 else x)
SCALES = st.floats(1e-60, 1e60)


@st.composite
def vectors(draw, count):
    d = draw(st.integers(1, 6))
    found = draw(hnp.arrays(np.float64, (count, d), elements=COORDINATES))
    assume((np.linalg.norm(found, axis=1) > 0).all())
    return torch.tensor(found)


@examples(150)
@given(vectors(3), SCALES, SCALES)
def test_angles_are_symmetric_scale_free_and_a_distance(rows, s, t):
    a, b, c = rows
    found = angle(a, b)
    assert 0 <= found <= 180
    assert found == angle(b, a)
    assert angle(s * a, t * b) == pytest.approx(float(found), abs=1e-9)
    assert angle(a, -b) == pytest.approx(180 - float(found), abs=1e-9)
    assert angle(a, c) <= found + angle(b, c) + 1e-9
    torch.testing.assert_close(
        pairwise_angle(rows, rows), angle(rows[:, None], rows[None]), rtol=0, atol=1e-5)


@examples(60)
@given(st.integers(2, 8), SEEDS)
def test_angles_do_not_depend_on_the_axes(d, seed):
    a, b = normal(seed, d), normal(seed + 1, d)
    turn = torch.tensor(random_basis(d, d, seed))
    assert angle(turn @ a, turn @ b) == pytest.approx(float(angle(a, b)), abs=1e-9)


@examples(100)
@given(vectors(3))
def test_scores_have_their_signs_and_bounds(rows):
    z, moved, text = rows
    image, attribute = scores(z, moved, text)
    assert (image, attribute) == (image_score(z, moved), attribute_score(z, moved, text))
    # Nobody comes closer to a text than by as much as it moved.
    assert abs(attribute) <= image + 1e-9
    assert attribute == -attribute_score(moved, z, text)
    assert attribute_score(z, text, text) >= 0  # who went to the text came closer
    assert attribute_score(z, z, text) == 0
    crossed = attribute_score(z[None], moved[None], text[None], paired=False)
    assert crossed == pytest.approx(float(attribute), abs=1e-5)


# --- translators --------------------------------------------------------------------------------


@st.composite
def translators(draw, m):
    d, seed, power = draw(st.integers(2, 6)), draw(SEEDS), draw(st.integers(-4, 4))
    return Translator((10.0**power * normal(seed, d, m)).float(), normal(seed + 1, d).float())


# --- steering -----------------------------------------------------------------------------------


@examples(60)
@given(st.data(), heads(null=True), st.floats(0.5, 120))
def test_steering_reaches_its_target_or_says_how_far_it_can(data, weight, target):
    spaces = HeadSpaces.from_weight(weight.double())
    translate, seed = data.draw(translators(spaces.features)), data.draw(SEEDS)
    f, text = normal(seed, 3, spaces.features), normal(seed + 1, len(translate.weight))
    found = steer(f, translate, text, spaces, target_is=target)
    z, moved = translate(f), translate(found.features)
    for at in range(3):
        if found.reachable[at]:
            assert found.limit[at] > target
            # By the features that came out, not by the numbers beside them.
            assert image_score(z[at], moved[at]) == pytest.approx(target, abs=1e-4)
            assert found.image_score[at] == pytest.approx(target, abs=1e-6)
        else:
            assert not found.limit[at] > target
            assert torch.equal(found.features[at], f[at])
    # No logit moves further than the step, times what counts as zero.
    step = found.step.nan_to_num(0).abs()
    change = ((found.features - f) @ weight.double().T).norm(dim=1)
    size = float(spaces.singular_values[0])
    assert (change <= (spaces.tolerance + 1e-12 * size) * (step + f.norm(dim=1))).all()


@examples(30)
@given(st.data(), heads(null=True))
def test_a_small_step_towards_a_text_comes_closer_to_it(data, weight):
    spaces = HeadSpaces.from_weight(weight.double())
    translate, seed = data.draw(translators(spaces.features)), data.draw(SEEDS)
    f, texts = normal(seed, 3, spaces.features), normal(seed + 1, 2, len(translate.weight))
    length = 1e-4 / (1 + float(translate.weight.abs().sum()))
    every = steer_all(f, translate, texts, spaces, step=length)
    for at, text in enumerate(texts):
        one = steer(f, translate, text, spaces, step=length)
        assert (one.attribute_score >= -1e-9).all()
        torch.testing.assert_close(every.image_score[:, at], one.image_score, rtol=1e-4, atol=1e-7)
        direction = null_direction(f, translate, text, spaces)
        assert ((direction.norm(dim=1) - 1).abs() < 1e-9).all()
