"""The paper map: one row for each numbered equation, figure and table, beside what this run says.

``data/paper.yaml`` holds the words, the chapters tell the numbers and the verdicts, and this room
makes the page. It is light, since the page is made wherever the book is rendered.
"""

from __future__ import annotations

import dataclasses
import difflib
import html
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from .errors import SingError
from .fetch import write_atomic
from .profile import unknown

__all__ = [
    "PAGE", "VERDICTS", "Row", "badge", "block", "checked", "fill", "fill_rows", "link",
    "paper_page", "read_rows", "require", "told", "write_paper_map",
]

#: The page's name in the table of contents.
PAGE = "paper_map"
#: What a row may say -> its mark, its class on the page, what it means.
VERDICTS = {
    "holds here": (
        "✓", "sing-holds",
        "An equation was checked numerically in this run; or a result of the paper was found "
        "again, by the rule that its row states.",
    ),
    "differs here": (
        "≠", "sing-differs",
        "The same rule answers no: another result, or an interval too wide to say. The "
        "classifiers, the pictures and the joint space are not the paper's, so this refutes "
        "nothing there.",
    ),
    "not run here": ("–", "sing-not-run", "The row says why."),
}
KINDS = {"eq": ("Equation", "Equations"), "fig": ("Figure", "Figures"), "tab": ("Table", "Tables")}
ID = re.compile(r"(eq|fig|tab)(\d+)([a-z]?)")
KEY = re.compile(r"\{\{\s*(\w+)\s*\}\}")
LINK = re.compile(r"(?P<text>[^<>`]+?) <(?P<target>[\w-]+)>")


@dataclass(frozen=True)
class Row:
    """One numbered item of the paper.

    Attributes
    ----------
    id : str
        ``eq3``, ``fig12a``, ``tab1``.
    title : str
        What it is about, in a few words.
    where : list of str
        Where it is in the book, each as ``text <target>``: the name of a figure (``fig-...``), an
        anchor (``sec-...``, ``tab-...``) or a page.
    says : str
        What the paper reports, in Markdown.
    here : str
        What this run says, in Markdown; ``{{ key }}`` stands for a text that a chapter tells.
    rule : str
        When the row holds here.
    verdict : str
        Key of the text that says whether it does; empty if it was not run.
    not_run : str
        Why it was not run here; empty if it was.
    """

    id: str
    title: str
    where: list[str]
    says: str
    here: str
    rule: str = ""
    verdict: str = ""
    not_run: str = ""

    @property
    def kind(self) -> str:
        """``eq``, ``fig`` or ``tab``."""
        return ID.fullmatch(self.id)[1]

    @property
    def label(self) -> str:
        """What the paper calls it: ``Equation (3)``, ``Figure 12a``."""
        kind, number, part = ID.fullmatch(self.id).groups()
        number = f"({number})" if kind == "eq" else f"{number}{part}"
        return f"{KINDS[kind][0]} {number}"


def read_rows(
    path: str | os.PathLike[str], make: Callable[[object], Row] | None = None
) -> list[Row]:
    """Read the rows of the paper map and check them.

    Parameters
    ----------
    path : path
        A list of mappings with the names of :class:`Row`.
    make : callable, optional
        Makes rows of another kind, each with an ``id``.

    Returns
    -------
    list of Row

    Raises
    ------
    SingError
        For an unknown or missing name, an id that is none or comes twice, a row without a link, or
        one with both or neither of `verdict` and `not_run`; it says which row.
    """
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, list):
        raise SingError(f"{path} must be a list of rows; got {type(content).__name__}.")
    rows: list[Row] = []
    for number, entry in enumerate(content, start=1):
        name = entry.get("id") if isinstance(entry, dict) else None
        try:
            rows.append((make or _row)(entry))
        except SingError as error:
            raise SingError(f"{path}, row {number} ({name or 'without an id'}): {error}") from None
        if [row.id for row in rows].count(name) > 1:
            raise SingError(f"{path}, row {number}: {name} is there already; give one row to each.")
    return rows


def checked(entry: object, kind: type) -> dict[str, object]:
    """An entry of a file with the names of a dataclass: texts, but ``where``, a list of links.

    Parameters
    ----------
    entry : object
        What the file has.
    kind : type
        A dataclass; a field without a default is needed.

    Returns
    -------
    dict
        The entry, line breaks folded.

    Raises
    ------
    SingError
        For an unknown or missing name, an empty text, or a link that is none.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(entry, dict):
        raise SingError(f"expected a mapping with {', '.join(known)}; got {entry!r}.")
    for key, value in entry.items():
        if key not in known:
            raise unknown("key", key, known)
        wanted = list if key == "where" else str
        if not isinstance(value, wanted) or not value:
            raise SingError(f"{key} must be a {wanted.__name__}, not empty; got {value!r}.")
    needed = {name for name, field in known.items() if field.default is dataclasses.MISSING}
    if missing := sorted(needed - entry.keys()):
        raise SingError(f"{', '.join(missing)} is missing.")
    for one in entry["where"]:
        if not LINK.fullmatch(str(one)):
            raise SingError(f"where reads `text <target>`, as `every head <fig-x>`; got {one!r}.")
    return {k: v if k == "where" else " ".join(v.split()) for k, v in entry.items()}


def _row(entry: object) -> Row:
    found = checked(entry, Row)
    if not ID.fullmatch(found["id"]):
        raise SingError("an id reads eq3, fig12a or tab1.")
    if ("verdict" in found) == ("not_run" in found):
        raise SingError("give either verdict, a key that a chapter tells, or not_run, a reason.")
    if ("verdict" in found) != ("rule" in found):
        raise SingError("a verdict needs its rule, and a row that was not run has none.")
    return Row(**found)


def told(figures: str | os.PathLike[str]) -> dict[str, str]:
    """What the chapters told: ``numbers.json`` beside the figures; nothing before they ran."""
    path = Path(figures, "numbers.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def require(
    asked: Mapping[str, Iterable[str]], numbers: Mapping[str, str], what: str
) -> None:
    """Make sure that chapters told every text that a page asks for.

    Parameters
    ----------
    asked : mapping
        Row -> its texts, whose ``{{ key }}`` count.
    numbers : mapping
        What the chapters told.
    what : str
        The page and its file, for the error.

    Raises
    ------
    SingError
        With each missing key and its row.
    """
    absent = [
        f"{name}: {key}" + "".join(
            f" (did you mean {near}?)" for near in difflib.get_close_matches(key, numbers, 1, 0.85)
        )
        for name, texts in asked.items() for key in KEY.findall(" ".join(texts))
        if key not in numbers
    ]
    if absent:
        raise SingError(
            f"{what} asks for numbers that no chapter told. Run 'make "
            "book', which runs the chapters; if they ran, either the chapter that the row links "
            "to lacks book.tell(key=...), or the row has a wrong key.\n  " + "\n  ".join(absent)
        )


def fill(text: str, numbers: Mapping[str, str]) -> str:
    """A text with the run's numbers in place of ``{{ key }}``, escaped for Markdown."""
    return KEY.sub(lambda match: _escape(numbers[match[1]]), text)


def fill_rows(rows: Iterable[Row], numbers: Mapping[str, str]) -> list[dict[str, object]]:
    """Put the numbers of a run into the rows.

    Parameters
    ----------
    rows : iterable of Row
    numbers : mapping
        What the chapters told, as text.

    Returns
    -------
    list of dict
        For each row ``id``, ``kind``, ``label``, ``title``, ``where`` (mappings with ``text`` and
        ``target``), ``says``, ``rule``, ``here``, ``verdict`` (one of :data:`VERDICTS`) and
        ``reason``; Markdown, in which the numbers are escaped.

    Raises
    ------
    SingError
        For keys that no chapter told, each with its row, or a verdict that is none.
    """
    rows = list(rows)
    asked = {
        row.id: [row.says, row.here, row.rule, f"{{{{ {row.verdict} }}}}" if row.verdict else ""]
        for row in rows
    }
    require(asked, numbers, "The paper map (data/paper.yaml)")
    filled = []
    for row in rows:
        verdict = numbers[row.verdict] if row.verdict else "not run here"
        if verdict not in VERDICTS or (row.verdict and verdict == "not run here"):
            raise SingError(
                f"Row {row.id} of the paper map: {row.verdict} must be 'holds here' or 'differs "
                f"here'; got {verdict!r}. Let the chapter tell gallery.verdict(...)."
            )
        says, here, rule = (fill(text, numbers) for text in (row.says, row.here, row.rule))
        filled.append({
            "id": row.id, "kind": row.kind, "label": row.label, "title": row.title,
            "where": [LINK.fullmatch(link).groupdict() for link in row.where],
            "says": says, "rule": rule, "here": here, "verdict": verdict,
            "reason": row.not_run,
        })
    return filled


def _escape(text: str) -> str:
    """Text that Markdown leaves alone: a word of the run must not become a link or a formula."""
    return re.sub(r"([\\`*_{}\[\]$|#~])", r"\\\1", html.escape(text, quote=False))


def paper_page(rows: Iterable[Mapping[str, object]]) -> str:
    """Write the page of the paper map.

    Parameters
    ----------
    rows : iterable of mapping
        Rows as :func:`fill_rows` gives them.

    Returns
    -------
    str
        A MyST page; the row ``fig3`` has the anchor ``map-fig3``.
    """
    rows = list(rows)
    counts = Counter(row["verdict"] for row in rows)
    page = [
        "# The paper, row by row",
        "Every numbered equation, figure and table of *Make it SING* {cite:p}`yadid2026sing`: "
        "where it is in this book, what the paper reports, what this run gives, and whether the "
        "two agree. This page is made by code from the numbers that the chapters wrote down.",
        block("sing-legend", *(
            f"{badge(text)}\n\n**{counts[text]} of {len(rows)} rows.** {meaning}"
            for text, (_, _, meaning) in VERDICTS.items()
        )),
    ]
    for kind, (_, plural) in KINDS.items():
        own = [row for row in rows if row["kind"] == kind]
        chips = " ".join(
            f"{{ref}}`{VERDICTS[row['verdict']][0]} {row['id'].removeprefix(kind)} "
            f"<map-{row['id']}>`"
            for row in own
        )
        page += [f"## {plural}", block("sing-chips", chips), *map(_card, own)]
    return "\n\n".join(page) + "\n"


def block(classes: str, *parts: str) -> str:
    """Paragraphs of a page in a box with CSS classes."""
    body = "\n\n".join(parts)
    # A block is fenced by more colons than any block in it.
    fence = ":" * (1 + max([2, *map(len, re.findall(r"^:{3,}", body, re.MULTILINE))]))
    return f"{fence}{{container}} {classes}\n{body}\n{fence}"


def badge(verdict: str, verdicts: Mapping[str, tuple[str, str, str]] = VERDICTS) -> str:
    """A verdict with its mark, in its colour."""
    mark, own, _ = verdicts[verdict]
    return block(f"sing-verdict {own}", f"{mark} {verdict}")


def _card(row: Mapping[str, object]) -> str:
    lines = [("The paper", row["says"]), ("This run", row["here"])]
    lines += [("Holds if", row["rule"])] if row["rule"] else [("Not run", row["reason"])]
    lines += [("In the book", ", ".join(link(**one) for one in row["where"]))]
    definitions = "\n\n".join(f"{term}\n: {text}" for term, text in lines)
    return (
        f"(map-{row['id']})=\n### {row['label']}: {row['title']}\n\n"
        + block(f"sing-row {VERDICTS[row['verdict']][1]}", badge(row["verdict"]), definitions)
    )


def link(text: str, target: str) -> str:
    """A reference to a figure (``fig-...``), an anchor or a page, with its text."""
    if target.startswith("fig-"):
        return f"{{numref}}`Fig. %s, {text} <{target}>`"
    role = "ref" if target.startswith(("sec-", "tab-")) else "doc"
    return f"{{{role}}}`{text} <{target}>`"


def write_paper_map(
    source: str | os.PathLike[str], figures: str | os.PathLike[str], folder: str | os.PathLike[str]
) -> Path:
    """Write ``paper_map.md`` for the book and ``paper_map.json`` beside the figures.

    Parameters
    ----------
    source : path
        ``data/paper.yaml``.
    figures : path
        Where the chapters' ``numbers.json`` is.
    folder : path
        Where the book's pages are laid out.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    SingError
        From :func:`read_rows` and :func:`fill_rows`.
    """
    rows = fill_rows(read_rows(source), told(figures))
    write_atomic(
        Path(figures, f"{PAGE}.json"), json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    )
    page = Path(folder, f"{PAGE}.md")
    page.write_text(paper_page(rows), encoding="utf-8")
    return page
