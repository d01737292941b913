"""How often `ask` is right: questions to real heads that were made to have a known answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy

from ..checks.blind_heads import READABLE
from ..checks.controls import all_mean_directions
from ..checks.intervals import deal
from ..method.steer import random_basis
from ..study.study import Study, stored
from .asking import asked_pictures, prompts_of
from .readout import LEAST_SUBJECTS, VERDICTS, Readouts, decided, standardised, weights

__all__ = ["planted_trials", "trials"]

SMALL = 12  # rows of the small heads


@stored(keys=["plant_pictures"])
def trials(study: Study, model: str, prompts: list[str]) -> pd.DataFrame:
    """Questions whose right answers are known, asked of heads that were made so."""
    asked, table = prompts_of(prompts), asked_pictures(study)
    rows = table["row"].to_numpy(copy=True)
    text = study.space.encode_text(list(asked.values())).double()
    found = planted_trials(
        study.features(model)[rows].double().numpy(),
        (study.embeddings[rows].double() @ text.T).numpy(), table["subject"].to_numpy(),
        study.spaces(model).principal_basis.numpy(), table["stratum"].to_numpy(),
        draws=study.config.bootstrap_draws, seed=study.config.seed)
    return found.assign(model=model, prompt=np.asarray(list(asked))[found.pop("concept")])


def planted_trials(
    features: np.ndarray, values: np.ndarray, subjects: np.ndarray, basis: np.ndarray,
    strata: np.ndarray | None = None, *, draws: int = 1000, seed: int = 0,
) -> pd.DataFrame:
    """The same for any features (n, m), values (n, t) and row space (m, r)."""
    names, first, members = np.unique(subjects, return_index=True, return_inverse=True)
    groups = None if strata is None else strata[first]
    half = deal(len(names), 2, seed, groups)[members]
    one, two = half == 0, half == 1
    there, m = strata if strata is not None else np.zeros(len(values), dtype=int), basis.shape[0]
    rng = np.random.default_rng((seed, 8))
    narrow = random_basis(m, min(SMALL, m // 2), int(rng.integers(2**31)))
    known = Readouts(features[one], values[one], subjects[one], there[one], seed).of(
        narrow, draws=draws)
    able = np.flatnonzero((known["full_low"] >= READABLE) & (known["subjects"] >= LEAST_SUBJECTS))
    blind = all_mean_directions(features[one], values[one], np.zeros(int(one.sum())))
    read_by = weights(features[one], standardised(values[one]))
    few = np.isin(members, rng.permutation(np.unique(members[two]))[: LEAST_SUBJECTS // 2])
    moved = np.column_stack([column[_moved(members[two], rng)] for column in values[two].T])
    asked, shuffled, fewer = (
        Readouts(features[rows], of, subjects[rows], there[rows], seed)
        for rows, of in ((two, values[two]), (two, moved), (few, values[few])))
    tables, every = [], np.arange(values.shape[1])

    def answer(part: Readouts, seen: np.ndarray, concepts: Sequence[int], *about: str) -> None:
        found = part.of(seen, concepts, draws)
        about = dict(zip(("head", "kind", "right"), about, strict=True))
        tables.append(found.assign(verdict=decided(found), concept=concepts, **about))

    for head, seen in (("own", basis), ("narrow", narrow)):
        answer(shuffled, seen, every, head, "shuffled", VERDICTS[2])
        answer(fewer, seen, every, head, "few subjects", VERDICTS[2])
        for concept in able:
            left = _without(seen, blind[concept])
            more = np.linalg.qr(np.column_stack([left, read_by[concept]]))[0]
            answer(asked, left, [concept], head, "planted", VERDICTS[0])
            answer(asked, more, [concept], head, "kept", VERDICTS[1])
    found = pd.concat(tables, ignore_index=True)
    strict = found["verdict"] == found["right"]
    unable = (found["full_low"] < READABLE) & (found["verdict"] == VERDICTS[2])
    other = {VERDICTS[0]: VERDICTS[1], VERDICTS[1]: VERDICTS[0]}
    wrong = found["right"].map(other).eq(found["verdict"])
    return found.assign(strict=strict, correct=strict | unable, reversed=wrong)


def _without(basis: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the rows that are left of a row space when a direction is taken out."""
    unit = direction / np.linalg.norm(direction, axis=0)
    left, triangle, _ = scipy.linalg.qr(
        basis - unit @ (unit.T @ basis), mode="economic", pivoting=True)
    size = np.abs(np.diagonal(triangle))
    return left[:, size > 1e-9 * size[0]]


def _moved(members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows in an order in which subjects' values are moved to other subjects, runs kept whole."""
    return np.concatenate([rng.permutation(np.flatnonzero(members == name))
                           for name in rng.permutation(np.unique(members))])
