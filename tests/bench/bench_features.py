"""Pictures to features, from files: ours against timm's plain loop, with the same weights.

Both begin with a network in torch, and have as many threads as torch takes by default.
"""

from __future__ import annotations

import pytest
import timm
import torch
from PIL import Image

from sing_nb.models.load import load_classifier
from sing_nb.pictures.features import compute_features
from sing_nb.pictures.images import stamps, store_pictures

pytest_plugins = ["race"]  # beside this file
COUNT, BATCH = 512, 64


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Table and folder of drawn stamps as the offline book has them, 320 x 320 JPEG files."""
    table, folder = stamps(views=16).head(COUNT), tmp_path_factory.mktemp("pictures")
    store_pictures(table, folder, progress=False)
    return table, folder


@pytest.mark.benchmark(group=f"features and logits of {COUNT} pictures, EfficientNet-Lite0")
@pytest.mark.parametrize("who", ["sing", "timm's plain loop"])
def test_features(race, pictures, who, tmp_path_factory):
    table, folder = pictures
    classifier = load_classifier("lite0")
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(classifier.module.state_dict())
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    files = [folder / f"{name}.jpg" for name in table["picture"]]

    def loop():
        found = []
        for start in range(0, COUNT, BATCH):
            batch = torch.stack([
                transform(Image.open(path).convert("RGB"))
                for path in files[start : start + BATCH]])
            features = model.forward_head(model.forward_features(batch), pre_logits=True)
            found.append((features, model.get_classifier()(features)))
        return torch.cat([features for features, _ in found])

    def sing():
        home = tmp_path_factory.mktemp("features")
        found = compute_features(classifier, table, folder, home, key="bench", progress=False)
        return found.features

    with torch.no_grad():
        race("features", who, sing if who == "sing" else loop, at_least=2.5, same=0.01)
