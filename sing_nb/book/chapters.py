"""Run chapters: check every setting first, execute with papermill, promote what succeeded."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from ..errors import SingError
from ..pictures.fetch import cache_dir, make_folder
from ..study.profile import Profile, load_profile, parse_yaml, unknown

__all__ = ["LAST", "chapter_files", "chapter_parameters", "resolve", "run_chapter", "toc_files"]

#: Notebooks that gather what the others found, and so run when those are done.
LAST = ("intro", "paper_map")
COMMON = {"profile", "overrides"}  # given by the profile's name and the settings
TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}


def toc_files(book: Path) -> list[str]:
    """Every page that the table of contents names, in order."""
    toc = yaml.safe_load((book / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(one["file"] for part in toc["parts"] for one in part["chapters"])]


def chapter_files(book: Path) -> list[Path]:
    """Notebooks named by the table of contents, in its order."""
    files = [book / f"{name}.ipynb" for name in toc_files(book)]
    return [path for path in files if path.is_file()]


def chapter_parameters(notebook: Path) -> dict[str, type]:
    """Names in a chapter's parameters cell, with their annotated type."""
    import papermill  # takes seconds to import

    found = {}
    for name, entry in papermill.inspect_notebook(str(notebook)).items():
        if entry["inferred_type_name"] not in TYPES:
            raise SingError(
                f"{notebook.name}: the parameter {name} needs one of the annotations "
                f"{', '.join(TYPES)}, as in `{name}: int = 3  # what it is`.")
        found[name] = TYPES[entry["inferred_type_name"]]
    return found


def resolve(
    profile: str, texts: Iterable[str], notebooks: Iterable[Path]
) -> tuple[Profile, dict[str, object], dict[str, dict[str, object]]]:
    """Settings of a run, checked against the profile and the chapters before anything runs."""
    settings = {key: value for text in texts for key, value in _pairs(text).items()}
    known = {path.stem: chapter_parameters(path) if settings else {} for path in notebooks}
    profile_keys = set(Profile.model_fields) - {"name"}
    for key in settings:
        everything = profile_keys.union(*known.values()) - COMMON
        if key not in everything:
            raise unknown("setting", key, everything)
    overrides = {key: value for key, value in settings.items() if key in profile_keys}
    parameters = {
        stem: {key: _typed(key, value, kinds[key], stem)
               for key, value in settings.items() if key in kinds}
        for stem, kinds in known.items()}
    config = load_profile(profile, overrides)
    if "models" in overrides:  # files in them are meant from here; chapters run in their folder
        from ..models.load import resolve_name

        overrides["models"] = [resolve_name(name) for name in config.models]
        config = load_profile(profile, overrides)
    return config, overrides, parameters


def _pairs(text: str) -> dict[str, object]:
    """Keys and values of ``views=6 words="[a shark, a jeep]"``."""
    try:
        pairs = dict(word.split("=", 1) for word in shlex.split(text))
    except ValueError as error:  # a quote that does not end, or a word without "="
        raise SingError(
            f"A setting reads key=value, a value with spaces in quotes; got {text!r}.") from error
    return {key: parse_yaml(value, f"The value of {key}, {value!r},")
            for key, value in pairs.items()}


def _typed(key: str, value: object, kind: type, stem: str) -> object:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:  # exactly: True is an int to Python
        raise SingError(f"{key} in the settings for {stem} must be {kind.__name__}; got {value!r}.")
    return value


def run_chapter(
    notebook: Path, folder: Path, profile: str, overrides: Mapping[str, object],
    parameters: Mapping[str, object], *, name: str | None = None, progress: bool = True,
    figures: Path | None = None,
) -> Path:
    """Execute one chapter; the result replaces the old one only when it succeeded."""
    import papermill

    target = Path(folder) / f"{name or notebook.stem}.ipynb"
    partial = make_folder(target.parent / "failed") / target.name
    shown = partial.with_suffix("")
    shutil.rmtree(shown, ignore_errors=True)
    cache_dir()  # a relative one is made absolute: the kernel runs in the notebook's folder
    # The kernel is told to draw no progress bars, and where figures are kept.
    told = {"SING_QUIET": "1", "SING_PAGE": str(shown.resolve()) if figures else ""}
    before = {key: os.environ[key] for key in told if key in os.environ}
    os.environ.update(told)
    try:
        papermill.execute_notebook(
            str(notebook), str(partial), cwd=str(notebook.parent), progress_bar=progress,
            parameters={"profile": profile, "overrides": dict(overrides), **parameters},
            execution_timeout=3600,  # a cell may compute features that are not there yet
            start_timeout=120, log_output=False,
            store_widget_state=False,  # megabytes, and a page has no kernel to use them
            request_save_on_cell_execute=False,  # once at the end: saving takes longer
            extra_arguments=["--IPKernelApp.log_level=ERROR"])
    except papermill.PapermillExecutionError as error:
        raise SingError(
            f"{target.name}: cell {error.cell_index} failed with {error.ename}: {error.evalue}\n"
            f"The notebook up to there is {partial}; what stood before was kept."
        ) from error
    finally:
        for key in told:
            del os.environ[key]
        os.environ.update(before)
    os.replace(partial, target)
    if figures is not None:
        kept = make_folder(Path(figures)) / target.stem
        shutil.rmtree(kept, ignore_errors=True)
        if shown.is_dir():
            os.replace(shown, kept)
    return target
