"""Are the equations of the method true of what was computed? Each one again, by other means.

A residual is the largest disagreement between this package and NumPy or automatic
differentiation, over everything that was measured. Equations (10) to (13), (18) and (19) are
checked with the steering, in :mod:`sing_nb.steering`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from .metrics import angle, attribute_score, image_score
from .study import Study

__all__ = ["head_checks", "score_checks", "translator_checks"]


def head_checks(study: Study) -> pd.DataFrame:
    """Equations (1), (2), (3) and (9) for every classifier.

    Returns
    -------
    pandas.DataFrame
        Columns ``equation``, ``residual`` (share of the largest singular value, of the largest
        logit or of the feature's length; for (3) the entry of a projector that is farthest off),
        ``limit`` and ``holds``; one row a classifier and equation, in ``model``.
    """
    return study.stored("head-checks", lambda: _heads(study), *study.config.everyone)


def _heads(study: Study) -> pd.DataFrame:
    records = []
    for model in study.config.everyone:
        spaces, head = study.spaces(model), study.classifier(model).head
        weight = head.weight.double().numpy()
        left, values, right = np.linalg.svd(weight, full_matrices=True)
        basis = right[spaces.rank :].T
        off = np.abs((left[:, : len(values)] * values) @ right[: len(values)] - weight).max()
        off = max(off, np.abs(spaces.singular_values.numpy() - values).max()) / values[0]
        off = max(off, np.abs(right @ right.T - np.eye(len(right))).max())
        unit = torch.eye(spaces.features, dtype=torch.float64)
        null, principal = spaces.null(unit).numpy(), spaces.principal(unit).numpy()
        expected = basis @ basis.T
        f = study.features(model)[:512].double()
        removed = spaces.remove_null(f).numpy()
        logits = f.numpy() @ weight.T
        shift = np.abs((removed - f.numpy()) @ weight.T).max() / np.abs(logits).max()
        by_hand = f.numpy() - f.numpy() @ expected
        length = np.linalg.norm(f.numpy(), axis=1, keepdims=True)
        found = {
            1: (off, 1e-10),
            2: (max(np.linalg.norm(weight @ null, 2) / values[0], shift), 1e-10),
            3: (
                max(
                    np.abs(null - expected).max(), np.abs(null - null.T).max(),
                    np.abs(null @ null - null).max(), np.abs(null + principal - unit.numpy()).max(),
                ),
                1e-8,
            ),
            9: (
                max(np.abs((removed - by_hand) / length).max(),
                    np.abs(removed @ basis / length).max() if basis.size else 0.0),
                1e-8,
            ),
        }
        records += _records(model, found)
    return pd.DataFrame(records)


def translator_checks(study: Study) -> pd.DataFrame:
    """Equation (4): every translator, as it lies on disk, is where its loss has no slope left.

    Returns
    -------
    pandas.DataFrame
        As in :func:`head_checks`; the residual is the length of the gradient by automatic
        differentiation, as a share of its length at the map that answers the mean: the largest
        over the translators of all folds and the one of all subjects.
    """
    return study.stored("translator-checks", lambda: _translators(study), *study.config.everyone)


def _translators(study: Study) -> pd.DataFrame:
    fitted_on, fold = study.pictures["source"] != "photo", study.pictures["fold"]
    records = []
    for model in study.config.everyone:
        found = []
        for fitted in study.fitted(model, "ridge"):  # the paper's, whatever the book is made with
            rows = torch.tensor((fitted_on & (fold != fitted.card["held_out_fold"])).to_numpy())
            f, z = study.features(model)[rows].double(), study.embeddings[rows].double()
            lam = fitted.card["lambda"]

            def slope(weight: torch.Tensor, bias: torch.Tensor, f=f, z=z, lam=lam) -> float:
                weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
                loss = (f @ weight.T + bias - z).square().sum() + lam * weight.square().sum()
                return float(torch.cat([g.flatten() for g in torch.autograd.grad(
                    loss, [weight, bias])]).norm())

            weight, bias = fitted.weight.double(), fitted.bias.double()
            found.append(slope(weight, bias) / slope(torch.zeros_like(weight), z.mean(0)))
        # The translators are float32: their rounding is what is left.
        records += _records(model, {4: (max(found), 1e-6)})
    return pd.DataFrame(records)


def score_checks(study: Study) -> pd.DataFrame:
    """Equations (5) to (8): the study's angles and scores of all photos, against NumPy's arccos.

    Returns
    -------
    pandas.DataFrame
        As in :func:`head_checks`; residuals in degrees. For (7) the scores must turn their sign
        when photo and equivalent change places, and for (8) no |AS| may exceed its IS.
    """
    return study.stored("score-checks", lambda: _scores(study), *study.config.everyone)


def _scores(study: Study) -> pd.DataFrame:
    records = []
    for model in study.config.everyone:
        table = study.scored(model)
        rows = study.rows(table["picture"])
        f, spaces = study.features(model)[rows], study.spaces(model)
        text = study.text(table["label"])
        z = study.translate(model, f, rows)
        moved = study.translate(model, spaces.remove_null(f), rows)
        one, two, goal = (v.double().numpy() for v in (z, moved, text))
        before, after, turn = _degrees(one, goal), _degrees(two, goal), _degrees(one, two)
        score, back = attribute_score(z, moved, text), attribute_score(moved, z, text)
        signs = float((score + back).abs().max())
        excess = float((score.abs() - image_score(z, moved)).max())
        found = {
            5: (np.abs(angle(z, moved).numpy() - turn).max(), 1e-5),
            6: (np.abs(table["label_angle"].to_numpy() - before).max(), 1e-5),
            7: (
                max(np.abs(table["attribute_score"].to_numpy() - (before - after)).max(), signs),
                1e-5,
            ),
            8: (max(np.abs(table["image_score"].to_numpy() - turn).max(), excess), 1e-5),
        }
        records += _records(model, found)
    return pd.DataFrame(records)


def _degrees(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def _records(model: str, found: dict[int, tuple[float, float]]) -> list[dict]:
    return [
        {"model": model, "equation": number, "residual": float(residual), "limit": limit,
         "holds": bool(residual < limit)}
        for number, (residual, limit) in found.items()
    ]
