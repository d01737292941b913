from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from sing_nb.book import costs
from sing_nb.book.costs import (
    build_network,
    estimate,
    feature_bytes,
    measure,
    network_costs,
    network_sizes,
    picture_count,
)
from sing_nb.errors import SingError
from sing_nb.study.profile import load_profile, profile_names

ROOT = Path(__file__).resolve().parents[1]


def values(profile, **options):
    return estimate(profile, **options).set_index("quantity")["value"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A profile of a small classifier, with weights of its own, and a small random CLIP."""
    from miniatures import small_open_clip

    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    state = timm.create_model("test_resnet", pretrained=False, num_classes=7).state_dict()
    safetensors.torch.save_file(state, folder / "own.safetensors")
    return load_profile("imagenette", {
        "models": [f"timm/test_resnet:{folder / 'own.safetensors'}"],
        "joint_space": small_open_clip(folder / "clip"), "other_spaces": [], "device": "cpu",
        "workers": 0, "batch": 4,
    })


# --- one network --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters", "macs", "side"),
    [
        # As torchvision and timm publish them: 4.09, 61.55, 0.39 and 4.39 (at 380) billion.
        ("resnet50-tv", 25_557_032, 4.089e9, 224),
        ("torchvision/vit_l_16:IMAGENET1K_V1", 304_326_632, 61.555e9, 224),
        ("efficientnet-b0", 5_288_548, 0.386e9, 224),
        ("efficientnet-b4", 19_341_616, 4.39e9, 380),
    ],
)
def test_sizes_are_the_published_ones(name, parameters, macs, side):
    found = network_sizes(name)
    assert found["parameters"] == parameters
    assert found["macs"] == pytest.approx(macs, rel=0.01)
    assert found["side"] == side
    # Weights in float32 and, beyond the parameters, the statistics of batch norms.
    assert 4 * parameters <= found["download"] <= 4.1 * parameters


def test_a_clip_is_counted_by_hand():
    found = network_sizes("open_clip/ViT-B-32-quickgelu:openai")
    width, layers, tokens = 768, 12, 50
    block = 12 * width**2 * tokens + 2 * tokens**2 * width
    patches = 49 * 3 * 32**2 * width
    assert found["macs"] == pytest.approx(layers * block + patches + width * 512, rel=0.01)
    assert (found["width"], found["classes"], found["side"]) == (512, 0, 224)
    assert found["download"] == pytest.approx(605e6, rel=0.01)  # of the published file


def test_nothing_is_loaded_on_meta_and_weights_of_packages_are_no_download():
    module, transform, hub = build_network("lite0")
    assert {part.device.type for part in module.parameters()} == {"meta"}
    assert not hub
    assert callable(transform)
    assert network_sizes("lite0")["download"] == 0


def test_a_checkpoint_of_ones_own_says_its_classes(small):
    found = network_costs(small).set_index("role")
    assert found.loc["classifier", "classes"] == 7
    assert found["download"].sum() == 0
    assert found.loc["joint space", "width"] == 32


@pytest.mark.parametrize("name", ["resnet5", "timm/no_such_model", "torchvision/vgg16:V9"])
def test_unknown_names_are_refused(name):
    with pytest.raises(SingError, match=name.split("/")[-1].split(":")[0]):
        network_sizes(name)


def test_a_miniature_karlo_is_read_from_its_folder(tmp_path):
    from miniatures import small_karlo

    folder = small_karlo(tmp_path / "karlo")
    found = network_sizes(f"unclip/{folder}")
    stored = sum(
        part.numel() for file in folder.rglob("*.safetensors") if "text_proj" not in file.parts
        for part in safetensors.torch.load_file(file).values()
    )
    assert found["parameters"] == pytest.approx(stored, rel=0.01)
    assert found["download"] == 0


# --- a run --------------------------------------------------------------------------------------


def test_pictures_are_counted_from_the_manifests():
    with (ROOT / "data/stamps.csv").open(encoding="utf-8") as file:
        stamps = list(csv.DictReader(file))
    drawings = len((ROOT / "data/clipart.csv").read_text(encoding="utf-8").splitlines()) - 1
    assert picture_count(load_profile("offline")) == 12 * len(stamps) + 2 * drawings + 20
    assert picture_count(load_profile("imagenette")) == 2020
    everything = load_profile("imagenette", {"total_pictures": None})
    assert picture_count(everything) == 3925 + 20
    with pytest.raises(SingError, match="set total_pictures"):
        picture_count(load_profile("imagenette", {
            "pictures": "folder:/somewhere", "total_pictures": None
        }))


def test_smoke_counts_what_its_table_holds(smoke):
    assert picture_count(smoke.config) == len(smoke.pictures)


def test_disk_by_hand(small):
    # m = 256 features and c = 7 logits of the small ResNet, d = 32 of the small CLIP.
    m = timm.create_model("test_resnet", pretrained=False).num_features
    assert feature_bytes(small, 10) == 10 * 4 * (m + 7 + 32)
    n = 2020
    translators = 6 * (m + 1) * 32 * 4
    by_hand = n * 4 * (m + 7 + 32) + translators + 0.1e9 + 0.34e9
    assert values(small)["disk_gb"] == pytest.approx(by_hand / 1e9)


def test_more_pictures_cost_more():
    few, many = (
        values(load_profile("imagenette", {"total_pictures": total})) for total in (1000, 3000)
    )
    # Texts, which do not grow with the pictures, are the rest.
    assert many["operations"] - few["operations"] == pytest.approx(
        2000 * network_costs(load_profile("imagenette"))["macs"].sum()
    )
    assert many["hours"] > few["hours"]
    assert many["download_gb"] == few["download_gb"]


@pytest.mark.parametrize("name", profile_names())
def test_profiles_state_what_is_estimated(name):
    profile = load_profile(name)
    found = values(profile)
    assert set(profile.expected) == {
        "hours", "memory_gb", "gpu_gb", "disk_gb", "download_gb", "machine"
    }
    for quantity in ("hours", "memory_gb", "disk_gb", "download_gb"):
        assert 1 / 1.5 < profile.expected[quantity] / found[quantity] < 1.5, quantity
    if profile.expected["gpu_gb"]:
        assert 1 / 1.5 < profile.expected["gpu_gb"] / found["gpu_gb"] < 1.5


@pytest.mark.parametrize("name", profile_names())
def test_the_page_on_running_elsewhere_says_what_the_profiles_say(name):
    page = (ROOT / "book" / "running_elsewhere.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines()
            if re.match(rf"\| `?{name}\b", line)]
    expected, (what, takes) = load_profile(name).expected, rows
    if name != "report":
        named = what[1] if name != "smoke" else "`lite0`, `lite1`"
        assert name == "imagenet13" or all(
            f"`{model}`" in named for model in load_profile(name).models)
    assert float(takes[1]) == expected["hours"]
    for said, key in zip(takes[2:6], ("memory_gb", "gpu_gb", "disk_gb", "download_gb")):
        assert (0 if said == "none" else float(said)) == expected[key], key
    assert takes[6].startswith("not run") == expected["machine"].startswith("not run")
    assert takes[6].endswith("recorded") == expected["machine"].endswith("(recorded)")


def test_the_papers_profile_says_that_it_was_not_run_and_its_hours_on_a_processor():
    profile = load_profile("paper")
    machine = profile.expected["machine"]
    assert machine.startswith("not run: estimated")
    hours = float(machine.split("about ")[1].split(" hours on 2")[0])
    assert 1 / 1.5 < hours / values(profile, machine="cpu")["hours"] < 1.5
    with pytest.raises(SingError, match="Unknown machine 'tpu'"):
        estimate(profile, machine="tpu")


def test_drawings_cost_what_karlos_passes_cost():
    profile = load_profile("paper")
    karlo = network_sizes(profile.renderer)
    # Published as a decoder of 0.9 and twice 0.7 billion parameters, beside CLIP ViT-L/14's towers.
    assert karlo["parameters"] == pytest.approx((0.9 + 2 * 0.7 + 0.43) * 1e9, rel=0.05)
    none, ten = values(profile, drawings=0), values(profile, drawings=10)
    assert ten["operations"] - none["operations"] == pytest.approx(10 * karlo["macs"])


# --- a small run --------------------------------------------------------------------------------


def test_a_small_run_writes_the_bytes_that_are_planned(small):
    table = measure(small, 6)
    networks = table.attrs["networks"]
    assert set(networks["weights"]) == {"random"}
    planned = feature_bytes(small)
    written = networks["bytes_per_picture"].sum()
    # Beyond the numbers there is one header a file, and two networks wrote four files each.
    headers = 8 * 300 / (4 + 4 + 10 + 10)
    assert planned < written <= planned + headers
    assert (networks["pictures_per_second"] > 0).all()
    found = table.set_index("quantity")
    assert list(found.index) == ["hours", "memory_gb", "disk_gb"]
    assert found["ratio"].to_dict() == pytest.approx(
        (found["measured"] / found["expected"]).to_dict()
    )
    with pytest.raises(SingError, match="at least 2 pictures"):
        measure(small, 1)


def test_architectures_without_their_weights_run_small(small, tmp_path):
    # A real name: random weights, saved and loaded by open_clip's own means for the joint space.
    profile = dataclasses.replace(
        small, models=["timm/test_vit.r160_in1k"], joint_space=small.joint_space
    )
    networks = measure(profile, 2, batch=2).attrs["networks"]
    assert networks["name"].tolist() == [*profile.everyone, profile.joint_space]


def test_generated_pictures_have_the_sources_size(tmp_path):
    from PIL import Image

    table = costs._generated(tmp_path / "a", 2, load_profile("imagenette"), 0)
    assert {Image.open(path).size for path in table["path"]} == {(427, 320)}
