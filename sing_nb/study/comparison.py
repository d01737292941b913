"""The translator study: does a network read features better than ridge? Supplement 1.1, offline."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cosine_similarity

from ..errors import SingError
from ..method.metrics import angle
from ..method.translator import RidgeFitter
from ..models import networks
from .study import Study, stored

__all__ = ["LOSS_TITLES", "TITLES", "Split", "run", "split"]

PATIENCE = 5  # epochs
TITLES = {
    "ridge": "linear, ridge", "linear": "linear, AdamW", "mlp3": "3-layer MLP",
    "mlp4": "4-layer MLP", "residual": "residual MLP"}
LOSS_TITLES = {"mse": "MSE", "cosine": "cosine", "both": "MSE + cosine"}


class Split(NamedTuple):
    """Rows of ``Study.pictures`` by what they are for."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(study: Study, fold: int) -> Split:
    """Which pictures are fitted on, which decide, and which test, when `fold` is tested."""
    table, c = study.pictures, study.config
    scored = study.is_scored & (table["view"] < c.sweep_views)
    drawing = (table["source"] == "clipart") & (table["view"] == 0)
    test = scored & (table["fold"] == fold)
    validation = scored & (table["fold"] == (fold + 1) % c.folds)
    rest = (scored & ~test & ~validation) | drawing
    if not rest.any():
        raise SingError(
            f"One fold tests a translator and one decides when its training stops; of {c.folds} "
            f"none is left to fit on. Take at least 3: folds=3.")
    return Split(*(np.flatnonzero(part) for part in (rest, validation, test)))


@stored(keys=["sweep_model", "sweep_folds", "sweep_views", "sweep_hidden", "sweep_epochs"])
def run(study: Study, architecture: str, loss: str) -> pd.DataFrame:
    """One translator of the grid in every tested fold: a row per tested picture, its embedding."""
    c, parts = study.config, []
    for fold in range(c.sweep_folds):
        f, z = study.features(c.sweep_model), study.embeddings
        rows = split(study, fold)
        fit, held_out, (asked, truth) = ((f[part], z[part]) for part in rows)
        start = fit[1].mean(0)
        if architecture == "ridge":
            path = RidgeFitter(f.shape[1], z.shape[1]).update(*fit).path()
            candidates = [path.translator(lam) for lam in c.lambdas]
            module = min(candidates, key=lambda T: float(networks.mse(T(held_out[0]), held_out[1])))
        else:
            module = networks.build(architecture, f.shape[1], z.shape[1], hidden=c.sweep_hidden,
                                    start=start, seed=c.seed + fold)
            module, _ = networks.train(
                module, fit, held_out, loss, epochs=c.sweep_epochs, patience=PATIENCE,
                seed=c.seed + fold, progress=study.progress)
        with torch.no_grad():
            answer = module(asked)
        constant, exact = start.expand_as(truth).double(), truth.double()
        parts.append(study.pictures.loc[rows.test, ["picture", "subject", "label", "fold"]].assign(
            squared_error=(answer - truth).double().square().sum(1).numpy(),
            target_energy=(truth - truth.mean(0)).double().square().sum(1).numpy(),
            cosine=cosine_similarity(answer.double(), exact).numpy(),
            angle=angle(answer, truth).numpy(),
            constant_cosine=cosine_similarity(constant, exact).numpy(),
            constant_angle=angle(constant, truth).numpy(),
            embedding=list(answer.half().float().numpy())))
    return pd.concat(parts, ignore_index=True)
