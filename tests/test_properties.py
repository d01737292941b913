"""What holds for every head, angle, translator, file and name: searched by hypothesis."""

from __future__ import annotations

import json
import math
import string

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.extra import numpy as hnp

from sing_nb.checks.intervals import random_basis
from sing_nb.errors import SingError
from sing_nb.method.metrics import (
    angle,
    attribute_score,
    attribute_scores,
    image_score,
    pairwise_angle,
)
from sing_nb.method.nullspace import HeadSpaces
from sing_nb.method.steer import null_direction, steer, steer_all
from sing_nb.method.translator import RidgeFitter, Translator
from sing_nb.models.prompts import complete_prompt
from sing_nb.pictures import cards
from sing_nb.pictures.cache import content_key, keep, kept
from sing_nb.pictures.fetch import slug, write_atomic
from sing_nb.study.profile import Profile, cast, load_profile


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


def eps(f):
    """Rounding of rows in their own type, (n, 1)."""
    return 20 * torch.finfo(f.dtype).eps * f.double().norm(dim=1, keepdim=True)


# --- the two spaces of a head -------------------------------------------------------------------


@examples(80)
@given(st.data())
def test_the_parts_of_a_feature_are_projections(data):
    spaces = HeadSpaces.from_weight(data.draw(heads()))
    f = data.draw(features(spaces.features))
    null, principal = spaces.null(f), spaces.principal(f)
    assert null.dtype == principal.dtype == f.dtype
    for rest in (
        null + principal - f, spaces.null(null) - null, spaces.principal(principal) - principal,
        spaces.null(principal), spaces.principal(null),
    ):
        assert (rest.double().abs() <= eps(f)).all()
    # Orthogonal: lengths by Pythagoras, shares that add up.
    square = f.double().norm(dim=1) ** 2
    both = null.double().norm(dim=1) ** 2 + principal.double().norm(dim=1) ** 2
    assert ((both - square).abs() <= 1e-5 * square).all()
    share = spaces.null_share(f)
    assert (share >= 0).all()
    assert (share <= 1 + 1e-12).all()
    # Linear.
    g = f.flip(0)
    assert ((spaces.null(2 * f - g) - 2 * null + spaces.null(g)).double().abs()
            <= 3 * eps(f).max()).all()


@examples(80)
@given(st.data())
def test_logits_do_not_notice_any_null_direction(data):
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
    # And a principal direction is noticed, by the least singular value that counts.
    seen = spaces.right[: spaces.rank].T
    assert (stored @ seen).norm(dim=0).min() >= spaces.singular_values[spaces.rank - 1] - bound


@examples(40)
@given(heads(), st.integers(-30, 30), st.booleans())
def test_spaces_depend_on_neither_the_unit_nor_the_order_of_classes(weight, power, double):
    # In float64: a smaller type would lose digits or end; powers of two round nothing.
    weight = weight.double()
    one = HeadSpaces.from_weight(weight)
    other = HeadSpaces.from_weight(2.0**power * weight)
    assert one.rank == other.rank
    rows = torch.cat([weight, weight]) if double else weight.flip(0)
    more = HeadSpaces.from_weight(rows, rtol=1e-9)
    less = HeadSpaces.from_weight(weight, rtol=1e-9)
    assert more.rank == less.rank == np.linalg.matrix_rank(weight.numpy(), rtol=1e-9)
    f = normal(0, 4, weight.shape[1])
    torch.testing.assert_close(more.null(f), less.null(f), rtol=0, atol=1e-6)


@examples(40)
@given(heads(), st.floats(1e-6, 1 - 1e-6))
def test_what_a_near_null_space_gives_up_is_bounded(weight, energy):
    weight = weight.double()
    spaces = HeadSpaces.from_weight(weight)
    near, f = spaces.near_null(energy), normal(1, 5, weight.shape[1])
    assert 0 <= near.share <= energy * (1 + 1e-9)
    assert near.near_null_dim >= spaces.null_dim
    change = ((near.remove_near_null(f) - f) @ weight.T).norm(dim=1)
    top = float(spaces.singular_values[0])
    assert (change <= near.logit_bound(f) + (spaces.tolerance + 1e-12 * top) * f.norm(dim=1)).all()


@examples(40)
@given(st.integers(1, 20), st.data(), SEEDS)
def test_a_random_control_is_a_subspace_of_the_asked_size(m, data, seed):
    size = data.draw(st.integers(1, m))
    basis = random_basis(m, size, seed)
    assert basis.shape == (m, size)
    np.testing.assert_allclose(basis.T @ basis, np.eye(size), atol=1e-12)
    np.testing.assert_array_equal(basis, random_basis(m, size, seed))


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
    assert angle(a, t * a) == pytest.approx(0, abs=1e-9)
    assert angle(a, c) <= found + angle(b, c) + 1e-9
    torch.testing.assert_close(
        pairwise_angle(rows, rows), angle(rows[:, None], rows[None]), rtol=0, atol=1e-9)


@examples(60)
@given(st.integers(2, 8), SEEDS, st.floats(-1, 1))
def test_angles_are_numpys_and_do_not_depend_on_the_axes(d, seed, mix):
    a, b = normal(seed, d), normal(seed + 1, d)
    b = mix * a + (1 - abs(mix)) * b
    cosine = float(a @ b / a.norm() / b.norm())
    assume(abs(cosine) < 0.999)
    assert angle(a, b) == pytest.approx(np.degrees(np.arccos(cosine)), abs=1e-9)
    turn = torch.tensor(random_basis(d, d, seed))
    assert angle(turn @ a, turn @ b) == pytest.approx(float(angle(a, b)), abs=1e-9)


@examples(100)
@given(vectors(3))
def test_scores_have_their_signs_and_bounds(rows):
    z, moved, text = rows
    attribute, image = attribute_score(z, moved, text), image_score(z, moved)
    assert 0 <= image <= 180
    # Nobody comes closer to a text than by as much as it moved.
    assert abs(attribute) <= image + 1e-9
    assert attribute == -attribute_score(moved, z, text)
    assert attribute_score(z, text, text) >= 0  # who went to the text came closer
    assert attribute_score(text, moved, text) <= 0  # who was there went away
    assert attribute_score(z, z, text) == 0
    assert attribute_scores(z[None], moved[None], text[None]) == pytest.approx(
        float(attribute), abs=1e-9)


# --- translators --------------------------------------------------------------------------------


@st.composite
def translators(draw, m=None):
    m, d = m or draw(st.integers(2, 10)), draw(st.integers(2, 6))
    seed, power = draw(SEEDS), draw(st.integers(-4, 4))
    return Translator((10.0**power * normal(seed, d, m)).float(), normal(seed + 1, d).float())


@examples(60)
@given(translators(), SEEDS, st.floats(-5, 5))
def test_a_translator_is_affine(translate, seed, share):
    m = translate.weight.shape[1]
    f, g = normal(seed, 4, m), normal(seed + 1, 4, m)
    size = 100 * torch.finfo(torch.float64).eps * (
        translate.weight.double().abs().sum() * 20 + translate.bias.abs().sum() * 20)
    mixed = share * f + (1 - share) * g
    rest = translate(mixed) - share * translate(f) - (1 - share) * translate(g)
    assert rest.abs().max() <= size
    assert (translate(f + g) - translate(f) - translate.linear(g)).abs().max() <= size
    assert torch.equal(translate(0 * f), translate.bias.double().expand(4, -1))


@st.composite
def rows_and_cuts(draw):
    n, m, d = draw(st.integers(6, 40)), draw(st.integers(1, 12)), draw(st.integers(1, 4))
    seed, mean = draw(SEEDS), draw(st.sampled_from([0.0, 1.0, 100.0]))
    x, z = normal(seed, n, m) + mean, normal(seed + 1, n, d) - mean
    cuts = sorted(draw(st.lists(st.integers(0, n), min_size=1, max_size=4)))
    parts = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, n])]
    return x, z, parts, draw(st.permutations(parts))


def fitter(x, z, parts):
    found = RidgeFitter(x.shape[1], z.shape[1])
    for part in parts:
        found.update(x[part], z[part])
    return found


def assert_same_fit(one, other, lam=1.0):
    for a, b in zip(one.path().coefficients(lam), other.path().coefficients(lam)):
        scale = 1 + float(a.abs().max())
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * scale)
    # The sums of squares, too, which no coefficient depends on.
    found = [fit.squared_errors(*one.path().coefficients(lam)) for fit in (one, other)]
    assert found[1] == pytest.approx(found[0], rel=1e-7, abs=1e-7)


@examples(25)
@given(rows_and_cuts())
def test_order_of_blocks_and_merges_is_irrelevant(given_rows):
    x, z, parts, shuffled = given_rows
    whole = fitter(x, z, [slice(None)])
    assert_same_fit(whole, fitter(x, z, shuffled))
    for order in (parts, shuffled):
        merged = RidgeFitter(x.shape[1], z.shape[1])
        for part in order:
            merged.merge(fitter(x, z, [part]))
        assert merged.n == whole.n
        assert_same_fit(whole, merged)
    # And they are the normal equations'.
    centred, target = x - x.mean(0), z - z.mean(0)
    gram = centred.T @ centred + torch.eye(x.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(gram, centred.T @ target).T
    torch.testing.assert_close(whole.path().coefficients(1.0)[0], weight, rtol=0, atol=1e-9)


@examples(30)
@given(rows_and_cuts())
def test_taking_out_undoes_merging(given_rows):
    x, z, parts, _ = given_rows
    sizes = [len(x[part]) for part in parts]
    first = int(np.argmax(sizes))
    rest = [part for at, part in enumerate(parts) if at != first]
    assume(sizes[first] >= 2)
    one, other = fitter(x, z, [parts[first]]), fitter(x, z, rest)
    both = one.copy().merge(other)
    assert_same_fit(both.without(other), one)
    assert both.n == len(x)  # `without` leaves alone what it is taken from


@examples(60)
@given(st.data(), heads(null=True), st.floats(0.5, 120))
def test_steering_reaches_its_target_or_says_how_far_it_can(data, weight, target):
    spaces = HeadSpaces.from_weight(weight.double())
    translate, seed = data.draw(translators(m=spaces.features)), data.draw(SEEDS)
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
            assert found.step[at].isnan()
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
    translate, seed = data.draw(translators(m=spaces.features)), data.draw(SEEDS)
    f, texts = normal(seed, 3, spaces.features), normal(seed + 1, 2, len(translate.weight))
    length = 1e-4 / (1 + float(translate.weight.abs().sum()))
    every = steer_all(f, translate, texts, spaces, step=length)
    for at, text in enumerate(texts):
        one = steer(f, translate, text, spaces, step=length)
        assert (one.attribute_score >= -1e-9).all()
        torch.testing.assert_close(
            every.image_score[:, at], one.image_score, rtol=1e-4, atol=1e-7)
        direction = null_direction(f, translate, text, spaces)
        assert ((direction.norm(dim=1) - 1).abs() < 1e-9).all()


# --- files --------------------------------------------------------------------------------------

NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8,
           torch.bool)


@st.composite
def tensors(draw, dtypes=NUMBERS, shape=None):
    """Any bits at all: also NaN with a message, minus zero and numbers below the smallest."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(st.lists(st.integers(0, 4), max_size=3)) if shape is None else shape
    size = math.prod(shape) * dtype.itemsize
    content = draw(st.binary(min_size=size, max_size=size))
    if dtype == torch.bool:
        content = bytes(one % 2 for one in content)
    flat = torch.tensor(list(content), dtype=torch.uint8).view(dtype) if size else (
        torch.empty(0, dtype=dtype))
    return flat.reshape(shape)


def same_bits(a, b):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    return a.contiguous().view(-1).view(torch.uint8).tolist() == (
        b.contiguous().view(-1).view(torch.uint8).tolist())


# With half of a surrogate pair, which UTF-8 cannot hold and names of files may.
TEXTS = st.text(st.characters(exclude_categories=[]), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
CARDS = st.dictionaries(TEXTS.filter(lambda key: key not in cards.OWN), JSON, max_size=4)


def given_card(found):
    return {key: value for key, value in found.items() if key not in cards.OWN}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@examples(40)
@given(data=st.data(), card=CARDS)
def test_translators_come_back_to_the_bit(folder, data, card):
    d, m = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    floats = NUMBERS[:4]
    one = Translator(data.draw(tensors(floats, (d, m))), data.draw(tensors(floats, (d,))), card)
    for path, load in (
        (one.save(folder / "a.safetensors"), Translator.load),
        (cards.save(folder / "b.safetensors", one), cards.load),
    ):
        found = load(path)
        assert same_bits(found.weight, one.weight)
        assert same_bits(found.bias, one.bias)
        assert given_card(found.card) == card
        assert json.dumps(given_card(found.card), sort_keys=True) == json.dumps(
            card, sort_keys=True)  # True is not 1, and -0.0 not 0


@examples(30)
@given(weight=heads(), card=CARDS)
def test_spaces_come_back_to_the_bit(folder, weight, card):
    one = HeadSpaces.from_weight(weight)
    found = cards.load(cards.save(folder / "s.safetensors", one, card))
    assert given_card(found.card) == card
    assert (found.rank, found.features, found.tolerance) == (one.rank, one.features, one.tolerance)
    for part in ("singular_values", "right", "null_basis"):
        assert same_bits(getattr(found, part), getattr(one, part))
    f = normal(3, 4, one.features)
    assert same_bits(found.null(f), one.null(f))
    assert same_bits(found.principal(f), one.principal(f))


@examples(20)
@given(given_rows=rows_and_cuts())
def test_ridge_statistics_come_back_to_the_bit(folder, given_rows):
    x, z, parts, _ = given_rows
    one = fitter(x, z, parts)
    found = RidgeFitter.load(one.save(folder / "r.safetensors"))
    assert (found.n, found.m, found.d) == (one.n, one.m, one.d)
    for a, b in zip(found.path().coefficients(0.5), one.path().coefficients(0.5)):
        assert same_bits(a, b)
    more = [it.copy().merge(fitter(x, z, parts[:1])) for it in (one, found)]
    for a, b in zip(*(it.path().coefficients(0.5) for it in more)):
        assert same_bits(a, b)


@examples(40)
@given(held=st.dictionaries(st.sampled_from("abc"), tensors(), max_size=3), about=JSON,
       at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_kept_tensors_come_back_to_the_bit_or_not_at_all(folder, held, about, at, bit):
    path = keep(folder / "k.safetensors", held, about)
    found, said = kept(path)
    assert said == about
    assert found.keys() == held.keys()
    assert all(same_bits(found[name], held[name]) for name in held)
    whole = bytearray(path.read_bytes())
    whole[int(at * len(whole))] ^= 1 << bit
    path.write_bytes(whole)
    damaged = kept(path)
    if damaged is not None:  # a space more in the header is no damage
        assert damaged[1] == about
        assert all(same_bits(damaged[0][name], held[name]) for name in held)


COLUMNS = {
    "text": st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.none(),
    "real": st.floats() | st.none(), "whole": st.integers(-(2**63), 2**63 - 1),
    "truth": st.booleans(),
}


@examples(40)
@given(data=st.data(), rows=st.integers(0, 5), card=CARDS)
def test_tables_come_back_exactly(folder, data, rows, card):
    one = pd.DataFrame({
        name: data.draw(st.lists(values, min_size=rows, max_size=rows))
        for name, values in COLUMNS.items()
    })
    one["real"], one["whole"] = one["real"].astype(float), one["whole"].astype("int64")
    one["truth"], one["text"] = one["truth"].astype(bool), one["text"].astype("str")
    found = cards.load(cards.save(folder / "t.parquet", one, card))
    assert given_card(found.attrs["card"]) == card
    pd.testing.assert_frame_equal(found, one, check_exact=True)


@examples(60)
@given(card=st.dictionaries(st.sampled_from([
    "model", "classifier", "data", "error", "versions", "settings", "lambda", "lambdas", "tower",
    "joint_space", "holds", "format", "pictures", "subjects", "kind", "date", "odd"]), JSON))
def test_every_card_can_be_shown(card):
    lines = cards.text(card).split("\n")
    assert all(line.isprintable() for line in lines)


@examples(80)
@given(first=st.one_of(TEXTS, tensors(), st.integers(), st.floats()),
       other=st.one_of(TEXTS, tensors(), st.integers(), st.floats()))
def test_hashes_are_of_content(first, other):
    assert content_key(first) == content_key(first)
    assert content_key(first, other) != content_key(first)
    if type(first) is not type(other) or (
        not isinstance(first, torch.Tensor) and repr(first) != repr(other)
    ):
        assert content_key(first) != content_key(other)


@examples(25)
@given(content=st.binary(max_size=50) | st.text(max_size=20), before=st.binary(max_size=5))
def test_a_file_is_written_whole_and_nothing_else(folder, content, before):
    home = folder / "atomic"
    path = write_atomic(home / "a.bin", before)
    assert path.read_bytes() == before
    write_atomic(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [one.name for one in home.iterdir()] == ["a.bin"]


@examples(20)
@given(before=st.text(max_size=5), half=st.characters(categories=["Cs"]))
def test_a_failed_write_leaves_the_old_file(folder, before, half):
    home = folder / "failed"
    path = write_atomic(home / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, before + half)
    assert path.read_text() == "old"
    assert [one.name for one in home.iterdir()] == ["a.txt"]


# --- names, settings, prompts -------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_categories=[]), max_size=90) | st.text(
    string.ascii_letters + "./-_: ", max_size=90)


@examples(150)
@given(NAMES)
def test_a_slug_is_one_safe_part_of_a_path(name):
    found = slug(name)
    assert found
    assert found == slug(name)
    assert not set("/\\\0:*?\"<>| \n") & set(found)
    assert found[0] not in ".-"
    assert len(found.encode()) <= 64  # with hashes and endings far from the 255 of a file name


@examples(150)
@given(NAMES, NAMES)
def test_slugs_of_different_names_differ(first, other):
    assume(first != other)
    assert slug(first) != slug(other)


def test_slugs_that_results_lie_under_stay():
    # A changed slug would have everything computed anew.
    assert slug("a\ud800") != slug("a\ud801")
    for name in ("lite0", "timm", "a_b-c.d", "x" * 60):
        assert slug(name) == name
    assert slug("timm/resnet50.a1_in1k") == "timm-resnet50.a1_in1k-" + slug(
        "timm/resnet50.a1_in1k")[-6:]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner,
                                                                max_size=2),
    max_leaves=5,
)
KINDS = [int, float, str, bool, dict, list[int], list[float], list[str], str | None, int | None]


def fits(value, kind):
    """What a value of a kind is, from the words of `cast`: itself, or a whole number as a real."""
    if kind in (str | None, int | None):
        return value is None or fits(value, str if kind == str | None else int)
    if getattr(kind, "__origin__", None) is list:
        return type(value) is list and all(fits(one, kind.__args__[0]) for one in value)
    return type(value) is kind or (kind is float and type(value) is int and abs(value) < 2**1023)


@examples(200)
@given(VALUES, st.sampled_from(KINDS))
def test_a_setting_is_taken_as_it_is_or_refused(value, kind):
    if not fits(value, kind):
        with pytest.raises(SingError, match="must be"):
            cast("key", value, kind, "a test")
        return
    found = cast("key", value, kind, "a test")
    assert found == value or (found != found and value != value) or repr(found) == repr(value)
    if kind is float:
        assert type(found) is float


KEYS = sorted(set(Profile.__dataclass_fields__) - {"name"})


@examples(150)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), VALUES, max_size=2))
def test_any_settings_give_a_profile_or_a_message(overrides):
    try:
        found = load_profile("smoke", overrides)
    except SingError:
        return
    for key, value in overrides.items():
        assert getattr(found, key) == value or value != value or "nan" in repr(value)


@examples(150)
@given(st.text(max_size=30) | st.text("an image of the some photo", max_size=30))
def test_a_completed_prompt_is_complete(words):
    if not any(letter.isalnum() for letter in words):
        with pytest.raises(SingError, match="needs a word"):
            complete_prompt(words)
        return
    found = complete_prompt(words)
    assert complete_prompt(found) == found
    assert " ".join(words.split()) in found
