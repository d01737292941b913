"""A reader's own classifiers: what a factory returns, and code by its name, imported and called."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import inspect
import pkgutil
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..errors import SingError
from ..pictures.cache import content_key
from .classifier import Classifier, wrap_classifier
from .prompts import imagenet_names

__all__ = ["as_classifier", "described", "from_factory", "module_file"]

_NO_NAMES, _NO_TRANSFORM = "It came without class names", "It came without a transform"


def as_classifier(
    made: object, name: str = "custom", *, transform: Callable | None = None,
    class_names: Sequence[str] | None = None,
) -> Classifier:
    """A classifier of what a reader's code gives, with a transform in any case, tried on a picture.
    """
    own: dict[str, object] = {}
    if isinstance(made, Classifier):
        found = copy.copy(made).to(made.device)  # what was given keeps its name; checked anew
        found.title = name if made.title == made.name else made.title
        found.name, found.notes = name, list(made.notes)
    else:
        module, own = _parts(made, name)
        found = wrap_classifier(module, name=name)
    names, transform = class_names or own.get("class_names"), transform or own.get("transform")
    if names is not None:
        found.class_names = found.checked_names(names)
    # What is given now does not have to be assumed any more.
    given = [text for text, part in ((_NO_NAMES, names), (_NO_TRANSFORM, transform)) if part]
    found.notes = [note for note in found.notes if not note.startswith(tuple(given))]
    if found.class_names is None:
        c = len(found.head.weight)
        found.class_names = list(imagenet_names()) if c == 1000 else [str(i) for i in range(c)]
        found.notes.append(f"{_NO_NAMES}: its {c:,} classes are " + (
            "taken for ImageNet's." if c == 1000 else
            "numbered from 0. Name them with class_names (--class-names FILE)."))
    if transform:
        found.transform = transform
    elif found.transform is None:
        found.transform, how = _usual_transform(found.module)
        found.notes.append(f"{_NO_TRANSFORM}: {how}. If it was trained otherwise, give one.")
    if found.device.type != "meta":
        _try(found)
    classes = {kind for kind in map(type, found.module.modules()) if _is_own(kind.__module__)}
    if classes and not isinstance(made, Classifier):
        # Of the same weights: a changed ``forward`` is seen, in a notebook too.
        code = content_key(*sorted(map(_source, classes)))
        found.transform = _OwnTransform(found.transform, code)
    return found


def _parts(made: object, name: str) -> tuple[nn.Module, dict[str, object]]:
    """A module, and the transform and class names that came with it."""
    keys = ("module", "transform", "class_names")
    if isinstance(made, Mapping) and "module" in made:
        own = dict(made)
    else:
        own = dict(zip(keys, made if isinstance(made, tuple) else (made,)))
    module = own.get("module")
    if not isinstance(module, nn.Module):
        what = f"the class {made.__name__}" if isinstance(made, type) else type(module).__name__
        raise SingError(
            f"{name} gives {what}; expected a torch.nn.Module, a tuple ({', '.join(keys)}) or a "
            f"mapping with these keys. Of a state dict make the architecture, then load_state_dict."
        )
    return module, {key: getattr(module, key, None) if own.get(key) is None else own[key]
                    for key in keys[1:]}


def _usual_transform(module: nn.Module) -> tuple[Callable, str]:
    """A transform for a module that came without one, and which that is, in words."""
    if getattr(module, "pretrained_cfg", None):
        from timm.data import create_transform, resolve_data_config

        config = resolve_data_config(model=module)
        size = " x ".join(map(str, config["input_size"][1:]))
        return create_transform(**config), (
            f"pictures are prepared as timm's configuration of it says ({size} pixels)")
    from torchvision.models import ResNet18_Weights

    return ResNet18_Weights.IMAGENET1K_V1.transforms(), (
        "pictures are resized to 256 pixels, cut to the middle 224 x 224, and normalised by "
        "ImageNet's mean and deviation")


def _try(classifier: Classifier) -> None:
    """Run two pictures of noise through transform and model: what is wrong is said at once."""
    pixels = np.random.default_rng(0).integers(0, 255, (2, 320, 320, 3), np.uint8)
    try:
        batch = torch.stack([classifier.transform(Image.fromarray(each)) for each in pixels])
    except Exception as error:  # whatever a reader's own code raises
        raise SingError(
            f"{classifier.name}: its transform fails on a picture of 320 x 320 pixels "
            f"({type(error).__name__}: {error}). Expected a function from a PIL picture to a "
            f"tensor (3, h, w), of one size for all pictures."
        ) from error
    classifier.run(batch)


class _OwnTransform:
    """A transform that came with code of one's own, which it names: features depend on both."""

    def __init__(self, transform: Callable, code: str) -> None:
        self._transform, self._code = transform, code

    def __call__(self, picture: Image.Image) -> torch.Tensor:
        return self._transform(picture)

    def __repr__(self) -> str:
        return f"{described(self._transform)} with code {self._code}"


def described(thing: object) -> str:
    """What a transform does, in words that are the same in every process."""
    text = repr(thing)
    if inspect.isfunction(thing):  # its own text tells it from another of the same name
        text += _source(thing)
    elif type(thing).__repr__ is object.__repr__:  # which says nothing of its settings
        text += f" {sorted(vars(thing).items())} {_source(type(thing))}"
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _source(thing: object) -> str:
    """The text of a function or of a class's functions, where Python finds it."""
    text = thing.__qualname__
    for part in vars(thing).values() if isinstance(thing, type) else [thing]:
        if inspect.isfunction(part):
            with contextlib.suppress(OSError):
                text += inspect.getsource(part)
    return text


def _is_own(module: str) -> bool:
    """Whether a module is none of Python, of an installed package or of this one."""
    file = getattr(sys.modules.get(module), "__file__", None)
    homes = [sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    if file is None:  # a notebook has none
        return module == "__main__"
    return not any(Path(file).is_relative_to(one) for one in [*homes, Path(__file__).parents[1]])


# --- code by its name ---------------------------------------------------------------------------


def module_file(where: str, folder: Path) -> Path | None:
    """The file that a path or a module's name means in a folder; None for an installed module."""
    if where.endswith(".py"):
        return folder / Path(where).expanduser()
    stem = folder.joinpath(*where.split("."))
    return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)


def from_factory(name: str, where: str, factory: str) -> Classifier:
    """Import a file or module, call a factory without arguments in it, and wrap what it returns."""
    file = module_file(where, Path.cwd())
    if file and not file.is_file():
        raise SingError(f"{name}: there is no file {file}.")
    root = file and file.parent
    while root and (root / "__init__.py").is_file():
        root = root.parent
    if file and root == file.parent:  # under a name of its own: random.py may be one
        dotted = "own_" + re.sub(r"\W", "_", file.stem)
    else:
        dotted = ".".join(file.relative_to(root).with_suffix("").parts) if file else where
    try:
        with _importing(root), torch.random.fork_rng(), contextlib.redirect_stdout(sys.stderr):
            torch.manual_seed(0)
            if file and root == file.parent:
                spec = importlib.util.spec_from_file_location(dotted, file)
                sys.modules[dotted] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(sys.modules[dotted])
            made = pkgutil.resolve_name(f"{dotted}:{factory}")
            if callable(made) and not isinstance(made, nn.Module):
                made = made()
            # What the model does may depend on every file that it imported from its own folder.
            code = content_key(*sorted(_own_files(root)))
    except (Exception, SystemExit) as error:  # whatever a reader's own code raises
        places = [frame for frame in traceback.extract_tb(error.__traceback__)
                  if root and Path(frame.filename).is_relative_to(root)]
        place = f" ({places[-1].filename}, line {places[-1].lineno})" if places else ""
        raise SingError(
            f"{name} failed{place}: {' '.join(f'{type(error).__name__}: {error}'.split())[:400]}. "
            f"Expected <file>.py:<factory>, a function without arguments that returns the model."
        ) from error
    found = as_classifier(made, name)
    if found.title == name:
        found.title = f"{factory} ({Path(sys.modules[dotted].__file__).name})"
    found.transform = _OwnTransform(found.transform, code)
    return found


@contextlib.contextmanager
def _importing(root: Path | None) -> Iterator[None]:
    """A folder is searched first, and what lies in it is read anew: it may have changed."""
    before = sys.path
    if root:
        beside = {path.stem for path in root.glob("*.py")}
        beside |= {path.parent.name for path in root.glob("*/__init__.py")}
        for name in list(sys.modules):
            if name.split(".")[0] in beside and name != "__main__" and _is_own(name):
                del sys.modules[name]
        importlib.invalidate_caches()
        sys.path = [str(root), *sys.path]
    try:
        yield
    finally:
        sys.path = before


def _own_files(root: Path | None) -> set[Path]:
    """Files under a folder that were imported, without installed ones."""
    files = {name: getattr(module, "__file__", None) for name, module in [*sys.modules.items()]}
    return {Path(file) for name, file in files.items()
            if root and file and Path(file).is_relative_to(root) and _is_own(name)}
