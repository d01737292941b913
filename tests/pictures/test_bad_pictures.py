"""Pictures and folders as the world has them: each is read right, or skipped and named, or refused
with what to do; and what was refused is not believed later."""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sing_nb.errors import SingError
from sing_nb.models.classifier import wrap_classifier
from sing_nb.pictures.features import compute_features
from sing_nb.pictures.folders import folder_pictures
from sing_nb.pictures.images import decoded, open_picture, picture_sha, read_picture

# Pillow's own, of damaged EXIF and TIFF, and of sizes.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

RED, GREEN, BLUE, YELLOW = FOUR = ((220, 30, 40), (30, 160, 60), (40, 60, 200), (230, 210, 40))
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
SIZE = (48, 32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SING_CACHE", str(tmp_path_factory.mktemp("cache")))


# --- pictures by hand ---------------------------------------------------------------------------


def corners():
    """Red, green, blue and yellow quarters, from the top left: every turn of it is another."""
    pixels = np.zeros((*SIZE[::-1], 3), np.uint8)
    pixels[:16, :24], pixels[:16, 24:], pixels[16:, :24], pixels[16:, 24:] = FOUR
    return Image.fromarray(pixels)


def saved(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    if kind in ("JPEG", "MPO"):
        options = {"quality": 95, "subsampling": 0} | options
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(seed, size=(24, 16)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels)


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(pixels, *, size=None, before=b""):
    """A PNG written chunk by chunk: 8 or 16 bits, grey or RGB; it may claim another size."""
    depth, channels = 8 * pixels.dtype.itemsize, pixels.shape[2]
    width, height = size or pixels.shape[1::-1]
    header = struct.pack(">IIBBBBB", width, height, depth, {1: 0, 3: 2}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(f">u{depth // 8}").tobytes() for line in pixels)
    return (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + before
            + png_chunk(b"IDAT", zlib.compress(lines)) + png_chunk(b"IEND", b""))


def with_alpha(alpha):
    picture = corners().convert("RGBA")
    picture.putalpha(alpha)
    return saved(picture)


def palette(transparency):
    return saved(corners().quantize(8), transparency=transparency)


def exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found


EIGHT = np.asarray(corners())
GREY = np.asarray(corners().convert("L")).astype(np.uint16)
GREYS = tuple((round(np.dot(c, (0.299, 0.587, 0.114))),) * 3 for c in FOUR)
HALF = tuple(tuple(round((v + 255) / 2) for v in colour) for colour in FOUR)
MORE = {"save_all": True, "append_images": [Image.new("RGB", SIZE)]}

# Kind: name of the file, its content, and the colours of its quarters as they are to be read.
GOOD = {
    "PNG named jpg": ("a.jpg", saved(corners()), FOUR),
    "line end, escape and markup in the name": ("a\nb\x1b[2J'\"<b>🐫.png", saved(corners()), FOUR),
    "grey JPEG": ("a.jpg", saved(corners().convert("L"), "JPEG"), GREYS),
    "CMYK JPEG": ("a.jpg", saved(corners().convert("CMYK"), "JPEG"), FOUR),
    "16 bits of RGB": ("a.png", png(EIGHT.astype(np.uint16) * 256 + 77), FOUR),
    "16 bits of grey": ("a.png", png(GREY[..., None] * 257), GREYS),
    "16 bits of grey TIFF": ("a.tif", saved(Image.fromarray(GREY * 257), "TIFF"), GREYS),
    "1 bit": ("a.png", saved(Image.fromarray(EIGHT[..., 0] > 128)), (WHITE, BLACK, BLACK, WHITE)),
    "palette that is all transparent": ("a.png", palette(bytes(8)), (WHITE,) * 4),
    "palette half transparent": ("a.png", palette(bytes([128]) * 8), HALF),
    "one colour transparent": ("a.png", saved(corners(), transparency=RED), (WHITE, *FOUR[1:])),
    "half transparent": ("a.png", with_alpha(128), HALF),
    "animated GIF": ("a.gif", saved(corners(), "GIF", **MORE), FOUR),
    "pages of a TIFF": ("a.tiff", saved(corners(), "TIFF", **MORE), FOUR),
    "phone's MPO": ("a.jpg", saved(corners(), "MPO", **MORE), FOUR),
    "damaged EXIF": (
        "a.jpg", saved(corners(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffnothing"), FOUR),
    "EXIF of an unknown turn": ("a.jpg", saved(corners(), "JPEG", exif=exif(77)), FOUR)}
# By what the orientation means (EXIF 2.32, 4.6.4 A): where the stored row 0 and column 0 are seen.
TURNS = {
    1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2), 6: lambda x: np.rot90(x, -1),
    7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1], 8: lambda x: np.rot90(x)}
JPEG, PNG = saved(noise(7, (64, 48)), "JPEG"), saved(noise(7, (64, 48)))
MIDDLE = PNG.index(b"IDAT") + 20
BROKEN = {
    "JPEG cut off": ("a.jpg", JPEG[: len(JPEG) // 2], "damaged"),
    "PNG wrong in the middle": (
        "a.png", PNG[:MIDDLE] + bytes(b ^ 255 for b in PNG[MIDDLE:][:20]) + PNG[MIDDLE + 20 :],
        "damaged"),
    "nothing": ("a.jpg", b"", "empty|not a picture"),
    "text": ("a.jpg", b"hello, I am a text", "not a picture"),
    "PNG of 64 megapixels": ("a.png", png(EIGHT, size=(8000, 8000)), "8000 x 8000 pixels"),
    "PNG of 400 megapixels": ("a.png", png(EIGHT, size=(20000, 20000)), "400000000 pixels"),
    "a line of pixels": ("a.png", saved(Image.new("1", (1, 200_000))), "1 x 200000 pixels"),
    "text that swells": (
        "a.png", png(EIGHT, before=png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**25)))),
        "not a picture"),
    "floating point": (
        "a.tif", saved(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "white is unknown"),
    "HEIC": ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "expected one of .*JPEG")}


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
    h, w = pixels.shape[:2]
    return [pixels[y + h // 8 : y + h * 3 // 8, x + w // 8 : x + w * 3 // 8].mean((0, 1))
            for y in (0, h // 2) for x in (0, w // 2)]


# --- pictures that are read -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", GOOD)
def test_an_odd_picture_is_read_in_its_colours(kind, tmp_path):
    name, content, colours = GOOD[kind]
    root = folders(tmp_path)
    (root / "cat" / name).write_bytes(content)
    table = load(root)
    assert table.attrs["skipped"] == []
    row = table[table["path"] == str(root / "cat" / name)].iloc[0]
    assert row["picture"].isprintable()
    picture = read_picture(row["path"], sha=picture_sha(row))
    assert (picture.mode, picture.size) == ("RGB", SIZE)
    np.testing.assert_allclose(quarters(picture), colours, atol=6)
    # What a reader uploads is read the same way.
    again = decoded(open_picture(io.BytesIO(content), name="it"), "it")
    np.testing.assert_array_equal(np.asarray(again), np.asarray(picture))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "16 bits"])
@pytest.mark.parametrize("orientation", TURNS)
def test_a_turned_picture_is_read_upright(orientation, kind, tmp_path):
    stored = Image.fromarray(GREY * 257) if kind == "16 bits" else corners()
    content = saved(stored, "JPEG" if kind == "JPEG" else "PNG", exif=exif(orientation))
    (tmp_path / "it").write_bytes(content)
    found = np.asarray(read_picture(tmp_path / "it"))
    seen = GREY[..., None].repeat(3, 2) if kind == "16 bits" else EIGHT
    upright = TURNS[orientation](seen)
    assert found.shape == upright.shape
    np.testing.assert_allclose(quarters(found), quarters(upright), atol=6)


def test_sixteen_bits_are_not_cut_to_white(tmp_path):
    # Pillow's own conversion makes 256 and all above white.
    values = np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)
    (tmp_path / "it.png").write_bytes(png(values[..., None]))
    found = np.asarray(read_picture(tmp_path / "it.png"))
    np.testing.assert_array_equal(found, (values >> 8)[..., None].repeat(3, axis=2))


# --- pictures that are skipped --------------------------------------------------------------------


@pytest.mark.parametrize("kind", BROKEN)
def test_a_bad_picture_is_skipped_counted_and_named(kind, tmp_path, capfd):
    name, content, message = BROKEN[kind]
    root = folders(tmp_path)
    (root / "cat" / name).write_bytes(content)
    for _ in range(2):  # nor is it believed in a second run
        table = load(root)
        assert len(table) == 6
        (one,) = table.attrs["skipped"]
        assert one["path"] == f"cat/{name}"
        assert re.search(message, one["reason"])
    assert "1 pictures" in capfd.readouterr().err
    with pytest.raises(SingError, match=message):
        read_picture(root / "cat" / name)


@pytest.mark.parametrize(("make", "word"), [
    (os.mkfifo, "a pipe"),
    (lambda path: shutil.copy(path.parent.parent / "dog" / "1.png", path), "same content"),
    (lambda path: path.symlink_to(path.parent.parent / "dog" / "2.png"), "same content"),
], ids=["pipe", "copy", "link"])
def test_what_only_bears_a_pictures_name_is_skipped_and_never_waited_for(make, word, tmp_path):
    root = folders(tmp_path)
    make(root / "cat" / "x.jpg")
    table = load(root)
    (one,) = table.attrs["skipped"]
    assert len(table) == 6
    assert word in one["reason"]
    if word != "same content":
        with pytest.raises(SingError, match=word):
            read_picture(root / "cat" / "x.jpg", sha="0" * 10)


# --- pictures that change while they are read -----------------------------------------------------


@pytest.fixture(scope="module")
def classifier():
    def transform(picture):
        pixels = np.asarray(picture.resize((16, 16)), dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)

    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(4, 2),
    ).eval()
    return wrap_classifier(module, transform=transform, name="small")


def become_pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("what", [
    Path.unlink, lambda path: noise(4321).save(path),
    lambda path: path.write_bytes(path.read_bytes()[:100]), become_pipe,
], ids=["gone", "another", "cut", "a pipe"])
def test_features_are_of_the_pictures_that_were_listed(what, tmp_path, classifier):
    root = folders(tmp_path / "pictures", count=4)
    table, places = load(root), (tmp_path, tmp_path / "features")
    what(root / "dog" / "2.png")
    with pytest.raises(SingError, match=r"2\.png (has changed|is not a picture|is a folder)"):
        compute_features(classifier, table, *places, progress=False)
    # Nothing is believed later: no shard was written, and a new list has the new content.
    assert not list((tmp_path / "features").rglob("*.safetensors"))
    again = load(root)
    found = compute_features(classifier, again, *places, progress=False)
    assert len(found.features) == len(again) >= 7


def test_features_of_a_folder_are_of_upright_pictures_on_white(tmp_path, classifier):
    """Against pictures that hold the pixels as they are to be seen."""
    contents = {"a": saved(corners(), exif=exif(6)), "b": with_alpha(128), "c": saved(noise(1))}
    share = 128 / 255
    seen = {"a": TURNS[6](EIGHT), "b": np.round(share * EIGHT + (1 - share) * 255),
            "c": np.asarray(noise(1))}
    found = []
    for home in (tmp_path / "odd", tmp_path / "plain"):
        for name in contents:
            (home / name).mkdir(parents=True)
            plain = saved(Image.fromarray(seen[name].astype(np.uint8)))
            content = contents[name] if home.name == "odd" else plain
            (home / name / "x.png").write_bytes(content)
        found.append(compute_features(
            classifier, load(home), tmp_path, tmp_path / "features", progress=False))
    torch.testing.assert_close(*(one.features for one in found), rtol=1e-4, atol=2e-4)
