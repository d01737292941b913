"""Picture sources: one table, whatever the source, and views whose factors are known.

Every picture is one row of a pandas table:

==============  ==================================================================================
column          meaning
==============  ==================================================================================
``picture``     unique name; equal names mean equal pixels
``source``      ``stamp`` (photo cut-out), ``clipart`` (drawing), ``photo`` (whole photograph),
                ``folder`` (whole photograph of a folder or data set, see `pictures.folders`)
``path``        file the picture is made from
``subject``     what is kept together when pictures are split; views of one subject never part
``label``       name that completes the prompt "an image of a ..."; empty where none is known
``class_index`` ImageNet-1k index, or -1 where no class is true
``view``        number of the view of this file
``background``  ``plain``, ``gradient`` or ``noise``; empty for whole photographs
``hue``         background hue, degrees on the colour circle
``saturation``  background saturation, 0 to 1
``lightness``   background lightness, 0 to 1
``scale``       longer side of the subject as a share of the picture's side
``x``, ``y``    centre of the subject as a share of the picture's side, from the top left
``flip``        whether the subject is mirrored left to right
==============  ==================================================================================
"""

from __future__ import annotations

import base64
import colorsys
import hashlib
import importlib.util
import io
import os
import re
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import SingError, printable
from ..models.prompts import imagenet_names
from ..progress import progress_bar
from .fetch import SOURCES, fetch, make_folder, read_manifest, write_atomic

__all__ = [
    "BACKGROUNDS", "PHOTO_SOURCES", "SCORED", "SIDE", "clipart", "decoded", "open_picture",
    "photos", "picture_file", "picture_sha", "picture_table", "read_picture", "render_view",
    "stamp_labels", "stamps", "store_pictures", "thumbnail"]

# Of damaged EXIF, on which no pixel depends, Pillow warns without a name of the file.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

SIDE = 320  # of a drawn picture, in pixels; a little more than the largest classifier reads
PHOTO_SOURCES = ("photo", "folder")  # the pictures are the files: nothing is drawn or stored
SCORED = ("stamp", "folder")  # fitted on and scored; drawings are fitted on, photographs neither
BACKGROUNDS = ("plain", "gradient", "noise")
MARGIN = 0.06  # a subject stays inside the central square that classifiers' transforms keep
MAX_PIXELS = 40_000_000
# A network's transform makes the shorter side a few hundred pixels long: a line of 200,000 pixels
# would become a picture of 30 GB.
MAX_RATIO = 100
# Phones' MPO are read as JPEG. No other reader of Pillow's sees a file.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
DECODING = 2  # part of the key of features of a folder: raise it when `decoded` gives other pixels
RENDERING = 1  # part of every picture's name: raise it when `render_view` draws other pixels


# --- reading ------------------------------------------------------------------------------------


def open_picture(path: str | os.PathLike | io.BytesIO, *, name: str | None = None) -> Image.Image:
    """Open a picture, or its content, after a look at its header: nothing is decoded yet."""
    in_memory = isinstance(path, io.BytesIO)
    name = printable(name or ("the picture" if in_memory else path))
    try:
        # A pipe would be waited for, and a device read for ever.
        if not in_memory and not stat.S_ISREG(os.stat(path).st_mode):
            raise SingError(f"{name} is a folder, a pipe or a device, not a picture's file.")
        picture = Image.open(path, formats=FORMATS)
    except SingError:
        raise
    except Exception as error:  # of damaged headers, Pillow's readers raise many kinds
        why = "no known format" if isinstance(error, UnidentifiedImageError) else error
        raise SingError(
            f"{name} is not a picture that can be read ({why}); expected one of "
            f"{', '.join(FORMATS)}. Convert it, make it smaller or remove it."
        ) from error
    width, height = picture.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_RATIO * min(width, height):
        picture.close()
        raise SingError(
            f"{name} has {width} x {height} pixels; expected at most {MAX_PIXELS:,}, and at most "
            f"{MAX_RATIO} times as long as wide. Crop it or make it smaller.")
    return picture


def decoded(picture: Image.Image, name: str) -> Image.Image:
    """An opened picture as networks read it: decoded to its end, upright, in 8 bits and RGB."""
    try:
        picture.load()
        # 16 bits of grey, whose conversion by Pillow takes 256 and all above for white. They are I
        # in older versions.
        if picture.mode.startswith("I;16") or (picture.mode, picture.format) == ("I", "PNG"):
            upper = (np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8)
            picture, deep = Image.fromarray(upper), picture
            with suppress(Exception):  # a damaged EXIF tells nothing, and no pixel depends on it
                picture.getexif().update(deep.getexif())
        if picture.mode in ("I", "F"):
            raise ValueError("its white is unknown: save it with 8 or 16 bits a channel")
        with suppress(Exception):  # as above
            picture = ImageOps.exif_transpose(picture)
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return picture.convert("RGB")
    except Exception as error:  # of damaged contents, Pillow's readers raise many kinds
        raise SingError(
            f"{printable(name)} is damaged: it begins as a picture but cannot be read to its end "
            f"({error}). Save it again or remove it."
        ) from error


def read_picture(
    path: str | os.PathLike, *, name: str | None = None, sha: str | None = None
) -> Image.Image:
    """Read a file as networks do (see :func:`decoded`)."""
    name = printable(name or path)
    with open_picture(path, name=name) as picture:
        if sha is None:
            return decoded(picture, name)
    content = Path(path).read_bytes()
    if not hashlib.sha256(content).hexdigest().startswith(sha):
        raise SingError(
            f"{name} has changed since the pictures were listed; run again, and leave the folder "
            f"alone until the run is over.")
    return decoded(open_picture(io.BytesIO(content), name=name), name)


def picture_sha(row: pd.Series | dict) -> str | None:
    """What the SHA-256 of a folder's picture begins with, by its name; None for other pictures."""
    found = re.search(r"-([0-9a-f]{10})$", row["picture"]) if row["source"] == "folder" else None
    return found and found[1]


def thumbnail(source: Path | Image.Image, side: int = 72) -> str:
    """A small picture, `side` pixels long, as a data URI: a chart carries it along."""
    picture = source.convert("RGB") if isinstance(source, Image.Image) else read_picture(source)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return "data:image/jpeg;base64," + base64.b64encode(_jpeg(picture, quality=80)).decode()


def _jpeg(picture: Image.Image, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **options)
    return buffer.getvalue()


# --- tables -------------------------------------------------------------------------------------


def picture_table(
    *, views: int, clipart_views: int, seed: int,
    stamp_subjects: int | None = None, clipart_files: int | None = None,
) -> pd.DataFrame:
    """All pictures of a study: stamps, clip art and labelled photos; the index counts from 0."""
    tables = [stamps(views, seed, stamp_subjects)]
    if clipart_views and clipart_files != 0:
        tables.append(clipart(clipart_views, seed, clipart_files))
    return pd.concat([*tables, photos()], ignore_index=True)


def stamps(views: int = 12, seed: int = 0, limit: int | None = None) -> pd.DataFrame:
    """Photo stamps: `views` views of each on generated backgrounds, of at most `limit` subjects."""
    return _views("stamps", views, seed, limit)


def stamp_labels() -> dict[str, int]:
    """Labels of all photo stamps with their ImageNet-1k index (-1 for none); nothing is fetched."""
    rows = read_manifest(SOURCES["stamps"].manifest)
    return {row["label"]: int(row["imagenet"] or -1) for row in rows}


def clipart(views: int = 1, seed: int = 0, limit: int | None = None) -> pd.DataFrame:
    """Clip art: drawings without labels that widen a translator's training set."""
    return _views("clipart", views, seed, limit)


def photos() -> pd.DataFrame:
    """The 20 labelled ImageNet photos of the package foolbox; they are never used for fitting."""
    # Not imported: with the package comes what attacks networks.
    folder = Path(importlib.util.find_spec("foolbox").origin).parent / "data"
    names = imagenet_names()
    rows = []
    for path in sorted(folder.glob("imagenet_*.jpg")):
        number, index = re.fullmatch(r"imagenet_(\d+)_(\d+)", path.stem).groups()
        rows.append({
            "picture": f"photo-{number}", "source": "photo", "path": str(path),
            "subject": f"photo-{number}", "label": names[int(index)], "class_index": int(index),
            "view": 0, "background": "", "flip": False})
    return pd.DataFrame(rows)


def _views(name: str, views: int, seed: int, limit: int | None) -> pd.DataFrame:
    if views < 1:
        raise SingError(f"views must be at least 1; got {views}.")
    source = name.rstrip("s")
    manifest = pd.DataFrame(read_manifest(SOURCES[name].manifest))
    if "subject" not in manifest:
        # Clip art carries no names: every file is a subject of its own.
        manifest = manifest.assign(subject=f"{source}:" + manifest["path"], label="", imagenet="")
    if limit is not None:
        first = manifest.groupby("subject", sort=True)["imagenet"].first()
        chosen = sorted(first.index, key=lambda subject: (first[subject] == "", subject))[:limit]
        manifest = manifest[manifest["subject"].isin(chosen)]
    root = fetch(name)
    rows = []
    for record in manifest.to_dict("records"):
        for view in range(views):
            factors = _factors(seed, record["path"], view)
            token = repr((RENDERING, SIDE, record["sha256"], sorted(factors.items())))
            digest = hashlib.sha256(token.encode()).hexdigest()[:10]
            rows.append({
                "picture": f"{Path(record['path']).stem}-{view}-{digest}", "source": source,
                "path": str(root / record["path"]), "subject": record["subject"],
                "label": record["label"], "class_index": int(record["imagenet"] or -1),
                "view": view, **factors})
    return pd.DataFrame(rows)


def _factors(seed: int, path: str, view: int) -> dict[str, float | str | bool]:
    """Known factors of one view, from the seed, the file's path and the number of the view."""
    token = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big")
    rng = np.random.default_rng([seed, token, view])
    scale = rng.uniform(0.55, 0.88)
    free = (1 - 2 * MARGIN - scale) / 2
    factors = {
        "background": BACKGROUNDS[view % 3],
        "hue": rng.uniform(0, 360),
        "saturation": rng.uniform(0.05, 0.45),
        "lightness": rng.uniform(0.15, 0.9),
        "scale": scale,
        "x": 0.5 + rng.uniform(-free, free),
        "y": 0.5 + rng.uniform(-free, free),
        "flip": bool((view // 3) % 2)}
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in factors.items()}


# --- drawing ------------------------------------------------------------------------------------


def render_view(row: pd.Series | dict) -> Image.Image:
    """Draw one row of the picture table: SIDE x SIDE, RGB; photographs are read as they are."""
    if row["source"] in PHOTO_SOURCES:
        return read_picture(row["path"])
    canvas, subject = _background(row), _cutout(row["path"])
    ratio = row["scale"] * SIDE / max(subject.size)
    size = tuple(max(1, round(side * ratio)) for side in subject.size)
    subject = subject.resize(size, Image.Resampling.LANCZOS)
    if row["flip"]:
        subject = subject.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    corner = (round(row["x"] * SIDE - size[0] / 2), round(row["y"] * SIDE - size[1] / 2))
    canvas.paste(subject, corner, subject)
    return canvas


@lru_cache(maxsize=8)
def _cutout(path: str) -> Image.Image:
    """The subject in RGBA, cropped to what is not transparent, at most SIDE pixels long."""
    picture = open_picture(path).convert("RGBA")
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    if box is None:
        raise SingError(f"{path} is fully transparent; remove it from the manifest.")
    picture = picture.crop(box)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return picture


def _background(row: pd.Series | dict) -> Image.Image:
    hue, saturation, lightness = row["hue"] / 360, row["saturation"], row["lightness"]
    first = 255 * np.array(colorsys.hls_to_rgb(hue, lightness, saturation))
    if row["background"] == "plain":
        return Image.new("RGB", (SIDE, SIDE), tuple(round(c) for c in first))
    # The second colour is fixed by the first: a third of the circle on, light for dark.
    other = lightness - 0.35 if lightness > 0.5 else lightness + 0.35
    second = 255 * np.array(colorsys.hls_to_rgb((hue + 1 / 3) % 1, other, saturation))
    if row["background"] == "gradient":
        mix = np.linspace(0, 1, SIDE)[:, None].repeat(SIDE, axis=1)
    else:
        rng = np.random.default_rng([int(row["hue"] * 1e4), int(row["x"] * 1e4), row["view"]])
        coarse = Image.fromarray((255 * rng.random((9, 9))).astype(np.uint8), "L")
        mix = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / 255
    pixels = first + mix[..., None] * (second - first)
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8), "RGB")


def picture_file(row: pd.Series | dict, folder: Path) -> Path:
    """Where the drawn picture of a row lies (photographs stay where they are)."""
    is_photo = row["source"] in PHOTO_SOURCES
    return Path(row["path"]) if is_photo else Path(folder) / f"{row['picture']}.jpg"


def store_pictures(table: pd.DataFrame, folder: Path, *, progress: bool = True) -> None:
    """Draw every picture of the table that is not in `folder` yet, each written atomically."""
    have = {path.stem for path in make_folder(folder).glob("*.jpg")}
    missing = table[~table["source"].isin(PHOTO_SOURCES) & ~table["picture"].isin(have)]

    def draw(rows: pd.DataFrame) -> int:
        for row in rows.to_dict("records"):
            content = _jpeg(render_view(row), quality=92, subsampling=0)
            write_atomic(picture_file(row, folder), content)
        return len(rows)

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress_bar(progress, total=len(missing), desc="drawing pictures", unit="picture") as bar,
    ):
        # One subject a thread: it is read once for all its views.
        for count in pool.map(draw, (rows for _, rows in missing.groupby("path", sort=False))):
            bar.update(count)
