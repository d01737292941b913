"""The pictures of a profile: which there are, how subjects are dealt to folds, what they show."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from ..checks.intervals import deal
from ..errors import SingError, unknown
from ..models.prompts import class_aliases, imagenet_names
from ..pictures.fetch import data_dir
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
from .profile import Profile

__all__ = ["Pictures"]

FEW = 1000  # pictures of a folder below which also_fit: auto tries the default drawings, too


class Pictures:
    """The pictures of a :class:`~sing_nb.Study`, found or drawn when they are first asked for."""

    def __init__(self, config: Profile, folder: Path, progress: bool) -> None:
        # The profile, where results lie, whether long work shows progress bars.
        self.config, self.folder, self.progress = config, folder, progress
        if config.also_fit != "none" and config.pictures != "stamps":
            self.config = config.model_copy(update={"folds": self._fewer_folds()})

    # --- pictures -------------------------------------------------------------------------------

    @cached_property
    def pictures(self) -> pd.DataFrame:
        """The picture table (see :mod:`sing_nb.pictures.images`) with the column ``fold``."""
        c, table = self.config, self._found
        scored = table["source"].isin(SCORED)
        subjects = table[scored].drop_duplicates("subject").sort_values("subject")
        if len(subjects) < 2 * c.folds:
            raise SingError(
                f"{len(subjects)} subjects are too few for {c.folds} folds; take at least "
                f"{2 * c.folds} subjects or fewer folds.")
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
                stamp_subjects=c.stamp_subjects, clipart_files=c.clipart_files)
        found = source_pictures(
            c.pictures, total=c.total_pictures, seed=c.seed, split=c.picture_split,
            progress=self.progress)
        parts = [found, photos()]
        if c.also_fit == "default" or (c.also_fit == "auto" and len(found) < FEW):
            parts.insert(1, clipart(c.clipart_views, c.seed, c.clipart_files))
        table = pd.concat(parts, ignore_index=True)
        table.attrs.update(found.attrs)
        return table

    def _fewer_folds(self) -> int:
        """The profile's folds, or as many as a folder with few pictures gives two subjects each."""
        table = self._found
        subjects = table.loc[table["source"].isin(SCORED), "subject"].nunique()
        if subjects < 4:
            raise SingError(
                f"{self.config.pictures} holds {subjects} pictures (views of one subject count "
                f"once), too few to fit on some and ask about others. Give at least 4; a few "
                f"hundred make intervals that say something.")
        return min(self.config.folds, subjects // 2)

    @cached_property
    def is_scored(self) -> np.ndarray:
        """Which :attr:`pictures` are fitted on and scored: stamp views, pictures of a folder."""
        return self.pictures["source"].isin(SCORED).to_numpy()

    @cached_property
    def subjects(self) -> pd.DataFrame:
        """One row per subject that is scored: subject, label, class_index, fold."""
        found = self.pictures.loc[self.is_scored, ["subject", "label", "class_index", "fold"]]
        return found.drop_duplicates("subject").reset_index(drop=True)

    @cached_property
    def labels(self) -> list[str]:
        """Labels of the subjects, each once."""
        return list(dict.fromkeys(self.subjects["label"]))

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
                f"ImageNet class. Drawings (clip art) only serve to fit.")
        return (
            f"The pictures are {len(subjects):,} photographs of {len(self.labels):,} classes from "
            f"{c.pictures}, a sample by seed {c.seed}: another would give other numbers.")

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
        path = picture_file(found.iloc[0], self.picture_folder)
        if not path.exists():  # else the whole folder would be listed for each picture
            store_pictures(found, self.picture_folder, progress=False)
        return path

    def with_thumbnails(
        self, table: pd.DataFrame, side: int = 72, most: int | None = None
    ) -> pd.DataFrame:
        """A table with ``image``, a copy of the row's ``picture`` at most `side` pixels wide."""
        names = table["picture"].unique()
        if most is not None and len(names) > most:
            names = names[np.linspace(0, len(names) - 1, most).astype(int)]
        drawn = {name: thumbnail(self.picture_path(name), side) for name in names}
        return table.assign(image=table["picture"].map(drawn).fillna(""))

    def row(self, picture: str) -> int:
        """Row of a picture in :attr:`pictures`, by its name or the beginning of it."""
        names = self.pictures["picture"]
        for match in (names == picture, names.str.startswith(f"{picture}-")):
            if match.any():
                return int(np.flatnonzero(match)[0])
        raise unknown("picture", picture, names)

    def rows(self, pictures: Sequence[str]) -> np.ndarray:
        """Rows of pictures in :attr:`pictures`, (n,); names as :meth:`row` takes them."""
        found = pd.Index(self.pictures["picture"]).get_indexer(list(pictures))
        return np.array(
            [self.row(name) if at < 0 else at for name, at in zip(pictures, found)], dtype=int)

    def names(self, pictures: Sequence[str]) -> list[str]:
        """Labels for people, numbered where one comes twice."""
        labels = self.pictures["label"].iloc[self.rows(pictures)]
        number = labels.groupby(labels.to_numpy()).cumcount() + 1
        numbered = labels + " " + number.astype(str)
        return labels.where(~labels.duplicated(keep=False), numbered).tolist()

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

    # --- words ----------------------------------------------------------------------------------

    def label(self, name: str) -> str:
        """The label that a name means here, or the name itself if only other profiles show it."""
        low, own = name.lower(), self.subjects.drop_duplicates("label")
        stamps = stamp_labels()
        shown = {label.lower(): label for label in stamps}
        meant = class_aliases().get(low, {stamps.get(shown.get(low), -1)} - {-1})
        for same in (own["label"].str.lower() == low, own["class_index"].isin(meant)):
            if same.any():
                return own.loc[same, "label"].iloc[0]
        if low in shown or (meant and (
                self.config.pictures != "stamps" or meant & set(stamps.values()))):
            return shown.get(low, name)
        near = get_close_matches(low, [*class_aliases(), *shown], n=1)
        advice = " It is an ImageNet class, but no picture shows it." if meant else ""
        raise unknown("class", name, {*near, *self.labels}, advice)

    def known(self, labels: Sequence[str], at_least: int = 2) -> list[str]:
        """Those of the labels that this profile has, filled up from its classes."""
        have = self.subjects.sort_values("class_index", ascending=False)["label"].unique()
        named = dict.fromkeys(self.label(label) for label in labels)
        chosen = [label for label in named if label in set(have)]
        rest = [label for label in have if label not in chosen]
        return chosen + rest[: max(0, at_least - len(chosen))]

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
