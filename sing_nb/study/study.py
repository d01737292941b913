"""A study: the pictures, features, embeddings, spaces and translators of one profile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from ..checks.intervals import cluster_bootstrap, excess
from ..errors import SingError, unknown
from ..method.nullspace import HeadSpaces
from ..method.steer import matched_removal, random_basis
from ..method.translator import RidgeFitter, Translator
from ..models.classifier import Classifier
from ..models.joint import ConseSpace, OpenClipSpace, load_joint_space
from ..models.load import load_classifier
from ..models.prompts import prompt
from ..pictures import features as networks
from ..pictures.cache import content_key, keep, keep_table, kept_table, opened, read_or_none
from ..pictures.features import FeatureSet, Running
from ..pictures.fetch import cache_dir, slug
from . import fits
from .heads import check_features, spaces_with_null, truth
from .pictures import Pictures
from .profile import build_dir, load_profile
from .stored import arithmetic, stored

__all__ = ["Study", "stored"]

KEPT_BASES = 2**27  # bytes of random subspaces that are kept


class Study(Pictures):
    """Results of one profile, computed on first use and kept under ``_build/<profile>``.

    Parameters
    ----------
    profile : str
        A file in ``data/profiles``.
    progress : bool, optional
        Whether long work shows progress bars; by default unless ``$SING_QUIET`` is set.
    **overrides
        Keys of the profile with other values.

    Raises
    ------
    SingError
        For an unknown profile or key, or a value that is not one of its kind.

    Examples
    --------
    >>> study = Study("smoke", views=6)
    >>> study.config.views, study.config.models
    (6, ['lite0', 'lite1'])
    """

    def __init__(
        self, profile: str = "offline", *, progress: bool | None = None, **overrides
    ) -> None:
        progress = not os.environ.get("SING_QUIET") if progress is None else progress
        super().__init__(load_profile(profile, overrides), build_dir(profile), progress)
        self._classifiers: dict[str, Classifier] = {}
        self._spaces: dict[str, HeadSpaces] = {}
        self._features: dict[str, FeatureSet] = {}
        self._keys: dict[str, str] = {}
        self._tables: dict[str, pd.DataFrame] = {}
        self._fits: dict[tuple[str, str], list[Translator]] = {}
        self._drawings: dict[str, np.ndarray] = {}
        self._others: dict[str, Study] = {}
        self._bases: dict[tuple[int, int, int], np.ndarray] = {}

    # --- classifiers and their features ---------------------------------------------------------

    def classifier(self, model: str) -> Classifier:
        """A classifier of this study, or any other that can be loaded."""
        if model not in self._classifiers:
            self._classifiers[model] = load_classifier(model)
        return self._classifiers[model]

    def add(self, classifier: Classifier, features: FeatureSet | None = None) -> str:
        """Take in a classifier, with its features of all pictures if they are known."""
        name, (c, m), n = classifier.name, classifier.head.weight.shape, len(self.pictures)
        if self._classifiers.get(name, classifier) is not classifier:
            raise SingError(f"This study has a classifier {name!r} already; rename yours.")
        if features is not None:
            if [tuple(part.shape) for part in features] != [(n, m), (n, c)]:
                raise SingError(
                    f"{name}: expected features ({n}, {m}) and logits ({n}, {c}) of all pictures; "
                    f"got {tuple(features.features.shape)} and {tuple(features.logits.shape)}.")
            check_features(classifier.title, features.features, self.is_scored)
            self._features[name] = features
            self._keys[name] = content_key(
                *(part for part in classifier.head if part is not None), *features,
                *self.pictures["picture"],
            )[:12]
        self._classifiers[name] = classifier
        return name

    def title(self, model: str) -> str:
        """A classifier's name for people; the tower is marked, for it is never ranked."""
        title = self.classifier(model).title
        return f"{title} (tower)" if model == self.config.tower else title

    def class_names(self, model: str) -> list[str]:
        """Names of a classifier's logits, numbers where it brings none."""
        clf = self.classifier(model)
        return clf.class_names or [f"class {index}" for index in range(len(clf.head.weight))]

    def truth(self, model: str) -> np.ndarray:
        """Which logit of a classifier is right, for every picture; -1 where none is."""
        return truth(self, model)

    def spaces(self, model: str) -> HeadSpaces:
        """Principal and null space of a classifier's head; a SingError if nothing is null."""
        if model not in self._spaces:
            self._spaces[model] = spaces_with_null(self.classifier(model))
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
            check_features(self.classifier(model).title, found.features, self.is_scored)
            self._features[model] = found
        return self._features[model]

    def feature_part(self, model: str, part: tuple[int, int] | None = None) -> FeatureSet:
        """Features and logits of one part (index, count) of the pictures, by default of all."""
        if model in self._features:
            rows = networks.part_rows(len(self.pictures), part)
            return FeatureSet(*(x[rows.start : rows.stop] for x in self._features[model]))
        return networks.compute_features(
            self.classifier(model), self.pictures, self.picture_folder, self.folder / "features",
            running=self._running, key=self.feature_key(model), part=part, progress=self.progress)

    @property
    def _running(self) -> Running:
        c = self.config
        return Running(c.device, c.precision, c.workers, c.batch)

    def feature_key(self, model: str) -> str:
        """Short hash of a classifier's weights and transform, and of the pictures."""
        if model not in self._keys:
            self._keys[model] = networks.feature_key(self.classifier(model), self.pictures)
        return self._keys[model]

    # --- joint space ----------------------------------------------------------------------------

    @cached_property
    def space(self) -> ConseSpace | OpenClipSpace:
        """The joint image-text space."""
        c = self.config
        if c.tower:
            how = {"tower": c.tower, "top": c.top_classes, "temperature": c.temperature}
        else:
            how = {"device": networks.run_device(c.device), "precision": c.precision}
        return load_joint_space(c.joint_space, cache=cache_dir() / "texts", **how)

    def text(self, labels: Sequence[str]) -> torch.Tensor:
        """Embeddings (n, d) of "an image of a <label>"."""
        return self.space.encode_text([prompt(label) for label in labels])

    @cached_property
    def embeddings(self) -> torch.Tensor:
        """Joint embeddings (n, d) of all pictures, unit vectors."""
        tower, key, n = self.config.tower, self.embedding_key, len(self.pictures)
        if not tower:
            return self.embedding_part()
        # Kept on disk: without them, whoever needs no text would load the sentence encoder.
        path = self.folder / "features" / f"embeddings-{slug(tower)}-{key}.safetensors"

        def wrong(found: tuple[dict[str, torch.Tensor], object]) -> str:
            held = found[0].get("embeddings", torch.empty(0))
            right = found[1] == key and held.ndim == 2 and len(held) == n
            return "" if right else "it is of other pictures or another tower"

        found = read_or_none(path, opened, wrong)
        if found is not None:
            return found[0]["embeddings"]
        z = self.space.encode_logits(self.logits(tower)).contiguous()
        keep(path, {"embeddings": z}, key)
        return z

    def embedding_part(self, part: tuple[int, int] | None = None) -> torch.Tensor:
        """Joint embeddings of one part of the pictures, as :meth:`feature_part` does features."""
        if self.config.tower:
            return self.space.encode_logits(self.feature_part(self.config.tower, part).logits)
        return networks.compute_embeddings(
            self.space, self.pictures, self.picture_folder, self.folder / "features",
            running=self._running, key=self.embedding_key, part=part, progress=self.progress)

    @cached_property
    def embedding_key(self) -> str:
        """Short hash of everything that :attr:`embeddings` depend on."""
        c = self.config
        if not c.tower:
            return networks.feature_key(self.space, self.pictures)
        return content_key(
            self.feature_key(c.tower), c.joint_space, c.top_classes, c.temperature)[:12]

    def in_space(self, space: str) -> Study:
        """The same pictures and classifiers in another of the profile's ``spaces``.

        In ConSE that is a tower, one of this study's classifiers: the others are compared.
        """
        c = self.config
        if space not in c.spaces:
            raise unknown("joint space of this study", space, c.spaces)
        if space == c.spaces[-1 if c.tower else 0]:
            return self
        if space not in self._others:
            settings = c.model_dump(exclude={"name"})
            if c.tower:
                settings |= {"tower": space, "models": [m for m in c.everyone if m != space]}
            else:
                others = [name for name in c.spaces if name != space]
                settings |= {"joint_space": space, "other_spaces": others}
            other = self._others[space] = Study(c.name, progress=self.progress, **settings)
            # What does not depend on the space is shared: it is large, and the same.
            for shared in ("_classifiers", "_spaces", "_features", "_keys", "_bases", "pictures"):
                other.__dict__[shared] = getattr(self, shared)
        return self._others[space]

    def space_title(self, space: str) -> str:
        """Name for people of one of the profile's ``spaces``."""
        if self.config.tower:
            return self.classifier(space).title
        return self.in_space(space).space.title

    # --- translators ----------------------------------------------------------------------------

    def translators(self, model: str) -> list[Translator]:
        """The translators of :meth:`fitted`, or as often the one that the authors published.

        That one was not fitted here: no subject is held out, and its card has no lambda.
        """
        if self.config.published_translators is None:
            return self.fitted(model)
        if (model, "published") not in self._fits:
            count = self.config.folds + 1
            self._fits[model, "published"] = [fits.published(self, model)] * count
        return self._fits[model, "published"]

    def fitted(self, model: str) -> list[Translator]:
        """One translator a fold, fitted without its subjects; last, one fitted on all subjects."""
        if (model, "ridge") not in self._fits:
            self._fits[model, "ridge"] = fits.translators(self, model)
        return self._fits[model, "ridge"]

    def translator(self, model: str) -> Translator:
        """The translator for pictures from elsewhere, fitted on all subjects."""
        return self.translators(model)[-1]

    def translate(self, model: str, f: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """Translate features (n, m) of rows (n,) of :attr:`pictures`, held out, (n, d)."""
        fold = self.pictures["fold"].to_numpy()[rows]
        found = self.translators(model)
        out = torch.empty(len(f), found[0].weight.shape[0])
        for number in np.unique(fold):
            chosen = torch.tensor(fold == number)
            out[chosen] = found[number](f[chosen])
        return out

    def lambdas(self, model: str) -> list[float]:
        """Ridge candidates for a classifier's features, in the profile's ``lambda_unit``."""
        return fits.candidates(self, model)

    def fitter(self, model: str, rows: np.ndarray) -> RidgeFitter:
        """Sufficient statistics of some :attr:`pictures`, by their rows (numbers, or a mask)."""
        f, z, rows = self.features(model), self.embeddings, torch.as_tensor(np.array(rows))
        return RidgeFitter(f.shape[1], z.shape[1]).update(f[rows], z[rows])

    def statistics(self, model: str, part: tuple[int, int]) -> dict[int, RidgeFitter]:
        """Sufficient statistics by fold of one part of the pictures alone, kept on disk."""
        return fits.statistics(self, model, part)

    def fold_fitters(
        self, model: str, x: torch.Tensor, z: torch.Tensor
    ) -> tuple[RidgeFitter, list[RidgeFitter]]:
        """Sufficient statistics of the drawings, and of each fold: features x, targets z."""
        return fits.fold_fitters(self, model, x, z)

    def drawings(self, model: str) -> np.ndarray:
        """Mask (n,) of the drawings that a classifier's translators are fitted on, beside folds.

        All of them; where a folder lets the study choose (``also_fit: auto``), none if held-out
        pictures of the folder are explained better without.
        """
        if model not in self._drawings:
            found, c = (self.pictures["source"] == "clipart").to_numpy(), self.config
            chosen = c.also_fit == "auto" and c.pictures != "stamps" and found.any()
            harm = chosen and not fits.drawings_help(self, model)
            self._drawings[model] = found & (not harm)
        return self._drawings[model]

    # --- controls and intervals -----------------------------------------------------------------

    def random_removals(
        self, model: str, f: torch.Tensor, draws: int | None = None
    ) -> Iterator[torch.Tensor]:
        """Features (n, m) without a random part as large as their null part, one control a draw."""
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
        """``value``, ``low``, ``high``: `intervals.cluster_bootstrap` with this study's draws."""
        c = self.config
        found = cluster_bootstrap(
            values, clusters, statistic, draws=c.bootstrap_draws, seed=c.seed, **options)
        return dict(zip(("value", "low", "high"), found, strict=True))

    def excess(
        self, score: np.ndarray, control: np.ndarray, clusters: Sequence,
        statistic: Callable[..., float] | None = None, **options,
    ) -> dict[str, float]:
        """``value``, ``low``, ``high`` of score - control (n, draws, ...): `intervals.excess`."""
        c = self.config
        found = excess(
            score, control, clusters, statistic, draws=c.bootstrap_draws, seed=c.seed, **options)
        return dict(zip(("value", "low", "high"), found, strict=True))

    # --- keeping --------------------------------------------------------------------------------

    def key(self, *parts: object) -> str:
        """What results are kept under: the profile, the code of the method, and other parts."""
        return content_key(arithmetic(), self.config, *parts)[:12]

    def stored(self, name: str, compute: Callable[[], pd.DataFrame], *models: str) -> pd.DataFrame:
        """A table from memory, from disk, or computed and kept; the decorator is simpler."""
        name = slug(name)
        if name not in self._tables:
            keys = [self.feature_key(model) for model in models]
            if self.config.published_translators:
                keys += [self.translator(model).card["sha256"] for model in models]
            key = self.key(name, self.embedding_key, *keys, self.subjects["label"].tolist())
            path = self.folder / "tables" / f"{name}-{key}.parquet"
            found = read_or_none(path, kept_table)
            if found is None:
                made = compute()
                made.attrs.pop("skipped", None)  # of the pictures; thousands, maybe, in each table
                # As it is read back, also when it was just computed: the same in every process.
                found = kept_table(keep_table(path, made))
            self._tables[name] = found
        return self._tables[name].copy()
