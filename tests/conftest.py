"""What several test files share: the smoke study, a real classifier, the rendered smoke book."""

from __future__ import annotations

import os
import subprocess
import weakref
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from filelock import FileLock
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parents[1]

# The tests' matrices are small, and threads that wait for a busy processor made one
# eigendecomposition take 9 s instead of 0.3 s.
torch.set_num_threads(1)
try:
    from threadpoolctl import threadpool_limits
except ImportError:  # the tests of the method run where only the core is installed
    pass
else:
    threadpool_limits(1)
# Tokenizers warn about forks when chapters start kernels.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


# Fixtures that a whole book is built for, the longest first.
BOOKS = ("smoke_book", "mini_build")


def environment(**added):
    """This process's environment, without what `make test` hands down to what it starts."""
    ours = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PROFILE", "SET", "NOTEBOOKS",
            "LAB")
    return {key: value for key, value in os.environ.items() if key not in ours} | added


def pytest_itemcollected(item):
    """Deal tests to pytest-xdist's workers by file, and to one worker those that share a book."""
    if item.config.pluginmanager.hasplugin("xdist"):
        item.add_marker(pytest.mark.xdist_group(_book(item) or item.path.stem))


def pytest_collection_modifyitems(items):
    """Begin with the longest, so that workers end together."""
    last = len(BOOKS)
    items.sort(key=lambda item: BOOKS.index(_book(item)) if _book(item)
               else last + (item.path.stem == "test_lab"))


def _book(item):
    if item.path.stem == "test_lab":  # it finds the book built: another worker's work
        return None
    return next((name for name in BOOKS if name in item.fixturenames), None)


def ends(clusters, level=0.95):
    """Quantiles of an expanded percentile interval (Hesterberg 2015) over so many clusters."""
    out = scipy.stats.t.ppf((1 - level) / 2, clusters - 1) * (clusters / (clusters - 1)) ** 0.5
    tail = scipy.stats.norm.cdf(out)
    return [tail, 1 - tail]


class Held(TorchDispatchMode):
    """Inside its block, `most` is the largest number of bytes that new tensors held at once."""

    def __init__(self):
        super().__init__()
        self.most, self._made = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self._made = [ref for ref in self._made if ref() is not None]
        ours = {ref().untyped_storage().data_ptr() for ref in self._made}
        given = {x.untyped_storage().data_ptr() for x in _tensors((args, kwargs))} - ours
        out = func(*args, **(kwargs or {}))
        self._made += [weakref.ref(x) for x in _tensors(out)
                       if x.untyped_storage().data_ptr() not in given]  # a view of the caller's
        storages = [ref().untyped_storage() for ref in self._made]
        self.most = max(self.most, sum({x.data_ptr(): x.nbytes() for x in storages}.values()))
        return out


def _tensors(tree):
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)]


@pytest.fixture
def held():
    """Counts what torch holds: ``with held: ...``, then ``held.most`` bytes."""
    return Held()


@pytest.fixture(scope="session")
def smoke():
    """The study of the smoke profile; its results are kept under _build/smoke."""
    import sing_nb

    return sing_nb.Study("smoke", progress=False)


class Fresh:
    """A study with some attributes replaced, whose own tables are computed and never read."""

    def __init__(self, study, **changed):
        self._study = study
        self.__dict__.update(changed)

    def __getattr__(self, name):
        return getattr(self._study, name)

    def stored(self, name, compute, *models):
        return compute()

    def interval(self, *arguments, **options):
        # With the draws of this config and not of the study behind it.
        from sing_nb.study.study import Study

        return Study.interval(self, *arguments, **options)

    def excess(self, *arguments, **options):
        from sing_nb.study.study import Study

        return Study.excess(self, *arguments, **options)


@pytest.fixture(scope="session")
def fresh(smoke):
    """Makes the smoke study, cut down to Lite0, with other attributes: ``fresh(text=...)``."""
    changed = {"models": ["lite0"], "tower": "lite0", "bootstrap_draws": 20}
    only = smoke.config.model_copy(update=changed)
    return lambda **changed: Fresh(smoke, **{"config": only, **changed})


def degrees(a, b):
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.degrees(np.arccos(cosine.clip(-1, 1)))


def prompt_of(label):
    return f"an image of {'an' if label[0].lower() in 'aeiou' else 'a'} {label}"


def random_part(f, length, seed):
    """A part of f in a random subspace of 280 dimensions, of this length."""
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((1280, 280)))[0]
    part = f @ basis @ basis.T
    return part * length / np.linalg.norm(part)


class Plain:
    """Lite0 and its pictures of the smoke study in plain float64 NumPy."""

    def __init__(self, study):
        self.table, self.translators = study.pictures, study.translators("lite0")
        self.f = study.features("lite0").double().numpy()
        self.weight, self.bias = (part.double().numpy() for part in study.classifier("lite0").head)
        self.left, self.values, self.right = np.linalg.svd(self.weight)
        self.null_basis = self.right[1000:].T

    def null(self, f):
        return f @ self.null_basis @ self.null_basis.T

    def logits(self, f):
        return f @ self.weight.T + self.bias

    def translate(self, f, rows):
        folds = self.table["fold"].to_numpy()[rows]  # -1 is the translator fitted on all
        maps = [self.translators[fold] for fold in folds]
        return np.stack([
            fitted.weight.double().numpy() @ v + fitted.bias.double().numpy()
            for fitted, v in zip(maps, f)])


@pytest.fixture(scope="session")
def plain(smoke):
    """The same pictures and classifier for derivations by hand."""
    return Plain(smoke)


@pytest.fixture(scope="session")
def lite0():
    """EfficientNet-Lite0 with its real weights."""
    import sing_nb

    return sing_nb.load_classifier("lite0")


@pytest.fixture(scope="session")
def mini_paper(tmp_path_factory):
    """Overrides of the profile ``paper`` with small random networks and generated pictures."""
    from miniatures import paper_like

    return paper_like(tmp_path_factory.mktemp("paper-like"))


@pytest.fixture(scope="session")
def mini_build(tmp_path_factory):
    """Build folder of everything that is computed from them."""
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="session")
def mini(mini_paper, mini_build):
    """The study of that miniature: timm, open_clip, an ImageNet folder, Karlo."""
    import sing_nb

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SING_BUILD", str(mini_build))
        return sing_nb.Study("paper", progress=False, **mini_paper)


@pytest.fixture(scope="session")
def smoke_book():
    """Folder of the rendered smoke book, built as a reader would build it."""
    from sing_nb.study.profile import build_dir

    build_dir("smoke").parent.mkdir(parents=True, exist_ok=True)
    with FileLock(build_dir("smoke").parent / "smoke.lock"):  # two workers may ask for it
        done = subprocess.run(
            ["make", "-C", str(ROOT), "book", "PROFILE=smoke"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-40:])
        pytest.fail(f"make book PROFILE=smoke failed (exit {done.returncode}):\n{tail}")
    return build_dir("smoke") / "html"


@pytest.fixture(scope="module")
def chromium():
    """A browser; in CI a missing one is a failure and no reason to skip."""
    from browser import find_chromium, open_browser

    if not find_chromium() and not os.environ.get("CI"):
        pytest.skip("no Chromium: apt-get install chromium, or set SING_CHROMIUM")
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(smoke_book, chromium):
    """The address of the smoke book, and a browser."""
    from browser import serve

    with serve(smoke_book) as address:
        yield address, chromium


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of three classes with four small pictures each."""
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label in ("zebra", "hammer", "lemon"):
        (root / label).mkdir()
        for number in range(4):
            pixels = (255 * rng.random((4, 4, 3))).astype(np.uint8)
            Image.fromarray(pixels).resize((64, 64)).save(root / label / f"{number}.png")
    return root
