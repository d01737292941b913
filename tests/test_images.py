from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sing_nb.errors import SingError
from sing_nb.models.prompts import imagenet_names
from sing_nb.pictures.images import (
    SIDE,
    WHOLE,
    clipart,
    open_picture,
    photos,
    picture_file,
    picture_table,
    render_view,
    stamps,
    store_pictures,
    thumbnail,
)

BLUE, RED = (0, 0, 255), (255, 0, 0)


@pytest.fixture(scope="module")
def table():
    """Six views, a full round of backgrounds and flips, of two real subjects."""
    return stamps(views=6, seed=0, limit=2)


@pytest.fixture
def two_coloured(tmp_path):
    """A subject of 120 x 80 whose left half is red and right half is blue."""
    picture = Image.new("RGBA", (200, 200))
    draw = ImageDraw.Draw(picture)
    draw.rectangle([40, 60, 99, 139], fill=RED)
    draw.rectangle([100, 60, 159, 139], fill=BLUE)
    picture.save(tmp_path / "subject.png")
    return str(tmp_path / "subject.png")


def view(path, **factors):
    return {
        "source": "stamp", "path": path, "view": 0, "background": "plain", "hue": 120.0,
        "saturation": 0.0, "lightness": 0.5, "scale": 0.5, "x": 0.5, "y": 0.5, "flip": False,
    } | factors


def pixels(row):
    return np.asarray(render_view(row)).astype(int)


def where_subject(image):
    """First and last row and column of what is clearly red or blue."""
    clear = np.abs(image[..., 0] - image[..., 2]) > 100
    rows, columns = np.flatnonzero(clear.any(1)), np.flatnonzero(clear.any(0))
    return rows[0], rows[-1], columns[0], columns[-1]


def test_factors_lie_inside_their_bounds(table):
    bounds = {
        "hue": (0, 360), "saturation": (0, 1), "lightness": (0, 1), "scale": (0.3, 1),
        "x": (0, 1), "y": (0, 1),
    }
    for column, (low, high) in bounds.items():
        assert table[column].between(low, high).all(), column
        assert table[column].nunique() == len(table), column


def test_subjects_stay_inside_the_central_square(table):
    for axis in ("x", "y"):
        assert (table[axis] - table["scale"] / 2 >= 0.0599).all()
        assert (table[axis] + table["scale"] / 2 <= 0.9401).all()


def test_backgrounds_and_flips_are_a_full_factorial(table):
    for _, views in table.groupby("path"):
        assert len(views) == 6
        assert not views.duplicated(["background", "flip"]).any()


def test_drawn_subjects_have_the_size_and_place_of_their_row(table, two_coloured):
    for row in table.to_dict("records"):
        plain = {"background": "plain", "saturation": 0.0, "flip": False}
        top, bottom, left, right = where_subject(pixels({**row, **plain, "path": two_coloured}))
        assert right - left + 1 == pytest.approx(row["scale"] * SIDE, abs=3)
        assert (bottom - top + 1) / (right - left + 1) == pytest.approx(80 / 120, abs=0.02)
        assert (left + right + 1) / 2 == pytest.approx(row["x"] * SIDE, abs=2)
        assert (top + bottom + 1) / 2 == pytest.approx(row["y"] * SIDE, abs=2)
        assert 0 < left < right < SIDE - 1
        assert 0 < top < bottom < SIDE - 1


def test_the_table_follows_from_the_seed(table):
    assert stamps(views=6, seed=0, limit=2).equals(table)
    other = stamps(views=6, seed=1, limit=2)
    assert not set(other["picture"]) & set(table["picture"])
    assert (other["hue"] != table["hue"]).all()


def test_names_are_unique(table):
    assert table["picture"].is_unique


def test_equal_names_mean_equal_pixels(table):
    fewer = stamps(views=2, seed=0, limit=1)
    shared = table.set_index("picture").loc[fewer["picture"]]  # all of them are there again
    for one, two in zip(fewer.to_dict("records"), shared.to_dict("records")):
        np.testing.assert_array_equal(pixels(one), pixels(two))


def test_views_of_one_subject_look_different(table):
    rows = table[table["path"] == table["path"][0]].to_dict("records")
    drawn = [pixels(row) for row in rows]
    for index, image in enumerate(drawn):
        assert image.shape == (SIDE, SIDE, 3)
        assert all(np.abs(image - other).mean() > 1 for other in drawn[:index])


def test_flip_mirrors_the_subject(two_coloured):
    straight, mirrored = (pixels(view(two_coloured, flip=flip)) for flip in (False, True))
    np.testing.assert_array_equal(mirrored, straight[:, ::-1])
    _, _, left, right = where_subject(straight)
    assert straight[SIDE // 2, left + 5, 0] > 200  # red on the left
    assert mirrored[SIDE // 2, left + 5, 2] > 200
    assert left < right


def test_backgrounds_differ_in_kind(two_coloured):
    edge = {}
    for kind in ("plain", "gradient", "noise"):
        image = pixels(view(two_coloured, background=kind, saturation=0.4))
        edge[kind] = (np.ptp(image[0], axis=0).max(), np.ptp(image[:, 0], axis=0).max())
    assert edge["plain"] == (0, 0)
    assert edge["gradient"][0] == 0
    assert edge["gradient"][1] > 30
    assert min(edge["noise"]) > 30


def test_a_plain_background_has_the_colour_of_its_row(two_coloured):
    # Hue 120 is green; lightness 0.5 and saturation 1 make it pure, saturation 0 makes it grey.
    assert pixels(view(two_coloured, saturation=1.0))[0, 0].tolist() == [0, 255, 0]
    grey = pixels(view(two_coloured, saturation=0.0, lightness=0.2))[0, 0]
    np.testing.assert_allclose(grey, 51, atol=1)


def test_a_fully_transparent_subject_is_refused(tmp_path):
    Image.new("RGBA", (10, 10)).save(tmp_path / "nothing.png")
    with pytest.raises(SingError, match="fully transparent"):
        render_view(view(str(tmp_path / "nothing.png")))


def test_the_limit_counts_subjects_and_keeps_known_classes():
    found = stamps(views=1, limit=3)
    assert found["subject"].nunique() == 3
    assert (found["class_index"] >= 0).all()


def test_stamps_of_a_class_bear_its_index(table):
    names = imagenet_names()
    assert table["class_index"].between(0, 999).all()
    assert {names[i] for i in table["class_index"]} >= set(table["label"]) & set(names)


def test_clip_art_has_no_labels_and_every_file_is_a_subject():
    found = clipart(views=2, limit=3)
    assert len(found) == 6
    assert (found["label"] == "").all()
    assert (found["class_index"] == -1).all()
    assert found.groupby("subject")["path"].nunique().tolist() == [1, 1, 1]
    assert pixels(found.iloc[0]).shape == (SIDE, SIDE, 3)


def test_photos_are_20_with_the_name_of_their_class():
    found, names = photos(), imagenet_names()
    assert len(found) == 20
    assert found["picture"].is_unique
    for row in found.to_dict("records"):
        assert row["path"].endswith(f"_{row['class_index']}.jpg")
        assert row["label"] == names[row["class_index"]]


def test_the_whole_table_counts_from_0_in_the_order_of_its_sources():
    found = picture_table(
        views=2, clipart_views=1, seed=0, stamp_subjects=2, clipart_files=3
    )
    assert found.index.tolist() == list(range(len(found)))
    assert found["source"].drop_duplicates().tolist() == ["stamp", "clipart", "photo"]
    assert found["picture"].is_unique
    for nothing in ({"clipart_views": 0}, {"clipart_views": 1, "clipart_files": 0}):
        bare = picture_table(views=1, seed=0, stamp_subjects=2, **nothing)
        assert set(bare["source"]) == {"stamp", "photo"}


def test_no_views_are_refused():
    with pytest.raises(SingError, match="views must be at least 1"):
        stamps(views=0)


def png_header(width, height):
    """A PNG that announces a size and holds not a single pixel."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 1000) + b"IDAT"


def test_huge_pictures_are_refused_by_their_header(tmp_path):
    path = tmp_path / "huge.png"
    # Beyond Pillow's own limit as well, and between ours and Pillow's.
    path.write_bytes(png_header(20_000, 20_000))
    with pytest.raises(SingError, match=r"400000000 pixels.*Make it smaller"):
        open_picture(path)
    path.write_bytes(png_header(8_000, 8_000))
    with pytest.raises(SingError, match="8000 x 8000 pixels"):
        open_picture(path)
    path.write_bytes(png_header(10, 10))
    assert open_picture(path, max_pixels=100).size == (10, 10)
    with pytest.raises(SingError, match="make it smaller"):
        open_picture(path, max_pixels=99)


def test_files_that_are_no_pictures_are_refused(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(SingError, match=r"not a picture.*remove it or replace it"):
        open_picture(tmp_path / "text.png")
    with pytest.raises(SingError, match="not a picture"):
        open_picture(tmp_path / "missing.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "odd.png", format="PPM")
    with pytest.raises(SingError, match="PPM; expected one of"):
        open_picture(tmp_path / "odd.png")


def test_contents_are_opened_under_the_name_they_are_given():
    with pytest.raises(SingError, match=r"^row 3 is not a picture that can be read; remove"):
        open_picture(io.BytesIO(b"hello"), name="row 3")
    with pytest.raises(SingError, match=r"^row 4 has 8000 x 8000 pixels"):
        open_picture(io.BytesIO(png_header(8_000, 8_000)), name="row 4")


def state(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_only_missing_pictures_are_drawn_again(table, tmp_path):
    rows = table.head(4)
    store_pictures(rows, tmp_path, progress=False)
    before = state(tmp_path)
    assert set(before) == {f"{name}.jpg" for name in rows["picture"]}
    lost = picture_file(rows.iloc[2], tmp_path)
    content = lost.read_bytes()
    lost.unlink()
    store_pictures(rows, tmp_path, progress=False)
    after = state(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {lost.name}
    assert lost.read_bytes() == content


def test_stored_pictures_are_the_drawn_ones(table, tmp_path):
    row = table.iloc[0]
    store_pictures(table.head(1), tmp_path, progress=False)
    stored = np.asarray(Image.open(picture_file(row, tmp_path))).astype(int)
    assert np.abs(stored - pixels(row)).mean() < 4  # what JPEG at 92 loses


@pytest.mark.parametrize("source", WHOLE)
def test_photographs_stay_where_they_are(tmp_path, source):
    table = photos().head(1).assign(source=source)
    store_pictures(table, tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
    assert str(picture_file(table.iloc[0], tmp_path)) == table["path"][0]
    whole = np.asarray(Image.open(table["path"][0]).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(render_view(table.iloc[0])), whole)


def test_a_thumbnail_is_a_small_jpeg_in_an_address():
    start, code = thumbnail(photos()["path"][0], side=40).split(",")
    assert start == "data:image/jpeg;base64"
    small = Image.open(io.BytesIO(base64.b64decode(code)))
    assert small.format == "JPEG"
    assert max(small.size) == 40
