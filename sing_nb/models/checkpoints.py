"""Weights of a reader's own: the parts of a checkpoint that fit an architecture, as it says."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from ..errors import SingError
from .heads import find_layers

__all__ = ["load_checkpoint", "read_weights"]

_SETTINGS = ("input_size", "img_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")
State = Mapping[str, torch.Tensor]


def load_checkpoint(
    make: Callable[..., nn.Module], file: str, name: str
) -> tuple[nn.Module, list[str], dict[str, object]]:
    """A network of an architecture with the weights in a file."""
    path = Path(file).expanduser()
    checkpoint = read_weights(path, name)
    tensors, sketch = dict(_flat(checkpoint)), _sketched(make)
    layer = find_layers(sketch, name)[0]
    key = next(f"{key}.weight" for key, part in sketch.named_modules() if part is layer)
    prefixes = [found.removesuffix(key) for found in tensors
                if found == key or found.endswith((f".{key}", f"/{key}"))]
    wanted = list(_shapes(sketch.state_dict()))
    whole = [one for one in prefixes if all(one + part in tensors for part in wanted)]
    if not prefixes:
        raise SingError(
            f"{name}: {path.name} holds no head: {key} is missing among {len(tensors)} tensors "
            f"({', '.join(list(tensors)[-4:])}). Expected a state dict of the whole classifier in "
            f"the names of the library.")
    prefix = max(whole or prefixes, key=lambda one: ("ema" in one.lower(), -len(one)))
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    model = make(num_classes=len(state[key]))
    own = model.state_dict()
    if wrong := _misfit(state, own):
        raise SingError(
            f"{name}: {path.name} does not fit the architecture: {wrong}. Name the architecture "
            f"that these weights were saved from, and save them before they are quantised.")
    model.load_state_dict({k: v for k, v in state.items() if k in own})
    left = dict.fromkeys(
        next((one for one in prefixes if one and k.startswith(one)), k.split(".")[0]) + "*"
        for k in tensors if not (k.startswith(prefix) and k.removeprefix(prefix) in own))
    taken = f"{prefix}*" if prefix else "of the architecture's own names"
    notes = [f"Of {path.name} the weights {taken} were taken; left out: {', '.join(left)}."]
    said = checkpoint.get("args")
    said = vars(said) if isinstance(said, argparse.Namespace) else {}
    settings = {key: said[key] for key in _SETTINGS if said.get(key) is not None}
    return model, notes if left else [], settings


def _sketched(make: Callable[[], nn.Module]) -> nn.Module:
    """A model's architecture without weights, if it can be had without."""
    try:
        with torch.device("meta"):
            return make()
    except NotImplementedError:  # a few of torchvision's look at their weights as they are made
        return make()


def read_weights(path: Path, name: str) -> Mapping:
    """What a file of weights holds; no code in it is run."""
    if not path.is_file():
        raise SingError(f"{name}: there is no file {path.absolute()}.")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch does not look at its checksums
                if bad := archive.testzip():
                    raise zipfile.BadZipFile(f"the checksum of {bad} is wrong")
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm's settings
            found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, Mapping):
            raise TypeError(f"it holds {type(found).__name__}")
    except Exception as error:  # safetensors, pickle and zip each raise their own kinds
        raise SingError(
            f"{name}: {path.name} could not be read as weights "
            f"({' '.join(f'{type(error).__name__}: {error}'.split())[:200]}). Expected a state "
            f"dict, as safetensors or saved by torch.save; code in a pickle is never run. Of a "
            f"TorchScript archive torch.save(torch.jit.load(file).state_dict(), 'weights.pt') "
            f"saves it, of a whole module torch.save(module.state_dict(), 'weights.pt')."
        ) from error
    return found


def _flat(part: Mapping, where: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors in a checkpoint by where they lie: ``state_dict/fc.weight``."""
    for key, inside in part.items():
        if isinstance(inside, Mapping):
            yield from _flat(inside, f"{where}{key}/")
        elif isinstance(inside, torch.Tensor):
            yield f"{where}{key}", inside


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}


def _misfit(state: State, own: State) -> str:
    """In what tensors differ from an architecture's, with the first of each kind; "" in nothing."""
    have, want = _shapes(state), _shapes(own)
    tops = {key.split(".")[0] for key in want}
    wrong = {
        "missing": [key for key in want if key not in have],
        "unknown to it": [key for key in have if key not in want and key.split(".")[0] in tops],
        "of another shape": [
            f"{key} {have[key]} for {shape}" for key, shape in want.items()
            if have.get(key, shape) != shape],
        "not of a floating type": [
            f"{key} {state[key].dtype}" for key in want
            if key in have and own[key].is_floating_point() != state[key].is_floating_point()]}
    return ", ".join(f"{len(keys)} {what} ({keys[0]})" for what, keys in wrong.items() if keys)
