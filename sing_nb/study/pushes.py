"""One photo pushed along one direction: the numbers behind the null-space explorer.

All are closed forms of one feature, so that a slider can ask for them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from ..errors import SingError
from ..method.metrics import angle, attribute_score, image_score
from ..method.steer import matched_removal, null_direction, turning_step
from ..method.translator import Translator
from ..models.prompts import complete_prompt, prompt
from ..pictures.images import decoded, open_picture, thumbnail
from . import neighbours
from .profile import unknown
from .study import Study

__all__ = [
    "DIRECTIONS", "STEPS", "Answer", "Course", "Photo", "answer", "course", "explored", "known",
    "trail", "uploaded"]

DIRECTIONS = {
    "remove": "remove the null part", "prompt": "towards the prompt",
    "random": "random null direction", "control": "random part of the same size"}
"""Where a photo can be pushed; only the last can move the logits."""

STEPS = (-1.0, 3.0)  # range of a step, in lengths of the photo's null part


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo as one classifier of a study sees it."""

    name: str  # of the picture, or of the file that it came in
    label: str  # what it shows; empty if that is not known
    subject: str | None  # whose other pictures are not counted as near; None: from elsewhere
    image: str  # small copy, a data URI
    f: torch.Tensor  # (1, m), feature, float32
    z: torch.Tensor  # (1, d), the joint space's own embedding of the photo, a unit vector
    translator: Translator  # one that never saw the photo's subject


class Course(NamedTuple):
    """A direction in which a photo is pushed."""

    kind: str  # a key of DIRECTIONS
    title: str
    delta: torch.Tensor  # (1, m), float64, as long as the photo's null part: one step


class Answer(NamedTuple):
    """What a push does to a photo."""

    # Two rows, the push and what it is held against (the same step along the control; along the
    # null part if the push is the control): see `_scores`.
    scores: pd.DataFrame
    towards: str  # the prompt that ``attribute_score`` is towards
    translator_error: float  # translated feature to the photo's own embedding, degrees
    limit: float  # Image Score that no step in this direction reaches, degrees
    words: pd.DataFrame  # nearest words before and after (``state``); new ones are ``gained``
    photos: pd.DataFrame  # nearest photos, likewise


# --- photos -------------------------------------------------------------------------------------


def known(study: Study, model: str, picture: str) -> Photo:
    """A picture of a study, read by the translator that never saw its subject."""
    _check_model(study, model)
    number = study.row(picture)
    row = study.pictures.iloc[number]
    return Photo(
        row["picture"], row["label"], row["subject"], thumbnail(study.picture_path(row["picture"])),
        study.features(model)[[number]], study.embeddings[[number]],
        study.translators(model)[row["fold"]])


def uploaded(study: Study, model: str, content: bytes, name: str = "the file") -> Photo:
    """A photo from elsewhere, as the content of its file."""
    _check_model(study, model)
    if not content:
        raise SingError(f"{name} is empty; choose a picture, such as a JPEG or PNG file.")
    picture = decoded(open_picture(io.BytesIO(content), name=name), name)
    clf, space = study.classifier(model), study.space
    eye = study.space.tower if study.config.tower else space
    f = clf.features(clf.transform(picture)[None]).float().cpu().clone()
    with torch.inference_mode():
        z = space.encode_images(eye.transform(picture)[None]).float().cpu().clone()
    return Photo(name, "", None, thumbnail(picture), f, z, study.translator(model))


def _check_model(study: Study, model: str) -> None:
    if model not in study.config.everyone:
        raise unknown("classifier of this study", model, study.config.everyone)


# --- pushes -------------------------------------------------------------------------------------


def course(study: Study, model: str, photo: Photo, kind: str, words: str = "") -> Course:
    """The direction that a photo is pushed in, one step long."""
    if kind not in DIRECTIONS:
        raise unknown("direction", kind, DIRECTIONS)
    spaces, title = study.spaces(model), DIRECTIONS[kind]
    f = photo.f.double()
    null = spaces.null(f)
    length = null.norm(dim=1)
    if kind == "remove":
        return Course(kind, title, -null)
    if kind == "control":
        return Course(kind, title, matched_removal(f, length, study.control_basis(model)) - f)
    if kind == "random":
        rng = torch.Generator().manual_seed(study.config.seed)
        unit = normalize(spaces.null(torch.randn(f.shape, generator=rng, dtype=f.dtype)), dim=1)
    else:
        words = complete_prompt(words)
        text = study.space.encode_text([words])
        unit, title = null_direction(f, photo.translator, text, spaces), f"towards “{words}”"
    return Course(kind, title, unit * length[:, None])


def trail(
    study: Study, model: str, photo: Photo, kind: str, words: str, towards: str,
    steps: Sequence[float],
) -> pd.DataFrame:
    """Scores along a push and along what it is held against: the columns of `Answer.scores`."""
    pair, goals = _asked(study, model, photo, kind, words, towards)
    return pd.concat(
        [_scores(study, model, photo, one, steps, *goals)[0] for one in pair], ignore_index=True)


def answer(
    study: Study, model: str, photo: Photo, kind: str, words: str = "", towards: str = "", *,
    step: float = 0.0, target: float | None = None,
) -> Answer:
    """Push a photo by a step, or as far as an Image Score asks for."""
    pair, goals = _asked(study, model, photo, kind, words, towards)
    found, limit = turning_step(
        photo.translator(photo.f.double()), photo.translator.linear(pair[0].delta.double()),
        target or 90.0)
    if target is not None:
        step = float(found) if target else 0.0
        if not np.isfinite(step):
            raise SingError(
                f"No step turns this photo by {target:g}° ({pair[0].title}): the limit is "
                f"{float(limit):.1f}°. Choose a smaller angle or another direction.")
    tables, z = zip(*(_scores(study, model, photo, one, [step], *goals) for one in pair))
    start = photo.translator(photo.f)
    both = torch.cat([start, z[0]])
    return Answer(
        pd.concat(tables, ignore_index=True), goals[0], float(angle(start, photo.z)), float(limit),
        _before_after(neighbours.words(study, both), "word"),
        _before_after(neighbours.nearest(study, both, exclude=photo.subject), "picture"))


def _goal(study: Study, model: str, photo: Photo, towards: str) -> str:
    """The prompt that Attribute Scores are towards."""
    if towards.strip():
        return complete_prompt(towards)
    taken_for = int(study.classifier(model).logits(photo.f).argmax())
    return prompt(photo.label or study.class_names(model)[taken_for])


def _asked(
    study: Study, model: str, photo: Photo, kind: str, words: str, towards: str
) -> tuple[list[Course], tuple[str, str]]:
    """A push and what it is held against; the prompts of `attribute_score` and `prompt_score`."""
    other = "remove" if kind == "control" else "control"
    aim = complete_prompt(words) if kind == "prompt" or words.strip() else ""
    pair = [course(study, model, photo, kind, words), course(study, model, photo, other)]
    return pair, (_goal(study, model, photo, towards), aim)


def _scores(
    study: Study, model: str, photo: Photo, along: Course, steps: Sequence[float],
    goal: str, aim: str,
) -> tuple[pd.DataFrame, torch.Tensor]:
    """Rows of :attr:`Answer.scores`, one a step, and where the steps lead, (n, d)."""
    texts = study.space.encode_text([goal, aim or goal])[:, None]
    f, clf, names = photo.f, study.classifier(model), study.class_names(model)
    reach = torch.tensor(np.asarray(steps, dtype=float))[:, None]
    # In the feature's own precision, as everywhere in the book: its rounding is part of the truth.
    moved = (f.double() + reach * along.delta).to(f.dtype)
    z, z_moved = photo.translator(f), photo.translator(moved)
    before, after = clf.logits(f), clf.logits(moved)
    sure, sure_after = (torch.softmax(logits.double(), 1).max(1) for logits in (before, after))
    return pd.DataFrame({
        "kind": along.kind, "title": along.title, "step": reach[:, 0].numpy(),
        "image_score": image_score(z, z_moved).numpy(),
        "attribute_score": attribute_score(z, z_moved, texts[0]).numpy(),
        "prompt_score": attribute_score(z, z_moved, texts[1]).numpy() if aim else np.nan,
        "logit_change": (after - before).abs().amax(1).numpy(),
        "before": names[int(sure.indices)],
        "after": [names[i] for i in sure_after.indices.tolist()],
        "probability_before": float(sure.values), "probability_after": sure_after.values.numpy(),
    }), z_moved


def _before_after(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Neighbours of two embeddings, told apart as ``state``, and which of them are new."""
    state = table["row"].map({0: "before", 1: "after"})
    old = set(table.loc[state == "before", name])
    return table.drop(columns="row").assign(
        state=state, gained=(state == "after") & ~table[name].isin(old))


def explored(study: Study, model: str, pictures: Sequence[str], words: str) -> pd.DataFrame:
    """Answers for a page: every photo along every direction, one row per step."""
    tables, aim, steps = [], complete_prompt(words), np.linspace(0, 3, 13)
    for picture, name in zip(pictures, study.names(pictures)):
        photo = known(study, model, picture)
        goal = _goal(study, model, photo, "")
        error = float(angle(photo.translator(photo.f), photo.z))
        for kind in DIRECTIONS:
            along = course(study, model, photo, kind, aim)
            table, z = _scores(study, model, photo, along, steps, goal, aim)
            said = neighbours.words(study, z, 4).groupby("row").agg(list)
            near = neighbours.nearest(study, z, 3, photo.subject).groupby("row").agg(list)
            tables.append(table.assign(
                picture=photo.name, name=name, towards=goal, translator_error=error,
                words=said["word"], word_angles=said["angle"], photos=near["picture"],
                labels=near["label"], photo_angles=near["angle"]))
    return pd.concat(tables, ignore_index=True)
