"""What is kept on disk from one process to the next: tensors as safetensors, tables as Parquet.

Files are written atomically. Tensors carry a SHA-256, Parquet its own checksums of pages: a damaged
file counts as missing and is made again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pandas as pd
import torch

from ..errors import SingError
from ..method.files import read_tensors, write_tensors
from ..progress import say
from .fetch import say_once, write_atomic

__all__ = ["content_key", "keep", "keep_table", "kept", "kept_table", "loaded", "opened",
           "read_or_none"]

Thing = TypeVar("Thing")


def content_key(*parts: object) -> str:
    """Short hash (20 hex digits) of tensors (shape, dtype, bytes), files (content) and the rest."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            digest.update(f"{tuple(part.shape)} {part.dtype} ".encode())
            # NumPy knows no bfloat16, but knows bytes.
            flat = part.detach().contiguous().cpu().view(-1).view(torch.uint8)
            digest.update(flat.numpy().data)
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
    """Write tensors, and what is to be known of them (as JSON); `optional` as in `write_atomic`."""
    try:
        return write_tensors(path, tensors, "kept", {"about": json.dumps(about)})
    except SingError as error:
        if not optional:
            raise
        say_once(f"{error} SING_CACHE names another; without it, each process computes this anew.")
    return path


def kept(path: Path) -> tuple[dict[str, torch.Tensor], object] | None:
    """Tensors that :func:`keep` wrote, and what is known of them; None if missing or damaged."""
    try:
        return opened(path)
    except (FileNotFoundError, SingError):
        return None


def opened(path: Path) -> tuple[dict[str, torch.Tensor], object]:
    """What :func:`kept` returns; FileNotFoundError or :class:`SingError` where that is None."""
    if not Path(path).exists():
        raise FileNotFoundError(path)
    held, card = read_tensors(path, "kept")
    try:
        return held, json.loads(card["about"])
    except (ValueError, LookupError, TypeError) as error:
        raise SingError(f"{path} is damaged: {error!r}") from error


def keep_table(path: Path, table: pd.DataFrame) -> Path:
    """Write a table (with its ``attrs``) as Parquet whose pages carry checksums."""
    buffer = io.BytesIO()
    try:
        table.to_parquet(buffer, write_page_checksum=True)
    except (ValueError, TypeError) as error:
        raise SingError(
            f"This table cannot be kept as Parquet, whose columns hold one type each: {error}"
        ) from error
    return write_atomic(path, buffer.getvalue())


def kept_table(path: Path) -> pd.DataFrame:
    """Read a Parquet file; :class:`SingError` if it is damaged, FileNotFoundError if missing."""
    content = Path(path).read_bytes()
    try:
        return pd.read_parquet(io.BytesIO(content), page_checksum_verification=True)
    except Exception as error:  # of damaged headers, pyarrow and pandas raise many kinds
        raise SingError(f"{path} is no whole Parquet file ({error})") from error


def loaded(kind: type[Thing], path: Path) -> Thing:
    """What `kind`, such as a Translator, loads from a file; FileNotFoundError if it is missing."""
    if not path.is_file():
        raise FileNotFoundError(path)
    return kind.load(path)


def read_or_none(
    path: Path, read: Callable[[Path], Thing], wrong: Callable[[Thing], str] = lambda found: "",
) -> Thing | None:
    """What `read` finds; None if the file is missing, or damaged or `wrong`, which is said."""
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
