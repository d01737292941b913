"""The translator study: does a network read features better than ridge? Supplement 1.1, offline."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cosine_similarity
from tqdm.auto import tqdm

from ..checks.intervals import cluster_bootstrap
from ..errors import SingError
from ..method.metrics import angle
from ..method.translator import RidgeFitter
from ..models.networks import (
    BATCH,
    DROPOUT,
    LEARNING_RATE,
    WEIGHT_DECAY,
    build,
    mse,
    train,
)
from ..pictures.cache import keep, keep_table, kept_table, opened, read_or_none
from ..pictures.fetch import slug, write_atomic
from .profile import unknown
from .study import Study

__all__ = [
    "LOSS_TITLES", "NONLINEAR", "TITLES", "Run", "Split", "architecture_table", "beats_ridge",
    "find", "paired_differences", "run", "run_folder", "runs", "split",
]

TABLES = ("curve", "pictures")  # of a run, in the order of Run
METHOD = 1  # part of every run's name: raise it when a run's meaning changes
PATIENCE = 5  # epochs
NONLINEAR = ("mlp3", "mlp4", "residual")
TITLES = {
    "ridge": "linear, ridge", "linear": "linear, AdamW", "mlp3": "3-layer MLP",
    "mlp4": "4-layer MLP", "residual": "residual MLP",
}
LOSS_TITLES = {"mse": "MSE", "cosine": "cosine", "both": "MSE + cosine"}
CONSTANT = "constant (control)"


class Split(NamedTuple):
    """Rows of ``Study.pictures`` by what they are for."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Run(NamedTuple):
    """What one cell of the grid left.

    Attributes
    ----------
    card : dict
        model, architecture, loss, key, parameters (how many numbers are fitted), seconds, settings,
        and ``folds``: for each tested fold its best epoch, epochs run, whether it stopped early
        (rather than being cut off), lambda (ridge), and how many pictures and subjects it saw.
    curve : pandas.DataFrame
        ``networks.Trained.curve`` with ``fold``; for ridge, one row per fold at its lambda.
    pictures : pandas.DataFrame
        One row a tested picture: picture, subject, label, fold, squared_error, target_energy
        (squared distance of its embedding to the fold's mean), cosine and angle (degrees) between
        translation and embedding, and ``constant_cosine``, ``constant_angle``: the same for the
        training pictures' mean embedding, which knows nothing of the picture.
    embeddings : torch.Tensor
        (n, d), translations of those pictures.
    """

    card: dict
    curve: pd.DataFrame
    pictures: pd.DataFrame
    embeddings: torch.Tensor


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
            f"none is left to fit on. Take at least 3: folds=3."
        )
    return Split(*(np.flatnonzero(part) for part in (rest, validation, test)))


def run_folder(study: Study, architecture: str, loss: str) -> Path:
    """Where a run lies; its name holds a hash of everything that the run depends on."""
    c = study.config
    if (architecture, loss) not in c.sweep:
        names = [f"{one} {other}" for one, other in c.sweep]
        raise unknown("cell of the grid", f"{architecture} {loss}", names)
    what = (
        METHOD, architecture, loss, study.feature_key(c.sweep_model), study.embedding_key,
        c.seed, c.folds, c.sweep_folds,
        c.sweep_views,
        c.lambdas if architecture == "ridge" else (
            c.sweep_hidden, c.sweep_epochs, PATIENCE, BATCH, DROPOUT, LEARNING_RATE, WEIGHT_DECAY,
        ),
    )
    key = hashlib.sha256(repr(what).encode()).hexdigest()[:12]
    name = f"{slug(c.sweep_model)}-{architecture}-{loss}-{key}"
    return study.folder / "sweeps" / name


def find(study: Study, architecture: str, loss: str) -> Run | None:
    """A finished run from disk, or None."""
    folder = run_folder(study, architecture, loss)
    card = read_or_none(folder / "card.json", _card)
    if card is None:
        return None  # it is written last
    tables = [read_or_none(folder / f"{name}.parquet", kept_table) for name in TABLES]
    found = read_or_none(folder / "embeddings.safetensors", opened)
    if found is None or any(table is None for table in tables):
        return None
    return Run(card, *tables, found[0]["embeddings"].float())


def _card(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise SingError(f"{path} is no JSON object ({error})") from error


def run(study: Study, architecture: str, loss: str, *, progress: bool = False) -> Run:
    """One cell of the grid, from disk or computed and kept."""
    found = find(study, architecture, loss)
    if found is not None:
        return found
    c, folder = study.config, run_folder(study, architecture, loss)
    settings = {
        "model": c.sweep_model, "architecture": architecture, "loss": loss, "profile": c.name,
        "seed": c.seed, "hidden": c.sweep_hidden, "epochs": c.sweep_epochs, "patience": PATIENCE,
        "batch": BATCH, "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY,
        "dropout": DROPOUT, "views": c.sweep_views,
    }
    begun, folds, tables, answers = time.perf_counter(), [], [], []
    for fold in range(c.sweep_folds):
        card, curve, pictures, z, parameters = _fold(study, architecture, loss, fold, progress)
        folds.append(card)
        tables.append((curve.assign(fold=fold), pictures))
        answers.append(z.half())
    curve, pictures = (pd.concat(parts, ignore_index=True) for parts in zip(*tables))
    card = settings | {
        "key": folder.name.rsplit("-", 1)[1], "parameters": parameters, "folds": folds,
        "seconds": round(time.perf_counter() - begun, 1),
    }
    for name, table in zip(TABLES, (curve, pictures), strict=True):
        keep_table(folder / f"{name}.parquet", table)
    keep(folder / "embeddings.safetensors", {"embeddings": torch.cat(answers)})
    # Last: where there is a card, the run is whole.
    write_atomic(folder / "card.json", json.dumps(card, indent=1))
    return find(study, architecture, loss)


def _fold(
    study: Study, architecture: str, loss: str, fold: int, progress: bool,
) -> tuple[dict, pd.DataFrame, pd.DataFrame, torch.Tensor, int]:
    c = study.config
    f, z = study.features(c.sweep_model), study.embeddings
    rows = split(study, fold)
    (fit, target), held_out, (asked, truth) = ((f[part], z[part]) for part in rows)
    start = target.mean(0)
    subject = study.pictures["subject"].to_numpy()
    card = {
        "fold": fold, "train_pictures": len(rows.train),
        "validation_subjects": len(set(subject[rows.validation])),
        "test_subjects": len(set(subject[rows.test])),
    }
    if architecture == "ridge":
        path = RidgeFitter(f.shape[1], z.shape[1]).update(fit, target).path()
        candidates = [path.translator(lam) for lam in c.lambdas]
        chosen = min(candidates, key=lambda one: float(mse(one(held_out[0]), held_out[1])))
        module, fitted = chosen, (chosen.weight, chosen.bias)
        record = {"epoch": 0}
        for name, (features, goal) in (("train", (fit, target)), ("validation", held_out)):
            answer = chosen(features)
            record[f"{name}_mse"] = float(mse(answer, goal))
            record[f"{name}_cosine"] = float(cosine_similarity(answer, goal).mean())
        curve = pd.DataFrame([record])
        card |= {"lambda": chosen.card["lambda"], "best": 0, "epochs": 0, "stopped": True}
    else:
        module = build(
            architecture, f.shape[1], z.shape[1], hidden=c.sweep_hidden, start=start,
            seed=c.seed + fold,
        )
        trained = train(
            module, (fit, target), held_out, loss, epochs=c.sweep_epochs, patience=PATIENCE,
            seed=c.seed + fold, progress=progress,
        )
        module, curve = trained.module, trained.curve
        fitted = tuple(module.parameters())
        card |= {
            "best": trained.best, "epochs": int(curve["epoch"].max()), "stopped": trained.stopped
        }
    with torch.no_grad():
        answer = module(asked)
    constant = start.expand_as(truth).double()
    table = study.pictures.loc[rows.test, ["picture", "subject", "label", "fold"]].assign(
        squared_error=(answer - truth).double().square().sum(1).numpy(),
        target_energy=(truth - truth.mean(0)).double().square().sum(1).numpy(),
        cosine=cosine_similarity(answer.double(), truth.double()).numpy(),
        angle=angle(answer, truth).numpy(),
        constant_cosine=cosine_similarity(constant, truth.double()).numpy(),
        constant_angle=angle(constant, truth).numpy(),
    )
    return card, curve, table, answer, sum(part.numel() for part in fitted)


def runs(study: Study, *, progress: bool = True) -> list[Run]:
    """All runs of a study's grid; those that are missing are computed, with a bar if asked."""
    missing = [cell for cell in study.config.sweep if find(study, *cell) is None]
    # A bar of nothing would still leave a line on the page.
    bar = tqdm(missing, desc="translators", unit="run", leave=False) if missing and progress else ()
    for cell in bar or missing:
        run(study, *cell, progress=progress)
    return [find(study, *cell) for cell in study.config.sweep]


# --- tables -------------------------------------------------------------------------------------


def _names(card: dict) -> dict:
    names = {key: card[key] for key in ("architecture", "loss")}
    return names | {
        "title": TITLES[card["architecture"]],
        # Ridge is what minimises the squared error and a penalty.
        "loss_title": LOSS_TITLES[card["loss"]],
    }


def _r2(v: np.ndarray) -> float:
    """1 - residual over energy, of columns squared_error and target_energy."""
    return 1 - v[:, 0].sum() / v[:, 1].sum()


def architecture_table(study: Study, found: Sequence[Run]) -> pd.DataFrame:
    """Held-out quality of every run, the paper's table 2."""
    records = []
    for one in found:
        table, folds = one.pictures, one.card["folds"]
        records.append(
            _names(one.card)
            | _three("cosine", study.interval(table["cosine"], table["subject"]))
            | _three("r2", study.interval(
                table[["squared_error", "target_energy"]], table["subject"], _r2))
            | _three("angle", study.interval(table["angle"], table["subject"]))
            | {
                "parameters": one.card["parameters"],
                "best": float(np.mean([fold["best"] for fold in folds])),
                "cut": sum(not fold["stopped"] for fold in folds),
            }
        )
    table = found[0].pictures
    constant = {"architecture": "constant", "loss": "", "title": CONSTANT, "loss_title": ""}
    for measure in ("cosine", "angle"):
        interval = study.interval(table[f"constant_{measure}"], table["subject"])
        constant |= _three(measure, interval)
    return pd.DataFrame([*records, constant])


def _three(name: str, interval: dict[str, float]) -> dict[str, float]:
    return {name: interval["value"], f"{name}_low": interval["low"],
            f"{name}_high": interval["high"]}


def paired_differences(study: Study, found: Sequence[Run]) -> pd.DataFrame:
    """Every trained run against ridge, picture by picture."""
    keys = hashlib.sha256(repr([one.card["key"] for one in found]).encode()).hexdigest()[:12]
    return study.stored(f"sweep-differences-{keys}", lambda: _paired(study, found))


def _paired(study: Study, found: Sequence[Run]) -> pd.DataFrame:
    baseline = _by(found, "ridge", "mse").pictures
    trained = [one for one in found if one.card["architecture"] != "ridge"]
    measures, records = ("cosine", "angle"), []
    for one in trained:
        for measure in measures:
            record = _names(one.card) | _difference(
                study, one.pictures, baseline, measure, len(trained) * len(measures)
            )
            sign = 1 if measure == "cosine" else -1
            ends = sorted([sign * record["low_adjusted"], sign * record["high_adjusted"]])
            records.append(record | {"better": ends[0] > 0, "worse": ends[1] < 0})
    return pd.DataFrame(records)


def _difference(
    study: Study, first: pd.DataFrame, second: pd.DataFrame, measure: str, comparisons: int
) -> dict:
    """Mean of first - second, with its plain and its adjusted interval."""
    pair = first.merge(second, on=["picture", "subject"], validate="one_to_one")
    gap = (pair[f"{measure}_x"] - pair[f"{measure}_y"]).to_numpy()
    c = study.config
    # Ends this far out need more draws.
    wide = cluster_bootstrap(
        gap, pair["subject"], level=1 - 0.05 / comparisons, draws=10 * c.bootstrap_draws,
        seed=c.seed,
    )
    return {
        "measure": measure, **study.interval(gap, pair["subject"]),
        "low_adjusted": wide.low, "high_adjusted": wide.high, "comparisons": comparisons,
    }


def beats_ridge(differences: pd.DataFrame) -> pd.DataFrame:
    """Rows of :func:`paired_differences` in which a non-linear run is better than ridge."""
    return differences[differences["architecture"].isin(NONLINEAR) & differences["better"]]


def _by(found: Sequence[Run], architecture: str, loss: str) -> Run:
    return next(
        one for one in found
        if (one.card["architecture"], one.card["loss"]) == (architecture, loss)
    )
