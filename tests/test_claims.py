"""The table of claims: every claim has a link that works, a rule and one of three verdicts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from sing_nb import SingError, gallery
from sing_nb.claims import (
    TABLE,
    VERDICTS,
    claims_table,
    fill_claims,
    read_claims,
    write_claims,
)
from sing_nb.gallery import judge

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "data" / "claims.yaml"
CLAIMS = read_claims(SOURCE)
KEY = re.compile(r"\{\{\s*(\w+)\s*\}\}")


def pretended() -> dict[str, str]:
    """Numbers for every key that a claim asks for, as if all chapters had run."""
    text = " ".join(f"{claim.claim} {claim.here} {claim.rule}" for claim in CLAIMS)
    words = list(VERDICTS)
    return dict.fromkeys(KEY.findall(text), "9.6° (9.2 to 10.1) of |AS|") | {
        claim.verdict: words[n % 3] for n, claim in enumerate(CLAIMS)}


def entry(**changes) -> dict:
    row = {
        "id": "excess", "claim": "It *turns*.", "paper": "figure 3", "rule": "the gap is above 0.",
        "where": ["the models <fig-model-scatter>"], "here": "The gap is {{ gap }}.",
        "verdict": "claim_excess",
    }
    return {key: value for key, value in {**row, **changes}.items() if value is not None}


def written(folder: Path, *entries: dict) -> Path:
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump(list(entries), allow_unicode=True))
    return path


# --- verdicts -------------------------------------------------------------------------------------


def interval(low, high):
    return {"value": (low + high) / 2, "low": low, "high": high}


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ([interval(1, 2)], "holds"),
        ([interval(1, 2), interval(0.1, 3), True], "holds"),
        ([interval(1, 2), interval(-1, 3)], "cannot be told here"),
        ([interval(1, 2), interval(-3, -1)], "does not hold"),
        ([interval(-1, 2), interval(-3, -1)], "does not hold"),
        ([interval(0, 2)], "cannot be told here"),
        ([interval(np.nan, np.nan)], "cannot be told here"),
        ([True, np.True_], "holds"),
        ([True, np.False_], "does not hold"),
        ([True, None], "cannot be told here"),
    ],
)
def test_a_claim_needs_everything_and_falls_by_anything(found, word):
    assert judge(*found) == word


def test_nothing_found_is_no_verdict():
    with pytest.raises(SingError, match="at least one interval or fact"):
        judge()


def test_the_words_of_the_chapters_are_those_of_the_table():
    assert list(VERDICTS) == list(gallery.CLAIMS)


# --- the file -------------------------------------------------------------------------------------


def test_there_are_a_dozen_claims_each_once():
    assert 8 <= len(CLAIMS) <= 15
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    assert all(claim.rule and claim.where for claim in CLAIMS)


def notebooks() -> dict[str, list[dict]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8"))["cells"]
            for path in (ROOT / "book").glob("*.ipynb")}


def test_every_target_is_in_the_book():
    names, anchors = set(), set()
    for cells in notebooks().values():
        for cell in cells:
            names.add(cell["metadata"].get("mystnb", {}).get("figure", {}).get("name"))
            anchors |= set(re.findall(r"^\(([\w-]+)\)=$", "".join(cell["source"]), re.M))
    targets = [re.search(r"<(.+)>", link)[1] for claim in CLAIMS for link in claim.where]
    pages = {*notebooks(), *(path.stem for path in (ROOT / "book").glob("*.md"))}
    known = {"fig": names, "sec": anchors, "tab": anchors}
    assert [t for t in targets if t not in known.get(t.split("-")[0], pages)] == []


def test_every_verdict_is_computed_by_a_chapter():
    """A chapter tells it by gallery.judge: none is typed."""
    code = "\n".join(
        "".join(cell["source"]) for cells in notebooks().values() for cell in cells
        if cell["cell_type"] == "code")
    told = set(re.findall(r"(claim_\w+)=judge\(", code))
    assert {claim.verdict for claim in CLAIMS} <= told


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rulle": "x"}, r"row 1 \(excess\): .*'rulle'.*did you mean 'rule'"),
        ({"rule": None}, r"row 1 \(excess\): rule is missing"),
        ({"where": []}, r"row 1 \(excess\): where must be a list, not empty"),
        ({"where": ["fig-x"]}, r"row 1 \(excess\): where reads `text <target>`"),
        ({"verdict": "claim_leak"}, r"row 1 \(excess\): the verdict reads claim_excess"),
    ],
)
def test_a_bad_claim_is_named(tmp_path, changes, said):
    read_claims(written(tmp_path, entry()))
    with pytest.raises(SingError, match=said):
        read_claims(written(tmp_path, entry(**changes)))


# --- the table ------------------------------------------------------------------------------------


def test_a_key_that_no_chapter_told_is_an_error_that_says_what_to_do(tmp_path):
    claims = read_claims(written(tmp_path, entry()))
    with pytest.raises(SingError, match=r"claims.yaml.*Run 'make book'(.|\n)*excess: gap") as info:
        fill_claims(claims, {"claim_excess": "holds"})
    assert "claim_excess" not in str(info.value)
    with pytest.raises(SingError, match=r"excess: claim_excess \(did you mean claim_exces\?\)"):
        fill_claims(claims, {"gap": "1", "claim_exces": "holds"})


def test_a_verdict_is_one_of_three_words(tmp_path):
    claims = read_claims(written(tmp_path, entry()))
    with pytest.raises(SingError, match=r"claim_excess must be one of .*'true'.*gallery.judge"):
        fill_claims(claims, {"gap": "1", "claim_excess": "true"})


def test_the_table_has_a_row_a_claim_with_number_link_and_verdict(tmp_path):
    claims = read_claims(written(tmp_path, entry()))
    text = claims_table(fill_claims(claims, {"gap": "5 |x|", "claim_excess": "does not hold"}))
    assert "* - It *turns*. (figure 3)" in text
    assert r"The gap is 5 \|x\|." in text
    assert "{numref}`Fig. %s, the models <fig-model-scatter>`" in text
    assert "≠ does not hold" in text
    assert "sing-differs" in text
    assert "the gap is above 0." in text.split("The rules")[1]
    assert "**1 ≠ does not hold**" in text


def test_the_file_is_written_for_the_introduction(tmp_path):
    (tmp_path / "numbers.json").write_text(json.dumps(pretended()))
    page = write_claims(SOURCE, tmp_path, tmp_path)
    assert page.name == TABLE
    assert f"{{include}} {TABLE}" in (ROOT / "book" / "intro.md").read_text(encoding="utf-8")
    kept = json.loads((tmp_path / "claims.json").read_text())
    assert [one["id"] for one in kept] == [claim.id for claim in CLAIMS]
    assert {one["verdict"] for one in kept} <= set(VERDICTS)
    assert "{{" not in page.read_text()
