from __future__ import annotations

import logging
import sys
import types
from contextlib import contextmanager

import numpy as np
import pytest
import safetensors.torch
import torch
from miniatures import WIDTH, small_karlo, small_open_clip
from PIL import Image

from sing_nb.errors import SingError
from sing_nb.models.joint import load_joint_space
from sing_nb.models.render import KARLO, NearestPhotos, UnClip, embedding_length, load_renderer

STEPS = {"decoder_steps": 3, "super_res_steps": 2}


@pytest.fixture(scope="module")
def karlo(tmp_path_factory):
    return small_karlo(tmp_path_factory.mktemp("karlo"))


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


@contextmanager
def entering(module):
    """What a module of the pipeline is called with."""
    seen = []
    hook = module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    try:
        yield seen
    finally:
        hook.remove()


# --- unCLIP -------------------------------------------------------------------------------------


def test_the_saved_weights_are_loaded(karlo, pipeline):
    for part in ("decoder", "text_proj", "super_res_last"):
        (file,) = (karlo / part).glob("*.safetensors")
        saved, loaded = safetensors.torch.load_file(file), getattr(pipeline, part).state_dict()
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(saved[name], loaded[name]) for name in saved)


def test_a_fixed_embedding_gives_a_fixed_picture(unclip, karlo, z):
    together = unclip(z)
    assert {picture.size for picture in together} == {(32, 32)}
    assert all(map(same, together, unclip(z)))
    # Alone, in other company, at another place, and by a pipeline loaded anew.
    assert all(same(unclip(z[[at]])[0], together[at]) for at in range(4))
    assert all(map(same, unclip(z[[3, 1]]), [together[3], together[1]]))
    again = load_renderer(f"unclip/{karlo}", norm=5.0, device="cpu", **STEPS)
    assert same(again(z[:1])[0], together[0])
    assert again.key == unclip.key
    assert not same(together[0], together[1])


def test_the_picture_is_what_the_pipeline_draws_from_one_stream_of_noise(unclip, pipeline, z):
    stream = torch.Generator().manual_seed(0)
    small = torch.randn(1, 3, 16, 16, generator=stream)
    large = torch.randn(1, 3, 32, 32, generator=stream)
    expected = pipeline(
        image_embeddings=5 * z[:1], decoder_latents=small, super_res_latents=large,
        generator=stream, decoder_num_inference_steps=3, super_res_num_inference_steps=2,
    ).images[0]
    assert same(unclip(z[:1])[0], expected)


def test_another_seed_or_length_or_guidance_gives_another_picture(unclip, pipeline, z):
    first = unclip(z[:1])[0]
    for change in ({"seed": 1}, {"norm": 9.0}, {"guidance": 2.0}, {"decoder_steps": 4}):
        other = UnClip(pipeline, **{"norm": 5.0, **STEPS, **change})
        assert not same(other(z[:1])[0], first)
        assert other.key != unclip.key


def test_the_noise_is_shared_by_a_whole_batch(pipeline, z):
    batched = UnClip(pipeline, norm=5.0, batch=4, **STEPS)
    with entering(pipeline.decoder) as small, entering(pipeline.super_res_first) as large:
        batched(z)
        pictures = batched(z[[0, 1, 0, 2]])
    assert same(pictures[0], pictures[2])
    expected = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    first = small[0]["sample"]  # without guidance, then with it
    torch.testing.assert_close(first, expected.expand(8, -1, -1, -1), rtol=0, atol=0)
    assert all(torch.equal(row, large[0]["sample"][0, :3]) for row in large[0]["sample"][:, :3])


def test_embeddings_reach_the_decoder_at_the_norm_asked_for(unclip, pipeline, z):
    with entering(pipeline.text_proj) as seen:
        unclip(3 * z[:2])
        UnClip(pipeline, norm=None, **STEPS)(3 * z[:2])
    reached = [call["image_embeddings"] for call in seen]
    np.testing.assert_allclose(torch.cat(reached[:2]), 5 * z[:2], rtol=1e-6)
    np.testing.assert_allclose(torch.cat(reached[2:]), 3 * z[:2], rtol=1e-6)


def test_embeddings_and_noise_are_cast_to_the_pipelines_precision(karlo, z):
    half = load_renderer(f"unclip/{karlo}", norm=5.0, device="cpu", **STEPS)
    for part in ("text_encoder", "image_encoder", "text_proj", "decoder"):
        getattr(half.pipeline, part).half()
    # The decoder runs through; enlarging in half precision is what only GPUs can.
    with (
        entering(half.pipeline.text_proj) as projected, entering(half.pipeline.decoder) as small,
        pytest.raises(NotImplementedError, match="Half"),
    ):
        half(z[:1].double())
    assert projected[0]["image_embeddings"].dtype == torch.float16
    assert len(small) == 3
    assert small[-1]["sample"].dtype == torch.float16


def test_embeddings_of_another_space_are_refused(unclip):
    message = r"draws embeddings of 32 dimensions, \(n, 32\); got \(2, 24\).* CLIP ViT-L/14"
    with pytest.raises(SingError, match=message):
        unclip(torch.ones(2, 24))


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_an_embedding_without_a_direction_is_refused(unclip, z, bad):
    z[2] = bad
    with pytest.raises(SingError, match="Row 2 of the embeddings is zero, NaN or infinite"):
        unclip(z)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": 0.0}, "norm must be above 0"),
        ({"norm": float("inf")}, "norm must be above 0"),
        ({"norm": 1.0, "decoder_steps": 1}, "at least 2 steps"),
        ({"norm": 1.0, "batch": 0}, "1 picture a batch"),
    ],
)
def test_impossible_settings_are_refused(pipeline, settings, message):
    with pytest.raises(SingError, match=message):
        UnClip(pipeline, **settings)


def test_only_the_known_notice_is_kept_from_the_log(karlo, caplog):
    # diffusers' loggers may hand their records on or not.
    logger = logging.getLogger("diffusers.pipelines.pipeline_utils")
    logger.addHandler(caplog.handler)
    try:
        load_renderer(f"unclip/{karlo}", device="cpu")
        assert not caplog.records
        logger.warning("The UnCLIPImageVariationPipeline has been deprecated")
        assert caplog.records
    finally:
        logger.removeHandler(caplog.handler)


def test_a_diffusers_without_the_pipeline_is_told(monkeypatch):
    for name in ("diffusers", "diffusers.pipelines.deprecated"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["diffusers"].__version__ = "9.9"
    message = r"diffusers 9.9 has no UnCLIPImage.* install .*diffusers>=0.*KandinskyV22Pipeline"
    with pytest.raises(SingError, match=message):
        load_renderer(f"unclip/{KARLO}")


def test_weights_that_cannot_be_had_are_told_in_one_message(monkeypatch, tmp_path, caplog):
    from huggingface_hub import constants

    for place in ("sing_nb.models.hub.hub_reachable", "sing_nb.models.render.hub_reachable"):
        monkeypatch.setattr(place, lambda url=None: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SingError, match=r"nobody/no-karlo .*'nearest' needs none"):
        load_renderer("unclip/nobody/no-karlo", device="cpu")
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dalle", "Unknown rendering 'dalle'; expected 'nearest' or 'unclip/"),
        ("unclip/", "Unknown rendering"),
        ("nearest", "needs the embeddings and paths"),
        ("unclip/{tmp}/missing", "There is no folder"),
        ("unclip/{tmp}", "could not be read as a saved UnCLIPImageVariationPipeline"),
    ],
)
def test_wrong_names_and_folders_are_refused(name, message, tmp_path):
    with pytest.raises(SingError, match=message):
        load_renderer(name.format(tmp=tmp_path), device="cpu")


def test_pictures_are_kept_by_what_they_depend_on(unclip, pipeline, z, tmp_path):
    rows = z[[0, 1, 0]]
    paths = unclip.render_to(tmp_path, rows, progress=False)
    assert paths[0] == paths[2] != paths[1]
    assert all(map(same, map(Image.open, paths), unclip(rows)))
    # What an interrupted run lacks is drawn, and what is damaged; the rest is left alone.
    kept, cut = paths[0], paths[1]
    before = kept.stat().st_mtime_ns
    content = cut.read_bytes()
    cut.write_bytes(content[:60])
    with entering(pipeline.text_proj) as seen:
        more = unclip.render_to(tmp_path, z[:3], progress=False)
    assert len(seen) == 2
    assert more[:2] == paths[:2]
    assert kept.stat().st_mtime_ns == before
    assert cut.read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in more}
    other = UnClip(pipeline, norm=5.0, seed=1, **STEPS).render_to(tmp_path, z[:1], progress=False)
    assert other[0] not in more
    # unCLIP has no photos to leave out.
    assert unclip.render_to(tmp_path, z[:1], exclude=[[1]], progress=False) == paths[:1]


# --- nearest photos -----------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path):
    """Six photos of one colour each, the first much larger than it is shown."""
    paths = []
    for number in range(6):
        size = (600, 300) if number == 0 else (20, 10)
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", size, (40 * number, 0, 0)).save(paths[-1])
    embeddings = torch.randn(6, 8, generator=torch.Generator().manual_seed(5))
    return embeddings, paths


def test_the_photo_at_the_smallest_angle_is_shown(album):
    embeddings, paths = album
    asked = torch.randn(9, 8, generator=torch.Generator().manual_seed(6))
    a, b = asked.numpy(), embeddings.numpy()
    cosine = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    renderer = load_renderer("nearest", embeddings=embeddings, paths=paths)
    expected = cosine.argmax(1)
    np.testing.assert_array_equal(renderer.nearest(asked), expected)
    pictures = renderer(asked)
    assert [picture.getpixel((0, 0))[0] // 40 for picture in pictures] == expected.tolist()
    assert renderer(embeddings[:1])[0].size == (256, 128)
    # Without the nearest one, the second nearest.
    second = np.argsort(-cosine, axis=1)[:, 1]
    left_out = [[index] for index in expected]
    np.testing.assert_array_equal(renderer.nearest(asked, exclude=left_out), second)
    assert same(renderer(asked[:1], exclude=left_out[:1])[0], renderer(b_row(album, second[0]))[0])


def b_row(album, index):
    return album[0][[index]]


def test_photos_are_kept_apart_by_what_was_left_out(album, tmp_path):
    embeddings, paths = album
    renderer = NearestPhotos(embeddings, paths)
    asked = embeddings[[1, 1]]
    found = renderer.render_to(tmp_path / "out", asked, exclude=[[], [1]], progress=False)
    assert [Image.open(path).getpixel((0, 0))[0] == 40 for path in found] == [True, False]
    Image.new("RGB", (20, 10), (9, 9, 9)).save(paths[1])
    again = NearestPhotos(embeddings, paths).render_to(tmp_path / "out", asked, progress=False)
    assert Image.open(again[0]).getpixel((0, 0)) == (9, 9, 9)


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        ([[0, 1, 2, 3, 4, 5]], "All photos are left out"),
        ([[6]], "exclude names photo 6; there are 6"),
        ([[1], [2]], "one list of photos an embedding; got 2 for 1"),
    ],
)
def test_impossible_choices_are_refused(album, exclude, message):
    with pytest.raises(SingError, match=message):
        NearestPhotos(*album)(torch.ones(1, 8), exclude=exclude)


def test_photos_and_embeddings_must_match(album):
    with pytest.raises(SingError, match=r"one embedding a photo, \(N, d\); got \(6, 8\) for 5"):
        NearestPhotos(album[0], album[1][:5])
    with pytest.raises(SingError, match=r"draws embeddings of 8 dimensions.* one joint space"):
        NearestPhotos(*album)(torch.ones(1, 9))


def test_the_length_is_the_median_of_the_spaces_own(album, tmp_path):
    space = load_joint_space(small_open_clip(tmp_path / "clip"))
    paths = album[1]
    lengths = []
    for path in paths:
        pixels = space.transform(Image.open(path).convert("RGB"))[None]
        lengths.append(float(space.module.encode_image(pixels).norm()))
    assert embedding_length(space, paths) == pytest.approx(sorted(lengths)[2], rel=1e-5)
    assert embedding_length(space, paths, limit=2) == pytest.approx(
        min(lengths[0], lengths[3]), rel=1e-5
    )
    with pytest.raises(SingError, match="at least one picture"):
        embedding_length(space, [])
