"""The portrait of one classifier: the tables of a report, and what they say in plain words.

Every sentence follows from a table by a stated rule: an effect is one whose 95 % interval lies
beyond its control, and what is not told from chance is said not to be.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..checks.information import unique_of
from ..checks.reliability import REDEALT, model_reliability
from ..errors import SingError
from ..pictures.images import BACKGROUNDS
from ..progress import Progress
from ..study import tables as study_tables
from ..study.photos import photo_cards, word_changes
from ..study.study import Study
from ..study.tables import KINDS
from .asking import THRESHOLD, THRESHOLD_HIGH, VERDICTS, factors
from .asking import ask as answers
from .finetune import grouped_classifier

__all__ = [
    "VERDICTS", "chosen", "comparison", "concept_sheet", "factor_name", "first_screen",
    "head_sheet", "how_to_read", "in_markdown", "photo_sheet", "share", "tables",
]

PHOTOS, WORDS = 4, 3
LITTLE = 0.05  # a hidden share that is not worth naming
NULL, CONTROL = KINDS
QUANTITIES = {
    "image_score": "Image Score (IS)", "attribute_score": "size of the Attribute Score, |AS|",
    "ratio": "IS / |AS|",
}
# What a known factor is called for people, by the beginning of its name.
FACTORS = {
    "pixels: ": "{}", "view: ": "{}", "group: all ": "pictures of {}", "group: ": "pictures of {}",
    **{f"background: {kind}": f"{kind} background" for kind in BACKGROUNDS},
    "background: ": "{} of the background",
}
EXCESSES = {"image_score": "image_score_excess", "attribute_score": "attribute_size_excess",
            "ratio": "ratio_excess"}


def chosen(study: Study, model: str, beside: str = "") -> tuple[str, str]:
    """The classifier that is asked about and the one beside it, as a chapter's parameters say.

    Parameters
    ----------
    study : Study
    model : str
        A classifier; empty for the worked example: a head on a few groups of subjects, on the
        network of the study's first classifier, which then stands beside it.
    beside : str
        A second classifier, or empty for none.

    Returns
    -------
    model, beside : str
    """
    if model:
        if beside == model:
            raise SingError(f"{model} cannot stand beside itself; name another one, or none.")
        return model, beside
    first = study.config.models[0]
    return grouped_classifier(study, first).name, beside or first


# --- tables -------------------------------------------------------------------------------------


def tables(
    study: Study, model: str, ask: Sequence[str] = (), beside: str = "", *,
    progress: Progress | None = None,
) -> dict[str, pd.DataFrame]:
    """Everything that a report shows, as tidy tables.

    Parameters
    ----------
    study : Study
    model : str
        A classifier of the study, or added to it.
    ask : sequence of str
        The reader's questions, "snow" or "a hand".
    beside : str
        A second classifier: it has rows of its own in ``head``, ``spectrum``, ``scores``,
        ``concepts`` and ``asked``, and ``difference`` is filled.
    progress : bool or callable, optional
        As in :func:`sing_nb.reports.asking.ask`.

    Returns
    -------
    dict of pandas.DataFrame
        All with model and title, unless said otherwise; intervals are 95 %, over subjects.

        - ``head``: classes, features, rank, null_dim, bias (bool), dtype, ``largest`` and
          ``smallest`` singular value, ``null_share`` (mean share of a feature's squared length in
          the null space, 0 to 1) with ``_low``, ``_high`` and ``_control`` (that of a random
          subspace), ``logit_change`` (the largest by null removal) and ``logit_change_control``
          (the median by a random removal), ``accuracy`` (share of the pictures named right; nan
          where labels are no classes) with ``_low``, ``_high``, ``named`` (pictures that have a
          right answer), ``pictures`` and ``subjects``.
        - ``spectrum``: index (from 1), value, of singular values that are not zero.
        - ``scores``: as ``tables.models``.
        - ``difference``: what the second classifier's scores are minus the first's: quantity,
          kind, value, low, high (degrees; of ratios a number).
        - ``classes``: as ``tables.classes``, with ``rank`` by the excess of the Image Score and
          ``verdict`` (more than chance, less than chance, cannot be told).
        - ``concepts``, ``asked``: as `asking.ask`; first what is ignored, then what
          is kept, and what cannot be told last, each the most hidden first.
        - ``factors``: the same columns but ``why``, of what is known of the pictures themselves:
          what is measured from their pixels, larger groups or labels, and of stamps the background
          and the view (:func:`sing_nb.checks.plants.concept_values`). No joint space is involved.
        - ``photos``: the most affected, one per subject: picture, name, predicted, probability (0
          to 1), image_score, attribute_score, both with ``_control``, translator_error, null_share,
          ``lost`` and ``gained`` (words with degrees, and those of a random removal).
        - ``floor``: as :func:`sing_nb.checks.reliability.model_reliability`.
        - ``information``: as :func:`sing_nb.checks.information.unique_of`.
        - ``skipped``: path and reason of pictures that were passed over (no model, no title).
    """
    models = [model, *([beside] if beside else [])]
    asks = {name: list(words) for name, words in (("concepts", study.concepts), ("asked", ask))}
    return {
        "head": pd.DataFrame([_head(study, name) for name in models]),
        "spectrum": pd.concat([_spectrum(study, name) for name in models], ignore_index=True),
        "scores": pd.concat([_who(study, name, study_tables.model(study, name)) for name in models],
                            ignore_index=True),
        "difference": _difference(study, model, beside),
        "classes": _classes(study, model),
        **{name: _asked(study, models, words, progress) for name, words in asks.items()},
        "factors": _ranked([_who(study, name, factors(study, name)) for name in models]),
        "photos": _photos(study, model),
        "floor": _floor(study, model),
        "information": _who(study, model, unique_of(study, model)),
        "skipped": _skipped(study),
    }


def _who(study: Study, model: str, table: pd.DataFrame) -> pd.DataFrame:
    """With the classifier in front, by the name it has now: a kept table may hold an older one."""
    rest = table.drop(columns=["model", "title"], errors="ignore")
    return pd.concat([pd.DataFrame(
        {"model": model, "title": study.title(model)}, index=rest.index), rest], axis=1)


def _head(study: Study, model: str) -> dict[str, object]:
    clf, spaces = study.classifier(model), study.spaces(model)
    table = study_tables.scored(study, model)
    values, subjects = spaces.singular_values, table["subject"]
    share = study.interval(table["null_share"].to_numpy(), subjects)
    known = table[table["correct"].notna()]
    right = dict.fromkeys(("value", "low", "high"), np.nan)
    if len(known):
        right = study.interval(known["correct"].to_numpy(float), known["subject"])
    elif "accuracy" in vars(clf):  # of groups that are no labels of pictures
        right = clf.accuracy
    return {
        "model": model, "title": study.title(model), "classes": len(clf.head.weight),
        "features": spaces.features, "rank": spaces.rank, "null_dim": spaces.null_dim,
        "bias": clf.head.bias is not None,
        "dtype": str(clf.head.weight.dtype).removeprefix("torch."),
        "largest": float(values[0]), "smallest": float(values[spaces.rank - 1]),
        "null_share": share["value"], "null_share_low": share["low"],
        "null_share_high": share["high"], "null_share_control": spaces.null_dim / spaces.features,
        "logit_change": float(table["logit_change"].max()),
        "logit_change_control": float(table["logit_change_control"].median()),
        "accuracy": right["value"], "accuracy_low": right["low"], "accuracy_high": right["high"],
        "chance": right.get("chance", 1 / len(clf.head.weight)),
        "named": len(known) or int(right.get("pictures", 0)), "pictures": len(table),
        "subjects": subjects.nunique(),
    }


def _spectrum(study: Study, model: str) -> pd.DataFrame:
    spaces = study.spaces(model)
    values = spaces.singular_values[: spaces.rank].numpy()
    return pd.DataFrame({"model": model, "title": study.title(model),
                         "index": np.arange(1, len(values) + 1), "value": values})


def _difference(study: Study, model: str, beside: str) -> pd.DataFrame:
    records = [
        {"quantity": quantity, "kind": kind}
        | study_tables.model_difference(study, beside, model, quantity, kind)
        for quantity in QUANTITIES for kind in KINDS
    ] if beside else []
    return pd.DataFrame(records, columns=["quantity", "kind", "value", "low", "high"])


def _classes(study: Study, model: str) -> pd.DataFrame:
    table = study_tables.classes(study, model)
    table = table.sort_values("is_excess", ascending=False, kind="stable", ignore_index=True)
    beyond = np.select(
        [table["is_excess_low"] > 0, table["is_excess_high"] < 0],
        ["more than chance", "less than chance"], "cannot be told")
    return _who(study, model, table.assign(rank=np.arange(1, len(table) + 1), verdict=beyond))


def _asked(
    study: Study, models: Sequence[str], words: Sequence[str], progress: Progress | None
) -> pd.DataFrame:
    if not words:
        return pd.DataFrame(columns=["model", "title", "prompt", "verdict", "why"])
    return _ranked([_who(study, model, answers(study, model, words, progress=progress))
                    for model in models])


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
    said = {"lost": words["attribute_score"].lt(0), "gained": words["attribute_score"].gt(0)}
    keys = ["picture", "word"]
    own, random = (words[words["kind"].str.startswith(kind)] for kind in ("null", "random"))
    control = random.groupby(keys)["attribute_score"].mean().rename("control")
    own = own.merge(control, on=keys, how="left")
    own["text"] = [f"{word} {moved:+.0f}° (random {other:+.0f}°)".replace(
        " -", " \N{MINUS SIGN}") for word, moved, other in
        own[["word", "attribute_score", "control"]].itertuples(index=False)]
    for name, sign in (("lost", -1), ("gained", 1)):
        chosen_words = own[np.sign(own["attribute_score"]) == sign].sort_values(
            "attribute_score", key=np.abs, ascending=False, kind="stable")
        said[name] = chosen_words.groupby("picture")["text"].agg("; ".join)
    columns = ["picture", "name", "label", "subject", "predicted", "probability", "image_score",
               "image_score_control", "attribute_score", "attribute_score_control",
               "translator_error", "null_share"]
    cards = cards[columns].assign(**{
        name: cards["picture"].map(texts).fillna("") for name, texts in said.items()})
    return _who(study, model, cards)


def _floor(study: Study, model: str) -> pd.DataFrame:
    c = study.config
    if c.redeals < 2 or c.control_draws < 2:
        return pd.DataFrame(columns=["model", "title", "level", "over", "quantity", "kind"])
    return _who(study, model, model_reliability(study, model))


def _skipped(study: Study) -> pd.DataFrame:
    return pd.DataFrame(study.pictures.attrs.get("skipped", []), columns=["path", "reason"])


# --- in words -----------------------------------------------------------------------------------


def first_screen(study: Study, model: str, tables: Mapping[str, pd.DataFrame]) -> str:
    """What a classifier ignores, how sure that is, and what to look at, as Markdown.

    The rules: *ignores* and *keeps* are the verdicts of `asking.ask`; what a score is
    beside a random removal of the same size is *more*, *less*, or, where the interval of the
    difference holds zero, *cannot be told from* it.

    Parameters
    ----------
    study : Study
    model : str
    tables : mapping of pandas.DataFrame
        :func:`tables` of the same classifier.
    """
    own = {name: table[table["model"] == model] if "model" in table else table
           for name, table in tables.items()}
    parts = (_said_head, _said_scores, _said_factors, _said_concepts,
             _said_questions, _said_information, _said_sure, _said_where)
    said = [text for part in parts if (text := part(study, own))]
    return "\n".join([f"**{_headline(study, own)}**", "", *(f"- {text}" for text in said)])


def _headline(study: Study, own: Mapping[str, pd.DataFrame]) -> str:
    title, every = _plain(own["head"]["title"].iloc[0]), _every(own)
    every = every.sort_values("full", ascending=False, kind="stable")  # the plainest first
    told = every[every["verdict"] != VERDICTS[2]]
    ignored = _words(every, VERDICTS[0])
    if ignored:
        single = _words(every[every["hidden_low"] > every["hidden_control"]], VERDICTS[0])
        many = f"Of {len(told)} factors and concepts that can be told it ignores {len(ignored)}."
        if single:
            each = "each" if len(single) > 1 else "it"
            return (f"{title} ignores {_listed(single, 5)}: more of {each} is lost than a random "
                    f"view as narrow would lose. {many}")
        return (f"{title} ignores {_listed(ignored, 5)}, but a random view as narrow would lose "
                f"as much. {many}")
    if told.empty:
        return (f"It cannot be told here what {title} ignores: no question about it has an answer "
                f"with these pictures.")
    none = (f"{title} ignores none of the {len(told)} things that can be told" if len(told) > 1
            else f"{title} does not ignore the one thing that can be told")
    lost, random = (told[column].clip(lower=0).median() for column in ("hidden", "hidden_control"))
    return (f"{none}: of what the features tell of them {_percent(lost)} is lost (median), where "
            f"a random view as narrow would lose {_percent(random)}.")


def _every(own: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Known factors and concepts, one below the other; factors by names for people."""
    named = own["factors"]["prompt"].map(factor_name)
    return pd.concat([own["factors"].assign(prompt=named), own["concepts"]], ignore_index=True)


def factor_name(name: str) -> str:
    """A known factor's name for people: "pixels: lightness" is "lightness"."""
    for kind, said in FACTORS.items():
        if name.startswith(kind):
            return said.format(name.removeprefix(kind))
    return name


def _said_head(study: Study, own: Mapping[str, pd.DataFrame]) -> str:
    row = own["head"].iloc[0]
    even = row["null_share_control"]
    much = _beside(row["null_share_low"] - even, row["null_share_high"] - even)
    return (
        f"**What it cannot see.** Its last layer turns {row['features']:,} numbers about a picture "
        f"into {row['classes']:,} classes, along {_number(row['rank'], 'direction')}. The other "
        f"{row['null_dim']:,} ({_percent(row['null_dim'] / row['features'])}) are its "
        f"null space: what lies there changes no answer (largest change of a logit "
        f"{_small(row['logit_change'])}; when a random part of the same size goes, "
        f"{_small(row['logit_change_control'])}). {share(row, 'null_share')} of a feature's "
        f"squared length lies there, {much} the {_percent(even)} of a random subspace of that "
        f"size.")


def _said_scores(study: Study, own: Mapping[str, pd.DataFrame]) -> str:
    null, control, gap = _scores(own["scores"], "image_score")
    return (f"**How much meaning goes with it.** Without its null part a picture's meaning is "
            f"turned by {_text(null)} (median), {_beside(gap['low'], gap['high'])} the "
            f"{control['value']:.1f}° of a random part of the same size (difference "
            f"{_text(gap, sign='+')}).")


def _said_factors(study: Study, own: Mapping[str, pd.DataFrame]) -> str:
    named = own["factors"]["prompt"].map(factor_name)
    return _counted("The pictures themselves", own["factors"].assign(prompt=named))


def _said_concepts(study: Study, own: Mapping[str, pd.DataFrame]) -> str:
    return _counted("Concepts in words", own["concepts"])


def _said_questions(study: Study, own: Mapping[str, pd.DataFrame]) -> str:
    return _counted("Your questions", own["asked"])


def _counted(name: str, table: pd.DataFrame) -> str:
    if table.empty:
        return ""
    verbs = dict(zip(VERDICTS, ("it ignores", "it keeps", "it cannot be told of")))
    parts = [f"{verb} {_listed(words)}" for verdict, verb in verbs.items()
             if (words := _words(table, verdict))]
    return f"**{name}** ({len(table)}): {'; '.join(parts)}."


def _said_information(study: Study, own: Mapping[str, pd.DataFrame]) -> str:
    rows = own["information"].set_index("kind")
    null = rows.loc[NULL]
    if not null["low"] > 0:
        return ("**Is that information?** None that can be told: the null part says nothing of the "
                f"pictures that the head's own directions do not say (R² {_text(null, '', 3)}).")
    text = (f"**Is that information?** Yes: the null part says something of the pictures that the "
            f"head's own directions do not (R² {_text(null, '', 3)})")
    if "excess over control" not in rows.index:
        return f"{text}."
    gap, control = rows.loc["excess over control"], rows.loc[CONTROL]
    return (f"{text}. A random view as narrow would miss {control['value']:.3f}; what this head "
            f"misses is {_beside(gap['low'], gap['high'])} that.")


def _said_sure(study: Study, own: Mapping[str, pd.DataFrame]) -> str:
    row, scores = own["head"].iloc[0], own["scores"].set_index(["quantity", "kind"])
    error, guess = (scores.loc[("translator_error", kind)] for kind in ("held out", "constant"))
    poor = error["high"] >= guess["low"]
    text = (f"**How sure.** {row['pictures']:,} pictures of {row['subjects']:,} subjects. The map "
            f"from features to words is off by {error['value']:.0f}° (always the same guess: "
            f"{guess['value']:.0f}°)")
    text += "; that is hardly better than a guess, so do not trust single words." if poor else "."
    if count := len(own["skipped"]):
        text += f" {_number(count, 'file')} could not be used; the page says which, and why."
    floor = own["floor"]
    again = floor[(floor["level"] == "picture") & (floor["over"] == REDEALT)
                  & (floor["quantity"] == "image_score") & (floor["kind"] == NULL)]
    if len(again):
        text += (f" Fitted on other pictures, it would give a picture the same Image Score to "
                 f"within ±{again['spread'].iloc[0]:.1f}°.")
    return text


def _said_where(study: Study, own: Mapping[str, pd.DataFrame]) -> str:
    classes, photos = own["classes"], own["photos"]
    beyond = classes.loc[classes["verdict"] == "more than chance", "label"].tolist()
    luck = 0.025 * classes["is_excess_low"].notna().sum()
    text = (f"**What to look at.** Of {len(classes):,} kinds of picture, "
            f"{len(beyond) or 'none'} turned further than random removals turn it")
    if beyond:
        text += f": {_listed(beyond, 5)}"
        text += f" (luck alone would give {luck:.1f})" if len(beyond) <= 3 * luck + 1 else ""
    text += "."
    if len(photos):
        one = photos.iloc[0]
        text += (f" The most affected picture shows {_plain(one['label'])} (IS "
                 f"{one['image_score']:.0f}°, at random {one['image_score_control']:.0f}°).")
    return text


def how_to_read(study: Study, model: str) -> str:
    """What the words and scores of a report mean, as Markdown."""
    clf, space = study.classifier(model), study.space_title(
        study.config.spaces[-1 if study.config.tower else 0])
    stand_in = (
        f"Here it is ConSE over {_plain(space)}, a stand-in for CLIP that needs no download: it "
        f"knows the classes of that network and speaks in their names." if study.config.tower
        else f"Here it is {_plain(space)}.")
    return "\n".join([
        f"- A **logit** is the number that {_plain(clf.title)} gives a class; the largest is its "
        f"answer.",
        "- The **null space** holds every change of a feature that changes no logit. It follows "
        "from the weights of the last layer alone. *Removing the null part* of a picture gives a "
        "feature with the same answers.",
        f"- The **joint space** puts pictures and words in one place, so that a feature can be "
        f"said in words. {stand_in} Angles of different joint spaces cannot be compared.",
        "- The **translator** is a linear map from features to that space. Its error is the angle "
        "between what it says and the picture's own place, for pictures that it was not fitted "
        "on; the error of a constant guess stands beside it.",
        "- **IS**, the Image Score, is the angle by which the translated picture turns when the "
        "null part goes: how much of its meaning lay there. **AS**, the Attribute Score, is how "
        "much nearer it comes to a word (+) or how much further from it (−).",
        "- The **control** removes a random part of the same size instead. A score says something "
        "of this head only where it differs from its control: removing many directions turns any "
        "picture. A *random view* reads as many directions as the head, but random ones.",
        "- The **hidden share** of a concept is what a reader of the whole feature can tell of it "
        "and a reader of the head's own directions cannot. *Ignores it*: surely more than "
        f"{THRESHOLD:.0%} of it is lost, and perhaps {THRESHOLD_HIGH:.0%} or more; *keeps it*: "
        f"surely less than {THRESHOLD_HIGH:.0%}; *cannot be told*: neither, or the feature does "
        "not tell it at all. Below zero, a reader of the head's few directions does better than "
        "one of the whole feature, as it may on what the head was fitted to. No translator is "
        "involved.",
        "- **Intervals** hold 95 %: other pictures of this kind would give another number in that "
        "range. Pictures that this folder does not have are not covered.",
    ])


def comparison(
    study: Study, model: str, beside: str, tables: Mapping[str, pd.DataFrame]
) -> str:
    """What a classifier ignores beside another one, as Markdown; empty without another one."""
    if not beside:
        return ""
    (_, one), (_, two) = tables["head"].iterrows()
    names, out = (_plain(one["title"]), _plain(two["title"])), []
    out.append(
        f"{names[0]} leaves {one['null_dim']:,} of {one['features']:,} directions unread, "
        f"{names[1]} {two['null_dim']:,} of {two['features']:,}; of a feature's squared length, "
        f"{_text(one, '%', at='null_share')} and {_text(two, '%', at='null_share')} lie there.")
    gap = tables["difference"].set_index(["quantity", "kind"])
    null, control = (gap.loc[("image_score", kind)] for kind in KINDS)
    out.append(
        f"Without the null part a picture turns {_text(null, sign='+')} further for {names[0]} "
        f"than for {names[1]}; without a random part of the same size, "
        f"{_text(control, sign='+')}. "
        + ("A larger null space alone would do as much." if control["value"] >= null["value"] > 0
           else ""))
    wide = _every(tables).pivot_table(
        ["verdict", "hidden", "hidden_low", "hidden_high", "hidden_control"], "prompt", "model",
        aggfunc="first", observed=True)
    both = wide[(wide["verdict"] != VERDICTS[2]).all(axis=1)]
    if both.empty:
        return "\n".join(f"- {text.strip()}" for text in [
            *out, "Nothing can be told of both, so that their verdicts are not compared."])
    lost, chance = (both[column].clip(lower=0).median() for column in ("hidden", "hidden_control"))
    out.append(
        f"Of what the features tell of what can be told for both ({len(both):,} factors and "
        f"concepts), {names[0]} loses {_percent(lost[model])} (median; a random view as narrow "
        f"{_percent(chance[model])}), {names[1]} {_percent(lost[beside])} "
        f"({_percent(chance[beside])}).")
    for this, that, first, second in ((model, beside, *names), (beside, model, *names[::-1])):
        apart = (both["hidden_low"][this] > both["hidden_high"][that]) & (
            both["hidden"][this] > LITTLE)
        only = (both["verdict"][this] == VERDICTS[0]) & (both["verdict"][that] == VERDICTS[1])
        order = (both["hidden"][that] - both["hidden"][this]).sort_values(kind="stable").index
        for rows, said in (
                (only, f"**Ignored by {first} and kept by {second}**:"),
                (apart & ~only, f"{first} also loses more than {second} (intervals apart, and more "
                                f"than {_percent(LITTLE)}) of")):
            if rows.any():
                out.append(f"{said} {_listed([word for word in order if rows[word]])}.")
    return "\n".join(f"- {text.strip()}" for text in out)


def _scores(table: pd.DataFrame, quantity: str) -> tuple[pd.Series, pd.Series, pd.Series]:
    """A score, its control and what it exceeds it by."""
    rows = table.set_index(["quantity", "kind"])
    return (rows.loc[(quantity, NULL)], rows.loc[(quantity, CONTROL)],
            rows.loc[(EXCESSES[quantity], NULL)])


def _beside(low: float, high: float) -> str:
    return "more than" if low > 0 else "less than" if high < 0 else "not to be told from"


def _plain(text: object) -> str:
    """A name from outside, of a folder say, as words in Markdown that mean nothing else."""
    text = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]$|~])", r"\\\1", text)


def _words(table: pd.DataFrame, verdict: str) -> list[str]:
    return table.loc[table["verdict"] == verdict, "prompt"].tolist()


def _listed(words: Sequence[str], most: int = 6) -> str:
    rest = len(words) - most
    return ", ".join(map(_plain, words[:most])) + (f" and {rest:,} more" if rest > 0 else "")


def _percent(share: float) -> str:
    """With a decimal where a whole number would read as none or as all."""
    return f"{100 * share:.{_share_digits(share)}f} %".replace("-", "\N{MINUS SIGN}")


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _small(value: float) -> str:
    """A logit with one or two digits: ``0.3``, or near zero ``4e-06``."""
    return f"{value:.2g}" if value >= 1e-3 or value == 0 else f"{value:.0e}"


def _share_digits(*shares: float) -> int:
    return int(any(0 < share < 0.02 or 0.98 < share < 1 for share in shares))


def share(row: Mapping[str, float], name: str) -> str:
    """A share of a row of ``head``, with its interval, as text: ``94 % (93 to 95)``."""
    return _text(row, "%", at=name)


def _text(
    row: Mapping[str, float], unit: str = "°", digits: int = 1, *, at: str = "", sign: str = ""
) -> str:
    """An estimate with its interval, ``9.2° (8.7 to 9.9)``; shares in ``%``."""
    value, low, high = (row[key] for key in (
        (at, f"{at}_low", f"{at}_high") if at else ("value", "low", "high")))
    if not np.isfinite(value):
        return "not measured"
    scale, digits = (100, _share_digits(value)) if unit == "%" else (1, digits)
    # Rounded first, and 0 added: there is no minus nought. A minus sign is no hyphen.
    said, *ends = (f"{round(scale * one, digits) + 0.0:{sign}.{digits}f}".replace(
        "-", "\N{MINUS SIGN}") for one in (value, low, high))
    text = f"{said}{' %' if unit == '%' else unit}"
    finite = np.isfinite(low) and np.isfinite(high)
    return f"{text} ({ends[0]} to {ends[1]})" if finite else f"{text} (no interval)"


# --- tables for people --------------------------------------------------------------------------


def in_markdown(sheet: pd.DataFrame) -> str:
    """A table for people in Markdown; what stands in its cells means nothing else there."""
    rows = [[sheet.index.name or "", *sheet.columns], [":--"] * (1 + len(sheet.columns))]
    rows += [[name, *row] for name, row in zip(sheet.index, sheet.to_numpy())]
    return "\n".join(
        f"| {' | '.join(one if at == 1 else _plain(one) for one in map(str, row))} |"
        for at, row in enumerate(rows))


def head_sheet(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The found head in words: one column per classifier."""
    columns = {}
    for _, row in tables["head"].iterrows():
        accuracy = _text(row, "%", at="accuracy")
        columns[row["title"]] = {
            "classes × features": f"{row['classes']:,} × {row['features']:,}, {row['dtype']}, "
            + ("with a bias" if row["bias"] else "no bias"),
            "rank": f"{row['rank']:,}",
            "null space": f"{row['null_dim']:,} directions",
            "singular values": f"{row['largest']:.3g} to {row['smallest']:.3g}",
            "share of the features' squared length there": _text(row, "%", at="null_share"),
            "… of a random subspace of that size": _percent(row["null_share_control"]),
            "largest logit change without the null part": _small(row["logit_change"]),
            "… without a random part of that size (median)": _small(row["logit_change_control"]),
            "named right": f"{accuracy} of {row['named']:,} pictures; by chance "
            f"{_percent(row['chance'])}" if row["named"]
            else "not known: no label is the name of a class",
        }
    return pd.DataFrame(columns)


def concept_sheet(tables: Mapping[str, pd.DataFrame], name: str = "concepts") -> pd.DataFrame:
    """What was asked (``concepts`` or ``asked``), with the answer and its reason."""
    table = tables[name]
    if table.empty:
        return pd.DataFrame(columns=["verdict", "hidden share", "at random", "why"])
    sheet = pd.DataFrame({
        "classifier": table["title"], "asked": table["prompt"], "verdict": table["verdict"],
        "hidden share": [_text(row, "%", at="hidden") for _, row in table.iterrows()],
        "at random": table["hidden_control"].map(
            lambda share: _percent(share) if np.isfinite(share) else "–"),
        "why": table["why"],
    })
    sheet = sheet.set_index("asked")
    return sheet if len(set(table["model"])) > 1 else sheet.drop(columns="classifier")


def photo_sheet(study: Study, tables: Mapping[str, pd.DataFrame], side: int = 96) -> str:
    """The most affected pictures with small copies of them, as an HTML table."""
    table = study.with_thumbnails(tables["photos"], side)
    image = [f'<img src="{source}" alt="{html.escape(name)}" width="{side}">'
             for source, name in table[["image", "name"]].itertuples(index=False)]
    about = [
        f"{html.escape(row.label)}; the classifier says {html.escape(row.predicted)} "
        f"({_percent(row.probability)}). IS {row.image_score:.0f}°, at random "
        f"{row.image_score_control:.0f}°; the translator is off by {row.translator_error:.0f}°."
        for row in table.itertuples()]
    words = {f"words {name}": table[name].map(html.escape).str.replace("; ", "<br>").replace(
        "", "–") for name in ("lost", "gained")}
    sheet = pd.DataFrame({"picture": image, "shows": about} | words)
    with pd.option_context("display.max_colwidth", None):
        return sheet.to_html(classes="sentences", border=0, index=False, escape=False)
