from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sing_nb.study.robustness import STATES, group_probabilities


def test_probabilities_are_scikit_learns_on_rows_of_ones_own(smoke, plain):
    # Two groups of the smoke photos are large enough; one of the two folds holds all mammals,
    # and about it nobody can be asked.
    found = group_probabilities(smoke, "lite0")
    assert set(found["group"]) <= {"mammals", "music"}
    table = smoke.pictures[smoke.is_scored]
    group = table["path"].str.extract(".*/stamps/[^/]+/([^/.]+)", expand=False)
    group = group[group.isin(["mammals", "music"])]
    fold = table["fold"][group.index]
    (number,) = [n for n in (0, 1) if group[fold != n].nunique() == 2]
    rows = group.index.to_numpy(copy=True)
    principal = plain.f[rows] - plain.null(plain.f[rows])
    fitted = smoke.translators("lite0")[number]
    assert fitted.card["held_out_fold"] == number
    translated = principal @ fitted.weight.double().numpy().T + fitted.bias.double().numpy()
    test = (fold == number).to_numpy()
    for state, values in zip(STATES, (principal, translated)):
        own = found[found["state"] == state].set_index("row").loc[rows[test]]
        scaler = StandardScaler().fit(values[~test])
        head = LogisticRegression(C=0.01, max_iter=500).fit(
            scaler.transform(values[~test]), group[~test])
        expected = pd.DataFrame(
            head.predict_proba(scaler.transform(values[test])), columns=head.classes_)
        np.testing.assert_allclose(own[expected.columns], expected, atol=1e-3)
        assert own["group"].tolist() == group[test].tolist()
        assert own["subject"].tolist() == table["subject"][rows[test]].tolist()
