"""Questions: readouts by scikit-learn, the rule, heads whose answer is known, and odd words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from sing_nb.checks.concepts import concept_values
from sing_nb.errors import SingError
from sing_nb.method.steer import random_basis
from sing_nb.reports.asking import VERDICTS, ask, factors
from sing_nb.reports.readout import LAMBDAS, decided, measured, readout
from sing_nb.reports.trials import planted_trials

IGNORES, KEEPS, UNSURE = VERDICTS


def pictures(seed, subjects=100, views=3, m=24, concepts=6, noise=0.6):
    """Features that hold concepts along random directions, each with a value a subject."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(subjects), views)
    values = rng.standard_normal((subjects, concepts))[who]
    values += 0.3 * rng.standard_normal(values.shape)
    features = values @ rng.standard_normal((concepts, m)) / np.sqrt(concepts)
    return features + noise * rng.standard_normal(features.shape), values, who


@pytest.mark.parametrize("width", [24, 400])
def test_readouts_are_ridge_held_out_with_the_lambda_that_the_other_folds_choose(width):
    features, values, who = pictures(0, m=width)
    folds = who % 4
    predicted, constant = readout(features, values, folds)
    paths = []
    for lam in LAMBDAS:
        one = np.empty_like(values)
        for fold in range(4):
            train, test = folds != fold, folds == fold
            model = Ridge(alpha=lam * features.var(0).sum()).fit(features[train], values[train])
            one[test] = model.predict(features[test])
        paths.append(one)
    for fold in range(4):
        others, own = folds != fold, folds == fold
        assert np.allclose(constant[own], values[others].mean(0))
        best = [np.argmin([((path - values)[others, c] ** 2).sum() for path in paths])
                for c in range(6)]
        for c, at in enumerate(best):
            assert np.allclose(predicted[own, c], paths[at][own, c], atol=1e-9)


def test_shares_are_those_of_readouts_whatever_the_scale():
    features, values, who = pictures(1)
    basis = random_basis(24, 5, 3)
    found = measured(features, values, who, basis, draws=50)
    assert (found["hidden_low"] < found["hidden"]).all()
    assert (found["hidden_high"] > found["hidden"]).all()
    other = measured(features * 1e3, values * 1e-3 + 5, who, basis, draws=50)
    pd.testing.assert_frame_equal(found, other)
    single = measured(features, values[:, [2]], who, basis, draws=50)
    pd.testing.assert_frame_equal(single, found.iloc[[2]].reset_index(drop=True))
    # A turn within the row space is no other head.
    turned = measured(features, values, who, basis @ random_basis(5, 5, 4), draws=50)
    assert np.allclose(turned["hidden"], found["hidden"])


def test_random_heads_lose_no_more_than_random_views():
    """Of all that is asked of six of them at most 5 % may be said to be more than a random view."""
    features, values, who = pictures(5, subjects=60, views=2)
    found = pd.concat([measured(features, values, who, random_basis(24, rank, 100 + seed),
                                draws=100, seed=1000 * seed, controls=2 + seed % 2)
                       for seed in range(6) for rank in (3, 6, 12)])
    beyond = (decided(found) == IGNORES) & (found["hidden_low"] > found["hidden_control_high"])
    assert (decided(found) == IGNORES).mean() > 0.5
    assert beyond.mean() <= 0.05
    assert measured(features, values, who, random_basis(24, 3, 0), controls=1, draws=20)[
        "hidden_control_high"].isna().all()


def test_what_does_not_vary_has_no_numbers_and_no_answer():
    features, values, who = pictures(3)
    values[:, 1] = 0.123
    found = measured(features, values, who, random_basis(24, 20, 0), draws=20)
    assert found.loc[1, ["full", "hidden", "hidden_low", "hidden_control"]].isna().all()
    assert found.drop(index=1).notna().all(axis=None)
    assert decided(found)[1] == UNSURE
    three = who < 3
    few = measured(features[three], values[three], who[three], random_basis(24, 20, 0))
    assert few["full"].isna().all()
    assert set(decided(few)) == {UNSURE}


def test_the_rule():
    rows = [  # subjects, full_low, hidden_low, hidden_high, answer
        (20, 0.1, 0.11, 0.30, IGNORES), (20, 0.1, 0.10, 0.29, KEEPS),
        (20, 0.1, 0.10, 0.40, UNSURE), (20, 0.1, 0.11, 0.29, UNSURE),
        (19, 0.9, 0.80, 0.90, UNSURE), (99, 0.09, 0.80, 0.90, UNSURE),
        (99, 0.9, -0.9, -0.1, KEEPS), (99, 0.9, np.nan, np.nan, UNSURE),
        (99, np.nan, 0.8, 0.9, UNSURE)]
    table = pd.DataFrame(rows, columns=["subjects", "full_low", "hidden_low", "hidden_high", "is"])
    assert decided(table).tolist() == table["is"].tolist()


def test_95_percent_of_the_answers_are_right_on_heads_that_are_known():
    tables = []
    for seed in range(10):
        features, values, who = pictures(seed)
        tables.append(planted_trials(
            features, values, who, random_basis(24, 18, seed), draws=200, seed=seed))
    table = pd.concat(tables).groupby(["kind", "head"])[["correct", "reversed"]]
    assert len(table) == 8
    assert (table.size() >= 50).all()
    assert (table.mean()["correct"] >= 0.95).all(), table.mean()
    assert (table.mean()["reversed"] == 0).all()


@pytest.fixture(scope="module")
def answered(smoke):
    return ask(smoke, "lite0", ["snow", "fur", "an image of a wedding", "  snow "])


def test_eight_subjects_can_tell_nothing_and_the_answer_says_so(answered):
    assert answered["prompt"].tolist() == ["snow", "fur", "an image of a wedding"]
    assert set(answered["verdict"]) == {UNSURE}
    assert set(answered["subjects"]) == {8}
    assert answered["why"].str.startswith("8 subjects are too few").all()
    assert set(answered["title"]) == {"EfficientNet-Lite0"}
    assert answered[["full", "hidden", "hidden_control"]].notna().all(axis=None)


def test_numbers_are_those_of_the_pictures_own_embeddings(answered, smoke):
    scored = smoke.is_scored
    z = smoke.embeddings.double().numpy()[scored]
    text = smoke.space.encode_text(["an image of a fur"]).double().numpy()
    right = smoke.spaces("lite0").principal_basis.numpy()
    found = measured(
        smoke.features("lite0").double().numpy()[scored], z @ text.T,
        smoke.pictures["subject"][scored], right, controls=2, draws=100)
    columns = ["full", "full_low", "hidden", "hidden_high", "hidden_control"]
    assert np.allclose(found[columns], answered.loc[[1], columns])


def test_known_factors_are_judged_by_the_rule_of_questions(smoke):
    table = concept_values(smoke)
    found = factors(smoke, "lite0")
    assert found["prompt"].tolist() == list(table.columns[3:])
    assert (found["verdict"] == decided(found)).all()
    rows = table["row"].to_numpy(copy=True)
    own = measured(
        smoke.features("lite0")[rows].double().numpy(), table[["view: scale"]].to_numpy(),
        table["subject"], smoke.spaces("lite0").principal_basis.numpy(), table["stratum"],
        controls=0, draws=smoke.config.bootstrap_draws, seed=smoke.config.seed)
    row = found.set_index("prompt").loc["view: scale"]
    columns = ["full", "full_low", "hidden", "hidden_low", "hidden_high"]
    assert np.allclose(row[columns].astype(float), own.loc[0, columns].astype(float))


@pytest.mark.parametrize(("prompts", "message"), [
    ([], "Nothing is asked"), (["snow", " ... "], "needs a word"),
    (["snow " * 200], "at most 500 characters")])
def test_what_is_no_question_is_refused(smoke, prompts, message):
    with pytest.raises(SingError, match=message):
        ask(smoke, "lite0", prompts)
