"""Pictures to features and joint embeddings, once per network: on disk in shards, resumable."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch

from ..errors import SingError
from ..models.classifier import Classifier
from ..models.own import described
from ..progress import progress_bar
from .cache import content_key, keep, opened, read_or_none
from .fetch import cache_dir, slug, write_atomic
from .images import DECODING, picture_file, picture_sha, read_picture, store_pictures

if TYPE_CHECKING:
    from ..models.joint import OpenClipSpace

__all__ = [
    "FeatureSet", "Running", "compute_embeddings", "compute_features", "feature_key", "part_rows",
    "run_device"]

Run = Callable[[torch.Tensor], Sequence[torch.Tensor]]  # pictures to one tensor per field
SHARD = 512  # pictures of a file, and so what a killed run loses at most
# Pictures that a thread of a processor runs at a time. Of more, what the layers write (16 pictures
# of EfficientNet-Lite0: 77 MB) comes from the system anew each time, which clears every page: a
# quarter of the time.
THREAD_BATCH = 4


class Running(NamedTuple):
    """How networks are run."""

    device: str = "auto"
    precision: str = "float32"
    workers: int = 0
    batch: int = 64


class FeatureSet(NamedTuple):
    """Features (n, m) and logits (n, c) of a table of pictures, float32."""

    features: torch.Tensor
    logits: torch.Tensor


def run_device(name: str) -> torch.device:
    """The device that a name means here; ``auto`` is a GPU if there is one."""
    if name == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available()
            else "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SingError(
            f"The device {name!r} cannot be used here ({str(error).splitlines()[0]}); expected "
            f"auto, cpu, cuda or mps. device=auto takes a GPU if there is one."
        ) from error
    return device


def part_rows(n: int, part: tuple[int, int] | None = None) -> range:
    """Rows of part (index, count) of a table of n rows: whole shards, as even as possible."""
    index, count = part or (0, 1)
    if not 0 <= index < count:
        raise SingError(f"There is no part {index} of {count}; the index goes from 0 to count - 1.")
    shards = -(-n // SHARD)
    first, last = (shards * edge // count for edge in (index, index + 1))
    return range(first * SHARD, min(last * SHARD, n))


def feature_key(network: Classifier | OpenClipSpace, table: pd.DataFrame) -> str:
    """Short hash of everything that the features depend on: weights, transform, pictures."""
    pictures, origin = "\n".join(table["picture"]), getattr(network, "origin", None)
    known = origin and network.known.get(content_key(pictures))
    if known:
        return known
    if "source" in table and (table["source"] == "folder").any():
        pictures += f"\n{DECODING}"  # drawn pictures bear theirs in their names
    remembered = cache_dir() / "heads" / f"{content_key('key 1', origin, pictures)}.txt"
    if origin and remembered.is_file():
        found = remembered.read_text(encoding="utf-8")
        if re.fullmatch("[0-9a-f]{12}", found):
            return found
    digest = hashlib.sha256()
    for name, tensor in network.module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes())
    digest.update(described(network.transform).encode())
    digest.update(pictures.encode())
    found = digest.hexdigest()[:12]
    if origin:
        write_atomic(remembered, found, optional=True)
    return found


def compute_features(
    classifier: Classifier, table: pd.DataFrame, pictures: Path, folder: Path, *,
    running: Running | None = None, key: str | None = None, part: tuple[int, int] | None = None,
    progress: bool = True,
) -> FeatureSet:
    """Features and logits of every picture of a table, or of a part of it, computed or loaded."""
    running = running or Running()
    home = Path(folder) / f"{slug(classifier.name)}-{key or feature_key(classifier, table)}"
    exact = running.precision == "float32"

    def prepare(device: torch.device, example: torch.Tensor) -> tuple[Run, bool]:
        classifier.module.to(device, memory_format=torch.channels_last)
        classifier.check_steady(example)
        run = classifier.traced(example) if exact and device.type == "cpu" else classifier.run

        def both(batch: torch.Tensor) -> Sequence[torch.Tensor]:
            batch = batch.to(device, non_blocking=True, memory_format=torch.channels_last)
            if exact:
                return run(batch)
            with torch.autocast(device.type, dtype=getattr(torch, running.precision)):
                features = run(batch)[0].float()
            return features, classifier.logits(features)

        # The hooks of a plain run would catch what other threads run.
        return both, run != classifier.run

    c, m = classifier.head.weight.shape
    found = _in_shards(
        classifier, table, pictures, _precise(home, running.precision), prepare,
        {"features": m, "logits": c}, running, part, progress)
    return FeatureSet(**found)


def compute_embeddings(
    space: OpenClipSpace, table: pd.DataFrame, pictures: Path, folder: Path, *,
    running: Running | None = None, key: str | None = None, part: tuple[int, int] | None = None,
    progress: bool = True,
) -> torch.Tensor:
    """Joint embeddings (n, d), unit vectors: the same for a space, in its own precision."""

    def prepare(device: torch.device, example: torch.Tensor) -> tuple[Run, bool]:
        space.module.to(device)
        return lambda batch: [space.encode_images(batch)], space.precision == "float32"

    home = Path(folder) / f"{slug(space.name)}-{key or feature_key(space, table)}"
    found = _in_shards(
        space, table, pictures, _precise(home, space.precision), prepare,
        {"embeddings": space.dimensions}, running or Running(), part, progress)
    return found["embeddings"]


def _precise(home: Path, precision: str) -> Path:
    """Mixed precision gives other features, close as they are: they are kept apart."""
    return home if precision == "float32" else home.with_name(f"{home.name}-{precision}")


def _in_shards(
    network: Classifier | OpenClipSpace, table: pd.DataFrame, pictures: Path, home: Path,
    prepare: Callable[[torch.device, torch.Tensor], tuple[Run, bool]], fields: dict[str, int],
    running: Running, part: tuple[int, int] | None, progress: bool,
) -> dict[str, torch.Tensor]:
    """What a network gives of a part's pictures: by field, a tensor of that width."""
    wanted = part_rows(len(table), part)
    shards = {range(at, min(at + SHARD, len(table))): None for at in wanted[::SHARD]}
    files = {rows: home / f"{rows.start // SHARD:04d}.safetensors" for rows in shards}
    for rows in shards:
        shards[rows] = _shard(files[rows], {name: (len(rows), m) for name, m in fields.items()})
    missing = [rows for rows, found in shards.items() if found is None]
    if missing:  # else a network that was not built yet stays so
        if network.transform is None:
            raise SingError(
                f"{network.name} has no transform; give wrap_classifier the function that turns a "
                f"PIL picture into the tensor the model reads.")
        store_pictures(table.iloc[wanted], pictures, progress=progress)
        records, device = table.to_dict("records"), run_device(running.device)

        def batch(rows: range) -> torch.Tensor:
            # A folder's pictures may change while a run takes hours; their names would stay.
            return torch.stack([
                network.transform(read_picture(picture_file(row, pictures), sha=picture_sha(row)))
                for row in records[rows.start : rows.stop]])

        run, shared = prepare(device, batch(missing[0][:THREAD_BATCH]))
        size = min(running.batch, THREAD_BATCH) if device.type == "cpu" else running.batch
        groups = [rows[at : at + size] for rows in missing for at in range(0, len(rows), size)]
        results = _in_threads(groups, batch, run, shared, running.workers)
        bar = progress_bar(
            progress, total=len(wanted), initial=len(wanted) - sum(map(len, missing)),
            unit="picture", desc=f"features of {network.title}")
        with bar, closing(results):  # closed, even where an error keeps this frame alive
            for rows in missing:
                parts = []
                for found in islice(results, -(-len(rows) // size)):
                    if parts:
                        bar.update(len(parts[-1][0]))
                    parts.append(found)
                shards[rows] = dict(zip(fields, map(torch.cat, zip(*parts)), strict=True))
                name, first = next(iter(shards[rows].items()))
                if not first.isfinite().all():
                    raise SingError(
                        f"{network.name} gives NaN or infinite {name} in {running.precision} for a "
                        f"picture in rows {rows[0]} to {rows[-1]}; look at the model's weights and "
                        f"at those pictures.")
                keep(files[rows], shards[rows], f"{home.name}/{files[rows].name}")
                # Only now: who stops the work at the end of a shard has that shard.
                bar.update(len(parts[-1][0]))
    if not shards:
        return {name: torch.empty(0, width) for name, width in fields.items()}
    return {name: torch.cat([shard[name] for shard in shards.values()]) for name in fields}


def _shard(path: Path, shapes: dict[str, tuple[int, int]]) -> dict[str, torch.Tensor] | None:
    """A shard's tensors; None if it is missing, damaged or another's: it is computed again."""

    def wrong(found: tuple[dict[str, torch.Tensor], object]) -> str:
        held, place = found
        have = {name: tuple(part.shape) for name, part in held.items()}
        if place != f"{path.parent.name}/{path.name}" or have != shapes:
            return f"it is {place} and holds {have}; expected {shapes}"
        return "" if held[next(iter(shapes))].isfinite().all() else "it holds NaN or infinity"

    found = read_or_none(path, opened, wrong)
    return None if found is None else found[0]


def _in_threads(
    groups: list[range], batch: Callable[[range], torch.Tensor], run: Run, shared: bool,
    workers: int,
) -> Iterator[list[torch.Tensor]]:
    """Results of the groups, in order: each thread decodes groups of its own and runs them."""
    have = torch.get_num_threads()
    threads = min(workers or have, os.cpu_count() or 1)
    turn = nullcontext() if shared else Lock()

    def work(rows: range) -> list[torch.Tensor]:
        pictures = batch(rows)
        with turn:
            return [part.float().cpu() for part in run(pictures)]

    each = max(1, have // threads) if shared else have
    pool = ThreadPoolExecutor(threads, "features", torch.set_num_threads, (each,))
    try:
        yield from pool.map(work, groups)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(have)  # what threads set is what threads to come would start with
