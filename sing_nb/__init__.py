"""What an image classifier ignores, in words and pictures: the helpers of the SING book."""

from importlib import import_module

from .errors import SingError

# Loaded when first asked for: rendering the book needs neither torch nor timm.
_HOMES = {
    "Classifier": "models.classifier",
    "HeadSpaces": "method.nullspace",
    "RidgeFitter": "method.translator",
    "Study": "study.study",
    "Translator": "method.translator",
    "angle": "method.metrics",
    "attribute_score": "method.metrics",
    "box": "book.findings",
    "cluster_bootstrap": "checks.intervals",
    "found": "book.findings",
    "image_score": "method.metrics",
    "import_translator": "models.published",
    "load_classifier": "models.load",
    "load_joint_space": "models.joint",
    "load_renderer": "models.render",
    "random_part": "method.steer",
    "rank_correlation": "checks.intervals",
    "read_found": "book.findings",
    "report": "reports.report",
    "show": "book.figures",
    "span": "book.findings",
    "steer": "method.steer",
    "steer_all": "method.steer",
    "wrap_classifier": "models.classifier"}

__all__ = ["SingError", *_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'sing_nb' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
