"""The spaces of a head, kept on disk: the decomposition of a wide head takes seconds."""

from __future__ import annotations

import torch

from ..method.nullspace import HeadSpaces
from ..pictures.cache import content_key, keep, kept
from ..pictures.fetch import cache_dir

__all__ = ["kept_spaces"]


def kept_spaces(weight: torch.Tensor, *, of_probabilities: bool = False) -> HeadSpaces:
    """`HeadSpaces.from_weight`, or `for_probabilities`, the same to the bit in every process."""
    key = content_key(weight.detach(), of_probabilities, torch.__version__)
    path = cache_dir() / "heads" / f"spaces-{key}.safetensors"
    found = kept(path)
    if found is not None:
        tensors, about = found
        return HeadSpaces.from_svd(tensors["values"], tensors["vectors"], **about)
    split = HeadSpaces.for_probabilities if of_probabilities else HeadSpaces.from_weight
    spaces = split(weight)
    keep(
        path, {"values": spaces.singular_values, "vectors": spaces.vectors},
        {"rank": spaces.rank, "tolerance": spaces.tolerance, "classes": spaces.classes},
        optional=True,
    )
    return spaces
