"""What each stage of a run computes; a study keeps it, so that a second time only reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..study.study import Study

__all__ = [
    "controls", "embeddings", "example", "features", "fetch", "plants", "space", "statistics",
    "sweep", "tables", "translator"]


def fetch(study: Study) -> None:
    """Fetch and draw the pictures."""
    study.fetch()


def features(study: Study, model: str, part: tuple[int, int] | None) -> None:
    """Features of one classifier, or of part 0 to K - 1 of K parts of the pictures."""
    study.feature_part(model, part)


def embeddings(study: Study, space: str, part: tuple[int, int] | None) -> None:
    """Embeddings of the pictures, or of a part of them, in one joint space."""
    study.in_space(space).embedding_part(part)


def statistics(study: Study, model: str, part: tuple[int, int]) -> None:
    """What one part of the pictures adds to a classifier's translators."""
    study.statistics(model, part)


def translator(study: Study, model: str) -> None:
    """Fit one classifier's translators."""
    study.translators(model)


def tables(study: Study, model: str | None) -> None:
    """Score tables of one classifier, or those that compare all of them."""
    if model:
        from ..study.robustness import group_probabilities
        from ..study.tables import images

        images(study, model)
        group_probabilities(study, model)
        return
    from ..checks.truncation import truncated_heads
    from ..study.joint_spaces import pair_table, space_table
    from ..study.tables import accuracy, models

    for table in (models, accuracy, space_table, pair_table, truncated_heads):
        table(study)


def space(study: Study, space: str) -> None:
    """The comparison of classifiers in another joint space."""
    from ..study.tables import models

    models(study.in_space(space))


def controls(study: Study, model: str) -> None:
    """Unique information and noise of one classifier's translators."""
    from ..checks.information import picture_table
    from ..checks.reliability import translator_spread

    picture_table(study, model)
    translator_spread(study, model)


def sweep(study: Study, architecture: str) -> None:
    """Train one kind of translator of chapter 12 with every loss."""
    from ..study.comparison import run

    for one, loss in study.config.sweep:
        if one == architecture:
            run(study, one, loss)


def plants(study: Study) -> None:
    """Heads made blind to known concepts: what scores say of them, and what real heads ignore."""
    from ..checks.plants import power_table, score_table
    from ..reports import asking, trials

    score_table(study)
    power_table(study)
    trials.trials(study, study.config.models[-1], study.concepts)
    for name in study.config.models:
        asking.factors(study, name)


def example(study: Study) -> None:
    """The worked example of chapter 11: a small head on a large network, and what it ignores."""
    from ..reports import report_tables

    name, beside = report_tables.chosen(study, "")
    report_tables.tables(study, name, beside=beside)
