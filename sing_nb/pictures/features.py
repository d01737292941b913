"""Pictures to features and joint embeddings, once per network: on disk in shards, resumable."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import SingError
from ..models.classifier import Classifier
from ..models.own import described
from ..progress import Progress, progress_bar
from .cache import content_key, keep, opened, read_or_none
from .fetch import cache_dir, slug, write_atomic
from .images import DECODING, picture_file, picture_sha, read_picture, store_pictures

if TYPE_CHECKING:
    from ..models.joint import OpenClipSpace

__all__ = [
    "FeatureSet", "Running", "compute_embeddings", "compute_features", "feature_key", "part_rows",
    "run_device",
]

SHARD = 512  # pictures that a killed run loses at most
EXAMPLE = 4  # pictures that a network is traced with
GROUP = 16  # pictures a thread runs at a time on a processor; 8 take half as long again for each
MOST = 256  # pictures at a time, where memory decides

# What torch.compile costs and what it saves against the traced network, a thread: EfficientNet-
# Lite0 at 224 x 224 on two cores of an AMD EPYC with AVX-512 (torch 2.14, 6.8 against 7.5 ms).
COMPILING, SAVED = 20.0, 0.7e-3  # seconds, seconds a picture
AGREEMENT = 1e-4  # of a feature's length: how far a compiled network may be from the plain one
BFLOAT16 = 1e-3  # of a feature's length: how far bfloat16 may be from float32 to be taken


class Running(NamedTuple):
    """How networks are run; the results are the same within rounding.

    Attributes
    ----------
    device : str
        ``auto``: a GPU if there is one. Otherwise a device of torch.
    precision : str
        ``float32``; or ``bfloat16`` or ``float16`` by torch's autocast, for which features agree
        with those of float32 to about 2 % of their length (float16: 0.5 %). ``auto`` takes
        bfloat16 where the processor or GPU computes in it and the features of the first
        :data:`GROUP` pictures stay within :data:`BFLOAT16` of their length, else float32; with
        EfficientNets, and other networks of many layers, that is float32. The choice is written to
        ``card.json`` beside the features, and kept.
    workers : int
        Processes that decode and transform pictures, at most one a processor; 0 for threads: on a
        processor each decodes and runs pictures of its own, on a GPU one decodes beside it.
    batch : int
        Pictures at a time, of all threads together; a thread on a processor takes
        :data:`GROUP` of them. 0 for as many as fit into a quarter of the memory that is free, by
        what a few pictures take: a power of two, at most :data:`MOST`.
    compile : str
        Whether a classifier in float32 is compiled by torch.compile: ``never``; ``always``; or
        ``auto``, if there is a compiler and so many pictures are missing that it should pay off
        (:data:`COMPILING`, :data:`SAVED`). A compiled network whose features differ, or which is
        not faster, is dropped with a warning. One network a process is compiled.
    """

    device: str = "auto"
    precision: str = "float32"
    workers: int = 0
    batch: int = 64
    compile: str = "auto"


class _Prepared(NamedTuple):
    """A network on its device."""

    run: Callable[[torch.Tensor], tuple]
    shared: bool  # whether threads may call it at the same time
    followable: Callable[[], torch.nn.Module] | None = None  # makes what may be compiled instead


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


def part_rows(n: int, part: tuple[int, int] | None = None) -> range:
    """Rows of one part of a table: whole shards of SHARD rows, contiguous, as even as possible.

    Parameters
    ----------
    n : int
        Rows of the whole table.
    part : tuple of int, optional
        (index, count), 0 <= index < count; everything by default. Of more parts than shards some
        are empty. The parts of one count cover the table without overlap, in order.

    Raises
    ------
    SingError
        If there is no such part.
    """
    index, count = part or (0, 1)
    if not 0 <= index < count:
        raise SingError(
            f"There is no part {index} of {count}; expected (index, count) with an index from 0 "
            f"to count - 1."
        )
    shards = -(-n // SHARD)
    first, last = (shards * edge // count for edge in (index, index + 1))
    return range(first * SHARD, min(last * SHARD, n))


def feature_key(network: Classifier | OpenClipSpace, table: pd.DataFrame) -> str:
    """Short hash of everything that the features depend on: weights, transform, pictures.

    Of a classifier whose head is kept and whose network is not built it is remembered, too.
    """
    pictures, origin = "\n".join(table["picture"]), getattr(network, "origin", None)
    known = origin and network.known.get(content_key(pictures))
    if known:
        return known
    if "source" in table and (table["source"] == "folder").any():
        pictures += f"\n{DECODING}"  # drawn pictures bear theirs in their names
    if origin is None:
        return _feature_key(network, pictures)
    remembered = cache_dir() / "heads" / f"{content_key(origin, Path(__file__), pictures)}.txt"
    if remembered.is_file():
        found = remembered.read_text(encoding="utf-8")
        if re.fullmatch("[0-9a-f]{12}", found):
            return found
    found = _feature_key(network, pictures)
    write_atomic(remembered, found, optional=True)
    return found


def _feature_key(network: Classifier | OpenClipSpace, pictures: str) -> str:
    digest = hashlib.sha256()
    for name, tensor in network.module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes())
    digest.update(described(network.transform).encode())
    digest.update(pictures.encode())
    return digest.hexdigest()[:12]


def compute_features(
    classifier: Classifier, table: pd.DataFrame, pictures: Path, folder: Path, *,
    running: Running | None = None, key: str | None = None, part: tuple[int, int] | None = None,
    progress: Progress = True,
) -> FeatureSet:
    """Features and logits of every picture of a table, computed or loaded.

    Shards are written atomically as they are done; a run that was killed goes on after the last
    one. Pictures are decoded and transformed beside the network, which runs in channels-last
    layout, on a processor with its batch norms folded, in as many threads as torch would use:
    each runs :data:`GROUP` pictures of its own from file to feature and waits for no other.

    Parameters
    ----------
    classifier : Classifier
        With a transform.
    table : pandas.DataFrame
        Picture table (see :mod:`sing_nb.pictures.images`).
    pictures : pathlib.Path
        Folder of drawn pictures; missing ones are drawn.
    folder : pathlib.Path
        Where shards are kept, in a folder named after the classifier and :func:`feature_key`.
    running : Running, optional
        Device, precision, workers, batch and compile.
    key : str, optional
        :func:`feature_key`, if it is known already.
    part : tuple of int, optional
        (index, count): only the rows of :func:`part_rows` are computed and returned. Files are
        named, and filled, as in a run of the whole table.
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
    home = Path(folder) / f"{slug(classifier.name)}-{key or feature_key(classifier, table)}"
    if running.precision == "auto":
        precision = _settled_precision(classifier, table, pictures, home, running, progress)
        running = running._replace(precision=precision)
    c, m = classifier.head.weight.shape
    found = _in_shards(
        classifier, table, pictures, _kept_apart(home, running.precision),
        partial(_classifier_run, classifier, precision=running.precision),
        dict(zip(FeatureSet._fields, (m, c), strict=True)), running, part, progress,
    )
    return FeatureSet(**found)


def compute_embeddings(
    space: OpenClipSpace, table: pd.DataFrame, pictures: Path, folder: Path, *,
    running: Running | None = None, key: str | None = None, part: tuple[int, int] | None = None,
    progress: Progress = True,
) -> torch.Tensor:
    """Joint embeddings (n, d) of every picture of a table, unit vectors, computed or loaded.

    Parameters
    ----------
    space : OpenClipSpace
        It runs in its own precision, and is not compiled.
    table, pictures, folder, running, key, part, progress
        As for :func:`compute_features`.

    Raises
    ------
    SingError
        If an embedding is not finite.
    """
    running = running or Running()
    exact = space.precision == "float32"
    key = (key or feature_key(space, table)) + ("" if exact else f"-{space.precision}")

    def prepare(device: torch.device, example: torch.Tensor) -> _Prepared:
        space.module.to(device)
        return _Prepared(lambda batch: (space.encode_images(batch),), exact)

    home = Path(folder) / f"{slug(space.name)}-{key}"
    found = _in_shards(
        space, table, pictures, home, prepare, {"embeddings": space.dimensions}, running, part,
        progress,
    )
    return found["embeddings"]


def _kept_apart(home: Path, precision: str) -> Path:
    """Mixed precision gives other features, close as they are."""
    return home if precision == "float32" else home.with_name(f"{home.name}-{precision}")


def _classifier_run(
    classifier: Classifier, device: torch.device, example: torch.Tensor, precision: str
) -> _Prepared:
    classifier.module.to(device, memory_format=torch.channels_last)
    classifier.check_steady(example)
    exact, mixed = precision == "float32", _autocast(device, precision)
    fast = classifier.run
    if exact and device.type == "cpu":
        fast = classifier.traced(example)

    def run(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch = batch.to(device, non_blocking=True, memory_format=torch.channels_last)
        if exact:
            return fast(batch)
        with mixed:
            features = classifier.run(batch)[0].float()
        return features, classifier.logits(features)

    # The hooks of a plain run would catch what other threads run.
    return _Prepared(run, fast != classifier.run)


def _autocast(device: torch.device, precision: str) -> AbstractContextManager:
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def _in_shards(
    network: Classifier | OpenClipSpace, table: pd.DataFrame, pictures: Path, home: Path,
    prepare: Callable[[torch.device, torch.Tensor], _Prepared],
    fields: dict[str, int], running: Running, part: tuple[int, int] | None, progress: Progress,
) -> dict[str, torch.Tensor]:
    """What `prepare`'s function gives of every picture of a part, one tensor a field.

    `fields` says how wide each is.
    """
    wanted = part_rows(len(table), part)
    shards = {
        start // SHARD: home / f"{start // SHARD:04d}.safetensors" for start in wanted[::SHARD]
    }
    sizes = {index: min(SHARD, len(table) - index * SHARD) for index in shards}
    loaded = {
        index: _shard(path, {name: (sizes[index], width) for name, width in fields.items()})
        for index, path in shards.items()
    }
    missing = [index for index, found in loaded.items() if found is None]
    if missing:  # asked for what is not missing, a network is not even built
        if network.transform is None:
            raise SingError(
                f"{network.name} has no transform; give wrap_classifier the function that turns a "
                f"PIL picture into the tensor the model reads."
            )
        store_pictures(table.iloc[wanted], pictures, progress=progress)
        pictures_of = _Files(table, pictures, network.transform)
        files = pictures_of.files
        device, first = run_device(running.device), next(iter(fields))
        example = pictures_of.batch(range(len(files))[missing[0] * SHARD :][:EXAMPLE])
        run, shared, followable = prepare(device, example)
        size = running.batch or _fitting_batch(run, example, device)
        local = device.type == "cpu" and not running.workers
        group = min(size, GROUP) if local else size
        plan = {index: _plan(index, len(files), group) for index in missing}
        groups = list(chain.from_iterable(plan.values()))
        if followable and _is_worth_compiling(running.compile, sum(map(len, groups)), device):
            threads = torch.get_num_threads()
            if local and shared:
                threads //= min(threads, size // group)
            run = _compiled(
                network.title, run, followable, pictures_of.batch(groups[0]), device, threads
            )
        # One loader for all shards: its processes take seconds to start. It is closed, so that
        # they end with the work even where an error keeps this frame alive.
        if local and shared:
            results = _together(pictures_of, groups, run, size // group)
        else:
            results = _in_turn(pictures_of, groups, run, running.workers)
        with (
            _kept_memory() if device.type == "cpu" else nullcontext(),
            progress_bar(
                progress, total=len(wanted), initial=SHARD * (len(shards) - len(missing)),
                unit="picture", desc=f"features of {network.title}",
            ) as bar,
            closing(results),
        ):
            for index, groups in plan.items():
                rows = []
                for found in islice(results, len(groups)):
                    if rows:
                        bar.update(len(rows[-1][0]))
                    rows.append(found)
                found = dict(zip(fields, (torch.cat(each).contiguous() for each in zip(*rows))))
                if not torch.isfinite(found[first]).all():
                    raise SingError(
                        f"{network.name} gives NaN or infinite {first} for a picture in rows "
                        f"{index * SHARD} to {index * SHARD + len(found[first]) - 1}; look at "
                        f"the model's weights and at those pictures"
                        + ("." if running.precision == "float32" else ", or take "
                           "precision=float32.")
                    )
                keep(shards[index], found, _place(shards[index]))
                loaded[index] = found
                # Only now: who stops the work at the end of a shard has that shard.
                bar.update(len(rows[-1][0]))
        _note(home, model=network.name, rows=len(table))
    if not loaded:
        return {name: torch.empty(0, width) for name, width in fields.items()}
    return {name: torch.cat([shard[name] for shard in loaded.values()]) for name in fields}


def _card(home: Path) -> dict:
    """What is noted beside features."""
    try:
        found = json.loads((home / "card.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _note(home: Path, **what: object) -> None:
    write_atomic(home / "card.json", json.dumps(_card(home) | what))


# --- how a network is run -----------------------------------------------------------------------


def _settled_precision(
    classifier: Classifier, table: pd.DataFrame, pictures: Path, home: Path, running: Running,
    progress: Progress,
) -> str:
    """What ``auto`` means for these features: as noted beside them, or decided and noted."""
    for precision in ("float32", "bfloat16"):
        if "auto" in _card(_kept_apart(home, precision)):
            return precision
    device = run_device(running.device)
    if not _has_bfloat16(device):
        taken, why = "float32", "no bfloat16 in hardware"
    elif classifier.transform is None or not len(table):
        return "float32"  # there is nothing to compute, or it is refused
    else:
        store_pictures(table.head(GROUP), pictures, progress=progress)
        some = _Files(table.head(GROUP), pictures, classifier.transform)
        batch = some.batch(range(len(some)))
        exact, mixed = (
            _classifier_run(classifier, device, batch[:EXAMPLE], precision).run(batch)[0].float()
            for precision in ("float32", "bfloat16")
        )
        error = _difference(mixed, exact)
        # Not `error > BFLOAT16`: NaN is float32's, too.
        taken = "bfloat16" if error <= BFLOAT16 else "float32"
        why = f"bfloat16 differs by {error:.1e} of the features' length; {BFLOAT16:g} is let"
    _note(_kept_apart(home, taken), model=classifier.name, rows=len(table), auto=f"{taken}: {why}")
    return taken


def _difference(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Largest distance of two tables of features, of each one's length."""
    return float(((found - truth).norm(dim=1) / truth.norm(dim=1)).max())


def _has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 by instructions of its own."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0) or bool(torch.version.hip)
    if device.type == "cpu":
        # Of x86 and of ARM; older versions of torch do not say.
        flags = getattr(torch.cpu, "get_capabilities", dict)()
        return any(flags.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    return False


class _Memory(TorchDispatchMode):
    """Watches what operations write: the most bytes that were held at once, on any device."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(
        self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        found = func(*args, **(kwargs or {}))
        self.held = {key: held for key, held in self.held.items() if not held[0].expired()}
        for part in tree_leaves(found):
            if isinstance(part, torch.Tensor):
                storage = part.untyped_storage()
                self.held[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.most = max(self.most, sum(size for _, size in self.held.values()))
        return found


def _fitting_batch(run: Callable, example: torch.Tensor, device: torch.device) -> int:
    """As many pictures as a quarter of the free memory takes: a power of two, 1 to MOST."""
    run(example)  # what is made once is no picture's
    with _Memory() as memory:
        run(example)
    # The batch itself twice: the next one is made meanwhile.
    each = (memory.most + 2 * example.nbytes) / len(example)
    fitting = int(_free_memory(device) / 4 / each)
    return min(MOST, 2 ** max(0, fitting.bit_length() - 1))


def _free_memory(device: torch.device) -> float:
    """Bytes that are free on a device, or that a container may still take."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        free = 1024.0 * int(re.search(r"^MemAvailable:\s*(\d+) kB", text, re.M)[1])
    except (OSError, TypeError):
        # macOS counts no free pages; the half leaves room for whatever else runs.
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    try:
        limit, used = (
            Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="ascii").strip()
            for name in ("max", "current")
        )
    except OSError:
        return free
    return min(free, max(0.0, float(limit) - float(used))) if limit.isdigit() else free


_COMPILED: set[str] = set()  # titles of what this process compiled


def _is_worth_compiling(policy: str, pictures: int, device: torch.device) -> bool:
    """Whether to compile a network for so many pictures; the same in two runs of one size."""
    if policy != "auto":
        return policy == "always"
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return (
        pictures * SAVED / torch.get_num_threads() > COMPILING and not _COMPILED
        and (device.type != "cpu" or shutil.which(compiler) is not None)
    )


def _compiled(
    title: str, run: Callable, followable: Callable, batch: torch.Tensor, device: torch.device,
    threads: int,
) -> Callable:
    """`run`, compiled for batches of this size if that gives the same features, and faster.

    `threads` are those of one call; they become part of the code.
    """
    if _COMPILED:
        # Measured: the second one ran on one core, slower than uncompiled.
        return _uncompiled(title, f"this process compiled {min(_COMPILED)}, and one is enough", run)
    _COMPILED.add(title)
    options = {"freezing": True} | ({"cpp.threads": threads} if device.type == "cpu" else {})
    have = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        whole = torch.compile(followable(), dynamic=False, fullgraph=True, options=options)

        @torch.inference_mode()
        def fast(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if x.shape != batch.shape:  # the last one of a shard
                return run(x)
            return whole(x.to(device, non_blocking=True, memory_format=torch.channels_last))

        error = _difference(fast(batch)[0], run(batch)[0])
        if not error <= AGREEMENT:
            reason = f"its features differ by {error:.1e} of their length; {AGREEMENT:g} is let"
            return _uncompiled(title, reason, run)
        ours, theirs = (
            min(times) for times in zip(
                *((_seconds(fast, batch, device), _seconds(run, batch, device)) for _ in range(4))
            )
        )
        if ours >= theirs:
            reason = f"a batch takes {ours:.3g} s with it and {theirs:.3g} s without"
            return _uncompiled(title, reason, run)
        return fast
    except (
        RuntimeError, TypeError, ValueError, AttributeError, AssertionError, OSError, ImportError,
    ) as error:  # many parts, and a C++ compiler, take part in torch.compile
        reason = next(iter(str(error).strip().splitlines()), "")
        return _uncompiled(title, f"{type(error).__name__}: {reason}", run)
    finally:
        torch.set_num_threads(have)


def _uncompiled(title: str, reason: str, run: Callable) -> Callable:
    warnings.warn(f"{title} runs without torch.compile: {reason}.", RuntimeWarning, stacklevel=2)
    return run


def _seconds(run: Callable, batch: torch.Tensor, device: torch.device) -> float:
    start = time.perf_counter()
    run(batch)
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


# --- from file to feature -----------------------------------------------------------------------


def _place(path: Path) -> str:
    """What a shard says of itself: of which network and pictures it is, and which one."""
    return f"{path.parent.name}/{path.name}"


def _shard(path: Path, shapes: Mapping[str, tuple[int, int]]) -> dict[str, torch.Tensor] | None:
    """A shard's tensors; None if it is missing, damaged or another's: it is computed again."""

    def wrong(found: tuple[dict[str, torch.Tensor], object]) -> str:
        held, place = found
        if place not in (None, _place(path)):
            return f"it is {place}"
        have = {name: tuple(held[name].shape) for name in shapes if name in held}
        if have != dict(shapes):
            return f"it holds {have}; expected {dict(shapes)}"
        return "" if held[next(iter(shapes))].isfinite().all() else "it holds NaN or infinity"

    found = read_or_none(path, partial(opened, older=True), wrong)
    return None if found is None else found[0]


class _Files(torch.utils.data.Dataset):
    """Transformed pictures, for torch's own loader."""

    def __init__(self, table: pd.DataFrame, folder: Path, transform: Callable) -> None:
        rows = table.to_dict("records")
        self.files = [picture_file(row, folder) for row in rows]
        # A folder's pictures may change while a run takes hours; their names would stay.
        self.shas = [picture_sha(row) for row in rows]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(read_picture(self.files[index], sha=self.shas[index]))

    def batch(self, rows: Sequence[int]) -> torch.Tensor:
        """Some of them as (n, 3, h, w), channels last."""
        batch = torch.stack([self[row] for row in rows])
        return batch.contiguous(memory_format=torch.channels_last)


def _plan(shard: int, rows: int, batch: int) -> list[list[int]]:
    """Rows of each batch of a shard."""
    end = min((shard + 1) * SHARD, rows)
    return [
        list(range(start, min(start + batch, end))) for start in range(shard * SHARD, end, batch)
    ]


def _numbers(found: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [part.float().cpu() for part in found]


def _together(
    pictures: _Files, groups: list[list[int]], run: Callable, most: int
) -> Iterator[list[torch.Tensor]]:
    """Results of the groups, in order: each thread makes and runs a group, up to `most` at a time.

    A network's layers are too small to keep many processors busy from one thread, which waits at
    the end of each for the slowest, often one that decodes pictures beside it.
    """
    have = torch.get_num_threads()
    threads = min(have, most)

    def work(group: list[int]) -> list[torch.Tensor]:
        return _numbers(run(pictures.batch(group)))

    if have == 1:
        yield from map(work, groups)
        return
    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(threads, "features", torch.set_num_threads, (have // threads,))
    try:
        for group in groups:
            waiting.append(pool.submit(work, group))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(have)  # what threads set is what threads to come would start with


def _in_turn(
    pictures: _Files, groups: list[list[int]], run: Callable, workers: int
) -> Iterator[list[torch.Tensor]]:
    """Results of the groups, in order: the next ones are made while the current one is run."""
    if workers:
        # Not forked: the network and its threads already run in this process.
        loader = torch.utils.data.DataLoader(
            pictures, batch_sampler=groups, num_workers=min(workers, os.cpu_count() or 1),
            pin_memory=torch.cuda.is_available(), multiprocessing_context="forkserver",
        )
        try:
            for batch in loader:
                yield _numbers(run(batch))
        except SingError as error:
            # Of another process it comes with that process's traceback; the message is its end.
            raise SingError(error.args[0].rpartition("SingError: ")[2].strip()) from error
        return
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(pictures.batch, groups[0])
        for following in [*groups[1:], None]:
            batch = ahead.result()
            if following is not None:
                ahead = pool.submit(pictures.batch, following)
            yield _numbers(run(batch))


@contextmanager
def _kept_memory() -> Iterator[None]:
    """Memory that is freed stays with this process, to be used again, until the end.

    A network frees what each layer writes, up to hundreds of megabytes. glibc hands blocks of that
    size back to the system at once, and the system clears every page that it gives out again:
    more than half of the processor time of a network. Other C libraries (musl, macOS) have no such
    calls; there nothing is changed.
    """
    try:
        libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    except OSError:  # a Python without dynamic libraries
        libc = None
    if not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):
        yield
        return
    mmap_threshold, trim_threshold, mmap_max, arena_max = -3, -1, -4, -8  # of malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    # Arenas of threads hold blocks of 64 MB at most. This is not taken back: a thread that is
    # given an arena left by an earlier one would run at half the speed.
    libc.mallopt(arena_max, 1)
    try:
        yield
    finally:
        # Its defaults, and the threshold that it reaches by itself as large blocks are freed.
        libc.mallopt(mmap_max, 65536)
        libc.mallopt(mmap_threshold, 2**25)
        libc.mallopt(trim_threshold, 2**26)
        libc.malloc_trim(ctypes.c_size_t(0))
