"""Steering by formula against autograd and bisection, and Attribute Scores without a loop."""

from __future__ import annotations

from functools import cache

import torch
from torch.nn.functional import cosine_similarity, normalize

from sing_nb.method.metrics import attribute_scores
from sing_nb.method.nullspace import HeadSpaces
from sing_nb.method.steer import steer, steer_all
from sing_nb.method.translator import Translator

TARGET = 40.0


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@cache  # asv sets up before every sample
def head() -> HeadSpaces:
    return HeadSpaces.from_weight(normal(1000, 1280))


def bisect(turned, start: torch.Tensor) -> torch.Tensor:
    """Step (n,) at which `turned` (steps to degrees) reaches the target: doubled, then halved.

    To 1e-9 of the step, all rows at once; nan where 30 doublings do not get there.
    """
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


class Steering:
    """All in float64: the steps are the same to 1e-6 only there."""

    title = "Steering to an Image Score"
    work = ("10,000 features of width 1,280 towards 6 prompts to 40 degrees, d = 384, "
            "a null space of 280")
    number, repeat, rounds, warmup_time, timeout = 1, 1, 3, 0, 900
    labels = {
        "time_sing": "in closed form, all prompts at once",
        "time_autograd_bisection": "autograd, then bisection through the translator",
        "time_autograd_bisection_affine": "autograd, then bisection in the joint space",
        "time_steer_loop": "steer, prompt by prompt, with the pushed features",
    }
    bounds = {"time_autograd_bisection": 100.0, "time_autograd_bisection_affine": 20.0,
              "time_steer_loop": 10.0}

    def setup(self) -> None:
        self.spaces = head()
        self.translator = Translator(normal(384, 1280, seed=1), normal(384, seed=2))
        self.features, self.texts = normal(10_000, 1280, seed=3), normal(6, 384, seed=4)

    def time_sing(self) -> torch.Tensor:
        return steer_all(
            self.features, self.translator, self.texts, self.spaces, target_is=TARGET).step

    def directions(self):
        """For each prompt: features, translated features, unit directions; by autograd."""
        exact = Translator(self.translator.weight.double(), self.translator.bias.double())
        for text in self.texts.double():
            f = self.features.double().requires_grad_()
            z = exact(f)
            (gradient,) = torch.autograd.grad(cosine_similarity(z, text, dim=1).sum(), f)
            yield exact, f.detach(), z.detach(), normalize(self.spaces.null(gradient), dim=1)

    def time_autograd_bisection(self) -> torch.Tensor:
        """As for any differentiable translator: each trial step translates the pushed features."""
        found = []
        for exact, f, z, along in self.directions():
            def turned(step: torch.Tensor, exact=exact, f=f, z=z, along=along) -> torch.Tensor:
                return cosine_similarity(z, exact(f + step[:, None] * along)).arccos().rad2deg()

            found.append(bisect(turned, f.norm(dim=1)))
        return torch.stack(found, 1)

    def time_autograd_bisection_affine(self) -> torch.Tensor:
        """Knowing that the translator is affine: each trial step adds a translated direction."""
        found = []
        for exact, f, z, along in self.directions():
            q = exact.linear(along)

            def turned(step: torch.Tensor, z=z, q=q) -> torch.Tensor:
                return cosine_similarity(z, z + step[:, None] * q).arccos().rad2deg()

            found.append(bisect(turned, f.norm(dim=1)))
        return torch.stack(found, 1)

    def time_steer_loop(self) -> torch.Tensor:
        return torch.stack([
            steer(self.features, self.translator, text, self.spaces, target_is=TARGET).step
            for text in self.texts
        ], 1)


class AttributeScores:
    title = "Attribute Scores towards many prompts"
    work = "1,000 pictures, 500 prompts, d = 384, float64"
    number, repeat, rounds, warmup_time, timeout = 1, 1, 3, 0, 300
    labels = {
        "time_sing": "by matrix products, in blocks",
        "time_prompt_loop": "a loop over prompts, cosine_similarity of torch and arccos",
        "peakmem_sing": "by matrix products, in blocks",
        "peakmem_broadcast": "all pictures with all prompts, broadcast",
    }
    bounds = {"time_prompt_loop": 10.0, "peakmem_broadcast": 3.0}

    def setup(self) -> None:
        self.z, self.moved = normal(1000, 384, seed=1).double(), normal(1000, 384, seed=2).double()
        self.texts = normal(500, 384, seed=3).double()

    def time_sing(self) -> torch.Tensor:
        return attribute_scores(self.z, self.moved, self.texts)

    def time_prompt_loop(self) -> torch.Tensor:
        def angles(z: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            return cosine_similarity(z, text).arccos().rad2deg()

        return torch.stack([angles(self.z, t) - angles(self.moved, t) for t in self.texts], 1)

    def peakmem_sing(self) -> torch.Tensor:
        return attribute_scores(self.z, self.moved, self.texts)

    def peakmem_broadcast(self) -> torch.Tensor:
        """In float32, to spare memory; still each pair has its own vectors."""
        one, other, texts = self.z.float()[:, None], self.moved.float()[:, None], self.texts.float()
        return (cosine_similarity(one, texts, dim=2).arccos()
                - cosine_similarity(other, texts, dim=2).arccos()).rad2deg()
