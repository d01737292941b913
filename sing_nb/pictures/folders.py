"""Whole photographs from folders and data sets: ImageNet, Imagenette, class folders, Hugging Face.

One table, whatever the source (columns in `pictures.images`, source ``folder``): nothing is
drawn, every photograph is a view and a subject of its own, and its name holds the SHA-256 of its
content. Subsets are stratified by class and follow from a seed: in every round each class gives
one more photograph, so that a smaller subset lies within any larger one of the same seed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from ..errors import SingError, printable
from ..models.hub import from_hub, hub_reachable
from ..progress import Progress, progress_bar, say
from .fetch import cache_dir, write_atomic
from .labels import (
    expanded,
    in_imagenet_order,
    name_classes,
    near,
    read_mapping,
    select_classes,
)
from .subsets import Pair, Seen, check_counts, choose_pictures, content_hash

__all__ = [
    "folder_pictures",
    "hub_pictures",
    "imagenet_pictures",
    "imagenette_pictures",
    "source_pictures",
    "source_ready",
]

# The second line is of pictures that cannot be read: they are skipped and named as such.
SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif",
    ".tiff", ".heic", ".heif", ".hif", ".avif", ".svg", ".pdf", ".psd", ".jp2", ".jxl", ".ppm",
    ".dng", ".cr2", ".nef", ".arw",
}
# How files begin that may be pictures though their names have no ending.
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
LAYOUTS = (
    "Understood are <folder>/<class>/<picture> and <folder>/train|val/<class>/<picture>, as of "
    "ImageNet-1k (classes named n01440764 and so on, also under ILSVRC/Data/CLS-LOC) and of "
    "Imagenette."
)
MAX_BYTES = 2**28


# --- folders ------------------------------------------------------------------------------------


def folder_pictures(
    root: str | os.PathLike, *, per_class: int | None = None, total: int | None = None,
    seed: int = 0, mapping: str | os.PathLike | Mapping[str, object] | None = None,
    classes: Sequence[str | int] | None = None, split: str | None = None,
    progress: Progress = True,
) -> pd.DataFrame:
    """Table of the photographs in a folder of class folders, whole or a stratified subset.

    Folders named after ImageNet's synsets (n01440764) get the curated name and the index of their
    class. Any other folder's name is the label, with spaces for underscores and hyphens and without
    a leading number; if it means exactly one ImageNet-1k class, that is the class, else none.
    Folders whose labels differ only in upper and lower case are one class. Folders within class
    folders, hidden files and links that lead out of `root` are left out. What bears the name of a
    picture and is none, is damaged anywhere, too large, of a format that is not read, or the same
    as another one is skipped and replaced by others of its class.

    Parameters
    ----------
    root : path-like
        The folder; ``~`` and ``$VARIABLE`` are expanded. With ``train`` and ``val`` folders inside
        or with class folders.
    per_class : int, optional
        At most this many of each class.
    total : int, optional
        This many in all. Classes get equal shares up to one; what small ones lack goes to others.
    seed : int
        Of the choice, which depends on the names of folders and files and on nothing else.
    mapping : path-like or mapping, optional
        A YAML file ``folder: {label: ..., class_index: ..., subject: ..., skip: true}`` (or
        ``folder: label``), or a CSV file with the columns folder and any of these. Its folders may
        lie deeper than one level. With `subject`, a folder's pictures stay together in splits.
    classes : sequence of str or int, optional
        Keep only these: names of folders, labels, or ImageNet-1k indices.
    split : {"train", "val", "test"}, optional
        By default train, where there is one.
    progress : bool or callable
        Whether to show a progress bar, or whom to tell (:mod:`sing_nb.progress`).

    Returns
    -------
    pandas.DataFrame
        Rows by class and file name. ``attrs["skipped"]`` lists ``{"path", "reason"}`` of every
        picture that was passed over.

    Raises
    ------
    SingError
        For a folder that is missing or laid out otherwise, a faulty mapping, fewer than two
        classes, or nothing that can be read.
    """
    check_counts(per_class, total)
    root = expanded(root)
    if not _is_utf8(root):
        raise SingError(
            f"{printable(root)} has a name that is no UTF-8; rename it, or give a link to it."
        )
    home, outside = _split_folder(root, split)
    names = [path.name for path in _folders(home, root, outside)]
    entries = read_mapping(mapping)
    nested = [_inside(name, entry, home, root) for name, entry in entries.items()
              if name not in names]
    names = sorted(name for name in {*names, *nested} if not entries.get(name, {}).get("skip"))
    # Which of a mapping's folders hold pictures decides: a folder of folders is no class.
    listing = {name: _pictures(home / name, root, outside) for name in names}
    loose = _pictures(home, root, set())
    filled = {name: files for name, files in listing.items() if files}
    if not filled:
        deeper = _class_folders_below(home, names, root)
        raise SingError(
            f"{home} holds no class folders with pictures"
            + (f", but {len(loose)} pictures directly; put them in one folder a class. ImageNet's "
               f"validation pictures come so: torchvision.datasets.ImageNet sorts them"
               if loose else f", but {deeper} does; give that one" if deeper else "")
            + f". {_links(outside)}{LAYOUTS}"
        )
    what = str(home)
    named = select_classes(name_classes(filled, entries, what, folders=True), classes, what)

    store = cache_dir() / "folders" / f"{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}.json"
    hashes = _read_hashes(store)
    before = dict(hashes)

    def look(pairs: list[Pair]) -> dict[Pair, Seen | str]:
        def one(pair: Pair) -> Seen | str:
            path = home / pair[0] / str(pair[1])
            if not _is_utf8(path):
                return f"{printable(path)} has a name that is no UTF-8; rename it."
            try:
                return Seen(str(path), path.stem, _file_hash(path, hashes, home))
            except SingError as error:
                return str(error)
            except OSError as error:
                return (
                    f"{path} cannot be read ({error.strerror}); see that it is there and may be "
                    f"read"
                )

        return _in_threads(one, pairs, progress)

    try:
        table = choose_pictures(
            {name: filled[name] for name in named}, named, look, per_class, total, seed, what
        )
    finally:
        # Also after an interruption: what was hashed need not be hashed again.
        if hashes != before:
            there = {f"{name}/{file}" for name, files in listing.items() for file in files}
            kept = {key: value for key, value in hashes.items() if key in there}
            write_atomic(
                store, json.dumps({"folder": str(home), "files": kept}), optional=True
            )
    if outside:
        say(printable(_links(outside)))
    if loose:
        say(f"{len(loose)} pictures of {printable(what)} lie in no class folder and were left out, "
            f"for example {printable(loose[0])}.")
    return table


def _class_folders_below(home: Path, names: Sequence[str], root: Path) -> Path | None:
    """The first folder that itself holds class folders with pictures: one level was left out."""
    for name in names[:20]:
        below = _folders(home / name, root, set())
        if sum(bool(_pictures(folder, root, set())) for folder in below[:20]) > 1:
            return home / name
    return None


def imagenet_pictures(root: str | os.PathLike, **options) -> pd.DataFrame:
    """:func:`folder_pictures` of an ImageNet folder, which must hold classes of ImageNet-1k.

    Parameters
    ----------
    root : path-like
        For example ``$IMAGENET``, with ``train`` and ``val`` inside.
    **options
        Those of :func:`folder_pictures`.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    SingError
        As :func:`folder_pictures`, and if a folder is not named after a class of ImageNet-1k.
    """
    table = folder_pictures(root, **options)
    odd = sorted({Path(p).parent.name for p in table.loc[table["class_index"] < 0, "path"]})
    if odd:
        raise SingError(
            f"{len(odd)} folders in {expanded(root)} are no classes of ImageNet-1k, for example "
            f"{odd[0]!r}; take the source folder:{root} or name the classes in a mapping file."
        )
    return table


def imagenette_pictures(
    root: str | os.PathLike | None = None, size: str = "320px", split: str | None = None, **options
) -> pd.DataFrame:
    """Imagenette: ten easily told classes of ImageNet, by torchvision, with curated names.

    Parameters
    ----------
    root : path-like, optional
        Folder that holds it; no network is used. By default it is downloaded once into the cache,
        where torchvision checks its MD5.
    size : {"320px", "160px", "full"}
        Shorter side of the photographs.
    split : {"train", "val"}, optional
        Which of its parts; train by default.
    **options
        Those of :func:`folder_pictures`.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    SingError
        As :func:`folder_pictures`, or if it is not there and cannot be downloaded.
    """
    return folder_pictures(_imagenette(root, size), split=split, **options)


# --- data sets of the hub -----------------------------------------------------------------------


def hub_pictures(
    name: str, *, split: str | None = None, image: str = "image", label: str = "label",
    config: str | None = None, revision: str | None = None, per_class: int | None = None,
    total: int | None = None, seed: int = 0,
    mapping: str | os.PathLike | Mapping[str, object] | None = None,
    classes: Sequence[str | int] | None = None, progress: Progress = True,
) -> pd.DataFrame:
    """Table of the photographs of a Hugging Face image data set, whole or a stratified subset.

    The library `datasets` downloads (the whole split) and checks it. The chosen photographs' own
    bytes, never decoded and encoded again, are written to the cache as files named by their
    SHA-256. No code of the data set is run.

    Parameters
    ----------
    name : str
        Name at the hub, or a folder that `datasets` can load.
    split : str, optional
        Split of the data set, as it names it; train by default.
    image, label : str
        Its columns of pictures and of classes; the latter class labels or texts. Of "tench, Tinca
        tinca" the part before the comma is the label. A thousand names in ImageNet-1k's order get
        the curated names.
    config, revision : str, optional
        Of the data set, as `datasets.load_dataset` takes them.
    per_class, total, seed, mapping, classes, progress
        As in :func:`folder_pictures`, with the data set's class names for folders. The choice
        depends on the numbers of the rows.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    SingError
        If it cannot be had, lacks a column, or has no usable names or pictures.
    """
    check_counts(per_class, total)
    rows = _dataset(name, split or "train", config, revision)
    what = f"the data set {name}"
    _check_columns(rows.features, image, label, what)
    candidates = _candidates(rows, label)
    entries = read_mapping(mapping)
    for key, entry in entries.items():
        if key not in candidates:
            raise SingError(
                f"{entry['where']}: {what} has no class {key!r}{near(key, candidates)}."
            )
    kept = [key for key in sorted(candidates) if not entries.get(key, {}).get("skip")]
    names = getattr(rows.features[label], "names", None)
    ordered = names if in_imagenet_order(names) else ()
    named = select_classes(name_classes(kept, entries, what, ordered=ordered), classes, what)
    from datasets import Image

    slug = re.sub(r"[^\w.-]+", "--", name.strip("/"))
    folder = cache_dir() / "huggingface" / slug[-80:]
    pictures = rows.select_columns([image]).cast_column(image, Image(decode=False))

    def look(pairs: list[Pair]) -> dict[Pair, Seen | str]:
        found: dict[Pair, Seen | str] = {}
        for pair in progress_bar(
            progress, pairs, total=len(pairs), desc="writing pictures", unit="picture"
        ):
            cell = pictures[pair[1]][image] or {}
            said = f"row {pair[1]} of {what}"
            try:
                data = cell.get("bytes")
                if data is None and cell.get("path"):
                    data = Path(cell["path"]).read_bytes()
                sha, kind = content_hash(data or b"", said)
            except (SingError, OSError) as error:
                found[pair] = str(error)
                continue
            file = folder / f"{sha}.{kind.lower()}"
            if not (file.is_file() and file.stat().st_size == len(data)):
                write_atomic(file, data)
            stem = Path(cell.get("path") or f"{slug.split('--')[-1]}-{pair[1]}").stem
            found[pair] = Seen(str(file), stem, sha)
        return found

    return choose_pictures(
        {key: candidates[key] for key in named}, named, look, per_class, total, seed, what
    )


def _dataset(name: str, split: str, config: str | None, revision: str | None):
    """The split with undecoded pictures, through `datasets` and, for a name, `models.hub`."""
    if importlib.util.find_spec("datasets") is None:
        raise SingError(
            f"The data set {name} needs the package datasets: run `pip install datasets`."
        )
    import datasets

    local = Path(os.path.expandvars(name)).expanduser()

    def load():
        before = datasets.config.HF_HUB_OFFLINE
        # It keeps its own copy of the hub's switch, made when it was imported.
        datasets.config.HF_HUB_OFFLINE = before or local.exists() or not hub_reachable()
        try:
            return datasets.load_dataset(
                str(local) if local.exists() else name, config, split=split, revision=revision
            )
        finally:
            datasets.config.HF_HUB_OFFLINE = before

    if not local.exists():
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is None:
            raise SingError(
                f"{name} is no folder, and no name at the Hugging Face hub, which is "
                f"<owner>/<name>."
            )
        return from_hub(
            f"the data set {name} (split {split})", load,
            advice=f"data sets lie prepared in {datasets.config.HF_DATASETS_CACHE}, and a folder "
            f"of class folders needs no hub (source folder:<path>)",
        )
    try:
        return load()
    except Exception as error:  # its readers raise many kinds
        raise SingError(
            f"datasets cannot load {local} (split {split}): "
            f"{' '.join(f'{type(error).__name__}: {error}'.split())[:300]}"
        ) from error


def _check_columns(kinds: Mapping[str, object], image: str, label: str, what: str) -> None:
    import datasets

    pictures = [column for column, kind in kinds.items() if isinstance(kind, datasets.Image)]
    if image not in pictures:
        raise SingError(
            f"{what} has no picture column {image!r}; its picture columns: "
            f"{', '.join(pictures) or 'none'}. Name one with image=."
        )
    if label not in kinds:
        raise SingError(
            f"{what} has no column {label!r}{near(label, kinds)}; its columns: "
            f"{', '.join(kinds)}. Name the one of the classes with label=."
        )


def _candidates(rows, label: str) -> dict[str, list[int]]:
    """Numbers of the rows of each class, by its name; rows without a class are left out."""
    names = getattr(rows.features[label], "names", None)
    found: dict[str, list[int]] = {}
    for row, value in enumerate(rows[label][:]):
        if names is not None:
            # Hidden labels, as of test sets, are -1.
            value = None if value is None or value < 0 else names[value]
        if value is not None:
            found.setdefault(str(value), []).append(row)
    return found


# --- files ----------------------------------------------------------------------------------------


def _folders(folder: Path, root: Path, outside: set[Path]) -> list[Path]:
    return [folder / e.name for e in _entries(folder, root, outside) if e.is_dir()]


def _pictures(folder: Path, root: Path, outside: set[Path]) -> list[str]:
    """Names of pictures; some of what bears one turns out to be none when it is looked at."""
    return sorted(e.name for e in _entries(folder, root, outside) if _is_named_picture(e))


def _is_named_picture(entry: os.DirEntry) -> bool:
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix or not entry.is_file():
        return suffix in SUFFIXES
    try:
        with open(entry.path, "rb") as file:
            return file.read(6).startswith(BEGINNINGS)
    except OSError:  # without an ending, nothing says that it is a picture
        return False


def _entries(folder: Path, root: Path, outside: set[Path]) -> list[os.DirEntry]:
    """What a folder shows, without links that lead out of the root (or nowhere)."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink() and not _leads_inside(Path(entry.path), root):
                    outside.add(Path(entry.path))
                    continue
                found.append(entry)
    except OSError as error:
        raise SingError(
            f"{folder} cannot be listed: {error.strerror}. See that it is there and may be read "
            f"(`ls -ld`), or move it out of the pictures' folder."
        ) from error
    return found


def _is_utf8(path: Path) -> bool:
    """Whether a path is a text, as tables hold it; of other bytes Python makes half characters."""
    return re.search(r"[\ud800-\udfff]", str(path)) is None


def _leads_inside(link: Path, root: Path) -> bool:
    """Whether a link leads to what lies in the root and does not itself hold the link."""
    if not os.path.exists(link):  # also in a circle of links
        return False
    target = link.resolve()
    return (
        target.is_relative_to(root.resolve())
        and not link.parent.resolve().is_relative_to(target)
    )


def _split_folder(root: Path, split: str | None) -> tuple[Path, set[Path]]:
    """The folder of class folders, and links that were not followed on the way to it."""
    if split is not None and split not in SPLITS:
        raise SingError(f"Unknown split {split!r}{near(split, SPLITS)}; known: train, val, test.")
    if not os.path.isdir(root):
        raise SingError(
            f"The folder {root} {'is a file' if os.path.exists(root) else 'does not exist'}. "
            f"{LAYOUTS}"
        )
    outside: set[Path] = set()
    found: dict[str, Path] = {}
    for inner in ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC"):
        base = root / inner
        if found or not base.resolve().is_relative_to(root.resolve()) or not base.is_dir():
            continue
        for path in _folders(base, root, outside):
            kind = next((k for k, names in SPLITS.items() if path.name.lower() in names), None)
            # A folder of pictures that is called train is a class of trains.
            if kind and _folders(path, root, set()):
                found.setdefault(kind, path)
    if split is None:
        return next((found[kind] for kind in SPLITS if kind in found), root), outside
    if split in found:
        return found[split], outside
    if root.name.lower() in SPLITS[split] and not found:
        return root, outside
    flat = next((root / n for n in SPLITS[split] if (root / n).is_dir()), None)
    why = (
        f"{flat} holds no class folders; ImageNet's validation pictures must be sorted into them "
        f"(torchvision.datasets.ImageNet does it)" if flat else
        f"{root} has no folder {split} with class folders (found: {', '.join(found) or 'none'})"
    )
    raise SingError(f"{why}. {_links(outside)}{LAYOUTS}")


def _inside(name: str, entry: Mapping[str, object], home: Path, root: Path) -> str:
    """A mapping's folder below the first level, checked."""
    folder = home / name
    if not os.path.isdir(folder):
        known = [path.name for path in _folders(home, root, set())]
        raise SingError(f"{entry['where']}: {home} has no such folder{near(name, known)}.")
    if not folder.resolve().is_relative_to(root.resolve()):
        raise SingError(f"{entry['where']}: the folder lies outside {root}; name its real place.")
    return name


def _links(outside: set[Path]) -> str:
    if not outside:
        return ""
    return (
        f"{len(outside)} links that lead out of the folder or nowhere were not followed, for "
        f"example {min(outside)}; give the folder that they lead to itself. "
    )


def _file_hash(path: Path, hashes: dict[str, list], home: Path) -> str:
    """SHA-256 of a whole picture, remembered by size and times of change; refuses what is none."""
    status, key = path.stat(), path.relative_to(home).as_posix()
    # The time of the last change of the file's entry cannot be set back, as copies do the other.
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    if key in hashes and hashes[key][:3] == stamp:
        return hashes[key][3]
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise SingError(f"{path} is {kind}, not a picture's file; remove it or rename it.")
    if status.st_size > MAX_BYTES:
        raise SingError(
            f"{path} has {status.st_size:,} bytes, more than {MAX_BYTES:,}; make it smaller first."
        )
    sha, _ = content_hash(path.read_bytes(), str(path))
    hashes[key] = [*stamp, sha]
    return sha


def _in_threads(
    one: Callable[[Pair], object], pairs: list[Pair], progress: Progress
) -> dict:
    pool = ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1)))
    try:
        return dict(zip(pairs, progress_bar(
            progress, pool.map(one, pairs), total=len(pairs), desc="checking pictures",
            unit="picture",
        )))
    finally:
        pool.shutdown(cancel_futures=True)


def _read_hashes(store: Path) -> dict[str, list]:
    """Remembered hashes; a store that is damaged counts as empty."""
    try:
        files = json.loads(store.read_text(encoding="utf-8"))["files"]
        return {
            key: [*map(int, stamp), sha] for key, (*stamp, sha) in files.items()
            # Of three numbers: with two, older versions kept what was not decoded to its end.
            if len(stamp) == 3 and re.fullmatch(r"[0-9a-f]{64}", sha)
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _imagenette(root: str | os.PathLike | None, size: str) -> Path:
    """Folder of Imagenette, downloaded by torchvision if none is given."""
    from torchvision.datasets import Imagenette

    archives = Imagenette._ARCHIVES
    if size not in archives:
        raise SingError(
            f"Unknown size {size!r} of Imagenette{near(size, archives)}; known: "
            f"{', '.join(archives)}."
        )
    url = archives[size][0]
    name = Path(url).stem
    if root is not None:
        root = expanded(root)
        for home in (root / name, root):
            if any((home / part).is_dir() for part in ("train", "val")):
                return home
        raise SingError(
            f"{root} holds neither {name} nor the folders train and val; name the folder of "
            f"Imagenette, or leave it out to have it downloaded."
        )
    base = cache_dir() / "imagenette"
    home, partial = base / name, base / ".partial"
    if home.is_dir():
        return home
    what = f"Imagenette ({size})"
    if not hub_reachable(url):
        raise SingError(
            f"{what} could not be had: {url} does not answer, and {home} does not exist. Copy that "
            f"folder from a machine that has it, or name one with imagenette:<folder>. The profile "
            f"offline works now: it needs no hub."
        )

    def load() -> None:
        # A run that was killed while unpacking leaves a part, which torchvision takes for whole;
        # its archive, if its MD5 is right, is used again.
        shutil.rmtree(partial / name, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        Imagenette(str(partial), split="train", size=size, download=True)

    from_hub(what, load, url=url, advice=f"its folder would be {home}")
    os.replace(partial / name, home)
    shutil.rmtree(partial, ignore_errors=True)
    return home


# --- one entry for all --------------------------------------------------------------------------


_SOURCES: dict[str, Callable[..., pd.DataFrame]] = {
    "imagenet": imagenet_pictures,
    "imagenette": imagenette_pictures,
    "folder": folder_pictures,
    "huggingface": hub_pictures,
}


def source_pictures(spec: str, **options) -> pd.DataFrame:
    """The picture table of a source as profiles name it.

    Parameters
    ----------
    spec : str
        ``imagenet:<folder>``, ``imagenette``, ``imagenette:<folder>``, ``folder:<folder>`` or
        ``huggingface:<name>``. ``~`` and ``$VARIABLE`` are expanded: ``imagenet:$IMAGENET``.
    **options
        Those of the source's function: per_class, total, seed, mapping, classes, split, progress
        for all of them; size for Imagenette; image, label, config, revision for Hugging Face.

    Returns
    -------
    pandas.DataFrame
        See `pictures.images`; ``attrs["skipped"]`` lists the pictures that were passed over.

    Raises
    ------
    SingError
        For an unknown source or option, and as the source's function.
    """
    kind, place = _parse(spec)
    load = _SOURCES[kind]
    known = set(inspect.signature(folder_pictures).parameters) - {"root"}
    known |= set(inspect.signature(load).parameters) - {"root", "name", "options"}
    for option in options:
        if option not in known:
            raise SingError(
                f"The picture source {kind} has no option {option!r}{near(option, known)}; known: "
                f"{', '.join(sorted(known))}."
            )
    return load(*([place] if place else []), **options)


def source_ready(spec: str, **options) -> tuple[bool, str]:
    """Whether a source's pictures can be had here; opens none and downloads nothing.

    Parameters
    ----------
    spec : str
        As for :func:`source_pictures`.
    **options
        As there; `split` and `size` matter here.

    Returns
    -------
    (bool, str)
        The answer and its reason in words.
    """
    try:
        kind, place = _parse(spec)
        if kind == "huggingface":
            return _dataset_ready(place)
        if kind == "imagenette":
            from torchvision.datasets import Imagenette

            size = options.get("size", "320px")
            url = Imagenette._ARCHIVES[size][0] if size in Imagenette._ARCHIVES else ""
            home = cache_dir() / "imagenette" / Path(url).stem
            if place is None and url and not home.is_dir():
                return (
                    (True, f"to be downloaded from {url}") if hub_reachable(url) else
                    (False, f"{url} does not answer, and {home} does not exist")
                )
            place = str(_imagenette(place, size))
        root = expanded(place)
        home, outside = _split_folder(root, options.get("split"))
        count = len(_folders(home, root, outside))
        if count < 2:
            return False, f"{home} holds {count} class folders; at least two are needed"
        return True, f"{count:,} class folders in {home}"
    except SingError as error:
        return False, str(error)


def _dataset_ready(name: str) -> tuple[bool, str]:
    if importlib.util.find_spec("datasets") is None:
        return False, "the package datasets is missing: run `pip install datasets`"
    if Path(name).exists():
        return True, f"in {name}"
    if hub_reachable():
        return True, "the hub answers; it is downloaded at the first use"
    import datasets

    folder = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")
    if folder.is_dir():
        return True, f"in the cache {folder}"
    return False, f"the hub does not answer, and {folder} does not exist"


def _parse(spec: str) -> tuple[str, str | None]:
    """Kind and place of a source, variables expanded."""
    kind, colon, place = str(spec).partition(":")
    if kind not in _SOURCES:
        as_path = f" A folder is written folder:{spec}." if re.search(r"[/\\~$]", kind) else ""
        raise SingError(
            f"Unknown picture source {spec!r}{near(kind, _SOURCES)}. Known: imagenet:<folder>, "
            f"imagenette, imagenette:<folder>, folder:<folder>, huggingface:<name>.{as_path}"
        )
    if not place:
        if kind == "imagenette" and not colon:
            return kind, None
        raise SingError(f"The picture source {spec!r} names no folder; write {kind}:<folder>.")
    if kind == "huggingface" and not re.match(r"[~$/.]", place):
        return kind, place  # a name at the hub or a relative folder
    return kind, str(expanded(place))
