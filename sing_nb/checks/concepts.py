"""Candidate concepts of pictures: known factors, what pixels tell, and groups of subjects."""

from __future__ import annotations

import numpy as np
import pandas as pd
from PIL import Image

from ..pictures.images import picture_file, read_picture, store_pictures
from ..study.study import Study, stored
from .intervals import deal

__all__ = ["chosen_pictures", "concept_values", "split_subjects"]

LEAST_SUBJECTS = 8  # of a group that is a concept
MOST_GROUPS = 40


def chosen_pictures(study: Study) -> pd.DataFrame:
    """Pictures of whole subjects, at most twice the profile's `plant_pictures`; ``row``: where."""
    table = study.pictures[study.is_scored].rename_axis("row").reset_index()
    order = np.random.default_rng(study.config.seed).permutation(table["subject"].unique())
    sizes = table["subject"].value_counts().loc[order].cumsum()
    kept = set(sizes.index[sizes <= 2 * study.config.plant_pictures]) or {order[0]}
    return table[table["subject"].isin(kept)].reset_index(drop=True)


@stored(keys=["plant_pictures"])
def concept_values(study: Study) -> pd.DataFrame:
    """Candidate concepts of every picture that is asked about, whatever the classifier says."""
    table = chosen_pictures(study)
    found, groups = {}, {"": table["label"]}
    if study.config.pictures == "stamps":
        folders = table["path"].str.extract(r".*/stamps/([^/]+)/([^/.]+)")
        groups = {"": folders[1], "all ": folders[0]}
        found = _factors(table)
    found |= _pixels(study, table)
    for prefix, group in groups.items():
        subjects = table["subject"].groupby(group).nunique()
        names = sorted(subjects.index[subjects >= LEAST_SUBJECTS])
        if len(names) > MOST_GROUPS:
            names = [names[at] for at in np.linspace(0, len(names) - 1, MOST_GROUPS).astype(int)]
        found |= {f"group: {prefix}{name}": group == name for name in names}
    values = pd.DataFrame(found).astype(float).round(6)
    values = values.loc[:, (values.std() > 0) & ~values.T.duplicated()]
    stratum = groups[next(reversed(groups))] + "/" + groups[""]
    return pd.concat([table[["row", "subject"]], stratum.rename("stratum"), values], axis=1)


def _factors(table: pd.DataFrame) -> dict[str, pd.Series]:
    """What the views of photo stamps were drawn with."""
    angle = np.deg2rad(table["hue"])
    kinds = sorted(table["background"].unique())
    return {f"background: {kind}": table["background"] == kind for kind in kinds} | {
        "background: lightness": table["lightness"],
        "background: saturation": table["saturation"],
        "background: red to cyan": np.cos(angle) * table["saturation"],
        "background: yellow to blue": np.sin(angle) * table["saturation"],
        "view: scale": table["scale"], "view: left to right": table["x"],
        "view: top to bottom": table["y"], "view: mirrored": table["flip"]}


def _pixels(study: Study, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """What a picture of 64 pixels tells of colour, light and structure, and of its centre."""
    store_pictures(table, study.picture_folder, progress=study.progress)
    rows = []
    for row in table.to_dict("records"):
        picture = read_picture(picture_file(row, study.picture_folder))
        small = picture.resize((64, 64), Image.Resampling.BILINEAR)
        rows.append(np.asarray(small, dtype=np.float32) / 255)
    rgb = np.stack(rows)
    light, chroma = rgb.mean(3), rgb.max(3) - rgb.min(3)
    red, yellow = rgb[..., 0] - rgb[..., 1], (rgb[..., 0] + rgb[..., 1]) / 2 - rgb[..., 2]
    centre = np.zeros((64, 64), dtype=bool)
    centre[16:48, 16:48] = True
    across, down = (np.abs(np.diff(light, axis=axis)).mean((1, 2)) for axis in (2, 1))
    found = {"pixels: structure": across + down,
             "pixels: upright or level edges": np.log((across + 1e-3) / (down + 1e-3)),
             "pixels: contrast": light.std((1, 2)),
             "pixels: contrast of the centre": light[:, centre].std(1),
             "pixels: lightness of the border": light[:, ~centre].mean(1),
             "pixels: light from above": light[:, :32].mean((1, 2)) - light[:, 32:].mean((1, 2))}
    for name, part in (("lightness", light), ("colourfulness", chroma),
                       ("red to green", red), ("yellow to blue", yellow)):
        found[f"pixels: {name}"] = part.mean((1, 2))
        found[f"pixels: {name} of the centre"] = part[:, centre].mean(1)
    return found


def split_subjects(concepts: pd.DataFrame, parts: int, seed: int) -> np.ndarray:
    """Deal whole subjects to parts, those of a stratum evenly."""
    subjects = concepts[["subject", "stratum"]].drop_duplicates("subject").sort_values("subject")
    dealt = deal(len(subjects), parts, seed, subjects["stratum"])
    part = dict(zip(subjects["subject"], dealt, strict=True))
    return concepts["subject"].map(part).to_numpy()
