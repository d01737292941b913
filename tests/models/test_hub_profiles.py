"""The profile ``paper`` in miniature: the classes that real weights would be loaded into."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from miniatures import small_open_clip, small_timm
from PIL import Image

import sing_nb
from sing_nb.errors import SingError
from sing_nb.models.render import embedding_length
from sing_nb.study import joint_spaces, tables
from sing_nb.study.neighbours import PAINTED, looks, painter


def unit(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def degrees(a, b):
    return np.degrees(np.arccos((unit(a) * unit(b)).sum(-1).clip(-1, 1)))


def changed(mini, **overrides):
    """A study of the same pictures and classifiers with other settings."""
    settings = mini.config.model_dump() | overrides
    other = sing_nb.Study(settings.pop("name"), progress=False, **settings)
    other.folder, other.__dict__["pictures"] = mini.folder, mini.pictures
    other._classifiers, other._features = mini._classifiers, mini._features
    other._spaces, other._keys = mini._spaces, mini._keys
    return other


def test_every_photo_is_a_scored_subject_and_a_fold_has_its_share_of_every_class(mini):
    table = mini.pictures[mini.is_scored]
    assert table["subject"].is_unique
    share = pd.crosstab(table["label"], table["fold"])
    assert share.shape == (6, 4)
    assert (share == 2).all(axis=None)
    assert tables.scored(mini, mini.config.models[0])["picture"].tolist() == list(table["picture"])


def test_scores_are_those_of_plain_numpy(mini):
    model = mini.config.models[1]
    table = tables.images(mini, model).head(5)
    f = mini.features(model)[:5].double().numpy()
    weight = mini.classifier(model).head.weight.double().numpy()
    right = np.linalg.svd(weight, full_matrices=True)[2]
    null = f @ right[1000:].T @ right[1000:]
    text = mini.text(table["label"]).double().numpy()
    for row, fold in enumerate(table["fold"]):
        fitted = mini.translators(model)[fold]
        a, b = fitted.weight.double().numpy(), fitted.bias.double().numpy()
        z, moved = f[row] @ a.T + b, (f[row] - null[row]) @ a.T + b
        assert table["image_score"][row] == pytest.approx(degrees(z, moved), abs=1e-3)
        score = degrees(z, text[row]) - degrees(moved, text[row])
        assert table["attribute_score"][row] == pytest.approx(score, abs=1e-3)


def test_classifiers_are_compared_in_the_profiles_spaces_and_in_none_of_their_own(mini):
    table, pairs = joint_spaces.space_table(mini), joint_spaces.pair_table(mini)
    assert table["joint"].unique().tolist() == mini.config.spaces
    assert not table["circular"].any()
    assert pairs["neutral"].all()
    other = mini.in_space(mini.config.spaces[1])
    assert other.space.name == mini.config.other_spaces[0]
    assert not torch.allclose(other.embeddings, mini.embeddings, atol=0.1)
    with pytest.raises(SingError, match="Unknown joint space of this study"):
        mini.in_space("open_clip/ViT-B-32-quickgelu:openai")


def test_a_head_without_null_space_is_refused_by_name(mini, tmp_path):
    wide = small_timm(tmp_path / "wide", "test_vit")
    with pytest.raises(SingError, match=r"wide has an empty null space: .*rank 64.*near_null"):
        mini.spaces(wide)


def test_pictures_are_painted_beside_the_nearest_photos_and_are_bit_equal(mini):
    z = mini.embeddings[[0, 1]]
    found = looks(mini, z, k=2)
    assert found.groupby("row")["place"].agg(list).tolist() == [[PAINTED, "1", "2"]] * 2
    painted = found.loc[found["place"] == PAINTED, "picture"]
    files = [mini.picture_path(name) for name in painted]
    again = painter(mini)(z[[1]])[0]
    assert Image.open(files[1]).tobytes() == again.tobytes()
    assert Image.open(files[0]).tobytes() != again.tobytes()
    assert painter(mini).norm == embedding_length(mini.space, mini.pictures["path"][:48])


def test_published_translators_take_the_place_of_fitted_ones(mini, tmp_path):
    model, wide = mini.config.models[0], small_open_clip(tmp_path / "wide", dimensions=768)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(768, 1024, generator=generator)
    folder = tmp_path / "published"
    folder.mkdir()
    torch.save({"weight": weight, "bias": torch.ones(768)}, folder / "best.pt")
    (folder / "metadata.yaml").write_text(
        "model_name: tiny\ntranslator_name: linear\narchitecture: linear\n"
        "embedding_backend: kakao_karlo_v1_alpha_image_variations\nin_dim: 1024\nout_dim: 768\n"
        "hidden_dim: 1024\ncheckpoint_file: best.pt\n")
    there = {"published_translators": str(folder), "models": [model]}
    study = changed(mini, joint_space=wide, other_spaces=[], **there)
    table = tables.images(study, model).head(3)
    f = study.features(model)[:3]
    z = (f @ weight.T + 1).double().numpy()
    moved = (study.spaces(model).remove_null(f) @ weight.T + 1).double().numpy()
    assert np.allclose(table["image_score"], degrees(z, moved), atol=1e-2)
    assert np.isnan(study.translator(model).card["held_out_r2"])
    with pytest.raises(SingError, match="is another space, of 32"):
        changed(mini, **there).translator(model)
