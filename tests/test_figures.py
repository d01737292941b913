from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sing_nb import figures


def rows(chart):
    """All rows of a chart's data."""
    return [row for table in chart.to_dict()["datasets"].values() for row in table]


def layers(chart):
    spec = chart.to_dict()
    return spec.get("layer", [spec])


# --- colours ------------------------------------------------------------------------------------


def colours(titles):
    table = pd.DataFrame({
        "title": np.repeat(titles, 2), "lambda": [1.0, 10.0] * len(titles), "r2": 0.5,
    })
    found = [layer["encoding"]["color"]["scale"] for layer in layers(
        figures.lambda_path(table, 1.0)) if "scale" in layer["encoding"].get("color", {})]
    assert found
    assert all(scale == found[0] for scale in found)
    return dict(zip(found[0]["domain"], found[0]["range"], strict=True))


def test_a_tower_is_grey_wherever_it_stands():
    assert colours(["A", "B (tower)", "C"]) == {
        "A": figures.BLUE, "B (tower)": figures.GREY, "C": figures.GREEN,
    }


def test_without_a_tower_no_classifier_has_the_colour_of_a_control():
    found = colours(list("ABCDE"))
    assert len(set(found.values())) == 5
    assert not {figures.GREY, figures.VERMILION} & set(found.values())


# --- heads of several sizes ---------------------------------------------------------------------

HEADS = pd.DataFrame({
    "title": ["A", "B", "C"], "rank": [6, 6, 6], "features": [8, 20, 8], "null_dim": [2, 14, 2],
})


def spectrum(heads):
    table = pd.concat([
        pd.DataFrame({"title": title, "index": range(1, 7), "value": np.linspace(2, 1, 6)})
        for title in heads["title"]
    ])
    return figures.spectrum(table, heads)


@pytest.mark.parametrize(
    ("heads", "edges", "said"),
    [(HEADS, [8, 20], "null space: 2 to 14"), (HEADS.iloc[[0, 2]], [8], "null space: 2")],
)
def test_every_size_of_head_has_its_band(heads, edges, said):
    found = rows(spectrum(heads))
    assert sorted(row["features"] for row in found if "null_dim" in row) == edges
    assert [row["t"] for row in found if "t" in row] == [said]


def test_evenly_spread_features_reach_100_percent_at_their_own_last_direction():
    table = pd.concat([
        pd.DataFrame({"title": title, "direction": range(1, size + 1),
                      "cumulative": np.arange(1, size + 1) / size, "share": 1 / size})
        for title, size in zip(HEADS["title"], HEADS["features"])
    ])
    found = rows(figures.energy(table, HEADS))
    ends = [(row["x"], row["y"]) for row in found if "size" in row and row["y"] == 1]
    assert sorted(ends) == [(8, 1), (20, 1)]
    # A curve is thinned, but its corner at the rank and its end stay.
    kept = [row["direction"] for row in found if row.get("title") == "B"]
    assert {1, 6, 20} <= set(kept)
    assert len(kept) < 20


# --- pictures and spaces that are not the offline profile's -------------------------------------

PICTURES = pd.DataFrame({"label": list("aabb"), "view": [0, 1, 0, 1], "image": "data:,"})
FACTORS = ["background", "hue", "lightness", "scale", "x", "y", "flip"]


def test_photographs_have_no_menu_of_backgrounds():
    plain = figures.views(PICTURES.assign(background="", hue=np.nan)).to_dict()
    assert "params" not in plain
    assert [tip["field"] for tip in plain["encoding"]["tooltip"]] == ["label"]
    generated = PICTURES.assign(**dict.fromkeys(FACTORS, 0)).assign(background="plain")
    spec = figures.views(generated).to_dict()
    assert [one["name"] for one in spec["params"]] == ["kind"]
    assert [tip["field"] for tip in spec["encoding"]["tooltip"]] == ["label", *FACTORS]


def spaces(names, circular):
    return pd.DataFrame([
        {"space": space, "title": title, "circular": circular and space == title,
         "quantity": "ratio", "kind": kind, "value": 1.0, "low": 0.5, "high": 2.0}
        for space in names for title in ("A", "B", "C")
        for kind in ("null space removed", "random control")
    ])


@pytest.mark.parametrize(
    ("table", "title", "height"),
    [(spaces(["CLIP", "EVA02"], False), "joint space", 28 * 6),
     (spaces(["A", "B", "C"], True), "joint space built from", 28 * 9)],
)
def test_classifiers_are_told_apart_in_spaces_that_none_of_them_built(table, title, height):
    chart = figures.space_ratio(table)
    for layer in layers(chart):
        assert layer["encoding"]["color"]["scale"]["domain"] == ["A", "B", "C"]
        assert layer["encoding"]["y"]["title"] == title
    assert chart.to_dict()["height"] == height
    marks = {row["own"] for row in rows(chart)}
    assert ("in another's" in marks, len(marks)) == (True, 2 if title.endswith("from") else 1)


@pytest.mark.parametrize(("share", "top"), [(0.5, 0.8), (0.98, 1.1)])
def test_names_that_are_easily_found_stay_on_the_chart(share, top):
    table = pd.DataFrame({
        "space": ["CLIP", "EVA02"], "used": [True, False], "r2": 0.5, "low": 0.4, "high": 0.6,
        "top5_translated": share / 2, "top5_own": share,
    })
    for layer in layers(figures.targets(table)):
        assert layer["encoding"]["y"]["scale"]["domain"] == [0, top]


def test_a_text_far_from_the_photo_stays_on_the_map():
    spec = figures.score_geometry(97).to_dict()
    ends = {tuple(layer["encoding"]["x"]["scale"]["domain"]) for layer in spec["layer"]}
    assert ends == {(-105.0, 105.0)}


# --- colour-blind readers and small data --------------------------------------------------------

#: Machado, Oliveira and Fernandes 2009, severity 1, in linear RGB.
BLIND = {
    "none": np.eye(3),
    "red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998]],
    "green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
              [-0.011820, 0.042940, 0.968881]],
    "blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
             [0.004733, 0.691367, 0.303900]],
}
XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]


def seen(colour, matrix):
    """CIE Lab of a colour as somebody sees it."""
    srgb = np.array([int(colour[at:at + 2], 16) for at in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(matrix @ linear, 0, 1) / np.array([0.9505, 1, 1.089])
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", BLIND)
def test_colours_of_one_chart_are_told_apart_without_a_cone(kind):
    """A distance of 2.3 is just noticed; no two colours are closer than 8.5."""
    colours = [figures.VERMILION, figures.GREY, *figures.MODELS]
    labs = [seen(colour, np.array(BLIND[kind])) for colour in colours]
    apart = [np.linalg.norm(one - other) for i, one in enumerate(labs) for other in labs[:i]]
    assert min(apart) > 8.5


def test_a_single_subset_cannot_be_pointed_out_among_others():
    table = pd.DataFrame({"title": ["A", "B"], "subset": "music", "before": [0.8, 0.9],
                          "after": [0.7, 0.9], "chance": 0.5})
    several = pd.concat([table, table.assign(subset="birds")])

    def selections(chart):
        return [param["bind"] if "bind" in param else param["select"]["on"]
                for param in chart.to_dict()["params"]]

    assert selections(figures.robustness(table)) == ["legend"]
    assert selections(figures.robustness(several)) == ["legend", "pointerover"]
