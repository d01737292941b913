"""The table of claims in the introduction: a claim of the paper, the test here, what came of it.

``data/claims.yaml`` holds the words and the rules, the chapters compute the verdicts
(``gallery.judge``), and this room writes the table by the means of the paper map.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import SingError
from .fetch import write_atomic
from .paper import LINK, badge, checked, fill, link, read_rows, require, told

__all__ = [
    "TABLE", "VERDICTS", "Claim", "claims_table", "fill_claims", "read_claims", "write_claims",
]

#: File that the introduction includes. No page of its own, and so not Markdown by its name.
TABLE = "claims.txt"
#: What a claim may turn out to be -> its mark, its class on the page, what it means.
VERDICTS = {
    "holds": ("✓", "sing-holds", "by the rule, with these classifiers and pictures."),
    "does not hold": (
        "≠", "sing-differs",
        "the rule says the opposite here. The classifiers, the pictures and the joint space are "
        "not the paper's, so this refutes nothing there.",
    ),
    "cannot be told here": (
        "?", "sing-not-run", "the interval holds both answers, or the run has no means to ask."),
}


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and what this book makes of it.

    Attributes
    ----------
    id : str
        A short name, as ``excess``.
    claim : str
        In our words, in Markdown.
    paper : str
        Where the paper makes it.
    where : list of str
        Where it is tested, each as ``text <target>``, as in the paper map.
    here : str
        What this run says; ``{{ key }}`` stands for a text that a chapter tells.
    rule : str
        When the claim holds, when it does not, and when it cannot be told.
    verdict : str
        Key of the text that says which; it begins with ``claim_``.
    """

    id: str
    claim: str
    paper: str
    where: list[str]
    here: str
    rule: str
    verdict: str


def read_claims(path: str | os.PathLike[str]) -> list[Claim]:
    """Read the claims and check them.

    Parameters
    ----------
    path : path
        A list of mappings with the names of :class:`Claim`.

    Returns
    -------
    list of Claim

    Raises
    ------
    SingError
        As :func:`sing_nb.paper.read_rows`, or for a verdict that is not the claim's own.
    """
    return read_rows(path, _claim)


def _claim(entry: object) -> Claim:
    found = Claim(**checked(entry, Claim))
    if found.verdict != f"claim_{found.id}":
        raise SingError(f"the verdict reads claim_{found.id}, as its id; got {found.verdict}.")
    return found


def fill_claims(claims: Iterable[Claim], numbers: Mapping[str, str]) -> list[dict[str, object]]:
    """Put the numbers of a run into the claims.

    Parameters
    ----------
    claims : iterable of Claim
    numbers : mapping
        What the chapters told, as text.

    Returns
    -------
    list of dict
        id, claim, paper, where (mappings with ``text`` and ``target``), here, rule, verdict (one
        of :data:`VERDICTS`); Markdown, in which the numbers are escaped.

    Raises
    ------
    SingError
        For keys that no chapter told, each with its claim, or a verdict that is none.
    """
    claims = list(claims)
    asked = {c.id: [c.claim, c.here, c.rule, f"{{{{ {c.verdict} }}}}"] for c in claims}
    require(asked, numbers, "The table of claims (data/claims.yaml)")
    filled = []
    for claim in claims:
        verdict = numbers[claim.verdict]
        if verdict not in VERDICTS:
            raise SingError(
                f"Claim {claim.id}: {claim.verdict} must be one of {', '.join(VERDICTS)}; got "
                f"{verdict!r}. Let the chapter tell gallery.judge(...)."
            )
        texts = {name: fill(getattr(claim, name), numbers) for name in ("claim", "here", "rule")}
        filled.append({
            "id": claim.id, **texts, "paper": claim.paper, "verdict": verdict,
            "where": [LINK.fullmatch(one).groupdict() for one in claim.where],
        })
    return filled


def claims_table(claims: Iterable[Mapping[str, object]]) -> str:
    """Write the table of claims and, folded below it, their rules.

    Parameters
    ----------
    claims : iterable of mapping
        As :func:`fill_claims` gives them.

    Returns
    -------
    str
        MyST Markdown to be included.
    """
    claims = list(claims)
    rows = [["The paper says", "This run", "Verdict"]]
    for one in claims:
        links = ", ".join(link(**target) for target in one["where"])
        rows.append([
            f"{one['claim']} ({one['paper']})", f"{one['here']} ({links})",
            badge(one["verdict"], VERDICTS),
        ])
    table = "\n".join(
        f"{'  -' if at else '* -'} {cell}".replace("\n", "\n    ")
        for row in rows for at, cell in enumerate(row)
    )
    rules = "\n".join(f"- *{one['claim']}* {one['rule']}" for one in claims)
    meanings = "\n".join(
        f"- **{sum(one['verdict'] == name for one in claims)} {mark} {name}**: {meaning}"
        for name, (mark, _, meaning) in VERDICTS.items()
    )
    return "\n\n".join([
        f"````{{list-table}}\n:header-rows: 1\n:class: sing-claims\n:widths: 34 48 18\n\n"
        f"{table}\n````",
        meanings, f"````{{admonition}} The rules\n:class: dropdown\n\n{rules}\n````",
    ]) + "\n"


def write_claims(
    source: str | os.PathLike[str], figures: str | os.PathLike[str], folder: str | os.PathLike[str]
) -> Path:
    """Write the table for the introduction, and ``claims.json`` beside the figures.

    Parameters
    ----------
    source : path
        ``data/claims.yaml``.
    figures : path
        Where the chapters' ``numbers.json`` is.
    folder : path
        Where the book's pages are laid out.

    Returns
    -------
    pathlib.Path
        The file to include.

    Raises
    ------
    SingError
        From :func:`read_claims` and :func:`fill_claims`.
    """
    claims = fill_claims(read_claims(source), told(figures))
    write_atomic(
        Path(figures, "claims.json"), json.dumps(claims, indent=1, ensure_ascii=False) + "\n")
    page = Path(folder, TABLE)
    page.write_text(claims_table(claims), encoding="utf-8")
    return page
