"""A photo pushed step by step: the explorer that stays on a page, and the trail that runs live.

The charts of :mod:`sing_nb.charts.classes` have their names here, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd

from . import BLUE, GREY, VERMILION, menu, seen, tips
from .classes import class_violins, linked_models

__all__ = ["class_violins", "linked_models", "null_space_explorer", "null_space_trail",
           "trail_params"]

WIDE = {"width": "container"}
_PUSHED, _HELD_AGAINST = [1, 0], [5, 4]  # dashes


def null_space_explorer(
    table: pd.DataFrame, pictures: pd.DataFrame, start: str = "remove"
) -> alt.VConcatChart:
    """Photos pushed step by step: scores with their control, words and nearest photos."""
    data, shown = _explored_rows(table, pictures)
    looked_up = alt.LookupData(shown, "picture", ["image", "label"])
    names, ways = seen(table, "name"), seen(table, "title")
    chosen = alt.selection_point(
        name="photo", fields=["who"], value=[{"who": names[0]}], on="click", clear=False,
        toggle=False, bind=alt.binding_select(options=names, name="photo "))
    first = table.loc[table["kind"] == start, "title"].iloc[0]
    way = menu("way", sorted(ways, key=lambda title: title != first), "pushed: ")
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
        x=alt.X("who:N", sort=names, axis=None, scale=alt.Scale(domain=names)),
        tooltip=tips("who | photo", "class | taken for"))
    middle = alt.value(side / 2 + 4)
    # Names stand below, a word a line.
    longest = repr(max(" ".join(names).split(), key=len))
    lines = max(len(name.split()) for name in names)
    frame = strip.transform_filter(chosen).mark_square(
        color=VERMILION, size=(side + 6) ** 2, opacity=1).encode(y=middle)
    strip = alt.layer(frame, strip.mark_image(width=side, height=side, cursor="pointer").encode(
        url="image:N", y=middle, opacity=alt.condition(chosen, alt.value(1), alt.value(0.65))
    ).add_params(chosen), strip.mark_text(
        text=alt.expr("split(datum.who, ' ')"), **_fitting(longest, 1 / len(names), 11),
        baseline="top", lineHeight=12, cursor="pointer",
    ).encode(y=alt.value(side + 12))).properties(height=side + 12 + 12 * lines, **WIDE)

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
        hints = tips("way | pushed", "class | taken for")
        looks = [(f"datum.line == 0 && {which}", {"color": colour, "fontWeight": "bold"})
                 for which, colour in tints]
        for part, look in [*looks, ("datum.line > 0", {})]:
            written = cells.transform_filter(part).mark_text(
                **(text | look | _fitting("datum.text", 0.27)))
            numbers.append(written.encode(**column(len(said) + 1), tooltip=hints))
    numbers = alt.layer(*numbers).properties(height=17 * (len(said) + 1), **WIDE)

    curves = [
        _along_steps(photo, score, title, [
            (f"datum.way == {one}", f"abs(datum.step - step) < 0.01 && datum.way == {one}",
             f"datum.{score}", dash) for one, dash in ((other, _HELD_AGAINST), ("way", _PUSHED))
        ], tints)
        for score, title in (
            ("turn", "Image Score (degrees)"), ("gain", "Attribute Score (degrees)"))]

    count = max(map(len, table["words"]))
    words = [_written([head], left).mark_text(**text, fontWeight="bold").encode(**column(count + 1))
             for head, left in (("nearest words before", 0), ("after this step", 0.5))]
    for left, source in ((0, start), (0.5, now)):
        listed = source.transform_calculate(
            across=str(left), line=f"sequence(1, {count + 1})", word="datum.words",
            angle="datum.angles",
        ).transform_flatten(["line", "word", "angle", "fresh"]).transform_calculate(
            text="(datum.fresh ? '+ ' : '') + format(datum.angle, '.0f') + '° ' + datum.word")
        words += [
            listed.transform_filter(f"datum.fresh == {new}").mark_text(
                **(text | _fitting("datum.text", 0.5)), fontWeight="bold" if new else "normal",
            ).encode(**column(count + 1), tooltip=tips("word", "angle | degrees | .1f"))
            for new in (0, 1)]
    words = alt.layer(*words).properties(height=17 * (count + 1), **WIDE)

    count = max(map(len, table["photos"]))
    photos = []
    sources = {"nearest photos before": start, "nearest photos after this step": now}
    for title, source in sources.items():
        base = source.transform_calculate(
            place=f"sequence(1, {count + 1})", picture="datum.photos", angle="datum.far",
        ).transform_flatten(["place", "picture", "angle", "new"]).transform_lookup(
            "picture", looked_up,
        ).transform_calculate(
            label="(datum.new ? '+ ' : '') + datum.label",
            caption="format(datum.angle, '.0f') + '°'",
        ).encode(
            x=alt.X("place:O", axis=None, scale=alt.Scale(domain=list(range(1, count + 1)))),
            tooltip=tips("label", "angle | degrees | .1f", "place:O | rank"))
        photos.append(alt.layer(
            base.mark_image(width=54, height=54).encode(url="image:N", y=alt.value(28)),
            base.mark_text(**_fitting("datum.label", 1 / count, 11)).encode(
                text="label:N", y=alt.value(63)),
            base.mark_text(fontSize=11).encode(text="caption:N", y=alt.value(76)),
        ).properties(height=82, title=alt.Title(title, anchor="start", fontSize=12), **WIDE))

    return alt.vconcat(
        strip, numbers, alt.hconcat(*curves), words, *photos, spacing=12,
    ).add_params(way, goal, step).configure_view(stroke=None)


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
            ).mark_point(color=colour, filled=True, size=70, opacity=1).encode(tooltip=tips(
                "way | pushed", f"{score} | degrees | +.1f", "step | step | .2f"))]
    return alt.layer(*layers).properties(
        height=120, title=alt.Title(title, anchor="start", fontSize=12, fontWeight="normal"),
        **WIDE)


def null_space_trail(table: pd.DataFrame, step: float) -> alt.HConcatChart:
    """Scores along one push and its control; everything that changes is a param."""
    values, control = trail_params(table, step), _control_title(table)
    base = alt.Chart(alt.InlineData(values=[{}])).transform_calculate(
        row="trail").transform_flatten(["row"]).transform_calculate(
        **{key: f"datum.row.{key}" for key in ("held", "way", "step", "turn", "gain")})
    panels = []
    titles = {"turn": "Image Score (degrees)", "gain": "Attribute Score (degrees)"}
    for place, (score, title) in enumerate(titles.items()):
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
        trail += [{"held": held, "way": part["title"].iloc[0], "step": at, "turn": turn,
                   "gain": gain} for at, turn, gain in columns]
        dots.append([float(np.interp(step, part["step"], part[score]))
                     for score in ("image_score", "attribute_score")])
    return {"trail": trail, "dots": dots, "step": float(step)}


def _fitting(text: str, share: float, size: int = 12) -> dict[str, alt.expr]:
    """A font size at which a text is no wider than its share of the plot."""
    return {"fontSize": alt.expr(
        f"clamp({1.55 * share:.3f} * item.mark.group.width / max(1, length({text})), 8, {size})")}


def _written(lines: Sequence[str], left: float) -> alt.Chart:
    """Lines of text that stand still, from the top down, at a share of the width."""
    return alt.Chart(alt.InlineData(values=[
        {"line": place, "text": line, "across": left} for place, line in enumerate(lines)]))


def _explored_rows(
    table: pd.DataFrame, pictures: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Short rows of ``pushes.explored`` and of its thumbnails, each picture named by a number."""
    number = {name: place for place, name in enumerate(pictures["picture"])}
    unpushed = table[table["step"] == 0].drop_duplicates("name")
    old = {row.name: row for row in unpushed.itertuples(index=False)}
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
            "new": [int(name not in before.photos) for name in row.photos]})
    shown = pictures[["label", "image"]].assign(picture=range(len(pictures)))
    # Frames and not lists of rows: Altair copies those anew for every layer, for seconds.
    return pd.DataFrame(rows), shown
