"""The method on one page, with the numbers of real photos (figure 2's place); a run in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import yaml

from .errors import SingError
from .fetch import data_dir
from .metrics import attribute_score, image_score
from .profile import unknown
from .study import Study

__all__ = ["method_steps", "wording"]

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
    labels, names = study.pictures["label"].to_numpy()[rows], study.class_names(model)
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
                        ", ".join(f"{names[i]} {v:.2f}" for i, v in zip(index, value))
                        for index, value in zip(top.indices.tolist(), top.values.tolist())
                    ],
                    "words": near.groupby("row")["said"].agg(", ".join).to_numpy(),
                    "image_score": image_score(z, z_now).numpy(),
                    "attribute_score": attribute_score(z, z_now, text).numpy(),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def wording(
    study: Study, facts: Mapping[str, str] | None = None, /, **asked: str
) -> dict[str, str]:
    """Sentences of ``data/wording.yaml`` in the form that is true of this study.

    Parameters
    ----------
    study : Study
    facts : mapping, optional
        What only the chapter knows, for the braces of its sentences.
    **asked : str
        Name of the sentence in the chapter, and its entry in the file: ``fit_space="space"``.

    Returns
    -------
    dict
        One text for each name, for ``Gallery.tell``.

    Raises
    ------
    SingError
        If the file has no such entry, or no text for this study.
    """
    path, c = data_dir() / "wording.yaml", study.config
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    cases = {
        "conse" if c.tower else "clip", "stamps" if c.pictures == "stamps" else "folder",
        c.renderer.split("/")[0], "published" if c.published_translators else "fitted",
    }
    facts = {**_facts(study), **(facts or {})}
    found = {}
    for name, entry in asked.items():
        if entry not in entries:
            raise unknown("wording", entry, entries)
        texts = [text for case, text in entries[entry].items() if case in cases]
        if len(texts) != 1:
            raise SingError(
                f"{entry} in {path} needs one text for this study ({', '.join(sorted(cases))}); "
                f"it has {len(texts)} among {', '.join(entries[entry])}."
            )
        found[name] = texts[0].format(**facts)
    return found


def _facts(study: Study) -> dict[str, str]:
    """What the sentences may mention, as text."""
    c, subjects = study.config, study.subjects
    source, _, name = c.pictures.partition(":")
    counts = (study.pictures["class_index"] >= 0) | (c.pictures != "stamps")  # Study.scored
    known = study.pictures[study.is_scored & counts]
    photos = known.groupby("label")["path"].nunique()
    few, many = photos.min(), photos.max()
    facts = {
        "models": ", ".join(study.title(name) for name in c.everyone),
        "compared": ", ".join(study.classifier(name).title for name in c.models),
        "subjects": f"{len(subjects):,}", "labels": f"{len(study.labels):,}", "seed": str(c.seed),
        "known": str((subjects["class_index"] >= 0).sum()),
        "photos": str((study.pictures["source"] == "photo").sum()),
        "source": name.rsplit("/", 1)[-1].lstrip("$") if source == "folder" else
        {"imagenet": "ImageNet-1k", "imagenette": "Imagenette"}.get(source, name),
        "space": study.space_title(c.spaces[-1 if c.tower else 0]),
        "dimensions": str(study.embeddings.shape[1]),
        "known_labels": f"{len(photos):,}", "single": str((photos == 1).sum()),
        "each": f"{few}" if few == many else f"{few} to {many}",
        "sweep_views": str(c.sweep_views), "decoder": c.renderer.rsplit("/", 1)[-1],
    }
    if c.tower:
        tower = study.classifier(c.tower)
        facts |= {"tower": tower.title, "tower_classes": str(len(tower.head.weight))}
    return facts
