from __future__ import annotations

import ast
import csv
import importlib.util
import json
import os
import re
import subprocess
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest
import yaml

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10: pytest itself brings tomli there
    import tomli as tomllib

from sing_nb.prompts import imagenet_names

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
SWEEPS = sorted((ROOT / "book" / "sweeps").glob("*.ipynb"))  # run once a cell of a grid, no pages
# Ground floor first: a room may import what stands before it, never what comes after.
ROOMS = [
    "errors", "progress", "fetch", "kept", "hub", "prompts", "metrics", "nullspace", "stats",
    "translator", "controls", "perturb", "factories", "scripted", "heads", "published", "joint",
    "images", "labels", "subsets", "folders", "features", "render", "profile", "provenance",
    "cards", "networks", "tracking", "study", "neighbours", "comparison", "classes", "photos",
    "steering", "validation", "towers", "truncation", "information", "floor", "nuisances",
    "coverage", "plants", "asking", "finetune", "robustness", "identities", "probe", "overview",
    "figures", "gallery", "portrait", "widgets", "chapters", "paper", "claims", "speed", "page",
    "costs", "doctor", "standalone", "reports", "__main__",
]


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
    listed = [PurePosixPath(entry["file"]).stem for entry in toc["chapters"]]
    assert [name for name in listed if name[:2].isdigit()] == [path.stem for path in NOTEBOOKS]
    assert len(NOTEBOOKS) >= 8
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


@each_notebook
def test_code_cells_are_short(path):
    for cell in cells(path):
        if cell["cell_type"] == "code":
            lines = [line for line in source(cell).splitlines() if line.strip()]
            assert len(lines) <= 15, source(cell)


@each_notebook
def test_code_cells_define_no_algorithm(path):
    for cell in cells(path):
        if cell["cell_type"] == "code":
            kinds = (ast.FunctionDef, ast.ClassDef, ast.While)
            assert not [node for node in ast.walk(ast.parse(source(cell)))
                        if isinstance(node, kinds)]


@each_notebook
def test_every_figure_has_a_caption_and_a_name(path):
    shows = [cell for cell in cells(path)
             if cell["cell_type"] == "code" and "book.show(" in source(cell)]
    for cell in shows:
        figure = cell["metadata"].get("mystnb", {}).get("figure", {})
        assert len(figure.get("caption", "").split()) >= 5, source(cell)
        assert re.fullmatch(r"fig-[a-z0-9-]+", figure.get("name", "")), source(cell)
        assert source(cell).count("book.show(") == 1


def test_figure_names_are_unique_in_the_book():
    names = [cell["metadata"]["mystnb"]["figure"]["name"] for path in NOTEBOOKS
             for cell in cells(path) if "figure" in cell["metadata"].get("mystnb", {})]
    assert names
    assert [name for name, count in Counter(names).items() if count > 1] == []


# --- dependencies -------------------------------------------------------------------------------


def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]


def test_conda_users_get_the_same_dependencies():
    (packages,) = [entry["pip"] for entry in environment() if isinstance(entry, dict)]
    project = pyproject()
    wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
    found = [entry for entry in packages if not entry.startswith("-e ")]
    assert sorted(found) == sorted(set(wanted))


def test_conda_users_get_the_same_python():
    plain = [entry for entry in environment() if isinstance(entry, str)]
    (python,) = [entry for entry in plain if re.match(r"python\b", entry)]
    assert python.removeprefix("python").replace(" ", "") == pyproject()["requires-python"]
    assert any(re.match(r"pip\b", entry) for entry in plain)


def test_every_package_that_is_imported_is_a_dependency():
    # Import names that differ from the name of the package that holds them.
    package = {
        "PIL": "pillow", "yaml": "pyyaml", "vl_convert": "vl-convert-python",
        "open_clip": "open-clip-torch", "sklearn": "scikit-learn",
        # These come with what is named here and cannot be missing.
        "IPython": "ipykernel", "myst_nb": "jupyter-book", "sphinx": "jupyter-book",
        "docutils": "jupyter-book",
    }
    project = pyproject()
    known = {re.split(r"[<>=\[ ]", entry)[0].lower().replace("_", "-")
             for entry in project["dependencies"]}
    found = set()
    for path in (ROOT / "sing_nb").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    outside = {
        name for name in found
        if importlib.util.find_spec(name).origin is not None
        and "site-packages" in importlib.util.find_spec(name).origin
    }
    outside.discard("wandb")  # an extra: `tracking` asks for it only where the user enabled it
    missing = {n for n in outside if package.get(n, n).lower().replace("_", "-") not in known}
    assert "torch" in outside
    assert missing == set()


# --- rooms --------------------------------------------------------------------------------------


def imported_rooms(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.level or node.module == "sing_nb"):
            found |= {node.module} if node.level and node.module else {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("sing_nb."):
            found.add(node.module.removeprefix("sing_nb."))
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("sing_nb.") for a in node.names
                      if a.name.startswith("sing_nb")}
    return found


def test_every_room_has_its_place():
    files = {path.stem for path in (ROOT / "sing_nb").glob("*.py")} - {"__init__"}
    assert files == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_imports_upwards(room):
    allowed = set(ROOMS[: ROOMS.index(room)])
    assert imported_rooms(ROOT / "sing_nb" / f"{room}.py") <= allowed


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
