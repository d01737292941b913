"""Tables of a study that are kept: a decorator, and keys that change when the code does."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache, partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..pictures.cache import content_key
from ..pictures.fetch import slug

if TYPE_CHECKING:
    from .study import Study

__all__ = ["arithmetic", "code_key", "stored"]

# What every number goes through, beside the file that its table is made in.
SHARED = ("method/*.py", "checks/intervals.py", "study/fits.py", "study/study.py")


def stored(
    function: Callable | None = None, *, models: str = "everyone", keys: Sequence[str] = (),
) -> Callable:
    """A function of a study whose table is kept in memory and on disk, by `Study.stored`."""
    if function is None:
        return partial(stored, models=models, keys=keys)
    signature, file = inspect.signature(function), inspect.getsourcefile(function)

    @wraps(function)
    def kept(study: Study, *args, **kwargs) -> pd.DataFrame:
        given = signature.bind(study, *args, **kwargs)
        given.apply_defaults()
        _, *asked = given.arguments.items()
        asked = [
            (name, list(value) if isinstance(value, tuple) else value)
            for name, value in asked]
        model = dict(asked).get("model")
        used = [model] if model else getattr(study.config, models)
        asked += [(key, getattr(study.config, key)) for key in keys]
        about = content_key(function.__module__, code_key(file), asked)[:12]
        name = "-".join([function.__name__, *([slug(model)] if model else []), about])
        return study.stored(name, lambda: function(*given.args, **given.kwargs), *used)

    return kept


@lru_cache
def code_key(file: str | None) -> str:
    """Short hash of what a Python file does: comments, docstrings and line breaks do not count."""
    if file is None or not Path(file).is_file():
        return ""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [
                line for line in body
                if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))]
    return content_key(ast.dump(tree))


@lru_cache
def arithmetic() -> str:
    """Short hash of the code that every number goes through: results of another are made anew."""
    package = Path(__file__).resolve().parents[1]
    return content_key(*(
        code_key(str(file)) for pattern in SHARED for file in sorted(package.glob(pattern))))
