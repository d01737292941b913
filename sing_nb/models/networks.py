"""Translators trained by gradient descent, to set beside ridge: equations (14) and (15)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cosine_similarity
from tqdm.auto import tqdm

from ..errors import SingError, unknown

__all__ = ["ARCHITECTURES", "LOSSES", "Trained", "both", "build", "cosine", "mse", "train"]

ARCHITECTURES = ("linear", "mlp3", "mlp4", "residual")
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.1  # the paper's
DROPOUT, BATCH = 0.1, 64  # the paper does not give them
WATCHED = 1024  # training rows that the curve is measured on

Pairs = tuple[torch.Tensor, torch.Tensor]


def mse(z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over rows of the squared distance |T(f) - e|^2, equation (14), of (n, d): a scalar."""
    return (z - target).square().sum(-1).mean()


def cosine(z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - cosine similarity, equation (15), mean over rows of (n, d): a scalar, 0 to 2."""
    return (1 - cosine_similarity(z, target, dim=-1)).mean()


def both(z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The sum of :func:`mse` and :func:`cosine`: a scalar, at least 0."""
    return mse(z, target) + cosine(z, target)


LOSSES: dict[str, Callable] = {"mse": mse, "cosine": cosine, "both": both}


class _Residual(nn.Module):
    """f + branch(f)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, f: torch.Tensor) -> torch.Tensor:
        return f + self.branch(f)


def _layers(architecture: str, m: int, d: int, hidden: int, dropout: float) -> list[nn.Module]:
    def block(width: int, out: int) -> nn.Sequential:
        return nn.Sequential(
            nn.LayerNorm(width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, out)
        )

    if architecture == "linear":
        return [nn.Linear(m, d)]
    if architecture == "residual":
        branch = nn.Sequential(nn.Linear(m, hidden), block(hidden, m))
        return [_Residual(branch), nn.Linear(m, d)]
    middle = int(architecture.removeprefix("mlp")) - 2
    return [
        nn.Linear(m, hidden), *(block(hidden, hidden) for _ in range(middle)), block(hidden, d)
    ]


def build(
    architecture: str, m: int, d: int, *, hidden: int = 512, dropout: float = DROPOUT,
    start: torch.Tensor | None = None, seed: int = 0,
) -> nn.Sequential:
    """An untrained translator from features (n, m) to embeddings (n, d)."""
    if architecture not in ARCHITECTURES:
        raise unknown("architecture", architecture, ARCHITECTURES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(*_layers(architecture, m, d, hidden, dropout))
    if start is not None:
        last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
        with torch.no_grad():
            last.weight.zero_()
            last.bias.copy_(start)
    return module


class Trained(NamedTuple):
    """A translator in its best state on the validation rows, and how it got there."""

    module: nn.Module
    curve: pd.DataFrame
    best: int
    stopped: bool


def train(
    module: nn.Module, rows: Pairs, validation: Pairs, loss: str = "mse", *, epochs: int = 50,
    patience: int = 5, batch: int = BATCH, learning_rate: float = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY, seed: int = 0, progress: bool = False,
) -> Trained:
    """Train with AdamW until the validation loss has not fallen for `patience` epochs."""
    if loss not in LOSSES:
        raise unknown("loss", loss, LOSSES)
    f, z = rows
    if len(f) == 0 or len(validation[0]) == 0:
        raise SingError(
            f"Training needs rows to fit and to validate on; got {len(f)} and {len(validation[0])}."
        )
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True
    )
    rng = torch.Generator().manual_seed(seed)
    watched = torch.randperm(len(f), generator=rng)[:WATCHED]
    curve: list[dict] = []
    best, lowest, state = 0, float("inf"), {}
    bar = tqdm(total=epochs, unit="epoch", leave=False, disable=None if progress else True)
    with torch.random.fork_rng(devices=[]), bar:
        torch.manual_seed(seed)
        for epoch in range(epochs + 1):
            if epoch:
                module.train()
                for chosen in torch.randperm(len(f), generator=rng).split(batch):
                    optimizer.zero_grad()
                    LOSSES[loss](module(f[chosen]), z[chosen]).backward()
                    optimizer.step()
                bar.update()
            fitted, found = _measure(module, f[watched], z[watched]), _measure(module, *validation)
            curve.append({
                "epoch": epoch, "train_mse": fitted["mse"], "train_cosine": 1 - fitted["cosine"],
                "validation_mse": found["mse"], "validation_cosine": 1 - found["cosine"],
            })
            if found[loss] < lowest:
                best, lowest, state = epoch, found[loss], copy.deepcopy(module.state_dict())
            if epoch - best >= patience:
                break
    module.load_state_dict(state)
    # The last epoch may be the one that uses up the patience: that is a stop, not a cut.
    return Trained(module.eval(), pd.DataFrame(curve), best, epoch - best >= patience)


@torch.no_grad()
def _measure(module: nn.Module, f: torch.Tensor, z: torch.Tensor) -> dict[str, float]:
    """Every loss without dropout."""
    answer = module.eval()(f)
    return {name: float(function(answer, z)) for name, function in LOSSES.items()}
