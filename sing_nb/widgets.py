"""Explorers for a running kernel: widgets that ask a study, and their counterparts for a page.

An explorer is an ipywidgets box. What goes wrong in an answer is said in the box. Every explorer
has a ``counterpart``, a chart with answers computed beforehand, for pages without a kernel.
"""

from __future__ import annotations

import contextlib
import html
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import altair as alt
import ipywidgets
import numpy as np
import pandas as pd

from . import charts
from .book.figures import TYPE
from .book.findings import span
from .charts import explorers
from .errors import SingError
from .models.prompts import complete_prompt
from .pictures.images import thumbnail
from .study import classes, pushes, tables
from .study.classes import class_pictures
from .study.profile import unknown
from .study.study import Study
from .study.tables import KINDS

__all__ = ["ConceptExplorer", "Explorer", "ModelComparer", "NullSpaceExplorer"]

LIVE_WIDTH = 640  # pixels: JupyterLab measures the width of a cell that has none yet
MOST_PHOTOS = 4000  # entries of the menu of pictures, about
OWN = "own"  # the reader's picture in that menu
INK = "color:var(--jp-ui-font-color1, inherit)"
HINTS = {
    "remove": "Take away what the head ignores: no logit moves",
    "prompt": "Inside the null space, to the prompt: no logit moves",
    "random": "Somewhere inside the null space: no logit moves",
    "control": "The control: the head sees it",
}
MOST_WORDS = 30  # concepts that one string graph can show
LONGEST = 60  # letters of a concept
#: What is compared: its name and its unit.
QUANTITIES = {
    "ratio": ("IS / |AS|", ""),
    "image_score": ("Image Score", "degrees"),
    "attribute_score": ("|Attribute Score|", "degrees"),
}


class Explorer(ipywidgets.VBox):
    """What all explorers share: a study, and a line that says what is going on.

    Parameters
    ----------
    study : Study

    Attributes
    ----------
    said : ipywidgets.HTML
        Advice or an error, read aloud by screen readers; empty when all is well.
    """

    def __init__(self, study: Study) -> None:
        super().__init__()
        self.study = study
        self.said = ipywidgets.HTML()
        self.said.add_class("sing-said")
        self.add_class("sing-explorer")

    def say(self, text: str = "", wrong: bool = False) -> None:
        """Show a sentence below the controls; an empty one takes the last away."""
        role, mark = ("alert", "⚠ ") if wrong else ("status", "")
        self.said.value = f'<p role="{role}">{mark}{html.escape(text)}</p>' if text else ""

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Run an answer; bad input is said in the box and is no traceback.

        What is no :class:`SingError` is a defect: it is said as well, and raised for the log.
        """
        try:
            yield
        except SingError as error:
            self.say(str(error), wrong=True)
        except Exception as error:
            self.say(_defect(error), wrong=True)
            raise
        else:
            self.say()

    def counterpart(self) -> alt.TopLevelMixin:
        """The chart that stands for the explorer in a page without a kernel."""
        raise NotImplementedError


# --- one photo ----------------------------------------------------------------------------------


class NullSpaceExplorer(Explorer):
    """Push a photo along a direction, and see what its classifier notices.

    Parameters
    ----------
    study : Study
    model : str
        Classifier, the study's first by default.
    photos : sequence of str
        Pictures that stand first in the menu, a few of the study's by default.
    direction : str
        A key of ``probe.DIRECTIONS``.
    prompt : str
        Where to push.

    Attributes
    ----------
    photo, model : ipywidgets.Dropdown
    upload : ipywidgets.FileUpload
        A picture of the reader's own.
    direction, mode : ipywidgets.ToggleButtons
        The direction; ``step`` or ``target``, what says how far.
    prompt, towards : ipywidgets.Text
        Where to push, for which the direction changes to ``prompt``; what Attribute Scores are
        towards, by default the photo's label, or the class that an own picture is taken for.
    step, target : ipywidgets.FloatSlider
        Lengths of the photo's null part; Image Score in degrees.
    picture, numbers, words, photos : ipywidgets.HTML
        The photo; its scores beside the control's; nearest words and photos before and after.
    chart : altair.JupyterChart
        Scores along the push.
    """

    def __init__(
        self, study: Study, model: str = "", photos: Sequence[str] = (),
        direction: str = "remove", prompt: str = "an image of a jellyfish",
    ) -> None:
        super().__init__(study)
        wrong: list[SingError] = []
        self._quiet, self._mine, self._seen = False, (b"", ""), None
        self._drawn: tuple | None = None
        self._small: dict[str, str] = {}
        self._first = _pictures(study, photos, wrong)
        models, wide = study.config.models, {"description_width": "initial"}
        text, slider = {"width": "400px"}, {"width": "480px"}
        self.photo = ipywidgets.Dropdown(description="photo", options=self._menu())
        self.upload = ipywidgets.FileUpload(
            accept="image/*", description="your own picture", layout={"width": "auto"})
        self.model = ipywidgets.Dropdown(
            description="classifier", options=[(study.title(name), name) for name in models],
            value=_known("classifier of this study", model, models, wrong))
        self.direction = ipywidgets.ToggleButtons(
            description="push", style={"button_width": "auto"},
            options=[(title, kind) for kind, title in pushes.DIRECTIONS.items()],
            tooltips=[HINTS[kind] for kind in pushes.DIRECTIONS],
            value=_known("direction", direction, list(pushes.DIRECTIONS), wrong))
        self.prompt = ipywidgets.Text(
            description="prompt", value=prompt, continuous_update=False,
            placeholder="jellyfish, or: an image of a birthday cake", layout=text)
        self.towards = ipywidgets.Text(
            description="AS towards", continuous_update=False,
            placeholder="the photo's own label, or the class it is taken for", layout=text)
        self.mode = ipywidgets.ToggleButtons(
            description="how far", style={"button_width": "auto"},
            options=[("by a step", "step"), ("to an Image Score", "target")],
            tooltips=["In lengths of the photo's null part", "In degrees; the step follows"])
        self.step = ipywidgets.FloatSlider(
            description="step (lengths of the null part)", value=1, min=pushes.STEPS[0],
            max=pushes.STEPS[1], step=0.05, style=wide, layout=slider)
        self.target = ipywidgets.FloatSlider(
            description="Image Score (degrees)", value=20, min=0, max=120, step=1,
            readout_format=".0f", style=wide, layout=slider)
        self.picture, self.numbers, self.words, self.photos = (
            ipywidgets.HTML() for _ in range(4))
        self.numbers.add_class("sing-numbers")
        self.words.add_class("sing-words")
        self.photos.add_class("sing-photos")
        self.chart = _live_chart()
        self.chart.chart = None
        row = {"flex_flow": "row wrap"}
        self.children = [
            ipywidgets.HBox([self.photo, self.upload, self.model], layout=row),
            self.direction,
            ipywidgets.HBox([self.prompt, self.towards], layout=row),
            ipywidgets.HBox([self.mode, self.step, self.target], layout=row),
            self.said, ipywidgets.HBox([self.picture, self.numbers]),
            self.chart, self.words, self.photos,
        ]
        study.text(study.vocabulary)  # seconds, once: the first push would wait for it
        _expect_words(study)
        self._answer()
        self.upload.observe(self._take, "value")
        self.prompt.observe(self._lead, "value")
        for one in (self.photo, self.model, self.direction, self.towards, self.mode, self.step,
                    self.target):
            one.observe(self._answer, "value")
        if wrong:
            self.say(str(wrong[0]), wrong=True)

    def _menu(self) -> list[tuple[str, str]]:
        """Titles and pictures: the first ones, then all others, of many a share of each label."""
        table = self.study.pictures
        shown = table[table["source"] != "clipart"]
        shown = shown.groupby("label").head(max(1, MOST_PHOTOS // shown["label"].nunique()))
        rest = [name for name in shown["picture"] if name not in set(self._first)]
        titles = self.study.names(self._first)
        return [*zip(titles, self._first), *((name, name) for name in rest)]

    def _take(self, _: object = None) -> None:
        """Show the picture that was dropped, if it is one."""
        if not self.upload.value:
            return
        with self.answering():
            file = self.upload.value[-1]
            mine, name = bytes(file["content"]), file["name"]
            seen = pushes.uploaded(self.study, self.model.value, mine, name)
            self._mine, self._seen = (mine, name), ((self.model.value, OWN, mine), seen)
            with self._silently():
                self.photo.options = [(f"your picture: {name}", OWN), *self._menu()]
                self.photo.value = OWN
            self._show()

    def _lead(self, _: object = None) -> None:
        """Whoever types a prompt wants to go there."""
        with self.answering():
            complete_prompt(self.prompt.value)
            with self._silently():
                self.direction.value = "prompt"
            self._show()

    @contextlib.contextmanager
    def _silently(self) -> Iterator[None]:
        """Set controls without an answer to each."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def _answer(self, _: object = None) -> None:
        if self._quiet:
            return
        by_step = self.mode.value == "step"
        self.step.layout.display = None if by_step else "none"
        self.target.layout.display = "none" if by_step else None
        with self.answering():
            self._show()

    def _look(self) -> pushes.Photo:
        """The photo, as the chosen classifier sees it."""
        key = (self.model.value, self.photo.value, self._mine[0])
        if self._seen is None or self._seen[0] != key:
            model, name, mine = key
            if self._seen is None or self._seen[0][0] != model:
                self.say(f"Reading what {self.study.title(model)} says of the pictures …")
            self._seen = key, (
                pushes.uploaded(self.study, model, mine, self._mine[1]) if name == OWN
                else pushes.known(self.study, model, name))
        return self._seen[1]

    def _show(self) -> None:
        """Answer and show; what goes wrong leaves the last answer where it is."""
        photo, kind = self._look(), self.direction.value
        asked = (self.study, self.model.value, photo, kind,
                 self.prompt.value if kind == "prompt" else "", self.towards.value)
        by_step = self.mode.value == "step"
        far = {"step": self.step.value} if by_step else {"target": self.target.value}
        found = pushes.answer(*asked, **far)
        push, held = (row for _, row in found.scores.iterrows())
        last = max(pushes.STEPS[1], float(np.ceil(1.2 * push["step"])))
        drawn = (id(photo), *asked[3:], last)
        if drawn != self._drawn:
            steps = np.linspace(pushes.STEPS[0], last, 41).round(3)
            self._trail = pushes.trail(*asked, steps=steps)
            self._drawn, self._kept = drawn, photo  # kept, so that its id stays its own
        if self.chart.chart is None:
            self.chart.chart = _narrow(explorers.null_space_trail(self._trail, push["step"]))
        else:
            values = explorers.trail_params(self._trail, push["step"])
            with self.chart.hold_sync():
                for name, value in values.items():
                    if getattr(self.chart.params, name) != value:
                        setattr(self.chart.params, name, value)
        self.picture.value = _image(photo.image, *2 * [photo.label or photo.name])
        self.numbers.value = _push_table(found, push, held)
        self.words.value = _words(found.words)
        self.photos.value = _near_photos(found.photos, self._thumbnails(found.photos["picture"]))

    def _thumbnails(self, pictures: Sequence[str]) -> dict[str, str]:
        fresh = [name for name in dict.fromkeys(pictures) if name not in self._small]
        for name in fresh:
            self._small[name] = thumbnail(self.study.picture_path(name))
        return self._small

    def counterpart(self) -> alt.VConcatChart:
        """The first photos of the menu, pushed everywhere, step by step."""
        study, words = self.study, "an image of a jellyfish"
        with contextlib.suppress(SingError):  # a prompt that cannot be used was said in the box
            words = complete_prompt(self.prompt.value)
        table = pushes.explored(study, self.model.value, self._first[:6], words)
        names = list(dict.fromkeys([*table["picture"], *itertools.chain(*table["photos"])]))
        shown = study.pictures.iloc[study.rows(names)][["picture", "label"]]
        return explorers.null_space_explorer(
            table, study.with_thumbnails(shown, side=56), self.direction.value)


def _pictures(study: Study, names: Sequence[str], wrong: list[SingError]) -> list[str]:
    """Full names of pictures; what is none goes to the list of errors."""
    found = []
    for name in names:
        try:
            found.append(study.pictures["picture"].iloc[study.row(name)])
        except SingError as error:
            wrong.append(error)
    return list(dict.fromkeys(found)) or study.examples(study.known([], at_least=6)[:6])


def _push_table(found: pushes.Answer, push: pd.Series, held: pd.Series) -> str:
    """Scores of a push, beside what it is held against."""

    def row(text: str, column: str, form: Callable[[float], str] = "{:+.1f}°".format) -> list[str]:
        return [text, *(form(one[column]).replace("-", "\N{MINUS SIGN}") for one in (push, held))]

    def taken(when: str) -> list[str]:
        return [f"taken for, {when}",
                *(f"{one[when]} ({one[f'probability_{when}']:.0%})" for one in (push, held))]

    rows = [
        row("step (lengths of the null part)", "step", "{:.2f}".format),
        row("Image Score", "image_score", "{:.1f}°".format),
        row(f"Attribute Score towards “{found.towards}”", "attribute_score"),
        row("largest change of a logit", "logit_change", _logit), taken("before"), taken("after"),
        ["translator error", f"{found.translator_error:.1f}°", ""],
    ]
    if push["kind"] == "prompt":
        rows.insert(3, row("Attribute Score towards the prompt", "prompt_score"))
    return _table(["", push["title"], f"held against: {held['title']}"], rows)


def _logit(change: float) -> str:
    if change >= 0.01 or change == 0:
        return f"{change:.2f}"
    digit, exponent = f"{change:.0e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digit}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10{raised}"


def _words(table: pd.DataFrame) -> str:
    """Nearest words before and after; new ones carry a plus and are bold."""
    def item(row: object) -> str:
        text = f"{html.escape(row.word)} {row.angle:.1f}°"
        return f"<li>{f'<strong>+ {text}</strong>' if row.gained else text}</li>"

    return _side_by_side({
        f"nearest words {state}": f'<ol style="margin:0">{"".join(map(item, part.itertuples()))}'
        "</ol>" for state, part in table.groupby("state", sort=False)
    })


def _near_photos(table: pd.DataFrame, small: Mapping[str, str]) -> str:
    """Nearest photos before and after; new ones carry a plus."""
    return _side_by_side({
        f"nearest photos {state}": '<div style="display:flex;flex-wrap:wrap;gap:8px">' + "".join(
            _image(small[row.picture], f"{row.label}, {row.angle:.1f}° away",
                   f"{'+ ' if row.gained else ''}{row.label} {row.angle:.0f}°")
            for row in part.itertuples()) + "</div>"
        for state, part in table.groupby("state", sort=False)
    })


def _side_by_side(parts: Mapping[str, str]) -> str:
    return f'<div style="display:flex;flex-wrap:wrap;gap:24px;line-height:1.4;{INK}">' + "".join(
        f'<section><p style="margin:4px 0"><strong>{head}</strong></p>{body}</section>'
        for head, body in parts.items()) + "</div>"


def _image(source: str, text: str, caption: str) -> str:
    """A picture as a figure; text is what it shows."""
    return (f'<figure style="margin:0 8px 0 0;width:84px;{INK}"><img src="{source}" '
            f'alt="{html.escape(text)}" style="max-width:72px;max-height:72px"><figcaption '
            f'style="font-size:11px;line-height:1.25;overflow-wrap:anywhere">'
            f"{html.escape(caption)}</figcaption></figure>")


def _narrow(chart: alt.HConcatChart) -> alt.HConcatChart:
    """Two plots that are as wide as a table side by side."""
    for panel in chart.hconcat:
        panel.width = (LIVE_WIDTH - 100) // 2
    return chart


# --- concepts -----------------------------------------------------------------------------------


class ConceptExplorer(Explorer):
    """Type any words: which of them do a class's pictures come nearer to without the null space?

    Parameters
    ----------
    study : Study
    model : str
        Classifier to begin with, the study's first by default.
    label : str
        Class to begin with, by any of its usual names; the study's first by default.
    concepts : sequence of str
        Words to begin with, a few of the study's by default.

    Attributes
    ----------
    label, model : ipywidgets.Dropdown
    words : ipywidgets.Text
        Up to 30 concepts, separated by commas, semicolons or lines.
    sentence, numbers : ipywidgets.HTML
        The concept that moves most, and the table behind the chart.
    chart : altair.JupyterChart
        The string graph.
    """

    def __init__(
        self, study: Study, model: str = "", label: str = "", concepts: Sequence[str] = ()
    ) -> None:
        super().__init__(study)
        wrong: list[SingError] = []
        labels = sorted(study.labels, key=str.lower)
        models = study.config.models
        self.label = ipywidgets.Dropdown(
            description="class", options=labels,
            value=_known("class", label, study.labels, wrong, study.label))
        self.model = ipywidgets.Dropdown(
            description="classifier", options=[(study.title(name), name) for name in models],
            value=_known("classifier of this study", model, models, wrong))
        self.words = ipywidgets.Text(
            description="concepts", value=", ".join(concepts or study.concepts[::4]),
            placeholder="any words, separated by commas: saddle, desert, birthday cake",
            continuous_update=False, layout={"width": "auto"})
        self.sentence, self.numbers = ipywidgets.HTML(), ipywidgets.HTML()
        self.numbers.add_class("sing-numbers")
        self.chart = _live_chart()
        self.children = [
            ipywidgets.HBox([self.label, self.model], layout={"flex_flow": "row wrap"}),
            self.words, self.said, self.sentence, self.chart, self.numbers,
        ]
        _expect_words(study)
        self._answer()
        for one in (self.label, self.model, self.words):
            one.observe(self._answer, "value")
        if wrong:
            self.say(str(wrong[0]), wrong=True)

    def _answer(self, _: object = None) -> None:
        with self.answering():
            label, model = self.label.value, self.model.value
            concepts = _concepts(self.words.value)
            table = classes.string_graph(self.study, model, label, concepts)
            chart = explorers.string_graph(
                table.assign(label=label, title=self.study.title(model)))
            chart.width = LIVE_WIDTH  # `properties` would copy it all, which takes 20 ms
            self.chart.chart = chart
            self.sentence.value = _paragraph(
                _strongest(table, label, self.study.config.control_draws))
            self.numbers.value = _concept_table(table)

    def counterpart(self) -> alt.LayerChart:
        """The string graph of a few classes and every classifier, for the study's own concepts."""
        study, first = self.study, self.label.value
        order = tables.classes(study, self.model.value)["label"]
        spread = order.iloc[np.linspace(0, len(order) - 1, min(8, len(order))).round().astype(int)]
        # The explorer's own choice comes first: a menu begins with its first row.
        models = [self.model.value, *study.config.models]
        return explorers.concept_explorer(pd.concat([
            classes.string_graph(study, model, label).assign(label=label, title=study.title(model))
            for label in dict.fromkeys([first, *spread]) for model in dict.fromkeys(models)
        ], ignore_index=True))


def _concepts(text: str) -> list[str]:
    """The words of a text, each once; refuses what is none."""
    found = [" ".join(part.split()) for part in re.split(r"[,;\n]", text)]
    found = [re.sub(r"(?i)^an image of an? ", "", part) for part in found if part]
    found = list({part.lower(): part for part in reversed(found)}.values())[::-1]
    if not found:
        raise SingError(
            "No words came; type a few, separated by commas, such as: saddle, desert, fur."
        )
    for part in found:
        if not any(letter.isalnum() for letter in part):
            raise SingError(f"{part!r} has no letter; type words, such as: saddle, desert, fur.")
        if len(part) > LONGEST:
            raise SingError(
                f"“{part[:LONGEST]}…” has {len(part)} letters, and a concept at most {LONGEST}; "
                f"put commas between concepts, or say it in fewer words."
            )
    if len(found) > MOST_WORDS:
        raise SingError(
            f"{len(found)} concepts came, and the chart shows at most {MOST_WORDS}; take "
            f"{len(found) - MOST_WORDS} away and ask again for those."
        )
    return found


def _strongest(table: pd.DataFrame, label: str, draws: int) -> str:
    """What moves most in a string graph, and whether random removals do the same."""
    row = table.loc[table["strength"].idxmin()]
    turn = 1 if row["attribute_score"] >= 0 else -1
    size = span(_turned(row.rename({"attribute_score": "value"}), turn), digits=2)
    as_much = round((1 - row["beyond"]) * draws)
    compared = (
        f"That is more than under every one of {draws} random removals of the same size."
        if as_much == 0 else
        f"{as_much} of {draws} random removals of the same size move them at least as far, so "
        f"that this is no finding."
    )
    return (
        f"Without the null space, pictures of “{label}” move most with respect to "
        f"“{row['concept']}”: {size} {'nearer' if turn == 1 else 'farther'}, 95 % over these "
        f"pictures. {compared}"
    )


def _concept_table(table: pd.DataFrame) -> str:
    head = ("concept", "before", "after", "AS (95 % over pictures)", "control (smallest, largest)")
    rows = []
    for row in table.to_dict("records"):
        score = {"value": row["attribute_score"], "low": row["low"], "high": row["high"]}
        other = {"value": row["attribute_score_control"], "low": row["control_low"],
                 "high": row["control_high"]}
        rows.append((row["concept"], f"{row['before']:.1f}°", f"{row['after']:.1f}°",
                     span(score, digits=2), span(other, digits=2)))
    return f"<details><summary>numbers</summary>{_table(head, rows)}</details>"


# --- classifiers --------------------------------------------------------------------------------


class ModelComparer(Explorer):
    """Two classifiers of the study side by side.

    Parameters
    ----------
    study : Study
    first, second : str
        Classifiers to begin with, the study's first two by default.

    Attributes
    ----------
    first, second : ipywidgets.Dropdown
    measure, kind : ipywidgets.ToggleButtons
        What is compared, and after which removal.
    sentence, numbers : ipywidgets.HTML
    chart : altair.JupyterChart
    """

    def __init__(self, study: Study, first: str = "", second: str = "") -> None:
        super().__init__(study)
        wrong: list[SingError] = []
        models = study.config.models
        first = self._known(first, models[0], wrong)
        second = self._known(second, next((m for m in models if m != first), first), wrong)
        options = [(study.title(name), name) for name in models]
        self.first, self.second = (
            ipywidgets.Dropdown(description=which, options=options, value=value)
            for which, value in (("first", first), ("second", second)))
        self.measure = ipywidgets.ToggleButtons(
            description="measure", options=[(name, key) for key, (name, _) in QUANTITIES.items()],
            tooltips=["how far pictures move for each degree towards their class",
                      "how far pictures move, degrees",
                      "how far they move towards their class or from it, degrees"])
        self.kind = ipywidgets.ToggleButtons(
            description="removed", options=[("null space", KINDS[0]), ("random part", KINDS[1])],
            tooltips=["what the head ignores", "control: as large a part at random"])
        self.sentence, self.numbers = ipywidgets.HTML(), ipywidgets.HTML()
        self.numbers.add_class("sing-numbers")
        self.chart = _live_chart()
        self._differences: dict[tuple[str, ...], dict[str, float]] = {}
        self.children = [
            ipywidgets.HBox([self.first, self.second], layout={"flex_flow": "row wrap"}),
            self.measure, self.kind, self.said, self.sentence, self.chart, self.numbers,
        ]
        # A bootstrap over thousands of controls is slow, and a reader tries every button.
        for quantity, kind in itertools.product(QUANTITIES if first != second else (), KINDS):
            self._difference(first, second, quantity, kind)
        self._answer()
        for one in (self.first, self.second, self.measure, self.kind):
            one.observe(self._answer, "value")
        if wrong:
            self.say(str(wrong[0]), wrong=True)

    def _known(self, name: str, otherwise: str, wrong: list[SingError]) -> str:
        """A classifier that may be compared; if not, another, and an error in the list."""
        if name and name == self.study.config.tower:
            wrong.append(SingError(
                f"{self.study.title(name)} builds the joint space, and a classifier is never "
                f"ranked in its own space; choose another one."))
            return otherwise
        models = [otherwise, *(m for m in self.study.config.models if m != otherwise)]
        return _known("classifier of this study", name, models, wrong)

    def _answer(self, _: object = None) -> None:
        with self.answering():
            first, second = self.first.value, self.second.value
            quantity, kind = self.measure.value, self.kind.value
            if first == second:
                raise SingError("Both sides show one classifier; choose two.")
            table = pd.concat([tables.model(self.study, name) for name in (first, second)])
            difference = self._difference(first, second, quantity, kind)
            chart = _medians(table, [quantity])
            chart.width = LIVE_WIDTH
            self.chart.chart = chart
            titles = [self.study.title(name) for name in (first, second)]
            self.sentence.value = _paragraph(_compared(titles, difference, quantity, kind))
            self.numbers.value = _model_table(table, titles, difference, quantity, kind)

    def _difference(self, *asked: str) -> dict[str, float]:
        if asked not in self._differences:
            self._differences[asked] = tables.model_difference(self.study, *asked)
        return self._differences[asked]

    def counterpart(self) -> alt.TopLevelMixin:
        """Linked views of all classifiers; of a single one, its medians."""
        if len(self.study.config.models) < 2:
            return _medians(tables.models(self.study), list(QUANTITIES))
        points = class_pictures(self.study)
        thumbs = points[["picture"]].drop_duplicates()
        return explorers.linked_models(points, self.study.with_thumbnails(thumbs, 44))


def _medians(table: pd.DataFrame, quantities: Sequence[str]) -> alt.LayerChart:
    """Medians with their interval beside the control's; of several quantities, a menu chooses."""
    table = table[table["quantity"].isin(quantities) & table["kind"].isin(KINDS)]
    table = table.assign(name=table["quantity"].map(lambda key: QUANTITIES[key][0]))
    name, unit = QUANTITIES[quantities[0]] if len(quantities) == 1 else ("", "")
    return charts.dots(
        table, "title", f"{name}{unit and f' ({unit})'}: median, 95 % over subjects".lstrip(": "),
        charts.colours("kind", charts.KINDS, table), beside="kind",
        tooltip=charts.tips("title", "kind", "name", "value | median | .2f", *charts.ends(".2f")),
        choose=[("name", "quantity ")] if len(quantities) > 1 else [], row=64)


def _compared(
    titles: Sequence[str], difference: Mapping[str, float], quantity: str, kind: str
) -> str:
    """Which of two classifiers has the larger score, if the interval tells."""
    name, unit = QUANTITIES[quantity]
    unit = unit and "°"
    if kind == KINDS[1]:
        name = f"{name} after a random removal (the control)"
    first, second = titles
    if not np.isfinite(difference["low"]):
        return f"Whether {first} and {second} differ in {name} cannot be said of one subject."
    if difference["low"] <= 0 <= difference["high"]:
        return (
            f"{first} and {second} cannot be told apart by {name}: second minus first is "
            f"{span(difference, unit, 2)}, paired, and this 95 % interval holds 0."
        )
    turn = 1 if difference["value"] >= 0 else -1
    more, less = (second, first) if turn == 1 else (first, second)
    return (
        f"{name} is clearly larger for {more} than for {less}, by "
        f"{span(_turned(difference, turn), unit, 2)}, paired, 95 %."
    )


def _model_table(
    table: pd.DataFrame, titles: Sequence[str], difference: Mapping[str, float], quantity: str,
    kind: str,
) -> str:
    what, unit = QUANTITIES[quantity]
    unit = unit and "°"
    head = ("classifier", what, "control", "translator's held-out error")
    rows = []
    for title in titles:
        own = table[table["title"] == title].set_index(["quantity", "kind"])
        rows.append((title, *(span(own.loc[(quantity, name)], unit, 2) for name in KINDS),
                     span(own.loc[("translator_error", "held out")])))
    apart = {kind: span(difference, unit, 2)}
    rows.append(("second − first, paired", *(apart.get(name, "") for name in KINDS), ""))
    return _table(head, rows)


# --- parts --------------------------------------------------------------------------------------


def _known(
    what: str, name: str, known: Sequence[str], wrong: list[SingError],
    mean: Callable[[str], str] = str,
) -> str:
    """What a name means, if it is known; otherwise the first, and an error in the list."""
    try:
        name = mean(name) if name else known[0]
        if name not in known:
            raise unknown(what, name, known)
    except SingError as error:
        wrong.append(error)
        return known[0]
    return name


def _expect_words(study: Study) -> None:
    """Load what encodes a text, which otherwise waits until one is typed."""
    # Where a chapter is run for a page nobody types.
    if study.config.tower and not os.environ.get("SING_QUIET"):
        study.space.encoder.prepare()


def _live_chart() -> alt.JupyterChart:
    """A chart that takes its libraries from vl-convert and asks no host."""
    alt.JupyterChart.enable_offline()
    # JupyterLab may be dark: a chart takes the colour of the text around it, as only SVG can.
    ink, line = "currentColor", {"domainColor": "#8a8a8a", "tickColor": "#8a8a8a"}
    text = {"labelColor": ink, "titleColor": ink}
    config = {
        "background": "transparent",
        "axis": {**text, **line, "gridColor": "#8a8a8a44", **TYPE["axis"]},
        "legend": {**text, **TYPE["legend"]}, "header": text,
        "title": {"color": ink, "subtitleColor": ink},
        "text": {"color": ink, **TYPE["text"]}, "rule": {"color": ink},
        "view": {"stroke": "#8a8a8a44"},
    }
    chart = alt.JupyterChart(
        alt.Chart(pd.DataFrame({"x": []})).mark_point(),
        embed_options={"renderer": "svg", "actions": False, "config": config})
    chart.add_class("sing-chart-live")
    return chart


def _turned(row: Mapping[str, float], turn: int) -> dict[str, float]:
    """An estimate with its interval, times 1 or -1."""
    low, high = sorted((turn * row["low"], turn * row["high"]))
    return {"value": turn * row["value"], "low": low, "high": high}


def _paragraph(text: str) -> str:
    return f'<p role="status">{html.escape(text)}</p>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of texts; a row's first cell is its name."""
    line = "border-bottom:1px solid var(--jp-border-color2, #8a8a8a);padding:2px 10px 2px 0"
    style = f'style="{line};text-align:left"'
    cells = "".join(f'<th scope="col" {style}>{html.escape(text)}</th>' for text in head)
    lines = "".join(
        f'<tr><th scope="row" {style}>{html.escape(first)}</th>'
        + "".join(f"<td {style}>{html.escape(text)}</td>" for text in rest)
        + "</tr>" for first, *rest in rows)
    return (f'<table style="border-collapse:collapse;line-height:1.4;{INK}">'
            f"<thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>")


def _defect(error: Exception) -> str:
    return (f"This should not happen ({type(error).__name__}: {error}); the log of the notebook "
            f"has the whole error.")
