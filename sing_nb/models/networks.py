"""Translators trained by gradient descent, to set beside ridge: equations (14) and (15)."""

from __future__ import annotations

import copy

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cosine_similarity
from tqdm.auto import tqdm

from ..errors import unknown

__all__ = ["ARCHITECTURES", "LOSSES", "build", "cosine", "mse", "train"]

ARCHITECTURES = ("linear", "mlp3", "mlp4", "residual")
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.1  # the paper's
DROPOUT, BATCH = 0.1, 64  # the paper does not give them

Pairs = tuple[torch.Tensor, torch.Tensor]


def mse(z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over rows of the squared distance |T(f) - e|^2, equation (14), of (n, d): a scalar."""
    return (z - target).square().sum(-1).mean()


def cosine(z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - cosine similarity, equation (15), mean over rows of (n, d): a scalar, 0 to 2."""
    return (1 - cosine_similarity(z, target, dim=-1)).mean()


LOSSES = {"mse": mse, "cosine": cosine, "both": lambda z, e: mse(z, e) + cosine(z, e)}


class _Residual(nn.Module):
    """f + branch(f)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, f: torch.Tensor) -> torch.Tensor:
        return f + self.branch(f)


def build(
    architecture: str, m: int, d: int, *, hidden: int = 512, start: torch.Tensor | None = None,
    seed: int = 0,
) -> nn.Sequential:
    """An untrained translator from features (n, m) to (n, d), at first the constant `start`."""
    if architecture not in ARCHITECTURES:
        raise unknown("architecture", architecture, ARCHITECTURES)

    def block(width: int, out: int) -> nn.Sequential:
        return nn.Sequential(
            nn.LayerNorm(width), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(width, out))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture == "linear":
            layers = [nn.Linear(m, d)]
        elif architecture == "residual":
            branch = nn.Sequential(nn.Linear(m, hidden), block(hidden, m))
            layers = [_Residual(branch), nn.Linear(m, d)]
        else:
            middle = int(architecture.removeprefix("mlp")) - 2
            layers = [nn.Linear(m, hidden), *(block(hidden, hidden) for _ in range(middle)),
                      block(hidden, d)]
        module = nn.Sequential(*layers)
    if start is not None:
        last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1]
        nn.init.zeros_(last.weight)
        last.bias.data.copy_(start)
    return module


def train(
    module: nn.Module, rows: Pairs, validation: Pairs, loss: str = "mse", *, epochs: int = 50,
    patience: int = 5, seed: int = 0, progress: bool = False,
) -> tuple[nn.Module, pd.DataFrame]:
    """The best state until the validation loss has not fallen for `patience` epochs; all losses."""
    f, z = rows
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    rng = torch.Generator().manual_seed(seed)
    torch.randperm(len(f), generator=rng)  # so that runs are those of the first edition
    curve, best, lowest, state = [], 0, float("inf"), {}
    bar = tqdm(total=epochs, unit="epoch", leave=False, disable=None if progress else True)
    with torch.random.fork_rng(devices=[]), bar:
        torch.manual_seed(seed)
        for epoch in range(epochs + 1):
            if epoch:
                module.train()
                for chosen in torch.randperm(len(f), generator=rng).split(BATCH):
                    optimizer.zero_grad()
                    LOSSES[loss](module(f[chosen]), z[chosen]).backward()
                    optimizer.step()
                bar.update()
            with torch.no_grad():
                answer = module.eval()(validation[0])
            curve.append({"epoch": epoch} | {
                name: float(function(answer, validation[1])) for name, function in LOSSES.items()})
            if curve[-1][loss] < lowest:
                best, lowest, state = epoch, curve[-1][loss], copy.deepcopy(module.state_dict())
            if epoch - best >= patience:
                break
    module.load_state_dict(state)
    return module.eval(), pd.DataFrame(curve)
