"""A small head on groups of subjects, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import sing_nb
from sing_nb.pictures.features import FeatureSet
from sing_nb.reports.finetune import coarse_groups, fit_head, grouped_classifier


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SING_BUILD", str(tmp_path_factory.mktemp("build")))
        yield


@pytest.fixture
def many(build):
    """A hundred and twenty stamp subjects, of which nothing is drawn."""
    return sing_nb.Study("smoke", stamp_subjects=120, progress=False)


def with_features(study, features):
    """The study with a classifier whose features are given."""
    torch.manual_seed(0)
    clf = sing_nb.wrap_classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(features.shape[1], 5)), name="given")
    study.add(clf, features=FeatureSet(features, clf.logits(features)))
    return clf


def test_groups_are_folders_with_enough_subjects_or_what_is_left_of_the_folder_above(many):
    table, found = many.pictures, coarse_groups(many)
    own = table[table["source"] == "stamp"]
    parts = own["path"].str.rsplit("/stamps/", n=1).str[1].str.split("/")
    fine, whole = parts.str[1].str.removesuffix(".png"), parts.str[0]
    count = own["subject"].groupby(fine).nunique()
    wanted = np.where(fine.map(count) >= 8, fine, whole)
    sizes = own["subject"].groupby(wanted).nunique()
    wanted = np.where(sizes.loc[wanted] >= 8, wanted, "")
    assert (found[own.index] == wanted).all()
    assert (found.drop(own.index) == "").all()
    assert len(set(wanted) - {""}) > 2


def test_the_head_is_that_of_scikit_learn_on_standardised_features(many):
    rng, groups = np.random.default_rng(0), coarse_groups(many)
    names = sorted(set(groups) - {""})
    means = dict(zip(names, rng.normal(0, 2, (len(names), 12))))
    x = np.stack([means.get(name, np.zeros(12)) for name in groups])
    x = (x + rng.normal(size=x.shape)) * rng.uniform(0.1, 10, 12) + rng.normal(0, 5, 12)
    with_features(many, torch.tensor(x, dtype=torch.float32))
    weight, bias, class_names, accuracy = fit_head(many, "given")
    rows = (groups != "").to_numpy()
    own = torch.tensor(x, dtype=torch.float32)[torch.tensor(rows)].double().numpy()
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=accuracy["strength"], max_iter=2000))
    model.fit(own, groups[rows])
    assert class_names == list(model.classes_)
    logits = own @ weight.T + bias
    sure = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(
        sure / sure.sum(1, keepdims=True), model.predict_proba(own), atol=1e-4)
    assert accuracy["value"] > 0.8
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert accuracy["chance"] == groups[rows].value_counts(normalize=True).max()
    # The logits of a softmax are the same with a number added to all: one direction is null.
    assert sing_nb.HeadSpaces.from_weight(torch.tensor(weight)).rank == len(names) - 1


def test_a_small_head_leaves_most_directions_unread():
    smoke = sing_nb.Study("smoke", progress=False)
    clf = grouped_classifier(smoke, "lite0")
    assert clf.class_names == ["mammals", "music"]
    assert smoke.spaces(clf.name).null_dim == 1279  # two classes differ in one direction
    f = smoke.features("lite0")
    assert torch.equal(smoke.features(clf.name), f)
    other = sing_nb.Study("smoke", progress=False)
    again = grouped_classifier(other, "lite0")  # read, not fitted
    assert torch.equal(again.head.weight, clf.head.weight)
    assert again.accuracy == clf.accuracy
