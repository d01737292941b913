"""Translators in two stages: the principal part explains first, then the null part what is left.

A ridge on whole features shares its weights out between parts that are correlated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch

from ..errors import SingError
from .translator import RidgeFitter, Translator, grouped_cv, nested_cv

__all__ = ["Staged", "chosen_lambdas", "frame", "principal_first"]

WEAKER = (1e5, 3e5, 1e6, 3e6, 1e7)  # the null part may deserve less trust than any candidate gives


def frame(basis: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Orthonormal (m, m), float64: the complement of a subspace, then its basis (m, k)."""
    basis = torch.as_tensor(basis, dtype=torch.float64)
    m, k = basis.shape
    if not 0 < k < m:
        raise SingError(f"A part of {m} dimensions that leaves others has 1 to {m - 1}; got {k}.")
    full = torch.linalg.qr(basis, mode="complete").Q
    return torch.cat([full[:, k:], full[:, :k]], dim=1)


@dataclass(frozen=True)
class Staged:
    """An affine map of the first columns plus one of the others."""

    first: Translator  # of the first k columns alone, (d, k): the principal-only translator
    rest: Translator  # of the others, (d, m - k); lambda None, weight zero where nothing helped

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Translate rows (n, m) in the frame that it was fitted in, (n, d)."""
        k = self.first.weight.shape[1]
        return self.first(x[:, :k]) + self.rest(x[:, k:])


def chosen_lambdas(
    always: RidgeFitter, folds: Sequence[RidgeFitter], lams: Sequence[float],
    widths: Sequence[int] | None = None,
) -> list[list[float]]:
    """Lambdas (folds + 1, targets), each chosen among the other folds, the last with all."""
    widths = list(widths or [folds[0].d])
    # Where fewer than two folds are left to choose by, the middle candidate.
    inner = [[lams[len(lams) // 2]] * len(widths)] * len(folds)
    if len(folds) > 2:
        scores = nested_cv(always, folds, lams, widths).nanmean(1)
        inner = [[lams[i] for i in one.argmax(0).tolist()] for one in scores]
    outer = grouped_cv(always, folds, lams, widths).mean(0).argmax(0)
    return [*inner, [lams[i] for i in outer.tolist()]]


def principal_first(
    always: RidgeFitter, folds: Sequence[RidgeFitter], first: int, lams: Sequence[float],
    *, lambdas: Sequence[float] | None = None,
) -> list[Staged]:
    """Ridge on the first columns, then ridge of the other columns on the cross-fitted residual.

    One map without each fold, and last one of all rows. The residual of a fold is that of a first
    stage which never saw it, or the second stage would be fitted on residuals that overfitting has
    made small. The second stage has a lambda of its own, and stays zero where none explains more of
    held-out residuals than their mean does; that mean goes to the first stage's bias. Of the fold
    that is held out, neither stage and neither lambda has seen anything. `lambdas` are the first
    stage's (folds + 1,), if chosen before; without the last of them there is no fit of all rows.
    """
    if not 0 < first < folds[0].m:
        raise SingError(f"The first stage reads 1 to {folds[0].m - 1} columns; got {first}.")
    leading = [fold.part(slice(0, first)) for fold in folds]
    common, count = always.part(slice(0, first)), len(folds)
    if lambdas is None:
        lambdas = [lam for (lam,) in chosen_lambdas(common, leading, lams)]
    everything = _sum([common, *leading])

    @cache
    def stage(without: frozenset[int], lam: float) -> Translator | None:
        """The first stage without some folds, or None where no rows are left."""
        total = everything
        for fold in sorted(without):
            total = total.without(leading[fold])
        return total.solve(lam) if total.n > 1 else None

    @cache
    def residual(number: int, without: frozenset[int], lam: float) -> RidgeFitter | None:
        """What a first stage without some folds leaves of one of them."""
        fitted = stage(without, lam)
        return None if fitted is None else folds[number].residuals(fitted.weight, fitted.bias)

    def gains(inner: list[int], out: set[int], lam: float) -> torch.Tensor | None:
        """How much more every candidate explains of held-out residuals than their mean does."""
        found = []
        for score in inner:
            parts = [residual(n, frozenset({*out, score, n}), lam) for n in inner if n != score]
            if parts and None not in parts:
                target = residual(score, frozenset({*out, score}), lam)
                scores = _sum(parts).path().scores(target, [*candidates, torch.inf])
                found.append(scores[:-1] - scores[-1])
        return torch.stack(found).mean(0) if found else None

    candidates, found = [*lams, *(weak for weak in WEAKER if weak > max(lams))], []
    for held_out, lam in zip([*range(count), None], lambdas):
        out = set() if held_out is None else {held_out}
        inner = [number for number in range(count) if number not in out]
        gain = gains(inner, out, lam)
        parts = [residual(number, frozenset({*out, number}), lam) for number in inner]
        if None in parts:
            raise SingError(
                f"Residuals are cross-fitted among the folds that are not held out, and of {count} "
                f"folds too few are left. Take at least 3: folds=3.")
        path = _sum(parts).path()
        if gain is not None and gain.max() <= 0:
            d, m = folds[0].d, folds[0].m
            rest = Translator(torch.zeros(d, m - first), torch.zeros(d), {"lambda": None})
        else:
            rest = path.translator(
                candidates[len(lams) // 2 if gain is None else int(gain.argmax())])
            rest = replace(rest, bias=-rest.weight @ path.feature_mean.float())
        one = stage(frozenset(out), lam)
        found.append(Staged(replace(one, bias=one.bias + path.target_mean.float()), rest))
    return found


def _sum(parts: Sequence[RidgeFitter]) -> RidgeFitter:
    """All rows of some fitters, none of which changes."""
    total = parts[0].copy()
    for part in parts[1:]:
        total.merge(part)
    return total
