"""Removing the null part of features: the thinner of two bases against the full projector."""

from __future__ import annotations

from functools import cache

import torch

from sing_nb.method.nullspace import HeadSpaces


@cache  # asv sets up before every sample
def head(m: int) -> HeadSpaces:
    return HeadSpaces.from_weight(torch.randn(1000, m, generator=torch.Generator().manual_seed(0)))


class RemoveNull:
    title = "Removing the null part"
    work = "10,000 features in float64, 1,000 classes: 280 null dimensions of 1,280, 24 of 1,024"
    labels = {
        "time_sing": "the thinner of the two bases",
        "time_projector": "the whole projector, made beforehand",
    }
    params, param_names = [[1280, 1024]], ["m"]
    number, repeat, rounds, warmup_time, timeout = 1, 3, 3, 0.1, 300

    def setup(self, m: int) -> None:
        self.features = torch.randn(10000, m, generator=torch.Generator().manual_seed(1))
        self.spaces = head(m)
        self.projector = self.spaces.remove_null(torch.eye(m, dtype=torch.float64))

    def time_sing(self, m: int) -> None:
        self.spaces.remove_null(self.features)

    def time_projector(self, m: int) -> None:
        (self.features.double() @ self.projector).to(self.features.dtype)
