from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import scipy.stats
import torch
from conftest import ends
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

import sing_nb.study.robustness
from sing_nb.method.nullspace import HeadSpaces
from sing_nb.method.translator import Translator
from sing_nb.study.robustness import (
    accuracy_correlation,
    group_accuracies,
    group_probabilities,
    subject_groups,
)
from sing_nb.study.study import Study

STATES = ["principal features", "translated"]
SIZES = {"animals/birds": 5, "animals/mammals/wild": 7, "hobbies/music": 4, "plants/fruit": 3}
M, D = 9, 4


class Planted:
    """A study of four groups with few enough numbers to work with by hand."""

    config = SimpleNamespace(
        seed=3, bootstrap_draws=30, everyone=["one", "two"], pictures="stamps"
    )
    interval = Study.interval
    is_scored = Study.is_scored

    def __init__(self):
        rng = np.random.default_rng(0)
        rows = [
            {"source": "stamp", "subject": f"{folder[-5:]}{n}", "fold": n % 3,
             "path": f"/any/stamps/{folder}/{n}.png"}
            for folder, count in SIZES.items() for n in range(count) for _ in range(2)
        ]
        rows += [{"source": source, "subject": f"{source}{n}", "fold": -1,
                  "path": f"/any/{source}/animals/birds/{n}.png"}
                 for source in ("clipart", "photo") for n in range(3)]
        # No order that could be relied upon.
        self.pictures = pd.DataFrame(rows).sample(frac=1, random_state=0, ignore_index=True)
        group = self.pictures["path"].str.split("/").str[-2].factorize()[0]
        self.f, self.weight, self.maps = {}, {}, {}
        for model in self.config.everyone:
            mean = rng.standard_normal((group.max() + 1, M))
            f = mean[group] + 1.5 * rng.standard_normal((len(group), M))
            self.f[model] = torch.tensor(f, dtype=torch.float32)
            self.weight[model] = torch.tensor(rng.standard_normal((6, M)), dtype=torch.float32)
            self.maps[model] = [
                Translator(*(torch.tensor(rng.standard_normal(s), dtype=torch.float32)
                             for s in ((D, M), D)))
                for _ in range(4)
            ]

    def stored(self, name, compute, *models):
        return compute()

    def features(self, model):
        return self.f[model]

    def spaces(self, model):
        return HeadSpaces.from_weight(self.weight[model])

    def translators(self, model):
        return self.maps[model]

    def title(self, model):
        return model.capitalize()


@pytest.fixture(scope="module")
def planted():
    return Planted()


def probabilities_by_hand(train, truth, test):
    """Standardised features, then scikit-learn's multinomial logistic regression."""
    scaler = StandardScaler().fit(train)
    head = LogisticRegression(C=0.01, max_iter=500).fit(scaler.transform(train), truth)
    return pd.DataFrame(head.predict_proba(scaler.transform(test)), columns=head.classes_)


# --- groups -------------------------------------------------------------------------------------


def test_groups_are_folders_below_the_first_with_enough_subjects(planted):
    path = planted.pictures["path"].str.split("/")
    expected = path.str[4].where(planted.pictures["source"] == "stamp")
    for at_least, names in ((4, {"birds", "mammals", "music"}), (5, {"birds", "mammals"})):
        found = subject_groups(planted, at_least)
        assert set(found) == names
        assert found.to_dict() == expected[expected.isin(names)].to_dict()


def test_two_groups_are_left_even_where_none_is_large_enough(planted):
    assert set(subject_groups(planted, at_least=100)) == {"birds", "mammals"}


def test_groups_of_a_folder_are_its_classes_and_ten_at_most(planted, monkeypatch):
    stamp = planted.pictures["source"] == "stamp"
    monkeypatch.setattr(planted, "config", SimpleNamespace(pictures="imagenette"))
    names = planted.pictures["path"].str.split("/").str[4]
    monkeypatch.setattr(planted, "pictures", planted.pictures.assign(label=names))
    assert set(subject_groups(planted, at_least=5)) == {"birds", "mammals"}
    many = [f"{place % 19:02}" for place in range(len(planted.pictures))]
    monkeypatch.setattr(planted, "pictures", planted.pictures.assign(label=many))
    found = subject_groups(planted, at_least=1)
    assert sorted(set(found)) == [f"{number:02}" for number in range(0, 19, 2)]
    assert stamp[found.index].all()


def test_groups_of_the_smoke_study(smoke):
    found = subject_groups(smoke)
    assert set(found) == {"mammals", "music"}
    stamps = smoke.pictures.loc[found.index]
    assert (stamps["source"] == "stamp").all()
    for name, path in zip(found, stamps["path"]):
        assert path.split("/stamps/")[-1].split("/")[1] == name


# --- probabilities ------------------------------------------------------------------------------


def test_heads_never_see_a_subject_that_they_are_asked_about(planted, monkeypatch):
    seen = []

    class Recorder:
        def fit(self, values, groups):
            self.classes_ = np.unique(groups)
            self.fitted = {row.tobytes() for row in values}
            return self

        def predict_proba(self, values):
            seen.append((self.fitted, {row.tobytes() for row in values}))
            return np.full((len(values), len(self.classes_)), 1 / len(self.classes_))

    monkeypatch.setattr("sklearn.pipeline.make_pipeline", lambda *steps: Recorder())
    table = group_probabilities(planted, "one", at_least=3)
    assert len(seen) == 3 * 2
    principal = planted.spaces("one").principal(planted.f["one"]).numpy()
    subject = {row.tobytes(): name for row, name in zip(principal, planted.pictures["subject"])}
    asked = []
    for train, test in seen[::2]:  # of principal features, whose rows can be told apart
        trained = {subject[row] for row in train}
        tested = {subject[row] for row in test}
        assert not trained & tested
        assert len(trained | tested) == sum(SIZES.values())
        asked += tested
    assert sorted(asked) == sorted(set(asked))
    assert table.groupby("state").size().tolist() == [2 * sum(SIZES.values())] * 2


def test_probabilities_are_scikit_learns_on_rows_of_ones_own(planted):
    found = group_probabilities(planted, "two", at_least=3).set_index(["row", "state"])
    names = ["birds", "fruit", "mammals", "music"]
    table = planted.pictures[planted.pictures["source"] == "stamp"]
    basis = scipy.linalg.null_space(planted.weight["two"].double().numpy(), rcond=1e-6)
    f = planted.f["two"].double().numpy()
    principal = f - f @ basis @ basis.T
    group = table["path"].str.split("/").str[4]
    for fold in range(3):
        fitted = planted.maps["two"][fold]
        translated = principal @ fitted.weight.double().numpy().T + fitted.bias.double().numpy()
        train = table.index[table["fold"] != fold]
        test = table.index[table["fold"] == fold]
        for state, values in zip(STATES, (principal, translated)):
            expected = probabilities_by_hand(values[train], group[train], values[test])
            own = found.loc[[(row, state) for row in test]]
            np.testing.assert_allclose(own[names], expected[names], atol=1e-4)
            assert own["group"].tolist() == group[test].tolist()
            assert own["subject"].tolist() == table["subject"][test].tolist()


def test_a_group_that_a_fold_has_for_itself_gets_no_probability(planted, monkeypatch):
    pictures = planted.pictures.copy()
    pictures.loc[pictures["path"].str.contains("fruit"), "fold"] = 2
    monkeypatch.setattr(planted, "pictures", pictures)
    found = group_probabilities(planted, "one", at_least=3)
    fold = pictures["fold"][found["row"]].to_numpy()
    assert (found.loc[fold == 2, "fruit"] == 0).all()
    assert (found.loc[fold != 2, "fruit"] > 0).all()
    total = found[["birds", "fruit", "mammals", "music"]].sum(axis=1)
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_probabilities_of_the_smoke_study(smoke, plain, fresh):
    # One of the two folds holds all mammals; about it nobody can be asked.
    group = subject_groups(smoke)
    rows = group.index.to_numpy()
    fold = smoke.pictures["fold"].to_numpy()[rows]
    (number,) = [n for n in (0, 1) if set(group[fold != n]) == {"mammals", "music"}]
    found = group_probabilities(fresh(), "lite0").set_index(["row", "state"])
    f = plain.f[rows] - plain.null(plain.f[rows])
    fitted = smoke.translators("lite0")[number]
    assert fitted.card["held_out_fold"] == number
    translated = f @ fitted.weight.double().numpy().T + fitted.bias.double().numpy()
    test = fold == number
    assert set(found.index.get_level_values("row")) == set(rows[test])
    for state, values in zip(STATES, (f, translated)):
        expected = probabilities_by_hand(values[~test], group[~test], values[test])
        own = found.loc[[(row, state) for row in rows[test]], ["mammals", "music"]]
        np.testing.assert_allclose(own, expected[["mammals", "music"]], atol=1e-3)


# --- accuracies and their correlation -----------------------------------------------------------


def group_table(seed, names=("a", "b", "c", "d"), subjects=4, views=2, translated=None):
    """Probabilities out of a hat, in which the true group is only a little more likely."""
    rng = np.random.default_rng(seed)
    group = np.repeat(names, subjects * views)
    subject = [f"{name}{n}" for name in names for n in range(subjects) for _ in range(views)]
    tables = []
    for number, state in enumerate(STATES):
        p = rng.dirichlet(np.ones(len(names)), len(group))
        p += 0.4 * (group[:, None] == np.array(names))
        table = pd.DataFrame(p / p.sum(1, keepdims=True), columns=list(names))
        tables.append(table.assign(row=np.arange(len(group)), subject=subject, group=group))
        if number == 1 and translated == "same":
            tables[1] = tables[0].copy()
        tables[-1]["state"] = state
    return pd.concat(tables).sample(frac=1, random_state=seed, ignore_index=True)


@pytest.fixture
def tables(planted, monkeypatch):
    """Stands planted tables in place of the heads' answers; returns them by model."""
    def stand_in(**options):
        made = {name: group_table(seed, **options) for seed, name in enumerate(("one", "two"))}
        monkeypatch.setattr(
            sing_nb.study.robustness, "group_probabilities",
            lambda study, model, at_least: made[model]
        )
        return made

    return stand_in


def balanced(table, state, subset):
    """scikit-learn's balanced accuracy of a head that is asked about a subset only."""
    own = table[(table["state"] == state) & table["group"].isin(subset)]
    answer = np.array(subset)[own[list(subset)].to_numpy().argmax(1)]
    return balanced_accuracy_score(own["group"], answer)


def test_accuracies_are_scikit_learns_on_every_subset(planted, tables):
    made = tables()
    found = group_accuracies(planted, ["one", "two"], size=3)
    subsets = ["a, b, c", "a, b, d", "a, c, d", "b, c, d", "a, b, c, d"]
    assert found["subset"].tolist() == subsets * 2
    assert found["model"].tolist() == ["one"] * 5 + ["two"] * 5
    assert set(found["title"]) == {"One", "Two"}
    for row in found.to_dict("records"):
        subset = row["subset"].split(", ")
        for column, state in zip(("before", "after"), STATES):
            expected = balanced(made[row["model"]], state, subset)
            assert row[column] == pytest.approx(expected), row
        assert row["chance"] == 1 / len(subset)
    assert found["before"].nunique() > 5


def test_balance_counts_groups_and_not_pictures(planted, tables):
    made = tables()
    # All pictures of one group but one are gone: it still counts for a quarter.
    for name, table in made.items():
        made[name] = table[(table["group"] != "a") | (table["row"] == 0)]
    found = group_accuracies(planted, ["one"], size=4)
    assert found["subset"].tolist() == ["a, b, c, d"]
    expected = balanced(made["one"], STATES[0], list("abcd"))
    assert found["before"][0] == pytest.approx(expected)
    own = made["one"][made["one"]["state"] == STATES[0]]
    plain = (own[list("abcd")].idxmax(axis=1) == own["group"]).mean()
    assert plain != pytest.approx(expected)  # or this test could not tell


def test_the_correlation_is_pearsons_over_models_and_subsets(planted, tables):
    tables()
    table = group_accuracies(planted, ["one", "two"], size=2)
    found = accuracy_correlation(planted, ["one", "two"], size=2)
    assert found["n"] == len(table) == 2 * (6 + 1)
    expected = scipy.stats.pearsonr(table["before"], table["after"]).statistic
    assert found["value"] == pytest.approx(expected)
    assert -1 <= found["low"] <= found["value"] <= found["high"] <= 1
    assert found["high"] - found["low"] > 0.05


def test_the_interval_draws_subjects_and_computes_all_accuracies_anew(planted, tables):
    made = tables()
    found = accuracy_correlation(planted, ["one", "two"], size=3)
    subsets = [list(s) for s in ("abc", "abd", "acd", "bcd", "abcd")]
    names = sorted(set(made["one"]["subject"]))
    rng, sample = np.random.default_rng(planted.config.seed), []
    for _ in range(planted.config.bootstrap_draws):
        drawn = [names[i] for i in rng.integers(0, len(names), len(names))]
        points = []
        for table in made.values():
            again = pd.concat([table[table["subject"] == name] for name in drawn])
            points += [[balanced(again, state, s) for state in STATES] for s in subsets]
        sample.append(np.corrcoef(np.transpose(points))[0, 1])
    low, high = np.quantile(sample, ends(len(names)))
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))


def test_the_same_answers_before_and_after_correlate_perfectly(planted, tables):
    tables(translated="same")
    found = accuracy_correlation(planted, ["one", "two"], size=2)
    for key in ("value", "low", "high"):
        assert found[key] == pytest.approx(1)


def test_opposite_accuracies_correlate_negatively(planted, tables):
    made = tables()
    # One head is right wherever the other is wrong.
    for table in made.values():
        before = table[table["state"] == STATES[0]].set_index("row")
        right = before[list("abcd")].idxmax(axis=1) == before["group"]
        after = table["state"] == STATES[1]
        wrong = table["group"].map(dict(zip("abcd", "bcda")))
        said = table["group"].where(~table["row"].map(right), wrong)
        for name in "abcd":
            table.loc[after, name] = (said == name)[after].astype(float)
    found = accuracy_correlation(planted, ["one", "two"], size=4)
    assert found["n"] == 2
    assert found["value"] == pytest.approx(-1)
