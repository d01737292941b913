"""Command line: the stages of a run, as the rules of ``book/Snakefile`` call them."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from .errors import SingError
from .fetch import data_dir, slug

if TYPE_CHECKING:
    from .profile import Profile

BOOK = data_dir().parent / "book"
SWEEP = BOOK / "sweeps" / "translator.ipynb"


def main(argv: list[str] | None = None) -> int:
    """Run one stage; returns the exit code (0, or 1 with a one-line error)."""
    parser = argparse.ArgumentParser(
        prog="sing", description=__doc__,
        epilog="example: sing features --profile smoke --model lite0 --set views=4",
    )
    stages = parser.add_subparsers(dest="stage", required=True, metavar="stage")
    for name, text, options in (
        ("fetch", "fetch and draw the pictures", ()),
        ("features", "features of one classifier", ("model", "part?")),
        ("embeddings", "embeddings of the pictures in one joint space", ("space", "part?")),
        (
            "statistics", "what one part of the pictures adds to a classifier's translators",
            ("model", "part"),
        ),
        ("translator", "fit one classifier's translators", ("model",)),
        (
            "tables", "score tables of one classifier, in another joint space, or across all",
            ("model?", "space?"),
        ),
        ("controls", "unique information and noise of one classifier's translators", ("model",)),
        ("plants", "heads made blind to known concepts, and what scores say of them", ()),
        (
            "sweep", "train one translator of the grid with papermill, or all that are missing",
            ("architecture?", "loss?"),
        ),
        ("chapter", "execute one chapter with papermill", ("chapter",)),
        ("stage-book", "lay out the sources of the rendered book", ()),
        ("check", "check the profile and the settings, compute nothing", ()),
        ("plan", "say what jobs a run has, and what they take", ("machine?",)),
    ):
        stage = stages.add_parser(name, help=text, description=text)
        stage.add_argument("--profile", default="offline", help="a file in data/profiles")
        stage.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
            help="another value for a key of the profile or a parameter of a chapter",
        )
        stage.add_argument("--threads", type=int, help="processor threads to use")
        for option in options:
            name, more = option.rstrip("?"), {}
            if name == "part":
                more = {"metavar": "I/K", "help": "only part I of the pictures' K parts, from 1"}
            stage.add_argument(f"--{name}", required=not option.endswith("?"), **more)
    _doctor_options(stages)
    text = "run the benchmarks and record what they gave"
    stage = stages.add_parser("bench", help=text, description=(
        f"{text} in data/expected/bench.json. Exits with 1 if a bound was missed or a benchmark "
        "failed."
    ))
    stage.add_argument("--only", default="", help="files of tests/bench, with spaces; all if empty")
    stage.add_argument("--rounds", type=int, help="1 for a quick look; as each race says if absent")
    args = parser.parse_args(argv)
    try:
        if args.stage == "doctor":
            return _doctor(args)
        if args.stage == "bench":
            return _bench(args.only, args.rounds)
        _run(args)
    except SingError as error:
        print(f"sing {args.stage}: {error}", file=sys.stderr)
        return 1
    return 0


def _doctor_options(stages: argparse._SubParsersAction) -> None:
    text = "say which profiles can run here, and why not"
    stage = stages.add_parser("doctor", help=text, description=(
        f"{text}. Exits with 0 if the profile asked for (offline, if none is) can run, slowly or "
        "not, and with 1 otherwise. Nothing is downloaded."
    ))
    stage.add_argument("--profile", help="only this file in data/profiles; all by default")
    stage.add_argument("--json", action="store_true", help="every finding, for programs")
    stage.add_argument(
        "--measure", type=int, metavar="N",
        help="also run the profile's networks, randomly weighted, on N generated pictures and "
        "extrapolate (takes minutes)",
    )


def _doctor(args: argparse.Namespace) -> int:
    """Print the diagnosis; 0 if the profile asked for, or else offline, can run."""
    import json

    from .doctor import can_run, diagnose, report

    findings = diagnose(args.profile)
    measured = None
    if args.measure is not None:
        from .costs import measure
        from .profile import load_profile

        measured = measure(load_profile(args.profile or "offline"), args.measure, progress=True)
    if args.json:
        content = {"findings": findings.to_dict("records")}
        if measured is not None:
            table = measured.astype(object).where(measured.notna(), None)
            content["measured"] = table.to_dict("records")
        print(json.dumps(content, indent=1))
    else:
        print(report(findings))
        if measured is not None:
            print("\nA small run with random weights, extrapolated to all pictures:")
            print(measured.round(3).to_string(index=False))
            print(measured.attrs["networks"].round(3).to_string(index=False))
    return 0 if can_run(findings, args.profile or "offline") else 1


def _bench(only: str, rounds: int | None) -> int:
    """Race, print what was recorded; 1 if a bound was missed or a benchmark failed."""
    from . import speed

    content = speed.run(only, rounds=rounds)
    print(f"\n{speed.report(content)}\n\nrecorded in {speed.RECORD}; chapter 15 shows it")
    return 1 if speed.problems(content) else 0


def _run(args: argparse.Namespace) -> None:
    from .chapters import chapter_files, resolve, run_chapter
    from .profile import build_dir
    from .provenance import chapter_uses

    chapters = chapter_files(BOOK)
    config, overrides, parameters = resolve(args.profile, args.settings, [*chapters, SWEEP])
    folder = build_dir(args.profile)
    if args.stage == "check":
        if config.tower is None:
            # What lies on hubs may be missing: said at once and together, not rule by rule.
            from .doctor import can_run, diagnose, report

            findings = diagnose(args.profile, overrides)
            if not can_run(findings, args.profile):
                raise SingError(
                    f"the profile {args.profile} cannot run here. The profile offline works now: "
                    f"it needs no hub.\n\n{report(findings)}"
                )
        return
    if args.stage == "plan":
        from .costs import plan_report

        print(plan_report(config, machine=args.machine))
        return
    if args.stage == "chapter":
        notebook = BOOK / f"{args.chapter}.ipynb"
        if notebook not in chapters:
            raise SingError(
                f"No chapter {args.chapter!r}; the table of contents names "
                f"{', '.join(path.stem for path in chapters)}."
            )
        # A key that its code does not read would stand on its page as if it had changed anything.
        keys = chapter_uses(notebook).keys
        run_chapter(
            notebook, folder / "chapters", args.profile,
            {key: value for key, value in overrides.items() if key in keys},
            parameters[args.chapter],
        )
        return
    if args.stage == "sweep":
        _sweep(args, config, overrides, parameters[SWEEP.stem])
        return
    if args.stage == "stage-book":
        from .gallery import merge_parts
        from .page import stage_book

        merge_parts(folder / "figures", [path.stem for path in chapters])
        stage_book(
            folder / "chapters", folder / "figures", folder / "source", data_dir().parent
        )
        return
    _compute(args, overrides)


def _sweep(
    args: argparse.Namespace, config: Profile, overrides: dict[str, object],
    parameters: dict[str, object],
) -> None:
    """One cell of the grid, or every cell that has no result or no notebook yet."""
    from tqdm.auto import tqdm

    from .chapters import run_chapter
    from .profile import build_dir, unknown

    folder = build_dir(args.profile) / "sweeps" / "notebooks"
    asked = (args.architecture, args.loss)
    if asked == (None, None):
        from .comparison import find
        from .study import Study

        study = Study(args.profile, **overrides)
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
    if args.threads:
        # Read by torch in the notebook's kernel.
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
    for architecture, loss in tqdm(cells, unit="run", disable=len(cells) < 2):
        run_chapter(
            SWEEP, folder, args.profile, overrides,
            {**parameters, "architecture": architecture, "loss": loss},
            name=f"{architecture}-{loss}", progress=False,
        )


def _part(text: str | None) -> tuple[int, int] | None:
    """(2, 7) for 3/7."""
    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise SingError(f"A part reads I/K, from 1/K to K/K; got {text!r}.")
    return int(index) - 1, int(count)


def _compute(args: argparse.Namespace, overrides: dict[str, object]) -> None:
    import torch

    from .study import Study

    part = _part(getattr(args, "part", None))

    if args.threads:
        torch.set_num_threads(args.threads)
    study = Study(args.profile, **overrides)
    suffix = f".part-{part[0] + 1}-of-{part[1]}" if part else ""
    if args.stage == "fetch":
        table = study.fetch()
        study.mark("fetch", {"pictures": table["source"].value_counts().to_dict()})
    elif args.stage == "features":
        shape = list(study.feature_part(args.model, part).features.shape)
        study.mark(f"features-{slug(args.model)}{suffix}", {"shape": shape})
    elif args.stage == "embeddings":
        shape = list(study.in_space(args.space).embedding_part(part).shape)
        study.mark(f"embeddings-{slug(args.space)}{suffix}", {"shape": shape})
    elif args.stage == "statistics":
        counts = {fold: one.n for fold, one in study.statistics(args.model, part).items()}
        study.mark(f"statistics-{slug(args.model)}{suffix}", {"pictures": counts})
    elif args.stage == "translator":
        cards = [fitted.card for fitted in study.translators(args.model)]
        study.mark(f"translator-{slug(args.model)}", {"translators": cards})
    elif args.stage == "controls":
        from .floor import translator_spread
        from .information import unique_classes, unique_concepts

        tables = (
            unique_classes(study, args.model), unique_concepts(study, args.model),
            translator_spread(study, args.model),
        )
        study.mark(f"controls-{slug(args.model)}", {"rows": [len(table) for table in tables]})
    elif args.stage == "plants":
        from . import plants

        tables = plants.score_table(study), plants.power_table(study)
        study.mark("plants", {"rows": [len(table) for table in tables]})
    elif args.model:
        from .robustness import group_probabilities
        from .validation import perturbations

        tables = (
            study.images(args.model), perturbations(study, args.model),
            group_probabilities(study, args.model),
        )
        study.mark(f"tables-{slug(args.model)}", {"rows": [len(table) for table in tables]})
    elif args.space:
        rows = len(study.in_space(args.space).models())
        study.mark(f"space-{slug(args.space)}", {"rows": rows})
    else:
        from . import identities, towers, truncation, validation

        study.targets(study.config.models[0])
        tables = (
            study.models(), study.fit_report(), study.lambda_path(), study.accuracy(),
            towers.space_table(study), towers.pair_table(study), truncation.truncated_heads(study),
            validation.perturbation_summary(study), identities.head_checks(study),
            identities.score_checks(study), identities.translator_checks(study),
        )
        study.mark("tables", {"rows": [len(table) for table in tables]})


if __name__ == "__main__":
    sys.exit(main())
