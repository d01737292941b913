from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import ends

from sing_nb.study.validation import neighbours_kept

KINDS = ["random null direction", "random direction", "principal direction"]


def unit(v):
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def pushes_by_hand(plain, f, seed):
    """The pushes from NumPy's singular vectors and the noise of a generator of one's own."""
    noise = torch.randn(
        2, *f.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).numpy()
    found = {
        "random null direction": plain.null(noise[0]), "random direction": noise[1],
        "principal direction": -plain.weight[plain.logits(f).argmax(1)],
    }
    length = np.linalg.norm(plain.null(f), axis=1, keepdims=True)
    return {kind: unit(delta) * length for kind, delta in found.items()}


@pytest.fixture(scope="module")
def kept(fresh):
    return neighbours_kept(fresh(), "lite0", KINDS, k=2)


@pytest.fixture(scope="module")
def by_hand(smoke, plain):
    """How many of two neighbours stay, (pictures, kinds), by cosines in plain NumPy."""
    rows = smoke.rows(smoke.examples(smoke.labels))
    f, table = plain.f[rows], smoke.pictures
    known = np.flatnonzero(table["source"] != "clipart")
    z = unit(smoke.embeddings[known].double().numpy())
    subjects = table["subject"].to_numpy()

    def nearest(moved):
        found = []
        for own, line in zip(subjects[rows], unit(plain.translate(moved, rows)) @ z.T):
            order = [name for name in subjects[known][np.argsort(-line)] if name != own]
            found.append(set(list(dict.fromkeys(order))[:2]))
        return found

    pushes, before = pushes_by_hand(plain, f, seed=0), nearest(f)
    return subjects[rows], np.array([
        [len(a & b) for a, b in zip(before, nearest(f + pushes[kind]))] for kind in KINDS
    ], dtype=float).T


def test_what_stays_near_is_counted_by_hand(kept, by_hand):
    assert kept["kind"].tolist() == KINDS
    np.testing.assert_allclose(kept["value"], by_hand[1].mean(0))
    np.testing.assert_allclose(kept["lead"], (by_hand[1][:, :1] - by_hand[1]).mean(0))


def test_intervals_draw_subjects_and_leads_are_paired(kept, by_hand):
    subjects, counts = by_hand
    names = sorted(set(subjects))
    rng, drawn = np.random.default_rng(0), []
    for _ in range(20):
        chosen = [names[i] for i in rng.integers(0, len(names), len(names))]
        rows = np.concatenate([np.flatnonzero(subjects == name) for name in chosen])
        drawn.append(counts[rows])
    for place, row in enumerate(kept.to_dict("records")):
        stay = [c[:, place].mean() for c in drawn]
        lead = [(c[:, 0] - c[:, place]).mean() for c in drawn]
        for name, values in (("", stay), ("lead_", lead)):
            low, high = np.quantile(values, ends(len(names)))
            assert row[f"{name}low"] == pytest.approx(low)
            assert row[f"{name}high"] == pytest.approx(high)
    assert kept.loc[0, ["lead", "lead_low", "lead_high"]].tolist() == [0, 0, 0]
