from __future__ import annotations

import numpy as np
import pandas as pd
from PIL import Image

from sing_nb import figures
from sing_nb.neighbours import PAINTED, neighbours, painter, shared

STATES = ["translated", "null part removed", "random part removed"]


def with_painted(near):
    """As where there is a decoder: one painted picture below the photo, for every state."""
    own = near[near["place"] == "photo"]
    painted = own.assign(picture="renderings/any.png", place=PAINTED, label="", angle=np.nan)
    ranked = near[near["place"] != "photo"]
    return pd.concat([own, painted, ranked], ignore_index=True)


def test_shared_neighbours_are_counted_by_subject_and_by_nothing_painted(smoke):
    pictures = smoke.examples(smoke.labels[:4])
    near = neighbours(smoke, "lite0", pictures, STATES, k=3)
    found = shared(smoke, with_painted(near), "translated")
    subject = dict(zip(smoke.pictures["picture"], smoke.pictures["subject"]))
    assert found.index.tolist() == sorted(smoke.names(pictures))
    assert (found["translated"] == 3).all()
    for name in found.index:
        kept = {
            state: {subject[picture] for picture in near.loc[
                (near["name"] == name) & (near["state"] == state) & (near["place"] != "photo"),
                "picture"]}
            for state in STATES
        }
        for state in STATES:
            assert found.loc[name, state] == len(kept["translated"] & kept[state])


def test_photos_of_one_label_are_neighbours_of_their_own(smoke):
    rows = smoke.pictures.drop_duplicates("subject").head(4)["picture"].tolist()
    near = pd.DataFrame([
        {"name": "it", "state": state, "place": str(rank), "picture": picture, "label": "same"}
        for state, pictures in (("a", rows[:2]), ("b", rows[1:3]), ("c", rows[2:]))
        for rank, picture in enumerate(pictures, start=1)
    ])
    assert shared(smoke, near, "a").loc["it"].to_dict() == {"a": 2, "b": 1, "c": 0}


def test_what_is_painted_stands_between_the_photo_and_the_ranks(smoke):
    near = neighbours(smoke, "lite0", smoke.examples(smoke.labels[:1]), STATES, k=2)
    table = with_painted(near).assign(image="data:")
    grid = figures.photo_neighbours(table).to_dict()["layer"][0]["encoding"]
    assert grid["y"]["scale"]["domain"] == ["photo", PAINTED, "1", "2"]
    rows = figures.translator_photos(table).to_dict()["layer"][0]["encoding"]
    assert rows["x"]["scale"]["domain"] == [PAINTED, "1", "2"]
    assert rows["y"]["scale"]["domain"] == ["the photo", *STATES]
    plain = figures.translator_photos(near.assign(image="data:")).to_dict()["layer"][0]["encoding"]
    assert plain["x"]["scale"]["domain"] == ["1", "2"]


def test_offline_an_embedding_is_drawn_by_its_nearest_photo(smoke):
    photos = smoke.pictures[smoke.pictures["source"] != "clipart"]
    row = photos.index[-1]
    (drawn,) = painter(smoke)(smoke.embeddings[[row]])
    own = Image.open(smoke.picture_path(photos["picture"].iloc[-1])).convert("RGB")
    own.thumbnail((256, 256), Image.Resampling.LANCZOS)
    assert drawn.tobytes() == own.tobytes()
