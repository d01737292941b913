"""Translators of a study: one without each fold of subjects, and one of all."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import SingError
from ..method.stages import chosen_lambdas
from ..method.translator import RidgeFitter, Translator, grouped_cv
from ..models.joint import joint_spaces
from ..models.published import PUBLISHED_SPACE, import_translator
from ..pictures.cache import loaded, read_or_none
from ..pictures.features import part_rows
from ..pictures.fetch import slug

if TYPE_CHECKING:
    from .study import Study

__all__ = [
    "candidates", "drawings_help", "fold_fitters", "published", "statistics", "summed",
    "translators"]


def translators(study: Study, model: str) -> list[Translator]:
    """The translators of :meth:`Study.fitted`, from disk or fitted and kept there."""
    key = study.key("translator", study.feature_key(model), study.embedding_key)
    folds = [*range(study.config.folds), None]
    files = [
        study.folder / "translators" / (
            f"{slug(model)}-{key}-{'all' if fold is None else fold}.safetensors")
        for fold in folds]

    def wrong(found: Translator, fold: int | None) -> str:
        said = [found.card.get(name) for name in ("model", "held_out_fold", "key")]
        return "" if said == [model, fold, key] else f"it is of {said[0]} without fold {said[1]}"

    found = [
        read_or_none(path, partial(loaded, Translator), partial(wrong, fold=fold))
        for path, fold in zip(files, folds, strict=True)]
    if any(one is None for one in found):
        for path, one in zip(files, _fit(study, model), strict=True):
            dataclasses.replace(one, card=one.card | {"key": key}).save(path)
        found = [Translator.load(path) for path in files]
    return found


def candidates(study: Study, model: str) -> list[float]:
    """Ridge candidates, times one or times the mean variance of a feature (no photographs)."""
    if study.config.lambda_unit == "one":
        return study.config.lambdas
    fitted = torch.tensor((study.pictures["source"] != "photo").to_numpy())
    unit = float(study.features(model)[fitted].double().var(0).mean())
    return [lam * unit for lam in study.config.lambdas]


def _fit(study: Study, model: str) -> list[Translator]:
    """The paper's translators, equation (4), each with the lambda that other folds choose."""
    always, folds = summed(study, model)
    c, fitted_on = study.config, study.is_scored | study.drawings(model)
    pictures = study.pictures[fitted_on]
    count, fitted = always.n + sum(fold.n for fold in folds), []
    lambdas = chosen_lambdas(always, folds, study.lambdas(model))
    for held_out, (lam,) in zip([*range(len(folds)), None], lambdas, strict=True):
        total = always.copy()
        for index, fold in enumerate(folds):
            if index != held_out:
                total.merge(fold)
        one = total.solve(lam)
        card = {
            "model": model, "joint_space": c.joint_space, "tower": c.tower, "profile": c.name,
            "seed": c.seed, "held_out_fold": held_out,
            "pictures": count - (0 if held_out is None else folds[held_out].n),
            "subjects": int(pictures.loc[pictures["fold"] != held_out, "subject"].nunique())}
        if held_out is not None:
            residual, energy = folds[held_out].squared_errors(one.weight, one.bias)
            card["held_out_r2"] = 1 - residual / energy
        fitted.append(dataclasses.replace(one, card=one.card | card))
    return fitted


def summed(study: Study, model: str) -> tuple[RidgeFitter, list[RidgeFitter]]:
    """:func:`fold_fitters` of a classifier, put together from parts where the profile has some."""
    if study.config.shards == 1:
        return fold_fitters(study, model, study.features(model), study.embeddings)
    merged, *others = (
        statistics(study, model, (index, study.config.shards))
        for index in range(study.config.shards))
    for part in others:
        for fold, fitter in part.items():
            merged[fold].merge(fitter)
    return _always_and_folds(study, model, merged)


def fold_fitters(
    study: Study, model: str, x: torch.Tensor, z: torch.Tensor
) -> tuple[RidgeFitter, list[RidgeFitter]]:
    """Sufficient statistics of the drawings, and of each fold: features (n, k), targets (n, d)."""
    return _always_and_folds(study, model, _by_fold(study, x, z, range(len(study.pictures))))


def _always_and_folds(
    study: Study, model: str, found: dict[int, RidgeFitter]
) -> tuple[RidgeFitter, list[RidgeFitter]]:
    """What is in every fit, nothing where the drawings harm, and each fold."""
    always = found[-1]
    if not study.drawings(model).any():
        always = RidgeFitter(always.m, always.d)
    return always, [found[fold] for fold in range(study.config.folds)]


def drawings_help(study: Study, model: str) -> bool:
    """Whether held-out R2 of a folder's pictures is higher where drawings are fitted on, too."""
    found = _by_fold(study, study.features(model), study.embeddings, range(len(study.pictures)))
    always, folds = found[-1], [found[fold] for fold in range(study.config.folds)]
    with_them, without = (
        grouped_cv(start, folds, study.lambdas(model)).mean(0).max()
        for start in (always, RidgeFitter(always.m, always.d)))
    return bool(with_them > without)


def _by_fold(study: Study, x: torch.Tensor, z: torch.Tensor, rows: range) -> dict[int, RidgeFitter]:
    table, found = study.pictures.iloc[rows.start : rows.stop], {}
    for fold in range(-1, study.config.folds):  # -1: the drawings
        own = torch.tensor(((table["fold"] == fold) & (table["source"] != "photo")).to_numpy())
        found[fold] = RidgeFitter(x.shape[1], z.shape[1]).update(x[own], z[own])
    return found


def statistics(study: Study, model: str, part: tuple[int, int]) -> dict[int, RidgeFitter]:
    """Sufficient statistics by fold of one part of the pictures alone, kept on disk."""
    index, count = part
    key = study.key("statistics", study.feature_key(model), study.embedding_key)
    files = {
        fold: study.folder / "statistics" / (
            f"{slug(model)}-{key}-{index + 1}-of-{count}-{fold}.safetensors")
        for fold in range(-1, study.config.folds)}
    found = {fold: read_or_none(path, partial(loaded, RidgeFitter))
             for fold, path in files.items()}
    if any(fitter is None for fitter in found.values()):
        x, z = study.feature_part(model, part).features, study.embedding_part(part)
        found = _by_fold(study, x, z, part_rows(len(study.pictures), part))
        for fold, path in files.items():
            found[fold].save(path)
    return found


def published(study: Study, model: str) -> Translator:
    """The translator that the paper's authors published, refused in another space than theirs."""
    folder, space = Path(study.config.published_translators).expanduser(), study.space
    found = import_translator(folder, study.classifier(model))
    # A space of the data file that is not theirs may have as many dimensions all the same.
    other = space.name in joint_spaces() and space.name != PUBLISHED_SPACE
    if other or found.weight.shape[0] != space.dimensions:
        raise SingError(
            f"The published translators write {found.weight.shape[0]} dimensions, those of CLIP "
            f"ViT-L/14; {space.title} is another space, of {space.dimensions}. Take the joint "
            f"space {PUBLISHED_SPACE} alone (other_spaces: []).")
    found.card.update({"lambda": np.nan, "pictures": 0, "held_out_r2": np.nan})
    return found
