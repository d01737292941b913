"""How time grows with prompts, shards, draws and lambdas (rows and widths: see ``ridge``)."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from sing_nb.checks.intervals import cluster_bootstrap
from sing_nb.method.nullspace import HeadSpaces
from sing_nb.method.steer import steer_all
from sing_nb.method.translator import RidgeFitter, Translator


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@cache  # asv sets up before every sample
def head() -> HeadSpaces:
    return HeadSpaces.from_weight(normal(1000, 1280))


class Curve:
    number, repeat, rounds, warmup_time, timeout = 1, 3, 3, 0.1, 300


class Prompts(Curve):
    title = "Steering towards many prompts"
    work = "2,000 features of width 1,280 to 40 degrees, d = 384, a null space of 280"
    params, param_names, growth = [[32, 128, 512, 2048]], ["prompts"], "prompts"
    labels = {"time_sing": "all prompts at once"}

    def setup(self, prompts: int) -> None:
        self.spaces = head()
        self.translator = Translator(normal(384, 1280, seed=1), normal(384, seed=2))
        self.features, self.texts = normal(2000, 1280, seed=3), normal(prompts, 384, seed=4)

    def time_sing(self, prompts: int) -> None:
        steer_all(self.features, self.translator, self.texts, self.spaces, target_is=40)


class Shards(Curve):
    title = "Statistics of many shards"
    work = "16,384 rows in all, m = 512, d = 384: update every shard, merge, solve once"
    params, param_names, growth = [[1, 2, 4, 8, 16]], ["shards"], "shards"
    labels = {"time_sing": "all rows, in so many shards"}

    def setup(self, shards: int) -> None:
        self.parts = list(zip(normal(16384, 512).chunk(shards),
                              normal(16384, 384, seed=1).chunk(shards)))

    def time_sing(self, shards: int) -> None:
        first, *others = [RidgeFitter(512, 384).update(x, z) for x, z in self.parts]
        for other in others:
            first.merge(other)
        first.solve(10.0)


class Lambdas(Curve):
    title = "Many lambdas from one eigendecomposition"
    work = "4,000 rows, m = 512, d = 384"
    params, param_names, growth = [[5, 15, 45, 135]], ["lambdas"], "lambdas"
    labels = {"time_sing": "the best of so many lambdas by generalised cross-validation"}

    def setup(self, lambdas: int) -> None:
        self.fit = RidgeFitter(512, 384).update(normal(4000, 512), normal(4000, 384, seed=1))
        self.lambdas = np.logspace(-2, 4, lambdas).tolist()

    def time_sing(self, lambdas: int) -> None:
        self.fit.path().gcv_lambda(self.lambdas)


class Draws(Curve):
    title = "Intervals by a cluster bootstrap"
    work = "10,000 pictures of 200 subjects"
    params, param_names, growth = [[500, 1000, 2000, 4000]], ["draws"], "draws"
    labels = {"time_sing": "so many draws of subjects"}

    def setup(self, draws: int) -> None:
        self.values = normal(10000).numpy()
        self.subjects = np.arange(10000) % 200

    def time_sing(self, draws: int) -> None:
        cluster_bootstrap(self.values, self.subjects, draws=draws)
