"""Which photos stay near one that is pushed where its head sees it, or not? Supplement 2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from ..method.steer import matched_perturbations
from . import neighbours
from .heads import kept_spaces
from .study import Study

__all__ = ["neighbours_kept"]


def _pushes(study: Study, model: str, rows: np.ndarray, seed: int) -> dict[str, torch.Tensor]:
    clf, f = study.classifier(model), study.features(model)[rows]
    weight = clf.head.weight
    wider = kept_spaces(weight, of_probabilities=True)
    sensitive = weight[clf.logits(f).argmax(1)]
    return matched_perturbations(f, sensitive, study.spaces(model), wider, seed)


def neighbours_kept(study: Study, model: str, kinds: Sequence[str], k: int = 3) -> pd.DataFrame:
    """How many of a picture's nearest photos stay nearest after each push, one picture a label."""
    name = f"kept-{model}-{k}-{'-'.join(kinds)}".replace(" ", "_")
    return study.stored(name, lambda: _kept(study, model, kinds, k), model)


def _kept(study: Study, model: str, kinds: Sequence[str], k: int) -> pd.DataFrame:
    table = study.pictures
    rows = study.rows(study.examples(study.labels))
    f = study.features(model)[rows]
    pushes = _pushes(study, model, rows, study.config.seed)
    states = {"translated": f} | {kind: (f.double() + pushes[kind]).to(f.dtype) for kind in kinds}
    subject = table.set_index("picture")["subject"]
    near = {state: [] for state in states}
    for state, feature in states.items():
        z = study.translate(model, feature, rows)
        for number, row in enumerate(rows):
            found = neighbours.nearest(study, z[[number]], k, exclude=table["subject"].iloc[row])
            near[state].append(set(subject[found["picture"]]))
    kept = np.array(
        [[len(a & b) for a, b in zip(near["translated"], near[kind])] for kind in kinds]
    ).T.astype(float)
    subjects, records = table["subject"].to_numpy()[rows], []
    for place, kind in enumerate(kinds):
        lead = study.interval(kept[:, 0] - kept[:, place], subjects)
        records.append(
            {"kind": kind} | study.interval(kept[:, place], subjects)
            | {"lead": lead["value"], "lead_low": lead["low"], "lead_high": lead["high"]}
        )
    return pd.DataFrame(records)
