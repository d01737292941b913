"""What is installed for whom: the core alone, the book, conda; and what the code imports of it."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10: pytest itself brings tomli there
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE, EXTRAS = PROJECT["dependencies"], PROJECT["optional-dependencies"]
#: Names in conda's channels that are not those of the package index.
CONDA = {"torch": "pytorch", "open_clip_torch": "open-clip-torch", "snakemake": "snakemake-minimal"}


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0]


def project(name):
    """A project's name as the package index compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(folder):
    """Installed projects that the files of a folder import, anywhere in them."""
    homes = importlib.metadata.packages_distributions()
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return {project(homes[name][0]) for name in found - {"sing_nb"} if name in homes}


def test_everything_that_is_imported_is_a_dependency():
    named = {project(name_of(one)) for one in [*CORE, *EXTRAS["book"], *EXTRAS["hub"]]}
    # These come with what is named and cannot be missing.
    brought = {"ipython", "myst-nb", "sphinx", "docutils", "typing-extensions"}
    found = imported("sing_nb")
    assert "torch" in found
    assert found - named - brought == set()


def test_the_method_needs_the_core_alone():
    assert imported("sing_nb/method") <= {project(name_of(one)) for one in CORE}


def test_the_readmes_first_example_runs_on_the_core_alone():
    example = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    assert "torch.nn.Linear" in example
    # An import of anything else fails, as it does where only the core is installed.
    others = sorted(
        {name for name, homes in importlib.metadata.packages_distributions().items()
         if {project(home) for home in homes}
         & {project(name_of(one)) for extra in EXTRAS.values() for one in extra}}
        - {"torch", "numpy", "scipy", "safetensors"})
    assert "pandas" in others
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\nfor name in {others}:\n    sys.modules[name] = None\n"
         + textwrap.dedent(example)],
        capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr


def test_conda_users_get_the_same():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (by_pip,) = [entry["pip"] for entry in conda if isinstance(entry, dict)]
    plain = [entry for entry in conda if isinstance(entry, str)]
    back = {there: here for here, there in CONDA.items()}
    found = [back.get(name_of(one), name_of(one)) + one[len(name_of(one)):] for one in plain]
    assert "python" + PROJECT["requires-python"] in found
    rest = set(found) - {"python" + PROJECT["requires-python"], "pip"}
    assert rest | set(by_pip) == {*CORE, *EXTRAS["book"], *EXTRAS["hub"]}
    # pip brings only what no channel of conda has: nothing compiled, nothing large.
    assert len(by_pip) < 8


@pytest.mark.parametrize("name", ["book", "hub", "cluster", "test", "bench"])
def test_extras_are_what_the_makefile_installs(name):
    assert name in EXTRAS
    assert re.search(rf"^EXTRAS_\w+ := .*\b{name}\b", (ROOT / "Makefile").read_text(), re.MULTILINE)
