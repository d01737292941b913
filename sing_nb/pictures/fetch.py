"""Fetch the pictures of the offline profile: two Debian packages, unpacked into the user's cache.

Nothing is committed and nothing is trusted: every file that the book uses is named in a manifest
in ``data/`` with its SHA-256, and is checked against it before use.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import platformdirs

from ..errors import SingError
from ..progress import Progress, progress_bar, say

__all__ = [
    "SOURCES", "Source", "cache_dir", "data_dir", "fetch", "make_folder", "named_folder",
    "read_manifest", "slug", "write_atomic",
]


@dataclass(frozen=True)
class Source:
    """A set of pictures inside a Debian package.

    Attributes
    ----------
    package : str
        Name of the Debian package.
    root : str
        Folder inside the package that the manifest's paths start from.
    manifest : str
        File in ``data/`` with at least the columns ``path`` and ``sha256``.
    """

    package: str
    root: str
    manifest: str


APT_HELPER = Path("/usr/lib/apt/apt-helper")

SOURCES = {
    "stamps": Source("tuxpaint-stamps-default", "usr/share/tuxpaint/stamps", "stamps.csv"),
    "clipart": Source("openclipart-png", "usr/share/openclipart/png", "clipart.csv"),
}


def cache_dir() -> Path:
    """Folder for downloads: ``$SING_CACHE``, or ``sing_nb`` in the user's cache folder."""
    return named_folder("SING_CACHE") or Path(platformdirs.user_cache_dir("sing_nb"))


def named_folder(variable: str) -> Path | None:
    """Folder that an environment variable names; None if it names none.

    A relative one is made absolute in the variable itself: the processes that this one starts,
    such as the kernels of chapters, run in other folders.
    """
    text = os.environ.get(variable)
    if not text:
        return None
    path = Path(text).expanduser().absolute()
    os.environ[variable] = str(path)
    return path


def data_dir() -> Path:
    """The project's ``data/`` folder (manifests, profiles, model names)."""
    return Path(__file__).resolve().parents[2] / "data"


def write_atomic(path: Path, content: bytes | str, *, optional: bool = False) -> Path:
    """Write a file so that a reader sees the old content or the new one, never a part of it.

    Parameters
    ----------
    path : pathlib.Path
        Its folder is made if it is missing.
    content : bytes or str
    optional : bool
        Whether the file only saves time later: that a disk does not take it is only said then.

    Raises
    ------
    SingError
        If the disk does not take it: full, read-only, a file where a folder should be.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        why = f"{path.parent} takes no file ({error.strerror or error})"
        if not optional:
            raise SingError(
                f"{why}: {path.name}, {len(data):,} bytes, was not written; what lay there before "
                f"is as it was. Make room or give another folder: SING_BUILD is where results go, "
                f"SING_CACHE where downloads do."
            ) from error
        if path.parent not in _UNWRITABLE:
            _UNWRITABLE.add(path.parent)
            say(
                f"{why}: what is kept there to save time is computed again by every process. "
                f"SING_CACHE names another folder."
            )
    return path


def make_folder(path: Path) -> Path:
    """Make a folder, and those above it, where they are missing.

    Raises
    ------
    SingError
        If the disk does not take it: full, read-only, a file where a folder should be.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SingError(
            f"The folder {path} cannot be made ({error.strerror or error}). Make room, or give "
            f"another place: SING_BUILD is where results go, SING_CACHE where downloads do."
        ) from error
    return path


_UNWRITABLE: set[Path] = set()  # folders of which it was said


def slug(name: str) -> str:
    """A name of a classifier or joint space as part of a file name: short and unambiguous."""
    plain = re.sub(r"[^\w.-]+", "-", name)
    # Bytes: a file name holds 255 of them, and a letter may take four.
    if plain == name and 0 < len(plain.encode()) <= 60 and plain[0] not in ".-":
        return plain
    end = plain.encode()[-50:].decode(errors="ignore").lstrip("-.") or "x"
    # Names of files may hold bytes that are no text.
    return f"{end}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:6]}"


def read_manifest(name: str) -> list[dict[str, str]]:
    """Rows of a manifest in ``data/``; refuses paths that leave the source's folder.

    Parameters
    ----------
    name : str
        File name in ``data/``, for example ``"stamps.csv"``.

    Returns
    -------
    list of dict
        One dictionary a row.

    Raises
    ------
    SingError
        If the file is missing or empty, a column is missing, or a path is absolute or contains
        ``..``.
    """
    path = data_dir() / name
    if not path.is_file():
        raise SingError(f"The manifest {path} is missing; restore it with `git checkout data/`.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"path", "sha256"} <= rows[0].keys():
        raise SingError(f"{path} needs rows with the columns path and sha256.")
    for row in rows:
        parts = Path(row["path"]).parts
        if Path(row["path"]).is_absolute() or ".." in parts:
            raise SingError(f"{path}: the path {row['path']!r} leaves its folder; remove the row.")
    return rows


def fetch(name: str, *, progress: Progress = True) -> Path:
    """Make the pictures of one source available and return their folder.

    The package is downloaded by apt (no root is needed; a download that was interrupted is taken
    up where it stopped, if the server can), unpacked beside its final place, checked file by
    file against the manifest, and only then moved there.

    Parameters
    ----------
    name : {"stamps", "clipart"}
        A key of :data:`SOURCES`.
    progress : bool or callable
        Whether to show progress bars, or whom to tell (:mod:`sing_nb.progress`).

    Returns
    -------
    pathlib.Path
        Folder that the manifest's paths start from.

    Raises
    ------
    SingError
        If apt is missing or fails, or if a file is not the one the manifest names.
    """
    if name not in SOURCES:
        raise SingError(f"Unknown picture source {name!r}; known: {', '.join(SOURCES)}.")
    source = SOURCES[name]
    rows = read_manifest(source.manifest)
    home = cache_dir() / name
    root = home / source.root
    stamp = home / "verified.json"
    fingerprint = hashlib.sha256(
        "\n".join(f"{row['path']} {row['sha256']}" for row in rows).encode()
    ).hexdigest()
    if _stamped(stamp) == {"manifest": fingerprint, "seen": _seen(root, rows)}:
        return root
    wrong = _wrong(root, rows, name, progress) if root.is_dir() else None
    if wrong:
        say(f"{len(wrong)} of {len(rows)} files in {root} are missing or changed, for example "
            f"{wrong[0]}: the package is fetched again.")
    if wrong is None or wrong:
        archive = _download(source.package, progress)
        _unpack(archive, home)
        wrong = _wrong(root, rows, name, progress)
        if wrong:
            raise SingError(
                f"{len(wrong)} of {len(rows)} pictures in the Debian package {source.package} are "
                f"not the ones that data/{source.manifest} names, for example {wrong[0]}. Another "
                f"release of the package may hold other files: remove those rows from the "
                f"manifest, or run a profile with pictures of your own."
            )
        archive.unlink(missing_ok=True)
    done = {"manifest": fingerprint, "files": len(rows), "seen": _seen(root, rows)}
    write_atomic(stamp, json.dumps(done), optional=True)
    return root


def _stamped(stamp: Path) -> dict[str, str]:
    """What was checked, and how the files looked then; empty for a stamp that cannot be read."""
    try:
        found = json.loads(stamp.read_text(encoding="utf-8"))
        return {key: found[key] for key in ("manifest", "seen")}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _seen(root: Path, rows: list[dict[str, str]]) -> str:
    """Hash of the sizes and times of all files: who changes a picture changes it."""
    digest = hashlib.sha256()
    for row in rows:
        try:
            status = os.lstat(root / row["path"])
        except OSError:
            return ""
        digest.update(f"{status.st_mode} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _wrong(root: Path, rows: list[dict[str, str]], name: str, progress: Progress) -> list[str]:
    """Paths that are missing or whose SHA-256 differs."""
    wrong = []
    for row in progress_bar(
        progress, rows, total=len(rows), desc=f"checking {name}", unit="file"
    ):
        path = root / row["path"]
        real = path.is_file() and not path.is_symlink()
        if not real or hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            wrong.append(row["path"])
    return wrong


def _download(package: str, progress: Progress) -> Path:
    """Fetch a package's archive by apt's own means; refresh empty package lists once."""
    folder = make_folder(cache_dir() / "deb")
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb") and APT_HELPER.is_file()):
        raise SingError(
            f"The offline pictures come from the Debian package {package}, and this machine has "
            f"no apt-get. Run on Debian or Ubuntu, or copy the folder {cache_dir()} from a "
            f"machine that has it, or use a profile with pictures of your own (data/profiles)."
        )
    found = _locate(package)
    if found is None:
        # A fresh container has no package lists at all.
        done = subprocess.run(["apt-get", "update"], capture_output=True, text=True)
        found = _locate(package)
        if found is None:
            raise SingError(
                f"apt does not know the package {package}. Its lists were refreshed with "
                f"`apt-get update` (exit {done.returncode}): "
                f"{(done.stderr or done.stdout).strip()[-300:] or 'no message'}. Refresh them as "
                f"root, and see that a Debian or Ubuntu (universe) source is enabled."
            )
    target, partial = folder / found.name, folder / f"{found.name}.part"
    # `apt-get download` starts anew after an interruption; apt's helper asks for the rest only.
    # It would drop root's rights to a user that may not write to a private cache folder.
    command = [str(APT_HELPER), "-q", "-o", "APT::Sandbox::User=root", "download-file"]
    with (
        progress_bar(
            progress, total=found.size, desc=f"downloading {package}", unit="B", unit_scale=True
        ) as bar,
        tempfile.TemporaryFile("w+") as log,
    ):
        process = subprocess.Popen(
            [*command, found.uri, str(partial), found.hash], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None:
                time.sleep(0.2)
                bar.update((partial.stat().st_size if partial.exists() else 0) - bar.n)
        finally:
            # The partial file stays for the next try.
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode or not partial.is_file():
            log.seek(0)
            raise SingError(
                f"The download of {package} failed (exit {process.returncode}): "
                f"{log.read().strip()[-400:]} Check the network and run again; what came so far "
                f"is kept in {folder}."
            )
        bar.update(found.size - bar.n)
    os.replace(partial, target)
    return target


class _Archive(NamedTuple):
    uri: str
    name: str
    size: int
    hash: str


def _locate(package: str) -> _Archive | None:
    """Where apt would download a package from, or None if it does not know it."""
    shown = subprocess.run(
        ["apt-get", "download", "--print-uris", package], capture_output=True, text=True
    )
    match = re.search(r"^'(\S+)' (\S+) (\d+) (\S+)$", shown.stdout, re.MULTILINE)
    if shown.returncode or match is None:
        return None
    uri, name, size, digest = match.groups()
    return _Archive(uri, Path(name).name, int(size), digest)


def _unpack(archive: Path, home: Path) -> None:
    """Unpack beside the final place, then swap, so that a kill leaves no half-filled folder."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{home.name}.") as folder:
        fresh = Path(folder) / "tree"
        done = subprocess.run(
            ["dpkg-deb", "-x", str(archive), str(fresh)], capture_output=True, text=True
        )
        if done.returncode:
            archive.unlink(missing_ok=True)
            raise SingError(
                f"dpkg-deb could not unpack {archive.name} ({done.stderr.strip()[-200:]}). The "
                f"file was removed; run again to fetch it anew."
            )
        if home.exists():
            shutil.rmtree(home)
        os.replace(fresh, home)
