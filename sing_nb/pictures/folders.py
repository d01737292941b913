"""Whole photographs from folders and data sets: ImageNet, class folders, Hugging Face."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ..errors import SingError, printable
from ..models.hub import from_hub, hub_reachable
from ..progress import progress_bar, say
from .fetch import cache_dir, write_atomic
from .images import read_picture
from .labels import ClassName, name_classes

__all__ = ["expanded", "folder_pictures", "hub_pictures", "source_pictures", "source_ready"]

# Also of pictures that cannot be read: they are skipped and named.
SUFFIXES = {*Image.registered_extensions(), ".heic", ".heif", ".avif", ".svg", ".pdf", ".jxl",
            ".dng", ".cr2", ".nef", ".arw"}
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
KINDS = "imagenet:<folder>, imagenette, imagenette:<folder>, folder:<folder>, huggingface:<name>"
LAYOUTS = "Understood are <folder>/<class>/... and <folder>/train|val/<class>/..., any depth."
IMAGENETTE = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz"


class Skipped(list):
    """A list that pandas hands on with a table and does not copy at every step."""

    def __deepcopy__(self, memo: dict) -> Skipped:
        return self


def source_pictures(spec: str, **options) -> pd.DataFrame:
    """The picture table of a source (:data:`KINDS`); options are those of `folder_pictures`."""
    kind, place = _parse(spec)
    if kind == "huggingface":
        return hub_pictures(place, **options)
    table = folder_pictures(place or _imagenette(), **options)
    odd = table.loc[table["class_index"] < 0, "label"].unique()
    if kind == "imagenet" and len(odd):
        raise SingError(
            f"{len(odd)} folders in {place} are no classes of ImageNet-1k, for example {odd[0]!r}; "
            f"take the source folder:{place}, or call the folders by their classes.")
    return table


def source_ready(spec: str, split: str | None = None) -> tuple[bool, str]:
    """Whether a source's pictures can be had here, and why; opens none and downloads nothing."""
    try:
        kind, place = _parse(spec)
        home = Path(place or cache_dir() / "imagenette" / Path(IMAGENETTE).stem)
        if kind == "folder" or kind == "imagenet" or home.is_dir():
            return True, f"class folders in {_split_folder(home, split)}"
        url = IMAGENETTE if place is None else None
        ready = hub_reachable(url)
        return ready, f"{url or 'the hub'} {'answers' if ready else 'does not answer'}"
    except SingError as error:
        return False, str(error)


def folder_pictures(
    root: str | os.PathLike, *, total: int | None = None, seed: int = 0, split: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Table of the photographs in a folder of class folders, by class and file name."""
    root = expanded(root)
    home = _split_folder(root, split)
    files, notes = _listing(home)
    store = cache_dir() / "folders" / f"{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}.json"
    hashes = _read_hashes(store)

    def look(name: str, file: str) -> tuple[str, str]:
        path, key = home / name / file, f"{name}/{file}"
        if re.search(r"[\ud800-\udfff]", key):
            raise SingError(f"{path} has a name that is no UTF-8; rename it.")
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root.resolve()):
            raise SingError(f"{path} leads out of {root} or nowhere; put the file in its place.")
        status = path.stat()
        # The time when the file's entry changed cannot be set back, as copies do the other.
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        if hashes.get(key, [])[:3] != stamp:
            read_picture(path)  # what is damaged would else stop the features, after minutes
            hashes[key] = [*stamp, hashlib.sha256(path.read_bytes()).hexdigest()]
        return str(path), hashes[key][3]

    try:
        return _choose(files, str(home), look, total, seed, notes, progress)
    finally:  # also after an interruption: what was hashed need not be hashed again
        write_atomic(store, json.dumps(hashes), optional=True)


def _read_hashes(store: Path) -> dict[str, list]:
    """Sizes, times and hashes of pictures that were found whole; a damaged file counts as empty."""
    try:
        found = json.loads(store.read_text(encoding="utf-8"))
        return {key: row for key, row in found.items() if re.fullmatch("[0-9a-f]{64}", row[3])}
    except (OSError, ValueError, TypeError, AttributeError, LookupError):
        return {}


def _listing(home: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Names of pictures by class folder, and sentences on what was left out."""
    files: dict[str, list[str]] = {}
    odd: dict[str, list[str]] = {"links to folders": [], "pictures in no class folder": [],
                                 "files that are not named as pictures": []}
    for folder, inner, names in os.walk(home, onerror=_refuse_unlisted):
        inner[:] = [name for name in inner if not name.startswith(".")]
        at = Path(folder).relative_to(home)
        links, loose, others = odd.values()
        links += [str(at / name) for name in inner if Path(folder, name).is_symlink()]
        own = "".join(at.parts[:1])  # the class
        for name in names:
            if os.path.splitext(name)[1].lower() not in SUFFIXES:
                others.append(str(at / name))
            elif not own:
                loose.append(name)
            elif not name.startswith("."):
                files.setdefault(own, []).append(str((at / name).relative_to(own)))
    notes = [f"{len(found)} {what} in {home} were left out, for example {min(found)}."
             for what, found in odd.items() if found]
    return files, notes


def _refuse_unlisted(error: OSError) -> None:
    raise SingError(f"{error.filename} cannot be listed: {error.strerror}.") from error


def _split_folder(root: Path, split: str | None) -> Path:
    """The folder of class folders: `root`, or the part of it that is asked for."""
    if split not in (None, *SPLITS):
        raise SingError(f"Unknown split {split!r}; known: {', '.join(SPLITS)}.")
    if not os.path.isdir(root):
        raise SingError(f"The folder {root} does not exist, or is no folder. {LAYOUTS}")
    folders = [path for path in sorted(root.iterdir())
               if path.is_dir() and not path.name.startswith(".")]
    # A folder of pictures that is called train is a class of trains.
    parts = {kind: path for kind, names in SPLITS.items() for path in folders
             if path.name.lower() in names and any(below.is_dir() for below in path.iterdir())}
    if not parts and (split is None or root.name.lower() in SPLITS[split]):
        return root
    if split not in (None, *parts):
        raise SingError(
            f"{root} has no folder {split} with class folders (found: {', '.join(parts) or 'none'}"
            f"); torchvision.datasets.ImageNet sorts ImageNet's validation pictures into them.")
    beside = [path.name for path in folders if path not in parts.values()]
    if beside:
        say(printable(f"{root} is read as parts ({', '.join(parts)}); left out beside them: "
                      f"{', '.join(beside[:5])}."))
    return parts[split or next(iter(parts))]


def hub_pictures(
    name: str, *, total: int | None = None, seed: int = 0, split: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """The same of a Hugging Face data set, or a folder that `datasets` can load."""
    import datasets

    what, place = f"the data set {name}", os.path.expanduser(name)
    rows = from_hub(what, lambda: datasets.load_dataset(place, split=split or "train"))
    image, label = (
        next((column for column, found in rows.features.items() if isinstance(found, kind)), None)
        for kind in (datasets.Image, datasets.ClassLabel))
    if image is None or label is None:
        raise SingError(f"{what} needs a column of pictures and one of class labels; its columns: "
                        f"{', '.join(rows.features)}.")
    classes = rows.features[label].names
    files: dict[str, list[int]] = {one: [] for one in classes}
    for row, value in enumerate(rows[label][:]):
        if value is not None and value >= 0:  # hidden labels, as of test sets, are -1
            files[classes[value]].append(row)
    folder = cache_dir() / "huggingface" / re.sub(r"[^\w.-]+", "--", str(name).strip("/"))[-80:]
    pictures = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))

    def look(_: str, row: int) -> tuple[str, str]:
        cell = pictures[row][image] or {}
        data = cell.get("bytes") or Path(cell.get("path") or "").read_bytes()
        sha = hashlib.sha256(data).hexdigest()
        file = folder / f"{row}-{sha}"
        if not file.is_file():
            write_atomic(file, data)
        read_picture(file, name=f"row {row} of {what}")
        return str(file), sha

    return _choose(files, what, look, total, seed, [], progress)


def _choose(
    files: Mapping[str, list], what: str, look: Callable[[str, object], tuple[str, str]],
    total: int | None, seed: int, notes: list[str], progress: bool,
) -> pd.DataFrame:
    """The table of a stratified choice, of which alone pictures are looked at."""
    if total is not None and (type(total) is not int or total < 1):
        raise SingError(f"total must be a whole number of at least 1; got {total!r}.")
    named, merged = name_classes(sorted(name for name in files if files[name]), what)
    _refuse_few(named, what, notes)

    def drawn(*parts: object) -> bytes:
        text = "\0".join(map(str, (seed, *parts))).encode("utf-8", "surrogateescape")
        return hashlib.blake2b(text, digest_size=8).digest()

    def attempt(pair: tuple[str, object]) -> tuple[str, str]:
        try:
            return look(*pair)
        except (SingError, OSError) as error:
            return "", str(error)

    order = []  # round by round, every class gives a picture
    for name in named:
        mine = sorted(files[name], key=lambda key, name=name: (drawn(name, key), key))
        order += [(turn, drawn(name), (name, key)) for turn, key in enumerate(mine)]
    goal, waiting = min(total or len(order), len(order)), (one[2] for one in sorted(order))
    taken: dict[tuple[str, object], tuple[str, str]] = {}
    skipped, seen = Skipped(), {}
    bar = progress_bar(progress, total=goal, desc="checking pictures", unit="picture")
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool, bar:
        while pairs := list(islice(waiting, goal - len(taken))):
            for pair, (path, sha) in zip(pairs, pool.map(attempt, pairs)):
                said = "{}/{}".format(*pair)
                if path and sha not in seen:
                    taken[pair], seen[sha] = (path, sha), said
                    bar.update(1)
                    continue
                why = f"{said} has the same content as {seen[sha]}" if path else sha
                skipped.append({"path": printable(said), "reason": printable(why)})
    reasons = [one["reason"] for one in skipped]
    notes = [*notes, *merged]
    if skipped:
        say(f"{len(skipped)} pictures of {printable(what)} were skipped: {'; '.join(reasons[:3])}")
    if len(taken) < (total or 0):
        notes.append(f"{total:,} pictures of {what} were asked for, and {len(taken):,} are there.")
    for note in notes:
        say(printable(note))
    _refuse_few({name: named[name] for name, _ in taken}, what, reasons)
    table = pd.DataFrame([_row(named[pair[0]], *taken[pair]) for pair in sorted(taken)])
    table.attrs.update(skipped=skipped, notes=notes)
    return table


def _refuse_few(named: Mapping[str, ClassName], what: str, why: list[str]) -> None:
    count = len({one.label for one in named.values()})
    if count < 2:
        raise SingError(
            f"{what} gives {count} classes with pictures ({', '.join(named) or 'none'}), and a "
            f"study compares classes: at least two are needed. {LAYOUTS} {' '.join(why[:3])}")


def _row(one: ClassName, path: str, sha: str) -> dict:
    stem = re.sub(r"[^\w.-]+", "_", Path(path).stem.removesuffix(f"-{sha}"))[:60]
    picture = f"{stem}-{sha[:10]}"
    return {
        "picture": picture, "source": "folder", "path": path, "subject": picture,
        "label": one.label, "class_index": one.index, "view": 0, "background": "",
        **dict.fromkeys(("hue", "saturation", "lightness", "scale", "x", "y"), np.nan),
        "flip": False}


def _imagenette() -> Path:
    """Folder of Imagenette, downloaded once by torchvision, which checks its MD5."""
    home = cache_dir() / "imagenette" / Path(IMAGENETTE).stem
    partial = home.parent / ".partial"

    def load() -> None:
        from torchvision.datasets import Imagenette

        # A run that was killed while unpacking leaves a part, which torchvision takes for whole.
        shutil.rmtree(partial / home.name, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        Imagenette(str(partial), split="train", size="320px", download=True)
        os.replace(partial / home.name, home)
        shutil.rmtree(partial, ignore_errors=True)

    if not home.is_dir():
        from_hub("Imagenette", load, url=IMAGENETTE, advice=f"its folder would be {home}")
    return home


def _parse(spec: str) -> tuple[str, str | None]:
    """Kind and place of a source, variables expanded."""
    kind, _, place = str(spec).partition(":")
    if spec != "imagenette" and not (place and f"{kind}:<" in KINDS):
        raise SingError(f"Unknown picture source {spec!r}; known: {KINDS}.")
    if not place or (kind == "huggingface" and not re.match(r"[~$/.]", place)):
        return kind, place or None  # a name at the hub or a relative folder
    return kind, str(expanded(place))


def expanded(path: str | os.PathLike) -> Path:
    """A path, absolute, with ``~`` and ``$VARIABLE`` expanded."""
    text = os.path.expandvars(os.fspath(path))
    unset = re.search(r"\$\{?(\w+)", text)
    if unset and not os.path.exists(text):
        raise SingError(f"{path}: the variable {unset[1]} is not set; run `export {unset[1]}=...`.")
    if not text.strip() or re.search(r"[\0\ud800-\udfff]", text):
        raise SingError(f"{str(path)!r} is no path of a folder; give one, in UTF-8.")
    return Path(os.path.expanduser(text)).absolute()
