"""The card of a study: what its results depend on, against the study itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sing_nb.reports.card import study_card


def test_the_card_of_a_study_says_what_its_results_depend_on(smoke, plain):
    found = study_card(smoke, "lite0")
    json.dumps(found, allow_nan=False)  # a strict reader, such as a browser's
    c, m = plain.weight.shape
    clf = found["classifier"]
    assert (clf["classes"], clf["features"], clf["rank"], clf["null_dim"]) == (c, m, 1000, m - 1000)
    assert clf["class"] == "EfficientNet"
    data, stamps = found["data"], smoke.pictures[smoke.pictures["fold"] >= 0]
    assert (data["pictures"], data["subjects"]) == (len(stamps), stamps["subject"].nunique())
    assert (data["skipped"], data["source"]) == (0, "stamps")
    assert found["lambda"] == plain.translators[-1].card["lambda"]
    assert found["lambdas"] == [one.card["lambda"] for one in plain.translators[:-1]]
    # The held-out error by hand: median angle of translations by the fold that never saw them.
    rows = np.flatnonzero(smoke.is_scored)
    moved, z = plain.translate(plain.f[rows], rows), smoke.embeddings.double().numpy()[rows]
    cosine = (moved * z).sum(1) / np.linalg.norm(moved, axis=1) / np.linalg.norm(z, axis=1)
    error = found["error"]
    assert error["value"] == pytest.approx(np.median(np.degrees(np.arccos(cosine))), rel=1e-5)
    assert error["low"] <= error["value"] <= error["high"]
    assert error["constant_low"] <= error["constant_value"] <= error["constant_high"]
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["settings"]["views"] == smoke.config.views
    again = study_card(smoke, "lite0")
    assert {**again, "date": 0} == {**found, "date": 0}
