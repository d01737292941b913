"""What a chapter depends on: the code its cells reach, by name, and the keys of its profile."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .errors import SingError
from .profile import Profile

__all__ = ["Uses", "chapter_uses"]

PACKAGE = "sing_nb"
HOME = Path(__file__).parent
# Decorators that only wrap what they decorate. Any other may enter it in a table that is looked
# into by other names, so that its module needs it always.
PLAIN = {
    "property", "cached_property", "cache", "lru_cache", "staticmethod", "classmethod", "dataclass",
    "contextmanager", "overload", "wraps", "no_grad", "inference_mode",
}
# Reached by no cell and part of every executed chapter all the same.
RUNNERS = (("chapters", "run_chapter"),)


class Uses(NamedTuple):
    """What one chapter depends on beside its own text and the results of stages.

    Attributes
    ----------
    code : str
        Hash of the functions, classes and constants that its cells reach through any number of
        calls: of their text, with the comments and docstrings inside. What stands between them in
        a file does not count.
    keys : frozenset of str
        Keys of :class:`Profile` that this code reads.
    parameters : frozenset of str
        Names in its parameters cell.
    """

    code: str
    keys: frozenset[str]
    parameters: frozenset[str]


class _Module(NamedTuple):
    """A module's top-level names, what runs whenever it is imported, and what it imports."""

    name: str
    units: dict[str, list[ast.stmt]]
    always: list[ast.stmt]
    lines: list[str]
    rooms: dict[str, str]  # local name -> module of this package
    names: dict[str, tuple[str, str]]  # local name -> module of this package, name in it


class _Reached(NamedTuple):
    """What a piece of code is, and what it refers to, one step deep."""

    text: str
    places: frozenset[tuple[str, str]]  # module of this package, name in it
    words: frozenset[str]  # attributes, which may be keys of a profile


IMPORT, EVERYTHING = "", "*"  # in the place of a name: what runs on import; all of a module


def chapter_uses(notebook: str | Path) -> Uses:
    """Follow a chapter's cells through the package.

    References are found by name in the source; nothing is imported or run. What only looks like a
    reference counts as one, and a module used as a value (``getattr(module, name)``) counts as a
    whole: a chapter may run again for nothing, but does not stay when it should run.

    Parameters
    ----------
    notebook : path
        A chapter, without outputs.

    Returns
    -------
    Uses

    Raises
    ------
    SingError
        If the notebook or a module cannot be parsed, or a module that is imported is not there.
    """
    path = Path(notebook)
    cells = [
        cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    texts = {
        # Magics and shell lines are no Python and reach nothing here.
        index: "".join(line for line in cell["source"] if line.lstrip()[:1] not in ("%", "!"))
        for index, cell in enumerate(cells)
    }
    own = _module("", "\n".join(texts.values()), path)
    found, words = {}, set(_reach(own, EVERYTHING).words)
    waiting = [*_reach(own, EVERYTHING).places, *RUNNERS]
    while waiting:
        place = waiting.pop()
        if place in found:
            continue
        reached = _reach(_room(place[0]), place[1])
        found[place] = reached.text
        # The profile's own module names every key; which are read is asked of the others.
        words |= set() if place[0] == "profile" else reached.words
        waiting += reached.places
    digest = hashlib.sha256(json.dumps(sorted([*place, text] for place, text in found.items()))
                            .encode()).hexdigest()
    parameters = frozenset(
        line.target.id for index, cell in enumerate(cells)
        if "parameters" in cell["metadata"].get("tags", [])
        for line in ast.parse(texts[index]).body if isinstance(line, ast.AnnAssign)
    )
    return Uses(digest[:16], _keys(words), parameters)


def _keys(words: set[str]) -> frozenset[str]:
    """Keys of a profile that code with these attributes may read."""
    (definition,) = _room("profile").units["Profile"]
    properties = {
        node.name: _References(_room("profile"), [node]).words for node in definition.body
        if isinstance(node, ast.FunctionDef)
    }
    known, before = set(words), set()
    while known != before:
        before = set(known)
        known |= {word for name in before & properties.keys() for word in properties[name]}
    # Keys in repr are part of what every result is stored under.
    return frozenset(
        field.name for field in dataclasses.fields(Profile)
        if (field.repr or field.name in known) and field.name != "name"
    )


# --- source -------------------------------------------------------------------------------------


@cache
def _room(name: str) -> _Module:
    path = HOME / f"{name}.py"
    if not path.is_file():
        raise SingError(
            f"{PACKAGE} has no module {name!r}, which a chapter or another module imports."
        )
    return _module(name, path.read_text(encoding="utf-8"), path)


@cache
def _homes() -> dict[str, str]:
    """In which module the names are at home that the package itself offers."""
    (assigned,) = _room("__init__").units["_HOMES"]
    return ast.literal_eval(assigned.value)


def _place(room: str, name: str) -> tuple[str, str]:
    """Where a name of a module is found; the package's own names lie in other modules."""
    if room != "__init__":
        return room, name
    if (HOME / f"{name}.py").is_file():
        return name, EVERYTHING
    return _homes().get(name, "__init__"), name


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str, str | None]]:
    """Local name, module of this package, and name in it (None: the module itself)."""
    if isinstance(node, ast.Import):
        for one in node.names:
            first, _, room = one.name.partition(".")
            if first == PACKAGE:
                yield one.asname or first, room or "__init__", None
        return
    first, _, room = (node.module or "").partition(".")
    if node.level:
        room = node.module or ""
    elif first != PACKAGE:
        return
    for one in node.names:
        local = one.asname or one.name
        if room:
            yield local, room, one.name
        elif (HOME / f"{one.name}.py").is_file():
            yield local, one.name, None
        else:
            yield local, *_place("__init__", one.name)


def _module(name: str, text: str, path: Path) -> _Module:
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise SingError(f"{path}: line {error.lineno} is not Python: {error.msg}.") from error
    found = _Module(name, {}, [], text.splitlines(), {}, {})
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            inside = list(_imported(node))
            for local, room, other in inside:
                if other is None:
                    found.rooms[local] = room
                else:
                    found.names[local] = room, other
            bound = [] if inside else [
                (one.asname or one.name).split(".")[0] for one in node.names
            ]
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound = [node.name]
            if not all(_last_name(one) in PLAIN for one in node.decorator_list):
                found.always.append(node)
        elif _is_for_types(node) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            continue
        else:
            bound = _assigned(node)
            if not bound:
                found.always.append(node)
        for local in bound:
            found.units.setdefault(local, []).append(node)
    return found


def _assigned(node: ast.stmt) -> list[str]:
    """Names that a plain assignment binds; none where it does anything else."""
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    elif isinstance(node, ast.Assign):
        targets = [part for one in node.targets for part in getattr(one, "elts", [one])]
    else:
        return []
    plain = all(isinstance(one, ast.Name) for one in targets)
    return [one.id for one in targets] if plain else []


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and _last_name(node.test) == "TYPE_CHECKING"


def _last_name(node: ast.expr) -> str:
    """``d`` of ``a.b.d(...)``."""
    node = node.func if isinstance(node, ast.Call) else node
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


class _References(ast.NodeVisitor):
    """Names, places and words in some statements of a module."""

    def __init__(self, module: _Module, nodes: Sequence[ast.stmt]) -> None:
        self.module, self.words, self.places = module, set(), set()
        for node in nodes:
            self.visit(node)

    def visit_If(self, node: ast.If) -> None:
        if not _is_for_types(node):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.places |= {_place(room, name or EVERYTHING) for _, room, name in _imported(node)}

    visit_ImportFrom = visit_Import

    def visit_Name(self, node: ast.Name) -> None:
        m = self.module
        if node.id in m.units and m.name:
            self.places.add((m.name, node.id))
        if node.id in m.names:
            self.places.add(_place(*m.names[node.id]))
        if node.id in m.rooms:
            self.places.add((m.rooms[node.id], EVERYTHING))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.words.add(node.attr)
        if isinstance(node.value, ast.Name) and node.value.id in self.module.rooms:
            self.places.add(_place(self.module.rooms[node.value.id], node.attr))
        else:
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        if _last_name(node) == "getattr" and isinstance(node.args[1], ast.Constant):
            self.words.add(node.args[1].value)
        self.generic_visit(node)


def _text(module: _Module, node: ast.stmt) -> str:
    first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
    return "\n".join(module.lines[first - 1 : node.end_lineno])


_REACHED: dict[tuple[str, str], _Reached] = {}


def _reach(module: _Module, name: str) -> _Reached:
    """One name of a module, what its import runs, or all of it."""
    if module.name and (module.name, name) in _REACHED:
        return _REACHED[module.name, name]
    places = set()
    if name == IMPORT:
        nodes = module.always
    elif name in module.units:
        nodes = module.units[name]
    elif name in module.names:
        nodes, places = [], {_place(*module.names[name])}
    elif name in module.rooms:
        nodes, places = [], {(module.rooms[name], EVERYTHING)}
    elif name == EVERYTHING:
        nodes = [*dict.fromkeys(node for every in module.units.values() for node in every)]
        nodes += [node for node in module.always if node not in nodes]
        places = {_place(*place) for place in module.names.values()}
    else:
        nodes, places = [], {(module.name, EVERYTHING)}
    seen = _References(module, nodes)
    # Who takes a name of a module has all run that its import runs.
    places |= seen.places | ({(module.name, IMPORT)} if module.name else set())
    found = _Reached(
        "\n".join(_text(module, node) for node in nodes), frozenset(places), frozenset(seen.words)
    )
    if module.name:
        _REACHED[module.name, name] = found
    return found
