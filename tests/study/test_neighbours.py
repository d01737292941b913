from __future__ import annotations

import pandas as pd

from sing_nb.study.neighbours import around


def test_neighbours_are_other_subjects_each_once_beside_the_photo_itself(smoke):
    pictures = smoke.examples(smoke.labels[:2])
    states = {"own": smoke.embeddings[smoke.rows(pictures)]}
    found = around(smoke, pictures, states, k=3)
    subject = smoke.pictures.set_index("picture")["subject"]
    for picture, name in zip(pictures, smoke.names(pictures)):
        own = found[found["name"] == name]
        assert own["place"].tolist() == ["photo", "1", "2", "3"]
        assert own["picture"].iloc[0] == picture
        assert own["picture"].map(subject).is_unique
        assert pd.isna(own["angle"].iloc[0])
        assert own["angle"].iloc[1:].is_monotonic_increasing
