"""What embeddings mean: the nearest words and photos, and unCLIP's pictures where there is one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from ..method.metrics import angle, pairwise_angle
from ..models.render import UnClip, embedding_length, load_renderer
from ..pictures.images import picture_file, store_pictures
from .study import Study

__all__ = ["PAINTED", "around", "looks", "nearest", "painter", "words"]

PAINTED = "unCLIP"
"""Place of a painted picture among the nearest photos."""


def words(study: Study, z: torch.Tensor, k: int = 5) -> pd.DataFrame:
    """The k words of the vocabulary nearest to each embedding.

    Parameters
    ----------
    z : torch.Tensor
        (n, d).
    k : int

    Returns
    -------
    pandas.DataFrame
        Columns row, rank (from 1), word, angle (degrees).
    """
    angles = pairwise_angle(z, study.text(study.vocabulary))
    best = angles.topk(k, dim=1, largest=False)
    return pd.DataFrame(
        {
            "row": np.repeat(np.arange(len(z)), k),
            "rank": np.tile(np.arange(1, k + 1), len(z)),
            "word": [study.vocabulary[i] for i in best.indices.flatten().tolist()],
            "angle": best.values.flatten().numpy(),
        }
    )


def nearest(
    study: Study, z: torch.Tensor, k: int = 4, exclude: str | None = None
) -> pd.DataFrame:
    """Pictures nearest to each embedding in the joint space, one per subject.

    Parameters
    ----------
    z : torch.Tensor
        (n, d).
    k : int
        Pictures for each embedding.
    exclude : str, optional
        A subject to leave out (the picture's own).

    Returns
    -------
    pandas.DataFrame
        row, rank (from 1), picture, label, angle (degrees).
    """
    table = study.pictures
    rows = np.flatnonzero(
        ((table["source"] != "clipart") & (table["subject"] != exclude)).to_numpy()
    )
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
            chosen = rows[index]
            records.append(
                {
                    "row": number, "rank": rank, "angle": far,
                    "picture": table["picture"].iloc[chosen],
                    "label": table["label"].iloc[chosen],
                }
            )
    return pd.DataFrame(records)


@lru_cache(maxsize=4)  # a decoder is large and slow to load
def painter(study: Study) -> UnClip:
    """The decoder of the study's profile, where it has one.

    It paints at the median length of the joint space's own embeddings (equation 19).
    """
    c = study.config
    shown = study.pictures[study.is_scored & (study.pictures["source"] != "clipart")]
    store_pictures(shown, study.picture_folder, progress=study.progress)
    paths = [picture_file(row, study.picture_folder) for row in shown.to_dict("records")]
    norm = embedding_length(study.space, paths)
    return load_renderer(c.renderer, norm=norm, seed=c.seed, device=c.device)


def looks(
    study: Study, z: torch.Tensor, k: int = 4, exclude: str | None = None
) -> pd.DataFrame:
    """Nearest photos of embeddings, and their painted pictures where the profile has a decoder.

    Parameters
    ----------
    study : Study
    z : torch.Tensor
        (n, d).
    k : int
        Photos for each embedding.
    exclude : str, optional
        A subject whose photos are left out.

    Returns
    -------
    pandas.DataFrame
        row, place (the rank from 1 as text, or ``unCLIP``), picture, label (empty for a painted
        picture), angle (degrees; nan for a painted picture).
    """
    near = nearest(study, z, k, exclude)
    near["place"] = near.pop("rank").astype(str)
    if study.config.renderer == "nearest":
        return near
    folder = study.folder / "renderings"
    paths = painter(study).render_to(folder, z.float(), progress=study.progress)
    painted = pd.DataFrame(
        {
            "row": range(len(z)), "place": PAINTED, "label": "", "angle": np.nan,
            "picture": [str(path.relative_to(study.folder)) for path in paths],
        }
    )
    return pd.concat([painted, near], ignore_index=True)


def around(
    study: Study, pictures: Sequence[str], embeddings: dict[str, torch.Tensor], k: int = 4
) -> pd.DataFrame:
    """What pictures look like in several states: nearest photos, one per subject, never their own.

    Parameters
    ----------
    study : Study
    pictures : sequence of str
    embeddings : dict of torch.Tensor
        For each state (n, d), a row per picture.
    k : int
        Neighbours for each.

    Returns
    -------
    pandas.DataFrame
        picture (the neighbour), name (of the picture asked about), state, place (``photo``, then
        as in :func:`looks`), label, angle (degrees; nan for the photo itself).
    """
    tables = []
    for number, (row, name) in enumerate(zip(study.rows(pictures), study.names(pictures))):
        own = study.pictures.iloc[row]
        itself = pd.DataFrame(
            [{"picture": own["picture"], "label": own["label"], "angle": np.nan, "place": "photo"}]
        )
        for state, z in embeddings.items():
            near = looks(study, z[[number]], k, exclude=own["subject"])
            both = pd.concat([itself, near.drop(columns="row")])
            tables.append(both.assign(name=name, state=state))
    return pd.concat(tables, ignore_index=True)
