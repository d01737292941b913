"""What an image classifier ignores, in words and pictures: the helpers of the SING book."""

from importlib import import_module

from .errors import SingError

# Loaded when first asked for: rendering the book needs neither torch nor timm.
_HOMES = {
    "Classifier": "heads",
    "HeadSpaces": "nullspace",
    "RidgeFitter": "translator",
    "Study": "study",
    "Translator": "translator",
    "angle": "metrics",
    "attribute_score": "metrics",
    "attribute_scores": "metrics",
    "box": "book.findings",
    "cluster_bootstrap": "stats",
    "found": "book.findings",
    "image_score": "metrics",
    "import_translator": "published",
    "load": "cards",
    "load_classifier": "heads",
    "load_joint_space": "joint",
    "load_renderer": "render",
    "pairwise_angle": "metrics",
    "random_part": "perturb",
    "rank_correlation": "stats",
    "read_found": "book.findings",
    "report": "reports",
    "show": "book.figures",
    "span": "book.findings",
    "steer": "perturb",
    "steer_all": "perturb",
    "wrap_classifier": "heads",
}

__all__ = ["SingError", *_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'sing_nb' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
