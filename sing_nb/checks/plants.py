"""Planted truths: heads that were made blind to a known concept, and which score finds it.

A real head W is made blind by projecting a concept's feature direction out of its rows. The
direction comes from one half of the subjects, the question is asked on the other half, and all
readouts and translators there are fitted without the subject that they are asked about. Whatever
is not planted is a negative, also a sham: a plant along the direction of the shuffled concept.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from PIL import Image

from ..method.translator import RidgeFitter
from ..models.prompts import prompt
from ..pictures.images import picture_file, read_picture, store_pictures
from ..study.study import Study
from .controls import GroupedProbe, all_mean_directions, discriminant_directions, planted_null
from .intervals import cluster_auc, deal, random_basis

__all__ = [
    "SCORES",
    "concept_values",
    "hidden_share",
    "plant_power",
    "plant_runs",
    "power_table",
    "score_table",
    "split_subjects",
    "thresholds",
]

SCORES = {
    "hidden": "hidden share (readout)",
    "joint": "unique information in the joint space",
    "attribute_excess": "excess AS (AS − control)",
    "attribute_score": "AS",
    "image_score": "IS",
}
READABLE = 0.1  # held-out R2 from which on a concept counts as contained in the features
ALARMS = 0.01  # share of calibration runs of each kind that may lie above a threshold
CALIBRATION = 1000  # added to the seeds of the runs that thresholds are chosen on
LEAST_SUBJECTS = 8  # of a group that is a concept
MOST_GROUPS = 40
SHUFFLES = 5
FOLDS = 5
LAMBDAS = (0.3, 1.0, 3.0, 10.0)  # of the readout, in units of the features' variance
DIRECTIONS = {"mean": (1, 2, 4, 8), "discriminant": (1, 2, 4, 8, 16, 32)}
SUBJECTS, PICTURES = (10, 20, 40, 80), (1, 2, 4, 8)
COMPARED = ("hidden", "joint", "attribute_excess")  # scores whose power is measured


# --- concepts -----------------------------------------------------------------------------------


def concept_values(study: Study) -> pd.DataFrame:
    """Candidate concepts of every picture that is asked about, whatever the classifier says.

    Known factors of a view, what is measured from the pixels, and groups of subjects.

    Parameters
    ----------
    study : Study

    Returns
    -------
    pandas.DataFrame
        One row per picture: row (of ``study.pictures``), subject, ``stratum`` (what halves and
        folds are balanced over), and one column per concept, ``<kind>: <name>`` with the kinds
        ``background``, ``view``, ``pixels`` and ``group``: 0 or 1, or a number whose unit does not
        matter. Of more pictures than the profile's ``plant_pictures``, twice, subjects drawn by
        the seed are kept.
    """
    most = study.config.plant_pictures
    return study.stored(f"plant-concepts-{most}", lambda: _concept_values(study, 2 * most))


def _concept_values(study: Study, most: int) -> pd.DataFrame:
    table = study.pictures[study.is_scored].rename_axis("row").reset_index()
    order = np.random.default_rng(study.config.seed).permutation(table["subject"].unique())
    sizes = table["subject"].value_counts().loc[order].cumsum()
    kept = set(sizes.index[sizes <= most]) or {order[0]}
    table = table[table["subject"].isin(kept)].reset_index(drop=True)
    found, groups = {}, {"": table["label"]}
    if study.config.pictures == "stamps":
        folders = table["path"].str.extract(r".*/stamps/([^/]+)/([^/.]+)")
        groups = {"": folders[1], "all ": folders[0]}
        angle = np.deg2rad(table["hue"])
        for kind in sorted(table["background"].unique()):
            found[f"background: {kind}"] = table["background"] == kind
        found |= {
            "background: lightness": table["lightness"],
            "background: saturation": table["saturation"],
            "background: red to cyan": np.cos(angle) * table["saturation"],
            "background: yellow to blue": np.sin(angle) * table["saturation"],
            "view: scale": table["scale"], "view: left to right": table["x"],
            "view: top to bottom": table["y"], "view: mirrored": table["flip"],
        }
    found |= _pixels(study, table)
    for prefix, group in groups.items():
        subjects = table["subject"].groupby(group).nunique()
        names = sorted(subjects.index[subjects >= LEAST_SUBJECTS])
        if len(names) > MOST_GROUPS:
            names = [names[at] for at in np.linspace(0, len(names) - 1, MOST_GROUPS).astype(int)]
        found |= {f"group: {prefix}{name}": group == name for name in names}
    values = pd.DataFrame(found).astype(float).round(6)
    values = values.loc[:, (values.std() > 0) & ~values.T.duplicated()]
    stratum = groups[next(reversed(groups))] + "/" + groups[""]
    return pd.concat([table[["row", "subject"]], stratum.rename("stratum"), values], axis=1)


def _pixels(study: Study, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """What a picture of 64 pixels tells of colour, light and structure, and of its centre."""
    store_pictures(table, study.picture_folder, progress=study.progress)
    rows = []
    for row in table.to_dict("records"):
        picture = read_picture(picture_file(row, study.picture_folder))
        small = picture.resize((64, 64), Image.Resampling.BILINEAR)
        rows.append(np.asarray(small, dtype=np.float32) / 255)
    rgb = np.stack(rows)
    light, chroma = rgb.mean(3), rgb.max(3) - rgb.min(3)
    red, yellow = rgb[..., 0] - rgb[..., 1], (rgb[..., 0] + rgb[..., 1]) / 2 - rgb[..., 2]
    centre = np.zeros((64, 64), dtype=bool)
    centre[16:48, 16:48] = True
    across, down = (np.abs(np.diff(light, axis=axis)).mean((1, 2)) for axis in (2, 1))
    found = {"pixels: structure": across + down,
             "pixels: upright or level edges": np.log((across + 1e-3) / (down + 1e-3)),
             "pixels: contrast": light.std((1, 2)),
             "pixels: contrast of the centre": light[:, centre].std(1),
             "pixels: lightness of the border": light[:, ~centre].mean(1),
             "pixels: light from above": light[:, :32].mean((1, 2)) - light[:, 32:].mean((1, 2))}
    for name, part in (("lightness", light), ("colourfulness", chroma),
                       ("red to green", red), ("yellow to blue", yellow)):
        found[f"pixels: {name}"] = part.mean((1, 2))
        found[f"pixels: {name} of the centre"] = part[:, centre].mean(1)
    return found


def split_subjects(concepts: pd.DataFrame, parts: int, seed: int) -> np.ndarray:
    """Deal whole subjects to parts, those of a stratum evenly.

    Parameters
    ----------
    concepts : pandas.DataFrame
        With subject and stratum.
    parts : int
    seed : int

    Returns
    -------
    numpy.ndarray
        (n,), the part of each row, from 0.
    """
    subjects = concepts[["subject", "stratum"]].drop_duplicates("subject").sort_values("subject")
    dealt = deal(len(subjects), parts, seed, subjects["stratum"])
    part = dict(zip(subjects["subject"], dealt, strict=True))
    return concepts["subject"].map(part).to_numpy()


# --- one half of the subjects, one head ---------------------------------------------------------


@dataclasses.dataclass
class _Half:
    """Pictures of some subjects, with folds of their own."""

    rows: np.ndarray  # of study.pictures
    subjects: np.ndarray
    folds: np.ndarray
    values: np.ndarray  # (n, concepts), mean 0 and variance 1; 0 where one does not vary
    features: np.ndarray  # (n, m), float64

    @classmethod
    def of(cls, study: Study, model: str, table: pd.DataFrame, seed: int) -> _Half:
        values = table.iloc[:, 3:].to_numpy()
        spread = values.std(0)
        rows = table["row"].to_numpy(copy=True)
        count = max(2, min(FOLDS, table["subject"].nunique() // 2))
        return cls(
            rows, table["subject"].to_numpy(), split_subjects(table, count, seed),
            (values - values.mean(0)) / np.where(spread > 0, spread, np.inf),
            study.features(model)[rows].double().numpy(),
        )

    @property
    def centred(self) -> np.ndarray:
        return self.features - self.features.mean(0)

    def shuffled(self, seed: int) -> np.ndarray:
        """The concepts moved between subjects, and between the pictures of each.

        Runs of one subject's values stay together; their order does not, for a factor may follow
        the number of the view.
        """
        rng = np.random.default_rng(seed)
        names = rng.permutation(np.unique(self.subjects))
        return self.values[np.concatenate(
            [rng.permutation(np.flatnonzero(self.subjects == name)) for name in names])]


class _Asked:
    """Everything that is asked of one head on one half: readouts, translators, AS and IS."""

    def __init__(
        self, study: Study, model: str, half: _Half, lam: float, text: np.ndarray, null: np.ndarray,
        clipart: RidgeFitter, seed: int,
    ) -> None:
        self.half, self.null, self.text = half, null, text
        x = half.features
        z = study.embeddings[half.rows].double().numpy()
        joint = z @ text.T
        spread = joint.std(0)
        self.joint = (joint - joint.mean(0)) / np.where(spread > 0, spread, 1)
        frame = random_basis(x.shape[1], null.shape[1], seed)
        own, other, gram = x @ null, x @ frame, x @ x.T
        targets = np.hstack([half.values, self.joint])
        self._probe([GroupedProbe(part, targets, half.folds, lam)
                     for part in (gram, gram - own @ own.T, gram - other @ other.T)])
        # Translators of this half alone (and of what no subject is in), one per fold.
        folds = {fold: study.fitter(model, half.rows[half.folds == fold])
                 for fold in np.unique(half.folds)}
        self.maps = {}
        lam_joint = study.fitted(model)[-1].card["lambda"]
        total = clipart.copy()
        for fitter in folds.values():
            total.merge(fitter)
        for fold, fitter in folds.items():
            fitted = total.without(fitter).solve(lam_joint)
            self.maps[fold] = fitted.weight.double().numpy().T, fitted.bias.double().numpy()
        self.z = self._linear(x) + self._bias()
        self.left = self.z - self._linear(own @ null.T)  # without the null part
        part = other @ frame.T
        random = self._linear(part / np.linalg.norm(part, axis=1, keepdims=True))
        self.energy = (own**2).sum(1)
        # What angles are made of: every head changes these by products of a few columns.
        self.towards = [z @ text.T for z in (self.z, self.left, random)]
        self.lengths = [(one * two).sum(1) for one, two in (
            (self.z, self.z), (self.left, self.left), (random, random), (self.z, self.left),
            (self.z, random))]
        self.before = _degrees(self.towards[0], self.lengths[0])

    def _probe(self, probes: list[GroupedProbe]) -> None:
        """Readouts of the whole feature, its principal part and what a random part leaves."""
        self.probes = full, self.principal, control = probes
        self.full = full.r2()
        self.control = hidden_share(self.full, control.r2())

    def shuffled(self, seed: int) -> _Asked:
        """The same pictures with their concepts moved between subjects."""
        other = copy.copy(self)
        other.half = dataclasses.replace(self.half, values=self.half.shuffled(seed))
        targets = np.hstack([other.half.values, self.joint])
        other._probe([probe.of(targets) for probe in self.probes])
        return other

    def _linear(self, x: np.ndarray) -> np.ndarray:
        out = np.empty((len(x), next(iter(self.maps.values()))[0].shape[1]))
        for fold, (weight, _) in self.maps.items():
            own = self.half.folds == fold
            out[own] = x[own] @ weight
        return out

    def _bias(self) -> np.ndarray:
        return np.stack([self.maps[fold][1] for fold in self.half.folds])

    def scores(self, directions: np.ndarray | None = None, *, readout: bool = False) -> dict:
        """All scores (concepts,) of the head as it is, or blind to directions (m, k)."""
        return self.every([directions], readout=readout)[0]

    def every(
        self, plants: Sequence[np.ndarray | None], *, readout: bool = False
    ) -> list[dict[str, np.ndarray]]:
        """:meth:`scores` of many heads."""
        nothing = np.empty((self.null.shape[0], 0))
        turned = [(nothing, nothing) if one is None else planted_null(self.null, one)
                  for one in plants]
        # One product for all heads: coordinates along what leaves and what enters null spaces.
        ends = np.cumsum([basis.shape[1] for pair in turned for basis in pair])
        columns = np.hstack([basis for pair in turned for basis in pair])
        parts = np.split(self.half.features @ columns, ends[:-1], axis=1)
        changes = list(zip(parts[::2], parts[1::2]))
        return [
            self._scores(left, *change, *pair, readout=readout)
            for left, change, pair in zip(self.principal.r2s(changes), changes, turned)
        ]

    def _scores(
        self, left: np.ndarray, added: np.ndarray, removed: np.ndarray, back: np.ndarray,
        planted: np.ndarray, *, readout: bool,
    ) -> dict[str, np.ndarray]:
        count = self.half.values.shape[1]
        found = {
            "hidden": hidden_share(self.full, left)[:count], "full": self.full[:count],
            "principal": left[:count], "hidden_control": self.control[:count],
        }
        if readout:
            return found
        # The embedding without the new null part is `left` plus a few columns C times M.
        c, basis = np.hstack([added, -removed]), np.hstack([back, planted])
        z_left, square, both = (
            part.copy() for part in (self.towards[1], self.lengths[1], self.lengths[3]))
        for fold, (weight, _) in self.maps.items():
            own, moved = self.half.folds == fold, basis.T @ weight
            mine = c[own]
            z_left[own] += mine @ (moved @ self.text.T)
            both[own] += (mine * (self.z[own] @ moved.T)).sum(1)
            square[own] += (mine * (2 * self.left[own] @ moved.T + mine @ (moved @ moved.T))).sum(1)
        energy = self.energy - (added**2).sum(1) + (removed**2).sum(1)
        length = np.sqrt(energy.clip(min=0))
        control = self.lengths[0] - 2 * length * self.lengths[4] + length**2 * self.lengths[2]
        towards, control = (
            self._along(self.before - _degrees(product, squared)) for product, squared in (
                (z_left, square),
                (self.towards[0] - length[:, None] * self.towards[2], control))
        )
        turned = _degrees(both[:, None], square * self.lengths[0])
        return found | {
            "joint": (self.full - left)[count:], "attribute_score": towards,
            "attribute_excess": towards - control,
            "image_score": np.abs(self._along(np.repeat(turned, count, 1))),
        }

    def _along(self, score: np.ndarray) -> np.ndarray:
        """How far a score falls for a standard deviation more of each concept."""
        return -(self.half.values * (score - score.mean(0))).mean(0)


def _unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=-1, keepdims=True).clip(min=1e-12)


def _degrees(products: np.ndarray, squared: np.ndarray) -> np.ndarray:
    """Angles to unit vectors from products (n, p) and squared lengths (n,), by arc cosines.

    Tens of degrees do not need :func:`metrics.angle`.
    """
    length = np.sqrt(squared.clip(min=1e-24))[:, None]
    return np.degrees(np.arccos((products / length).clip(-1, 1)))


def hidden_share(full: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Share of what is readable in the whole feature that is not in a part of it; -inf to 1.

    A concept that is hardly readable is measured against :data:`READABLE`: what is not there
    cannot be hidden.

    Parameters
    ----------
    full, left : numpy.ndarray
        Held-out R2 of the whole feature and of the part; below 0 counts as 0.
    """
    full, left = np.maximum(full, 0), np.maximum(left, 0)
    return (full - left) / np.maximum(full, READABLE)


class _Run:
    """One classifier and one split of the subjects in halves: where plants come from and go to."""

    def __init__(self, study: Study, model: str, seed: int) -> None:
        self.study, self.model, self.seed = study, model, seed
        self.null = study.spaces(model).null_basis.numpy()
        self.clipart = study.fitter(model, study.pictures["source"] == "clipart")
        table = concept_values(study)
        side = split_subjects(table, 2, seed)
        self.tables = [table[side == part].reset_index(drop=True) for part in (0, 1)]
        first, second = (_Half.of(study, model, part, seed) for part in self.tables)
        variance = float((first.centred**2).sum() / len(first.rows))
        gram = first.features @ first.features.T
        by_lam = [GroupedProbe(gram, first.values, first.folds, lam * variance).r2()
                  for lam in LAMBDAS]
        best = int(np.argmax([r2.clip(min=0).mean() for r2 in by_lam]))
        self.lam, self.readable = LAMBDAS[best] * variance, by_lam[best]
        there = GroupedProbe(
            second.features @ second.features.T, second.values, second.folds, self.lam).r2()
        # Candidates are chosen on whole features, before any head is looked at.
        both = np.where((first.values.std(0) > 0) & (second.values.std(0) > 0),
                        np.minimum(self.readable, there), -np.inf)
        order = np.argsort(-both, kind="stable")[: study.config.plant_concepts]
        self.chosen = np.sort(order[(both[order] >= READABLE) | (np.arange(len(order)) < 2)])
        self.names = [table.columns[3 + c] for c in self.chosen]
        first.values = first.values[:, self.chosen]
        self.first, self.second = first, self.half(self.tables[1])
        self.text = self._text()
        self.directions = all_mean_directions(
            first.features, first.values, np.zeros(len(first.rows)))

    def half(self, table: pd.DataFrame) -> _Half:
        """Pictures of the second half, or some of them, with the chosen concepts."""
        found = _Half.of(self.study, self.model, table, self.seed)
        found.values = found.values[:, self.chosen]
        return found

    def _text(self) -> np.ndarray:
        """A unit vector of the joint space for each concept (concepts, d).

        A group has a name. For other concepts it is their direction among the joint embeddings of
        the first half.
        """
        z = self.study.embeddings[self.first.rows].double().numpy()
        text = self.first.values.T @ (z - z.mean(0))
        named = {c: name.removeprefix("group: ").removeprefix("all ")
                 for c, name in enumerate(self.names) if name.startswith("group: ")}
        if named:
            said = self.study.space.encode_text([prompt(name) for name in named.values()])
            text[list(named)] = said.double().numpy()
        return _unit(text)

    def asked(self, half: _Half) -> _Asked:
        return _Asked(self.study, self.model, half, self.lam, self.text, self.null, self.clipart,
                      self.seed)

    def records(self, head: str, plant: str, scores: dict) -> pd.DataFrame:
        return pd.DataFrame(scores).assign(
            model=self.model, title=self.study.title(self.model), seed=self.seed, head=head,
            plant=plant, concept=self.names)


# --- tables -------------------------------------------------------------------------------------


def plant_runs(study: Study) -> pd.DataFrame:
    """Every score of every concept on untouched heads, plants, shams and shuffled concepts.

    The profile's ``plant_splits`` splits of the subjects in halves are reported; as many others
    serve to choose thresholds.

    Parameters
    ----------
    study : Study

    Returns
    -------
    pandas.DataFrame
        model, title, seed, ``calibration`` (bool), ``head`` (untouched, planted, sham, circular
        or permuted), ``plant`` (the concept that it was made blind to, else empty), ``concept``
        (the one that is asked about) and its scores: ``hidden`` (share of what is readable that the
        principal part has lost, up to 1), ``hidden_control`` (the same for a random subspace as
        large as the null space), ``full`` and ``principal`` (held-out R2), ``joint`` (R2 that the
        null part adds), ``attribute_score``, ``attribute_excess`` and ``image_score`` (degrees a
        standard deviation of the concept).
    """
    return study.stored(_name("runs", study), lambda: _plant_runs(study), *study.config.models)


def _plant_runs(study: Study) -> pd.DataFrame:
    tables = []
    for model in study.config.models:
        for split in range(study.config.plant_splits):
            for calibration in (False, True):
                seed = study.config.seed + split + CALIBRATION * calibration
                tables += [table.assign(calibration=calibration)
                           for table in _one_run(_Run(study, model, seed), calibration)]
    found = pd.concat(tables, ignore_index=True)
    numbers = found.select_dtypes(float).columns
    return found.assign(**found[numbers].round(5))


def _one_run(run: _Run, calibration: bool) -> Iterator[pd.DataFrame]:
    asked, first = run.asked(run.second), run.first
    yield run.records("untouched", "", asked.scores())
    shuffled = [first.shuffled(run.seed + number) for number in range(SHUFFLES)]
    moved = np.column_stack([shuffled[c % SHUFFLES][:, c] for c in range(len(run.names))])
    plants = {"sham": all_mean_directions(first.features, moved, np.zeros(len(first.rows)))}
    if not calibration:
        # How not to test: along the translator's own direction for the concept.
        own = next(iter(asked.maps.values()))[0] @ run.text.T
        plants |= {"planted": run.directions, "circular": list(own.T[:, :, None])}
    found = [asked.every(directions) for directions in plants.values()]
    for name, *several in zip(run.names, *found, strict=True):
        for head, scores in zip(plants, several, strict=True):
            yield run.records(head, name, scores)
    for number in range(SHUFFLES):
        yield run.records("permuted", "", asked.shuffled(run.seed + number).scores())


def thresholds(runs: pd.DataFrame) -> pd.Series:
    """The value of each score above which it is an alarm, from calibration runs alone.

    Of each kind of negative (untouched heads, shams, shuffled concepts) at most 1 % of the
    calibration runs lie above it; the largest of the three is taken.
    """
    own = runs[runs["calibration"]]
    return own.groupby("head")[list(SCORES)].quantile(1 - ALARMS, interpolation="higher").max()


def _reported(runs: pd.DataFrame, plants: str = "planted") -> pd.DataFrame:
    """Untouched heads and those of one kind of plant, outside calibration, with the truth."""
    own = runs[~runs["calibration"] & runs["head"].isin(["untouched", plants])]
    return own.assign(positive=(own["plant"] == own["concept"]))


def _area(study: Study, positive: pd.Series, score: pd.Series, concept: pd.Series) -> dict:
    """Area under the ROC curve with its interval, as :meth:`Study.interval` gives it."""
    found = cluster_auc(positive, score, concept, draws=study.config.bootstrap_draws,
                        seed=study.config.seed)
    return dict(zip(("value", "low", "high"), found, strict=True))


def score_table(study: Study) -> pd.DataFrame:
    """How well each score finds plants: honest ones, the sham control and the circular kind.

    Returns
    -------
    pandas.DataFrame
        score, ``name`` (for people), ``kind`` (planted, sham, circular), ``quantity`` and value,
        low, high: ``auc`` (a planted concept against all others on planted heads and all on
        untouched heads), ``first`` (share of planted heads on which the planted concept has the
        largest score of all) and ``found`` (share of plants above the threshold); 95 %, cluster
        bootstrap over concepts, each with all classifiers and splits. For shams ``auc`` should be
        one half.
    """
    return study.stored(_name("scores", study), lambda: _score_table(study), *study.config.models)


def _name(what: str, study: Study) -> str:
    c = study.config
    return f"plant-{what}-{c.plant_splits}-{c.plant_concepts}-{c.plant_pictures}"


def _score_table(study: Study) -> pd.DataFrame:
    runs = plant_runs(study)
    limits, records = thresholds(runs), []
    for kind in ("planted", "sham", "circular"):
        own = _reported(runs, kind)
        plants = own[own["head"] == kind]
        key = [plants[name] for name in ("model", "seed", "plant")]
        mine = plants["positive"]
        for score, name in SCORES.items():
            place = plants.groupby(key)[score].rank(ascending=False, method="max")[mine]
            found = plants[score][mine] > limits[score]
            names = plants["plant"][mine]
            for quantity, row in {
                "auc": _area(study, own["positive"], own[score], own["concept"]),
                "first": study.interval((place == 1).to_numpy(float), names),
                "found": study.interval(found.to_numpy(float), names),
            }.items():
                records.append(
                    {"score": score, "name": name, "kind": kind, "quantity": quantity} | row)
    return pd.DataFrame(records)


# --- power --------------------------------------------------------------------------------------


def plant_power(study: Study) -> pd.DataFrame:
    """Scores of plants found with fewer subjects or pictures, and of plants of other sizes.

    Returns
    -------
    pandas.DataFrame
        As :func:`plant_runs`, with ``axis`` (``subjects``, ``pictures`` a subject, ``directions``
        planted), ``method`` (how directions were found: mean or discriminant), ``size`` along the
        axis, ``subjects`` and ``pictures`` (that were asked about). Along ``directions`` only the
        readout's scores are filled.
    """
    return study.stored(_name("power", study), lambda: _plant_power(study), *study.config.models)


def _plant_power(study: Study) -> pd.DataFrame:
    tables = []
    for model in study.config.models:
        for split in range(min(2, study.config.plant_splits)):  # the longest part of the chapter
            run = _Run(study, model, study.config.seed + split)
            whole = run.asked(run.second)
            for axis, size, table in _fewer(run.tables[1], run.seed):
                asked = whole if len(table) == len(run.tables[1]) else run.asked(run.half(table))
                half, plants = asked.half, [("untouched", "", None)]
                plants += [("planted", *one) for one in zip(run.names, run.directions)]
                found = asked.every([directions for *_, directions in plants])
                tables += [run.records(head, name, scores).assign(
                    axis=axis, size=size, method="mean", subjects=len(set(half.subjects)),
                    pictures=len(half.rows))
                    for (head, name, _), scores in zip(plants, found, strict=True)]
            tables += _sizes(run, whole)
    found = pd.concat(tables, ignore_index=True)
    numbers = found.select_dtypes(float).columns
    return found.assign(**found[numbers].round(5))


def _fewer(table: pd.DataFrame, seed: int) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """The second half with fewer subjects, and with fewer pictures of each."""
    order = np.random.default_rng(seed).permutation(np.unique(table["subject"]))
    place = table["subject"].map({name: at for at, name in enumerate(order)})
    least = 2 * FOLDS
    for size in [*(level for level in SUBJECTS if least <= level < len(order)), len(order)]:
        yield "subjects", size, table[place < size].reset_index(drop=True)
    mixed = table.sample(frac=1, random_state=seed)
    number = mixed.groupby("subject").cumcount().loc[table.index]
    typical = int(number.groupby(table["subject"]).max().median()) + 1
    for size in [level for level in PICTURES if level < typical]:
        yield "pictures", size, table[number < size].reset_index(drop=True)
    yield "pictures", typical, table


def _sizes(run: _Run, asked: _Asked) -> list[pd.DataFrame]:
    """Plants of one and more directions, found by two methods."""
    first = run.first
    size = {"subjects": len(set(run.second.subjects)), "pictures": len(run.second.rows)}
    most = max(DIRECTIONS["discriminant"])
    found = discriminant_directions(first.features, first.values, most, run.lam)
    tables = []
    for method, counts in DIRECTIONS.items():
        for count in counts:
            parts = split_subjects(run.tables[0], count, run.seed)
            plants = [one[:, :count] for one in found] if method == "discriminant" else \
                all_mean_directions(first.features, first.values, parts)
            untouched, *planted = asked.every([None, *plants], readout=True)
            heads = [run.records("untouched", "", untouched)]
            heads += [run.records("planted", name, scores)
                      for name, scores in zip(run.names, planted, strict=True)]
            tables += [head.assign(axis="directions", size=count, method=method, **size)
                       for head in heads]
    return tables


def power_table(study: Study) -> pd.DataFrame:
    """How well plants are found by number of subjects, of pictures and of planted directions.

    Returns
    -------
    pandas.DataFrame
        axis, method, size, subjects, pictures (medians over runs), score, name, ``quantity``
        (``auc``, ``first`` or ``found``, as in :func:`score_table`), value, low, high (95 %,
        cluster bootstrap over concepts), and ``control`` (what a guess gives; for ``found`` the
        share of alarms on untouched heads).
    """
    return study.stored(_name("table", study), lambda: _power_table(study), *study.config.models)


def _power_table(study: Study) -> pd.DataFrame:
    power, limits, records = plant_power(study), thresholds(plant_runs(study)), []
    for (axis, method, size), own in power.groupby(["axis", "method", "size"], sort=False):
        positive = own["plant"] == own["concept"]
        plants = own[own["head"] == "planted"]
        mine, plain = positive[plants.index], own[own["head"] == "untouched"]
        key = [plants[name] for name in ("model", "seed", "plant")]
        count = plants.groupby(key)["concept"].size().mean()
        for score in COMPARED:
            if own[score].isna().all():
                continue
            place = plants.groupby(key)[score].rank(ascending=False, method="max")[mine]
            found = plants[score][mine] > limits[score]
            names = plants["plant"][mine]
            rows = {
                "auc": (_area(study, positive, own[score], own["concept"]), 0.5),
                "first": (study.interval((place == 1).to_numpy(float), names), 1 / count),
                "found": (study.interval(found.to_numpy(float), names),
                          float((plain[score] > limits[score]).mean())),
            }
            for quantity, (row, control) in rows.items():
                records.append(
                    {"axis": axis, "method": method, "size": size, "score": score,
                     "name": SCORES[score], "subjects": int(own["subjects"].median()),
                     "pictures": int(own["pictures"].median()), "quantity": quantity}
                    | row | {"control": control}
                )
    return pd.DataFrame(records)
