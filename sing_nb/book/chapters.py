"""Run chapters: check every parameter first, execute with papermill, promote what succeeded."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml

from ..errors import SingError
from ..pictures.fetch import cache_dir, make_folder
from ..study.profile import Profile, cast, load_profile, parse_yaml, unknown

__all__ = ["LAST", "chapter_files", "chapter_parameters", "resolve", "run_chapter"]

#: Notebooks that gather what the others found, and so run when those are done.
LAST = ("intro", "paper_map")
# Set by the profile's name and the settings, and in the sweep's notebook by the cell of the grid.
COMMON = {"profile", "overrides", "architecture", "loss"}
TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}


def chapter_files(book: Path) -> list[Path]:
    """Notebooks named by the table of contents, in its order."""
    from .page import toc_files

    toc = yaml.safe_load((Path(book) / "_toc.yml").read_text(encoding="utf-8"))
    files = [Path(book) / f"{name.removesuffix('.ipynb')}.ipynb" for name in toc_files(toc)]
    return [path for path in files if path.is_file()]


def chapter_parameters(notebook: Path) -> dict[str, tuple[type, object]]:
    """Names in a chapter's parameters cell, with their annotated type and default.

    Raises
    ------
    SingError
        If a parameter has no annotation that can be checked.
    """
    import papermill

    found = {}
    for name, entry in papermill.inspect_notebook(str(notebook)).items():
        kind = TYPES.get(entry["inferred_type_name"])
        if kind is None:
            raise SingError(
                f"{notebook.name}: the parameter {name} needs one of the annotations "
                f"{', '.join(TYPES)}, as in `{name}: int = 3  # what it is`."
            )
        found[name] = (kind, yaml.safe_load(entry["default"]))
    return found


def resolve(
    profile: str, settings: Iterable[str] | Mapping[str, object], notebooks: Iterable[Path]
) -> tuple[Profile, dict[str, object], dict[str, dict[str, object]]]:
    """Settings of a run, checked against the profile and the chapters before anything runs.

    Parameters
    ----------
    profile : str
        Name of a profile.
    settings : iterable of str, or mapping
        ``key=value`` with the value in YAML; several in one string are split as a shell would,
        so a value with spaces is quoted: ``prompt="an image of a shark"``. A key is one of the
        profile's or a parameter of a chapter.
    notebooks : iterable of pathlib.Path
        The chapters of the run.

    Returns
    -------
    profile : Profile
    overrides : dict
        Settings that are keys of the profile.
    parameters : dict of dict
        For each chapter's stem, the settings that it has parameters for.

    Raises
    ------
    SingError
        For a key that nothing knows, or a value of another type.
    """
    if not isinstance(settings, Mapping):
        pairs = {}
        for item in (part for text in settings for part in _words(text)):
            key, equals, value = item.partition("=")
            if not equals:
                raise SingError(f"A setting reads key=value; got {item!r}.")
            pairs[key.strip()] = parse_yaml(value, f"The value of {key.strip()}, {value!r},")
        settings = pairs
    # Papermill takes seconds to import; a run without settings has nothing to hold against it.
    wanted = {path.stem: chapter_parameters(path) if settings else {} for path in notebooks}
    profile_keys = set(Profile.__dataclass_fields__) - {"name"}
    own = set().union(*wanted.values()) - COMMON
    for key in settings:
        if key not in profile_keys | own:
            raise unknown("setting", key, profile_keys | own)
    overrides = {key: value for key, value in settings.items() if key in profile_keys}
    config = load_profile(profile, overrides)
    parameters = {
        stem: {
            key: cast(key, settings[key], kind, f"the settings for {stem}")
            for key, (kind, _) in known.items()
            if key in settings and key not in COMMON
        }
        for stem, known in wanted.items()
    }
    return config, overrides, parameters


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise SingError(
            f"A setting reads key=value, a value with spaces in quotes; got {text!r} ({error})."
        ) from error


def run_chapter(
    notebook: Path, folder: Path, profile: str, overrides: Mapping[str, object],
    parameters: Mapping[str, object], *, name: str | None = None, progress: bool = True,
    figures: Path | None = None,
) -> Path:
    """Execute one chapter; the result replaces the old one only when it succeeded.

    Parameters
    ----------
    notebook : pathlib.Path
        The chapter, without outputs.
    folder : pathlib.Path
        Where executed chapters lie.
    profile : str
    overrides : mapping
        Keys of the profile with other values.
    parameters : mapping
        The chapter's own parameters, checked by :func:`resolve`.
    name : str, optional
        Of the executed notebook, without its ending; the chapter's own by default.
    progress : bool
    figures : pathlib.Path, optional
        Folder for its figures and findings, ``figures/<chapter>/``; replaced as a whole, too.

    Returns
    -------
    pathlib.Path
        The executed chapter.

    Raises
    ------
    SingError
        If a cell fails: which one, why, and where the partial notebook lies.
    """
    import papermill

    target = Path(folder) / f"{name or notebook.stem}.ipynb"
    partial = target.parent / "failed" / target.name
    make_folder(partial.parent)
    shown = partial.with_suffix("")
    shutil.rmtree(shown, ignore_errors=True)
    cache_dir()  # a relative one is made absolute: the kernel runs in the notebook's folder
    try:
        with _environment(SING_QUIET="1", SING_PAGE=str(shown.resolve()) if figures else ""):
            papermill.execute_notebook(
                str(notebook), str(partial), cwd=str(notebook.parent), progress_bar=progress,
                parameters={"profile": profile, "overrides": dict(overrides), **parameters},
                # Features that are not there yet may take minutes in one cell.
                execution_timeout=3600, start_timeout=120, log_output=False,
                # A page has no kernel, and one explorer's state may be megabytes.
                store_widget_state=False,
                # Written once, at the end or where a cell fails: after every cell the whole
                # notebook, with its charts, would take longer than most cells.
                request_save_on_cell_execute=False,
                # Kernels warn of how they talk to this process; only errors are worth a line.
                extra_arguments=["--IPKernelApp.log_level=ERROR"],
            )
    except papermill.PapermillExecutionError as error:
        raise SingError(
            f"{target.name}: cell {error.cell_index} failed with {error.ename}: {error.evalue}\n"
            f"The notebook up to there is {partial}; what stood before was kept."
        ) from error
    os.replace(partial, target)
    if figures is not None:
        kept = make_folder(Path(figures)) / target.stem
        shutil.rmtree(kept, ignore_errors=True)
        if shown.is_dir():
            os.replace(shown, kept)
    return target


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """What kernels are told: to draw no progress bars, and where figures are kept."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
