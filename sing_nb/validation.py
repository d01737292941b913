"""Does the head really not see the null space? Pushes of one length, measured. Supplement 2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from .fetch import cache_dir
from .metrics import attribute_score, image_score
from .neighbours import around
from .nullspace import HeadSpaces
from .perturb import logit_distance, matched_perturbations
from .study import Study

__all__ = ["neighbours_kept", "perturbation_summary", "perturbations", "perturbed_neighbours"]


def perturbations(study: Study, model: str) -> pd.DataFrame:
    """Every picture pushed in several directions by the length of its own null part.

    Parameters
    ----------
    study : Study
    model : str

    Returns
    -------
    pandas.DataFrame
        One row a scored picture or photograph and ``kind`` (see
        :func:`~sing_nb.perturb.matched_perturbations`): picture, subject, label, ``length`` (of
        the push, as a share of the feature's), ``logit_change`` (equation 16, at least 0),
        ``probability_change`` (total variation, 0 to 1), ``flipped`` (another class wins),
        ``image_score`` and ``attribute_score`` towards the own label (degrees).
    """
    return study.stored(f"perturbations-{model}", lambda: _perturbations(study, model), model)


def _pushes(study: Study, model: str, rows: np.ndarray, seed: int) -> dict[str, torch.Tensor]:
    clf, f = study.classifier(model), study.features(model)[rows]
    weight = clf.head.weight
    wider = HeadSpaces.for_probabilities(weight, folder=cache_dir() / "heads")
    sensitive = weight[clf.logits(f).argmax(1)]
    return matched_perturbations(f, sensitive, study.spaces(model), wider, seed)


def _perturbations(study: Study, model: str) -> pd.DataFrame:
    table = study.pictures
    rows = np.flatnonzero((table["source"] != "clipart").to_numpy())
    clf, f = study.classifier(model), study.features(model)[rows]
    labels = table["label"].to_numpy()[rows]
    text = study.text(labels)
    z, before = study.translate(model, f, rows), clf.logits(f)
    p = torch.softmax(before.double(), dim=1)
    tables = []
    for kind, delta in _pushes(study, model, rows, study.config.seed).items():
        # Logits are compared as the model computes them, in float32.
        moved = (f.double() + delta).to(f.dtype)
        after, z_moved = clf.logits(moved), study.translate(model, moved, rows)
        q = torch.softmax(after.double(), dim=1)
        tables.append(
            pd.DataFrame(
                {
                    "picture": table["picture"].to_numpy()[rows],
                    "subject": table["subject"].to_numpy()[rows], "label": labels, "kind": kind,
                    "length": (delta.norm(dim=1) / f.double().norm(dim=1)).numpy(),
                    "logit_change": logit_distance(before, after).numpy(),
                    "probability_change": ((p - q).abs().sum(1) / 2).numpy(),
                    "flipped": (before.argmax(1) != after.argmax(1)).numpy(),
                    "image_score": image_score(z, z_moved).numpy(),
                    "attribute_score": attribute_score(z, z_moved, text).numpy(),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def perturbation_summary(study: Study) -> pd.DataFrame:
    """Medians of :func:`perturbations` by classifier and kind, with intervals over subjects.

    Returns
    -------
    pandas.DataFrame
        model, title, kind, quantity (``logit_change``, ``probability_change``, ``flipped`` [a
        share, 0 to 1], ``image_score``, ``attribute_size`` [of its absolute value]), value, low
        and high (95 %, cluster bootstrap over subjects).
    """
    return study.stored(
        "perturbation-summary", lambda: _summary(study), *study.config.everyone
    )


def _summary(study: Study) -> pd.DataFrame:
    records = []
    for model in study.config.everyone:
        table = perturbations(study, model)
        table["attribute_size"] = table["attribute_score"].abs()
        for kind, group in table.groupby("kind", sort=False):
            for quantity in ("logit_change", "probability_change", "flipped", "image_score",
                             "attribute_size"):
                statistic = np.mean if quantity == "flipped" else np.median
                names = {"model": model, "title": study.title(model), "kind": kind}
                records.append(
                    names | {"quantity": quantity}
                    | study.interval(group[quantity].to_numpy(), group["subject"], statistic)
                )
    return pd.DataFrame(records)


def perturbed_neighbours(
    study: Study, model: str, pictures: Sequence[str], kinds: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2, 3), k: int = 3,
) -> pd.DataFrame:
    """Photos nearest to pictures after each push, for several seeds of the random directions.

    Parameters
    ----------
    study : Study
    model : str
    pictures : sequence of str
    kinds : sequence of str
        Of :func:`~sing_nb.perturb.matched_perturbations`.
    seeds : sequence of int
    k : int
        Photos for each push.

    Returns
    -------
    pandas.DataFrame
        name (label, numbered where it comes twice, and seed), ``state`` (``translated`` or a
        kind), place (``photo``, or as in :func:`~sing_nb.neighbours.looks`), picture, label,
        angle (degrees; nan for the photo itself).
    """
    rows = study.rows(pictures)
    f = study.features(model)[rows]
    tables = []
    for seed in seeds:
        pushes = _pushes(study, model, rows, seed)
        states = {"translated": study.translate(model, f, rows)} | {
            kind: study.translate(model, (f.double() + pushes[kind]).to(f.dtype), rows)
            for kind in kinds
        }
        near = around(study, pictures, states, k)
        tables.append(near.assign(name=near["name"] + f", seed {seed}"))
    return pd.concat(tables, ignore_index=True)


def neighbours_kept(study: Study, model: str, kinds: Sequence[str], k: int = 3) -> pd.DataFrame:
    """How many of a picture's nearest photos stay nearest after each push, one picture a label.

    Parameters
    ----------
    study : Study
    model : str
    kinds : sequence of str
        Of :func:`~sing_nb.perturb.matched_perturbations`.
    k : int
        Photos that count as nearest.

    Returns
    -------
    pandas.DataFrame
        kind, value, low, high: mean number of the k that stay (95 %, subjects drawn); and
        ``lead``, ``lead_low``, ``lead_high``: how many more stay after the first kind than after
        this one, paired by picture.
    """
    name = f"kept-{model}-{k}-{'-'.join(kinds)}".replace(" ", "_")
    return study.stored(name, lambda: _kept(study, model, kinds, k), model)


def _kept(study: Study, model: str, kinds: Sequence[str], k: int) -> pd.DataFrame:
    table = study.pictures
    rows = study.rows(study.examples(study.labels))
    f = study.features(model)[rows]
    pushes = _pushes(study, model, rows, study.config.seed)
    states = {"translated": f} | {kind: (f.double() + pushes[kind]).to(f.dtype) for kind in kinds}
    subject = table.set_index("picture")["subject"]
    near = {state: [] for state in states}
    for state, feature in states.items():
        z = study.translate(model, feature, rows)
        for number, row in enumerate(rows):
            found = study.nearest(z[[number]], k, exclude=table["subject"].iloc[row])
            near[state].append(set(subject[found["picture"]]))
    kept = np.array(
        [[len(a & b) for a, b in zip(near["translated"], near[kind])] for kind in kinds]
    ).T.astype(float)
    subjects, records = table["subject"].to_numpy()[rows], []
    for place, kind in enumerate(kinds):
        lead = study.interval(kept[:, 0] - kept[:, place], subjects)
        records.append(
            {"kind": kind} | study.interval(kept[:, place], subjects)
            | {"lead": lead["value"], "lead_low": lead["low"], "lead_high": lead["high"]}
        )
    return pd.DataFrame(records)
