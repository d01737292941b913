"""Pictures and folders as the world has them: each is read right, or skipped and named, or refused
with what to do; and what was refused is not believed later."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import socket
import stat
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageCms

from sing_nb.cli import main
from sing_nb.errors import SingError, printable
from sing_nb.models.classifier import wrap_classifier
from sing_nb.pictures.features import Running, _Files, compute_features
from sing_nb.pictures.fetch import cache_dir
from sing_nb.pictures.folders import folder_pictures, source_pictures, source_ready
from sing_nb.pictures.images import decoded, open_picture, picture_sha, read_picture, thumbnail
from sing_nb.pictures.labels import expanded, read_mapping
from sing_nb.study.pushes import uploaded
from sing_nb.study.study import Study

# Pillow's own, of damaged EXIF and TIFF.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

RED, GREEN, BLUE, YELLOW = (220, 30, 40), (30, 160, 60), (40, 60, 200), (230, 210, 40)
SIZE = (48, 32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SING_CACHE", str(tmp_path_factory.mktemp("cache")))


# --- pictures by hand ---------------------------------------------------------------------------


def corners(size=SIZE):
    """Red, green, blue and yellow quarters, from the top left: every turn of it is another."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    top, left = size[1] // 2, size[0] // 2
    pixels[:top, :left], pixels[:top, left:] = RED, GREEN
    pixels[top:, :left], pixels[top:, left:] = BLUE, YELLOW
    return Image.fromarray(pixels)


def saved(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    if kind == "JPEG":
        options = {"quality": 95, "subsampling": 0} | options
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(seed, size=(24, 16)):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    )


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(pixels, *, interlaced=False, size=None, before=b""):
    """A PNG written chunk by chunk: 8 or 16 bits, grey or RGB, also interlaced (Adam7)."""
    depth, channels = 8 * pixels.dtype.itemsize, pixels.shape[2]
    width, height = size or pixels.shape[1::-1]
    header = struct.pack(
        ">IIBBBBB", width, height, depth, {1: 0, 3: 2}[channels], 0, 0, int(interlaced)
    )
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
              (1, 0, 2, 1)] if interlaced else [(0, 0, 1, 1)]
    lines = b"".join(
        b"\0" + line.astype(f">u{depth // 8}").tobytes()
        for y, x, down, right in passes for line in pixels[y::down, x::right]
        if line.size
    )
    return (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + before
            + png_chunk(b"IDAT", zlib.compress(lines)) + png_chunk(b"IEND", b""))


def tiff_claim(width, height):
    """A TIFF of 8 bytes of pixels that announces more."""
    entries = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1),
               (273, 4, 8), (278, 4, height), (279, 4, 8)]
    body = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", value)
        for tag, kind, value in entries
    )
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + body + bytes(4)


def jpeg_claim(width, height):
    data = bytearray(saved(corners(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_claim(width, height):
    """Canvas of an extended WebP (VP8X)."""
    data = bytearray(saved(corners(), "WEBP", save_all=True, append_images=[noise(0, SIZE)]))
    assert data[12:16] == b"VP8X"
    data[24:27], data[27:30] = (n.to_bytes(3, "little") for n in (width - 1, height - 1))
    return bytes(data)


def gif_claim(width, height):
    data = bytearray(saved(corners(), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def bmp_claim(width, height):
    data = bytearray(saved(corners(), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def damaged(data):
    """Wrong in the middle, with the right end."""
    at = data.index(b"IDAT") + 20
    return data[:at] + bytes(byte ^ 255 for byte in data[at : at + 20]) + data[at + 20 :]


def palette(transparency=None):
    found = corners().quantize(8)
    return saved(found, **({} if transparency is None else {"transparency": transparency}))


def with_alpha(alpha, mode="RGBA", kind="PNG"):
    picture = corners().convert("RGBA")
    picture.putalpha(alpha)
    return saved(picture.convert(mode), kind, **({"lossless": True} if kind == "WEBP" else {}))


def keyed():
    """RGB with one colour, the red, that stands for nothing (tRNS)."""
    return saved(corners(), transparency=RED)


def exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def profile_of(name):
    if name == "wide":
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    return b"not a profile at all"


WHITE = (255, 255, 255)
FOUR = (RED, GREEN, BLUE, YELLOW)
GREYS = tuple((round(np.dot(c, (0.299, 0.587, 0.114))),) * 3 for c in FOUR)
HALF = tuple(tuple(round((v + 255) / 2) for v in colour) for colour in FOUR)
DARK = Image.new("RGB", SIZE)
EIGHT = np.asarray(corners())

# Kind: name of the file, its content, and the colours of its quarters as they are to be read.
GOOD = {
    "PNG": ("a.png", saved(corners()), FOUR),
    "PNG named jpg": ("a.jpg", saved(corners()), FOUR),
    "JPEG named png": ("a.png", saved(corners(), "JPEG"), FOUR),
    "BMP": ("a.bmp", saved(corners(), "BMP"), FOUR),
    "ending in capitals": ("A.JPEG", saved(corners(), "JPEG"), FOUR),
    "ending jfif": ("a.jfif", saved(corners(), "JPEG"), FOUR),
    "no ending": ("a", saved(corners(), "JPEG"), FOUR),
    "long name": ("a" * 246 + ".png", saved(corners()), FOUR),
    "line end in the name": ("a\nb.png", saved(corners()), FOUR),
    "escape sequence in the name": ("a\x1b[2Jb.png", saved(corners()), FOUR),
    "quotes and markup in the name": ("a'\"<b>`$(x)`.png", saved(corners()), FOUR),
    "emoji in the name": ("a 🐫 ünï.png", saved(corners()), FOUR),
    "progressive": ("a.jpg", saved(corners(), "JPEG", progressive=True), FOUR),
    "interlaced": ("a.png", png(EIGHT, interlaced=True), FOUR),
    "grey JPEG": ("a.jpg", saved(corners().convert("L"), "JPEG"), GREYS),
    "CMYK JPEG": ("a.jpg", saved(corners().convert("CMYK"), "JPEG"), FOUR),
    "CMYK TIFF": ("a.tif", saved(corners().convert("CMYK"), "TIFF"), FOUR),
    "16 bits of RGB": ("a.png", png(EIGHT.astype(np.uint16) * 256 + 77), FOUR),
    "16 bits of grey": (
        "a.png", png(np.asarray(corners().convert("L")).astype(np.uint16)[..., None] * 257), GREYS
    ),
    "16 bits of grey TIFF": (
        "a.tif",
        saved(Image.fromarray(np.asarray(corners().convert("L")).astype(np.uint16) * 257), "TIFF"),
        GREYS,
    ),
    "1 bit": (
        "a.png", saved(Image.fromarray(EIGHT[..., 0] > 128)), (WHITE, (0,) * 3, (0,) * 3, WHITE)
    ),
    "palette": ("a.png", palette(), FOUR),
    "palette that is all transparent": ("a.png", palette(bytes(8)), (WHITE,) * 4),
    "palette half transparent": ("a.png", palette(bytes([128]) * 8), HALF),
    "one colour transparent": ("a.png", keyed(), (WHITE, *FOUR[1:])),
    "half transparent": ("a.png", with_alpha(128), HALF),
    "fully transparent": ("a.png", with_alpha(0), (WHITE,) * 4),
    "grey and transparent": ("a.png", with_alpha(0, "LA"), (WHITE,) * 4),
    "WebP half transparent": ("a.webp", with_alpha(128, kind="WEBP"), HALF),
    "animated GIF": (
        "a.gif", saved(corners(), "GIF", save_all=True, append_images=[DARK]), FOUR
    ),
    "animated WebP": (
        "a.webp",
        saved(corners(), "WEBP", save_all=True, append_images=[DARK], lossless=True), FOUR,
    ),
    "animated PNG": ("a.png", saved(corners(), save_all=True, append_images=[DARK]), FOUR),
    "pages of a TIFF": (
        "a.tiff", saved(corners(), "TIFF", save_all=True, append_images=[DARK]), FOUR
    ),
    "phone's MPO": (
        "a.jpg",
        saved(corners(), "MPO", save_all=True, append_images=[DARK], quality=95, subsampling=0),
        FOUR,
    ),
    "wide profile": ("a.png", saved(corners(), icc_profile=profile_of("wide")), FOUR),
    "damaged profile": ("a.jpg", saved(corners(), "JPEG", icc_profile=profile_of("no")), FOUR),
    "damaged EXIF": (
        "a.jpg", saved(corners(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffnothing"), FOUR
    ),
    "EXIF of an unknown turn": ("a.jpg", saved(corners(), "JPEG", exif=exif(77)), FOUR),
    "bytes behind the end": ("a.jpg", saved(corners(), "JPEG") + b"\0\0more", FOUR),
}
# By what the orientation means (EXIF 2.32, 4.6.4 A): where the stored row 0 and column 0 are seen.
TURNS = {
    1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2), 6: lambda x: np.rot90(x, -1),
    7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1], 8: lambda x: np.rot90(x),
}

JPEG, PNG = saved(noise(7, (64, 48)), "JPEG"), saved(noise(7, (64, 48)))
BROKEN = {
    "JPEG cut off": ("a.jpg", JPEG[: len(JPEG) // 2], "damaged.*cannot be read to its end"),
    "PNG cut off": ("a.png", PNG[: len(PNG) // 2], "damaged.*cannot be read to its end"),
    "PNG wrong in the middle": ("a.png", damaged(PNG), "damaged"),
    "header only": ("a.jpg", JPEG[:200], "not a picture|damaged"),
    "nothing": ("a.jpg", b"", "is empty; replace it"),
    "text": ("a.jpg", b"hello, I am a text", "is not a picture that can be read; remove it"),
    "web page": ("a.jpg", b"<!DOCTYPE html><html>404</html>", "is a web page; expected one of"),
    "pointer of Git LFS": (
        "a.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "lfs pull"
    ),
    "PNG of 160 megapixels": (
        "a.png", png(EIGHT, size=(16000, 10000)), "16000 x 10000 pixels, more than 40,000,000"
    ),
    "PNG of 400 megapixels": ("a.png", png(EIGHT, size=(20000, 20000)), "400000000 pixels"),
    "JPEG of 160 megapixels": ("a.jpg", jpeg_claim(16000, 10000), "16000 x 10000 pixels"),
    "TIFF of 160 megapixels": ("a.tif", tiff_claim(16000, 10000), "16000 x 10000 pixels"),
    "WebP of 160 megapixels": ("a.webp", webp_claim(16000, 10000), "16000 x 10000|not a picture"),
    "GIF of 160 megapixels": ("a.gif", gif_claim(16000, 10000), "16000 x 10000 pixels"),
    "BMP of 160 megapixels": ("a.bmp", bmp_claim(16000, 10000), "16000 x 10000 pixels"),
    "a line of pixels": (
        "a.png", saved(Image.new("1", (1, 200_000))), "1 x 200000 pixels, more than 100 times"
    ),
    "text that swells": (
        "a.png",
        png(EIGHT, before=png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**25)))),
        "not a picture.*too large",
    ),
    "32 bits of floating point": (
        "a.tif", saved(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "white is unknown"
    ),
    "32 bits of whole numbers": (
        "a.tif", saved(Image.fromarray(np.ones((9, 9), np.int32)), "TIFF"), "white is unknown"
    ),
    "HEIC": ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"is HEIC; expected one of"),
    "HEIC named jpg": ("a.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is HEIC; .*convert it"),
    "AVIF": ("a.avif", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "is AVIF; expected"),
    "SVG": ("a.svg", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "is SVG"),
    "PDF": ("a.pdf", saved(corners(), "PDF"), "is PDF; expected"),
    "EPS": ("a.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is EPS; expected"),
    "film": ("a.jpg", b"\0\0\0\x18ftypisom\0\0\0\0", "is a film; expected"),
    "ICO": ("a.png", saved(corners(), "ICO"), "is ICO; expected"),
    "JPEG 2000": ("a.jp2", b"\0\0\0\x0cjP  \r\n\x87\n", "is JPEG 2000; expected"),
}


def folders(root, names=("cat", "dog"), count=3):
    """Class folders of small pictures, each another one."""
    for which, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(count):
            noise(1000 * which + number).save(root / name / f"{number}.png")
    return root


def load(root, **options):
    return folder_pictures(root, progress=False, **options)


def quarters(picture):
    """Mean colour of the middle of each quarter."""
    pixels = np.asarray(picture).astype(float)
    assert pixels.ndim == 3
    h, w = pixels.shape[:2]
    return [
        pixels[y + h // 8 : y + h * 3 // 8, x + w // 8 : x + w * 3 // 8].mean((0, 1))
        for y in (0, h // 2) for x in (0, w // 2)
    ]


# --- pictures that are read -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", GOOD)
def test_an_odd_picture_is_read_in_its_colours(kind, tmp_path, capsys):
    name, content, colours = GOOD[kind]
    root = folders(tmp_path)
    (root / "cat" / name).write_bytes(content)
    table = load(root)
    assert table.attrs["skipped"] == []
    row = table[table["path"] == str(root / "cat" / name)].iloc[0]
    assert row["picture"].isascii() or row["picture"].isprintable()
    picture = read_picture(row["path"], sha=picture_sha(row))
    assert (picture.mode, picture.size) == ("RGB", SIZE)
    np.testing.assert_allclose(quarters(picture), colours, atol=6)
    # What a reader uploads, and the small copies in charts, are read the same way.
    again = decoded(open_picture(io.BytesIO(content), name="it"), "it")
    np.testing.assert_array_equal(np.asarray(again), np.asarray(picture))
    assert thumbnail(Path(row["path"])).startswith("data:image/jpeg")
    row["picture"].encode()  # as names of tables and files


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_a_turned_picture_is_read_upright(orientation, kind, tmp_path):
    options = {"lossless": True} if kind == "WEBP" else {}
    (tmp_path / "it").write_bytes(saved(corners(), kind, exif=exif(orientation), **options))
    found = np.asarray(read_picture(tmp_path / "it"))
    upright = TURNS[orientation](EIGHT)
    assert found.shape == upright.shape
    np.testing.assert_allclose(quarters(found), quarters(upright), atol=6)


def test_sixteen_bits_are_not_cut_to_white(tmp_path):
    # Pillow's own conversion makes 256 and all above white.
    values = np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)
    (tmp_path / "it.png").write_bytes(png(values[..., None]))
    found = np.asarray(read_picture(tmp_path / "it.png"))
    np.testing.assert_array_equal(found, (values >> 8)[..., None].repeat(3, axis=2))


def test_one_pixel_is_a_picture(tmp_path):
    root = folders(tmp_path)
    Image.new("RGB", (1, 1), RED).save(root / "cat" / "one.png")
    (path,) = [p for p in load(root)["path"] if p.endswith("one.png")]
    assert read_picture(path).getpixel((0, 0)) == RED


# --- pictures that are skipped --------------------------------------------------------------------


def is_skipped(root, name, message, count=6):
    """The bad one is named with the reason and nothing else is lost, in a second run as well."""
    for _ in range(2):
        table = load(root)
        assert len(table) == count
        (one,) = table.attrs["skipped"]
        assert one["path"] == printable(f"cat/{name}")
        assert pd.Series([one["reason"]]).str.contains(message).all(), one["reason"]
    # A smaller choice has its number: others of the class take the place.
    assert load(root, per_class=3)["label"].value_counts().to_dict() == {"cat": 3, "dog": 3}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_bad_picture_is_skipped_counted_and_named(kind, tmp_path, capfd):
    name, content, message = BROKEN[kind]
    root = folders(tmp_path)
    (root / "cat" / name).write_bytes(content)
    is_skipped(root, name, message)
    assert f"1 pictures of {root} were skipped: " in capfd.readouterr().err
    with pytest.raises(SingError, match=message if content else "not a picture"):
        read_picture(root / "cat" / name)


def test_a_name_that_is_no_utf8_is_skipped(tmp_path):
    root = folders(tmp_path / "it")
    name = os.fsdecode(b"caf\xe9.png")
    (root / "cat" / name).write_bytes(saved(corners()))
    is_skipped(root, name, r"caf\\udce9\.png has a name that is no UTF-8; rename it")
    home = root.rename(tmp_path / os.fsdecode(b"\xe9"))
    with pytest.raises(SingError, match=r"\\udce9 has a name that is no UTF-8; rename it, or"):
        load(home)


def make_folder(path):
    path.mkdir()


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def make_device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero has no end
    except PermissionError:
        pytest.skip("devices are root's to make")


def make_unreadable(path):
    noise(99).save(path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")


def make_hard_link(path):
    os.link(path.parent / "0.png", path)


def make_copy(path):
    shutil.copy(path.parent.parent / "dog" / "1.png", path)


def make_link_inside(path):
    path.symlink_to(path.parent.parent / "dog" / "2.png")


@pytest.mark.parametrize(("make", "message"), [
    (make_folder, r"x\.jpg is a folder, not a picture's file; remove it or rename it"),
    (make_pipe, "is a pipe, a socket or a device"),
    (make_socket, "is a pipe, a socket or a device"),
    (make_device, "is a pipe, a socket or a device"),
    (make_unreadable, "cannot be read .Permission denied.; see that"),
    (make_hard_link, "has the same content as"),
    (make_copy, "has the same content as"),
    (make_link_inside, "has the same content as"),
])
def test_what_only_bears_a_pictures_name_is_skipped_and_never_waited_for(make, message, tmp_path):
    root = folders(tmp_path)
    make(root / "cat" / "x.jpg")
    table = load(root)
    (one,) = table.attrs["skipped"]
    assert len(table) == 6
    assert pd.Series([one["reason"]]).str.contains(message).all(), one["reason"]
    if "content" not in message:
        with pytest.raises(SingError):
            read_picture(root / "cat" / "x.jpg", sha="0" * 10)


@pytest.mark.parametrize("target", ["/etc/hostname", "nowhere", "x.jpg", "/dev/zero"])
def test_links_that_lead_out_nowhere_or_to_themselves_are_said(target, tmp_path, capsys):
    root = folders(tmp_path)
    (root / "cat" / "x.jpg").symlink_to(target)
    assert len(load(root)) == 6
    assert "1 links that lead out of the folder or nowhere were not" in capsys.readouterr().err


def test_a_damaged_picture_among_hundreds_is_skipped_and_the_rest_decoded_once(tmp_path):
    root = folders(tmp_path, ("cat", "dog"), count=150)
    bad = root / "dog" / "77.png"
    bad.write_bytes(damaged(PNG))
    table = load(root)
    assert len(table) == 299
    assert [one["path"] for one in table.attrs["skipped"]] == ["dog/77.png"]
    # A store of an older version, which had not decoded them, is not believed.
    (store,) = (cache_dir() / "folders").iterdir()
    assert "dog/77.png" not in store.read_text()
    status, sha = bad.stat(), hashlib.sha256(bad.read_bytes()).hexdigest()
    kept = {"dog/77.png": [status.st_size, status.st_mtime_ns, sha]}
    store.write_text(json.dumps({"folder": str(root), "files": kept}))
    assert len(load(root).attrs["skipped"]) == 1


def test_no_sequence_of_bytes_is_a_traceback():
    """Damage at random in every format: a picture or a message, never another error."""
    rng = np.random.default_rng(0)
    kinds = [saved(noise(3), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")]
    kinds += [saved(noise(3), "JPEG", exif=exif(6)), palette(bytes(8)),
              saved(noise(3), "TIFF", compression="tiff_lzw"), png(EIGHT, interlaced=True)]
    read, refused, message = 0, 0, "it"
    for data in kinds:
        for _ in range(60):
            content = bytearray(data)
            for at in rng.integers(0, min(len(content), 400), rng.integers(1, 8)):
                content[at] = rng.integers(256)
            if rng.random() < 0.2:
                content = content[: rng.integers(1, len(content))]
            try:
                picture = decoded(open_picture(io.BytesIO(bytes(content)), name="it"), "it")
            except SingError as error:
                refused += 1
                message = str(error)
            else:
                read += 1
                assert picture.mode == "RGB"
            assert message.startswith("it")
    assert read > 50
    assert refused > 50


# --- pictures that change while they are read -----------------------------------------------------


def transform(picture):
    pixels = np.asarray(picture.resize((16, 16)), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(4, 2),
    ).eval()

    return wrap_classifier(module, transform=transform, name="small")


def change(path):
    noise(4321).save(path)


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def become_pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(("what", "message", "workers"), [
    (Path.unlink, r"5\.png could be read when the pictures were listed, and cannot now", 0),
    (change, r"5\.png has changed since the pictures were listed; run again", 0),
    (change, r"^\S+5\.png has changed since", 1),  # without the other process's traceback
    (cut, r"5\.png has changed since", 0),
    (become_pipe, r"5\.png is a pipe", 0),
])
def test_features_are_of_the_pictures_that_were_listed(
    what, message, workers, tmp_path, classifier
):
    root = folders(tmp_path / "pictures", count=9)
    table = load(root)
    what(root / "dog" / "5.png")
    with pytest.raises(SingError, match=message) as caught:
        compute_features(
            classifier, table, tmp_path, tmp_path / "features", progress=False,
            running=Running(workers=workers, batch=4),
        )
    assert "Traceback" not in str(caught.value)
    # Nothing is believed later: no shard was written, and a new list has the new content.
    assert not list((tmp_path / "features").rglob("*.safetensors"))
    again = load(root)
    assert not set(again["picture"]) - set(table["picture"]) or what is change
    found = compute_features(classifier, again, tmp_path, tmp_path / "features", progress=False)
    assert found.features.isfinite().all()


def test_a_change_that_keeps_size_and_time_is_noticed(tmp_path):
    root = folders(tmp_path)
    path = root / "cat" / "0.bmp"
    noise(5).save(path)
    first, status = load(root), path.stat()
    noise(6).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    second = load(root)
    changed = set(second["picture"]) - set(first["picture"])
    assert len(changed) == 1
    row = second[second["picture"].isin(changed)].iloc[0]
    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(picture_sha(row))


def test_features_of_a_folder_are_of_upright_pictures_on_white(tmp_path, classifier):
    """Against a loop of our own over pictures that hold the pixels as they are to be seen."""
    odd, plain = tmp_path / "odd", tmp_path / "plain"
    contents = {"a": saved(corners(), exif=exif(6)), "b": with_alpha(128), "c": saved(noise(1))}
    alpha = np.full((*EIGHT.shape[:2], 1), 128) / 255
    seen = {
        "a": TURNS[6](EIGHT), "b": np.round(alpha * EIGHT + (1 - alpha) * 255),
        "c": np.asarray(noise(1)),
    }
    for name in contents:
        for home in (odd, plain):
            (home / name).mkdir(parents=True)
        (odd / name / "x.png").write_bytes(contents[name])
        Image.fromarray(seen[name].astype(np.uint8)).save(plain / name / "x.png")
    tables = load(odd), load(plain)
    found, truth = (
        compute_features(classifier, table, tmp_path, tmp_path / "features", progress=False)
        for table in tables
    )
    torch.testing.assert_close(found.features, truth.features, rtol=1e-4, atol=2e-4)
    batch = _Files(tables[0], tmp_path, classifier.transform).batch(range(3))
    torch.testing.assert_close(
        found.features, classifier.features(batch).detach().float(), rtol=1e-4, atol=1e-5
    )


# --- folders --------------------------------------------------------------------------------------


def beside(tmp_path):
    return folders(tmp_path / "it")


def a_file(tmp_path):
    (tmp_path / "it").write_text("x")
    return tmp_path / "it"


def empty(tmp_path):
    (tmp_path / "it").mkdir()
    return tmp_path / "it"


def empty_classes(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "it" / name).mkdir(parents=True)
    return tmp_path / "it"


def flat(tmp_path):
    root = empty(tmp_path)
    for number in range(3):
        noise(number).save(root / f"{number}.png")
    return root


def one_class(tmp_path):
    return folders(tmp_path / "it", ["cat"])


def one_of_two_readable(tmp_path):
    root = one_class(tmp_path)
    (root / "dog").mkdir()
    (root / "dog" / "1.heic").write_bytes(BROKEN["HEIC"][1])
    return root


def a_level_too_high(tmp_path):
    return folders(tmp_path / "it" / "animals").parent


def nested_three_deep(tmp_path):
    return folders(tmp_path / "it" / "a" / "b").parent.parent


def one_class_by_case(tmp_path):
    return folders(tmp_path / "it", ["Cat", "cAt"])


def words_missing(*names):
    def make(tmp_path):
        return folders(tmp_path / "it", ["cat", *names])

    return make


def not_utf8(tmp_path):
    return folders(tmp_path / "it", ["cat", os.fsdecode(b"chien\xe9")])


def hidden(tmp_path):
    return folders(tmp_path / "it", [".cat", ".dog"])


FAULTY = {
    "missing": (lambda path: path / "it", "it does not exist. Understood are"),
    "a file": (a_file, "it is a file"),
    "a name that is too long": (lambda path: path / ("x" * 300), "does not exist"),
    "a name with a zero": (lambda path: f"{path}/a\0b", "does not exist"),
    "nobody's home": (lambda path: "~nobody-of-this-name/x", "write the folder's full path"),
    "an unset variable": (lambda path: "$SING_NO_SUCH/x", "the variable SING_NO_SUCH is not set"),
    "no name": (lambda path: " ", "is an empty path; name a folder"),
    "empty": (empty, "holds no class folders with pictures. Understood are"),
    "empty classes": (empty_classes, "holds no class folders with pictures"),
    "flat": (flat, "3 pictures directly; put them in one folder a class"),
    "one class": (one_class, r"gives 1 class \(cat\).*at least two.*a folder of its own"),
    "one class of two can be read": (one_of_two_readable, "no two classes.*is HEIC"),
    "a level too high": (a_level_too_high, "but .*it/animals does; give that one"),
    "three levels too high": (nested_three_deep, "holds no class folders|it/a does"),
    "two names of one class": (one_class_by_case, r"gives 1 class \(Cat, cAt\)"),
    "a number for a name": (words_missing("123"), "'123'.*Name them in a mapping file"),
    "underscores for a name": (words_missing("_", "__"), "2 classes .* have no name in words"),
    "spaces for a name": (words_missing("  "), "have no name in words"),
    "dots for a name": (words_missing("a"[:0] + "…"), "have no name in words"),
    "hyphens for a name": (words_missing("---"), "have no name in words"),
    "an emoji for a name": (words_missing("🐫"), "have no name in words"),
    "a name that is no UTF-8": (not_utf8, r"no UTF-8, for example chien\\udce9; rename"),
    "hidden": (hidden, "holds no class folders with pictures"),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_a_faulty_folder_is_refused_with_what_to_do(kind, tmp_path):
    make, message = FAULTY[kind]
    with pytest.raises(SingError, match=message) as caught:
        load(make(tmp_path))
    str(caught.value).encode()
    again = tmp_path / "again"
    again.mkdir()
    with pytest.raises(SingError, match=message):
        source_pictures(f"folder:{make(again)}", progress=False)
    assert source_ready(f"folder:{tmp_path / 'none'}")[0] is False


def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    root = folders(tmp_path)
    (root / "cat").chmod(0)
    try:
        if os.access(root / "cat", os.R_OK):
            pytest.skip("root reads everything")
        with pytest.raises(SingError, match=r"cat cannot be listed: Permission denied.*ls -ld"):
            load(root)
    finally:
        (root / "cat").chmod(0o755)


LABELS = {
    "decomposed": (unicodedata.normalize("NFD", "café"), unicodedata.normalize("NFC", "café")),
    "right to left": ("כלב", "כלב"),
    "Chinese": ("熊猫", "熊猫"),
    "emoji and words": ("🐫 of_mine", "🐫 of mine"),
    "turned text": ("tac\u202egod", "tacgod"),
    "escape sequence": ("ca\x1b[31mt", "ca[31mt"),
    "line end": ("my\ncat", "my cat"),
    "markup": ("<b>cat", "<b>cat"),
    "dots inside": ("St. Bernard", "St. Bernard"),
    "a leading number": ("007_hen", "hen"),
    "255 bytes": ("x" * 255, "x" * 255),
    "words after a comma": ("tench, Tinca tinca", "tench"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_odd_names_of_classes_are_labels(kind, tmp_path):
    name, label = LABELS[kind]
    table = load(folders(tmp_path, [name, "dog"], count=2))
    assert set(table["label"]) == {label, "dog"}
    assert len(table) == 4


@pytest.mark.parametrize(("first", "second"), [
    ("Cat", "cat"), ("My_Dog", "my-dog"),
    (unicodedata.normalize("NFC", "été"), unicodedata.normalize("NFD", "ÉTÉ")),
])
def test_names_that_differ_in_case_are_one_class(first, second, tmp_path, capsys):
    table = load(folders(tmp_path, [first, second, "hen"], count=2))
    assert table["label"].nunique() == 2
    assert table["label"].value_counts().tolist() == [4, 2]
    assert "differ from another one only in upper and lower case" in capsys.readouterr().err


@pytest.mark.parametrize("name", [
    "with spaces", "with:colon", "quote'\"s", "ünï 🐫", "$HOME", "$(touch x)", "a;b&c", "it/",
    "-rf", "%s{x}",
])
def test_any_path_is_a_path(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders(tmp_path / name)
    for spec in (f"folder:./{name}", f"folder:{tmp_path}/{name}", f"folder:{tmp_path}/{name}/"):
        assert len(source_pictures(spec, progress=False)) == 6
        assert source_ready(spec)[0]


def test_home_and_variables_are_expanded(tmp_path, monkeypatch):
    folders(tmp_path / "it")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SING_PLACE", str(tmp_path))
    for spec in ("folder:~/it", "folder:$SING_PLACE/it", "folder:${SING_PLACE}/it/../it"):
        assert len(source_pictures(spec, progress=False)) == 6
    assert expanded("~/it") == tmp_path / "it"


def test_what_lies_beside_the_classes_is_said_and_nothing_is_written_there(tmp_path, capsys):
    root = folders(tmp_path)
    noise(5).save(root / "loose.png")
    noise(6).save(root / "cat" / ".hidden.png")
    (root / "cat" / "deeper").mkdir()
    noise(7).save(root / "cat" / "deeper" / "x.png")
    (root / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / "cat" / "README").write_text("of the cats")
    (root / "empty").mkdir()
    (root / "again").symlink_to(root)

    def state():
        return {path: path.lstat().st_mtime_ns for path in sorted(root.rglob("*"))}

    before = state()
    table = load(root)
    assert len(table) == 6
    assert table.attrs["skipped"] == []
    assert "1 pictures of" in capsys.readouterr().err
    assert state() == before


def test_the_smallest_folders_are_read(tmp_path):
    assert len(load(folders(tmp_path / "two", count=1))) == 2
    table = load(folders(tmp_path / "many", [f"thing {chr(97 + i)}" for i in range(20)], count=1))
    assert table["label"].nunique() == len(table) == 20


def test_ten_thousand_classes_take_seconds(tmp_path):
    names = [f"thing {a}{b}{c}{d}" for a in "abcdefghij" for b in "abcdefghij"
             for c in "abcdefghij" for d in "abcdefghij"]
    for number, name in enumerate(names):
        os.mkdir(tmp_path / name)
        (tmp_path / name / "1.png").write_bytes(
            png(np.full((1, 1, 3), number % 256, np.uint8), before=png_chunk(
                b"tEXt", b"n\0%d" % number))
        )
    assert source_ready(f"folder:{tmp_path}")[1].startswith("10,000 class folders")
    # What is not chosen is not opened.
    table = load(tmp_path, total=300)
    assert table["label"].nunique() == len(table) == 300
    assert set(table["label"]) < set(names)


# --- mapping files --------------------------------------------------------------------------------


BOMB = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [f"{b}: &{b} [{', '.join(['*' + a] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi")]
)
MAPPINGS = {
    "not UTF-8": ("m.yaml", b"caf\xe9: x", "cannot be read.*in UTF-8"),
    "not UTF-8 in CSV": ("m.csv", b"folder,label\ncaf\xe9,x\n", "cannot be read.*in UTF-8"),
    "not YAML": ("m.yaml", b"a: [", "cannot be read"),
    "empty": ("m.yaml", b"", "must hold lines as"),
    "a list": ("m.yaml", b"- a\n- b\n", "must hold lines as"),
    "zeros": ("m.csv", bytes(100), "needs the column folder|cannot be read"),
    "a bomb of aliases": ("m.yaml", BOMB.encode(), r"holds aliases \(\*name\)"),
    "merged keys": ("m.yaml", b"a: &a {label: x}\nb: {<<: *a}\n", "holds aliases"),
    "endless brackets": ("m.yaml", b"[" * 50_000, "cannot be read|nested too deeply"),
    "endless indents": ("m.yaml", b"- " * 20_000, "cannot be read|nested too deeply|must hold"),
    "code": ("m.yaml", b"a: !!python/object/apply:os.system ['true']", "cannot be read"),
    "a date that is none": ("m.yaml", b"cat: 2020-99-99", "cannot be read"),
    "a number of 9999 digits": (
        "m.yaml", b"cat: {class_index: 1%s}" % (b"0" * 9999), "cannot be read"
    ),
    "a huge number": ("m.yaml", b"cat: {class_index: 100000000000}", "0 to 999"),
    "a folder as a list": ("m.yaml", b"? [a, b]\n: x\n", "line 1: expected the name of a folder"),
    "unknown column": ("m.csv", b"folder,lable\ncat,x\n", "unknown key 'lable'.*'label'"),
    "no column folder": ("m.csv", b"label\nx\n", "needs the column folder"),
    "too many cells": ("m.csv", b"folder,label\ncat,x,y\n", "line 2: more cells than columns"),
    "up and out": ("m.yaml", b"../x: y", "expected a folder inside"),
    "hidden way out": ("m.yaml", b"a/../../x: y", "expected a folder inside"),
    "absolute": ("m.yaml", b"/etc: y", "expected a folder inside"),
    "nothing": ("m.csv", b"folder,label\n,x\n", "without a folder: expected a folder inside"),
    "a zero byte": ("m.yaml", b'"a\\0b": y', "expected a folder inside"),
    "twice": ("m.yaml", b"cat: x\ncat: y\n", "line 2.*named twice; keep one"),
    "twice in two spellings": ("m.csv", b"folder,label\ncat,x\n./cat/,y\n", "named twice"),
    "a number for a label": ("m.yaml", b"cat: {label: 3}", "label must be str; got 3"),
    "yes for a number": ("m.yaml", b"cat: {class_index: true}", "class_index must be int"),
    "no label": ("m.yaml", b"cat: {label: ' '}", "the label is empty"),
    "of another kind": ("m.txt", b"cat: x", "ends in .yaml or .csv"),
    "not there": ("none.yaml", None, "none.yaml does not exist"),
}


@pytest.mark.parametrize("kind", MAPPINGS)
def test_a_faulty_mapping_is_refused_quickly_and_shortly(kind, tmp_path):
    name, content, message = MAPPINGS[kind]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SingError, match=message) as caught:
        load(folders(tmp_path / "it"), mapping=tmp_path / name)
    assert name in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_a_mapping_may_be_long(tmp_path):
    lines = [f"folder {i},thing {i}" for i in range(10_000)]
    (tmp_path / "m.csv").write_text("\n".join(["folder,label", *lines]))
    assert len(read_mapping(tmp_path / "m.csv")) == 10_000
    (tmp_path / "m.yaml").write_text("\n".join(line.replace(",", ": ") for line in lines[:2_000]))
    assert read_mapping(tmp_path / "m.yaml")["folder 9"]["label"] == "thing 9"


# --- messages -------------------------------------------------------------------------------------


def test_names_in_messages_do_nothing_to_a_terminal():
    name = "a\x1b[2J\nb\udce9\u202ec.png"
    assert printable(name) == r"a\x1b[2J\nb\udce9\u202ec.png"
    assert printable("ünï 🐫 כלב 'x'") == "ünï 🐫 כלב 'x'"
    error = SingError(f"first {name}\nsecond\tline")
    assert str(error).splitlines() == [r"first a\x1b[2J", r"b\udce9\u202ec.png", "second\tline"]
    with pytest.raises(SingError, match=r"a\\x1b\[2J\\nb\\udce9\\u202ec\.png is not a picture"):
        open_picture(io.BytesIO(b"x"), name=name)
    with pytest.raises(SingError, match="the picture is not a picture"):
        open_picture(io.BytesIO(b"x"))


# --- through the doors that readers use -----------------------------------------------------------


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Of a folder with bad pictures among good ones; nothing is computed yet."""
    monkeypatch.setenv("SING_BUILD", str(tmp_path / "build"))
    root = folders(tmp_path / "own", ("cat", "dog", "my_thing"), count=4)
    for number, (name, content, _) in enumerate(BROKEN.values()):
        (root / "cat" / f"{number}-{name}").write_bytes(content)
    (root / "dog" / "turned.jpg").write_bytes(saved(corners(), "JPEG", exif=exif(6)))
    return Study(
        "report", models=["lite0"], pictures=f"folder:{root}", also_fit="none", progress=False
    )


def test_a_study_counts_what_was_skipped_and_computes_the_rest(study, tmp_path):
    table = study.pictures
    assert (table["source"] == "folder").sum() == 13
    skipped = {one["path"].split("/")[1].split("-")[0] for one in table.attrs["skipped"]}
    assert skipped == {str(number) for number in range(len(BROKEN))}
    # Every step of pandas copies a table's attributes; these, of thousands, are handed on.
    assert table[table["fold"] >= 0].attrs["skipped"] is table.attrs["skipped"]
    features, logits = study.feature_part("lite0")
    assert features.isfinite().all()
    assert len(features) == len(logits) == len(table)
    # The turned one, read by Pillow's and timm's own means.
    row = int(np.flatnonzero(table["path"].str.endswith("turned.jpg"))[0])
    clf = study.classifier("lite0")
    upright = Image.open(table["path"][row]).rotate(-90, expand=True)
    truth = clf.features(clf.transform(upright)[None]).detach().float()
    torch.testing.assert_close(features[[row]], truth, rtol=1e-3, atol=1e-3)


def test_a_bad_upload_is_refused_before_any_network_is_asked(study):
    for name, content, message in BROKEN.values():
        wanted = message if content else "is empty; choose a picture"
        with pytest.raises(SingError, match=wanted) as caught:
            uploaded(study, "lite0", content, f"\x1b[2J{name}")
        assert str(caught.value).startswith(rf"\x1b[2J{name}")


@pytest.mark.parametrize(("kind", "message"), [
    ("missing", r"it is not there|it does not exist"), ("a file", "is a file|is no folder"),
    ("empty", "holds no class folders"), ("flat", "put them in one folder a class"),
    ("one class", "at least two are needed"), ("a number for a name", "mapping file"),
])
def test_the_command_line_says_it_in_a_sentence(kind, message, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("SING_BUILD", str(tmp_path / "build"))
    images = FAULTY[kind][0](tmp_path)
    out = tmp_path / "out"
    code = main(
        ["report", "--model", "lite0", "--images", str(images), "--out", str(out), "--quiet"]
    )
    said = capfd.readouterr()
    assert code == 1
    assert re.search(message, said.err), said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    assert not out.exists()
