"""A study: everything that a chapter asks for, computed or loaded, as tidy tables.

Scores are cross-fitted. Subjects are dealt to folds; a picture's feature is translated by the
translator that never saw its subject. Photographs, which no translator is fitted on, use the one
that is fitted on all subjects.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from difflib import get_close_matches
from functools import cached_property, lru_cache, partial, wraps
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from ..checks.intervals import cluster_bootstrap, deal, excess
from ..errors import SingError
from ..method.nullspace import HeadSpaces
from ..method.stages import chosen_lambdas, frame, principal_first
from ..method.steer import matched_removal, random_basis
from ..method.translator import RidgeFitter, Translator
from ..models.classifier import Classifier
from ..models.joint import ConseSpace, OpenClipSpace, joint_spaces, load_joint_space
from ..models.load import load_classifier
from ..models.prompts import class_aliases, imagenet_names, prompt
from ..models.published import PUBLISHED_SPACE, import_translator
from ..pictures.cache import content_key, keep, keep_table, kept_table, opened, read_or_none
from ..pictures.features import (
    FeatureSet,
    Running,
    compute_embeddings,
    compute_features,
    feature_key,
    part_rows,
    run_device,
)
from ..pictures.fetch import cache_dir, data_dir, slug, write_atomic
from ..pictures.folders import source_pictures
from ..pictures.images import (
    SCORED,
    clipart,
    photos,
    picture_file,
    picture_table,
    stamp_labels,
    store_pictures,
    thumbnail,
)
from ..pictures.labels import match_labels, unmatched
from ..progress import say
from .heads import kept_spaces
from .profile import build_dir, load_profile, unknown

__all__ = ["Study", "stored"]

METHOD = 8  # part of every stored table's name: raise it when a table's meaning changes
KEPT_BASES = 2**27  # bytes of random subspaces that are kept
LONGEST = 1e15  # of a feature; the inverse is the shortest
FEW = 1000  # pictures of a folder below which also_fit: auto fits on the default drawings, too


class Study:
    """Results of one profile, computed on first use and kept under ``_build/<profile>``.

    Parameters
    ----------
    profile : str
        A file in ``data/profiles``.
    progress : bool, optional
        Whether long work shows progress bars; by default it does unless ``$SING_QUIET`` is set,
        as it is where a chapter is run for a page.
    **overrides
        Keys of the profile with other values.

    Attributes
    ----------
    config : Profile
    folder : pathlib.Path
        Where results lie.
    """

    def __init__(
        self, profile: str = "offline", *, progress: bool | None = None, **overrides
    ) -> None:
        self.config = load_profile(profile, overrides)
        self.folder = build_dir(profile)
        self.progress = not os.environ.get("SING_QUIET") if progress is None else progress
        self._classifiers: dict[str, Classifier] = {}
        self._spaces: dict[str, HeadSpaces] = {}
        self._features: dict[str, FeatureSet] = {}
        self._keys: dict[str, str] = {}
        self._tables: dict[str, pd.DataFrame] = {}
        self._fits: dict[tuple[str, str], list[Translator]] = {}
        self._published: dict[str, Translator] = {}
        self._others: dict[str, Study] = {}
        self._bases: dict[tuple[int, int, int], np.ndarray] = {}
        self._units: dict[str, float] = {}
        if self.config.also_fit != "none" and self.config.pictures != "stamps":
            self.config = self.config.model_copy(update={"folds": self._folds()})

    # --- pictures, classifiers, features --------------------------------------------------------

    @cached_property
    def pictures(self) -> pd.DataFrame:
        """The picture table (see :mod:`sing_nb.pictures.images`) with the column ``fold``.

        ``fold`` is -1 for what is fitted on in every fold (clip art) or never (photographs).
        """
        c, table = self.config, self._found
        scored = table["source"].isin(SCORED)
        subjects = table[scored].drop_duplicates("subject").sort_values("subject")
        if len(subjects) < 2 * c.folds:
            raise SingError(
                f"{len(subjects)} subjects are too few for {c.folds} folds; take at least "
                f"{2 * c.folds} subjects or fewer folds."
            )
        # Where every photo is its own subject, a fold gets its share of each class.
        strata = None if c.pictures == "stamps" else subjects["label"]
        dealt = deal(len(subjects), c.folds, c.seed, strata)
        fold = dict(zip(subjects["subject"], dealt, strict=True))
        dealt = table["subject"].where(scored).map(fold).fillna(-1).astype(int)
        return table.assign(fold=dealt)

    @cached_property
    def _found(self) -> pd.DataFrame:
        """The picture table before subjects are dealt to folds."""
        c = self.config
        if c.pictures == "stamps":
            return picture_table(
                views=c.views, clipart_views=c.clipart_views, seed=c.seed,
                stamp_subjects=c.stamp_subjects, clipart_files=c.clipart_files,
            )
        found = source_pictures(
            c.pictures, total=c.total_pictures, seed=c.seed, split=c.picture_split,
            mapping=c.picture_mapping, progress=self.progress,
        )
        parts = [found, photos()]
        if c.also_fit == "default" or (c.also_fit == "auto" and len(found) < FEW):
            parts.insert(1, clipart(c.clipart_views, c.seed, c.clipart_files))
        table = pd.concat(parts, ignore_index=True)
        table.attrs.update(found.attrs)
        return table

    def _folds(self) -> int:
        """The profile's folds, or as many as a folder with few pictures gives two subjects each."""
        table = self._found
        subjects = table.loc[table["source"].isin(SCORED), "subject"].nunique()
        if subjects < 4:
            raise SingError(
                f"{self.config.pictures} holds {subjects} pictures (views of one subject count "
                f"once), too few to fit on some and ask about others. Give at least 4; a few "
                f"hundred make intervals that say something."
            )
        return min(self.config.folds, subjects // 2)

    @property
    def about_pictures(self) -> str:
        """What the pictures of this run are, for readers."""
        c, subjects = self.config, self.subjects
        if c.pictures == "stamps":
            known = (subjects["class_index"] >= 0).sum()
            return (
                f"The pictures are photo cut-outs of {len(subjects)} subjects (Tux Paint stamps), "
                f"pasted on generated backgrounds, so that background, place and size of every "
                f"view are known. They are not ImageNet photos. {known} subjects are a true "
                f"ImageNet class. Drawings (clip art) only serve to fit."
            )
        return (
            f"The pictures are {len(subjects):,} photographs of {len(self.labels):,} classes from "
            f"{c.pictures}, a sample by seed {c.seed}: another would give other numbers."
        )

    @property
    def picture_folder(self) -> Path:
        """Where drawn pictures lie."""
        return self.folder / "pictures"

    def fetch(self) -> pd.DataFrame:
        """Fetch and draw all pictures; returns the picture table."""
        store_pictures(self.pictures, self.picture_folder, progress=self.progress)
        return self.pictures

    def picture_path(self, picture: str) -> Path:
        """File of one picture, drawn if it is missing, or of a painted one (``renderings/...``)."""
        if picture.startswith("renderings/"):
            return self.folder / picture
        found = self.pictures[self.pictures["picture"] == picture]
        if found.empty:
            raise unknown("picture", picture, self.pictures["picture"])
        store_pictures(found, self.picture_folder, progress=False)
        return picture_file(found.iloc[0], self.picture_folder)

    def with_thumbnails(
        self, table: pd.DataFrame, side: int = 72, most: int | None = None
    ) -> pd.DataFrame:
        """A table with the column ``image``: a small copy of the row's ``picture``.

        Parameters
        ----------
        table : pandas.DataFrame
        side : int
            Longer side in pixels.
        most : int, optional
            Of more pictures only so many, evenly over the table, get one, the others an empty
            text: a page that carries thousands would load for minutes.
        """
        names = table["picture"].unique()
        if most is not None and len(names) > most:
            names = names[np.linspace(0, len(names) - 1, most).astype(int)]
        drawn = {name: thumbnail(self.picture_path(name), side) for name in names}
        return table.assign(image=table["picture"].map(drawn).fillna(""))

    def examples(self, labels: Sequence[str]) -> list[str]:
        """Names of one picture for each label: a stamp's view in which it is largest."""
        found = self.pictures[self.is_scored]
        if "scale" in found:
            found = found.sort_values("scale", ascending=False, kind="stable")
        found = found.drop_duplicates("label").set_index("label")["picture"]
        for label in labels:
            if label not in found:
                raise unknown("label", label, found.index)
        return [found[label] for label in labels]

    def label(self, name: str) -> str:
        """The label that a name means, in this profile or in another.

        Parameters
        ----------
        name : str
            A label, or any usual name of its ImageNet class ("Arabian camel" for dromedary).

        Raises
        ------
        SingError
            If nothing is called so, with the nearest name that would do.
        """
        if name.lower() in self._own_labels:
            return self._own_labels[name.lower()]
        labels = self._labels
        if name.lower() not in labels:
            near = get_close_matches(name.lower(), labels, n=1)
            other = name.lower() in class_aliases()
            advice = " It is an ImageNet class, but no picture shows it." if other else ""
            raise unknown("class", name, {*near, *self.labels}, advice)
        return labels[name.lower()]

    @cached_property
    def _own_labels(self) -> dict[str, str]:
        # What most questions are about; other names of classes lie with a library of networks.
        return {label.lower(): label for label in self.labels}

    @cached_property
    def _labels(self) -> dict[str, str]:
        """Every usual name of a label, in lower case; those of the stamps are known everywhere."""
        stamps = stamp_labels()
        every = {index: label for label, index in stamps.items()}
        if self.config.pictures != "stamps":
            every = dict(enumerate(imagenet_names())) | every
        # Where several labels share a class, one that this profile shows comes first.
        every |= dict(self.subjects[["class_index", "label"]].itertuples(index=False))
        names = {
            alias: every[index] for alias, indices in class_aliases().items()
            for index in sorted(indices) if index in every
        }
        known = {
            label.lower(): every.get(index, label) if index >= 0 else label
            for label, index in stamps.items()
        }
        return names | known | self._own_labels

    def known(self, labels: Sequence[str], at_least: int = 2) -> list[str]:
        """Those of the labels that this profile has, filled up from its classes.

        Raises
        ------
        SingError
            If a label is none in any profile (see :meth:`label`).
        """
        have = self.subjects.sort_values("class_index", ascending=False)["label"].unique()
        named = dict.fromkeys(self.label(label) for label in labels)
        chosen = [label for label in named if label in set(have)]
        rest = [label for label in have if label not in chosen]
        return chosen + rest[: max(0, at_least - len(chosen))]

    def in_space(self, space: str) -> Study:
        """The same pictures and classifiers in another joint space.

        Parameters
        ----------
        space : str
            One of the profile's ``spaces``: in ConSE a tower, one of this study's classifiers
            (the others are compared); otherwise the name of a joint space.
        """
        c = self.config
        if space not in c.spaces:
            raise unknown("joint space of this study", space, c.spaces)
        if space == c.spaces[-1 if c.tower else 0]:
            return self
        settings = c.model_dump()
        if c.tower:
            settings |= {"tower": space, "models": [name for name in c.everyone if name != space]}
        else:
            others = [name for name in c.spaces if name != space]
            settings |= {"joint_space": space, "other_spaces": others}
        if space in self._others:
            return self._others[space]
        name = settings.pop("name")
        other = self._others[space] = Study(name, progress=self.progress, **settings)
        # What does not depend on the space is shared: it is large, and the same.
        other._classifiers, other._spaces = self._classifiers, self._spaces
        other._features, other._keys = self._features, self._keys
        other._bases = self._bases
        other.__dict__["pictures"] = self.pictures
        return other

    def space_title(self, space: str) -> str:
        """Name for people of one of the profile's ``spaces``."""
        if self.config.tower:
            return self.classifier(space).title
        return self.in_space(space).space.title

    def classifier(self, model: str) -> Classifier:
        """A classifier of this study, or any other that can be loaded."""
        if model not in self._classifiers:
            self._classifiers[model] = load_classifier(model)
        return self._classifiers[model]

    def add(self, classifier: Classifier, features: FeatureSet | None = None) -> str:
        """Take in a classifier of one's own under its name, which is returned.

        Parameters
        ----------
        classifier : Classifier
            Of :func:`~sing_nb.models.classifier.wrap_classifier`, for example.
        features : FeatureSet, optional
            Its features and logits of all :attr:`pictures`, where they are known already, as for
            another head on the network of a classifier of this study; nothing is computed then.

        Raises
        ------
        SingError
            If another classifier of this study has the name, or the features are of other shapes.
        """
        name, (c, m) = classifier.name, classifier.head.weight.shape
        if self._classifiers.get(name, classifier) is not classifier:
            raise SingError(
                f"This study has a classifier {name!r} already; give yours another name."
            )
        if features is not None:
            wanted, n = [(len(self.pictures), m), (len(self.pictures), c)], len(self.pictures)
            if [tuple(part.shape) for part in features] != wanted:
                raise SingError(
                    f"{name}: expected features ({n}, {m}) and logits ({n}, {c}) of all pictures; "
                    f"got {tuple(features.features.shape)} and {tuple(features.logits.shape)}."
                )
            self._check_features(classifier.title, features.features)
            self._features[name] = features
            self._keys[name] = content_key(
                *(part for part in classifier.head if part is not None), *features,
                *self.pictures["picture"],
            )[:12]
        self._classifiers[name] = classifier
        return name

    def class_names(self, model: str) -> list[str]:
        """Names of a classifier's logits, numbers where it brings none."""
        clf = self.classifier(model)
        return clf.class_names or [f"class {index}" for index in range(len(clf.head.weight))]

    def truth(self, model: str) -> np.ndarray:
        """Which logit of a classifier is right, for every picture; -1 where none is.

        ImageNet's 1000 classes are known by their order, others by their names.
        """
        if len(self.classifier(model).head.weight) == len(imagenet_names()):
            return self.pictures["class_index"].to_numpy()
        labels, names = self.pictures["label"], self.class_names(model)
        clf, own = self.classifier(model), filter(None, labels[self.is_scored])
        said = unmatched(own, names, clf.title)
        if said and said not in clf.notes:  # which a report shows
            clf.notes.append(said)
            say(said)
        found = match_labels(filter(None, labels), names)
        return labels.map(found).fillna(-1).astype(int).to_numpy()

    def title(self, model: str) -> str:
        """A classifier's name for people; the tower is marked, for it is never ranked."""
        title = self.classifier(model).title
        return f"{title} (tower)" if model == self.config.tower else title

    def spaces(self, model: str) -> HeadSpaces:
        """Principal and null space of a classifier's head."""
        if model not in self._spaces:
            weight = self.classifier(model).head.weight
            spaces = kept_spaces(weight)
            if spaces.null_dim == 0:
                raise SingError(
                    f"{self.classifier(model).title} has an empty null space: its head reads all "
                    f"{spaces.features} features with {len(weight)} classes (rank "
                    f"{spaces.rank}), so that there is nothing to remove. Take it off the models. "
                    f"`spaces.near_null(energy=0.01)` of a HeadSpaces gives the directions that "
                    f"carry 1 % of the head's energy, which are weak and not null."
                )
            self._spaces[model] = spaces
        return self._spaces[model]

    def features(self, model: str) -> torch.Tensor:
        """Features (n, m) of all pictures, in the order of :attr:`pictures`."""
        return self._feature_set(model).features

    def logits(self, model: str) -> torch.Tensor:
        """The classifier's own logits (n, c) of all pictures."""
        return self._feature_set(model).logits

    def _feature_set(self, model: str) -> FeatureSet:
        if model not in self._features:
            found = self.feature_part(model)
            self._check_features(self.classifier(model).title, found.features)
            self._features[model] = found
        return self._features[model]

    def _check_features(self, title: str, f: torch.Tensor) -> None:
        """Refuse a network that says the same of every picture: nothing can be fitted on it."""
        scored = f[torch.tensor(self.is_scored)]
        if not f.isfinite().all():
            raise SingError(f"{title}: its features hold NaN or infinite numbers.")
        if len(scored) and bool((scored == scored[0]).all()):
            what = "zero" if not scored[0].any() else "the same"
            raise SingError(
                f"{title} gives features that are {what} for each of {len(scored)} pictures, so "
                f"that they tell nothing of them. Is it a dead network (ReLUs that never fire), "
                f"are its weights those that were trained, does its transform keep the picture?"
            )
        lengths = scored.double().norm(dim=1)
        longest = float(lengths.max()) if len(lengths) else 1.0
        if not 1 / LONGEST < longest < LONGEST:
            raise SingError(
                f"{title} gives features of a length up to {longest:.1e}, whose squares float32 "
                f"cannot hold. Divide them by some number inside the model and multiply the head "
                f"by it: the logits stay as they are."
            )
        if dead := int((lengths == 0).sum()):
            say(
                f"{title}: {dead} of {len(scored)} pictures have a feature that is zero. They are "
                f"kept: nothing of them is null, and an equivalent is the picture itself."
            )

    def feature_part(self, model: str, part: tuple[int, int] | None = None) -> FeatureSet:
        """Features and logits of one part of the pictures, which alone are computed if missing.

        Parameters
        ----------
        model : str
        part : tuple of int, optional
            (index, count), see :func:`sing_nb.pictures.features.part_rows`; everything by default.
        """
        if model in self._features:
            rows = part_rows(len(self.pictures), part)
            return FeatureSet(*(x[rows.start : rows.stop] for x in self._features[model]))
        return compute_features(
            self.classifier(model), self.pictures, self.picture_folder, self.folder / "features",
            running=self.running, key=self.feature_key(model), part=part, progress=self.progress,
        )

    @property
    def running(self) -> Running:
        """Device, precision, workers and batch."""
        c = self.config
        return Running(c.device, c.precision, c.workers, c.batch)

    def feature_key(self, model: str) -> str:
        """Short hash of a classifier's weights and transform, and of the pictures."""
        if model not in self._keys:
            self._keys[model] = feature_key(self.classifier(model), self.pictures)
        return self._keys[model]

    # --- joint space ----------------------------------------------------------------------------

    @cached_property
    def space(self) -> ConseSpace | OpenClipSpace:
        """The joint image-text space."""
        c = self.config
        if c.tower:
            return load_joint_space(
                c.joint_space, tower=c.tower, top=c.top_classes, temperature=c.temperature,
                cache=cache_dir() / "texts",
            )
        return load_joint_space(
            c.joint_space, device=run_device(c.device),
            precision=c.precision,
            cache=cache_dir() / "texts",
        )

    @cached_property
    def embeddings(self) -> torch.Tensor:
        """Joint embeddings (n, d) of all pictures, unit vectors."""
        c = self.config
        if not c.tower:
            return self.embedding_part()
        # Kept on disk: without them, whoever needs no text would load the sentence encoder.
        path = self.folder / "features" / (
            f"embeddings-{slug(c.tower)}-{self.embedding_key}.safetensors"
        )
        n = len(self.pictures)

        def wrong(found: tuple[dict[str, torch.Tensor], object]) -> str:
            held, key = found[0].get("embeddings", torch.empty(0)), found[1]
            of_others = key not in (None, self.embedding_key) or held.ndim != 2 or len(held) != n
            return "it is of other pictures or another tower" if of_others else ""

        found = read_or_none(path, partial(opened, older=True), wrong)
        if found is None:
            z = self.space.encode_logits(self.logits(c.tower)).contiguous()
            keep(path, {"embeddings": z}, self.embedding_key)
            return z
        return found[0]["embeddings"]

    def embedding_part(self, part: tuple[int, int] | None = None) -> torch.Tensor:
        """Joint embeddings of one part of the pictures, as :meth:`feature_part` does features."""
        if self.config.tower:
            return self.space.encode_logits(self.feature_part(self.config.tower, part).logits)
        return compute_embeddings(
            self.space, self.pictures, self.picture_folder, self.folder / "features",
            running=self.running, key=self.embedding_key, part=part, progress=self.progress,
        )

    @cached_property
    def embedding_key(self) -> str:
        """Short hash of everything that :attr:`embeddings` depend on."""
        c = self.config
        if not c.tower:
            return feature_key(self.space, self.pictures)
        what = (self.feature_key(c.tower), c.joint_space, c.top_classes, c.temperature)
        return hashlib.sha256(repr(what).encode()).hexdigest()[:12]

    @cached_property
    def subjects(self) -> pd.DataFrame:
        """One row per subject that is scored: subject, label, class_index, fold."""
        found = self.pictures[self.is_scored]
        columns = ["subject", "label", "class_index", "fold"]
        return found[columns].drop_duplicates("subject").reset_index(drop=True)

    @cached_property
    def labels(self) -> list[str]:
        """Labels of the subjects, each once."""
        return list(dict.fromkeys(self.subjects["label"]))

    @cached_property
    def is_scored(self) -> np.ndarray:
        """Which :attr:`pictures` are fitted on and scored: stamp views, pictures of a folder.

        Clip art is only fitted on, the labelled photographs are never fitted on.
        """
        return self.pictures["source"].isin(SCORED).to_numpy()

    @cached_property
    def concepts(self) -> list[str]:
        """Concepts to ask about, ``data/concepts.yaml``."""
        groups = yaml.safe_load((data_dir() / "concepts.yaml").read_text(encoding="utf-8"))
        return [concept for group in groups.values() for concept in group]

    @cached_property
    def vocabulary(self) -> list[str]:
        """Words that embeddings are read in: class names, subjects and concepts."""
        words = [*imagenet_names(), *self.labels, *self.concepts]
        return list({word.lower(): word for word in reversed(words)}.values())[::-1]

    def text(self, labels: Sequence[str]) -> torch.Tensor:
        """Embeddings (n, d) of "an image of a <label>"."""
        return self.space.encode_text([prompt(label) for label in labels])

    # --- translators ----------------------------------------------------------------------------

    def translators(self, model: str) -> list[Translator]:
        """The translator of every fold, and last the one for pictures from elsewhere.

        They are those of :meth:`fitted`, or all the one that the paper's authors published, if the
        profile names their folder. That one was not fitted here: no subject is held out, and its
        card has no lambda.
        """
        folder = self.config.published_translators
        if folder is None:
            return self.fitted(model)
        if model not in self._published:
            found = import_translator(Path(folder).expanduser(), self.classifier(model))
            # A space of the data file that is not theirs may have as many dimensions all the same.
            other = self.space.name in joint_spaces() and self.space.name != PUBLISHED_SPACE
            if other or found.weight.shape[0] != self.space.dimensions:
                raise SingError(
                    f"The published translators write {found.weight.shape[0]} dimensions, those of "
                    f"CLIP ViT-L/14; {self.space.title} is another space, of "
                    f"{self.space.dimensions}. Take the joint space {PUBLISHED_SPACE} alone "
                    f"(other_spaces: [])."
                )
            found.card.update({"lambda": np.nan, "pictures": 0, "held_out_r2": np.nan})
            self._published[model] = found
        return [self._published[model]] * (self.config.folds + 1)

    def fitted(self, model: str, kind: str | None = None) -> list[Translator]:
        """One translator a fold, fitted without its subjects; last, one fitted on all subjects.

        Of a `kind` of the profile's ``translator``, by default that one. Lambda is chosen by
        cross-validation grouped by subject, for each fold among the other folds only, so that
        held-out scores have seen neither weights nor lambda.
        """
        kind = kind or self.config.translator
        if (model, kind) not in self._fits:
            other = () if kind == self.config.translator else (kind,)
            key = self._hash("translator", self.feature_key(model), self.embedding_key, *other)
            count = self.config.folds + 1
            names = [*(str(fold) for fold in range(count - 1)), "all"]
            home = self.folder / "translators"
            files = [home / f"{slug(model)}-{key}-{name}.safetensors" for name in names]
            m = self.classifier(model).head.weight.shape[1]

            def wrong(found: Translator, held_out: int | None) -> str:
                card, width = found.card, found.weight.shape[1]
                place = card.get("model", model), card.get("held_out_fold", held_out)
                if place != (model, held_out) or card.get("key", key) != key or width != m:
                    return f"it is of {place[0]} without fold {place[1]}, {width} features"
                return ""

            found = [
                read_or_none(path, _translator, partial(wrong, held_out=held_out))
                for path, held_out in zip(files, [*range(count - 1), None], strict=True)
            ]
            if any(one is None for one in found):
                found = [
                    dataclasses.replace(one, card=one.card | {"key": key})
                    for one in self._fit(model, kind)
                ]
                for path, fitted in zip(files, found, strict=True):
                    fitted.save(path)
                found = [Translator.load(path) for path in files]
            self._fits[model, kind] = found
        return self._fits[model, kind]

    def translator(self, model: str) -> Translator:
        """The translator for pictures from elsewhere, fitted on all subjects."""
        return self.translators(model)[-1]

    def lambdas(self, model: str) -> list[float]:
        """Ridge candidates for a classifier's features.

        With the profile's ``lambda_unit: variance`` they are multiples of the mean variance of a
        feature over all pictures but the photographs, so that a network whose features are a
        thousand times smaller gets the same translator.
        """
        if self.config.lambda_unit == "one":
            return self.config.lambdas
        if model not in self._units:
            fitted = torch.tensor((self.pictures["source"] != "photo").to_numpy())
            self._units[model] = float(self.features(model)[fitted].double().var(0).mean())
        return [lam * self._units[model] for lam in self.config.lambdas]

    def _fold_fitters(
        self, model: str, z: torch.Tensor | None = None
    ) -> tuple[RidgeFitter, list[RidgeFitter]]:
        """Sufficient statistics of the clip art, and of each fold's stamps."""
        if z is None and self.config.shards > 1:
            merged, *others = (
                self.statistics(model, (index, self.config.shards))
                for index in range(self.config.shards)
            )
            for part in others:
                for fold, fitter in part.items():
                    merged[fold].merge(fitter)
            return merged[-1], [merged[fold] for fold in range(self.config.folds)]
        return self.fold_fitters(self.features(model), self.embeddings if z is None else z)

    def statistics(self, model: str, part: tuple[int, int]) -> dict[int, RidgeFitter]:
        """Sufficient statistics of one part of the pictures, by fold; -1 is the clip art.

        They are computed from this part's rows alone, and kept on disk. Those of all parts,
        merged, are the statistics of all pictures.

        Parameters
        ----------
        model : str
        part : tuple of int
            (index, count), see :func:`sing_nb.pictures.features.part_rows`.
        """
        index, count = part
        key = self._hash("statistics", self.feature_key(model), self.embedding_key)
        files = {
            fold: self.folder / "statistics" / (
                f"{slug(model)}-{key}-{index + 1}-of-{count}-{fold}.safetensors"
            )
            for fold in range(-1, self.config.folds)
        }
        found = {fold: read_or_none(path, _statistics) for fold, path in files.items()}
        if any(fitter is None for fitter in found.values()):
            x, z = self.feature_part(model, part).features, self.embedding_part(part)
            rows = part_rows(len(self.pictures), part)
            table = self.pictures.iloc[rows.start : rows.stop]
            for fold, path in files.items():
                chosen = (table["fold"] == fold) & (table["source"] != "photo")
                chosen = torch.tensor(chosen.to_numpy())
                found[fold] = RidgeFitter(x.shape[1], z.shape[1]).update(x[chosen], z[chosen])
                found[fold].save(path)
        return found

    def fitter(self, model: str, rows: np.ndarray) -> RidgeFitter:
        """Sufficient statistics of some :attr:`pictures`, by their rows (numbers, or a mask)."""
        f, z, rows = self.features(model), self.embeddings, torch.as_tensor(np.array(rows))
        return RidgeFitter(f.shape[1], z.shape[1]).update(f[rows], z[rows])

    def fold_fitters(
        self, x: torch.Tensor, z: torch.Tensor
    ) -> tuple[RidgeFitter, list[RidgeFitter]]:
        """The same of any features (n, k) and targets (n, d) of all pictures."""
        fitters = {}
        for fold in range(-1, self.config.folds):
            rows = (self.pictures["fold"] == fold) & (self.pictures["source"] != "photo")
            rows = torch.tensor(rows.to_numpy())
            fitters[fold] = RidgeFitter(x.shape[1], z.shape[1]).update(x[rows], z[rows])
        return fitters[-1], [fitters[fold] for fold in range(self.config.folds)]

    def _fit(self, model: str, kind: str = "ridge") -> list[Translator]:
        always, folds = self._fold_fitters(model)
        ways = {"ridge": self._ridge, "principal-first": self._principal_first}
        solved = ways[kind](model, always, folds)
        pictures = self.pictures[self.pictures["source"] != "photo"]
        count, fitted = always.n + sum(fold.n for fold in folds), []
        for held_out, one in zip([*range(len(folds)), None], solved, strict=True):
            card = {
                "model": model, "joint_space": self.config.joint_space,
                "tower": self.config.tower, "profile": self.config.name, "seed": self.config.seed,
                "kind": kind, "held_out_fold": held_out,
                "pictures": count - (0 if held_out is None else folds[held_out].n),
                "subjects": int(pictures.loc[pictures["fold"] != held_out, "subject"].nunique()),
            }
            if held_out is not None:
                residual, energy = folds[held_out].squared_errors(one.weight, one.bias)
                card["held_out_r2"] = 1 - residual / energy
            fitted.append(dataclasses.replace(one, card=one.card | card))
        return fitted

    def _ridge(
        self, model: str, always: RidgeFitter, folds: list[RidgeFitter]
    ) -> list[Translator]:
        """The paper's translator, equation (4): without each fold, and of all."""
        solved = []
        lambdas = chosen_lambdas(always, folds, self.lambdas(model))
        for held_out, (lam,) in zip([*range(len(folds)), None], lambdas):
            total = always.copy()
            for index, fold in enumerate(folds):
                if index != held_out:
                    total.merge(fold)
            solved.append(total.solve(lam))
        return solved

    def _principal_first(
        self, model: str, always: RidgeFitter, folds: list[RidgeFitter]
    ) -> list[Translator]:
        """The repaired translator, which asks the null part only for what is left."""
        spaces = self.spaces(model)
        directions = frame(spaces.null_basis)
        fitters = self.fold_fitters(self.features(model).double() @ directions, self.embeddings)
        staged = principal_first(*fitters, spaces.rank, self.lambdas(model))
        return [one.affine(directions) for one in staged]

    def translate(self, model: str, f: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """Translate features by the translator that never saw their subject.

        Parameters
        ----------
        model : str
        f : torch.Tensor
            (n, m), features or equivalents.
        rows : numpy.ndarray
            (n,), which row of :attr:`pictures` each belongs to.

        Returns
        -------
        torch.Tensor
            (n, d).
        """
        fold = self.pictures["fold"].to_numpy()[rows]
        fits = self.translators(model)
        out = torch.empty(len(f), fits[0].weight.shape[0])
        for number in np.unique(fold):
            chosen = torch.tensor(fold == number)
            out[chosen] = fits[number](f[chosen])
        return out

    # --- controls and intervals -----------------------------------------------------------------

    def random_removals(
        self, model: str, f: torch.Tensor, draws: int | None = None
    ) -> Iterator[torch.Tensor]:
        """Features (n, m) without a random part as large as their null part, one control a draw.

        There are the profile's ``control_draws`` of them, or `draws`.
        """
        length = self.spaces(model).null(f).norm(dim=1)
        for draw in range(draws or self.config.control_draws):
            yield matched_removal(f, length, self.control_basis(model, draw))

    def control_basis(self, model: str, draw: int = 0) -> np.ndarray:
        """Basis (m, null_dim) of the random subspace of a control, as large as the null space."""
        spaces = self.spaces(model)
        key = spaces.features, spaces.null_dim, self.config.seed + draw
        if key not in self._bases:
            basis = random_basis(*key)
            if sum(kept.nbytes for kept in self._bases.values()) + basis.nbytes > KEPT_BASES:
                return basis
            self._bases[key] = basis
        return self._bases[key]

    def interval(
        self, values: np.ndarray, clusters: Sequence, statistic: Callable[..., float] = np.mean,
        **options,
    ) -> dict[str, float]:
        """``value``, ``low`` and ``high``: :func:`cluster_bootstrap` with this study's draws."""
        found = cluster_bootstrap(
            values, clusters, statistic, draws=self.config.bootstrap_draws, seed=self.config.seed,
            **options,
        )
        return dict(zip(("value", "low", "high"), found, strict=True))

    def excess(
        self, score: np.ndarray, control: np.ndarray, clusters: Sequence,
        statistic: Callable[..., float] | None = None, **options,
    ) -> dict[str, float]:
        """``value``, ``low`` and ``high`` of score - control: `intervals.excess`.

        The control is (n, draws, ...); the interval is for other subjects and other subspaces.
        """
        found = excess(
            score, control, clusters, statistic, draws=self.config.bootstrap_draws,
            seed=self.config.seed, **options,
        )
        return dict(zip(("value", "low", "high"), found, strict=True))

    # --- one picture ----------------------------------------------------------------------------

    def row(self, picture: str) -> int:
        """Row of a picture in :attr:`pictures`, by its name or the beginning of it."""
        names = self.pictures["picture"]
        found = np.flatnonzero(names == picture)
        if len(found) == 0:
            found = np.flatnonzero(names.str.startswith(f"{picture}-"))
        if len(found) == 0:
            raise unknown("picture", picture, names)
        return int(found[0])

    def rows(self, pictures: Sequence[str]) -> np.ndarray:
        """Rows of pictures in :attr:`pictures`, (n,); names as :meth:`row` takes them."""
        found = pd.Index(self.pictures["picture"]).get_indexer(list(pictures))
        return np.array(
            [self.row(name) if at < 0 else at for name, at in zip(pictures, found)], dtype=int
        )

    def names(self, pictures: Sequence[str]) -> list[str]:
        """Labels for people, numbered where one comes twice."""
        labels = self.pictures["label"].iloc[self.rows(pictures)].tolist()
        counts: dict[str, int] = {}
        names = []
        for label in labels:
            counts[label] = counts.get(label, 0) + 1
            names.append(label if labels.count(label) == 1 else f"{label} {counts[label]}")
        return names

    # --- keeping --------------------------------------------------------------------------------

    def _hash(self, *parts: object) -> str:
        unit = () if self.config.lambda_unit == "one" else (self.config.lambda_unit,)
        what = (METHOD, self.config, parts, *unit)
        return hashlib.sha256(repr(what).encode()).hexdigest()[:12]

    def stored(
        self, name: str, compute: Callable[[], pd.DataFrame], *models: str
    ) -> pd.DataFrame:
        """A table from memory, from disk, or computed and written atomically.

        Parameters
        ----------
        name : str
            Of the table, with everything that it depends on beside the profile and its features.
        compute : callable
            Makes the table.
        *models : str
            Classifiers whose features it depends on.
        """
        name = slug(name)
        if name not in self._tables:
            keys = [self.feature_key(model) for model in models]
            if self.config.published_translators:
                keys += [self.translator(model).card["sha256"] for model in models]
            key = self._hash(name, self.embedding_key, *keys, self.subjects["label"].tolist())
            path = self.folder / "tables" / f"{name}-{key}.parquet"
            found = read_or_none(path, kept_table)
            if found is None:
                made = compute()
                made.attrs.pop("skipped", None)  # of the pictures; thousands, maybe, in each table
                # As it is read back, also when it was just computed: the same in every process.
                found = kept_table(keep_table(path, made))
            self._tables[name] = found
        return self._tables[name].copy()

    def mark(self, stage: str, content: dict) -> Path:
        """Write the small JSON file that says a stage of the run is done, and with what."""
        # With the moment: Snakemake goes by what such a file holds, and a stage that ran again
        # between two runs would look as if nothing had happened.
        done = datetime.now(timezone.utc).isoformat()
        text = json.dumps(
            {"profile": self.config.model_dump(), **content, "done": done}, indent=1
        )
        return write_atomic(self.folder / "stages" / f"{stage}.json", text + "\n")


def stored(
    function: Callable | None = None, *, models: str = "everyone", keys: Sequence[str] = (),
    apart: Sequence[str] = (),
) -> Callable:
    """A function of a study whose table is kept in memory and on disk, by :meth:`Study.stored`.

    A table is kept under the function, the code of its file (comments and docstrings aside), its
    arguments, the profile, the joint embeddings and the features of the classifier that the
    argument ``model`` names, or else of several. Whatever else it depends on is an argument.

    Parameters
    ----------
    function : callable
        ``function(study, ...)`` that returns a DataFrame. Its other arguments are plain values or
        lists of them: their ``repr`` has to be the same in every process.
    models : str
        Attribute of the profile that lists the classifiers whose features are used where there is
        no argument ``model``: ``everyone`` (the default) or ``models``.
    keys : sequence of str
        Keys of the profile that are not part of every table's name (``repr=False`` there), and
        that this table depends on.
    apart : sequence of str
        Arguments that do not change the table, such as ``progress``.

    Examples
    --------
    >>> import pandas as pd
    >>> @stored
    ... def features_read(study):
    ...     return pd.DataFrame({m: [study.spaces(m).rank] for m in study.config.everyone})
    >>> @stored(keys=["redeals"], apart=["progress"])
    ... def spread(study, model, progress=False):
    ...     return pd.DataFrame({"deals": range(study.config.redeals)})
    """
    if function is None:
        return partial(stored, models=models, keys=keys, apart=apart)
    signature, file = inspect.signature(function), inspect.getsourcefile(function)

    @wraps(function)
    def kept(study: Study, *args, **kwargs) -> pd.DataFrame:
        given = signature.bind(study, *args, **kwargs)
        given.apply_defaults()
        _, *asked = given.arguments.items()
        asked = [
            (name, list(value) if isinstance(value, tuple) else value)
            for name, value in asked if name not in apart
        ]
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
                if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            ]
    return content_key(ast.dump(tree))


def _translator(path: Path) -> Translator:
    return Translator.load(_there(path))


def _statistics(path: Path) -> RidgeFitter:
    return RidgeFitter.load(_there(path))


def _there(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(path)
    return path
