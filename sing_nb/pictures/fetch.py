"""Folders and atomic writes, and the pictures of the offline profile: two Debian packages."""

from __future__ import annotations

import csv
import hashlib
import http.client
import io
import json
import lzma
import os
import re
import shutil
import tarfile
import tempfile
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

import platformdirs
from filelock import FileLock

from ..errors import SingError
from ..progress import progress_bar, say

__all__ = [
    "SOURCES", "Source", "cache_dir", "data_dir", "debian_mirrors", "fetch", "make_folder",
    "named_folder", "read_manifest", "say_once", "slug", "write_atomic"]


@dataclass(frozen=True)
class Source:
    """A set of pictures inside a Debian package."""

    archive: str  # its place on a mirror, below pool/<component>
    root: str  # folder inside the package that the manifest's paths start from
    manifest: str  # file in data/ with at least the columns path and sha256


SOURCES = {
    "stamps": Source(
        "t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb",
        "usr/share/tuxpaint/stamps", "stamps.csv"),
    "clipart": Source(
        "o/openclipart/openclipart-png_0.18+dfsg-19_all.deb", "usr/share/openclipart/png",
        "clipart.csv")}
COMPONENTS = ("main", "universe")  # of Debian, and of Ubuntu, whose builds hold the same files
APT = Path("/etc/apt")


# --- folders and files --------------------------------------------------------------------------


def cache_dir() -> Path:
    """Folder for downloads: ``$SING_CACHE``, or ``sing_nb`` in the user's cache folder."""
    return named_folder("SING_CACHE") or Path(platformdirs.user_cache_dir("sing_nb"))


def named_folder(variable: str) -> Path | None:
    """Folder that an environment variable names, made absolute there; None if it names none."""
    text = os.environ.get(variable)
    if not text:
        return None
    path = Path(text).expanduser().absolute()
    # Processes that this one starts, such as the kernels of chapters, run in other folders.
    os.environ[variable] = str(path)
    return path


def data_dir() -> Path:
    """The project's ``data/`` folder (manifests, profiles, model names)."""
    return Path(__file__).resolve().parents[2] / "data"


def write_atomic(path: Path, content: bytes | str, *, optional: bool = False) -> Path:
    """Write a file so that a reader sees the old content or the new one, never a part of it."""
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-") as folder:
            fresh = Path(folder) / path.name
            fresh.write_bytes(data)
            os.replace(fresh, path)
    except OSError as error:
        if not optional:
            raise _refused(path, error) from error
        say_once(f"{path.parent} takes no file ({error.strerror}): what is kept there to save "
                 f"time is computed again by every process. SING_CACHE names another folder.")
    return path


def make_folder(path: Path) -> Path:
    """Make a folder, and those above it, where they are missing."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(path, error) from error
    return Path(path)


def _refused(path: Path, error: OSError) -> SingError:
    return SingError(
        f"{path} was not written ({error.strerror or error}); what lay there before is as it was. "
        f"Make room or give another folder: SING_BUILD is where results go, SING_CACHE where "
        f"downloads do.")


say_once = cache(say)


def slug(name: str) -> str:
    """A name of a classifier or joint space as part of a file name: short and unambiguous."""
    plain = re.sub(r"[^\w.-]+", "-", name)
    # Bytes: a file name holds 255 of them, and a letter may take four.
    if plain == name and 0 < len(plain.encode()) <= 60 and plain[0] not in ".-":
        return plain
    end = plain.encode()[-50:].decode(errors="ignore").lstrip("-.") or "x"
    # Names of files may hold bytes that are no text.
    return f"{end}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:6]}"


# --- pictures -----------------------------------------------------------------------------------


def read_manifest(name: str) -> list[dict[str, str]]:
    """Rows of a manifest in ``data/``; a path that leaves the source's folder is refused."""
    path = data_dir() / name
    if not path.is_file():
        raise SingError(f"The manifest {path} is missing; restore it with `git checkout data/`.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"path", "sha256"} <= rows[0].keys():
        raise SingError(f"{path} needs rows with the columns path and sha256.")
    for row in rows:
        if Path(row["path"]).is_absolute() or ".." in Path(row["path"]).parts:
            raise SingError(f"{path}: the path {row['path']!r} leaves its folder; remove the row.")
    return rows


def fetch(name: str, *, progress: bool = True) -> Path:
    """Folder of a source's pictures: downloaded, unpacked and checked where they are not yet."""
    if name not in SOURCES:
        raise SingError(f"Unknown picture source {name!r}; known: {', '.join(SOURCES)}.")
    source = SOURCES[name]
    rows, home = read_manifest(source.manifest), cache_dir() / name
    root, stamp = home / source.root, home / "verified.json"
    if stamp.is_file() and stamp.read_bytes() == _seen(root, rows):
        return root
    wrong = _wrong(root, rows)
    if wrong:
        if root.is_dir():
            say(f"{len(wrong)} of {len(rows)} files in {root} are missing or changed, for example "
                f"{wrong[0]}: they are fetched again.")
        with FileLock(make_folder(cache_dir() / "deb") / f"{name}.lock"):
            if _wrong(root, rows):  # another process may have fetched them meanwhile
                _fetch_anew(source, rows, home, progress)
    # Checking takes seconds: the next process only looks whether any file was touched.
    write_atomic(stamp, _seen(root, rows), optional=True)
    return root


def _seen(root: Path, rows: list[dict[str, str]]) -> bytes:
    """Checksums, sizes and times of the files: another text once one is changed or missing."""
    states = []
    for row in rows:
        with suppress(OSError):
            status = os.lstat(root / row["path"])
            states.append((row["sha256"], status.st_mode, status.st_size, status.st_mtime_ns))
    seen = hashlib.sha256(repr(states).encode()).hexdigest()
    return json.dumps({"files": len(states), "seen": seen}).encode()


def _wrong(root: Path, rows: list[dict[str, str]]) -> list[str]:
    """Paths that are missing or whose SHA-256 differs."""
    return [row["path"] for row in rows if _sha256(root / row["path"]) != row["sha256"]]


def _sha256(path: Path) -> str:
    is_real = path.is_file() and not path.is_symlink()
    return hashlib.sha256(path.read_bytes()).hexdigest() if is_real else ""


def _fetch_anew(source: Source, rows: list[dict[str, str]], home: Path, progress: bool) -> None:
    """Download and unpack beside the final place, check, then swap: a kill leaves nothing half."""
    archive = _download(source, progress)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=f".{home.name}.") as folder:
        fresh = Path(folder) / "tree"
        try:
            _unpack(archive, fresh, {f"{source.root}/{row['path']}" for row in rows}, progress)
        except (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError) as error:
            raise SingError(
                f"{archive.name} could not be unpacked ({error}); run again to fetch it anew."
            ) from error
        finally:
            archive.unlink()
        wrong = _wrong(fresh / source.root, rows)
        if wrong:
            raise SingError(
                f"{len(wrong)} of {len(rows)} pictures in {archive.name} are not the ones that "
                f"data/{source.manifest} names, for example {wrong[0]}. Name another mirror of "
                f"Debian in SING_DEBIAN_MIRROR, or run a profile with pictures of your own.")
        shutil.rmtree(home, ignore_errors=True)
        os.replace(fresh, home)


def debian_mirrors() -> list[str]:
    """``$SING_DEBIAN_MIRROR``, or all addresses that apt is configured with on this machine."""
    own = os.environ.get("SING_DEBIAN_MIRROR")
    if own:
        return [own.rstrip("/")]
    found = []
    for path in [APT / "sources.list", *sorted(APT.glob("*mirrors*.txt")),
                 *sorted((APT / "sources.list.d").glob("*.*"))]:
        if path.is_file():
            text = re.sub(r"(?m)^\s*#.*", "", path.read_text("utf-8", "replace"))
            found += [address.rstrip("/") for address in re.findall(r"https?://[^\s\]]+", text)]
    return list(dict.fromkeys(found))


def _download(source: Source, progress: bool) -> Path:
    """A package's archive, from the first mirror that has it."""
    target, failed = cache_dir() / "deb" / Path(source.archive).name, []
    for mirror in debian_mirrors():
        for component in COMPONENTS:
            address = f"{mirror}/pool/{component}/{source.archive}"
            partial = target.with_name(f"{slug(address)}.part")
            try:
                _receive(address, partial, progress)
            except (OSError, http.client.HTTPException) as error:
                failed.append(f"{address}: {error}")
            else:
                os.replace(partial, target)
                return target
    raise SingError(
        f"The pictures lie in the Debian package {target.name}, which could not be downloaded ("
        + ("; ".join(failed) or "apt is not configured here, so no mirror of Debian is known")
        + f"). Check the network and run again: what came so far is kept. Or name a mirror of "
        f"Debian, the address above its folder pool, in the variable SING_DEBIAN_MIRROR; or copy "
        f"the folder {cache_dir()} from a machine that has it; or use pictures of your own.")


def _receive(address: str, partial: Path, progress: bool) -> None:
    """Download to a file; what lies there from an interrupted download is not asked for again."""
    # One byte less than there is: of a complete file a server could not send "the rest".
    have = max(0, partial.stat().st_size - 1) if partial.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        if answer.status != 206:  # all of it comes
            have = 0
        total = have + int(answer.headers["Content-Length"] or 0)
        with (
            partial.open("r+b" if have else "wb") as file,
            progress_bar(progress, total=total, initial=have, desc="downloading pictures",
                         unit="B", unit_scale=True) as bar,
        ):
            file.seek(have)
            while block := answer.read(2**18):
                file.write(block)
                bar.update(len(block))
    if partial.stat().st_size < total:
        raise OSError("the download was cut short")


def _unpack(archive: Path, folder: Path, wanted: set[str], progress: bool) -> None:
    """Write those files of a Debian package that are wanted, and nothing else."""
    with (
        tarfile.open(fileobj=_data_tar(archive), mode="r|") as tar,
        progress_bar(progress, total=len(wanted), desc="unpacking pictures", unit="file") as bar,
    ):
        for member in tar:
            name = member.name.removeprefix("./")
            if name in wanted and member.isreg():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(tar.extractfile(member).read())
                bar.update(1)


def _data_tar(archive: Path) -> BinaryIO:
    """The files of a Debian package, a member ``data.tar.*`` of the archive, as a plain tar."""
    with archive.open("rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise ValueError("it does not begin as a Debian package")
        while len(header := file.read(60)) == 60:
            name, size = header[:16].decode().rstrip("/ "), int(header[48:58])
            if name.startswith("data.tar"):
                data = io.BytesIO(file.read(size))
                if not name.endswith(".zst"):
                    return lzma.open(data)
                import pyarrow  # Ubuntu packs so; Python itself reads it from 3.14 on

                return pyarrow.input_stream(data, compression="zstd")
            file.seek(size + size % 2, os.SEEK_CUR)
    raise ValueError("it holds no data.tar")
