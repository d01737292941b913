"""Steering inside the null space, and what a degree looks like there.

Figures 6 and 10, table 1; chapter 08 shows the equations. Functions take a
:class:`~sing_nb.study.study.Study`; one table, :func:`pushes`, is what the others read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from ..method.metrics import angle, attribute_score, image_score
from ..method.steer import null_direction, turning_step
from ..method.translator import Translator
from ..models.classifier import Classifier
from . import tables
from .neighbours import looks
from .study import Study

__all__ = [
    "RANDOM",
    "READINGS",
    "TOWARDS",
    "changes",
    "contrasts",
    "ladder_photos",
    "nearest_label",
    "pushed_everywhere",
    "pushes",
    "scores",
    "yardsticks",
]

TOWARDS, RANDOM = "towards the prompt", "random null direction"
READINGS = {
    "word": "nearest word", "photo": "nearest photo", "photo_or_own": "nearest photo, own included",
}
COLUMNS = [
    "model", "title", "picture", "label", "prompt", "kind", "draw", "target", "step",
    "image_score", "attribute_score", "own_score", "limit", "reachable", "logit_change", "length",
    *(f"{name}_before" for name in ("rank", *READINGS)), "rank", *READINGS,
]
BLOCK = 1 << 22
"""Cosines held at a time, in float64."""


def nearest_label(study: Study, label: str) -> tuple[str, float]:
    """The subject of the data whose prompt lies nearest to a label's."""
    have = study.labels
    if label in have:
        return label, 0.0
    angles = angle(study.text([label]), study.text(have))
    return have[int(angles.argmin())], float(angles.min())


# --- pushes -------------------------------------------------------------------------------------


class _Reader:
    """What lies nearest to embeddings (n, d): words of the vocabulary, photos of the data."""

    def __init__(self, study: Study) -> None:
        table = study.pictures
        shown = np.flatnonzero((table["source"] != "clipart").to_numpy())
        self.vocabulary = np.array(study.vocabulary)
        self.words = study.text(study.vocabulary).double()
        self.photos = normalize(study.embeddings[shown].double(), dim=1)
        self.labels = table["label"].to_numpy()[shown]
        self.subjects = table["subject"].to_numpy()[shown]
        self.rows = max(1, BLOCK // (len(self.words) + len(self.photos)))

    def read(self, z: torch.Tensor, subjects: np.ndarray, end: str = "") -> dict[str, np.ndarray]:
        """Labels of the nearest word, photo of another subject, and photo of any."""
        parts = []
        for u, own in zip(normalize(z, dim=1).split(self.rows),
                          np.split(subjects, range(self.rows, len(subjects), self.rows))):
            near = (u @ self.photos.T).numpy()
            best = near.argmax(1)
            near[own[:, None] == self.subjects] = -2.0
            word = (u @ self.words.T).argmax(1).numpy()
            parts.append(
                (self.vocabulary[word], self.labels[near.argmax(1)], self.labels[best]))
        found = map(np.concatenate, zip(*parts, strict=True))
        return {f"{key}{end}": values for key, values in zip(READINGS, found, strict=True)}

    def ranks(self, z: torch.Tensor, texts: torch.Tensor) -> np.ndarray:
        """1 + how many words lie nearer than each of the texts (p, d); (n, p)."""
        found = []
        for u in normalize(z, dim=1).split(self.rows):
            cosine, own = u @ self.words.T, u @ texts.double().T
            # The prompt may be a word of the vocabulary: equal is not nearer.
            found.append(torch.stack([(cosine > one[:, None] + 1e-9).sum(1) for one in own.T], 1))
        return torch.cat(found).numpy() + 1


class _Way(NamedTuple):
    """Pictures pushed in one direction each, to every angle: rows by angle, then by picture."""

    turned: torch.Tensor  # (k n, d), where the push leads in the joint space
    after: torch.Tensor  # (k n, d), the same once the feature is rounded to its own precision
    reachable: torch.Tensor  # (k n,)
    columns: dict[str, np.ndarray]


class _Group:
    """Pictures that share a translator, before they are pushed."""

    def __init__(
        self, f: torch.Tensor, fitted: Translator, clf: Classifier, own_text: torch.Tensor,
        subjects: np.ndarray, reader: _Reader,
    ) -> None:
        # In float64 once, not at every push.
        self.fitted = Translator(fitted.weight.double(), fitted.bias.double(), fitted.card)
        self.f, self.clf, self.own_text, self.subjects = f, clf, own_text, subjects
        self.z, self.logits, self.reader = self.fitted(f.double()), clf.logits(f), reader
        self.before = reader.read(self.z, subjects, "_before")

    def push(self, direction: torch.Tensor, angles: Sequence[float]) -> _Way:
        """Along a unit direction (n, m) of each; 0 degrees is the picture itself."""
        turn, parts = self.fitted.linear(direction), []
        for target in angles:
            step, limit = turning_step(self.z, turn, float(target) or 90.0)
            step = step if target else torch.zeros_like(step)
            reachable = torch.isfinite(step)
            length = torch.where(reachable, step, 0.0)[:, None]
            moved = (self.f.double() + length * direction).to(self.f.dtype)
            # Angle by angle: rows computed together with others may round differently.
            turned, after = self.z + length * turn, self.fitted(moved.double())
            blank = torch.where(reachable, 1.0, torch.nan)
            parts.append((turned, after, reachable, {
                "step": step / self.f.norm(dim=1),
                "image_score": image_score(self.z, turned) * blank,
                "own_score": attribute_score(self.z, after, self.own_text, paired=True) * blank,
                "limit": limit, "reachable": reachable,
                "logit_change": (self.clf.logits(moved) - self.logits).abs().amax(1),
                "length": after.norm(dim=1) / self.z.norm(dim=1),
            }))
        turned, after, reachable = (torch.cat(one) for one in list(zip(*parts, strict=True))[:3])
        columns = {name: torch.cat([part[3][name] for part in parts]).numpy()
                   for name in parts[0][3]}
        columns |= {name: np.tile(value, len(angles)) for name, value in self.before.items()}
        columns |= self.reader.read(after, np.tile(self.subjects, len(angles)))
        return _Way(turned, after, reachable, columns)

    def towards(self, way: _Way, texts: torch.Tensor) -> dict[str, np.ndarray]:
        """The columns of a push that depend on the prompt, for each of the texts: (k n, p)."""
        times = len(way.turned) // len(self.z)
        score = attribute_score(self.z.repeat(times, 1), way.turned, texts, paired=False)
        return {
            "attribute_score": torch.where(way.reachable[:, None], score, torch.nan).numpy(),
            "rank": self.reader.ranks(way.after, texts),
        }


def _random_directions(study: Study, model: str, count: int, draws: int) -> list[torch.Tensor]:
    """For each draw a unit direction in the null space for each of `count` pictures."""
    spaces = study.spaces(model)
    noise = (
        torch.randn(
            count, spaces.features, dtype=torch.float64,
            generator=torch.Generator().manual_seed(study.config.seed + draw),
        )
        for draw in range(draws)
    )
    return [normalize(spaces.null(one), dim=1) for one in noise]


def pushes(
    study: Study, model: str, pictures: Sequence[str], prompts: Sequence[str],
    angles: Sequence[float], draws: int = 1,
) -> pd.DataFrame:
    """Push pictures towards prompts inside the null space, each calibrated to Image Scores."""
    return _pushes(study, model, pictures, prompts, angles, draws)[0]


def _pushes(
    study: Study, model: str, pictures: Sequence[str], prompts: Sequence[str],
    angles: Sequence[float], draws: int,
) -> tuple[pd.DataFrame, torch.Tensor]:
    """:func:`pushes`, and where each of its rows leads in the joint space, (rows, d)."""
    rows, spaces, clf = study.rows(pictures), study.spaces(model), study.classifier(model)
    f, table = study.features(model)[rows], study.pictures.iloc[rows]
    labels, subjects, fold = (table[name].to_numpy() for name in ("label", "subject", "fold"))
    own_text, texts = study.text(labels), study.space.encode_text(prompts)
    random = _random_directions(study, model, len(f), draws)
    reader, found = _Reader(study), {}
    for number in np.unique(fold):
        own = np.flatnonzero(fold == number)
        group = _Group(f[own], study.translators(model)[number], clf, own_text[own],
                       subjects[own], reader)
        control = [group.push(one[own], angles) for one in random]
        measured = [group.towards(way, texts) for way in control]
        ranks = np.tile(reader.ranks(group.z, texts), (len(angles), 1))
        for at, (words, text) in enumerate(zip(prompts, texts, strict=True)):
            way = group.push(null_direction(f[own], group.fitted, text, spaces), angles)
            ways = [(TOWARDS, 0, way, group.towards(way, texts[at : at + 1]), 0)]
            ways += [(RANDOM, draw, *one, at) for draw, one in enumerate(zip(control, measured))]
            found[at, number] = [
                (pd.DataFrame({
                    "model": model, "title": clf.title,
                    "picture": np.tile(np.asarray(pictures)[own], len(angles)),
                    "label": np.tile(labels[own], len(angles)), "prompt": words, "kind": kind,
                    "draw": draw, "target": np.repeat(np.array(angles, dtype=float), len(own)),
                    "rank_before": ranks[:, at],
                } | {name: value[:, column] for name, value in scored.items()} | way.columns),
                 way.after)
                for kind, draw, way, scored, column in ways
            ]
    parts, z = zip(*(part for key in sorted(found) for part in found[key]), strict=True)
    return pd.concat(parts, ignore_index=True)[COLUMNS], torch.cat(z)


def pushed_everywhere(
    study: Study, pictures: Sequence[str], prompts: Sequence[str], angles: Sequence[float],
    draws: int = 1,
) -> pd.DataFrame:
    """:func:`pushes` for every compared classifier, kept with the study's other tables."""
    asked = repr((list(pictures), list(prompts), [float(a) for a in angles], draws))
    models = study.config.models
    return study.stored(
        f"pushes-{hashlib.sha256(asked.encode()).hexdigest()[:12]}",
        lambda: pd.concat(
            [pushes(study, model, pictures, prompts, angles, draws) for model in models],
            ignore_index=True,
        ),
        *models,
    )


# --- what they add up to ------------------------------------------------------------------------


def scores(
    study: Study, pushed: pd.DataFrame, by: Sequence[str] = ("model", "title", "kind"),
    size: bool = False,
) -> pd.DataFrame:
    """Attribute Scores towards the prompt, and how far the null space reaches."""
    records = []
    for names, group in pushed.groupby(list(by), sort=False):
        there = group[group["reachable"]]
        values = there["attribute_score"].abs() if size else there["attribute_score"]
        records.append(
            dict(zip(by, names, strict=True)) | _interval(study, values, there)
            | {
                "sd": values.std(), "pictures": group["picture"].nunique(),
                "unreached": group.loc[~group["reachable"], "picture"].nunique(),
                "reached": group["reachable"].mean(), "limit_low": group["limit"].min(),
                "limit": group["limit"].median(),
            }
        )
    return pd.DataFrame(records)


def contrasts(study: Study, pushed: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of |AS|, picture by picture, over those that reach the target twice."""
    there = pushed[pushed["reachable"]].assign(size=lambda t: t["attribute_score"].abs())
    wide = there.pivot_table(
        index=["picture", "prompt", "label"], columns=["model", "kind"], values="size"
    )
    titles = pushed.drop_duplicates("model").set_index("model")["title"]
    # A classifier of which no push arrives has no difference, and still its row.
    wide = wide.reindex(columns=pd.MultiIndex.from_product([titles.index, [TOWARDS, RANDOM]]))
    pairs = [("prompt - random", m, wide[m, TOWARDS] - wide[m, RANDOM]) for m in titles.index]
    pairs += [
        ("classifiers", m, wide[m, TOWARDS] - wide[titles.index[0], TOWARDS])
        for m in titles.index[1:]
    ]
    records = []
    for contrast, model, values in pairs:
        values = values.dropna()
        rows = values.index.to_frame()
        records.append(
            {"contrast": contrast, "model": model, "title": titles[model]}
            | _interval(study, values, rows) | {"pictures": rows["picture"].nunique()}
        )
    return pd.DataFrame(records)


def changes(study: Study, pushed: pd.DataFrame) -> pd.DataFrame:
    """How many pushed pictures are read differently: another nearest word, another photo."""
    records = []
    for names, group in pushed.groupby(["model", "title", "kind", "target"], sort=False):
        there = group[group["reachable"]]
        if there.empty:
            continue
        for column, reading in READINGS.items():
            changed = (there[column] != there[f"{column}_before"]).astype(float)
            records.append(
                dict(zip(("model", "title", "kind", "target"), names, strict=True))
                | {"reading": reading} | _interval(study, changed, there)
                | {"reached": group["reachable"].mean()}
            )
    return pd.DataFrame(records)


def _interval(study: Study, values: pd.Series, rows: pd.DataFrame) -> dict[str, float]:
    """Mean with its interval over the rows' subjects; nan where there is nothing."""
    if len(values) == 0:
        return dict.fromkeys(("value", "low", "high"), np.nan)
    clusters = rows["label"]
    if not study.subjects["label"].is_unique:  # a class of several photos, each a subject
        clusters = study.pictures["subject"].to_numpy()[study.rows(rows["picture"])]
    return study.interval(values, clusters)


def yardsticks(study: Study, model: str) -> pd.DataFrame:
    """Angles to hold an Image Score against, among translated pictures that are scored."""
    table = study.pictures[study.is_scored]
    views, others = "two views of one subject", "two subjects"
    if not table["subject"].duplicated().any():
        table = table.assign(subject=table["label"])
        views, others = "two photos of one class", "two classes"
    angles: dict[str, list[float]] = {views: [], others: []}
    for number, group in table.groupby("fold"):
        f = study.features(model)[group.index.tolist()].double()
        u = normalize(study.translators(model)[number](f), dim=1)
        # The chord of two unit vectors is 2 sin(angle / 2).
        between = torch.rad2deg(2 * torch.asin((torch.cdist(u, u) / 2).clamp(max=1))).numpy()
        subjects = group["subject"].to_numpy()
        for subject in np.unique(subjects):
            mine = subjects == subject
            pairs = between[np.ix_(mine, mine)][np.triu_indices(mine.sum(), 1)]
            if len(pairs):
                angles[views].append(np.median(pairs))
            angles[others].append(np.median(between[np.ix_(mine, ~mine)]))
    images = tables.images(study, model).query("source != 'photo'")
    removed = images.groupby("subject")["image_score"]
    angles["null part removed"] = removed.median().tolist()
    records = []
    for what, values in angles.items():
        records.append({"what": what} | study.interval(values, range(len(values)), np.median))
    return pd.DataFrame(records)


# --- photos -------------------------------------------------------------------------------------


def ladder_photos(
    study: Study, model: str, pictures: Sequence[str], prompt: str, angles: Sequence[float],
    k: int = 3,
) -> pd.DataFrame:
    """Photos nearest to equivalents of pictures, step by step in Image Score; figure 10."""
    angles = sorted({0.0, *angles})
    parts = []
    for picture in pictures:
        own = study.pictures.iloc[study.row(picture)]
        scored, z = _pushes(study, model, [picture], [prompt], angles, 1)
        near = looks(study, z, k, exclude=own["subject"])
        itself = pd.DataFrame({"row": range(len(z)), "place": "photo", "angle": np.nan})
        near = pd.concat([itself.assign(picture=own["picture"], label=own["label"]),
                          near])
        scored = scored.drop(columns=["picture", "label", "photo"])
        table = near.merge(scored, left_on="row", right_index=True).assign(name=own["label"])
        parts.append(table[(table["place"] != "photo") | (table["target"] == 0)])
    found = pd.concat(parts, ignore_index=True).drop(columns="row")
    return found.assign(state=found["target"].map("IS {:g}°".format))
