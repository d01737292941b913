"""What this run says of the paper's claims: decided in a chapter, gathered by the last pages."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..errors import SingError
from ..pictures.fetch import write_atomic
from .figures import page_folder

if TYPE_CHECKING:
    from IPython.display import Markdown

    from ..study.study import Study

__all__ = ["VERDICTS", "box", "found", "read_found", "span"]

#: What a rule may say -> the verdict's words and mark.
VERDICTS = {
    True: ("holds here", "✓"),
    False: ("does not hold here", "≠"),
    None: ("cannot be told here", "?")}
FILE = "found.json"


def found(
    item: str, here: str, *, holds: bool | None, paper: str, rule: str, claim: bool = False
) -> Markdown:
    """Say what this run found about one item of the paper, and keep it for the last pages.

    Parameters
    ----------
    item : str
        What the paper calls it: ``figure 12a``, or ``section 3.5, rich invariances``. Once a book.
    here : str
        What this run says, in Markdown, with its numbers and intervals.
    holds : bool or None
        Whether the rule is met; None where this run cannot tell.
    paper, rule : str
        What the paper says, in our words; when it holds, when it does not.
    claim : bool
        Whether the introduction lists it among the paper's claims.

    Examples
    --------
    >>> said = sing.found(
    ...     "figure 3", "The difference is 0.6 (0.3 to 0.9).", holds=True,
    ...     paper="The first classifier leaks less.", rule="The interval lies above zero.")
    >>> print(said.data.splitlines()[0])
    > **✓ Figure 3: holds here.** The difference is 0.6 (0.3 to 0.9).
    """
    from IPython.display import Markdown

    holds = None if holds is None else bool(holds)
    verdict, mark = VERDICTS[holds]
    row = {"item": item, "paper": paper, "here": here, "rule": rule, "verdict": verdict,
           "claim": bool(claim)}
    if (folder := page_folder()) is not None:
        path = folder / FILE
        rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        if any(one["item"] == item for one in rows):
            raise SingError(f"{item!r} was found already in this chapter; one item, one verdict.")
        write_atomic(path, json.dumps([*rows, row], indent=1, ensure_ascii=False))
    return Markdown(
        f"> **{mark} {item[0].upper()}{item[1:]}: {verdict}.** {here}\n>\n"
        f"> *The paper:* {paper} *The rule:* {rule}")


def read_found(study: Study) -> pd.DataFrame:
    """All that the chapters of the last ``make book`` found, in the book's order.

    Returns
    -------
    pandas.DataFrame
        One row per item: ``item``, ``paper``, ``here``, ``rule``, ``verdict``, ``claim``,
        ``chapter`` (the notebook's name without its ending) and ``mark``.

    Examples
    --------
    >>> study = sing.Study("smoke")
    >>> sing.read_found(study)[["item", "verdict"]]  # doctest: +SKIP
                item                verdict
    0     equation 1             holds here
    """
    rows = []
    for path in sorted(Path(study.folder, "figures").glob(f"[0-9]*/{FILE}")):
        try:
            part = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SingError(f"{path} is damaged ({error}). Run the chapter again: "
                            f"sing chapter --chapter {path.parent.name}") from error
        rows += [{**row, "chapter": path.parent.name} for row in part]
    if not rows:
        raise SingError(
            f"Nothing was found yet for the profile {study.config.name!r}: this page gathers what "
            f"the chapters say. Run them first: make book PROFILE={study.config.name}")
    table = pd.DataFrame(rows)
    twice = table[table["item"].duplicated(keep=False)]
    if len(twice):
        judged = (twice["item"] + " (" + twice["chapter"] + ")").tolist()
        raise SingError(f"One item, one verdict; judged twice: {', '.join(judged)}")
    return table.assign(mark=table["verdict"].map(dict(VERDICTS.values())))


def box(question: str, number: str, control: str, verdict: str) -> Markdown:
    """The box at the head of a chapter: its question, number, control and verdict, as a table.

    Examples
    --------
    >>> rows = sing.box("How far?", "9.2°", "9.0° at random", "Not told apart.").data
    >>> print(rows.splitlines()[3])
    | **The number** | 9.2° |
    """
    from IPython.display import Markdown

    lines = ["| | |", "| :-- | :-- |"]
    for name, text in (("The question", question), ("The number", number),
                       ("Its control", control), ("What we say", verdict)):
        said = re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))  # the bars of |AS|
        lines.append(f"| **{name}** | {said} |")
    return Markdown("\n".join(lines))


def span(row: Mapping[str, float], unit: str = "°", digits: int = 1) -> str:
    """An estimate (``value``, ``low``, ``high``) as text with its 95 % interval.

    Examples
    --------
    >>> sing.span({"value": 9.24, "low": 8.71, "high": 9.86})
    '9.2° (8.7 to 9.9)'
    """
    if not math.isfinite(row["value"]):
        return "not measured"
    numbers = [f"{row[key]:.{digits}f}" for key in ("value", "low", "high")]
    value, low, high = (number.replace("-", "\N{MINUS SIGN}") for number in numbers)
    if not (math.isfinite(row["low"]) and math.isfinite(row["high"])):
        return f"{value}{unit} (no interval)"
    return f"{value}{unit} ({low} to {high})"
