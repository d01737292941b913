from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from sing_nb.checks.intervals import cluster_bootstrap, deal
from sing_nb.checks.reliability import (
    HALVES,
    REDEALT,
    _deal,
    agreement_icc,
    model_reliability,
    translator_spread,
)
from sing_nb.study.tables import KINDS

#: Six targets and four judges, the example of Shrout and Fleiss (1979), table 2.
JUDGES = np.array([
    [9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])


def degrees(a, b):
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


@pytest.fixture(scope="module")
def computed(smoke, fresh):
    """The smoke study, whose tables are computed here and never read."""
    return fresh(config=smoke.config.model_copy(update={"bootstrap_draws": 20}))


# --- intraclass correlations ----------------------------------------------------------------------


def test_the_example_of_shrout_and_fleiss():
    assert agreement_icc(JUDGES) == pytest.approx(0.29, abs=0.005)  # their ICC(2,1)


def test_a_known_reliability_is_found():
    """Objects of variance 3, raters of 0.5 and noise of 1: 3 / 4.5 of a number is its object's."""
    rng = np.random.default_rng(0)
    values = (rng.normal(0, 3**0.5, (3000, 1)) + rng.normal(0, 0.5**0.5, (1, 400))
              + rng.standard_normal((3000, 400)))
    assert agreement_icc(values) == pytest.approx(3 / 4.5, abs=0.03)
    shifted = JUDGES + np.array([0, 0, 0, 5])
    both = agreement_icc(np.stack([JUDGES, shifted]))  # several tables at once
    assert both[1] == pytest.approx(agreement_icc(shifted))
    assert both[1] < both[0]  # agreement, and not consistency


# --- translators of other deals -------------------------------------------------------------------


def test_a_deal_keeps_subjects_together_in_even_groups(smoke):
    group, other = _deal(smoke, 0), _deal(smoke, 1)
    scored = smoke.pictures[smoke.is_scored].assign(group=group[smoke.is_scored])
    assert len(scored.drop_duplicates(["subject", "group"])) == len(smoke.subjects)
    sizes = scored.drop_duplicates("subject")["group"].value_counts()
    assert sorted(sizes.index) == list(range(2 * smoke.config.folds))
    assert sizes.max() - sizes.min() <= 1
    assert (group[~smoke.is_scored] == -1).all()
    assert (group != other).any()
    assert (group == _deal(smoke, 0)).all()
    # Not even the first deal repeats the draw of the study's own folds.
    subjects = sorted(smoke.subjects["subject"])
    own = dict(zip(subjects, deal(len(subjects), 2 * smoke.config.folds, smoke.config.seed)))
    kept = group >= 0
    assert (group[kept] != smoke.pictures["subject"][kept].map(own)).any()


@pytest.fixture(scope="module")
def spread(computed):
    return translator_spread(computed, "lite0")


@pytest.mark.parametrize(("part", "halves"), [("all", (0, 1)), ("first half", (0,)),
                                              ("second half", (1,))])
def test_scores_come_from_a_translator_of_other_subjects(spread, smoke, plain, part, halves):
    lam = smoke.fitted("lite0")[-1].card["lambda"]
    group, z = _deal(smoke, 1), smoke.embeddings.double().numpy()
    own = spread.query("deal == 1 and part == @part").set_index("picture")
    fold, drawings = 0, (plain.table["source"] == "clipart").to_numpy()
    others = [number for number in range(2 * smoke.config.folds) if number // 2 != fold]
    fitted_on = drawings | np.isin(group, [n for half in halves for n in others[half::2]])
    ridge = Ridge(alpha=lam).fit(plain.f[fitted_on], z[fitted_on])
    rows = smoke.rows(own.index)
    rows = rows[group[rows] // 2 == fold]
    assert len(rows)
    assert not fitted_on[rows].any()
    f, names = plain.f[rows], plain.table["picture"].to_numpy()[rows]
    before, after = ridge.predict(f), ridge.predict(f - plain.null(f))
    found = own.loc[names]
    assert found["image_score"].to_numpy() == pytest.approx(degrees(before, after), abs=2e-3)
    random, *_ = smoke.random_removals("lite0", smoke.features("lite0")[rows])
    assert found["image_score_control"].to_numpy() == pytest.approx(
        degrees(before, ridge.predict(random.double().numpy())), abs=2e-3)


# --- reliability ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(computed):
    return model_reliability(computed, "lite0")


def anova(values):
    """ICC(A,1) and the spread within objects from sums of squares, as a textbook has it."""
    n, k = values.shape
    total = ((values - values.mean()) ** 2).sum()
    rows = k * ((values.mean(1) - values.mean()) ** 2).sum()
    columns = n * ((values.mean(0) - values.mean()) ** 2).sum()
    r, c = rows / (n - 1), columns / (k - 1)
    e = (total - rows - columns) / ((n - 1) * (k - 1))
    return (r - e) / (r + (k - 1) * e + k * (c - e) / n), np.sqrt((total - rows) / (n * (k - 1)))


@pytest.mark.parametrize(
    ("kind", "column"), list(zip(KINDS, ("image_score", "image_score_control"))))
def test_reliability_is_the_anova_of_the_spread(table, spread, smoke, kind, column):
    row = table[table["kind"] == kind].set_index("over")
    deals = spread.query("part == 'all'").pivot_table(column, "picture", "deal")
    icc, within = anova(deals.to_numpy())
    assert row.loc[REDEALT, "value"] == pytest.approx(max(0, icc))
    assert row.loc[REDEALT, "spread"] == pytest.approx(within)
    subjects = spread.drop_duplicates("picture").set_index("picture")["subject"].loc[deals.index]
    drawn = cluster_bootstrap(
        deals.to_numpy(), subjects, lambda v: max(0, anova(v)[0]), draws=20, seed=smoke.config.seed)
    assert tuple(row.loc[REDEALT, ["low", "high"]]) == pytest.approx((drawn.low, drawn.high))
    halves = [anova(own.pivot_table(column, "picture", "part").to_numpy())
              for _, own in spread.query("part != 'all'").groupby("deal")]
    assert row.loc[HALVES, "value"] == pytest.approx(np.mean([max(0, icc) for icc, _ in halves]))
    assert row.loc[HALVES, "spread"] == pytest.approx(
        np.sqrt(np.mean([within**2 for _, within in halves])))
