"""Translators trained by gradient descent, to set beside ridge: equations (14) and (15).

The paper's supplement names the architectures in one line each. Read here as follows, with m
features, d dimensions of the joint space and h hidden units, where a block is
LayerNorm-GELU-Dropout-Linear:

- ``linear``: Linear(m, d), the shape of ridge.
- ``mlp3``: Linear(m, h), block(h, h), block(h, d): three linear layers, the first one included.
- ``mlp4``: the same with one more block(h, h).
- ``residual``: f + block(h, m)(Linear(m, h)(f)), then the projection Linear(m, d).

Each starts as a constant: the last linear layer has weight 0 and the training targets' mean as its
bias. torch's random start instead leaves, in every feature direction that the pictures hardly
vary along, noise that no gradient removes.
"""

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
    """Mean over rows of the squared distance |T(f) - e|^2, equation (14), of (n, d): a scalar.

    Summed over dimensions, not averaged.

    Examples
    --------
    >>> mse(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
    tensor(25.)
    """
    return (z - target).square().sum(-1).mean()


def cosine(z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 - cosine similarity, equation (15), mean over rows of (n, d): a scalar, 0 to 2.

    Examples
    --------
    >>> cosine(torch.tensor([[3.0, 4.0]]), torch.tensor([[-4.0, 3.0]]))
    tensor(1.)
    """
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
    """An untrained translator from features (n, m) to embeddings (n, d).

    Parameters
    ----------
    architecture : str
        One of :data:`ARCHITECTURES`; the room's text says what each is.
    m, d : int
        Width of features and of embeddings.
    hidden : int
        Units of hidden layers.
    dropout : float
        Share of units that are dropped in training, 0 to 1.
    start : torch.Tensor, optional
        (d,), what it answers before training; without it the last layer is random as well.
    seed : int
        Of the random weights.

    Returns
    -------
    torch.nn.Sequential
        In training mode, float32.

    Raises
    ------
    SingError
        For an unknown architecture.

    Examples
    --------
    >>> build("mlp3", 8, 2, hidden=4, start=torch.ones(2))(torch.zeros(1, 8)).tolist()
    [[1.0, 1.0]]
    """
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
    """A translator in its best state on the validation rows, and how it got there.

    `curve` has a row an epoch (0 = before training): epoch, train_mse, train_cosine,
    validation_mse, validation_cosine; mean squared distance and mean cosine similarity, without
    dropout, whatever was minimised. `best` is the epoch of the best state, `stopped` whether it
    stopped early (False if the number of epochs cut it off).
    """

    module: nn.Module
    curve: pd.DataFrame
    best: int
    stopped: bool


def train(
    module: nn.Module, rows: Pairs, validation: Pairs, loss: str = "mse", *, epochs: int = 50,
    patience: int = 5, batch: int = BATCH, learning_rate: float = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY, seed: int = 0, progress: bool = False,
) -> Trained:
    """Train with AdamW until the validation loss has not fallen for `patience` epochs.

    `rows` and `validation` are features (n, m) and targets (n, d), to fit on and to decide when to
    stop. The weight decay is the paper's L2 term. `seed` is that of the order of rows and of
    dropout: the same seed gives the same bits on one thread. The module is trained in place.
    """
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
