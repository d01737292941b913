"""Linked views of chapter 05 that answer without a kernel: in a browser."""

from __future__ import annotations

import re

import numpy as np
import pytest
from browser import new_page, wait_for_charts
from conftest import degrees, random_part

from sing_nb.study import classes

CHART = "#fig-linked-models div.sing-chart"


@pytest.fixture(scope="module")
def points(smoke):
    return classes.class_pictures(smoke)


@pytest.fixture(scope="module")
def thumbs(smoke, points):
    found = smoke.with_thumbnails(points[["picture"]].drop_duplicates(), 44)
    assert found["image"].is_unique
    return found


def test_a_picture_has_the_scores_of_numpy(points, plain, smoke):
    own = points[points["model"] == "lite0"]
    rows = [plain.table["picture"].tolist().index(name) for name in own["picture"]]
    f, seed = plain.f[rows], smoke.config.seed
    random = np.stack([random_part(v, np.linalg.norm(plain.null(v)), seed) for v in f])
    z = plain.translate(f, rows)
    for end, moved in (("", f - plain.null(f)), ("_control", f - random)):
        image_score = degrees(z, plain.translate(moved, rows))
        assert own[f"image_score{end}"].to_numpy() == pytest.approx(image_score, abs=5e-3)
    truth = smoke.embeddings.double().numpy()[rows]
    assert own["translator_error"].to_numpy() == pytest.approx(degrees(z, truth), abs=5e-3)


@pytest.fixture(scope="module")
def page(site):
    address, browser = site
    with new_page(browser) as tab:
        tab.goto(f"{address}/05_models.html")
        yield tab


@pytest.fixture
def opened(page):
    """The page as it is when it is opened."""
    page.reload()
    wait_for_charts(page, "light")
    return page


def settle(page):
    page.locator(CHART).evaluate("async (el) => { await el.view.runAsync(); "
                                 "await el.view.runAsync(); }")


def photos(page, thumbs):
    """Names of the photos that are shown, in reading order."""
    found = page.locator(CHART).locator(".mark-image image").evaluate_all("""(all) => all.map(
      (el) => { const box = el.getBoundingClientRect();
        return [Math.round(box.top), box.left, el.getAttribute("href") ??
          el.getAttributeNS("http://www.w3.org/1999/xlink", "href")]; })""")
    names = dict(zip(thumbs["image"], thumbs["picture"]))
    return [names[image] for *_, image in sorted(found)]


def texts(page):
    """All texts of the chart that are marks."""
    return page.locator(f"{CHART} svg .mark-text.role-mark text").all_text_contents()


def dots(page):
    """How many dots of the scatter are in colour."""
    return page.locator(f"{CHART} .mark-symbol.role-mark path").evaluate_all(
        "(all) => all.filter((el) => el.__data__.tooltip).length")


def check(page, points, thumbs, title, test=None):
    """The largest Image Scores are shown first, twelve at most, and all are counted."""
    own = points[points["title"] == title].round(2)
    own = own if test is None else own[test(own)]
    own = own.sort_values("image_score", ascending=False, kind="stable")
    assert len(own) > 0
    assert photos(page, thumbs) == own["picture"].tolist()[:12]
    assert f"{len(own)} chosen" in "".join(texts(page))
    return own


def test_something_is_shown_before_anybody_touches_it(opened, points, thumbs, smoke):
    check(opened, points, thumbs, smoke.title("lite0"))
    assert dots(opened) == 24
    assert not [text for text in texts(opened) if re.fullmatch(r"\d+ of 3", text)]


def test_a_brush_shows_exactly_the_photos_of_its_dots(opened, points, thumbs, smoke):
    title = smoke.title("lite0")
    middle = np.sort(points.loc[points["title"] == title, "attribute_score"].round(2))[8:-8]
    gap = np.argmax(np.diff(middle))
    cut = middle[gap : gap + 2].mean()
    scatter = opened.locator(f"{CHART} .concat_0_concat_0_group > g > path.background")
    # The plot's own domain, from the spec: pixels of the window are computed here.
    domain = opened.locator(CHART).evaluate(
        "(el) => el.spec.vconcat[0].hconcat[0].layer[1].encoding.x.scale.domain")
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
