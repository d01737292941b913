"""TorchScript archives as modules that end in a linear layer, so that hooks can read its input."""

from __future__ import annotations

import hashlib
import pickletools
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ..errors import SingError

__all__ = ["Scripted", "damaged_part", "is_archive", "load_archive"]


class Scripted(nn.Module):
    """A ScriptModule whose last linear layer's input can be read.

    Hooks do not reach inside a ScriptModule. Its graph is copied with the layers in place and the
    parameters as constants, the last linear layer (``aten::linear``, ``aten::addmm`` or a 1 x 1
    convolution) that the output depends on is looked for, and its input becomes a second output.
    :attr:`last` is that layer as a module; it is called with the input, where a hook catches it.

    Parameters
    ----------
    script : torch.jit.ScriptModule
        Takes pictures; other arguments keep their defaults. It is put into evaluation mode.
    name : str
        For messages.
    archive : pathlib.Path, optional
        The file that it was read from. Its content is part of :meth:`state_dict`, for a graph may
        hold weights that are no parameters.

    Attributes
    ----------
    last : torch.nn.Linear or torch.nn.Conv2d
        Same weights as in the graph.
    own : bool
        Whether the output is the graph's own, or that of :attr:`last`, which may then be another.

    Raises
    ------
    SingError
        If no such layer is found.
    """

    def __init__(
        self, script: torch.jit.ScriptModule, name: str, archive: Path | None = None
    ) -> None:
        super().__init__()
        self.script = script.eval()
        content = script.save_to_buffer() if archive is None else archive.read_bytes()
        digest = hashlib.sha256(content).digest()
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))
        self.name, self.own = name, True
        self._run: tuple[object, Callable] | None = None
        run, self.last = _two_outputs(script, name)
        self._run = self._state(), run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pictures (n, 3, h, w) to logits."""
        if self._run is None or self._run[0] != self._state():
            self._run = self._state(), _two_outputs(self.script, self.name)[0]
        logits, entered = self._run[1](x)
        made = self.last(entered)
        if self.own or made.ndim == 2:
            return logits if self.own else made
        return made.flatten(2).mean(2) if made.ndim == 4 else made.flatten(1, -2).mean(1)

    def _state(self) -> tuple:
        # Constants of the graph do not follow `.to`.
        return self.last.weight.device, self.last.weight.dtype

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_run": None}  # a compiled function cannot be copied


def is_archive(path: Path) -> bool:
    """Whether a file looks like a TorchScript archive; it is not loaded."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = [name.split("/", 1)[-1] for name in archive.namelist()]
    return "constants.pkl" in names and any(name.startswith("code/") for name in names)


def damaged_part(path: Path) -> str | None:
    """The first part of a zip file whose checksum is wrong; None of a whole or another file.

    Torch writes checksums with its archives and checkpoints and does not look at them.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        return str(error)


def load_archive(file: str, name: str) -> torch.jit.ScriptModule:
    """Read a TorchScript archive.

    No pickle of Python is run. But TorchScript is a language of its own, and the archive is a
    program in it: it can compute anything, for any time, with any memory, and a few of its
    operators (``aten::save``, ``aten::from_file``) touch files. Load archives from people whose
    code you would run.

    Raises
    ------
    SingError
        If the file is missing, damaged, or something else: it says what it is.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise SingError(f"{name}: there is no file {path.absolute()}.")
    what = _kind(path)
    if what:
        raise SingError(f"{name}: {path.name} is no TorchScript archive: {what}")
    damaged = damaged_part(path)
    if damaged:
        raise SingError(
            f"{name}: {path.name} is damaged, its checksum of {damaged} is wrong. Copy or save it "
            f"again."
        )
    try:
        with _no_announcements():
            return torch.jit.load(str(path), map_location="cpu")
    except (RuntimeError, ValueError, OSError, AttributeError) as error:
        raise SingError(
            f"{name}: {path.name} could not be read as TorchScript "
            f"({' '.join(str(error).split())[:200]}). Expected what torch.jit.save wrote; copy or "
            f"save it again."
        ) from error


def _kind(path: Path) -> str:
    """What a file is that is no TorchScript, and what to do; nothing if it may be one."""
    with path.open("rb") as file:
        start = file.read(16)
    states = "give the architecture: timm/<architecture>:<file> or torchvision/<architecture>:"
    states = f"{states}<file>."
    if not start:
        return "it is empty; save it again."
    if is_archive(path):
        return ""
    if len(start) > 8 and start[8:9] == b"{":
        return f"it holds safetensors, weights without a network; {states}"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name.split("/", 1)[-1] for name in archive.namelist()]
            if "archive_format" in names or any(name.startswith("models/") for name in names):
                return (
                    "torch.export wrote it; save the model as weights (torch.save of "
                    "model.state_dict()), or by torch.jit.save(torch.jit.trace(model, example))."
                )
            data = [name for name in archive.namelist() if name.endswith("data.pkl")]
            if not data:
                return "it is a zip file of other things."
            with archive.open(data[0]) as file:
                pickled = file.read(2**24)
    elif start[:1] == b"\x80":
        pickled = path.read_bytes()[: 2**24]
    else:
        return "expected what torch.jit.save wrote."
    if _is_state(pickled):
        return f"torch.save wrote it, weights without a network (a state dict); {states}"
    return (
        "it is a pickle of a whole module or of other objects, which runs code as it is read and "
        "is never opened here. Where you trust it, load it yourself and save "
        "torch.jit.script(model).save(file), or torch.save(model.state_dict(), file)."
    )


def _is_state(pickled: bytes) -> bool:
    """Whether a pickle names nothing but tensors and dictionaries; it is read, not run."""
    plain = ("collections", "torch._utils", "torch FloatStorage", "torch HalfStorage")
    text: list[str] = []
    try:
        for operation, argument, _ in pickletools.genops(pickled):
            if operation.name == "GLOBAL":
                named = str(argument)
                if not (named.startswith(plain) or named.split()[0] == "torch"):
                    return False
            elif operation.name == "STACK_GLOBAL":
                if not (len(text) > 1 and text[-2].startswith(("collections", "torch"))):
                    return False
            elif isinstance(argument, str):
                text.append(argument)
    except (ValueError, EOFError, IndexError):
        return False
    return True


@contextmanager
def _no_announcements() -> Iterator[None]:
    """Without torch's announcements that torch.jit will end: archives exist, and are read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit", FutureWarning)
        warnings.filterwarnings("ignore", r"`torch\.jit", DeprecationWarning)
        yield


# --- the graph ----------------------------------------------------------------------------------


def _two_outputs(script: torch.jit.ScriptModule, name: str) -> tuple[Callable, nn.Module]:
    """A function that returns logits and what entered the last linear layer; and that layer."""
    try:
        with _no_announcements(), torch.no_grad():
            # Numerics are left alone: folded batch norms would round otherwise than the archive.
            frozen = torch.jit.freeze(script.eval(), optimize_numerics=False)
        graph = frozen.graph.copy()
    except RuntimeError as error:
        raise SingError(
            f"{name}: its graph could not be read ({' '.join(str(error).split())[:200]}). Save "
            f"the model by torch.jit.script or torch.jit.trace, not optimised for inference, or "
            f"its weights (timm/<architecture>:<file>)."
        ) from error
    inputs = list(graph.inputs())
    arguments = script._c._get_method("forward").schema.arguments
    for value, argument in list(zip(inputs, arguments, strict=True))[:1:-1]:
        if not argument.has_default_value():
            raise SingError(
                f"{name}: its forward needs {argument.name!r} beside the pictures; wrap the model "
                f"in a module that takes pictures alone, and save that."
            )
        constant = graph.insertConstant(argument.default_value)
        constant.node().moveBefore(next(iter(graph.nodes())))
        value.replaceAllUsesWith(constant)
        graph.eraseInput(len(list(graph.inputs())) - 1)
    if list(inputs[0].uses()):
        raise SingError(
            f"{name}: it changes its own attributes when it runs; save a model in evaluation mode "
            f"(model.eval()) that does not."
        )
    graph.eraseInput(0)
    node, layer = _last_linear(graph, name)
    graph.registerOutput(_operand(node))
    graph.makeMultiOutputIntoTuple()
    return torch._C._create_function_from_graph("forward", graph), layer


def _operand(node: torch._C.Node) -> torch._C.Value:
    return list(node.inputs())[1 if node.kind() == "aten::addmm" else 0]


def _last_linear(graph: torch._C.Graph, name: str) -> tuple[torch._C.Node, nn.Module]:
    """The last node that is a linear layer with fixed weights and that the output depends on."""
    waiting = [value.node() for value in graph.outputs()]
    needed: set[str] = set()  # by the first name that a node gives
    while waiting:
        node = waiting.pop()
        names = [value.debugName() for value in node.outputs()]
        if not names or names[0] in needed:
            continue
        needed.add(names[0])
        waiting += [value.node() for value in _reads(node)]
    kinds: list[str] = []
    for node in reversed(list(graph.nodes())):
        names = [value.debugName() for value in node.outputs()]
        if not names or names[0] not in needed:
            continue
        layer = _as_layer(node)
        if layer is not None:
            return node, layer
        kinds.append(node.kind())
    raise SingError(
        f"{name}: no linear head found in its graph, whose last steps are "
        f"{', '.join(kind.split('::')[-1] for kind in kinds[:4][::-1]) or 'none'}. A null space of "
        f"the head needs a Linear or 1 x 1 convolution as the last layer."
    )


def _reads(node: torch._C.Node) -> list[torch._C.Value]:
    """Inputs of a node, and those of the nodes in its blocks."""
    inside = [value for block in node.blocks() for each in block.nodes() for value in _reads(each)]
    ends = [value for block in node.blocks() for value in block.outputs()]
    return [*node.inputs(), *inside, *ends]


def _constant(value: torch._C.Value) -> object:
    """A value that the graph holds; None if it is computed."""
    node = value.node()
    if node.kind() == "prim::ListConstruct":
        return [_constant(part) for part in node.inputs()]
    return value.toIValue() if node.kind() == "prim::Constant" else None


def _as_layer(node: torch._C.Node) -> nn.Module | None:
    """The layer that a node is, with the node's weights; None if it is none."""
    kind, inputs = node.kind(), list(node.inputs())
    if kind not in ("aten::linear", "aten::addmm", "aten::conv2d", "aten::_convolution"):
        return None
    if kind == "aten::addmm":
        bias, weight = _constant(inputs[0]), _constant(inputs[2])
        weight = weight.t() if isinstance(weight, torch.Tensor) else None
        if [_constant(value) for value in inputs[3:]] != [1, 1]:
            return None
    else:
        weight, bias = _constant(inputs[1]), _constant(inputs[2])
    if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
        return None
    if kind in ("aten::linear", "aten::addmm"):
        c, m = weight.shape
        layer = nn.Linear(m, c, bias=bias is not None)
    else:
        stride, padding, groups = (
            _constant(inputs[index]) for index in (3, 4, 8 if kind.endswith("_convolution") else 6)
        )
        plain = weight.shape[2:] == (1, 1) and groups == 1 and stride in ([1, 1], [1])
        if not plain or padding not in ([0, 0], [0], "valid", "same"):
            return None
        layer = nn.Conv2d(*weight.shape[1::-1], 1, bias=bias is not None)
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer.eval()
