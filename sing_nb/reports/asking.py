"""Does a head ignore a concept, keep it, or can it not be told? For any words.

A picture's value of a concept is the cosine of its own joint embedding to the prompt. How well can
it be read, by a ridge that never saw the picture's subject, from the whole feature, and how well
from the principal part, which is all that the head reads? What is lost between the two is hidden
from the head. No translator is asked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy
from scipy.linalg import cho_factor, cho_solve
from torch.nn.functional import normalize

from ..checks.controls import all_mean_directions
from ..checks.intervals import cluster_bootstrap, deal
from ..checks.plants import FOLDS, READABLE, concept_values, hidden_share
from ..errors import SingError
from ..method.steer import random_basis
from ..models.prompts import complete_prompt
from ..progress import Progress, progress_bar
from ..study.study import Study

__all__ = [
    "VERDICTS", "ask", "asked_pictures", "decided", "factors", "measured", "planted_trials",
    "readout", "summary", "trial_table", "trials",
]

VERDICTS = ("ignores it", "keeps it", "cannot be told")
# Shares hidden: between "next to nothing" and "a good part" lies a zone where the two answers are
# not worth telling apart (an indifference zone, as in tests of equivalence). Chosen on two splits
# of the trials of EfficientNet-Lite0 and one of Lite1, whose others they are reported on: heads
# that were made blind to the direction of a concept lose 20 to 80 % of it, never all, for what is
# correlated with it stays; heads that surely keep it lose up to 20 %, since a readout of 110
# subjects does not suit 110 others perfectly.
THRESHOLD, THRESHOLD_HIGH = 0.1, 0.3
LEAST_SUBJECTS = 20  # from which on an interval holds what it promises (`checks.intervals`)
LAMBDAS = (0.3, 1.0, 3.0, 10.0, 30.0)  # of the readout, in units of its features' variance
CONTROLS = 3  # random subspaces, at most
LONGEST = 500  # characters; joint spaces read some 70 words and pass over the rest
ALIKE = 0.95  # correlation over the pictures from which on two prompts are hardly two
FAR = 0.05  # a prompt is far if so many words of the vocabulary are nearer to every picture
AT_ONCE = 200  # prompts whose bootstrap samples are held together
METHOD = 1  # part of every kept answer's name
SMALL = 12  # rows of the small heads of the trials


# --- questions ----------------------------------------------------------------------------------


def ask(
    study: Study, model: str, prompts: Sequence[str], *, progress: Progress | None = None
) -> pd.DataFrame:
    """Whether a head ignores concepts, keeps them, or neither can be told.

    The rule: a head *ignores it* if surely more than 10 % of what the features tell of it is lost
    (lower bound), and perhaps 30 % or more (upper bound); it *keeps it* if surely less than 30 %
    is lost, and perhaps less than 10 %. Where the interval spans both lines or lies between them,
    it *cannot be told*, nor can it of fewer than 20 subjects, or where the whole feature's held-out
    R2 may lie below 0.1 (lower bound): what is not there cannot be lost. An answer does not depend
    on what else is asked, but for a remark in ``why`` on prompts that are hardly two.

    Parameters
    ----------
    study : Study
    model : str
        A classifier of the study.
    prompts : sequence of str
        Words, "snow" or "a hand", or whole prompts, "a sketch of a camel"; what is asked twice is
        answered once.
    progress : bool or callable, optional
        As for :func:`sing_nb.progress.progress_bar`; by default as the study's.

    Returns
    -------
    pandas.DataFrame
        One row a prompt: prompt, ``verdict`` (one of :data:`VERDICTS`), ``hidden`` (share of what
        is readable in the whole feature that the principal part has lost, up to 1) with
        ``hidden_low``, ``hidden_high`` and ``hidden_control`` (the same for a random subspace as
        large as the null space), ``full`` (held-out R2 of the whole feature, up to 1) with
        ``full_low`` and ``full_high``, ``threshold`` and ``threshold_high`` (the two lines),
        pictures, subjects, ``why`` (for people), model and title. Intervals are 95 %, cluster
        bootstrap over subjects, of the same held-out readouts. Of more scored pictures than twice
        the profile's ``plant_pictures``, whole subjects are left out.

    Raises
    ------
    SingError
        If nothing is asked, or a prompt is no text, has no letter, or is longer than 500
        characters.
    """
    asked = _prompts(prompts)
    progress = study.progress if progress is None else progress
    key = hashlib.sha256(repr(list(asked.values())).encode()).hexdigest()[:12]
    name = f"ask-{METHOD}-{model}-{study.config.plant_pictures}-{key}"
    found = study.stored(name, lambda: _ask(study, model, list(asked.values()), progress), model)
    verdict = decided(found)
    why = [_why(row, said, words) for row, said, words in zip(
        found.to_dict("records"), verdict, asked, strict=True)]
    if model == study.config.tower:
        why = [f"{text} The joint space is built on this very head, so that it must agree with it."
               for text in why]
    twins = [list(asked)[at] if at >= 0 else "" for at in found["twin"]]
    why = [text if not twin else
           f"{text} Over these pictures it is hardly another question than “{_short(twin)}” "
           f"(correlation {alike:.2f})."
           for text, twin, alike in zip(why, twins, found["alike"])]
    numbers = ["hidden", "hidden_low", "hidden_high", "hidden_control", "full", "full_low",
               "full_high"]
    return pd.DataFrame(
        {"prompt": list(asked), "verdict": verdict, **found[numbers], "threshold": THRESHOLD,
         "threshold_high": THRESHOLD_HIGH, **found[["pictures", "subjects"]], "why": why,
         "model": model, "title": study.title(model)})


def _prompts(prompts: Sequence[str]) -> dict[str, str]:
    """What was typed and the prompt that it means, each prompt once."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise SingError("Nothing is asked; give a few words, such as “snow” or “a hand”.")
    found: dict[str, str] = {}
    for words in prompts:
        if not isinstance(words, str):
            raise SingError(f"A question is a text, such as “snow”; got {words!r}.")
        try:
            words.encode()
        except UnicodeEncodeError as error:
            raise SingError(
                f"{words!r} holds halves of characters that are no text; type it anew."
            ) from error
        words = " ".join("".join(c if c.isprintable() else " " for c in words).split())
        if len(words) > LONGEST:
            raise SingError(
                f"A question has at most {LONGEST} characters, since joint spaces read some 70 "
                f"words; “{_short(words)}” has {len(words):,}. Ask for one thing at a time."
            )
        whole = complete_prompt(words)
        if whole not in found.values():
            found[words] = whole
    return found


def _short(words: str, most: int = 60) -> str:
    return words if len(words) <= most else f"{words[:most - 1]}…"


def asked_pictures(study: Study) -> pd.DataFrame:
    """Pictures that questions are about: row (of ``study.pictures``), subject, stratum.

    Whole subjects, up to twice the profile's ``plant_pictures``; halves and folds are balanced
    over labels that have several subjects (stratum).
    """
    table = study.pictures[study.is_scored].rename_axis("row").reset_index()
    common = table.groupby("label")["subject"].transform("nunique") >= FOLDS
    table = table[["row", "subject"]].assign(stratum=table["label"].where(common, ""))
    order = np.random.default_rng(study.config.seed).permutation(table["subject"].unique())
    sizes = table["subject"].value_counts().loc[order].cumsum()
    kept = set(sizes.index[sizes <= 2 * study.config.plant_pictures]) or {order[0]}
    return table[table["subject"].isin(kept)].reset_index(drop=True)


def _ask(study: Study, model: str, prompts: list[str], progress: Progress) -> pd.DataFrame:
    table, basis = asked_pictures(study), _row_space(study, model)
    z = study.embeddings[table["row"].to_numpy(copy=True)].double().numpy()
    values = z @ study.space.encode_text(prompts).double().numpy().T
    found = measured(
        _features(study, model, table), values, table["subject"], basis, table["stratum"],
        controls=min(CONTROLS, study.config.control_draws), draws=study.config.bootstrap_draws,
        seed=study.config.seed, progress=progress,
    )
    return found.assign(far=_far(study, z, values), **_twins(values))


def _features(study: Study, model: str, table: pd.DataFrame) -> np.ndarray:
    return study.features(model)[table["row"].to_numpy(copy=True)].double().numpy()


def _row_space(study: Study, model: str) -> np.ndarray:
    """Orthonormal basis (m, rank) of what the head reads."""
    spaces = study.spaces(model)
    return spaces.principal_basis.numpy()


def _far(study: Study, z: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of the vocabulary that is nearer than a prompt even to the picture nearest to it.

    Nearest by rank, for some texts are far from every picture.
    """
    words = normalize(study.text(study.vocabulary).double(), dim=-1).numpy()
    nearest = np.ones(values.shape[1])
    for one, own in zip(z, values):
        known = np.sort(words @ one)
        nearest = np.minimum(nearest, 1 - np.searchsorted(known, own, side="left") / len(known))
    return nearest


def _twins(values: np.ndarray) -> dict[str, np.ndarray]:
    """The earlier prompt that each is most alike over the pictures, -1 where none is."""
    scaled = _standard(values)
    like = np.abs(scaled.T @ scaled / len(values))
    like = np.tril(like, -1)
    at = like.argmax(1)
    alike = like[np.arange(len(like)), at].clip(max=1)
    return {"twin": np.where(alike >= ALIKE, at, -1), "alike": alike}


def _standard(values: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and variance 1; 0 where one does not vary."""
    spread = np.where(np.ptp(values, axis=0) > 1e-9, values.std(0), np.inf)
    return (values - values.mean(0)) / spread


# --- readouts -----------------------------------------------------------------------------------


def readout(
    features: np.ndarray, values: np.ndarray, folds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Held-out ridge predictions of values, each with the lambda that the other folds choose.

    Lambda is in units of the features' variance, so that the scale of a part does not matter, and
    is chosen for each value and fold by the squared error of held-out predictions of the other
    folds.

    Parameters
    ----------
    features : numpy.ndarray
        (n, p), float64.
    values : numpy.ndarray
        (n, t), float64.
    folds : numpy.ndarray
        (n,), the fold of each row, at least 2; a subject lies in one fold only.

    Returns
    -------
    predicted, constant : numpy.ndarray
        (n, t): of the readout, and the mean over the folds that it was fitted on.
    """
    features = features - features.mean(0)
    variance = float(features.var(0).sum()) or 1.0
    whole = None
    constant, paths = np.empty_like(values), np.empty((len(LAMBDAS), *values.shape))
    names = np.unique(folds)
    for fold in names:
        test, train = folds == fold, folds != fold
        centre, mean = features[train].mean(0), values[train].mean(0)
        own, far, target = features[train] - centre, features[test] - centre, values[train] - mean
        constant[test] = mean
        if own.shape[1] > len(own):  # the smaller of the two normal equations
            gram, right, reach = own @ own.T, target, far @ own.T
        else:
            # Of all rows, once, without those of the fold: products of few rows cost little.
            whole = features.T @ features if whole is None else whole
            gram = whole - features[test].T @ features[test] - len(own) * np.outer(centre, centre)
            right, reach = own.T @ target, far
        for at, lam in enumerate(LAMBDAS):
            raised = gram.copy()
            raised[np.diag_indices_from(raised)] += lam * variance
            factor = cho_factor(raised, overwrite_a=True)
            paths[at][test] = mean + reach @ cho_solve(factor, right)
    errors = np.stack([((values - paths)[:, folds == fold] ** 2).sum(1) for fold in names])
    predicted = np.empty_like(values)
    for fold, own in zip(names, errors):
        rows = np.flatnonzero(folds == fold)
        best = (errors.sum(0) - own).argmin(0)
        predicted[rows] = paths[best[None], rows[:, None], np.arange(values.shape[1])[None]]
    return predicted, constant


def measured(
    features: np.ndarray, values: np.ndarray, subjects: Sequence, basis: np.ndarray,
    strata: Sequence | None = None, *, controls: int = CONTROLS, draws: int = 1000, seed: int = 0,
    progress: Progress = False,
) -> pd.DataFrame:
    """How much of concepts' values is readable in features, and hidden from what a head reads.

    Parameters
    ----------
    features : numpy.ndarray
        (n, m).
    values : numpy.ndarray
        (n, t), one column per concept; their scale does not matter.
    subjects : sequence
        (n,), the subject of each row.
    basis : numpy.ndarray
        (m, r), orthonormal: what the head reads.
    strata : sequence, optional
        (n,), groups of subjects of which every fold gets its share.
    controls, draws, seed : int
        Random subspaces, bootstrap samples, and the seed of both and of the folds.
    progress : bool or callable

    Returns
    -------
    pandas.DataFrame
        One row per concept: full, full_low, full_high, hidden, hidden_low, hidden_high and
        hidden_control as in :func:`ask`, pictures, subjects. nan for concepts that do not vary, and
        of fewer than 4 subjects.
    """
    with progress_bar(progress, total=2 + controls, desc="readouts", unit="readout") as bar:
        asked = _Asked(features, values, subjects, strata, seed)
        bar.update(1)
        found = asked.of(basis, draws=draws)
        bar.update(1)
        shares = []
        for number in range(controls):
            shares.append(asked.share(random_basis(*basis.shape, seed + 2 + number)))
            bar.update(1)
    return found.assign(hidden_control=np.mean(shares, axis=0) if shares else np.nan)


class _Asked:
    """Concepts of some pictures, read from whole features; heads come one by one."""

    def __init__(
        self, features: np.ndarray, values: np.ndarray, subjects: Sequence,
        strata: Sequence | None, seed: int,
    ) -> None:
        names, first, self.members = np.unique(
            np.asarray(subjects, dtype=str), return_index=True, return_inverse=True)
        self.features, self.subjects, self.seed = features, len(names), seed
        self.values = _standard(np.asarray(values, dtype=float))
        self.able = self.subjects >= 4  # else there are no folds of two subjects
        if self.able:
            groups = None if strata is None else np.asarray(strata, dtype=str)[first]
            count = min(FOLDS, self.subjects // 2)
            self.folds = deal(self.subjects, count, seed, groups)[self.members]
            predicted, constant = readout(features, self.values, self.folds)
            self.full, self.total = (
                (self.values - part) ** 2 for part in (predicted, constant))

    def errors(self, basis: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Squared errors (n, columns, 3): whole feature, what `basis` reads, the mean."""
        target = self.values[:, columns]
        predicted, _ = readout(self.features @ basis, target, self.folds)
        return np.stack(
            [self.full[:, columns], (target - predicted) ** 2, self.total[:, columns]], axis=2)

    def share(self, basis: np.ndarray) -> np.ndarray:
        """Hidden shares (t,) of all concepts."""
        columns = np.arange(self.values.shape[1])
        if not self.able:
            return np.full(len(columns), np.nan)
        found = _shares(self.errors(basis, columns).mean(0))[len(columns):]
        return np.where(self.values.any(0), found, np.nan)

    def of(
        self, basis: np.ndarray, columns: Sequence[int] | None = None, draws: int = 1000
    ) -> pd.DataFrame:
        """Readable and hidden shares of all or some concepts, with intervals."""
        columns = np.arange(self.values.shape[1]) if columns is None else np.asarray(columns)
        found = np.full((3, 2, len(columns)), np.nan)  # estimate, low, high; full, hidden
        varies = np.flatnonzero(self.values[:, columns].any(0))
        if self.able and len(varies):
            errors = self.errors(basis, columns[varies])
            for start in range(0, len(varies), AT_ONCE):
                own = slice(start, start + AT_ONCE)
                interval = cluster_bootstrap(
                    errors[:, own], self.members, _shares, draws=draws, seed=self.seed,
                    of_means=True)
                found[:, :, varies[own]] = np.reshape(interval, (3, 2, -1))
        return pd.DataFrame({
            f"{what}{end}": found[at, which] for which, what in enumerate(("full", "hidden"))
            for at, end in enumerate(("", "_low", "_high"))
        }).assign(pictures=len(self.features), subjects=self.subjects)


def _shares(means: np.ndarray) -> np.ndarray:
    """R2 of whole features and hidden shares (..., 2 t) of mean squared errors (..., t, 3)."""
    r2 = 1 - means[..., :2] / np.maximum(means[..., 2:], 1e-12)
    return np.concatenate([r2[..., 0], hidden_share(r2[..., 0], r2[..., 1])], axis=-1)


def decided(table: pd.DataFrame) -> np.ndarray:
    """The answers to what :func:`measured` found, by the rule of :func:`ask`."""
    able = (table["subjects"] >= LEAST_SUBJECTS) & (table["full_low"] >= READABLE)
    some, little = table["hidden_low"] > THRESHOLD, table["hidden_high"] < THRESHOLD_HIGH
    found = np.select([able & some & ~little, able & little & ~some], VERDICTS[:2], VERDICTS[2])
    return found.astype(object)


def factors(study: Study, model: str) -> pd.DataFrame:
    """Which known factors of the pictures a head ignores, by the rule of :func:`ask`.

    Parameters
    ----------
    study : Study
    model : str

    Returns
    -------
    pandas.DataFrame
        ``prompt`` (``<kind>: <name>`` of `plants.concept_values`) and the columns of
        :func:`ask` but ``why``. No joint space is involved.
    """
    def compute() -> pd.DataFrame:
        table, spaces = concept_values(study), study.spaces(model)
        rows = table["row"].to_numpy(copy=True)
        found = measured(
            study.features(model)[rows].double().numpy(), table.iloc[:, 3:].to_numpy(),
            table["subject"], spaces.principal_basis.numpy(), table["stratum"],
            controls=min(2, study.config.control_draws), draws=study.config.bootstrap_draws,
            seed=study.config.seed)
        return found.assign(prompt=table.columns[3:])

    found = study.stored(f"factors-{study.config.plant_pictures}-{model}", compute, model)
    return found.assign(
        verdict=decided(found), threshold=THRESHOLD, threshold_high=THRESHOLD_HIGH, model=model,
        title=study.title(model))


# --- words --------------------------------------------------------------------------------------


def _percent(share: float) -> str:
    return f"{round(100 * share):d} %"


def _why(row: dict, verdict: str, words: str) -> str:
    """Why an answer is what it is, for people."""
    hidden, low, high = (row[f"hidden{end}"] for end in ("", "_low", "_high"))
    control = row["hidden_control"]
    if verdict == "cannot be told":
        if row["subjects"] < LEAST_SUBJECTS:
            text = (f"{row['subjects']} subjects are too few for an interval; from "
                    f"{LEAST_SUBJECTS} on it can be said. Give more pictures.")
        elif np.isnan(row["full"]):
            text = "All pictures are alike in it; give pictures that show it and others."
        elif not row["full_low"] >= READABLE:
            text = (f"The features themselves hardly tell it (R² {row['full']:.2f}, perhaps only "
                    f"{row['full_low']:.2f}; {READABLE} is needed), and what is not there cannot "
                    f"be lost.")
        else:
            text = (f"Of what the features tell of it, between {_percent(max(low, 0))} and "
                    f"{_percent(high)} is lost to the head: " + (
                        "a part, neither next to nothing nor much." if low > THRESHOLD else
                        "this may be next to nothing or a good part; more pictures would tell."))
    elif verdict == "ignores it":
        text = (f"Of what the features tell of it (R² {row['full']:.2f}), {_percent(hidden)} does "
                f"not reach the logits ({_percent(low)} to {_percent(high)}).")
        if control >= low:
            text += (f" Random views as narrow as this head lose on average {_percent(control)}, "
                     f"too: it reads few directions, and this concept is not singled out.")
        elif not np.isnan(control):
            text += f" A random view of the same size would lose {_percent(max(control, 0))}."
    else:
        most = max(1, int(np.ceil(100 * high)))
        text = (f"Of what the features tell of it (R² {row['full']:.2f}), at most {most} % is lost "
                f"to the head" + (", nothing that could be measured." if hidden < 0.005
                                  else f", measured {_percent(hidden)}."))
        if control > THRESHOLD_HIGH:
            text += (f" Random views as narrow as this head lose on average {_percent(control)}: "
                     f"this head reads what it needs for it.")
    if row["far"] > FAR:
        text += (f" No picture comes near the words “{_short(words)}”: to each of them at least "
                 f"{_percent(row['far'])} of the vocabulary is nearer, so that this is about a "
                 f"shade of meaning, not about the thing.")
    return text


def summary(table: pd.DataFrame) -> str:
    """The three answers as sentences for people, in Markdown.

    Parameters
    ----------
    table : pandas.DataFrame
        :func:`ask`, of one classifier or several.
    """
    lines = []
    for title, own in table.groupby("title", sort=False):
        counts = own["subjects"].iloc[0], own["pictures"].iloc[0]
        lines.append(f"**{title}** ({counts[1]:,} pictures of {counts[0]:,} subjects)\n")
        for verdict, lead in (("ignores it", "ignores"), ("keeps it", "keeps"),
                              ("cannot be told", "cannot be told")):
            some = own[own["verdict"] == verdict]
            order = some.sort_values("hidden", ascending=verdict != "ignores it", kind="stable")
            words = ", ".join(
                f"“{_markdown(_short(row['prompt']))}”" + (
                    "" if verdict == "cannot be told" or np.isnan(row["hidden"]) else
                    f" ({_percent(max(row['hidden'], 0))})")
                for row in order.to_dict("records")) or "nothing of what was asked"
            lines.append(f"- **{lead}**: {words}")
        unsure = own[own["verdict"] == "cannot be told"]
        lines += [f"  - “{_markdown(_short(row['prompt']))}”: {_markdown(row['why'])}"
                  for row in unsure.to_dict("records")]
        lines.append("")
    lines.append(
        f"In brackets: how much of what the features tell of it does not reach the logits. A head "
        f"ignores what surely loses more than {_percent(THRESHOLD)}, and perhaps "
        f"{_percent(THRESHOLD_HIGH)} or more; it keeps what surely loses less than "
        f"{_percent(THRESHOLD_HIGH)}, and perhaps less than {_percent(THRESHOLD)} (95 % "
        f"intervals). What the head ignores, the features hold still."
    )
    return "\n".join(lines)


def _markdown(text: str) -> str:
    """Text whose marks mean nothing in Markdown."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#$~])", r"\\\1", text)


# --- trials -------------------------------------------------------------------------------------


def trials(
    study: Study, model: str, prompts: Sequence[str], splits: int = 3, *,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Questions whose right answers are known, asked of heads that were made so.

    Subjects are dealt to halves. From the first come a concept's mean direction u in the features
    and its readouts w (ridges of five lambdas); the question is asked on the second, which neither
    has seen. Two heads are the ground: the classifier's own rows, and 12 random ones. Each answers
    four times:

    - ``planted``: its rows with u projected out. Right is *ignores it*.
    - ``kept``: the same blind rows and five more, the readouts w. Right is *keeps it*, however
      narrow the head.
    - ``shuffled``: its rows as they are, and the concept moved between subjects. Right is *cannot
      be told*.
    - ``few subjects``: its rows as they are, 10 subjects. Right is *cannot be told*.

    Planted and kept are only concepts that are readable in the first half, by the lower bound that
    the rule asks for. If the second half's whole feature cannot tell one (its lower bound lies
    below 0.1), *cannot be told* is right, too; ``strict`` does not count that.

    Parameters
    ----------
    study : Study
    model : str
    prompts : sequence of str
    splits : int
        How often subjects are dealt anew.
    progress : bool or callable, optional

    Returns
    -------
    pandas.DataFrame
        model, split, head (own or narrow), kind, prompt, ``right`` and ``verdict``, ``correct``
        and ``strict`` (bool), ``reversed`` (ignores for keeps, or keeps for ignores) and the
        numbers of :func:`measured`.
    """
    asked = _prompts(prompts)
    progress = study.progress if progress is None else progress
    key = hashlib.sha256(repr(list(asked.values())).encode()).hexdigest()[:12]
    name = f"ask-trials-{METHOD}-{model}-{study.config.plant_pictures}-{splits}-{key}"
    found = study.stored(name, lambda: _trials(study, model, asked, splits, progress), model)
    return found.assign(prompt=np.asarray(list(asked))[found.pop("concept")])


def _trials(
    study: Study, model: str, asked: dict[str, str], splits: int, progress: Progress
) -> pd.DataFrame:
    table, parts = asked_pictures(study), []
    z = study.embeddings[table["row"].to_numpy(copy=True)].double().numpy()
    values = z @ study.space.encode_text(list(asked.values())).double().numpy().T
    features, own = _features(study, model, table), _row_space(study, model)
    with progress_bar(progress, total=splits, desc="trials", unit="split") as bar:
        for split in range(splits):
            found = planted_trials(
                features, values, table["subject"].to_numpy(), own, table["stratum"].to_numpy(),
                draws=study.config.bootstrap_draws, seed=study.config.seed + split)
            parts.append(found.assign(model=model, split=split))
            bar.update(1)
    return pd.concat(parts, ignore_index=True)


def planted_trials(
    features: np.ndarray, values: np.ndarray, subjects: np.ndarray, basis: np.ndarray,
    strata: np.ndarray | None = None, *, draws: int = 1000, seed: int = 0,
) -> pd.DataFrame:
    """One split of :func:`trials`, for any features (n, m), values (n, t) and row space (m, r).

    ``concept`` is the column of `values` that a row is about.
    """
    names, first, members = np.unique(subjects, return_index=True, return_inverse=True)
    groups = None if strata is None else strata[first]
    half = deal(len(names), 2, seed, groups)[members]
    one, two = half == 0, half == 1
    there, m = strata if strata is not None else np.zeros(len(values), dtype=int), basis.shape[0]
    rng = np.random.default_rng((seed, 8))
    narrow = random_basis(m, min(SMALL, m // 2), int(rng.integers(2**31)))
    known = _Asked(features[one], values[one], subjects[one], there[one], seed).of(
        narrow, draws=draws)
    able = np.flatnonzero((known["full_low"] >= READABLE) & (known["subjects"] >= LEAST_SUBJECTS))
    blind = all_mean_directions(features[one], values[one], np.zeros(int(one.sum())))
    weights = _weights(features[one], _standard(values[one]))
    few = np.isin(members, rng.permutation(np.unique(members[two]))[: LEAST_SUBJECTS // 2])
    moved = np.column_stack([column[_moved(members[two], rng)] for column in values[two].T])
    asked, shuffled, fewer = (
        _Asked(features[rows], of, subjects[rows], there[rows], seed)
        for rows, of in ((two, values[two]), (two, moved), (few, values[few])))
    tables, every = [], np.arange(values.shape[1])

    def answer(part: _Asked, seen: np.ndarray, concepts: Sequence[int], *about: str) -> None:
        found = part.of(seen, concepts, draws)
        about = dict(zip(("head", "kind", "right"), about, strict=True))
        tables.append(found.assign(verdict=decided(found), concept=concepts, **about))

    for head, seen in (("own", basis), ("narrow", narrow)):
        answer(shuffled, seen, every, head, "shuffled", VERDICTS[2])
        answer(fewer, seen, every, head, "few subjects", VERDICTS[2])
        for concept in able:
            left = _without(seen, blind[concept])
            more = np.linalg.qr(np.column_stack([left, weights[concept]]))[0]
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


def _weights(features: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """Ridge weights (m, lambdas) of each concept."""
    own = features - features.mean(0)
    gram, along = own.T @ own, own.T @ (values - values.mean(0))
    solved = []
    for lam in LAMBDAS:
        raised = gram.copy()
        raised[np.diag_indices_from(raised)] += lam * own.var(0).sum()
        solved.append(cho_solve(cho_factor(raised, overwrite_a=True), along))
    return list(np.stack(solved, axis=2).transpose(1, 0, 2))


def _moved(members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows in an order in which subjects' values are moved to other subjects, runs kept whole."""
    return np.concatenate([rng.permutation(np.flatnonzero(members == name))
                           for name in rng.permutation(np.unique(members))])


def trial_table(table: pd.DataFrame) -> pd.DataFrame:
    """Shares of right answers of each kind of :func:`trials`, with exact binomial intervals.

    Returns
    -------
    pandas.DataFrame
        kind, head, ``trials``, ``correct`` with ``low`` and ``high`` (95 %, Clopper and Pearson),
        ``strict`` and ``reversed`` (shares, 0 to 1).
    """
    records = []
    for (kind, head), own in table.groupby(["kind", "head"], sort=False):
        right, count = int(own["correct"].sum()), len(own)
        exact = scipy.stats.binomtest(right, count).proportion_ci(method="exact")
        records.append(
            {"kind": kind, "head": head, "trials": count, "correct": right / count,
             "low": exact.low, "high": exact.high, "strict": own["strict"].mean(),
             "reversed": own["reversed"].mean()})
    return pd.DataFrame(records)
