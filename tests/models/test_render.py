"""unCLIP on a miniature Karlo, through diffusers' own classes."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
import torch
from miniatures import WIDTH, small_karlo
from PIL import Image

from sing_nb.errors import SingError
from sing_nb.models.render import KARLO, UnClip, load_renderer

STEPS = {"decoder_steps": 3, "super_res_steps": 2}


@pytest.fixture(scope="module")
def karlo(tmp_path_factory):
    folder = small_karlo(tmp_path_factory.mktemp("karlo"))
    # As the published index has it: a place that the pipeline's own loader refuses.
    index = json.loads((folder / "model_index.json").read_text())
    index["text_proj"] = ["unclip", "UnCLIPTextProjModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def pipeline(karlo):
    return load_renderer(f"unclip/{karlo}", device="cpu").pipeline


@pytest.fixture
def unclip(pipeline):
    return UnClip(pipeline, norm=5.0, **STEPS)


@pytest.fixture
def z():
    raw = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(7))
    return raw / raw.norm(dim=1, keepdim=True)


def same(one, other):
    return np.array_equal(np.asarray(one), np.asarray(other))


def test_a_fixed_embedding_gives_the_picture_that_the_pipeline_draws(unclip, pipeline, karlo, z):
    together = unclip(3 * z)
    for row, picture in zip(z, together):
        alone = pipeline(
            image_embeddings=5 * row[None], generator=torch.Generator().manual_seed(0),
            decoder_num_inference_steps=3, super_res_num_inference_steps=2,
        ).images[0]
        assert same(picture, alone)
    again = load_renderer(f"unclip/{karlo}", norm=5.0, device="cpu", **STEPS)
    assert same(again(z[:1])[0], together[0])
    assert again.key == unclip.key
    assert not same(together[0], together[1])


def test_pictures_are_kept_by_what_they_depend_on(unclip, pipeline, z, tmp_path):
    paths = unclip.render_to(tmp_path, z[[0, 1, 0]], progress=False)
    assert paths[0] == paths[2] != paths[1]
    assert all(map(same, map(Image.open, paths), unclip(z[[0, 1, 0]])))
    content, before = paths[1].read_bytes(), paths[0].stat().st_mtime_ns
    paths[1].write_bytes(content[:60])
    assert unclip.render_to(tmp_path, z[:2], progress=False) == paths[:2]
    assert paths[1].read_bytes() == content
    assert paths[0].stat().st_mtime_ns == before
    other = UnClip(pipeline, norm=5.0, seed=1, **STEPS).render_to(tmp_path, z[:1], progress=False)
    assert other[0] not in paths


@pytest.mark.parametrize(
    "bad", [torch.ones(2, 24), torch.zeros(1, WIDTH), torch.full((1, WIDTH), torch.nan)])
def test_what_cannot_be_drawn_is_refused(unclip, pipeline, bad):
    with pytest.raises(SingError, match=r"\(n, 32\), finite and not zero"):
        unclip(bad)
    with pytest.raises(SingError, match="norm must be above 0"):
        UnClip(pipeline, norm=0.0)


def test_a_diffusers_without_the_pipeline_is_told(monkeypatch, tmp_path):
    import diffusers

    without = types.ModuleType("diffusers")
    without.__version__, without.utils = "9.9", diffusers.utils
    monkeypatch.setitem(sys.modules, "diffusers", without)
    with pytest.raises(SingError, match="install a version that still has it"):
        load_renderer(f"unclip/{tmp_path}", device="cpu")


def test_weights_that_cannot_be_had_are_told_in_one_message(monkeypatch, tmp_path, caplog):
    from huggingface_hub import constants

    for place in ("sing_nb.models.hub.hub_reachable", "sing_nb.models.render.hub_reachable"):
        monkeypatch.setattr(place, lambda url=None: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SingError, match=r"karlo-v1-alpha.* could not be had.*renderer: nearest"):
        load_renderer(f"unclip/{KARLO}", device="cpu")
    assert not caplog.records
