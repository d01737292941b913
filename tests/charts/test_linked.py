"""Linked views that answer without a kernel: in a browser."""

from __future__ import annotations

import re
from pathlib import Path

import altair as alt
import numpy as np
import pytest
import vl_convert
from conftest import degrees

from sing_nb.book.page import chart_html
from sing_nb.charts import explorers
from sing_nb.study import classes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def points(smoke):
    return classes.class_pictures(smoke)


@pytest.fixture(scope="module")
def thumbs(smoke, points):
    found = smoke.with_thumbnails(points.drop_duplicates("picture")[["picture"]], side=24)
    assert found["image"].is_unique
    return found


def test_a_picture_has_the_scores_of_numpy(points, plain, smoke):
    own = points[points["model"] == "lite0"]
    rows = [plain.table["picture"].tolist().index(name) for name in own["picture"]]
    f, seed = plain.f[rows], smoke.config.seed
    # A part in a random subspace of 280 dimensions, as long as the null part.
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((1280, 280)))[0]
    part, length = f @ basis @ basis.T, np.linalg.norm(plain.null(f), axis=1)
    random = part * (length / np.linalg.norm(part, axis=1))[:, None]
    z = plain.translate(f, rows)
    for end, moved in (("", f - plain.null(f)), ("_control", f - random)):
        image_score = degrees(z, plain.translate(moved, rows))
        assert own[f"image_score{end}"].to_numpy() == pytest.approx(image_score, abs=5e-3)
    truth = smoke.embeddings.double().numpy()[rows]
    assert own["translator_error"].to_numpy() == pytest.approx(degrees(z, truth), abs=5e-3)


@pytest.fixture(scope="module")
def page(tmp_path_factory, points, thumbs):
    """A page with the chart, and a browser that shows it."""
    tools = pytest.importorskip("browser")
    if not tools.find_chromium():
        pytest.skip("no Chromium: apt-get install chromium, or set SING_CHROMIUM")
    folder = tmp_path_factory.mktemp("linked")
    with alt.data_transformers.enable("default", max_rows=None):
        spec = explorers.linked_models(points, thumbs).to_dict()
    chart = chart_html({**spec, "description": "A chart of the test."})
    bundle = f'(function(){{"use strict";{vl_convert.javascript_bundle()}}})();'
    (folder / "bundle.js").write_text(bundle, encoding="utf-8")
    script = (ROOT / "book/_static/sing-charts.js").read_text(encoding="utf-8")
    (folder / "index.html").write_text(
        f'<!doctype html><html data-theme="light"><meta charset="utf-8"><body>{chart}'
        f'<script src="bundle.js"></script><script>{script}</script></body></html>',
        encoding="utf-8")
    with (tools.serve(folder) as address, tools.open_browser() as browser,
          tools.new_page(browser) as tab):
        tab.goto(f"{address}/index.html")
        tools.wait_for_charts(tab, "light")
        yield tab


@pytest.fixture
def opened(page):
    """The page as it is when it is opened."""
    import browser

    page.reload()
    browser.wait_for_charts(page, "light")
    return page


def settle(page):
    page.evaluate("async () => { const view = document.querySelector('div.sing-chart').view; "
                  "await view.runAsync(); await view.runAsync(); }")


def photos(page, thumbs):
    """Names of the photos that are shown, in reading order."""
    found = page.evaluate("""() => [...document.querySelector("div.sing-chart").querySelectorAll(
      ".mark-image image")].map((el) => { const box = el.getBoundingClientRect();
        return [Math.round(box.top), box.left, el.getAttribute("href") ??
          el.getAttributeNS("http://www.w3.org/1999/xlink", "href")]; })""")
    names = dict(zip(thumbs["image"], thumbs["picture"]))
    return [names[image] for *_, image in sorted(found)]


def texts(page):
    """All texts of the chart that are marks."""
    return page.locator("div.sing-chart").locator(
        "svg .mark-text.role-mark text").all_text_contents()


def dots(page):
    """How many dots of the scatter are in colour."""
    return page.evaluate("""() => [...document.querySelectorAll(
      "div.sing-chart")[0].querySelectorAll(".mark-symbol.role-mark path")].filter(
      (el) => el.__data__.tooltip).length""")


def expected(points, title, test=None):
    """What should be shown: the largest Image Scores first, twelve at most."""
    own = points[points["title"] == title].round(2)
    own = own if test is None else own[test(own)]
    return own.sort_values("image_score", ascending=False, kind="stable"), len(own)


def check(page, points, thumbs, title, test=None):
    own, count = expected(points, title, test)
    assert count > 0
    assert photos(page, thumbs) == own["picture"].tolist()[:12]
    said = "".join(texts(page))
    assert f"{count} chosen" in said
    return own


def test_something_is_shown_before_anybody_touches_it(opened, points, thumbs, smoke):
    check(opened, points, thumbs, smoke.title("lite0"))
    assert dots(opened) == 24
    assert not [text for text in texts(opened) if re.fullmatch(r"\d+ of 3", text)]


def test_a_brush_shows_exactly_the_photos_of_its_dots(opened, points, thumbs, smoke):
    title = smoke.title("lite0")
    own, _ = expected(points, title)
    values = np.sort(own["attribute_score"].to_numpy())
    middle = values[8:-8]
    gap = np.argmax(np.diff(middle))
    cut = middle[gap : gap + 2].mean()
    scatter = opened.locator("div.sing-chart .concat_0_concat_0_group > g > path.background")
    # The plot's own domain, from the spec: pixels of the window are computed here.
    domain = opened.evaluate("""() => document.querySelector("div.sing-chart").spec.vconcat[0]
      .hconcat[0].layer[1].encoding.x.scale.domain""")
    scatter.scroll_into_view_if_needed()
    # Playwright's own box has the outline in it.
    box = scatter.evaluate("(el) => el.getBoundingClientRect().toJSON()")
    x = box["x"] + box["width"] * (cut - domain[0]) / (domain[1] - domain[0])
    for start, side in ((box["x"] + 1, -1), (box["x"] + box["width"] - 1, 1)):
        opened.mouse.move(start, box["y"] + 1)
        opened.mouse.down()
        opened.mouse.move((start + x) / 2, box["y"] + box["height"] / 2)
        opened.mouse.move(x, box["y"] + box["height"] - 1)
        opened.mouse.up()
        settle(opened)
        kept = check(opened, points, thumbs, title,
                     lambda t, side=side: side * (t["attribute_score"] - cut) > 0)
        strong = opened.locator(".concat_0_concat_0_layer_2_marks path[opacity='0.8']")
        assert strong.count() == len(kept)
        counts = kept.groupby("label").size()
        shares = sorted(text for text in texts(opened) if re.fullmatch(r"\d+ of 3", text))
        assert shares == sorted(f"{n} of 3" for n in counts if n < 3)
        opened.mouse.dblclick(box["x"] + 3, box["y"] + 3)
        settle(opened)
        check(opened, points, thumbs, title)
