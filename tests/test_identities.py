from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sing_nb.identities import head_checks, score_checks, translator_checks
from sing_nb.nullspace import HeadSpaces
from sing_nb.translator import Translator


def fails(table):
    assert (table["holds"] == (table["residual"] < table["limit"])).all()
    return table.loc[~table["holds"], "equation"].tolist()


@pytest.mark.parametrize(
    ("check", "equations"),
    [(head_checks, [1, 2, 3, 9]), (translator_checks, [4]), (score_checks, [5, 6, 7, 8])],
)
def test_every_equation_holds_for_a_real_classifier(fresh, check, equations):
    table = check(fresh())
    assert table["equation"].tolist() == equations
    assert (table["model"] == "lite0").all()
    assert np.isfinite(table["residual"]).all()
    assert fails(table) == []


# --- what is wrong must show --------------------------------------------------------------------


@pytest.fixture
def small(fresh):
    """Checks of a head of 20 classes for 30 features, with spaces of one's choice."""
    rng = np.random.default_rng(0)
    weight, f = (torch.tensor(rng.standard_normal((n, 30)), dtype=torch.float32) for n in (20, 40))
    classifier = SimpleNamespace(head=SimpleNamespace(weight=weight))

    def checks(change):
        spaces = change(HeadSpaces.from_weight(weight))
        return head_checks(
            fresh(classifier=lambda model: classifier, features=lambda model: f,
                  spaces=lambda model: spaces)
        )

    checks.weight = weight.double().numpy()
    return checks


def test_a_small_head_is_checked_as_well(small):
    assert fails(small(lambda spaces: spaces)) == []


def test_the_spaces_of_another_head_fail_everywhere(small):
    other = torch.tensor(np.random.default_rng(1).standard_normal((20, 30)))
    assert fails(small(lambda spaces: HeadSpaces.from_weight(other))) == [1, 2, 3, 9]


def test_a_null_space_one_direction_too_large_reaches_a_logit(small):
    _, values, right = np.linalg.svd(small.weight)
    table = small(lambda spaces: HeadSpaces.from_svd(
        spaces.singular_values, torch.tensor(right), 19))
    assert fails(table) == [2]
    # The direction reaches logits by the smallest singular value, or what that does to a picture.
    residual = table.set_index("equation").loc[2, "residual"]
    assert residual >= values[-1] / values[0] * (1 - 1e-9)


def test_a_wrong_singular_value_fails_the_decomposition(small):
    step = torch.eye(20, dtype=torch.float64)[10] * 1e-4
    table = small(lambda spaces: dataclasses.replace(
        spaces, singular_values=spaces.singular_values + step))
    assert fails(table) == [1]
    largest = np.linalg.norm(small.weight, 2)
    assert table["residual"].max() == pytest.approx(1e-4 / largest)


def test_a_basis_of_other_lengths_is_no_projector(small):
    # It still reaches no logit.
    table = small(lambda spaces: dataclasses.replace(spaces, _basis=spaces._basis * 1.01))
    assert fails(table) == [3, 9]


def test_a_basis_out_of_square_fails(small):
    def skew(spaces):
        basis = spaces._basis.clone()
        basis[:, 0] = (basis[:, 0] + basis[:, 1]) / np.sqrt(2)
        return dataclasses.replace(spaces, _basis=basis)

    assert fails(small(skew)) == [3, 9]


def test_a_shifted_translator_has_a_slope_left(fresh, smoke):
    fits = smoke.translators("lite0")
    step = torch.full_like(fits[0].bias, 1e-3)
    shifted = [dataclasses.replace(fits[0], bias=fits[0].bias + step), *fits[1:]]
    table = translator_checks(fresh(fitted=lambda model, kind: shifted))
    assert fails(table) == [4]
    # By hand: away from the minimum by a shift e, the gradient is 2 n e for the bias and
    # 2 n e mean(f)^T for the weight.
    rows = np.flatnonzero(
        (smoke.pictures["source"] != "photo") & (smoke.pictures["fold"] != 0)
    )
    f = smoke.features("lite0")[rows].double().numpy()
    z = smoke.embeddings[rows].double().numpy()
    slope = 2 * len(f) * np.linalg.norm(step) * np.hypot(1, np.linalg.norm(f.mean(0)))
    start = 2 * np.linalg.norm((z.mean(0) - z).T @ f)
    assert table["residual"][0] == pytest.approx(slope / start, rel=1e-3)


def test_a_translator_of_another_lambda_has_a_slope_left(fresh, smoke):
    *folds, last = smoke.translators("lite0")
    wrong = Translator(last.weight, last.bias, last.card | {"lambda": last.card["lambda"] * 1.1})
    assert fails(translator_checks(fresh(fitted=lambda model, kind: [*folds, wrong]))) == [4]


def test_a_translator_that_saw_its_held_out_fold_has_a_slope_left(fresh, smoke):
    first, *others, last = smoke.translators("lite0")
    card = first.card | {"lambda": last.card["lambda"]}
    leaked = Translator(last.weight, last.bias, card)
    found = translator_checks(fresh(fitted=lambda model, kind: [leaked, *others, last]))
    assert fails(found) == [4]


@pytest.mark.parametrize(
    ("column", "equation"), [("label_angle", 6), ("attribute_score", 7), ("image_score", 8)]
)
def test_a_score_that_is_off_by_half_a_degree_shows_by_half_a_degree(
    fresh, smoke, column, equation
):
    table = smoke.scored("lite0")
    table.loc[table.index[3], column] += 0.5
    found = score_checks(fresh(scored=lambda model: table)).set_index("equation")
    assert found.index[~found["holds"]].tolist() == [equation]
    assert found.loc[equation, "residual"] == pytest.approx(0.5, abs=1e-6)


def test_scores_of_another_translator_fail(fresh, smoke):
    def shifted(model, f, rows):
        return smoke.translate(model, f, rows) + 0.05

    assert fails(score_checks(fresh(translate=shifted))) == [6, 7, 8]


def test_scores_of_a_larger_null_space_fail(fresh, smoke, plain):
    spaces = HeadSpaces.from_svd(*map(torch.tensor, (plain.values, plain.right)), 990)
    assert fails(score_checks(fresh(spaces=lambda model: spaces))) == [7, 8]


@pytest.mark.parametrize(
    ("metric", "wrong", "equations"),
    [
        ("angle", lambda a, b: torch.zeros(len(a)), [5]),
        # One that forgets where it came from does not turn its sign.
        ("attribute_score", lambda z, moved, text: torch.ones(len(z)), [7, 8]),
        ("image_score", lambda z, moved: torch.zeros(len(z)), [8]),
    ],
)
def test_wrong_metrics_fail(fresh, monkeypatch, metric, wrong, equations):
    monkeypatch.setattr(f"sing_nb.identities.{metric}", wrong)
    found = fails(score_checks(fresh()))
    assert set(found) <= set(equations)
    assert equations[0] in found
