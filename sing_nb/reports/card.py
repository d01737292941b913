"""The card of a study: what one classifier's results depend on, as JSON."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from ..pictures.cache import content_key
from ..study import tables

if TYPE_CHECKING:
    from ..study.study import Study

# What numbers and pictures may depend on.
PACKAGES = (
    "sing-nb", "torch", "torchvision", "timm", "open_clip_torch", "transformers", "numpy", "scipy",
    "scikit-learn", "pandas", "pyarrow", "safetensors", "pillow")


def study_card(study: Study, model: str) -> dict:
    """What a classifier's results depend on, and how good its translator is."""
    config, clf, spaces = study.config, study.classifier(model), study.spaces(model)
    lambdas = [_finite(fitted.card.get("lambda")) for fitted in study.translators(model)]
    rows = tables.model(study, model)
    angles = rows[rows["quantity"] == "translator_error"].set_index("kind")
    error = {"unit": "degrees"}
    for kind, prefix in (("held out", ""), ("constant", "constant_")):
        error |= {prefix + key: _finite(angles.loc[kind, key]) for key in ("value", "low", "high")}
    table = study.pictures
    settings = config.model_dump()
    return {
        "model": model,
        "classifier": {
            "title": study.title(model), "class": type(clf.module).__name__,
            "classes": len(clf.head.weight), "features": spaces.features, "rank": spaces.rank,
            "null_dim": spaces.null_dim,
            "head": content_key(*(part for part in clf.head if part is not None)),
            "weights": content_key(
                *(part for named in clf.module.state_dict().items() for part in named))},
        "data": {
            "source": config.pictures, "split": config.picture_split,
            "pictures": int(study.is_scored.sum()), "subjects": len(study.subjects),
            "classes": len(study.labels), "folds": config.folds,
            "also_fitted_on": int(study.drawings(model).sum()),
            "skipped": len(table.attrs.get("skipped", [])),
            "notes": list(map(str, table.attrs.get("notes", []))),
            "pictures_hash": content_key(*table["picture"])},
        "joint_space": config.joint_space, "tower": config.tower,
        "translator": "published" if config.published_translators else "ridge",
        "lambda": lambdas[-1], "lambdas": lambdas[:-1], "error": error, "seed": config.seed,
        "settings": {key: settings[key] for key in settings if key not in ("expected", "about")},
        "versions": {"python": platform.python_version()} | {
            name: _version(name) for name in PACKAGES},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}


def _finite(value: float | None) -> float | None:
    """JSON has no word for what is not a number."""
    return float(value) if value is not None and math.isfinite(value) else None


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
