"""Tensors with a card in one safetensors file: written atomically, checked when read."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from ..errors import SingError

__all__ = ["checksum", "read_tensors", "write_tensors"]


def checksum(tensors: Mapping[str, torch.Tensor], text: str = "") -> str:
    """Short hash (20 hex digits) of a text and named tensors: shapes, dtypes and bytes."""
    digest = hashlib.sha256(repr(text).encode() + b"\0")
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name!r}\0{tuple(tensor.shape)} {tensor.dtype} ".encode())
        # NumPy knows no bfloat16, but knows bytes.
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() + b"\0")
    return digest.hexdigest()[:20]


def write_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], kind: str, card: Mapping[str, object]
) -> Path:
    """Write tensors, and a card of what JSON holds under the name `kind`."""
    path, text = Path(path), json.dumps(card, sort_keys=True)
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sealed = json.dumps({**card, "checksum": checksum(held, text)}, sort_keys=True)
    fresh = path.with_name(f".{path.name[:80]}.{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            safetensors.torch.save_file(held, fresh, {kind: sealed})
            os.replace(fresh, path)  # a reader sees the old file or the new one, never a part
        finally:
            fresh.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise SingError(
            f"{path} was not written ({error}); what lay there before is as it was. Make room, or "
            f"give another folder."
        ) from error
    return path


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, torch.Tensor], dict]:
    """What :func:`write_tensors` wrote: the tensors and their card."""
    try:
        with safe_open(str(path), framework="pt") as file:
            card = dict(json.loads((file.metadata() or {})[kind]))
            # Copies: what is mapped would end the process where someone cuts the file short.
            held = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
        raise SingError(
            f"{path} is not a whole file in safetensors format with {kind!r} in its metadata "
            f"({error!r}). Write it again where it came from."
        ) from error
    written = card.pop("checksum", None)  # files of older code have none
    if written not in (None, checksum(held, json.dumps(card, sort_keys=True))):
        raise SingError(f"{path} is damaged: its checksum differs. Write it again.")
    return held, card
