"""What is kept on disk from one process to the next, tensors and tables: whole, or not at all.

Every file carries a checksum. One that is damaged, were it by one bit, is made again, and that is
said; of files from before there were checksums only the form is looked at.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pandas as pd
import safetensors.torch
import torch
from safetensors import safe_open

from ..errors import SingError
from ..progress import say
from .fetch import write_atomic

__all__ = [
    "checksum", "content_key", "keep", "keep_table", "kept", "kept_table", "opened",
    "read_or_none", "seal",
]

SEAL = b"sing-sha256:"
BLANK = b"0" * 64
Thing = TypeVar("Thing")


def content_key(*parts: object) -> str:
    """Short hash (20 hex digits) of tensors, files and whatever else has a ``repr``.

    Parameters
    ----------
    *parts : torch.Tensor, pathlib.Path or object
        A tensor counts by shape, dtype and bytes, a file by its content; the rest by its ``repr``,
        which has to be the same in every process.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            digest.update(f"{tuple(part.shape)} {part.dtype} ".encode())
            digest.update(_bytes(part))
        elif isinstance(part, Path):
            with part.open("rb") as file:
                for piece in iter(lambda file=file: file.read(2**20), b""):
                    digest.update(piece)
        else:
            digest.update(repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:20]


def keep(
    path: Path, tensors: Mapping[str, torch.Tensor], about: object = None, *,
    optional: bool = False,
) -> Path:
    """Write tensors, and what is to be known of them (as JSON), to one file, atomically.

    `optional` is that of :func:`~sing_nb.pictures.fetch.write_atomic`.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(about)
    # One entry: of several the order is another in every process, and so were the files' bytes.
    metadata = {"kept": json.dumps({"about": text, "sha256": checksum(held, text)})}
    return write_atomic(path, safetensors.torch.save(held, metadata), optional=optional)


def kept(path: Path, *, older: bool = False) -> tuple[dict[str, torch.Tensor], object] | None:
    """What :func:`keep` wrote; None if the file is missing or damaged, were it by one bit.

    Parameters
    ----------
    path : pathlib.Path
    older : bool
        Whether a file without a checksum is taken, too, as those from before there were any; what
        is known of it is None.
    """
    try:
        return opened(Path(path), older)
    except (FileNotFoundError, SingError):
        return None


def opened(path: Path, older: bool = False) -> tuple[dict[str, torch.Tensor], object]:
    """What :func:`kept` returns, with an error where that returns None.

    Raises
    ------
    FileNotFoundError
    SingError
        If the file is damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            # Copies: what is mapped would end the process where someone cuts the file short.
            held = {name: file.get_tensor(name).clone() for name in names}
    except (safetensors.SafetensorError, IsADirectoryError) as error:
        raise SingError(f"{path} is no whole safetensors file ({error})") from error
    if older and not metadata:
        return held, None
    try:
        said = json.loads(metadata["kept"]) if "kept" in metadata else metadata
        text = said["about"]
        if said["sha256"] == checksum(held, text):
            return held, json.loads(text)
    except (ValueError, KeyError, TypeError):
        pass  # as wrong as another checksum
    raise SingError(f"{path}: its checksum differs")


def checksum(held: Mapping[str, torch.Tensor], text: str = "") -> str:
    """Short hash (20 hex digits) of named tensors and a text, for a file's own metadata."""
    return content_key(text, *(part for name in sorted(held) for part in (name, held[name])))


def keep_table(path: Path, table: pd.DataFrame) -> Path:
    """Write a table as Parquet, atomically, with a checksum of all its bytes and of its name."""
    return write_atomic(path, seal(table, Path(path).name))


def seal(table: pd.DataFrame, name: str) -> bytes:
    """A table as Parquet whose footer holds the SHA-256 of the file, its own digits as zeros.

    Parameters
    ----------
    table : pandas.DataFrame
    name : str
        Of the file: under another one it counts as another table's.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer, held = io.BytesIO(), pa.Table.from_pandas(table)
    with pq.ParquetWriter(buffer, held.schema) as writer:
        writer.write_table(held)
        writer.add_key_value_metadata({"checksum": (SEAL + BLANK).decode()})
    content = buffer.getvalue()
    start = content.rindex(SEAL + BLANK) + len(SEAL)
    return content[:start] + _digest(content, start, name) + content[start + len(BLANK) :]


def kept_table(path: Path) -> pd.DataFrame:
    """What :func:`keep_table` wrote, or an older Parquet file without a checksum.

    Raises
    ------
    FileNotFoundError
    SingError
        If it is damaged, were it by one bit, or another table's.
    """
    content = Path(path).read_bytes()
    at = content.rfind(SEAL)
    if at >= 0:
        start = at + len(SEAL)
        if content[start : start + len(BLANK)] != _digest(content, start, Path(path).name):
            raise SingError(f"{path}: its checksum differs")
    try:
        return pd.read_parquet(io.BytesIO(content))
    except (OSError, ValueError) as error:  # pyarrow raises kinds of both
        raise SingError(f"{path} is no whole Parquet file ({error})") from error


def _digest(content: bytes, start: int, name: str) -> bytes:
    blank = content[:start] + BLANK + content[start + len(BLANK) :]
    return hashlib.sha256(name.encode() + b"\0" + blank).hexdigest().encode()


def read_or_none(
    path: Path, read: Callable[[Path], Thing], wrong: Callable[[Thing], str] = lambda found: "",
) -> Thing | None:
    """What a file holds; None if it is missing or is to be made again, which is said in one line.

    Parameters
    ----------
    path : pathlib.Path
    read : callable
        Reads it; raises :class:`SingError` for a damaged file.
    wrong : callable, optional
        What is wrong with what was read, in words; empty for nothing.
    """
    try:
        found = read(path)
        why = wrong(found)
    except FileNotFoundError:
        return None
    except SingError as error:
        why = str(error).removeprefix(str(path)).lstrip(": ").removeprefix("is ")
    if not why:
        return found
    say(f"{path} cannot be believed ({' '.join(why.split())[:200]}): it is made again.")
    return None


def _bytes(tensor: torch.Tensor) -> memoryview:
    # NumPy knows no bfloat16, but knows bytes.
    flat = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8)
    return flat.numpy().data
