"""Does the null part say anything that the principal part does not? Item 3 of what could fool us.

Translators of the whole feature, of its principal part, of its null part, and in two stages
(`checks.controls`) are compared by what they get right of held-out pictures. *Unique R2* is
what the null part adds to the principal part. Two things say how much of that is nothing: a random
subspace in the null space's place, and in ConSE the classifier's own space, built from its own
logits, of which the null part can say nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from ..method.metrics import scores
from ..method.steer import matched_removal
from ..study.study import Study
from ..study.tables import KINDS
from .controls import chosen_lambdas, frame, kernel_map, principal_first

__all__ = [
    "BASES", "READERS", "VERSIONS", "home", "information_table", "picture_table", "unique_of",
    "unique_table", "version_table",
]

NULL, CONTROL = KINDS
# What is translated, by the name of the version: the first of a pair is its principal-only part.
VERSIONS = {
    "whole": "whole feature", "principal": "principal part", "null": "null part",
    "principal-first": "principal part, then null part",
    "kernel": "principal part, non-linear", "kernel-first": "non-linear, then null part",
}
BASES = {"principal": "principal-first", "kernel": "kernel-first"}
READERS = {"principal": "a linear map", "kernel": "a non-linear map"}
REMOVALS = ("whole", "principal-first", "kernel-first")
BRIEF_DRAWS = 2  # random subspaces of a report
NEAR = 0.2  # share of all labels that a true label must be among


def home(study: Study) -> str:
    """Name of the study's own joint space, as in its profile's ``spaces``."""
    return study.config.spaces[-1 if study.config.tower else 0]


def _near(study: Study, model: str) -> list[str]:
    """The study's own space and, if the classifier builds one, the classifier's own."""
    own = model if study.config.tower else None
    return list(dict.fromkeys(name for name in (home(study), own) if name))


def picture_table(study: Study, model: str) -> pd.DataFrame:
    """What translators of the parts of a classifier's features get right of every picture.

    Everything else here is made of it, and it is what takes long.

    Returns
    -------
    pandas.DataFrame
        One row per picture, space, version (a key of VERSIONS) and draw (-1: null space; from 0:
        a random subspace in its place): ``squared_error`` and ``energy`` of the held-out
        translation, ``rank`` of the picture's label, and where a version has them
        ``image_score`` and ``attribute_score`` of its removal, degrees; with the picture's
        subject, label and class_index.
    """
    c = study.config
    name = f"information-by-pictures-{c.information_draws}-{c.kernel_size}-{model}"
    found = study.stored(name, lambda: _measure(study, model), *c.everyone)
    about = study.pictures[["picture", "subject", "label", "class_index"]]
    return found.merge(about, on="picture")


def _measure(
    study: Study, model: str, *, briefly: bool = False
) -> pd.DataFrame:
    """Everything that is kept of a classifier, or only what :func:`unique_of` needs of it."""
    c, spaces = study.config, study.spaces(model)
    every, near, m = list(c.spaces), _near(study, model), spaces.features
    count = c.information_draws
    if briefly:
        every, near, count = near[:1], near[:1], min(BRIEF_DRAWS, count)
    views = {name: study.in_space(name) for name in every}
    z = {name: view.embeddings.double() for name, view in views.items()}
    f, rank = study.features(model).double(), spaces.rank
    fitted_on = (study.pictures["source"] != "photo").to_numpy()
    length, lambdas, candidates = spaces.null(f).norm(dim=1), {}, study.lambdas(model)
    keeper = _Keeper(study, views)
    for draw in range(-1, count):
        basis = spaces.null_basis if draw < 0 else study.control_basis(model, draw)
        directions = frame(basis)
        x = f @ directions
        principal, part = x[:, :rank], x[:, rank:]
        # What a random removal of the null part's size leaves of the random part.
        keep = 0 if draw < 0 else 1 - length[:, None] / part.norm(dim=1, keepdim=True)
        ways = [("principal", principal, every)]
        if not briefly:
            seen = study.classifier(model).logits((principal @ directions[:, :rank].T).float())
            mapped = kernel_map(
                seen, fitted_on, c.kernel_size, seed=c.seed,
                variance=float(principal[torch.tensor(fitted_on)].var(0).sum()))
            ways.append(("kernel", mapped, near))
        for base, first, names in ways:
            names = names if draw < 0 else near[:1]  # controls at home only
            size, widths = first.shape[1], [z[name].shape[1] for name in names]
            always, folds = study.fold_fitters(
                torch.cat([first, part], 1), torch.cat([z[name] for name in names], 1))
            lead = slice(0, size)
            if draw < 0:  # a control's first stage gets the lambdas of the principal part
                rows = chosen_lambdas(
                    always.part(lead), [fold.part(lead) for fold in folds], candidates,
                    widths)
                lambdas |= {(base, name): [row[at] for row in rows]
                            for at, name in enumerate(names)}
            start = 0
            for at, name in enumerate(names):
                own = slice(start, start + widths[at])
                start += widths[at]
                staged = principal_first(
                    always.part(slice(None), own), [fold.part(slice(None), own) for fold in folds],
                    size, candidates, lambdas=lambdas[base, name][:-1])
                for fold, rows in keeper.folds():
                    one, alone = staged[fold], staged[fold].first(first[rows])
                    kept = keep if draw < 0 else keep[rows]
                    keeper.add(rows, name, base, draw, alone)
                    keeper.add(rows, name, BASES[base], draw, alone + one.rest(part[rows]),
                               alone + one.rest(kept * part[rows]))
            if draw < 0 and base == "principal" and not briefly:
                null = slice(rank, m)
                _null_alone(candidates, keeper, part, always.part(null),
                            [fold.part(null) for fold in folds], names, widths)
    for name in every if not briefly else ():
        _whole(study, model, keeper, name)
    return pd.concat(keeper.tables, ignore_index=True)


def _null_alone(candidates, keeper, part, always, folds, names, widths) -> None:
    """One ridge of the null part alone."""
    lambdas, start = chosen_lambdas(always, folds, candidates, widths), 0
    total = always.copy()
    for fold in folds:
        total.merge(fold)
    for at, name in enumerate(names):
        own = slice(start, start + widths[at])
        start += widths[at]
        for fold, rows in keeper.folds():
            rest = total.without(folds[fold]).part(slice(None), own)
            keeper.add(rows, name, "null", -1, rest.solve(lambdas[fold][at])(part[rows]))


def _whole(study: Study, model: str, keeper: _Keeper, name: str) -> None:
    """The paper's translator: one ridge of the whole feature; at home with the control."""
    fits, spaces = study.in_space(name).fitted(model, "ridge"), study.spaces(model)
    draws = study.config.information_draws if name == home(study) else 0
    for fold, rows in keeper.folds():
        f, fitted = study.features(model)[rows].double(), fits[fold]
        found, length = fitted(f), spaces.null(f).norm(dim=1)
        keeper.add(rows, name, "whole", -1, found, fitted(spaces.remove_null(f)))
        for draw in range(draws):
            other = matched_removal(f, length, study.control_basis(model, draw))
            keeper.add(rows, name, "whole", draw, found, fitted(other))


class _Keeper:
    """Gathers what a translator gets right of held-out pictures."""

    def __init__(self, study: Study, views: dict[str, Study]) -> None:
        self.table = study.pictures
        self.count = study.config.folds
        self.truth = self.table["label"].map({n: i for i, n in enumerate(study.labels)})
        self.z = {name: view.embeddings.double() for name, view in views.items()}
        self.labels = {name: view.text(study.labels).double() for name, view in views.items()}
        self.tables: list[pd.DataFrame] = []

    def folds(self) -> list[tuple[int, torch.Tensor]]:
        """Number and rows of every fold."""
        number = self.table["fold"].to_numpy()
        return [(fold, torch.tensor(np.flatnonzero(number == fold))) for fold in range(self.count)]

    def add(
        self, rows: torch.Tensor, space: str, version: str, draw: int, found: torch.Tensor,
        removed: torch.Tensor | None = None,
    ) -> None:
        """Keep translations (n, d) of one fold's rows, and those of their equivalents."""
        z, labels = self.z[space][rows], self.labels[space]
        truth = torch.tensor(self.truth.to_numpy()[rows.numpy()].astype(int))
        cosine = normalize(found, dim=1) @ labels.T
        own = cosine.gather(1, truth[:, None])
        columns = {
            "picture": self.table["picture"].to_numpy()[rows],
            "squared_error": (found - z).square().sum(1).numpy(),
            "energy": (z - z.mean(0)).square().sum(1).numpy(),
            "rank": (cosine > own).sum(1).numpy() + 1,
        }
        if removed is not None:
            both = scores(found, removed, labels[truth])
            columns |= {name: score.numpy() for name, score in both._asdict().items()}
        self.tables.append(
            pd.DataFrame(columns).assign(space=space, version=version, draw=draw))


def _about(study: Study, model: str, space: str) -> dict[str, object]:
    return {"model": model, "title": study.classifier(model).title, "joint": space,
            "space": study.space_title(space), "circular": bool(study.config.tower) and
            space == model}


def information_table(study: Study) -> pd.DataFrame:
    """How much translators of the parts of a feature get right of held-out pictures.

    Returns
    -------
    pandas.DataFrame
        model, title, joint (name of the space), space (its title), ``circular`` (the classifier
        built it), version (a key of VERSIONS), name (for people), kind (null space removed, or
        random control: a random subspace in its place, mean over draws; the whole feature has
        none), quantity: ``r2`` (at most 1), ``near`` (share of pictures whose label is among the
        nearest fifth of all labels), ``median_rank`` (from 1); value, low, high (95 %, cluster
        bootstrap over subjects) and ``chance`` (0, a fifth, and the middle rank).
    """
    return study.stored(
        _name(study, "information"), lambda: _information(study), *study.config.everyone)


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    """In the order of classifiers, spaces and VERSIONS."""
    order = {version: place for place, version in enumerate(VERSIONS)}
    models = {model: place for place, model in enumerate(dict.fromkeys(table["model"]))}
    keys = pd.DataFrame({"model": table["model"].map(models), "joint": table["joint"],
                         "version": table["version"].map(order)})
    return table.loc[keys.sort_values(list(keys), kind="stable").index].reset_index(drop=True)


def _name(study: Study, name: str) -> str:
    return f"{name}-of-parts-{study.config.information_draws}-{study.config.kernel_size}"


def _information(study: Study) -> pd.DataFrame:
    labels, records = len(study.labels), []
    chance = {"r2": 0.0, "near": max(1, int(NEAR * labels)) / labels, "median_rank":
              (labels + 1) / 2}
    for model in study.config.everyone:
        table = picture_table(study, model)
        table["near"] = (table["rank"] <= max(1, int(NEAR * labels))).astype(float)
        for (space, version), own in table.groupby(["space", "version"], sort=False):
            for kind, rows in ((NULL, own[own["draw"] < 0]), (CONTROL, own[own["draw"] >= 0])):
                if rows.empty or (version == "whole" and kind == CONTROL):
                    continue
                about = _about(study, model, space) | {
                    "version": version, "name": VERSIONS[version], "kind": kind}
                sums = rows.groupby("subject")[["squared_error", "energy"]].sum().to_numpy()
                for quantity, found in (
                    ("r2", study.interval(sums, np.arange(len(sums)), _r2, of_means=True)),
                    ("near", study.interval(
                        rows["near"].to_numpy(), rows["subject"].to_numpy(), np.mean)),
                    ("median_rank", study.interval(
                        rows["rank"].to_numpy(float), rows["subject"].to_numpy(),
                        lambda medians: medians, of_medians=True)),
                ):
                    records.append(
                        about | found | {"quantity": quantity, "chance": chance[quantity]})
    return _sorted(pd.DataFrame(records))


def _r2(means: np.ndarray) -> np.ndarray:
    """1 - residual / energy of means over rows (samples, 2)."""
    residual, energy = means.T
    return 1 - residual / energy


def _unique(means: np.ndarray) -> np.ndarray:
    """What the second of two translators explains beyond the first: means over rows (..., 3)."""
    alone, both, energy = np.moveaxis(means, -1, 0)
    return (alone - both) / energy


def _minus_control(score: np.ndarray, control: np.ndarray) -> np.ndarray:
    return _unique(score) - _unique(control).mean(1)


def _minus_floor(means: np.ndarray) -> np.ndarray:
    return _unique(means[:, :3]) - _unique(means[:, 3:])


def _by_subject(table: pd.DataFrame, space: str, base: str) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors of a pair of versions, and energies: score (n, 3), control (n, draws, 3)."""
    own = table[(table["space"] == space) & table["version"].isin([base, BASES[base]])]
    sums = own.pivot_table(
        ["squared_error", "energy"], "subject", ["version", "draw"], aggfunc="sum")
    found = np.stack([
        np.column_stack([sums["squared_error", base, draw], sums["squared_error", BASES[base],
                                                                  draw],
                         sums["energy", base, draw]]) for draw in sorted(own["draw"].unique())],
        axis=1)
    return found[:, 0], found[:, 1:]


def _comparison(
    study: Study, table: pd.DataFrame, space: str, base: str, floor: str | None
) -> dict[str, dict[str, float]]:
    """Unique R2, its control, its floor in a space, and what exceeds either, with intervals."""
    score, control = _by_subject(table, space, base)
    units = np.arange(len(score))

    def interval(values: np.ndarray, statistic: Callable) -> dict[str, float]:
        return study.interval(values, units, statistic, of_means=True)

    found = {NULL: interval(score, _unique)}
    if control.shape[1]:
        found[CONTROL] = interval(control, lambda v: _unique(v).mean(-1))
        found["excess over control"] = study.excess(
            score, control, units, _minus_control, of_means=True)
    if floor is not None:
        other, _ = _by_subject(table, floor, base)
        found["circular floor"] = interval(other, _unique)
        if floor != space:
            found["excess over floor"] = interval(np.hstack([score, other]), _minus_floor)
    return found


def unique_table(study: Study) -> pd.DataFrame:
    """Unique R2 of the null part in every space: what it adds to the principal part's R2.

    Returns
    -------
    pandas.DataFrame
        model, title, joint, space, circular, base (``principal``, a ridge, or ``kernel``, the
        non-linear map, for the study's own space and the classifier's), kind (null space removed;
        in the study's own space random control, mean over draws, and excess over control; in ConSE
        circular floor and excess over floor, both for the classifier's own space), value, low,
        high (of R2, 95 %, cluster bootstrap over subjects, paired; the excess over the control
        also over random subspaces).
    """
    return study.stored(
        _name(study, "unique"), lambda: _unique_table(study), *study.config.everyone)


def _unique_table(study: Study) -> pd.DataFrame:
    records = []
    for model in study.config.everyone:
        table = picture_table(study, model)
        for base in BASES:
            have = table.loc[table["version"] == base, "space"].unique()
            for space in (name for name in study.config.spaces if name in have):
                floor = model if study.config.tower else None
                found = _comparison(study, table, space, base, floor)
                records += [
                    _about(study, model, space) | {"base": base, "kind": kind} | row
                    for kind, row in found.items()
                ]
    return pd.DataFrame(records)


def unique_of(study: Study, model: str) -> pd.DataFrame:
    """Unique R2 of the null part of one classifier, in the study's list or not, in a minute.

    As :func:`unique_table`, but in the study's own space alone, beyond a linear map of the
    principal part, and with two random subspaces at most: without the floor of the classifier's
    own space, which not every classifier can build.

    Returns
    -------
    pandas.DataFrame
        model, title, kind (null space removed, random control, excess over control), value, low,
        high (of R2, as there).
    """
    def compute() -> pd.DataFrame:
        table = _measure(study, model, briefly=True)
        table = table.merge(study.pictures[["picture", "subject"]], on="picture")
        return pd.DataFrame([
            {"model": model, "title": study.title(model), "kind": kind} | row
            for kind, row in _comparison(study, table, home(study), "principal", None).items()])

    draws = min(BRIEF_DRAWS, study.config.information_draws)
    return study.stored(f"unique-brief-{draws}-{model}", compute, model)


def version_table(study: Study) -> pd.DataFrame:
    """What null removal scores under each version of the translator, in its own and other spaces.

    Returns
    -------
    pandas.DataFrame
        model, title, joint, space, circular, version, name, kind (null space removed; random
        control, in the study's own space, a part of the same size, mean over draws: for the
        versions in two stages a random subspace took the null space's place when they were
        fitted), quantity (``image_score``, ``attribute_score``: medians of IS and of the size of
        AS, degrees), value, low, high (95 %, cluster bootstrap over subjects). Pictures as in
        ``tables.models``.
    """
    return study.stored(
        _name(study, "versions"), lambda: _version_table(study), *study.config.everyone)


def _version_table(study: Study) -> pd.DataFrame:
    records = []
    for model in study.config.everyone:
        table = picture_table(study, model)
        if study.config.pictures == "stamps":
            table = table[table["class_index"] >= 0]
        table = table[table["version"].isin(REMOVALS)]
        for (space, version), own in table.groupby(["space", "version"], sort=False):
            for kind, rows in ((NULL, own[own["draw"] < 0]), (CONTROL, own[own["draw"] >= 0])):
                if rows.empty:
                    continue
                scores = rows.pivot_table(
                    ["image_score", "attribute_score"], ["subject", "picture"], "draw")
                subjects = scores.index.get_level_values("subject").to_numpy()
                for quantity in ("image_score", "attribute_score"):
                    found = study.interval(
                        scores[quantity].abs().to_numpy(), subjects,
                        lambda medians: medians.mean(-1), of_medians=True)
                    records.append(
                        _about(study, model, space)
                        | {"version": version, "name": VERSIONS[version], "kind": kind,
                           "quantity": quantity} | found)
    return _sorted(pd.DataFrame(records))
