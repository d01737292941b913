"""Tables of a study: scores of pictures, classifiers and classes, with intervals and controls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy
import torch

from ..method.metrics import angle, scores
from .profile import unknown
from .study import Study, stored

__all__ = [
    "KINDS", "QUANTITIES", "accuracy", "by_draw", "classes", "controls", "difference_excess",
    "images", "model", "model_difference", "models", "score_pairs", "scored"]

KINDS = ("null space removed", "random control")
QUANTITIES = ("image_score", "attribute_score", "ratio")
PAIR = ["image_score", "attribute_score"]
EXCESS = ("image_score_excess", "attribute_score_excess", "attribute_size_excess", "ratio_excess")


# --- pictures -----------------------------------------------------------------------------------


@stored
def images(study: Study, model: str) -> pd.DataFrame:
    """Scores of every null-removed equivalent, one row per scored picture or photograph."""
    rows = _shown(study)
    table = study.pictures.iloc[rows].reset_index(drop=True)
    f, clf, spaces = study.features(model)[rows], study.classifier(model), study.spaces(model)
    text, removed = study.text(table["label"]), spaces.remove_null(f)
    z, before = study.translate(model, f, rows), clf.logits(f)
    moved = scores(z, study.translate(model, removed, rows), text)
    table["image_score"] = moved.image_score.numpy()
    table["attribute_score"] = moved.attribute_score.numpy()
    table["translator_error"] = angle(z, study.embeddings[rows]).numpy()
    table["label_angle"] = angle(z, text).numpy()
    table["null_share"] = spaces.null_share(f).numpy()
    table["logit_change"] = (clf.logits(removed) - before).abs().amax(1).numpy()
    control = controls(study, model).groupby("picture", sort=False)
    for name in ("image_score", "attribute_score", "logit_change"):
        table[f"{name}_control"] = control[name].mean().loc[table["picture"]].to_numpy()
    winner, truth = before.argmax(1).numpy(), study.truth(model)[rows]
    names = study.class_names(model)
    table["predicted"] = [names[i] for i in winner]
    table["correct"] = pd.Series(winner == truth).where(truth >= 0)
    return table


@stored
def controls(study: Study, model: str) -> pd.DataFrame:
    """The same scores after removing random parts of the same size, a row per picture and draw."""
    rows = _shown(study)
    f, clf = study.features(model)[rows], study.classifier(model)
    text = study.text(study.pictures["label"].iloc[rows])
    z, before = study.translate(model, f, rows), clf.logits(f)
    drawn = []
    for draw, other in enumerate(study.random_removals(model, f)):
        moved = scores(z, study.translate(model, other, rows), text)
        drawn.append(pd.DataFrame({
            "picture": study.pictures["picture"].to_numpy()[rows], "draw": draw,
            "image_score": moved.image_score.numpy(),
            "attribute_score": moved.attribute_score.numpy(),
            "logit_change": (clf.logits(other) - before).abs().amax(1).numpy()}))
    return pd.concat(drawn, ignore_index=True)


def _shown(study: Study) -> np.ndarray:
    """Rows of the pictures that have scores: all but the drawings."""
    return np.flatnonzero((study.pictures["source"] != "clipart").to_numpy())


def scored(study: Study, model: str, draw: int | None = None) -> pd.DataFrame:
    """Rows of :func:`images` that count: stamps of a true ImageNet class, folder pictures."""
    table = images(study, model)
    stamp = (table["source"] == "stamp") & (table["class_index"] >= 0)
    table = table[stamp | (table["source"] == "folder")]
    if draw is None:
        return table
    one = controls(study, model).query("draw == @draw").set_index("picture")
    one = one.loc[table["picture"]].set_index(table.index)
    return table.assign(**{f"{name}_control": one[name] for name in one.columns.drop("draw")})


def by_draw(study: Study, model: str, column: str, pictures: Sequence[str]) -> np.ndarray:
    """A score of :func:`controls` as an array (pictures, draws)."""
    table = controls(study, model).pivot_table(column, "picture", "draw")
    return table.loc[list(pictures)].to_numpy()


def score_pairs(study: Study, model: str, pictures: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """IS and AS of pictures (n, 2), and of each random removal (n, draws, 2), degrees."""
    score = images(study, model).set_index("picture").loc[list(pictures), PAIR].to_numpy()
    return score, np.stack([by_draw(study, model, name, pictures) for name in PAIR], axis=2)


# --- classifiers --------------------------------------------------------------------------------


def models(study: Study) -> pd.DataFrame:
    """The rows of :func:`model` for every classifier; the tower, if there is one, comes last."""
    return pd.concat([model(study, name) for name in study.config.everyone], ignore_index=True)


@stored
def model(study: Study, model: str) -> pd.DataFrame:
    """Medians of AS and IS over the pictures of :func:`scored`, with controls and excess."""
    table = scored(study, model)
    score, control = score_pairs(study, model, table["picture"])
    subject = table["subject"]
    error = np.column_stack([table["translator_error"], _constant_error(study, table)])
    direct = study.interval(np.abs(score), subject, _with_ratio, of_medians=True)
    beside = study.excess(score, control, subject, _control_and_excess, vectorized=True)
    errors = study.interval(error, subject, _as_they_are, of_medians=True)
    parts = [
        (direct, [(name, KINDS[0]) for name in QUANTITIES]),
        (beside, [(name, KINDS[1]) for name in QUANTITIES] + [(x, KINDS[0]) for x in EXCESS]),
        (errors, [("translator_error", "held out"), ("translator_error", "constant")])]
    role = "control: the tower itself" if model == study.config.tower else "compared"
    who = {"model": model, "title": study.title(model), "role": role}
    return pd.DataFrame([
        who | {end: float(values[at]) for end, values in found.items()}
        | {"quantity": quantity, "kind": kind}
        for found, rows in parts for at, (quantity, kind) in enumerate(rows)])


def _constant_error(study: Study, table: pd.DataFrame) -> np.ndarray:
    """Angle of pictures' embeddings to a mean embedding of the other folds, degrees."""
    fold = study.pictures["fold"].to_numpy()
    z, rows, guesses = study.embeddings.double(), study.rows(table["picture"]), []
    for known in (study.is_scored, (study.pictures["source"] != "photo").to_numpy()):
        error = np.empty(len(rows))
        for number in np.unique(fold[rows]):
            own = fold[rows] == number
            constant = z[torch.tensor(known & (fold != number))].mean(0)
            error[own] = angle(constant, z[rows[own]]).numpy()
        guesses.append(error)
    return min(guesses, key=np.median)


def model_difference(
    study: Study, first: str, second: str, quantity: str = "ratio", kind: str = KINDS[0]
) -> dict[str, float]:
    """A score of the second classifier minus that of the first, paired by picture."""
    for what, name, known in (("quantity", quantity, QUANTITIES), ("kind", kind, KINDS)):
        if name not in known:
            raise unknown(what, name, known)
    table = scored(study, first)
    pairs = [score_pairs(study, name, table["picture"]) for name in (first, second)]
    # (n, 2 classifiers, 2 scores, draws); what is not random has one draw.
    both = np.stack([
        score[:, :, None] if kind == KINDS[0] else control.swapaxes(1, 2)
        for score, control in pairs
    ], axis=1)

    def difference(medians: np.ndarray) -> np.ndarray:
        image, attribute = np.moveaxis(medians, 2, 0)
        found = {"image_score": image, "attribute_score": attribute}
        value = found[quantity] if quantity in found else _ratio(image, attribute)
        return (value[:, 1] - value[:, 0]).mean(-1)

    return study.interval(np.abs(both), table["subject"], difference, of_medians=True)


def difference_excess(study: Study, first: str, second: str) -> dict[str, float]:
    """:func:`model_difference` of the ratio minus the same under random removals."""
    table = scored(study, first)
    pairs = [score_pairs(study, name, table["picture"]) for name in (first, second)]
    score, control = (np.abs(np.stack(both, axis=-2)) for both in zip(*pairs))

    def beyond(score: np.ndarray, control: np.ndarray) -> np.ndarray:
        own = _ratio(*np.moveaxis(score, -1, 0))  # (samples, 2)
        other = _ratio(*np.moveaxis(control, -1, 0)).mean(1)  # (samples, draws, 2)
        return (own[:, 1] - own[:, 0]) - (other[:, 1] - other[:, 0])

    return study.excess(score, control, table["subject"], beyond, of_medians=True)


@stored
def accuracy(study: Study) -> pd.DataFrame:
    """Each classifier on the 20 labelled photos, and the size of what its head does not read."""
    records = []
    for name in study.config.everyone:
        truth = study.truth(name)
        photo = (study.pictures["source"] == "photo").to_numpy() & (truth >= 0)
        right = study.logits(name)[photo].argmax(1).numpy() == truth[photo]
        low = high = np.nan
        if len(right):
            counted = scipy.stats.binomtest(int(right.sum()), len(right))
            low, high = counted.proportion_ci(method="wilson")
        clf, spaces, f = study.classifier(name), study.spaces(name), study.features(name)
        change = (clf.logits(spaces.remove_null(f)) - clf.logits(f)).abs().max()
        records.append({
            "model": name, "title": clf.title, "right": int(right.sum()),
            "photos": int(photo.sum()), "share": right.mean() if len(right) else np.nan,
            "low": low, "high": high, "chance": 1 / len(clf.head.weight),
            "classes": len(clf.head.weight), "features": spaces.features, "rank": spaces.rank,
            "null_dim": spaces.null_dim, "largest_logit_change": float(change)})
    return pd.DataFrame(records)


# --- classes ------------------------------------------------------------------------------------


@stored
def classes(study: Study, model: str) -> pd.DataFrame:
    """Median AS, ``|AS|`` and IS of each class over its pictures, with controls and excess."""
    records, table = [], scored(study, model).reset_index(drop=True)
    # Once for all: of thousands of classes each would sort all draws anew.
    score, control = score_pairs(study, model, table["picture"])
    for label, own in table.groupby("label"):
        views = np.arange(len(own))
        direct = study.interval(score[own.index], views, _class_medians, vectorized=True)
        beside = study.excess(
            score[own.index], control[own.index], views, _class_excess, vectorized=True)
        record = {
            "label": label, "views": len(own), "stamps": own["path"].nunique(),
            "as_low": own["attribute_score"].quantile(0.25),
            "as_high": own["attribute_score"].quantile(0.75)}
        for at, name in enumerate(("as_median", "as_abs", "is_median")):
            record |= {name: direct["value"][at], f"{name}_control": beside["value"][at],
                       f"{name}_low": direct["low"][at], f"{name}_high": direct["high"][at]}
        for at, name in enumerate(("as_excess", "as_abs_excess", "is_excess"), start=3):
            record |= {name: beside["value"][at], f"{name}_low": beside["low"][at],
                       f"{name}_high": beside["high"][at]}
        records.append(record | {"accuracy": own["correct"].mean()})
    return pd.DataFrame(records).sort_values("as_median").reset_index(drop=True)


# --- statistics of many samples at once ---------------------------------------------------------
# Scores are (samples, n, 2), IS and AS; controls (samples, n, draws, 2).


def _ratio(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """one / two, and nan where nothing moved at all."""
    return np.divide(one, two, out=np.full(np.shape(one), np.nan), where=np.not_equal(two, 0))


def _as_they_are(medians: np.ndarray) -> np.ndarray:
    return medians


def _with_ratio(medians: np.ndarray) -> np.ndarray:
    """Median IS and median |AS|, (samples, 2), and their ratio."""
    return np.column_stack([medians, _ratio(*medians.T)])


def _sizes(pairs: np.ndarray) -> np.ndarray:
    """Median IS, median |AS| and their ratio, (samples, 3, draws), of (samples, n, draws, 2)."""
    one, two = np.moveaxis(np.median(np.abs(pairs), axis=1), -1, 0)
    return np.stack([one, two, _ratio(one, two)], axis=1)


def _control_and_excess(score: np.ndarray, control: np.ndarray) -> np.ndarray:
    """The control's IS, |AS| and ratio, and EXCESS: (samples, 7)."""
    other = _sizes(control).mean(2)
    beyond = _sizes(score[:, :, None]).mean(2) - other
    paired = np.median(score - control.mean(2), axis=1)
    return np.hstack([other, paired, beyond[:, 1:]])


def _class_medians(score: np.ndarray) -> np.ndarray:
    """Median AS, |AS| and IS: (samples, 3), or (samples, draws, 3) of a control."""
    image, attribute = np.moveaxis(score, -1, 0)
    return np.median(np.stack([attribute, np.abs(attribute), image], axis=-1), axis=1)


def _class_excess(score: np.ndarray, control: np.ndarray) -> np.ndarray:
    """The control's median AS, |AS| and IS, and the excess of AS, |AS| and IS: (samples, 6)."""
    other = _class_medians(control).mean(1)
    image, attribute = np.median(score - control.mean(2), axis=1).T
    size = _class_medians(score)[:, 1] - other[:, 1]
    return np.column_stack([other, attribute, size, image])
