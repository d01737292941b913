"""How much of what a head ignores is nuisance: the variance of parts by known factor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
import torch

from ..errors import SingError
from ..study.study import Study, stored
from ..study.tables import by_draw, images
from .intervals import cluster_bootstrap

__all__ = ["EFFECTS", "EVERY_VIEW", "WHOLE", "has_factors", "invariances", "shares",
           "variance_shares"]

AT_ONCE = 10**7  # numbers of all bootstrap samples that are held together
RATIO = "over principal"
PLANNED = ("background", "flip")  # factors that follow a factorial plan over the views
EFFECTS = ("same for all subjects", "of each subject")
#: What differs between pictures of one subject, or of one class: all nuisances together.
EVERY_VIEW = {True: "all nuisances", False: "within a class"}
WHOLE = {True: "subject", False: "class"}

Shares = dict[tuple[str, ...], np.ndarray]


# --- shares of a variance -------------------------------------------------------------------------


def has_factors(study: Study) -> bool:
    """Whether the study's pictures were drawn with known factors."""
    return "scale" in study.pictures and study.pictures.loc[study.is_scored, "scale"].notna().all()


def design(pictures: pd.DataFrame) -> dict[str, np.ndarray]:
    """The factors of views (:mod:`sing_nb.pictures.images`) as columns (n, k) of a linear model."""
    turn = np.deg2rad(pictures["hue"].to_numpy(float))
    tint = pictures["saturation"].to_numpy(float)
    return {
        "background": pd.get_dummies(pictures["background"]).iloc[:, 1:].to_numpy(float),
        "colour": np.column_stack(
            [tint * np.cos(turn), tint * np.sin(turn), tint, pictures["lightness"]]),
        "scale": np.log(pictures[["scale"]].to_numpy(float)),
        "place": pictures[["x", "y"]].to_numpy(float),
        "flip": pictures[["flip"]].to_numpy(float)}


def variance_shares(
    values: np.ndarray, factors: dict[str, np.ndarray], blocks: np.ndarray, clusters: np.ndarray
) -> dict[tuple[str, str], float]:
    """Share of the variance of values that each factor explains, beyond chance."""
    sums = _Sums(values, factors, blocks, clusters)
    return {key: float(v[0]) for key, v in sums.shares(np.ones((1, sums.count))).items()}


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Values (n, m) without the mean of their group."""
    sums = np.zeros((groups.max() + 1, values.shape[1]))
    np.add.at(sums, groups, values)
    return values - (sums / np.bincount(groups)[:, None])[groups]


def _basis(columns: np.ndarray) -> np.ndarray:
    """Orthonormal basis (n, rank) of what columns (n, k) span."""
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, sizes > 1e-9 * max(1.0, sizes.max(initial=0))]


def _own(values: np.ndarray, columns: np.ndarray, held: np.ndarray) -> float:
    """Squares of one block that its own slopes explain, beyond chance, `held` kept constant."""
    own, other = _basis(columns), _basis(held)
    if own.shape[1] == 0:
        return 0.0
    left = own - other @ (other.T @ own)
    kept = np.square(left).sum() / own.shape[1]
    left = _basis(left)
    free = len(values) - 1 - other.shape[1] - left.shape[1]
    if free < 1 or left.shape[1] < own.shape[1]:  # the slopes would explain anything, or nothing
        return np.nan
    rest = values - other @ (other.T @ values)
    explained = np.square(left.T @ values).sum()
    noise = (np.square(rest).sum() - explained) / free
    return float((explained - left.shape[1] * noise) / kept)


class _Sums:
    """Sums of squares and products by cluster: all that shares are made of, in any sample."""

    def __init__(self, values, factors, blocks, clusters) -> None:
        values = np.asarray(values, float).reshape(len(values), -1)
        n, m = values.shape
        _, first, blocks = np.unique(blocks, return_index=True, return_inverse=True)
        names, clusters = np.unique(clusters, return_inverse=True)
        self.count = count = len(names)
        if len(first) == n or count < 2:
            raise SingError(
                f"A variance needs several pictures a block and two clusters; got {n} pictures in "
                f"{len(first)} blocks and {count} clusters. Take more views (views=...) or more "
                f"pictures a class (total_pictures=...).")
        values = values - values.mean(0)  # for the digits
        inner = _centred(values, blocks)
        totals = np.zeros((count, m))
        np.add.at(totals, clusters, values)
        self.products = totals @ totals.T
        self.sizes = np.column_stack(  # pictures, blocks, squares of all and within blocks
            [np.bincount(clusters), np.bincount(clusters[first], minlength=count)]
            + [np.bincount(clusters, np.square(v).sum(1), count) for v in (values, inner)])

        parts = {name: _centred(part, blocks) for name, part in factors.items()}
        parts = {name: part for name, part in parts.items() if np.abs(part).max() > 1e-9}
        ends = np.cumsum([0, *(part.shape[1] for part in parts.values())])
        self.columns = {name: slice(*pair) for name, pair in zip(parts, pairwise(ends))}
        x = np.hstack([*parts.values(), np.empty((n, 0))])
        whose = [np.flatnonzero(clusters == one) for one in range(count)]
        self.crossed = np.stack([x[rows].T @ x[rows] for rows in whose])
        self.answers = np.stack([x[rows].T @ inner[rows] for rows in whose])
        self.alone = self.answers @ self.answers.swapaxes(1, 2)
        self.own = {name: np.zeros(count) for name in parts}
        for block in range(len(first)) if parts else ():
            rows = blocks == block
            for name, part in parts.items():
                held = [parts[other][rows] for other in PLANNED if other in parts and other != name]
                held = np.hstack([*held, np.empty((rows.sum(), 0))])
                self.own[name][clusters[first[block]]] += _own(inner[rows], part[rows], held)

    def shares(self, weights: np.ndarray) -> Shares:
        """Shares of the variance for each row of weights (draws, clusters)."""
        pictures, blocks, squares, within = (weights @ self.sizes).T
        total = squares - np.einsum("dc,ce,de->d", weights, self.products, weights) / pictures
        noise = within / (pictures - blocks)
        whole = (total - within - (blocks - 1) * noise) / total
        found = {("whole", EFFECTS[1]): whole, ("every", EFFECTS[1]): 1 - whole}
        for name, explained in self.own.items():
            found[name, EFFECTS[1]] = weights @ explained / total
        if not self.columns:
            return found
        p, m = self.answers.shape[1:]
        crossed, grams = np.tensordot(weights, self.crossed, 1), []
        for part in np.array_split(weights, -(-len(weights) * p * m // AT_ONCE)):
            answers = np.tensordot(part, self.answers, 1)
            grams.append(answers @ answers.swapaxes(1, 2) - np.tensordot(part**2, self.alone, 1))
        gram = np.concatenate(grams)

        def explained(kept: np.ndarray) -> np.ndarray:
            inverse = np.linalg.pinv(crossed[:, kept[:, None], kept], hermitian=True)
            return (inverse * gram[:, kept[:, None], kept]).sum((1, 2))

        every = np.arange(p)
        fitted = explained(every)
        for name, place in self.columns.items():
            found[name, EFFECTS[0]] = (fitted - explained(np.delete(every, place))) / total
        return found


# --- tables ---------------------------------------------------------------------------------------


def shares(study: Study) -> pd.DataFrame:
    """What explains the variance of null parts, of principal ones, of IS and of embeddings."""
    return _table(study).query("quantity != @RATIO").reset_index(drop=True)


def invariances(study: Study) -> pd.DataFrame:
    """A factor's share in the null part over its share in the principal part, paired."""
    found = _table(study).query("quantity == @RATIO").reset_index(drop=True)
    return found.drop(columns="quantity")


@stored
def _table(study: Study) -> pd.DataFrame:
    records = []
    for model in study.config.everyone:
        tower = model == study.config.tower
        about = {"model": model, "title": study.title(model),
                 "role": "control: the tower itself" if tower else "compared"}
        sampled, count = _sampled(study, _parts(study, model))
        found = list(_intervals(study, sampled, count))
        safe = [(row["factor"], row["effect"]) for row in found if row["low"] > 0
                and (row["quantity"], row["kind"]) == ("features", "principal space")]
        found += _intervals(study, _ratios(sampled, safe), count)
        records += [about | row for row in found]
    z = study.embeddings[torch.tensor(study.is_scored)].double().numpy()
    space = _sampled(study, {("joint_embedding", "joint space"): [z]})
    about = {"model": "", "title": "", "role": "joint space"}
    return pd.DataFrame(records + [about | row for row in _intervals(study, *space)])


def _parts(study: Study, model: str) -> dict[tuple[str, str], list[np.ndarray]]:
    """Values (n, m) of each quantity and kind, for the control of each draw."""
    rows = np.flatnonzero(study.is_scored)
    f, picture = study.features(model)[rows].double(), study.pictures["picture"].to_numpy()[rows]
    null = study.spaces(model).null(f)
    score = images(study, model).set_index("picture").loc[picture, ["image_score"]].to_numpy()
    control = by_draw(study, model, "image_score", picture)
    return {
        ("features", "null space"): [null.numpy()],
        ("features", "principal space"): [(f - null).numpy()],
        ("features", "random control"): [
            (f - other).numpy() for other in study.random_removals(model, f)],
        ("image_score", "null space"): [score],
        ("image_score", "random control"): list(control.T[:, :, None]),
        ("image_score_excess", "null space"): [score - control.mean(1, keepdims=True)]}


def _sampled(
    study: Study, parts: dict[tuple[str, str], list[np.ndarray]]
) -> tuple[Callable[[np.ndarray], Shares], int]:
    """Shares by quantity, kind, factor and effect as a function of weights of clusters."""
    table, known = study.pictures[study.is_scored], has_factors(study)
    factors = design(table) if known else {}
    blocks, clusters = (
        table[name].to_numpy() for name in (("path", "subject") if known else ("label", "label")))
    named = {"whole": WHOLE[known], "every": EVERY_VIEW[known]}
    sums = {part: [_Sums(v, factors, blocks, clusters) for v in drawn]
            for part, drawn in parts.items()}

    def found(weights: np.ndarray) -> Shares:
        every = {}
        for part, drawn in sums.items():
            several = [one.shares(weights) for one in drawn]
            for name, effect in several[0]:
                value = np.mean([one[name, effect] for one in several], axis=0)
                if np.isfinite(value).all():
                    every[(*part, named.get(name, name), effect)] = value
        return every

    return found, len(np.unique(clusters))


def _intervals(
    study: Study, sampled: Callable[[np.ndarray], Shares], count: int
) -> Iterator[dict[str, object]]:
    """Records of each number with its interval, from the same draws of clusters."""
    def statistic(drawn: np.ndarray) -> np.ndarray:
        weights = np.stack([np.bincount(one, minlength=count) for one in drawn]).astype(float)
        return np.column_stack(list(sampled(weights).values()))

    names = list(sampled(np.ones((1, count))))
    found = cluster_bootstrap(
        np.arange(count), np.arange(count), statistic, vectorized=True,
        draws=study.config.bootstrap_draws, seed=study.config.seed)
    for name, row in zip(names, np.column_stack(found)):
        yield dict(zip(("quantity", "kind", "factor", "effect"), name)) | dict(
            zip(("value", "low", "high"), map(float, row)))


def _ratios(
    sampled: Callable[[np.ndarray], Shares], safe: list[tuple[str, str]]
) -> Callable[[np.ndarray], Shares]:
    """Shares over those of the principal part."""
    def found(weights: np.ndarray) -> Shares:
        shares, ratios = sampled(weights), {}
        for key in safe:
            null, principal, control = (
                shares[("features", kind, *key)]
                for kind in ("null space", "principal space", "random control"))
            ratios[(RATIO, "null space", *key)] = null / principal
            ratios[(RATIO, "random control", *key)] = control / principal
            ratios[(RATIO, "null - control", *key)] = (null - control) / principal
        return ratios

    return found
