"""Nothing that somebody else wrote is run: no code of ours could, and files that try it do not.

Each attack holds code that leaves a mark; the page book/security.md names these tests.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

import sing_nb
from sing_nb.book import chapters
from sing_nb.errors import SingError
from sing_nb.method.translator import RidgeFitter, Translator
from sing_nb.models.joint import TextFiles, load_joint_space
from sing_nb.models.published import import_translator
from sing_nb.pictures import cards, labels
from sing_nb.pictures.cache import kept
from sing_nb.pictures.folders import hub_pictures
from sing_nb.pictures.images import open_picture
from sing_nb.study import profile

ROOT = Path(__file__).resolve().parents[1]

# --- what our own code may not do ---------------------------------------------------------------

PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
RUNS_TEXT = {"eval", "exec", "compile", "__import__", "execfile"}
SHELLS = {"os.system", "os.popen", "os.startfile", "subprocess.getoutput",
          "subprocess.getstatusoutput", "pty.spawn"}
UNSAFE_YAML = {"yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all"}
YAML_LOADERS = {"yaml.load", "yaml.load_all"}
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def dotted(node):
    """``a.b.c`` of an expression, or an empty text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        left = dotted(node.value)
        return f"{left}.{node.attr}" if left else ""
    return ""


def modules(tree):
    """Local name -> what was imported under it."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                first = one.name.split(".")[0]
                names[one.asname or first] = one.name if one.asname else first
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for one in node.names:
                names[one.asname or one.name] = f"{node.module}.{one.name}"
    return names


def flaws(source):
    """What in a piece of Python could run what somebody else wrote, or open a door to others."""
    tree = ast.parse(source)
    names, safe, found = modules(tree), safe_loaders(tree), []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            roots = [one.name for one in node.names] if isinstance(node, ast.Import) else [
                node.module or ""]
            found += [f"imports {root}" for root in roots if root.split(".")[0] in PICKLES]
        elif isinstance(node, ast.Constant) and node.value == "0.0.0.0":
            found.append("names the host 0.0.0.0")
        elif isinstance(node, ast.Call):
            found += called(node, names, safe)
    return found


def safe_loaders(tree):
    """Names of variables and classes that are one of yaml's safe loaders."""
    found = {"SafeLoader", "CSafeLoader"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and re.fullmatch(
            r"(getattr\(yaml, 'CSafeLoader', )?yaml\.C?SafeLoader\)?", ast.unparse(node.value)
        ):
            found |= {one.id for one in node.targets if isinstance(one, ast.Name)}
        elif isinstance(node, ast.ClassDef):
            found |= {node.name} if "yaml.SafeLoader" in map(ast.unparse, node.bases) else set()
    return found


def called(node, names, safe):
    name = dotted(node.func)
    first, _, rest = name.partition(".")
    name = ".".join(part for part in (names.get(first, first), rest) if part)
    name = name.replace("numpy.", "np.").removeprefix("builtins.")
    given = {one.arg: one.value for one in node.keywords}

    def said(key):
        return ast.unparse(given[key]) if key in given else None

    last = name.rpartition(".")[2] or getattr(node.func, "attr", "")
    if name in RUNS_TEXT | SHELLS | UNSAFE_YAML or name in ("tempfile.mktemp",):
        yield f"calls {name}"
    if last in ("read_pickle", "to_pickle"):
        yield f"calls {last}"
    if name == "torch.load" and said("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if last == "load_state_dict" and name.startswith("timm") and said("weights_only") != "True":
        yield "timm's load_state_dict without weights_only=True"
    if name == "np.load" and said("allow_pickle") not in (None, "False"):
        yield "np.load of pickles"
    if name in YAML_LOADERS:
        loader = said("Loader") or "".join(map(ast.unparse, node.args[1:2]))
        known = loader.removeprefix("yaml.") in safe
        if not (known or loader == "getattr(yaml, 'CSafeLoader', yaml.SafeLoader)"):
            yield f"{name} without a safe loader"
    if said("trust_remote_code") not in (None, "False"):
        yield "trust_remote_code"
    if said("shell") not in (None, "False"):
        yield "shell=True"
    if said("verify") == "False" or last == "_create_unverified_context":
        yield "takes any certificate"
    if last in ("extractall", "unpack_archive") and said("filter") != "'data'":
        yield f"{last} without filter='data'"
    address = node.args[0] if node.args else None
    if isinstance(address, ast.Tuple) and address.elts and (
        last.endswith("Server") or last in ("create_server", "bind", "run")
    ):
        host = address.elts[0]
        if not (isinstance(host, ast.Constant) and host.value in LOOPBACK):
            yield f"{last} on {ast.unparse(host)}"


def python_sources():
    """Name and text of all Python of ours that a reader runs."""
    for path in sorted((ROOT / "sing_nb").rglob("*.py")):
        yield path.name, path.read_text(encoding="utf-8")
    yield "audit", (ROOT / ".ci" / "audit").read_text(encoding="utf-8")
    for path in sorted((ROOT / "book").rglob("*.ipynb")):
        for at, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
            if cell["cell_type"] == "code":
                yield f"{path.stem}, cell {at}", "".join(cell["source"])


def test_our_code_runs_nothing_that_others_wrote():
    sources = dict(python_sources())
    assert len(sources) > 100
    found = {name: flaws(text) for name, text in sources.items()}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(("bad", "what"), [
    ("eval('1')", "calls eval"), ("exec(text)", "calls exec"), ("compile(a, b, 'exec')", "compile"),
    ("import builtins\nbuiltins.eval('1')", "calls eval"), ("__import__(name)", "__import__"),
    ("import pickle", "pickle"), ("from pickle import loads", "pickle"),
    ("import joblib", "joblib"),
    ("def f():\n    import dill.settings", "dill"), ("pd.read_pickle(p)", "read_pickle"),
    ("import torch\ntorch.load(p)", "weights_only"),
    ("import torch as t\nt.load(p, weights_only=False)", "weights_only"),
    ("from torch import load\nload(p)", "weights_only"),
    ("from timm.models import load_state_dict\nload_state_dict(p)", "timm"),
    ("import numpy as np\nnp.load(p, allow_pickle=True)", "pickles"),
    ("import yaml\nyaml.load(t)", "safe loader"),
    ("import yaml\nyaml.unsafe_load(t)", "unsafe_load"),
    ("import yaml\nyaml.load(t, Loader=yaml.Loader)", "safe loader"),
    ("import yaml\nclass A(yaml.Loader): pass\nyaml.load(t, Loader=A)", "safe loader"),
    ("from yaml import load, FullLoader\nload(t, FullLoader)", "safe loader"),
    ("AutoModel.from_pretrained(x, trust_remote_code=True)", "trust_remote_code"),
    ("AutoModel.from_pretrained(x, trust_remote_code=some)", "trust_remote_code"),
    ("import subprocess\nsubprocess.run(x, shell=True)", "shell"),
    ("import os\nos.system(x)", "os.system"), ("from os import popen\npopen(x)", "os.popen"),
    ("import tempfile\ntempfile.mktemp()", "mktemp"),
    ("requests.get(u, verify=False)", "certificate"),
    ("tar.extractall(p)", "extractall"), ("HTTPServer(('', 80), H)", "HTTPServer on ''"),
    ("http.server.ThreadingHTTPServer((host, 0), H)", "Server on host"),
    ("socket.create_server(('0.0.0.0', 1))", "0.0.0.0"), ("app.run(host='0.0.0.0')", "0.0.0.0"),
])
def test_the_search_finds_what_it_is_for(bad, what):
    assert any(what in one for one in flaws(bad)), flaws(bad)


@pytest.mark.parametrize("good", [
    "model.eval()", "re.compile(x)", "torch.compile(m)",
    "import torch\ntorch.load(p, weights_only=True)",
    "json.load(f)", "np.load(p)", "import yaml\nyaml.load(t, Loader=yaml.CSafeLoader)",
    "import yaml\nclass A(yaml.SafeLoader): pass\nyaml.load(t, Loader=A)",
    "import yaml\nl = yaml.SafeLoader\nyaml.load(t, Loader=l)",
    "import ast\nast.literal_eval(x)", "tar.extractall(p, filter='data')",
    "HTTPServer(('127.0.0.1', 0), H)", "subprocess.run([a], check=True)",
    "X.from_pretrained(x, trust_remote_code=False)",
])
def test_the_search_lets_the_rest_be(good):
    assert flaws(good) == []


# Where a file's own code is run, on purpose: what for, the file says.
RUN = {
    "own.py": "--model module:factory, the reader's own code",
    "prompts.py": "the names of classes in the installed package open_clip",
}


def test_only_rooms_that_say_so_run_a_files_code():
    found = {
        name for name, text in python_sources()
        if re.search(r"\.exec_module\(|runpy|run_path|InteractiveShell|\.load_library\(", text)
    }
    assert found == set(RUN)


def test_no_setting_or_script_opens_a_door():
    texts = [ROOT / "Makefile", ROOT / "book" / "Snakefile", *(ROOT / ".ci").iterdir(),
             *(ROOT / ".github").rglob("*.yml"), *(ROOT / "data").rglob("*.yaml"),
             *(ROOT / "data").rglob("*.json"), *(ROOT / "book" / "_static").glob("*.js")]
    assert len(texts) > 10
    bad = re.compile(
        r"0\.0\.0\.0|!!python|\btoken=''|\.token=\s|password=''|disable_check_xsrf=True"
        r"|allow_origin|curl [^\n]*\| *(ba)?sh|--trusted-host|\beval\(|new Function|document\.write"
    )
    found = {path.name: hit[0] for path in texts
             if (hit := bad.search(path.read_text(encoding="utf-8")))}
    assert found == {}
    # JupyterLab: on this machine only, and its token, which is on by default, is not taken off.
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"jupyter lab --ServerApp\.ip=127\.0\.0\.1", make)
    assert not re.search(r"(?i)token", re.sub(r"(?m)^\s*@?#.*$", "", make).replace(
        "TOKENIZERS_PARALLELISM", ""))


def test_the_threat_model_names_tests_that_exist():
    page = (ROOT / "book" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/]*test_\w+\.py)(?:::(\w+))?`", page))
    assert len(named) >= 8
    for file, test in named:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in text, (file, test)
    assert "- file: security\n" in (ROOT / "book" / "_toc.yml").read_text(encoding="utf-8")
    assert "book/security.md" in (ROOT / ".github" / "SECURITY.md").read_text(encoding="utf-8")


# --- files that try it --------------------------------------------------------------------------


class Code:
    """Unpickled, it leaves a mark: a folder."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


WRITERS = {
    "pickle": lambda what, path: path.write_bytes(pickle.dumps(what)),
    "torch": lambda what, path: torch.save(what, path),
    "old torch": lambda what, path: torch.save(what, path, _use_new_zipfile_serialization=False),
}


@pytest.fixture(params=WRITERS)
def attack(request, tmp_path):
    """Writes a file with code in it; after the test, the code must not have run."""
    mark, state = tmp_path / "the code ran", {}

    def write(path, **beside):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # what was read may still be mapped into memory
        WRITERS[request.param]({"state_dict": Code(mark), **beside}, path)
        state["written"] = True
        return path

    yield write
    assert state.get("written")
    assert not mark.exists()


def test_the_attack_is_one(tmp_path):
    # Read in the way that nobody here does, it runs: or these tests would show nothing.
    for name, write in WRITERS.items():
        mark = tmp_path / name
        write({"state_dict": Code(mark)}, tmp_path / "file")
        if name == "pickle":
            pickle.loads((tmp_path / "file").read_bytes())
        else:
            torch.load(tmp_path / "file", weights_only=False)
        assert mark.is_dir()


def test_code_in_a_joint_space_is_never_run(attack, tmp_path):
    from miniatures import clip_config

    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": clip_config(), "preprocess_cfg": {}}))
    attack(tmp_path / "clip" / "open_clip_pytorch_model.bin")
    with pytest.raises(SingError):
        load_joint_space(f"open_clip/local-dir:{tmp_path / 'clip'}")


def test_code_in_a_published_translator_is_never_run(attack, tmp_path):
    (tmp_path / "linear").mkdir()
    (tmp_path / "linear" / "metadata.yaml").write_text(yaml.safe_dump({
        "model_name": "x", "translator_name": "linear", "architecture": "linear",
        "embedding_backend": "kakao_karlo_v1_alpha_image_variations", "in_dim": 4, "out_dim": 768,
        "checkpoint_file": "best.pt"}))
    attack(tmp_path / "linear" / "best.pt")
    with pytest.raises(SingError, match="never run"):
        import_translator(tmp_path / "linear")


@pytest.mark.parametrize("read", [
    sing_nb.load, cards.card_of, Translator.load, RidgeFitter.load,
], ids=["load", "card_of", "Translator", "RidgeFitter"])
def test_code_in_what_was_handed_on_is_never_run(attack, tmp_path, read):
    with pytest.raises(SingError):
        read(attack(tmp_path / "handed.safetensors"))


def test_code_in_the_cache_is_never_run(attack, tmp_path):
    assert kept(attack(tmp_path / "kept.safetensors")) is None
    texts = TextFiles(tmp_path / "texts", 4)
    texts.save("a word", torch.tensor([1.0, 0, 0, 0]))
    (file,) = (tmp_path / "texts").iterdir()
    attack(file)
    assert texts.load("a word") is None


def test_code_in_the_results_of_a_study_is_never_run(attack, smoke, tmp_path, monkeypatch):
    # Translators, tables and embeddings of another person's build folder; pictures and features
    # are the session's own, as they take long.
    for part in ("pictures", "features"):
        smoke.features("lite0")
        (tmp_path / "smoke").mkdir(exist_ok=True)
        (tmp_path / "smoke" / part).symlink_to(smoke.folder / part)
    monkeypatch.setenv("SING_BUILD", str(tmp_path))
    other = sing_nb.Study("smoke", progress=False, lambdas=[7.0], models=["lite0"])
    before = other.translators("lite0")[0]
    own = other.stored("own", lambda: smoke.pictures.head(3)[["picture"]])
    for part in ("translators", "tables"):
        for file in (tmp_path / "smoke" / part).iterdir():
            attack(file)
    other = sing_nb.Study("smoke", progress=False, lambdas=[7.0], models=["lite0"])
    try:
        again = other.translators("lite0")[0]
    except SingError:
        pass  # refused is as good as made again
    else:
        assert torch.equal(again.weight, before.weight)
    try:
        table = other.stored("own", lambda: smoke.pictures.head(3)[["picture"]])
    except (SingError, OSError, ValueError):
        pass
    else:
        assert table["picture"].tolist() == own["picture"].tolist()


def test_code_in_a_data_set_is_never_run(attack, tmp_path, monkeypatch):
    found = pytest.importorskip("datasets")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    home, mark = tmp_path / "set", tmp_path / "the code ran"
    attack(home / "train.pkl")
    for name in ("set.py", "__init__.py"):
        (home / name).write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    (home / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: train.pkl\n---\n")
    with pytest.raises(SingError):
        hub_pictures(str(home), progress=False)


def test_code_in_yaml_is_never_run(tmp_path, monkeypatch):
    mark = tmp_path / "the code ran"
    evil = f"a: !!python/object/apply:os.mkdir [{str(mark)!r}]\n"
    assert yaml.load(evil, Loader=yaml.UnsafeLoader) == {"a": None}  # it is an attack
    mark.rmdir()
    (tmp_path / "mapping.yaml").write_text(evil)
    (tmp_path / "metadata.yaml").write_text(evil)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "evil.yaml").write_text(evil)
    monkeypatch.setattr(profile, "data_dir", lambda: tmp_path)
    for read in (
        lambda: labels.read_mapping(tmp_path / "mapping.yaml"), lambda: import_translator(tmp_path),
        lambda: profile.load_profile("evil"),
    ):
        with pytest.raises(SingError):
            read()
    monkeypatch.undo()
    value = f"seed=!!python/object/apply:os.mkdir [{str(mark)!r}]"
    with pytest.raises((SingError, yaml.YAMLError)):
        chapters.resolve("smoke", [f"'{value}'"], [])
    assert not mark.exists()


def test_a_picture_is_given_to_no_other_program(tmp_path, monkeypatch):
    # PostScript is a program, which Pillow would have run by Ghostscript, of any name.
    from PIL import EpsImagePlugin

    (tmp_path / "bin").mkdir()
    mark, gs = tmp_path / "the code ran", tmp_path / "bin" / "gs"
    gs.write_text(f"#!/bin/sh\nmkdir {str(mark)!r}\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(gs.parent) + os.pathsep + os.environ["PATH"])
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(SingError):
        open_picture(path).convert("RGB")
    assert not mark.exists()
    # It is an attack: a program that opens whatever Pillow can read is caught.
    with pytest.raises(subprocess.CalledProcessError), Image.open(path) as picture:
        picture.load()
    assert mark.exists()


def test_names_of_profiles_and_chapters_do_not_leave_their_folder():
    for name in ("../profiles/smoke", "/etc/passwd", "smoke/../smoke", "..", ""):
        with pytest.raises(SingError, match="Unknown profile"):
            profile.load_profile(name)


# --- the audit ----------------------------------------------------------------------------------


def audit_module():
    loader = importlib.machinery.SourceFileLoader("audit", str(ROOT / ".ci" / "audit"))
    spec = importlib.util.spec_from_loader("audit", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_an_audit_without_network_says_so_and_fails_nothing(tmp_path):
    # A proxy at a port where nobody listens: the real pip-audit, and no network on any machine.
    away = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "audit"), str(tmp_path / "new" / "audit.json"), "60"],
        env={**os.environ, **away, "NO_PROXY": "", "no_proxy": ""}, capture_output=True, text=True,
        check=True,
    )
    assert re.fullmatch(
        r"audit: the advisory service cannot be reached \(\w+\); no package was checked\.\n",
        done.stdout)
    assert json.loads((tmp_path / "new" / "audit.json").read_text())["checked"] is False


def test_an_audit_is_a_short_table():
    # In the form that pip-audit 2 writes.
    found = {"checked": True, "fixes": [], "dependencies": [
        {"name": "flask", "version": "0.5", "vulns": [
            {"id": "PYSEC-2019-179", "fix_versions": ["1.0"], "aliases": [], "description": "x"},
            {"id": "PYSEC-2018-66", "fix_versions": [], "aliases": [], "description": "y"}]},
        {"name": "click", "version": "8.1.7", "vulns": []},
        {"name": "own", "skip_reason": "not on the index"}]}
    module = audit_module()
    assert module.lines(found) == [
        "audit: 2 packages were checked, 2 known weaknesses in 1 of them; 1 could not be checked.",
        "package  version  advisory        mended in",
        "flask    0.5      PYSEC-2019-179  1.0",
        "flask    0.5      PYSEC-2018-66   -",
    ]
    assert module.lines({"checked": True, "dependencies": []}) == [
        "audit: 0 packages were checked, 0 known weaknesses in 0 of them."]
    assert module.audit(0.01, [])["why"] == "the advisory service took over 0.01 seconds"
