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
        .assign(cumulative_low=lambda t: t["cumulative"], cumulative_high=lambda t: t["cumulative"])
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
        "top5_translated": share / 2, "top5_own": share, "chance": 0.1,
    })
    chance, *others = layers(figures.targets(table))
    assert chance["encoding"]["y"]["field"] == "chance"
    for layer in others:
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
                          "after": [0.7, 0.9], "chance": 0.5, "before_low": 0.6,
                          "before_high": 1.0, "after_low": 0.5, "after_high": 1.0})
    several = pd.concat([table, table.assign(subset="birds")])

    def selections(chart):
        return [param["bind"] if "bind" in param else param["select"]["on"]
                for param in chart.to_dict()["params"]]

    assert selections(figures.robustness(table)) == ["legend"]
    assert selections(figures.robustness(several)) == ["legend", "pointerover"]


# --- what could fool us: noise floor and size of the null space ---------------------------------

ENDS = {"value": 1.0, "low": 0.5, "high": 2.0}


def removals(sizes=(8, 10)):
    """Curves of two heads, one of which has a wider feature and no null space."""
    return pd.DataFrame([
        {"model": title, "title": title, "by": by, "level": level, "removed": k,
         "share": k / size, "head_energy": 0.0 if size == 8 and k < 3 else 0.1,
         "feature_share": 0.2, "kind": kind, "quantity": quantity, **ENDS}
        for title, size in zip("AB", sizes) for by, level, k in (
            ("count", 2, 2), ("count", 4, 4), ("energy", 0.1, 5))
        for kind in ("weakest directions removed", "random control", "excess")
        for quantity in ("image_score", "attribute_score", "logit_change", "ratio")
    ])


def test_removal_is_measured_against_the_narrowest_feature_and_the_energy():
    found = rows(figures.removal_curves(removals()))
    places = {(row["title"], row["way"], row["x"]) for row in found if "kind" in row}
    number, energy = figures.BY["count"], figures.BY["energy"]
    assert places == {(title, way, x) for title in "AB"
                      for way, x in ((number, 25.0), (number, 50.0), (energy, 10.0))}
    edges = [row for row in found if "x" in row and "kind" not in row]
    assert [(row["title"], row["x"]) for row in edges] == [("A", 25.0)]
    assert all({"low", "high"} <= row.keys() for row in found if "kind" in row)


def test_a_head_without_null_space_has_a_curve_all_the_same():
    spec = figures.removal_curves(removals().assign(head_energy=0.1)).to_dict()
    assert {param["name"] for param in spec["params"]} >= {"quantity", "removed", "shown"}


@pytest.mark.parametrize(("seconds", "names"), [
    (["B"], ["quantity", "removed"]), (["B", "C"], ["quantity", "removed", "pair"])])
def test_pairs_of_classifiers_are_chosen_where_there_are_several(seconds, names):
    table = pd.concat([
        removals().query("title == 'A'").rename(columns={"title": "first"}).assign(
            second=second, p_holm=1.0) for second in seconds])
    spec = figures.removal_differences(table).to_dict()
    assert [param["name"] for param in spec["params"]] == names
    kinds = {row["kind"] for row in rows(figures.removal_differences(table)) if "kind" in row}
    assert {"weakest directions removed", "random control"} <= kinds


def test_sizes_of_the_paper_stand_from_small_to_large():
    table = pd.DataFrame([
        {"title": "A", "by": by, "null_dim": k, "features": m, "models": name, "removed": k,
         "place": 1, "kind": kind, "quantity": quantity, **ENDS}
        for k, m, name in ((1048, 2048, "R"), (24, 1024, "V")) for by in ("count", "share")
        for kind in ("weakest directions removed", "random control", "excess")
        for quantity in ("ratio", "image_score")
    ])
    for layer in layers(figures.paper_sizes(table)):
        assert layer["encoding"]["y"]["sort"] == ["24 of 1,024", "1,048 of 2,048"]
        assert layer["encoding"]["color"]["scale"]["range"] == [figures.VERMILION, figures.GREY]


def test_reliability_goes_from_pictures_to_classifiers():
    table = pd.DataFrame([
        {"title": title, "level": level, "over": "translators of other deals", "kind": kind,
         "quantity": "image_score", "objects": 3, "spread": 0.1, "between": 0.2,
         "value": 0.5, "low": 0.0, "high": 1.0}
        for title, level in (("all compared", "classifier"), ("A", "picture"), ("A", "class"))
        for kind in ("null space removed", "random control")
    ])
    chart = figures.reliability(table)
    for layer in layers(chart):
        order = [row.split(":")[0] for row in layer["encoding"]["y"]["sort"]]
        assert order == ["picture", "class", "classifier"]
        assert layer["encoding"]["color"]["scale"]["range"][1] == figures.GREY
    options = [param["bind"]["options"] for param in chart.to_dict()["params"]]
    assert ["A"] in options


@pytest.mark.parametrize("floors", [
    ["random control"], ["itself in its own space", "the space's own tower", "random control"]])
def test_the_control_is_grey_among_the_floors_and_alone(floors):
    table = pd.DataFrame([
        {"title": "A", "space": "S", "quantity": quantity, "floor": floor, "score": 3.0,
         "floor_score": 2.0, **ENDS}
        for floor in floors for quantity in figures.FLOORS
        if not (floor == "random control" and quantity.endswith("excess"))
    ])
    chart = figures.floor_differences(table)
    scale = layers(chart)[1]["encoding"]["color"]["scale"]
    assert dict(zip(scale["domain"], scale["range"]))["random control"] == figures.GREY
    assert len(set(scale["range"])) == len(floors)
    menu = chart.to_dict()["params"][0]["bind"]["options"]
    shown = {row["name"] for row in rows(chart) if "name" in row}
    assert set(menu) == shown


# --- what exceeds the control -------------------------------------------------------------------


def test_the_excess_of_every_classifier_stands_beside_zero():
    table = pd.DataFrame([
        {"title": title, "quantity": quantity, "value": 0.1, "low": -0.2, "high": 0.5}
        for title in ("A", "B (tower)")
        for quantity in ("image_score", "image_score_excess", "attribute_score_excess",
                         "attribute_size_excess")
    ])
    chart = figures.model_excess(table)
    kept = [row for row in rows(chart) if "value" in row]
    assert {row["name"] for row in kept} == {"IS − control", "AS − control", "|AS| − control"}
    assert len(kept) == 6
    assert all(row["low"] == -0.2 and row["high"] == 0.5 for row in kept)
    assert {"x": 0} in rows(chart)


def test_a_class_without_interval_has_no_line():
    table = pd.DataFrame({
        "label": ["a", "b"], "kind": "null space removed", "x": 1.0, "y": 2.0, "image": "",
        "x_low": [0.5, np.nan], "x_high": [1.5, np.nan], "y_low": [1.5, np.nan],
        "y_high": [2.5, np.nan]})
    found = [row for row in rows(figures.class_ranks(table, "A", "B")) if "x_low" in row]
    assert [row["x_low"] for row in found] == [0.5, None]


# --- planted truths -----------------------------------------------------------------------------


def test_a_planted_concept_stands_beside_the_untouched_head_and_its_control():
    table = pd.DataFrame([
        {"title": "A", "plant": plant, "concept": concept, "kind": kind, "hidden": 0.5,
         "hidden_control": 0.25, "low": 0.4, "high": 0.6, "threshold": 0.3}
        for kind, plants in (("planted", ["fur", "sand"]), ("untouched", [""]))
        for plant in plants for concept in ("fur", "sand", "sea")
    ])
    chart = figures.plant_ranks(table)
    kept = pd.DataFrame([row for row in rows(chart) if "kind" in row])
    assert kept.groupby("kind").size().to_dict() == {
        "blind to the planted concept": 6, "untouched head": 3, "untouched head, random control": 3}
    control = kept[kept["kind"].str.endswith("control")]
    assert control[["hidden", "low", "high"]].to_numpy().tolist() == [[0.25] * 3] * 3
    assert {"x": 0.3} in rows(chart)
    assert chart.to_dict()["params"][0]["bind"]["options"] == ["fur", "sand"]


def test_every_curve_says_its_area_and_only_plants_are_lines():
    curves = pd.DataFrame([
        {"score": score, "name": name, "kind": kind, "false": false, "value": false, "low": 0.0,
         "high": 1.0}
        for score, name in (("hidden", "hidden share"), ("joint", "unique information"))
        for kind in ("planted", "sham") for false in (0.0, 1.0)
    ])
    scores = pd.DataFrame({"score": ["hidden", "joint", "joint"], "quantity": "auc",
                           "kind": ["planted", "planted", "sham"], "value": [0.98, 0.83, 0.5]})
    chart = figures.plant_roc(curves, scores)
    names = chart.to_dict()["params"][0]["bind"]["options"]
    assert names == ["hidden share: AUC 0.98", "unique information: AUC 0.83"]
    assert {row["name"] for row in rows(chart) if "name" in row} == set(names)


@pytest.mark.parametrize(("high", "top"), [(0.0, 0.06), (0.4, 0.42)])
def test_five_percent_is_on_the_axis_of_false_alarms(high, top):
    table = pd.DataFrame({"name": "hidden share", "kind": ["untouched", "sham"], "threshold": 0.3,
                          "value": 0.0, "low": 0.0, "high": high, "asked": 9})
    chart = figures.false_alarms(table, {"untouched": "heads as they are", "sham": "shams"})
    found = [layer["encoding"]["x"]["scale"]["domain"] for layer in layers(chart)
             if "scale" in layer["encoding"]["x"]]
    assert found == [[0, pytest.approx(top)]]


def test_verdicts_on_concepts_have_three_colours_and_a_grey_control():
    table = pd.DataFrame({
        "title": "A", "concept": list("abc"), "full": 0.5, "hidden": 0.1, "hidden_low": 0.0,
        "hidden_high": 0.2, "hidden_control": 0.1, "threshold": 0.3,
        "verdict": ["keeps it", "cannot be told", "ignores it"]})
    limit, control, rules, dots = layers(figures.concept_verdicts(table))
    assert control["mark"]["color"] == limit["mark"]["color"] == figures.GREY
    scale = dots["encoding"]["color"]["scale"]
    assert dict(zip(scale["domain"], scale["range"], strict=True)) == {
        "ignores it": figures.VERMILION, "keeps it": figures.BLUE,
        "cannot be told": figures.ORANGE}
    assert rules["encoding"]["color"]["scale"] == scale


def test_plants_and_their_control_are_asked_on_one_axis():
    table = pd.DataFrame([
        {"axis": axis, "quantity": quantity, "score": "hidden", "name": "hidden share",
         "method": method, "size": size, "subjects": 9, "pictures": 9, "value": 0.9, "low": 0.8,
         "high": 1.0, "control": 0.5}
        for axis, method in (("subjects", "mean"), ("directions", "mean"),
                             ("directions", "discriminant"))
        for quantity in figures.POWER for size in (1, 2)
    ])
    chart = figures.plant_power(table)
    menus = [param["bind"]["options"] for param in chart.to_dict()["params"]]
    assert menus == [["subjects asked about", "directions planted"], [*figures.POWER.values()]]
    lines = {row["line"] for row in rows(chart) if "line" in row}
    assert lines == {"hidden share", "hidden share, planted by discriminants"}
    assert layers(chart)[0]["mark"]["color"] == figures.GREY


def test_there_is_a_menu_only_where_there_is_a_choice():
    def ratios(effects):
        table = pd.DataFrame([
            {"title": title, "kind": kind, "factor": "colour", "effect": effect, "value": 1.0,
             "low": 0.9, "high": 1.1}
            for title in ("A", "B") for effect in effects
            for kind in ("null space", "random control")
        ])
        return {p["name"]: "bind" in p for p in figures.invariances(table).to_dict()["params"]}

    assert ratios(["of each subject", "same for all"]) == {"classifier": True, "effect": True}
    assert ratios(["of each subject"]) == {"classifier": True, "effect": False}
