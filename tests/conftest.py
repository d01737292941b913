"""What several test files share: the smoke study, a real classifier, the rendered smoke book."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).resolve().parents[1]

# The tests' matrices are small, and threads that wait for a busy processor made one
# eigendecomposition take 9 s instead of 0.3 s.
torch.set_num_threads(1)
threadpool_limits(1)
# Tokenizers warn about forks when chapters start kernels.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def ends(clusters, level=0.95):
    """Quantiles of an expanded percentile interval (Hesterberg 2015) over so many clusters."""
    out = scipy.stats.t.ppf((1 - level) / 2, clusters - 1) * (clusters / (clusters - 1)) ** 0.5
    tail = scipy.stats.norm.cdf(out)
    return [tail, 1 - tail]


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
        from sing_nb.study import Study

        return Study.interval(self, *arguments, **options)

    def excess(self, *arguments, **options):
        from sing_nb.study import Study

        return Study.excess(self, *arguments, **options)


@pytest.fixture(scope="session")
def fresh(smoke):
    """Makes the smoke study, cut down to Lite0, with other attributes: ``fresh(text=...)``."""
    only = dataclasses.replace(smoke.config, models=["lite0"], tower="lite0", bootstrap_draws=20)
    return lambda **changed: Fresh(smoke, **{"config": only, **changed})


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
            for fitted, v in zip(maps, f)
        ])


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
    from sing_nb.profile import build_dir

    # `make test` hands its own flags and variables down; this build must not inherit them.
    handed_down = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PROFILE", "SET")
    env = {key: value for key, value in os.environ.items() if key not in handed_down}
    done = subprocess.run(
        ["make", "-C", str(ROOT), "book", "PROFILE=smoke"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-40:])
        pytest.fail(f"make book PROFILE=smoke failed (exit {done.returncode}):\n{tail}")
    return build_dir("smoke") / "html"
