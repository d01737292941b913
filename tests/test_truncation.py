from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sing_nb.errors import SingError
from sing_nb.nullspace import HeadSpaces
from sing_nb.truncation import truncated_classes, truncated_heads


def degrees(a, b):
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


def quantity(table, rank, kind, name):
    row = table[(table["rank"] == rank) & (table["kind"] == kind) & (table["quantity"] == name)]
    assert len(row) == 1
    return row.iloc[0]


RANKS = (1200, 1000, 400, 60)  # no head has more than 1000 classes


@pytest.fixture(scope="module")
def table(fresh):
    return truncated_heads(fresh(), RANKS)


class ByHand:
    """Null removal for the best approximation of Lite0's head, in NumPy."""

    def __init__(self, plain, smoke, rank):
        scored = smoke.scored("lite0")
        self.rows = plain.table.index[plain.table["picture"].isin(scored["picture"])].to_numpy()
        self.truth = plain.table["class_index"].to_numpy()[self.rows]
        self.subjects = plain.table["subject"].to_numpy()[self.rows]
        self.text = smoke.text(plain.table["label"][self.rows].tolist()).double().numpy()
        self.plain, self.f = plain, plain.f[self.rows]
        self.basis = plain.right[rank:].T
        self.weight = (plain.left[:, :rank] * plain.values[:rank]) @ plain.right[:rank]
        self.z = plain.translate(self.f, self.rows)

    def scores(self, f):
        moved = self.plain.translate(f, self.rows)
        towards = degrees(self.z, self.text) - degrees(moved, self.text)
        return degrees(self.z, moved), np.abs(towards)

    def removed(self):
        return self.scores(self.f - self.f @ self.basis @ self.basis.T)

    def control(self, seed):
        size = self.basis.shape
        random = np.linalg.qr(np.random.default_rng(seed).standard_normal(size))[0]
        part = self.f @ random @ random.T
        length = np.linalg.norm(self.f @ self.basis, axis=1) / np.linalg.norm(part, axis=1)
        return self.scores(self.f - part * length[:, None])


@pytest.fixture(params=[1000, 400, 60])
def case(request, plain, smoke):
    return request.param, ByHand(plain, smoke, request.param)


def test_heads_are_cut_to_the_ranks_below_their_own(table):
    assert table["rank"].unique().tolist() == [1000, 400, 60]
    assert (table["rank"] + table["null_dim"] == 1280).all()
    assert not table.duplicated(["rank", "kind", "quantity"]).any()
    assert len(table) == 3 * 2 * 3


def test_accuracy_and_agreement_are_those_of_the_best_approximation(table, case):
    rank, hand = case
    winner = (hand.f @ hand.weight.T + hand.plain.bias).argmax(1)
    full = hand.plain.logits(hand.f).argmax(1)
    own = table[table["rank"] == rank]
    assert own["accuracy"].unique() == pytest.approx([np.mean(winner == hand.truth)])
    assert own["agreement"].unique() == pytest.approx([np.mean(winner == full)])


def test_the_rank_matters_for_this_test(table):
    own = table.drop_duplicates("rank").set_index("rank")
    assert own.loc[1000, "agreement"] == 1
    assert own.loc[60, "agreement"] < 1
    assert own["null_share"].is_monotonic_increasing  # the ranks fall


def test_the_null_share_is_the_median_of_pythagoras(table, case):
    rank, hand = case
    share = ((hand.f @ hand.basis) ** 2).sum(1) / (hand.f**2).sum(1)
    own = table.loc[table["rank"] == rank, "null_share"]
    assert own.unique() == pytest.approx([np.median(share)], rel=1e-5)


def test_scores_are_medians_over_views(table, case):
    rank, hand = case
    moved, towards = hand.removed()
    expected = {
        "image_score": np.median(moved), "attribute_score": np.median(towards),
        "ratio": np.median(moved) / np.median(towards),
    }
    for name, value in expected.items():
        found = quantity(table, rank, "null space removed", name)
        assert found["value"] == pytest.approx(value, rel=2e-3)


def test_the_control_is_as_large_and_scored_draw_by_draw(table, case, smoke):
    rank, hand = case
    drawn = [hand.control(smoke.config.seed + n) for n in range(smoke.config.control_draws)]
    medians = np.array([[np.median(moved), np.median(towards)] for moved, towards in drawn])
    expected = {
        "image_score": medians[:, 0].mean(), "attribute_score": medians[:, 1].mean(),
        "ratio": (medians[:, 0] / medians[:, 1]).mean(),
    }
    for name, value in expected.items():
        found = quantity(table, rank, "random control", name)
        assert found["value"] == pytest.approx(value, rel=2e-3)


def test_intervals_come_from_whole_subjects(table, plain, smoke):
    hand = ByHand(plain, smoke, 400)
    moved, towards = hand.removed()
    names = sorted(set(hand.subjects))
    rng, ratios = np.random.default_rng(smoke.config.seed), []
    for _ in range(20):
        drawn = rng.integers(0, len(names), len(names))
        rows = np.concatenate([np.flatnonzero(hand.subjects == names[i]) for i in drawn])
        ratios.append(np.median(moved[rows]) / np.median(towards[rows]))
    found = quantity(table, 400, "null space removed", "ratio")
    low, high = np.percentile(ratios, [2.5, 97.5])
    assert (found["low"], found["high"]) == (
        pytest.approx(low, rel=1e-2), pytest.approx(high, rel=1e-2)
    )
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()


def test_the_head_as_it_is_has_the_scores_of_the_models(table, smoke):
    models = smoke.models().query("model == 'lite0'").set_index(["kind", "quantity"])["value"]
    for kind in ("null space removed", "random control"):
        for name in ("image_score", "attribute_score", "ratio"):
            found = quantity(table, 1000, kind, name)
            assert found["value"] == pytest.approx(models[kind, name], rel=1e-5)


def test_a_head_without_null_space_is_scored_only_when_cut(fresh, smoke):
    # 12 classes read 6 features: nothing is invisible before two directions are cut.
    rng = np.random.default_rng(0)
    weight = torch.tensor(rng.standard_normal((12, 6)), dtype=torch.float32)
    features = torch.tensor(
        rng.standard_normal((len(smoke.pictures), 6)), dtype=torch.float32
    )
    affine = torch.tensor(rng.standard_normal((6, 384)), dtype=torch.float32)
    classifier = SimpleNamespace(
        head=SimpleNamespace(weight=weight), logits=lambda f: f @ weight.T
    )
    table = truncated_heads(
        fresh(
            classifier=lambda model: classifier, features=lambda model: features,
            spaces=lambda model: HeadSpaces.from_weight(weight),
            translate=lambda model, f, rows: f @ affine,
        ),
        ranks=(6, 4),
    )
    assert table["rank"].unique().tolist() == [4]
    assert table["null_dim"].unique().tolist() == [2]


def test_a_rank_of_zero_is_refused(fresh):
    with pytest.raises(SingError, match="between 1 and 1000; got 0"):
        truncated_heads(fresh(), ranks=(0,))


def test_ranks_that_cut_nothing_are_refused(fresh):
    with pytest.raises(SingError, match="None of the ranks 1000, 1200 is below that of lite0's"):
        truncated_heads(fresh(), ranks=(1000, 1200))


def test_accuracy_goes_by_what_is_right_for_the_classifier(fresh, smoke):
    rows = smoke.rows(smoke.scored("lite0")["picture"])
    winner = smoke.logits("lite0").argmax(1).numpy()
    truth = np.full(len(winner), -1)
    truth[rows] = winner[rows]
    truth[rows[0]], truth[rows[1]] = -1, winner[rows[1]] + 1  # one unknown, one wrong
    table = truncated_heads(fresh(truth=lambda model: truth), ranks=(400,))
    full = table.loc[table["rank"] == 1000, "accuracy"]
    assert full.unique() == pytest.approx([1 - 1 / (len(rows) - 1)])


# --- a slider over ranks --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steps(fresh):
    return truncated_classes(fresh(), 4)


def test_the_slider_goes_down_evenly_from_the_full_head(steps, smoke):
    assert steps["rank"].unique().tolist() == [1000, 750, 500, 250]
    labels = set(smoke.scored("lite0")["label"])
    for _, one in steps.groupby("rank"):
        assert len(one) == len(labels)
        assert set(one["label"]) == labels


@pytest.mark.parametrize("rank", [1000, 250])
def test_every_class_has_the_medians_of_its_pictures(steps, plain, smoke, rank):
    hand = ByHand(plain, smoke, rank)
    null = hand.f @ hand.basis @ hand.basis.T
    frame = np.linalg.qr(np.random.default_rng(smoke.config.seed).standard_normal((1280, 1280)))[0]
    part = (hand.f @ frame[:, : 1280 - rank]) @ frame[:, : 1280 - rank].T
    length = np.linalg.norm(null, axis=1) / np.linalg.norm(part, axis=1)
    own = steps[steps["rank"] == rank].set_index("label")
    labels = plain.table["label"].to_numpy()[hand.rows]
    before = degrees(hand.z, hand.text)
    for end, moved in (("", hand.f - null), ("_control", hand.f - part * length[:, None])):
        z = plain.translate(moved, hand.rows)
        towards, turned = before - degrees(z, hand.text), degrees(hand.z, z)
        for label in own.index:
            found, mine = own.loc[label], labels == label
            assert found[f"attribute_score{end}"] == pytest.approx(
                np.median(towards[mine]), abs=5e-3)
            assert found[f"image_score{end}"] == pytest.approx(np.median(turned[mine]), abs=5e-3)
    winner = (hand.f @ hand.weight.T + plain.bias).argmax(1)
    assert own["agreement"].unique() == pytest.approx(
        [np.mean(winner == plain.logits(hand.f).argmax(1))])
    share = (null**2).sum(1) / (hand.f**2).sum(1)
    assert own["null_share"].unique() == pytest.approx([np.median(share)], rel=1e-4)


def test_a_slider_without_a_step_is_refused(fresh):
    with pytest.raises(SingError, match="at least one step; got 0"):
        truncated_classes(fresh(), 0)
