"""A torch image classifier, seen as features followed by one last linear head: logits = W f + b.

The feature is what enters the last linear layer when the model runs, caught by a hook. That W f + b
is the model's output is checked, not assumed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from ..errors import SingError
from ..method.metrics import check_real
from . import heads
from .heads import Head, Inputs

__all__ = ["Classifier", "wrap_classifier"]

STEADY = 0.01  # of a feature's length: what other kernels and half precision may change


class Classifier:
    """A classifier split at its head; made by ``wrap_classifier`` or ``load_classifier``.

    Logits are f W^T + b. Four forms need a word:

    - A head that reads a map of positions whose logits are averaged afterwards: f is the mean over
      positions, for a linear head commutes with it.
    - Two heads whose logits are averaged (distilled DeiT, LeViT): f = [f1; f2] side by side,
      W = [W1 W2] / 2 and b the mean.
    - One logit z: two classes by its sign, with the logits -z/2 and z/2; their softmax is
      sigmoid(z).
    - A softmax, log-softmax, sigmoid or temperature behind the head, which keeps the order of the
      classes: logits are what comes before it. A temperature is multiplied into the head when the
      model first runs, so that softmax of the logits gives the model's own probabilities.

    Attributes
    ----------
    name, title : str
        Name it was loaded under, and name for people.
    module : torch.nn.Module
        The model, in evaluation mode.
    head : Head
        Weight (c, m) and bias (c,), in the dtype that the model multiplies with.
    transform : callable or None
        Picture (PIL) to tensor (3, h, w).
    class_names : list of str or None
        One name per class.
    notes : list of str
        What was assumed where nothing was given, in sentences for a report.

    Examples
    --------
    >>> module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
    >>> clf = wrap_classifier(module, name="small")
    >>> clf
    Classifier('small', classes=5, features=12)
    >>> pictures = torch.rand(4, 3, 2, 2)
    >>> torch.allclose(clf.logits(clf.features(pictures)), module(pictures), atol=1e-5)
    True
    """

    def __init__(
        self, module: nn.Module, layers: Sequence[nn.Module], *, name: str,
        transform: Callable | None = None, class_names: Sequence[str] | None = None,
    ) -> None:
        if transform is not None and not callable(transform):
            raise SingError(
                f"{name}: the transform is {type(transform).__name__}; expected a function from a "
                f"PIL picture to a tensor (3, h, w), or None.")
        self.module = module.eval().requires_grad_(False)
        self.name = self.title = name
        self.transform = transform
        self.notes: list[str] = []
        self.head = heads.joined(layers)
        numbers = [part for part in self.head if part is not None and part.device.type != "meta"]
        if not all(part.isfinite().all() for part in numbers):
            raise SingError(
                f"{name}: the last linear layer {tuple(self.head.weight.shape)} holds NaN or "
                f"infinite numbers. Training may have diverged, or the file is damaged.")
        self._one_logit = len(self.head.weight) == 1
        if self._one_logit:
            self.head = Head(*(None if p is None else torch.cat([-p, p]) / 2 for p in self.head))
            self.notes.append(
                "Its one logit is read as two classes by its sign: the first of the names below "
                "0, the second above.")
        self.class_names = self.checked_names(class_names)
        self.layers = list(layers)
        self._step: str | None = None  # what follows the head: "" for nothing, None before a run
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
        """Move or cast the model, as :meth:`torch.nn.Module.to`, and return self; not the head."""
        self.module.to(*args, **kwargs)
        self._checked = set()
        return self

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Penultimate features (n, m) of transformed pictures (n, 3, h, w)."""
        return self.run(x)[0]

    def logits(self, f: torch.Tensor) -> torch.Tensor:
        """Logits f W^T + b, (n, c), of features (n, m)."""
        bias = None if self.head.bias is None else self.head.bias.to(f)
        return functional.linear(f, self.head.weight.to(f), bias)

    @torch.inference_mode()
    def run(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (n, m) and logits (n, c) of transformed pictures (n, 3, h, w), in one pass.

        On the model's device, in float32 or the model's own wider dtype; a SingError if the model
        fails, or if W f + b is not what it returns.
        """
        tracing = torch.jit.is_tracing()
        if not tracing:
            check_real(x, f"pictures given to {self.name}", whole=True)
            if self.device.type == "meta":
                raise SingError(f"{self.name} has no weights (device meta); load them first.")
        try:
            # A copy: what a model does to it in place is not done to the caller's pictures.
            own = x.to(device=self.device, dtype=self.dtype, copy=True)
            inputs, output = heads.watched(self.module, self.layers, own)
        except Exception as error:  # whatever a network's own code raises
            raise SingError(
                f"{self.name} fails on a batch of {len(x)} pictures {tuple(x.shape[1:])}: "
                f"{' '.join(f'{type(error).__name__}: {error}'.split())[:300]}. See what size of "
                f"picture it reads and that its transform makes such tensors, (3, h, w)."
            ) from error
        kind = (x.dtype, *(part.shape[1:] for parts in inputs for part in parts))
        if not tracing and len(x) and kind not in self._checked:
            self._check(x, inputs, output)
            self._checked.add(kind)
        features = heads.read_features(self.layers, inputs)
        if self._step or self._one_logit:
            return features, self.logits(features)
        return features, heads.upcast(output.flatten(1))

    def check_steady(self, example: torch.Tensor) -> None:
        """Refuse a model whose features of a batch are others each time, or in other company."""
        found = self.run(example)[0].float()
        for other, why in (
            (example, "run twice on the same pictures, it gives other features. Something draws "
             "random numbers: dropout by a function that does not ask self.training, noise"),
            (example[:1], "a picture's features depend on the others of its batch. Something reads "
             "the whole batch: a batch norm without running statistics, a mean over pictures"),
        ):
            truth = found[: len(other)]
            if (self.run(other)[0].float() - truth).norm() > STEADY * truth.norm():
                raise SingError(
                    f"{self.name}: {why}. What it says of a picture has to be the same each time; "
                    f"take that out, or give it a fixed seed or state in evaluation mode.")

    def traced(self, example: torch.Tensor) -> Callable[[torch.Tensor], tuple]:
        """:meth:`run` with batch norms folded, twice as fast on a CPU, if nothing changes."""
        features, _ = self.run(example)
        torch.jit.enable_onednn_fusion(torch.backends.mkldnn.is_available())  # a quarter faster
        try:
            with torch.inference_mode(), warnings.catch_warnings():
                # torch announces the end of torch.jit; its successor needs a C++ compiler and half
                # a minute per model. What a model decides by a batch's size is frozen; we compare.
                warnings.filterwarnings("ignore", r"`torch\.jit")
                warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
                traced = torch.jit.trace(_Run(self).eval(), example, check_trace=False)
                frozen = torch.jit.freeze(traced)
                frozen(example), frozen(example)  # torch.jit looks twice before it fuses
                same = all(
                    (frozen(example[:n])[0] - features[:n]).norm() < 1e-4 * features[:n].norm()
                    for n in (len(example), 1))
        except (RuntimeError, TypeError, ValueError, AttributeError):
            same = False  # torch.jit cannot follow it
        return torch.inference_mode()(frozen.forward) if same else self.run

    def checked_names(self, names: Sequence[str] | None) -> list[str] | None:
        """Class names as a list of single lines; refuses what does not fit the logits."""
        if names is None:
            return ["negative", "positive"] if self._one_logit else None
        listed = [] if isinstance(names, str | bytes) else list(names)
        if not listed or not all(isinstance(one, str) and one.strip() for one in listed):
            raise SingError(
                f"{self.name}: class names are a list of texts, none of them empty; got "
                f"{names!r:.80}.")
        listed = [" ".join(one.split()) for one in listed]
        if self._one_logit and len(listed) == 1:
            listed = [f"not {listed[0]}", *listed]
        if len(listed) != len(self.head.weight):
            raise SingError(
                f"{self.name}: {len(listed)} class names for {len(self.head.weight)} "
                f"{'classes of one logit' if self._one_logit else 'logits'}; give one name per "
                f"class, in the order of the head's rows.")
        return listed

    def _check(self, x: torch.Tensor, inputs: Inputs, output: object) -> None:
        """Hold W f + b against the output of a batch whose like was not seen before."""
        if not isinstance(output, torch.Tensor):
            raise SingError(
                f"{self.name} returns {type(output).__name__}, not logits; wrap a module that "
                f"returns a tensor (n, classes) or an object with .logits.")
        found = " and ".join(str(tuple(layer.weight.shape[:2])) for layer in self.layers)
        if not all(map(heads.is_read_once, self.layers, inputs, [len(x)] * len(inputs))):
            shapes = [tuple(part.shape) for parts in inputs for part in parts]
            raise SingError(
                f"{self.name}: the layer found {found} is not applied once to one row of features "
                f"per picture: of {len(x)} pictures it reads {shapes or 'nothing, it is not used'}."
                f" {self._advice(x)}")
        features = heads.read_features(self.layers, inputs)
        if not torch.isfinite(features).all():
            raise SingError(
                f"{self.name} gives NaN or infinite features; look at the model's weights and at "
                f"the pictures, which should be transformed with its own transform.")
        made = self.logits(features)
        # A model rounds its logits to its own dtype, up to a few steps of it.
        tolerance = max(1e-4, 4 * torch.finfo(self.dtype).eps)
        step = heads.last_step(2 * made[:, 1:] if self._one_logit else made, output, tolerance)
        if step is None or self._step not in (None, step[0]):
            raise SingError(
                f"{self.name}: W f + b of the layer found {found} is not the output "
                f"{tuple(output.shape)} of this model, nor its mean over positions or tokens, nor "
                f"does a softmax, sigmoid or temperature lead from it to the output. "
                f"{self._advice(x)}")
        name, scale = step
        if scale != 1:
            self.head = Head(*(None if p is None else heads.upcast(p) * scale for p in self.head))
            self.notes.append(
                f"Behind its head logits are multiplied by {scale:.4g}, which is counted as part "
                f"of the head.")
        if name and self._step is None:
            self.notes.append(f"A {name} follows its head; logits are what comes before it.")
        self._step = name

    def _advice(self, x: torch.Tensor) -> str:
        """What to do where the layer found is not the head: another one that is, by its name."""
        named = {name: one for name, one in self.module.named_modules() if heads.is_head(one)}
        own = x.to(device=self.device, dtype=self.dtype, copy=True)
        inputs, output = heads.watched(self.module, list(named.values()), own)
        for (name, layer), parts in zip(named.items(), inputs):
            if heads.is_read_once(layer, parts, len(x)):
                head = map(heads.upcast, heads.joined([layer]))
                made = functional.linear(heads.read_features([layer], [parts]), *head)
                if heads.last_step(made, output, 1e-3):
                    return (
                        f"Its logits are made by {name} {tuple(layer.weight.shape[:2])}: name it, "
                        f"sing.wrap_classifier(module, head={name!r}), which the factory of "
                        f"--model file.py:factory may return.")
        return "Wrap a model whose last step is one linear layer, and which returns its logits."


class _Run(nn.Module):
    """:meth:`Classifier.run` as a module, for tracing."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.module = classifier.module
        self._classifier = [classifier]  # in a list: not to be registered twice

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._classifier[0].run(x)


def wrap_classifier(
    module: nn.Module, transform: Callable | None = None,
    class_names: Sequence[str] | None = None, name: str = "custom",
    head: nn.Module | str | None = None,
) -> Classifier:
    """Wrap any module that ends in a linear head.

    Parameters
    ----------
    module : torch.nn.Module
        Returns logits (n, c), (n,) of one logit, or an object with ``.logits``. The head is timm's
        ``get_classifier()`` where there is one, else the last Linear or 1 x 1 convolution among
        its modules.
    transform : callable, optional
        Picture (PIL) to tensor (3, h, w).
    class_names : sequence of str, optional
        One name per class; two of one logit, first the class of negative ones.
    name : str
        Name for messages and tables.
    head : torch.nn.Module or str, optional
        The last linear layer or its dotted name, where another one would be found.

    Raises
    ------
    SingError
        If no linear head is found, or a name, the transform or the head's numbers are wrong.

    Examples
    --------
    >>> body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.ReLU())
    >>> wrap_classifier(torch.nn.Sequential(body, torch.nn.Linear(8, 3)), name="mine")
    Classifier('mine', classes=3, features=8)
    """
    if not isinstance(name, str) or not name.strip():
        raise SingError(f"A classifier's name is a text that is not empty; got {name!r}.")
    if not isinstance(module, nn.Module) or isinstance(module, torch.jit.ScriptModule):
        what = module.__name__ if isinstance(module, type) else type(module).__name__
        raise SingError(
            f"{name}: expected a torch.nn.Module that runs as Python; got {what}. Of a class make "
            f"an object; of a state dict the architecture, then load_state_dict; of TorchScript "
            f"the same, with load_state_dict(script.state_dict()), for hooks do not reach into it.")
    if head is None:
        layers = heads.find_layers(module, name)
    else:
        named = {key: part for key, part in module.named_modules() if heads.is_head(part)}
        layers = [part for key, part in named.items() if part is head or key == head]
        if not layers:
            raise SingError(
                f"{name}: head={head if isinstance(head, str) else type(head).__name__!r} is no "
                f"linear layer of this module; its last ones are {', '.join([*named][-5:])}.")
    return Classifier(module, layers, name=name, transform=transform, class_names=class_names)
