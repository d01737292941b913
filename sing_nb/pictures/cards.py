"""Translators, spaces and tables kept with a card that says what they are, and read in one line."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import platform
import textwrap
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from safetensors import safe_open

from ..errors import SingError
from ..method.nullspace import HeadSpaces
from ..method.translator import Translator
from .cache import checksum, content_key
from .fetch import write_atomic

__all__ = ["card_of", "load", "save", "study_card", "text"]

FORMAT = 1  # raise it when a file of before could be misread
KEY = "sing"  # of a file's metadata
# Keys of a card that follow from the file it lies in; the last is that of the whole file.
OWN = ("holds", "format", "content", "checksum")
ENDINGS = {Translator: (".safetensors",), HeadSpaces: (".safetensors",),
           pd.DataFrame: (".parquet", ".csv")}
# What numbers and pictures may depend on.
PACKAGES = (
    "sing-nb", "torch", "torchvision", "timm", "open_clip_torch", "transformers", "numpy", "scipy",
    "scikit-learn", "pandas", "pyarrow", "safetensors", "pillow",
)
LISTED = 100  # skipped pictures that a card names


# --- writing ------------------------------------------------------------------------------------


def save(
    path: str | Path, thing: Translator | HeadSpaces | pd.DataFrame,
    card: Mapping[str, object] | None = None,
) -> Path:
    """Write a translator, the spaces of a head or a table with a card, atomically.

    Translators and spaces become safetensors, which :meth:`Translator.load` reads, too; tables
    Parquet, or CSV with the card in ``<name>.card.json`` beside it. Nothing is pickled. A hash of
    content and card lies in the file, and :func:`load` checks it. All come back exact to the bit;
    CSV alone has no types, so that a text of digits comes back as a number, and an empty one as
    missing.

    Parameters
    ----------
    path : path
        Ends in ``.safetensors``, or for tables in ``.parquet`` or ``.csv``.
    thing : Translator, HeadSpaces or pandas.DataFrame
    card : mapping, optional
        What is to be known of it, of what JSON holds; :func:`study_card` makes one. What the
        thing carries itself (``.card``, ``.attrs["card"]``) is kept, and wins.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    SingError
        If the thing is of another kind, the ending does not fit, or the card is not JSON.
    """
    path = Path(path)
    kind = next((kind for kind in ENDINGS if isinstance(thing, kind)), None)
    if kind is None:
        raise SingError(
            f"Translators, HeadSpaces and tables (DataFrames) can be saved with a card; got "
            f"{type(thing).__name__}."
        )
    if path.suffix not in ENDINGS[kind]:
        raise SingError(
            f"A {kind.__name__} is saved as {' or '.join(ENDINGS[kind])}; got {path.name!r}."
        )
    own = thing.attrs.get("card", {}) if kind is pd.DataFrame else thing.card
    written = _written({**(card or {}), **own})
    if kind is pd.DataFrame:
        return _save_table(path, thing, written)
    if kind is Translator:
        held = {"weight": thing.weight, "bias": thing.bias}
        about = {"holds": "translator", "format": FORMAT, "content": checksum(held)}
        return dataclasses.replace(thing, card=json.loads(written) | about).save(path)
    held = {"values": thing.singular_values.contiguous(), "vectors": thing.vectors}
    about = {
        "holds": "spaces", "format": FORMAT, "content": checksum(held), "rank": thing.rank,
        "tolerance": thing.tolerance, "classes": thing.classes, "card": written,
    }
    about["checksum"] = checksum(held, _sorted(about))
    # One entry: of several the order is another in every process.
    return write_atomic(path, safetensors.torch.save(held, {KEY: _sorted(about)}))


def _sorted(about: Mapping[str, object]) -> str:
    return json.dumps(dict(about), sort_keys=True)


def _written(card: Mapping[str, object]) -> str:
    """A card as JSON, which comes back as it was but for tuples."""
    try:
        return json.dumps(
            {key: value for key, value in card.items() if key not in OWN}, sort_keys=True
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise SingError(
            f"A card holds text, numbers, true and false, lists and mappings with text as keys, "
            f"as JSON does: {error}."
        ) from error


def _save_table(path: Path, table: pd.DataFrame, card: str) -> Path:
    plain = table.copy(deep=False)
    plain.attrs = {}
    if path.suffix == ".csv":
        content = _as_csv(plain)
        found = json.loads(card) | {
            "holds": "table", "format": FORMAT, "content": content_key(content)}
        found["checksum"] = content_key(_sorted(found))
        # The card last: a table without one is refused, one of another table would be believed.
        _beside(path).unlink(missing_ok=True)
        write_atomic(path, content)
        write_atomic(_beside(path), json.dumps(found, sort_keys=True, indent=1) + "\n")
        return path
    try:
        columns = pa.Table.from_pandas(plain)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise SingError(
            f"This table cannot be kept as Parquet, whose columns hold one type each: {error}"
        ) from error
    # Of what will be read, which may be of other types: a tuple comes back as a list.
    about = {"holds": "table", "format": FORMAT, "card": card,
             "content": content_key(_as_csv(columns.to_pandas()))}
    about["checksum"] = content_key(_sorted(about))
    columns = columns.replace_schema_metadata(
        {**(columns.schema.metadata or {}), KEY: _sorted(about)})
    buffer = io.BytesIO()
    pq.write_table(columns, buffer, write_page_checksum=True)
    return write_atomic(path, buffer.getvalue())


def _as_csv(table: pd.DataFrame) -> str:
    index = not (isinstance(table.index, pd.RangeIndex) and table.index.name is None)
    return table.to_csv(index=index, lineterminator="\n")


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}.card.json")


# --- reading ------------------------------------------------------------------------------------


def load(path: str | Path) -> Translator | HeadSpaces | pd.DataFrame:
    """Read what :func:`save` wrote (or :meth:`Translator.save`), told by its content.

    Parameters
    ----------
    path : path

    Returns
    -------
    Translator, HeadSpaces or pandas.DataFrame
        With its card in ``.card``, of a table in ``.attrs["card"]``: what it was saved with, and
        ``holds`` (``translator``, ``spaces`` or ``table``), ``format`` and ``content``, the hash.

    Raises
    ------
    SingError
        If the file is missing, damaged, of another kind or of a newer format. Code that a pickle
        holds is never run.
    """
    path = Path(path)
    start = _start(path)
    # First: the length of a header, with which safetensors begin, may look like a pickle's start.
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and length < path.stat().st_size:
        return _load_tensors(path)
    if start.startswith((b"\x80", b"PK\x03\x04")):
        raise SingError(
            f"{path} is a pickle or an archive of torch.save, in which code may lie; nothing of it "
            f"was run. Have it saved by sing_nb.pictures.cards.save, as safetensors or Parquet."
        )
    if start.startswith(b"PAR1"):
        return _load_parquet(path)
    if start.lstrip()[:1] in (b"{", b"["):
        raise SingError(
            f"{path} is JSON. If it is a card, `sing card {path}` or cards.card_of reads it; load "
            f"reads the safetensors, Parquet and CSV files that it belongs to."
        )
    if path.suffix.lower() == ".csv":
        return _load_csv(path)
    raise SingError(
        f"{path} is neither safetensors nor Parquet nor a CSV with a card ({len(start)} bytes at "
        f"its start were looked at): it is damaged, or of another program. Save it again by "
        f"sing_nb.pictures.cards.save."
    )


def _start(path: Path) -> bytes:
    try:
        if not path.is_file():
            what = "a folder" if path.is_dir() else "not there"
            advice = " A report's folder has its card in card.json." if path.is_dir() else ""
            raise SingError(
                f"{path} is {what}; give a .safetensors, .parquet or .csv file that sing_nb "
                f"saved.{advice}"
            )
        with path.open("rb") as file:
            start = file.read(64)
    except (OSError, ValueError) as error:
        raise SingError(f"{path} cannot be read: {error}.") from error
    if not start:
        raise SingError(f"{path} is empty: its writing was cut short. Save it again.")
    return start


def _damaged(path: Path, why: object) -> SingError:
    return SingError(
        f"{path} is damaged: {' '.join(str(why).split())[:200]}. Copy or download it again, or "
        f"save it again where it came from."
    )


def _about(path: Path, text: str | bytes, holds: str) -> dict:
    """What a file says of itself, of a format that is known here."""
    try:
        about = json.loads(text)
        found, number = (about["holds"], about["format"]) if isinstance(about, dict) else ("", 0)
        if type(number) is not int or number < 1:
            raise ValueError(f"its format is {number!r}")
    except (ValueError, KeyError, RecursionError) as error:
        raise _damaged(path, f"what it says of itself cannot be read ({error!r})") from error
    if number > FORMAT:
        raise SingError(
            f"{path} was written by a newer sing_nb: its format is {number}, and this one reads up "
            f"to {FORMAT}. Update sing_nb, or have it saved by this version."
        )
    if found != holds:
        raise _damaged(path, f"it says that it holds {found!r}")
    return about


def _card(path: Path, about: Mapping[str, object]) -> dict:
    try:
        found = json.loads(about["card"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, f"its card cannot be read ({error!r})") from error
    if not isinstance(found, dict):
        raise _damaged(path, "its card is no mapping")
    return found | {key: about[key] for key in OWN[:3]}


def _load_tensors(path: Path) -> Translator | HeadSpaces:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _damaged(path, f"as safetensors it cannot be read ({error})") from error
    if KEY in metadata:
        return _spaces(path, _about(path, metadata[KEY], "spaces"), held)
    if "card" in metadata and {"weight", "bias"} == set(held):
        return _translator(path, metadata["card"], checksum(held))
    if "ridge_statistics" in metadata:
        what = "the statistics of a RidgeFitter; RidgeFitter.load reads them"
    elif {"kept", "about", "text"} & set(metadata):
        what = "a file of sing_nb's cache, which is read where it is made"
    else:
        some = ", ".join(sorted(held)[:3]) or "nothing"
        what = (
            f"no translator and no spaces with a card, but {len(held)} tensors ({some}); if these "
            f"are a classifier's weights, load_classifier('timm/<architecture>:<file>') reads them"
        )
    raise SingError(f"{path} is safetensors and holds {what}.")


def _translator(path: Path, text: str, content: str) -> Translator:
    """One of :func:`save`, or of :meth:`Translator.save`, which says neither kind nor format."""
    plain = {"holds": "translator", "format": FORMAT}
    try:
        said = json.loads(text)
        about = _about(path, _sorted(plain | said), "translator")
        if "format" in said and "checksum" not in said:
            raise _damaged(path, "its checksum is missing")
        found = Translator.load(path)
    except SingError as error:
        if str(path) in str(error):
            raise
        raise _damaged(path, error) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(path, f"its card is not JSON ({error})") from error
    if about.get("content", content) != content:
        raise _damaged(path, "its tensors are not those that its hash was taken of")
    return dataclasses.replace(found, card={**plain, **found.card, "content": content})


def _spaces(path: Path, about: dict, held: Mapping[str, torch.Tensor]) -> HeadSpaces:
    written = about.pop("checksum", None)
    if written != checksum(held, _sorted(about)):
        raise _damaged(path, "content or card are not those that its checksum was taken of")
    card = _card(path, about)
    try:
        values, vectors = held["values"], held["vectors"]
        if (
            vectors.ndim != 2 or values.shape != vectors.shape[:1]
            or {values.dtype, vectors.dtype} != {torch.float64}
        ):
            raise ValueError(
                f"singular values {tuple(values.shape)}, vectors {tuple(vectors.shape)}")
        spaces = HeadSpaces.from_svd(
            values, vectors, about["rank"], about["tolerance"], about["classes"])
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    return dataclasses.replace(spaces, card=card)


def _load_parquet(path: Path) -> pd.DataFrame:
    try:
        columns = pq.read_table(path, page_checksum_verification=True)
        metadata = columns.schema.metadata or {}
        table = columns.to_pandas()
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"as Parquet it cannot be read ({error})") from error
    if KEY.encode() not in metadata:
        raise SingError(
            f"{path} is Parquet without a card; pandas.read_parquet reads it, and "
            f"sing_nb.pictures.cards.save writes one with a card."
        )
    about = _about(path, metadata[KEY.encode()], "table")
    written = about.pop("checksum", None)
    if written != content_key(_sorted(about)) or about["content"] != content_key(_as_csv(table)):
        raise _damaged(path, "content or card are not those that its checksum was taken of")
    table.attrs = {"card": _card(path, about)}
    return table


def _load_csv(path: Path) -> pd.DataFrame:
    beside = _beside(path)
    if not beside.is_file():
        raise SingError(
            f"{path} has no card {beside.name} beside it; pandas.read_csv reads it without one."
        )
    about = _about(beside, _sorted(_read_json(beside)), "table")
    written = about.pop("checksum", None)
    try:
        content = path.read_bytes().decode()
        if (written, about.get("content")) != (
            content_key(_sorted(about)), content_key(content)
        ):
            raise _damaged(path, f"{path.name} or its card are not those that were saved together")
        table = pd.read_csv(io.StringIO(content), keep_default_na=False, na_values=[""])
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise _damaged(path, f"it does not fit its card ({error!r})") from error
    table.attrs = {"card": about}
    return table


def card_of(path: str | Path) -> dict:
    """The card of a file, or of a report: its folder, its page or its ``card.json``.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict

    Raises
    ------
    SingError
        As for :func:`load`, or if a folder has no card.
    """
    path = Path(path)
    if path.name == "index.html":
        path = path.parent
    if path.is_dir():
        if not (path / "card.json").is_file():
            raise SingError(
                f"{path} has no card.json: it is not the folder of a report, or its writing was "
                f"cut short. `sing report` writes one."
            )
        path = path / "card.json"
    if path.suffix == ".json" and _start(path).lstrip()[:1] in (b"{", b"["):
        return _read_json(path)
    found = load(path)
    return found.attrs["card"] if isinstance(found, pd.DataFrame) else found.card


def _read_json(path: Path) -> dict:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise _damaged(path, f"it is not JSON ({error})") from error
    if not isinstance(card, dict) or not {"model", "versions", "holds"} & set(card):
        raise SingError(f"{path} is JSON, but no card: it names no model, versions or content.")
    if isinstance(card.get("format"), int) and card["format"] > FORMAT:
        raise SingError(
            f"{path} was written by a newer sing_nb (format {card['format']}); update sing_nb."
        )
    return card


# --- the card of a study ------------------------------------------------------------------------


def study_card(study: Any, model: str, *, command: str = "") -> dict:
    """What one classifier's results of a study depend on, and how good its translator is.

    Parameters
    ----------
    study : sing_nb.Study
    model : str
        A classifier of it.
    command : str
        What makes the results again, as typed in a shell.

    Returns
    -------
    dict
        Of what JSON holds, in any strict reader: ``model``; ``classifier`` (title, class, classes,
        features, rank, null_dim, hashes of the head and of all weights); ``data`` (source,
        pictures, subjects, classes, also_fitted_on, skipped and, named, ``skipped_first``, hash);
        ``joint_space``, ``tower``; ``translator``, ``lambda`` (of the translator fitted on all
        subjects) and ``lambdas`` of the folds, None where it was not fitted here; ``error``, the
        held-out angle in degrees with its 95 % interval, and the same of a ``constant``; ``seed``,
        ``settings``, ``versions``, ``date`` (UTC) and ``command``.
    """
    from ..study import tables  # here: that is a floor above

    config, spaces = study.config, study.spaces(model)
    lambdas = [_finite(fitted.card.get("lambda")) for fitted in study.translators(model)]
    return {
        "model": model, "classifier": _classifier(study, model, spaces), "data": _data(study),
        "joint_space": config.joint_space, "tower": config.tower,
        "translator": "published" if config.published_translators else config.translator,
        "lambda": lambdas[-1], "lambdas": lambdas[:-1], "error": _error(tables.model(study, model)),
        "seed": config.seed, "settings": {
            key: value for key, value in dataclasses.asdict(config).items()
            if key not in ("expected", "about")
        },
        "versions": _versions(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"), "command": command,
    }


def _classifier(study: Any, model: str, spaces: HeadSpaces) -> dict:
    clf = study.classifier(model)
    state = clf.module.state_dict().items()
    return {
        "title": study.title(model), "class": type(clf.module).__name__,
        "classes": len(clf.head.weight), "features": spaces.features, "rank": spaces.rank,
        "null_dim": spaces.null_dim,
        "head": content_key(*(part for part in clf.head if part is not None)),
        "weights": content_key(*(part for name_and_tensor in state for part in name_and_tensor)),
    }


def _data(study: Any) -> dict:
    table = study.pictures
    skipped = list(table.attrs.get("skipped", []))
    fitted = int((~study.is_scored & (table["source"] != "photo")).sum())
    return {
        "source": study.config.pictures, "split": study.config.picture_split,
        "pictures": int(study.is_scored.sum()), "subjects": len(study.subjects),
        "classes": len(study.labels), "folds": study.config.folds, "also_fitted_on": fitted,
        "skipped": len(skipped),
        "skipped_first": [{key: str(one[key]) for key in one} for one in skipped[:LISTED]],
        "pictures_hash": content_key(*table["picture"]),
    }


def _error(rows: pd.DataFrame) -> dict:
    """Held-out angles of :func:`sing_nb.study.tables.model`, degrees."""
    found = rows[rows["quantity"] == "translator_error"].set_index("kind")
    names = {"held out": "", "constant": "constant_"}
    return {"unit": "degrees"} | {
        f"{prefix}{key}": _finite(found.loc[kind, key])
        for kind, prefix in names.items() for key in ("value", "low", "high")
    }


def _finite(value: object) -> float | None:
    """JSON has no word for what is not a number."""
    return float(value) if value is not None and math.isfinite(value) else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


# --- a card for people --------------------------------------------------------------------------


class _Row(NamedTuple):
    name: str
    value: str


def text(card: Mapping[str, object], width: int = 100) -> str:
    """A card as aligned lines for people, with units; plain text without control characters.

    Parameters
    ----------
    card : mapping
        Of :func:`card_of` or :func:`study_card`; may lack anything and hold more.
    width : int
        Columns of the terminal.
    """
    rows = [_Row(*row) for row in _rows(dict(card)) if row[1]]
    margin = max((len(row.name) for row in rows), default=0) + 2
    lines = []
    for row in rows:
        # A card may come from anybody: an escape sequence must not reach the terminal.
        clean = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}"
                        for letter in row.value)
        name = "".join(letter for letter in row.name if letter.isprintable())
        folded = textwrap.wrap(clean, max(20, width - margin), break_on_hyphens=False) or [""]
        lines += [f"{name:<{margin}}{folded[0]}", *(" " * margin + more for more in folded[1:])]
    return "\n".join(lines)


def _rows(card: dict) -> Iterator[tuple[str, str]]:
    """Name and value of every line; what is not known here comes last, by its own name."""
    take = card.pop
    if "holds" in card:
        yield "holds", f"a {take('holds')} of sing_nb, format {take('format', '?')}"
    clf, data = _part(card, "classifier"), _part(card, "data")
    error, versions = _part(card, "error"), _part(card, "versions")
    yield "model", _plain(take("model", ""))
    if clf:
        title = clf.pop("title", "")
        yield "classifier", f"{title} (class {clf.pop('class', '?')})"
        yield "head", (
            f"{clf.pop('classes', '?')} classes, {clf.pop('features', '?')} features, rank "
            f"{clf.pop('rank', '?')}: null space of {clf.pop('null_dim', '?')} dimensions"
        )
        yield "hash of weights", f"{clf.pop('weights', '?')}, of the head {clf.pop('head', '?')}"
        yield "classifier, also", _plain(clf)
    if data:
        split = data.pop("split", None)
        yield "pictures", (
            f"{data.pop('pictures', '?')} pictures of {data.pop('subjects', '?')} subjects in "
            f"{data.pop('classes', '?')} classes, {data.pop('folds', '?')} folds, from "
            f"{data.pop('source', '?')}" + (f", part {split}" if split else "")
        )
        also = data.pop("also_fitted_on", 0)
        yield "also fitted on", f"{also} drawings" if also else ""
        skipped, named = data.pop("skipped", 0), data.pop("skipped_first", [])
        some = "; ".join(f"{one.get('path')}: {one.get('reason')}" for one in named[:3]
                         if isinstance(one, Mapping)) if isinstance(named, list) else ""
        yield "skipped", f"{skipped} pictures" + (f" ({some}{' ...' if len(named) > 3 else ''})"
                                                  if some else "")
        yield "hash of pictures", _plain(data.pop("pictures_hash", ""))
        yield "data, also", _plain(data)
    tower = take("tower", None)
    yield "joint space", _plain(take("joint_space", "")) + (f", tower {tower}" if tower else "")
    yield "translator", _plain(take("translator", card.get("kind", "")))
    take("kind", None)
    if isinstance(card.get("pictures"), int) and isinstance(card.get("subjects"), int):
        yield "fitted on", f"{take('pictures')} pictures of {take('subjects')} subjects"
    yield "lambda", _plain(take("lambda", None))
    yield "lambda, by fold", _plain(take("lambdas", []))
    if error:
        yield "held-out error", _angle(error, "")
        yield "of a constant", _angle(error, "constant_")
    yield "held-out R2", _plain(take("held_out_r2", None))
    yield "seed", _plain(take("seed", ""))
    yield "versions", ", ".join(f"{name} {value}" for name, value in versions.items())
    yield "date", _plain(take("date", ""))
    yield "command", _plain(take("command", ""))
    settings, content, number = take("settings", None), take("content", ""), take("format", None)
    for key in sorted(card):
        yield key.replace("_", " "), _plain(card[key])
    yield "format", _plain(number)
    yield "hash of content", _plain(content)
    yield "settings", _plain(settings)


def _part(card: dict, key: str) -> dict:
    """A mapping inside a card, a copy; what is none stays where it is."""
    return dict(card.pop(key)) if isinstance(card.get(key), Mapping) else {}


def _angle(error: Mapping[str, object], prefix: str) -> str:
    value, low, high = (error.get(f"{prefix}{key}") for key in ("value", "low", "high"))
    if not all(isinstance(one, (int, float)) for one in (value, low, high)):
        return ""
    return f"{value:.1f} degrees ({low:.1f} to {high:.1f}, 95 %)"


def _plain(value: object) -> str:
    """A value in a line: numbers short, mappings without brackets."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        lists = {key: f"[{_plain(one)}]" for key, one in value.items() if isinstance(one, list)}
        return ", ".join(f"{key} {_plain(one)}" for key, one in (dict(value) | lists).items()
                         if one not in (None, "", "[]", {}))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return str(value)
