from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.special
import torch
from conftest import ends

from sing_nb.nullspace import HeadSpaces
from sing_nb.validation import perturbation_summary, perturbations, perturbed_neighbours

KINDS = [
    "null part removed", "random null direction", "common shift", "random direction",
    "principal direction",
]
UNSEEN = KINDS[:2]


def degrees(a, b):
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


def unit(v):
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def pushes_by_hand(plain, f, seed):
    """The five pushes from NumPy's singular vectors and the noise of a generator of one's own."""
    noise = torch.randn(
        2, *f.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).numpy()
    shift = np.linalg.pinv(plain.weight) @ np.ones(1000)
    found = {
        "null part removed": -plain.null(f), "random null direction": plain.null(noise[0]),
        "common shift": np.outer(np.sign(noise[0] @ shift), shift), "random direction": noise[1],
        "principal direction": -plain.weight[plain.logits(f).argmax(1)],
    }
    length = np.linalg.norm(plain.null(f), axis=1, keepdims=True)
    return {kind: unit(delta) * length for kind, delta in found.items()}


@pytest.fixture(scope="module")
def table(fresh):
    return perturbations(fresh(), "lite0")


@pytest.fixture(scope="module")
def pushed(plain):
    """Rows that are pushed, their features, and the pushes, by hand."""
    rows = np.flatnonzero(plain.table["source"] != "clipart")
    f = plain.f[rows]
    return rows, f, pushes_by_hand(plain, f, seed=0)


# --- the table of pushes ------------------------------------------------------------------------


def test_every_stamp_and_photograph_gets_every_push_once(table, smoke):
    expected = smoke.pictures[smoke.pictures["source"] != "clipart"]
    assert list(table["kind"].unique()) == KINDS
    for _, group in table.groupby("kind"):
        for column in ("picture", "subject", "label"):
            assert group[column].tolist() == expected[column].tolist()


def test_all_pushes_of_a_picture_are_as_long_as_its_null_part(table, plain, pushed):
    _, f, _ = pushed
    share = np.linalg.norm(f @ plain.null_basis, axis=1) / np.linalg.norm(f, axis=1)
    for kind, group in table.groupby("kind"):
        np.testing.assert_allclose(group["length"], share, rtol=1e-6, err_msg=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_push_does_is_what_numpy_says(table, plain, pushed, smoke, kind):
    rows, f, pushes = pushed
    own = table[table["kind"] == kind]
    before, after = plain.logits(f), plain.logits(f + pushes[kind])
    # Equation (16). The table's logits are float32, which is all that a null push leaves.
    change = np.sqrt(((after - before) ** 2).sum(1))
    np.testing.assert_allclose(own["logit_change"], change, rtol=1e-3, atol=1e-3)
    p, q = scipy.special.softmax(before, axis=1), scipy.special.softmax(after, axis=1)
    np.testing.assert_allclose(
        own["probability_change"], np.maximum(q - p, 0).sum(1), atol=1e-5
    )
    # Where two logits are almost equal, rounding may decide who wins.
    top = np.sort(after, axis=1)
    clear = top[:, -1] - top[:, -2] > 1e-2
    assert clear.mean() > 0.9
    flipped = before.argmax(1) != after.argmax(1)
    assert own["flipped"].to_numpy()[clear].tolist() == flipped[clear].tolist()
    z, moved = plain.translate(f, rows), plain.translate(f + pushes[kind], rows)
    np.testing.assert_allclose(own["image_score"], degrees(z, moved), atol=0.01)
    text = smoke.text(own["label"].tolist()).double().numpy()
    score = degrees(z, text) - degrees(moved, text)
    np.testing.assert_allclose(own["attribute_score"], score, atol=0.01)


def test_the_head_sees_no_null_push_and_every_other_one(table):
    largest, smallest = table.groupby("kind")["logit_change"].agg(["max", "min"]).T.to_numpy()
    kinds = sorted(KINDS)
    for kind, most, least in zip(kinds, largest, smallest):
        assert (most < 1e-3) == (kind in UNSEEN), kind
        assert (least > 0.05) == (kind not in UNSEEN), kind


def test_probabilities_notice_the_random_and_the_principal_push_only(table):
    change = table.groupby("kind")["probability_change"].max()
    assert (change[["random direction", "principal direction"]] > 0.01).all()
    assert (change[[*UNSEEN, "common shift"]] < 1e-4).all()
    assert not table.loc[table["kind"].isin([*UNSEEN, "common shift"]), "flipped"].any()


# --- a head of three classes, by hand -----------------------------------------------------------


def three_classes():
    """Reads the first three of four features as logits; one picture, two copies of it."""
    weight = torch.eye(4)[:3]
    feature = torch.tensor([[np.log(6), np.log(3), 0.0, np.log(6)]] * 2, dtype=torch.float32)
    classifier = SimpleNamespace(
        head=SimpleNamespace(weight=weight), logits=lambda f: f @ weight.T
    )
    return SimpleNamespace(
        pictures=pd.DataFrame(
            {"picture": ["a", "b"], "subject": ["x", "y"], "label": "fox", "source": "stamp"}
        ),
        config=SimpleNamespace(seed=0), stored=lambda name, compute, *models: compute(),
        classifier=lambda model: classifier, features=lambda model: feature,
        spaces=lambda model: HeadSpaces.from_weight(weight),
        translate=lambda model, f, rows: f,  # pictures and features are one space here
        text=lambda labels: torch.tensor([[1.0, 0.0, 0.0, 0.0]] * len(labels)),
    )


def test_hand_worked_pushes():
    a, b = np.log(6), np.log(3)
    table = perturbations(three_classes(), "any").query("picture == 'a'").set_index("kind")
    norm = np.sqrt(2 * a**2 + b**2)
    np.testing.assert_allclose(table["length"], a / norm, rtol=1e-6)

    # Probabilities (6, 3, 1)/10. Against its own weight by ln 6, the first logit is 0 and they
    # are (1, 3, 1)/5: 0.4 leave the first class, 0.3 arrive at the second, 0.1 at the third.
    row = table.loc["principal direction"]
    assert row["logit_change"] == pytest.approx(a, rel=1e-6)
    assert row["probability_change"] == pytest.approx(0.4, abs=1e-6)
    assert row["flipped"]
    moved = np.array([0, b, 0, a])
    f = np.array([a, b, 0, a])
    assert row["image_score"] == pytest.approx(degrees(f, moved), abs=1e-4)
    toward = np.array([1.0, 0, 0, 0])
    expected = degrees(f, toward) - 90  # the pushed feature stands at a right angle to the text
    assert row["attribute_score"] == pytest.approx(expected, abs=1e-4)

    # The null part is the fourth number. Without it the feature turns, and no logit moves.
    row = table.loc["null part removed"]
    assert (row["logit_change"], row["probability_change"], row["flipped"]) == (0, 0, False)
    assert row["image_score"] == pytest.approx(np.degrees(np.arccos(np.hypot(a, b) / norm)))

    # All three logits move by ln 6 / sqrt(3), up or down; the length of that is ln 6 again.
    row = table.loc["common shift"]
    assert row["logit_change"] == pytest.approx(a, rel=1e-6)
    assert row["probability_change"] == pytest.approx(0, abs=1e-7)


# --- the summary --------------------------------------------------------------------------------


def own_bootstrap(values, subjects, statistic, draws, seed):
    """Whole subjects with replacement, in their alphabetical order."""
    names = sorted(set(subjects))
    rng = np.random.default_rng(seed)
    by_subject = {name: values[subjects == name] for name in names}
    found = [
        statistic(np.concatenate([by_subject[names[i]] for i in rng.integers(0, len(names),
                                                                             len(names))]))
        for _ in range(draws)
    ]
    return np.quantile(found, ends(len(names)))


def test_the_summary_is_medians_with_intervals_over_subjects(fresh, table, monkeypatch):
    monkeypatch.setattr("sing_nb.validation.perturbations", lambda study, model: table.copy())
    study = fresh()
    found = perturbation_summary(study)
    assert (found["model"] == "lite0").all()
    assert list(found["kind"].unique()) == KINDS
    assert not found.duplicated(["kind", "quantity"]).any()
    assert len(found) == len(KINDS) * 5
    statistics = {
        "logit_change": np.median, "probability_change": np.median, "flipped": np.mean,
        "image_score": np.median, "attribute_size": lambda v: np.median(np.abs(v)),
    }
    for row in found.to_dict("records"):
        own = table[table["kind"] == row["kind"]]
        column = row["quantity"].replace("attribute_size", "attribute_score")
        values, statistic = own[column].to_numpy(), statistics[row["quantity"]]
        assert row["value"] == pytest.approx(statistic(values))
        low, high = own_bootstrap(values, own["subject"].to_numpy(), statistic, 20, 0)
        assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))


# --- photos near a pushed one -------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_views(smoke):
    stamps = smoke.pictures[smoke.pictures["source"] == "stamp"]
    return stamps.loc[stamps["subject"] == stamps["subject"].iloc[0], "picture"].tolist()[:2]


def nearest_by_hand(smoke, z, subject):
    allowed = smoke.pictures[
        (smoke.pictures["source"] != "clipart") & (smoke.pictures["subject"] != subject)
    ]
    angles = degrees(z, smoke.embeddings[allowed.index].double().numpy())
    best = allowed.assign(angle=angles).sort_values("angle").drop_duplicates("subject")
    return best["angle"].to_numpy()


def test_neighbours_are_those_of_the_pushed_feature(smoke, plain, two_views):
    kinds, seeds = ["null part removed", "random direction"], (0, 5)
    # More than there are, or a photo's own subject could be missing by chance.
    found = perturbed_neighbours(smoke, "lite0", two_views, kinds, seeds, k=99)
    rows = np.flatnonzero(plain.table["picture"].isin(two_views))
    f = plain.f[rows]
    subject = plain.table["subject"][rows[0]]
    everyone = set(plain.table.loc[plain.table["source"] != "clipart", "subject"])
    for seed in seeds:
        pushes = pushes_by_hand(plain, f, seed) | {"translated": 0 * f}
        names = found.loc[found["name"].str.endswith(f"seed {seed}"), "name"].unique()
        assert len(names) == 2  # two views of one subject are two photos
        for number, name in enumerate(names):
            for state in ["translated", *kinds]:
                own = found[(found["name"] == name) & (found["state"] == state)]
                count = len(own) - 1
                assert own["place"].tolist() == ["photo", *map(str, range(1, count + 1))]
                assert own["picture"].iloc[0] == two_views[number]
                assert np.isnan(own["angle"].iloc[0])
                others = smoke.pictures.set_index("picture").loc[own["picture"].iloc[1:]]
                assert set(others["subject"]) == everyone - {subject}
                assert own["label"].iloc[1:].tolist() == others["label"].tolist()
                z = plain.translate(f + pushes[state], rows)[number]
                expected = nearest_by_hand(smoke, z, subject)
                np.testing.assert_allclose(own["angle"].iloc[1:], expected, atol=0.01)


def test_only_random_pushes_depend_on_the_seed(smoke, two_views):
    found = perturbed_neighbours(
        smoke, "lite0", two_views[:1], ["principal direction", "random null direction"], (1, 2)
    )
    angles = {
        (seed, state): found.loc[
            found["name"].str.endswith(seed) & (found["state"] == state), "angle"
        ].to_numpy()[1:]
        for seed in "12" for state in found["state"].unique()
    }
    for state in ("translated", "principal direction"):
        np.testing.assert_array_equal(angles["1", state], angles["2", state])
    assert (angles["1", "random null direction"] != angles["2", "random null direction"]).any()
