"""The null-space explorer: a photo is pushed by hand, in a running kernel."""

from __future__ import annotations

import contextlib
import html
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import altair as alt
import ipywidgets
import numpy as np
import pandas as pd

from .book.figures import TYPE
from .charts import explorers
from .errors import SingError
from .models.prompts import complete_prompt
from .pictures.images import thumbnail
from .study import pushes
from .study.profile import unknown
from .study.study import Study

__all__ = ["NullSpaceExplorer", "live_chart"]

LIVE_WIDTH = 640  # pixels: JupyterLab measures the width of a cell that has none yet
MOST_PHOTOS = 4000  # entries of the menu of pictures, about
OWN = "own"  # the reader's picture in that menu
INK = "color:var(--jp-ui-font-color1, inherit)"
HINTS = {
    "remove": "Take away what the head ignores: no logit moves",
    "prompt": "Inside the null space, to the prompt: no logit moves",
    "random": "Somewhere inside the null space: no logit moves",
    "control": "The control: the head sees it"}


class NullSpaceExplorer(ipywidgets.VBox):
    """Push a photo along a direction, and see what its classifier notices.

    Parameters
    ----------
    model : str
        Classifier, the study's first by default.
    photos : sequence of str
        Pictures that stand first in the menu, a few of the study's by default.
    direction, prompt : str
        A key of ``pushes.DIRECTIONS``; where to push.

    Examples
    --------
    >>> explorer = NullSpaceExplorer(sing.Study("smoke"), photos=["badger"])  # doctest: +SKIP
    """

    def __init__(
        self, study: Study, model: str = "", photos: Sequence[str] = (),
        direction: str = "remove", prompt: str = "an image of a jellyfish",
    ) -> None:
        super().__init__()
        self.study = study
        self.add_class("sing-explorer")
        self._quiet, self._mine, self._seen = False, (b"", ""), None
        self._drawn: tuple | None = None
        self._small: dict[str, str] = {}
        models = study.config.models
        for what, name, known in (("classifier of this study", model or models[0], models),
                                  ("direction", direction, pushes.DIRECTIONS)):
            if name not in known:
                raise unknown(what, name, known)
        names = [study.pictures["picture"].iloc[study.row(name)] for name in photos]
        self._first = list(dict.fromkeys(names)) or study.examples(
            study.known([], at_least=6)[:6])
        self.photo = ipywidgets.Dropdown(description="photo", options=self._menu())
        self.upload = ipywidgets.FileUpload(
            accept="image/*", description="your own picture", layout={"width": "auto"})
        self.model = ipywidgets.Dropdown(
            description="classifier", options=[(study.title(name), name) for name in models],
            value=model or models[0])
        self.direction = ipywidgets.ToggleButtons(
            description="push", style={"button_width": "auto"},
            options=[(title, kind) for kind, title in pushes.DIRECTIONS.items()],
            tooltips=[HINTS[kind] for kind in pushes.DIRECTIONS],
            value=direction)
        self.prompt, self.towards = (
            ipywidgets.Text(description=what, value=value, continuous_update=False,
                            placeholder=example, layout={"width": "400px"})
            for what, value, example in (
                ("prompt", prompt, "jellyfish, or: an image of a birthday cake"),
                ("AS towards", "", "the photo's own label, or the class it is taken for")))
        self.mode = ipywidgets.ToggleButtons(
            description="how far", style={"button_width": "auto"},
            options=[("by a step", "step"), ("to an Image Score", "target")],
            tooltips=["In lengths of the photo's null part", "In degrees; the step follows"])
        self.step, self.target = (
            ipywidgets.FloatSlider(
                description=what, value=value, min=least, max=most, step=step,
                style={"description_width": "initial"}, layout={"width": "480px"})
            for what, value, least, most, step in (
                ("step (lengths of the null part)", 1, *pushes.STEPS, 0.05),
                ("Image Score (degrees)", 20, 0, 120, 1)))
        self.said, self.picture, self.numbers, self.words, self.photos = (
            ipywidgets.HTML() for _ in range(5))
        for part in ("said", "numbers", "words", "photos"):
            getattr(self, part).add_class(f"sing-{part}")
        self.chart = live_chart()
        self.chart.chart = None
        self.children = [
            *(ipywidgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in (
                [self.photo, self.upload, self.model], [self.direction],
                [self.prompt, self.towards], [self.mode, self.step, self.target])),
            self.said, ipywidgets.HBox([self.picture, self.numbers]),
            self.chart, self.words, self.photos]
        study.text(study.vocabulary)  # seconds, once: the first push would wait for it
        # Where a chapter is run for a page nobody types.
        if study.config.tower and not os.environ.get("SING_QUIET"):
            study.space.encoder.prepare()
        self._answer()
        self.upload.observe(self._take, "value")
        self.prompt.observe(self._lead, "value")
        for one in (self.photo, self.model, self.direction, self.towards, self.mode, self.step,
                    self.target):
            one.observe(self._answer, "value")

    def _menu(self) -> list[tuple[str, str]]:
        """Titles and pictures: the first ones, then all others, of many a share of each label."""
        table = self.study.pictures
        shown = table[table["source"] != "clipart"]
        shown = shown.groupby("label").head(max(1, MOST_PHOTOS // shown["label"].nunique()))
        rest = [name for name in shown["picture"] if name not in set(self._first)]
        return [*zip(self.study.names(self._first), self._first), *((name, name) for name in rest)]

    def _say(self, text: str = "") -> None:
        """Say below the controls what is wrong; an empty text takes the last away."""
        self.said.value = f'<p role="alert">⚠ {html.escape(text)}</p>' if text else ""

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Run an answer; bad input is said in the box, and a defect is raised for the log, too."""
        try:
            yield
        except SingError as error:
            self._say(str(error))
        except Exception as error:
            self._say(f"This should not happen ({type(error).__name__}: {error}); the log of the "
                      f"notebook has the whole error.")
            raise
        else:
            self._say()

    @contextlib.contextmanager
    def _silently(self) -> Iterator[None]:
        """Set controls without an answer to each."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def _take(self, _: object = None) -> None:
        """Show the picture that was dropped, if it is one."""
        if not self.upload.value:
            return
        with self._answering():
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
        with self._answering():
            complete_prompt(self.prompt.value)
            with self._silently():
                self.direction.value = "prompt"
            self._show()

    def _answer(self, _: object = None) -> None:
        if self._quiet:
            return
        by_step = self.mode.value == "step"
        self.step.layout.display = None if by_step else "none"
        self.target.layout.display = "none" if by_step else None
        with self._answering():
            self._show()

    def _look(self) -> pushes.Photo:
        """The photo, as the chosen classifier sees it."""
        key = (self.model.value, self.photo.value, self._mine[0])
        if self._seen is None or self._seen[0] != key:
            model, name, mine = key
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
        step = found.scores["step"].iloc[0]
        last = max(pushes.STEPS[1], float(np.ceil(1.2 * step)))
        drawn = (id(photo), *asked[3:], last)
        if drawn != self._drawn:
            steps = np.linspace(pushes.STEPS[0], last, 41).round(3)
            self._trail = pushes.trail(*asked, steps=steps)
            self._drawn, self._kept = drawn, photo  # kept, so that its id stays its own
        if self.chart.chart is None:
            chart = explorers.null_space_trail(self._trail, step)
            for panel in chart.hconcat:
                panel.width = (LIVE_WIDTH - 100) // 2
            self.chart.chart = chart
        else:
            with self.chart.hold_sync():  # what is as it was is not sent again
                for name, value in explorers.trail_params(self._trail, step).items():
                    setattr(self.chart.params, name, value)
        for name in dict.fromkeys(found.photos["picture"]):
            if name not in self._small:
                self._small[name] = thumbnail(self.study.picture_path(name))
        self.picture.value = _image(photo.image, *2 * [photo.label or photo.name])
        self.numbers.value = _push_table(found)
        self.words.value = _side_by_side("nearest words", found.words, lambda row: (
            f"<div>{'<strong>+ ' if row.gained else ''}{row.rank}. {html.escape(row.word)} "
            f"{row.angle:.1f}°{'</strong>' if row.gained else ''}</div>"))
        self.photos.value = _side_by_side("nearest photos", found.photos, lambda row: _image(
            self._small[row.picture], f"{row.label}, {row.angle:.1f}° away",
            f"{'+ ' if row.gained else ''}{row.label} {row.angle:.0f}°"))

    def counterpart(self) -> alt.VConcatChart:
        """The first photos of the menu, pushed everywhere, step by step, for a page."""
        study, words = self.study, "an image of a jellyfish"
        with contextlib.suppress(SingError):  # a prompt that cannot be used was said in the box
            words = complete_prompt(self.prompt.value)
        table = pushes.explored(study, self.model.value, self._first[:6], words)
        names = list(dict.fromkeys([*table["picture"], *itertools.chain(*table["photos"])]))
        shown = study.pictures.iloc[study.rows(names)][["picture", "label"]]
        return explorers.null_space_explorer(
            table, study.with_thumbnails(shown, side=56), self.direction.value)


def _push_table(found: pushes.Answer) -> str:
    """Scores of a push, beside what it is held against."""
    rows = {
        "step (lengths of the null part)": ("step", "{:.2f}"),
        "Image Score": ("image_score", "{:.1f}°"),
        f"Attribute Score towards “{found.towards}”": ("attribute_score", "{:+.1f}°"),
        "Attribute Score towards the prompt": ("prompt_score", "{:+.1f}°"),
        "largest change of a logit": ("logit_change", "{:.2g}")}
    scores, held = found.scores, f"held against: {found.scores['title'].iloc[1]}"
    if scores["kind"].iloc[0] != "prompt":
        del rows["Attribute Score towards the prompt"]
    said = {name: [form.format(value).replace("-", "\N{MINUS SIGN}") for value in scores[column]]
            for name, (column, form) in rows.items()}
    for when in ("before", "after"):
        said[f"taken for, {when}"] = [
            f"{name} ({sure:.0%})" for name, sure in zip(
                scores[when], scores[f"probability_{when}"])]
    said["translator error"] = [f"{found.translator_error:.1f}°", ""]
    table = pd.DataFrame(said, index=[scores["title"].iloc[0], held]).T
    return f'<div style="{INK}">{table.to_html(border=0)}</div>'


def _side_by_side(head: str, table: pd.DataFrame, item: Callable[[object], str]) -> str:
    """What is near before and after; what is new carries a plus."""
    parts = "".join(
        f'<section><p style="margin:4px 0"><strong>{head} {state}</strong></p>'
        f'<div style="display:flex;flex-wrap:wrap;gap:8px">'
        f'{"".join(map(item, part.itertuples()))}</div></section>'
        for state, part in table.groupby("state", sort=False))
    return f'<div style="display:flex;flex-wrap:wrap;gap:24px;line-height:1.4;{INK}">{parts}</div>'


def _image(source: str, text: str, caption: str) -> str:
    """A picture as a figure; text is what it shows."""
    return (f'<figure style="margin:0 8px 0 0;width:84px;{INK}"><img src="{source}" '
            f'alt="{html.escape(text)}" style="max-width:72px;max-height:72px"><figcaption '
            f'style="font-size:11px;line-height:1.25;overflow-wrap:anywhere">'
            f"{html.escape(caption)}</figcaption></figure>")


def live_chart() -> alt.JupyterChart:
    """A chart that takes its libraries from vl-convert and asks no host."""
    alt.JupyterChart.enable_offline()
    # JupyterLab may be dark: a chart takes the colour of the text around it, as only SVG can.
    ink: Mapping[str, str] = {"labelColor": "currentColor", "titleColor": "currentColor"}
    line = {"domainColor": "#8a8a8a", "tickColor": "#8a8a8a", "gridColor": "#8a8a8a44"}
    config = {
        "background": "transparent", "axis": {**ink, **line, **TYPE["axis"]},
        "legend": {**ink, **TYPE["legend"]}, "header": ink,
        "title": {"color": "currentColor", "subtitleColor": "currentColor"},
        "text": {"color": "currentColor", **TYPE["text"]}, "rule": {"color": "currentColor"},
        "view": {"stroke": "#8a8a8a44"}}
    chart = alt.JupyterChart(
        alt.Chart(pd.DataFrame({"x": []})).mark_point(),
        embed_options={"renderer": "svg", "actions": False, "config": config})
    chart.add_class("sing-chart-live")
    return chart
