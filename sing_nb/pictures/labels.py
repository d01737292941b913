"""What the classes of folders and data sets are called: synsets, curated names, mapping files."""

from __future__ import annotations

import csv
import difflib
import os
import re
import reprlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import yaml

from ..errors import SingError, printable
from ..models.prompts import class_aliases, imagenet_names
from ..progress import say

__all__ = [
    "ClassName",
    "expanded",
    "in_imagenet_order",
    "name_classes",
    "near",
    "read_mapping",
    "select_classes",
]

_KEYS = {"label": str, "class_index": int, "subject": str, "skip": bool}


class ClassName(NamedTuple):
    """What a class is called.

    Attributes
    ----------
    label : str
        Completes the prompt "an image of a ...".
    index : int
        ImageNet-1k index, 0 to 999, or -1 for none.
    subject : str or None
        What its pictures are kept together as, if they are.
    """

    label: str
    index: int
    subject: str | None = None


@cache
def _wnids() -> dict[str, int]:
    """ImageNet-1k's synsets in the order of the logits."""
    from timm.data import ImageNetInfo

    return {wnid: index for index, wnid in enumerate(ImageNetInfo("imagenet-1k").label_names())}


@cache
def _larger_imagenet() -> dict[str, str]:
    """First word for each of the 21,843 synsets of the larger ImageNet."""
    from timm.data import ImageNetInfo

    described = ImageNetInfo("imagenet-21k-goog").label_descriptions(as_dict=True)
    return {wnid: words.split(",")[0] for wnid, words in described.items()}


@cache
def _aliases() -> dict[str, frozenset[int]]:
    """Names of ImageNet's classes as folders may spell them."""
    found: dict[str, frozenset[int]] = {}
    for alias, indices in class_aliases().items():
        plain = _plain(alias).lower()
        found[plain] = found.get(plain, frozenset()) | indices
    return found


def _plain(name: str) -> str:
    """A name in words: no underscores and hyphens, and no leading number."""
    # Composed and decomposed letters are the same ones; file systems differ in which they keep.
    words = re.sub(r"[_\s-]+", " ", _visible(unicodedata.normalize("NFC", name))).strip()
    return re.sub(r"^\d+[. ]+(?=.*[^\W\d])", "", words)


def _visible(text: str) -> str:
    """A text without what controls a terminal or turns the direction of the text around it."""
    return re.sub(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "", text)


def _index(label: str) -> int:
    """The ImageNet-1k class that a label means, or -1 if it means none or several."""
    indices = _aliases().get(_plain(label).lower(), ())
    return next(iter(indices)) if len(indices) == 1 else -1


def _class(name: str) -> ClassName:
    """A class from its bare name: a synset, or words of which those before a comma count."""
    if name in _wnids():
        return ClassName(imagenet_names()[_wnids()[name]], _wnids()[name])
    if re.fullmatch(r"n\d{8}", name):
        return ClassName(_larger_imagenet().get(name, ""), -1)
    label = _plain(name.split(",")[0])
    return ClassName(label, _index(label))


def in_imagenet_order(names: Sequence[str] | None) -> bool:
    """Whether a data set's thousand class names are ImageNet-1k's in the order of the logits.

    Parameters
    ----------
    names : sequence of str or None
        Class names, each with synonyms after commas or without.

    Returns
    -------
    bool
        True if more than nine in ten mean the class of their place.
    """
    if names is None or len(names) != 1000:
        return False
    right = 0
    for index, name in enumerate(names):
        words = [_plain(part).lower() for part in name.split(",")]
        right += any(index in _aliases().get(word, ()) for word in words)
    # Curated lists differ in a few names; another order agrees almost nowhere.
    return right > 900


def name_classes(
    names: Iterable[str], entries: Mapping[str, dict], what: str, *,
    ordered: Sequence[str] = (), folders: bool = False,
) -> dict[str, ClassName]:
    """Label and index of every class, a mapping's word first.

    Parameters
    ----------
    names : iterable of str
        Synsets (n01440764) or words; of words, those before a comma are the label.
    entries : mapping
        From :func:`read_mapping`.
    what : str
        Whose classes they are, for messages.
    ordered : sequence of str
        All class names, if their places are ImageNet-1k indices.
    folders : bool
        Whether names are paths, of which the last part counts.

    Returns
    -------
    dict
        :class:`ClassName` of each name.

    Raises
    ------
    SingError
        If a class has no label with a letter in it, or a name that is no UTF-8.
    """
    found, wordless, names = {}, [], list(names)
    coded = [name for name in names if re.search(r"[\ud800-\udfff]", name)]
    if coded:
        raise SingError(
            f"{len(coded)} classes of {what} have names that are no UTF-8, for example "
            f"{coded[0]}; rename them."
        )
    place = {name: index for index, name in enumerate(ordered)}
    for name in names:
        entry = entries.get(name, {})
        own = (
            ClassName(imagenet_names()[place[name]], place[name]) if name in place
            else _class(PurePosixPath(name).name if folders else name)
        )
        label, index = entry.get("label", own.label), entry.get("class_index")
        if index is None:
            same = own.index >= 0 and (name in place or name in _wnids())
            index = own.index if same or "label" not in entry else _index(label)
        elif index >= 0 and "label" not in entry:
            label = imagenet_names()[index]
        found[name] = ClassName(label, index, entry.get("subject"))
        if not re.search(r"[^\W\d_]", label):
            wordless.append(name)
    if wordless:
        raise SingError(
            f"{len(wordless)} classes of {what} have no name in words, for example "
            f"{wordless[0]!r}, and a label must complete 'an image of a ...'. Name them in a "
            f"mapping file, with lines as \"{wordless[0]}\": {{label: tench}}."
        )
    return _in_one_spelling(found, what)


def _in_one_spelling(found: dict[str, ClassName], what: str) -> dict[str, ClassName]:
    """Labels that differ in upper and lower case only are one, as for every question about them."""
    first: dict[tuple[str, int], str] = {}
    same = []
    for name, one in found.items():
        label = first.setdefault((one.label.casefold(), one.index), one.label)
        if label != one.label:
            same.append(f"{one.label!r} is {label!r}")
            found[name] = one._replace(label=label)
    if same:
        say(f"{len(same)} classes of {printable(what)} differ from another one only in upper and "
            f"lower case and were put to it: {printable(', '.join(same[:3]))}.")
    return found


def select_classes(
    named: dict[str, ClassName], classes: Sequence[str | int] | None, what: str
) -> dict[str, ClassName]:
    """The classes that are asked for, at least two.

    Parameters
    ----------
    named : dict
        From :func:`name_classes`.
    classes : sequence of str or int, or None
        Names, labels (upper or lower case) or ImageNet-1k indices; None keeps all.
    what : str
        Whose classes they are, for messages.

    Returns
    -------
    dict
        A part of `named`, in its order.

    Raises
    ------
    SingError
        For one that is not there (with the nearest name), or fewer than two in all.
    """
    if classes is not None:
        kept = set()
        for wanted in [classes] if isinstance(classes, str) else classes:
            match = {
                name for name, one in named.items()
                if (one.index == wanted if isinstance(wanted, int) else
                    str(wanted).lower() in (name.lower(), one.label.lower()))
            }
            if not match:
                known = {*named, *(one.label for one in named.values())}
                raise SingError(f"{what} has no class {wanted!r}{near(str(wanted), known)}.")
            kept |= match
        named = {name: one for name, one in named.items() if name in kept}
    count = len({one[:2] for one in named.values()})
    if count < 2:
        raise SingError(
            f"{what} gives {count} class{'es' * (count != 1)} ({', '.join(named)}), and a study "
            f"compares classes: at least two are needed. Give each class a folder of its own."
        )
    return named


def read_mapping(source: str | os.PathLike | Mapping[str, object] | None) -> dict[str, dict]:
    """What a mapping file says of odd folders.

    Parameters
    ----------
    source : path-like, mapping or None
        A YAML file of ``folder: label`` or ``folder: {label, class_index, subject, skip}``, a CSV
        file with the columns folder and any of these, or the same as a mapping.

    Returns
    -------
    dict
        By folder, what is said of it, and ``where`` (file and line) for messages.

    Raises
    ------
    SingError
        With file and line, for an unknown key, a value of another type, a class index beyond
        -1 to 999, a folder named twice or one outside the pictures' folder.
    """
    if source is None:
        return {}
    if isinstance(source, Mapping):
        rows = [("the mapping", str(key), value) for key, value in source.items()]
    else:
        path = expanded(source)
        if not os.path.isfile(path):
            raise SingError(f"The mapping file {path} does not exist.")
        readers = {".csv": _csv_rows, ".yaml": _yaml_rows, ".yml": _yaml_rows}
        if path.suffix.lower() not in readers:
            raise SingError(f"{path}: a mapping file ends in .yaml or .csv.")
        try:
            rows = readers[path.suffix.lower()](path)
        except (UnicodeDecodeError, yaml.YAMLError, csv.Error, OSError) as error:
            raise SingError(
                f"{path} cannot be read: {error}. Expected is YAML or CSV in UTF-8."
            ) from error
    found: dict[str, dict] = {}
    for where, key, value in rows:
        name = str(PurePosixPath(key)) if key else ""
        where = f"{where}, {name or 'without a folder'}"
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise SingError(f"{where}: expected a folder inside the pictures' folder.")
        if name in found:
            raise SingError(f"{where}: named twice; keep one.")
        entry = {"label": value} if isinstance(value, str) else value
        if not isinstance(entry, Mapping):
            raise SingError(
                f"{where}: expected a label or {{label: ...}}; got {reprlib.repr(value)}."
            )
        for field, content in entry.items():
            if field not in _KEYS:
                raise SingError(
                    f"{where}: unknown key {reprlib.repr(field)}{near(str(field), _KEYS)}. Known: "
                    f"{', '.join(_KEYS)}."
                )
            if type(content) is not _KEYS[field]:
                raise SingError(
                    f"{where}: {field} must be {_KEYS[field].__name__}; got "
                    f"{reprlib.repr(content)}."
                )
        if not -1 <= entry.get("class_index", -1) <= 999:
            raise SingError(
                f"{where}: class_index is an ImageNet-1k index, 0 to 999, or -1 for none; got "
                f"{reprlib.repr(entry['class_index'])}."
            )
        if "label" in entry and not entry["label"].strip():
            raise SingError(f"{where}: the label is empty.")
        found[name] = {**entry, "where": where}
    return found


def _yaml_rows(path: Path) -> list[tuple[str, str, object]]:
    # libyaml, where PyYAML was built with it, takes a tenth of the time.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = path.read_text(encoding="utf-8-sig")
    try:
        # Nine lines of aliases of aliases are a text of a billion words once they are put in.
        if "*" in text and any(
            isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=loader)
        ):
            raise SingError(f"{path} holds aliases (*name); write what they stand for.")
        node = yaml.compose(text, Loader=loader)
        if not isinstance(node, yaml.MappingNode):
            raise SingError(f"{path} must hold lines as `folder: {{label: ...}}`.")
        return [
            (f"{path}, line {key.start_mark.line + 1}", _yaml_key(path, key),
             yaml.constructor.SafeConstructor().construct_document(value))
            for key, value in node.value
        ]
    except SingError:
        raise
    except RecursionError as error:
        raise SingError(
            f"{path} is nested too deeply; it needs lines as `folder: {{label: ...}}`."
        ) from error
    except ValueError as error:  # a date that is none, a number of thousands of digits
        raise SingError(f"{path} cannot be read: {error}.") from error


def _yaml_key(path: Path, key: yaml.Node) -> str:
    if not isinstance(key, yaml.ScalarNode):
        raise SingError(
            f"{path}, line {key.start_mark.line + 1}: expected the name of a folder before the "
            f"colon."
        )
    return key.value


def _csv_rows(path: Path) -> list[tuple[str, str, object]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader, rows = csv.DictReader(file), []
        if "folder" not in (reader.fieldnames or ()):
            raise SingError(f"{path} needs the column folder; got {reader.fieldnames}.")
        for row in reader:
            where, folder = f"{path}, line {reader.line_num}", row.pop("folder")
            if None in row:
                raise SingError(f"{where}: more cells than columns.")
            entry: dict[str, object] = {key: cell for key, cell in row.items() if cell}
            if "class_index" in entry:
                try:
                    entry["class_index"] = int(entry["class_index"])
                except ValueError as error:
                    raise SingError(
                        f"{where}: class_index must be a whole number; got "
                        f"{entry['class_index']!r}."
                    ) from error
            if "skip" in entry:
                if entry["skip"].lower() not in ("true", "false"):
                    raise SingError(f"{where}: skip must be true or false; got {entry['skip']!r}.")
                entry["skip"] = entry["skip"].lower() == "true"
            rows.append((where, folder, entry))
    return rows


def expanded(path: str | os.PathLike) -> Path:
    """A path with ``~`` and ``$VARIABLE`` expanded.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    pathlib.Path
        Absolute; links are kept.

    Raises
    ------
    SingError
        For a variable that is not set, an unknown user's ``~``, or nothing at all, which would be
        the working folder.
    """
    path = os.fspath(path)
    # A folder may itself be called $that.
    text = path if "$" in path and os.path.exists(path) else os.path.expandvars(path)
    unset = re.search(r"\$\{?(\w+)", text)
    if unset and not os.path.exists(text):
        raise SingError(
            f"{path}: the variable {unset[1]} is not set; run `export {unset[1]}=<folder>` first."
        )
    if not text.strip():
        raise SingError(
            f"{path!r} is an empty path; name a folder (export the variable with one)."
        )
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # of ~somebody who is not known here
        raise SingError(f"{path}: {error}; write the folder's full path.") from error


def near(name: str, known: Iterable[str]) -> str:
    """The nearest right name as a part of a message: " (did you mean ...?)", or nothing."""
    close = difflib.get_close_matches(name, sorted(map(str, known)), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
