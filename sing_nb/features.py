"""Pictures to features, once per model: kept on disk in shards, resumable."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import safetensors.torch
import torch
from tqdm.auto import tqdm

from .errors import SingError
from .fetch import write_atomic
from .heads import Classifier
from .images import open_picture, picture_file, store_pictures

__all__ = ["FeatureSet", "compute_features", "feature_key"]

SHARD = 512  # pictures that a killed run loses at most
BATCH = 64


class FeatureSet(NamedTuple):
    """What one classifier says of a table of pictures.

    Attributes
    ----------
    features : torch.Tensor
        (n, m), float32, in the order of the table.
    logits : torch.Tensor
        (n, c), float32, the model's own.
    """

    features: torch.Tensor
    logits: torch.Tensor


def feature_key(classifier: Classifier, table: pd.DataFrame) -> str:
    """Short hash of everything that the features depend on: weights, transform, pictures."""
    digest = hashlib.sha256()
    for name, tensor in classifier.module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes())
    digest.update(_description(classifier.transform).encode())
    digest.update("\n".join(table["picture"]).encode())
    return digest.hexdigest()[:12]


def compute_features(
    classifier: Classifier, table: pd.DataFrame, pictures: Path, folder: Path, *,
    progress: bool = True,
) -> FeatureSet:
    """Features and logits of every picture of a table, computed or loaded.

    Shards are written atomically as they are done; a run that was killed goes on after the last
    one. Pictures are decoded and transformed in a second thread while the model runs in
    channels-last layout with its batch norms folded.

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
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    FeatureSet

    Raises
    ------
    SingError
        If the classifier has no transform, or a feature is not finite.
    """
    if classifier.transform is None:
        raise SingError(
            f"{classifier.name} has no transform; give wrap_classifier the function that turns a "
            f"PIL picture into the tensor the model reads."
        )
    home = Path(folder) / f"{classifier.name.replace('/', '-')}-{feature_key(classifier, table)}"
    shards = [home / f"{start // SHARD:04d}.safetensors" for start in range(0, len(table), SHARD)]
    missing = [index for index, path in enumerate(shards) if not _whole(path)]
    if missing:
        store_pictures(table, pictures, progress=progress)
        rows = table.to_dict("records")
        files = [picture_file(row, pictures) for row in rows]
        run = None
        with tqdm(
            total=len(rows), initial=SHARD * (len(shards) - len(missing)), unit="picture",
            desc=f"features of {classifier.title}", disable=None if progress else True,
        ) as bar:
            classifier.module.to(memory_format=torch.channels_last)
            for index in missing:
                parts = []
                for batch in _batches(files[index * SHARD : (index + 1) * SHARD], classifier):
                    run = run or classifier.traced(batch)
                    parts.append(run(batch))
                    bar.update(len(batch))
                found = FeatureSet(*(torch.cat(tensors).contiguous() for tensors in zip(*parts)))
                if not torch.isfinite(found.features).all():
                    raise SingError(
                        f"{classifier.name} gives NaN or infinite features for a picture in rows "
                        f"{index * SHARD} to {index * SHARD + len(found.features) - 1}; look at "
                        f"the model's weights and at those pictures."
                    )
                write_atomic(shards[index], safetensors.torch.save(found._asdict()))
        write_atomic(home / "card.json", json.dumps({"model": classifier.name, "rows": len(rows)}))
    loaded = [safetensors.torch.load_file(path) for path in shards]
    return FeatureSet(
        torch.cat([part["features"] for part in loaded]),
        torch.cat([part["logits"] for part in loaded]),
    )


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


def _whole(path: Path) -> bool:
    """Whether a shard can be read; a damaged one is computed again."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return {"features", "logits"} <= set(file.keys())
    except (FileNotFoundError, safetensors.SafetensorError):
        return False


def _batches(files: Sequence[Path], classifier: Classifier) -> Iterator[torch.Tensor]:
    """Transformed batches, the next one made while the current one is used."""

    def make(start: int) -> torch.Tensor:
        pictures = [
            classifier.transform(open_picture(path).convert("RGB"))
            for path in files[start : start + BATCH]
        ]
        return torch.stack(pictures).contiguous(memory_format=torch.channels_last)

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(make, 0)
        for start in range(0, len(files), BATCH):
            batch = ahead.result()
            if start + BATCH < len(files):
                ahead = pool.submit(make, start + BATCH)
            yield batch
