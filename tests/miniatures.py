"""Miniatures of hub models: the libraries' own classes with small random weights, saved by the
libraries' own means, so that tests load them by the path that real weights take."""

from __future__ import annotations

import colorsys
import importlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

WIDTH = 32  # dimensions that the two miniatures share, as CLIP ViT-L/14 and Karlo share 768
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def clip_config(dimensions: int = WIDTH) -> dict:
    """Architecture of a small CLIP, as open_clip writes it down."""
    return {
        "embed_dim": dimensions,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 32, "patch_size": 8, "width": 64, "head_width": 16, "layers": 2},
        "text_cfg": {
            "context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}}


def small_open_clip(folder: Path, *, dimensions: int = WIDTH, seed: int = 0) -> str:
    """Save a small random CLIP in open_clip's own layout; its name for ``load_joint_space``."""
    import open_clip

    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    config = clip_config(dimensions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config)
        with torch.no_grad():
            # At its initial scale a random tower sends all pictures, and all texts, to one place.
            model.token_embedding.weight.mul_(25)
            model.visual.conv1.weight.mul_(4)
            model.visual.class_embedding.mul_(0.1)
    preprocess = {
        "mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}), encoding="utf-8")
    weights = {name: part.contiguous() for name, part in model.state_dict().items()}
    safetensors.torch.save_file(weights, folder / "open_clip_model.safetensors")
    return f"open_clip/local-dir:{folder}"


def small_karlo(folder: Path, *, dimensions: int = WIDTH, seed: int = 0) -> Path:
    """Save a miniature Karlo, with the pipeline's own classes; its folder."""
    import diffusers
    import transformers as tf
    from diffusers import UnCLIPImageVariationPipeline, UnCLIPScheduler

    # The projection is not exported, and the folder of the pipeline has moved once.
    home = UnCLIPImageVariationPipeline.__module__.rpartition(".")[0]
    projection = importlib.import_module(f"{home}.text_proj").UnCLIPTextProjModel
    folder = Path(folder).resolve()
    clip = {
        "hidden_size": dimensions, "projection_dim": dimensions, "intermediate_size": 37,
        "num_attention_heads": 4, "num_hidden_layers": 1}
    resnet_down, resnet_up = "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"
    unet = {"layers_per_block": 1, "block_out_channels": (32, 64)}
    enlarge = {
        **unet, "sample_size": 32, "in_channels": 6, "out_channels": 3,
        "down_block_types": (resnet_down, resnet_down),
        "up_block_types": (resnet_up, resnet_up)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = UnCLIPImageVariationPipeline(
            tokenizer=_tokenizer(folder / "vocabulary"),
            text_encoder=tf.CLIPTextModelWithProjection(tf.CLIPTextConfig(
                **clip, vocab_size=1000, bos_token_id=0, eos_token_id=1, pad_token_id=1)),
            image_encoder=tf.CLIPVisionModelWithProjection(
                tf.CLIPVisionConfig(**clip, image_size=32, patch_size=8)),
            feature_extractor=tf.CLIPImageProcessor(crop_size=32, size=32),
            text_proj=projection(
                clip_embeddings_dim=dimensions, time_embed_dim=128, cross_attention_dim=24),
            decoder=diffusers.UNet2DConditionModel(
                **unet, sample_size=16, in_channels=3, out_channels=6,
                down_block_types=(resnet_down, "SimpleCrossAttnDownBlock2D"),
                mid_block_type="UNetMidBlock2DSimpleCrossAttn",
                up_block_types=("SimpleCrossAttnUpBlock2D", resnet_up),
                cross_attention_dim=24, attention_head_dim=4,
                resnet_time_scale_shift="scale_shift", class_embed_type="identity"),
            super_res_first=diffusers.UNet2DModel(**enlarge),
            super_res_last=diffusers.UNet2DModel(**enlarge),
            decoder_scheduler=UnCLIPScheduler(variance_type="learned_range"),
            super_res_scheduler=UnCLIPScheduler(variance_type="fixed_small_log"))
    pipeline.save_pretrained(folder)
    return folder


def _tokenizer(folder: Path):
    """CLIP's tokenizer with single letters for words: the pipeline only asks for the empty one."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters)]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "model_max_length": 77, "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
        "tokenizer_class": "CLIPTokenizer"}))
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def small_timm(folder: Path, architecture: str, *, seed: int = 0, **options: object) -> str:
    """Save a small random timm model in timm's own layout; its name for ``load_classifier``."""
    import timm
    from timm.models import save_for_hf

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(architecture, pretrained=False, **options)
    save_for_hf(model, str(folder), safe_serialization=True)
    return f"timm/local-dir:{Path(folder).resolve()}"


def paper_like(folder: Path) -> dict[str, object]:
    """Overrides that turn the profile ``paper`` into a miniature of itself.

    A ResNet and a ViT with heads as wide as the paper's, two joint spaces and a Karlo, all small
    and random, and an ImageNet folder of generated pictures: the same classes, the same path.
    """
    folder = Path(folder).resolve()
    resnet = small_timm(
        folder / "small-resnet", "resnet50", layers=(1, 1, 1, 1), channels=(16, 32, 64, 288))
    vit = small_timm(folder / "small-vit", "vit_large_patch16_224", depth=1, img_size=64)
    wnids = ("n02391049", "n02437312", "n04285008", "n01910747", "n02056570", "n03345487")
    imagenet_folder(folder / "imagenet", classes=wnids, per_class=10)
    return {
        "models": [vit, resnet], "sweep_model": resnet,
        "joint_space": small_open_clip(folder / "small-clip"),
        "other_spaces": [small_open_clip(folder / "other-clip", seed=1)],
        "pictures": f"imagenet:{folder / 'imagenet'}", "total_pictures": 48,
        "renderer": f"unclip/{small_karlo(folder / 'small-karlo')}",
        "expected": {},
        "precision": "float32", "workers": 0, "batch": 16, "folds": 4, "control_draws": 2,
        "bootstrap_draws": 50, "lambdas": [1.0, 10.0, 100.0],
        "sweep_architectures": ["ridge", "linear", "mlp3"], "sweep_losses": ["mse", "cosine"],
        "sweep_folds": 1, "sweep_hidden": 16, "sweep_epochs": 2}


def class_picture(which: int, number: int, size: tuple[int, int], seed: int = 0) -> Image.Image:
    """A picture of an invented class: its hue, its stripes and its disc are the class's own."""
    rng = np.random.default_rng([seed, which, number])
    width, height = size
    y, x = np.mgrid[0:height, 0:width] / max(size)
    ground, disc = (
        255 * np.array(colorsys.hls_to_rgb((0.618 * which + turn) % 1, light, 0.8))
        for turn, light in ((rng.normal(0, 0.02), 0.55), (0.4, 0.3)))
    turn, waves = 0.9 * which + rng.normal(0, 0.1), 3 + which % 4
    stripes = np.sin(2 * np.pi * waves * (x * np.cos(turn) + y * np.sin(turn)) + rng.uniform(0, 6))
    pixels = ground * (0.8 + 0.2 * stripes[..., None]) + rng.normal(0, 10, (height, width, 3))
    middle = rng.uniform(0.35, 0.65, 2) * (width, height) / max(size)
    inside = np.hypot(x - middle[0], y - middle[1]) < rng.uniform(0.12, 0.2)
    pixels[inside] = disc + rng.normal(0, 10, (inside.sum(), 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def imagenet_folder(
    root: str | Path, classes: Sequence[str | int] = (0, 217, 482, 491, 497, 566),
    per_class: int = 6, *, splits: Sequence[str] = ("train", "val"), side: int = 96, seed: int = 0,
) -> Path:
    """Write a folder laid out as ImageNet-1k, ``<split>/<wnid>/*.JPEG``, drawn from a seed.

    Classes are ImageNet-1k indices or synsets; by default six that Imagenette has as well. Pictures
    come in three sizes, the longer side at most `side`. In each split the first picture is grey,
    the second a PNG and the third CMYK, though all are named .JPEG: ImageNet has such files.
    """
    from timm.data import ImageNetInfo

    wnids = ImageNetInfo("imagenet-1k").label_names()
    sizes = [(side, side * 3 // 4), (side * 2 // 3, side * 2 // 3), (side * 3 // 4, side)]
    for half, split in enumerate(splits):
        for place, known in enumerate(classes):
            index = known if isinstance(known, int) else wnids.index(known)
            folder = Path(root) / split / wnids[index]
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(per_class):
                count = place * per_class + number
                name = f"{wnids[index]}_{number}"
                if split == "val":
                    name = f"ILSVRC2012_val_{count:08d}"
                picture = class_picture(index, 1000 * half + number, sizes[number % 3], seed)
                picture = picture.convert({0: "L", 2: "CMYK"}.get(count, "RGB"))
                kind = "PNG" if count == 1 else "JPEG"
                picture.save(folder / f"{name}.JPEG", kind, quality=88)
    return Path(root)
