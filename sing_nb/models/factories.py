"""Code of one's own by its name, ``module:factory`` or ``file.py:factory``, imported and called."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import random
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from modulefinder import ModuleFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

import numpy as np
import torch

from ..errors import SingError
from ..pictures.cache import content_key

__all__ = ["Made", "code_of", "described", "factory_parts", "make_object", "module_file"]

SEED = 0  # of torch, NumPy and random while a factory runs
_FILE = re.compile(r"(?P<where>.+\.py):(?P<factory>[^\W\d][\w.]*)", re.DOTALL)
_MODULE = re.compile(r"(?P<where>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<factory>[^\W\d][\w.]*)")


class Made(NamedTuple):
    """What a factory made.

    Attributes
    ----------
    thing : object
    file : pathlib.Path
        Where the factory is written.
    code : str
        Hash of that file and of what it imports from its own folder: what the thing does may
        depend on all of it.
    """

    thing: object
    file: Path
    code: str


def factory_parts(name: str) -> tuple[str, str] | None:
    """A module or file, and the factory in it, if a name says so; None if it does not."""
    found = _FILE.fullmatch(name) or _MODULE.fullmatch(name)
    return (found["where"], found["factory"]) if found else None


def module_file(where: str, folder: Path) -> Path | None:
    """The file that a module's name or a path means in a folder; None for an installed module.

    A path comes back absolute, whether it exists or not.
    """
    if where.endswith(".py"):
        return folder / Path(where).expanduser()
    stem = folder.joinpath(*where.split("."))
    return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)


def make_object(name: str, folder: Path) -> Made:
    """Import a module of one's own and call a factory in it.

    This runs the code: a name is to be trusted as the file is. What it prints goes to standard
    error. Random numbers are drawn from :data:`SEED`, so that random weights are the same in
    every process; the caller's generators are left as they were.

    Parameters
    ----------
    name : str
        ``module:factory``, a module under `folder` or an installed one; or ``file.py:factory``.
        The file's folder (of a package the one that holds it) is searched for its imports while
        it is loaded, and not afterwards. The factory needs no arguments; what cannot be called,
        or is a ``torch.nn.Module``, is returned itself.
    folder : pathlib.Path
        Where relative paths and modules are looked for.

    Raises
    ------
    SingError
        If there is no such file, module or factory, it needs arguments, or the code raises: with
        its own message and its place.
    """
    where, factory = factory_parts(name)
    file = module_file(where, folder)
    if file is not None and not file.is_file():
        raise SingError(f"{name}: there is no file {file}.{_files_like(file)}")
    own = {} if file is None else _own_modules(file)
    with _importing(file, own), _seeded():
        module = _guarded(name, "importing it", file, lambda: _module(name, where, file, folder))
        source = file or Path(module.__file__)
        made = _attribute(name, module, factory, source)
        if callable(made) and not isinstance(made, torch.nn.Module):
            _without_arguments(name, factory, made, source)
            made = _guarded(name, f"{factory}()", source, made)
    return Made(made, source, content_key(*sorted({source, *own.values()})))


def code_of(module: torch.nn.Module) -> str | None:
    """Hash of what the classes of a network do that are one's own; None if all are installed ones.

    Two networks of the same weights may compute different things: a changed ``forward`` is seen
    here, in a notebook, too. Functions that it calls are not.
    """
    kinds = {type(part) for part in module.modules()}
    own = [kind for kind in kinds
           if not _is_installed(getattr(sys.modules.get(kind.__module__), "__file__", __file__))
           and not isinstance(module, torch.jit.ScriptModule)]
    own = [kind for kind in own if not kind.__module__.startswith(f"{__package__}.")]
    if not own:
        return None
    return content_key(*sorted(
        f"{kind.__qualname__}.{name} {_compiled(part.__code__)}" for kind in own
        for name, part in vars(kind).items() if inspect.isfunction(part)
    ))


def described(thing: object) -> str:
    """What a transform does, in words that are the same in every process."""
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(thing))
    if inspect.isfunction(thing):
        # A function's own text, where Python can find it, tells it from one of the same name.
        try:
            return text + inspect.getsource(thing)
        except OSError:
            return text
    if type(thing).__repr__ is object.__repr__:  # it says nothing of its settings
        methods = [part for part in vars(type(thing)).values() if inspect.isfunction(part)]
        held = getattr(thing, "__dict__", {}).items()
        settings = sorted((name, re.sub(r" at 0x[0-9a-f]+", "", repr(part))) for name, part in held)
        return f"{text} {content_key(settings, *(_compiled(part.__code__) for part in methods))}"
    return text


def _compiled(code: CodeType) -> tuple:
    """What a function does, without where it is written; the same in every process."""
    constants = [
        _compiled(part) if isinstance(part, CodeType)
        else sorted(map(repr, part)) if isinstance(part, frozenset) else repr(part)
        for part in code.co_consts
    ]
    return code.co_code.hex(), code.co_names, constants


def _module(name: str, where: str, file: Path | None, folder: Path) -> ModuleType:
    if file is None:
        spec = importlib.util.find_spec(where.split(".")[0])
        if spec is None:
            raise SingError(
                f"{name}: there is no module {where!r}: no {where.replace('.', '/')}.py in "
                f"{folder}, and no such package is installed. Write path/to/file.py:factory for a "
                f"file elsewhere."
            )
        return importlib.import_module(where)
    if _root(file) != file.parent:  # modules of a package import each other by relative names
        module = importlib.import_module(_dotted(file))
        if Path(module.__file__) != file:
            raise SingError(
                f"{name}: {_dotted(file)} is the module {module.__file__}, which was there first. "
                f"Rename the folder {file.parent.name} or copy the file out of it."
            )
        return module
    # Under a name of its own: a file called random.py, or two of one stem, hide nothing.
    mark = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"{file.stem}_{mark}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _root(file: Path) -> Path:
    """The folder that imports of a file start from: above the package that it is part of."""
    root = file.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    return root


def _dotted(file: Path) -> str:
    parts = file.relative_to(_root(file)).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _own_modules(file: Path) -> dict[str, Path]:
    """What a file imports from its own folder, and so on; found by reading, nothing is run."""
    root = _root(file)
    finder = ModuleFinder([str(root), str(file.parent)], excludes=["sing_nb"])
    try:
        if root == file.parent:
            finder.run_script(str(file))
        else:
            finder.import_hook(_dotted(file))
    except (SyntaxError, ValueError, ImportError):  # importing it will say so
        return {}
    found = {name: Path(module.__file__) for name, module in finder.modules.items()
             if module.__file__ and name != "__main__"}
    return {name: path for name, path in found.items() if not _is_installed(path)}


def _is_installed(file: object) -> bool:
    """Whether a module is Python's own, an installed one, or has no file."""
    if not isinstance(file, (str, Path)):
        return True
    homes = {sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(Path(file).is_relative_to(home) for home in homes)


@contextlib.contextmanager
def _importing(file: Path | None, own: Mapping[str, Path]) -> Iterator[None]:
    """A file's folder is searched first, and its modules are read anew.

    They stay in memory, for code that runs later may ask for them; but a module of the same name
    from another folder, that was there before, is there again afterwards.
    """
    if file is None:
        yield
        return
    before = {name: sys.modules.pop(name) for name in own
              if name in sys.modules and not _is_installed(sys.modules[name].__file__)}
    importlib.invalidate_caches()
    path, sys.path = sys.path, [*dict.fromkeys([str(_root(file)), str(file.parent)]), *sys.path]
    try:
        yield
    finally:
        sys.path = path
        for name, module in before.items():
            if module.__file__ != str(own[name]):
                sys.modules[name] = module


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  (what others draw from)
    with torch.random.fork_rng(), contextlib.redirect_stdout(sys.stderr):
        torch.manual_seed(SEED)
        random.seed(SEED)
        np.random.seed(SEED)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _guarded(name: str, doing: str, file: Path | None, call: Callable) -> object:
    """A call of code that is not ours: what it raises is told with its place."""
    try:
        return call()
    except SingError:
        raise
    except (Exception, SystemExit) as error:
        where = _place(error, file)
        text = " ".join(f"{type(error).__name__}: {error}".split())
        advice = ""
        if isinstance(error, ModuleNotFoundError) and error.name and file is not None:
            missing = error.name.split(".")[0]
            advice = f" Install {missing}, or put {missing}.py beside the file."
        raise SingError(f"{name}: {doing} failed{where}: {text[:400]}.{advice}") from error


def _place(error: BaseException, file: Path | None) -> str:
    """The last line of the reader's own code that led to an error."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__)
        if file is not None and Path(frame.filename).is_relative_to(_root(file))
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _attribute(name: str, module: ModuleType, factory: str, file: Path) -> object:
    found = module
    for part in factory.split("."):
        if not hasattr(found, part):
            known = [
                key for key, value in vars(found).items() if not key.startswith("_")
                and (isinstance(value, torch.nn.Module) or inspect.isfunction(value)
                     or inspect.isclass(value))
            ] if hasattr(found, "__dict__") else []
            own = [key for key in known
                   if getattr(getattr(found, key), "__module__", None) == module.__name__] or known
            close = difflib.get_close_matches(part, own, n=3) or own[:5]
            raise SingError(
                f"{name}: {file} has no {part!r}"
                + (f"; did you mean {' or '.join(close)}?" if close else "; it defines nothing.")
                + " Expected a function without arguments that returns the model."
            )
        found = getattr(found, part)
    return found


def _without_arguments(name: str, factory: str, made: object, file: Path) -> None:
    try:
        parameters = inspect.signature(made).parameters.values()
    except (TypeError, ValueError):  # of some functions written in C nothing is known
        return
    empty, many = inspect.Parameter.empty, (
        inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    )
    needed = [p.name for p in parameters if p.default is empty and p.kind not in many]
    if needed:
        raise SingError(
            f"{name}: {factory}() needs arguments ({', '.join(needed)}). Write a function without "
            f"any in {file.name} that calls it, or give them defaults."
        )


def _files_like(file: Path) -> str:
    """What lies where a file was looked for, in words."""
    folder = file.parent
    if not folder.is_dir():
        return f" There is no folder {folder.absolute()} either."
    files = sorted(path.name for path in folder.glob("*.py"))
    close = difflib.get_close_matches(file.name, files, n=3) or files[:3]
    return f" There is {', '.join(close)}." if close else ""
