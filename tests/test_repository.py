from __future__ import annotations

import ast
import csv
import json
import os
import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest
import yaml

from sing_nb.book.page import toc_files
from sing_nb.models.prompts import imagenet_names

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
SWEEPS = sorted((ROOT / "book" / "sweeps").glob("*.ipynb"))  # run once a cell of a grid, no pages

def each_notebook(function):
    """Run a test for each notebook of the book and of its sweeps."""
    decorate = pytest.mark.parametrize("path", [*NOTEBOOKS, *SWEEPS], ids=lambda path: path.stem)
    return decorate(function)


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def tags(cell):
    return cell["metadata"].get("tags", [])


# --- notebooks ----------------------------------------------------------------------------------


def test_the_book_has_its_chapters():
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    listed = {PurePosixPath(name).stem for name in toc_files(toc)}
    assert {path.stem for path in NOTEBOOKS} <= listed
    assert len(NOTEBOOKS) >= 14
    assert SWEEPS


@each_notebook
def test_notebooks_are_stored_without_results(path):
    for cell in cells(path):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@each_notebook
def test_notebooks_start_with_a_title(path):
    first = cells(path)[0]
    assert first["cell_type"] == "markdown"
    assert re.match(r"# \S", source(first))
    titles = [
        line for cell in cells(path) if cell["cell_type"] == "markdown"
        for line in source(cell).splitlines() if line.startswith("# ")
    ]
    assert len(titles) == 1


@each_notebook
def test_notebooks_have_one_cell_of_annotated_literals_as_parameters(path):
    (cell,) = [cell for cell in cells(path) if "parameters" in tags(cell)]
    found = ast.parse(source(cell)).body
    assert all(isinstance(line, ast.AnnAssign) for line in found)
    for line in found:
        ast.literal_eval(line.value)  # a derived value would not follow an override
    assert {"profile", "overrides"} <= {line.target.id for line in found}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_lines_fit_the_page(path):
    for cell in cells(path):
        if cell["cell_type"] == "code":
            assert [line for line in source(cell).splitlines() if len(line) > 79] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_prose_reads_the_same_everywhere(path):
    """No role, directive or substitution, which JupyterLab shows raw; no cell is removed."""
    raw = re.compile(r"\{[a-z][\w:-]*\}`|\{\{|^:::|^```\{|^\([\w-]+\)=$", re.MULTILINE)
    for cell in cells(path):
        assert set(tags(cell)) <= {"parameters", "hide-input"}
        assert set(cell["metadata"]) <= {"tags"}
        if cell["cell_type"] == "markdown":
            assert raw.findall(source(cell)) == []


def test_the_chapters_show_the_method():
    """What a chapter is about is called in a cell that the page shows unfolded."""
    wanted = {"02_svd": "linalg.svd", "03_translator": "linalg.solve", "04_metrics": "cos(",
              "05_models": "bootstrap", "08_steering": "autograd"}
    for name, call in wanted.items():
        visible = [source(cell) for cell in cells(ROOT / "book" / f"{name}.ipynb")
                   if cell["cell_type"] == "code" and "hide-input" not in tags(cell)]
        assert any(call in text for text in visible), (name, call)
        assert any("assert" in text for text in visible), name


# --- the package ---------------------------------------------------------------------------------


def test_the_public_names_are_those_of_the_rooms():
    import sing_nb

    for name in sing_nb.__all__:
        assert getattr(sing_nb, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'anlge'"):
        _ = sing_nb.anlge


# --- data ---------------------------------------------------------------------------------------


def rows(name):
    with (ROOT / "data" / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["stamps.csv", "clipart.csv"])
def test_manifests_are_sorted_and_name_every_picture_once(name):
    paths = [row["path"] for row in rows(name)]
    assert paths == sorted(paths)
    assert len(set(paths)) == len(paths)
    for path in map(PurePosixPath, paths):
        assert not path.is_absolute()
        assert ".." not in path.parts
    sums = [row["sha256"] for row in rows(name)]
    assert len(set(sums)) == len(sums)
    assert all(re.fullmatch(r"[0-9a-f]{64}", one) for one in sums)


def test_stamps_have_enough_subjects_of_a_true_class():
    classes = {row["subject"]: row["imagenet"] for row in rows("stamps.csv") if row["imagenet"]}
    assert len(classes) >= 60
    assert all(0 <= int(index) <= 999 for index in classes.values())


def test_stamps_have_one_label_and_one_class_a_subject():
    labels, subjects, classes = {}, {}, {}
    for row in rows("stamps.csv"):
        assert row["label"].strip()
        assert labels.setdefault(row["subject"], row["label"]) == row["label"]
        assert subjects.setdefault(row["label"], row["subject"]) == row["subject"]
        assert classes.setdefault(row["subject"], row["imagenet"]) == row["imagenet"]


def test_a_label_that_is_a_class_name_has_that_class():
    # Two pairs of ImageNet classes share a name: only the others can be told by it.
    names = [name.lower() for name in imagenet_names()]
    for row in rows("stamps.csv"):
        label = row["label"].lower()
        if row["imagenet"] and names.count(label) == 1:
            assert names[int(row["imagenet"])] == label, row


def test_concepts_are_distinct():
    content = yaml.safe_load((ROOT / "data/concepts.yaml").read_text(encoding="utf-8"))
    concepts = [concept for group in content.values() for concept in group]
    assert len(set(concepts)) == len(concepts) >= 20


# --- what is committed --------------------------------------------------------------------------


def tracked():
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_tracked_file_is_large():
    assert [path.name for path in tracked() if path.stat().st_size > 2**20] == []


def test_neither_pictures_nor_weights_are_tracked():
    # SVG is text and may show a figure; everything here is bytes from elsewhere.
    forbidden = {
        ".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".deb", ".pth", ".pt",
        ".ckpt", ".bin", ".onnx", ".safetensors", ".npy", ".npz", ".pkl", ".pickle", ".parquet",
    }
    assert len(tracked()) > 20
    assert [path.name for path in tracked() if path.suffix.lower() in forbidden] == []


def test_the_top_level_has_only_its_own_files():
    allowed = {
        "README.md", "Makefile", "environment.yml", "pyproject.toml", "_config.yml", "LICENSE",
        "CITATION.cff", "book", "sing_nb", "data", "tests",
    }
    top = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert {name for name in top if not name.startswith(".")} <= allowed


def test_tests_of_one_file_stay_with_one_worker(request):
    # Silently lost with a pytest that pytest-xdist does not know: every worker built every book.
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert request.node.nodeid.endswith("@test_repository")
