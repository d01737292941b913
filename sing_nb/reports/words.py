"""The first screen of a report: sentences that follow from its tables by stated rules."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

import pandas as pd

from ..book.findings import span
from ..checks.reliability import REDEALT
from ..pictures.images import BACKGROUNDS
from ..study.study import Study
from ..study.tables import KINDS
from .readout import VERDICTS

__all__ = ["factor_name", "first_screen", "in_markdown", "listed", "percent", "plain", "share",
           "short", "small"]

NULL, CONTROL = KINDS
# What a known factor is called for people, by the beginning of its name.
FACTORS = {
    "pixels: ": "{}", "view: ": "{}", "group: all ": "pictures of {}", "group: ": "pictures of {}",
    **{f"background: {kind}": f"{kind} background" for kind in BACKGROUNDS},
    "background: ": "{} of the background"}


def plain(text: object) -> str:
    """A name from outside, of a folder say, as words in Markdown that mean nothing else."""
    text = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]$|~#])", r"\\\1", text)


def short(words: str, most: int = 60) -> str:
    """Words cut where they are many."""
    return words if len(words) <= most else f"{words[:most - 1]}…"


def listed(words: Sequence[str], most: int | None = None) -> str:
    """Words in a row; of many, how many more there are."""
    most = len(words) if most is None else most
    rest = len(words) - most
    return ", ".join(map(plain, words[:most])) + (f" and {rest:,} more" if rest > 0 else "")


def percent(share: float) -> str:
    """A share as text, with a decimal where a whole number would read as none or as all."""
    text = f"{100 * share + 0.0:.{_digits(share)}f} %"
    return text.replace("-0 %", "0 %").replace("-", "\N{MINUS SIGN}")


def share(row: Mapping[str, float], name: str) -> str:
    """A share of a row with its interval, as text: ``94 % (93 to 95)``."""
    ends = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
    return span({key: 100 * row[end] for key, end in ends.items()}, " %", _digits(row[name]))


def _digits(share: float) -> int:
    return int(0 < share < 0.02 or 0.98 < share < 1)


def small(value: float) -> str:
    """A logit with one or two digits: ``0.3``, or near zero ``4e-06``."""
    return f"{value:.2g}" if value >= 1e-3 or value == 0 else f"{value:.0e}"


def in_markdown(sheet: pd.DataFrame) -> str:
    """A table for people in Markdown; what stands in its cells means nothing else there."""
    told = sheet.map(plain).rename(index=plain, columns=plain)
    return told.to_markdown(disable_numparse=True)


def factor_name(name: str) -> str:
    """A known factor's name for people: "pixels: lightness" is "lightness"."""
    for kind, said in FACTORS.items():
        if name.startswith(kind):
            return said.format(name.removeprefix(kind))
    return name


def first_screen(study: Study, model: str, tables: Mapping[str, pd.DataFrame]) -> str:
    """What a classifier ignores, how sure that is, and what to look at, as Markdown."""
    own = {name: table[table["model"] == model] if "model" in table else table
           for name, table in tables.items()}
    own["factors"] = own["factors"].assign(prompt=own["factors"]["prompt"].map(factor_name))
    error, guess = (_row(own["scores"], "translator_error", kind)
                    for kind in ("held out", "constant"))
    useful = error["high"] < guess["low"]
    off = (f"The map from features to words is off by {error['value']:.0f}° (always the same "
           f"guess: {guess['value']:.0f}°)")
    lines = [f"**{_headline(own)}**", ""]
    if not useful:
        lines.append(f"- **First.** {off}: hardly better than a guess. So no Image or Attribute "
                     f"Score of these pictures means anything, and none is told here.")
    lines += [_head(own), *([_scores(own)] if useful else [])]
    asked = {"factors": "The pictures themselves", "concepts": "Concepts in words",
             "asked": "Your questions"}
    lines += [_counted(name, own[table]) for table, name in asked.items() if len(own[table])]
    if useful:
        lines += [_information(own["information"].set_index("kind")), _sure(own, f" {off}."),
                  _where(own)]
    else:
        lines.append(_sure(own, ""))
    return "\n".join(lines)


def _row(table: pd.DataFrame, quantity: str, kind: str) -> pd.Series:
    return table.set_index(["quantity", "kind"]).loc[(quantity, kind)]


def _beside(low: float, high: float) -> str:
    return "more than" if low > 0 else "less than" if high < 0 else "not to be told from"


def _headline(own: Mapping[str, pd.DataFrame]) -> str:
    title = plain(own["head"]["title"].iloc[0])
    every = pd.concat([own["factors"], own["concepts"]], ignore_index=True)
    every = every.sort_values("full", ascending=False, kind="stable")  # the plainest first
    told = every[every["verdict"] != VERDICTS[2]]
    ignored = told[told["verdict"] == VERDICTS[0]]
    if len(ignored):
        alone = ignored["hidden_low"] > ignored["hidden_control_high"]
        single = ignored.loc[alone, "prompt"].tolist()
        many = f"Of {len(told)} factors and concepts that can be told it ignores {len(ignored)}."
        if single:
            each = "each" if len(single) > 1 else "it"
            return (f"{title} ignores {listed(single, 5)}: more of {each} is lost than a random "
                    f"view as narrow would lose. {many}")
        return (f"{title} ignores {listed(ignored['prompt'].tolist(), 5)}, but a random view as "
                f"narrow may lose as much. {many}")
    if told.empty:
        return (f"It cannot be told here what {title} ignores: no question about it has an answer "
                f"with these pictures.")
    none = (f"{title} ignores none of the {len(told)} things that can be told" if len(told) > 1
            else f"{title} does not ignore the one thing that can be told")
    lost, random = (told[column].clip(lower=0).median() for column in ("hidden", "hidden_control"))
    return (f"{none}: of what the features tell of them {percent(lost)} is lost (median), where "
            f"a random view as narrow would lose {percent(random)}.")


def _head(own: Mapping[str, pd.DataFrame]) -> str:
    row = own["head"].iloc[0]
    even = row["null_share_control"]
    much = _beside(row["null_share_low"] - even, row["null_share_high"] - even)
    directions = f"{row['rank']:,} direction{'' if row['rank'] == 1 else 's'}"
    return (
        f"- **What it cannot see.** Its last layer turns {row['features']:,} numbers about a "
        f"picture into {row['classes']:,} classes, along {directions}. The other "
        f"{row['null_dim']:,} ({percent(row['null_dim'] / row['features'])}) are its null space: "
        f"what lies there changes no answer (largest change of a logit "
        f"{small(row['logit_change'])}; when a random part of the same size goes, "
        f"{small(row['logit_change_control'])}). {share(row, 'null_share')} of a feature's "
        f"squared length lies there, {much} the {percent(even)} of a random subspace of that "
        f"size.")


def _scores(own: Mapping[str, pd.DataFrame]) -> str:
    null, control = (_row(own["scores"], "image_score", kind) for kind in KINDS)
    gap = _row(own["scores"], "image_score_excess", NULL)
    return (f"- **How much meaning goes with it.** Without its null part a picture's meaning is "
            f"turned by {span(null)} (median), {_beside(gap['low'], gap['high'])} the "
            f"{control['value']:.1f}° of a random part of the same size (difference "
            f"{span(gap)}).")


def _counted(name: str, table: pd.DataFrame) -> str:
    verbs = dict(zip(VERDICTS, ("it ignores", "it keeps", "it cannot be told of")))
    parts = [f"{verb} {listed(words, 6)}" for verdict, verb in verbs.items()
             if (words := table.loc[table["verdict"] == verdict, "prompt"].tolist())]
    return f"- **{name}** ({len(table)}): {'; '.join(parts)}."


def _information(rows: pd.DataFrame) -> str:
    null = rows.loc[NULL]
    if not null["low"] > 0:
        return ("- **Is that information?** None that can be told: the null part says nothing of "
                "the pictures that the head's own directions do not say (R² "
                f"{span(null, '', 3)}).")
    text = ("- **Is that information?** Yes: the null part says something of the pictures that the "
            f"head's own directions do not (R² {span(null, '', 3)}).")
    if "excess over control" not in rows.index:
        return text
    gap, control = rows.loc["excess over control"], rows.loc[CONTROL]
    return (f"{text} A random view as narrow would miss {control['value']:.3f}; what this head "
            f"misses is {_beside(gap['low'], gap['high'])} that.")


def _sure(own: Mapping[str, pd.DataFrame], off: str) -> str:
    row, floor = own["head"].iloc[0], own["floor"]
    text = f"- **How sure.** {row['pictures']:,} pictures of {row['subjects']:,} subjects.{off}"
    if count := len(own["skipped"]):
        text += (f" {count:,} file{'' if count == 1 else 's'} could not be used; the page says "
                 f"which, and why.")
    again = floor[(floor["over"] == REDEALT) & (floor["kind"] == NULL)]
    if len(again) and off:
        text += (f" Fitted on other pictures, it would give a picture the same Image Score to "
                 f"within ±{again['spread'].iloc[0]:.1f}°.")
    return text


def _where(own: Mapping[str, pd.DataFrame]) -> str:
    classes, photos = own["classes"], own["photos"]
    beyond = classes.loc[classes["verdict"] == "more than chance", "label"].tolist()
    luck = 0.025 * classes["is_excess_low"].notna().sum()
    text = (f"- **What to look at.** Of {len(classes):,} kinds of picture, "
            f"{len(beyond) or 'none'} turned further than random removals turn it")
    if beyond:
        text += f": {listed(beyond, 5)}"
        text += f" (luck alone would give {luck:.1f})" if len(beyond) <= 3 * luck + 1 else ""
    text += "."
    if len(photos):
        one = photos.iloc[0]
        text += (f" The most affected picture shows {plain(one['label'])} (IS "
                 f"{one['image_score']:.0f}°, at random {one['image_score_control']:.0f}°).")
    return text
