"""Tensors kept in the user's cache from one process to the next: whole, or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open

from .fetch import write_atomic

__all__ = ["content_key", "keep", "kept"]


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


def keep(path: Path, tensors: Mapping[str, torch.Tensor], about: object = None) -> Path:
    """Write tensors, and what is to be known of them (as JSON), to one file, atomically."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(about)
    metadata = {"about": text, "sha256": _checksum(held, text)}
    return write_atomic(path, safetensors.torch.save(held, metadata))


def kept(path: Path) -> tuple[dict[str, torch.Tensor], object] | None:
    """What :func:`keep` wrote; None if the file is missing or damaged, were it by one bit."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            held = {name: file.get_tensor(name) for name in names}
    except (FileNotFoundError, safetensors.SafetensorError):
        return None
    text = metadata.get("about", "")
    return (held, json.loads(text)) if metadata.get("sha256") == _checksum(held, text) else None


def _checksum(held: Mapping[str, torch.Tensor], text: str) -> str:
    return content_key(text, *(part for name in sorted(held) for part in (name, held[name])))


def _bytes(tensor: torch.Tensor) -> memoryview:
    # NumPy knows no bfloat16, but knows bytes.
    flat = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8)
    return flat.numpy().data
