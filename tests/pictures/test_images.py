"""Views with known factors: their tables, what is drawn, and what is stored."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sing_nb.errors import SingError
from sing_nb.models.prompts import imagenet_names
from sing_nb.pictures.images import (
    SIDE,
    clipart,
    photos,
    picture_file,
    render_view,
    stamps,
    store_pictures,
)

BLUE, RED = (0, 0, 255), (255, 0, 0)
# Of the table below.
FIRST_NAMES = ["guitar_classical-0-f46ba7bba2", "guitar_classical-1-fa64db616e"]
FIRST_MEANS = [119.875, 136.584]


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


def test_factors_are_balanced_and_subjects_stay_inside_the_central_square(table):
    for axis in ("x", "y"):
        assert (table[axis] - table["scale"] / 2 >= 0.0599).all()
        assert (table[axis] + table["scale"] / 2 <= 0.9401).all()
    assert table["hue"].between(0, 360).all()
    assert table[["saturation", "lightness", "scale"]].to_numpy().min() > 0
    assert table[["saturation", "lightness", "scale"]].to_numpy().max() < 1
    for _, views in table.groupby("path"):
        assert len(views) == 6
        assert not views.duplicated(["background", "flip"]).any()  # a full factorial


def test_drawn_subjects_have_the_size_and_place_of_their_row(table, two_coloured):
    for row in table.to_dict("records"):
        plain = {"background": "plain", "saturation": 0.0, "flip": False}
        top, bottom, left, right = where_subject(pixels({**row, **plain, "path": two_coloured}))
        assert right - left + 1 == pytest.approx(row["scale"] * SIDE, abs=3)
        assert (bottom - top + 1) / (right - left + 1) == pytest.approx(80 / 120, abs=0.02)
        assert (left + right + 1) / 2 == pytest.approx(row["x"] * SIDE, abs=2)
        assert (top + bottom + 1) / 2 == pytest.approx(row["y"] * SIDE, abs=2)


def test_the_table_follows_from_the_seed_and_equal_names_mean_equal_pixels(table):
    assert stamps(views=6, seed=0, limit=2).equals(table)
    other = stamps(views=6, seed=1, limit=2)
    assert not set(other["picture"]) & set(table["picture"])
    assert (other["hue"] != table["hue"]).all()
    assert table["picture"].is_unique
    fewer = stamps(views=2, seed=0, limit=1)
    shared = table.set_index("picture").loc[fewer["picture"]]  # all of them are there again
    for one, two in zip(fewer.to_dict("records"), shared.to_dict("records")):
        np.testing.assert_array_equal(pixels(one), pixels(two))


def test_pictures_are_those_of_the_first_edition(table):
    # Results, and what is stored on disk, go by these names: another one has all computed anew.
    assert table["picture"].tolist()[:2] == FIRST_NAMES
    means = [pixels(row).mean() for row in table.head(2).to_dict("records")]
    np.testing.assert_allclose(means, FIRST_MEANS, atol=0.01)


def test_backgrounds_differ_in_kind_and_have_the_colour_of_their_row(two_coloured):
    edge = {}
    for kind in ("plain", "gradient", "noise"):
        image = pixels(view(two_coloured, background=kind, saturation=0.4))
        edge[kind] = (np.ptp(image[0], axis=0).max(), np.ptp(image[:, 0], axis=0).max())
    assert edge["plain"] == (0, 0)
    assert edge["gradient"][0] == 0
    assert edge["gradient"][1] > 30
    assert min(edge["noise"]) > 30
    # Hue 120 is green; lightness 0.5 and saturation 1 make it pure, saturation 0 makes it grey.
    assert pixels(view(two_coloured, saturation=1.0))[0, 0].tolist() == [0, 255, 0]
    grey = pixels(view(two_coloured, saturation=0.0, lightness=0.2))[0, 0]
    np.testing.assert_allclose(grey, 51, atol=1)


def test_a_fully_transparent_subject_is_refused(tmp_path):
    Image.new("RGBA", (10, 10)).save(tmp_path / "nothing.png")
    with pytest.raises(SingError, match="fully transparent"):
        render_view(view(str(tmp_path / "nothing.png")))


def test_labels_and_classes_of_all_sources_are_true():
    names = imagenet_names()
    found = stamps(views=1, limit=3)
    assert found["subject"].nunique() == 3
    assert found["class_index"].between(0, 999).all()  # those with a class come first
    assert {names[i] for i in found["class_index"]} >= set(found["label"]) & set(names)
    drawings = clipart(views=2, limit=3)
    assert len(drawings) == 6
    assert (drawings["label"] == "").all()
    assert (drawings["class_index"] == -1).all()
    assert drawings.groupby("subject")["path"].nunique().tolist() == [1, 1, 1]
    labelled = photos()
    assert len(labelled) == 20
    for row in labelled.to_dict("records"):
        assert row["path"].endswith(f"_{row['class_index']}.jpg")
        assert row["label"] == names[row["class_index"]]
    with pytest.raises(SingError, match="views must be at least 1"):
        stamps(views=0)


def test_only_missing_pictures_are_drawn_and_stored_as_they_are(table, tmp_path):
    rows = table.head(4)
    store_pictures(rows, tmp_path, progress=False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert {path.name for path in before} == {f"{name}.jpg" for name in rows["picture"]}
    for row in rows.to_dict("records"):
        stored = np.asarray(Image.open(picture_file(row, tmp_path))).astype(int)
        assert np.abs(stored - pixels(row)).mean() < 4  # what JPEG at 92 loses
    lost = picture_file(rows.iloc[2], tmp_path)
    content = lost.read_bytes()
    lost.unlink()
    store_pictures(rows, tmp_path, progress=False)
    changed = [path for path in tmp_path.iterdir() if path.stat().st_mtime_ns != before[path]]
    assert changed == [lost]
    assert lost.read_bytes() == content
