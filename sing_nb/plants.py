"""Planted truths: heads that were made blind to a known concept, and which score finds it.

A real head W is made blind by projecting a concept's feature direction out of its rows. The
direction comes from one half of the subjects, the question is asked on the other half, and all
readouts and translators there are fitted without the subject that they are asked about. Whatever
is not planted is a negative, also a sham: a plant along the direction of the shuffled concept.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import numpy as np
import pandas as pd
from PIL import Image
from scipy.stats import binomtest, rankdata

from .controls import GroupedProbe, discriminant_directions, mean_directions, planted_null
from .images import picture_file, store_pictures
from .prompts import prompt
from .stats import deal, random_basis
from .study import Study
from .translator import RidgeFitter

__all__ = [
    "KINDS",
    "SCORES",
    "concept_values",
    "concept_verdicts",
    "enough",
    "false_alarms",
    "found_plants",
    "plant_power",
    "plant_runs",
    "power_table",
    "roc_curves",
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
KINDS = {
    "untouched": "untouched heads", "sham": "sham plants", "permuted": "shuffled concepts",
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
        One row a picture: row (of ``study.pictures``), subject, ``stratum`` (group that halves and
        folds are balanced over), and one column a concept, ``<kind>: <name>`` with the kinds
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
        with Image.open(picture_file(row, study.picture_folder)) as picture:
            small = picture.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
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
        self.grams = gram, gram - own @ own.T, gram - other @ other.T
        self.lam = lam
        self._probe()
        # Translators of this half alone (and of what no subject is in), one a fold.
        folds = {fold: study.fitter(model, half.rows[half.folds == fold])
                 for fold in np.unique(half.folds)}
        self.maps = {}
        lam_joint = study.fitted(model)[-1].card["lambda"]
        for fold in folds:
            total = clipart.copy()
            for number, fitter in folds.items():
                if number != fold:
                    total.merge(fitter)
            fitted = total.solve_directly(lam_joint)
            self.maps[fold] = fitted.weight.double().numpy().T, fitted.bias.double().numpy()
        self.z = self._linear(x) + self._bias()
        self.z_null = self._linear(own @ null.T)
        part = other @ frame.T
        self.z_random = self._linear(part / np.linalg.norm(part, axis=1, keepdims=True))
        self.energy = (own**2).sum(1)
        self.before = _degrees(self.z, text)

    def _probe(self) -> None:
        targets, folds = np.hstack([self.half.values, self.joint]), self.half.folds
        full, self.principal, control = (
            GroupedProbe(gram, targets, folds, self.lam) for gram in self.grams)
        self.full = full.r2()
        self.control = _share(self.full, control.r2())

    def shuffled(self, seed: int) -> _Asked:
        """The same pictures with their concepts moved between subjects."""
        other = copy.copy(self)
        other.half = dataclasses.replace(self.half, values=self.half.shuffled(seed))
        other._probe()
        return other

    def _linear(self, x: np.ndarray) -> np.ndarray:
        out = np.empty((len(x), next(iter(self.maps.values()))[0].shape[1]))
        for fold, (weight, _) in self.maps.items():
            own = self.half.folds == fold
            out[own] = x[own] @ weight
        return out

    def _bias(self) -> np.ndarray:
        return np.stack([self.maps[fold][1] for fold in self.half.folds])

    def _push(self, coordinates: np.ndarray, basis: np.ndarray) -> np.ndarray:
        """Translation of what coordinates along a few directions make."""
        out = np.empty((len(coordinates), self.z.shape[1]))
        for fold, (weight, _) in self.maps.items():
            own = self.half.folds == fold
            out[own] = coordinates[own] @ (basis.T @ weight)
        return out

    def scores(self, directions: np.ndarray | None = None, *, readout: bool = False) -> dict:
        """All scores (concepts,) of the head as it is, or blind to directions (m, k)."""
        added = removed = None
        z_null, energy = self.z_null, self.energy
        if directions is not None:
            back, planted = planted_null(self.null, directions)
            added, removed = self.half.features @ back, self.half.features @ planted
        count = self.half.values.shape[1]
        left = self.principal.r2(added, removed)
        found = {
            "hidden": _share(self.full, left)[:count], "full": self.full[:count],
            "principal": left[:count], "hidden_control": self.control[:count],
        }
        if readout:
            return found
        if directions is not None:
            z_null = z_null - self._push(added, back) + self._push(removed, planted)
            energy = energy - (added**2).sum(1) + (removed**2).sum(1)
        length = np.sqrt(energy.clip(min=0))[:, None]
        towards, control = (
            self._along(self.before - _degrees(z, self.text))
            for z in (self.z - z_null, self.z - self.z_random * length)
        )
        cosine = (_unit(self.z) * _unit(self.z - z_null)).sum(1)
        turned = np.degrees(np.arccos(cosine.clip(-1, 1)))
        return found | {
            "joint": (self.full - left)[count:], "attribute_score": towards,
            "attribute_excess": towards - control,
            "image_score": np.abs(self._along(np.repeat(turned[:, None], count, 1))),
        }

    def _along(self, score: np.ndarray) -> np.ndarray:
        """How far a score falls for a standard deviation more of each concept."""
        return -(self.half.values * (score - score.mean(0))).mean(0)


def _unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=-1, keepdims=True).clip(min=1e-12)


def _degrees(z: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Angles of all pairs by one product: tens of degrees do not need :func:`metrics.angle`."""
    return np.degrees(np.arccos((_unit(z) @ text.T).clip(-1, 1)))


def _share(full: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Share of what is readable in the whole feature that is not in a part of it; -inf to 1.

    A concept that is hardly readable is measured against :data:`READABLE`: what is not there
    cannot be hidden.
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
        self.directions = [
            mean_directions(first.features, first.values[:, c], np.zeros(len(first.rows)))
            for c in range(len(self.names))
        ]

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
    everything = np.zeros(len(first.rows))
    for c, name in enumerate(run.names):
        sham = mean_directions(first.features, shuffled[c % SHUFFLES][:, c], everything)
        yield run.records("sham", name, asked.scores(sham))
        if not calibration:
            yield run.records("planted", name, asked.scores(run.directions[c]))
            # How not to test: along the translator's own direction for the concept.
            own = next(iter(asked.maps.values()))[0] @ run.text[c]
            yield run.records("circular", name, asked.scores(own[:, None]))
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


def _auc(values: np.ndarray) -> float:
    """Area under the ROC curve of (n, 2): positive (0 or 1) and score; nan without both kinds."""
    positive = values[:, 0] > 0.5
    count, other = int(positive.sum()), int((~positive).sum())
    if not count or not other:
        return np.nan
    # From ranks (Mann and Whitney): under a bootstrap roc_auc_score takes four times as long.
    ranks = rankdata(values[:, 1])[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * other))


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
            pair = np.column_stack([own["positive"], own[score]])
            for quantity, values, names, statistic in (
                ("auc", pair, own["concept"], _auc),
                ("first", (place == 1).to_numpy(float), plants["plant"][mine], np.mean),
                ("found", found.to_numpy(float), plants["plant"][mine], np.mean),
            ):
                records.append(
                    {"score": score, "name": name, "kind": kind, "quantity": quantity}
                    | study.interval(values, names, statistic)
                )
    return pd.DataFrame(records)


def false_alarms(study: Study) -> pd.DataFrame:
    """How often each score gives an alarm where nothing was planted.

    Returns
    -------
    pandas.DataFrame
        score, name, ``kind`` (untouched, sham, permuted), ``threshold``, value, low, high: share
        of concepts above the threshold on the reported splits (95 %, cluster bootstrap over
        concepts; where there is none, the exact binomial bound for as many independent answers),
        and ``asked``, how many there are.
    """
    runs = plant_runs(study)
    limits, own = thresholds(runs), runs[~runs["calibration"]]
    records = []
    for score, name in SCORES.items():
        for kind in KINDS:
            part = own[own["head"] == kind]
            alarm = (part[score] > limits[score]).to_numpy(float)
            rate = study.interval(alarm, part["concept"])
            if not alarm.any():  # a bootstrap of zeros would be sure of itself
                rate["high"] = float(binomtest(0, len(alarm)).proportion_ci().high)
            records.append(
                {"score": score, "name": name, "kind": kind, "threshold": limits[score]}
                | rate | {"asked": len(part)}
            )
    return pd.DataFrame(records)


def roc_curves(study: Study, points: int = 41) -> pd.DataFrame:
    """ROC curves of each score for honest plants and for shams, with bands.

    Returns
    -------
    pandas.DataFrame
        score, name, ``kind`` (planted or sham), ``false`` (share of negatives above a threshold),
        and value, low, high of the share of plants above it (95 %, concepts drawn with
        replacement).
    """
    runs, tables = plant_runs(study), []
    grid = np.linspace(0, 1, points) ** 2  # closer together where few false alarms are
    for kind in ("planted", "sham"):
        own = _reported(runs, kind)
        codes, names = pd.factorize(own["concept"])
        members = [np.flatnonzero(codes == code) for code in range(len(names))]
        rng = np.random.default_rng(study.config.seed)
        draws = [rng.integers(0, len(names), len(names))
                 for _ in range(min(200, study.config.bootstrap_draws))]
        for score, name in SCORES.items():
            value, positive = own[score].to_numpy(), own["positive"].to_numpy()
            curves = np.stack([
                _roc(value[rows], positive[rows], grid)
                for rows in (np.concatenate([members[i] for i in one]) for one in draws)])
            low, high = np.nanquantile(curves, [0.025, 0.975], axis=0)
            tables.append(pd.DataFrame(
                {"score": score, "name": name, "kind": kind, "false": grid,
                 "value": _roc(value, positive, grid), "low": low, "high": high}).round(4))
    return pd.concat(tables, ignore_index=True)


def _roc(score: np.ndarray, positive: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Share of positives above the score that a share of the negatives reaches."""
    limits = np.quantile(score[~positive], 1 - grid, method="higher")
    true = (score[positive][:, None] > limits).mean(0)
    true[grid >= 1] = 1.0
    return true


def found_plants(study: Study, split: int = 0) -> pd.DataFrame:
    """Hidden shares of all concepts before and after each plant, for one split.

    Returns
    -------
    pandas.DataFrame
        title, plant, concept, ``kind`` (untouched, sham or planted), ``hidden`` and
        ``hidden_control`` with the ``low`` and ``high`` of `hidden` over the profile's splits
        (smallest and largest where the concept was asked), ``rank`` (1 = most hidden) and
        ``threshold``.
    """
    runs = plant_runs(study)
    limit = thresholds(runs)["hidden"]
    own = runs[~runs["calibration"] & runs["head"].isin(["untouched", "sham", "planted"])]
    key = ["title", "plant", "concept", "head"]
    spread = own.groupby(key)["hidden"].agg(low="min", high="max")
    one = own[own["seed"] == study.config.seed + split].merge(spread.reset_index(), on=key)
    one["rank"] = one.groupby(["title", "plant", "head"])["hidden"].rank(
        ascending=False, method="first").astype(int)
    columns = [*key, "hidden", "low", "high", "hidden_control", "full", "principal", "rank"]
    return one[columns].rename(columns={"head": "kind"}).assign(threshold=limit)


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
            for axis, size, table in _fewer(run.tables[1], run.seed):
                half = run.half(table)
                asked = run.asked(half)
                heads = [run.records("untouched", "", asked.scores())]
                heads += [run.records("planted", name, asked.scores(run.directions[c]))
                          for c, name in enumerate(run.names)]
                tables += [head.assign(axis=axis, size=size, method="mean",
                                       subjects=len(set(half.subjects)), pictures=len(half.rows))
                           for head in heads]
            tables += _sizes(run)
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


def _sizes(run: _Run) -> list[pd.DataFrame]:
    """Plants of one and more directions, found by two methods."""
    asked, first = run.asked(run.second), run.first
    size = {"subjects": len(set(run.second.subjects)), "pictures": len(run.second.rows)}
    most = max(DIRECTIONS["discriminant"])
    found = discriminant_directions(first.features, first.values, most, run.lam)
    tables = []
    for method, counts in DIRECTIONS.items():
        for count in counts:
            heads = [run.records("untouched", "", asked.scores(readout=True))]
            parts = split_subjects(run.tables[0], count, run.seed)
            for c, name in enumerate(run.names):
                directions = found[c][:, :count] if method == "discriminant" else mean_directions(
                    first.features, first.values[:, c], parts)
                heads.append(run.records(
                    "planted", name, asked.scores(directions, readout=True)))
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
            rows = {
                "auc": (np.column_stack([positive, own[score]]), own["concept"], _auc, 0.5),
                "first": ((place == 1).to_numpy(float), plants["plant"][mine], np.mean, 1 / count),
                "found": (found.to_numpy(float), plants["plant"][mine], np.mean,
                          float((plain[score] > limits[score]).mean())),
            }
            for quantity, (values, names, statistic, control) in rows.items():
                records.append(
                    {"axis": axis, "method": method, "size": size, "score": score,
                     "name": SCORES[score], "subjects": int(own["subjects"].median()),
                     "pictures": int(own["pictures"].median()), "quantity": quantity}
                    | study.interval(values, names, statistic) | {"control": control}
                )
    return pd.DataFrame(records)


def enough(table: pd.DataFrame, axis: str, aim: float = 0.95) -> str:
    """Fewest subjects, or pictures of each, with which the readout's AUC reaches an aim, as text.

    Parameters
    ----------
    table : pandas.DataFrame
        :func:`power_table`.
    axis : str
        ``subjects`` or ``pictures``.
    aim : float
        From 0 to 1.
    """
    own = table[(table["axis"] == axis) & (table["score"] == "hidden")]
    own = own[(own["quantity"] == "auc") & (own["value"] >= aim)].sort_values("size")
    if own.empty:
        return "more than this run has"
    return f"{own['size'].iloc[0]:,} ({own['pictures'].iloc[0]:,} pictures)"


# --- real heads ---------------------------------------------------------------------------------


def concept_verdicts(study: Study, model: str) -> pd.DataFrame:
    """Which concepts a real head ignores: the readout that found the plants, on all subjects.

    The rule: a concept *cannot be told* where the whole feature's held-out R2 may lie below 0.1
    (lower bound), or where the interval of the hidden share contains the threshold of
    :func:`thresholds`; above it the head *ignores it* (in part), below it the head *keeps it*.

    Returns
    -------
    pandas.DataFrame
        concept, ``full`` with ``full_low`` and ``full_high``, ``hidden`` with ``hidden_low``,
        ``hidden_high`` and ``hidden_control`` (a random subspace of the same size), ``threshold``
        and ``verdict``; 95 %, cluster bootstrap over subjects, of the same held-out readouts.
    """
    name = _name(f"verdicts-{model}", study)
    limit = float(thresholds(plant_runs(study))["hidden"])
    table = study.stored(name, lambda: _verdicts(study, model), model)
    unsure = (table["full_low"] < READABLE) | table["hidden_low"].le(limit) & table[
        "hidden_high"].ge(limit)
    said = np.where(table["hidden_low"] > limit, "ignores it", "keeps it")
    return table.assign(threshold=limit, verdict=np.where(unsure, "cannot be told", said))


def _verdicts(study: Study, model: str) -> pd.DataFrame:
    table = concept_values(study)
    # Half as many pictures are enough for a readout, and its cost grows with their cube.
    order = table.sample(frac=1, random_state=study.config.seed)
    number = order.groupby("subject").cumcount().loc[table.index]
    cut = number[number.rank(method="first") <= study.config.plant_pictures].index
    half = _Half.of(study, model, table.loc[sorted(cut)].reset_index(drop=True), study.config.seed)
    x, null = half.features, study.spaces(model).null_basis.numpy()
    other = random_basis(x.shape[1], null.shape[1], study.config.seed)
    lam = float((half.centred**2).sum() / len(x))
    gram, errors = x @ x.T, []
    for basis in (np.empty((x.shape[1], 0)), null, other):
        own = x @ basis
        probe = GroupedProbe(gram - own @ own.T, half.values, half.folds, lam)
        error, total = probe.errors(probe.predict())
        errors.append(error)
    sums = [pd.DataFrame(part).groupby(half.subjects).sum().to_numpy() for part in (*errors, total)]
    names, records = np.arange(len(sums[0])), []
    for c, concept in enumerate(table.columns[3:]):
        values = np.column_stack([part[:, c] for part in sums])

        def share(v: np.ndarray, part: int = 1) -> float:
            *parts, whole = v.sum(0)
            full, left = 1 - np.array([parts[0], parts[part]]) / max(whole, 1e-12)
            return float(_share(np.array(full), np.array(left)))

        full = study.interval(values, names, _r2)
        hidden = study.interval(values, names, share)
        records.append({"concept": concept} | {
            f"{what}{end}": found[key] for what, found in (("full", full), ("hidden", hidden))
            for end, key in (("", "value"), ("_low", "low"), ("_high", "high"))
        } | {"hidden_control": share(values, 2)})
    return pd.DataFrame(records).assign(model=model, title=study.title(model))


def _r2(sums: np.ndarray) -> float:
    return float(1 - sums[:, 0].sum() / max(sums[:, 3].sum(), 1e-12))
