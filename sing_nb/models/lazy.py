"""Classifiers whose head is known and whose network is built when it is first needed.

Most stages of a run look at heads and stored features alone: they need no network, and none of the
libraries that take seconds to load.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import nn

from ..errors import SingError
from ..pictures.cache import content_key, keep, kept
from .classifier import Classifier
from .heads import Head

__all__ = ["LazyClassifier", "keep_classifier", "lazily", "read_classifier", "with_head"]


class LazyClassifier(Classifier):
    """A head, what is known beside it, and how its network is built."""

    def __init__(
        self, name: str, head: Head, origin: str, build: Callable[[], Classifier], **about: object
    ) -> None:
        self.name, self.head, self._origin, self._build = name, head, origin, build
        given = {"title": name, "own_name": name, "class_names": None, "notes": [], "known": {}}
        vars(self).update(given | about)

    def __getattr__(self, name: str) -> object:
        # Asked for what is not here: the module, its transform, what is known of its layers.
        if name.startswith("__") or "_build" not in vars(self) or self.is_built:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        built = vars(self._build())
        vars(self).update({key: part for key, part in built.items() if key not in vars(self)})
        return getattr(self, name)

    @property
    def is_built(self) -> bool:
        """Whether the network is in memory, where its weights may be changed."""
        return "module" in vars(self)

    @property
    def origin(self) -> str | None:
        """Hash of what the network is built from; None once it is built."""
        return None if self.is_built else self._origin


def _keep(classifier: Classifier, path: Path, **more: object) -> Path:
    head = {name: part for name, part in classifier.head._asdict().items() if part is not None}
    about = {"class_names": classifier.class_names, "notes": classifier.notes} | more
    return keep(path, head, about, optional="known" not in more)


def _kept(path: Path) -> tuple[Head, dict[str, object]] | None:
    tensors, about = kept(path) or ({}, None)
    if "weight" not in tensors or not isinstance(about, dict):
        return None
    return Head(tensors["weight"], tensors.get("bias")), about


def lazily(name: str, path: Path, origin: str, build: Callable[[], Classifier]) -> Classifier:
    """A classifier of which only the head is read from a file; it is built once to write that."""
    if _kept(path) is None:
        built = build()
        _keep(built, path)
        head, about = built.head, {"class_names": built.class_names, "notes": built.notes}
    else:
        head, about = _kept(path)
    return LazyClassifier(name, head, origin, build, **about)


def keep_classifier(classifier: Classifier, path: Path, key: str, pictures: Iterable[str]) -> str:
    """Keep what others need of a classifier whose features of some pictures are known, by `key`."""
    known = {content_key("\n".join(pictures)): key}
    about = {"own_name": classifier.name, "title": classifier.title, "known": known}
    return f"kept:{_keep(classifier, Path(path).absolute(), **about)}"


def read_classifier(name: str, file: str) -> LazyClassifier:
    """What :func:`keep_classifier` kept; asked for its network it says that there is none."""
    path = Path(file).expanduser()
    head, about = _kept(path) or (None, {})
    if "known" not in about:
        raise SingError(
            f"{name}: {path.absolute()} is missing, damaged, or not what keep_classifier writes. "
            f"Run the report again from the process that has the classifier.")

    def build() -> Classifier:
        raise SingError(
            f"The network of {about['title']} stayed with the process that it was made in, and "
            f"its pictures, settings or features changed since. Run the report again from there, "
            f"or give the classifier as a file (file.py:factory, timm/<architecture>:<file>).")

    return LazyClassifier(name, head, content_key(about["known"]), build, **about)


def with_head(
    base: Classifier, weight: torch.Tensor, bias: torch.Tensor | None = None, *, name: str,
    class_names: Sequence[str] | None = None,
) -> Classifier:
    """A classifier with the network of another, copied, and a head (c', m) of one's own on it."""
    m = base.head.weight.shape[1]
    if weight.ndim != 2 or weight.shape[1] != m or not len(weight):
        raise SingError(
            f"{name}: a head of the shape {tuple(weight.shape)} does not read the {m} features of "
            f"{base.name}; expected (classes, {m}).")

    def build() -> Classifier:
        if len(base.layers) != 1:
            raise SingError(f"{name}: {base.name} has two heads; expected a network with one.")
        copied: dict[int, nn.Module] = {}
        module = copy.deepcopy(base.module, copied)
        layer = copied[id(base.layers[0])]
        # Changed in place: whatever else of the network points at the layer goes on doing so.
        old = layer.weight
        layer.weight = nn.Parameter(weight.to(old).reshape(-1, *old.shape[1:]).clone())
        layer.bias = None if bias is None else nn.Parameter(bias.to(old).clone())
        return Classifier(
            module, [layer], name=name, transform=base.transform, class_names=class_names)

    if not isinstance(base, LazyClassifier) or base.is_built:
        return build()
    head = Head(weight.float(), None if bias is None else bias.float())
    origin = content_key(base.origin, *(part for part in head if part is not None))
    names = None if class_names is None else list(class_names)
    return LazyClassifier(name, head, origin, build, class_names=names, notes=list(base.notes))
