"""Pictures to features, end to end from files: ours, timm's plain loop, OpenVINO, the same pixels.

The pictures are drawn stamps as the offline book has them, 320 x 320 JPEG files; Lite0 reads them
at 224 x 224 with its own transform. Everyone is alone in a process, has as many threads as torch
takes by default, and begins with a network in torch: that ours is traced, and OpenVINO's converted
and compiled, is part of the time. Of many pictures ours alone pays for that.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from PIL import Image
from torch import nn

from sing_nb.models.classifier import Classifier
from sing_nb.models.load import load_classifier
from sing_nb.pictures.features import compute_features
from sing_nb.pictures.images import stamps, store_pictures

FEW, MANY, BATCH = 512, 4096, 64


@cache  # asv sets up before every sample
def pictures(count: int = FEW) -> tuple:
    """Table of the pictures, and the folder that they are drawn into once a process."""
    table = stamps(views=16).head(count)
    folder = Path(tempfile.mkdtemp(prefix="sing-bench-"))
    store_pictures(table, folder, progress=False)
    return table, folder


class TwoOutputs(nn.Module):
    """timm's own way to features and logits in one pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.model.forward_head(self.model.forward_features(x), pre_logits=True)
        return features, self.model.get_classifier()(features)


@cache
def sing_network() -> Classifier:
    classifier = load_classifier("lite0")
    _ = classifier.module  # what is kept on disk is built when it is first needed
    return classifier


@cache
def timm_network() -> TwoOutputs:
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(sing_network().module.state_dict())
    return TwoOutputs(model).eval()


def openvino_network() -> Callable:
    if find_spec("openvino") is None:
        raise NotImplementedError("openvino is not installed")  # asv skips the method
    import openvino

    compiled = openvino.Core().compile_model(
        openvino.convert_model(timm_network(), example_input=torch.zeros(2, 3, 224, 224)), "CPU",
        {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()},
    )
    return compiled


@cache
def ready_openvino() -> Callable:
    compiled = openvino_network()
    compiled([torch.zeros(BATCH, 3, 224, 224).numpy()])
    return compiled


def batches(count: int = FEW) -> Iterator[torch.Tensor]:
    """What timm's plain loop reads: its transform of each file, in its own order of things."""
    table, folder = pictures(count)
    config = timm.data.resolve_data_config(model=timm_network().model)
    transform = timm.data.create_transform(**config, is_training=False)
    files = [folder / f"{name}.jpg" for name in table["picture"]]
    for start in range(0, count, BATCH):
        yield torch.stack([
            transform(Image.open(path).convert("RGB")) for path in files[start : start + BATCH]
        ])


class Features:
    title = "Features of pictures"
    work = f"{FEW} JPEG files of 320 x 320 through EfficientNet-Lite0, features and logits"
    labels = {
        "time_sing": "compute_features: traced, files to shards",
        "time_timm": "timm's plain loop, batches of 64",
        "time_openvino": "OpenVINO in float32: converted, compiled, in the same loop",
    }
    bounds = {"time_timm": 2.5, "time_openvino": 0.9}
    number, repeat, rounds, warmup_time, timeout = 1, 1, 3, 0, 900
    count = FEW

    def setup(self) -> None:
        pictures(self.count)
        self.home = Path(tempfile.mkdtemp(prefix="sing-bench-"))

    def teardown(self) -> None:
        if hasattr(self, "home"):  # asv tears down what it skipped as well
            shutil.rmtree(self.home)

    def time_sing(self) -> None:
        compute_features(
            sing_network(), *pictures(self.count), self.home, key="bench", progress=False)

    def time_timm(self) -> None:
        model = timm_network()
        with torch.no_grad():
            for batch in batches():
                model(batch)

    def time_openvino(self) -> None:
        compiled = openvino_network()
        for batch in batches():
            compiled([batch.numpy()])

    # asv sets up each method by what it alone needs, too: nobody shares a process with a peer.
    time_sing.setup = sing_network
    time_timm.setup = timm_network
    time_openvino.setup = timm_network


class ManyPictures(Features):
    title = "Features of many pictures"
    work = f"{MANY:,} JPEG files of 320 x 320 through EfficientNet-Lite0, features and logits"
    labels = {
        "time_sing": "compute_features: traced, files to shards",
        "time_openvino": "OpenVINO in float32, compiled before the clock starts, in timm's loop",
    }
    bounds = {"time_openvino": 0.9}
    count = MANY
    time_timm = None

    def time_openvino(self) -> None:
        compiled = ready_openvino()
        for batch in batches(MANY):
            compiled([batch.numpy()])

    time_openvino.setup = ready_openvino
