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

from .errors import SingError
from .progress import Progress, progress_bar

__all__ = [
    "SOURCES", "Source", "cache_dir", "data_dir", "fetch", "read_manifest", "slug", "write_atomic",
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
    return Path(os.environ.get("SING_CACHE") or platformdirs.user_cache_dir("sing_nb"))


def data_dir() -> Path:
    """The project's ``data/`` folder (manifests, profiles, model names)."""
    return Path(__file__).resolve().parent.parent / "data"


def write_atomic(path: Path, content: bytes | str) -> Path:
    """Write a file so that a reader sees the old content or the new one, never a part of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def slug(name: str) -> str:
    """A name of a classifier or joint space as part of a file name: short and unambiguous."""
    plain = re.sub(r"[^\w.-]+", "-", name)
    if plain == name and len(plain) <= 60:
        return plain
    return f"{plain[-50:].lstrip('-.')}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


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
    if stamp.is_file() and json.loads(stamp.read_text()).get("manifest") == fingerprint:
        return root
    if not (root.is_dir() and not _wrong(root, rows, name, progress)):
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
    write_atomic(stamp, json.dumps({"manifest": fingerprint, "files": len(rows)}))
    return root


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
    folder = cache_dir() / "deb"
    folder.mkdir(parents=True, exist_ok=True)
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
