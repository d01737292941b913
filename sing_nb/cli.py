"""Command line: reports on one's own classifier, and the stages that ``book/Snakefile`` calls.

Nothing heavy is imported before a command needs it: a run of the book starts dozens of processes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .errors import SingError, printable

if TYPE_CHECKING:
    import pandas as pd

    from .study.profile import Profile
    from .study.study import Study

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
SWEEP = BOOK / "sweeps" / "translator.ipynb"

OWN, STAGES = "Your own classifier", "Stages of a run"
KEPT = "Whatever was finished is kept; run the same command again to go on from there."
# 130 is what shells give a command that Control-C ended.
EXIT_CODES = (
    ("0", "done"),
    ("1", "it could not be done: what came, what was wanted and what to do is on stderr"),
    ("2", "wrong usage: an unknown command, option or kind of value"),
    ("130", "interrupted by Control-C; what was finished is kept"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        What follows ``sing``; by default what this process was given.

    Returns
    -------
    int
        0 done, 1 could not be done, 2 wrong usage, 130 interrupted. Every failure is said on the
        error stream; a traceback is shown with ``--debug`` only.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if "_SING_COMPLETE" in os.environ:
        return sing.main(argv, "sing")  # a shell asks what could come next
    with contextlib.suppress(AttributeError):  # labels may hold what this terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    told = {"quiet": False, "debug": False, "command": "", "argv": argv}
    try:
        # Not click's own main: it takes an end of file and a closed pipe for an interruption.
        with sing.make_context("sing", argv, obj=told) as context:
            code = sing.invoke(context)
        sys.stdout.flush()
        return code or 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (Exception, KeyboardInterrupt) as error:
        unread = isinstance(error, BrokenPipeError) and _nobody_reads(sys.stdout)
        try:
            sys.stdout.flush()
        except OSError:  # what is left would fail once more when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if unread:
            return 0  # as in `sing ask ... | head`
        if told["debug"]:
            import traceback

            traceback.print_exception(error)
        print(f"sing {told['command']}".strip() + f": {_said(error)}", file=sys.stderr)
        return 130 if isinstance(error, KeyboardInterrupt) else 1


def _nobody_reads(stream: object) -> bool:
    """Whether the other end of a pipe is closed, so that a failed write was one to it."""
    import select

    try:
        pipe = select.poll()
        pipe.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in pipe.poll(0))
    except (AttributeError, OSError, ValueError):  # no file, as when tests capture what is printed
        return False


def _said(error: BaseException) -> str:
    """A failure for people: what happened and what to do."""
    if isinstance(error, SingError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted. {KEPT}"
    message = printable(" ".join(str(error).split()))
    name = f"{type(error).__name__}: {message}" if message else type(error).__name__
    advice = _advice(error) or (
        "sing did not foresee this. Run it again with --debug for the traceback; if that ends in "
        "sing_nb and not in a file of yours, please report it as an issue of this repository, with "
        "the command and the traceback."
    )
    return f"{name if len(name) <= 1000 else name[:1000] + ' ...'}\n{advice}"


def _advice(error: BaseException) -> str:
    """What to do where the machine is to blame; empty if it is not known to be."""
    text, code = str(error), getattr(error, "errno", None)

    def is_any(codes: Sequence[int]) -> bool:
        # Libraries that write files in other languages hand on no more than the system's words.
        return code in codes or any(os.strerror(one) in text for one in codes)

    places = (
        "Another folder can be named by SING_BUILD (results) and SING_CACHE (downloads), as in "
        "`export SING_BUILD=/large/disk`."
    )
    if (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in text or is_any([errno.ENOMEM])
    ):
        return (
            "Memory ran out. Use smaller batches or fewer pictures (--set batch=16, --set "
            f"total_pictures=2000), or end other programs. {KEPT}"
        )
    if is_any([errno.ENOSPC, errno.EDQUOT]):
        return f"The disk is full. Make room on it; `make clean` removes results. {places} {KEPT}"
    if is_any([errno.EACCES, errno.EPERM, errno.EROFS]):
        return f"This user may not read or write there. Change who may, or the place. {places}"
    if is_any([errno.EMFILE, errno.ENFILE]):
        return f"Too many files are open at once. Allow more with `ulimit -n 4096`. {KEPT}"
    return ""


# --- how commands are declared ------------------------------------------------------------------


class _Command(click.Command):
    """A command whose help ends with examples, line by line as they are typed."""

    def __init__(
        self, *args: object, part: str = STAGES, examples: Sequence[str] = (), **kwargs: object
    ) -> None:
        super().__init__(*args, **kwargs)
        self.part, self.examples = part, examples
        self.params += _manners()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            formatter.write("".join(f"  {line}\n" for line in self.examples))
        super().format_epilog(ctx, formatter)

    def invoke(self, ctx: click.Context) -> object:
        ctx.obj["command"] = ctx.info_name
        with _environment("SING_QUIET", "1" if ctx.obj["quiet"] else None):
            return super().invoke(ctx)


class _Group(click.Group):
    """Commands by what they are for, in the order of this file; the nearest for a wrong one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        for part in (OWN, STAGES):
            with formatter.section(part):
                formatter.write_dl([
                    (name.ljust(width), command.get_short_help_str(100))
                    for name, command in self.commands.items() if command.part == part
                ])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl(EXIT_CODES)
        with formatter.section("Examples"):
            formatter.write("".join(f"  {line}\n" for line in (
                "sing report --model mine.py:build --images photos --out report",
                'sing ask --model lite0 "snow" "a hand"',
                "sing features --help                        examples of every command",
                'eval "$(_SING_COMPLETE=bash_source sing)"   Tab completes (also zsh, fish)',
            )))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        if args[0] not in self.commands and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], self.commands, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(self.commands)}."
            raise click.UsageError(f"No such command {args[0]!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)


@contextlib.contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Another value of an environment variable for a while; the same if it is None."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if value is not None:
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before


def _tell(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    ctx.find_root().obj[option.name] |= value


def _manners() -> list[click.Option]:
    """The options of every command; also before its name."""
    return [
        click.Option([flag], is_flag=True, help=text, expose_value=False, callback=_tell)
        for flag, text in (
            ("--quiet", "No progress: only results, errors and what was skipped."),
            ("--debug", "Show the traceback of what fails."),
        )
    ]


@click.group(cls=_Group, context_settings={
    "help_option_names": ["-h", "--help"], "max_content_width": 100,
})
@click.version_option(package_name="sing-nb", prog_name="sing")
def sing() -> None:
    """SING: what an image classifier ignores, in words and pictures.

    A report on a classifier of your own, questions to it, and the stages of the book that the
    project is.
    """


sing.params += _manners()


def _command(
    name: str, part: str, *options: Callable, examples: Sequence[str]
) -> Callable[[Callable], click.Command]:
    """A command with these options, in their order, and examples in its help."""
    def declare(function: Callable) -> click.Command:
        for option in reversed(options):
            function = option(function)
        return sing.command(name, cls=_Command, part=part, examples=examples)(function)

    return declare


def _stage(
    name: str, *options: Callable, examples: Sequence[str]
) -> Callable[[Callable], click.Command]:
    """A command that is given the study of its profile and settings."""
    def declare(function: Callable) -> click.Command:
        @functools.wraps(function)
        def run(profile: str, settings: Sequence[str], threads: int | None, **asked) -> None:
            _, overrides, _ = _checked(profile, settings)
            from .study.study import Study

            _use_threads(threads)
            function(Study(profile, **overrides), **asked)

        return _command(name, STAGES, *options, *RUN, examples=examples)(run)

    return declare


def _names(folder: str, pattern: str) -> Callable:
    """For the Tab key: stems of files in a folder of the checkout."""
    def complete(ctx: click.Context, parameter: click.Parameter, start: str) -> list[str]:
        stems = sorted(path.stem for path in (ROOT / folder).glob(pattern))
        return [stem for stem in stems if stem.startswith(start)]

    return complete


def _model_names(ctx: click.Context, parameter: click.Parameter, start: str) -> list:
    """For the Tab key: short names, or else files."""
    import yaml
    from click.shell_completion import CompletionItem

    known = yaml.safe_load((ROOT / "data" / "models.yaml").read_text(encoding="utf-8"))
    found = [CompletionItem(name) for name in known if name.startswith(start)]
    return found or [CompletionItem(start, type="file")]


def _profile(default: str | None, text: str) -> Callable:
    return click.option("--profile", default=default, show_default=True, metavar="NAME", help=text,
                        shell_complete=_names("data/profiles", "*.yaml"))


def _model(required: bool = True) -> Callable:
    return click.option(
        "--model", required=required, metavar="NAME", shell_complete=_model_names,
        help="A classifier: a name of data/models.yaml, or as for sing.load_classifier.",
    )


def _space(required: bool = True) -> Callable:
    return click.option(
        "--space", required=required, metavar="NAME",
        help="A joint space: a key of data/joint_spaces.yaml, or as for sing.load_joint_space.",
    )


def _piece(required: bool = False) -> Callable:
    return click.option("--part", required=required, metavar="I/K",
                        help="Only part I of the pictures' K parts, from 1.")


_settings_option = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="Another value for a key of the profile, or where chapters are executed for a parameter "
    "of theirs; may be given many times.",
)
_threads_option = click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="Processor threads to use.",
)
_json_option = click.option(
    "--json", "as_json", is_flag=True,
    help="For programs: JSON on stdout, everything else on stderr.",
)
_file = click.Path(path_type=Path)
RUN = (_profile("offline", "A file in data/profiles."), _settings_option, _threads_option)
# A classifier of one's own, its pictures, and how it is studied.
MINE = (
    click.option(
        "--model", required=True, metavar="NAME", shell_complete=_model_names,
        help="Your classifier: module:factory, path/file.py:factory, torchscript:FILE, timm/NAME, "
        "timm/NAME:FILE, torchvision/NAME:WEIGHTS, torchvision/NAME:FILE, or a short name such as "
        "lite0.",
    ),
    click.option("--images", type=_file, metavar="DIR",
                 help="Pictures in folders by class; the default photos if absent."),
    click.option("--class-names", type=_file, metavar="FILE",
                 help="Names of the logits, one per line, in their order."),
)
STUDIED = (
    _profile("report", "A file in data/profiles: joint space, views, draws."),
    _settings_option, _threads_option, _json_option,
)


# --- your own classifier ------------------------------------------------------------------------


@_command(
    "report", OWN, *MINE,
    click.option(
        "--out", default="report", show_default=True, type=_file, metavar="DIR",
        help="Where the report goes; an older report there is replaced once the new one is whole.",
    ),
    click.option("--ask", "questions", multiple=True, metavar="WORDS",
                 help="A concept to be asked about, as by sing ask; may be given many times."),
    click.option("--beside", metavar="NAME", shell_complete=_model_names,
                 help="A second classifier to compare with, named like --model."),
    *STUDIED, examples=[
        "sing report --model mine.py:build --images photos --out report",
        "sing report --model timm/resnet18:weights.safetensors --class-names names.txt",
        "sing report --model lite0 --beside lite1 --ask snow --ask 'a hand' --set views=6",
        "sing report --model torchscript:model.pt --images photos --json --quiet > report.json",
    ],
)
def _report(
    model: str, images: Path | None, out: Path, questions: tuple[str, ...], beside: str | None,
    class_names: Path | None, settings: tuple[str, ...], profile: str, threads: int | None,
    as_json: bool,
) -> None:
    """Write a report: what this classifier ignores, how sure that is, what to look at.

    The folder DIR gets one page that opens from disk (index.html), and beside it the tables (CSV,
    Parquet), the figures (SVG), the translator and a card. module:factory and file.py:factory are
    code that is run; so is TorchScript.
    """
    from .reports.report import report

    _use_threads(threads)
    told = click.get_current_context().obj
    with contextlib.redirect_stdout(sys.stderr):  # what a module of one's own prints is no result
        found = report(
            model, images, out, ask=questions, class_names=class_names, beside=beside,
            profile=profile, settings=_settings(profile, settings),
            command=_command_line(told["argv"]), progress=not told["quiet"],
        )
    skipped = len(found.tables["skipped"])
    if as_json:
        tables = {name: str(found.folder / "tables" / f"{name}.csv") for name in found.tables}
        _print_json({
            "page": str(found.page), "folder": str(found.folder), "summary": found.summary,
            "skipped": skipped, "tables": tables, "card": found.card,
        })
        return
    _print_markdown(found.summary)
    count = "No picture was" if not skipped else (
        "1 picture was" if skipped == 1 else f"{skipped:,} pictures were")
    print(f"\n{count} skipped{'; the page says which, and why' if skipped else ''}.\n"
          f"The page: {found.page} (opens from disk; tables, figures and the card lie beside it)")


@_command("ask", OWN, *MINE, *STUDIED, click.argument("words", nargs=-1, required=True), examples=[
    'sing ask --model lite0 snow "a hand" text',
    'sing ask --model mine.py:build --images photos "a person wearing a hat"',
    "sing ask --model lite0 snow --json --quiet | jq '.answers[].verdict'",
])
def _ask(
    model: str, images: Path | None, class_names: Path | None, settings: tuple[str, ...],
    profile: str, threads: int | None, as_json: bool, words: tuple[str, ...],
) -> None:
    """Does the head ignore a concept, keep it, or can it not be told?

    WORDS are concepts, each in quotation marks if it has spaces. The share hidden is how much of
    what the features tell about a concept the head cannot see, with a 95 % interval, beside the
    share that a random part of the same size hides.
    """
    from .reports.asking import ask, summary
    from .reports.report import own_study

    _use_threads(threads)
    quiet = click.get_current_context().obj["quiet"]
    with contextlib.redirect_stdout(sys.stderr):
        study, name = own_study(
            model, images, class_names=class_names, profile=profile,
            settings=_settings(profile, settings), progress=not quiet,
        )
        answers = ask(study, name, words)
    if as_json:
        _print_json({
            "model": model, "answers": answers.drop(columns="model").to_dict("records"),
        })
        return
    _print_table(_answer_table(answers))
    print()
    _print_markdown(summary(answers))


@_command("card", OWN, _json_option, click.argument("file", type=_file), examples=[
    "sing card report/translator.safetensors",
    "sing card report/spaces.safetensors --json",
    "sing card report",
])
def _card(file: Path, as_json: bool) -> None:
    """Print where a translator, a space, a table or a report comes from.

    Model, data, lambda, held-out error, versions, hashes, seed, date and command.
    """
    from .pictures import cards

    card = cards.card_of(file)
    if as_json:
        _print_json(card)
    else:
        print(cards.text(card))


@_command(
    "doctor", OWN, _profile(None, "Only this file in data/profiles; all by default."),
    click.option(
        "--measure", "pictures", type=click.IntRange(min=1), metavar="N",
        help="Also run the profile's networks, randomly weighted, on N generated pictures and "
        "extrapolate (takes minutes).",
    ),
    _json_option, examples=[
        "sing doctor", "sing doctor --profile imagenet13 --json",
        "sing doctor --profile smoke --measure 8",
    ],
)
def _doctor(profile: str | None, pictures: int | None, as_json: bool) -> int:
    """Say which profiles can run here, and why not.

    Exits with 0 if the profile asked for (offline, if none is) can run, slowly or not, and with 1
    otherwise. Nothing is downloaded.
    """
    from .book.doctor import can_run, diagnose, report

    findings = diagnose(profile)
    measured = None
    if pictures is not None:
        from .book.costs import measure
        from .study.profile import load_profile

        quiet = click.get_current_context().obj["quiet"]
        measured = measure(load_profile(profile or "offline"), pictures, progress=not quiet)
    if as_json:
        content = {"findings": findings.to_dict("records")}
        if measured is not None:
            content["measured"] = measured.to_dict("records")
        _print_json(content)
    else:
        print(report(findings))
        if measured is not None:
            print("\nA small run with random weights, extrapolated to all pictures:")
            print(measured.round(3).to_string(index=False))
            print(measured.attrs["networks"].round(3).to_string(index=False))
    return 0 if can_run(findings, profile or "offline") else 1


# --- stages of a run ----------------------------------------------------------------------------


@_stage("fetch", examples=["sing fetch --profile smoke"])
def _fetch(study: Study) -> None:
    """Fetch and draw the pictures."""
    table = study.fetch()
    study.mark("fetch", {"pictures": table["source"].value_counts().to_dict()})


@_stage("features", _model(), _piece(), examples=[
    "sing features --profile smoke --model lite0 --set views=4",
    "sing features --profile imagenet13 --model vgg16 --part 2/7",
])
def _features(study: Study, model: str, part: str | None) -> None:
    """Features of one classifier."""
    piece = _part(part)
    shape = list(study.feature_part(model, piece).features.shape)
    _mark(study, "features", model, piece, {"shape": shape})


@_stage("embeddings", _space(), _piece(), examples=[
    "sing embeddings --profile smoke --space lite1",
    "sing embeddings --profile imagenet13 --space open_clip/ViT-L-14:openai --part 2/7",
])
def _embeddings(study: Study, space: str, part: str | None) -> None:
    """Embeddings of the pictures in one joint space."""
    piece = _part(part)
    shape = list(study.in_space(space).embedding_part(piece).shape)
    _mark(study, "embeddings", space, piece, {"shape": shape})


@_stage("statistics", _model(), _piece(required=True), examples=[
    "sing statistics --profile smoke --set shards=2 --model lite0 --part 1/2",
])
def _statistics(study: Study, model: str, part: str) -> None:
    """What one part of the pictures adds to a classifier's translators."""
    piece = _part(part)
    counts = {fold: one.n for fold, one in study.statistics(model, piece).items()}
    _mark(study, "statistics", model, piece, {"pictures": counts})


@_stage("translator", _model(), examples=["sing translator --profile smoke --model lite0"])
def _translator(study: Study, model: str) -> None:
    """Fit one classifier's translators."""
    cards = [fitted.card for fitted in study.translators(model)]
    _mark(study, "translator", model, None, {"translators": cards})


@_stage("tables", _model(required=False), _space(required=False), examples=[
    "sing tables --profile smoke --model lite0",
    "sing tables --profile smoke --space lite1",
    "sing tables --profile smoke",
])
def _tables(study: Study, model: str | None, space: str | None) -> None:
    """Score tables of one classifier, in another joint space, or across all."""
    if model:
        from .study.robustness import group_probabilities

        tables = study.images(model), group_probabilities(study, model)
        _mark(study, "tables", model, None, {"rows": [len(table) for table in tables]})
    elif space:
        rows = len(study.in_space(space).models())
        _mark(study, "space", space, None, {"rows": rows})
    else:
        from .checks import truncation
        from .study import joint_spaces

        tables = (
            study.models(), study.accuracy(),
            joint_spaces.space_table(study), joint_spaces.pair_table(study),
            truncation.truncated_heads(study),
        )
        study.mark("tables", {"rows": [len(table) for table in tables]})


@_stage("controls", _model(), examples=["sing controls --profile smoke --model lite0"])
def _controls(study: Study, model: str) -> None:
    """Unique information and noise of one classifier's translators."""
    from .checks.information import picture_table
    from .checks.reliability import translator_spread

    tables = picture_table(study, model), translator_spread(study, model)
    _mark(study, "controls", model, None, {"rows": [len(table) for table in tables]})


@_stage("plants", examples=["sing plants --profile smoke"])
def _plants(study: Study) -> None:
    """Heads made blind to known concepts, what scores say of them, and what real heads ignore."""
    from .checks import plants
    from .reports import asking

    tables = [
        plants.score_table(study), plants.power_table(study),
        asking.trials(study, study.config.models[-1], study.concepts, 1),
        *(asking.factors(study, name) for name in study.config.models),
    ]
    study.mark("plants", {"rows": [len(table) for table in tables]})


@_stage("example", examples=["sing example --profile smoke"])
def _example(study: Study) -> None:
    """The worked example of chapter 11: a small head on a large network, and what it ignores."""
    from .reports import report_tables

    name, beside = report_tables.chosen(study, "")
    tables = report_tables.tables(study, name, beside=beside)
    study.mark("example", {"rows": [len(table) for table in tables.values()]})


@_command(
    "sweep", STAGES,
    click.option("--architecture", metavar="NAME", help="One translator: with --loss."),
    click.option("--loss", metavar="NAME", help="One translator: with --architecture."),
    *RUN, examples=["sing sweep", "sing sweep --architecture mlp4 --loss cosine"],
)
def _sweep(
    profile: str, settings: tuple[str, ...], threads: int | None, architecture: str | None,
    loss: str | None,
) -> None:
    """Train one translator of the grid with papermill, or all that are missing."""
    config, overrides, parameters = _checked(profile, settings)
    from tqdm.auto import tqdm

    from .book.chapters import run_chapter
    from .study.profile import build_dir, unknown

    folder = build_dir(profile) / "sweeps" / "notebooks"
    asked = (architecture, loss)
    if asked == (None, None):
        from .study.comparison import find
        from .study.study import Study

        study = Study(profile, **overrides)
        cells = [
            cell for cell in config.sweep
            if find(study, *cell) is None or not (folder / f"{'-'.join(cell)}.ipynb").is_file()
        ]
        print(f"{len(cells)} of {len(config.sweep)} runs are missing", file=sys.stderr)
    elif None in asked:
        raise SingError("Give --architecture and --loss for one run, or neither for all of them.")
    elif asked in config.sweep:
        cells = [asked]
    else:
        known = [" ".join(cell) for cell in config.sweep]
        raise unknown("run of the grid", " ".join(asked), known)
    quiet = click.get_current_context().obj["quiet"]
    # Read by torch in the notebook's kernel.
    with _environment("OMP_NUM_THREADS", str(threads) if threads else None):
        for one, other in tqdm(cells, unit="run", disable=quiet or len(cells) < 2):
            run_chapter(
                SWEEP, folder, profile, overrides,
                {**parameters[SWEEP.stem], "architecture": one, "loss": other},
                name=f"{one}-{other}", progress=False,
            )


@_command(
    "chapter", STAGES,
    click.option("--chapter", required=True, metavar="NAME", help="A notebook of book/.",
                 shell_complete=_names("book", "*.ipynb")),
    *RUN, examples=[
        "sing chapter --profile smoke --chapter 02_svd",
        "sing chapter --profile smoke --chapter 08_steering --set target_is=20",
    ],
)
def _chapter(profile: str, settings: tuple[str, ...], threads: int | None, chapter: str) -> None:
    """Execute one chapter with papermill."""
    _, overrides, parameters = _checked(profile, settings)
    from .book.chapters import chapter_files, run_chapter
    from .study.profile import build_dir

    notebook, chapters = BOOK / f"{chapter}.ipynb", chapter_files(BOOK)
    if notebook not in chapters:
        raise SingError(
            f"No chapter {chapter!r}; the table of contents names "
            f"{', '.join(path.stem for path in chapters)}."
        )
    run_chapter(
        notebook, build_dir(profile) / "chapters", profile, overrides, parameters[chapter],
        progress=not click.get_current_context().obj["quiet"],
        figures=build_dir(profile) / "figures",
    )


@_command("stage-book", STAGES, *RUN, examples=["sing stage-book --profile smoke"])
def _stage_book(profile: str, settings: tuple[str, ...], threads: int | None) -> None:
    """Lay out the sources of the rendered book."""
    _checked(profile, settings)
    from .book.page import stage_book
    from .study.profile import build_dir

    folder = build_dir(profile)
    stage_book(folder / "chapters", folder / "source", ROOT)


@_command("check", STAGES, *RUN, examples=[
    "sing check --profile paper", "sing check --set 'views=4 target_is=20'",
])
def _check(profile: str, settings: tuple[str, ...], threads: int | None) -> None:
    """Check the profile and the settings, compute nothing."""
    config, overrides, _ = _checked(profile, settings)
    if config.tower is None:
        # What lies on hubs may be missing: said at once and together, not rule by rule.
        from .book.doctor import can_run, diagnose, report

        findings = diagnose(profile, overrides)
        if not can_run(findings, profile):
            raise SingError(
                f"the profile {profile} cannot run here. The profile offline works now: "
                f"it needs no hub.\n\n{report(findings)}"
            )


@_command(
    "plan", STAGES,
    click.option("--machine", type=click.Choice(["cpu", "gpu"]),
                 help="What hours are stated for; a GPU if the profile draws with unCLIP."),
    *RUN, _json_option, examples=[
        "sing plan --profile imagenet13",
        "sing plan --profile imagenet13 --machine cpu --set total_pictures=5000 --json",
    ],
)
def _plan(
    profile: str, settings: tuple[str, ...], threads: int | None, machine: str | None,
    as_json: bool,
) -> None:
    """Say what jobs a run has, and what they take."""
    config, _, _ = _checked(profile, settings)
    from .book.costs import estimate, plan, plan_report

    if as_json:
        _print_json({
            "profile": config.name, "jobs": plan(config, machine=machine).to_dict("records"),
            "costs": estimate(config, machine=machine).to_dict("records"),
        })
    else:
        print(plan_report(config, machine=machine))


# --- what commands share ------------------------------------------------------------------------


def _checked(
    profile: str, settings: Sequence[str]
) -> tuple[Profile, dict[str, object], dict[str, dict[str, object]]]:
    """The profile, its overridden keys and the chapters' parameters, before anything runs."""
    from .book.chapters import chapter_files, resolve

    return resolve(profile, settings, [*chapter_files(BOOK), SWEEP])


def _settings(profile: str, settings: Sequence[str]) -> dict[str, object]:
    """Keys of the profile with other values, where no chapter is meant."""
    from .book.chapters import resolve

    return resolve(profile, settings, ())[1]


def _use_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def _part(text: str | None) -> tuple[int, int] | None:
    """(2, 7) for 3/7."""
    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise SingError(f"A part reads I/K, from 1/K to K/K; got {text!r}.")
    return int(index) - 1, int(count)


def _mark(
    study: Study, stage: str, name: str, part: tuple[int, int] | None, content: dict
) -> None:
    """Say that a stage of one network is done, under the name that book/Snakefile waits for."""
    from .pictures.fetch import slug

    suffix = f".part-{part[0] + 1}-of-{part[1]}" if part else ""
    study.mark(f"{stage}-{slug(name)}{suffix}", content)


def _command_line(argv: Sequence[str]) -> str:
    """A command as it is typed, without what changes no result."""
    manners = {"--quiet", "--json", "--debug"}
    return shlex.join(["sing", *(word for word in argv if word not in manners)])


# --- what commands print ------------------------------------------------------------------------


def _print_json(content: object) -> None:
    print(json.dumps(_plain(content), indent=1))


def _plain(value: object) -> object:
    """What JSON can hold: what is no number becomes null, paths and times their text."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(one) for one in value]
    if hasattr(value, "tolist"):  # numbers and arrays of NumPy
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    known = value is None or isinstance(value, (str, bool, int, float))
    return value if known else str(value)


def _answer_table(answers: pd.DataFrame) -> pd.DataFrame:
    """What was asked and answered, for people."""
    import pandas as pd

    def percent(share: float) -> str:
        return "?" if pd.isna(share) else f"{round(100 * share):d} %"

    return pd.DataFrame({
        "asked": answers["prompt"].map(printable),
        "the head": answers["verdict"],
        "hidden": answers["hidden"].map(percent),
        "95 % interval": [
            f"{percent(low)} to {percent(high)}"
            for low, high in zip(answers["hidden_low"], answers["hidden_high"])
        ],
        "by a random part": answers["hidden_control"].map(percent),
    })


def _print_table(table: pd.DataFrame) -> None:
    """Words to the left, the rest to the right; lines of a table on a terminal only."""
    if not sys.stdout.isatty():
        widths = [max(map(len, [name, *table[name]])) for name in table]
        for row in [list(table), *table.values.tolist()]:
            cells = [cell.ljust(width) for cell, width in zip(row, widths)]
            print("  ".join(cells).rstrip())
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD)
    for name in table:
        shown.add_column(name, justify="left")
    for row in table.itertuples(index=False):
        shown.add_row(*map(Text, row))  # as they are: [words] of one's own are no markup
    Console().print(shown)


def _print_markdown(text: str) -> None:
    """As lines of at most 100 columns: with bold type and colours on a terminal, or else plain."""
    from rich.console import Console
    from rich.markdown import Markdown

    shown = sys.stdout.isatty()
    width = min(100, Console().width if shown else 100)
    console = Console(width=width, color_system="auto" if shown else None)
    text = "\n".join(map(printable, text.split("\n")))  # with names that come from anybody
    with console.capture() as lines:
        console.print(Markdown(text))
    print("\n".join(line.rstrip() for line in lines.get().strip("\n").split("\n")))


if __name__ == "__main__":
    sys.exit(main())
