"""The last linear layer of a network: found, watched while the network runs, held against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from ..errors import SingError

__all__ = [
    "Head", "find_layers", "is_head", "is_read_once", "joined", "last_step", "read_features",
    "upcast", "watched"]

Inputs = list[list[torch.Tensor]]  # of each layer that is watched, one tensor per call


class Head(NamedTuple):
    """The last linear layer: its weight (c, m) and its bias (c,) or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None


def find_layers(module: nn.Module, name: str) -> list[nn.Module]:
    """The linear layers that make a module's logits: one, or two that are averaged."""
    if hasattr(module, "get_classifier"):  # timm
        found = module.get_classifier()
    elif hasattr(module, "distillation_classifier"):  # DeiT and LeViT of transformers
        found = (module.cls_classifier, module.distillation_classifier)
    else:
        found = module
    if isinstance(found, nn.Module) and hasattr(found, "head_dist"):  # RepViT, iFormer
        found = [part for part in (found.head, found.head_dist) if _last_layer(part)]
    parts = list(found) if isinstance(found, tuple | list | nn.ModuleList) else [found]
    layers = [_last_layer(part) for part in parts]
    if len(layers) not in (1, 2) or None in layers:
        raise SingError(
            f"{name}: no linear head found (got {type(found).__name__}). A null space of the head "
            f"needs a Linear or 1 x 1 convolution as the last layer. For a backbone choose a "
            f"variant with a classifier, or add a head; give a quantised model as it was before.")
    if len({layer.weight.shape[0] for layer in layers}) > 1:
        raise SingError(f"{name}: its two heads have different numbers of classes.")
    return layers


def _last_layer(part: object) -> nn.Module | None:
    """The last Linear or 1 x 1 convolution in a module, for heads that hold more than one step."""
    inside = part.modules() if isinstance(part, nn.Module) else ()
    return next(iter([layer for layer in inside if is_head(layer)][::-1]), None)


def is_head(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.Conv2d) and layer.kernel_size == layer.stride == (1, 1)
        and layer.groups == 1 and layer.padding in ((0, 0), "valid", "same"))


def is_read_once(layer: nn.Module, parts: list[torch.Tensor], n: int) -> bool:
    """Whether a layer was applied once, to a row or a map of features for each of n pictures."""
    return len(parts) == 1 and parts[0].ndim > 1 and len(parts[0]) == n and (
        parts[0].shape[1 if isinstance(layer, nn.Conv2d) else -1] == layer.weight.shape[1])


def joined(layers: Sequence[nn.Module]) -> Head:
    """One layer, or several whose logits are averaged as one that reads their features in a row."""
    weights = [layer.weight.detach().flatten(1) for layer in layers]
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    if len(layers) == 1:
        return Head(weights[0], biases[0] if biases else None)
    # A power of two: halving rounds nothing.
    bias = torch.stack([upcast(one) for one in biases]).sum(0) / len(layers) if biases else None
    return Head(torch.cat(weights, dim=1) / len(layers), bias)


def upcast(x: torch.Tensor | None) -> torch.Tensor | None:
    """Half precision as float32, which holds its every value; the rest as it is."""
    return x.float() if x is not None and x.dtype in (torch.float16, torch.bfloat16) else x


def watched(
    module: nn.Module, layers: Sequence[nn.Module], x: torch.Tensor
) -> tuple[Inputs, object]:
    """Run a module once: what entered each of the layers, and the output."""
    inputs: Inputs = [[] for _ in layers]
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, into=into: into.append([*args, *kwargs.values()][0]),
            with_kwargs=True)
        for layer, into in zip(layers, inputs)]
    try:
        output = module(x)
    finally:
        for hook in hooks:
            hook.remove()
    output = getattr(output, "logits", output)  # transformers return an object
    if isinstance(output, torch.Tensor) and output.ndim < 2:
        output = output.reshape(-1, 1)  # one logit per picture, squeezed
    return inputs, output


def read_features(layers: Sequence[nn.Module], inputs: Inputs) -> torch.Tensor:
    """What entered the layers as (n, m): the mean over positions, and several heads in a row."""
    rows = []
    for layer, (x,) in zip(layers, inputs):
        x = upcast(x)
        if x.ndim > 2:
            x = x.flatten(2).mean(2) if isinstance(layer, nn.Conv2d) else x.flatten(1, -2).mean(1)
        rows.append(x)
    return torch.cat(rows, dim=1)


def last_step(
    made: torch.Tensor, output: torch.Tensor, tolerance: float
) -> tuple[str, float] | None:
    """The step from W f + b (n, c) to the output and the positive scale before it, if any does."""
    x, y = made.double(), output.flatten(1).double()
    if x.shape != y.shape:
        return None
    top = y.argmax(1, keepdim=True)
    less, log = x - x.gather(1, top), y.log()  # what softmax leaves: differences to the largest
    for step, forward, before, after, error in (
        ("", torch.Tensor.clone, x, y, tolerance),
        ("log-softmax", functional.log_softmax, less, y - y.gather(1, top), tolerance),
        ("softmax", functional.softmax, less, log - log.gather(1, top), 10 * tolerance),
        ("sigmoid", torch.sigmoid, x, y.logit(), 10 * tolerance),
    ):
        known = after.isfinite() & (not step or after.abs() < 12)  # beyond, float32 saturates
        p, q = before[known], after[known]
        scales = [1.0, float(p @ q / (p @ p))] if len(p) > 3 and p.any() else [1.0]
        for scale in scales:
            again = forward(scale * x, dim=1) if "softmax" in step else forward(scale * x)
            if scale > 0 and torch.allclose(again, y, error, error * float(y.abs().max())):
                return step, scale
    return None
