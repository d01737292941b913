"""Controls: translators in two stages, planted heads, and readouts that are held out by group.

What does the null part add to the principal part? A ridge on whole features shares its weights out
between parts that are correlated, so that a translator may read from the null part what the
principal part says as well. Here the principal part explains first what it can, and the null part
is fitted on what that leaves, cross-fitted by subject. The control puts a random subspace in the
null space's place.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve

from ..errors import SingError
from ..method.translator import RidgeFitter, Translator, grouped_cv, nested_cv

__all__ = [
    "GroupedProbe", "Staged", "all_mean_directions", "chosen_lambdas", "discriminant_directions",
    "frame", "kernel_map", "mean_directions", "plant_head", "planted_null", "principal_first",
]

SOFTNESS = 2.0  # temperature of the probabilities that the non-linear map reads
WEAKER = (1e5, 3e5, 1e6, 3e6, 1e7)  # the null part may deserve less trust than any candidate gives


def frame(basis: np.ndarray | torch.Tensor) -> torch.Tensor:
    """An orthonormal frame of all directions whose last ones span a subspace.

    Parameters
    ----------
    basis : numpy.ndarray or torch.Tensor
        (m, k), orthonormal columns, 0 < k < m.

    Returns
    -------
    torch.Tensor
        (m, m), float64: the first m - k columns span the complement, the last k the subspace.
    """
    basis = torch.as_tensor(basis, dtype=torch.float64)
    m, k = basis.shape
    if not 0 < k < m:
        raise SingError(f"A part of {m} dimensions that leaves others has 1 to {m - 1}; got {k}.")
    full = torch.linalg.qr(basis, mode="complete").Q
    return torch.cat([full[:, k:], full[:, :k]], dim=1)


def kernel_map(
    logits: torch.Tensor, fit_on: np.ndarray, size: int, *, variance: float = 1.0, seed: int = 0
) -> torch.Tensor:
    """Non-linear features of logits for a ridge: an approximate Gaussian kernel.

    The kernel compares square roots of probabilities (softmax at temperature 2), so that its
    distance is Hellinger's; its width is their median distance. It is approximated by
    scikit-learn's Nystroem. Logits are all that a head reads of a feature: whatever these features
    say, the principal part says.

    Parameters
    ----------
    logits : torch.Tensor
        (n, c).
    fit_on : numpy.ndarray
        Rows that landmarks are drawn from. No target is seen.
    size : int
        Landmarks, at most; as many features.
    variance : float
        Total variance over `fit_on` that the features are scaled to, so that the candidates for
        lambda of another block of features suit them.
    seed : int
        Of the landmarks.

    Returns
    -------
    torch.Tensor
        (n, size), float64.
    """
    roots = torch.softmax(logits.double() / SOFTNESS, dim=1).sqrt().numpy()
    known = roots[fit_on]
    some = np.random.default_rng(seed).permutation(len(known))[:500]
    apart = torch.nn.functional.pdist(torch.tensor(known[some])).square().median()
    if not apart > 0:
        raise SingError(
            "The kernel needs pictures with different probabilities; these all have the same."
        )
    from sklearn.kernel_approximation import Nystroem  # here: a second that few need

    kernel = Nystroem(
        gamma=1 / float(apart), n_components=min(size, len(known)), random_state=seed
    ).fit(known)
    mapped = kernel.transform(roots)
    return torch.tensor(mapped * np.sqrt(variance / mapped[fit_on].var(0).sum()))


@dataclass(frozen=True)
class Staged:
    """A translator in two stages: an affine map of the first columns plus one of the others.

    Attributes
    ----------
    first : Translator
        Of the first k columns alone, (d, k): the principal-only translator.
    rest : Translator
        Of the other columns, (d, m - k), fitted on what the first leaves; its card's ``lambda``
        is None where no candidate did better than nothing, and its weight zero.
    """

    first: Translator
    rest: Translator

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Translate rows (n, m) in the frame that it was fitted in, (n, d)."""
        k = self.first.weight.shape[1]
        return self.first(x[:, :k]) + self.rest(x[:, k:])

    def affine(self, directions: torch.Tensor, card: dict | None = None) -> Translator:
        """The same map as one translator of features.

        Parameters
        ----------
        directions : torch.Tensor
            (m, m), the :func:`frame` whose coordinates it was fitted on.
        card : dict, optional
            Saved with the translator, beside both lambdas.

        Returns
        -------
        Translator
            float32.
        """
        weight = torch.cat([self.first.weight, self.rest.weight], 1).double() @ directions.T
        bias = self.first.bias.double() + self.rest.bias.double()
        lams = {"lambda": self.first.card["lambda"], "lambda_null": self.rest.card["lambda"]}
        return Translator(weight.float(), bias.float(), {**lams, **(card or {})})


def chosen_lambdas(
    always: RidgeFitter, folds: Sequence[RidgeFitter], lams: Sequence[float],
    widths: Sequence[int] | None = None,
) -> list[list[float]]:
    """The lambda of every target for each fold, chosen among the other folds only.

    Parameters
    ----------
    always, folds, lams, widths
        As for :func:`sing_nb.method.translator.grouped_cv`; all targets together by default.

    Returns
    -------
    list of list of float
        (folds + 1, targets); the last row is chosen with all folds. Where fewer than two folds
        are left to choose by, the middle candidate.
    """
    widths = list(widths or [folds[0].d])
    outer = grouped_cv(always, folds, lams, widths)
    middle = [lams[len(lams) // 2]] * len(widths)
    if len(folds) < 3:
        inner = [middle] * len(folds)
    else:
        scores = nested_cv(always, folds, lams, widths).nanmean(1)
        inner = [[lams[i] for i in one.argmax(0).tolist()] for one in scores]
    return [*inner, [lams[i] for i in outer.mean(0).argmax(0).tolist()]]


def principal_first(
    always: RidgeFitter, folds: Sequence[RidgeFitter], first: int, lams: Sequence[float],
    *, lambdas: Sequence[float] | None = None,
) -> list[Staged]:
    """Ridge on the first columns, then ridge of the other columns on the cross-fitted residual.

    The residual of a fold is that of a first stage which never saw it, or the second stage would
    be fitted on residuals that overfitting has made small. The second stage has a lambda of its
    own, among `lams` and weaker trust, and stays zero where none of them explains more of held-out
    residuals than their mean does: for every fold that scores, both stages are fitted anew without
    it. That mean, which is no matter of the other columns, goes to the first stage's bias: it says
    where the folds lie beside the rows of `always`. Of the fold that is held out, neither stage and
    neither lambda has seen anything. Everything follows from sufficient statistics.

    Parameters
    ----------
    always : RidgeFitter
        Rows that the first stage is fitted on in every fold. The second is not, for they have no
        residual that is held out.
    folds : sequence of RidgeFitter
        Rows by fold, all columns; a group lies in one fold only.
    first : int
        How many leading columns come first.
    lams : sequence of float
        Candidates.
    lambdas : sequence of float, optional
        The first stage's (folds + 1,), if they were chosen before: :func:`chosen_lambdas`. Without
        the last of them, there is no fit of all rows.

    Returns
    -------
    list of Staged
        (folds + 1): without each fold, and last of all rows. Where too few folds are left to
        choose the second lambda by, it is the middle candidate.

    Raises
    ------
    SingError
        If too few rows are left to cross-fit.
    """
    if not 0 < first < folds[0].m:
        raise SingError(f"The first stage reads 1 to {folds[0].m - 1} columns; got {first}.")
    leading = [fold.part(slice(0, first)) for fold in folds]
    common, count = always.part(slice(0, first)), len(folds)
    if lambdas is None:
        lambdas = [lam for (lam,) in chosen_lambdas(common, leading, lams)]
    everything = common.copy()
    for fold in leading:
        everything.merge(fold)
    stages: dict[tuple, Translator | None] = {}
    left: dict[tuple, RidgeFitter] = {}
    totals = {frozenset(): everything}

    def rows_without(folds: frozenset[int]) -> RidgeFitter:
        """All rows but some folds'; sets that share folds share what it took to leave them out."""
        if folds in totals:
            return totals[folds]
        last = max(folds)
        found = rows_without(folds - {last}).without(leading[last])
        if len(folds) < 3:  # larger sets have nothing to share, and each takes megabytes
            totals[folds] = found
        return found

    def stage(without: set[int], lam: float) -> Translator | None:
        """The first stage without some folds, or None where no rows are left."""
        key = frozenset(without), lam
        if key not in stages:
            total = rows_without(key[0])
            stages[key] = total.solve(lam) if total.n > 1 else None
        return stages[key]

    def residual(number: int, without: set[int], lam: float) -> RidgeFitter | None:
        """What it leaves of one of them."""
        key = number, frozenset(without), lam
        fitted = stage(without, lam)
        if fitted is not None and key not in left:
            left[key] = folds[number].residuals(fitted.weight, fitted.bias)
        return left.get(key)

    candidates, found = [*lams, *(weak for weak in WEAKER if weak > max(lams))], []
    for held_out, lam in zip([*range(count), None], lambdas):
        out = set() if held_out is None else {held_out}
        inner = [number for number in range(count) if number not in out]
        gains = []
        for score in inner:
            parts = [residual(n, {*out, score, n}, lam) for n in inner if n != score]
            if parts and all(part is not None for part in parts):
                target = residual(score, {*out, score}, lam)
                scores = _sum(parts).path().scores(target, [*candidates, torch.inf])
                gains.append(scores[:-1] - scores[-1])
        parts = [residual(number, {*out, number}, lam) for number in inner]
        if any(part is None for part in parts):
            raise SingError(
                f"Residuals are cross-fitted among the folds that are not held out, and of {count} "
                f"folds too few are left. Take at least 3: folds=3."
            )
        gain = torch.stack(gains).mean(0) if gains else None
        path = _sum(parts).path()
        if gain is not None and gain.max() <= 0:
            rest = Translator(
                torch.zeros(folds[0].d, folds[0].m - first), torch.zeros(folds[0].d),
                {"lambda": None})
        else:
            rest = path.translator(
                candidates[len(lams) // 2 if gain is None else int(gain.argmax())])
            rest = replace(rest, bias=-rest.weight @ path.feature_mean.float())
        one = stage(out, lam)
        found.append(Staged(replace(one, bias=one.bias + path.target_mean.float()), rest))
    return found


def _sum(parts: Sequence[RidgeFitter]) -> RidgeFitter:
    """All rows of some fitters, none of which changes."""
    total = parts[0].copy()
    for part in parts[1:]:
        total.merge(part)
    return total


# --- planted heads ------------------------------------------------------------------------------


def plant_head(weight: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """A head that cannot see given feature directions: W (I - U U^T).

    Parameters
    ----------
    weight : torch.Tensor
        (c, m).
    directions : torch.Tensor
        (m, k), of any length; U is an orthonormal basis of what they span.

    Returns
    -------
    torch.Tensor
        (c, m), in the dtype of `weight`. What the directions span lies in its null space.

    Raises
    ------
    SingError
        If the directions are not (m, k), or zero.
    """
    if directions.ndim != 2 or len(directions) != weight.shape[1]:
        raise SingError(
            f"Directions for a head of {weight.shape[1]} features have the shape "
            f"({weight.shape[1]}, k); got {tuple(directions.shape)}."
        )
    basis = torch.as_tensor(_orthonormal(directions.detach().double().numpy()))
    if not basis.shape[1]:
        raise SingError("The directions to plant are zero; a plant needs one that is not.")
    wide = weight.detach().double()
    return (wide - (wide @ basis) @ basis.T).to(weight.dtype)


def planted_null(null: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How planting turns a head's null space, without another SVD of the head.

    The null space of W (I - U U^T) is U and what of the null space of W is orthogonal to U.

    Parameters
    ----------
    null : numpy.ndarray
        (m, n), orthonormal basis of the null space of W.
    directions : numpy.ndarray
        (m, k), as for :func:`plant_head`.

    Returns
    -------
    given_back, planted : numpy.ndarray
        (m, j) and (m, k), orthonormal: what leaves the null space, and what enters it; j <= k.
    """
    planted = _orthonormal(directions)
    return null @ _orthonormal(null.T @ planted, 1e-9), planted


def _orthonormal(vectors: np.ndarray, least: float = 0.0) -> np.ndarray:
    """Orthonormal basis of what columns span, without what is shorter than rounding or `least`."""
    left, values, _ = np.linalg.svd(vectors, full_matrices=False)
    return left[:, values > max(1e-9 * float(values[0]), least)]


def mean_directions(features: np.ndarray, values: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """A concept's direction in the features: its covariance with them, in each part of the data.

    For a concept that is there or not this is the difference of the two class means. Without it no
    linear readout of the same pictures does better than a constant (Belrose et al., 2023).

    Parameters
    ----------
    features : numpy.ndarray
        (n, m).
    values : numpy.ndarray
        (n,), the concept.
    parts : numpy.ndarray
        (n,), which part each picture is of: one direction a part.

    Returns
    -------
    numpy.ndarray
        (m, k), unit columns; a part in which the concept does not vary gives none.
    """
    return all_mean_directions(features, values[:, None], parts)[0]


def all_mean_directions(
    features: np.ndarray, values: np.ndarray, parts: np.ndarray
) -> list[np.ndarray]:
    """:func:`mean_directions` of each of many concepts (n, concepts), by one product a part."""
    found: list[list[np.ndarray]] = [[] for _ in values.T]
    for part in np.unique(parts):
        own = parts == part
        # By its range: the mean of equal numbers may be another number, and what is left of them
        # then a direction made of rounding errors.
        varies = np.ptp(values[own], axis=0) > 0
        along = (features[own] - features[own].mean(0)).T @ (values[own] - values[own].mean(0))
        for directions, one, there in zip(found, along.T, varies, strict=True):
            if there and np.linalg.norm(one) > 0:
                directions.append(one / np.linalg.norm(one))
    return [np.stack(directions, axis=1) for directions in found]


def discriminant_directions(
    features: np.ndarray, values: np.ndarray, k: int, lam: float
) -> np.ndarray:
    """The k ridge discriminants of each concept, one after the other (Ravfogel et al., 2020).

    Each is fitted on what the ones before it leave. With the Gram matrix G = X^T X + lam that is
    the ridge solution under U^T w = 0: G^-1 (c - U (U^T G^-1 U)^-1 U^T G^-1 c).

    Parameters
    ----------
    features : numpy.ndarray
        (n, m).
    values : numpy.ndarray
        (n, concepts).
    k : int
    lam : float
        Above 0.

    Returns
    -------
    numpy.ndarray
        (concepts, m, k), orthonormal columns, each prefix of which is the shorter answer.
    """
    x = features - features.mean(0)
    factor = cho_factor(x.T @ x + lam * np.eye(x.shape[1]))
    start = cho_solve(factor, x.T @ (values - values.mean(0)))
    found, solved = (np.empty((values.shape[1], x.shape[1], k)) for _ in range(2))
    for step in range(k):
        for first, whole, halfway in zip(start.T, found, solved, strict=True):
            w, basis, done = first, whole[:, :step], halfway[:, :step]
            if step:
                w = first - done @ np.linalg.solve(basis.T @ done, basis.T @ first)
                w = w - basis @ (basis.T @ w)  # rounding
            whole[:, step] = w / np.linalg.norm(w)
        # One solve for all concepts: a triangle is read once, not once per concept.
        solved[:, :, step] = cho_solve(factor, found[:, :, step].T).T
    return found


class GroupedProbe:
    """Held-out ridge readouts from features' Gram matrix, and again after a few directions changed.

    Parameters
    ----------
    gram : numpy.ndarray
        (n, n), X X^T.
    targets : numpy.ndarray
        (n, t).
    folds : numpy.ndarray
        (n,), the fold of each row; a subject lies in one fold only.
    lam : float
        Weight of the squared coefficients, above 0; the intercept is free.
    """

    def __init__(
        self, gram: np.ndarray, targets: np.ndarray, folds: np.ndarray, lam: float
    ) -> None:
        self._factors = []
        for fold in np.unique(folds):
            test, train = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
            if not len(train):
                raise SingError("A held-out readout needs at least 2 folds; got one.")
            own, other = gram[np.ix_(train, train)], gram[np.ix_(test, train)]
            mean = own.mean(0)
            own = own - mean - mean[:, None] + mean.mean()
            other = other - other.mean(1, keepdims=True) - mean + mean.mean()
            own[np.diag_indices_from(own)] += lam
            factor = cho_factor(own, overwrite_a=True, check_finite=False)
            self._factors.append((test, train, other, factor))
        self._fit(targets)

    def _fit(self, targets: np.ndarray) -> None:
        self.targets = np.asarray(targets, dtype=float)
        self.constant, self._fits = np.empty_like(self.targets), []
        for test, train, other, factor in self._factors:
            self.constant[test] = self.targets[train].mean(0)
            dual = cho_solve(factor, self.targets[train] - self.constant[test[0]])
            self._fits.append((test, train, other, factor, dual))

    def of(self, targets: np.ndarray) -> GroupedProbe:
        """Readouts of other targets (n, t) from the same features: nothing is factored again."""
        other = copy.copy(self)
        other._fit(targets)
        return other

    def predict(
        self, added: np.ndarray | None = None, removed: np.ndarray | None = None
    ) -> np.ndarray:
        """Held-out predictions (n, t), of features with a few coordinates more and others less.

        Parameters
        ----------
        added, removed : numpy.ndarray, optional
            (n, j) and (n, k): coordinates of the features along orthonormal directions. The Gram
            matrix becomes G + A A^T - R R^T; its inverse follows by Woodbury's identity.
        """
        return self.predictions([(added, removed)])[0]

    def predictions(
        self, changes: Sequence[tuple[np.ndarray | None, np.ndarray | None]]
    ) -> np.ndarray:
        """:meth:`predict` for several changes, each by itself, (changes, n, t).

        One triangular solve serves the coordinates of all of them.
        """
        none = np.empty((len(self.constant), 0))
        pairs = [[none if part is None else part for part in pair] for pair in changes]
        every = np.hstack([part for pair in pairs for part in pair])
        signs = np.repeat(np.tile([1.0, -1.0], len(pairs)),
                          [part.shape[1] for pair in pairs for part in pair])
        ends = np.cumsum([sum(part.shape[1] for part in pair) for pair in pairs])
        out = np.repeat(self.constant[None], len(pairs), axis=0)
        for test, train, other, factor, dual in self._fits:
            plain = other @ dual
            centre = every[train].mean(0)
            own, far = every[train] - centre, every[test] - centre
            solved = cho_solve(factor, own, check_finite=False)
            across, loads = other @ solved, own.T @ dual
            for at, (start, end) in enumerate(zip([0, *ends], ends)):
                mine = slice(start, end)
                sign, within = signs[mine], own[:, mine].T @ solved[:, mine]
                inner = np.linalg.solve(np.diag(sign) + within, loads[mine])
                out[at, test] += plain - across[:, mine] @ inner + far[:, mine] @ (
                    sign[:, None] * (loads[mine] - within @ inner))
        return out

    def errors(self, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Squared errors (n, t) of predictions, and of the training mean."""
        return (self.targets - predicted) ** 2, (self.targets - self.constant) ** 2

    def r2(self, added: np.ndarray | None = None, removed: np.ndarray | None = None) -> np.ndarray:
        """Held-out R2 (t,) about the training mean; at most 1, below 0 when worse than it."""
        return self.r2s([(added, removed)])[0]

    def r2s(
        self, changes: Sequence[tuple[np.ndarray | None, np.ndarray | None]]
    ) -> np.ndarray:
        """:meth:`r2` for several changes, each by itself, (changes, t)."""
        error, total = self.errors(self.predictions(changes))
        total = total.sum(0)
        return 1 - error.sum(1) / np.where(total > 0, total, np.inf)
