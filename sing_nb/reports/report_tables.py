"""The tables of a report on one classifier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..checks.information import unique_of
from ..checks.reliability import model_reliability
from ..errors import SingError
from ..study import tables as study_tables
from ..study.photos import photo_cards, word_changes
from ..study.study import Study
from .asking import ask as answers
from .asking import factors
from .finetune import grouped_classifier
from .readout import VERDICTS

__all__ = ["chosen", "tables"]

PHOTOS, WORDS = 4, 3


def chosen(study: Study, model: str, beside: str = "") -> tuple[str, str]:
    """The classifier that is asked about and the one beside it, as a chapter's parameters say."""
    if model:
        if beside == model:
            raise SingError(f"{model} cannot stand beside itself; name another one, or none.")
        return model, beside
    first = study.config.models[0]
    return grouped_classifier(study, first).name, beside or first


def tables(
    study: Study, model: str, ask: Sequence[str] = (), beside: str = ""
) -> dict[str, pd.DataFrame]:
    """Everything that a report shows, as tidy tables."""
    models = [model, *([beside] if beside else [])]
    asks = {name: list(words) for name, words in (("concepts", study.concepts), ("asked", ask))}
    return {
        "head": pd.DataFrame([_head(study, name) for name in models]),
        "scores": pd.concat(
            [_who(study, name, study_tables.model(study, name)) for name in models],
            ignore_index=True),
        "classes": _classes(study, model),
        **{name: _asked(study, models, words) for name, words in asks.items()},
        "factors": _ranked([_who(study, name, factors(study, name)) for name in models]),
        "photos": _photos(study, model),
        "floor": _floor(study, model),
        "information": _who(study, model, unique_of(study, model)),
        "skipped": pd.DataFrame(
            study.pictures.attrs.get("skipped", []), columns=["path", "reason"])}


def _who(study: Study, model: str, table: pd.DataFrame) -> pd.DataFrame:
    """With the classifier in front, by the name it has now: a kept table may hold an older one."""
    rest = table.drop(columns=["model", "title"], errors="ignore")
    return pd.concat([pd.DataFrame(
        {"model": model, "title": study.title(model)}, index=rest.index), rest], axis=1)


def _head(study: Study, model: str) -> dict[str, object]:
    clf, spaces = study.classifier(model), study.spaces(model)
    table = study_tables.scored(study, model)
    subjects = table["subject"]
    classes = max(2, len(clf.head.weight))  # one logit tells two classes apart by its sign
    share = study.interval(table["null_share"].to_numpy(), subjects)
    known = table[table["correct"].notna()]
    right = dict.fromkeys(("value", "low", "high"), np.nan)
    if len(known):
        right = study.interval(known["correct"].to_numpy(float), known["subject"])
    elif "accuracy" in vars(clf):  # of groups that are no labels of pictures
        right = clf.accuracy
    return {
        "model": model, "title": study.title(model), "classes": classes,
        "features": spaces.features, "rank": spaces.rank, "null_dim": spaces.null_dim,
        "null_share": share["value"], "null_share_low": share["low"],
        "null_share_high": share["high"], "null_share_control": spaces.null_dim / spaces.features,
        "logit_change": float(table["logit_change"].max()),
        "logit_change_control": float(table["logit_change_control"].median()),
        "accuracy": right["value"], "accuracy_low": right["low"], "accuracy_high": right["high"],
        "chance": right.get("chance", 1 / classes),
        "named": len(known) or int(right.get("pictures", 0)), "pictures": len(table),
        "subjects": subjects.nunique()}


def _classes(study: Study, model: str) -> pd.DataFrame:
    table = study_tables.classes(study, model)
    table = table.sort_values("is_excess", ascending=False, kind="stable", ignore_index=True)
    beyond = np.select(
        [table["is_excess_low"] > 0, table["is_excess_high"] < 0],
        ["more than chance", "less than chance"], "cannot be told")
    return _who(study, model, table.assign(rank=np.arange(1, len(table) + 1), verdict=beyond))


def _asked(study: Study, models: Sequence[str], words: Sequence[str]) -> pd.DataFrame:
    if not words:
        return pd.DataFrame(columns=["model", "title", "prompt", "verdict", "why"])
    return _ranked([_who(study, model, answers(study, model, words)) for model in models])


def _ranked(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Classifiers one after the other; what is ignored first, what cannot be told last."""
    found = pd.concat(parts, ignore_index=True)
    place = {name: at for at, name in enumerate([*dict.fromkeys(found["model"]), *VERDICTS])}
    order = found.assign(model=found["model"].map(place), verdict=found["verdict"].map(place),
                         hidden=-found["hidden"])
    order = order.sort_values(["model", "verdict", "hidden"], kind="stable").index
    return found.loc[order].reset_index(drop=True)


def _photos(study: Study, model: str) -> pd.DataFrame:
    table = study_tables.scored(study, model)
    table = table.sort_values("image_score", ascending=False, kind="stable")
    names = table.drop_duplicates("subject")["picture"].tolist()[:PHOTOS]
    cards = photo_cards(study, model, names)
    words = word_changes(study, model, names, WORDS)
    keys = ["picture", "word"]
    own, random = (words[words["kind"].str.startswith(kind)] for kind in ("null", "random"))
    control = random.groupby(keys)["attribute_score"].mean().rename("control")
    own = own.merge(control, on=keys, how="left")
    own["text"] = [f"{word} {moved:+.0f}° (random {other:+.0f}°)".replace(
        " -", " \N{MINUS SIGN}") for word, moved, other in
        own[["word", "attribute_score", "control"]].itertuples(index=False)]
    said = {}
    for name, sign in (("lost", -1), ("gained", 1)):
        rows = own[np.sign(own["attribute_score"]) == sign].sort_values(
            "attribute_score", key=np.abs, ascending=False, kind="stable")
        said[name] = rows.groupby("picture")["text"].agg("; ".join)
    columns = ["picture", "name", "label", "subject", "predicted", "probability", "image_score",
               "image_score_control", "attribute_score", "attribute_score_control",
               "translator_error", "null_share"]
    cards = cards[columns].assign(**{
        name: cards["picture"].map(texts).fillna("") for name, texts in said.items()})
    return _who(study, model, cards)


def _floor(study: Study, model: str) -> pd.DataFrame:
    if study.config.redeals < 2:
        return pd.DataFrame(columns=["model", "title", "over", "kind"])
    return _who(study, model, model_reliability(study, model))
