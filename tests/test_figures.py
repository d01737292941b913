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
