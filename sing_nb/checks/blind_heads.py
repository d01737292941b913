"""One head, made blind to many directions in turn: what readouts and angles say of each concept."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..method.steer import random_basis
from ..method.translator import RidgeFitter
from ..models.prompts import prompt
from ..study.study import Study
from .concepts import concept_values, split_subjects
from .controls import GroupedProbe, all_mean_directions, planted_null

__all__ = ["FOLDS", "READABLE", "Asked", "Half", "Split", "hidden_share"]

READABLE = 0.1  # held-out R2 from which on a concept counts as contained in the features
FOLDS = 5
LAMBDAS = (0.3, 1.0, 3.0, 10.0)  # of the readout, in units of the features' variance


def hidden_share(full: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Share of what is readable in the whole feature that is not in a part of it."""
    full, left = np.maximum(full, 0), np.maximum(left, 0)
    return (full - left) / np.maximum(full, READABLE)


def _standard(values: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and variance 1; 0 where one does not vary."""
    spread = values.std(0)
    return (values - values.mean(0)) / np.where(spread > 0, spread, np.inf)


@dataclasses.dataclass
class Half:
    """Pictures of some subjects, with folds of their own."""

    rows: np.ndarray  # of study.pictures
    subjects: np.ndarray
    folds: np.ndarray
    values: np.ndarray  # (n, concepts), standardised
    features: np.ndarray  # (n, m), float64

    @classmethod
    def of(cls, study: Study, model: str, table: pd.DataFrame, seed: int) -> Half:
        """Of rows of :func:`concept_values`."""
        rows = table["row"].to_numpy(copy=True)
        count = max(2, min(FOLDS, table["subject"].nunique() // 2))
        return cls(
            rows, table["subject"].to_numpy(), split_subjects(table, count, seed),
            _standard(table.iloc[:, 3:].to_numpy()), study.features(model)[rows].double().numpy())

    def directions(self, values: np.ndarray | None = None) -> list[np.ndarray]:
        """The mean direction (m, 1) of each concept, or of other values of the pictures."""
        whole = np.zeros(len(self.rows))
        return all_mean_directions(self.features, self.values if values is None else values, whole)

    def shuffled(self, seed: int) -> np.ndarray:
        """The concepts moved between subjects, and between the pictures of each."""
        rng = np.random.default_rng(seed)
        names = rng.permutation(np.unique(self.subjects))
        return self.values[np.concatenate(
            [rng.permutation(np.flatnonzero(self.subjects == name)) for name in names])]


class Asked:
    """Everything that is asked of one head on one half: readouts, translators, AS and IS."""

    def __init__(
        self, study: Study, model: str, half: Half, lam: float, text: np.ndarray, null: np.ndarray,
        clipart: RidgeFitter, seed: int,
    ) -> None:
        self.half, self.null, self.text = half, null, text
        x = half.features
        self.joint = _standard(study.embeddings[half.rows].double().numpy() @ text.T)
        frame = random_basis(x.shape[1], null.shape[1], seed)
        own, other, gram = x @ null, x @ frame, x @ x.T
        targets = np.hstack([half.values, self.joint])
        self._probe([GroupedProbe(part, targets, half.folds, lam)
                     for part in (gram, gram - own @ own.T, gram - other @ other.T)])
        # Translators of this half alone (and of what no subject is in), one per fold.
        parts = {fold: study.fitter(model, half.rows[half.folds == fold])
                 for fold in np.unique(half.folds)}
        total = clipart.copy()
        for part in parts.values():
            total.merge(part)
        lam_joint = study.fitted(model)[-1].card["lambda"]
        maps = {fold: total.without(part).solve(lam_joint) for fold, part in parts.items()}
        self.weights = {fold: one.weight.double().numpy().T for fold, one in maps.items()}
        bias = np.stack([maps[fold].bias.double().numpy() for fold in half.folds])
        self.z = self._linear(x) + bias
        self.left = self.z - self._linear(own @ null.T)  # without the null part
        part = other @ frame.T
        self.random = self._linear(part / np.linalg.norm(part, axis=1, keepdims=True))
        self.energy = (own**2).sum(1)
        self.before = _degrees(self.z, text)

    def _probe(self, probes: list[GroupedProbe]) -> None:
        """Readouts of the whole feature, its principal part and what a random part leaves."""
        self.probes = full, self.principal, control = probes
        self.full = full.r2()
        self.control = hidden_share(self.full, control.r2())

    def shuffled(self, seed: int) -> Asked:
        """The same pictures with their concepts moved between subjects."""
        other = copy.copy(self)
        other.half = dataclasses.replace(self.half, values=self.half.shuffled(seed))
        targets = np.hstack([other.half.values, self.joint])
        other._probe([probe.of(targets) for probe in self.probes])
        return other

    def _linear(self, x: np.ndarray, basis: np.ndarray | None = None) -> np.ndarray:
        """Features (n, m), or coordinates (n, k) along a basis (m, k), translated by fold."""
        out = np.empty((len(x), self.text.shape[1]))
        for fold, weight in self.weights.items():
            own = self.half.folds == fold
            out[own] = x[own] @ (weight if basis is None else basis.T @ weight)
        return out

    def scores(
        self, plants: Sequence[np.ndarray | None] = (None,), *, readout: bool = False
    ) -> list[dict[str, np.ndarray]]:
        """All scores (concepts,) of the head as it is (None), or blind to directions (m, k)."""
        nothing = np.empty((self.null.shape[0], 0))
        turned = [(nothing, nothing) if one is None else planted_null(self.null, one)
                  for one in plants]
        # One product for all heads: coordinates along what leaves and what enters null spaces.
        ends = np.cumsum([basis.shape[1] for pair in turned for basis in pair])
        columns = np.hstack([basis for pair in turned for basis in pair])
        parts = np.split(self.half.features @ columns, ends[:-1], axis=1)
        changes = list(zip(parts[::2], parts[1::2]))
        return [
            self._readout(left) | ({} if readout else self._angles(left, *change, *pair))
            for left, change, pair in zip(self.principal.r2s(changes), changes, turned)]

    def _readout(self, left: np.ndarray) -> dict[str, np.ndarray]:
        found = {"hidden": hidden_share(self.full, left), "full": self.full, "principal": left,
                 "hidden_control": self.control}
        return {name: values[: len(self.text)] for name, values in found.items()}

    def _angles(
        self, left: np.ndarray, added: np.ndarray, removed: np.ndarray, back: np.ndarray,
        planted: np.ndarray,
    ) -> dict[str, np.ndarray]:
        z = self.left + self._linear(np.hstack([added, -removed]), np.hstack([back, planted]))
        length = self.energy - (added**2).sum(1) + (removed**2).sum(1)
        other = self.z - np.sqrt(length.clip(min=0))[:, None] * self.random  # as much, at random
        towards, control = (
            self._along(self.before - _degrees(part, self.text)) for part in (z, other))
        turned = np.degrees(np.arccos((_unit(self.z) * _unit(z)).sum(1).clip(-1, 1)))
        return {
            "joint": (self.full - left)[len(self.text):], "attribute_score": towards,
            "attribute_excess": towards - control,
            "image_score": np.abs(self._along(turned[:, None]))}

    def _along(self, score: np.ndarray) -> np.ndarray:
        """How far a score falls for a standard deviation more of each concept."""
        return -(self.half.values * (score - score.mean(0))).mean(0)


def _unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=-1, keepdims=True).clip(min=1e-12)


def _degrees(z: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Angles (n, p), by arc cosines: tens of degrees do not need :func:`metrics.angle`."""
    return np.degrees(np.arccos((_unit(z) @ text.T).clip(-1, 1)))


class Split:
    """One classifier and one split of the subjects in halves: where plants come from and go to."""

    def __init__(self, study: Study, model: str, seed: int) -> None:
        self.study, self.model, self.seed = study, model, seed
        self.null = study.spaces(model).null_basis.numpy()
        self.clipart = study.fitter(model, study.drawings(model))
        table = concept_values(study)
        side = split_subjects(table, 2, seed)
        self.tables = [table[side == part].reset_index(drop=True) for part in (0, 1)]
        first, second = (Half.of(study, model, part, seed) for part in self.tables)
        centred = first.features - first.features.mean(0)
        variance = float((centred**2).sum() / len(centred))
        gram = first.features @ first.features.T
        by_lam = [GroupedProbe(gram, first.values, first.folds, lam * variance).r2()
                  for lam in LAMBDAS]
        best = int(np.argmax([r2.clip(min=0).mean() for r2 in by_lam]))
        self.lam = LAMBDAS[best] * variance
        there = GroupedProbe(
            second.features @ second.features.T, second.values, second.folds, self.lam).r2()
        # Candidates are chosen on whole features, before any head is looked at.
        varies = (first.values.std(0) > 0) & (second.values.std(0) > 0)
        both = np.where(varies, np.minimum(by_lam[best], there), -np.inf)
        order = np.argsort(-both, kind="stable")[: study.config.plant_concepts]
        self.chosen = np.sort(order[(both[order] >= READABLE) | (np.arange(len(order)) < 2)])
        self.names = [table.columns[3 + c] for c in self.chosen]
        first.values = first.values[:, self.chosen]
        self.first, self.text = first, self._text(first)

    def _text(self, half: Half) -> np.ndarray:
        """A unit vector of the joint space for each concept (concepts, d)."""
        z = self.study.embeddings[half.rows].double().numpy()
        text = half.values.T @ (z - z.mean(0))
        named = {c: name.removeprefix("group: ").removeprefix("all ")
                 for c, name in enumerate(self.names) if name.startswith("group: ")}
        if named:
            said = self.study.space.encode_text([prompt(name) for name in named.values()])
            text[list(named)] = said.double().numpy()
        return _unit(text)

    def asked(self, table: pd.DataFrame | None = None) -> Asked:
        """The second half, or some of its pictures, asked about the chosen concepts."""
        table = self.tables[1] if table is None else table
        half = Half.of(self.study, self.model, table, self.seed)
        half.values = half.values[:, self.chosen]
        return Asked(self.study, self.model, half, self.lam, self.text, self.null, self.clipart,
                     self.seed)

    def records(self, head: str, plant: str, scores: dict) -> pd.DataFrame:
        """Scores of all concepts as rows."""
        return pd.DataFrame(scores).assign(
            model=self.model, title=self.study.title(self.model), seed=self.seed, head=head,
            plant=plant, concept=self.names)
