"""What embeddings mean: the nearest words and photos, and unCLIP's pictures where there is one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from ..method.metrics import angle, pairwise_angle
from ..models.render import UnClip, embedding_length, load_renderer
from ..pictures.images import picture_file, store_pictures
from .study import Study

__all__ = ["PAINTED", "looks", "nearest", "painter", "words"]

PAINTED = "unCLIP"  # place of a painted picture among the nearest photos


def words(study: Study, z: torch.Tensor, k: int = 5) -> pd.DataFrame:
    """The k words of the vocabulary nearest to each embedding."""
    angles = pairwise_angle(z, study.text(study.vocabulary))
    best = angles.topk(k, dim=1, largest=False)
    return pd.DataFrame({
        "row": np.repeat(np.arange(len(z)), k), "rank": np.tile(np.arange(1, k + 1), len(z)),
        "word": [study.vocabulary[i] for i in best.indices.flatten().tolist()],
        "angle": best.values.flatten().numpy()})


def nearest(study: Study, z: torch.Tensor, k: int = 4, exclude: str | None = None) -> pd.DataFrame:
    """Pictures nearest to each embedding in the joint space, one per subject."""
    table = study.pictures
    rows = np.flatnonzero(
        ((table["source"] != "clipart") & (table["subject"] != exclude)).to_numpy())
    # The order is that of cosines, a matrix product; only what is shown needs its angle.
    known = normalize(study.embeddings[rows].double(), dim=1)
    cosines = (normalize(z.double(), dim=1) @ known.T).numpy()
    subjects = table["subject"].to_numpy()[rows]
    records = []
    for number, line in enumerate(cosines):
        order = np.argsort(-line, kind="stable")
        _, first = np.unique(subjects[order], return_index=True)
        near = order[np.sort(first)[:k]]
        angles = angle(z[number], known[near]).numpy()
        for rank, (index, far) in enumerate(zip(near, angles), start=1):
            shown = table.iloc[rows[index]]
            records.append({"row": number, "rank": rank, "angle": far,
                            "picture": shown["picture"], "label": shown["label"]})
    return pd.DataFrame(records)


@lru_cache(maxsize=4)  # a decoder is large and slow to load
def painter(study: Study) -> UnClip:
    """The decoder of the study's profile, where it has one."""
    c = study.config
    shown = study.pictures[study.is_scored & (study.pictures["source"] != "clipart")]
    store_pictures(shown, study.picture_folder, progress=study.progress)
    paths = [picture_file(row, study.picture_folder) for row in shown.to_dict("records")]
    norm = embedding_length(study.space, paths)
    return load_renderer(c.renderer, norm=norm, seed=c.seed, device=c.device)


def looks(study: Study, z: torch.Tensor, k: int = 4, exclude: str | None = None) -> pd.DataFrame:
    """Nearest photos of embeddings, and their painted pictures where the profile has a decoder."""
    near = nearest(study, z, k, exclude)
    near["place"] = near.pop("rank").astype(str)
    if study.config.renderer == "nearest":
        return near
    folder = study.folder / "renderings"
    paths = painter(study).render_to(folder, z.float(), progress=study.progress)
    painted = pd.DataFrame({
        "row": range(len(z)), "place": PAINTED, "label": "", "angle": np.nan,
        "picture": [str(path.relative_to(study.folder)) for path in paths]})
    return pd.concat([painted, near], ignore_index=True)
