"""The method on one page, with the numbers of real photos. Figure 2's place."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from .metrics import attribute_score, image_score
from .study import Study

__all__ = ["method_steps"]

STATES = ("whole", "null part removed")


def method_steps(study: Study, model: str, pictures: Sequence[str], k: int = 2) -> pd.DataFrame:
    """What each step of the method gives for a few photos, before and after null removal.

    Parameters
    ----------
    study : Study
    model : str
    pictures : sequence of str
    k : int
        Classes and words to name.

    Returns
    -------
    pandas.DataFrame
        One row a picture and ``state``: picture, name, ``null_share`` (of the squared length, 0 to
        1, of the photo's own feature), ``logits`` (the largest, as text), ``words`` (the nearest,
        as text), image_score and attribute_score (degrees, 0 for the photo itself).
    """
    rows = study.rows(pictures)
    f, spaces, clf = study.features(model)[rows], study.spaces(model), study.classifier(model)
    labels = study.pictures["label"].to_numpy()[rows]
    z, text = study.translate(model, f, rows), study.text(labels)
    tables = []
    for state, feature in zip(STATES, (f, spaces.remove_null(f))):
        z_now = study.translate(model, feature, rows)
        top = clf.logits(feature).topk(k, dim=1)
        near = study.words(z_now, k)
        near["said"] = near["word"] + near["angle"].map(" {:.0f}°".format)
        tables.append(
            pd.DataFrame(
                {
                    "picture": list(pictures), "name": labels, "state": state,
                    "null_share": spaces.null_share(f).numpy(),
                    "logits": [
                        ", ".join(f"{clf.class_names[i]} {v:.2f}" for i, v in zip(index, value))
                        for index, value in zip(top.indices.tolist(), top.values.tolist())
                    ],
                    "words": near.groupby("row")["said"].agg(", ".join).to_numpy(),
                    "image_score": image_score(z, z_now).numpy(),
                    "attribute_score": attribute_score(z, z_now, text).numpy(),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)
