"""Rules that files have to keep: chapters, manifests, dependencies, imports."""

import ast
import csv
import json
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
ROOMS = [
    "errors", "fetch", "prompts", "metrics", "nullspace", "stats", "translator", "perturb",
    "heads", "joint", "images", "features", "profile", "study", "figures", "gallery",
    "chapters", "page", "__main__",
]


def cells(path, kind):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def tags(cell):
    return cell["metadata"].get("tags", [])


def test_there_are_eight_chapters_and_the_contents_name_them():
    assert len(CHAPTERS) == 8
    toc = yaml.safe_load((ROOT / "book/_toc.yml").read_text())
    assert {path.stem for path in CHAPTERS} <= {entry["file"] for entry in toc["chapters"]}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
class TestChapter:
    def test_is_stored_without_outputs(self, path):
        for cell in cells(path, "code"):
            assert cell["outputs"] == []
            assert cell["execution_count"] is None

    def test_has_one_parameters_cell_of_annotated_literals(self, path):
        found = [c for c in cells(path, "code") if "parameters" in tags(c)]
        assert len(found) == 1
        names = set()
        for line in ast.parse("".join(found[0]["source"])).body:
            assert isinstance(line, ast.AnnAssign), ast.unparse(line)
            ast.literal_eval(line.value)
            names.add(line.target.id)
        assert {"profile", "overrides"} <= names

    def test_has_short_cells(self, path):
        for cell in cells(path, "code"):
            lines = [line for line in "".join(cell["source"]).splitlines() if line.strip()]
            assert len(lines) <= 15

    def test_has_captioned_figures_and_the_usual_sections(self, path):
        figures = [c for c in cells(path, "code") if "book.show(" in "".join(c["source"])]
        assert figures
        for cell in figures:
            meta = cell["metadata"]["mystnb"]["figure"]
            assert len(meta["caption"].split()) > 8
            assert meta["name"].removeprefix("fig-") in "".join(cell["source"])
        prose = "".join("".join(c["source"]) for c in cells(path, "markdown"))
        for part in ("**What you will learn.**", "## Try it", "## What could fool us",
                     "## References"):
            assert part in prose

    def test_says_that_the_joint_space_is_a_stand_in(self, path):
        code = "".join("".join(c["source"]) for c in cells(path, "code"))
        prose = "".join("".join(c["source"]) for c in cells(path, "markdown"))
        uses_space = any(
            name in code
            for name in ("image_score", "attribute_score", "photo_words", "fit_report", "steering")
        )
        assert not uses_space or "stand-in for CLIP" in prose


def test_conda_and_pip_dependencies_are_the_same():
    tomllib = pytest.importorskip("tomllib")  # in the standard library from Python 3.11 on
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {*project["dependencies"], *project["optional-dependencies"]["test"]}
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in conda if isinstance(entry, dict))
    assert {entry for entry in pip if not entry.startswith("-e")} == wanted
    assert f"python{project['requires-python']}" in conda


def test_rooms_import_only_downwards():
    for path in (ROOT / "sing_nb").glob("*.py"):
        if path.stem == "__init__":
            continue
        assert path.stem in ROOMS, f"{path.name} has no place in the order of rooms"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                assert ROOMS.index(node.module) < ROOMS.index(path.stem), (path.stem, node.module)


@pytest.mark.parametrize("name", ["stamps.csv", "clipart.csv"])
def test_manifests_are_sorted_unique_and_stay_inside(name):
    with (ROOT / "data" / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    paths = [row["path"] for row in rows]
    assert paths == sorted(paths)
    assert len({row["sha256"] for row in rows}) == len(rows) == len(set(paths))
    for row in rows:
        assert len(row["sha256"]) == 64
        assert not row["path"].startswith("/")
        assert ".." not in Path(row["path"]).parts


def test_stamps_have_one_label_a_subject_and_enough_classes():
    with (ROOT / "data/stamps.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    subjects = {row["subject"]: (row["label"], row["imagenet"]) for row in rows}
    assert all(subjects[r["subject"]] == (r["label"], r["imagenet"]) for r in rows)
    labels = [label for label, _ in subjects.values()]
    assert len(set(labels)) == len(labels)
    classes = [int(index) for _, index in subjects.values() if index]
    assert len(classes) >= 60
    assert len(set(classes)) == len(classes)
    assert 0 <= min(classes) <= max(classes) < 1000


def test_git_holds_no_pictures_weights_or_large_files():
    names = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    for name in filter(None, names):
        path = ROOT / name
        assert path.suffix not in {".png", ".jpg", ".jpeg", ".pth", ".pt", ".safetensors", ".deb"}
        assert not path.is_file() or path.stat().st_size < 1 << 20, name


def test_the_readme_shows_the_commands_that_ci_runs():
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci/run").read_text()
    for command in ("make book", "make test"):
        assert command in readme.split("##")[0]
        assert f"\n{command}" in ci
