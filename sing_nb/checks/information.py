"""Does the null part say anything that the principal part does not?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np
import pandas as pd
import torch

from ..errors import SingError
from ..method.metrics import scores
from ..method.stages import chosen_lambdas, frame, principal_first
from ..method.steer import matched_removal
from ..study.study import Study, stored
from ..study.tables import KINDS

__all__ = [
    "BASES", "READERS", "VERSIONS", "home", "information_table", "kernel_map", "picture_table",
    "unique_of", "unique_table", "version_table"]

NULL, CONTROL = KINDS
# What is translated, by the name of the version: the first of a pair is its principal-only part.
VERSIONS = {
    "whole": "whole feature", "principal": "principal part", "null": "null part",
    "principal-first": "principal part, then null part",
    "kernel": "principal part, non-linear", "kernel-first": "non-linear, then null part"}
BASES = {"principal": "principal-first", "kernel": "kernel-first"}
READERS = {"principal": "a linear map", "kernel": "a non-linear map"}
BRIEF_DRAWS = 2  # random subspaces of a report
SOFTNESS = 2.0  # temperature of the probabilities that the non-linear map reads
KEYS = ("information_draws", "kernel_size")


def home(study: Study) -> str:
    """Name of the study's own joint space, as in its profile's ``spaces``."""
    return study.config.spaces[-1 if study.config.tower else 0]


def kernel_map(
    logits: torch.Tensor, fit_on: np.ndarray, size: int, *, variance: float = 1.0, seed: int = 0
) -> torch.Tensor:
    """Non-linear features (n, size) of logits (n, c) for a ridge."""
    roots = torch.softmax(logits.double() / SOFTNESS, dim=1).sqrt().numpy()
    known = roots[fit_on]
    some = np.random.default_rng(seed).permutation(len(known))[:500]
    apart = torch.nn.functional.pdist(torch.tensor(known[some])).square().median()
    if not apart > 0:
        raise SingError(
            "The kernel needs pictures with different probabilities; these all have the same.")
    from sklearn.kernel_approximation import Nystroem  # here: a second that few need

    kernel = Nystroem(
        gamma=1 / float(apart), n_components=min(size, len(known)), random_state=seed
    ).fit(known)
    mapped = kernel.transform(roots)
    return torch.tensor(mapped * np.sqrt(variance / mapped[fit_on].var(0).sum()))


# --- every picture under every translator --------------------------------------------------------


def picture_table(study: Study, model: str) -> pd.DataFrame:
    """What translators of the parts of a classifier's features get right of every picture."""
    about = study.pictures[["picture", "subject", "class_index"]]
    return _picture_table(study, model).merge(about, on="picture")


@stored(keys=KEYS)  # not "model": other classifiers' features make the other spaces
def _picture_table(study: Study, name: str) -> pd.DataFrame:
    spaces = list(study.config.spaces)
    own = name if study.config.tower else home(study)
    near = list(dict.fromkeys([home(study), own]))
    found = _Reader(study, name, spaces, near)
    found.in_stages(study.config.information_draws)
    for space in spaces:
        found.whole(space)
    return pd.concat(found.tables, ignore_index=True)


class _Reader:
    """Fits translators of the parts of a feature; gathers what they get right, held out."""

    def __init__(self, study: Study, model: str, spaces: list[str], near: list[str]) -> None:
        self.study, self.model, self.names, self.near = study, model, spaces, near
        self.views = {name: study.in_space(name) for name in spaces}
        self.z = {name: view.embeddings.double() for name, view in self.views.items()}
        self.text = {name: view.text(study.pictures["label"]) for name, view in self.views.items()}
        number = study.pictures["fold"].to_numpy()
        self.folds = [torch.tensor(np.flatnonzero(number == fold))
                      for fold in range(study.config.folds)]
        self.tables: list[pd.DataFrame] = []

    def add(
        self, rows: torch.Tensor, space: str, version: str, draw: int, found: torch.Tensor,
        removed: torch.Tensor | None = None,
    ) -> None:
        """Keep translations (n, d) of one fold's rows, and those of their equivalents."""
        z = self.z[space][rows]
        table = pd.DataFrame({
            "picture": self.study.pictures["picture"].to_numpy()[rows],
            "squared_error": (found - z).square().sum(1).numpy(),
            "energy": (z - z.mean(0)).square().sum(1).numpy()})
        if removed is not None:
            for name, score in scores(found, removed, self.text[space][rows])._asdict().items():
                table[name] = score.numpy()
        self.tables.append(table.assign(space=space, version=version, draw=draw))

    def in_stages(self, draws: int) -> None:
        """The principal part first, then the null part, or a random subspace in its place."""
        study, spaces = self.study, self.study.spaces(self.model)
        f = study.features(self.model).double()
        length, lambdas = spaces.null(f).norm(dim=1), {}
        for draw in range(-1, draws):
            basis = spaces.null_basis if draw < 0 else study.control_basis(self.model, draw)
            directions = frame(basis)
            x = f @ directions
            principal, part = x[:, :spaces.rank], x[:, spaces.rank:]
            # What a random removal of the null part's size leaves of the random part.
            left = 0 if draw < 0 else 1 - length[:, None] / part.norm(dim=1, keepdim=True)
            firsts = {"principal": (principal, self.names)}
            if self.near:
                seen = (principal @ directions[:, :spaces.rank].T).float()
                firsts["kernel"] = self.kernel(seen, principal), self.near
            for base, (first, names) in firsts.items():
                names = names if draw < 0 else (self.near or self.names)[:1]
                always, folds = study.fold_fitters(
                    self.model, torch.cat([first, part], 1),
                    torch.cat([self.z[name] for name in names], 1))
                k = first.shape[1]
                if draw < 0:  # a control's first stage gets the lambdas of the principal part
                    lambdas[base] = self.lambdas(always, folds, slice(0, k), names)
                for name, own in self.columns(names):
                    staged = principal_first(
                        always.part(slice(None), own),
                        [fold.part(slice(None), own) for fold in folds], k,
                        study.lambdas(self.model), lambdas=lambdas[base][name][:-1])
                    for rows, fitted in zip(self.folds, staged):
                        alone, rest = fitted.first(first[rows]), fitted.rest
                        kept = part[rows] * (left if draw < 0 else left[rows])
                        self.add(rows, name, base, draw, alone)
                        self.add(rows, name, BASES[base], draw, alone + rest(part[rows]),
                                 alone + rest(kept))
                if draw < 0 and base == "principal" and self.near:
                    self.null_alone(always, folds, slice(k, None), part)

    def kernel(self, seen: torch.Tensor, principal: torch.Tensor) -> torch.Tensor:
        """The non-linear first stage's input: what the head says of a part of the feature."""
        c, fitted_on = self.study.config, self.study.is_scored | self.study.drawings(self.model)
        return kernel_map(
            self.study.classifier(self.model).logits(seen), fitted_on, c.kernel_size, seed=c.seed,
            variance=float(principal[torch.tensor(fitted_on)].var(0).sum()))

    def columns(self, names: Sequence[str]) -> Iterator[tuple[str, slice]]:
        """Where the targets of each space stand, side by side."""
        ends = accumulate((self.z[name].shape[1] for name in names), initial=0)
        return zip(names, (slice(*pair) for pair in pairwise(ends)))

    def lambdas(self, always, folds, part: slice, names: Sequence[str]) -> dict[str, list[float]]:
        """Lambdas of a ridge of some columns, by space: without each fold, and of all."""
        chosen = chosen_lambdas(
            always.part(part), [fold.part(part) for fold in folds], self.study.lambdas(self.model),
            [self.z[name].shape[1] for name in names])
        return {name: [row[at] for row in chosen] for at, name in enumerate(names)}

    def null_alone(self, always, folds, part: slice, x: torch.Tensor) -> None:
        """One ridge of the null part alone."""
        lambdas, total = self.lambdas(always, folds, part, self.names), always.copy()
        for fold in folds:
            total.merge(fold)
        for name, own in self.columns(self.names):
            for rows, fold, lam in zip(self.folds, folds, lambdas[name]):
                fitted = total.without(fold).part(part, own).solve(lam)
                self.add(rows, name, "null", -1, fitted(x[rows]))

    def whole(self, name: str) -> None:
        """The paper's translator: one ridge of the whole feature; at home with the control."""
        study, spaces = self.study, self.study.spaces(self.model)
        draws = study.config.information_draws if name == home(study) else 0
        for rows, fitted in zip(self.folds, self.views[name].fitted(self.model)):
            f = study.features(self.model)[rows].double()
            found, length = fitted(f), spaces.null(f).norm(dim=1)
            self.add(rows, name, "whole", -1, found, fitted(spaces.remove_null(f)))
            for draw in range(draws):
                other = matched_removal(f, length, study.control_basis(self.model, draw))
                self.add(rows, name, "whole", draw, found, fitted(other))


# --- tables --------------------------------------------------------------------------------------


def _about(study: Study, model: str, space: str) -> dict[str, object]:
    return {"model": model, "title": study.classifier(model).title, "joint": space,
            "space": study.space_title(space),
            "circular": bool(study.config.tower) and space == model}


def _groups(study: Study) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """Rows of :func:`picture_table` for each classifier, space, version and kind, in this order."""
    for model in study.config.everyone:
        table = picture_table(study, model)
        order = [table["version"].map(list(VERSIONS).index), table["draw"] >= 0]
        for (space, version, random), rows in table.groupby(["space", *order]):
            version = list(VERSIONS)[version]
            yield _about(study, model, space) | {
                "version": version, "name": VERSIONS[version],
                "kind": CONTROL if random else NULL}, rows


@stored(keys=KEYS)
def information_table(study: Study) -> pd.DataFrame:
    """How much translators of the parts of a feature get right of held-out pictures."""
    records = []
    for about, rows in _groups(study):
        if about["version"] == "whole" and about["kind"] == CONTROL:
            continue
        sums = rows.groupby("subject")[["squared_error", "energy"]].sum().to_numpy()
        records.append(about | study.interval(
            sums, np.arange(len(sums)), lambda m: 1 - m[:, 0] / m[:, 1], of_means=True))
    return pd.DataFrame(records)


def _unique(means: np.ndarray) -> np.ndarray:
    """What the second of two translators explains beyond the first: means over rows (..., 3)."""
    alone, both, energy = np.moveaxis(means, -1, 0)
    return (alone - both) / energy


def _by_subject(table: pd.DataFrame, space: str, base: str) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors of a pair of versions, and energies: score (n, 3), control (n, draws, 3)."""
    own = table[table["space"] == space]
    sums = own.pivot_table(
        ["squared_error", "energy"], "subject", ["version", "draw"], aggfunc="sum")
    columns = ("squared_error", base), ("squared_error", BASES[base]), ("energy", base)
    draws = sorted(own.loc[own["version"] == base, "draw"].unique())
    found = np.stack([
        np.column_stack([sums[what, version, draw] for what, version in columns])
        for draw in draws], axis=1)
    return found[:, 0], found[:, 1:]


def _comparison(
    study: Study, table: pd.DataFrame, space: str, base: str, floor: str | None
) -> Iterator[dict[str, object]]:
    """Unique R2, its control, its floor in a space, and what exceeds either, with intervals."""
    score, control = _by_subject(table, space, base)
    how = {"clusters": np.arange(len(score)), "of_means": True}
    yield {"kind": NULL} | study.interval(score, statistic=_unique, **how)
    if control.shape[1]:
        yield {"kind": CONTROL} | study.interval(
            control, statistic=lambda m: _unique(m).mean(-1), **how)
        yield {"kind": "excess over control"} | study.excess(
            score, control, statistic=lambda m, other: _unique(m) - _unique(other).mean(1), **how)
    if floor is not None:
        other, _ = _by_subject(table, floor, base)
        yield {"kind": "circular floor"} | study.interval(other, statistic=_unique, **how)
        if floor != space:
            yield {"kind": "excess over floor"} | study.interval(
                np.stack([score, other], axis=1),
                statistic=lambda m: _unique(m[:, 0]) - _unique(m[:, 1]), **how)


@stored(keys=KEYS)
def unique_table(study: Study) -> pd.DataFrame:
    """Unique R2 of the null part in every space: what it adds to the principal part's R2."""
    records = []
    for model in study.config.everyone:
        table = picture_table(study, model)
        floor = model if study.config.tower else None
        for base in BASES:
            have = table.loc[table["version"] == base, "space"].unique()
            for space in (name for name in study.config.spaces if name in have):
                records += [_about(study, model, space) | {"base": base} | row
                            for row in _comparison(study, table, space, base, floor)]
    return pd.DataFrame(records)


@stored(keys=KEYS)
def unique_of(study: Study, model: str) -> pd.DataFrame:
    """Unique R2 of the null part of one classifier, in the study's list or not, in a minute."""
    found = _Reader(study, model, [home(study)], near=[])
    found.in_stages(min(BRIEF_DRAWS, study.config.information_draws))
    table = pd.concat(found.tables, ignore_index=True).merge(
        study.pictures[["picture", "subject"]], on="picture")
    return pd.DataFrame([
        {"model": model, "title": study.title(model)} | row
        for row in _comparison(study, table, home(study), "principal", None)])


@stored(keys=KEYS)
def version_table(study: Study) -> pd.DataFrame:
    """What null removal scores under each version of the translator, in its own and other spaces.
    """
    records = []
    for about, rows in _groups(study):
        if study.config.pictures == "stamps":
            rows = rows[rows["class_index"] >= 0]
        if about["version"] not in ("whole", *BASES.values()):
            continue
        both = rows.pivot_table(
            ["image_score", "attribute_score"], ["subject", "picture"], "draw").abs()
        subjects = both.index.get_level_values("subject")
        for quantity in ("image_score", "attribute_score"):
            records.append(about | {"quantity": quantity} | study.interval(
                both[quantity].to_numpy(), subjects, lambda m: m.mean(-1), of_medians=True))
    return pd.DataFrame(records)
