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
from ..progress import Progress, progress_bar
from .fetch import SOURCES, fetch, make_folder, read_manifest, write_atomic

__all__ = [
    "BACKGROUNDS",
    "SCORED",
    "SIDE",
    "WHOLE",
    "clipart",
    "decoded",
    "open_picture",
    "photos",
    "picture_sha",
    "picture_table",
    "read_picture",
    "render_view",
    "stamp_labels",
    "stamps",
    "store_pictures",
    "thumbnail",
]

# Of damaged EXIF, on which no pixel depends, Pillow warns without a name of the file. Threads share
# what is filtered: it is set once.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

SIDE = 320
"""Side of a generated picture in pixels; a little more than the largest classifier reads."""

WHOLE = ("photo", "folder")
"""Sources whose pictures are the files themselves: nothing is drawn or stored for them."""

BACKGROUNDS = ("plain", "gradient", "noise")
MAX_PIXELS = 40_000_000
# A network's transform makes the shorter side a few hundred pixels long: a line of 200,000 pixels
# would become a picture of 30 GB.
MAX_RATIO = 100
# Phones' photographs are MPO: a JPEG and, behind it, others that Pillow's reader of JPEG passes by.
FORMATS = {"PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF"}
DECODING = 2  # part of the key of features of a folder: raise it when `decoded` gives other pixels
# What else comes under the names of pictures, by how it begins.
OTHERS = {
    "HEIC": rb".{4}ftyp(he[ivx]|mif|msf)", "AVIF": rb".{4}ftypavi", "PDF": rb"%PDF",
    "a film": rb".{4}ftyp|\x1aE\xdf\xa3", "PSD": rb"8BPS", "EPS": rb"%!PS", "PPM": rb"P[1-7]\s",
    "ICO": rb"\x00\x00\x01\x00", "JPEG 2000": rb"\x00{3}\x0cjP|\xffO\xffQ",
    "JPEG XL": rb"\x00{3}\x0cJXL|\xff\n",
    "SVG": rb"(?i)\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype svg[^>]*>\s*)?<svg",
    "a web page": rb"(?i)\s*<(!doctype )?html",
    "a pointer of Git LFS (run `git lfs pull`)": rb"version https://git-lfs",
}
RENDERING = 1  # part of every picture's name: raise it when render_view draws other pixels

# A subject stays inside the central square that the classifiers' own transforms keep.
_MARGIN = 0.06

SCORED = ("stamp", "folder")
"""Sources whose pictures are fitted on and scored; drawings are fitted on, photographs neither."""


def open_picture(
    path: str | os.PathLike | io.BytesIO, *, max_pixels: int = MAX_PIXELS, name: str | None = None
) -> Image.Image:
    """Open a picture after a look at its header, before any pixel is decoded.

    Parameters
    ----------
    path : path-like or io.BytesIO
        File to open, or its content.
    max_pixels : int
        Largest width x height that is accepted.
    name : str, optional
        What messages call it; the path by default.

    Returns
    -------
    PIL.Image.Image
        The opened picture, not yet decoded.

    Raises
    ------
    SingError
        If the file is no picture, of another format, larger than `max_pixels`, or a strip more
        than 100 times as long as wide.
    """
    is_file = not isinstance(path, io.BytesIO)
    name = printable(name or (path if is_file else "the picture"))
    try:
        if is_file:
            _refuse_what_is_no_file(path, name)
        with warnings.catch_warnings():
            # Pillow's own limit is higher; ours, below, says what to do.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # No other reader than these sees the file.
            picture = Image.open(path, formats=sorted(FORMATS - {"MPO"}))
    except SingError:
        raise
    except Image.DecompressionBombError as error:
        raise SingError(f"{name}: {error} Make it smaller first.") from error
    except UnidentifiedImageError as error:
        kind = _other_kind(path)
        raise SingError(
            f"{name} is {kind}; expected one of {', '.join(sorted(FORMATS))}: convert it, or "
            f"remove it."
            if kind else f"{name} is not a picture that can be read; remove it or replace it."
        ) from error
    except Exception as error:  # of damaged headers, Pillow's readers raise many kinds
        raise SingError(
            f"{name} is not a picture that can be read ({error}); remove it or replace it."
        ) from error
    if max(picture.size) > MAX_RATIO * min(picture.size):
        raise SingError(
            f"{name} has {picture.width} x {picture.height} pixels, more than {MAX_RATIO} times "
            f"as long as wide; crop it first."
        )
    if picture.width * picture.height > max_pixels:
        raise SingError(
            f"{name} has {picture.width} x {picture.height} pixels, more than {max_pixels:,}; "
            f"make it smaller first."
        )
    return picture


def _refuse_what_is_no_file(path: str | os.PathLike, name: str) -> None:
    """A pipe would be waited for, and a device read for ever."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise SingError(f"{name} is {kind}, not a picture's file; remove it or rename it.")


def _other_kind(path: str | os.PathLike | io.BytesIO) -> str | None:
    """What a file is that no reader took, if its first bytes tell."""
    head = path.getvalue()[:400] if isinstance(path, io.BytesIO) else _head(path, 400)
    return next((kind for kind, said in OTHERS.items() if re.match(said, head, re.DOTALL)), None)


def _head(path: str | os.PathLike, count: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(count)


def decoded(picture: Image.Image, name: str) -> Image.Image:
    """An opened picture as networks read it: decoded to its end, upright, in 8 bits and RGB.

    Of several frames or pages it is the first. What is transparent lies on white. Of 16 bits a
    channel the upper 8 count. A colour profile is not applied: the classifiers' own training did
    not either.

    Parameters
    ----------
    picture : PIL.Image.Image
        From :func:`open_picture`.
    name : str
        What messages call it.

    Returns
    -------
    PIL.Image.Image
        RGB.

    Raises
    ------
    SingError
        If it cannot be decoded to its end, or holds numbers whose white is unknown.
    """
    name = printable(name)
    try:
        picture.load()
        # 16 bits of grey are I in older versions of Pillow.
        if picture.mode.startswith("I;16") or (picture.mode, picture.format) == ("I", "PNG"):
            # Its own conversion takes 256 and all above for white.
            picture = _with_exif_of(picture, Image.fromarray(
                (np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8)
            ))
        if picture.mode in ("I", "F"):
            raise SingError(
                f"{name} holds {'whole' if picture.mode == 'I' else 'floating-point'} numbers of "
                f"32 bits, whose white is unknown; save it with 8 or 16 bits a channel."
            )
        with suppress(Exception):  # a damaged EXIF tells nothing, and no pixel depends on it
            picture = ImageOps.exif_transpose(picture)
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return picture.convert("RGB")
    except SingError:
        raise
    except Exception as error:  # of damaged contents, Pillow's readers raise many kinds
        raise SingError(
            f"{name} is damaged: it begins as a picture but cannot be read to its end ({error}); "
            f"save it again or take it away."
        ) from error


def _with_exif_of(picture: Image.Image, other: Image.Image) -> Image.Image:
    with suppress(Exception):  # as above
        other.getexif().update(picture.getexif())
    return other


def read_picture(
    path: str | os.PathLike, *, name: str | None = None, sha: str | None = None
) -> Image.Image:
    """Read a picture's file as networks read it (see :func:`decoded`).

    Parameters
    ----------
    path : path-like
    name : str, optional
        What messages call it; the path by default.
    sha : str, optional
        What the SHA-256 of the content begins with; another one is refused.

    Returns
    -------
    PIL.Image.Image
        RGB.

    Raises
    ------
    SingError
        If it is no whole picture (see :func:`open_picture` and :func:`decoded`), or no longer the
        one that it was.
    """
    name = printable(name or path)
    if sha is None:
        with open_picture(path, name=name) as picture:
            return decoded(picture, name)
    try:
        _refuse_what_is_no_file(path, name)
        data = Path(path).read_bytes()
    except OSError as error:
        raise SingError(
            f"{name} could be read when the pictures were listed, and cannot now "
            f"({error.strerror}); put it back, or run again without it."
        ) from error
    if not hashlib.sha256(data).hexdigest().startswith(sha):
        raise SingError(
            f"{name} has changed since the pictures were listed; run again, and leave the folder "
            f"alone until the run is over."
        )
    return decoded(open_picture(io.BytesIO(data), name=name), name)


def picture_sha(row: pd.Series | dict) -> str | None:
    """What the SHA-256 of a folder's picture begins with, by its name; None for other pictures."""
    found = re.search(r"-([0-9a-f]{10})$", row["picture"]) if row["source"] == "folder" else None
    return found and found[1]


def stamps(views: int = 12, seed: int = 0, limit: int | None = None) -> pd.DataFrame:
    """Table of the photo stamps: `views` views of each file on generated backgrounds.

    Background kind and flip follow a full factorial over the views; colour, scale and place are
    drawn independently, so that each factor can be told from the others.

    Parameters
    ----------
    views : int
        Views of each stamp, at least 1.
    seed : int
        Every factor follows from the seed, the file and the number of the view.
    limit : int, optional
        Keep only this many subjects, those with an ImageNet class first.

    Returns
    -------
    pandas.DataFrame
        One row a view; see the module's table.
    """
    return _views("stamps", views, seed, limit)


def stamp_labels() -> dict[str, int]:
    """Labels of all photo stamps with their ImageNet-1k index (-1 for none); nothing is fetched."""
    rows = read_manifest(SOURCES["stamps"].manifest)
    return {row["label"]: int(row["imagenet"] or -1) for row in rows}


def clipart(views: int = 1, seed: int = 0, limit: int | None = None) -> pd.DataFrame:
    """Table of the clip art: drawings without labels that widen a translator's training set."""
    return _views("clipart", views, seed, limit)


def photos() -> pd.DataFrame:
    """The 20 labelled ImageNet photos that come with the package foolbox.

    They are never used for fitting.
    """
    # Not imported: with the package comes what attacks networks.
    folder = Path(importlib.util.find_spec("foolbox").origin).parent / "data"
    names = imagenet_names()
    rows = []
    for path in sorted(folder.glob("imagenet_*.jpg")):
        number, index = re.fullmatch(r"imagenet_(\d+)_(\d+)", path.stem).groups()
        rows.append(
            {
                "picture": f"photo-{number}", "source": "photo", "path": str(path),
                "subject": f"photo-{number}", "label": names[int(index)],
                "class_index": int(index), "view": 0,
                "background": "", "flip": False,
            }
        )
    if not rows:
        raise SingError(f"No labelled photos in {folder}; install the package foolbox again.")
    return pd.DataFrame(rows)


def picture_table(
    *, views: int, clipart_views: int, seed: int,
    stamp_subjects: int | None = None, clipart_files: int | None = None,
) -> pd.DataFrame:
    """All pictures of a study: stamps, clip art and labelled photos, in this order.

    Parameters
    ----------
    views, clipart_views : int
        Views of each stamp and of each drawing.
    seed : int
        Seed of the generated factors.
    stamp_subjects, clipart_files : int, optional
        Keep only this many.

    Returns
    -------
    pandas.DataFrame
        See the module's table; the index counts from 0 without gaps.
    """
    tables = [stamps(views, seed, stamp_subjects), photos()]
    if clipart_views and (clipart_files is None or clipart_files > 0):
        tables.insert(1, clipart(clipart_views, seed, clipart_files))
    return pd.concat(tables, ignore_index=True)


def _views(name: str, views: int, seed: int, limit: int | None) -> pd.DataFrame:
    if views < 1:
        raise SingError(f"views must be at least 1; got {views}.")
    source = name.rstrip("s")
    manifest = pd.DataFrame(read_manifest(SOURCES[name].manifest))
    if "subject" not in manifest:
        # Clip art carries no names: every file is a subject of its own.
        manifest["subject"] = [f"{source}:{path}" for path in manifest["path"]]
        manifest["label"] = ""
        manifest["imagenet"] = ""
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
            rows.append(
                {
                    "picture": f"{Path(record['path']).stem}-{view}-{digest}",
                    "source": source,
                    "path": str(root / record["path"]),
                    "subject": record["subject"],
                    "label": record["label"],
                    "class_index": int(record["imagenet"]) if record["imagenet"] else -1,
                    "view": view,
                    **factors,
                }
            )
    return pd.DataFrame(rows)


def _factors(seed: int, path: str, view: int) -> dict[str, float | str | bool]:
    """Known factors of one view, from the seed, the file's path and the number of the view."""
    token = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big")
    rng = np.random.default_rng([seed, token, view])
    scale = rng.uniform(0.55, 0.88)
    free = (1 - 2 * _MARGIN - scale) / 2
    factors = {
        "background": BACKGROUNDS[view % 3],
        "hue": rng.uniform(0, 360),
        "saturation": rng.uniform(0.05, 0.45),
        "lightness": rng.uniform(0.15, 0.9),
        "scale": scale,
        "x": 0.5 + rng.uniform(-free, free),
        "y": 0.5 + rng.uniform(-free, free),
        "flip": bool((view // 3) % 2),
    }
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in factors.items()}


@lru_cache(maxsize=8)
def _cutout(path: str) -> Image.Image:
    """The subject in RGBA, cropped to what is not transparent, at most SIDE pixels long."""
    picture = open_picture(path)
    picture.draft("RGB", (2 * SIDE, 2 * SIDE))
    picture = picture.convert("RGBA")
    box = picture.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    if box is None:
        raise SingError(f"{path} is fully transparent; remove it from the manifest.")
    picture = picture.crop(box)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return picture


def render_view(row: pd.Series | dict) -> Image.Image:
    """Draw one row of the picture table.

    Parameters
    ----------
    row : mapping
        A row of :func:`picture_table`.

    Returns
    -------
    PIL.Image.Image
        RGB; SIDE x SIDE for generated views, the photograph itself otherwise.
    """
    if row["source"] in WHOLE:
        return read_picture(row["path"])
    canvas = _background(row)
    subject = _cutout(row["path"])
    ratio = row["scale"] * SIDE / max(subject.size)
    size = tuple(max(1, round(side * ratio)) for side in subject.size)
    subject = subject.resize(size, Image.Resampling.LANCZOS)
    if row["flip"]:
        subject = subject.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    corner = (round(row["x"] * SIDE - size[0] / 2), round(row["y"] * SIDE - size[1] / 2))
    canvas.paste(subject, corner, subject)
    return canvas


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
    if row["source"] in WHOLE:
        return Path(row["path"])
    return Path(folder) / f"{row['picture']}.jpg"


def store_pictures(
    table: pd.DataFrame, folder: Path, *, progress: Progress = True, workers: int | None = None
) -> None:
    """Draw every picture of the table that is not in `folder` yet.

    Each file is written atomically, so an interrupted run is taken up where it stopped.

    Parameters
    ----------
    table : pandas.DataFrame
        Picture table.
    folder : pathlib.Path
        Target folder, made if missing.
    progress : bool or callable
        Whether to show a progress bar, or whom to tell (:mod:`sing_nb.progress`).
    workers : int, optional
        Threads; one for each processor by default.
    """
    folder = make_folder(folder)
    have = {path.name for path in folder.iterdir()}
    todo = [
        rows.to_dict("records")
        for _, rows in table[~table["source"].isin(WHOLE)].groupby("path", sort=False)
        if any(f"{name}.jpg" not in have for name in rows["picture"])
    ]

    def draw(rows: list[dict]) -> int:
        for row in rows:
            if f"{row['picture']}.jpg" in have:
                continue
            buffer = io.BytesIO()
            render_view(row).save(buffer, "JPEG", quality=92, subsampling=0)
            write_atomic(picture_file(row, folder), buffer.getvalue())
        return len(rows)

    with (
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
        progress_bar(
            progress, total=sum(map(len, todo)), desc="drawing pictures", unit="picture"
        ) as bar,
    ):
        for count in pool.map(draw, todo):
            bar.update(count)


def thumbnail(source: Path | Image.Image, side: int = 72) -> str:
    """A small picture as a data URI, so that a chart carries it along.

    Parameters
    ----------
    source : pathlib.Path or PIL.Image.Image
        A file, or a picture that was read already.
    side : int
        Longer side in pixels.

    Returns
    -------
    str
        ``data:image/jpeg;base64,...``
    """
    picture = source.convert("RGB") if isinstance(source, Image.Image) else read_picture(source)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
