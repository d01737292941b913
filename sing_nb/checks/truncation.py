"""Truncated heads: a head cut down to its strongest directions is another, blinder classifier.

They widen the comparison of models to a dozen points with a known cause: the same features, the
same translator, only less that the head sees. Figure 12b's place, offline.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from ..errors import SingError
from ..method import metrics
from ..method.nullspace import HeadSpaces
from ..method.steer import matched_removal, random_basis
from ..models.load import model_names
from ..study.study import Study, stored
from ..study.tables import KINDS, QUANTITIES, scored

__all__ = ["REMOVED", "paper_sizes", "removal_curves", "truncated_heads"]

RANKS = (900, 750, 500, 250, 100)
# How many of the weakest directions are removed, of every head as many: shares of the narrowest
# feature.
SHARES = (1 / 64, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 15 / 16)
REMOVED = ("weakest directions removed", "random control", "excess")
MEASURES = ("image_score", "attribute_score", "logit_change", "ratio")
ENDS = ("value", "low", "high")


@stored
def truncated_heads(study: Study, ranks: Sequence[int] = RANKS) -> pd.DataFrame:
    """Scores of null removal for every head as it is and cut down to fewer directions."""
    tables = []
    for model in study.config.everyone:
        whole = study.spaces(model)
        lower = [rank for rank in ranks if rank < whole.rank]
        if not lower:
            raise SingError(
                f"None of the ranks {', '.join(map(str, ranks))} is below that of {model}'s head, "
                f"which is {whole.rank}: nothing is cut. Take smaller ones.")
        heads = [whole.truncated(rank) for rank in [whole.rank, *lower]]
        tables += [_one_head(study, model, spaces) for spaces in heads if spaces.null_dim]
    return pd.concat(tables, ignore_index=True)


def _one_head(study: Study, model: str, spaces: HeadSpaces) -> pd.DataFrame:
    table = scored(study, model)
    rows, subjects = study.rows(table["picture"]), table["subject"]
    f, clf, text = study.features(model)[rows], study.classifier(model), study.text(table["label"])
    removed, length = spaces.remove_null(f), spaces.null(f).norm(dim=1)
    bases = (random_basis(spaces.features, spaces.null_dim, study.config.seed + draw)
             for draw in range(study.config.control_draws))
    z = study.translate(model, f, rows)

    def sizes(parts: Sequence[torch.Tensor]) -> np.ndarray:
        """IS and |AS| (n, parts, 2) of features without some part."""
        moved = torch.stack([study.translate(model, part, rows) for part in parts])
        return torch.stack(metrics.scores(z, moved, text)).abs().permute(2, 1, 0).numpy()

    null = sizes([removed])
    control = sizes([matched_removal(f, length, basis) for basis in bases])
    found = dict(zip((*KINDS, "difference"), (
        study.interval(null, subjects, _three_sizes, of_medians=True),
        study.interval(control, subjects, _three_sizes, of_medians=True),
        study.excess(null, control, subjects, _more, of_medians=True))))
    # The truncated head's logits: it reads of a feature what is left without its null part.
    winner, truth = clf.logits(removed).argmax(1).numpy(), study.truth(model)[rows]
    return pd.DataFrame([
        {"kind": kind, "quantity": quantity} | {end: interval[end][at] for end in ENDS}
        for kind, interval in found.items() for at, quantity in enumerate(QUANTITIES)
    ]).assign(
        model=model, title=study.title(model), rank=spaces.rank, null_dim=spaces.null_dim,
        null_share=float(np.median(spaces.null_share(f))),
        accuracy=float((winner == truth)[truth >= 0].mean()) if (truth >= 0).any() else np.nan,
        agreement=float((winner == clf.logits(f).argmax(1).numpy()).mean()))


def _three_sizes(medians: np.ndarray) -> np.ndarray:
    """Median IS, |AS| and ratio, (samples, 3), of (samples, draws, 2) medians: draw by draw."""
    one, two = np.moveaxis(medians, -1, 0)
    return np.stack([one, two, one / two], axis=1).mean(2)


def _more(score: np.ndarray, control: np.ndarray) -> np.ndarray:
    return _three_sizes(score) - _three_sizes(control)


# --- curves over the number of directions removed -------------------------------------------------


@stored
def removal_curves(study: Study) -> pd.DataFrame:
    """Scores while more and more of each head's weakest directions are removed."""
    everyone = study.config.everyone
    frames = {model: _weakest(study, model) for model in everyone}
    narrowest = min(len(energy) for _, energy in frames.values())
    sizes = {round(share * narrowest) for share in SHARES}
    sizes |= {study.spaces(model).null_dim for model in everyone}
    counts = sorted(k for k in sizes if 0 < k < narrowest)
    points, parts = [], []
    for model, (frame, energy) in frames.items():
        held = energy.cumsum(0) / energy.sum()
        parts.append(_removals(study, model, frame, counts))
        points.append([
            {"model": model, "title": study.title(model), "removed": k, "share": k / len(energy),
             "head_energy": float(held[k - 1])} for k in counts])
    score, control = (np.stack(part, axis=axis) for part, axis in zip(zip(*parts), (1, 2)))
    subjects = scored(study, everyone[0])["subject"]
    ends = study.excess(score, control, subjects, _kinds, of_medians=True)
    return pd.DataFrame([
        points[who][size] | {"kind": REMOVED[kind], "quantity": MEASURES[measure]}
        | {end: float(ends[end][kind, who, measure, size]) for end in ENDS}
        for kind, who, measure, size in np.ndindex(ends["value"].shape)])


def _weakest(study: Study, model: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions (m, m) as columns and their squared singular values (m,), the weakest first."""
    spaces = study.spaces(model)
    rank, null = spaces.rank, spaces.null_basis
    energy = torch.zeros(spaces.features, dtype=torch.float64)
    energy[:rank] = spaces.singular_values[:rank].square()
    if null.shape[1]:
        size = null.shape[1]
        null = null @ torch.as_tensor(random_basis(size, size, study.config.seed))
    return torch.cat([null, spaces.principal_basis.flip(1)], dim=1), energy.flip(0)


def _kinds(score: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Scores, the control (a mean over draws), and what exceeds: (samples, 3, ..., 4, sizes)."""
    def with_ratio(medians: np.ndarray) -> np.ndarray:
        turned, towards = medians[..., :1, :], medians[..., 1:2, :]
        return np.concatenate([medians, turned / towards], axis=-2)

    one, other = with_ratio(score), with_ratio(control).mean(1)
    return np.stack([one, other, one - other], axis=1)


def _removals(
    study: Study, model: str, frame: torch.Tensor, sizes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the counted pictures without their first directions of a frame, size by size."""
    table = scored(study, model)
    rows = study.rows(table["picture"])
    f, text = study.features(model)[rows].double(), study.text(table["label"])
    weight = study.classifier(model).head.weight.double().cpu()
    folds, maps = study.pictures["fold"].to_numpy()[rows], study.translators(model)
    parts = [(torch.tensor(folds == fold), maps[fold]) for fold in sorted(set(folds))]
    z = torch.empty(len(f), maps[0].weight.shape[0], dtype=torch.float64)
    for own, fitted in parts:
        z[own] = fitted(f[own])
    order, lengths = np.argsort(sizes, kind="stable"), torch.empty(len(sizes), len(f)).double()

    def scores(frame: torch.Tensor, matched: bool) -> np.ndarray:
        c, heads = f @ frame, weight @ frame
        carried = [fitted.weight.double() @ frame for _, fitted in parts]
        dz, dl, square = torch.zeros_like(z), f.new_zeros(len(f), len(weight)), f.new_zeros(len(f))
        out, start = np.empty((3, len(sizes), len(f))), 0
        for at in order:
            new = slice(start, sizes[at])
            start = sizes[at]
            square += c[:, new].square().sum(1)
            dl += c[:, new] @ heads[:, new].T
            for (own, _), through in zip(parts, carried):
                dz[own] += c[own][:, new] @ through[:, new].T
            if not matched:
                lengths[at] = square.sqrt()
            ratio = lengths[at] / square.sqrt().clamp_min(torch.finfo(torch.float64).tiny)
            moved = metrics.scores(z, z - ratio[:, None] * dz, text)
            out[:2, at] = torch.stack(moved).abs()
            out[2, at] = (ratio[:, None] * dl).abs().amax(1)
        return np.moveaxis(out, 2, 0)

    score = scores(frame, matched=False)
    m, seed = f.shape[1], study.config.seed
    control = [scores(torch.as_tensor(random_basis(m, m, seed + draw)), matched=True)
               for draw in range(study.config.control_draws)]
    return score, np.stack(control, axis=1)


# --- if only the size of the null space differed --------------------------------------------------


@stored
def paper_sizes(study: Study) -> pd.DataFrame:
    """One head cut down to the null space of every model of the paper: only the size differs."""
    model = study.config.models[0]
    known = {name: row for name, row in model_names().items() if "paper" in row}
    frame, energy = _weakest(study, model)
    m, points = len(energy), []
    shapes = {name: (row["null_dim"], row["features"]) for name, row in known.items()}
    for null_dim, features in sorted(set(shapes.values())):
        names = [name for name, shape in shapes.items() if shape == (null_dim, features)]
        same = {"count": null_dim, "share": max(1, round(null_dim / features * m))}
        points += [
            {"by": by, "null_dim": null_dim, "features": features, "removed": k,
             "models": ", ".join(known[name]["title"] for name in names),
             "names": ", ".join(names)}
            for by, k in same.items() if 0 < k < m]
    score, control = _removals(study, model, frame, [point["removed"] for point in points])
    smallest = [next(i for i, one in enumerate(points) if one["by"] == point["by"])
                for point in points]

    def statistic(score: np.ndarray, control: np.ndarray) -> np.ndarray:
        kinds = _kinds(score, control)
        return np.stack([kinds, kinds - kinds[..., smallest]], axis=1)

    ends = study.excess(score, control, scored(study, model)["subject"], statistic, of_medians=True)
    gaps = dict(zip(ENDS, ("gap", "gap_low", "gap_high")))
    table = pd.DataFrame([
        {"model": model, "title": study.title(model), **points[size], "kind": REMOVED[kind],
         "quantity": MEASURES[measure]}
        | {end: float(ends[end][0, kind, measure, size]) for end in ENDS}
        | {gap: float(ends[end][1, kind, measure, size]) for end, gap in gaps.items()}
        for kind, measure, size in np.ndindex(ends["value"].shape[1:])])
    places = table.groupby(["by", "kind", "quantity"])["value"].rank(ascending=False, method="min")
    return table.assign(place=places.astype(int))
