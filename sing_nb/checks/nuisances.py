"""How much of what a head ignores is nuisance: the variance of parts of features, by known factor.

A stamp view is a cut-out on a background, and every factor was drawn (see `pictures.images`).
What changes between views of one cut-out is nuisance by construction. A factor may move the
features of all subjects alike, or of each in its own way:

- ``same for all subjects``: its unique share in one linear model of all factors beside the means
  of the cut-outs (type III, nested models). Only products of different subjects count, so that
  what one subject does alone adds nothing on average.
- ``of each subject``: slopes of its own for every cut-out, the former included; background and
  flip, which follow a factorial plan, are held constant meanwhile. What chance explains is taken
  away, ``SS - k MS_residual``: the omega squared of Hays (1963), or what a factor permuted within
  a subject would explain.

Pictures of a folder have no known factors: there the table says what the classes explain, and
what is left within them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from ..errors import SingError
from ..study import tables
from ..study.study import Study
from .intervals import cluster_bootstrap

__all__ = ["EVERY_VIEW", "has_factors", "invariances", "shares", "variance_shares"]

AT_ONCE = 10**7  # numbers of all bootstrap samples that are held together
RATIO = "over principal"
PLANNED = ("background", "flip")  # factors that follow a factorial plan over the views
EFFECTS = ("same for all subjects", "of each subject")
#: What differs between pictures of one subject, or of one class: all nuisances together.
EVERY_VIEW = {True: "all nuisances", False: "within a class"}
WHOLE = {True: "subject", False: "class"}


def has_factors(study: Study) -> bool:
    """Whether the study's pictures were drawn with known factors."""
    return "scale" in study.pictures and study.pictures.loc[study.is_scored, "scale"].notna().all()


def design(pictures: pd.DataFrame) -> dict[str, np.ndarray]:
    """The factors of views as columns of a linear model.

    Parameters
    ----------
    pictures : pandas.DataFrame
        (n rows), with the factors of :mod:`sing_nb.pictures.images`.

    Returns
    -------
    dict of numpy.ndarray
        (n, k) each: background (a column a kind but the first), colour (saturation times cosine
        and sine of the hue, saturation, lightness), scale (logarithm), place (x and y), flip.
    """
    turn = np.deg2rad(pictures["hue"].to_numpy(float))
    tint = pictures["saturation"].to_numpy(float)
    return {
        "background": pd.get_dummies(pictures["background"]).iloc[:, 1:].to_numpy(float),
        "colour": np.column_stack(
            [tint * np.cos(turn), tint * np.sin(turn), tint, pictures["lightness"]]),
        "scale": np.log(pictures[["scale"]].to_numpy(float)),
        "place": pictures[["x", "y"]].to_numpy(float),
        "flip": pictures[["flip"]].to_numpy(float),
    }


@dataclass
class _Sums:
    """Sums of squares and products of a part, by cluster: all that shares are made of."""

    counts: np.ndarray  # (c, 2), pictures and blocks
    squares: np.ndarray  # (c, 2), all and within blocks
    products: np.ndarray  # (c, c), of the clusters' sums
    crossed: np.ndarray  # (c, p, p), factors by factors, within blocks
    answers: np.ndarray  # (c, p, m), factors by values, within blocks
    alone: np.ndarray  # (c, p, p), the answers of each cluster by themselves
    columns: dict[str, slice]  # of each factor among the p
    own: dict[str, np.ndarray]  # (c,), explained beyond chance by slopes of each block


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
    """Squares of one block that its own slopes explain, beyond chance, `held` kept constant.

    `values` (n, m), `columns` (n, k) and `held` (n, h) are centred. What of the columns is left
    beside `held` stands for all of them: a factor that was drawn loses a part by chance.
    """
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


def _sums(
    values: np.ndarray, factors: dict[str, np.ndarray], blocks: np.ndarray, clusters: np.ndarray
) -> _Sums:
    values = np.asarray(values, float).reshape(len(values), -1)
    n, m = values.shape
    number, several = len(np.unique(blocks)), len(np.unique(clusters))
    if number == n or several < 2:
        raise SingError(
            f"A variance needs several pictures a block and two clusters; got {n} pictures in "
            f"{number} blocks and {several} clusters. Take more views (views=...) or more pictures "
            f"a class (total_pictures=...)."
        )
    blocks = np.unique(blocks, return_inverse=True)[1]
    clusters = np.unique(clusters, return_inverse=True)[1]
    count = clusters.max() + 1
    values = values - values.mean(0)  # for the digits
    inner = _centred(values, blocks)
    totals = np.zeros((count, m))
    np.add.at(totals, clusters, values)
    first = np.unique(blocks, return_index=True)[1]
    squares = [np.bincount(clusters, np.square(v).sum(1), count) for v in (values, inner)]

    parts = {name: _centred(table, blocks) for name, table in factors.items()}
    parts = {name: table for name, table in parts.items() if np.abs(table).max() > 1e-9}
    ends = np.cumsum([0, *(table.shape[1] for table in parts.values())])
    columns = {name: slice(*pair) for name, pair in zip(parts, itertools.pairwise(ends))}
    x = np.hstack([*parts.values(), np.empty((n, 0))])
    crossed, answers = np.zeros((count, *2 * x.shape[1:])), np.zeros((count, x.shape[1], m))
    own = {name: np.zeros(count) for name in parts}
    for cluster in range(count):
        rows = clusters == cluster
        crossed[cluster] = x[rows].T @ x[rows]
        answers[cluster] = x[rows].T @ inner[rows]
    for block in range(blocks.max() + 1) if own else ():
        rows = blocks == block
        for name, table in parts.items():
            held = [parts[other][rows] for other in PLANNED if other in parts and other != name]
            held = np.hstack([*held, np.empty((rows.sum(), 0))])
            own[name][clusters[first[block]]] += _own(inner[rows], table[rows], held)
    return _Sums(
        np.column_stack([np.bincount(clusters), np.bincount(clusters[first], minlength=count)]),
        np.column_stack(squares), totals @ totals.T, crossed, answers,
        answers @ answers.swapaxes(1, 2), columns, own)


def _shares(sums: _Sums, weights: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Shares of the variance for each row of weights (draws, clusters)."""
    pictures, blocks = (weights @ sums.counts).T
    squares, within = (weights @ sums.squares).T
    total = squares - np.einsum("dc,ce,de->d", weights, sums.products, weights) / pictures
    noise = within / (pictures - blocks)
    whole = (total - within - (blocks - 1) * noise) / total
    found = {("whole", EFFECTS[1]): whole, ("every", EFFECTS[1]): 1 - whole}
    for name, explained in sums.own.items():
        found[name, EFFECTS[1]] = weights @ explained / total
    if not sums.columns:
        return found
    p, m = sums.answers.shape[1:]
    crossed, grams = np.tensordot(weights, sums.crossed, 1), []
    for part in np.array_split(weights, -(-len(weights) * p * m // AT_ONCE)):
        answers = np.tensordot(part, sums.answers, 1)
        grams.append(answers @ answers.swapaxes(1, 2) - np.tensordot(part**2, sums.alone, 1))
    gram = np.concatenate(grams)

    def explained(kept: np.ndarray) -> np.ndarray:
        inverse = np.linalg.pinv(crossed[:, kept[:, None], kept], hermitian=True)
        return (inverse * gram[:, kept[:, None], kept]).sum((1, 2))

    every = np.arange(p)
    fitted = explained(every)
    for name, place in sums.columns.items():
        found[name, EFFECTS[0]] = (fitted - explained(np.delete(every, place))) / total
    return found


def variance_shares(
    values: np.ndarray, factors: dict[str, np.ndarray], blocks: np.ndarray, clusters: np.ndarray
) -> dict[tuple[str, str], float]:
    """Share of the variance of values that each factor explains, beyond chance.

    Parameters
    ----------
    values : numpy.ndarray
        (n, m), one row per picture; the variance is the sum over the m columns.
    factors : dict of numpy.ndarray
        (n, k) each, as :func:`design` makes them; none is possible.
    blocks : numpy.ndarray
        (n,), whose means are compared: the cut-out of each view.
    clusters : numpy.ndarray
        (n,), what is independent of each other: the subject. A block lies in one cluster.

    Returns
    -------
    dict of float
        For each factor and effect the share, at most 1, and below 0 where less than chance is
        explained. ``whole`` is the share of the block means, ``every`` the rest. A factor that
        never varies within a block is left out; where slopes of each block would explain anything
        the share is nan.

    Raises
    ------
    SingError
        If every block has one picture, or there are fewer than two clusters.
    """
    sums = _sums(values, factors, blocks, clusters)
    return {key: float(v[0]) for key, v in _shares(sums, np.ones((1, len(sums.counts)))).items()}


def _parts(study: Study, model: str) -> dict[tuple[str, str], list[np.ndarray]]:
    """Values (n, m) of each quantity and kind, for the control of each draw."""
    rows = np.flatnonzero(study.is_scored)
    f, spaces = study.features(model)[rows].double(), study.spaces(model)
    null = spaces.null(f)
    picture = study.pictures["picture"].to_numpy()[rows]
    table = tables.images(study, model).set_index("picture").loc[picture]
    control = tables.by_draw(study, model, "image_score", picture)
    score = table[["image_score"]].to_numpy()
    return {
        ("features", "null space"): [null.numpy()],
        ("features", "principal space"): [(f - null).numpy()],
        ("features", "random control"): [
            (f - other).numpy() for other in study.random_removals(model, f)],
        ("image_score", "null space"): [score],
        ("image_score", "random control"): list(control.T[:, :, None]),
        ("image_score_excess", "null space"): [score - control.mean(1, keepdims=True)],
    }


def _statistic(
    study: Study, parts: dict[tuple[str, str], list[np.ndarray]]
) -> tuple[Callable[[np.ndarray], dict[tuple[str, ...], np.ndarray]], int]:
    """Shares by quantity, kind, factor and effect for samples (samples, clusters) of clusters."""
    table, known = study.pictures[study.is_scored], has_factors(study)
    factors = design(table) if known else {}
    blocks = table["path" if known else "label"].to_numpy()
    clusters = table["subject" if known else "label"].to_numpy()
    named = {"whole": WHOLE[known], "every": EVERY_VIEW[known]}
    sums = {part: [_sums(v, factors, blocks, clusters) for v in drawn]
            for part, drawn in parts.items()}
    count = len(np.unique(clusters))

    def found(samples: np.ndarray) -> dict[tuple[str, ...], np.ndarray]:
        weights = np.stack([np.bincount(one, minlength=count) for one in samples]).astype(float)
        shares = {}
        for part, drawn in sums.items():
            several = [_shares(one, weights) for one in drawn]
            for name, effect in several[0]:
                value = np.mean([one[name, effect] for one in several], axis=0)
                if np.isfinite(value).all():
                    shares[(*part, named.get(name, name), effect)] = value
        return shares

    return found, count


def _intervals(
    study: Study, found: Callable[[np.ndarray], dict[tuple[str, ...], np.ndarray]], count: int
) -> dict[tuple[str, ...], dict[str, float]]:
    """``value``, ``low`` and ``high`` of each number, from the same draws of clusters."""
    every, c = np.arange(count), study.config
    names = list(found(every[None]))
    intervals = cluster_bootstrap(
        every, every, lambda samples: np.column_stack(list(found(samples).values())),
        draws=c.bootstrap_draws, seed=c.seed, vectorized=True,
    )
    return {name: dict(zip(("value", "low", "high"), map(float, row)))
            for name, row in zip(names, np.column_stack(intervals))}


def shares(study: Study) -> pd.DataFrame:
    """What explains the variance of null parts, of principal ones, of IS and of embeddings.

    All scored pictures count, whether their class is known or not.

    Parameters
    ----------
    study : Study

    Returns
    -------
    pandas.DataFrame
        One row per classifier, quantity, kind, factor and effect: model, title, role. ``quantity``
        is ``features``, ``image_score``, ``image_score_excess`` (over the mean control of the
        picture) or ``joint_embedding`` (of the pictures themselves, the same for all classifiers:
        model is empty). ``kind`` is ``null space``, ``principal space``, ``random control`` (mean
        over random parts as long as the null part) or ``joint space``. ``factor`` is ``subject``,
        ``all nuisances`` (what is left within a subject), background, colour, scale, place, flip;
        or, for pictures of a folder, ``class`` and ``within a class``. ``value``, ``low``,
        ``high``: share of the variance beyond chance, at most 1 (95 %, cluster bootstrap over
        subjects; over classes for pictures of a folder, each of which is a subject by itself).
    """
    return _stored(study).query("quantity != @RATIO").reset_index(drop=True)


def invariances(study: Study) -> pd.DataFrame:
    """A factor's share in the null part over its share in the principal part, paired.

    Above 1, the head ignores more of the factor than of the rest of the feature: it treats it as
    a thing that does not matter. What the network before the head removed is in neither part.

    Parameters
    ----------
    study : Study

    Returns
    -------
    pandas.DataFrame
        model, title, role, factor, effect, ``kind`` (``null space``, ``random control``: a random
        part over the principal one, or ``null - control``), ``value``, ``low``, ``high`` (95 %,
        as in :func:`shares`); only factors whose share in the principal part is above zero by its
        interval.
    """
    found = _stored(study).query("quantity == @RATIO").reset_index(drop=True)
    return found.drop(columns="quantity")


def _stored(study: Study) -> pd.DataFrame:
    return study.stored("nuisances", lambda: _table(study), *study.config.everyone)


def _table(study: Study) -> pd.DataFrame:
    records = []

    def keep(about: dict[str, str], rows: dict[tuple[str, ...], dict[str, float]]) -> None:
        names = ("quantity", "kind", "factor", "effect")
        records.extend(about | dict(zip(names, key)) | row for key, row in rows.items())

    for model in study.config.everyone:
        found, count = _statistic(study, _parts(study, model))
        tower = model == study.config.tower
        about = {"model": model, "title": study.title(model),
                 "role": "control: the tower itself" if tower else "compared"}
        shares = _intervals(study, found, count)
        keep(about, shares)
        base = ("features", "principal space")
        safe = [key[2:] for key, row in shares.items() if key[:2] == base and row["low"] > 0]
        keep(about, _intervals(study, _ratios(found, safe), count))
    z = study.embeddings[torch.tensor(study.is_scored)].double().numpy()
    parts = {("joint_embedding", "joint space"): [z]}
    keep({"model": "", "title": "", "role": "joint space"},
         _intervals(study, *_statistic(study, parts)))
    return pd.DataFrame(records)


def _ratios(
    found: Callable[[np.ndarray], dict[tuple[str, ...], np.ndarray]], safe: list[tuple[str, str]]
) -> Callable[[np.ndarray], dict[tuple[str, ...], np.ndarray]]:
    """Shares over those of the principal part."""

    def ratios(samples: np.ndarray) -> dict[tuple[str, ...], np.ndarray]:
        shares, rows = found(samples), {}
        for key in safe:
            null, principal, control = (
                shares[("features", kind, *key)]
                for kind in ("null space", "principal space", "random control"))
            rows[(RATIO, "null space", *key)] = null / principal
            rows[(RATIO, "random control", *key)] = control / principal
            rows[(RATIO, "null - control", *key)] = (null - control) / principal
        return rows

    return ratios
