"""Features pushed towards prompts inside the null space, and what they are then read as."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from ..method.metrics import attribute_score, scores
from ..method.steer import null_direction, turning_step
from ..method.translator import Translator
from .study import Study, stored

__all__ = ["RANDOM", "TOWARDS", "pushed_everywhere", "pushes"]

TOWARDS, RANDOM = "towards the prompt", "random null direction"
ROWS = 256  # embeddings that are compared with all words and photos at once


class _Reader:
    """What lies nearest to embeddings (n, d): words of the vocabulary, photos of the data."""

    def __init__(self, study: Study) -> None:
        table = study.pictures[study.pictures["source"] != "clipart"]
        self.vocabulary = np.array(study.vocabulary)
        self.words = study.text(study.vocabulary).double()
        self.photos = normalize(study.embeddings[table.index.to_numpy(copy=True)].double(), dim=1)
        self.labels, self.subjects = table["label"].to_numpy(), table["subject"].to_numpy()

    def read(
        self, z: torch.Tensor, subjects: np.ndarray, text: torch.Tensor
    ) -> dict[str, np.ndarray]:
        """The nearest word, the label of the nearest photo of another subject, a text's rank."""
        found = []
        for u, own in zip(normalize(z, dim=1).split(ROWS),
                          np.split(subjects, range(ROWS, len(subjects), ROWS))):
            near = (u @ self.photos.T).numpy()
            near[own[:, None] == self.subjects] = -2.0
            words = u @ self.words.T
            # The prompt may be a word of the vocabulary: equal is not nearer.
            rank = 1 + (words > (u @ text)[:, None] + 1e-9).sum(1)
            found.append((self.vocabulary[words.argmax(1).numpy()],
                          self.labels[near.argmax(1)], rank.numpy()))
        return dict(zip(("word", "photo", "rank"), map(np.concatenate, zip(*found))))


def _random_directions(study: Study, model: str, count: int, draws: int) -> list[torch.Tensor]:
    """For each draw a unit direction in the null space for each of `count` pictures."""
    spaces, found = study.spaces(model), []
    for draw in range(draws):
        rng = torch.Generator().manual_seed(study.config.seed + draw)
        noise = torch.randn(count, spaces.features, dtype=torch.float64, generator=rng)
        found.append(normalize(spaces.null(noise), dim=1))
    return found


def pushes(
    study: Study, model: str, pictures: Sequence[str], prompts: Sequence[str],
    angles: Sequence[float], draws: int = 1,
) -> tuple[pd.DataFrame, torch.Tensor]:
    """Pictures pushed to Image Scores, a row per push; and where each leads, (rows, d)."""
    rows, spaces, clf = study.rows(pictures), study.spaces(model), study.classifier(model)
    f, table = study.features(model)[rows], study.pictures.iloc[rows].reset_index(drop=True)
    # Intervals are over subjects; a label is one where it has no second.
    table["cluster"] = table["label" if study.subjects["label"].is_unique else "subject"]
    texts, own_text = study.space.encode_text(prompts).double(), study.text(table["label"])
    random = _random_directions(study, model, len(f), draws)
    reader, parts, places = _Reader(study), [], []
    for fold, own in table.groupby("fold"):
        at, subjects = own.index.to_numpy(copy=True), own["subject"].to_numpy()
        fitted = study.translators(model)[fold]
        fitted = Translator(fitted.weight.double(), fitted.bias.double())
        x, z, logits = f[at], fitted(f[at].double()), clf.logits(f[at])
        for words, text in zip(prompts, texts, strict=True):
            before = reader.read(z, subjects, text)
            ways = [(TOWARDS, 0, null_direction(x, fitted, text, spaces))]
            ways += [(RANDOM, draw, one[at]) for draw, one in enumerate(random)]
            for (kind, draw, direction), target in ((w, a) for w in ways for a in angles):
                turn = fitted.linear(direction)
                step, limit = turning_step(z, turn, float(target) or 90.0)
                step = step if target else torch.zeros_like(step)  # the picture itself
                reachable = torch.isfinite(step)
                length = torch.where(reachable, step, 0.0)[:, None]
                moved = (x.double() + length * direction).to(x.dtype)
                after, blank = fitted(moved.double()), torch.where(reachable, 1.0, torch.nan)
                score = scores(z, z + length * turn, text)
                own_score = attribute_score(z, after, own_text[at], paired=True)
                columns = {
                    "step": step / x.norm(dim=1), "image_score": score.image_score * blank,
                    "attribute_score": score.attribute_score * blank,
                    "own_score": own_score * blank, "limit": limit, "reachable": reachable,
                    "logit_change": (clf.logits(moved) - logits).abs().amax(1),
                    "length": after.norm(dim=1) / z.norm(dim=1)}
                parts.append(own[["picture", "label", "cluster"]].assign(
                    model=model, title=clf.title, prompt=words, kind=kind, draw=draw,
                    target=float(target), **{key: x.numpy() for key, x in columns.items()},
                    **reader.read(after, subjects, text),
                    **{f"{key}_before": value for key, value in before.items()}))
                places.append(after)
    return pd.concat(parts, ignore_index=True), torch.cat(places)


@stored(models="models")
def pushed_everywhere(
    study: Study, pictures: Sequence[str], prompts: Sequence[str], angles: Sequence[float],
    draws: int = 1,
) -> pd.DataFrame:
    """:func:`pushes` for every compared classifier, kept with the study's other tables."""
    return pd.concat([pushes(study, model, pictures, prompts, angles, draws)[0]
                      for model in study.config.models], ignore_index=True)
