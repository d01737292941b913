"""A report on one classifier: a folder with one page, its tables and figures, and a card."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import html
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

from ..errors import SingError
from ..models.classifier import Classifier
from ..models.lazy import keep_classifier
from ..models.load import load_classifier, name_parts, resolve_name
from ..models.own import as_classifier
from ..pictures import cards
from ..pictures.cache import content_key
from ..pictures.features import feature_key
from ..pictures.fetch import cache_dir, data_dir, write_atomic
from ..progress import Progress, say
from ..study.profile import Profile, build_dir, load_profile
from ..study.study import Study
from . import report_tables
from .card import study_card

__all__ = ["Report", "own_study", "report"]

CHAPTER = data_dir().parent / "book" / "11_your_classifier.ipynb"
#: The sections of that chapter that a report has; the others teach.
SECTIONS = (
    "What it ignores", "Known factors", "Concepts in words", "Your questions",
    "The head and its scores", "Kinds of picture", "The most affected pictures",
    "Beside another head", "How to read this",
)
KIND = "sing_nb report"  # what card.json says of a folder that a report may replace
TOWERS = ("lite2", "lite1", "lite0")  # one that is not asked about builds the joint space
LISTED = 20  # skipped pictures that the page names
STRAY = {".DS_Store", "Thumbs.db", "desktop.ini"}  # what file managers leave anywhere


class Report(NamedTuple):
    """What a report found, and where it lies.

    Attributes
    ----------
    page : pathlib.Path
        The page, ``index.html``, which opens from disk.
    folder : pathlib.Path
        Where everything else lies beside the page.
    summary : str
        The first screen of the page, as Markdown.
    tables : dict of pandas.DataFrame
        See :func:`sing_nb.reports.report_tables.tables`.
    card : dict
        See `card.study_card`; and ``kind``, ``folder`` (where the command was
        given), ``asked``, ``beside``, ``notes`` and ``files`` (SHA-256 of every file beside it).
    """

    page: Path
    folder: Path
    summary: str
    tables: dict[str, pd.DataFrame]
    card: dict


# --- the study of a report ----------------------------------------------------------------------


def own_study(
    model: str | nn.Module | Classifier, images: str | Path | None = None, *,
    class_names: Sequence[str] | str | Path | None = None, transform: object = None,
    beside: str | nn.Module | Classifier | None = None, profile: str = "report",
    settings: Mapping[str, object] | None = None, progress: Progress = True,
) -> tuple[Study, str]:
    """The study of one classifier of one's own, and the classifier's name in it.

    Parameters
    ----------
    model : str, torch.nn.Module or Classifier
        A name for ``load_classifier``, files in it relative to the working folder.
    images : path, optional
        Folder of class folders; the profile's pictures if absent.
    class_names : sequence of str or path, optional
        Names of the logits in their order, or a text file with one per line.
    transform : callable, optional
        Picture (PIL) to tensor (3, h, w), instead of the model's own.
    beside : str, torch.nn.Module or Classifier, optional
        A second classifier to compare with.
    profile : str
        A file in ``data/profiles``.
    settings : mapping, optional
        Keys of the profile with other values.
    progress : bool or callable
        Whether to show bars, or whom to tell (:mod:`sing_nb.progress`).

    Returns
    -------
    study : Study
        Nothing but the list of pictures is computed; ``config.models`` are the classifiers.
    name : str
        The name in it, which another process can load: of a network that lives in this one, a
        file of its head.

    Raises
    ------
    SingError
        If the classifier, the folder, the names or a setting are not what they should be.
    """
    settings = dict(settings or {})
    if "models" in settings:
        raise SingError(
            "The classifier of a report is its model (--model), not the setting models; a second "
            "one is given as beside (--beside)."
        )
    if images is not None:
        if "pictures" in settings:
            raise SingError("Give images (--images) or the setting pictures, not both.")
        settings["pictures"] = f"folder:{_images(images)}"
    # What costs nothing is checked first: loading a network may take a minute.
    config = load_profile(profile, settings)
    names = None if class_names is None else _class_names(class_names)
    if transform is not None and not callable(transform):
        raise SingError(
            f"The transform is {type(transform).__name__}; expected a function that turns a PIL "
            f"picture into a tensor (3, h, w)."
        )
    home = build_dir(profile) / "own"
    given = [_named(model, names, transform, home)]
    if beside is not None:
        given.append(_named(beside, None, None, home))
        if given[1][0] == given[0][0]:
            raise SingError("The classifier beside is the same one; name another, or none.")
    settings["models"] = [name for name, _ in given]
    if config.tower in settings["models"] and "tower" not in settings:
        settings["tower"] = next(one for one in TOWERS if one not in settings["models"])
    study = Study(profile, progress=progress, **settings)
    for name, classifier in given:
        if classifier is not None:
            alias = copy.copy(classifier)
            alias.name = name
            study.add(alias)
            keep_classifier(
                classifier, Path(name.removeprefix("kept:")), study.feature_key(name),
                study.pictures["picture"],
            )
    for name, _ in given:
        study.spaces(name)  # an empty null space is said now, not after hours of features
    return study, settings["models"][0]


def _images(images: str | Path) -> Path:
    path = Path(images).expanduser().absolute()
    if not path.is_dir():
        what = "a file" if path.exists() else "not there"
        raise SingError(
            f"{path} is {what}; images is a folder with one folder of pictures for each class, as "
            f"in photos/cat/1.jpg."
        )
    return path


def _class_names(given: Sequence[str] | str | Path) -> list[str]:
    if not isinstance(given, str | Path):
        names = [str(name) for name in given]
        where = "class_names"
    else:
        where = Path(given).expanduser()
        try:
            names = where.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SingError(
                f"{where} cannot be read as a text file in UTF-8 with one class name a line "
                f"({error})."
            ) from error
        while names and not names[-1].strip():
            names.pop()
    empty = [number for number, name in enumerate(names, start=1) if not name.strip()]
    if empty or not names:
        which = f"line {empty[0]} is empty" if empty else "it names nothing"
        raise SingError(f"{where}: give one name for each logit, in their order; {which}.")
    return [name.strip() for name in names]


def _named(
    model: str | nn.Module | Classifier, names: list[str] | None, transform: object, home: Path
) -> tuple[str, Classifier | None]:
    """A classifier's name in every process, and the classifier unless that name is enough."""
    if isinstance(model, str):
        name = resolve_name(model)
        if name_parts(name)[0] != "factory" and not (names or transform):
            return name, None  # the same weights wherever it is loaded
        own = load_classifier(name)
    elif isinstance(model, nn.Module | Classifier):
        own, name = model, getattr(model, "name", type(model).__name__)
    else:
        raise SingError(
            f"A report is on a classifier's name, a torch.nn.Module or a Classifier; got "
            f"{type(model).__name__}."
        )
    own = as_classifier(own, name, transform=transform, class_names=names)
    _ = own.module  # built now, so that its weights are known by what they are
    # Its own process alone can run it; what others need of it lies in a file under this name.
    weights = feature_key(own, pd.DataFrame({"picture": []}))
    key = content_key(weights, own.name, own.title, own.class_names)
    return f"kept:{(home / f'{key}.safetensors').absolute()}", own


def _own_name(name: str) -> str:
    """What a classifier was called when it was given."""
    return load_classifier(name).own_name if name.startswith("kept:") else name


# --- the report ---------------------------------------------------------------------------------


def report(
    model: str | nn.Module | Classifier, images: str | Path | None = None,
    out: str | Path = "report", *, ask: Sequence[str] = (),
    class_names: Sequence[str] | str | Path | None = None, transform: object = None,
    beside: str | nn.Module | Classifier | None = None, profile: str = "report",
    settings: Mapping[str, object] | None = None, command: str | None = None,
    progress: Progress = True,
) -> Report:
    """Write a report: what a classifier ignores, how sure that is, and what to look at.

    ``out`` gets ``index.html``, one page that opens from disk; ``tables/`` (CSV and Parquet),
    ``figures/`` (SVG, Vega-Lite and data), ``report.ipynb``, ``translator.safetensors``,
    ``spaces.safetensors`` (:func:`sing_nb.load` reads them) and ``card.json``. It appears whole,
    at the end; an older report there is replaced. What was computed is kept under
    ``_build/<profile>``: a run that was killed goes on where it was.

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
    class_names, transform, beside, profile, settings, progress
        As in :func:`own_study`.
    command : str, optional
        What was typed, for page and card; by default a command that does the same.

    Returns
    -------
    Report

    Raises
    ------
    SingError
        If anything given is not what it should be, `out` holds what no report wrote, or another
        run is writing there.
    """
    target = Path(out).expanduser().resolve()
    if images is not None:
        _apart(target, _images(images).resolve())
    if isinstance(ask, str):
        ask = [ask]
    with _alone(target):
        _replaceable(target)
        tell = _Steps(progress, 7)
        tell("the classifier and the list of pictures")
        study, name = own_study(
            model, images, class_names=class_names, transform=transform, beside=beside,
            profile=profile, settings=settings, progress=progress,
        )
        other = (study.config.models[1:] or [""])[0]
        asked = {
            "model": model, "images": images, "out": target, "ask": list(ask),
            "class_names": class_names, "transform": transform, "beside": beside,
            "profile": profile, "settings": dict(settings or {}),
        }
        _compute(study, [name, *([other] if other else [])], tell)
        tell("tables")
        tables = report_tables.tables(study, name, ask=list(ask), beside=other, progress=progress)
        summary = report_tables.first_screen(study, name, tables)
        card = study_card(study, name, command=command or _command(**asked))
        card |= {
            "kind": KIND, "model": _own_name(name), "folder": str(Path.cwd()),
            "asked": list(ask), "beside": _own_name(other) if other else None,
            "notes": list(study.classifier(name).notes),
        }
        card["settings"] = card["settings"] | {"models": [*map(_own_name, study.config.models)]}
        staging = target.with_name(f".{target.name}.new-{os.getpid()}")
        staging.mkdir(parents=True)
        try:
            tell("the page")
            _write(staging, study, name, other, tables, summary, card, list(ask),
                   tell.shows and progress is True and sys.stderr.isatty())
            _replaceable(target)  # hours may have passed
            _swap(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return Report(target / "index.html", target, summary, tables, card)


def _compute(study: Study, names: Sequence[str], tell: _Steps) -> None:
    """Stage by stage, each kept on disk before the next begins."""
    tell(f"{len(study.pictures):,} pictures")
    study.fetch()
    for number, name in enumerate(names):
        tell(f"features of {study.title(name)}", again=number > 0)
        study.features(name)
    tell("their places in the joint space")
    _ = study.embeddings
    for number, name in enumerate(names):
        tell("translators", again=number > 0)
        study.translators(name)


class _Steps:
    """Says what is going on: a line on the error stream, or to a function."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0
        self.shows = bool(progress) and not os.environ.get("SING_QUIET")

    def __call__(self, text: str, again: bool = False) -> None:
        self.done += not again
        if callable(self.progress):
            self.progress(self.done - 1, self.total, text)
        elif self.shows:
            say(f"[{self.done}/{self.total}] {text}")


# --- what is written ----------------------------------------------------------------------------


def _write(
    folder: Path, study: Study, name: str, other: str, tables: Mapping[str, pd.DataFrame],
    summary: str, card: dict, ask: list[str], bars: bool,
) -> None:
    """Fill a report's folder."""
    from ..book.chapters import run_chapter
    from ..book.figures import write_chart
    from .standalone import charts, page

    without = {"Beside another head": other, "Your questions": ask}
    sections = [one for one in SECTIONS if without.get(one, True)]
    executed = study.folder / "reports" / hashlib.sha256(os.fsencode(folder.name)).hexdigest()[:12]
    notebook = run_chapter(
        _sections(CHAPTER, sections, executed / "chapter.ipynb"), executed, study.config.name,
        _overrides(study.config), {"model": name, "beside": other, "questions": ask},
        name="report", progress=bars,
    )
    shutil.copyfile(notebook, folder / "report.ipynb")
    shutil.rmtree(executed, ignore_errors=True)
    for figure, spec in charts(folder / "report.ipynb").items():
        write_chart(folder / "figures", figure, spec)
    page(
        folder / "report.ipynb", folder / "index.html", f"What {study.title(name)} ignores",
        description=_first_sentence(summary), closing=_closing(study, name, tables, card),
    )
    called = {one: _own_name(one) for one in study.config.models}
    for table, found in tables.items():
        plain = plain_table(found)
        if "model" in plain:
            plain["model"] = plain["model"].replace(called)
        cards.save(folder / "tables" / f"{table}.parquet", plain, card)
        write_atomic(folder / "tables" / f"{table}.csv",
                     plain.to_csv(index=False, lineterminator="\n"))
    fitted = study.translator(name)
    fitted = replace(fitted, card=fitted.card | {"model": card["model"]})
    cards.save(folder / "translator.safetensors", fitted, card)
    cards.save(folder / "spaces.safetensors", study.spaces(name), card)
    card["files"] = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }
    write_atomic(folder / "card.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")


def _sections(chapter: Path, sections: Sequence[str], target: Path) -> Path:
    """Write a chapter's set-up and some of its sections as a notebook.

    Raises
    ------
    SingError
        If the chapter has no such section.
    """
    import nbformat

    node = nbformat.read(chapter, as_version=4)
    kept, seen, section = [], set(), ""
    for cell in node.cells:
        if cell.cell_type == "markdown":
            section = next(iter(re.findall(r"^## (.+)$", cell.source, re.MULTILINE)), section)
            seen.add(section)
        # Of what stands before the first section, the code that the others need.
        setup = not section and cell.cell_type == "code" and "hide-input" not in (
            cell.metadata.get("tags", []))
        if setup or section in sections:
            kept.append(cell)
    if missing := [one for one in sections if one not in seen]:
        raise SingError(
            f"{chapter.name} has no section {missing[0]!r}, which a report is made of; restore it "
            f"with `git checkout book/`."
        )
    node.cells = kept
    write_atomic(target, nbformat.writes(node))
    return target


def _overrides(config: Profile) -> dict[str, object]:
    """Settings that make the same study in another process."""
    plain = load_profile(config.name)
    return {
        key: getattr(config, key) for key in Profile.model_fields
        if key != "name" and getattr(config, key) != getattr(plain, key)
    }


def plain_table(table: pd.DataFrame) -> pd.DataFrame:
    """A table as it is written: without thumbnails, lists as text, an index as columns."""
    plain = table.copy()
    plain.attrs = {}
    if not isinstance(plain.index, pd.RangeIndex) or plain.index.name is not None:
        plain = plain.reset_index()
    plain = plain.drop(columns="image", errors="ignore")
    for column in plain:
        if pd.api.types.is_numeric_dtype(plain[column]):
            continue
        plain[column] = [
            "; ".join(map(str, value)) if isinstance(value, list | tuple) else value
            for value in plain[column]
        ]
    return plain


def _first_sentence(summary: str) -> str:
    """Of Markdown, as plain text."""
    lines = [line for line in summary.splitlines() if line.strip() and not line.startswith("#")]
    text = re.sub(r"^[-*\d.\s]+|[*_`]", "", lines[0]) if lines else ""
    return html.unescape(text)[:300]


def _closing(
    study: Study, name: str, tables: Mapping[str, pd.DataFrame], card: dict
) -> str:
    """The last section of the page: what it was made of, and how to make it again."""
    data, config = card["data"], study.config
    folder = config.pictures.removeprefix("folder:")
    lines = [
        f"- **Classifier.** {_text(study.title(name))}, given as {_code(card['model'])}."
        + "".join(f" {_text(note)}" for note in card["notes"]),
    ]
    counts = (
        f"{data['pictures']:,} pictures of {data['subjects']:,} subjects under "
        f"{data['classes']:,} labels"
    )
    if config.pictures == "stamps":
        lines.append(
            f"- **Pictures.** No folder was given, so these are the **default pictures**: "
            f"{counts}, photographs cut out and laid on generated backgrounds. They need not look "
            f"like what your classifier was made for."
        )
    else:
        lines.append(f"- **Pictures.** {counts}, from {_code(folder)}.")
        lines.append(
            f"- **Translator.** It was **also fitted on {data['also_fitted_on']:,} default "
            f"drawings**, because the folder holds few pictures; scores are of the folder's "
            f"pictures alone." if data["also_fitted_on"] else
            "- **Translator.** It was fitted on the folder's pictures alone; each picture's scores "
            "come from one that never saw its subject."
        )
    skipped = tables["skipped"]
    if len(skipped):
        one = len(skipped) == 1
        lines.append(
            f"- **Skipped.** {len(skipped):,} {'picture was' if one else 'pictures were'} passed "
            f"over" + (f"; the first {LISTED}" if len(skipped) > LISTED else "") + ":"
        )
        lines += [
            f"  - {_text(row.reason)}" if row.path in row.reason else
            f"  - {_code(row.path)}: {_text(row.reason)}"
            for row in skipped.head(LISTED).astype(str).itertuples(index=False)
        ]
    else:
        lines.append("- **Skipped.** No picture was passed over.")
    if config.tower:
        lines.append(
            f"- **Joint space.** ConSE, built from {_text(study.classifier(config.tower).title)}."
        )
    versions = card["versions"]
    named = ("python", "sing-nb", "torch", "torchvision", "timm", "numpy")
    lines += [
        f"- **Made** {card['date'].replace('T', ' ').replace('+00:00', ' UTC')}, seed "
        f"{card['seed']}, with "
        + ", ".join(f"{one} {versions[one]}" for one in named if one in versions)
        + "; all versions and settings are in `card.json`.",
        "- **Beside this page.** `tables/` (CSV and Parquet), `figures/` (SVG), `report.ipynb` "
        "(the code of this page), `translator.safetensors` and `spaces.safetensors` (read by "
        "`sing_nb.load`), `card.json` (printed by `sing card`).",
    ]
    fence, shell = "~~~~", not card["command"].startswith("sing_nb.")
    return "\n".join([
        "## How this report was made", "",
        f"This makes it again, in {'a shell' if shell else 'Python'} in the folder "
        f"{_code(card['folder'])}:", "",
        f"{fence}{'bash' if shell else 'python'}", card["command"].replace(fence, ""), fence, "",
        *lines, "",
    ])


def _code(text: str) -> str:
    """Anything as code in Markdown, where nothing in it means anything."""
    plain = " ".join(str(text).split())
    ticks = "`" * (max(map(len, re.findall("`+", plain)), default=0) + 1)
    return f"{ticks} {plain} {ticks}" if "`" in plain else f"`{plain}`"


def _text(text: str) -> str:
    """Anything as plain words in Markdown."""
    plain = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]$|~])", r"\\\1", plain)


def _command(
    model: object, images: object, out: Path, ask: list[str], class_names: object,
    transform: object, beside: object, profile: str, settings: dict[str, object],
) -> str:
    """What does the same: a shell command, or Python where no command could say it."""
    absolute = {
        "model": resolve_name(model) if isinstance(model, str) else model,
        "beside": resolve_name(beside) if isinstance(beside, str) else beside,
        "images": str(_images(images)) if images is not None else None,
        "class_names": str(Path(class_names).expanduser().absolute())
        if isinstance(class_names, str | Path) else class_names,
    }
    typed = isinstance(class_names, str | Path | None) and transform is None and all(
        isinstance(one, str | None) for one in (model, beside))
    if typed:
        parts = ["sing", "report", "--model", absolute["model"]]
        for option, value in (
            ("--images", absolute["images"]), ("--out", str(out)),
            ("--class-names", absolute["class_names"]), ("--beside", absolute["beside"]),
            ("--profile", profile if profile != "report" else None),
        ):
            parts += [option, value] if value else []
        for question in ask:
            parts += ["--ask", question]
        for key, value in settings.items():
            # JSON is YAML, and a value with spaces is quoted as a shell would.
            parts += ["--set", shlex.quote(f"{key}={json.dumps(value)}")]
        return shlex.join(parts)

    def shown(one: object) -> str:
        if isinstance(one, nn.Module):
            return f"<{type(one).__name__}>"
        return f"<{one.title}>" if isinstance(one, Classifier) else repr(one)

    more = {
        "ask": ask, "class_names": list(class_names)
        if isinstance(class_names, Sequence) and not isinstance(class_names, str)
        else absolute["class_names"],
        "transform": transform, "beside": absolute["beside"],
        "profile": profile if profile != "report" else None, "settings": settings,
    }
    options = "".join(f", {key}={shown(value)}" for key, value in more.items() if value)
    return (
        f"sing_nb.report({shown(absolute['model'])}, {absolute['images']!r}, {str(out)!r}{options})"
    )


# --- the folder ---------------------------------------------------------------------------------


def _apart(target: Path, images: Path) -> None:
    if target == images or target in images.parents or images in target.parents:
        raise SingError(
            f"The report cannot lie in its pictures' folder, nor they in its own: the next report "
            f"would take its figures for pictures. Pictures: {images}; report: {target}. Give "
            f"another folder (--out)."
        )


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold a report's place; a lock ends with its process, however that ends."""
    from filelock import FileLock, Timeout

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not beside the report: nothing is left in the reader's folder.
        locks = cache_dir() / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        lock = FileLock(locks / f"{content_key(str(target))}.lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise SingError(
            f"Another run is writing the report {target}. Wait for it, or give another folder "
            f"(--out)."
        ) from None
    except OSError as error:
        raise SingError(
            f"No report can be written to {target.parent}: {error.strerror or error}. Give a "
            f"folder that you may write to (--out)."
        ) from error
    try:
        _clean(target)
        yield
    finally:
        lock.release()


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _clean(target: Path) -> None:
    """Take away what a killed run left; what it had moved aside comes back."""
    if _old(target).is_dir():
        if target.exists():
            shutil.rmtree(_old(target))
        else:
            _old(target).rename(target)
    for left in target.parent.glob(f".{_literal(target.name)}.new-*"):
        shutil.rmtree(left, ignore_errors=True)


def _literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _replaceable(target: Path) -> None:
    """Refuse to replace anything but a report and an empty folder.

    Raises
    ------
    SingError
        If the place is a file, a folder of something else, or a report with files of others.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise SingError(f"{target} is a file; a report is a folder. Give another one (--out).")
    there = {
        path.relative_to(target).as_posix() for path in target.rglob("*")
        if not (path.is_dir() and not path.is_symlink()) and path.name not in STRAY
    }
    if not there:
        return
    try:
        card = json.loads((target / "card.json").read_text(encoding="utf-8"))
        ours = set(card["files"]) if card["kind"] == KIND else None
    except (OSError, ValueError, KeyError, TypeError):
        ours = None
    if ours is None:
        raise SingError(
            f"{target} is no report of sing, but holds "
            + (f"1 file, {min(there)}" if len(there) == 1 else
               f"{len(there)} files, {min(there)} among them")
            + "; it is left as it is. Give another folder (--out), or move it away."
        )
    if foreign := sorted(there - ours - {"card.json"}):
        raise SingError(
            f"{target} is a report and also holds {foreign[0]}"
            + (f" and {len(foreign) - 1} more" if len(foreign) > 1 else "")
            + ", which no report wrote and which replacing it would delete. Move it away, or give "
            "another folder (--out)."
        )


def _swap(staging: Path, target: Path) -> None:
    """The whole new folder takes the old one's place; killed between, the old one comes back."""
    staging.chmod(0o755)
    if target.exists():
        target.rename(_old(target))
    staging.rename(target)
    shutil.rmtree(_old(target), ignore_errors=True)
