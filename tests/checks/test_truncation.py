from __future__ import annotations

import numpy as np
import pytest
from conftest import ends

from sing_nb.checks.truncation import REMOVED, paper_sizes, removal_curves, truncated_heads
from sing_nb.models.load import model_names
from sing_nb.study import tables


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
        scored = tables.scored(smoke, "lite0")
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


def test_accuracy_and_agreement_are_those_of_the_best_approximation(table, case):
    rank, hand = case
    winner = (hand.f @ hand.weight.T + hand.plain.bias).argmax(1)
    full = hand.plain.logits(hand.f).argmax(1)
    own = table[table["rank"] == rank]
    assert own["accuracy"].unique() == pytest.approx([np.mean(winner == hand.truth)])
    assert own["agreement"].unique() == pytest.approx([np.mean(winner == full)])
    share = ((hand.f @ hand.basis) ** 2).sum(1) / (hand.f**2).sum(1)
    assert own["null_share"].unique() == pytest.approx([np.median(share)], rel=1e-5)


def test_the_control_is_as_large_and_scored_draw_by_draw(table, case, smoke):
    rank, hand = case
    drawn = [hand.control(smoke.config.seed + n) for n in range(smoke.config.control_draws)]
    medians = np.array([[np.median(moved), np.median(towards)] for moved, towards in drawn])
    expected = {
        "image_score": medians[:, 0].mean(), "attribute_score": medians[:, 1].mean(),
        "ratio": (medians[:, 0] / medians[:, 1]).mean()}
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
    low, high = np.quantile(ratios, ends(len(names)))
    assert (found["low"], found["high"]) == (
        pytest.approx(low, rel=1e-2), pytest.approx(high, rel=1e-2))
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()


# --- curves over the number of directions removed -------------------------------------------------


@pytest.fixture(scope="module")
def sized(smoke, fresh):
    """The smoke study, whose tables are computed once here and never read from disk."""
    kept = {}

    def stored(name, compute, *models):
        if name not in kept:
            kept[name] = compute()
        return kept[name].copy()

    return fresh(config=smoke.config.model_copy(update={"bootstrap_draws": 20}), stored=stored)


@pytest.fixture(scope="module")
def curves(sized):
    return removal_curves(sized)


def at(table, **what):
    for column, value in what.items():
        table = table[table[column] == value]
    return table.set_index("quantity")


@pytest.mark.parametrize("removed", [280, 480, 1120])
def test_the_weakest_directions_are_those_of_the_cut_head(curves, plain, smoke, removed):
    hand = ByHand(plain, smoke, 1280 - removed)
    turned, towards = hand.removed()
    part = hand.f @ hand.basis @ hand.basis.T
    change = np.abs(part @ plain.weight.T).max(1)
    own = at(curves, model="lite0", removed=removed, kind=REMOVED[0])
    medians = [np.median(v) for v in (turned, towards, change)]
    names = ["image_score", "attribute_score", "logit_change"]
    assert own.loc[names, "value"].to_numpy() == pytest.approx(medians, rel=2e-3, abs=1e-9)
    assert own.loc["ratio", "value"] == pytest.approx(medians[0] / medians[1], rel=2e-3)
    energy = plain.values[1280 - removed:] ** 2
    assert own["head_energy"].unique() == pytest.approx(
        [energy.sum() / (plain.values**2).sum()], abs=1e-12)


def test_their_control_is_as_long_for_each_picture_and_nested(curves, plain, smoke):
    hand, drawn = ByHand(plain, smoke, 800), []
    length = np.linalg.norm(hand.f @ hand.basis, axis=1)
    for seed in range(smoke.config.control_draws):
        noise = np.random.default_rng(smoke.config.seed + seed).standard_normal((1280, 1280))
        frame = np.linalg.qr(noise)[0][:, :480]
        part = hand.f @ frame @ frame.T
        part *= (length / np.linalg.norm(part, axis=1))[:, None]
        scores = *hand.scores(hand.f - part), np.abs(part @ plain.weight.T).max(1)
        medians = [np.median(v) for v in scores]
        drawn.append([*medians, medians[0] / medians[1]])
    names = ["image_score", "attribute_score", "logit_change", "ratio"]
    what = {"model": "lite0", "removed": 480}
    one, other, over = (at(curves, **what, kind=kind).loc[names, "value"] for kind in REMOVED)
    assert other.to_numpy() == pytest.approx(np.mean(drawn, axis=0), rel=2e-3)
    assert over.to_numpy() == pytest.approx((one - other).to_numpy())


# --- if only the size of the null space differed --------------------------------------------------


@pytest.fixture(scope="module")
def alone(sized):
    return paper_sizes(sized)


def test_every_model_of_the_paper_has_its_size(alone):
    listed = {name: row for name, row in model_names().items() if "paper" in row}
    own = alone[alone["by"] == "share"].drop_duplicates("names")
    names = own["names"].str.split(", ").explode()
    assert sorted(names) == sorted(listed)
    for _, row in own.iterrows():
        for name in row["names"].split(", "):
            assert (row["null_dim"], row["features"]) == (
                listed[name]["null_dim"], listed[name]["features"])
        assert row["removed"] == round(1280 * row["null_dim"] / row["features"])
    counted = alone[alone["by"] == "count"]
    assert (counted["removed"] == counted["null_dim"]).all()
    assert counted["removed"].max() < 1280  # no head of 1280 features loses 3096
