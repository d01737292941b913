"""Races of the method against other implementations, with the least that each has to win by.

`make bench` runs them: a plain pytest does not collect files of this name.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from sing_nb.method.metrics import attribute_score
from sing_nb.method.nullspace import HeadSpaces
from sing_nb.method.steer import steer_all
from sing_nb.method.translator import RidgeFitter, Translator, grouped_cv

pytest_plugins = ["race"]  # beside this file
LAMS = np.logspace(-2, 5, 15).tolist()
FOLDS = 5
TARGET = 40.0  # degrees


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- a path of lambdas --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    """Features as wide as ViT-B's and targets as CLIP's that they explain in part, float64."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 768)) * np.logspace(0, -2, 768)
    z = x @ rng.standard_normal((768, 512)) + 5 * rng.standard_normal((20_000, 512))
    return x, z


@pytest.mark.benchmark(group="15 lambdas, 5 folds: 20,000 rows, 768 features, 512 targets")
@pytest.mark.parametrize("who", ["sing", "GridSearchCV"])
def test_lambda_path(race, rows, who):
    x, z = rows

    def sing():
        blocks = zip(*(torch.from_numpy(part).chunk(FOLDS) for part in rows))
        folds = [RidgeFitter(768, 512).update(*block) for block in blocks]
        return grouped_cv(RidgeFitter(768, 512), folds, LAMS).mean(0).argmax()

    def grid_search():
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import GridSearchCV, KFold

        search = GridSearchCV(
            Ridge(), {"alpha": LAMS}, cv=KFold(FOLDS), refit=False,
            scoring=lambda fit, x, z: 1 - ((fit.predict(x) - z) ** 2).sum() / (
                (z - z.mean(0)) ** 2).sum())
        return search.fit(x, z).best_index_

    race("lambda path", who, sing if who == "sing" else grid_search, at_least=20, same=0)


# --- steering to a target -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def pushes():
    """4,000 features of width 1,280, a null space of 280, 6 prompts; all in float64."""
    translator = Translator(normal(384, 1280, seed=1).double(), normal(384, seed=2).double())
    spaces = HeadSpaces.from_weight(normal(1000, 1280))
    return normal(4000, 1280, seed=3).double(), translator, normal(6, 384, seed=4).double(), spaces


def bisect(turned, start):
    """Steps (n,) at which `turned` (steps to degrees) reaches the target: doubled, then halved."""
    low, high = torch.zeros_like(start), start.clone()
    for _ in range(30):
        short = turned(high) < TARGET
        if not short.any():
            break
        low, high = torch.where(short, high, low), torch.where(short, 2 * high, high)
    for _ in range(30):
        middle = (low + high) / 2
        short = turned(middle) < TARGET
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return torch.where(turned(high) >= TARGET, high, torch.nan)


@pytest.mark.benchmark(group="steering to 40 degrees: 4,000 features of 1,280, 6 prompts")
@pytest.mark.parametrize("who", ["sing", "autograd and bisection"])
def test_steering(race, pushes, who):
    f, translator, texts, spaces = pushes

    def autograd():
        found = []
        for text in texts:
            variable = f.clone().requires_grad_()
            cosine = cosine_similarity(translator(variable), text, dim=1).sum()
            along = normalize(spaces.null(torch.autograd.grad(cosine, variable)[0]), dim=1)
            z = translator(f)

            def turned(step, along=along, z=z):
                after = translator(f + step[:, None] * along)
                return cosine_similarity(z, after).arccos().rad2deg()

            found.append(bisect(turned, f.norm(dim=1)))
        return torch.stack(found, 1)

    def sing():
        return steer_all(f, translator, texts, spaces, target_is=TARGET).step

    race("steering", who, sing if who == "sing" else autograd, at_least=30, same=1e-5)


# --- Attribute Scores ---------------------------------------------------------------------------


@pytest.mark.benchmark(group="Attribute Scores: 1,000 pictures, 500 prompts of width 384")
@pytest.mark.parametrize("who", ["sing", "a loop over prompts"])
def test_attribute_scores(race, who):
    z, moved, texts = (normal(n, 384, seed=n).double() for n in (1000, 1001, 500))
    moved = moved[:1000]

    def loop():
        def angles(rows, text):
            return cosine_similarity(rows, text).arccos().rad2deg()

        return torch.stack([angles(z, text) - angles(moved, text) for text in texts], 1)

    def sing():
        return attribute_score(z, moved, texts, paired=False)

    race("Attribute Scores", who, sing if who == "sing" else loop, at_least=5, same=1e-6)
