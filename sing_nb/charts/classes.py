"""Classes: linked views and violins."""

from __future__ import annotations

import json

import altair as alt
import numpy as np
import pandas as pd
import scipy

from . import BLUE, GREY, VERMILION, ends, menu, model_colours, rule, seen, tips

__all__ = ["class_violins", "linked_models"]


def linked_models(points: pd.DataFrame, thumbs: pd.DataFrame) -> alt.VConcatChart:
    """Linked views: AS against IS -> classes -> photos, by brush, by click and by inputs."""
    labels, count, columns = seen(points, "label"), 12, 6
    number = {name: at for at, name in enumerate(thumbs["picture"].unique())}
    short = {"attribute_score": "as", "image_score": "is", "attribute_score_control": "asc",
             "image_score_control": "isc", "translator_error": "error"}
    rows = points[["title", "label", *short]].rename(columns=short).round(2).assign(
        n=points["picture"].map(number), p=points["label"].map(labels.index))
    images = thumbs.drop_duplicates("picture")
    images = pd.DataFrame({"n": images["picture"].map(number), "image": images["image"]})
    shapes = [shape.assign(title=title, label=label, p=labels.index(label))
              for (title, label), own in points.groupby(["title", "label"], sort=False)
              if (shape := _violin(own["attribute_score"])) is not None]
    few = pd.DataFrame(columns=["title", "label", "p", "a", "h"])
    shapes = (pd.concat(shapes) if shapes else few).round(2)

    model = menu("classifier", seen(points, "title"), "classifier ")
    lowest, highest = rows["is"].quantile([0, 0.95])
    step = 1 if highest - lowest > 5 else 0.1
    start = round(np.floor(lowest / step) * step, 1)
    least = alt.param(name="least", value=start, bind=alt.binding_range(
        min=start, max=round(max(start + step, np.floor(highest / step) * step), 1), step=step,
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
    told = tips("image | image", "label | class", "title | classifier", "as | AS (degrees) | +.2f",
                "asc | AS, control | +.2f", "is | IS (degrees) | .2f", "isc | IS, control | .2f",
                "error | translator error (degrees) | .0f")
    look = alt.LookupData(images, "n", ["image"])
    colour = model_colours(points).legend(None)

    low, high = float(rows["as"].min()) - 0.2, float(rows["as"].max()) + 0.2
    place = {"x": alt.X("as:Q", title="Attribute Score (degrees; + = closer)",
                        scale=alt.Scale(domain=[low, high], nice=False)),
             "y": alt.Y("is:Q", title="Image Score (degrees)", scale=alt.Scale(
                 domain=[0, float(rows["is"].max()) * 1.05], nice=False))}
    scatter = alt.layer(
        rule(),
        own.mark_circle(size=30, color=GREY, opacity=0.3).encode(**place).add_params(
            brush).properties(name="dots"),
        kept.transform_lookup("n", look).mark_circle(size=46).encode(
            **place, color=colour, tooltip=told,
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
        rule().encode(x=alt.X("x:Q", scale=inside)),
        alt.Chart(shapes).transform_filter("datum.title == classifier").transform_calculate(
            top="datum.p - datum.h", bottom="datum.p + datum.h").mark_area(
            color=GREY, opacity=0.45, orient="vertical", cursor="pointer").encode(
            x=alt.X("a:Q", scale=inside), y=alt.Y("top:Q", axis=None), y2="bottom:Q",
            detail="label:N"),
        # A long name is written smaller: it has to end where the violins begin.
        names.mark_text(align="left", fontSize=alt.expr("min(11, 190 / length(datum.label))"),
                        cursor="pointer").encode(x=alt.value(3), y=y, text="label:N"),
        share.mark_text(align="right", fontSize=11, dx=-2).encode(
            x=alt.value("width"), y=y, text="text:N"),
        strips.transform_lookup("n", look).mark_tick(
            thickness=1.5, height=9, opacity=0.9, cursor="pointer").encode(
            x=x, y=y, color=colour, tooltip=told),
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
    # On a phone a label has a line for each word, and nothing runs into what is beside it.
    wide, share = "item.mark.group.width", f"{1.45 / columns:.3f} * item.mark.group.width"
    words = f"({wide} < 500 ? split(datum.label, ' ') : [datum.label])"
    longest = f"max(length({words}[0]), length(peek({words})))"
    photos = alt.layer(
        ranked.mark_image().encode(
            x=alt.X("left:Q", **across), x2="right:Q", y=alt.Y("top:Q", **down), y2="bottom:Q",
            url="image:N", tooltip=told),
        text.mark_text(baseline="top", fontSize=alt.expr(
            f"min(11, {share} / length(datum.scores))")).encode(text="scores:N"),
        text.mark_text(baseline="top", dy=12, lineHeight=10, text=alt.expr(words),
                       fontSize=alt.expr(f"clamp({share} / {longest}, 7, 11)")),
        said.mark_text(align="left", baseline="top", fontWeight="bold").encode(
            x=alt.value(2), y=alt.value(0), text="text:N"),
    ).properties(width=740, height=270, view=alt.ViewBackground(stroke=None))
    hint = ("Drag over dots to choose them; a double click lets go. Click a dot, a class or a "
            "photo to see its class alone; the menu brings all classes back.")
    return alt.vconcat(alt.hconcat(scatter, violins), photos, usermeta={"hint": hint}).add_params(
        model, least)


def _violin(values: pd.Series) -> pd.DataFrame | None:
    """Half height ``h`` (0.45 at most) along a violin ``a``; None of too few values."""
    if len(values) < 3 or np.ptp(values) < 1e-6:
        return None
    grid = np.linspace(values.min(), values.max(), 15)
    density = scipy.stats.gaussian_kde(values)(grid)
    return pd.DataFrame({"a": grid, "h": 0.45 * density / density.max()})


def class_violins(
    tables: dict[str, pd.DataFrame], shown: int, scores: dict[str, pd.DataFrame]
) -> alt.LayerChart:
    """Distribution of AS over the pictures of the classes at both ends of a classifier's order."""
    shapes, middles, names, row = [], [], [], 26  # pixels of a class
    fields = {
        "views": "views", "stamps": "stamps", "as_median": "m", "as_low": "q", "as_high": "r",
        "as_median_low": "low", "as_median_high": "high", "as_excess": "e",
        "as_excess_low": "e_low", "as_excess_high": "e_high"}
    for number, (title, table) in enumerate(tables.items()):
        known, pictures = scores[title].set_index("label"), table.groupby("label")
        order = list(dict.fromkeys([*known.index[:shown], *known.index[-shown:]]))
        names.append(order)
        control = pictures["attribute_score_control"].median()
        middles.append(known.loc[order, [*fields]].rename(columns=fields).assign(
            t=number, p=range(len(order)), c=control[order]).reset_index())
        shapes += [
            shape.assign(t=number, p=place) for place, label in enumerate(order)
            if (shape := _violin(pictures.get_group(label)["attribute_score"])) is not None]
    # Short names and three digits: the page carries a few thousand of these rows.
    few = pd.DataFrame(columns=["t", "p", "a", "h"], dtype=float)  # too few pictures for a shape
    shapes = (pd.concat(shapes) if shapes else few).round(3)
    middles = pd.concat(middles).round(3)
    points = np.concatenate([shapes["a"], middles["m"], middles["c"]])
    lowest, highest = float(points.min()), float(points.max())
    pick = menu("classifier", list(tables), "classifier ")
    here = f"indexof({json.dumps(list(tables))}, classifier)"
    rows = max(map(len, names))
    x = alt.X("a:Q", title="AS after null removal (degrees; + = closer)",
              scale=alt.Scale(domain=[lowest - 0.2, highest + 0.2], nice=False))
    y = {"scale": alt.Scale(domain=[-0.7, rows - 0.3], reverse=True, nice=False),
         "axis": alt.Axis(values=list(range(rows)), grid=False, title=None, labelLimit=180,
                          labelOverlap=False, labelFontSize=min(12, row - 4),
                          labelExpr=f"{json.dumps(names)}[{here}][datum.value]")}
    violins = alt.Chart(shapes).transform_filter(f"datum.t == {here}").transform_calculate(
        top="datum.p - datum.h", bottom="datum.p + datum.h"
    ).mark_area(color=VERMILION, opacity=0.65, orient="vertical").encode(
        x=x, y=alt.Y("top:Q", **y), y2="bottom:Q", detail="p:N")
    base = alt.Chart(middles).transform_filter(f"datum.t == {here}").encode(
        y=alt.Y("p:Q", **y),
        tooltip=tips(
            "label | class", "m | median AS (degrees) | +.2f",
            "q | middle half of the pictures from | +.2f", "r | to | +.2f",
            "low | 95 % of the median from | +.2f", "high | to | +.2f",
            "c | control (degrees) | +.2f", "e | excess over the control | +.2f",
            *ends("+.2f", "e_low", "e_high"), "views:Q | pictures", "stamps:Q | different photos"))
    size = row * 1.8
    dots = base.mark_point(filled=True, size=size, color="#222", stroke="#fff", opacity=1).encode(
        x=alt.X("m:Q"))
    control = base.mark_point(shape="diamond", size=size, fill="#fff", stroke="#666",
                              strokeWidth=1.5, opacity=1).encode(x=alt.X("c:Q"))
    sure = base.mark_rule(color="#222", strokeWidth=1.5).encode(x=alt.X("low:Q"), x2="high:Q")
    layers = [rule(), violins, control, sure, dots]
    if rows == 2 * shown:
        layers.append(rule(shown - 0.5, "y").encode(y=alt.Y("y:Q", **y)))
    return alt.layer(*layers).add_params(pick).properties(height=row * rows)
