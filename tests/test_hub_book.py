"""Every chapter of the miniature profile ``paper``, by the reader's own command."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from sing_nb.neighbours import PAINTED

ROOT = Path(__file__).resolve().parents[1]
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
        env=env | {"SING_BUILD": str(mini_build)},
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-40:])
        pytest.fail(f"make book PROFILE=paper failed (exit {done.returncode}):\n{tail}")
    return mini_build / "paper"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_runs_on_hub_classes_without_noise(book, chapter):
    notebook = json.loads((book / "chapters" / f"{chapter}.ipynb").read_text())
    assert notebook["metadata"]["papermill"]["parameters"]["profile"] == "paper"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    assert [o for cell in code for o in cell["outputs"] if o["output_type"] == "stream"] == []


def test_prose_does_not_speak_of_what_was_not_there(book):
    numbers = json.loads((book / "figures" / "numbers.json").read_text())
    assert len(numbers) > 200
    for key, text in numbers.items():
        assert text, key
        assert "nan" not in text.lower().split(), key
        for word in ("ConSE", "EfficientNet", "stamp", "(tower)", "views of"):
            assert word not in text, (key, text)


def test_painted_pictures_stand_beside_the_nearest_photos(book):
    figures = {f["name"]: f for f in json.loads((book / "figures/manifest.json").read_text())}
    for name in ("image-neighbours", "steering-photos", "translator-photos", "perturbation-photos"):
        data = json.loads((book / "figures" / figures[name]["data"]).read_text())
        places = {row.get("place") for rows in data.values() for row in rows}
        assert PAINTED in places, name


def test_no_figure_is_empty(book):
    for figure in json.loads((book / "figures" / "manifest.json").read_text()):
        data = json.loads((book / "figures" / figure["data"]).read_text())
        assert sum(map(len, data.values())) > 0, figure["name"]
