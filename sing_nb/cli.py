"""Command line: reports on one's own classifier, and the stages that ``book/Snakefile`` calls.

Nothing heavy is imported before a command needs it: a run of the book starts dozens of processes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from .errors import SingError, printable

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
KEPT = "Whatever was finished is kept; run the same command again to go on from there."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command: what follows ``sing``, by default what this process was given.

    Returns 0 for done, 1 for what could not be done, 2 for wrong usage, 130 for interrupted. Every
    failure is said on the error stream; a traceback is shown with ``--debug`` only.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with contextlib.suppress(AttributeError):  # labels may hold what this terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return sing.main(argv, "sing", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:
        # Click's name for Control-C, and for an end of file.
        cause = error.__cause__ if isinstance(error, click.Abort) else error
        if "--debug" in argv:
            import traceback

            traceback.print_exception(cause)
        print(f"sing {' '.join(argv[:1])}: {_said(cause)}", file=sys.stderr)
        return 130 if isinstance(cause, KeyboardInterrupt) else 1


def _said(error: BaseException) -> str:
    """A failure for people: what happened and what to do."""
    if isinstance(error, SingError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted. {KEPT}"
    text = printable(" ".join(f"{type(error).__name__}: {error}".split()))[:1000]
    if "MemoryError" in text or "can't allocate memory" in text:
        return (f"{text}\nMemory ran out. Use smaller batches or fewer pictures (--set batch=16, "
                f"--set total_pictures=2000), or end other programs. {KEPT}")
    return (f"{text}\nsing did not foresee this. Run it again with --debug for the traceback; if "
            "that ends in sing_nb and not in a file of yours, please report it as an issue.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sing-nb", prog_name="sing")
def sing() -> None:
    """SING: what an image classifier ignores, in words and pictures.

    For a classifier of your own: report, ask. For a book: check, and the stages of a run.

    \b
    Exit codes:
      0    done
      1    it could not be done: why, and what to do, is on stderr
      2    wrong usage
      130  interrupted by Control-C; what was finished is kept
    """


def _be_quiet(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if value:
        os.environ["SING_QUIET"] = "1"
        ctx.call_on_close(functools.partial(os.environ.pop, "SING_QUIET", None))


def _use_threads(ctx: click.Context, option: click.Parameter, value: int | None) -> None:
    if value:  # read where torch is imported, by this process or a notebook's kernel
        os.environ["OMP_NUM_THREADS"] = str(value)


def _read_part(
    ctx: click.Context, option: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """(2, 7) of 3/7."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", value)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise click.BadParameter(f"a part reads I/K, from 1/K to K/K; got {value!r}.")
    return int(found[1]) - 1, int(found[2])


MANNERS = (
    click.option("--quiet", is_flag=True, expose_value=False, callback=_be_quiet,
                 help="No progress: only results, errors and what was skipped."),
    click.option("--debug", is_flag=True, expose_value=False,
                 help="Show the traceback of what fails."))
SETTINGS = click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
                        help="Another value for a key of the profile or a chapter's parameter.")
THREADS = click.option("--threads", type=click.IntRange(min=1), metavar="N", expose_value=False,
                       callback=_use_threads, help="Processor threads to use.")
RUN = (click.option("--profile", default="offline", show_default=True, metavar="NAME",
                    help="A file in data/profiles."), SETTINGS, THREADS)
ANY_MODEL, MODEL = (click.option("--model", required=required, metavar="NAME",
                                 help="A name for sing.load_classifier.")
                    for required in (False, True))
SPACE = click.option("--space", required=True, metavar="NAME",
                     help="A name for sing.load_joint_space.")
PART = click.option("--part", callback=_read_part, metavar="I/K",
                    help="Only part I of the pictures' K parts, from 1.")
FILE = click.Path(path_type=Path)
OWN = (
    click.option("--model", required=True, metavar="NAME",
                 help="Your classifier: path/file.py:factory, module:factory, "
                 "timm/NAME[:FILE], torchvision/NAME:WEIGHTS, or a short name such as lite0."),
    click.option("--images", type=FILE, metavar="DIR",
                 help="Pictures in folders by class; the default pictures if absent."),
    click.option("--class-names", type=FILE, metavar="FILE",
                 help="Names of the logits, one per line, in their order."),
    click.option("--profile", default="report", show_default=True, metavar="NAME",
                 help="A file in data/profiles: joint space, views, draws."),
    SETTINGS, THREADS)


def _command(*options: Callable) -> Callable[[Callable], click.Command]:
    """A command called like its function, with these options in their order."""
    def declare(function: Callable) -> click.Command:
        for option in reversed((*options, *MANNERS)):
            function = option(function)
        return sing.command(function.__name__.strip("_").replace("_", "-"))(function)

    return declare


def _stage(name: str, about: str, *options: Callable) -> None:
    """A command that runs a stage of sing_nb/book/stages.py on the study of a profile."""
    def run(profile: str, settings: Sequence[str], **asked: str | tuple | None) -> None:
        overrides = _resolve(profile, settings)[1]
        from .book import stages
        from .pictures.fetch import slug
        from .study.study import Study

        getattr(stages, name)(Study(profile, **overrides), **asked)
        part = asked.pop("part", None)
        mark = "-".join([name, *(slug(value) for value in asked.values() if value)])
        mark += f".part-{part[0] + 1}-of-{part[1]}" if part else ""
        # The time: what was made anew is new to those who wait for it, also where it looks alike.
        _mark(profile, mark, str(time.time()))

    run.__name__, run.__doc__ = name, about
    _command(*options, *RUN)(run)


def _mark(profile: str, name: str, content: str) -> None:
    """Say in a file that something is done; book/Snakefile waits for it."""
    from .pictures.fetch import write_atomic
    from .study.profile import build_dir

    write_atomic(build_dir(profile) / "stages" / f"{name}.json", content)


def _resolve(profile: str, settings: Sequence[str], chapters: bool = True) -> tuple:
    """The profile, its overridden keys and the chapters' parameters, before anything runs."""
    from .book.chapters import chapter_files, resolve

    return resolve(profile, settings, chapter_files(BOOK) if chapters else [])


# --- your own classifier ------------------------------------------------------------------------


@_command(
    *OWN,
    click.option("--out", default="report", show_default=True, type=FILE, metavar="DIR",
                 help="Where the report goes, in the place of an older one."),
    click.option("--ask", multiple=True, metavar="WORDS", help="Also answer this, as sing ask."),
    click.option("--beside", metavar="NAME", help="A second classifier to compare with."))
def _report(model: str, images: Path | None, out: Path, profile: str, settings: Sequence[str],
            **asked: object) -> None:
    """Write a report: what this classifier ignores, how sure that is, what to look at.

    DIR gets one page that opens from disk (index.html), the tables (CSV), the figures
    (SVG), the translator and a card. A factory is code that is run.

    \b
      sing report --model mine.py:build --images photos --out report
      sing report --model lite0 --beside lite1 --ask snow --set views=6
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from .reports.report import report

    with contextlib.redirect_stdout(sys.stderr):  # what a module of one's own prints is no result
        found = report(
            model, images, out, profile=profile, settings=_resolve(profile, settings, False)[1],
            progress="SING_QUIET" not in os.environ, **asked)
    # On a terminal with bold type and colours.
    console = Console(width=min(100, Console().width) if sys.stdout.isatty() else 100)
    console.print(Markdown("\n".join(map(printable, found.summary.split("\n")))))
    print(f"\nThe page: {found.page} (opens from disk)")


@_command(
    *OWN, click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for programs."),
    click.argument("words", nargs=-1, required=True))
def _ask(model: str, images: Path | None, class_names: Path | None, profile: str,
         settings: Sequence[str], as_json: bool, words: Sequence[str]) -> None:
    """Does the head ignore a concept, keep it, or can it not be told?

    WORDS are concepts, each in quotation marks if it has spaces. The share hidden is how much of
    what the features tell about a concept the head cannot see, with a 95 % interval, beside the
    share that a random part of the same size hides.

    \b
      sing ask --model lite0 snow "a hand" text
      sing ask --model mine.py:build --images photos "a person wearing a hat" --json
    """
    from tabulate import tabulate

    from .reports.asking import RULE, ask
    from .reports.own import own_study

    with contextlib.redirect_stdout(sys.stderr):
        study, name = own_study(
            model, images, class_names=class_names, profile=profile,
            settings=_resolve(profile, settings, False)[1],
            progress="SING_QUIET" not in os.environ)
        answers = ask(study, name, words)
    if as_json:
        rows = answers.drop(columns="model").to_json(orient="records", double_precision=15)
        # What is no number is null.
        print(json.dumps({"model": model, "answers": json.loads(rows)}, indent=1))
        return
    rows = [*answers.itertuples()]
    print(f"{printable(rows[0].title)} ({rows[0].pictures:,} pictures of {rows[0].subjects:,} "
          f"subjects)\n")
    print(tabulate([
        (printable(one.prompt), one.verdict, f"{one.hidden:.0%}",
         f"{one.hidden_low:.0%} to {one.hidden_high:.0%}", f"{one.hidden_control:.0%}")
        for one in rows
    ], ["asked", "the head", "hidden", "95 % interval", "by a random part"]).replace(
        "nan%", "   ?"), end="\n\n")
    print(*(f"{printable(one.prompt)}: {printable(one.why)}" for one in rows), RULE, sep="\n")


@_command(*RUN)
def _check(profile: str, settings: Sequence[str]) -> int:
    """Say what a profile needs, whether it is here and what to do; 1 if something is missing.

    \b
      sing check --profile paper
      sing check --set 'views=4 target_is=20'
    """
    config = _resolve(profile, settings)[0]
    from .book.check import needs, summary

    found = needs(config)
    print(summary(config, found))
    if all(one.there for one in found):
        return 0
    print("sing check: something is missing; the profile offline needs no hub.", file=sys.stderr)
    return 1


# --- stages of a run ----------------------------------------------------------------------------


_stage("fetch", "Fetch and draw the pictures.")
_stage("features", "Features of one classifier.", MODEL, PART)
_stage("embeddings", "Embeddings of the pictures in one joint space.", SPACE, PART)
_stage("statistics", "What one part of the pictures adds to a translator.", MODEL, PART)
_stage("translator", "Fit one classifier's translators.", MODEL)
_stage("tables", "Score tables of one classifier, or those that compare all.", ANY_MODEL)
_stage("space", "The comparison of classifiers in another joint space.", SPACE)
_stage("controls", "Unique information and noise of a classifier's translators.", MODEL)
_stage("sweep", "Train one kind of translator of chapter 12 with every loss.",
       click.option("--architecture", required=True))
_stage("plants", "Heads made blind to known concepts: what scores say of them.")
_stage("example", "The worked example of chapter 11.")


@_command(click.option("--chapter", required=True, metavar="NAME", help="A notebook of book/."),
          *RUN)
def _chapter(profile: str, settings: Sequence[str], chapter: str) -> None:
    """Execute one chapter with papermill."""
    _, overrides, parameters = _resolve(profile, settings)
    from .book.chapters import LAST, run_chapter
    from .study.profile import build_dir, unknown

    if chapter not in parameters:
        raise unknown("chapter", chapter, parameters)
    folder = build_dir(profile)
    run_chapter(
        BOOK / f"{chapter}.ipynb", folder / "chapters", profile, overrides,
        parameters[chapter], progress="SING_QUIET" not in os.environ, figures=folder / "figures")
    # What it found: the last pages run again when that changed.
    found = folder / "figures" / chapter / "found.json"
    kind = "last" if chapter in LAST else "chapter"
    _mark(profile, f"{kind}-{chapter}", found.read_text() if found.is_file() else "[]")


@_command(*RUN)
def _stage_book(profile: str, settings: Sequence[str]) -> None:
    """Lay out the sources of the rendered book."""
    from .book.page import stage_book
    from .study.profile import build_dir

    folder = build_dir(profile)
    stage_book(folder / "chapters", folder / "source", ROOT)


if __name__ == "__main__":
    sys.exit(main())
