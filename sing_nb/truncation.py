"""Truncated heads: a head cut down to its strongest directions is another, blinder classifier.

They widen the comparison of models to a dozen points with a known cause: the same features, the
same translator, only less that the head sees. Figure 12b's place, offline.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from .errors import SingError
from .metrics import attribute_score, image_score
from .nullspace import HeadSpaces
from .perturb import matched_removal
from .stats import random_basis
from .study import Study

__all__ = ["truncated_classes", "truncated_heads"]

RANKS = (900, 750, 500, 250, 100)


def truncated_heads(study: Study, ranks: Sequence[int] = RANKS) -> pd.DataFrame:
    """Scores of null removal for every head as it is and cut down to fewer directions.

    Parameters
    ----------
    study : Study
    ranks : sequence of int
        Ranks of the truncated heads, below the full one.

    Returns
    -------
    pandas.DataFrame
        model, title, rank, null_dim, ``null_share`` (median share of the feature's squared length
        that this head does not see), ``accuracy`` (of the pictures whose class it knows) and
        ``agreement`` (share of pictures that keep the full head's class), both 0 to 1; ``kind``,
        ``quantity`` (image_score, attribute_score [absolute], ratio), value, low, high (medians
        over pictures; 95 %, cluster bootstrap over subjects).

    Raises
    ------
    SingError
        If no rank is below that of some head.
    """
    name = f"truncated-{'-'.join(map(str, ranks))}"
    return study.stored(name, lambda: _truncated(study, ranks), *study.config.everyone)


def _truncated(study: Study, ranks: Sequence[int]) -> pd.DataFrame:
    tables = []
    for model in study.config.everyone:
        weight = study.classifier(model).head.weight.double()
        _, values, right = torch.linalg.svd(weight, full_matrices=True)
        full = study.spaces(model).rank
        if all(rank >= full for rank in ranks):
            raise SingError(
                f"None of the ranks {', '.join(map(str, ranks))} is below that of {model}'s head, "
                f"which is {full}: nothing is cut. Take smaller ones."
            )
        for rank in [full, *(rank for rank in ranks if rank < full)]:
            spaces = HeadSpaces.from_svd(values, right, rank)
            if spaces.null_dim:
                tables.append(_one_head(study, model, spaces))
    return pd.concat(tables, ignore_index=True)


def _one_head(study: Study, model: str, spaces: HeadSpaces) -> pd.DataFrame:
    scored = study.scored(model)
    rows = study.rows(scored["picture"])
    f, clf = study.features(model)[rows], study.classifier(model)
    text = study.text(scored["label"])
    z = study.translate(model, f, rows)
    removed, length = spaces.remove_null(f), spaces.null(f).norm(dim=1)
    # The truncated head's logits: it reads of a feature what is left without its null part.
    winner, truth = clf.logits(removed).argmax(1).numpy(), study.truth(model)[rows]
    z_removed = study.translate(model, removed, rows)
    control = []
    for draw in range(study.config.control_draws):
        basis = random_basis(spaces.features, spaces.null_dim, study.config.seed + draw)
        z_other = study.translate(model, matched_removal(f, length, basis), rows)
        control.append(torch.stack([image_score(z, z_other), attribute_score(z, z_other, text)]))
    pairs = {
        "null space removed": torch.stack(
            [image_score(z, z_removed), attribute_score(z, z_removed, text)]
        )[None],
        "random control": torch.stack(control),
    }
    # Medians of IS and |AS| draw by draw: the mean over draws would make |AS| too small.
    quantities = {
        "image_score": lambda m: m[:, 0].mean(),
        "attribute_score": lambda m: m[:, 1].mean(),
        "ratio": lambda m: (m[:, 0] / m[:, 1]).mean(),
    }
    records = []
    for kind, pair in pairs.items():
        values = pair.abs().permute(2, 0, 1).numpy()
        for quantity, score in quantities.items():

            def statistic(v: np.ndarray, score=score) -> float:
                return float(score(np.median(v, axis=0)))

            records.append(
                {"kind": kind, "quantity": quantity}
                | study.interval(values, scored["subject"], statistic)
            )
    return pd.DataFrame(records).assign(
        model=model, title=study.title(model), rank=spaces.rank, null_dim=spaces.null_dim,
        null_share=float(np.median(spaces.null_share(f))),
        accuracy=float((winner == truth)[truth >= 0].mean()) if (truth >= 0).any() else np.nan,
        agreement=float((winner == clf.logits(f).argmax(1).numpy()).mean()),
    )


def truncated_classes(study: Study, steps: int = 20) -> pd.DataFrame:
    """AS and IS of every class while a head is cut down in even steps, for a slider.

    Parameters
    ----------
    study : Study
    steps : int
        Ranks, evenly from the largest head's full rank down to the first step.

    Returns
    -------
    pandas.DataFrame
        One row a classifier, rank and class: model, title, ``rank`` (a head of a lower rank is
        shown as it is), label, ``attribute_score`` and ``image_score`` (medians over the class's
        pictures, degrees), the same with ``_control`` (one random subspace of the same size, the
        part in it as long as the unseen one; the subspaces of different ranks are nested), and
        over all pictures ``null_share`` (median share of the feature's squared length that this
        head does not see) and ``agreement`` (share that keep the full head's class), 0 to 1.

    Raises
    ------
    SingError
        If there is no step.
    """
    if steps < 1:
        raise SingError(f"A slider over ranks needs at least one step; got {steps}.")
    return study.stored(
        f"truncated-classes-{steps}", lambda: _by_class(study, steps), *study.config.everyone)


def _by_class(study: Study, steps: int) -> pd.DataFrame:
    top = max(study.spaces(model).rank for model in study.config.everyone)
    size = max(1, round(top / steps))
    tables = []
    for model in study.config.everyone:
        scored, full = study.scored(model), study.spaces(model).rank
        rows = study.rows(scored["picture"])
        f, clf = study.features(model)[rows], study.classifier(model)
        own, text = clf.logits(f).argmax(1), study.text(scored["label"])
        z = study.translate(model, f, rows)
        _, values, right = torch.linalg.svd(clf.head.weight.double(), full_matrices=True)
        frame = random_basis(f.shape[1], f.shape[1], study.config.seed)
        for rank in range(top, 0, -size):
            spaces = HeadSpaces.from_svd(values, right, min(rank, full))
            removed = spaces.remove_null(f)
            z_removed, length = study.translate(model, removed, rows), (f - removed).norm(dim=1)
            other = matched_removal(f, length, frame[:, : spaces.null_dim])
            z_other = study.translate(model, other, rows)
            scores = pd.DataFrame({
                "label": scored["label"].to_numpy(),
                "attribute_score": attribute_score(z, z_removed, text).numpy(),
                "image_score": image_score(z, z_removed).numpy(),
                "attribute_score_control": attribute_score(z, z_other, text).numpy(),
                "image_score_control": image_score(z, z_other).numpy(),
            })
            tables.append(scores.groupby("label").median().reset_index().assign(
                model=model, title=study.title(model), rank=rank,
                null_share=float(np.median((length / f.norm(dim=1)).square())),
                agreement=float((clf.logits(removed).argmax(1) == own).double().mean()),
            ))
    return pd.concat(tables, ignore_index=True)
