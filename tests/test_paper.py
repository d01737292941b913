"""The paper map: every numbered item has a row, every row has a link that works and a verdict."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from bs4 import BeautifulSoup

from sing_nb import SingError
from sing_nb.gallery import verdict
from sing_nb.page import stage_book
from sing_nb.paper import PAGE, VERDICTS, fill_rows, paper_page, read_rows, write_paper_map

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "data" / "paper.yaml"
ROWS = read_rows(SOURCE)
# The numbering of the paper: its text has no figure 1, and figure 12 has three panels of their own.
EQUATIONS = [f"eq{n}" for n in range(1, 20)]
FIGURES = [f"fig{n}" for n in range(2, 17) if n != 12] + ["fig12a", "fig12b", "fig12c"]
TABLES = [f"tab{n}" for n in range(1, 4)]
KEY = re.compile(r"\{\{\s*(\w+)\s*\}\}")


def entry(**changes) -> dict:
    """One good row, as it stands in the file."""
    row = {
        "id": "fig3", "title": "models", "where": ["every subject a dot <fig-model-scatter>"],
        "says": "They *differ*.", "here": "The gap is {{ gap }}.", "rule": "the gap is not 0.",
        "verdict": "paper_fig3",
    }
    return {key: value for key, value in {**row, **changes}.items() if value is not None}


def written(folder: Path, *entries: dict) -> Path:
    path = folder / "paper.yaml"
    path.write_text(yaml.safe_dump(list(entries), allow_unicode=True))
    return path


def targets(rows=ROWS) -> list[str]:
    return [re.search(r"<(.+)>", link)[1] for row in rows for link in row.where]


def pretended() -> dict[str, str]:
    """Numbers for every key that a row asks for, as if all chapters had run."""
    text = " ".join(f"{row.says} {row.here} {row.rule}" for row in ROWS)
    numbers = dict.fromkeys(KEY.findall(text), "9.6° (\N{MINUS SIGN}9.2 to 10.1)")
    told = [row.verdict for row in ROWS if row.verdict]
    return numbers | {key: verdict(n % 3 > 0) for n, key in enumerate(told)}


# --- the rows of the file -------------------------------------------------------------------------


def test_every_numbered_item_of_the_paper_is_a_row_exactly_once():
    assert [row.id for row in ROWS] == EQUATIONS + sorted(
        FIGURES, key=lambda name: (int(re.search(r"\d+", name)[0]), name)
    ) + TABLES


def test_every_verdict_has_the_key_of_its_row():
    assert all(row.verdict in ("", f"paper_{row.id}") for row in ROWS)


def test_only_the_list_of_thirteen_models_was_not_run():
    assert [row.id for row in ROWS if row.not_run] == ["tab3"]


def test_every_target_is_in_the_book():
    names, anchors, pages = set(), set(), set()
    for path in (ROOT / "book").glob("*.ipynb"):
        pages.add(path.stem)
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            names.add(cell["metadata"].get("mystnb", {}).get("figure", {}).get("name"))
            if cell["cell_type"] == "markdown":
                anchors |= set(re.findall(r"^\(([\w-]+)\)=$", "".join(cell["source"]), re.M))
    for path in (ROOT / "book").glob("*.md"):
        pages.add(path.stem)
        anchors |= set(re.findall(r"^\(([\w-]+)\)=$", path.read_text(encoding="utf-8"), re.M))
    known = {"fig": names, "sec": anchors, "tab": anchors}
    missing = [t for t in targets() if t not in known.get(t.split("-")[0], pages)]
    assert missing == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verdit": "x"}, r"row 1 \(fig3\): .*'verdit'.*did you mean 'verdict'"),
        ({"says": None}, r"row 1 \(fig3\): says is missing"),
        ({"where": None}, r"row 1 \(fig3\): where is missing"),
        ({"where": []}, r"row 1 \(fig3\): where must be a list, not empty"),
        ({"where": ["fig-model-scatter"]}, r"row 1 \(fig3\): where reads `text <target>`"),
        ({"id": "figure3"}, r"row 1 \(figure3\): an id reads eq3"),
        ({"not_run": "because"}, r"row 1 \(fig3\): give either verdict"),
        ({"verdict": None, "rule": None}, r"row 1 \(fig3\): give either verdict"),
        ({"rule": None}, r"row 1 \(fig3\): a verdict needs its rule"),
        ({"title": 3}, r"row 1 \(fig3\): title must be a str"),
    ],
)
def test_a_bad_row_is_named(tmp_path, changes, said):
    read_rows(written(tmp_path, entry()))
    with pytest.raises(SingError, match=said):
        read_rows(written(tmp_path, entry(**changes)))


def test_an_id_comes_once(tmp_path):
    with pytest.raises(SingError, match="row 2: fig3 is there already"):
        read_rows(written(tmp_path, entry(), entry()))


# --- the numbers of a run -------------------------------------------------------------------------


def filled(folder: Path, numbers: dict, **changes) -> dict:
    (row,) = fill_rows(read_rows(written(folder, entry(**changes))), numbers)
    return row


def test_numbers_and_verdict_come_from_the_run(tmp_path):
    numbers = {"gap": "\N{MINUS SIGN}0.7 (\N{MINUS SIGN}3.1 to 1.6)", "paper_fig3": "differs here"}
    row = filled(tmp_path, numbers)
    assert row["here"] == "The gap is \N{MINUS SIGN}0.7 (\N{MINUS SIGN}3.1 to 1.6)."
    assert row["verdict"] == "differs here"
    assert row["label"] == "Figure 3"
    assert row["where"] == [{"text": "every subject a dot", "target": "fig-model-scatter"}]


def test_words_of_a_run_are_no_markup(tmp_path):
    row = filled(tmp_path, {"gap": "a_b *c* <d> $e$ [f](g)", "paper_fig3": "holds here"})
    assert row["here"] == r"The gap is a\_b \*c\* &lt;d&gt; \$e\$ \[f\](g)."
    assert row["says"] == "They *differ*."


def test_numbers_that_no_chapter_told_are_named_with_their_rows(tmp_path):
    with pytest.raises(SingError, match=r"make book(.|\n)*fig3: gap \(did you mean gaps\?\)\n"
                       r"  fig3: paper_fig3$"):
        filled(tmp_path, {"gaps": "1"})


@pytest.mark.parametrize("text", ["Holds here", "not run here", "nan", ""])
def test_a_verdict_is_one_of_two(tmp_path, text):
    with pytest.raises(SingError, match=r"Row fig3.*paper_fig3 must be 'holds here'"):
        filled(tmp_path, {"gap": "1", "paper_fig3": text})


def test_what_was_not_run_says_why(tmp_path):
    row = filled(tmp_path, {"gap": "1"}, verdict=None, rule=None, not_run="because of the hub.")
    assert row["verdict"] == "not run here"
    page = paper_page([row])
    assert "because of the hub." in page
    assert re.findall(r"\*\*(\d) of 1 rows", page) == ["0", "0", "1"]
    assert set(VERDICTS) == {verdict(True), verdict(False), "not run here"}


def test_the_map_is_kept_beside_the_figures(tmp_path):
    figures = tmp_path / "figures"
    figures.mkdir()
    (figures / "numbers.json").write_text(json.dumps({"gap": "1", "paper_fig3": "holds here"}))
    page = write_paper_map(written(tmp_path, entry()), figures, tmp_path)
    assert page.name == f"{PAGE}.md"
    assert json.loads((figures / f"{PAGE}.json").read_text())[0]["here"] == "The gap is 1."


# --- the page -------------------------------------------------------------------------------------


def write_stub(folder: Path) -> dict[str, Path]:
    """A book whose first page has every target that the rows name."""
    root, figures = folder / "root", folder / "figures"
    (root / "book").mkdir(parents=True)
    (root / "data").mkdir()
    (folder / "chapters").mkdir()
    figures.mkdir()
    shutil.copy2(SOURCE, root / "data")
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    shutil.copy2(ROOT / "_config.yml", root)
    shutil.copy2(ROOT / "book" / "references.bib", root / "book")
    (root / "book" / "references.md").write_text((ROOT / "book" / "references.md").read_text())
    spec = {"data": {"values": [{"x": 1}]}, "mark": "point", "encoding": {"x": {"field": "x"}},
            "description": "One point on an axis, as a stand-in."}
    (figures / "stub.vl.json").write_text(json.dumps(spec))
    (figures / "numbers.json").write_text(json.dumps(pretended()))
    parts = ["# A stub"]
    for target in dict.fromkeys(targets()):
        parts.append(
            f"```{{sing-chart}} stub\n:name: {target}\nOne point.\n```"
            if target.startswith("fig-") else f"({target})=\n## {target}"
        )
    (root / "book" / "intro.md").write_text("\n\n".join(parts))
    (root / "book" / "_toc.yml").write_text(
        f"format: jb-book\nroot: intro\nchapters:\n  - file: {PAGE}\n  - file: references\n"
    )
    return {"executed_dir": folder / "chapters", "figures_dir": figures,
            "out_dir": folder / "stage", "root": root}


@pytest.fixture(scope="module")
def stub_book(tmp_path_factory) -> Path:
    from test_page import build

    stage = stage_book(**write_stub(tmp_path_factory.mktemp("stub")))
    done = build(stage)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return stage / "_build" / "html"


def test_a_book_is_not_laid_out_with_a_number_missing(tmp_path):
    book = write_stub(tmp_path)
    stage_book(**book)
    before = (book["out_dir"] / f"{PAGE}.md").read_text()
    numbers = pretended()
    del numbers["paper_tab2"]
    (book["figures_dir"] / "numbers.json").write_text(json.dumps(numbers))
    with pytest.raises(SingError, match=r"make book(.|\n)*tab2: paper_tab2"):
        stage_book(**book)
    assert (book["out_dir"] / f"{PAGE}.md").read_text() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def check_rows(folder: Path) -> list[str]:
    """What is wrong with the rows of a rendered map: dead links, no links, no verdict."""
    soups = {}

    def soup(name: str) -> BeautifulSoup:
        if name not in soups:
            soups[name] = BeautifulSoup((folder / name).read_text(encoding="utf-8"), "html.parser")
        return soups[name]

    found = []
    for row in ROWS:
        anchor = soup(f"{PAGE}.html").find(id=f"map-{row.id}")
        section = anchor and (anchor if anchor.name == "section" else anchor.find_parent("section"))
        if not section:
            found.append(f"{row.id}: no row")
            continue
        badges = [b.get_text(strip=True)[2:] for b in section.select(".sing-row > .sing-verdict")]
        if len(badges) != 1 or badges[0] not in VERDICTS:
            found.append(f"{row.id}: verdicts {badges}")
        if row.verdict and badges == ["not run here"]:
            found.append(f"{row.id}: has a verdict and was not run")
        links = section.select(".sing-row a.reference")
        if len(links) < len(row.where):
            found.append(f"{row.id}: {len(links)} links for {len(row.where)} targets")
        for link in links:
            name, _, fragment = link["href"].partition("#")
            name = name or f"{PAGE}.html"
            if not (folder / name).is_file():
                found.append(f"{row.id}: no page {name}")
            elif fragment and not soup(name).find(id=unquote(fragment)):
                found.append(f"{row.id}: no {fragment} in {name}")
    return found


def test_the_checks_of_the_rendered_map_can_fail(stub_book, tmp_path):
    folder = tmp_path / "html"
    folder.mkdir()
    for name in ("intro.html", f"{PAGE}.html", "references.html"):
        shutil.copy2(stub_book / name, folder)
    assert check_rows(folder) == []
    path = folder / f"{PAGE}.html"
    good = path.read_text()
    path.write_text(good.replace("#fig-spectrum", "#fig-nothing"))
    assert check_rows(folder) == ["eq1: no fig-nothing in intro.html"]
    path.write_text(good.replace('id="map-fig4"', 'id="map-fig44"'))
    assert check_rows(folder) == ["fig4: no row"]
    path.write_text("held here".join(good.rsplit("holds here", 1)))
    assert check_rows(folder) == ["tab2: verdicts ['held here']"]


def test_every_row_of_the_smoke_book_links_and_has_a_verdict(smoke_book):
    assert check_rows(smoke_book) == []


def test_every_key_is_told_by_a_chapter(smoke_book):
    numbers = json.loads((smoke_book.parent / "figures" / "numbers.json").read_text())
    assert set(pretended()) - set(numbers) == set()
    kept = json.loads((smoke_book.parent / "figures" / f"{PAGE}.json").read_text())
    assert [row["id"] for row in kept] == [row.id for row in ROWS]


# --- in a browser ---------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_map_reads_well(stub_book, width, theme):
    browser_tools = pytest.importorskip("browser")
    if not browser_tools.find_chromium():
        pytest.skip("no Chromium: apt-get install chromium, or set SING_CHROMIUM")
    with (
        browser_tools.serve(stub_book) as address, browser_tools.open_browser() as browser,
        browser_tools.new_page(browser, (width, 900), theme) as page,
    ):
        report = browser_tools.inspect_page(page, f"{address}/{PAGE}.html", theme)
        assert report.problems() == []
        # A term stands beside its text where there is room, and above it on a phone.
        row = page.locator(".sing-row dl").first
        term, text = (row.locator(name).first.bounding_box() for name in ("dt", "dd"))
        assert (text["x"] > term["x"] + 60) == (width == 1280)
        assert text["width"] > 250
        assert text["x"] + text["width"] <= width
        assert contrasts(page) == []


CONTRAST = """() => {
  const rgb = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  return [...document.querySelectorAll(".sing-verdict")].map((el) => {
    const style = getComputedStyle(el);
    const [a, b] = [style.color, style.backgroundColor].map((c) => light(rgb(c)) + 0.05);
    return [el.textContent.trim(), Math.max(a, b) / Math.min(a, b)];
  }).filter(([, ratio]) => ratio < 4.5);
}"""


def contrasts(page) -> list:
    """Badges whose text is too faint on its ground (WCAG AA asks for 4.5)."""
    assert page.locator(".sing-verdict").count() == len(ROWS) + len(VERDICTS)
    return page.evaluate(CONTRAST)
