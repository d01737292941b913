"""A study: everything that a chapter asks for, computed or loaded, as tidy tables.

Scores are cross-fitted. Subjects are dealt to folds; a picture's feature is translated by the
translator that never saw its subject. Photographs, which no translator is fitted on, use the one
that is fitted on all subjects.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
import yaml
from torch.nn.functional import cosine_similarity, normalize

from .errors import SingError
from .features import FeatureSet, compute_features, feature_key
from .fetch import data_dir, write_atomic
from .heads import Classifier, load_classifier
from .images import picture_file, picture_table, stamps, store_pictures, thumbnail
from .joint import ConseSpace, load_joint_space
from .metrics import angle, attribute_score, image_score
from .nullspace import HeadSpaces
from .perturb import matched_removal
from .profile import build_dir, load_profile, unknown
from .prompts import class_aliases, imagenet_names, prompt
from .stats import cluster_bootstrap, random_basis
from .translator import RidgeFitter, Translator, grouped_cv, nested_cv

__all__ = ["Study"]

METHOD = 5  # part of every stored table's name: raise it when a table's meaning changes
TOP = 5


class Study:
    """Results of one profile, computed on first use and kept under ``_build/<profile>``.

    Parameters
    ----------
    profile : str
        A file in ``data/profiles``.
    progress : bool
        Whether long work shows progress bars.
    **overrides
        Keys of the profile with other values.

    Attributes
    ----------
    config : Profile
    folder : pathlib.Path
        Where results lie.
    """

    def __init__(self, profile: str = "offline", *, progress: bool = True, **overrides) -> None:
        self.config = load_profile(profile, overrides)
        if self.config.joint_space != "conse":
            raise SingError(
                f"A study needs the joint space 'conse' for now; got "
                f"{self.config.joint_space!r}. load_joint_space loads open_clip spaces by hand."
            )
        self.folder = build_dir(profile)
        self.progress = progress
        self._classifiers: dict[str, Classifier] = {}
        self._spaces: dict[str, HeadSpaces] = {}
        self._features: dict[str, FeatureSet] = {}
        self._keys: dict[str, str] = {}
        self._tables: dict[str, pd.DataFrame] = {}
        self._fits: dict[str, list[Translator]] = {}

    # --- pictures, classifiers, features --------------------------------------------------------

    @cached_property
    def pictures(self) -> pd.DataFrame:
        """The picture table (see :mod:`sing_nb.images`) with the column ``fold``.

        ``fold`` is -1 for what is fitted on in every fold (clip art) or never (photographs).
        """
        c = self.config
        table = picture_table(
            views=c.views, clipart_views=c.clipart_views, seed=c.seed,
            stamp_subjects=c.stamp_subjects, clipart_files=c.clipart_files,
        )
        subjects = sorted(table.loc[table["source"] == "stamp", "subject"].unique())
        if len(subjects) < 2 * c.folds:
            raise SingError(
                f"{len(subjects)} subjects are too few for {c.folds} folds; take at least "
                f"{2 * c.folds} subjects or fewer folds."
            )
        shuffled = np.random.default_rng(c.seed).permutation(len(subjects))
        fold = dict(zip(subjects, shuffled % c.folds, strict=True))
        stamp = table["source"] == "stamp"
        table["fold"] = table["subject"].where(stamp).map(fold).fillna(-1).astype(int)
        return table

    @property
    def picture_folder(self) -> Path:
        """Where drawn pictures lie."""
        return self.folder / "pictures"

    def fetch(self) -> pd.DataFrame:
        """Fetch and draw all pictures; returns the picture table."""
        store_pictures(self.pictures, self.picture_folder, progress=self.progress)
        return self.pictures

    def picture_path(self, picture: str) -> Path:
        """File of one picture, drawn if it is missing."""
        found = self.pictures[self.pictures["picture"] == picture]
        if found.empty:
            raise unknown("picture", picture, self.pictures["picture"])
        store_pictures(found, self.picture_folder, progress=False)
        return picture_file(found.iloc[0], self.picture_folder)

    def with_thumbnails(self, table: pd.DataFrame, side: int = 72) -> pd.DataFrame:
        """A table with the column ``image``: a small copy of the row's ``picture``."""
        drawn = {name: thumbnail(self.picture_path(name), side) for name in set(table["picture"])}
        return table.assign(image=table["picture"].map(drawn))

    def examples(self, labels: Sequence[str]) -> list[str]:
        """Names of one picture for each label: the view in which the subject is largest."""
        stamps = self.pictures[self.pictures["source"] == "stamp"]
        stamps = stamps.sort_values("scale", ascending=False, kind="stable")
        stamps = stamps.drop_duplicates("label").set_index("label")["picture"]
        for label in labels:
            if label not in stamps:
                raise unknown("label", label, stamps.index)
        return [stamps[label] for label in labels]

    def label(self, name: str) -> str:
        """The label of the photo stamps that a name means, in this profile or in another.

        Parameters
        ----------
        name : str
            A label, or any usual name of its ImageNet class ("Arabian camel" for dromedary).

        Raises
        ------
        SingError
            If no stamp is called so, with the nearest name that would do.
        """
        labels = self._labels
        if name.lower() not in labels:
            near = get_close_matches(name.lower(), labels, n=1)
            other = name.lower() in class_aliases()
            advice = " It is an ImageNet class, but no photo stamp shows it." if other else ""
            raise unknown("class", name, {*near, *self.subjects["label"]}, advice)
        return labels[name.lower()]

    @cached_property
    def _labels(self) -> dict[str, str]:
        """Every usual name of a stamp, in lower case, with its label."""
        every = dict(stamps(views=1)[["class_index", "label"]].itertuples(index=False))
        # Where several labels share a class, one that this profile shows comes first.
        every |= dict(self.subjects[["class_index", "label"]].itertuples(index=False))
        names = {
            alias: every[index] for alias, indices in class_aliases().items()
            for index in sorted(indices) if index in every
        }
        return names | {label.lower(): label for label in stamps(views=1)["label"]}

    def known(self, labels: Sequence[str], at_least: int = 2) -> list[str]:
        """Those of the labels that this profile has, filled up from its classes.

        Raises
        ------
        SingError
            If a label is none in any profile (see :meth:`label`).
        """
        have = self.subjects.sort_values("class_index", ascending=False)["label"]
        named = dict.fromkeys(self.label(label) for label in labels)
        chosen = [label for label in named if label in set(have)]
        rest = [label for label in have if label not in chosen]
        return chosen + rest[: max(0, at_least - len(chosen))]

    def with_tower(self, tower: str) -> Study:
        """The same pictures and classifiers in the joint space of another tower.

        Parameters
        ----------
        tower : str
            One of this study's classifiers; the others are compared.
        """
        if tower == self.config.tower:
            return self
        settings = dataclasses.asdict(self.config) | {
            "tower": tower, "models": [name for name in self.config.everyone if name != tower]
        }
        name = settings.pop("name")
        other = Study(name, progress=self.progress, **settings)
        # What does not depend on the tower is shared: it is large, and the same.
        other._classifiers, other._spaces = self._classifiers, self._spaces
        other._features, other._keys = self._features, self._keys
        return other

    def classifier(self, model: str) -> Classifier:
        """A classifier of this study, or any other that can be loaded."""
        if model not in self._classifiers:
            self._classifiers[model] = load_classifier(model)
        return self._classifiers[model]

    def title(self, model: str) -> str:
        """A classifier's name for people; the tower is marked, for it is never ranked."""
        title = self.classifier(model).title
        return f"{title} (tower)" if model == self.config.tower else title

    def spaces(self, model: str) -> HeadSpaces:
        """Principal and null space of a classifier's head."""
        if model not in self._spaces:
            self._spaces[model] = HeadSpaces.from_weight(self.classifier(model).head.weight)
        return self._spaces[model]

    def features(self, model: str) -> torch.Tensor:
        """Features (n, m) of all pictures, in the order of :attr:`pictures`."""
        return self._feature_set(model).features

    def logits(self, model: str) -> torch.Tensor:
        """The classifier's own logits (n, c) of all pictures."""
        return self._feature_set(model).logits

    def _feature_set(self, model: str) -> FeatureSet:
        if model not in self._features:
            self._features[model] = compute_features(
                self.classifier(model), self.pictures, self.picture_folder,
                self.folder / "features", progress=self.progress,
            )
        return self._features[model]

    def feature_key(self, model: str) -> str:
        """Short hash of a classifier's weights and transform, and of the pictures."""
        if model not in self._keys:
            self._keys[model] = feature_key(self.classifier(model), self.pictures)
        return self._keys[model]

    # --- joint space ----------------------------------------------------------------------------

    @cached_property
    def space(self) -> ConseSpace:
        """The joint image-text space."""
        c = self.config
        return load_joint_space(
            c.joint_space, tower=c.tower, top=c.top_classes, temperature=c.temperature
        )

    @cached_property
    def embeddings(self) -> torch.Tensor:
        """Joint embeddings (n, d) of all pictures, from the tower's logits."""
        # Kept on disk: without them, whoever needs no text would load the sentence encoder.
        c = self.config
        what = (self.feature_key(c.tower), c.joint_space, c.top_classes, c.temperature)
        key = hashlib.sha256(repr(what).encode()).hexdigest()[:12]
        path = self.folder / "features" / f"embeddings-{c.tower}-{key}.safetensors"
        if not path.is_file():
            found = self.space.encode_logits(self.logits(c.tower)).contiguous()
            write_atomic(path, safetensors.torch.save({"embeddings": found}))
        return safetensors.torch.load_file(path)["embeddings"]

    @cached_property
    def subjects(self) -> pd.DataFrame:
        """One row a stamp subject: subject, label, class_index, fold."""
        stamps = self.pictures[self.pictures["source"] == "stamp"]
        columns = ["subject", "label", "class_index", "fold"]
        return stamps[columns].drop_duplicates("subject").reset_index(drop=True)

    @cached_property
    def concepts(self) -> list[str]:
        """Concepts to ask about, ``data/concepts.yaml``."""
        groups = yaml.safe_load((data_dir() / "concepts.yaml").read_text(encoding="utf-8"))
        return [concept for group in groups.values() for concept in group]

    @cached_property
    def vocabulary(self) -> list[str]:
        """Words that embeddings are read in: class names, subjects and concepts."""
        words = [*imagenet_names(), *self.subjects["label"], *self.concepts]
        return list({word.lower(): word for word in reversed(words)}.values())[::-1]

    def text(self, labels: Sequence[str]) -> torch.Tensor:
        """Embeddings (n, d) of "an image of a <label>"."""
        return self.space.encode_text([prompt(label) for label in labels])

    def words(self, z: torch.Tensor, k: int = 5) -> pd.DataFrame:
        """The k words of the vocabulary nearest to each embedding.

        Parameters
        ----------
        z : torch.Tensor
            (n, d).
        k : int

        Returns
        -------
        pandas.DataFrame
            Columns row, rank (from 1), word, angle (degrees).
        """
        angles = angle(z[:, None], self.text(self.vocabulary)[None])
        best = angles.topk(k, dim=1, largest=False)
        return pd.DataFrame(
            {
                "row": np.repeat(np.arange(len(z)), k),
                "rank": np.tile(np.arange(1, k + 1), len(z)),
                "word": [self.vocabulary[i] for i in best.indices.flatten().tolist()],
                "angle": best.values.flatten().numpy(),
            }
        )

    # --- translators ----------------------------------------------------------------------------

    def translators(self, model: str) -> list[Translator]:
        """One translator a fold, fitted without its subjects; last, one fitted on all subjects.

        Lambda is chosen by cross-validation grouped by subject, for each fold among the other
        folds only, so that held-out scores have seen neither weights nor lambda.
        """
        if model not in self._fits:
            key = self._hash("translator", self.feature_key(model), self._embedding_key())
            count = self.config.folds + 1
            names = [*(str(fold) for fold in range(count - 1)), "all"]
            home = self.folder / "translators"
            files = [home / f"{model.replace('/', '-')}-{key}-{name}.safetensors" for name in names]
            if not all(path.is_file() for path in files):
                for path, fitted in zip(files, self._fit(model), strict=True):
                    fitted.save(path)
            self._fits[model] = [Translator.load(path) for path in files]
        return self._fits[model]

    def translator(self, model: str) -> Translator:
        """The translator fitted on all subjects, for pictures from elsewhere."""
        return self.translators(model)[-1]

    def _embedding_key(self) -> str:
        c = self.config
        return self._hash(self.feature_key(c.tower), c.top_classes, c.temperature)

    def _fold_fitters(
        self, model: str, z: torch.Tensor | None = None
    ) -> tuple[RidgeFitter, list[RidgeFitter]]:
        """Sufficient statistics of the clip art, and of each fold's stamps."""
        f, z = self.features(model), self.embeddings if z is None else z
        fitters = {}
        for fold in range(-1, self.config.folds):
            rows = (self.pictures["fold"] == fold) & (self.pictures["source"] != "photo")
            rows = torch.tensor(rows.to_numpy())
            fitters[fold] = RidgeFitter(f.shape[1], z.shape[1]).update(f[rows], z[rows])
        return fitters[-1], [fitters[fold] for fold in range(self.config.folds)]

    def _fit(self, model: str) -> list[Translator]:
        always, folds = self._fold_fitters(model)
        lams = self.config.lambdas
        pictures = self.pictures[self.pictures["source"] != "photo"]
        outer = grouped_cv(always, folds, lams)
        inner_scores = nested_cv(always, folds, lams) if len(folds) > 2 else None
        fitted = []
        for held_out in [*range(len(folds)), None]:
            inner = [fold for index, fold in enumerate(folds) if index != held_out]
            if len(inner) < 2:  # nothing is left to choose by: the middle candidate
                lam = lams[len(lams) // 2]
            else:
                scores = outer if held_out is None else inner_scores[held_out]
                lam = lams[int(scores.nanmean(0).argmax())]
            total = always.copy()
            for fold in inner:
                total.merge(fold)
            card = {
                "model": model, "joint_space": self.config.joint_space,
                "tower": self.config.tower, "profile": self.config.name, "seed": self.config.seed,
                "pictures": total.n, "held_out_fold": held_out,
                "subjects": int(pictures.loc[pictures["fold"] != held_out, "subject"].nunique()),
            }
            if held_out is not None:
                solved = total.solve(lam)
                residual, energy = folds[held_out].squared_errors(solved.weight, solved.bias)
                card["held_out_r2"] = 1 - residual / energy
            fitted.append(total.solve(lam, card))
        return fitted

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

    # --- tables ---------------------------------------------------------------------------------

    def images(self, model: str) -> pd.DataFrame:
        """One row a stamp view or photograph: scores of its null-removed equivalent.

        Returns
        -------
        pandas.DataFrame
            The picture's columns and, in degrees unless said otherwise: ``image_score`` and
            ``attribute_score`` (towards its own label; positive = closer), the same with
            ``_control`` (mean over random subspaces of the same size and energy),
            ``translator_error`` (translated feature to the picture's own embedding),
            ``label_angle`` (translated feature to its label), ``null_share`` (share of the
            feature's squared length, 0 to 1), ``logit_change`` and ``logit_change_control``
            (largest change of any logit), ``predicted`` (class name) and ``correct``.
        """
        return self.stored(f"images-{model}", lambda: self._images(model), model)

    def _images(self, model: str) -> pd.DataFrame:
        keep = (self.pictures["source"] != "clipart").to_numpy()
        rows = np.flatnonzero(keep)
        table = self.pictures[keep].reset_index(drop=True)
        f, clf, spaces = self.features(model)[rows], self.classifier(model), self.spaces(model)
        text = self.text(table["label"])
        z = self.translate(model, f, rows)
        removed = spaces.remove_null(f)
        z_removed = self.translate(model, removed, rows)
        before = clf.logits(f)
        table["image_score"] = image_score(z, z_removed).numpy()
        table["attribute_score"] = attribute_score(z, z_removed, text).numpy()
        table["translator_error"] = angle(z, self.embeddings[rows]).numpy()
        table["label_angle"] = angle(z, text).numpy()
        table["null_share"] = spaces.null_share(f).numpy()
        table["logit_change"] = (clf.logits(removed) - before).abs().amax(1).numpy()
        control = self.controls(model).groupby("picture", sort=False)
        for name in ("image_score", "attribute_score", "logit_change"):
            table[f"{name}_control"] = control[name].mean().loc[table["picture"]].to_numpy()
        winner = before.argmax(1).numpy()
        table["predicted"] = [clf.class_names[i] for i in winner]
        table["correct"] = (winner == table["class_index"]).where(table["class_index"] >= 0)
        return table

    def controls(self, model: str) -> pd.DataFrame:
        """Scores after removing random parts of the same size, one row a picture and draw.

        A size, such as |AS|, must be taken draw by draw: the mean over draws is smaller than any.

        Returns
        -------
        pandas.DataFrame
            picture, draw (from 0), image_score, attribute_score (degrees), logit_change (largest
            change of any logit); pictures in the order of :meth:`images`.
        """
        return self.stored(f"controls-{model}", lambda: self._controls(model), model)

    def _controls(self, model: str) -> pd.DataFrame:
        rows = np.flatnonzero((self.pictures["source"] != "clipart").to_numpy())
        f, clf = self.features(model)[rows], self.classifier(model)
        text = self.text(self.pictures["label"].iloc[rows])
        z, before = self.translate(model, f, rows), clf.logits(f)
        tables = []
        for draw, other in enumerate(self.random_removals(model, f)):
            z_other = self.translate(model, other, rows)
            tables.append(
                pd.DataFrame(
                    {
                        "picture": self.pictures["picture"].to_numpy()[rows], "draw": draw,
                        "image_score": image_score(z, z_other).numpy(),
                        "attribute_score": attribute_score(z, z_other, text).numpy(),
                        "logit_change": (clf.logits(other) - before).abs().amax(1).numpy(),
                    }
                )
            )
        return pd.concat(tables, ignore_index=True)

    def by_draw(self, model: str, column: str, pictures: Sequence[str]) -> np.ndarray:
        """A score of :meth:`controls` as an array (pictures, draws)."""
        return self.controls(model).pivot_table(column, "picture", "draw").loc[
            list(pictures)].to_numpy()

    def models(self) -> pd.DataFrame:
        """One row a classifier: medians of AS and IS with intervals and controls.

        Only pictures whose subject is an ImageNet class count. The tower is the last row and is
        marked in ``role``: it is measured in the space built from itself.

        Returns
        -------
        pandas.DataFrame
            model, title, role, ``value``/``low``/``high`` of each ``quantity`` in long form with
            its ``kind`` (null space removed, or control), cluster bootstrap over subjects.
        """
        return self.stored("models", self._models, *self.config.everyone)

    def _models(self) -> pd.DataFrame:
        # Of columns that hold IS and, after them, |AS|: one of each, or one of each for every
        # random draw, whose medians are averaged.
        quantities = {
            "image_score": lambda m: m[0].mean(),
            "attribute_score": lambda m: m[1].mean(),
            "ratio": lambda m: (m[0] / m[1]).mean(),
        }
        records = []
        for model in self.config.everyone:
            table = self.scored(model)
            pairs = {
                "null space removed": table[["image_score", "attribute_score"]].to_numpy(),
                "random control": np.hstack(
                    [
                        self.by_draw(model, name, table["picture"])
                        for name in ("image_score", "attribute_score")
                    ]
                ),
            }
            for kind, pair in pairs.items():
                for quantity, score in quantities.items():

                    def statistic(v: np.ndarray, score=score) -> float:
                        return float(score(np.median(np.abs(v), axis=0).reshape(2, -1)))

                    records.append(
                        self._record(model, pair, table["subject"], statistic)
                        | {"quantity": quantity, "kind": kind}
                    )
            excess = (table["image_score"] - table["image_score_control"]).to_numpy()
            records.append(
                self._record(model, excess, table["subject"], np.median)
                | {"quantity": "image_score_excess", "kind": "null space removed"}
            )
            error = table["translator_error"].to_numpy()
            records.append(
                self._record(model, error, table["subject"], np.median)
                | {"quantity": "translator_error", "kind": "held out"}
            )
        return pd.DataFrame(records)

    def model_difference(self, first: str, second: str) -> dict[str, float]:
        """Ratio IS/|AS| of the second classifier minus that of the first, paired by picture.

        Returns
        -------
        dict
            ``value``, ``low`` and ``high`` (95 %, cluster bootstrap over subjects).
        """
        columns = ["image_score", "attribute_score"]
        one, two = (self.scored(name).set_index("picture") for name in (first, second))
        pair = np.hstack([one[columns], two.loc[one.index, columns]])

        def difference(v: np.ndarray) -> float:
            median = np.median(np.abs(v), axis=0)
            return float(median[2] / median[3] - median[0] / median[1])

        return self.interval(pair, one["subject"], difference)

    def _record(self, model: str, values: np.ndarray, clusters, statistic: Callable) -> dict:
        role = "control: the tower itself" if model == self.config.tower else "compared"
        return {"model": model, "title": self.title(model), "role": role} | self.interval(
            values, clusters, statistic
        )

    def scored(self, model: str, draw: int | None = None) -> pd.DataFrame:
        """Rows of :meth:`images` that are stamps of a true ImageNet class.

        With `draw`, the columns with ``_control`` are of that random draw and not the mean.
        """
        table = self.images(model)
        table = table[(table["source"] == "stamp") & (table["class_index"] >= 0)]
        if draw is None:
            return table
        one = self.controls(model).query("draw == @draw").set_index("picture")
        one = one.loc[table["picture"]].set_index(table.index)
        return table.assign(**{f"{name}_control": one[name] for name in one.columns.drop("draw")})

    def classes(self, model: str) -> pd.DataFrame:
        """One row a class: median AS, |AS| and IS over its views, with controls.

        Returns
        -------
        pandas.DataFrame
            label, views, stamps, ``as_median``, ``as_low``/``as_high`` (middle half of the views:
            a spread, not an interval for other subjects), ``as_abs``, ``is_median``, the same
            controls, and ``accuracy`` (share of views classified correctly).
        """
        scored = self.scored(model)
        groups = scored.groupby("label")
        drawn = self.controls(model).merge(scored[["picture", "label"]], on="picture")
        drawn["as_abs"] = drawn["attribute_score"].abs()
        # Each draw by itself, then their mean: one random removal has no more than one size.
        control = drawn.groupby(["label", "draw"])[["as_abs", "image_score"]].median()
        control = control.groupby("label").mean()
        return (
            pd.DataFrame(
                {
                    "views": groups.size(),
                    "stamps": groups["path"].nunique(),
                    "as_median": groups["attribute_score"].median(),
                    "as_low": groups["attribute_score"].quantile(0.25),
                    "as_high": groups["attribute_score"].quantile(0.75),
                    "as_abs": groups["attribute_score"].apply(lambda v: v.abs().median()),
                    "as_abs_control": control["as_abs"],
                    "is_median": groups["image_score"].median(),
                    "is_median_control": control["image_score"],
                    "accuracy": groups["correct"].mean(),
                }
            )
            .sort_values("as_median")
            .reset_index()
        )

    def concept_angles(
        self, model: str, label: str, concepts: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Angles from a class's pictures to concepts: before, after null removal, and controls.

        Parameters
        ----------
        model : str
        label : str
            Label of a stamp subject, or another name of its class.
        concepts : sequence of str

        Returns
        -------
        before, after : numpy.ndarray
            (views, concepts), degrees.
        control : numpy.ndarray
            (draws, views, concepts), after removal of random subspaces of the same size and energy.
        """
        label, known = self.label(label), set(self.subjects["label"])
        if label not in known:
            raise unknown("class", label, known)
        rows = np.flatnonzero((self.pictures["label"] == label).to_numpy()
                              & (self.pictures["source"] == "stamp").to_numpy())
        f, text = self.features(model)[rows], self.text(concepts)[None]

        def angles(features: torch.Tensor) -> np.ndarray:
            return angle(self.translate(model, features, rows)[:, None], text).numpy()

        control = [angles(other) for other in self.random_removals(model, f)]
        return angles(f), angles(self.spaces(model).remove_null(f)), np.stack(control)

    def string_graph(
        self, model: str, label: str, concepts: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Angles from a class's pictures to concepts, before and after null removal.

        Parameters
        ----------
        model : str
        label : str
            Label of a stamp subject, or another name of its class.
        concepts : sequence of str, optional
            Those of ``data/concepts.yaml`` by default.

        Returns
        -------
        pandas.DataFrame
            From near to far: concept, ``before`` and ``after`` (mean angle, degrees),
            ``attribute_score`` (before - after), its ``low`` and ``high`` (95 % over views: of
            this subject only), ``attribute_score_control`` (mean over random subspaces) with
            ``control_low`` and ``control_high`` (smallest and largest of them), ``beyond`` (share
            of the random subspaces whose |AS| is smaller) and ``strength`` (place by |AS|,
            1 = strongest).
        """
        concepts = list(concepts or self.concepts)
        before, after, other = self.concept_angles(model, label, concepts)
        control = (before - other).mean(1)
        records = []
        for column, concept in enumerate(concepts):
            score = self.interval((before - after)[:, column], np.arange(len(before)))
            records.append(
                {
                    "concept": concept, "before": before[:, column].mean(),
                    "after": after[:, column].mean(), "attribute_score": score["value"],
                    "low": score["low"], "high": score["high"],
                    "attribute_score_control": control[:, column].mean(),
                    "control_low": control[:, column].min(),
                    "control_high": control[:, column].max(),
                    "beyond": np.mean(np.abs(control[:, column]) < abs(score["value"])),
                }
            )
        table = pd.DataFrame(records)
        table["strength"] = table["attribute_score"].abs().rank(ascending=False, method="first")
        return table.sort_values("before").reset_index(drop=True)

    def accuracy(self) -> pd.DataFrame:
        """Each classifier on the 20 labelled ImageNet photos: right, of, and the rank of its head.

        Returns
        -------
        pandas.DataFrame
            model, title, right, photos, classes, features, rank, null_dim, and the largest change
            of any logit by null removal over all pictures.
        """
        return self.stored("accuracy", self._accuracy, *self.config.everyone)

    def _accuracy(self) -> pd.DataFrame:
        photo = torch.tensor((self.pictures["source"] == "photo").to_numpy())
        truth = torch.tensor(self.pictures["class_index"].to_numpy())[photo]
        records = []
        for model in self.config.everyone:
            clf, spaces = self.classifier(model), self.spaces(model)
            f = self.features(model)
            change = (clf.logits(spaces.remove_null(f)) - clf.logits(f)).abs().max()
            records.append(
                {
                    "model": model, "title": clf.title,
                    "right": int((self.logits(model)[photo].argmax(1) == truth).sum()),
                    "photos": int(photo.sum()), "classes": len(clf.head.weight),
                    "features": spaces.features, "rank": spaces.rank,
                    "null_dim": spaces.null_dim, "largest_logit_change": float(change),
                }
            )
        return pd.DataFrame(records)

    def spectrum(self) -> pd.DataFrame:
        """Singular values of every head: model, title, index (from 1), value."""
        parts = []
        for model in self.config.everyone:
            values = self.spaces(model).singular_values.numpy()
            parts.append(
                pd.DataFrame(
                    {
                        "model": model, "title": self.classifier(model).title,
                        "index": np.arange(1, len(values) + 1), "value": values,
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    def fit_report(self) -> pd.DataFrame:
        """Held-out quality of every classifier's translator, one row a fold.

        Returns
        -------
        pandas.DataFrame
            model, title, fold, lambda, pictures (fitted on), r2, cosine, angle (degrees, mean),
            ``constant_cosine`` (of the training mean, which knows nothing of the picture), and
            how often the true name is among the nearest five of all subjects' names:
            ``top5_tower`` for the picture's own embedding, ``top5_translated``, and ``chance``.
        """
        return self.stored("fit", self._fit_report, *self.config.everyone)

    def _fit_report(self) -> pd.DataFrame:
        labels = self.subjects["label"].tolist()
        text = self.text(labels).double()
        fold_of = self.pictures["fold"].to_numpy()
        number = self.pictures["label"].map({name: i for i, name in enumerate(labels)})
        records = []
        for model in self.config.everyone:
            f, z = self.features(model), self.embeddings
            for fold, fitted in enumerate(self.translators(model)[:-1]):
                rows = torch.tensor(np.flatnonzero(fold_of == fold))
                truth = torch.tensor(number.to_numpy()[rows].astype(int))
                found, target = fitted(f[rows].double()), z[rows].double()
                constant = z[torch.tensor(fold_of != fold)].double().mean(0)
                records.append(
                    {
                        "model": model, "title": self.title(model), "fold": fold,
                        "lambda": fitted.card["lambda"], "pictures": fitted.card["pictures"],
                        "r2": fitted.card["held_out_r2"],
                        "cosine": float(cosine_similarity(found, target).mean()),
                        "angle": float(angle(found, target).mean()),
                        "constant_cosine": float(cosine_similarity(constant, target).mean()),
                        "top5_tower": _top(target, text, truth),
                        "top5_translated": _top(found, text, truth),
                        "chance": TOP / len(labels),
                    }
                )
        return pd.DataFrame(records)

    def lambda_path(self) -> pd.DataFrame:
        """Held-out R2 of every lambda, fold and classifier: model, title, lambda, fold, r2."""
        return self.stored("lambdas", self._lambda_path, *self.config.everyone)

    def _lambda_path(self) -> pd.DataFrame:
        parts = []
        for model in self.config.everyone:
            scores = grouped_cv(*self._fold_fitters(model), self.config.lambdas).numpy()
            for fold, row in enumerate(scores):
                parts.append(
                    pd.DataFrame(
                        {
                            "model": model, "title": self.title(model),
                            "lambda": self.config.lambdas, "fold": fold, "r2": row,
                        }
                    )
                )
        return pd.concat(parts, ignore_index=True)

    def targets(self, model: str) -> pd.DataFrame:
        """Other joint spaces from the same tower: are they easier to reach, and what do they say?

        Returns
        -------
        pandas.DataFrame
            One row a space: ``space``, ``used`` (whether this study uses it), ``r2`` with ``low``
            and ``high`` (smallest and largest fold), ``top5_translated``, ``top5_tower``.
        """
        return self.stored(f"targets-{model}", lambda: self._targets(model), model)

    def _targets(self, model: str) -> pd.DataFrame:
        tower, encoder = self.space.tower, self.space.encoder
        choices = [(top, None) for top in (20, 50, 75, 100, 200)]
        choices += [(75, temperature) for temperature in (1.0, 2.0, 3.0)]
        labels = self.subjects["label"].tolist()
        fold_of = self.pictures["fold"].to_numpy()
        number = self.pictures["label"].map({name: i for i, name in enumerate(labels)})
        spaces = [ConseSpace(tower, encoder, *choice) for choice in choices]
        logits, f = self.logits(self.config.tower), self.features(model)
        # All targets side by side: one eigendecomposition a fold serves every space.
        z = torch.cat([space.encode_logits(logits) for space in spaces], dim=1)
        texts = [space.encode_text([prompt(n) for n in labels]).double() for space in spaces]
        always, folds = self._fold_fitters(model, z)
        total = always.copy()
        for fitter in folds:
            total.merge(fitter)
        lam, records = self.translator(model).card["lambda"], []
        for fold, fitter in enumerate(folds):
            rows = torch.tensor(np.flatnonzero(fold_of == fold))
            truth = torch.tensor(number.to_numpy()[rows].astype(int))
            found = total.without(fitter).solve(lam)(f[rows].double())
            answers = found.split(self.space.dimensions, dim=1)
            goals = z[rows].double().split(self.space.dimensions, dim=1)
            for choice, answer, goal, text in zip(choices, answers, goals, texts):
                energy = (goal - goal.mean(0)).square().sum()
                records.append(
                    {
                        "choice": choice, "r2": float(1 - (answer - goal).square().sum() / energy),
                        "top5_translated": _top(answer, text, truth),
                        "top5_tower": _top(goal, text, truth),
                    }
                )
        rows = []
        for (top, temperature), group in pd.DataFrame(records).groupby("choice", sort=False,
                                                                       dropna=False):
            rows.append(
                {
                    "space": f"{top} largest logits" if temperature is None
                    else f"softmax at {temperature:g}",
                    "used": (top, temperature)
                    == (self.config.top_classes, self.config.temperature),
                    "r2": group["r2"].mean(), "low": group["r2"].min(), "high": group["r2"].max(),
                    "top5_translated": group["top5_translated"].mean(),
                    "top5_tower": group["top5_tower"].mean(),
                }
            )
        return pd.DataFrame(rows)

    def energy(self) -> pd.DataFrame:
        """Where the features of real pictures lie, along each head's singular directions.

        Returns
        -------
        pandas.DataFrame
            model, title, direction (from 1, by falling singular value; those after the rank span
            the null space), share (mean share of the squared length, 0 to 1), cumulative.
        """
        return self.stored("energy", self._energy, *self.config.everyone)

    def _energy(self) -> pd.DataFrame:
        rows = torch.tensor((self.pictures["source"] != "clipart").to_numpy())
        parts = []
        for model in self.config.everyone:
            weight = self.classifier(model).head.weight.double()
            right = torch.linalg.svd(weight, full_matrices=True).Vh
            f = normalize(self.features(model)[rows].double(), dim=1)
            share = (f @ right.T).square().mean(0).numpy()
            parts.append(
                pd.DataFrame(
                    {
                        "model": model, "title": self.classifier(model).title,
                        "direction": np.arange(1, len(share) + 1), "share": share,
                        "cumulative": share.cumsum(),
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    def plane(self, model: str, first: str, second: str, pictures: Sequence[str]) -> pd.DataFrame:
        """Pictures in a plane of which the head sees one axis only.

        Returns
        -------
        pandas.DataFrame
            picture, label, ``logit_difference`` (class of `first` minus class of `second`) and
            ``null_coordinate`` (along the null direction in which these pictures differ most, in
            units of the feature's length).
        """
        rows = self.rows(pictures)
        f, spaces = self.features(model)[rows], self.spaces(model)
        index = self.subjects.set_index("label")["class_index"]
        logits = self.classifier(model).logits(f)
        part = spaces.null(f).double() / f.double().norm(dim=1, keepdim=True)
        centred = part - part.mean(0)
        leading = torch.linalg.svd(centred, full_matrices=False).Vh[0]
        return pd.DataFrame(
            {
                "picture": pictures, "label": self.pictures["label"].to_numpy()[rows],
                "logit_difference": (logits[:, index[first]] - logits[:, index[second]]).numpy(),
                "null_coordinate": (part @ leading).numpy(),
            }
        )

    # --- controls and intervals -----------------------------------------------------------------

    def random_removals(self, model: str, f: torch.Tensor) -> Iterator[torch.Tensor]:
        """Features (n, m) without a random part as large as their null part, one control a draw."""
        spaces = self.spaces(model)
        length = spaces.null(f).norm(dim=1)
        for draw in range(self.config.control_draws):
            basis = random_basis(spaces.features, spaces.null_dim, self.config.seed + draw)
            yield matched_removal(f, length, basis)

    def interval(
        self, values: np.ndarray, clusters: Sequence, statistic: Callable[..., float] = np.mean
    ) -> dict[str, float]:
        """``value``, ``low`` and ``high``: :func:`cluster_bootstrap` with this study's draws."""
        found = cluster_bootstrap(
            values, clusters, statistic, draws=self.config.bootstrap_draws, seed=self.config.seed
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

    def nearest(
        self, z: torch.Tensor, k: int = 4, exclude: str | None = None
    ) -> pd.DataFrame:
        """Pictures nearest to each embedding in the joint space, one a subject.

        Parameters
        ----------
        z : torch.Tensor
            (n, d).
        k : int
            Pictures for each embedding.
        exclude : str, optional
            A subject to leave out (the picture's own).

        Returns
        -------
        pandas.DataFrame
            row, rank (from 1), picture, label, angle (degrees).
        """
        table = self.pictures
        rows = np.flatnonzero(
            ((table["source"] != "clipart") & (table["subject"] != exclude)).to_numpy()
        )
        angles = angle(z[:, None], self.embeddings[rows][None]).numpy()
        subjects = table["subject"].to_numpy()[rows]
        records = []
        for number, line in enumerate(angles):
            order = np.argsort(line, kind="stable")
            _, first = np.unique(subjects[order], return_index=True)
            for rank, index in enumerate(np.sort(first)[:k], start=1):
                chosen = rows[order[index]]
                records.append(
                    {
                        "row": number, "rank": rank, "angle": line[order[index]],
                        "picture": table["picture"].iloc[chosen],
                        "label": table["label"].iloc[chosen],
                    }
                )
        return pd.DataFrame(records)

    def slide(
        self, model: str, picture: str, keep: Sequence[float] = tuple(np.linspace(-1, 3, 41))
    ) -> pd.DataFrame:
        """Equivalents along a picture's own null part: f - null(f) + keep * null(f).

        Returns
        -------
        pandas.DataFrame
            keep (0 = removed, 1 = the original), image_score, attribute_score (degrees), and
            logit_change (largest change of any logit), for the null part and for a random part of
            the same size (``kind``).
        """
        number = self.row(picture)
        f, spaces = self.features(model)[[number]], self.spaces(model)
        clf, text = self.classifier(model), self.text([self.pictures["label"].iloc[number]])
        null = spaces.null(f)
        parts = {
            "null part": null,
            "random part of the same size": f - next(self.random_removals(model, f)),
        }
        rows = np.full(len(keep), number)
        z = self.translate(model, f, rows[:1])
        tables = []
        for kind, part in parts.items():
            moved = f + (torch.tensor(keep, dtype=f.dtype)[:, None] - 1) * part
            z_moved = self.translate(model, moved, rows)
            tables.append(
                pd.DataFrame(
                    {
                        "kind": kind, "keep": keep, "image_score": image_score(z, z_moved).numpy(),
                        "attribute_score": attribute_score(z, z_moved, text).numpy(),
                        "logit_change": (clf.logits(moved) - clf.logits(f)).abs().amax(1).numpy(),
                    }
                )
            )
        return pd.concat(tables, ignore_index=True)

    def states(self, model: str, pictures: Sequence[str]) -> dict[str, torch.Tensor]:
        """Embeddings (n, d) of pictures in four states.

        ``own embedding`` is the picture's place in the joint space, ``translated`` that of its
        feature, ``null part removed`` that of its equivalent, ``random part removed`` the control.
        """
        rows = self.rows(pictures)
        f, spaces = self.features(model)[rows], self.spaces(model)
        control = next(self.random_removals(model, f))
        return {
            "own embedding": self.embeddings[rows],
            "translated": self.translate(model, f, rows),
            "null part removed": self.translate(model, spaces.remove_null(f), rows),
            "random part removed": self.translate(model, control, rows),
        }

    def photo_words(
        self, model: str, pictures: Sequence[str], states: Sequence[str], k: int = 5
    ) -> pd.DataFrame:
        """Angles of pictures to the words that are nearest in any of the states.

        Returns
        -------
        pandas.DataFrame
            picture, name (unique, for people), state, word, angle (degrees), rank of the word in
            this state (from 1).
        """
        text = self.text(self.vocabulary)[None]
        found = self.states(model, pictures)
        angles = {state: angle(found[state][:, None], text) for state in states}
        ranks = {state: a.argsort(dim=1).argsort(dim=1) + 1 for state, a in angles.items()}
        records = []
        for number, (picture, name) in enumerate(zip(pictures, self.names(pictures))):
            near = torch.stack([ranks[state][number] for state in states]).amin(0)
            for word in torch.nonzero(near <= k).flatten().tolist():
                for state in states:
                    records.append(
                        {
                            "picture": picture, "name": name, "state": state,
                            "word": self.vocabulary[word],
                            "angle": float(angles[state][number, word]),
                            "rank": int(ranks[state][number, word]),
                        }
                    )
        return pd.DataFrame(records)

    def neighbours(
        self, model: str, pictures: Sequence[str], states: Sequence[str], k: int = 4
    ) -> pd.DataFrame:
        """:meth:`around` for pictures in several of their :meth:`states`."""
        found = self.states(model, pictures)
        return self.around(pictures, {state: found[state] for state in states}, k)

    def around(
        self, pictures: Sequence[str], embeddings: dict[str, torch.Tensor], k: int = 4
    ) -> pd.DataFrame:
        """Pictures nearest to pictures in several states, one a subject, never their own.

        Parameters
        ----------
        pictures : sequence of str
        embeddings : dict of torch.Tensor
            For each state (n, d), a row a picture.
        k : int
            Neighbours for each.

        Returns
        -------
        pandas.DataFrame
            picture (the neighbour), name (of the picture asked about), state, place (``photo``
            or the rank), label, angle (degrees; nan for the photo itself).
        """
        tables = []
        for number, (row, name) in enumerate(zip(self.rows(pictures), self.names(pictures))):
            own = self.pictures.iloc[row]
            itself = pd.DataFrame(
                [{"picture": own["picture"], "label": own["label"], "angle": np.nan,
                  "place": "photo"}]
            )
            for state, z in embeddings.items():
                near = self.nearest(z[[number]], k, exclude=own["subject"])
                near["place"] = near["rank"].astype(str)
                both = pd.concat([itself, near.drop(columns=["row", "rank"])])
                tables.append(both.assign(name=name, state=state))
        return pd.concat(tables, ignore_index=True)

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
        return hashlib.sha256(repr((METHOD, self.config, parts)).encode()).hexdigest()[:12]

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
        name = name.replace("/", "-")
        if name not in self._tables:
            keys = [self.feature_key(model) for model in models]
            key = self._hash(name, self._embedding_key(), *keys, self.subjects["label"].tolist())
            path = self.folder / "tables" / f"{name}-{key}.parquet"
            if not path.is_file():
                buffer = io.BytesIO()
                compute().to_parquet(buffer)
                write_atomic(path, buffer.getvalue())
            self._tables[name] = pd.read_parquet(path)
        return self._tables[name].copy()

    def mark(self, stage: str, content: dict) -> Path:
        """Write the small JSON file that says a stage of the run is done, and with what."""
        text = json.dumps({"profile": dataclasses.asdict(self.config), **content}, indent=1)
        return write_atomic(self.folder / "stages" / f"{stage}.json", text + "\n")


def _top(z: torch.Tensor, text: torch.Tensor, truth: torch.Tensor) -> float:
    """Share of embeddings whose true text is among the nearest TOP texts."""
    near = (normalize(z, dim=1) @ text.T).topk(min(TOP, len(text)), dim=1).indices
    return float((near == truth[:, None]).any(1).double().mean())
