"""Ridge over a path of lambdas against scikit-learn, its growth, and memory of a streamed fit."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from sing_nb.method.translator import RidgeFitter, grouped_cv

LAMS = np.logspace(-2, 5, 15).tolist()
FOLDS = 5


@cache  # asv sets up before every sample
def rows(n: int, m: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Features with a falling spectrum and targets that they explain in part, float64."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((n, m)) * np.logspace(0, -2, m)) @ rng.standard_normal((m, m))
    z = x @ rng.standard_normal((m, d)) / m**0.5 + 5 * rng.standard_normal((n, d))
    return x, z


def fitter(x: np.ndarray, z: np.ndarray) -> RidgeFitter:
    return RidgeFitter(x.shape[1], z.shape[1]).update(torch.from_numpy(x), torch.from_numpy(z))


def grouped(x: np.ndarray, z: np.ndarray) -> torch.Tensor:
    """All of it: statistics of every fold, and the held-out R2 of every lambda."""
    parts = np.array_split(np.arange(len(x)), FOLDS)
    folds = [fitter(x[part], z[part]) for part in parts]
    return grouped_cv(RidgeFitter(x.shape[1], z.shape[1]), folds, LAMS)


class LambdaPath:
    """Every one from the rows in memory to the scores of all lambdas."""

    title = "A path of 15 lambdas"
    work = "10,000 rows, m = 2,048, d = 768, all in float64; cross-validation in 5 folds"
    number, repeat, rounds, warmup_time, timeout = 1, 1, 3, 0, 900
    labels = {
        "time_sing_gcv": "generalised cross-validation",
        "time_sing_grouped": "grouped 5-fold cross-validation",
        "time_sklearn_grid_search": "GridSearchCV of Ridge (scikit-learn)",
        "time_sklearn_ridgecv": "RidgeCV, leave-one-out (scikit-learn)",
        "time_sklearn_ridge": "one Ridge fit of one lambda (scikit-learn)",
    }
    bounds = {
        ("time_sing_gcv", "time_sklearn_grid_search"): 20.0,
        ("time_sing_gcv", "time_sklearn_ridge"): 1 / 3,
        ("time_sing_grouped", "time_sklearn_ridge"): 1 / 8,
    }

    def setup(self) -> None:
        self.x, self.z = rows(10_000, 2048, 768)

    def time_sing_gcv(self) -> None:
        fitter(self.x, self.z).path().gcv_lambda(LAMS)

    def time_sing_grouped(self) -> None:
        grouped(self.x, self.z)

    def time_sklearn_grid_search(self) -> None:
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import GridSearchCV

        GridSearchCV(Ridge(), {"alpha": LAMS}, cv=FOLDS, refit=False).fit(self.x, self.z)

    def time_sklearn_ridgecv(self) -> None:
        from sklearn.linear_model import RidgeCV

        RidgeCV(alphas=LAMS).fit(self.x, self.z)

    def time_sklearn_ridge(self) -> None:
        from sklearn.linear_model import Ridge

        Ridge(alpha=10.0).fit(self.x, self.z)


class FewRows:
    title = "Fewer rows than features"
    work = "400 rows, m = 2,048, d = 768, in float64; the dual problem"
    number, repeat, rounds, warmup_time, timeout = 1, 3, 3, 0.1, 300
    labels = {
        "time_sing_gcv": "15 lambdas by generalised cross-validation",
        "time_sklearn_ridgecv": "15 lambdas by RidgeCV (scikit-learn)",
        "time_sklearn_ridge": "one Ridge fit of one lambda (scikit-learn)",
    }

    def setup(self) -> None:
        self.x, self.z = rows(400, 2048, 768)

    def time_sing_gcv(self) -> None:
        fitter(self.x, self.z).path().gcv_lambda(LAMS)

    def time_sklearn_ridgecv(self) -> None:
        from sklearn.linear_model import RidgeCV

        RidgeCV(alphas=LAMS).fit(self.x, self.z)

    def time_sklearn_ridge(self) -> None:
        from sklearn.linear_model import Ridge

        Ridge(alpha=10.0).fit(self.x, self.z)


class Streamed:
    """asv counts the whole process, of which the imports are most."""

    title = "Peak memory of a streamed fit"
    work = "100,000 float32 rows in blocks of 4,000 (819 MB of features), m = 2,048, d = 512"
    number, repeat, rounds, warmup_time, timeout = 1, 1, 1, 0, 600
    labels = {"peakmem_sing": "15 lambdas, one block of rows in memory at a time"}
    limits = {"peakmem_sing": 1e9}

    def peakmem_sing(self) -> None:
        fit, seeds = RidgeFitter(2048, 512), torch.Generator().manual_seed(0)
        for _ in range(25):
            x, z = (torch.randn(4000, width, generator=seeds) for width in (2048, 512))
            fit.update(x, z)
        fit.path().gcv_lambda(LAMS)


class Curve:
    number, repeat, rounds, warmup_time, timeout = 1, 3, 3, 0.1, 300


class Rows(Curve):
    title = "Statistics of many rows"
    work = "m = 1,024, d = 384, float32 rows"
    params, param_names, growth = [[4000, 8000, 16000, 32000]], ["n"], "n"
    labels = {"time_sing": "sums and products of so many rows"}

    def setup(self, n: int) -> None:
        x, z = rows(32_000, 1024, 384)
        self.x, self.z = (torch.from_numpy(part[:n]).float() for part in (x, z))

    def time_sing(self, n: int) -> None:
        RidgeFitter(1024, 384).update(self.x, self.z)


class Widths(Curve):
    title = "A path of lambdas for wide features"
    work = "4,096 rows, d = 384, 15 lambdas by generalised cross-validation, from the rows"
    params, param_names, growth = [[256, 512, 1024, 2048]], ["m"], "m"
    labels = {"time_sing": "so many features"}

    def setup(self, m: int) -> None:
        self.x, self.z = rows(4096, m, 384)

    def time_sing(self, m: int) -> None:
        fitter(self.x, self.z).path().gcv_lambda(LAMS)
