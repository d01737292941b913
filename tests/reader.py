"""What a reader does with the charts of a page: move, press, drag, point, listen, look.

Every function here acts and returns what did not answer, in words; an empty list is good. What a
chart offers is read from its spec and its drawing, so a new chart needs no new line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

#: Kept in the page as ``window.reader``.
HELPERS = (Path(__file__).parent / "reader.js").read_text(encoding="utf-8")
UNNAMED = re.compile(r'\s*- (slider|combobox|radio|radiogroup|checkbox|textbox|spinbutton)\b(?! ")')


def ask(page: Page, call: str) -> Any:
    ask = f"async () => window.reader && [await reader.{call}]"
    answer = page.evaluate(ask)
    if not answer:
        page.evaluate(f"() => {{ {HELPERS} }}")
        answer = page.evaluate(ask)
    return answer[0]


def _name(chart: int) -> str:
    return f"chart {chart + 1}"


def turn_inputs(page: Page, chart: int) -> list[str]:
    """Set every slider, menu, button and text box of a chart to its values; each draws its own."""
    found = []
    for number in range(page.locator("div.sing-chart").nth(chart).locator(".vega-bind").count()):
        said = ask(page, f"turn({chart}, {number})")
        where = f"{_name(chart)}, {said['name']}"
        if said["count"] < 2:
            found.append(f"{where}: there is nothing to choose")
        found += [f"{where}: {text}" for text in said["same"]]
        found += [f"{where}: at {value} the chart is wider than its column"
                  for value in said["wide"]]
        if not said["back"]:
            found.append(f"{where}: the first value does not bring the first drawing back")
    return found


def shoot_used(page: Page, chart: int, target: Path) -> None:
    """Save a picture of a chart whose inputs, if any, all have another value than at first."""
    if ask(page, f"useAll({chart})"):
        target.parent.mkdir(parents=True, exist_ok=True)
        page.locator("div.sing-chart").nth(chart).screenshot(path=target, animations="disabled")


def drag(page: Page, box: dict[str, float], start: float, end: float) -> None:
    """Drag between two corners given as shares of a plot's width and height."""
    at = [(box["x"] + share * box["width"], box["y"] + share * box["height"])
          for share in (start, (start + end) / 2, end)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1])
    page.mouse.move(*at[2])
    page.mouse.up()


def _try_brush(page: Page, chart: int, name: str, clears: bool) -> list[str]:
    drawn = [ask(page, f"marks({chart})")]
    where = f"{_name(chart)}, brush {name}"
    for start, end in ((0.04, 0.55), (0.97, 0.6)):
        drag(page, ask(page, f"plotOf({chart}, '{name}')"), start, end)
        ask(page, f"settle({chart})")
        if not ask(page, f"chosen({chart}, '{name}')"):
            return [f"{where}: dragging chooses nothing"]
        drawn.append(ask(page, f"marks({chart})"))
    if len(set(drawn)) < 3:
        return [f"{where}: what is chosen changes no mark"]
    if clears:
        box = ask(page, f"plotOf({chart}, '{name}')")
        page.mouse.dblclick(box["x"] + 0.3 * box["width"], box["y"] + 0.04 * box["height"])
        ask(page, f"settle({chart})")
        if ask(page, f"chosen({chart}, '{name}')"):
            return [f"{where}: a double click does not let go"]
    return []


def _try_points(page: Page, chart: int, name: str, kind: str) -> list[str]:
    if kind == "legend":
        count, go = ask(page, f"legendEntries({chart}).length"), f"goToLegend({chart}, %d)"
    else:
        count, go = ask(page, f"keepPlaces({chart}, 4, false)"), "goTo(%d)"
    chosen = False
    for number in range(min(count, 40)):
        before = ask(page, f"marks({chart})")
        at = ask(page, go % number)
        if kind == "hover":
            page.mouse.move(at["x"], at["y"])
        else:
            page.mouse.click(at["x"], at["y"])
        ask(page, f"settle({chart})")
        chosen = chosen or bool(ask(page, f"chosen({chart}, '{name}')"))
        if chosen and ask(page, f"marks({chart})") != before:
            return []
    what = "changes no mark" if chosen else "chooses nothing"
    return [f"{_name(chart)}, {kind} {name}: pointing at {count} places {what}"]


def try_selections(page: Page, chart: int) -> list[str]:
    """Drag every brush of a chart and click every kind of choice; marks must answer."""
    found = []
    for one in ask(page, f"selections({chart})"):
        if one["kind"] in ("brush", "zoom"):
            found += _try_brush(page, chart, one["name"], one["clears"] and one["kind"] == "brush")
        else:
            found += _try_points(page, chart, one["name"], one["kind"])
        page.mouse.move(1, 1)
    return found


def try_tooltips(page: Page, chart: int) -> list[str]:
    """Point at marks with a tooltip; it shows in the window, with its numbers and its picture."""
    if not ask(page, f"hasTips({chart})"):
        return []
    where, found, numbers = _name(chart), [], False
    count = ask(page, f"keepPlaces({chart}, 2, true)")
    if not count:
        return [f"{where}: no mark with a tooltip can be reached"]
    # Ten marks from all over the chart, so that a chart of many plots is not judged by its first.
    for number in sorted({round(step * (count - 1) / 9) for step in range(10)}):
        at = ask(page, f"goTo({number})")
        promised = ask(page, f"promised({number})")
        page.mouse.move(at["x"] - 1, at["y"])
        page.mouse.move(at["x"], at["y"])
        shown = ask(page, "tip()")
        if not shown or not shown["text"].strip():
            found.append(f"{where}: pointing at mark {number + 1} shows no tooltip")
            continue
        numbers = numbers or any(letter.isdigit() for letter in shown["text"])
        if promised["numbers"] and not any(letter.isdigit() for letter in shown["text"]):
            found.append(f"{where}: a tooltip without its numbers: {shown['text']!r}")
        if promised["image"] and not shown["image"]:
            found.append(f"{where}: a tooltip without its picture: {shown['text']!r}")
        if shown["cut"]:
            found.append(f"{where}: a tooltip is cut by the window: {shown['text']!r}")
    if ask(page, f"quantities({chart})") and not numbers and not found:
        found.append(f"{where}: no tooltip shows a number")
    page.mouse.move(1, 1)
    return found


def _press(page: Page, chart: int, number: int, key: str) -> tuple[str, str]:
    """Press a key on an input; returns the input's value and the marks afterwards."""
    ask(page, f"focusOn({chart}, {number})")
    page.keyboard.press(key)
    ask(page, f"settle({chart})")
    return ask(page, f"controls({chart})[{number}].value"), ask(page, f"marks({chart})")


#: Keys for each kind of input: one that leaves the first value, and one that leads back.
KEYS = {"range": ("End", "Home"), "menu": ("ArrowDown", "ArrowUp"),
        "radio": ("ArrowDown", "ArrowUp"), "checkbox": ("Space", "Space")}


def press_inputs(page: Page, chart: int) -> list[str]:
    """Work every input of a chart with keys alone; its value, its label and the marks follow."""
    found = []
    for number, one in enumerate(ask(page, f"controls({chart})")):
        where = f"{_name(chart)}, {one['kind']} {one['name']!r}"
        if one["kind"] not in KEYS:
            continue
        before = ask(page, f"marks({chart})")
        moves = [_press(page, chart, number, key) for key in KEYS[one["kind"]]]
        if all(value == one["value"] for value, _ in moves):
            found.append(f"{where}: keys do not move it")
        elif all(marks == before for _, marks in moves):
            found.append(f"{where}: keys move it and no mark")
        if one["kind"] != "range":
            continue
        value, _ = _press(page, chart, number, "ArrowRight")
        if value == moves[-1][0]:
            found.append(f"{where}: an arrow key does not move it")
        now = ask(page, f"controls({chart})[{number}]")
        if not (now["shown"] or "").startswith(now["value"]):
            found.append(f"{where}: shows {now['shown']!r} at {now['value']!r}")
        if not (now["spoken"] or "").startswith(now["value"]):
            found.append(f"{where}: is read as {now['spoken']!r} at {now['value']!r}")
        if "(degrees)" in one["name"] and not (
            now["shown"].endswith("°") and now["spoken"].endswith("degrees")
        ):
            found.append(f"{where}: its value has no unit: {now['shown']!r}, {now['spoken']!r}")
    return found


def tab_through(page: Page, most: int = 1500) -> list[str]:
    """Press Tab from the title on: every input is reached and has a ring of 3:1 around it."""
    if not ask(page, "startTabbing()"):
        return []
    for _ in range(most // 10):
        for _ in range(10):
            page.keyboard.press("Tab")
        if not ask(page, "left()"):
            break
    found = []
    for name, ring in ask(page, "rings()"):
        if ring is None:
            found.append(f"Tab never reaches {name!r}")
        elif ring < 3:
            found.append(f"the focus ring of {name!r} has a contrast of {ring:.1f}:1")
    return found


def unnamed_inputs(page: Page) -> list[str]:
    """Inputs that a screen reader would announce without a name."""
    found = []
    for form in page.locator(".sing-inputs").all():
        found += [f"an input without a name: {line.strip()}"
                  for line in form.aria_snapshot().splitlines() if UNNAMED.match(line)]
        radios = form.locator("input[type=radio]").count()
        if radios and not form.get_by_role("radiogroup").count():
            found.append("radio buttons that are no group")
    return found


def faint_texts(page: Page) -> list[str]:
    """Texts of charts, inputs, hints and captions below WCAG's contrast of 4.5:1 (large: 3:1)."""
    return ask(page, "faint()")
