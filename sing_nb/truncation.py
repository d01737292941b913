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

__all__ = ["truncated_heads"]

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
