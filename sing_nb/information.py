"""Does the null part say anything that the principal part does not? Item 3 of what could fool us.

Translators of the whole feature, of its principal part, of its null part, and in two stages
(:mod:`sing_nb.controls`) are compared by what they get right of held-out pictures. *Unique R2* is
what the null part adds to the principal part. Two things say how much of that is nothing: a random
subspace in the null space's place, and in ConSE the classifier's own space, built from its own
logits, of which the null part can say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from .controls import chosen_lambdas, frame, kernel_map, principal_first
from .metrics import attribute_score, image_score
from .perturb import matched_removal
from .profile import unknown
from .study import KINDS, Study

__all__ = [
    "AFFINE", "BASES", "NEEDED", "READERS", "SETTINGS", "VERSIONS", "home", "information_table",
    "recommended", "unique_classes", "unique_concepts", "unique_groups", "unique_of",
    "unique_table", "unique_verdicts", "version_table",
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
AFFINE = ("whole", "principal-first")  # what the whole book can be computed with
SETTINGS = {"whole": "translator=ridge", "principal-first": "translator=principal-first"}
NEEDED = (NULL, "excess over control", "excess over floor")  # all above zero: something is found
BRIEF_DRAWS = 2  # random subspaces of a report
NEAR = 0.2  # share of all labels that a true label must be among


def home(study: Study) -> str:
    """Name of the study's own joint space, as in its profile's ``spaces``."""
    return study.config.spaces[-1 if study.config.tower else 0]


def _near(study: Study, model: str) -> list[str]:
    """The study's own space and, if the classifier builds one, the classifier's own."""
    own = model if study.config.tower else None
    return list(dict.fromkeys(name for name in (home(study), own) if name))


def _part(study: Study, model: str, name: str) -> pd.DataFrame:
    found: dict[str, pd.DataFrame] = {}

    def compute(part: str) -> pd.DataFrame:
        if not found:  # both tables come from the same fits
            found.update(_measure(study, model))
        return found[part]

    c = study.config
    size = f"{c.information_draws}-{c.kernel_size}"
    parts = {
        part: study.stored(
            f"information-by-{part}-{size}-{model}", lambda part=part: compute(part), *c.everyone)
        for part in ("pictures", "concepts")
    }
    return parts[name]


def _measure(
    study: Study, model: str, *, briefly: bool = False
) -> dict[str, pd.DataFrame]:
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
    keeper = _Keeper(study, views, near)
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
    return keeper.tables()


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
            keeper.add(rows, name, "null", -1, rest.solve_directly(lambdas[fold][at])(part[rows]))


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

    def __init__(self, study: Study, views: dict[str, Study], near: Sequence[str]) -> None:
        self.table, self.near, self.concepts = study.pictures, near, study.concepts
        self.count = study.config.folds
        self.truth = self.table["label"].map({n: i for i, n in enumerate(study.labels)})
        self.z = {name: view.embeddings.double() for name, view in views.items()}
        self.labels = {name: view.text(study.labels).double() for name, view in views.items()}
        self.words = {name: views[name].text(self.concepts).double() for name in near}
        self.pictures: list[pd.DataFrame] = []
        self.sums: list[pd.DataFrame] = []

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
            columns["image_score"] = image_score(found, removed).numpy()
            columns["attribute_score"] = attribute_score(found, removed, labels[truth]).numpy()
        self.pictures.append(
            pd.DataFrame(columns).assign(space=space, version=version, draw=draw))
        if space in self.near and (version in BASES or version in BASES.values()):
            words = self.words[space]
            said, error = z @ words.T, ((found - z) @ words.T).square()
            energy = (said - said.mean(0)).square()
            subject = self.table["subject"].to_numpy()[rows]
            sums = {
                name: pd.DataFrame(values.numpy(), columns=self.concepts).groupby(subject).sum()
                .rename_axis("subject").melt(ignore_index=False, var_name="concept",
                                             value_name=name)
                for name, values in (("squared_error", error), ("energy", energy))
            }
            one = sums["squared_error"].assign(energy=sums["energy"]["energy"].to_numpy())
            self.sums.append(
                one.reset_index().assign(space=space, version=version, draw=draw))

    def tables(self) -> dict[str, pd.DataFrame]:
        """What was kept, by picture and by subject and concept."""
        return {"pictures": pd.concat(self.pictures, ignore_index=True),
                "concepts": pd.concat(self.sums, ignore_index=True)}


def _pictures(study: Study, model: str) -> pd.DataFrame:
    about = study.pictures[["picture", "subject", "label", "class_index"]]
    return _part(study, model, "pictures").merge(about, on="picture")


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
        table = _pictures(study, model)
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


@dataclass(frozen=True)
class _Sums:
    """Squared errors of a pair of versions, and energies, by subject or by picture of a group."""

    group: np.ndarray  # (n,)
    score: np.ndarray  # (n, 3)
    control: np.ndarray  # (n, draws, 3)
    floor: np.ndarray | None  # (n, 3), in the classifier's own space, if it builds one
    circular: bool  # whether that is the same space

    def of(self, group: str) -> _Sums:
        """Those of one group only."""
        rows = self.group == group
        return _Sums(self.group[rows], self.score[rows], self.control[rows],
                     None if self.floor is None else self.floor[rows], self.circular)


def _sums(
    study: Study, model: str, table: pd.DataFrame, space: str, base: str, by: Sequence[str]
) -> _Sums:
    """Summed up by columns of the table, the first of which is the group."""
    group, score, control = _by(table, space, base, by)
    floor = model if study.config.tower else None
    other = None if floor is None else _by(table, floor, base, by)[1]
    return _Sums(group, score, control, other, floor == space)


def _by(
    table: pd.DataFrame, space: str, base: str, by: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    own = table[(table["space"] == space) & table["version"].isin([base, BASES[base]])]
    sums = own.pivot_table(
        ["squared_error", "energy"], list(by), ["version", "draw"], aggfunc="sum")
    draws = sorted(own["draw"].unique())
    found = np.stack([
        np.column_stack([sums["squared_error", base, draw], sums["squared_error", BASES[base],
                                                                  draw],
                         sums["energy", base, draw]]) for draw in draws], axis=1)
    return sums.index.get_level_values(0).to_numpy(), found[:, 0], found[:, 1:]


def _comparison(study: Study, sums: _Sums) -> dict[str, dict[str, float]]:
    """Unique R2, its control, its floor, and what exceeds either, each with its interval."""
    score, control, other = sums.score, sums.control, sums.floor
    units = np.arange(len(score))

    def interval(values: np.ndarray, statistic: Callable) -> dict[str, float]:
        return study.interval(values, units, statistic, of_means=True)

    found = {NULL: interval(score, _unique)}
    if control.shape[1]:
        found[CONTROL] = interval(control, lambda v: _unique(v).mean(-1))
        found["excess over control"] = study.excess(
            score, control, units, _minus_control, of_means=True)
    if other is not None:
        found["circular floor"] = interval(other, _unique)
        if not sums.circular:
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
        table = _pictures(study, model)
        for base in BASES:
            have = table.loc[table["version"] == base, "space"].unique()
            for space in (name for name in study.config.spaces if name in have):
                found = _comparison(
                    study, _sums(study, model, table, space, base, ["subject"]))
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
        table = _measure(study, model, briefly=True)["pictures"]
        table = table.merge(study.pictures[["picture", "subject"]], on="picture")
        sums = _Sums(*_by(table, home(study), "principal", ["subject"]), None, False)
        return pd.DataFrame([
            {"model": model, "title": study.title(model), "kind": kind} | row
            for kind, row in _comparison(study, sums).items()])

    draws = min(BRIEF_DRAWS, study.config.information_draws)
    return study.stored(f"unique-brief-{draws}-{model}", compute, model)


def unique_verdicts(study: Study) -> pd.DataFrame:
    """Was anything unique found? The rule, for every classifier in the study's own space.

    *Found* means: the interval of unique R2 lies above zero, and so do those of its excess over
    the random control and, where there is one, over the circular floor.

    Returns
    -------
    pandas.DataFrame
        model, title, base, ``unique``, ``control``, ``floor`` (nan without) with ``_low`` and
        ``_high``, ``above_zero``, ``above_control``, ``above_floor`` (True without a floor) and
        ``found``. The classifier that built the space is the floor itself, and has no row.
    """
    table, records = unique_table(study), []
    own = table[(table["joint"] == home(study)) & ~table["circular"]]
    for (model, base), rows in own.groupby(["model", "base"], sort=False):
        rows = rows.set_index("kind")
        record = {"model": model, "title": rows["title"].iloc[0], "base": base}
        for name, kind in (("unique", NULL), ("control", CONTROL), ("floor", "circular floor")):
            one = rows.loc[kind] if kind in rows.index else dict.fromkeys(
                ("value", "low", "high"), np.nan)
            record |= {name: one["value"], f"{name}_low": one["low"], f"{name}_high": one["high"]}
        above = {
            name: bool(rows.loc[kind, "low"] > 0) if kind in rows.index else True
            for name, kind in zip(("above_zero", "above_control", "above_floor"), NEEDED)
        }
        records.append(record | above | {"found": all(above.values())})
    return pd.DataFrame(records)


def unique_classes(study: Study, model: str) -> pd.DataFrame:
    """Unique R2 of the null part for every label, in the study's own space.

    Returns
    -------
    pandas.DataFrame
        label, pictures, subjects, base, value, low, high (95 %, the label's pictures drawn with
        replacement: where it is one subject, for other views of this subject only; nan for a
        single picture), ``control`` with ``control_low`` and ``control_high`` (mean of random
        subspaces), ``floor`` (in the classifier's own space, nan without one; a tower's is
        itself), and ``found`` by the rule of :func:`unique_verdicts`, without the correction
        that so many labels would need. R2 is relative to the energy of the label's pictures.
    """
    _known(study, model)
    return study.stored(
        _name(study, f"unique-classes-{model}"), lambda: _by_group(study, model, "label"),
        *study.config.everyone)


def unique_concepts(study: Study, model: str) -> pd.DataFrame:
    """Unique R2 of the null part for the similarity to every concept, in the study's own space.

    Returns
    -------
    pandas.DataFrame
        concept and, but for the counts, the columns of :func:`unique_classes`; 95 %, cluster
        bootstrap over subjects.
    """
    _known(study, model)
    return study.stored(
        _name(study, f"unique-concepts-{model}"), lambda: _by_group(study, model, "concept"),
        *study.config.everyone)


def unique_groups(study: Study) -> pd.DataFrame:
    """:func:`unique_classes` and :func:`unique_concepts` of all classifiers.

    Returns
    -------
    pandas.DataFrame
        model, title, ``what`` (label or concept), name, and the columns that both share.
    """
    tables = []
    for model in study.config.everyone:
        for what, table in (("label", unique_classes(study, model)),
                            ("concept", unique_concepts(study, model))):
            tables.append(table.rename(columns={what: "name"}).assign(
                model=model, title=study.title(model), what=what))
    shared = ["model", "title", "what", "name", "base", "value", "low", "high", "control",
              "control_low", "control_high", "floor", "found"]
    return pd.concat(tables, ignore_index=True)[shared]


def _known(study: Study, model: str) -> None:
    if model not in study.config.everyone:
        raise unknown("classifier of this study", model, study.config.everyone)


def _by_group(study: Study, model: str, what: str) -> pd.DataFrame:
    table = _pictures(study, model) if what == "label" else _part(study, model, "concepts")
    table = table[table["version"].isin([*BASES, *BASES.values()])]
    by, records = [what, "picture" if what == "label" else "subject"], []
    sums = {base: _sums(study, model, table, home(study), base, by) for base in BASES}
    about = {}
    if what == "label":
        counts = table.groupby("label")[["picture", "subject"]].nunique()
        about = counts.set_axis(["pictures", "subjects"], axis=1).to_dict("index")
    for name in sorted(table[what].unique()):
        for base in BASES:
            found = _comparison(study, sums[base].of(name))
            record = {what: name} | about.get(name, {}) | {"base": base} | found[NULL]
            control = found[CONTROL]
            record |= {"control": control["value"], "control_low": control["low"],
                       "control_high": control["high"],
                       "floor": found.get("circular floor", {"value": np.nan})["value"]}
            above = [found[kind]["low"] > 0 for kind in NEEDED if kind in found]
            records.append(record | {"found": bool(all(above)) and
                                     model != study.config.tower})
    return pd.DataFrame(records)


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
        ``Study.models``.
    """
    return study.stored(
        _name(study, "versions"), lambda: _version_table(study), *study.config.everyone)


def _version_table(study: Study) -> pd.DataFrame:
    records = []
    for model in study.config.everyone:
        table = _pictures(study, model)
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


def recommended(study: Study) -> dict[str, object]:
    """The version whose circular control is nearest to zero: mean IS of all classifiers at home.

    Returns
    -------
    dict
        ``version`` (of all), ``affine`` (of those that the whole book can be computed with, see
        the profile's ``translator``), and ``circular`` (mean IS in degrees by version). Both
        names are None where no classifier builds a space: then the rule has nothing to go by.
    """
    table = version_table(study)
    own = table[table["circular"] & (table["quantity"] == "image_score") & (table["kind"] == NULL)]
    mean = own.groupby("version")["value"].mean()
    if mean.empty:
        return {"version": None, "affine": None, "circular": {}}
    return {"version": mean.idxmin(), "affine": mean[list(AFFINE)].idxmin(),
            "circular": mean.to_dict()}
