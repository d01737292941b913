"""A report on one classifier: a folder with one page, its tables and figures, and a card.

The page is chapter 11 of the book on the reader's model: some of its sections, run by papermill.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from torch import nn

from ..book.chapters import run_chapter
from ..book.figures import write_chart
from ..errors import SingError
from ..models.classifier import Classifier
from ..pictures.cache import content_key
from ..pictures.fetch import cache_dir, data_dir, write_atomic
from ..progress import say
from ..study.profile import Profile, load_profile
from ..study.study import Study
from .card import study_card
from .own import given_name, own_study, picture_folder
from .page import charts, page
from .report_tables import tables as report_tables
from .words import first_screen, plain

__all__ = ["Report", "report"]

CHAPTER = data_dir().parent / "book" / "11_your_classifier.ipynb"
#: The sections of that chapter that a report has; the others teach.
SECTIONS = (
    "What it ignores", "Known factors", "Concepts in words", "Your questions",
    "The head and its scores", "Kinds of picture", "The most affected pictures",
    "Beside another head", "How to read this")
KIND = "sing_nb report"  # what card.json says of a folder that a report may replace
LISTED = 20  # skipped pictures that the page names
STRAY = {".DS_Store", "Thumbs.db", "desktop.ini"}  # what file managers leave anywhere


class Report(NamedTuple):
    """What a report found, and where it lies."""

    page: Path  # ``index.html``, which opens from disk
    folder: Path  # where everything else lies beside the page
    summary: str  # the first screen of the page, as Markdown
    tables: dict[str, pd.DataFrame]  # see `report_tables.tables`
    card: dict  # `card.study_card` and what was asked, with a SHA-256 of every file


def report(
    model: str | nn.Module | Classifier, images: str | Path | None = None,
    out: str | Path = "report", *, ask: Sequence[str] = (),
    class_names: Sequence[str] | str | Path | None = None, transform: object = None,
    beside: str | nn.Module | Classifier | None = None, profile: str = "report",
    settings: Mapping[str, object] | None = None, progress: bool = True,
) -> Report:
    """Write a report: what a classifier ignores, how sure that is, and what to look at.

    ``out`` gets a page that opens from disk, ``index.html``, and what it was made of. It appears
    whole, at the end, in the place of an older report; a run that was killed goes on where it was.

    Parameters
    ----------
    model : str, torch.nn.Module or Classifier
        A name for ``load_classifier``, files in it relative to the working folder.
    images : path, optional
        Folder of class folders; the profile's pictures if absent.
    out : path
        Folder to make.
    ask : sequence of str
        Concepts to ask about, as "snow" or "a hand".
    class_names : sequence of str or path, optional
        Names of the logits in their order, or a text file with one per line.
    transform : callable, optional
        Picture (PIL) to tensor (3, h, w), instead of the model's own.
    beside : str, torch.nn.Module or Classifier, optional
        A second classifier to compare with.
    profile, settings : str and mapping, optional
        A file in ``data/profiles``, and keys of it with other values.
    progress : bool
        Whether to show bars.

    Returns
    -------
    Report

    Raises
    ------
    SingError
        If anything given is not what it should be, `out` holds what no report wrote, or another
        run is writing there.

    Examples
    --------
    >>> found = sing.report("mine.py:build", "photos", ask=["snow"])  # doctest: +SKIP
    >>> sing.report("lite0", "no-such-folder")
    Traceback (most recent call last):
    sing_nb.errors.SingError: ...no-such-folder is not there; images is a folder with ...
    """
    target = Path(out).expanduser().resolve()
    ask = [ask] if isinstance(ask, str) else list(ask)
    if images is not None:
        _refuse_shared(target, picture_folder(images).resolve())
    with _held(target):
        _refuse_foreign(target)
        shows = progress and not os.environ.get("SING_QUIET")
        steps = itertools.count(1)

        def tell(text: str) -> None:
            if shows:
                say(f"[{next(steps)}/7] {text}")

        tell("the classifier and the list of pictures")
        study, name = own_study(
            model, images, class_names=class_names, transform=transform, beside=beside,
            profile=profile, settings=settings, progress=progress)
        other = (study.config.models[1:] or [""])[0]
        tell(f"{len(study.pictures):,} pictures")
        study.fetch()
        tell("features")  # stage by stage, each kept on disk before the next begins
        for one in study.config.models:
            study.features(one)
        tell("their places in the joint space")
        _ = study.embeddings
        tell("translators")
        for one in study.config.models:
            study.translators(one)
        tell("tables")
        _ = study.truth(name)  # notes on labels that match no class, also where tables are kept
        found = report_tables(study, name, ask=ask, beside=other)
        summary = first_screen(study, name, found)
        card = study_card(study, name) | {
            "command": _command(model, images, target, ask, class_names, transform, beside,
                                profile, settings or {}),
            "kind": KIND, "model": given_name(name), "folder": str(Path.cwd()), "asked": ask,
            "beside": given_name(other) if other else None,
            "notes": list(study.classifier(name).notes)}
        card["settings"] = card["settings"] | {"models": [*map(given_name, study.config.models)]}
        staging = target.with_name(f".{target.name}.new-{os.getpid()}")
        staging.mkdir(parents=True)
        try:
            tell("the page")
            _write(staging, study, name, other, found, summary, card, ask,
                   bars=shows and sys.stderr.isatty())
            _refuse_foreign(target)  # hours may have passed
            staging.chmod(0o755)
            if target.exists():  # killed from here on, the old one comes back (`_held`)
                target.rename(_aside(target))
            staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            shutil.rmtree(_aside(target), ignore_errors=True)
    return Report(target / "index.html", target, summary, found, card)


def _write(
    folder: Path, study: Study, name: str, other: str, found: Mapping[str, pd.DataFrame],
    summary: str, card: dict, ask: list[str], bars: bool,
) -> None:
    """Fill a report's folder."""
    without = {"Beside another head": other, "Your questions": ask}
    sections = [one for one in SECTIONS if without.get(one, True)]
    work = study.folder / "reports" / content_key(folder.name)[:12]
    notebook = run_chapter(
        _sections(sections, work / "chapter.ipynb"), work, study.config.name,
        _overrides(study.config), {"model": name, "beside": other, "questions": ask},
        name="report", progress=bars)
    shutil.copyfile(notebook, folder / "report.ipynb")
    shutil.rmtree(work, ignore_errors=True)
    for figure, spec in charts(folder / "report.ipynb").items():
        write_chart(folder / "figures", figure, spec)
    first = next((line for line in summary.splitlines() if line.strip()), "").strip("*")
    page(folder / "report.ipynb", folder / "index.html", f"What {study.title(name)} ignores",
         description=first[:300], closing=_closing(study, name, found["skipped"], card))
    called = {one: given_name(one) for one in study.config.models}
    for table, rows in found.items():
        rows = rows.replace({"model": called}) if "model" in rows else rows
        rows = rows.set_axis(rows.columns.astype(str), axis=1)
        write_atomic(folder / "tables" / f"{table}.csv",
                     rows.to_csv(index=False, lineterminator="\n"))
    fitted = study.translator(name)
    fitted = replace(fitted, card=card | fitted.card | {"model": card["model"]})
    fitted.save(folder / "translator.safetensors")
    replace(study.spaces(name), card=card).save(folder / "spaces.safetensors")
    card["files"] = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file()}
    write_atomic(folder / "card.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")


def _sections(sections: Sequence[str], target: Path) -> Path:
    """Write the chapter's set-up and some of its sections as a notebook."""
    import nbformat

    node = nbformat.read(CHAPTER, as_version=4)
    kept, section = [], ""
    for cell in node.cells:
        if cell.cell_type == "markdown":
            section = next(iter(re.findall(r"^## (.+)$", cell.source, re.MULTILINE)), section)
        # Of what stands before the first section, the code that the others need.
        setup = not section and cell.cell_type == "code" and "hide-input" not in (
            cell.metadata.get("tags", []))
        if setup or section in sections:
            kept.append(cell)
    node.cells = kept
    write_atomic(target, nbformat.writes(node))
    return target


def _overrides(config: Profile) -> dict[str, object]:
    """Settings that make the same study in another process."""
    base, own = vars(load_profile(config.name)), vars(config)
    return {key: value for key, value in own.items() if key != "name" and value != base[key]}


def _closing(study: Study, name: str, skipped: pd.DataFrame, card: dict) -> str:
    """The last section of the page: what it was made of, and how to make it again."""
    data, versions, config = card["data"], card["versions"], study.config
    counts = (f"{data['pictures']:,} pictures of {data['subjects']:,} subjects under "
              f"{data['classes']:,} labels")
    lines = [f"- **Classifier.** {plain(study.title(name))}, given as {_code(card['model'])}."
             + "".join(f" {plain(note)}" for note in card["notes"])]
    if config.pictures == "stamps":
        lines.append(f"- **Pictures.** The **default pictures**, since no folder was given: "
                     f"{counts}, cut-outs on generated backgrounds. They need not look like what "
                     f"your classifier was made for.")
    else:
        also = data["also_fitted_on"]
        lines.append(f"- **Pictures.** {counts}, from "
                     f"{_code(config.pictures.removeprefix('folder:'))}. Each picture's scores "
                     f"come from a translator that never saw its subject"
                     + (f"; it was also fitted on {also:,} default drawings, because its "
                        f"held-out error is smaller with them." if also else "."))
    many = len(skipped)
    lines.append("- **Skipped.** No picture was passed over." if not many else
                 f"- **Skipped.** {many:,} picture{'' if many == 1 else 's'} could not be used"
                 + (f"; the first {LISTED}:" if many > LISTED else ":"))
    lines += [f"  - {plain(row.reason)}" if row.path in row.reason else
              f"  - {_code(row.path)}: {plain(row.reason)}"
              for row in skipped.head(LISTED).astype(str).itertuples(index=False)]
    if data["notes"]:
        lines += ["- **Left out or taken together.**", *(f"  - {plain(one)}" for one in
                                                        data["notes"])]
    if config.tower:
        lines.append(f"- **Joint space.** ConSE over {plain(study.title(config.tower))}.")
    named = [f"{one} {versions[one]}" for one in ("python", "sing-nb", "torch", "timm", "numpy")]
    lines += [
        f"- **Made** {card['date'].replace('T', ' ').replace('+00:00', ' UTC')}, seed "
        f"{card['seed']}, with {', '.join(named)}; all versions and settings are in `card.json`.",
        "- **Beside this page.** `tables/` (CSV), `figures/` (SVG), `report.ipynb` (the code of "
        "this page), `translator.safetensors` and `spaces.safetensors` (`sing.Translator.load` and "
        "`sing.HeadSpaces.load` read them), `card.json`."]
    return "\n".join([
        "## How this report was made", "",
        f"This makes it again, in the folder {_code(card['folder'])}:", "",
        "~~~~bash", card["command"].replace("~~~~", ""), "~~~~", "", *lines, ""])


def _code(text: str) -> str:
    """Anything as code in Markdown, where nothing in it means anything."""
    words = " ".join(str(text).split())
    ticks = "`" * (max(map(len, re.findall("`+", words)), default=0) + 1)
    return f"{ticks} {words} {ticks}" if "`" in words else f"`{words}`"


def _command(
    model: object, images: object, out: Path, ask: list[str], class_names: object,
    transform: object, beside: object, profile: str, settings: Mapping[str, object],
) -> str:
    """The shell command that does the same, or why there is none."""
    texts = (model, beside or "", class_names or "")
    if transform is not None or not all(isinstance(one, str | Path) for one in texts):
        return "# No shell command: the classifier was an object of a Python program (sing.report)."
    options = {"--model": model, "--images": images, "--out": out, "--class-names": class_names,
               "--beside": beside, "--profile": profile}
    words = [word for key, value in options.items() if value for word in (key, str(value))]
    words += [word for one in ask for word in ("--ask", one)]
    # JSON is YAML, and a value with spaces is quoted as a shell would.
    words += [word for key, value in settings.items()
              for word in ("--set", shlex.quote(f"{key}={json.dumps(value)}"))]
    return shlex.join(["sing", "report", *words])


def _refuse_shared(target: Path, images: Path) -> None:
    if target == images or target in images.parents or images in target.parents:
        raise SingError(f"The report cannot lie in its pictures' folder, nor they in its own: the "
                        f"next report would take its figures for pictures. Pictures: {images}; "
                        f"report: {target}. Give another folder (--out).")


def _refuse_foreign(target: Path) -> None:
    """Replace nothing but a report or an empty folder: all that a report wrote is on its card."""
    if not target.exists():
        return
    if not target.is_dir():
        raise SingError(f"{target} is a file; a report is a folder. Give another one (--out).")
    there = {path.relative_to(target).as_posix() for path in target.rglob("*")
             if not (path.is_dir() and not path.is_symlink()) and path.name not in STRAY}
    try:
        card = json.loads((target / "card.json").read_text(encoding="utf-8"))
        ours = {"card.json", *card["files"]} if card["kind"] == KIND else set()
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    if foreign := sorted(there - ours):
        raise SingError(
            f"{target} holds {foreign[0]}, which no report wrote and which would be lost. Move it "
            f"away, or give another folder (--out).")


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


@contextlib.contextmanager
def _held(target: Path) -> Iterator[None]:
    """Keep other runs away from a report's place, and take away what a killed one left there."""
    from filelock import FileLock, Timeout

    # Not beside the report: nothing is left in the reader's folder. A lock ends with its process.
    locks = cache_dir() / "locks"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{content_key(str(target))}.lock", timeout=0).acquire()
    except Timeout:
        raise SingError(f"Another run is writing the report {target}. Wait for it, or give another "
                        f"folder (--out).") from None
    except OSError as error:
        raise SingError(f"No report can be written to {target.parent}: {error.strerror or error}. "
                        f"Give a folder that you may write to (--out).") from error
    with lock:
        if _aside(target).is_dir() and not target.exists():
            _aside(target).rename(target)
        shutil.rmtree(_aside(target), ignore_errors=True)
        for path in target.parent.iterdir():
            if path.name.startswith(f".{target.name}.new-"):
                shutil.rmtree(path, ignore_errors=True)
        yield
