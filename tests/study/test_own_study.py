"""A study of a reader's own: a folder's pictures, few as they may be, and a given classifier."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from conftest import degrees
from PIL import Image
from sklearn.linear_model import Ridge
from torch import nn

import sing_nb
from sing_nb.errors import SingError
from sing_nb.pictures.features import FeatureSet
from sing_nb.study import tables


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, count in (("zebra", 4), ("teapot", 3)):
        (home / name).mkdir()
        for number in range(count):
            pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / name / f"{number}.png")
    return home


def study(folder, **settings):
    return sing_nb.Study(
        "report", pictures=f"folder:{folder}", progress=False, **{"clipart_files": 5} | settings)


@pytest.mark.parametrize(("also_fit", "drawings"), [("none", 0), ("default", 5), ("auto", 5)])
def test_few_pictures_are_fitted_on_together_with_drawings(folder, also_fit, drawings):
    settings = {"folds": 3} if also_fit == "none" else {}
    found = study(folder, also_fit=also_fit, **settings)
    counts = found.pictures["source"].value_counts()
    assert counts["folder"] == 7
    assert counts.get("clipart", 0) == drawings
    # Drawings are always fitted on and never scored.
    assert (found.pictures.loc[found.pictures["source"] == "clipart", "fold"] == -1).all()
    assert found.config.folds == 3  # of 5: two subjects each
    assert found.pictures["fold"].max() == 2
    assert found.pictures.attrs["skipped"] == []


def test_many_pictures_need_no_drawings(folder, monkeypatch):
    monkeypatch.setattr("sing_nb.study.pictures.FEW", 7)
    assert "clipart" not in set(study(folder).pictures["source"])


def test_folds_are_only_fewer_where_the_profile_lets_them(folder):
    with pytest.raises(SingError, match="7 subjects are too few for 5 folds"):
        _ = study(folder, also_fit="none").pictures


def test_too_few_pictures_are_refused_with_the_number_wanted(folder, tmp_path):
    for name in ("zebra", "teapot"):
        (tmp_path / name).mkdir()
        Image.open(folder / name / "0.png").save(tmp_path / name / "0.png")
    with pytest.raises(SingError, match=r"holds 2 pictures .* Give at least 4"):
        study(tmp_path)


def test_drawings_are_fitted_on_only_where_held_out_pictures_gain(folder):
    """Drawings that follow the pictures' rule help; with another rule they harm and stay out."""
    rng = np.random.default_rng(0)
    rule = rng.standard_normal((12, 8))
    for harm in (False, True):
        mine, clf = study(folder, clipart_files=40), tiny()
        drawn = (mine.pictures["source"] == "clipart").to_numpy()
        f = rng.standard_normal((len(mine.pictures), 12)).astype(np.float32)
        z = f @ rule
        if harm:
            z[drawn] = 20 - 3 * z[drawn]
        mine.add(clf, FeatureSet(torch.tensor(f), clf.logits(torch.tensor(f))))
        mine.__dict__["embeddings"] = torch.tensor(z, dtype=torch.float32)
        mine.__dict__["embedding_key"] = f"{harm}"
        assert mine.drawings("tiny").tolist() == (drawn & (not harm)).tolist()
        fitted = (mine.pictures["source"] == "folder").to_numpy() | (drawn & (not harm))
        last = mine.translator("tiny")
        assert last.card["pictures"] == fitted.sum()
        alone = Ridge(alpha=last.card["lambda"], solver="svd").fit(f[fitted], z[fitted])
        np.testing.assert_allclose(last.weight, alone.coef_, atol=1e-4)


class Tiny(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(2), nn.Linear(12, classes)

    def forward(self, x):
        return self.fc(self.pool(x).flatten(1))


def tiny(name="tiny"):
    torch.manual_seed(0)
    return sing_nb.wrap_classifier(
        Tiny(), transform=lambda picture: torch.full((3, 8, 8), 0.5), name=name)


def test_a_classifier_with_given_features_is_scored_by_them(smoke):
    mine = sing_nb.Study("smoke", progress=False)
    clf = tiny("given")
    f = torch.randn(len(mine.pictures), 12, generator=torch.Generator().manual_seed(1))
    given = FeatureSet(f, clf.logits(f))
    assert mine.add(clf, given) == "given"
    assert torch.equal(mine.features("given"), f)
    assert torch.equal(mine.logits("given"), given.logits)
    part = mine.feature_part("given", (0, 1)).features
    assert torch.equal(part, f)
    # 12 features, 3 classes: SciPy's null space of the same weights.
    basis = scipy.linalg.null_space(clf.head.weight.double().numpy())
    table = tables.images(mine, "given").set_index("picture")
    rows = mine.rows(table.index)
    x = f[rows].double().numpy()
    share = ((x @ basis) ** 2).sum(1) / (x**2).sum(1)
    assert np.allclose(table["null_share"], share, atol=1e-6)


def test_ridge_candidates_follow_the_size_of_the_features(folder):
    parts = []
    for scale in (1.0, 1e-6):
        mine, clf = study(folder), tiny()
        f = torch.randn(len(mine.pictures), 12, generator=torch.Generator().manual_seed(1)) * scale
        mine.add(clf, FeatureSet(f, clf.logits(f)))
        fitted = (mine.pictures["source"] != "photo").to_numpy()
        unit = np.var(f.double().numpy()[fitted], axis=0, ddof=1).mean()
        assert mine.lambdas("tiny") == pytest.approx([lam * unit for lam in mine.config.lambdas])
        parts.append(tables.images(mine, "tiny"))
    # The constant guess is the mean of the folder's own other folds.
    z, fold = mine.embeddings.double().numpy(), mine.pictures["fold"].to_numpy()
    own = [degrees(z[mine.is_scored & (fold != fold[row])].mean(0), z[row])
           for row in np.flatnonzero(mine.is_scored)]
    constant = tables.model(mine, "tiny").query("kind == 'constant'")["value"].item()
    assert constant == pytest.approx(np.median(own))
    all_fitted = [degrees(z[fitted & (fold != fold[row])].mean(0), z[row])
                  for row in np.flatnonzero(mine.is_scored)]
    assert constant < np.median(all_fitted) - 1
    for score in ("image_score", "attribute_score", "image_score_control", "translator_error"):
        assert np.allclose(parts[0][score], parts[1][score], atol=1e-3), score
    assert parts[0]["image_score"].max() > 1e-3  # degrees: something moves at all
