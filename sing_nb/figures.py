"""One function a figure: a tidy table in, an Altair chart out.

Colours mean the same thing everywhere: vermilion is the null space, grey is a control, and each
classifier keeps its own. The palette is Okabe and Ito's, which colour-blind readers can tell
apart. Text and axis colours are left to the page, which knows whether it is dark.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd
import scipy

from .stats import ellipse

__all__ = [
    "class_losses",
    "class_ranks",
    "class_violins",
    "concept_answers",
    "concept_classes",
    "concept_explorer",
    "concept_verdicts",
    "cosine_distributions",
    "energy",
    "exponents",
    "false_alarms",
    "floor_differences",
    "growth_curves",
    "held_out_error",
    "information",
    "interval_widths",
    "invariances",
    "ladder",
    "lambda_path",
    "linked_models",
    "logit_change",
    "method",
    "model_excess",
    "model_ratio",
    "model_scatter",
    "nuisance_shares",
    "null_plane",
    "null_sizes",
    "null_space_explorer",
    "null_space_trail",
    "paper_sizes",
    "perturbation_effects",
    "perturbations",
    "photo_neighbours",
    "photo_words",
    "plant_power",
    "plant_ranks",
    "plant_roc",
    "pushed_photos",
    "races",
    "reliability",
    "removal_curves",
    "removal_differences",
    "robustness",
    "score_geometry",
    "slide",
    "space_ratio",
    "spectrum",
    "steering_path",
    "steering_scores",
    "string_graph",
    "targets",
    "top_classes",
    "trail_params",
    "training_curves",
    "translator_differences",
    "translator_photos",
    "truncated_classes",
    "truncated_heads",
    "unique_groups",
    "unique_information",
    "version_scores",
    "views",
    "word_changes",
]

BLUE, VERMILION, GREEN, ORANGE, PINK, SKY, GREY = (
    "#2b7bba", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#8a8a8a",
)
MODELS = [BLUE, GREEN, PINK, ORANGE, SKY]
KINDS = alt.Scale(domain=["null space removed", "random control"], range=[VERMILION, GREY])
WIDE = {"width": "container"}
EXCESS = [f"{score}_excess{end}" for score in ("as", "is") for end in ("", "_low", "_high")]


def _model_colour(table: pd.DataFrame, title: str = "Classifier") -> alt.Color:
    """One colour a classifier, in the order of the table; a tower is grey, as controls are."""
    names = list(dict.fromkeys(table["title"]))
    compared = [name for name in names if not name.endswith("(tower)")]
    colour = dict(zip(compared, itertools.cycle(MODELS)))
    return alt.Color(
        "title:N", title=title,
        legend=alt.Legend(orient="top", columns=3, symbolOpacity=1, symbolStrokeWidth=2),
        scale=alt.Scale(domain=names, range=[colour.get(name, GREY) for name in names]),
    )


def _dropdown(name: str, options: Sequence[str], label: str) -> alt.Parameter:
    return alt.param(
        name=name, value=options[0], bind=alt.binding_select(options=list(options), name=label)
    )


def _choice(name: str, options: Sequence[str], label: str) -> alt.Parameter:
    """A menu, or the only option where there is nothing to choose."""
    if len(options) == 1:
        return alt.param(name=name, value=options[0])
    return _dropdown(name, options, label)


def null_plane(table: pd.DataFrame, first: str, second: str) -> alt.LayerChart:
    """Photos in a plane of which the head sees only the horizontal axis.

    Parameters
    ----------
    table : pandas.DataFrame
        ``Study.plane`` with thumbnails.
    first, second : str
        The two classes of the horizontal axis.
    """
    keep = alt.param(
        name="keep", value=1,
        bind=alt.binding_range(min=-1, max=3, step=0.1, name="null part kept (1 = the photo) "),
    )
    reach = 3.2 * float(np.abs(table["null_coordinate"]).max())
    base = (
        alt.Chart(table)
        .transform_calculate(moved="datum.null_coordinate * keep")
        .encode(
            x=alt.X(
                "logit_difference:Q",
                title=f"What the head sees: logit of “{first}” − logit of “{second}”",
                scale=alt.Scale(padding=34, nice=False),
            ),
            y=alt.Y(
                "moved:Q", scale=alt.Scale(domain=[-reach, reach]),
                title="What it ignores: null coordinate (share of length)",
            ),
            tooltip=[
                alt.Tooltip("label:N", title="photo"),
                alt.Tooltip("logit_difference:Q", title="logit difference", format=".2f"),
                alt.Tooltip("moved:Q", title="null coordinate", format=".3f"),
            ],
        )
    )
    tracks = base.mark_rule(color=VERMILION, opacity=0.35, strokeDash=[3, 3]).encode(
        y=alt.datum(-reach), y2=alt.datum(reach), tooltip=alt.Undefined
    )
    pictures = base.mark_image(width=54, height=54).encode(url="image:N")
    zero = alt.Chart(pd.DataFrame({"y": [0]})).mark_rule(color=GREY).encode(y="y:Q")
    return alt.layer(tracks, zero, pictures).add_params(keep).properties(height=380, **WIDE)


def views(table: pd.DataFrame) -> alt.Chart:
    """Pictures of a few classes, one row a class; a view shows its known factors as well.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of ``Study.pictures`` with thumbnails; ``view`` is the place in the row. Where a
        background is known, a menu picks a kind.
    """
    labels = list(dict.fromkeys(table["label"]))
    views = "background" in table and bool(table["background"].fillna("").ne("").any())
    factors = [
        alt.Tooltip("background:N"), alt.Tooltip("hue:Q", title="hue (degrees)", format=".0f"),
        alt.Tooltip("lightness:Q", title="lightness (0 to 1)", format=".2f"),
        alt.Tooltip("scale:Q", title="scale (share of side)", format=".2f"),
        alt.Tooltip("x:Q", format=".2f"), alt.Tooltip("y:Q", format=".2f"),
        alt.Tooltip("flip:N", title="mirrored"),
    ]
    base = alt.Chart(table).encode(
        x=alt.X("view:O", title="view" if views else "picture",
                axis=alt.Axis(labelAngle=0, ticks=False, domain=False)),
        y=alt.Y("label:N", sort=labels, title=None, axis=alt.Axis(ticks=False, domain=False)),
        tooltip=[alt.Tooltip("label:N"), *(factors if views else [])],
    )
    size = {"height": 92 * len(labels), **WIDE}
    side = alt.expr(f"min(84, width / {table['view'].nunique()} - 4)")  # a phone has less room
    pictures = base.mark_image(width=side, height=side).encode(url="image:N")
    if not views:
        return pictures.properties(**size)
    kind = _dropdown("kind", ["all", "plain", "gradient", "noise"], "background ")
    return (
        pictures.encode(
            opacity=alt.condition(
                "kind == 'all' || datum.background == kind", alt.value(1), alt.value(0.15)
            ),
        )
        .add_params(kind)
        .properties(**size)
    )


def _null_bands(heads: pd.DataFrame) -> alt.Chart:
    """A band from rank to last direction for each size of head; those of several sizes overlap."""
    sizes = heads[["rank", "features", "null_dim"]].drop_duplicates()
    return alt.Chart(sizes).mark_rect(
        color=VERMILION, opacity=0.2 if len(sizes) == 1 else 0.13).encode(
        x="rank:Q", x2="features:Q",
        tooltip=[alt.Tooltip("null_dim:Q", title="null directions"),
                 alt.Tooltip("features:Q", title="of")])


def spectrum(table: pd.DataFrame, heads: pd.DataFrame) -> alt.LayerChart:
    """Singular values of the heads on a log axis, with the null space marked.

    Parameters
    ----------
    table : pandas.DataFrame
        ``Study.spectrum``.
    heads : pandas.DataFrame
        ``Study.accuracy``: sizes of the heads, for the bands that mark null spaces.
    """
    rank, features = int(heads["rank"].min()), int(heads["features"].max())
    null = " to ".join(dict.fromkeys(map(str, (heads["null_dim"].min(), heads["null_dim"].max()))))
    hover = alt.selection_point(fields=["title"], bind="legend")
    line = (
        alt.Chart(table)
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("index:Q", title="singular direction, strongest first",
                    scale=alt.Scale(domain=[0, features], nice=False)),
            y=alt.Y("value:Q", title="singular value (logit per unit of feature)",
                    scale=alt.Scale(type="log"), axis=alt.Axis(tickCount=4)),
            color=_model_colour(table),
            opacity=alt.condition(hover, alt.value(1), alt.value(0.15)),
            tooltip=[alt.Tooltip("title:N", title="classifier"), alt.Tooltip("index:Q"),
                     alt.Tooltip("value:Q", format=".4f")],
        )
        .add_params(hover)
    )
    label = alt.Chart(
        pd.DataFrame({"x": [(rank + features) / 2], "t": [f"null space: {null}"]})
    ).mark_text(color=VERMILION, angle=270, fontSize=13, fontWeight="bold").encode(
        x="x:Q", text="t:N")
    return alt.layer(_null_bands(heads), line, label).properties(height=320, **WIDE)


def energy(table: pd.DataFrame, heads: pd.DataFrame) -> alt.LayerChart:
    """Cumulative share of real features' energy along the singular directions of each head.

    Parameters
    ----------
    table : pandas.DataFrame
        ``Study.energy``.
    heads : pandas.DataFrame
        ``Study.accuracy``: sizes of the heads.
    """
    total = int(table["direction"].max())
    edges = {1, *heads["rank"], *heads["features"]}
    hover = alt.selection_point(fields=["title"], bind="legend")
    thin = table[(table["direction"] % 4 == 0) | table["direction"].isin(edges)].round(4)
    thin = thin[["title", "direction", *(f"cumulative{end}" for end in ("", "_low", "_high"))]]
    band = alt.Chart(thin).mark_area().encode(
        x="direction:Q", y="cumulative_low:Q", y2="cumulative_high:Q", color=_model_colour(table),
        opacity=alt.condition(hover, alt.value(0.2), alt.value(0.03)))
    line = (
        alt.Chart(thin)
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("direction:Q", title="singular direction, strongest first",
                    scale=alt.Scale(domain=[0, total], nice=False)),
            y=alt.Y("cumulative:Q", title="share of the feature's squared length",
                    axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
            color=_model_colour(table),
            opacity=alt.condition(hover, alt.value(1), alt.value(0.15)),
            tooltip=[alt.Tooltip("title:N", title="classifier"), alt.Tooltip("direction:Q"),
                     alt.Tooltip("cumulative:Q", title="share up to here", format=".1%"),
                     alt.Tooltip("cumulative_low:Q", title="95 % from", format=".1%"),
                     alt.Tooltip("cumulative_high:Q", title="to", format=".1%")],
        )
        .add_params(hover)
    )
    even = alt.Chart(pd.DataFrame(
        [{"x": share * size, "y": share, "size": size}
         for size in heads["features"].unique() for share in (0, 1)])).mark_line(
        color=GREY, strokeDash=[4, 4]).encode(
        x="x:Q", y="y:Q", detail="size:N",
        tooltip=[alt.Tooltip("y:Q", title="control: evenly spread", format=".1%")])
    note = alt.Chart(pd.DataFrame({"x": [0.52 * total], "y": [0.46], "t": ["evenly spread"]})
                     ).mark_text(color=GREY, align="left").encode(x="x:Q", y="y:Q", text="t:N")
    return alt.layer(_null_bands(heads), even, note, band, line).properties(height=320, **WIDE)


def logit_change(table: pd.DataFrame) -> alt.LayerChart:
    """Largest logit change of each picture under null removal and under the control, log axis.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of ``Study.images`` of several classifiers with ``title``.
    """
    parts = [
        table[["title", column]].set_axis(["title", "change"], axis=1).assign(kind=kind)
        for column, kind in (("logit_change", "null space removed"),
                             ("logit_change_control", "random control"))
    ]
    long = pd.concat(parts)
    # One bar a tenth of a decade, counted here: the page carries bars, not thousands of rows.
    long["bin"] = (np.log10(long["change"].clip(lower=1e-9)) * 10).round() / 10
    counts = long.groupby(["title", "kind", "bin"]).size().rename("pictures").reset_index()
    counts["low"], counts["high"] = 10 ** (counts["bin"] - 0.05), 10 ** (counts["bin"] + 0.05)
    ends = [min(1e-7, float(counts["low"].min())), max(30.0, float(counts["high"].max()))]
    titles = list(dict.fromkeys(table["title"]))
    pick = _dropdown("classifier", titles, "classifier ")
    return (
        alt.Chart(counts)
        .mark_rect(opacity=0.85)
        .transform_calculate(zero="0")
        .encode(
            x=alt.X("low:Q", title="largest change of any logit (log scale)",
                    scale=alt.Scale(type="log", domain=ends, nice=False),
                    axis=alt.Axis(format="~e", values=[1e-9, 1e-7, 1e-5, 1e-3, 1e-1, 10, 1000])),
            x2="high:Q",
            y=alt.Y("pictures:Q", title="pictures", scale=alt.Scale(zero=True)),
            y2="zero:Q",
            color=alt.Color("kind:N", title=None, scale=KINDS, legend=alt.Legend(orient="top")),
            tooltip=["kind:N", "pictures:Q",
                     alt.Tooltip("low:Q", title="from", format=".1e"),
                     alt.Tooltip("high:Q", title="to", format=".1e")],
        )
        .transform_filter("datum.title == classifier")
        .add_params(pick)
        .properties(height=260, **WIDE)
    )


def lambda_path(table: pd.DataFrame, chosen: float) -> alt.LayerChart:
    """Held-out R2 against lambda: mean over folds, smallest and largest fold as a band."""
    summary = table.groupby(["title", "lambda"], sort=False)["r2"].agg(
        ["mean", "min", "max"]).reset_index()
    hover = alt.selection_point(fields=["title"], bind="legend")
    base = alt.Chart(summary).encode(
        x=alt.X("lambda:Q", scale=alt.Scale(type="log"), title="ridge λ (log scale)",
                axis=alt.Axis(format="~s")),
        color=_model_colour(summary),
        opacity=alt.condition(hover, alt.value(1), alt.value(0.15)),
    )
    band = base.mark_area(interpolate="monotone").encode(
        y=alt.Y("min:Q", title="held-out R² (subjects never seen)"), y2="max:Q",
        opacity=alt.condition(hover, alt.value(0.16), alt.value(0.03)))
    line = base.mark_line(point=True, interpolate="monotone").encode(
        y="mean:Q",
        tooltip=[alt.Tooltip("title:N", title="classifier"),
                 alt.Tooltip("lambda:Q", title="λ", format="~s"),
                 alt.Tooltip("mean:Q", title="mean R²", format=".3f"),
                 alt.Tooltip("min:Q", title="smallest fold", format=".3f"),
                 alt.Tooltip("max:Q", title="largest fold", format=".3f")])
    rule = alt.Chart(pd.DataFrame({"x": [chosen]})).mark_rule(
        color=GREY, strokeDash=[4, 4]).encode(x="x:Q")
    return alt.layer(band, rule, line.add_params(hover)).properties(height=320, **WIDE)


def held_out_error(table: pd.DataFrame, what: str = "subjects") -> alt.LayerChart:
    """Held-out angle of the translator, one tick a label, by classifier.

    Parameters
    ----------
    table : pandas.DataFrame
        title, label, angle (degrees, mean over the label's pictures), image.
    what : str
        What a label names.
    """
    titles = list(dict.fromkeys(table["title"]))
    pick = _dropdown("classifier", titles, "classifier ")
    base = alt.Chart(table).transform_filter("datum.title == classifier")
    bars = base.mark_bar(color=BLUE, opacity=0.8).encode(
        x=alt.X("angle:Q", bin=alt.Bin(step=2.5), axis=alt.Axis(values=list(range(0, 181, 10))),
                title="angle between translated and true embedding (degrees)"),
        y=alt.Y("count():Q", title=f"held-out {what}"),
        tooltip=[alt.Tooltip("count():Q", title=what)])
    ticks = base.mark_tick(thickness=2, color=VERMILION, opacity=0.8, size=14).encode(
        x="angle:Q", y=alt.value(10),
        tooltip=[alt.Tooltip("image:N", title="image"), alt.Tooltip("label:N"),
                 alt.Tooltip("angle:Q", title="degrees", format=".1f")])
    return alt.layer(bars, ticks).add_params(pick).properties(height=280, **WIDE)


def targets(table: pd.DataFrame) -> alt.LayerChart:
    """Is a joint space easy to reach, and does it still speak? One dot a space.

    Parameters
    ----------
    table : pandas.DataFrame
        ``Study.targets``.
    """
    # Neighbours have their names on different sides of their dots.
    table = table.assign(below=table["r2"].rank(method="first") % 2 == 0)
    long = pd.concat([
        table.assign(share=table["top5_own"], what="the picture itself"),
        table.assign(share=table["top5_translated"], what="translated features"),
    ])
    hover = alt.selection_point(fields=["space"], on="pointerover", empty=True, nearest=True)
    # Few classes are easily named: then the axis goes on to 100 %. Few spaces have room for a name.
    top = 0.8 if long["share"].max() < 0.75 else 1.1
    few = table["space"].nunique() < 4
    base = alt.Chart(long).encode(
        x=alt.X("r2:Q", title="held-out R² of the translator",
                scale=alt.Scale(zero=False, padding=60) if few else alt.Scale(zero=False)),
        y=alt.Y("share:Q", title="true name among the nearest five",
                axis=alt.Axis(format="%", values=[share / 10 for share in range(11)]),
                scale=alt.Scale(domain=[0, top])),
        color=alt.Color("what:N", title=None, legend=alt.Legend(orient="top", symbolOpacity=1),
                        scale=alt.Scale(domain=["the picture itself", "translated features"],
                                        range=[GREY, BLUE])),
    )
    rules = base.mark_rule(opacity=0.4).encode(x="low:Q", x2="high:Q")
    dots = base.mark_point(filled=True).encode(
        shape=alt.Shape("used:N", title="this book",
                        scale=alt.Scale(domain=[False, True], range=["circle", "diamond"]),
                        legend=None),
        size=alt.condition("datum.used", alt.value(230), alt.value(80)),
        opacity=alt.condition(hover, alt.value(1), alt.value(0.35)),
        tooltip=[alt.Tooltip("space:N"), alt.Tooltip("what:N", title="read from"),
                 alt.Tooltip("r2:Q", title="R²", format=".3f"),
                 alt.Tooltip("share:Q", title="top five", format=".1%")])
    # On a phone two names side by side would meet: the space of this book has its name above.
    styles = {
        "datum.used": {"dy": -16}, "!datum.used": {"dy": 18},
    } if few else {
        "!datum.below": {"angle": 300, "align": "left", "dx": 9, "dy": -5},
        "datum.below": {"angle": 60, "align": "left", "dx": 9, "dy": 5},
    }
    names = [
        base.transform_filter(f"datum.what == 'the picture itself' && {which}").mark_text(
            fontSize=11, **style).encode(text="space:N", color=alt.value(GREY))
        for which, style in styles.items()
    ]
    chance = alt.Chart(table[["chance"]].drop_duplicates()).mark_rule(
        color=GREY, strokeDash=[4, 4]).encode(
        y="chance:Q", tooltip=[alt.Tooltip("chance:Q", title="by chance", format=".1%")])
    return alt.layer(chance, rules, *names, dots.add_params(hover)).properties(height=420, **WIDE)


def score_geometry(label_angle: float) -> alt.LayerChart:
    """AS and IS on a map of the sphere around T(f); two sliders move the equivalent.

    The map keeps distance and direction from the centre: rings are Image Scores. The Attribute
    Score follows from the spherical law of cosines.

    Parameters
    ----------
    label_angle : float
        Angle between T(f) and the text, degrees.
    """
    score = alt.param(name="turn", value=25, bind=alt.binding_range(
        min=0, max=80, step=1, name="Image Score: how far (degrees) "))
    course = alt.param(name="course", value=60, bind=alt.binding_range(
        min=0, max=180, step=5, name="course: 0 = towards the text, 180 = away (degrees) "))
    side = max(90.0, label_angle + 8)
    rings = pd.DataFrame(
        [{"ring": r, "x": r * np.cos(t), "y": r * np.sin(t), "order": i}
         for r in (20, 40, 60, 80) for i, t in enumerate(np.linspace(0, 2 * np.pi, 61))])
    # Where the equivalent is as far from the text as the original: AS = 0.
    phi = np.deg2rad(label_angle)
    turn = np.deg2rad(np.linspace(0.01, min(80.0, 2 * label_angle - 0.01), 80))
    cosine = np.clip(np.cos(phi) * (1 - np.cos(turn)) / (np.sin(phi) * np.sin(turn)), -1, 1)
    even = pd.DataFrame({"x": np.rad2deg(turn) * cosine,
                         "y": np.rad2deg(turn) * np.sqrt(1 - cosine**2)})
    even = pd.concat([even[::-1], even.assign(y=-even["y"])]).assign(order=range(2 * len(even)))
    one = pd.DataFrame({"phi": [label_angle]})
    moved = alt.Chart(one).transform_calculate(
        x="turn * cos(course * PI / 180)", y="turn * sin(course * PI / 180)",
        score="datum.phi - 180 / PI * acos(cos(datum.phi * PI / 180) * cos(turn * PI / 180)"
              " + sin(datum.phi * PI / 180) * sin(turn * PI / 180) * cos(course * PI / 180))",
    ).transform_calculate(
        text="'IS ' + format(turn, '.0f') + '°,  AS ' + format(datum.score, '+.1f') + '°'")
    axis = {"axis": None, "scale": alt.Scale(domain=[-side, side])}
    x, y = alt.X("x:Q", **axis), alt.Y("y:Q", **axis)
    fixed = pd.DataFrame({"x": [0, label_angle], "y": [0, 0], "t": ["T(f)", "text"],
                          "shift": [-13, label_angle]})
    return alt.layer(
        alt.Chart(rings).mark_line(color=GREY, opacity=0.5, strokeWidth=1).encode(
            x=x, y=y, detail="ring:N", order="order:Q"),
        # Below, since the equivalent and its scores move in the upper half.
        alt.Chart(rings[rings["order"] == 45]).transform_calculate(t="datum.ring + '°'").mark_text(
            color=GREY, dy=-6).encode(x=x, y=y, text="t:N"),
        alt.Chart(even).mark_line(color=GREEN, strokeDash=[5, 4], strokeWidth=2).encode(
            x=x, y=y, order="order:Q"),
        alt.Chart(fixed).mark_point(filled=True, size=120, color=BLUE, opacity=1).encode(x=x, y=y),
        alt.Chart(fixed).mark_text(color=BLUE, dy=18, fontSize=13, fontWeight="bold").encode(
            x=alt.X("shift:Q", **axis), y=y, text="t:N"),
        moved.mark_rule(color=VERMILION, strokeWidth=2).encode(
            x=alt.X("origin:Q", **axis), y=alt.Y("origin:Q", **axis), x2="x:Q", y2="y:Q"
        ).transform_calculate(origin="0"),
        moved.mark_point(filled=True, size=150, color=VERMILION, opacity=1).encode(x=x, y=y),
        moved.mark_text(color=VERMILION, dy=-16, fontSize=15, fontWeight="bold").encode(
            x=x, y=y, text="text:N"),
    ).add_params(score, course).properties(height=440, width=440)


def slide(table: pd.DataFrame) -> alt.LayerChart:
    """Scores along a picture's null part, with a slider that reads them off.

    Parameters
    ----------
    table : pandas.DataFrame
        ``Study.slide`` of several pictures, with ``label``.
    """
    labels = list(dict.fromkeys(table["label"]))
    photo = _dropdown("photo", labels, "photo ")
    keep = alt.param(name="kept", value=0, bind=alt.binding_range(
        min=-1, max=3, step=0.1, name="part kept (0 = removed, 1 = the photo) "))
    long = table.melt(["label", "kind", "keep"], ["image_score", "attribute_score"],
                      var_name="score", value_name="degrees")
    long["score"] = long["score"].map({"image_score": "Image Score",
                                       "attribute_score": "Attribute Score"})
    kinds = list(dict.fromkeys(table["kind"]))
    base = alt.Chart(long).transform_filter("datum.label == photo").encode(
        x=alt.X("keep:Q", title="how much of the part is kept", scale=alt.Scale(nice=False)),
        y=alt.Y("degrees:Q", title="score (degrees)"),
        color=alt.Color("kind:N", title="moved along the",
                        legend=alt.Legend(orient="top", columns=1, symbolType="stroke",
                                          symbolStrokeWidth=3),
                        scale=alt.Scale(domain=kinds, range=[VERMILION, GREY])),
        strokeDash=alt.StrokeDash(
            "score:N", legend=None,  # its symbols would be empty; the caption tells them apart
            scale=alt.Scale(domain=["Image Score", "Attribute Score"], range=[[1, 0], [5, 4]])),
    )
    rule = alt.Chart(pd.DataFrame({"dummy": [0]})).transform_calculate(x="kept").mark_rule(
        color=BLUE).encode(x="x:Q")
    here = base.transform_filter("abs(datum.keep - kept) < 0.04").mark_point(
        filled=True, size=70, opacity=1).encode(
        strokeDash=alt.Undefined,
        tooltip=["kind:N", "score:N", alt.Tooltip("degrees:Q", format="+.1f"),
                 alt.Tooltip("keep:Q", format=".1f")])
    # Of the two readings of a score, the larger stands above its dot and the other below.
    pair = base.transform_filter("abs(datum.keep - kept) < 0.04").transform_joinaggregate(
        middle="mean(degrees)", groupby=["score"])
    numbers = [
        pair.transform_filter(f"datum.degrees {which} datum.middle").mark_text(
            align="left", dx=8, dy=dy, fontWeight="bold").encode(
            strokeDash=alt.Undefined, text=alt.Text("degrees:Q", format="+.1f"))
        for which, dy in ((">=", -8), ("<", 10))]
    return alt.layer(rule, base.mark_line(strokeWidth=2), here, *numbers).add_params(
        photo, keep).properties(height=320, **WIDE)


def model_scatter(tables: dict[str, pd.DataFrame], level: float = 0.5) -> alt.LayerChart:
    """AS against IS, one dot a label, with ellipses, for classifiers and their controls.

    Parameters
    ----------
    tables : dict
        For each classifier's title: label, image, and medians over the label's pictures of
        image_score, attribute_score and the same with ``_control``; as_excess, is_excess and
        theirs with ``_low`` and ``_high`` (``Study.classes``).
    level : float
        Share of a normal cloud inside the ellipse.
    """
    dots, outlines = [], []
    for title, table in tables.items():
        for kind, suffix in (("null space removed", ""), ("random control", "_control")):
            part = pd.DataFrame({
                "title": title, "kind": kind, "label": table["label"], "image": table["image"],
                "as": table[f"attribute_score{suffix}"], "is": table[f"image_score{suffix}"],
            })
            beyond = table[EXCESS].rename(columns=lambda name: name.replace("_excess", "e"))
            dots.append(pd.concat([part, beyond], axis=1) if not suffix else part)
            outline = ellipse(part[["as", "is"]].to_numpy(), level)
            outlines.append(pd.DataFrame(
                {"title": title, "kind": kind, "as": outline[:, 0], "is": outline[:, 1],
                 "order": range(len(outline))}))
    dots, outlines = pd.concat(dots).round(3), pd.concat(outlines).round(3)
    shown = alt.param(name="shown", value="null space removed", bind=alt.binding_radio(
        options=["null space removed", "random control"], name="show "))
    legend = alt.selection_point(fields=["title"], bind="legend")
    # Both states share one frame, so that switching between them compares.
    ends = [float(dots["as"].min()) - 0.2, float(dots["as"].max()) + 0.2]
    x = alt.X("as:Q", title="Attribute Score towards the own class (degrees; + = closer)",
              scale=alt.Scale(domain=ends))
    y = alt.Y("is:Q", title="Image Score (degrees)",
              scale=alt.Scale(domain=[0, float(dots["is"].max()) * 1.05]))
    colour = _model_colour(dots)
    cloud = alt.Chart(dots).transform_filter("datum.kind == shown").mark_circle(size=46).encode(
        x=x, y=y, color=colour, opacity=alt.condition(legend, alt.value(0.65), alt.value(0.05)),
        tooltip=[alt.Tooltip("image:N", title="image"), alt.Tooltip("label:N", title="class"),
                 alt.Tooltip("title:N", title="classifier"),
                 alt.Tooltip("as:Q", title="AS (degrees)", format="+.2f"),
                 alt.Tooltip("ase:Q", title="AS − control", format="+.2f"),
                 alt.Tooltip("ase_low:Q", title="95 % from", format="+.2f"),
                 alt.Tooltip("ase_high:Q", title="to", format="+.2f"),
                 alt.Tooltip("is:Q", title="IS (degrees)", format=".2f"),
                 alt.Tooltip("ise:Q", title="IS − control", format="+.2f"),
                 alt.Tooltip("ise_low:Q", title="95 % from", format="+.2f"),
                 alt.Tooltip("ise_high:Q", title="to", format="+.2f")],
    ).add_params(legend)
    rings = alt.Chart(outlines).transform_filter("datum.kind == shown").mark_line(
        strokeWidth=2.5).encode(x=x, y=y, color=colour, order="order:Q", detail="title:N",
                                opacity=alt.condition(legend, alt.value(1), alt.value(0.1)))
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color=GREY, strokeDash=[4, 4]).encode(
        x="x:Q")
    return alt.layer(zero, cloud, rings).add_params(shown).properties(height=400, **WIDE)


def linked_models(points: pd.DataFrame, thumbs: pd.DataFrame) -> alt.VConcatChart:
    """Linked views: AS against IS -> classes -> photos, by brush, by click and by inputs.

    Parameters
    ----------
    points : pandas.DataFrame
        ``classes.class_pictures``.
    thumbs : pandas.DataFrame
        picture and image, for every picture of `points`.
    """
    labels, count, columns = list(dict.fromkeys(points["label"])), 12, 6
    number = {name: at for at, name in enumerate(thumbs["picture"].unique())}
    short = {"attribute_score": "as", "image_score": "is", "attribute_score_control": "asc",
             "image_score_control": "isc", "translator_error": "error"}
    rows = points[["title", "label", *short]].rename(columns=short).round(2).assign(
        n=points["picture"].map(number), p=points["label"].map(labels.index))
    images = thumbs.drop_duplicates("picture")
    images = pd.DataFrame({"n": images["picture"].map(number), "image": images["image"]})
    shapes = [shape.assign(title=title, label=label, p=labels.index(label))
              for (title, label), own in points.groupby(["title", "label"], sort=False)
              if (shape := _violin(own["attribute_score"].to_numpy())) is not None]
    few = pd.DataFrame(columns=["title", "label", "p", "a", "h"])
    shapes = (pd.concat(shapes) if shapes else few).round(2)

    model = _dropdown("classifier", list(dict.fromkeys(points["title"])), "classifier ")
    ends = rows["is"].quantile([0, 0.95])
    step = 1 if np.ptp(ends) > 5 else 0.1
    start = round(np.floor(ends[0] / step) * step, 1)
    least = alt.param(name="least", value=start, bind=alt.binding_range(
        min=start, max=round(max(start + step, np.floor(ends[0.95] / step) * step), 1), step=step,
        name="Image Score at least (degrees) "))
    # One choice for the menu and for the mouse: a click where no class is leaves it alone.
    chosen = alt.selection_point(
        name="chosen", fields=["label"], clear=False,
        on="click[event.item && event.item.datum && event.item.datum.label]",
        bind=alt.binding_select(
            options=[None, *labels], labels=["all classes", *labels], name="class "))
    brush = alt.selection_interval(name="brush", mark=alt.BrushConfig(
        fill=VERMILION, fillOpacity=0.1, stroke=VERMILION))
    own = alt.Chart(rows).transform_filter("datum.title == classifier")
    kept = own.transform_filter(chosen).transform_filter("datum.is >= least")
    tips = [alt.Tooltip("image:N", title="image"), alt.Tooltip("label:N", title="class"),
            alt.Tooltip("title:N", title="classifier"),
            alt.Tooltip("as:Q", title="AS (degrees)", format="+.2f"),
            alt.Tooltip("asc:Q", title="AS, control", format="+.2f"),
            alt.Tooltip("is:Q", title="IS (degrees)", format=".2f"),
            alt.Tooltip("isc:Q", title="IS, control", format=".2f"),
            alt.Tooltip("error:Q", title="translator error (degrees)", format=".0f")]
    look = alt.LookupData(images, "n", ["image"])
    colour = _model_colour(points).legend(None)

    low, high = float(rows["as"].min()) - 0.2, float(rows["as"].max()) + 0.2
    place = {"x": alt.X("as:Q", title="Attribute Score (degrees; + = closer)",
                        scale=alt.Scale(domain=[low, high], nice=False)),
             "y": alt.Y("is:Q", title="Image Score (degrees)", scale=alt.Scale(
                 domain=[0, float(rows["is"].max()) * 1.05], nice=False))}
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color=GREY, strokeDash=[4, 4])
    scatter = alt.layer(
        zero.encode(x="x:Q"),
        own.mark_circle(size=30, color=GREY, opacity=0.3).encode(**place).add_params(
            brush).properties(name="dots"),
        kept.transform_lookup("n", look).mark_circle(size=46).encode(
            **place, color=colour, tooltip=tips,
            opacity=alt.when(brush).then(alt.value(0.8)).otherwise(alt.value(0.2))),
    ).properties(width=400, height=320)

    # The names stand inside, left of all violins: beside the plot they would narrow all views.
    reach = high - low
    inside = alt.Scale(domain=[low - 0.55 * reach, high + 0.25 * reach], nice=False)
    x = alt.X("as:Q", title="Attribute Score of a class (degrees)", scale=inside, axis=alt.Axis(
        values=list(range(int(np.ceil(low)), int(high) + 1, max(1, int(reach / 5))))))
    y = alt.Y("p:Q", axis=None, scale=alt.Scale(
        domain=[-0.6, len(labels) - 0.4], reverse=True, nice=False))
    names = alt.Chart(pd.DataFrame({"label": labels, "p": range(len(labels))}))
    strips = kept.transform_filter(brush)
    # Counted and not filtered, for of no rows there is no count; as Vega-Lite writes its filters.
    picked = " && ".join(
        f"(!length(data('{name}_store')) || vlSelectionTest('{name}_store', datum))"
        for name in ("chosen", "brush"))
    counted = own.transform_calculate(kept=f"datum.is >= least && {picked} ? 1 : 0")
    share = counted.transform_aggregate(
        count="sum(kept)", total="count()", groupby=["label", "p"]).transform_filter(
        "datum.count > 0 && datum.count < datum.total").transform_calculate(
        text="datum.count + ' of ' + datum.total")
    violins = alt.layer(
        names.transform_calculate(top="datum.p - 0.5", bottom="datum.p + 0.5").mark_rect(
            color=BLUE, cursor="pointer").encode(
            y=alt.Y("top:Q", axis=None), y2="bottom:Q", x=alt.value(0), x2=alt.value("width"),
            opacity=alt.when(chosen, empty=False).then(alt.value(0.15)).otherwise(alt.value(0))
        ).add_params(chosen).properties(name="rows"),
        zero.encode(x=alt.X("x:Q", scale=inside)),
        alt.Chart(shapes).transform_filter("datum.title == classifier").transform_calculate(
            top="datum.p - datum.h", bottom="datum.p + datum.h").mark_area(
            color=GREY, opacity=0.45, orient="vertical", cursor="pointer").encode(
            x=alt.X("a:Q", scale=inside), y=alt.Y("top:Q", axis=None), y2="bottom:Q",
            detail="label:N"),
        names.mark_text(align="left", limit=104, fontSize=11, cursor="pointer").encode(
            x=alt.value(3), y=y, text="label:N"),
        share.mark_text(align="right", fontSize=11, dx=-2).encode(
            x=alt.value("width"), y=y, text="text:N"),
        strips.transform_lookup("n", look).mark_tick(
            thickness=1.5, height=9, opacity=0.9, cursor="pointer").encode(
            x=x, y=y, color=colour, tooltip=tips),
    ).properties(width=330, height=max(320, 16 * len(labels)))

    ranked = strips.transform_window(
        [alt.WindowFieldDef(op="row_number", field="is", **{"as": "rank"})],
        sort=[alt.SortField("is", order="descending"), alt.SortField("n")], frame=[None, None],
    ).transform_filter(f"datum.rank <= {count}").transform_lookup("n", look).transform_calculate(
        left=f"(datum.rank - 1) % {columns} + 0.03", right="datum.left + 0.94",
        middle="datum.left + 0.47", top=f"floor((datum.rank - 1) / {columns})",
        bottom="datum.top + 0.66", under="datum.top + 0.7",
        scores="format(datum.is, '.0f') + '°  ' + format(datum.as, '+.1f') + '°'")
    across = {"axis": None, "scale": alt.Scale(domain=[0, columns], nice=False)}
    down = {"axis": None, "scale": alt.Scale(
        domain=[-0.26, count / columns], reverse=True, nice=False)}
    text = ranked.encode(x=alt.X("middle:Q", **across), y=alt.Y("under:Q", **down))
    said = counted.transform_aggregate(pictures="sum(kept)").transform_calculate(
        text="datum.pictures + ' chosen' + (datum.pictures > " + str(count)
             + " ? ', those of largest Image Score:' : datum.pictures ? ':' : "
             + "': choose a class, a lower score or another part of the plot')")
    photos = alt.layer(
        ranked.mark_image().encode(
            x=alt.X("left:Q", **across), x2="right:Q", y=alt.Y("top:Q", **down), y2="bottom:Q",
            url="image:N", tooltip=tips),
        text.mark_text(
            baseline="top", fontSize=11, limit=alt.expr(f"item.mark.group.width / {columns} - 2")
        ).encode(text="label:N"),
        text.mark_text(baseline="top", dy=14, fontSize=11).encode(text="scores:N"),
        said.mark_text(align="left", baseline="top", fontWeight="bold").encode(
            x=alt.value(2), y=alt.value(0), text="text:N"),
    ).properties(width=740, height=270, view=alt.ViewBackground(stroke=None))
    hint = ("Drag over dots to choose them; a double click lets go. Click a dot, a class or a "
            "photo to see its class alone; the menu brings all classes back.")
    return alt.vconcat(alt.hconcat(scatter, violins), photos, usermeta={"hint": hint}).add_params(
        model, least)


QUANTITIES = {
    "image_score": "Image Score (degrees)",
    "attribute_score": "|Attribute Score| (degrees)",
    "ratio": "IS / |AS|",
}


def model_excess(table: pd.DataFrame) -> alt.LayerChart:
    """Image and Attribute Score minus their control, with 95 % intervals, by classifier.

    Parameters
    ----------
    table : pandas.DataFrame
        ``Study.models``.
    """
    names = {"image_score_excess": "IS − control", "attribute_score_excess": "AS − control",
             "attribute_size_excess": "|AS| − control"}
    table = table[table["quantity"].isin(names)]
    kept = table[["title", "value", "low", "high"]].round(3).assign(
        name=table["quantity"].map(names))
    titles = list(dict.fromkeys(kept["title"]))
    base = alt.Chart(kept).encode(
        y=alt.Y("name:N", sort=list(names.values()), title=None),
        yOffset=alt.YOffset("title:N", sort=titles, scale=alt.Scale(paddingInner=0.3)),
        color=_model_colour(kept),
        tooltip=[alt.Tooltip("title:N", title="classifier"), alt.Tooltip("name:N", title="score"),
                 alt.Tooltip("value:Q", title="degrees", format="+.2f"),
                 alt.Tooltip("low:Q", title="95 % from", format="+.2f"),
                 alt.Tooltip("high:Q", title="to", format="+.2f")])
    rules = base.mark_rule(strokeWidth=2.5).encode(
        x=alt.X("low:Q", title="score minus its random control (degrees)",
                axis=alt.Axis(tickCount=6)), x2="high:Q")
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(x="value:Q")
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color=GREY, strokeDash=[4, 4]).encode(
        x="x:Q")
    height = 3 * (16 + 16 * len(titles))
    return alt.layer(zero, rules, dots).properties(height=height, **WIDE)


def model_ratio(table: pd.DataFrame, quantity: str | None = None) -> alt.LayerChart:
    """Medians of IS, |AS| or their ratio with 95 % intervals, beside the control.

    Parameters
    ----------
    table : pandas.DataFrame
        ``Study.models``.
    quantity : str, optional
        One of :data:`QUANTITIES`; by default a menu chooses.
    """
    names = [QUANTITIES[q] for q in ("ratio", "image_score", "attribute_score")]
    table = table[table["quantity"].isin([quantity] if quantity else QUANTITIES)].copy()
    table["name"] = table["quantity"].map(QUANTITIES)
    order = list(dict.fromkeys(table["title"]))
    pick = None if quantity else _dropdown("quantity", names, "quantity ")
    base = alt.Chart(table)
    if pick:
        base = base.transform_filter("datum.name == quantity")
    base = base.encode(
        y=alt.Y("title:N", sort=order, title=None, axis=alt.Axis(labelLimit=220)),
        yOffset=alt.YOffset("kind:N", sort=["null space removed", "random control"],
                            scale=alt.Scale(paddingInner=0.15)),
        color=alt.Color("kind:N", title=None, scale=KINDS, legend=alt.Legend(orient="top")),
    )
    bars = base.mark_bar(opacity=0.75).encode(
        x=alt.X("value:Q", title=f"{QUANTITIES[quantity]}: median, 95 % interval over subjects"
                if quantity else "median, 95 % interval over subjects"),
        tooltip=["title:N", "kind:N", "name:N", alt.Tooltip("value:Q", format=".2f"),
                 alt.Tooltip("low:Q", format=".2f"), alt.Tooltip("high:Q", format=".2f")])
    whiskers = base.mark_rule(strokeWidth=2.5).encode(
        x="low:Q", x2="high:Q", color=alt.value("#5b6470"))
    chart = alt.layer(bars, whiskers).properties(height=round(220 / 3 * len(order)), **WIDE)
    return chart.add_params(pick) if pick else chart


def _violin(values: np.ndarray) -> pd.DataFrame | None:
    """Half height ``h`` (0.45 at most) along a violin ``a``; None of too few values."""
    if len(values) < 3 or np.ptp(values) < 1e-6:
        return None
    grid = np.linspace(values.min(), values.max(), 15)
    density = scipy.stats.gaussian_kde(values)(grid)
    return pd.DataFrame({"a": grid, "h": 0.45 * density / density.max()})


def class_violins(
    tables: dict[str, pd.DataFrame], shown: int | None = None, row: int = 26,
    most: int | None = None, scores: dict[str, pd.DataFrame] | None = None,
) -> alt.LayerChart:
    """Distribution of AS over the pictures of each class, sorted by each classifier's medians.

    Parameters
    ----------
    tables : dict
        For each classifier's title: rows of ``Study.scored``.
    shown : int, optional
        Classes at each end of the order, parted by a dashed line; all classes by default.
    row : int
        Height of a class, pixels.
    most : int, optional
        Of more classes, this many evenly over the order.
    scores : dict, optional
        For each title rows of ``Study.classes``, for intervals of the medians and of the excess.
    """
    shapes, middles, names = [], [], []
    fields = {"low": "as_median_low", "high": "as_median_high", "e": "as_excess",
              "e_low": "as_excess_low", "e_high": "as_excess_high"}
    for number, (title, table) in enumerate(tables.items()):
        known = pd.DataFrame(columns=list(fields.values()), dtype=float)
        if scores is not None:
            known = scores[title].set_index("label")
        order = table.groupby("label")["attribute_score"].median().sort_values().index.tolist()
        if shown is not None:
            order = list(dict.fromkeys([*order[:shown], *order[-shown:]]))
        elif most is not None and len(order) > most:
            order = [order[at] for at in np.linspace(0, len(order) - 1, most).astype(int)]
        names.append(order)
        for place, label in enumerate(order):
            own = table[table["label"] == label]
            values = own["attribute_score"].to_numpy()
            quarter, middle, other = np.quantile(values, [0.25, 0.5, 0.75])
            middles.append({
                "t": number, "p": place, "label": label, "views": len(values),
                "stamps": own["path"].nunique(), "q": quarter, "m": middle, "r": other,
                "c": own["attribute_score_control"].median()} | {
                short: known.loc[label, name] if label in known.index else np.nan
                for short, name in fields.items()})
            if (shape := _violin(values)) is not None:
                shapes.append(shape.assign(t=number, p=place))
    # Short names and three digits: the page carries a few thousand of these rows.
    few = pd.DataFrame(columns=["t", "p", "a", "h"], dtype=float)  # too few pictures for a shape
    shapes = (pd.concat(shapes) if shapes else few).round(3)
    middles = pd.DataFrame(middles).round(3)
    points = np.concatenate([shapes["a"], middles["m"], middles["c"]])
    ends = float(points.min()), float(points.max())
    pick = _dropdown("classifier", list(tables), "classifier ")
    here = f"indexof({json.dumps(list(tables))}, classifier)"
    rows = max(map(len, names))
    x = alt.X("a:Q", title="AS after null removal (degrees; + = closer)",
              scale=alt.Scale(domain=[ends[0] - 0.2, ends[1] + 0.2], nice=False))
    y = {"scale": alt.Scale(domain=[-0.7, rows - 0.3], reverse=True, nice=False),
         "axis": alt.Axis(values=list(range(rows)), grid=False, title=None, labelLimit=140,
                          labelOverlap=False, labelFontSize=min(12, row - 4),
                          labelExpr=f"{json.dumps(names)}[{here}][datum.value]")}
    violins = alt.Chart(shapes).transform_filter(f"datum.t == {here}").transform_calculate(
        top="datum.p - datum.h", bottom="datum.p + datum.h"
    ).mark_area(color=VERMILION, opacity=0.65, orient="vertical").encode(
        x=x, y=alt.Y("top:Q", **y), y2="bottom:Q", detail="p:N")
    base = alt.Chart(middles).transform_filter(f"datum.t == {here}").encode(
        y=alt.Y("p:Q", **y),
        tooltip=[alt.Tooltip("label:N", title="class"),
                 alt.Tooltip("m:Q", title="median AS (degrees)", format="+.2f"),
                 alt.Tooltip("q:Q", title="middle half of the pictures from", format="+.2f"),
                 alt.Tooltip("r:Q", title="to", format="+.2f"),
                 alt.Tooltip("low:Q", title="95 % of the median from", format="+.2f"),
                 alt.Tooltip("high:Q", title="to", format="+.2f"),
                 alt.Tooltip("c:Q", title="control (degrees)", format="+.2f"),
                 alt.Tooltip("e:Q", title="excess over the control", format="+.2f"),
                 alt.Tooltip("e_low:Q", title="95 % from", format="+.2f"),
                 alt.Tooltip("e_high:Q", title="to", format="+.2f"),
                 alt.Tooltip("views:Q", title="pictures"),
                 alt.Tooltip("stamps:Q", title="different photos")])
    size = row * 1.8
    dots = base.mark_point(filled=True, size=size, color="#222", stroke="#fff", opacity=1).encode(
        x=alt.X("m:Q"))
    control = base.mark_point(
        shape="diamond", size=size, fill="#fff", stroke="#666", strokeWidth=1.5, opacity=1
    ).encode(x=alt.X("c:Q"))
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color=GREY, strokeDash=[4, 4]).encode(
        x="x:Q")
    sure = base.mark_rule(color="#222", strokeWidth=1.5).encode(x=alt.X("low:Q"), x2="high:Q")
    layers = [zero, violins, control, sure, dots]
    if shown is not None and rows == 2 * shown:
        cut = alt.Chart(pd.DataFrame({"p": [shown - 0.5]}))
        layers.append(cut.mark_rule(color=GREY, strokeDash=[4, 4]).encode(y=alt.Y("p:Q", **y)))
    return alt.layer(*layers).add_params(pick).properties(height=row * rows, **WIDE)


def string_graph(table: pd.DataFrame, extremes: int | None = None) -> alt.LayerChart:
    """Angle to each concept before and after null removal; the arrow between is the AS.

    Parameters
    ----------
    table : pandas.DataFrame
        ``Study.string_graph`` of several classes and classifiers, with ``label`` and ``title``;
        where there are several, menus choose.
    extremes : int, optional
        Show this many concepts of largest |AS|, and below a dashed line as many of smallest; all
        by default, from near to far.
    """
    count = table["concept"].nunique()
    if extremes is not None and 2 * extremes < count:
        far = (table["strength"] > extremes) & (table["strength"] <= count - extremes)
        table, count = table[~far], 2 * extremes
    layers = _strings(table, "before" if extremes is None else "strength")
    if extremes is not None:
        layers.append(alt.Chart(pd.DataFrame({"cut": [0]})).mark_rule(
            color=GREY, strokeDash=[4, 4]).encode(y=alt.value(12 * count)))
    chart = alt.layer(*layers).properties(height=24 * count, **WIDE)
    menus = _string_menus(table)
    return chart.add_params(*menus) if menus else chart


def concept_explorer(table: pd.DataFrame) -> alt.LayerChart:
    """The string graph with menus, a slider for how many concepts, and what is strongest in words.

    Parameters
    ----------
    table : pandas.DataFrame
        ``Study.string_graph`` of several classes and classifiers, with ``label`` and ``title``.
    """
    count = int(table["concept"].nunique())
    most = alt.param(name="most", value=min(12, count), bind=alt.binding_range(
        min=min(3, count), max=count, step=1, name="concepts shown, those that move most "))
    said = {}
    for row in table[table["strength"] == 1].itertuples():
        way = "nearer" if row.attribute_score >= 0 else "farther"
        turn = 1 if row.attribute_score >= 0 else -1
        low, high = sorted((turn * row.low, turn * row.high))
        # A single picture has no interval.
        ends = f" ({low:.2f} to {high:.2f})" if np.isfinite(low) else ""
        size = f"{abs(row.attribute_score):.2f}° {way}{ends}".replace("-", "\N{MINUS SIGN}")
        said[f"{row.label}\n{row.title}"] = [
            f"moves most: {row.concept}, {size}",
            "more than under every random removal" if row.beyond == 1
            else "no more than under some random removals"]
    one = table.iloc[0]
    menus = _string_menus(table)
    named = {param.name: param.name for param in menus}
    key = (f"{named.get('subject', json.dumps(one['label']))} + '\\n' + "
           f"{named.get('classifier', json.dumps(one['title']))}")
    sentence = alt.param(name="strongest", expr=f"({json.dumps(said, ensure_ascii=False)})[{key}]")
    title = alt.Title(text=alt.expr("strongest"), anchor="start", frame="bounds", fontSize=12,
                      fontWeight="normal", offset=8)
    return alt.layer(*_strings(table, "before", "datum.strength <= most")).add_params(
        *menus, most, sentence).properties(height=alt.Step(24), title=title, **WIDE)


def _string_menus(table: pd.DataFrame) -> list[alt.Parameter]:
    """Menus of classes and classifiers, where there are several."""
    menus = (("subject", "label", "class "), ("classifier", "title", "classifier "))
    return [_dropdown(name, list(dict.fromkeys(table[column])), label)
            for name, column, label in menus if len(set(table[column])) > 1]


def _strings(table: pd.DataFrame, order: str, also: str | None = None) -> list[alt.Chart]:
    """Layers of a string graph for the choice of :func:`_string_menus`, a row a concept."""
    kept = table.assign(
        # Where the arrow would end at either end of its interval, and under the controls.
        near=table["before"] - table["high"], far=table["before"] - table["low"],
        other=table["before"] - table["attribute_score_control"],
        other_near=table["before"] - table["control_high"],
        other_far=table["before"] - table["control_low"],
    ).round(3)
    chosen = [f"datum.{column} == {name}" for name, column in (
        ("subject", "label"), ("classifier", "title")) if len(set(table[column])) > 1]
    base = alt.Chart(kept)
    if chosen or also:
        base = base.transform_filter(" && ".join([*chosen, *([also] if also else [])]))
    base = base.encode(
        y=alt.Y("concept:N", sort=alt.EncodingSortField(order, op="min"), title=None,
                axis=alt.Axis(grid=True, labelLimit=130)),
        tooltip=["concept:N", alt.Tooltip("before:Q", title="before (degrees)", format=".1f"),
                 alt.Tooltip("after:Q", title="after (degrees)", format=".1f"),
                 alt.Tooltip("attribute_score:Q", title="AS (degrees)", format="+.2f"),
                 alt.Tooltip("low:Q", title="95 % over pictures from", format="+.2f"),
                 alt.Tooltip("high:Q", title="to", format="+.2f"),
                 alt.Tooltip("attribute_score_control:Q", title="control", format="+.2f"),
                 alt.Tooltip("control_low:Q", title="smallest control", format="+.2f"),
                 alt.Tooltip("control_high:Q", title="largest control", format="+.2f")])
    ends = kept[["before", "near", "far", "other_near", "other_far"]].to_numpy()
    scale = alt.Scale(domain=[float(ends.min()) - 1, float(ends.max()) + 1], nice=False)
    states = ["before", "after", "after a random removal"]
    colour = alt.Color(
        "state:N", title=None, scale=alt.Scale(domain=states, range=[BLUE, VERMILION, GREY]),
        legend=alt.Legend(orient="top", columns=3, labelLimit=200, symbolType="circle"))

    def x(field: str) -> alt.X:
        title = "angle to the concept (degrees; left = nearer)"
        return alt.X(f"{field}:Q", title=title, scale=scale)

    def state(number: int) -> alt.Chart:
        return base.transform_calculate(state=f"'{states[number]}'").encode(color=colour)

    layers = [
        base.mark_rule(color=GREY, opacity=0.6, yOffset=6).encode(
            x=x("other_near"), x2="other_far"),
        state(2).mark_tick(thickness=2, height=8, yOffset=6).encode(x=x("other")),
        base.mark_rule(color=GREEN, strokeWidth=3).encode(x=x("before"), x2="after"),
        base.mark_rule(color=VERMILION, yOffset=-7).encode(x=x("near"), x2="far"),
        state(0).mark_point(filled=True, size=46, opacity=1).encode(x=x("before")),
    ]
    for shape, side in (("triangle-left", "<"), ("triangle-right", ">=")):
        layers.append(
            state(1).transform_filter(f"datum.after {side} datum.before").mark_point(
                filled=True, size=64, opacity=1, shape=shape).encode(x=x("after")))
    return layers


def concept_classes(
    table: pd.DataFrame, images: pd.DataFrame, shown: int = 12
) -> alt.LayerChart:
    """AS of the classes towards one concept from a menu: those that move farthest either way.

    Parameters
    ----------
    table : pandas.DataFrame
        ``classes.concept_scores``.
    images : pandas.DataFrame
        label and image.
    shown : int
        Classes at each end.
    """
    labels, counts = list(dict.fromkeys(table["label"])), table.groupby("label")["pictures"].first()
    images = images.loc[images["label"].isin(labels), ["label", "image"]]
    images = images.assign(n=images["label"].map(counts))
    fields = {"s": "attribute_score", "low": "low", "high": "high", "c": "control",
              "near": "control_low", "far": "control_high"}
    # One row a menu's choice, its classes in lists: the page carries each name once.
    packed = pd.DataFrame([
        {"title": title, "concept": concept,
         "l": [labels.index(label) for label in own["label"]]} | {
            short: own[name].astype(object).where(own[name].notna(), None).map(
                lambda v, digits=1 + (short in "sc"): v if v is None else round(v, digits)).tolist()
            for short, name in fields.items()}
        for (title, concept), own in table.groupby(["title", "concept"], sort=False)])
    concept = _dropdown("concept", sorted(packed["concept"].unique()), "concept ")
    model = _dropdown("classifier", list(dict.fromkeys(table["title"])), "classifier ")
    base = alt.Chart(packed).transform_filter(
        "datum.concept == concept && datum.title == classifier").transform_flatten(
        ["l", *fields]).transform_calculate(label=f"{json.dumps(labels)}[datum.l]")
    for name, order in (("least", "ascending"), ("most", "descending")):
        base = base.transform_window(
            [alt.WindowFieldDef(op="row_number", field="s", **{"as": name})],
            sort=[alt.SortField("s", order=order)])
    count = min(2 * shown, len(labels))
    base = base.transform_filter(f"datum.least <= {shown} || datum.most <= {shown}")
    base = base.transform_lookup("label", alt.LookupData(images, "label", ["image", "n"])).encode(
        y=alt.Y("label:N", title=None, axis=alt.Axis(grid=True, labelLimit=130),
                sort=alt.EncodingSortField("s", op="min")),
        tooltip=[alt.Tooltip("image:N", title="image"), alt.Tooltip("label:N", title="class"),
                 alt.Tooltip("s:Q", title="AS (degrees)", format="+.2f"),
                 alt.Tooltip("low:Q", title="95 % over pictures from", format="+.1f"),
                 alt.Tooltip("high:Q", title="to", format="+.1f"),
                 alt.Tooltip("n:Q", title="pictures of the class"),
                 alt.Tooltip("c:Q", title="control, mean", format="+.2f"),
                 alt.Tooltip("near:Q", title="smallest control", format="+.1f"),
                 alt.Tooltip("far:Q", title="largest control", format="+.1f")])
    x = alt.X("s:Q", title="AS towards the concept (degrees; + = nearer)")
    kind = alt.Color("kind:N", title=None, scale=KINDS, legend=alt.Legend(
        orient="top", symbolType="circle", symbolOpacity=1))
    own = base.transform_calculate(kind="'null space removed'")
    other = base.transform_calculate(kind="'random control'")
    layers = [
        alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color=GREY, strokeDash=[4, 4]).encode(
            x="x:Q"),
        other.mark_rule(yOffset=5, strokeWidth=1.5).encode(x="near:Q", x2="far:Q", color=kind),
        other.mark_tick(yOffset=5, thickness=2, height=8).encode(x="c:Q", color=kind),
        own.mark_rule(yOffset=-2, strokeWidth=2).encode(x="low:Q", x2="high:Q", color=kind),
        own.mark_point(yOffset=-2, filled=True, size=60, opacity=1).encode(x=x, color=kind),
    ]
    if count == 2 * shown:
        layers.append(alt.Chart(pd.DataFrame({"cut": [0]})).mark_rule(
            color=GREY, strokeDash=[4, 4]).encode(y=alt.value(11 * count)))
    return alt.layer(*layers).add_params(concept, model).properties(height=22 * count, **WIDE)


def class_losses(table: pd.DataFrame, most: int = 20) -> alt.LayerChart:
    """Classes ranked by their Image Score minus its control; of many, both ends of the ranking.

    Parameters
    ----------
    table : pandas.DataFrame
        ``classes`` of ``portrait.tables``.
    most : int
        Classes at either end.
    """
    said = ["more than chance", "cannot be told", "less than chance"]
    rows = table if len(table) <= 2 * most else pd.concat([table.head(most), table.tail(most)])
    rows = rows[["rank", "label", "views", "is_median", "is_median_control", "is_excess",
                 "is_excess_low", "is_excess_high", "verdict"]].round(3)
    base = alt.Chart(rows).encode(
        y=alt.Y("label:N", title=None, sort=alt.EncodingSortField("rank", op="min"),
                axis=alt.Axis(labelLimit=150)),
        color=alt.Color("verdict:N", title="pictures move", sort=None, legend=alt.Legend(
            orient="top", columns=3, symbolOpacity=1), scale=alt.Scale(
            domain=said, range=[VERMILION, ORANGE, BLUE])),
        tooltip=[alt.Tooltip("label:N", title="class"), alt.Tooltip("rank:Q"),
                 alt.Tooltip("views:Q", title="pictures"), "verdict:N",
                 alt.Tooltip("is_median:Q", title="IS (degrees)", format=".1f"),
                 alt.Tooltip("is_median_control:Q", title="random control", format=".1f"),
                 alt.Tooltip("is_excess:Q", title="IS − control", format="+.2f"),
                 alt.Tooltip("is_excess_low:Q", title="95 % from", format="+.2f"),
                 alt.Tooltip("is_excess_high:Q", title="to", format="+.2f")])
    rules = base.transform_filter("isValid(datum.is_excess_low)").mark_rule(strokeWidth=2.5).encode(
        x=alt.X("is_excess_low:Q", title="IS minus its random control (degrees)",
                axis=alt.Axis(tickCount=6)), x2="is_excess_high:Q")
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(x="is_excess:Q")
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color=GREY, strokeDash=[4, 4]).encode(
        x="x:Q")
    layers = [zero, rules, dots]
    if len(rows) < len(table):
        left_out = alt.Chart(pd.DataFrame({"t": [f"{len(table) - len(rows):,} between"]}))
        y = alt.value(21 * most)
        layers += [left_out.mark_rule(color=GREY, opacity=0.5).encode(y=y),
                   left_out.mark_text(align="right", dy=-7, dx=-4, color=GREY, fontSize=12).encode(
                       x=alt.value("width"), y=y, text="t:N")]
    return alt.layer(*layers).properties(height=21 * len(rows), **WIDE)


def class_ranks(table: pd.DataFrame, first: str, second: str) -> alt.LayerChart:
    """|AS| of each class under two classifiers, null removal or control.

    Parameters
    ----------
    table : pandas.DataFrame
        ``classes.class_pairs``, with image.
    first, second : str
        Titles of the classifiers.
    """
    shown = alt.param(name="shown", value="null space removed", bind=alt.binding_radio(
        options=["null space removed", "random control"], name="show "))
    top = float(table[["x", "y"]].to_numpy().max()) * 1.05
    scale = alt.Scale(domain=[0, top], nice=False)
    # Both kinds show the same photos: the page carries each once.
    images = table.drop_duplicates("label")[["label", "image"]]
    ends = ["x_low", "x_high", "y_low", "y_high"]
    slim = table[["label", "kind", "x", "y", *ends]].round(3)
    sides = {"opacity": 0.3, "strokeWidth": 1, "clip": True}
    one = alt.Chart(slim).transform_filter("datum.kind == shown && isValid(datum.x_low)").encode(
        color=alt.Color("kind:N", scale=KINDS, legend=None))
    across = one.mark_rule(**sides).encode(x=alt.X("x_low:Q", scale=scale), x2="x_high:Q", y="y:Q")
    along = one.mark_rule(**sides).encode(x="x:Q", y=alt.Y("y_low:Q", scale=scale), y2="y_high:Q")
    dots = alt.Chart(slim).transform_filter("datum.kind == shown").transform_lookup(
        "label", alt.LookupData(images, "label", ["image"])
    ).mark_circle(size=70, opacity=0.75).encode(
        x=alt.X("x:Q", title=f"median |AS| under {first} (degrees)", scale=scale),
        y=alt.Y("y:Q", title=f"median |AS| under {second} (degrees)", scale=scale),
        color=alt.Color("kind:N", scale=KINDS, legend=None),
        tooltip=[alt.Tooltip("image:N", title="image"), alt.Tooltip("label:N", title="class"),
                 alt.Tooltip("x:Q", title=first, format=".2f"),
                 alt.Tooltip("x_low:Q", title="95 % over its pictures from", format=".2f"),
                 alt.Tooltip("x_high:Q", title="to", format=".2f"),
                 alt.Tooltip("y:Q", title=second, format=".2f"),
                 alt.Tooltip("y_low:Q", title="95 % over its pictures from", format=".2f"),
                 alt.Tooltip("y_high:Q", title="to", format=".2f")])
    line = alt.Chart(pd.DataFrame({"x": [0, top], "y": [0, top]})).mark_line(
        color=GREY, strokeDash=[4, 4]).encode(x="x:Q", y="y:Q")
    return alt.layer(line, across, along, dots).add_params(shown).properties(height=360, **WIDE)


def photo_words(table: pd.DataFrame, label: str = "photo ") -> alt.LayerChart:
    """Words nearest to one photo in several states: a dot a state, left = nearer.

    Parameters
    ----------
    table : pandas.DataFrame
        ``Study.photo_words`` with thumbnails.
    label : str
        Of the menu.
    """
    states = list(dict.fromkeys(table["state"]))
    colours = [BLUE, VERMILION, GREY][: len(states)]
    pick = _dropdown("chosen", list(dict.fromkeys(table["name"])), label)
    # The picture is embedded once, in its own layer, and not in every row.
    base = alt.Chart(table.drop(columns="image")).transform_filter("datum.name == chosen").encode(
        y=alt.Y("word:N", sort=alt.EncodingSortField("angle", op="min"), title=None,
                axis=alt.Axis(grid=True, labelLimit=150)))
    strings = base.mark_line(color=GREY, opacity=0.6, strokeWidth=2).encode(
        x="angle:Q", detail="word:N", order="state:N")
    dots = base.mark_point(filled=True, size=95, opacity=0.95).encode(
        x=alt.X("angle:Q", title="angle to the word (degrees; left = nearer)",
                scale=alt.Scale(zero=False, padding=14)),
        color=alt.Color("state:N", sort=states, title=None,
                        legend=alt.Legend(orient="top", columns=2, labelLimit=220),
                        scale=alt.Scale(domain=states, range=colours)),
        shape=alt.Shape("state:N", sort=states, title=None, scale=alt.Scale(
            domain=states, range=["circle", "square", "diamond"][: len(states)])),
        tooltip=["word:N", "state:N", alt.Tooltip("angle:Q", title="degrees", format=".1f"),
                 alt.Tooltip("rank:Q", title="rank of the word")])
    # An unseen mark to the right of all dots leaves room for the photo.
    room = base.transform_joinaggregate(
        near="min(angle)", far="max(angle)", groupby=["name"]
    ).transform_calculate(angle="datum.far + 0.45 * (datum.far - datum.near)").mark_point(
        opacity=0).encode(x="angle:Q", tooltip=alt.Undefined)
    return alt.layer(strings, room, _corner_photo(table, "right", 0), dots).add_params(
        pick).properties(height=300, **WIDE)


def top_classes(table: pd.DataFrame, label: str = "photo ") -> alt.LayerChart:
    """What a classifier says of one photo: its likeliest classes in three states.

    Parameters
    ----------
    table : pandas.DataFrame
        ``photos.top_classes`` with thumbnails.
    label : str
        Of the menu.
    """
    states = list(dict.fromkeys(table["state"]))
    pick = _dropdown("chosen", list(dict.fromkeys(table["name"])), label)
    measure = alt.param(name="measure", value="logit", bind=alt.binding_radio(
        options=["logit", "probability"], name="measure "))
    base = alt.Chart(table.drop(columns=["image"]).round(4)).transform_filter(
        "datum.name == chosen").transform_calculate(
        value="measure == 'logit' ? datum.logit : datum.probability").encode(
        y=alt.Y("class:N", sort=alt.EncodingSortField("rank", op="min"), title=None,
                axis=alt.Axis(labelLimit=150)),
        x=alt.X("value:Q", title="logit, or probability (0 to 1)"),
        color=alt.Color("state:N", sort=states, title=None,
                        legend=alt.Legend(orient="top", columns=2, labelLimit=220,
                                          symbolOpacity=1),
                        scale=alt.Scale(domain=states, range=[BLUE, VERMILION, GREY])),
        shape=alt.Shape("state:N", sort=states, title=None, scale=alt.Scale(
            domain=states, range=["circle", "square", "diamond"])),
        tooltip=["class:N", "state:N", alt.Tooltip("logit:Q", format=".3f"),
                 alt.Tooltip("probability:Q", format=".2%")])
    bars = base.transform_filter(f"datum.state == '{states[0]}'").mark_bar(
        opacity=0.35).encode(shape=alt.Undefined)
    # The equivalent lies on the photo itself, so it is drawn smaller and on top.
    dots = [
        base.transform_filter(f"datum.state == '{state}'").mark_point(
            filled=True, opacity=1, size=size)
        for state, size in ((states[0], 190), (states[2], 90), (states[1], 50))
    ]
    # An unseen mark to the right of all dots leaves room for the photo.
    room = base.transform_filter("datum.rank == 1").transform_calculate(
        value="1.45 * datum.value").mark_point(opacity=0).encode(
        shape=alt.Undefined, color=alt.Undefined, tooltip=alt.Undefined)
    return alt.layer(bars, room, *dots, _corner_photo(table, "right", 150)).add_params(
        pick, measure).properties(height=230, **WIDE)


def word_changes(table: pd.DataFrame, label: str = "photo ") -> alt.LayerChart:
    """Words that one photo gains and loses with its null part: bars, and a dot a random removal.

    Parameters
    ----------
    table : pandas.DataFrame
        ``photos.word_changes`` with thumbnails.
    label : str
        Of the menu.
    """
    kinds = ["null part removed", "random part removed"]
    pick = _dropdown("chosen", list(dict.fromkeys(table["name"])), label)
    # Grey dots must not decide the order, so each row carries the place of its bar.
    own = table[table["draw"] < 0].assign(place=lambda t: -t["attribute_score"])
    slim = table.merge(own[["picture", "word", "place"]], on=["picture", "word"]).drop(
        columns=["image", "picture"]).round(3)
    base = alt.Chart(slim).transform_filter("datum.name == chosen").encode(
        y=alt.Y("word:N", sort=alt.EncodingSortField("place", op="min"), title=None,
                axis=alt.Axis(grid=True, labelLimit=150)),
        x=alt.X("attribute_score:Q", scale=alt.Scale(padding=8),
                title="AS (degrees; + = gained, − = lost)"),
        color=alt.Color("kind:N", sort=kinds, title=None,
                        legend=alt.Legend(orient="top", columns=2, labelLimit=220),
                        scale=alt.Scale(domain=kinds, range=[VERMILION, GREY])),
        tooltip=["word:N", "kind:N",
                 alt.Tooltip("attribute_score:Q", title="AS (degrees)", format="+.2f"),
                 alt.Tooltip("before:Q", title="angle before (degrees)", format=".1f")])
    bars = base.transform_filter("datum.draw < 0").mark_bar(opacity=0.85)
    dots = base.transform_filter("datum.draw >= 0").mark_point(
        filled=True, size=34, opacity=0.9, stroke="#fff", strokeWidth=0.5)
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color=GREY).encode(x="x:Q")
    height = 24 * int(own.groupby("name").size().max())
    return alt.layer(zero, bars, dots, _corner_photo(table, "left", 0)).add_params(
        pick).properties(height=height, **WIDE)


def _corner_photo(table: pd.DataFrame, side: str, down: int) -> alt.Chart:
    """The chosen photo, small, where the data leave room: at a side, some pixels down."""
    shown = table.drop_duplicates("name")[["name", "image"]]
    right = side == "right"
    return alt.Chart(shown).transform_filter("datum.name == chosen").mark_image(
        width=72, height=72, xOffset=-38 if right else 38, yOffset=down + 40
    ).encode(x=alt.value("width" if right else 0), y=alt.value(0), url="image:N")


def _captioned(base: alt.Chart, side: int, columns: int) -> tuple[alt.Chart, ...]:
    """Pictures of a grid, and below each its label, cut where the column ends, and its angle."""
    pictures = base.mark_image(width=side, height=side, yOffset=-12).encode(url="image:N")
    names = base.mark_text(
        dy=side / 2 - 3, fontSize=11, limit=alt.expr(f"width / {columns} - 4")
    ).encode(text="label:N")
    angles = base.transform_filter("isValid(datum.angle)").transform_calculate(
        caption="format(datum.angle, '.0f') + '°'").mark_text(
        dy=side / 2 + 9, fontSize=11).encode(text="caption:N")
    return pictures, names, angles


def photo_neighbours(table: pd.DataFrame, label: str = "photo ") -> alt.LayerChart:
    """Photos nearest to one photo in several states: one column a state.

    Parameters
    ----------
    table : pandas.DataFrame
        ``neighbours.neighbours`` with thumbnails.
    label : str
        Of the menu.
    """
    states = list(dict.fromkeys(table["state"]))
    places = list(dict.fromkeys(table["place"]))
    pick = _dropdown("chosen", list(dict.fromkeys(table["name"])), label)
    base = alt.Chart(table).transform_filter("datum.name == chosen").encode(
        x=alt.X("state:N", sort=states, title=None, scale=alt.Scale(domain=states),
                axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False,
                              labelLimit=130, labelPadding=36, labelLineHeight=14,
                              labelExpr="split(replace(datum.label, ' part ', ' '), ' ')")),
        y=alt.Y("place:N", sort=places, title="rank in the joint space (1 = nearest)",
                scale=alt.Scale(domain=places),
                axis=alt.Axis(domain=False, ticks=False)),
        tooltip=[alt.Tooltip("label:N"), alt.Tooltip("angle:Q", title="degrees", format=".1f")])
    return alt.layer(*_captioned(base, 62, len(states))).add_params(pick).properties(
        height=92 * len(places), **WIDE)


def steering_scores(table: pd.DataFrame, target: float) -> alt.LayerChart:
    """AS towards each prompt at one Image Score: towards it, and along random null directions.

    Parameters
    ----------
    table : pandas.DataFrame
        ``steering.scores`` by title, prompt and kind.
    target : float
        The Image Score, degrees.
    """
    pick = _dropdown("classifier", list(dict.fromkeys(table["title"])), "classifier ")
    kinds = ["towards the prompt", "random null direction"]
    base = alt.Chart(table).transform_filter("datum.title == classifier").encode(
        y=alt.Y("prompt:N", title=None, axis=alt.Axis(labelLimit=200),
                sort=list(dict.fromkeys(table["prompt"]))),
        yOffset=alt.YOffset("kind:N", sort=kinds),
        color=alt.Color("kind:N", title=None, scale=alt.Scale(domain=kinds,
                                                              range=[VERMILION, GREY]),
                        legend=alt.Legend(orient="top")))
    rules = base.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", title=f"Attribute Score towards the prompt at IS {target:g}° (degrees)"),
        x2="high:Q")
    dots = base.mark_point(filled=True, size=110, opacity=1).encode(
        x="value:Q",
        tooltip=["prompt:N", "kind:N", alt.Tooltip("value:Q", title="mean AS", format="+.1f"),
                 alt.Tooltip("low:Q", title="95 % from", format="+.1f"),
                 alt.Tooltip("high:Q", title="to", format="+.1f"),
                 alt.Tooltip("reached:Q", title="pushes that reach it", format=".0%"),
                 alt.Tooltip("limit_low:Q", title="out of reach, smallest (degrees)",
                             format=".0f"),
                 alt.Tooltip("limit:Q", title="out of reach, median (degrees)", format=".0f")])
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color=GREY, strokeDash=[4, 4]).encode(
        x="x:Q")
    return alt.layer(zero, rules, dots).add_params(pick).properties(
        height=52 * table["prompt"].nunique(), **WIDE)


def pushed_photos(table: pd.DataFrame, label: str = "photo ") -> alt.LayerChart:
    """Photos nearest to one photo's equivalents: one row a push, its scores at the left.

    Parameters
    ----------
    table : pandas.DataFrame
        ``steering.prompt_photos`` or ``steering.ladder_photos`` with thumbnails; with
        ``direction``, a second menu chooses among its values.
    label : str
        Of the menu.
    """
    pick = [_dropdown("chosen", list(dict.fromkeys(table["name"])), label)]
    test = "datum.name == chosen"
    if "direction" in table:
        pick.append(_dropdown("course", list(dict.fromkeys(table["direction"])), "pushed along "))
        test += " && datum.direction == course"
    states, places = (list(dict.fromkeys(table[column])) for column in ("state", "place"))
    # Neighbours come again and again: the page carries each picture once.
    images = table.drop_duplicates("picture")[["picture", "image"]]
    keys = ["name", "state", *table.columns.intersection(["direction"])]
    table = table[table["reachable"]].round(
        {"angle": 1, "attribute_score": 1, "own_score": 1, "length": 2})
    pushed = table[(table["place"] == "1") & (table["target"] > 0)].assign(place="photo")
    x = alt.X("place:N", title="rank in the joint space (1 = nearest)",
              scale=alt.Scale(domain=places),
              axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False,
                            labelExpr="datum.label == 'photo' ? 'AS, word' : datum.label"))
    y = alt.Y("state:N", sort=states, title=None, scale=alt.Scale(domain=states),
              axis=alt.Axis(domain=False, ticks=False, labelLimit=84))
    base = alt.Chart(table[[*keys, "place", "picture", "label", "angle"]]).transform_filter(
        test).encode(x=x, y=y)
    pictures = base.transform_lookup(
        "picture", alt.LookupData(images, "picture", ["image"])
    ).mark_image(width=54, height=54, yOffset=-13).encode(
        url="image:N",
        tooltip=[alt.Tooltip("label:N"), alt.Tooltip("angle:Q", title="degrees", format=".1f")])
    fitting = alt.expr(f"width / {len(places)} - 4")
    names = base.mark_text(dy=21, fontSize=11, limit=fitting).encode(text="label:N")
    angles = base.transform_filter("isValid(datum.angle)").transform_calculate(
        caption="format(datum.angle, '.0f') + '°'").mark_text(dy=33, fontSize=11).encode(
        text="caption:N")
    scores = ["attribute_score", "own_score", "logit_change", "length", "word"]
    notes = alt.Chart(pushed[[*keys, "place", *scores]]).transform_filter(test).encode(
        x=x, y=y,
        tooltip=[alt.Tooltip("attribute_score:Q", title="AS to the prompt (degrees)",
                             format="+.1f"),
                 alt.Tooltip("own_score:Q", title="AS to the own label (degrees)", format="+.1f"),
                 alt.Tooltip("logit_change:Q", title="largest logit change", format=".1e"),
                 alt.Tooltip("length:Q", title="length, of the photo's", format=".2f"),
                 alt.Tooltip("word:N", title="nearest word")])
    score = notes.transform_filter("isValid(datum.attribute_score)").transform_calculate(
        caption="format(datum.attribute_score, '+.1f') + '°'").mark_text(
        dy=-14, fontSize=13, fontWeight="bold", color=VERMILION).encode(text="caption:N")
    word = notes.mark_text(dy=4, fontSize=11, limit=fitting).encode(text="word:N")
    return alt.layer(pictures, names, angles, score, word).add_params(*pick).properties(
        height=86 * len(states), **WIDE)


def ladder(table: pd.DataFrame, sticks: pd.DataFrame, bound: float) -> alt.LayerChart:
    """Share of photos that are read differently against the Image Score of a push, with bands.

    Parameters
    ----------
    table : pandas.DataFrame
        ``steering.changes``.
    sticks : pandas.DataFrame
        ``steering.yardsticks`` with ``title``: vertical rules.
    bound : float
        Image Score below which the paper sees hardly a change, degrees.
    """
    kinds = ["towards the prompt", "random null direction"]
    end, height = float(table["target"].max()), 340
    picks = [_dropdown("classifier", list(dict.fromkeys(table["title"])), "classifier "),
             _dropdown("read", list(dict.fromkeys(table["reading"])), "read by ")]
    chosen = alt.Chart(table.drop(columns="model").round(3)).transform_filter(
        "datum.title == classifier && datum.reading == read")
    x = alt.X("target:Q", title="Image Score of the push (degrees)",
              scale=alt.Scale(domain=[0, end], nice=False))
    colour = alt.Color("kind:N", title=None, scale=alt.Scale(domain=kinds,
                                                             range=[VERMILION, GREY]),
                       legend=alt.Legend(orient="top", columns=1, labelLimit=260, symbolOpacity=1))
    band = chosen.mark_area(opacity=0.2).encode(
        x=x, color=colour, y2="high:Q",
        y=alt.Y("low:Q", title="photos that are read differently", axis=alt.Axis(format="%"),
                scale=alt.Scale(domain=[0, 1])))
    line = chosen.mark_line(point=alt.OverlayMarkDef(size=50), strokeWidth=2).encode(
        x=x, y="value:Q", color=colour,
        tooltip=["kind:N", alt.Tooltip("target:Q", title="IS (degrees)"),
                 alt.Tooltip("value:Q", title="read differently", format=".0%"),
                 alt.Tooltip("low:Q", title="95 % from", format=".0%"),
                 alt.Tooltip("high:Q", title="to", format=".0%"),
                 alt.Tooltip("reached:Q", title="pushes that reach it", format=".0%")])
    paper = alt.Chart(pd.DataFrame({"from": [0], "to": [bound]})).mark_rect(
        color=BLUE, opacity=0.12).encode(x="from:Q", x2="to:Q")
    # What lies beyond the axis is written at its end, without a rule.
    marks = sticks.assign(
        at=sticks["value"].clip(upper=end), beyond=sticks["value"] > end,
        text=sticks["what"] + sticks["value"].map(": {:.0f}°".format)
        + np.where(sticks["value"] > end, " →", ""))
    marks = alt.Chart(marks).transform_filter("datum.title == classifier").encode(x="at:Q")
    rules = marks.transform_filter("!datum.beyond").mark_rule(
        strokeDash=[4, 4], strokeWidth=1.5, color=GREEN).encode()
    # The curves leave the upper left and the lower right free.
    texts = [
        marks.transform_filter(test).mark_text(
            angle=270, align=align, baseline="bottom", dx=dx, dy=-3, color=GREEN).encode(
            y=alt.value(place), text="text:N")
        for test, align, dx, place in (("!datum.beyond", "right", -4, 0),
                                       ("datum.beyond", "left", 4, height))
    ]
    note = alt.Chart(pd.DataFrame({"x": [0], "t": ["paper: hardly visible"]})).mark_text(
        angle=270, align="right", baseline="top", dx=-4, dy=4, color=BLUE).encode(
        x="x:Q", y=alt.value(0), text="t:N")
    return alt.layer(paper, rules, note, *texts, band, line).add_params(*picks).properties(
        height=height, **WIDE)


def steering_path(table: pd.DataFrame) -> alt.LayerChart:
    """One photo pushed towards prompts: AS against IS, the nearest word written at the slider.

    Parameters
    ----------
    table : pandas.DataFrame
        Towards the prompt, of ``steering.pushes`` of several pictures.
    """
    columns = ["label", "prompt", "target", "attribute_score", "logit_change", "word"]
    table = table.loc[table["reachable"], columns].round({"attribute_score": 2})
    photo = _dropdown("photo", list(dict.fromkeys(table["label"])), "photo ")
    push = alt.param(name="push", value=30, bind=alt.binding_range(
        min=0, max=60, step=2, name="push: Image Score (degrees) "))
    prompts = list(dict.fromkeys(table["prompt"]))
    base = alt.Chart(table).transform_filter("datum.label == photo").encode(
        x=alt.X("target:Q", title="Image Score: how far it was pushed (degrees)",
                scale=alt.Scale(domain=[0, 62], nice=False)),
        y=alt.Y("attribute_score:Q", title="Attribute Score towards the prompt (degrees)"),
        color=alt.Color("prompt:N", title="pushed towards", sort=prompts,
                        legend=alt.Legend(orient="top", columns=1, labelLimit=260),
                        scale=alt.Scale(domain=prompts, range=[VERMILION, *MODELS])))
    here = base.transform_filter("datum.target == push")
    height, line = 360, 17
    # The words stand in the corner that the curves leave free, one line a prompt.
    words = [
        here.transform_filter(alt.datum.prompt == name).transform_calculate(
            t="'now nearest: ' + datum.word"
        ).mark_text(align="right", fontSize=12, fontWeight="bold").encode(
            x=alt.value("width"), y=alt.value(height - line * (len(prompts) - place)),
            text="t:N")
        for place, name in enumerate(prompts)
    ]
    return alt.layer(
        base.mark_line(strokeWidth=2.5),
        here.mark_point(filled=True, size=90, opacity=1).encode(
            tooltip=["prompt:N", "word:N",
                     alt.Tooltip("target:Q", title="IS (degrees)"),
                     alt.Tooltip("attribute_score:Q", title="AS (degrees)", format="+.1f"),
                     alt.Tooltip("logit_change:Q", title="largest logit change", format=".1e")]),
        *words,
    ).add_params(photo, push).properties(height=height, **WIDE)

PUSHES = {
    "null part removed": VERMILION, "random null direction": ORANGE, "common shift": PINK,
    "random direction": GREY, "principal direction": BLUE,
}


def perturbations(tables: dict[str, pd.DataFrame]) -> alt.LayerChart:
    """How far logits or probabilities move under pushes of one length, log axis.

    Parameters
    ----------
    tables : dict
        For each classifier's title: rows of ``validation.perturbations``.
    """
    floor = 1e-9
    measures = {"logit_change": "logit change (length)",
                "probability_change": "probability moved (0 to 1)"}
    counts = []
    for title, table in tables.items():
        for column, name in measures.items():
            place = (np.log10(table[column].clip(lower=floor)) * 5).round() / 5
            share = table.assign(bin=place).groupby(["kind", "bin"], sort=False).size()
            share = share / table.groupby("kind", sort=False).size()
            counts.append(share.rename("share").reset_index().assign(title=title, measure=name))
    counts = pd.concat(counts)
    counts["low"], counts["high"] = 10 ** (counts["bin"] - 0.1), 10 ** (counts["bin"] + 0.1)
    kinds = [kind for kind in PUSHES if kind in set(counts["kind"])]
    pick = _dropdown("classifier", list(tables), "classifier ")
    what = _dropdown("measure", list(measures.values()), "measure ")
    # One row a kind: five histograms on top of each other would hide one another.
    counts["place"] = counts["kind"].map({kind: i for i, kind in enumerate(kinds)})
    counts["top"] = counts["place"] - 0.85 * counts["share"] / counts["share"].max()
    names = ", ".join(f"'{kind}'" for kind in kinds)
    base = alt.Chart(counts).transform_filter(
        "datum.title == classifier && datum.measure == measure")
    return (
        base.mark_rect(opacity=0.9)
        .encode(
            x=alt.X("low:Q", title="change (log scale; 1e-9 stands for none at all)",
                    scale=alt.Scale(type="log", domain=[floor / 2, 100], nice=False),
                    axis=alt.Axis(format="~e", values=[1e-9, 1e-6, 1e-3, 1])),
            x2="high:Q",
            y=alt.Y("top:Q", title=None,
                    scale=alt.Scale(domain=[-1, len(kinds) - 0.8], reverse=True, nice=False),
                    axis=alt.Axis(values=[i - 0.3 for i in range(len(kinds))], grid=False,
                                  ticks=False, domain=False, labelLimit=150,
                                  labelExpr=f"[{names}][round(datum.value + 0.3)]")),
            y2="place:Q",
            color=alt.Color("kind:N", legend=None,
                            scale=alt.Scale(domain=kinds, range=[PUSHES[k] for k in kinds])),
            tooltip=["kind:N", alt.Tooltip("share:Q", title="share of pictures", format=".1%"),
                     alt.Tooltip("low:Q", title="from", format=".1e"),
                     alt.Tooltip("high:Q", title="to", format=".1e")],
        )
        .add_params(pick, what)
        .properties(height=62 * len(kinds), **WIDE)
    )


def perturbation_effects(table: pd.DataFrame) -> alt.LayerChart:
    """What pushes of one length do in the joint space: medians with intervals.

    Parameters
    ----------
    table : pandas.DataFrame
        ``validation.perturbation_summary``.
    """
    names = {"image_score": "Image Score (degrees)",
             "attribute_size": "|Attribute Score| (degrees)",
             "logit_change": "logit change (length)",
             "probability_change": "probability moved (0 to 1)",
             "flipped": "share with another class"}
    table = table.assign(name=table["quantity"].map(names))
    kinds = [kind for kind in PUSHES if kind in set(table["kind"])]
    pick = _dropdown("classifier", list(dict.fromkeys(table["title"])), "classifier ")
    what = _dropdown("measure", list(names.values()), "measure ")
    base = alt.Chart(table).transform_filter(
        "datum.title == classifier && datum.name == measure").encode(
        y=alt.Y("kind:N", sort=kinds, title=None, axis=alt.Axis(labelLimit=150)),
        color=alt.Color("kind:N", legend=None,
                        scale=alt.Scale(domain=kinds, range=[PUSHES[k] for k in kinds])))
    rules = base.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", title="median, 95 % interval over subjects",
                scale=alt.Scale(zero=True)), x2="high:Q")
    dots = base.mark_point(filled=True, size=110, opacity=1).encode(
        x="value:Q",
        tooltip=["kind:N", "name:N", alt.Tooltip("value:Q", format=".3~g"),
                 alt.Tooltip("low:Q", title="95 % from", format=".3~g"),
                 alt.Tooltip("high:Q", title="to", format=".3~g")])
    return alt.layer(rules, dots).add_params(pick, what).properties(
        height=38 * len(kinds), **WIDE)

LOSSES = {"MSE": BLUE, "cosine": ORANGE, "MSE + cosine": GREEN}


def _loss_colour(table: pd.DataFrame) -> alt.Color:
    names = [name for name in LOSSES if name in set(table["loss_title"])]
    return alt.Color(
        "loss_title:N", title="trained on", legend=alt.Legend(orient="top", symbolOpacity=1),
        scale=alt.Scale(domain=names, range=[LOSSES[name] for name in names]),
    )


def training_curves(table: pd.DataFrame, measure: str) -> alt.LayerChart:
    """Training and validation by epoch for every loss, one line a tested fold, beside ridge.

    Parameters
    ----------
    table : pandas.DataFrame
        ``comparison.curves``.
    measure : str
        ``mse`` or ``cosine``.
    """
    names = {"mse": "squared distance to the embedding",
             "cosine": "cosine with the embedding (−1 to 1)"}
    parts = {"validation": f"validation_{measure}", "training": f"train_{measure}"}
    long = pd.concat([
        table[["title", "loss_title", "fold", "epoch", "best", column]]
        .rename(columns={column: "value"}).assign(part=part) for part, column in parts.items()
    ]).round({"value": 4})
    ridge = long[table["architecture"].eq("ridge").reindex(long.index) & (long["epoch"] == 0)]
    ridge = ridge[ridge["part"] == "validation"][["value"]].mean().to_frame().T
    trained = long[long["title"].isin(table.loc[table["architecture"] != "ridge", "title"])]
    menu = list(dict.fromkeys(trained["title"]))
    menu.sort(key=lambda title: "MLP" not in title)  # the networks first
    pick = _dropdown("architecture", menu, "architecture ")
    base = alt.Chart(trained).transform_filter("datum.title == architecture").encode(
        x=alt.X("epoch:Q", title="epoch (0 = the constant it starts from)",
                axis=alt.Axis(tickMinStep=1), scale=alt.Scale(nice=False)),
        y=alt.Y("value:Q", title=names[measure], scale=alt.Scale(zero=False)),
        color=_loss_colour(trained))
    lines = base.encode(
        strokeDash=alt.StrokeDash(
            "part:N", title=None, scale=alt.Scale(domain=list(parts), range=[[1, 0], [4, 4]]),
            legend=alt.Legend(orient="bottom", symbolType="stroke", symbolStrokeWidth=2)),
        opacity=alt.Opacity("part:N", legend=None, scale=alt.Scale(domain=list(parts),
                                                                   range=[1, 0.6])),
        detail="fold:N")
    best = base.transform_filter("datum.best && datum.part == 'validation'").mark_point(
        filled=True, size=80, opacity=1).encode(
        tooltip=[alt.Tooltip("loss_title:N", title="trained on"), "fold:N",
                 alt.Tooltip("epoch:Q", title="best epoch"),
                 alt.Tooltip("value:Q", title="validation", format=".3f")])
    level = alt.Chart(ridge).mark_rule(color=GREY, strokeDash=[6, 4], strokeWidth=2).encode(
        y="value:Q", tooltip=[alt.Tooltip("value:Q", title="ridge, validation", format=".3f")])
    # Where two losses take the same course, the thinner line lies on the thicker one.
    courses = [
        lines.transform_filter(alt.datum.loss_title == name).mark_line(strokeWidth=width)
        for name, width in zip(LOSSES, (5, 3, 1.5))
    ]
    return alt.layer(level, *courses, best).add_params(pick).properties(height=320, **WIDE)


def cosine_distributions(table: pd.DataFrame, summary: pd.DataFrame) -> alt.LayerChart:
    """Cosine of held-out pictures under every translator: a hill each, its mean with interval.

    Parameters
    ----------
    table : pandas.DataFrame
        ``comparison.cosines``.
    summary : pandas.DataFrame
        ``comparison.architecture_table``.
    """
    titles = list(dict.fromkeys(table["title"]))
    losses = list(dict.fromkeys(table["loss_title"]))
    grid = np.linspace(np.floor(table["cosine"].min() * 2) / 2, 1, 61)
    hills = []
    for (loss, title), group in table.groupby(["loss_title", "title"], sort=False):
        density = scipy.stats.gaussian_kde(group["cosine"])(grid)
        place = titles.index(title)
        hills.append(pd.DataFrame({
            "loss_title": loss, "title": title, "cosine": grid.round(3), "foot": place,
            "top": (place - 0.85 * density / density.max()).round(3)}))
    # Ridge and the constant are the same whatever the others are trained on.
    fixed = summary[~summary["title"].isin(
        summary.loc[~summary["architecture"].isin(["ridge", "constant"]), "title"])]
    means = pd.concat([summary.drop(fixed.index),
                       *[fixed.assign(loss_title=loss) for loss in losses]])
    means = means[["loss_title", "title", "cosine", "cosine_low", "cosine_high"]]
    means = means.assign(foot=means["title"].map(titles.index) + 0.08)  # below the hill
    pick = _dropdown("loss", losses, "trained on ")
    colours = [BLUE, *[GREEN] * (len(titles) - 2), GREY]
    names = ", ".join(f"'{title}'" for title in titles)
    y = {"scale": alt.Scale(domain=[-1, len(titles) - 0.8], reverse=True, nice=False),
         "axis": alt.Axis(values=list(range(len(titles))), title=None, labelLimit=130,
                          labelExpr=f"[{names}][datum.value]", labelBaseline="bottom")}
    x = alt.X("cosine:Q", title="cosine with the own embedding (−1 to 1)",
              axis=alt.Axis(values=[-1, -0.5, 0, 0.5, 1], format=".1f"),
              scale=alt.Scale(domain=[float(grid[0]), 1], nice=False))
    colour = alt.Color("title:N", legend=None, scale=alt.Scale(domain=titles, range=colours))
    shown = "datum.loss_title == loss"
    areas = alt.Chart(pd.concat(hills)).transform_filter(shown).mark_area(
        opacity=0.55, orient="vertical").encode(
        x=x, y=alt.Y("foot:Q", **y), y2="top:Q", color=colour)
    base = alt.Chart(means).transform_filter(shown).encode(y=alt.Y("foot:Q", **y))
    rules = base.mark_rule(strokeWidth=4, color=GREY).encode(x="cosine_low:Q", x2="cosine_high:Q")
    dots = base.mark_point(filled=True, size=70, color="#222", stroke="#fff", opacity=1).encode(
        x=x, tooltip=["title:N", alt.Tooltip("cosine:Q", title="mean cosine", format=".3f"),
                      alt.Tooltip("cosine_low:Q", title="95 % from", format=".3f"),
                      alt.Tooltip("cosine_high:Q", title="to", format=".3f")])
    return alt.layer(areas, rules, dots).add_params(pick).properties(
        height=62 * len(titles), **WIDE)


def translator_differences(table: pd.DataFrame) -> alt.LayerChart:
    """Paired difference of every trained translator to ridge: 95 %, and after Bonferroni (thin).

    Parameters
    ----------
    table : pandas.DataFrame
        ``comparison.paired_differences``.
    """
    names = {"cosine": "cosine (right = better)",
             "angle": "angle, degrees (left = better)"}
    table = table.assign(name=table["measure"].map(names)).round(5)
    titles = list(dict.fromkeys(table["title"]))
    pick = _dropdown("measure", list(names.values()), "measure ")
    base = alt.Chart(table).transform_filter("datum.name == measure").encode(
        y=alt.Y("title:N", sort=titles, title=None, axis=alt.Axis(labelLimit=130)),
        yOffset=alt.YOffset("loss_title:N", sort=list(LOSSES)),
        color=_loss_colour(table))
    thin = base.mark_rule(strokeWidth=1.5).encode(
        x=alt.X("low_adjusted:Q", title="paired difference to ridge, held out",
                axis=alt.Axis(tickCount=5, labelFlush=False)),
        x2="high_adjusted:Q")
    thick = base.mark_rule(strokeWidth=5).encode(x="low:Q", x2="high:Q")
    dots = base.mark_point(filled=True, size=90, opacity=1, stroke="#fff").encode(
        x="value:Q",
        tooltip=["title:N", alt.Tooltip("loss_title:N", title="trained on"),
                 alt.Tooltip("value:Q", title="difference", format="+.4f"),
                 alt.Tooltip("low:Q", title="95 % from", format="+.4f"),
                 alt.Tooltip("high:Q", title="to", format="+.4f"),
                 alt.Tooltip("low_adjusted:Q", title="adjusted from", format="+.4f"),
                 alt.Tooltip("high_adjusted:Q", title="to", format="+.4f")])
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color=GREY, strokeDash=[4, 4]).encode(
        x="x:Q")
    return alt.layer(zero, thin, thick, dots).add_params(pick).properties(
        height=60 * len(titles), **WIDE)


def translator_photos(table: pd.DataFrame, label: str = "photo ") -> alt.LayerChart:
    """Photos nearest to one photo as every translator reads it: one row a translator.

    Parameters
    ----------
    table : pandas.DataFrame
        The first table of ``comparison.readings``, with thumbnails.
    label : str
        Of the menu.
    """
    table = table.assign(state=table["state"].where(table["place"] != "photo", "the photo"))
    table["place"] = table["place"].replace("photo", "1")
    places = sorted(set(table["place"]), key=lambda place: (place.isdigit(), place))
    states = ["the photo", *(s for s in dict.fromkeys(table["state"]) if s != "the photo")]
    pick = _dropdown("chosen", list(dict.fromkeys(table["name"])), label)
    base = alt.Chart(table).transform_filter("datum.name == chosen").encode(
        x=alt.X("place:N", title="rank in the joint space (1 = nearest)",
                scale=alt.Scale(domain=places),
                axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False)),
        y=alt.Y("state:N", sort=states, title=None, scale=alt.Scale(domain=states),
                axis=alt.Axis(domain=False, ticks=False, labelLimit=90,
                              labelExpr="split(datum.label, ' ')")),
        tooltip=[alt.Tooltip("label:N"), alt.Tooltip("angle:Q", title="degrees", format=".1f")])
    return alt.layer(*_captioned(base, 56, len(places))).add_params(pick).properties(
        height=86 * len(states), **WIDE)


def space_ratio(table: pd.DataFrame) -> alt.LayerChart:
    """Every classifier in every joint space: a measure with its interval, beside the control.

    Parameters
    ----------
    table : pandas.DataFrame
        ``towers.space_table``.
    """
    table = table[table["quantity"].isin(QUANTITIES)].copy()
    table["name"] = table["quantity"].map(QUANTITIES)
    table["own"] = np.where(table["circular"], "in the space it built (control)", "in another's")
    spaces, titles = (list(dict.fromkeys(table[column])) for column in ("space", "title"))
    about, parts = "joint space", "' '"
    if table["circular"].any():  # a space is called by the classifier that built it
        titles, about, parts = spaces, "joint space built from", "'-'"
    pick = _dropdown("quantity", [QUANTITIES[q] for q in ("ratio", "image_score",
                                                          "attribute_score")], "quantity ")
    kind = alt.param(name="shown", value="null space removed", bind=alt.binding_radio(
        options=["null space removed", "random control"], name="show "))
    base = alt.Chart(table).transform_filter(
        "datum.name == quantity && datum.kind == shown").encode(
        y=alt.Y("space:N", sort=spaces, title=about,
                axis=alt.Axis(labelExpr=f"split(datum.label, {parts})", labelLimit=120)),
        yOffset=alt.YOffset("title:N", sort=titles),
        color=alt.Color("title:N", title="classifier", sort=titles,
                        legend=alt.Legend(orient="top", columns=2),
                        scale=alt.Scale(domain=titles, range=MODELS)))
    rules = base.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", title="median, 95 % interval over subjects",
                scale=alt.Scale(zero=True)), x2="high:Q")
    dots = base.mark_point(filled=True, size=120, opacity=1, strokeWidth=2).encode(
        x="value:Q",
        shape=alt.Shape("own:N", legend=None,  # the caption says what a cross is
                        scale=alt.Scale(domain=["in another's", "in the space it built (control)"],
                                        range=["circle", "cross"])),
        tooltip=["title:N", "space:N", "own:N", "name:N", alt.Tooltip("value:Q", format=".2f"),
                 alt.Tooltip("low:Q", title="95 % from", format=".2f"),
                 alt.Tooltip("high:Q", title="to", format=".2f")])
    return alt.layer(rules, dots).add_params(pick, kind).properties(
        height=28 * len(titles) * len(spaces), **WIDE)


def truncated_heads(table: pd.DataFrame) -> alt.LayerChart:
    """Scores against the rank of the head: full heads and truncated ones, with intervals.

    Parameters
    ----------
    table : pandas.DataFrame
        ``truncation.truncated_heads``.
    """
    table = table[table["quantity"].isin(QUANTITIES)].copy()
    table["name"] = table["quantity"].map(QUANTITIES)
    titles = list(dict.fromkeys(table["title"]))
    pick = _dropdown("quantity", [QUANTITIES[q] for q in ("ratio", "image_score",
                                                          "attribute_score")], "quantity ")
    model = _dropdown("classifier", ["all", *titles], "classifier ")
    base = alt.Chart(table).transform_filter(
        "datum.name == quantity && (classifier == 'all' || datum.title == classifier)").encode(
        x=alt.X("rank:Q", title="directions that the head still reads (rank)",
                scale=alt.Scale(domain=[0, int(table["rank"].max()) + 40], nice=False)),
        color=_model_colour(table),
        strokeDash=alt.StrokeDash("kind:N", title=None, legend=alt.Legend(
            orient="top", columns=2, symbolType="stroke", symbolStrokeWidth=2),
            scale=alt.Scale(domain=["null space removed", "random control"],
                            range=[[1, 0], [5, 4]])))
    lines = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("value:Q", title="median over pictures", scale=alt.Scale(zero=True)))
    rules = base.transform_filter("datum.kind == 'null space removed'").mark_rule(
        strokeWidth=2.5, opacity=0.8).encode(y="low:Q", y2="high:Q", strokeDash=alt.Undefined)
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(
        y="value:Q", strokeDash=alt.Undefined,
        tooltip=["title:N", "kind:N", alt.Tooltip("rank:Q"),
                 alt.Tooltip("null_dim:Q", title="null dimensions"),
                 alt.Tooltip("null_share:Q", title="share of the feature unseen", format=".0%"),
                 alt.Tooltip("accuracy:Q", format=".1%"),
                 alt.Tooltip("agreement:Q", title="same class as the full head", format=".1%"),
                 alt.Tooltip("value:Q", format=".2f"),
                 alt.Tooltip("low:Q", title="95 % from", format=".2f"),
                 alt.Tooltip("high:Q", title="to", format=".2f")])
    return alt.layer(lines, rules, dots).add_params(pick, model).properties(height=340, **WIDE)


def truncated_classes(table: pd.DataFrame) -> alt.LayerChart:
    """The cloud of classes while a slider cuts the head down, beside its control.

    Parameters
    ----------
    table : pandas.DataFrame
        ``truncation.truncated_classes``.
    """
    labels, titles = (list(dict.fromkeys(table[column])) for column in ("label", "title"))
    ranks, null, height = sorted(table["rank"].unique().tolist()), "null space removed", 380
    kinds = {null: "", "random control": "_control"}
    scores = ["attribute_score", "image_score", "attribute_score_control", "image_score_control"]
    # One row a head, its classes in lists: the page carries numbers and not names of columns.
    heads = table.groupby(["title", "rank", "null_share", "agreement"], sort=False)
    packed = pd.DataFrame([
        dict(zip(("title", "rank", "unseen", "same"), key)) | {
            "l": [labels.index(label) for label in own["label"]]} | {
            short: own[name].astype(float).round(1 if "image" in name else 2).tolist()
            for short, name in zip(("a", "i", "b", "j"), scores)} | {
            "is": own[scores[1]].median(), "isc": own[scores[3]].median()}
        for key, own in heads])
    middle = table.groupby(["title", "rank"], sort=False)[scores].median().reset_index()
    middle = pd.concat([
        middle[["title", "rank"]].assign(
            kind=kind, a=middle[f"attribute_score{end}"], i=middle[f"image_score{end}"])
        for kind, end in reversed(kinds.items())]).round(2)
    pick = _dropdown("classifier", titles, "classifier ")
    step = ranks[1] - ranks[0] if len(ranks) > 1 else 1
    rank = alt.param(name="rank", value=ranks[len(ranks) // 2], bind=alt.binding_range(
        min=ranks[0], max=ranks[-1], step=step, name="rank of the head (directions) "))
    here = "datum.title == classifier && datum.rank == rank"
    # One frame for all ranks; the few dots beyond it would squeeze the others.
    low, high = np.quantile(table[[scores[0], scores[2]]].to_numpy(), [0.01, 0.99])
    top = np.quantile(table[[scores[1], scores[3]]].to_numpy(), 0.99)
    x = alt.X("a:Q", title="Attribute Score towards the own class (degrees; + = closer)",
              scale=alt.Scale(domain=[float(low) - 1, float(high) + 1], nice=False))
    y = alt.Y("i:Q", title="Image Score (degrees)", scale=alt.Scale(
        domain=[0, 1.05 * float(top)], nice=False))
    colour = alt.Color("kind:N", title=None, scale=KINDS, legend=alt.Legend(
        orient="top", symbolOpacity=1, symbolType="circle"))
    tips = [alt.Tooltip("label:N", title="class"), "kind:N",
            alt.Tooltip("a:Q", title="AS (degrees)", format="+.2f"),
            alt.Tooltip("i:Q", title="IS (degrees)", format=".1f")]

    def cloud(kind: str, first: str, second: str) -> alt.Chart:
        return alt.Chart(packed).transform_filter(here).transform_flatten(
            ["l", first, second]).transform_calculate(
            a=f"datum.{first}", i=f"datum.{second}", kind=f"'{kind}'",
            label=f"{json.dumps(labels)}[datum.l]").mark_circle(
            size=34, opacity=0.5, clip=True).encode(x=x, y=y, color=colour, tooltip=tips)

    path = alt.Chart(middle).transform_filter("datum.title == classifier").encode(
        x=x, y=y, color=colour)
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color=GREY, strokeDash=[4, 4]).encode(
        x="x:Q")
    said = alt.Chart(packed[["title", "rank", "unseen", "same", "is", "isc"]].round(4))
    said = said.transform_filter(here).transform_calculate(
        text="[format(datum.same, '.1%') + ' keep their class', "
             "format(datum.unseen, '.0%') + ' of a feature unseen', "
             "'IS ' + format(datum.is, '.1f') + '° (control ' + format(datum.isc, '.1f') + '°)']"
    ).mark_text(
        align="left", baseline="top", fontSize=13, fontWeight="bold", lineHeight=18
    ).encode(x=alt.value(8), y=alt.value(height - 60), text="text:N")
    return alt.layer(
        zero, cloud("random control", "b", "j"), cloud(null, "a", "i"),
        path.mark_line(strokeWidth=2).encode(order="rank:Q", detail="kind:N"),
        path.transform_filter("datum.rank == rank").mark_point(
            filled=True, opacity=1, stroke="#fff", strokeWidth=2).encode(
            size=alt.Size("kind:N", legend=None, scale=alt.Scale(
                domain=list(kinds), range=[120, 260])),
            tooltip=["kind:N", alt.Tooltip("a:Q", title="median AS (degrees)", format="+.2f"),
                     alt.Tooltip("i:Q", title="median IS (degrees)", format=".1f")]),
        said).add_params(rank, pick).properties(height=height, **WIDE)


def robustness(table: pd.DataFrame) -> alt.LayerChart:
    """Accuracy of heads on principal features against heads on translated ones, a dot a subset.

    Parameters
    ----------
    table : pandas.DataFrame
        ``robustness.group_accuracies``.
    """
    hover = alt.selection_point(fields=["subset"], on="pointerover", empty=True, nearest=True)
    legend = alt.selection_point(fields=["title"], bind="legend")
    # Of a single subset there is nothing to bring out.
    several = len(table["subset"].unique()) > 1
    ends = [float(table[["before", "after"]].to_numpy().min()) - 0.02, 1.0]
    scale = alt.Scale(domain=ends, nice=False)
    table = table.assign(all=table["chance"] == table["chance"].min()).round(4)
    colour = alt.Color("title:N", title="classifier",
                       scale=alt.Scale(domain=list(dict.fromkeys(table["title"])),
                                       range=MODELS[: table["title"].nunique()]))
    whole = alt.Chart(table).transform_filter("datum.all").encode(color=colour)
    sides = {"strokeWidth": 1.5, "clip": True}
    across = whole.mark_rule(**sides).encode(
        x=alt.X("before_low:Q", scale=scale), x2="before_high:Q", y="after:Q")
    along = whole.mark_rule(**sides).encode(
        x="before:Q", y=alt.Y("after_low:Q", scale=scale), y2="after_high:Q")
    dots = alt.Chart(table).mark_point(filled=True).encode(
        x=alt.X("before:Q", title="balanced accuracy on principal features", scale=scale,
                axis=alt.Axis(format="%")),
        y=alt.Y("after:Q", title="balanced accuracy on translated ones", scale=scale,
                axis=alt.Axis(format="%")),
        color=alt.Color("title:N", title="classifier", legend=alt.Legend(orient="top", columns=2),
                        scale=alt.Scale(domain=list(dict.fromkeys(table["title"])),
                                        range=MODELS[: table["title"].nunique()])),
        shape=alt.Shape("all:N", legend=None,
                        scale=alt.Scale(domain=[False, True], range=["circle", "diamond"])),
        size=alt.condition("datum.all", alt.value(230), alt.value(55)),
        opacity=alt.condition(legend & hover if several else legend,
                              alt.value(0.85), alt.value(0.15)),
        tooltip=["title:N", "subset:N",
                 alt.Tooltip("before:Q", title="principal features", format=".1%"),
                 alt.Tooltip("before_low:Q", title="95 % over subjects from", format=".1%"),
                 alt.Tooltip("before_high:Q", title="to", format=".1%"),
                 alt.Tooltip("after:Q", title="translated", format=".1%"),
                 alt.Tooltip("after_low:Q", title="95 % over subjects from", format=".1%"),
                 alt.Tooltip("after_high:Q", title="to", format=".1%"),
                 alt.Tooltip("chance:Q", format=".1%")]).add_params(legend, *[hover] * several)
    line = alt.Chart(pd.DataFrame({"x": ends, "y": ends})).mark_line(
        color=GREY, strokeDash=[4, 4]).encode(
        x=alt.X("x:Q", scale=scale), y=alt.Y("y:Q", scale=scale))
    return alt.layer(line, across, along, dots).properties(height=380, **WIDE)

def method(table: pd.DataFrame) -> alt.LayerChart:
    """The method's four steps for one photo; a switch takes the null part away.

    Parameters
    ----------
    table : pandas.DataFrame
        ``overview.method_steps`` with thumbnails.
    """
    states = list(dict.fromkeys(table["state"]))
    table = table.assign(whole=table["state"] == states[0])
    pick = _dropdown("chosen", list(dict.fromkeys(table["name"])), "photo ")
    shown = alt.param(name="shown", value=states[0], bind=alt.binding_radio(
        options=states, name="feature "))
    # On paper coordinates: x from 0 to 100, y in lines of text from the top.
    x = alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, 100], nice=False))
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[0, 12.2], reverse=True, nice=False))
    one = alt.Chart(table).transform_filter("datum.name == chosen && datum.state == shown")

    def write(line: float, expression: str, x0: float = 2, **style) -> alt.Chart:
        return one.transform_calculate(t=expression, x=str(x0), y=str(line)).mark_text(
            align="left", baseline="middle", **style).encode(
            x=x, y=y, text="t:N")

    titles = pd.DataFrame({
        "x": 2, "y": [3.4, 5.9, 8.1, 10.3],
        "t": ["a  Split the feature by what the head reads",
              "b  The head answers: its largest logits",
              "c  The translator answers: the nearest words", "d  Measure what moved"]})
    bar = one.transform_calculate(
        x="2", y="4.1", y2="5.1", end="2 + 96 * (1 - datum.null_share)", last="98")
    note = "format(datum.null_share, '.0%') + ' null'"
    return alt.layer(
        one.transform_calculate(x="2", y="1.5").mark_image(
            width=74, height=74, align="left", baseline="middle").encode(x=x, y=y, url="image:N"),
        write(1.5, "'photo of: ' + datum.name", 28, fontSize=14),
        alt.Chart(titles).mark_text(
            align="left", baseline="middle", fontWeight="bold", fontSize=13).encode(
            x=x, y=y, text="t:N"),
        bar.mark_rect(color=BLUE).encode(x=x, x2="end:Q", y=y, y2="y2:Q"),
        bar.mark_rect(color=VERMILION, stroke=VERMILION, strokeWidth=1.5).encode(
            x=alt.X("end:Q", axis=None), x2="last:Q", y=y, y2="y2:Q",
            fillOpacity=alt.condition("datum.whole", alt.value(1), alt.value(0))),
        write(4.6, "format(1 - datum.null_share, '.0%') + ' principal'", 4,
              color="rgb(255,255,255)", fontWeight="bold"),  # so written, white in the dark too
        one.transform_calculate(t=note, x="98", y="5.5").mark_text(
            align="right", color=VERMILION, fontWeight="bold").encode(x=x, y=y, text="t:N"),
        write(6.8, "datum.logits", fontSize=14, limit=340),
        write(9.0, "datum.words", fontSize=14, limit=340),
        write(11.2, "datum.whole ? 'IS 0°, AS 0°: this is the photo itself' : 'IS ' + "
              "format(datum.image_score, '.1f') + '°, AS ' + "
              "format(datum.attribute_score, '+.1f') + '° towards its own name'", fontSize=14),
    ).add_params(pick, shown).properties(height=420, **WIDE)


def null_sizes(table: pd.DataFrame) -> alt.LayerChart:
    """How many of a head's features are principal and how many null, one row a classifier.

    Parameters
    ----------
    table : pandas.DataFrame
        title, features, null_dim.
    """
    table = table.assign(
        principal=table["features"] - table["null_dim"],
        share=table["null_dim"] / table["features"],
    ).sort_values(["share", "features", "title"], ascending=False)
    table["text"] = [f"{n:,} of {m:,}" for n, m in zip(table["null_dim"], table["features"])]
    long = table.melt(
        ["title", "features", "share", "text"], ["null_dim", "principal"], "space", "count")
    names = {"null_dim": "null", "principal": "principal"}
    long["space"] = long["space"].map(names)
    tip = ["title:N", alt.Tooltip("space:N"), alt.Tooltip("count:Q", title="dimensions"),
           alt.Tooltip("features:Q"), alt.Tooltip("share:Q", title="null share", format=".1%")]
    y = alt.Y("title:N", sort=table["title"].tolist(), title=None, axis=alt.Axis(labelLimit=150))
    # Beside the longest bar stay 95 px for its label, on a phone too.
    room = alt.expr(f"{table['features'].max()} * width / max(width - 95, 60)")
    bars = alt.Chart(long).mark_bar().encode(
        y=y, x=alt.X("count:Q", title="features (dimensions of the head's input)",
                     scale=alt.Scale(domainMax=room, nice=False), axis=alt.Axis(tickCount=8)),
        tooltip=tip,
        order=alt.Order("space:N"),
        color=alt.Color("space:N", title=None, legend=alt.Legend(orient="top", columns=2),
                        scale=alt.Scale(domain=list(names.values()), range=[VERMILION, BLUE])))
    # Beside the bar: a label inside would not fit a null space of 24 dimensions.
    texts = alt.Chart(table).mark_text(align="left", dx=4).encode(
        y=y, x="features:Q", text="text:N")
    return alt.layer(bars, texts).properties(height=22 * len(table) + 10, **WIDE)


# --- how fast, and how it grows -------------------------------------------------------------------

OUTCOMES = {"bound met": (BLUE, "circle"), "bound missed": (ORANGE, "triangle-up"),
            "no bound": (GREEN, "square")}


def _told_rows(table: pd.DataFrame, lines: Sequence[str]) -> tuple[alt.Chart, ...]:
    """A base with one row a line of the table, and its texts above the marks.

    Beside an axis the same words would leave no room for the marks on a phone.
    """
    base = alt.Chart(table).encode(y=alt.Y("row:O", axis=None))
    texts = [
        base.mark_text(align="left", yOffset=offset, limit=alt.expr("width"),
                       fontWeight="bold" if first else "normal").encode(
            x=alt.value(0), text=f"{name}:N")
        for name, offset, first in zip(lines, (-24, -8), (True, False))
    ]
    return base, *texts


def races(table: pd.DataFrame) -> alt.LayerChart:
    """What others take over what we take, one row a pair: dot and spread over rounds, bound, 1.

    Parameters
    ----------
    table : pandas.DataFrame
        ``speed.races``.
    """
    named = np.where(table["case"] == "", table["race"], table["race"] + ", " + table["case"])
    outcome = np.select([table["bound"].isna(), table["met"].eq(True)],
                        ["no bound", "bound met"], "bound missed")
    # What is ours is named where a race has several of it: a phone shows some 45 letters.
    several = table.groupby("race")["ours"].transform("nunique") > 1
    table = table.assign(
        row=range(len(table)), name=named, outcome=outcome,
        against=np.where(several, table["ours"] + " against ", "against ") + table["peer"],
        text=table["ratio"].map("{:.3g}×".format))
    table = table[["row", "name", "against", "ours", "work", "outcome", "ratio", "low", "high",
                   "bound", "text"]]
    kept = [name for name in OUTCOMES if (outcome == name).any()]
    ends = table[["low", "bound", "high"]].to_numpy(float)
    # Room for the number beside the dot.
    domain = [0.7 * np.nanmin(ends, initial=0.7), 4 * np.nanmax(ends, initial=0.5)]
    base, *texts = _told_rows(table, ["name", "against"])
    x = {"title": "theirs / ours, time or memory (log scale)",
         "scale": alt.Scale(type="log", domain=domain, nice=False),
         "axis": alt.Axis(grid=False, tickCount=6, format="~g")}
    base = base.encode(tooltip=[
        alt.Tooltip("name:N", title="race"), alt.Tooltip("ours:N"),
        alt.Tooltip("against:N", title=" "), alt.Tooltip("work:N"),
        alt.Tooltip("ratio:Q", title="theirs / ours", format=".3g"),
        alt.Tooltip("low:Q", title="slowest round", format=".3g"),
        alt.Tooltip("high:Q", title="best round", format=".3g"),
        alt.Tooltip("bound:Q", format=".3g"), alt.Tooltip("outcome:N")])
    one = alt.Chart(pd.DataFrame({"x": [1]})).mark_rule(color=GREY, strokeDash=[4, 4]).encode(
        x="x:Q")
    colour = alt.Color("outcome:N", title=None, legend=alt.Legend(orient="top", columns=3),
                       scale=alt.Scale(domain=kept, range=[OUTCOMES[k][0] for k in kept]))
    shape = alt.Shape("outcome:N", title=None, legend=alt.Legend(orient="top", columns=3),
                      scale=alt.Scale(domain=kept, range=[OUTCOMES[k][1] for k in kept]))
    spread = base.mark_rule(strokeWidth=3, yOffset=10).encode(
        x=alt.X("low:Q", **x), x2="high:Q", color=colour)
    bounds = base.mark_tick(color=GREY, thickness=3, size=20, yOffset=10).encode(x="bound:Q")
    dots = base.mark_point(filled=True, size=90, opacity=1, yOffset=10).encode(
        x="ratio:Q", color=colour, shape=shape)
    numbers = base.mark_text(align="left", dx=8, yOffset=10).encode(x="high:Q", text="text:N")
    return alt.layer(one, *texts, bounds, spread, dots, numbers).properties(
        height=62 * max(len(table), 1), **WIDE)


def exponents(table: pd.DataFrame) -> alt.LayerChart:
    """With which power time grows, one row a size: dot and 95 % interval; 1 is in proportion.

    Parameters
    ----------
    table : pandas.DataFrame
        ``speed.growth``.
    """
    table = _grown(table).assign(row=range(len(table)))
    table["text"] = [f"{value:.2f}".replace("-", "−") for value in table["exponent"]]
    table = table[["row", "name", "who", "range", "exponent", "low", "high", "text"]]
    base, *texts = _told_rows(table, ["name", "range"])
    base = base.encode(tooltip=[
        alt.Tooltip("name:N", title="what grows"), alt.Tooltip("who:N"), alt.Tooltip("range:N"),
        alt.Tooltip("exponent:Q", format=".2f"),
        alt.Tooltip("low:Q", title="95 % from", format=".2f"),
        alt.Tooltip("high:Q", title="to", format=".2f")])
    ends = table[["exponent", "low", "high"]].to_numpy(float)
    left, right = np.nanmin(ends, initial=-0.1) - 0.1, np.nanmax(ends, initial=1.2)
    domain = [left, right + 0.2 * (right - left)]  # room for the number
    rules = alt.Chart(pd.DataFrame({"x": [0, 1]})).mark_rule(
        color=GREY, strokeDash=[4, 4]).encode(x="x:Q")
    spread = base.mark_rule(strokeWidth=3, color=BLUE, yOffset=10).encode(
        x=alt.X("low:Q", title="exponent (0: free, 1: in proportion, 2: its square)",
                axis=alt.Axis(grid=False, tickCount=6),
                scale=alt.Scale(domain=domain, nice=False)), x2="high:Q")
    dots = base.mark_point(filled=True, size=90, opacity=1, color=BLUE, yOffset=10).encode(
        x="exponent:Q")
    numbers = base.mark_text(align="left", dx=8, yOffset=10).encode(x="right:Q", text="text:N")
    numbers = numbers.transform_calculate(
        right="isValid(datum.high) ? datum.high : datum.exponent")
    return alt.layer(rules, *texts, spread, dots, numbers).properties(
        height=62 * max(len(table), 1), **WIDE)


def growth_curves(table: pd.DataFrame) -> alt.LayerChart:
    """Time against size with the fitted power, both on log scales; a menu picks what grows.

    Parameters
    ----------
    table : pandas.DataFrame
        ``speed.growth``.
    """
    table = _grown(table)
    points = table[["name", "of", "exponent", "at_one", "sizes", "values"]].explode(
        ["sizes", "values"]).astype({"sizes": float, "values": float})
    points["fitted"] = points["at_one"] * points["sizes"] ** points["exponent"]
    # Four digits: what a chart can show, and no more than was measured.
    points[["values", "fitted"]] = points[["values", "fitted"]].map(
        lambda value: float(f"{value:.4g}"))
    pick = _choice("grows", list(dict.fromkeys(points["name"])) or ["nothing"], "what grows ")
    base = alt.Chart(points[["name", "of", "sizes", "values", "fitted"]]).transform_filter(
        "datum.name == grows")
    x = alt.X("sizes:Q", title="size (log scale)", axis=alt.Axis(tickCount=5, format="~s"),
              scale=alt.Scale(type="log", nice=False, padding=14))
    line = base.mark_line(color=GREY, strokeDash=[4, 4]).encode(x=x, y="fitted:Q")
    dots = base.mark_point(filled=True, size=90, opacity=1, color=BLUE).encode(
        x=x, y=alt.Y("values:Q", title="seconds (log scale)",
                     axis=alt.Axis(tickCount=5, format="~g"),
                     scale=alt.Scale(type="log", nice=False, padding=14)),
        tooltip=[alt.Tooltip("of:N", title="what grows"), alt.Tooltip("sizes:Q", title="size"),
                 alt.Tooltip("values:Q", title="seconds"),
                 alt.Tooltip("fitted:Q", title="fitted")])
    return alt.layer(line, dots).add_params(pick).properties(height=280, **WIDE)


def _grown(table: pd.DataFrame) -> pd.DataFrame:
    """Curves of seconds with a name of their own and their sizes in words."""
    table = table[table["unit"] == "seconds"]
    sizes, many = (table.groupby("race")[name].transform("nunique") > 1 for name in ("of", "who"))
    return table.assign(
        name=table["race"] + np.where(sizes, ", " + table["of"], "")
        + np.where(many, ": " + table["who"], "")
        + np.where(table["case"] == "", "", ", " + table["case"]),
        range=[f"{of} from {min(sizes):,.0f} to {max(sizes):,.0f}"
               for of, sizes in zip(table["of"], table["sizes"])])


# --- what could fool us: noise floor and size of the null space ----------------------------------

REMOVAL = QUANTITIES | {"logit_change": "largest logit change"}
BY = {"count": "the same number for every head", "energy": "the same share of each head's energy"}


def _of(by: str, table: pd.DataFrame) -> pd.DataFrame:
    """Rows of one ``by`` with the menus' names, and levels in percent."""
    whole = 1.0
    own = table[table["by"] == by]
    if by == "count":  # in percent of the narrowest feature
        whole = float((own["removed"] / own["share"]).min())
    return own.assign(x=(100 * own["level"] / whole).round(3), way=BY[by])


def removal_curves(table: pd.DataFrame) -> alt.LayerChart:
    """Scores against how many of the weakest directions are removed, beside the control.

    Parameters
    ----------
    table : pandas.DataFrame
        ``truncation.removal_curves``.
    """
    table = pd.concat([_of(by, table) for by in BY])
    table["name"] = table["quantity"].map(REMOVAL)
    null = table[(table["head_energy"] == 0) & (table["way"] == BY["count"])]
    null = null.groupby(["title", "way"], sort=False)["x"].max().reset_index()
    columns = ["title", "way", "x", "removed", "head_energy", "feature_share", "kind", "name"]
    table = table[[*columns, "value", "low", "high"]].round(
        {"value": 3, "low": 3, "high": 3, "head_energy": 4, "feature_share": 3})
    titles = list(dict.fromkeys(table["title"]))
    pick = _dropdown("quantity", [REMOVAL[q] for q in (
        "image_score", "attribute_score", "logit_change", "ratio")], "quantity ")
    way = _dropdown("removed", list(BY.values()), "remove ")
    shown = alt.param(name="shown", value="with the control", bind=alt.binding_radio(
        options=["with the control", "excess over the control"], name="show "))
    model = _dropdown("classifier", titles, "classifier ")
    x = alt.X("x:Q", scale=alt.Scale(type="sqrt", domain=[0, 100], nice=False),
              axis=alt.Axis(values=[1, 5, 10, 25, 50, 75, 100], labelExpr="datum.value + ' %'"),
              title="removed, of all directions or of the head's energy")
    kinds = ["weakest directions removed", "random control", "excess"]
    base = alt.Chart(table).transform_filter(
        "datum.name == quantity && datum.way == removed && datum.title == classifier && "
        "(datum.kind == 'excess') == (shown == 'excess over the control')"
    ).encode(x=x, color=alt.Color(
        "kind:N", title=None, legend=alt.Legend(orient="top", columns=2, symbolOpacity=1),
        scale=alt.Scale(domain=kinds, range=[VERMILION, GREY, VERMILION])))
    bands = base.mark_area(opacity=0.22).encode(
        y=alt.Y("low:Q", title="median over pictures"), y2="high:Q")
    lines = base.mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=40, filled=True)).encode(
        y="value:Q",
        tooltip=[alt.Tooltip("title:N", title="classifier"), "kind:N",
                 alt.Tooltip("removed:Q", title="directions removed"),
                 alt.Tooltip("head_energy:Q", title="share of the head's energy", format=".1%"),
                 alt.Tooltip("feature_share:Q", title="share of the feature removed",
                             format=".0%"),
                 alt.Tooltip("name:N", title="quantity"), alt.Tooltip("value:Q", format=".2f"),
                 alt.Tooltip("low:Q", title="95 % from", format=".2f"),
                 alt.Tooltip("high:Q", title="to", format=".2f")])
    edge = alt.Chart(null).transform_filter(
        "datum.way == removed && datum.title == classifier").encode(x=x)
    edge = edge.mark_rule(color=VERMILION, strokeDash=[3, 3]), edge.mark_text(
        text="← null space", align="right", dx=-4, color=VERMILION).encode(y=alt.value(10))
    zero = alt.Chart(pd.DataFrame({"y": [0]})).mark_rule(color=GREY, strokeDash=[4, 4]).encode(
        y="y:Q")
    return alt.layer(zero, *edge, bands, lines).add_params(pick, way, shown, model).properties(
        height=340, **WIDE)


def removal_differences(table: pd.DataFrame) -> alt.LayerChart:
    """Two heads at the same size: difference of a score with its interval, and the control's.

    Parameters
    ----------
    table : pandas.DataFrame
        ``truncation.removal_differences``.
    """
    table = table.assign(
        name=table["quantity"].map(REMOVAL), way=table["by"].map(BY),
        pair=table["second"] + " minus " + table["first"],
        at=[f"{v:,.0f}" if by == "count" else f"{v:.1%}" for by, v in zip(
            table["by"], table["level"])])
    table = table.drop(columns=["first", "second", "by", "quantity"]).round(
        {"value": 3, "low": 3, "high": 3, "p_holm": 3})
    pick = _dropdown("quantity", [REMOVAL[q] for q in (
        "ratio", "image_score", "attribute_score", "logit_change")], "quantity ")
    way = _dropdown("removed", list(BY.values()), "remove ")
    params = [pick, way]
    pairs = list(dict.fromkeys(table["pair"]))
    chosen = "datum.name == quantity && datum.way == removed && datum.kind != 'excess'"
    if len(pairs) > 1:
        params.append(_dropdown("pair", pairs, "classifiers "))
        chosen += " && datum.pair == pair"
    kinds = ["weakest directions removed", "random control"]
    base = alt.Chart(table).transform_filter(chosen).encode(
        x=alt.X("at:O", sort=alt.EncodingSortField("level"),
                title="directions removed (number, or share of the head's energy)",
                axis=alt.Axis(labelAngle=-45)),
        xOffset=alt.XOffset("kind:N", sort=kinds),
        color=alt.Color("kind:N", title=None, legend=alt.Legend(orient="top", columns=1),
                        scale=alt.Scale(domain=kinds, range=[VERMILION, GREY])),
        tooltip=["pair:N", "kind:N", alt.Tooltip("at:O", title="removed"),
                 alt.Tooltip("name:N", title="quantity"), alt.Tooltip("value:Q", format=".2f"),
                 alt.Tooltip("low:Q", title="95 % from", format=".2f"),
                 alt.Tooltip("high:Q", title="to", format=".2f"),
                 alt.Tooltip("p_holm:Q", title="p (Holm)", format=".2f")])
    rules = base.mark_rule(strokeWidth=2.5).encode(
        y=alt.Y("low:Q", title=pairs[0].replace(" minus ", "|minus ").split("|")
                if len(pairs) == 1 else "second minus first classifier"), y2="high:Q")
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(y="value:Q")
    zero = alt.Chart(pd.DataFrame({"y": [0]})).mark_rule(color=GREY, strokeDash=[4, 4]).encode(
        y="y:Q")
    return alt.layer(zero, rules, dots).add_params(*params).properties(height=300, **WIDE)


def paper_sizes(table: pd.DataFrame) -> alt.LayerChart:
    """One head cut to the null spaces of the paper's models: what their size alone would do.

    Parameters
    ----------
    table : pandas.DataFrame
        ``truncation.paper_sizes``.
    """
    names = {"count": "as many directions as theirs", "share": "the same share of all directions"}
    table = table[table["kind"] != "excess"]
    table = table.assign(
        name=table["quantity"].map(REMOVAL), way=table["by"].map(names),
        size=[f"{k:,} of {m:,}" for k, m in zip(table["null_dim"], table["features"])])
    kinds = list(dict.fromkeys(table["kind"]))
    table = table[["title", "name", "way", "size", "null_dim", "models", "removed", "kind",
                   "place", "value", "low", "high"]].round({"value": 3, "low": 3, "high": 3})
    pick = _dropdown("quantity", [REMOVAL[q] for q in (
        "ratio", "image_score", "attribute_score", "logit_change")], "quantity ")
    way = _dropdown("removed", list(names.values())[::-1], "remove ")
    sizes = list(dict.fromkeys(table.sort_values("null_dim")["size"]))
    base = alt.Chart(table).transform_filter(
        "datum.name == quantity && datum.way == removed").encode(
        y=alt.Y("size:N", sort=sizes, title="null space of the paper's models"),
        yOffset=alt.YOffset("kind:N", sort=kinds),
        color=alt.Color("kind:N", title=None, legend=alt.Legend(orient="top", columns=1),
                        scale=alt.Scale(domain=kinds, range=[VERMILION, GREY])),
        tooltip=[alt.Tooltip("models:N", title="the paper's"), "kind:N",
                 alt.Tooltip("title:N", title="head that is cut"),
                 alt.Tooltip("removed:Q", title="directions removed of it"),
                 alt.Tooltip("name:N", title="quantity"), alt.Tooltip("value:Q", format=".2f"),
                 alt.Tooltip("low:Q", title="95 % from", format=".2f"),
                 alt.Tooltip("high:Q", title="to", format=".2f"),
                 alt.Tooltip("place:Q", title="place")])
    rules = base.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", title="median over pictures, 95 % interval",
                scale=alt.Scale(zero=True)), x2="high:Q")
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(x="value:Q")
    return alt.layer(rules, dots).add_params(pick, way).properties(
        height=46 * len(sizes), **WIDE)


SCORE_NAMES = {
    "image_score": "Image Score", "attribute_score": "Attribute Score (signed)",
    "image_score_excess": "excess Image Score", "attribute_score_excess": "excess Attribute Score",
}


def reliability(table: pd.DataFrame) -> alt.LayerChart:
    """How much of a number's variance is its object's: null removal beside the control.

    Parameters
    ----------
    table : pandas.DataFrame
        ``floor.reliability``.
    """
    table = table.assign(
        name=table["quantity"].map(SCORE_NAMES), row=table["level"] + ": " + table["over"])
    table = table[["title", "name", "row", "kind", "objects", "value", "low", "high", "spread",
                   "between"]].round(3)
    titles = [t for t in dict.fromkeys(table["title"]) if t != "all compared"]
    order = ["picture", "class", "classifier"]
    rows = sorted(table["row"].unique(), key=lambda row: (order.index(row.split(":")[0]), row))
    pick = _dropdown("quantity", list(SCORE_NAMES.values()), "score ")
    model = _dropdown("classifier", titles, "classifier ")
    kinds = KINDS.domain
    base = alt.Chart(table).transform_filter(
        "datum.name == quantity && "
        "(datum.title == classifier || datum.title == 'all compared')").encode(
        y=alt.Y("row:N", sort=rows, title=None, axis=alt.Axis(
            labelExpr="split(replace(replace(datum.label, ': ', ':|'), ' of ', '|of '), '|')",
            labelLimit=160)),
        yOffset=alt.YOffset("kind:N", sort=kinds),
        color=alt.Color("kind:N", title=None, scale=KINDS,
                        legend=alt.Legend(orient="top", columns=2)),
        tooltip=["title:N", alt.Tooltip("row:N", title="of a"), "kind:N",
                 alt.Tooltip("name:N", title="score"), alt.Tooltip("objects:Q"),
                 alt.Tooltip("value:Q", title="reliability", format=".2f"),
                 alt.Tooltip("low:Q", title="95 % from", format=".2f"),
                 alt.Tooltip("high:Q", title="to", format=".2f"),
                 alt.Tooltip("spread:Q", title="SD when done again (degrees)", format=".2f"),
                 alt.Tooltip("between:Q", title="SD between objects (degrees)", format=".2f")])
    rules = base.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=".1f", tickCount=5),
                title="reliability (share of the variance, 95 %)"),
        x2="high:Q")
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(x="value:Q")
    return alt.layer(rules, dots).add_params(pick, model).properties(
        height=52 * len(rows), **WIDE)


FLOORS = {
    "image_score": "Image Score (degrees)", "attribute_score": "|Attribute Score| (degrees)",
    "image_score_excess": "excess Image Score (degrees)",
}


def floor_differences(table: pd.DataFrame) -> alt.LayerChart:
    """What scores exceed: classifiers in their own space, the spaces' towers, the control.

    Parameters
    ----------
    table : pandas.DataFrame
        ``floor.floor_differences``.
    """
    table = table.assign(
        name=table["quantity"].map(FLOORS), row=table["title"] + " in " + table["space"])
    table = table[["title", "space", "row", "name", "floor", "score", "floor_score", "value",
                   "low", "high"]].round(3)
    floors = list(dict.fromkeys(table["floor"]))
    colours = dict(zip([name for name in floors if name != "random control"], [BLUE, ORANGE]))
    rows = list(dict.fromkeys(table.sort_values(["title", "space"])["row"]))
    pick = _dropdown("quantity", list(FLOORS.values()) if len(floors) > 1 else list(
        FLOORS.values())[:2], "score ")
    base = alt.Chart(table).transform_filter("datum.name == quantity").encode(
        y=alt.Y("row:N", sort=rows, title=None, axis=alt.Axis(
            labelExpr="split(replace(datum.label, ' in ', '|in '), '|')", labelLimit=150)),
        yOffset=alt.YOffset("floor:N", sort=floors),
        color=alt.Color("floor:N", title="minus", sort=floors,
                        legend=alt.Legend(orient="top", columns=1, symbolOpacity=1),
                        scale=alt.Scale(domain=floors, range=[
                            colours.get(name, GREY) for name in floors])),
        tooltip=[alt.Tooltip("row:N", title="score of"), alt.Tooltip("floor:N", title="minus"),
                 alt.Tooltip("score:Q", format=".2f"),
                 alt.Tooltip("floor_score:Q", title="floor", format=".2f"),
                 alt.Tooltip("value:Q", title="difference (degrees)", format=".2f"),
                 alt.Tooltip("low:Q", title="95 % from", format=".2f"),
                 alt.Tooltip("high:Q", title="to", format=".2f")])
    rules = base.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", title="score minus floor (degrees)"), x2="high:Q")
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(x="value:Q")
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color=GREY, strokeDash=[4, 4]).encode(
        x="x:Q")
    return alt.layer(zero, rules, dots).add_params(pick).properties(
        height=18 * len(rows) * (len(floors) + 0.5), **WIDE)


# --- what could fool us: intervals, nuisances -----------------------------------------------------


def interval_widths(table: pd.DataFrame) -> alt.LayerChart:
    """Intervals over subjects beside intervals over pictures, as if those were independent.

    Parameters
    ----------
    table : pandas.DataFrame
        ``coverage.interval_widths``.
    """
    table = table.assign(name=table["quantity"].map(QUANTITIES),
                         over="over " + table["resampled"]).round(3)
    titles = list(dict.fromkeys(table["title"]))
    pick = _dropdown("quantity", list(dict.fromkeys(table["name"])), "quantity ")
    kind = alt.param(name="shown", value=KINDS.domain[0], bind=alt.binding_radio(
        options=list(KINDS.domain), name="show "))
    order = ["over subjects", "over pictures"]
    base = alt.Chart(table).transform_filter(
        "datum.name == quantity && datum.kind == shown").encode(
        y=alt.Y("title:N", sort=titles, title=None,
                axis=alt.Axis(labelExpr="split(datum.label, /-| /)", labelLimit=120)),
        yOffset=alt.YOffset("over:N", sort=order),
        color=alt.Color("kind:N", scale=KINDS, legend=None))
    rules = base.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", title="median (degrees)", scale=alt.Scale(zero=False, padding=12)),
        x2="high:Q",
        strokeDash=alt.StrokeDash("over:N", sort=order, title="95 % interval", legend=alt.Legend(
            orient="top", symbolType="stroke", symbolStrokeWidth=3, symbolStrokeColor=GREY,
            symbolSize=400), scale=alt.Scale(domain=order, range=[[1, 0], [3, 3]])))
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(
        x="value:Q",
        tooltip=["title:N", "over:N", "kind:N", alt.Tooltip("value:Q", title="degrees",
                                                            format=".2f"),
                 alt.Tooltip("low:Q", title="95 % from", format=".2f"),
                 alt.Tooltip("high:Q", title="to", format=".2f")])
    return alt.layer(rules, dots).add_params(pick, kind).properties(
        height=52 * len(titles), **WIDE)


_PARTS = {
    "null space": VERMILION, "principal space": BLUE, "random control": GREY,
    "joint space": GREEN,
}
_VARIED = {
    "features": "features", "image_score": "Image Score",
    "image_score_excess": "Image Score − control", "joint_embedding": "joint embedding",
}


def nuisance_shares(table: pd.DataFrame) -> alt.LayerChart:
    """What explains the variance: each factor's share in the null part, beside other parts.

    Parameters
    ----------
    table : pandas.DataFrame
        ``nuisances.shares``.
    """
    titles = [title for title in dict.fromkeys(table["title"]) if title]
    # The joint embedding is the pictures' own, whatever classifier is chosen.
    joint = table[table["title"] == ""]
    table = pd.concat([table[table["title"] != ""], *(joint.assign(title=t) for t in titles)])
    table = table.assign(name=table["quantity"].map(_VARIED))
    for end in ("value", "low", "high"):
        table[end] = (100 * table[end]).round(3)
    factors = list(dict.fromkeys(table["factor"]))
    effects = list(dict.fromkeys(table["effect"]))
    if len(factors) > 2:  # what a subject explains is what the nuisances leave
        table, factors = table[table["factor"] != factors[0]], factors[1:]
    params = [
        _dropdown("quantity", [n for n in _VARIED.values() if n in set(table["name"])],
                  "variance of the "),
        _dropdown("classifier", titles, "classifier "),
        _choice("effect", effects, "effect "),
    ]
    base = alt.Chart(table[["title", "name", "kind", "factor", "effect", "value", "low", "high"]]
                     ).transform_filter(
        "datum.name == quantity && datum.title == classifier && datum.effect == effect").encode(
        y=alt.Y("factor:N", sort=factors, title=None,
                axis=alt.Axis(labelExpr="split(datum.label, ' ')", labelLimit=100)),
        yOffset=alt.YOffset("kind:N", sort=list(_PARTS)),
        color=alt.Color("kind:N", title=None, sort=list(_PARTS),
                        legend=alt.Legend(orient="top", columns=2),
                        scale=alt.Scale(domain=list(_PARTS), range=list(_PARTS.values()))))
    rules = base.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", title="share of the variance, beyond chance (%)",
                scale=alt.Scale(zero=True)), x2="high:Q")
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(x="value:Q", tooltip=[
        "factor:N", "kind:N", "effect:N", alt.Tooltip("value:Q", title="%", format=".2f"),
        alt.Tooltip("low:Q", title="95 % from", format=".2f"),
        alt.Tooltip("high:Q", title="to", format=".2f")])
    return alt.layer(rules, dots).add_params(*params).properties(
        height=44 * len(factors) + 20, **WIDE)


def invariances(table: pd.DataFrame) -> alt.LayerChart:
    """What a head ignores more than the rest: shares in the null part over the principal part.

    Parameters
    ----------
    table : pandas.DataFrame
        ``nuisances.invariances``.
    """
    parts = ["null space", "random control"]
    table = table[table["kind"].isin(parts)].round(4)
    factors, titles, effects = (
        list(dict.fromkeys(table[column])) for column in ("factor", "title", "effect"))
    params = [_dropdown("classifier", titles, "classifier "),
              _choice("effect", effects, "effect ")]
    base = alt.Chart(table[["title", "kind", "factor", "effect", "value", "low", "high"]]
                     ).transform_filter(
        "datum.title == classifier && datum.effect == effect").encode(
        y=alt.Y("factor:N", sort=factors, title=None,
                axis=alt.Axis(labelExpr="split(datum.label, ' ')", labelLimit=100)),
        yOffset=alt.YOffset("kind:N", sort=parts),
        color=alt.Color("kind:N", title=None, legend=alt.Legend(orient="top"),
                        scale=alt.Scale(domain=parts, range=[VERMILION, GREY])))
    one = alt.Chart(pd.DataFrame({"x": [1]})).mark_rule(strokeDash=[3, 3], color=GREY).encode(
        x="x:Q")
    rules = base.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", title="share in this part / in the principal part",
                scale=alt.Scale(zero=False, padding=12)), x2="high:Q")
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(x="value:Q", tooltip=[
        "factor:N", "kind:N", "effect:N", alt.Tooltip("value:Q", title="ratio", format=".2f"),
        alt.Tooltip("low:Q", title="95 % from", format=".2f"),
        alt.Tooltip("high:Q", title="to", format=".2f")])
    return alt.layer(one, rules, dots).add_params(*params).properties(
        height=36 * len(factors) + 20, **WIDE)


# --- planted truths ------------------------------------------------------------------------------

ASKED = {"hidden": VERMILION, "joint": BLUE, "attribute_excess": GREEN, "attribute_score": PINK,
         "image_score": SKY}
SHORT = "replace(replace(datum.label, 'pixels: ', ''), ' of the ', ', ')"  # for a phone's width


def _asked_colour(table: pd.DataFrame, field: str = "name") -> alt.Color:
    """One colour a score; a second line of the same score is orange."""
    names = table.drop_duplicates(field)
    colours = [ASKED[score] if score not in set(names["score"].iloc[:at]) else ORANGE
               for at, score in enumerate(names["score"])]
    return alt.Color(f"{field}:N", title=None, sort=None, legend=alt.Legend(
        orient="top", columns=1, labelLimit=320, symbolOpacity=1), scale=alt.Scale(
        domain=names[field].tolist(), range=colours))


def plant_ranks(table: pd.DataFrame) -> alt.LayerChart:
    """Hidden share of every concept on one planted head, beside the head as it was.

    Parameters
    ----------
    table : pandas.DataFrame
        ``plants.found_plants``.
    """
    kinds = ["blind to the planted concept", "untouched head", "untouched head, random control"]
    planted = table[table["kind"] == "planted"].assign(kind=kinds[0])
    plain = table[table["kind"] == "untouched"].assign(plant="")
    control = plain.assign(
        hidden=plain["hidden_control"], low=plain["hidden_control"],
        high=plain["hidden_control"], kind=kinds[2])
    columns = ["title", "plant", "concept", "kind", "hidden", "low", "high"]
    rows = pd.concat([planted, plain.assign(kind=kinds[1]), control])[columns].round(3)
    titles = list(dict.fromkeys(rows["title"]))
    names = list(dict.fromkeys(planted["plant"]))
    pick = _dropdown("plant", names, "planted concept ")
    model = _dropdown("classifier", titles, "classifier ")
    base = alt.Chart(rows).transform_filter(
        "datum.title == classifier && (datum.plant == plant || datum.plant == '')").encode(
        y=alt.Y("concept:N", title=None, axis=alt.Axis(labelExpr=SHORT, labelLimit=150),
                sort=alt.EncodingSortField("hidden", op="max", order="descending")),
        color=alt.Color("kind:N", title=None, sort=kinds, legend=alt.Legend(
            orient="top", columns=1, symbolOpacity=1, labelLimit=300),
            scale=alt.Scale(domain=kinds, range=[VERMILION, BLUE, GREY])),
        tooltip=["title:N", "concept:N", "kind:N",
                 alt.Tooltip("hidden:Q", title="hidden share", format=".0%"),
                 alt.Tooltip("low:Q", title="over the splits, from", format=".0%"),
                 alt.Tooltip("high:Q", title="to", format=".0%")])
    own = base.transform_filter(f"datum.kind == '{kinds[0]}' && datum.concept == plant").mark_point(
        filled=False, size=260, strokeWidth=2, opacity=1, color=VERMILION).encode(
        x="hidden:Q", color=alt.Undefined)
    rules = base.mark_rule(strokeWidth=2, opacity=0.7).encode(
        x=alt.X("low:Q", title="hidden share: what the principal part lost",
                axis=alt.Axis(format="%", tickCount=5), scale=alt.Scale(
                    domain=[-0.4, 1], clamp=True)), x2="high:Q")
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(x="hidden:Q")
    limit = alt.Chart(pd.DataFrame({"x": [float(table["threshold"].iloc[0])]})).mark_rule(
        strokeDash=[4, 4], color=GREY).encode(x="x:Q")
    count = max(rows.groupby("title")["concept"].nunique())
    return alt.layer(limit, rules, dots, own).add_params(pick, model).properties(
        height=24 * int(count), **WIDE)


def plant_roc(curves: pd.DataFrame, scores: pd.DataFrame) -> alt.LayerChart:
    """ROC curves of every score, with the band and the sham control of a chosen one.

    Parameters
    ----------
    curves : pandas.DataFrame
        ``plants.roc_curves``.
    scores : pandas.DataFrame
        ``plants.score_table``.
    """
    auc = scores[(scores["quantity"] == "auc") & (scores["kind"] == "planted")]
    auc = auc.set_index("score")["value"]
    curves = curves.assign(
        name=[f"{name}: AUC {auc[score]:.2f}" for score, name in zip(
            curves["score"], curves["name"])]).round(3)
    planted = curves[curves["kind"] == "planted"]
    names = list(dict.fromkeys(planted["name"]))
    pick = _dropdown("shown", names, "band and sham control of ")
    x = alt.X("false:Q", title="false alarms (share of concepts not planted)",
              axis=alt.Axis(format="%", values=[0.01, 0.05, 0.2, 0.5, 1]),
              scale=alt.Scale(type="sqrt", domain=[0, 1]))
    chosen = alt.Chart(curves).transform_filter("datum.name == shown").encode(x=x)
    bands = chosen.mark_area(opacity=0.2).encode(
        y="low:Q", y2="high:Q", color=alt.Color("kind:N", legend=None, scale=alt.Scale(
            domain=["planted", "sham"], range=[VERMILION, GREY])))
    sham = chosen.transform_filter("datum.kind == 'sham'").mark_line(
        color=GREY, strokeDash=[5, 4], strokeWidth=2).encode(y="value:Q")
    tips = [alt.Tooltip("name:N", title="score"),
            alt.Tooltip("false:Q", title="false alarms", format=".1%"),
            alt.Tooltip("value:Q", title="plants found", format=".1%"),
            alt.Tooltip("low:Q", title="95 % from", format=".1%"),
            alt.Tooltip("high:Q", title="to", format=".1%")]
    lines = alt.Chart(planted).mark_line(strokeWidth=2, interpolate="step-after").encode(
        x=x, y=alt.Y("value:Q", title="plants found", axis=alt.Axis(format="%"),
                     scale=alt.Scale(domain=[0, 1])),
        color=_asked_colour(planted), tooltip=tips,
        opacity=alt.condition("datum.name == shown", alt.value(1), alt.value(0.65)))
    # A line shows its numbers only near its own points, and steps have few that lie free.
    near = alt.Chart(planted).mark_point(filled=True, size=60, opacity=0).encode(
        x=x, y="value:Q", tooltip=tips)
    edge = alt.Chart(pd.DataFrame({"x": [0.05]})).mark_rule(
        color=GREY, strokeDash=[2, 3]).encode(x="x:Q")
    return alt.layer(bands, edge, sham, lines, near).add_params(pick).resolve_scale(
        color="independent").properties(height=330, **WIDE)


POWER = {"auc": "area under the ROC curve (AUC)", "first": "planted concept ranks first",
         "found": "above the threshold"}
AXES = {"subjects": "subjects asked about", "pictures": "pictures of each subject",
        "directions": "directions planted"}


def plant_power(table: pd.DataFrame) -> alt.LayerChart:
    """How well plants are found by subjects, pictures and planted directions.

    Parameters
    ----------
    table : pandas.DataFrame
        ``plants.power_table``.
    """
    table = table.assign(
        way=table["axis"].map(AXES), what=table["quantity"].map(POWER),
        line=table["name"] + table["method"].map(
            {"mean": "", "discriminant": ", planted by discriminants"}))
    table = table[["way", "what", "score", "line", "method", "size", "subjects", "pictures",
                   "value", "low", "high", "control"]].round(3)
    ways = [way for way in AXES.values() if way in set(table["way"])]
    axis, what = _dropdown("axis", ways, "against "), _dropdown(
        "measure", list(POWER.values()), "measure ")
    x = alt.X("size:Q", title="number (subjects, pictures or directions; log scale)",
              scale=alt.Scale(type="log", nice=False, padding=12),
              axis=alt.Axis(values=[1, 2, 4, 8, 16, 32, 64, 128, 10, 20, 40, 80], format="d"))
    base = alt.Chart(table).transform_filter(
        "datum.way == axis && datum.what == measure").encode(x=x)
    lines = table.drop_duplicates("line")
    dashes = [[5, 4] if method == "discriminant" else [1, 0] for method in lines["method"]]
    colour = _asked_colour(table, "line")
    dash = alt.StrokeDash("line:N", title=None, sort=None, legend=None, scale=alt.Scale(
        domain=lines["line"].tolist(), range=dashes))
    bands = base.mark_area(opacity=0.15).encode(
        y=alt.Y("low:Q", title="share, or area", scale=alt.Scale(domain=[0, 1])), y2="high:Q",
        color=colour, detail="line:N")
    curves = base.mark_line(strokeWidth=2).encode(y="value:Q", color=colour, strokeDash=dash)
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(
        y="value:Q", color=colour, tooltip=[
            alt.Tooltip("line:N", title="score"), alt.Tooltip("what:N", title="measure"),
            alt.Tooltip("subjects:Q"), alt.Tooltip("pictures:Q"),
            alt.Tooltip("value:Q", format=".2f"),
            alt.Tooltip("low:Q", title="95 % from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
            alt.Tooltip("control:Q", title="a guess, or alarms without a plant", format=".2f")])
    control = base.transform_filter("datum.score == 'hidden'").mark_line(
        color=GREY, strokeDash=[5, 4], strokeWidth=2).encode(y="control:Q")
    goal = alt.Chart(pd.DataFrame({"what": [POWER["auc"]], "y": [0.95]})).transform_filter(
        "datum.what == measure").mark_rule(color=GREY, strokeDash=[2, 3]).encode(y="y:Q")
    return alt.layer(control, goal, bands, curves, dots).add_params(axis, what).properties(
        height=330, **WIDE)


def false_alarms(table: pd.DataFrame, kinds: dict[str, str]) -> alt.LayerChart:
    """How often each score gives an alarm where nothing was planted.

    Parameters
    ----------
    table : pandas.DataFrame
        ``plants.false_alarms``.
    kinds : dict
        Names for people of its kinds, in order.
    """
    table = table.assign(kind=table["kind"].map(kinds)).round(4)
    base = alt.Chart(table).encode(
        y=alt.Y("name:N", sort=list(dict.fromkeys(table["name"])), title=None, axis=alt.Axis(
            labelExpr="split(replace(replace(datum.label, ' (', '|('), ' in the', '|in the'), '|')",
            labelLimit=150)),
        yOffset=alt.YOffset("kind:N", sort=list(kinds.values())),
        color=alt.Color("kind:N", title=None, sort=None, legend=alt.Legend(
            orient="top", columns=1, symbolOpacity=1), scale=alt.Scale(
            domain=list(kinds.values()), range=[BLUE, ORANGE, GREY])),
        tooltip=[alt.Tooltip("name:N", title="score"), "kind:N", alt.Tooltip("asked:Q"),
                 alt.Tooltip("threshold:Q", format=".3f"),
                 alt.Tooltip("value:Q", title="false alarms", format=".1%"),
                 alt.Tooltip("low:Q", title="95 % from", format=".1%"),
                 alt.Tooltip("high:Q", title="to", format=".1%")])
    top = max(0.06, 1.05 * float(table["high"].max()))
    rules = base.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", title="false alarms (share of concepts asked about)",
                axis=alt.Axis(format=".0%", tickCount=6), scale=alt.Scale(domain=[0, top])),
        x2="high:Q")
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(x="value:Q")
    edge = alt.Chart(pd.DataFrame({"x": [0.05]})).mark_rule(
        color=GREY, strokeDash=[4, 4]).encode(x="x:Q")
    return alt.layer(edge, rules, dots).properties(
        height=50 * table["name"].nunique(), **WIDE)


def concept_verdicts(table: pd.DataFrame) -> alt.LayerChart:
    """Which concepts real heads ignore: hidden share with interval, control and threshold.

    Parameters
    ----------
    table : pandas.DataFrame
        ``plants.concept_verdicts`` of one classifier or several; or ``asking.ask``, which
        :func:`concept_answers` draws.
    """
    if "threshold_high" in table:
        return concept_answers(table)
    said = ["ignores it", "keeps it", "cannot be told"]
    columns = ["title", "concept", "full", "hidden", "hidden_low", "hidden_high",
               "hidden_control", "verdict"]
    rows = table[columns].round(3)
    titles = list(dict.fromkeys(rows["title"]))
    model = _dropdown("classifier", titles, "classifier ")
    base = alt.Chart(rows).transform_filter("datum.title == classifier").encode(
        y=alt.Y("concept:N", title=None, axis=alt.Axis(labelExpr=SHORT, labelLimit=150),
                sort=alt.EncodingSortField("full", op="max", order="descending")),
        tooltip=["title:N", "concept:N", "verdict:N",
                 alt.Tooltip("full:Q", title="R² from the whole feature", format=".2f"),
                 alt.Tooltip("hidden:Q", title="hidden share", format=".0%"),
                 alt.Tooltip("hidden_low:Q", title="95 % from", format=".0%"),
                 alt.Tooltip("hidden_high:Q", title="to", format=".0%"),
                 alt.Tooltip("hidden_control:Q", title="random control", format=".0%")])
    colour = alt.Color("verdict:N", title="the head", sort=None, legend=alt.Legend(
        orient="top", columns=3, symbolOpacity=1), scale=alt.Scale(
        domain=said, range=[VERMILION, BLUE, ORANGE]))
    rules = base.mark_rule(strokeWidth=2.5).encode(
        x=alt.X("hidden_low:Q", title="hidden share (grey: random control)",
                axis=alt.Axis(format="%", tickCount=5), scale=alt.Scale(
                    domain=[-0.4, 1], clamp=True)),
        x2="hidden_high:Q", color=colour)
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(x="hidden:Q", color=colour)
    control = base.mark_tick(color=GREY, thickness=2.5, size=14).encode(x="hidden_control:Q")
    limit = alt.Chart(pd.DataFrame({"x": [float(table["threshold"].iloc[0])]})).mark_rule(
        strokeDash=[4, 4], color=GREY).encode(x="x:Q")
    count = max(rows.groupby("title")["concept"].nunique())
    return alt.layer(limit, control, rules, dots).add_params(model).properties(
        height=23 * int(count), **WIDE)


def concept_answers(table: pd.DataFrame, most: int = 40) -> alt.LayerChart:
    """Answers to questions: hidden share with interval, random control and the two lines.

    Parameters
    ----------
    table : pandas.DataFrame
        ``asking.ask`` of one classifier or several; its prompts may be called ``concept``.
    most : int
        Rows of each classifier; of more, both ends of the ranking.
    """
    said = ["ignores it", "cannot be told", "keeps it"]
    columns = ["title", "concept", "full", "hidden", "hidden_low", "hidden_high",
               "hidden_control", "verdict"]
    rows = table.rename(columns={"prompt": "concept"})[columns].round(3)
    rows["concept"] = rows["concept"].str.slice(0, 60)
    parts = []
    for title, own in rows.groupby("title", sort=False):
        own = own.sort_values("hidden", ascending=False, kind="stable")
        if len(own) > most:
            gap = pd.DataFrame(
                {"title": [title], "concept": f"({len(own) - most + 1} between)"})
            half = most // 2
            own = pd.concat([own.head(half), gap, own.tail(most - 1 - half)])
        parts.append(own.assign(place=np.arange(len(own))))
    rows = pd.concat(parts, ignore_index=True)
    titles = list(dict.fromkeys(rows["title"]))
    several = len(titles) > 1
    base = alt.Chart(rows)
    if several:
        model = _dropdown("classifier", titles, "classifier ")
        base = base.transform_filter("datum.title == classifier")
    base = base.encode(
        y=alt.Y("concept:N", title=None, axis=alt.Axis(labelExpr=SHORT, labelLimit=150),
                sort=alt.EncodingSortField("place", op="min")),
        tooltip=["title:N", "concept:N", "verdict:N",
                 alt.Tooltip("full:Q", title="R² from the whole feature", format=".2f"),
                 alt.Tooltip("hidden:Q", title="hidden share", format=".0%"),
                 alt.Tooltip("hidden_low:Q", title="95 % from", format=".0%"),
                 alt.Tooltip("hidden_high:Q", title="to", format=".0%"),
                 alt.Tooltip("hidden_control:Q", title="random control", format=".0%")])
    legend = alt.Legend(orient="top", columns=3, symbolOpacity=1)
    colour = alt.Color("verdict:N", title="the head", sort=None, legend=legend, scale=alt.Scale(
        domain=said, range=[VERMILION, ORANGE, BLUE]))
    shape = alt.Shape("verdict:N", title="the head", sort=None, legend=legend, scale=alt.Scale(
        domain=said, range=["triangle-up", "diamond", "circle"]))
    told = base.transform_filter("isValid(datum.hidden)")
    rules = told.mark_rule(strokeWidth=2.5, clip=True).encode(
        x=alt.X("hidden_low:Q", title="hidden share (grey: random control)",
                axis=alt.Axis(format="%", tickCount=5), scale=alt.Scale(
                    domain=[-0.2, 1], clamp=True)),
        x2="hidden_high:Q", color=colour)
    dots = told.mark_point(filled=True, size=70, opacity=1).encode(
        x="hidden:Q", color=colour, shape=shape)
    control = base.transform_filter("isValid(datum.hidden_control)").mark_tick(
        color=GREY, thickness=2.5, size=14).encode(x="hidden_control:Q")
    # Above the first line and across the second it is ignored, the other way round it is kept.
    lines = pd.DataFrame({"x": [float(table[name].iloc[0])
                                for name in ("threshold", "threshold_high")]})
    limits = alt.Chart(lines).mark_rule(strokeDash=[4, 4], color=GREY).encode(x="x:Q")
    # What has no number still has its row.
    every = base.mark_text(text="").encode(x=alt.datum(0))
    chart = alt.layer(limits, control, rules, dots, every)
    chart = chart.add_params(model) if several else chart
    count = max(rows.groupby("title")["concept"].nunique())
    return chart.properties(height=max(23 * int(count), 60), **WIDE)


# What the null part adds: information.py.

MEASURES = {  # quantity: what it is called, and on its axis
    "r2": ("R²", "held-out R² of the joint embedding"),
    "near": ("true label near", "share of pictures whose label is among the nearest fifth"),
    "median_rank": ("rank of the true label", "median rank of the true label (1 = nearest)"),
}
UNIQUE_KINDS = alt.Scale(
    domain=["null space removed", "random control", "circular floor"],
    range=[VERMILION, GREY, SKY])


def information(table: pd.DataFrame) -> alt.LayerChart:
    """What translators of the parts of a feature get right, with intervals and controls.

    Parameters
    ----------
    table : pandas.DataFrame
        ``information.information_table`` of one joint space.
    """
    columns = ["title", "name", "kind", "quantity", "value", "low", "high", "chance"]
    table = table[columns].round(4)
    table = table.assign(
        quantity=table["quantity"].map({key: name for key, (name, _) in MEASURES.items()}),
        parts=table["kind"].map({"null space removed": "principal and null part",
                                 "random control": "random subspace as null part"}))
    names, kinds = list(dict.fromkeys(table["name"])), list(dict.fromkeys(table["parts"]))
    model = _dropdown("classifier", list(dict.fromkeys(table["title"])), "classifier ")
    pick = _dropdown("quantity", [name for name, _ in MEASURES.values()], "measure ")
    base = alt.Chart(table).transform_filter(
        "datum.title == classifier && datum.quantity == quantity").encode(
        y=alt.Y("name:N", sort=names, title=None, axis=alt.Axis(
            labelLimit=150, labelExpr="split(datum.label, ', ')")),
        yOffset=alt.YOffset("parts:N", sort=kinds),
        color=alt.Color("parts:N", title=None, legend=alt.Legend(orient="top", columns=1),
                        scale=alt.Scale(domain=kinds, range=[VERMILION, GREY][: len(kinds)])))
    axis = alt.X("low:Q", title="R², share or rank (95 % interval)",
                 scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6))
    rules = base.mark_rule(strokeWidth=3).encode(x=axis, x2="high:Q")
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(
        x="value:Q",
        tooltip=["title:N", "name:N", "parts:N", "quantity:N",
                 alt.Tooltip("value:Q", format=".3f"),
                 alt.Tooltip("low:Q", title="95 % over subjects from", format=".3f"),
                 alt.Tooltip("high:Q", title="to", format=".3f"),
                 alt.Tooltip("chance:Q", title="by chance", format=".2f")])
    return alt.layer(rules, dots).add_params(model, pick).properties(
        height=44 * len(names), **WIDE)


def unique_information(table: pd.DataFrame, bases: dict[str, str]) -> alt.LayerChart:
    """What the null part adds to the principal part's R2, beside control and circular floor.

    Parameters
    ----------
    table : pandas.DataFrame
        ``information.unique_table`` of one joint space.
    bases : dict
        What the principal part is read by: names for people.
    """
    columns = ["title", "base", "kind", "value", "low", "high"]
    table = table.loc[table["kind"].isin(UNIQUE_KINDS.domain), columns].copy()
    table[["value", "low", "high"]] = (100 * table[["value", "low", "high"]]).round(3)
    table["base"] = table["base"].map(bases)
    titles = list(dict.fromkeys(table["title"]))
    kinds = [kind for kind in UNIQUE_KINDS.domain if (table["kind"] == kind).any()]
    pick = _dropdown("base", list(bases.values()), "principal part read by ")
    base = alt.Chart(table).transform_filter("datum.base == base").encode(
        y=alt.Y("title:N", sort=titles, title=None,
                axis=alt.Axis(labelLimit=130, labelExpr="split(datum.label, '-')")),
        yOffset=alt.YOffset("kind:N", sort=kinds),
        color=alt.Color("kind:N", title=None, legend=alt.Legend(orient="top", columns=1),
                        scale=alt.Scale(domain=kinds, range=UNIQUE_KINDS.range[: len(kinds)])))
    rules = base.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", title="unique R² (percentage points, 95 % interval)",
                axis=alt.Axis(tickCount=6)), x2="high:Q")
    dots = base.mark_point(filled=True, size=110, opacity=1).encode(
        x="value:Q",
        shape=alt.Shape("kind:N", legend=None, scale=alt.Scale(
            domain=kinds, range=["circle", "square", "cross"][: len(kinds)])),
        tooltip=["title:N", "kind:N", "base:N",
                 alt.Tooltip("value:Q", title="unique R² (points)", format=".2f"),
                 alt.Tooltip("low:Q", title="95 % over subjects from", format=".2f"),
                 alt.Tooltip("high:Q", title="to", format=".2f")])
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color=GREY, strokeDash=[4, 4]).encode(
        x="x:Q")
    return alt.layer(zero, rules, dots).add_params(pick).properties(
        height=30 * len(kinds) * len(titles), **WIDE)


def unique_groups(table: pd.DataFrame, bases: dict[str, str]) -> alt.LayerChart:
    """Unique R2 of every label or every concept, sorted, beside control and circular floor.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of ``information.unique_classes`` and ``unique_concepts`` with ``title``, ``what``
        (label or concept) and ``name``.
    bases : dict
        What the principal part is read by: names for people.
    """
    columns = ["title", "what", "name", "base", "value", "low", "high", "control", "floor",
               "found"]
    table = table[columns].copy()
    numbers = ["value", "low", "high", "control", "floor"]
    table[numbers] = (100 * table[numbers]).round(2)
    table["base"] = table["base"].map(bases)
    places = table.groupby(["title", "what", "base"])["value"]
    table["place"] = places.rank(method="first").astype(int)
    model = _dropdown("classifier", list(dict.fromkeys(table["title"])), "classifier ")
    what = _dropdown("what", list(dict.fromkeys(table["what"])), "each dot a ")
    pick = _dropdown("base", list(bases.values()), "principal part read by ")
    base = alt.Chart(table).transform_filter(
        "datum.title == classifier && datum.what == what && datum.base == base").encode(
        x=alt.X("place:Q", title="place by unique R² (1 = least)",
                scale=alt.Scale(nice=False, padding=6), axis=alt.Axis(grid=False, tickMinStep=1)))
    rules = base.mark_rule(strokeWidth=1.5, opacity=0.45, color=VERMILION).encode(
        y=alt.Y("low:Q", title="unique R² (points)"), y2="high:Q")
    control = base.mark_point(shape="square", filled=True, size=22, opacity=0.8, color=GREY).encode(
        y="control:Q")
    dots = base.mark_point(filled=True, size=36, opacity=1, color=VERMILION).encode(
        y="value:Q",
        tooltip=["name:N", "title:N", alt.Tooltip("value:Q", title="unique R² (points)"),
                 alt.Tooltip("low:Q", title="95 % from"), alt.Tooltip("high:Q", title="to"),
                 alt.Tooltip("control:Q", title="random control (points)"),
                 alt.Tooltip("floor:Q", title="circular floor (points)"),
                 alt.Tooltip("found:N", title="found by the rule")])
    zero = alt.Chart(pd.DataFrame({"y": [0]})).mark_rule(color=GREY, strokeDash=[4, 4]).encode(
        y="y:Q")
    return alt.layer(zero, rules, control, dots).add_params(model, what, pick).properties(
        height=320, **WIDE)


def version_scores(table: pd.DataFrame) -> alt.LayerChart:
    """Scores of null removal by version of the translator, beside control and circular space.

    Parameters
    ----------
    table : pandas.DataFrame
        ``information.version_table`` of the study's own space and of each classifier's own.
    """
    columns = ["title", "name", "kind", "circular", "quantity", "value", "low", "high"]
    table = table[columns].copy()
    table[["value", "low", "high"]] = table[["value", "low", "high"]].round(3)
    table["quantity"] = table["quantity"].map(QUANTITIES)
    table["where"] = np.where(table["circular"], ", in its own space: should be 0", "")
    table["series"] = table["kind"] + table["where"]
    order = {"null space removed": VERMILION, "random control": GREY,
             "null space removed, in its own space: should be 0": SKY}
    table = table[table["series"].isin(order)]
    series = [name for name in order if (table["series"] == name).any()]
    names = list(dict.fromkeys(table["name"]))
    model = _dropdown("classifier", list(dict.fromkeys(table["title"])), "classifier ")
    pick = _dropdown("quantity", list(dict.fromkeys(table["quantity"])), "score ")
    base = alt.Chart(table).transform_filter(
        "datum.title == classifier && datum.quantity == quantity").encode(
        y=alt.Y("name:N", sort=names, title=None, axis=alt.Axis(
            labelLimit=150, labelExpr="split(datum.label, ', ')")),
        yOffset=alt.YOffset("series:N", sort=series),
        color=alt.Color("series:N", title=None,
                        legend=alt.Legend(
            orient="top", columns=1, labelLimit=300,
            labelExpr="split(replace(datum.label, ', ', '|'), '|')"),
            scale=alt.Scale(domain=series, range=[order[name] for name in series])))
    rules = base.mark_rule(strokeWidth=3).encode(
        x=alt.X("low:Q", title="median over pictures (degrees, 95 % interval)",
                scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=6)), x2="high:Q")
    dots = base.mark_point(filled=True, size=110, opacity=1).encode(
        x="value:Q",
        shape=alt.Shape("series:N", legend=None, scale=alt.Scale(
            domain=series, range=["circle", "square", "cross"][: len(series)])),
        tooltip=["title:N", "name:N", "series:N", "quantity:N",
                 alt.Tooltip("value:Q", title="median (degrees)", format=".2f"),
                 alt.Tooltip("low:Q", title="95 % over subjects from", format=".2f"),
                 alt.Tooltip("high:Q", title="to", format=".2f")])
    return alt.layer(rules, dots).add_params(model, pick).properties(
        height=72 * len(names), **WIDE)


# --- what the explorers leave in a page ---------------------------------------------------------


def null_space_explorer(
    table: pd.DataFrame, pictures: pd.DataFrame, start: str = "remove"
) -> alt.VConcatChart:
    """Photos pushed step by step: scores with their control, words and nearest photos.

    A photo is picked by a click or from the menu, another menu picks the direction, a slider the
    step. What is new after a step is marked with a plus.

    Parameters
    ----------
    table : pandas.DataFrame
        ``probe.explored``.
    pictures : pandas.DataFrame
        picture, label and image (thumbnail) of every picture and neighbour in the table.
    """
    data, shown = _explored_rows(table, pictures)
    looked_up = alt.LookupData(shown, "picture", ["image", "label"])
    names, ways = (list(dict.fromkeys(table[column])) for column in ("name", "title"))
    chosen = alt.selection_point(
        name="photo", fields=["who"], value=[{"who": names[0]}], on="click", clear=False,
        toggle=False, bind=alt.binding_select(options=names, name="photo "))
    first = table.loc[table["kind"] == start, "title"].iloc[0]
    way = _dropdown("way", sorted(ways, key=lambda title: title != first), "pushed: ")
    steps = np.sort(table["step"].unique())
    goals = ["the photo's label", "the prompt"]
    goal = alt.param(name="goal", value=goals[start == "prompt"], bind=alt.binding_radio(
        options=goals, name="Attribute Score towards "))
    step = alt.param(name="step", value=1, bind=alt.binding_range(
        min=float(steps[0]), max=float(steps[-1]), step=float(steps[1] - steps[0]),
        name="step (× the null part) "))
    # The push is held against the control, and the control against the null part.
    control, removal = _control_title(table), table.loc[table["kind"] == "remove", "title"].iloc[0]
    other = f"(way == {control!r} ? {removal!r} : {control!r})"
    photo = alt.Chart(data).transform_filter(chosen).transform_calculate(
        gain="goal == 'the prompt' ? datum.aim : datum.own")
    here = photo.transform_filter("abs(datum.step - step) < 0.01")
    now = here.transform_filter("datum.way == way")
    start = photo.transform_filter("datum.way == way && datum.step == 0")

    # A view among others does not know its width in pixels, so that sizes suit a phone's.
    side = int(np.clip(290 / len(names) - 6, 28, 54))
    strip = alt.Chart(data).transform_filter(
        f"datum.step == 0 && datum.way == {removal!r}").transform_lookup(
        "picture", looked_up).encode(
        x=alt.X("who:N", sort=names, title=None, scale=alt.Scale(domain=names), axis=alt.Axis(
            labelAngle=0, ticks=False, domain=False, labelOverlap=False, labelFontSize=11,
            labelLimit=290 / len(names), labelExpr="split(datum.label, ' ')")),
        tooltip=[alt.Tooltip("who:N", title="photo"), alt.Tooltip("class:N", title="taken for")])
    middle = alt.value(side / 2 + 4)
    frame = strip.transform_filter(chosen).mark_square(
        color=VERMILION, size=(side + 6) ** 2, opacity=1).encode(y=middle)
    strip = alt.layer(frame, strip.mark_image(width=side, height=side, cursor="pointer").encode(
        url="image:N", y=middle, opacity=alt.condition(chosen, alt.value(1), alt.value(0.65))
    ).add_params(chosen)).properties(height=side + 8, **WIDE)

    text = {"align": "left", "baseline": "middle", "fontSize": 12}
    across = alt.X("across:Q", axis=None, scale=alt.Scale(domain=[0, 1], nice=False))

    def column(lines: int) -> dict[str, object]:
        return {"x": across, "text": "text:N",
                "y": alt.Y("line:O", axis=None, scale=alt.Scale(domain=list(range(lines))))}

    said = ["Image Score", "Attribute Score", "largest logit change", "taken for", "probability",
            "translator error"]
    numbers = [_written(["", *said], 0).mark_text(**text).encode(**column(len(said) + 1))]
    tints = _tints(control)
    for left, one, head, error in (
        (0.45, "way", "'this push'", "format(datum.error, '.0f') + '°'"),
        (0.73, other, f"datum.way == {control!r} ? 'control' : 'null part'", "''"),
    ):
        cells = here.transform_filter(f"datum.way == {one}").transform_calculate(
            across=str(left), line=f"sequence({len(said) + 1})",
            text=f"[{head}, format(datum.turn, '.1f') + '°', format(datum.gain, '+.1f') + '°', "
                 f"format(datum.logit, datum.logit < 0.01 ? '.0e' : '.2f'), datum.class, "
                 f"format(datum.sure, '.0%'), {error}]",
        ).transform_flatten(["line", "text"])
        hints = [alt.Tooltip("way:N", title="pushed"), alt.Tooltip("class:N", title="taken for")]
        looks = [(f"datum.line == 0 && {which}", {"color": colour, "fontWeight": "bold"})
                 for which, colour in tints]
        numbers += [
            cells.transform_filter(part).mark_text(
                **text, **look, limit=88).encode(**column(len(said) + 1), tooltip=hints)
            for part, look in [*looks, ("datum.line > 0", {})]
        ]
    numbers = alt.layer(*numbers).properties(height=17 * (len(said) + 1), **WIDE)

    curves = [
        _along_steps(photo, score, title, [
            (f"datum.way == {one}", f"abs(datum.step - step) < 0.01 && datum.way == {one}",
             f"datum.{score}", dash) for one, dash in ((other, _HELD_AGAINST), ("way", _PUSHED))
        ], tints)
        for score, title in (
            ("turn", "Image Score (degrees)"), ("gain", "Attribute Score (degrees)"))
    ]

    count = max(map(len, table["words"]))
    words = [
        _written([head], left).mark_text(**text, fontWeight="bold").encode(**column(count + 1))
        for head, left in (("nearest words before", 0), ("after this step", 0.5))
    ]
    for left, source in ((0, start), (0.5, now)):
        listed = source.transform_calculate(
            across=str(left), line=f"sequence(1, {count + 1})", word="datum.words",
            angle="datum.angles",
        ).transform_flatten(["line", "word", "angle", "fresh"]).transform_calculate(
            text="(datum.fresh ? '+ ' : '') + format(datum.angle, '.0f') + '° ' + datum.word")
        words += [
            listed.transform_filter(f"datum.fresh == {new}").mark_text(
                **text, limit=138, fontWeight="bold" if new else "normal",
            ).encode(**column(count + 1), tooltip=[
                alt.Tooltip("word:N"), alt.Tooltip("angle:Q", title="degrees", format=".1f")])
            for new in (0, 1)
        ]
    words = alt.layer(*words).properties(height=17 * (count + 1), **WIDE)

    count = max(map(len, table["photos"]))
    photos = []
    for title, source in (
        ("nearest photos before", start), ("nearest photos after this step", now)
    ):
        base = source.transform_calculate(
            place=f"sequence(1, {count + 1})", picture="datum.photos", angle="datum.far",
        ).transform_flatten(["place", "picture", "angle", "new"]).transform_lookup(
            "picture", looked_up,
        ).transform_calculate(
            label="(datum.new ? '+ ' : '') + datum.label",
            caption="format(datum.angle, '.0f') + '°'",
        ).encode(
            x=alt.X("place:O", axis=None, scale=alt.Scale(domain=list(range(1, count + 1)))),
            tooltip=[alt.Tooltip("label:N"), alt.Tooltip("angle:Q", title="degrees", format=".1f"),
                     alt.Tooltip("place:O", title="rank")])
        photos.append(alt.layer(
            base.mark_image(width=54, height=54).encode(url="image:N", y=alt.value(28)),
            base.mark_text(fontSize=11, limit=280 / count - 4).encode(
                text="label:N", y=alt.value(63)),
            base.mark_text(fontSize=11).encode(text="caption:N", y=alt.value(76)),
        ).properties(height=82, title=alt.Title(title, anchor="start", fontSize=12), **WIDE))

    return alt.vconcat(
        strip, numbers, alt.hconcat(*curves), words, *photos, spacing=12,
    ).add_params(way, goal, step).configure_view(stroke=None)


_PUSHED, _HELD_AGAINST = [1, 0], [5, 4]  # dashes


def _control_title(table: pd.DataFrame) -> str:
    return table.loc[table["kind"] == "control", "title"].iloc[0]


def _tints(control: str) -> tuple[tuple[str, str], ...]:
    """Which rows have which colour: the control is grey, also where it is what is pushed."""
    return (f"datum.way != {control!r}", VERMILION), (f"datum.way == {control!r}", GREY)


def _along_steps(
    base: alt.Chart, score: str, title: str, lines: Sequence[tuple[str, str, str, list[int]]],
    tints: Sequence[tuple[str, str]],
) -> alt.LayerChart:
    """A score against the step: for each line which rows are on it, which of them are at the
    slider, how high the dot is there, and its dash."""
    base = base.encode(
        x=alt.X("step:Q", title="step (lengths of the null part)", scale=alt.Scale(nice=False)),
        y=alt.Y(f"{score}:Q", title=None, axis=alt.Axis(tickCount=4)))
    layers = [alt.Chart(alt.InlineData(values=[{}])).transform_calculate(x="step").mark_rule(
        color=BLUE).encode(x="x:Q")]
    for (on, here, height, dash), (which, colour) in itertools.product(lines, tints):
        layers += [
            base.transform_filter(f"{on} && {which}").mark_line(
                strokeWidth=2, strokeDash=dash, color=colour),
            base.transform_filter(f"{here} && {which}").transform_calculate(
                **{"step": "step", score: height}
            ).mark_point(color=colour, filled=True, size=70, opacity=1).encode(tooltip=[
                alt.Tooltip("way:N", title="pushed"),
                alt.Tooltip(f"{score}:Q", title="degrees", format="+.1f"),
                alt.Tooltip("step:Q", format=".2f")]),
        ]
    return alt.layer(*layers).properties(
        height=120, title=alt.Title(title, anchor="start", fontSize=12, fontWeight="normal"),
        **WIDE)


def null_space_trail(table: pd.DataFrame, step: float) -> alt.HConcatChart:
    """Scores along one push and its control; everything that changes is a param.

    Parameters
    ----------
    table : pandas.DataFrame
        ``probe.trail``.
    step : float
        Where the dots are, lengths of the null part.
    """
    values, control = trail_params(table, step), _control_title(table)
    base = alt.Chart(alt.InlineData(values=[{}])).transform_calculate(
        row="trail").transform_flatten(["row"]).transform_calculate(
        **{key: f"datum.row.{key}" for key in ("held", "way", "step", "turn", "gain")})
    panels = []
    for place, (score, title) in enumerate(
        (("turn", "Image Score (degrees)"), ("gain", "Attribute Score (degrees)"))
    ):
        panels.append(_along_steps(base, score, title, [
            (f"datum.held == {held}", f"datum.held == {held} && datum.step == trail[0].step",
             f"dots[{held}][{place}]", dash)
            for held, dash in ((1, _HELD_AGAINST), (0, _PUSHED))
        ], _tints(control)))
    return alt.hconcat(*panels).add_params(
        *(alt.param(name=name, value=value) for name, value in values.items()))


def trail_params(table: pd.DataFrame, step: float) -> dict[str, object]:
    """Values of the params of :func:`null_space_trail` for another trail, or another step."""
    trail, dots = [], []
    for held, (_, part) in enumerate(table.groupby("kind", sort=False)):
        columns = part[["step", "image_score", "attribute_score"]].round(3).to_numpy().tolist()
        trail += [
            {"held": held, "way": part["title"].iloc[0], "step": at, "turn": turn, "gain": gain}
            for at, turn, gain in columns
        ]
        dots.append([
            float(np.interp(step, part["step"], part[score]))
            for score in ("image_score", "attribute_score")
        ])
    return {"trail": trail, "dots": dots, "step": float(step)}


def _written(lines: Sequence[str], left: float) -> alt.Chart:
    """Lines of text that stand still, from the top down, at a share of the width."""
    return alt.Chart(alt.InlineData(values=[
        {"line": place, "text": line, "across": left} for place, line in enumerate(lines)
    ]))


def _explored_rows(
    table: pd.DataFrame, pictures: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Short rows of ``probe.explored`` and of its thumbnails, each picture named by a number."""
    number = {name: place for place, name in enumerate(pictures["picture"])}
    old = {
        row.name: row for row in table[table["step"] == 0].set_index("name", drop=False)
        .drop_duplicates("name").itertuples(index=False)
    }
    rows = []
    for row in table.itertuples(index=False):
        before = old[row.name]
        rows.append({
            "who": row.name, "picture": number[row.picture], "way": row.title,
            "step": round(row.step, 3), "turn": round(row.image_score, 2),
            "own": round(row.attribute_score, 2), "aim": round(row.prompt_score, 2),
            "logit": float(f"{row.logit_change:.2g}"),
            "class": row.after, "sure": round(row.probability_after, 3),
            "error": round(row.translator_error, 1),
            "words": row.words, "fresh": [int(word not in before.words) for word in row.words],
            "angles": [round(float(a), 1) for a in row.word_angles],
            "photos": [number[name] for name in row.photos],
            "far": [round(float(a), 1) for a in row.photo_angles],
            "new": [int(name not in before.photos) for name in row.photos],
        })
    shown = pictures[["label", "image"]].assign(picture=range(len(pictures)))
    # Frames and not lists of rows: Altair copies those anew for every layer, for seconds.
    return pd.DataFrame(rows), shown
