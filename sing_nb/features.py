"""Pictures to features and joint embeddings, once per network: on disk in shards, resumable."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import safetensors.torch
import torch

from .errors import SingError
from .fetch import slug, write_atomic
from .heads import Classifier
from .images import open_picture, picture_file, store_pictures
from .progress import Progress, progress_bar

if TYPE_CHECKING:
    from .joint import OpenClipSpace

__all__ = [
    "FeatureSet", "Running", "compute_embeddings", "compute_features", "feature_key", "run_device",
]

SHARD = 512  # pictures that a killed run loses at most


class Running(NamedTuple):
    """How networks are run; the results are the same within rounding.

    Attributes
    ----------
    device : str
        ``auto``: a GPU if there is one. Otherwise a device of torch.
    precision : str
        ``float32``; or ``bfloat16`` or ``float16`` by torch's autocast, for which features agree
        with those of float32 to about 2 % of their length (float16: 0.5 %).
    workers : int
        Processes that decode and transform pictures, at most one a processor; 0 for one thread
        beside the network.
    batch : int
        Pictures at a time.
    """

    device: str = "auto"
    precision: str = "float32"
    workers: int = 0
    batch: int = 64


class FeatureSet(NamedTuple):
    """What one classifier says of a table of pictures.

    Attributes
    ----------
    features : torch.Tensor
        (n, m), float32, in the order of the table.
    logits : torch.Tensor
        (n, c), float32: the model's own, or with mixed precision W f + b of these features.
    """

    features: torch.Tensor
    logits: torch.Tensor


def run_device(name: str) -> torch.device:
    """The device that a name means here.

    Parameters
    ----------
    name : str
        ``auto`` or a device of torch.

    Raises
    ------
    SingError
        If this machine has no such device.
    """
    if name == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available()
            else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SingError(
            f"The device {name!r} cannot be used here ({str(error).splitlines()[0]}); expected "
            f"auto, cpu, cuda or mps. device=auto takes a GPU if there is one."
        ) from error
    return device


def feature_key(network: Classifier | OpenClipSpace, table: pd.DataFrame) -> str:
    """Short hash of everything that the features depend on: weights, transform, pictures."""
    digest = hashlib.sha256()
    for name, tensor in network.module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes())
    digest.update(_description(network.transform).encode())
    digest.update("\n".join(table["picture"]).encode())
    return digest.hexdigest()[:12]


def compute_features(
    classifier: Classifier, table: pd.DataFrame, pictures: Path, folder: Path, *,
    running: Running | None = None, key: str | None = None, progress: Progress = True,
) -> FeatureSet:
    """Features and logits of every picture of a table, computed or loaded.

    Shards are written atomically as they are done; a run that was killed goes on after the last
    one. Pictures are decoded and transformed beside the network, which runs in channels-last
    layout, on a processor with its batch norms folded.

    Parameters
    ----------
    classifier : Classifier
        With a transform.
    table : pandas.DataFrame
        Picture table (see :mod:`sing_nb.images`).
    pictures : pathlib.Path
        Folder of drawn pictures; missing ones are drawn.
    folder : pathlib.Path
        Where shards are kept, in a folder named after the classifier and :func:`feature_key`.
    running : Running, optional
        Device, precision, workers and batch.
    key : str, optional
        :func:`feature_key`, if it is known already.
    progress : bool or callable
        Whether to show a progress bar, or whom to tell (:mod:`sing_nb.progress`).

    Returns
    -------
    FeatureSet

    Raises
    ------
    SingError
        If the classifier has no transform, or a feature is not finite.
    """
    running = running or Running()
    exact = running.precision == "float32"
    # Mixed precision gives other features, close as they are; they are kept apart.
    key = (key or feature_key(classifier, table)) + ("" if exact else f"-{running.precision}")
    found = _in_shards(
        classifier, table, pictures, Path(folder) / f"{slug(classifier.name)}-{key}",
        lambda device: _classifier_run(classifier, device, running.precision),
        FeatureSet._fields, running, progress,
    )
    return FeatureSet(**found)


def compute_embeddings(
    space: OpenClipSpace, table: pd.DataFrame, pictures: Path, folder: Path, *,
    running: Running | None = None, key: str | None = None, progress: Progress = True,
) -> torch.Tensor:
    """Joint embeddings (n, d) of every picture of a table, unit vectors, computed or loaded.

    Parameters
    ----------
    space : OpenClipSpace
        It runs in its own precision.
    table, pictures, folder, running, key, progress
        As for :func:`compute_features`.

    Raises
    ------
    SingError
        If an embedding is not finite.
    """
    running = running or Running()
    exact = space.precision == "float32"
    key = (key or feature_key(space, table)) + ("" if exact else f"-{space.precision}")

    def prepare(device: torch.device) -> Callable[[torch.Tensor], tuple]:
        space.module.to(device)
        return lambda batch: (space.encode_images(batch),)

    home = Path(folder) / f"{slug(space.name)}-{key}"
    found = _in_shards(
        space, table, pictures, home, prepare, ("embeddings",), running, progress
    )
    return found["embeddings"]


def _classifier_run(
    classifier: Classifier, device: torch.device, precision: str
) -> Callable[[torch.Tensor], tuple]:
    classifier.module.to(device, memory_format=torch.channels_last)
    exact, mixed = precision == "float32", _autocast(device, precision)
    fast: list[Callable] = []

    def run(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch = batch.to(device, non_blocking=True, memory_format=torch.channels_last)
        if exact:
            if not fast:
                fast.append(
                    classifier.traced(batch) if device.type == "cpu" else classifier.run
                )
            return fast[0](batch)
        with mixed:
            features = classifier.run(batch)[0].float()
        return features, classifier.logits(features)

    return run


def _autocast(device: torch.device, precision: str) -> AbstractContextManager:
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def _in_shards(
    network: Classifier | OpenClipSpace, table: pd.DataFrame, pictures: Path, home: Path,
    prepare: Callable[[torch.device], Callable[[torch.Tensor], tuple]], fields: Sequence[str],
    running: Running, progress: Progress,
) -> dict[str, torch.Tensor]:
    """What `prepare`'s function gives of every picture, one tensor a field."""
    if network.transform is None:
        raise SingError(
            f"{network.name} has no transform; give wrap_classifier the function that turns a "
            f"PIL picture into the tensor the model reads."
        )
    shards = [home / f"{start // SHARD:04d}.safetensors" for start in range(0, len(table), SHARD)]
    missing = [index for index, path in enumerate(shards) if not _whole(path, fields)]
    if missing:
        store_pictures(table, pictures, progress=progress)
        rows = table.to_dict("records")
        files = [picture_file(row, pictures) for row in rows]
        run = prepare(run_device(running.device))
        # One loader for all shards: its processes take seconds to start. It is closed, so that
        # they end with the work even where an error keeps this frame alive.
        plan = {index: _plan(index, len(rows), running.batch) for index in missing}
        groups = list(chain.from_iterable(plan.values()))
        with (
            progress_bar(
                progress, total=len(rows), initial=SHARD * (len(shards) - len(missing)),
                unit="picture", desc=f"features of {network.title}",
            ) as bar,
            closing(_batches(files, network.transform, groups, running)) as batches,
        ):
            for index, groups in plan.items():
                parts = []
                for batch in islice(batches, len(groups)):
                    if parts:
                        bar.update(len(parts[-1][0]))
                    parts.append([part.float().cpu() for part in run(batch)])
                found = dict(zip(fields, (torch.cat(part).contiguous() for part in zip(*parts))))
                if not torch.isfinite(found[fields[0]]).all():
                    raise SingError(
                        f"{network.name} gives NaN or infinite {fields[0]} for a picture in rows "
                        f"{index * SHARD} to {index * SHARD + len(found[fields[0]]) - 1}; look at "
                        f"the model's weights and at those pictures"
                        + ("." if running.precision == "float32" else ", or take "
                           "precision=float32.")
                    )
                write_atomic(shards[index], safetensors.torch.save(found))
                # Only now: who stops the work at the end of a shard has that shard.
                bar.update(len(parts[-1][0]))
        write_atomic(home / "card.json", json.dumps({"model": network.name, "rows": len(rows)}))
    loaded = [safetensors.torch.load_file(path) for path in shards]
    return {name: torch.cat([part[name] for part in loaded]) for name in fields}


def _description(transform: object) -> str:
    """What a transform does, in words that are the same in every process."""
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(transform))
    if inspect.isfunction(transform):
        # A function's own text, where Python can find it, tells it from one of the same name.
        try:
            return text + inspect.getsource(transform)
        except OSError:
            return text
    return text


def _whole(path: Path, fields: Sequence[str]) -> bool:
    """Whether a shard can be read; a damaged one is computed again."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return set(fields) <= set(file.keys())
    except (FileNotFoundError, safetensors.SafetensorError):
        return False


class _Files(torch.utils.data.Dataset):
    """Transformed pictures, for torch's own loader."""

    def __init__(self, files: Sequence[Path], transform: Callable) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(open_picture(self.files[index]).convert("RGB"))


def _plan(shard: int, rows: int, batch: int) -> list[list[int]]:
    """Rows of each batch of a shard."""
    end = min((shard + 1) * SHARD, rows)
    return [
        list(range(start, min(start + batch, end))) for start in range(shard * SHARD, end, batch)
    ]


def _batches(
    files: Sequence[Path], transform: Callable, groups: list[list[int]], running: Running
) -> Iterator[torch.Tensor]:
    """Transformed batches of the groups, the next ones made while the current one is used."""
    pictures = _Files(files, transform)
    if running.workers:
        # Not forked: the network and its threads already run in this process.
        yield from torch.utils.data.DataLoader(
            pictures, batch_sampler=groups, num_workers=min(running.workers, os.cpu_count() or 1),
            pin_memory=torch.cuda.is_available(), multiprocessing_context="forkserver",
        )
        return

    def make(group: list[int]) -> torch.Tensor:
        batch = torch.stack([pictures[index] for index in group])
        return batch.contiguous(memory_format=torch.channels_last)

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(make, groups[0])
        for following in [*groups[1:], None]:
            batch = ahead.result()
            if following is not None:
                ahead = pool.submit(make, following)
            yield batch
