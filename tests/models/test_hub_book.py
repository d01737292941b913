"""Every chapter of the miniature profile ``paper``, by the reader's own command."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from sing_nb.study.neighbours import PAINTED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))


def setting(value: object) -> str:
    """A value as YAML without quotes, which a make variable would not survive."""
    if isinstance(value, list):
        return f"[{','.join(map(setting, value))}]"
    return "null" if value is None else str(value)


@pytest.fixture(scope="module")
def book(mini_paper, mini_build):
    """Build folder of the miniature book."""
    handed_down = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PROFILE", "SET")
    env = {key: value for key, value in os.environ.items() if key not in handed_down}
    settings = " ".join(f"{key}={setting(value)}" for key, value in mini_paper.items())
    done = subprocess.run(
        ["make", "-C", str(ROOT), "book", "PROFILE=paper", f"SET={settings}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        env=env | {"SING_BUILD": str(mini_build)})
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-40:])
        pytest.fail(f"make book PROFILE=paper failed (exit {done.returncode}):\n{tail}")
    return mini_build / "paper"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_runs_on_hub_classes_and_speaks_of_what_was_there(book, chapter):
    notebook = json.loads((book / "chapters" / f"{chapter}.ipynb").read_text())
    assert notebook["metadata"]["papermill"]["parameters"]["profile"] == "paper"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    outputs = [output for cell in code for output in cell["outputs"]]
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    for output in outputs:
        text = "".join(output.get("data", {}).get("text/markdown", ""))
        assert "nan" not in re.findall(r"[a-z]+", text.lower()), text
        for word in ("ConSE", "EfficientNet", "stamp", "(tower)", "views of"):
            assert word not in text, text


def test_painted_pictures_stand_beside_the_nearest_photos(book):
    data = json.loads((book / "figures/07_images/image-neighbours.data.json").read_text())
    assert PAINTED in {row.get("place") for rows in data.values() for row in rows}


def test_no_figure_is_empty(book):
    for path in (book / "figures").glob("*/*.data.json"):
        assert sum(map(len, json.loads(path.read_text()).values())) > 0, path.name
