"""The translator study: does a network read features better than ridge? Supplement 1.1, offline.

A run is one cell of the grid architecture x loss. For each tested fold k, its subjects are the
test, those of fold k + 1 decide when training stops (for ridge: which lambda), and the other folds
and the clip art are fitted on. Ridge gets the same rows, so that only the translator differs.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy
import torch
from torch.nn.functional import cosine_similarity, normalize
from tqdm.auto import tqdm

from .errors import SingError
from .fetch import slug, write_atomic
from .kept import keep, keep_table, kept_table, opened, read_or_none
from .metrics import angle
from .neighbours import looks
from .networks import (
    BATCH,
    DROPOUT,
    LEARNING_RATE,
    LOSSES,
    WEIGHT_DECAY,
    as_module,
    build,
    mse,
    train,
)
from .profile import unknown
from .stats import cluster_bootstrap
from .study import Study
from .tracking import tracked
from .translator import RidgeFitter

__all__ = [
    "LOSS_TITLES", "NONLINEAR", "TITLES", "Run", "Split", "agreement", "architecture_table",
    "beats_ridge", "cosines", "curves", "find", "lean", "loss_check", "loss_differences",
    "paired_differences", "readings", "run", "run_folder", "runs", "split",
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
        ``networks.Trained.curve`` with ``fold``; for ridge, one row a fold at its lambda.
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
    """Which pictures are fitted on, which decide, and which test, when `fold` is tested.

    Raises
    ------
    SingError
        If nothing is left to fit on.
    """
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
    found = read_or_none(folder / "embeddings.safetensors", partial(opened, older=True))
    if found is None or any(table is None for table in tables):
        return None
    return Run(card, *tables, found[0]["embeddings"].float())


def _card(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise SingError(f"{path} is no JSON object ({error})") from error


def run(
    study: Study, architecture: str, loss: str, *, wandb_mode: str = "off", progress: bool = False
) -> Run:
    """One cell of the grid, from disk or computed and kept.

    Parameters
    ----------
    study : Study
    architecture, loss : str
        A pair of ``study.config.sweep``.
    wandb_mode : str
        See :func:`sing_nb.tracking.tracked`; only a run that is computed is logged.
    progress : bool
        Whether to show a bar of epochs.

    Returns
    -------
    Run
    """
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
    with tracked(wandb_mode, study.folder / "sweeps", folder.name, settings) as log:
        for fold in range(c.sweep_folds):
            card, curve, pictures, z, parameters = _fold(
                study, architecture, loss, fold, progress,
                lambda record, fold=fold: log(
                    {f"fold {fold}/{name}": value for name, value in record.items()}
                ),
            )
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
    study: Study, architecture: str, loss: str, fold: int, progress: bool, log,
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
        module = as_module(chosen)
        record = {"epoch": 0}
        for name, (features, goal) in (("train", (fit, target)), ("validation", held_out)):
            answer = chosen(features)
            record[f"{name}_mse"] = float(mse(answer, goal))
            record[f"{name}_cosine"] = float(cosine_similarity(answer, goal).mean())
        log(record)
        curve = pd.DataFrame([record])
        card |= {"lambda": chosen.card["lambda"], "best": 0, "epochs": 0, "stopped": True}
    else:
        module = build(
            architecture, f.shape[1], z.shape[1], hidden=c.sweep_hidden, start=start,
            seed=c.seed + fold,
        )
        trained = train(
            module, (fit, target), held_out, loss, epochs=c.sweep_epochs, patience=PATIENCE,
            seed=c.seed + fold, progress=progress, log=log,
        )
        module, curve = trained.module, trained.curve
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
    return card, curve, table, answer, sum(p.numel() for p in module.parameters())


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


def curves(found: Sequence[Run]) -> pd.DataFrame:
    """Training curves of all runs: architecture, loss, their titles, fold, best, and the curve."""
    parts = []
    for one in found:
        best = {fold["fold"]: fold["best"] for fold in one.card["folds"]}
        table = one.curve.assign(**_names(one.card))
        parts.append(table.assign(best=table["epoch"] == table["fold"].map(best)))
    return pd.concat(parts, ignore_index=True)


def cosines(found: Sequence[Run]) -> pd.DataFrame:
    """Cosine of every tested picture, one row a picture, translator and loss.

    Returns
    -------
    pandas.DataFrame
        loss_title, title, cosine; ridge and the constant, which have no choice of loss, stand
        beside every loss.
    """
    ridge, parts = _by(found, "ridge", "mse"), []
    for loss in dict.fromkeys(one.card["loss"] for one in found):
        chosen = [ridge, *(one for one in found if one.card["loss"] == loss and one is not ridge)]
        hills = {TITLES[one.card["architecture"]]: one.pictures["cosine"] for one in chosen}
        hills[CONSTANT] = ridge.pictures["constant_cosine"]
        parts += [
            pd.DataFrame({"loss_title": LOSS_TITLES[loss], "title": title, "cosine": values})
            for title, values in hills.items()
        ]
    return pd.concat(parts, ignore_index=True)


def loss_check(study: Study, found: Sequence[Run]) -> pd.DataFrame:
    """Equations (14) and (15) on every run's held-out translations: torch against NumPy.

    Returns
    -------
    pandas.DataFrame
        One row a run: architecture, loss, and for ``mse`` and ``cosine`` the difference between
        the loss that was trained on and NumPy's in float64, as a share of the latter.
    """
    records = []
    for one in found:
        rows = study.rows(one.pictures["picture"])
        z, e = one.embeddings, study.embeddings[rows]
        a, b = z.numpy().astype(float), e.numpy().astype(float)
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        by_hand = {
            "mse": np.mean(np.sum((a - b) ** 2, axis=1)),
            "cosine": np.mean(1 - np.sum(a * b, axis=1) / lengths),
        }
        records.append(_names(one.card) | {
            name: abs(float(LOSSES[name](z, e)) - value) / value
            for name, value in by_hand.items()
        })
    return pd.DataFrame(records)


def _r2(v: np.ndarray) -> float:
    """1 - residual over energy, of columns squared_error and target_energy."""
    return 1 - v[:, 0].sum() / v[:, 1].sum()


def architecture_table(study: Study, found: Sequence[Run]) -> pd.DataFrame:
    """Held-out quality of every run, the paper's table 2: subjects never seen, cluster bootstrap.

    Parameters
    ----------
    study : Study
        For draws and seed.
    found : sequence of Run
        Of :func:`runs`.

    Returns
    -------
    pandas.DataFrame
        One row a run, and a last one for the constant that answers every picture with the training
        mean: architecture, loss, titles; ``cosine``, ``r2`` (over all tested pictures, about their
        folds' means) and ``angle`` (degrees), each with ``_low`` and ``_high`` (95 %, over
        subjects); parameters; ``best`` (epoch of the best state, mean over folds); ``cut`` (folds
        in which the number of epochs ended training).
    """
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
    """Every trained run against ridge, picture by picture.

    Returns
    -------
    pandas.DataFrame
        One row a run and ``measure`` (cosine, angle in degrees): architecture, loss, titles,
        ``value`` (mean difference, run minus ridge) with ``low`` and ``high`` (95 %, cluster
        bootstrap over subjects), ``low_adjusted`` and ``high_adjusted`` (the same at a level that
        holds for all ``comparisons``, the rows of this table, at once, after Bonferroni), and
        ``better``, ``worse``: the adjusted interval lies on one side of zero. Higher is better for
        cosine, lower for angle.
    """
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
    """Rows of :func:`paired_differences` in which a non-linear run is better than ridge.

    Empty means that no non-linear translator beats ridge on held-out subjects: none whose adjusted
    interval of the paired difference lies on the better side of zero, in cosine or in angle.
    """
    return differences[differences["architecture"].isin(NONLINEAR) & differences["better"]]


def loss_differences(study: Study, found: Sequence[Run]) -> pd.DataFrame:
    """What minimising the cosine loss alone does instead of MSE alone, on held-out pictures.

    Returns
    -------
    pandas.DataFrame
        One row an architecture and measure (squared_error, cosine): title, ``value`` (mean paired
        difference, cosine-trained minus MSE-trained), ``low`` and ``high`` (95 %, over subjects),
        and ``mse_trained``, ``cosine_trained`` (the two means).
    """
    records = []
    for architecture in dict.fromkeys(one.card["architecture"] for one in found):
        if architecture == "ridge":
            continue
        by_mse, by_cosine = (_by(found, architecture, loss) for loss in ("mse", "cosine"))
        for measure in ("squared_error", "cosine"):
            record = _difference(study, by_cosine.pictures, by_mse.pictures, measure, 1)
            records.append(
                {"architecture": architecture, "title": TITLES[architecture]}
                | {key: record[key] for key in ("measure", "value", "low", "high")}
                | {
                    "mse_trained": by_mse.pictures[measure].mean(),
                    "cosine_trained": by_cosine.pictures[measure].mean(),
                }
            )
    return pd.DataFrame(records)


def lean(study: Study, found: Sequence[Run]) -> pd.DataFrame:
    """Do the cosines pile up at the high end? Skewness of their distribution, figure 8.

    Only runs that minimise the MSE are asked.

    Returns
    -------
    pandas.DataFrame
        One row an architecture: title, ``median`` (cosine), ``value`` (skewness; below 0 = a tail
        towards low values, most of the mass at high ones) with ``low`` and ``high`` (95 %, over
        subjects).
    """
    records = []
    for one in found:
        if one.card["loss"] == "mse":
            records.append(
                _names(one.card) | {"median": one.pictures["cosine"].median()}
                | study.interval(one.pictures["cosine"], one.pictures["subject"], scipy.stats.skew)
            )
    return pd.DataFrame(records)


def _by(found: Sequence[Run], architecture: str, loss: str) -> Run:
    return next(
        one for one in found
        if (one.card["architecture"], one.card["loss"]) == (architecture, loss)
    )


def agreement(study: Study, found: Sequence[Run]) -> pd.DataFrame:
    """Do other translators say the same of a picture as ridge does? Figure 11, in numbers.

    Only runs that minimise the MSE are asked.

    Returns
    -------
    pandas.DataFrame
        One row an architecture: title, ``angle`` (mean angle between its translation and ridge's,
        degrees) with ``angle_low`` and ``angle_high``, ``error`` (its own mean angle to the
        picture's embedding), ``same`` (share of pictures whose nearest picture of another subject
        is the same as by ridge) with its interval, and ``chance``: the same share if each picture
        drew its nearest from ridge's list.
    """
    baseline = _by(found, "ridge", "mse")
    near, subject = _nearest(study, baseline), baseline.pictures["subject"]
    share = near.value_counts(normalize=True)
    records = []
    for one in found:
        if one.card["loss"] != "mse" or one is baseline:
            continue
        gap = angle(one.embeddings, baseline.embeddings).numpy()
        same = (_nearest(study, one) == near).to_numpy(dtype=float)
        records.append(
            _names(one.card) | _three("angle", study.interval(gap, subject))
            | {"error": one.pictures["angle"].mean()}
            | _three("same", study.interval(same, subject))
            | {"chance": float(share.pow(2).sum())}
        )
    return pd.DataFrame(records)


def _nearest(study: Study, one: Run) -> pd.Series:
    """Name of the picture of another subject, clip art apart, nearest to each translation."""
    table = study.pictures[study.pictures["source"] != "clipart"]
    near = normalize(one.embeddings, dim=1) @ normalize(study.embeddings[table.index], dim=1).T
    own = one.pictures["subject"].to_numpy()[:, None] == table["subject"].to_numpy()[None]
    best = near.masked_fill(torch.tensor(own), -2).argmax(1)
    return pd.Series(table["picture"].to_numpy()[best])


def readings(
    study: Study, found: Sequence[Run], labels: Sequence[str], k: int = 3, least: int = 3,
    most: int = 6,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Held-out photos as every architecture reads them: nearest pictures, and nearest words.

    Runs that minimise the MSE are asked. Labels that no fold tests are left out, and others that
    are tested fill up the list.

    Parameters
    ----------
    study : Study
    found : sequence of Run
    labels : sequence of str
        Subjects to read.
    k : int
        Pictures and words for each.
    least, most : int
        How many photos.

    Returns
    -------
    pictures : pandas.DataFrame
        name (label of the photo), state (``own embedding`` or an architecture's title), place
        (``photo`` for the photo itself, otherwise as in :func:`~sing_nb.neighbours.looks`),
        picture, label, angle (degrees).
    words : pandas.DataFrame
        name, state, rank, word, angle.
    """
    asked = [one for one in found if one.card["loss"] == "mse"]
    table = asked[0].pictures.drop_duplicates("label").set_index("label", drop=False)
    tested = [label for label in labels if label in table.index]
    others = [label for label in table.index if label not in tested]
    pictures, words = [], []
    for label in [*tested[:most], *others[: max(0, least - len(tested))]]:
        picture, subject = table.loc[label, ["picture", "subject"]]
        states = {"own embedding": study.embeddings[[study.row(picture)]]} | {
            TITLES[one.card["architecture"]]:
                one.embeddings[np.flatnonzero(one.pictures["picture"] == picture)]
            for one in asked
        }
        z = torch.cat(list(states.values()))
        itself = pd.DataFrame([{"row": 0, "place": "photo", "picture": picture, "label": label}])
        near = looks(study, z, k, exclude=subject)
        said = study.words(z, k)
        for part, parts in ((pd.concat([itself, near]), pictures), (said, words)):
            part["state"] = np.array(list(states))[part.pop("row").to_numpy(dtype=int)]
            parts.append(part.assign(name=label))
    return pd.concat(pictures, ignore_index=True), pd.concat(words, ignore_index=True)
