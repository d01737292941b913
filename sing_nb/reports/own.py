"""The study behind a report: one classifier of one's own, pictures of one's own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from torch import nn

from ..errors import SingError
from ..models.classifier import Classifier
from ..models.lazy import keep_classifier
from ..models.load import load_classifier, name_parts, resolve_name
from ..models.own import as_classifier
from ..pictures.cache import content_key
from ..pictures.features import feature_key
from ..study.profile import build_dir, load_profile
from ..study.study import Study

__all__ = ["given_name", "own_study", "picture_folder"]

TOWERS = ("lite2", "lite1", "lite0")  # one that is not asked about builds the joint space


def own_study(
    model: str | nn.Module | Classifier, images: str | Path | None = None, *,
    class_names: Sequence[str] | str | Path | None = None, transform: object = None,
    beside: str | nn.Module | Classifier | None = None, profile: str = "report",
    settings: Mapping[str, object] | None = None, progress: bool = True,
) -> tuple[Study, str]:
    """The study of one classifier of one's own, and the classifier's name in it."""
    settings = dict(settings or {})
    if "models" in settings:
        raise SingError("The classifier of a report is its model (--model), not the setting "
                        "models; a second one is given as beside (--beside).")
    if images is not None:
        if "pictures" in settings:
            raise SingError("Give images (--images) or the setting pictures, not both.")
        settings["pictures"] = f"folder:{picture_folder(images)}"
    # What costs nothing is checked first: loading a network may take a minute.
    config = load_profile(profile, settings)
    names = None if class_names is None else _class_names(class_names)
    if transform is not None and not callable(transform):
        raise SingError(f"The transform is {type(transform).__name__}; expected a function that "
                        f"turns a PIL picture into a tensor (3, h, w).")
    home = build_dir(profile) / "own"
    given = [_named(model, names, transform, home)]
    if beside is not None:
        given.append(_named(beside, None, None, home))
        if given[1][0] == given[0][0]:
            raise SingError("The classifier beside is the same one; name another, or none.")
    settings["models"] = [name for name, _ in given]
    if config.tower in settings["models"] and "tower" not in settings:
        settings["tower"] = next(one for one in TOWERS if one not in settings["models"])
    study = Study(profile, progress=progress, **settings)
    for name, classifier in given:
        if classifier is not None:
            alias = copy.copy(classifier)
            alias.name = name
            study.add(alias)
            keep_classifier(classifier, Path(name.removeprefix("kept:")),
                            study.feature_key(name), study.pictures["picture"])
    for name, _ in given:
        study.spaces(name)  # an empty null space is said now, not after hours of features
    return study, settings["models"][0]


def picture_folder(images: str | Path) -> Path:
    """The folder of a reader's pictures, absolute; refuses what is none."""
    path = Path(images).expanduser().absolute()
    if not path.is_dir():
        what = "a file" if path.exists() else "not there"
        raise SingError(f"{path} is {what}; images is a folder with one folder of pictures for "
                        f"each class, as in photos/cat/1.jpg.")
    return path


def _class_names(given: Sequence[str] | str | Path) -> list[str]:
    """Names in the logits' order; how many there must be is seen with the classifier."""
    if isinstance(given, str | Path):
        try:
            given = Path(given).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SingError(f"{given} cannot be read as a text file in UTF-8 with one class name "
                            f"per line ({error}).") from error
    return [str(name).strip() for name in given if str(name).strip()]


def _named(
    model: str | nn.Module | Classifier, names: list[str] | None, transform: object, home: Path
) -> tuple[str, Classifier | None]:
    """A classifier's name in every process, and the classifier unless that name is enough."""
    if isinstance(model, str):
        name = resolve_name(model)
        if name_parts(name)[0] != "factory" and names is None and not transform:
            return name, None  # the same weights wherever it is loaded
        own = load_classifier(name)
    elif isinstance(model, nn.Module | Classifier):
        own, name = model, getattr(model, "name", type(model).__name__)
    else:
        raise SingError(f"A report is on a classifier's name, a torch.nn.Module or a Classifier; "
                        f"got {type(model).__name__}.")
    own = as_classifier(own, name, transform=transform, class_names=names)
    _ = own.module  # built now, so that its weights are known by what they are
    # Its own process alone can run it; what others need of it lies in a file under this name.
    weights = feature_key(own, pd.DataFrame({"picture": []}))
    key = content_key(weights, own.name, own.title, own.class_names)
    return f"kept:{(home / f'{key}.safetensors').absolute()}", own


def given_name(name: str) -> str:
    """What a classifier was called when it was given."""
    return load_classifier(name).own_name if name.startswith("kept:") else name
