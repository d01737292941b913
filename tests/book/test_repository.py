"""What is in the repository: notebooks as a reader gets them, manifests, nothing too large."""

from __future__ import annotations

import ast
import csv
import json
import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from sing_nb.book.chapters import toc_files
from sing_nb.models.prompts import imagenet_names

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
#: Roles, directives and substitutions, which JupyterLab shows as they are written.
RAW = re.compile(r"\{[a-z][\w:-]*\}`|\{\{|^:::|^```\{|^\([\w-]+\)=$", re.MULTILINE)


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def tags(cell):
    return cell["metadata"].get("tags", [])


def test_the_book_has_its_chapters():
    assert {path.stem for path in NOTEBOOKS} <= set(toc_files(ROOT / "book"))
    assert len(NOTEBOOKS) >= 14


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_a_title_typed_parameters_no_results_and_reads_the_same_everywhere(path):
    for cell in cells(path):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            assert [line for line in source(cell).splitlines() if len(line) > 79] == []
        else:
            assert RAW.findall(source(cell)) == []
        assert set(tags(cell)) <= {"parameters", "hide-input"}
        assert set(cell["metadata"]) <= {"tags"}
    text = [line for cell in cells(path) if cell["cell_type"] == "markdown"
            for line in source(cell).splitlines()]
    assert [line for line in text if line.startswith("# ")] == text[:1]
    (cell,) = [cell for cell in cells(path) if "parameters" in tags(cell)]
    found = ast.parse(source(cell)).body
    for line in found:
        ast.literal_eval(line.value)  # a derived value would not follow an override
    assert {"profile", "overrides"} <= {line.target.id for line in found}


def test_the_chapters_show_the_method():
    """What a chapter is about is called in a cell that the page shows unfolded."""
    wanted = {"02_svd": "linalg.svd", "03_translator": "linalg.solve", "04_metrics": "cos(",
              "05_models": "bootstrap", "08_steering": "autograd"}
    for name, call in wanted.items():
        visible = [source(cell) for cell in cells(ROOT / "book" / f"{name}.ipynb")
                   if cell["cell_type"] == "code" and "hide-input" not in tags(cell)]
        assert any(call in text for text in visible), (name, call)
        assert any("assert" in text for text in visible), name


def test_the_public_names_are_there():
    import sing_nb

    for name in sing_nb.__all__:
        assert getattr(sing_nb, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'anlge'"):
        _ = sing_nb.anlge


def rows(name):
    with (ROOT / "data" / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["stamps.csv", "clipart.csv"])
def test_manifests_are_sorted_and_name_every_picture_once(name):
    paths = [row["path"] for row in rows(name)]
    assert paths == sorted(set(paths))
    for path in map(PurePosixPath, paths):
        assert not path.is_absolute()
        assert ".." not in path.parts
    sums = [row["sha256"] for row in rows(name)]
    assert len(set(sums)) == len(sums)
    assert all(re.fullmatch(r"[0-9a-f]{64}", one) for one in sums)


def test_a_stamps_subject_has_one_label_and_at_most_one_class_of_that_name():
    # Two pairs of ImageNet classes share a name: only the others can be told by it.
    names = [name.lower() for name in imagenet_names()]
    labels, subjects, classes = {}, {}, {}
    for row in rows("stamps.csv"):
        subject, label = row["subject"], row["label"]
        assert label.strip()
        assert labels.setdefault(subject, label) == label
        assert subjects.setdefault(label, subject) == subject
        assert classes.setdefault(subject, row["imagenet"]) == row["imagenet"]
        if row["imagenet"] and names.count(label.lower()) == 1:
            assert names[int(row["imagenet"])] == label.lower(), row
    assert sum(map(bool, classes.values())) >= 60


def test_nothing_is_tracked_that_must_not_be():
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = [ROOT / name for name in done.stdout.split("\0") if (ROOT / name).is_file()]
    assert len(tracked) > 20
    assert [path.name for path in tracked if path.stat().st_size > 2**20] == []
    # SVG is text and may show a figure; everything here is bytes from elsewhere.
    forbidden = {
        ".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".deb", ".pth", ".pt",
        ".ckpt", ".bin", ".onnx", ".safetensors", ".npy", ".npz", ".pkl", ".pickle", ".parquet"}
    assert [path.name for path in tracked if path.suffix.lower() in forbidden] == []
