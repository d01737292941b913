"""JupyterLab as a reader has it: `make lab` on copied chapters, a kernel, a browser; all ended."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil  # ipykernel brings it
from browser import DESKTOP
from conftest import environment
from playwright.sync_api import Browser, Locator, Page

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60  # a kernel on a busy machine imports torch in twenty


@contextlib.contextmanager
def serve_lab(results: Path, chapters: Sequence[str], home: Path) -> Iterator[str]:
    """Run `make lab` on smoke copies of chapters with results that are there; gives its address.

    The reader's own Jupyter settings are left alone; whatever was started is ended.
    """
    build = home / "build" / "smoke"
    build.mkdir(parents=True)
    for name in ("features", "pictures", "tables", "translators", "figures"):
        (build / name).symlink_to(results / name)
    (home / "book").mkdir()
    for name in chapters:
        notebook = json.loads((ROOT / "book" / f"{name}.ipynb").read_text(encoding="utf-8"))
        (cell,) = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
        cell["source"] += ["\nprofile = 'smoke'"]
        (home / "book" / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: str(home / name) for name in (
        "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
        "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")}
    log = home / "lab.log"
    with log.open("w") as file:
        server = psutil.Popen(
            ["make", "-C", str(ROOT), "lab", f"NOTEBOOKS={home / 'book'}",
             f"LAB=--no-browser --expose-app-in-browser --ServerApp.port={port}"],
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env=environment(**own, OMP_NUM_THREADS="1", SING_BUILD=str(home / "build")))
        try:
            yield _printed_address(server, log)
        finally:
            end(server)


def _printed_address(server: psutil.Popen, log: Path) -> str:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:(\d+)/\S*token=\w+", log.read_text())
        # It is printed before anybody listens there.
        with contextlib.suppress(ConnectionRefusedError):
            if found:
                socket.create_connection(("127.0.0.1", int(found[1]))).close()
                return found[0]
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


def end(server: psutil.Process) -> None:
    """End a server and its kernels: first as Control-C would, then for good."""
    started = [server]
    with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended by itself
        started += server.children(recursive=True)
    for process in started[1:]:  # make would say that its command failed
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(started, timeout=10)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)


OUTPUTS = """() => jupyterapp.shell.currentWidget.content.model.cells && [...Array(
  jupyterapp.shell.currentWidget.content.model.cells.length).keys()].map((i) => {
    const cell = jupyterapp.shell.currentWidget.content.model.cells.get(i);
    return {kind: cell.type, source: cell.sharedModel.getSource(),
            count: cell.executionCount ?? null, outputs: cell.outputs?.toJSON() ?? []};
  })"""
SCROLL = """async (index) => {
  await jupyterapp.shell.currentWidget.content.scrollToItem(index, "start");
}"""
IDLE = """() => window.jupyterapp?.shell?.currentWidget?.sessionContext
  ?.session?.kernel?.status === 'idle'"""
#: What callbacks of widgets raise or print belongs to no cell: JupyterLab hides it in its log.
#: It asks a kernel for its widgets at once; before a cell has made one, the kernel logs that it
#: knows no such comm.
LISTEN = """() => {
  window.aside = [];
  let widgets = false;
  jupyterapp.shell.currentWidget.sessionContext.iopubMessage.connect((_, message) => {
    const {name, text, ename, evalue} = message.content;
    if (message.header.msg_type === "comm_open") widgets = true;
    const early = !widgets && text?.startsWith("No such comm");
    if (message.header.msg_type === "error") window.aside.push(`${ename}: ${evalue}`);
    const printed = message.header.msg_type === "stream" && name === "stderr";
    if (printed && !early) window.aside.push(text);
  });
}"""
#: A chart of JupyterLab's own is a canvas: drawn is what has more than one colour.
COLOURS = """(canvas) => {
  const {width, height} = canvas;
  if (!width || !height) return 0;
  const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  return new Set(new Uint32Array(data.buffer)).size;
}"""


class Notebook:
    """One notebook in JupyterLab, in a tab of the browser."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.clicks = page, 0  # clicks that a reader needed so far, not keys
        self.outside: list[str] = []  # requests to other hosts, all of them stopped
        self.errors: list[str] = []  # what the console and the page complained of
        own = tuple(f"{scheme}//{address.split('/')[2]}/" for scheme in ("http:", "ws:"))

        def gate(route: Any) -> None:
            if route.request.url.startswith((*own, "data:", "blob:")):
                route.continue_()
            else:
                self.outside.append(route.request.url)
                route.abort()

        page.route("**/*", gate)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.errors.append(
            f"{message.text} ({message.location.get('url', '')})"))
        page.goto(address, wait_until="load")
        # Started too early, a run silently runs nothing.
        page.wait_for_function(IDLE, timeout=SECONDS * 1000)
        page.evaluate(LISTEN)

    def click(self, target: Locator, **options: Any) -> None:
        """Click as a reader does, and count it."""
        target.click(**options)
        self.clicks += 1

    def run_all(self) -> None:
        """Choose Run All Cells from the menu, and wait until each cell has run."""
        self.click(self.page.get_by_role("menuitem", name="Run", exact=True))
        self.click(self.page.get_by_role("menuitem", name="Run All Cells", exact=True))
        deadline = time.monotonic() + 3 * SECONDS
        while time.monotonic() < deadline:
            code = [c for c in self.cells() if c["kind"] == "code" and c["source"].strip()]
            ran = all(cell["count"] for cell in code)
            if self.page.evaluate(IDLE) and (ran or self.tracebacks()):
                return
            time.sleep(0.25)
        raise AssertionError("the notebook did not finish")

    def cells(self) -> list[dict[str, Any]]:
        """Kind, source, execution count and outputs of every cell."""
        return self.page.evaluate(OUTPUTS)

    def tracebacks(self) -> list[str]:
        """Errors, and what was printed to stderr, by cells and by callbacks of widgets."""
        return self.page.evaluate("window.aside")

    def show_cell(self, source: str) -> Locator:
        """Bring the cell whose source has these words into view; gives its element."""
        (index,) = [i for i, cell in enumerate(self.cells()) if source in cell["source"]]
        return self.show_at(index)

    def show_at(self, index: int) -> Locator:
        """Bring a cell into view; JupyterLab draws only what is near the window."""
        self.page.evaluate(SCROLL, index)
        cell = self.page.locator(f".jp-Cell[data-windowed-list-index='{index}']")
        cell.scroll_into_view_if_needed()
        return cell

    def colours(self, cell: Locator) -> int:
        """How many colours the first chart of a cell is drawn with, once it is drawn."""
        canvas = cell.locator(".vega-embed canvas").first
        canvas.wait_for(timeout=SECONDS * 1000)
        return canvas.evaluate(COLOURS)

    def field(self, explorer: Locator, name: str) -> Locator:
        """The control of a widget that has this description."""
        label = f"> .widget-label:text-is({json.dumps(name)})"
        return explorer.locator(f".jupyter-widgets:has({label})")

    def choose_file(self, button: Locator, name: str, content: bytes) -> None:
        """Give a file to an upload button, through the browser's own file chooser."""
        with self.page.expect_file_chooser() as chooser:
            button.click()
        chooser.value.set_files({"name": name, "mimeType": "image/png", "buffer": content})

    def wear(self, theme: str) -> None:
        """Have the reader's system be ``light`` or ``dark``, and wait until JupyterLab follows."""
        self.page.emulate_media(color_scheme=theme)
        light = "true" if theme == "light" else "false"
        self.page.wait_for_selector(f"body[data-jp-theme-light='{light}']", state="attached")


@contextlib.contextmanager
def open_notebook(browser: Browser, address: str) -> Iterator[Notebook]:
    """Open the address that `make lab` prints."""
    width, height = DESKTOP
    context = browser.new_context(viewport={"width": width, "height": height + 300})
    try:
        yield Notebook(context.new_page(), address)
    finally:
        context.close()
