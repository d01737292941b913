"""A browser for the rendered book: serve a folder, open a page, say what is wrong with it."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

DESKTOP, PHONE = (1280, 900), (390, 844)
HEAVIEST = 6  # MB a page may take with all that it loads, before compression
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def find_chromium() -> str | None:
    """Return the browser to use, or None: $SING_CHROMIUM, else Debian's."""
    for name in (os.environ.get("SING_CHROMIUM"), "/usr/bin/chromium", "chromium", "chrome"):
        if name and (found := shutil.which(name)):
            return found
    return None


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Say nothing: what went wrong shows in the browser."""


@contextlib.contextmanager
def serve(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Serve a folder on a free loopback port; gives its address without a final slash."""
    handler = functools.partial(_Quiet, directory=os.fspath(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Open headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def new_page(
    browser: Browser, size: tuple[int, int] = DESKTOP, theme: str = "light", touch: bool = False
) -> Iterator[Page]:
    """Open a tab of a given size; the book follows the colour scheme that the browser asks for."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=theme,
        reduced_motion="reduce", has_touch=touch, is_mobile=touch)
    try:
        yield context.new_page()
    finally:
        context.close()


@dataclass
class PageReport:
    """What one page did when it was opened."""

    url: str
    outside: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    page_errors: list[str] = field(default_factory=list)
    console_errors: list[str] = field(default_factory=list)
    charts: list[dict[str, Any]] = field(default_factory=list)
    overflow: list[str] = field(default_factory=list)
    megabytes: float = 0.0
    bundles: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """List everything that should not be, in words; empty for a good page."""
        found = [f"asked an outside host: {url}" for url in self.outside]
        found += [f"request failed: {url}" for url in self.failed]
        found += [f"page error: {text}" for text in self.page_errors]
        found += [f"console error: {text}" for text in self.console_errors]
        found += [f"scrolls sideways: {text}" for text in self.overflow]
        if self.megabytes >= HEAVIEST:
            found.append(f"weighs {self.megabytes:.1f} MB of {HEAVIEST}")
        if len(self.bundles) != bool(self.charts):
            found.append(f"loads Vega {len(self.bundles)} times for {len(self.charts)} charts")
        for number, chart in enumerate(self.charts, start=1):
            name = f"chart {number} ({chart['alt'][:40] or 'no alt text'})"
            if not chart["ready"] or chart["error"]:
                found.append(f"{name} is not drawn: {chart['error'] or 'never ready'}")
            elif not chart["marks"]:
                found.append(f"{name} is drawn without a single mark")
            if chart["cut"]:
                found.append(f"{name}: its legend is cut off")
            if not chart["alt"]:
                found.append(f"{name} has no alt text")
            elif chart["alt"] != chart["description"]:
                found.append(f"{name}: its alt text is not the description in its spec")
            if not chart["number"]:
                found.append(f"{name} is not a numbered figure")
            if not chart["caption"]:
                found.append(f"{name} has no caption")
        return found


CHARTS = """() => [...document.querySelectorAll("div.sing-chart")].map((el) => {
  const caption = el.closest("figure")?.querySelector("figcaption");
  return {
    alt: el.getAttribute("aria-label") ?? "",
    description: el.spec?.description ?? "",
    ready: el.dataset.ready === "1",
    error: el.dataset.error ?? "",
    drawn: el.dataset.drawn ?? "",
    cut: [...el.querySelectorAll("svg .role-legend")].some((legend) =>
      legend.getBoundingClientRect().right >
        legend.closest("svg").getBoundingClientRect().right + 1),
    marks: el.querySelectorAll("svg .mark-symbol path, svg .mark-rect path, svg .mark-line path, "
      + "svg .mark-area path, svg .mark-arc path, svg .mark-rule line, svg .mark-image image, "
      + "svg .mark-text.role-mark text, svg .mark-shape path, svg .mark-trail path").length,
    number: caption?.querySelector(".caption-number")?.textContent.trim() ?? "",
    caption: caption?.querySelector(".caption-text")?.textContent.trim() ?? "",
  };
})"""

#: The page must not scroll sideways; where it does, name the widest elements that no box holds in.
OVERFLOW = """() => {
  const root = document.documentElement, width = root.clientWidth;
  const main = document.querySelector("main, .bd-main") ?? root;
  const scrolls = [root, document.body, main].some((el) => el.scrollWidth > el.clientWidth + 1);
  if (!scrolls) return [];
  const held = (el) => {
    for (let p = el.parentElement; p && p !== document.body; p = p.parentElement)
      if (getComputedStyle(p).overflowX !== "visible") return true;
    return false;
  };
  const wide = [...main.querySelectorAll("*")]
    .filter((el) => el.getBoundingClientRect().right > width + 1 && !held(el)).slice(0, 5);
  return [`${root.scrollWidth} px of page in ${width} px: ` + (wide.map((el) =>
    `<${el.tagName.toLowerCase()} class="${el.getAttribute("class") ?? ""}">`).join(" ") || "?")];
}"""

LOADED = """() => ["navigation", "resource"].flatMap((type) => performance.getEntriesByType(type))
  .map(({ name, decodedBodySize }) => [name, decodedBodySize])"""

SETTLED = """(theme) => document.documentElement.dataset.theme === theme &&
  [...document.querySelectorAll("div.sing-chart")].every((el) =>
    el.dataset.error || (el.dataset.ready === "1" && !el.busy && el.dataset.drawn === theme &&
      (el.clientWidth === 0 || el.drawnColumn === el.clientWidth)))"""


def wait_for_charts(page: Page, theme: str, timeout: float = 30_000) -> None:
    """Wait until every chart is drawn in the theme, or failed; says nothing if time runs out."""
    with contextlib.suppress(Exception):
        page.wait_for_function(SETTLED, arg=theme, timeout=timeout)


def measure_overflow(page: Page) -> list[str]:
    """Say what makes the page scroll sideways; empty when nothing does."""
    return page.evaluate(OVERFLOW)


def inspect_page(page: Page, url: str, theme: str = "light", timeout: float = 30_000) -> PageReport:
    """Open an address and report what it asked for, what broke and what it drew.

    Requests to hosts other than the page's own are stopped, so a test never leaves the machine.
    """
    report = PageReport(url)
    own = ("/".join(url.split("/")[:3]) + "/", "data:", "blob:")

    def gate(route: Any) -> None:
        if route.request.url.startswith(own):
            route.continue_()
        else:
            report.outside.append(route.request.url)
            route.abort()

    def answered(response: Any) -> None:
        # A browser asks for this by itself; a book without an icon has not gone wrong.
        if response.status >= 400 and not response.url.endswith("/favicon.ico"):
            report.failed.append(f"{response.status} {response.url}")

    def said(message: Any) -> None:
        if message.type == "error" and "/favicon.ico" not in str(message.location):
            report.console_errors.append(message.text)

    page.route("**/*", gate)
    page.on("response", answered)
    page.on("pageerror", lambda error: report.page_errors.append(str(error)))
    page.on("console", said)
    page.goto(url, wait_until="load")
    wait_for_charts(page, theme, timeout)
    # MathJax starts after the page has loaded and asks for its fonts as it needs them.
    page.evaluate("async () => { await window.MathJax?.startup?.promise; }")
    page.wait_for_load_state("networkidle")
    report.charts = page.evaluate(CHARTS)
    report.overflow = measure_overflow(page)
    loaded = page.evaluate(LOADED)
    report.megabytes = sum(size for _, size in loaded) / 1e6
    report.bundles = [name for name, _ in loaded if "/vega-bundle.js" in name]
    return report


def shoot(page: Page, target: Path) -> Path:
    """Save the whole page as a picture; the theme scrolls the window, so full_page shows it all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=target, full_page=True, animations="disabled")
    return target
