"""What a run costs: from the plan alone, and from a small measured run with random weights."""

from __future__ import annotations

import dataclasses
import json
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import safetensors.torch
import timm
import torch
import torchvision
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import SingError
from ..models.classifier import load_classifier, name_parts, wrap_classifier
from ..models.joint import SentenceEncoder, load_joint_space
from ..pictures.features import MOST, Running, compute_embeddings, compute_features, run_device
from ..pictures.fetch import SOURCES, data_dir, read_manifest
from ..pictures.images import SIDE
from ..study.profile import Profile

__all__ = [
    "MACHINES", "Machine", "build_network", "estimate", "feature_bytes", "measure",
    "network_costs", "network_sizes", "picture_count", "plan",
    "plan_report",
]

GB = 1e9


class Machine(NamedTuple):
    """A class of machine that hours are stated for.

    Attributes
    ----------
    title : str
        For people, with where the numbers come from.
    rate : float
        Multiply-adds a second, in the profile's precision.
    pictures : float
        Pictures a second that one process decodes and transforms.
    """

    title: str
    rate: float
    pictures: float


MACHINES = {
    # By processor time on a busy machine with random weights: ResNet50 100e9, ViT-L/16 52e9, CLIP
    # ViT-B/16 48e9, EfficientNet-B0 24e9 multiply-adds a second; 44 pictures decoded a second.
    "cpu": Machine("2 processor cores, no GPU", 50e9, 44.0),
    "gpu": Machine(
        "one GPU of 24 GB such as an RTX 3090, whose peak is 71 TFLOP/s in bfloat16, at 20 % of it",
        0.2 * 71e12 / 2, 44.0,
    ),
}

DRAWINGS = 100  # unCLIP pictures of a run, about
WORDS = 1200  # class names, subjects and concepts that a joint space reads
DECODER_PASSES, ENLARGER_PASSES = 2 * 25, 7  # the decoder runs twice a step, for guidance

# Recorded on 2 cores: offline took 13 min 14 s, 165 s of them for features; smoke took 150 s,
# which is what chapters and pages take however few the pictures are. What lies between grows with
# classifiers x joint spaces x pictures x features.
FIXED_HOURS = 150 / 3600
OFFLINE_HOURS = (13 * 60 + 14 - 165 - 150) / 3600
OFFLINE_WORK = 9 * 6830 * 1280
# What is neither features nor drawings, by rule: shares of the seconds of a recorded offline run.
RECORDED = {
    "fetch": 0.02, "translator": 0.03, "tables": 0.02, "space": 0.06, "controls": 0.16,
    "plants": 0.08, "example": 0.10, "comparisons": 0.05, "sweep": 0.20, "chapter": 0.26,
    "last": 0.01, "render": 0.01,
}

PROCESS = 1.0 * GB  # torch, timm, transformers and what they load, measured: 0.9 GB
WORKER = 0.45 * GB  # a process that decodes pictures
CONTEXT = 0.6 * GB  # what CUDA itself takes of a GPU
RESULTS = 0.1 * GB  # tables, charts, chapters and pages of a book
PHOTOS = 20  # labelled photos of the package foolbox

# Archive and unpacked pictures of each part: what the projects state, in bytes and pictures.
STATED = {
    "imagenette": {"train": 9469, "val": 3925},
    "imagenet": {"train": 1_281_167, "val": 50_000},
}
IMAGENETTE = 0.34 * GB  # the archive of 320 pixels; unpacked about the same
DEBIAN, UNPACKED = (0.161 + 0.131) * GB, 0.41 * GB  # two packages of pictures
DRAWN = 0.0182e6  # a drawn picture (JPEG, 320 x 320), mean of offline's

# The published Karlo, from diffusers' own conversion of it.
_ENLARGER = {
    "sample_size": 256, "layers_per_block": 3, "in_channels": 6, "out_channels": 3,
    "block_out_channels": (320, 640, 960, 1280), "add_attention": False,
    "down_block_types": ("ResnetDownsampleBlock2D",) * 4,
    "up_block_types": ("ResnetUpsampleBlock2D",) * 4,
}
_KARLO = {
    "decoder": {
        "sample_size": 64, "layers_per_block": 3, "in_channels": 3, "out_channels": 6,
        "block_out_channels": (320, 640, 960, 1280),
        "down_block_types": ("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": (*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
        "cross_attention_dim": 1536, "attention_head_dim": 64, "class_embed_type": "identity",
        "resnet_time_scale_shift": "scale_shift",
    },
    "super_res_first": _ENLARGER, "super_res_last": _ENLARGER,
    "text_encoder": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "projection_dim": 768,
    },
    "image_encoder": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "projection_dim": 768, "patch_size": 14, "image_size": 224,
    },
}
# DINOv2-L with one linear layer, which lies on the hub, by its published configuration.
_DINOV2 = "facebook/dinov2-large-imagenet1k-1-layer", {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "mlp_ratio": 4,
    "image_size": 518, "patch_size": 14, "num_labels": 1000,
}


# --- one network --------------------------------------------------------------------------------


def build_network(name: str, device: str = "meta") -> tuple[nn.Module, Callable, bool]:
    """A classifier's architecture with random weights, or with none at all on ``meta``.

    Parameters
    ----------
    name : str
        As for `classifier.load_classifier`. Only checkpoints that are files of one's own
        are read, for their number of classes.
    device : str
        ``meta`` (shapes only, takes milliseconds) or a device of torch.

    Returns
    -------
    module : torch.nn.Module
        In evaluation mode.
    transform : callable
        Picture to tensor, the one that the pretrained model is used with.
    hub : bool
        Whether the pretrained weights are a download.

    Raises
    ------
    SingError
        If the architecture cannot be known here.
    """
    source, ident, weights = name_parts(name)
    if source == "torchscript" and device == "meta":
        raise SingError(
            f"What {name} takes cannot be counted beforehand: the layers of a TorchScript archive "
            f"are not to be seen without running it. Run it on a few pictures."
        )
    own = source in ("factory", "torchscript") or (
        source == "transformers" and Path(ident).is_dir()
    )
    if own or Path(weights).expanduser().is_file():
        classifier = load_classifier(name)
        return classifier.module.to(device), classifier.transform, False
    if source == "timm" and timm.is_model(ident.split(".")[0]):
        config = timm.get_pretrained_cfg(ident, allow_unregistered=True)
        known = {"num_classes": config.num_classes} if config and config.num_classes else {}
        with torch.device(device):
            module = timm.create_model(ident, pretrained=False, **known).eval()
        transform = create_transform(**resolve_data_config(model=module), is_training=False)
        return module, transform, not weights.startswith("package:")
    if source == "torchvision" and ident in torchvision.models.list_models(torchvision.models):
        options = torchvision.models.get_model_weights(ident)
        if weights in options.__members__:
            with torch.device(device):
                module = torchvision.models.get_model(ident, weights=None).eval()
            return module, options[weights].transforms(), True
    if source == "transformers" and ident:
        return _transformers_network(ident, device)
    load_classifier(name)  # says what is wrong with the name
    raise SingError(f"The architecture of {name!r} is not known without its weights.")


def _transformers_network(ident: str, device: str) -> tuple[nn.Module, Callable, bool]:
    from transformers import AutoConfig, AutoImageProcessor, BitImageProcessor
    from transformers import AutoModelForImageClassification as Classifier

    try:
        config = AutoConfig.from_pretrained(ident, local_files_only=True)
        processor = AutoImageProcessor.from_pretrained(ident, local_files_only=True)
    except OSError as error:
        if ident != _DINOV2[0]:
            raise SingError(
                f"The architecture of transformers/{ident} is not known before its config.json is "
                f"in the cache; load it once where the hub can be reached."
            ) from error
        config = AutoConfig.for_model("dinov2", **_DINOV2[1])
        processor = BitImageProcessor(
            size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}
        )
    with torch.device(device):
        module = Classifier.from_config(config).eval()
    return (
        module,
        lambda picture: processor(images=picture, return_tensors="pt")["pixel_values"][0], True,
    )


def _space_network(name: str, device: str = "meta") -> tuple[nn.Module, bool]:
    """An open_clip architecture, and whether its pretrained weights are a download."""
    import open_clip

    model = name.removeprefix("open_clip/")
    architecture, _, tag = model.partition(":")
    if architecture in ("local-dir", "hf-hub") or Path(tag).is_file():
        return load_joint_space(name).module.to(device), False
    if architecture not in open_clip.list_models():
        load_joint_space(name)  # says what is wrong with the name
    with _unwarned(), torch.device(device):
        return open_clip.create_model(architecture, pretrained_text=False, device=device), True


@contextmanager
def _unwarned() -> Iterator[None]:
    """Without open_clip's warning that weights are random: here they are meant to be."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _run_costs(module: nn.Module, run: Callable[[], object]) -> tuple[float, int]:
    """Multiply-adds of a call, and the most numbers that any layer returns."""
    largest = [0]

    def see(layer: nn.Module, given: object, out: object) -> None:
        if isinstance(out, torch.Tensor):
            largest[0] = max(largest[0], out.numel())

    hooks = [part.register_forward_hook(see) for part in module.modules()]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return counter.get_total_flops() / 2, largest[0]


def _numbers(module: nn.Module) -> int:
    return sum(part.numel() for part in module.state_dict().values())


@cache
def _classifier_costs(name: str) -> dict[str, object]:
    module, transform, hub = build_network(name)
    classifier = wrap_classifier(module, name=name)
    shape = transform(Image.new("RGB", (640, 640))).shape
    macs, activations = _run_costs(module, lambda: module(torch.empty(1, *shape, device="meta")))
    c, m = classifier.head.weight.shape
    return {
        "parameters": sum(part.numel() for part in module.parameters()), "macs": macs,
        "side": shape[-1], "width": m, "classes": c, "activations": activations,
        "bytes": 4 * _numbers(module), "download": 4 * _numbers(module) if hub else 0,
    }


@cache
def _space_costs(name: str) -> dict[str, object]:
    if name == "conse":
        # Its text tower, from a package; pictures cost it what its tower costs.
        return {
            "parameters": 22_713_216, "macs": 0.0, "text_macs": 0.0, "side": 0,
            "width": SentenceEncoder.dimensions, "classes": 0, "activations": 0,
            "bytes": 4 * 22_713_216, "download": 0,
        }
    module, hub = _space_network(name)
    size = module.visual.image_size
    height, width = size if isinstance(size, tuple | list) else (size, size)
    picture = torch.empty(1, 3, height, width, device="meta")
    macs, activations = _run_costs(module.visual, lambda: module.encode_image(picture))
    words = torch.zeros(1, getattr(module, "context_length", 77), dtype=torch.long, device="meta")
    text_macs, _ = _run_costs(module, lambda: module.encode_text(words))
    with torch.no_grad():
        d = module.encode_image(picture).shape[1]
    size = 4 * _numbers(module)
    return {
        "parameters": sum(part.numel() for part in module.parameters()), "macs": macs,
        "text_macs": text_macs, "side": width, "width": d, "classes": 0,
        "activations": activations, "bytes": size, "download": size if hub else 0,
    }


@cache
def _unclip_costs(place: str) -> dict[str, object]:
    """Of a whole drawing: every pass of the decoder and of the two enlarging networks."""
    import diffusers
    import transformers

    folder = Path(place).expanduser()
    configs = _KARLO
    if folder.is_dir():
        try:
            configs = {
                part: json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
                for part in _KARLO
            }
        except (OSError, ValueError) as error:
            raise SingError(f"{folder} is no saved unCLIP pipeline: {error}.") from error
    clip, unet = transformers, diffusers.UNet2DModel
    with torch.device("meta"):
        parts = {
            "decoder": diffusers.UNet2DConditionModel.from_config(configs["decoder"]),
            "super_res_first": unet.from_config(configs["super_res_first"]),
            "super_res_last": unet.from_config(configs["super_res_last"]),
            "text_encoder": clip.CLIPTextModelWithProjection(
                clip.CLIPTextConfig.from_dict(dict(configs["text_encoder"]))),
            "image_encoder": clip.CLIPVisionModelWithProjection(
                clip.CLIPVisionConfig.from_dict(dict(configs["image_encoder"]))),
        }
    decoder, enlarger = parts["decoder"], parts["super_res_first"]

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device="meta")

    side, large = decoder.config.sample_size, enlarger.config.sample_size
    width, tokens = decoder.config.cross_attention_dim, 77 + 4
    step = 4 * decoder.config.block_out_channels[0]
    once, small = _run_costs(decoder, lambda: decoder(
        empty(1, 3, side, side), empty(1), encoder_hidden_states=empty(1, tokens, width),
        class_labels=empty(1, step),
    ))
    twice, big = _run_costs(enlarger, lambda: enlarger(empty(1, 6, large, large), empty(1)))
    numbers = sum(_numbers(part) for part in parts.values())
    return {
        "parameters": numbers, "macs": DECODER_PASSES * once + ENLARGER_PASSES * twice,
        "side": large, "width": configs["image_encoder"]["projection_dim"], "classes": 0,
        "activations": max(2 * small, big), "bytes": 4 * numbers,
        "download": 0 if folder.is_dir() else 4 * numbers,
    }


def network_sizes(name: str) -> dict[str, object]:
    """Sizes of one network: a row of :func:`network_costs` without its name and role.

    Parameters
    ----------
    name : str
        A classifier, ``conse``, ``open_clip/...`` or ``unclip/...``.

    Raises
    ------
    SingError
        If the name is unknown.
    """
    if name.startswith("unclip/"):
        return dict(_unclip_costs(name.removeprefix("unclip/")))
    space = name == "conse" or name.startswith("open_clip/")
    return dict(_space_costs(name) if space else _classifier_costs(name))


def network_costs(profile: Profile) -> pd.DataFrame:
    """Every network of a profile; architectures are built on torch's ``meta`` device, unweighted.

    Returns
    -------
    pandas.DataFrame
        One row per network: name, ``role`` (classifier, joint space or renderer), ``parameters``,
        ``macs`` (multiply-adds of a picture; of a whole drawing for a renderer), ``text_macs`` (of
        a text, for a space), ``side`` (pixels it reads or draws), ``width`` (m or d), ``classes``
        (c, 0 for spaces), ``activations`` (most numbers a layer returns, for a picture), ``bytes``
        (in float32) and ``download`` (bytes of weights in float32, 0 where a package or a file has
        them). Karlo's are those of its published configuration, without its projection (1 %).

    Raises
    ------
    SingError
        If a name is unknown.
    """
    spaces = [profile.joint_space, *profile.other_spaces]
    rows = [
        *({"name": n, "role": "classifier", **network_sizes(n)} for n in profile.everyone),
        *({"name": n, "role": "joint space", **network_sizes(n)} for n in spaces),
    ]
    kind, _, place = profile.renderer.partition("/")
    if kind == "unclip":
        rows.append({"name": place, "role": "renderer", **network_sizes(profile.renderer)})
    return pd.DataFrame(rows).fillna({"text_macs": 0.0})


# --- a run --------------------------------------------------------------------------------------


def picture_count(profile: Profile) -> int:
    """How many pictures a run sees, the labelled photos included; nothing is fetched.

    Raises
    ------
    SingError
        If the source does not say; then `total_pictures` has to.
    """
    p = profile
    if p.pictures == "stamps":
        stamps = pd.DataFrame(read_manifest(SOURCES["stamps"].manifest))
        if p.stamp_subjects is not None:
            first = stamps.groupby("subject")["imagenet"].first()
            order = sorted(first.index, key=lambda subject: (first[subject] == "", subject))
            stamps = stamps[stamps["subject"].isin(order[: p.stamp_subjects])]
        drawings = len(read_manifest(SOURCES["clipart"].manifest))
        drawings = min(drawings, p.clipart_files) if p.clipart_files is not None else drawings
        return len(stamps) * p.views + drawings * p.clipart_views + PHOTOS
    kind = p.pictures.partition(":")[0]
    stated = STATED.get(kind, {}).get(p.picture_split or "train")
    counts = [count for count in (p.total_pictures, stated) if count is not None]
    if not counts:
        raise SingError(
            f"How many pictures {p.pictures!r} holds is not known without reading it; set "
            f"total_pictures in the profile {p.name} or by --set."
        )
    return min(counts) + PHOTOS


def feature_bytes(profile: Profile, pictures: int = 1) -> int:
    """Bytes on disk of features, logits and embeddings: n (m + c) 4 a model, n d 4 a space.

    Parameters
    ----------
    profile : Profile
    pictures : int
        n.

    Returns
    -------
    int
        Without the headers of the files, about 200 bytes for 512 pictures.
    """
    nets = network_costs(profile)
    nets = nets[nets["role"] != "renderer"]
    return int(4 * pictures * (nets["width"] + nets["classes"]).sum())


def estimate(
    profile: Profile, *, machine: str | None = None, drawings: int = DRAWINGS
) -> pd.DataFrame:
    """What a run costs, from the plan alone.

    With n pictures, classifiers of m features and c classes, and embeddings of d numbers:

    - disk: features ``n (m + c) 4`` a classifier, ``n d 4`` a space; ``(folds + 1) (m + 1) d 4``
      bytes of translators a classifier and space; in several parts ``(folds + 1) (m + d)^2 8`` of
      statistics a part and classifier; unpacked and drawn pictures; weights; 0.1 GB of tables and
      pages. Python packages (7 GB) and an ImageNet folder of one's own do not count.
    - memory, the larger of two: for features a process (1 GB), the largest network twice while it
      is loaded, and for each worker 0.45 GB and two batches ``batch 3 side^2 4``; for chapters a
      process, all features, six more arrays of the largest ``n m``, ridge statistics
      ``(m + d)^2 8`` of folds + 5 fits, all classifiers and spaces, and Karlo in float16.
    - GPU memory, the larger of two: for features CUDA's own 0.6 GB, the largest network in float32
      (and once more in half precision, if that is used) and four times the largest activations of a
      batch; for drawings CUDA's, the spaces, Karlo in float16 and its activations.
    - time: multiply-adds a second of the machine, or decoding if that is slower, for features,
      texts and drawings; chapters and analyses as recorded offline, by their size.

    Parameters
    ----------
    profile : Profile
    machine : {"cpu", "gpu"}, optional
        A key of :data:`MACHINES` for the time; a GPU by default if the profile draws with unCLIP.
    drawings : int
        Pictures that unCLIP draws.

    Returns
    -------
    pandas.DataFrame
        Columns ``quantity`` (pictures, operations, download_gb, disk_gb, memory_gb, gpu_gb, hours;
        GB are 1e9 bytes), ``value`` and ``how``.
    """
    p, nets, n = profile, network_costs(profile), picture_count(profile)
    place = machine or ("gpu" if p.renderer.startswith("unclip/") else "cpu")
    if place not in MACHINES:
        raise SingError(f"Unknown machine {place!r}; known: {', '.join(MACHINES)}.")
    on = MACHINES[place]
    classifiers = nets[nets["role"] == "classifier"]
    spaces = nets[nets["role"] == "joint space"]
    both = nets[nets["role"] != "renderer"]
    drawn = nets[nets["role"] == "renderer"]
    m, d = int(classifiers["width"].max()), int(spaces["width"].max())

    weights = float(nets["download"].sum())
    kind = p.pictures.partition(":")[0]
    archive, unpacked = {
        "stamps": (DEBIAN, UNPACKED + n * DRAWN), "imagenette": (IMAGENETTE, IMAGENETTE),
    }.get(p.pictures, (0.0, 0.0))
    download = weights + archive

    features = feature_bytes(p, n)
    pairs = sum(
        (width + 1) * other * 4 for width in classifiers["width"]
        for other in (spaces["width"] if not p.tower else [d])
    )
    stored = (p.folds + 1) * pairs + RESULTS + _statistics_bytes(p, nets)
    disk = features + stored + unpacked + weights

    half, batch = p.precision not in ("float32", "auto"), p.batch or MOST
    largest, karlo = float(both["bytes"].max()), float(drawn["bytes"].sum()) / 2
    batches = p.workers * 2 * batch * 3 * 4 * float((both["side"] ** 2).max())
    loading = PROCESS + 2 * largest + p.workers * WORKER + batches
    chapters = (
        PROCESS + features + 6 * n * m * 4 + (p.folds + 5) * (m + d) ** 2 * 8
        + float(both["bytes"].sum()) + karlo
    )
    memory = max(loading, chapters)
    number = 2 if half else 4
    running = CONTEXT + largest * (1.5 if half else 1) + (
        4 * batch * number * float(both["activations"].max())
    )
    drawing_gpu = CONTEXT + float(spaces["bytes"].sum()) + karlo + (
        4 * 2 * float(drawn["activations"].sum())
    )
    gpu = max(running, drawing_gpu)

    seeing = float(both["macs"].sum()) * n + float(spaces["text_macs"].sum()) * WORDS
    drawing = float(drawn["macs"].sum()) * drawings
    decoding = n * int((both["macs"] > 0).sum()) / (max(1, p.workers) * on.pictures)
    seen = max(seeing / on.rate, decoding) / 3600
    rest = _rest_hours(p, nets, n)
    hours = seen + drawing / on.rate / 3600 + rest
    rows = [
        ("pictures", n, p.pictures),
        ("operations", seeing + drawing, (
            f"multiply-adds: {seeing:.3g} for features" + (
                f", {drawing:.3g} for {drawings} drawings" if drawing else ""))),
        ("download_gb", download / GB, (
            f"weights {weights / GB:.2f}, pictures {archive / GB:.2f}"
            + (" (ImageNet is your own)" if kind == "imagenet" else ""))),
        ("disk_gb", disk / GB, (
            f"features {features / GB:.2f}, translators and results {stored / GB:.2f}, pictures "
            f"{unpacked / GB:.2f}, weights {weights / GB:.2f}")),
        ("memory_gb", memory / GB, (
            f"features with {p.workers} workers {loading / GB:.2f}, chapters {chapters / GB:.2f}")),
        ("gpu_gb", gpu / GB, (
            f"features in batches of {batch}, {p.precision} {running / GB:.2f}"
            + (f", drawings {drawing_gpu / GB:.2f}" if karlo else "") + "; 0 without a GPU")),
        ("hours", hours, (
            f"{on.title}: features {seen:.2f}, drawings {drawing / on.rate / 3600:.2f}, the rest "
            f"{rest:.2f}")),
    ]
    return pd.DataFrame(rows, columns=["quantity", "value", "how"])


def _statistics_bytes(profile: Profile, networks: pd.DataFrame) -> float:
    """Bytes of the statistics of all parts, which only a run in parts writes."""
    widths = networks.loc[networks["role"] == "classifier", "width"]
    d = networks.loc[networks["role"] == "joint space", "width"].iloc[0]
    if profile.shards == 1 or profile.translator != "ridge" or profile.published_translators:
        return 0.0
    return float(8 * profile.shards * (profile.folds + 1) * ((widths + d) ** 2).sum())


def plan(profile: Profile, *, machine: str | None = None) -> pd.DataFrame:
    """The jobs of a run, stage by stage, with their hours and what they write.

    Parameters
    ----------
    profile : Profile
    machine : {"cpu", "gpu"}, optional
        As for :func:`estimate`, whose hours and bytes these are, split among the stages; what lies
        between features and pages goes by its shares of a recorded offline run.

    Returns
    -------
    pandas.DataFrame
        One row a rule of ``book/Snakefile``, in the order of a run: ``stage``, ``jobs``, ``hours``
        (of all its jobs together), ``longest`` (hours of the longest job), ``gb`` (1e9 bytes of
        features, embeddings and statistics written). The longest jobs of stages that wait for
        each other, added up, are what no number of machines can go below.
    """
    p, nets, n = profile, network_costs(profile), picture_count(profile)
    on = MACHINES[machine or ("gpu" if p.renderer.startswith("unclip/") else "cpu")]
    parts = p.shards if p.shards > 1 else 0
    summed = bool(parts and _statistics_bytes(p, nets))
    # A tower's embeddings follow from its logits: no network of its own is run for them.
    seen = {
        role: nets[(nets["role"] == role) & (nets["macs"] > 0)]
        for role in ("classifier", "joint space")
    }
    seconds = {
        role: np.maximum(n * rows["macs"] / on.rate, n / (max(1, p.workers) * on.pictures))
        for role, rows in seen.items()
    }
    rest = _rest_hours(p, nets, n)
    chapters = len(list((data_dir().parent / "book").glob("[0-9][0-9]_*.ipynb")))
    models, spaces = len(p.everyone), len(p.spaces)
    drawing = float(nets.loc[nets["role"] == "renderer", "macs"].sum()) * DRAWINGS / on.rate / 3600
    rows = [("fetch", 1, RECORDED["fetch"] * rest, 0.0, 0.0)]
    for stage, role in (("features", "classifier"), ("embeddings", "joint space")):
        hours = seconds[role] / 3600
        if not len(hours):
            continue
        size = float((4 * n * (seen[role]["width"] + seen[role]["classes"])).sum())
        if parts:
            rows.append((
                f"{stage}_part", parts * len(hours), hours.sum(), hours.max() / parts, size))
            rows.append((stage, len(hours), 0.0, 0.0, 0.0))
        else:
            rows.append((stage, len(hours), hours.sum(), hours.max(), size))
    if summed:
        rows.append(("statistics", parts * models, 0.0, 0.0, _statistics_bytes(p, nets)))
    others = spaces - 1
    counts = {
        "translator": models, "tables": models, "space": others, "controls": models, "plants": 1,
        "example": 1, "comparisons": 1, "sweep": len(p.sweep), "chapter": chapters, "last": 2,
        "render": 1,
    }
    for stage, jobs in counts.items():
        if jobs:
            hours = RECORDED[stage] * rest + (drawing if stage == "chapter" else 0.0)
            rows.append((stage, jobs, hours, hours / jobs, 0.0))
    table = pd.DataFrame(rows, columns=["stage", "jobs", "hours", "longest", "gb"])
    one = table["longest"] == 0
    table.loc[one, "longest"] = table.loc[one, "hours"] / table.loc[one, "jobs"]
    table["gb"] /= GB
    return table


def plan_report(profile: Profile, *, machine: str | None = None) -> str:
    """The plan of a run for people: its jobs, their hours, and what they need.

    Parameters
    ----------
    profile, machine
        As for :func:`plan`.
    """
    table, costs = plan(profile, machine=machine), estimate(profile, machine=machine)
    value, how = (costs.set_index("quantity")[column] for column in ("value", "how"))
    longest = table.set_index("stage")["longest"]
    # One after another: the slowest of each group that runs side by side.
    groups = (
        ("fetch",), ("features_part", "features", "embeddings_part", "embeddings"),
        ("statistics",), ("translator",), ("tables", "space", "plants", "controls", "sweep"),
        ("example",), ("comparisons",), ("chapter",), ("last",), ("render",),
    )
    chain = sum(max(longest.get(stage, 0.0) for stage in group) for group in groups)
    shown = table.assign(
        hours=table["hours"].map("{:.2f}".format), longest=table["longest"].map("{:.2f}".format),
        gb=table["gb"].map(lambda gb: f"{gb:.2f}" if gb else ""),
    )
    return "\n".join([
        f"{profile.name}: {value['pictures']:,.0f} pictures, {len(profile.everyone)} classifiers, "
        f"{len(profile.spaces)} joint spaces, {profile.shards} "
        + ("part" if profile.shards == 1 else "parts") + " a network", "",
        shown.to_string(index=False), "",
        f"{table['jobs'].sum()} jobs, {value['hours']:.1f} hours of one machine after another; "
        f"with a machine for every job about {chain:.1f} hours.",
        f"hours: {how['hours']}", f"disk {value['disk_gb']:.1f} GB: {how['disk_gb']}",
        f"download {value['download_gb']:.1f} GB: {how['download_gb']}",
        f"memory {value['memory_gb']:.1f} GB a job: {how['memory_gb']}",
        f"GPU {value['gpu_gb']:.1f} GB: {how['gpu_gb']}",
    ])


def _rest_hours(profile: Profile, networks: pd.DataFrame, pictures: int) -> float:
    """Hours of everything but features and drawings, on 2 cores, from what offline took."""
    widths = float(networks.loc[networks["role"] == "classifier", "width"].sum())
    work = len(profile.spaces) * pictures * widths
    return FIXED_HOURS + OFFLINE_HOURS * work / OFFLINE_WORK


# --- a small run --------------------------------------------------------------------------------


def measure(
    profile: Profile, pictures: int = 32, batch: int | None = None, *, progress: bool = False
) -> pd.DataFrame:
    """A small run of a profile's networks with RANDOM weights, extrapolated to all pictures.

    Speed and bytes do not depend on what the weights are; the features mean nothing. Generated
    pictures of the source's size go through each network's own transform and the same code as in a
    study, on this machine's device. Each network warms up and then runs three times: on one batch
    (which also pays for starting), and twice on `pictures` more; the difference is the time of
    those pictures. Where starting hides it, all of the time counts, which is an upper bound.

    Parameters
    ----------
    profile : Profile
    pictures : int
        At least 2, in each of the two halves.
    batch : int, optional
        Pictures at a time; the profile's, but at most `pictures`, by default.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    pandas.DataFrame
        Columns ``quantity`` (hours, memory_gb, disk_gb), ``expected`` (the profile's), ``measured``
        (extrapolated), ``uncertainty`` (half the difference of the two halves) and ``ratio``.
        ``hours`` takes chapters and analyses from :func:`estimate`; drawings are not run.
        ``attrs["networks"]`` has one row per network: pictures_per_second, its uncertainty,
        ``bound`` (whether starting hid the difference), start_seconds, seconds (of all pictures),
        bytes_per_picture, macs_per_second.

    Raises
    ------
    SingError
        If a name is unknown, or `pictures` is too small.
    """
    if pictures < 2:
        raise SingError(f"A small run needs at least 2 pictures; got {pictures}.")
    batch = batch or min(profile.batch or MOST, pictures)
    running = Running(
        profile.device, profile.precision, profile.workers, batch, profile.compile
    )
    costs = network_costs(profile).set_index("name")
    n, rows = picture_count(profile), []
    with tempfile.TemporaryDirectory(prefix="sing-measure-") as name:
        folder = Path(name)
        tables = [
            _generated(folder / f"pictures-{part}", count, profile, part)
            for part, count in enumerate((batch, batch, batch + pictures, batch + pictures))
        ]
        spaces = [] if profile.tower else [profile.joint_space, *profile.other_spaces]
        for network in [*profile.everyone, *spaces]:
            run = _small_run(network, network in spaces, folder, running, progress)
            _, start, *halves = [run(table) for table in tables]
            stored = sum(path.stat().st_size for path in (folder / "out").rglob("*.safetensors"))
            for path in sorted((folder / "out").rglob("*.safetensors")):
                path.unlink()
            each = [(half - start) / pictures for half in halves]
            bound = min(each) <= 0
            if bound:
                each = [half / (batch + pictures) for half in halves]
            mean = float(np.mean(each))
            start = 0.0 if bound else max(0.0, start - batch * mean)
            rows.append({
                "name": network, "weights": "random", "pictures_per_second": 1 / mean,
                "uncertainty": abs(each[0] - each[1]) / 2 / mean**2, "bound": bound,
                "start_seconds": start, "seconds": mean * n + start,
                "seconds_uncertainty": abs(each[0] - each[1]) / 2 * n,
                "bytes_per_picture": stored / sum(map(len, tables)),
                "macs_per_second": costs.loc[network, "macs"] / mean,
            })
    networks = pd.DataFrame(rows)
    planned = estimate(profile, drawings=0).set_index("quantity")["value"]
    rest = _rest_hours(profile, network_costs(profile), n)
    # What grows with n and is not in a small run's peak comes from the plan.
    small = dataclasses.replace(profile, total_pictures=pictures, stamp_subjects=1)
    grown = planned["memory_gb"] - estimate(small, drawings=0).set_index("quantity").loc[
        "memory_gb", "value"]
    written = networks["bytes_per_picture"].sum() * n
    found = {
        "hours": (
            networks["seconds"].sum() / 3600 + rest, networks["seconds_uncertainty"].sum() / 3600
        ),
        "memory_gb": (_peak(profile.workers) / GB + grown, np.nan),
        "disk_gb": (planned["disk_gb"] + (written - feature_bytes(profile, n)) / GB, np.nan),
    }
    table = pd.DataFrame([
        {
            "quantity": quantity, "expected": float(profile.expected.get(quantity, np.nan)),
            "measured": value, "uncertainty": spread,
        }
        for quantity, (value, spread) in found.items()
    ])
    table["ratio"] = table["measured"] / table["expected"]
    table.attrs["networks"] = networks
    return table


def _small_run(
    name: str, space: bool, folder: Path, running: Running, progress: bool
) -> Callable[[pd.DataFrame], float]:
    """A function that runs a randomly weighted network on a table and returns the seconds."""
    if space:
        network = _random_space(name, folder, str(run_device(running.device)))
        compute = compute_embeddings
    else:
        module, transform, _ = build_network(name, "cpu")
        network = wrap_classifier(module, transform, name=name)
        compute = compute_features

    def run(table: pd.DataFrame) -> float:
        start = time.perf_counter()
        # The key is given: hashing the weights is no part of a picture's cost.
        compute(
            network, table, folder, folder / "out", running=running, key=table.attrs["key"],
            progress=progress,
        )
        return time.perf_counter() - start

    return run


def _random_space(name: str, folder: Path, device: str) -> object:
    """A joint space with random weights, saved and loaded as real ones are."""
    module, hub = _space_network(name, "cpu")
    if not hub:
        return load_joint_space(name, device=device)
    file = folder / "random.safetensors"
    safetensors.torch.save_file(
        {key: part.contiguous() for key, part in module.state_dict().items()}, file
    )
    del module
    try:
        # A tag's own activation is checked against the name's; a file has none.
        return load_joint_space(f"{name.partition(':')[0]}:{file}", device=device)
    finally:
        file.unlink()


def _generated(folder: Path, count: int, profile: Profile, seed: int) -> pd.DataFrame:
    """Pictures with the size and the detail of photographs: JPEG files of smooth noise."""
    folder.mkdir(parents=True)
    size = {"stamps": (SIDE, SIDE), "imagenette": (427, 320)}.get(
        profile.pictures.partition(":")[0], (500, 375)
    )
    rng, rows = np.random.default_rng(seed), []
    for index in range(count):
        coarse = rng.integers(0, 256, (40, 53, 3), dtype=np.uint8)
        path = folder / f"{index}.jpg"
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
        rows.append({"picture": f"{seed}-{index}", "source": "folder", "path": str(path)})
    table = pd.DataFrame(rows)
    table.attrs["key"] = f"part-{seed}"
    return table


def _peak(workers: int) -> float:
    """Most bytes that this process has held, and those of its decoding processes."""
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if workers else 0
    return float(unit * (own + workers * child))
