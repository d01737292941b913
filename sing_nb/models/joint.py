"""Joint image-text spaces: where features are translated to and words live."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path

import torch
import yaml
from torch import nn
from torch.nn.functional import normalize

from ..errors import SingError, unknown
from ..pictures.cache import content_key
from ..pictures.fetch import data_dir
from .classifier import Classifier
from .hub import from_hub
from .load import load_classifier
from .prompts import prompt
from .texts import SentenceEncoder, Texts

__all__ = ["ConseSpace", "OpenClipSpace", "joint_spaces", "load_joint_space", "weights_key"]

PRECISIONS = ("float32", "bfloat16", "float16")


def joint_spaces() -> dict[str, dict]:
    """The joint spaces that the profiles use, ``data/joint_spaces.yaml``: title, dimensions, ..."""
    path = data_dir() / "joint_spaces.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def weights_key(modules: Mapping[str, nn.Module]) -> str:
    """Hash of the names and weights of modules, wherever they lie."""
    states = {name: module.state_dict() for name, module in modules.items()}
    return content_key(*(
        part for name, state in states.items() for key, weight in state.items()
        for part in (name, key, weight)))


class ConseSpace:
    """The offline joint space: a classifier's probabilities, spoken in sentence embeddings."""

    name = "conse"

    def __init__(
        self, tower: Classifier, encoder: Callable[[Sequence[str]], torch.Tensor],
        top: int = 75, temperature: float | None = None,
    ) -> None:
        if tower.class_names is None:
            raise SingError(f"The tower {tower.name} has no class names; a ConSE space needs them.")
        classes = len(tower.class_names)
        if not 0 < top < classes or (temperature is not None and not temperature > 0):
            raise SingError(
                f"top must lie between 1 and {classes - 1}, one less than the tower's classes, and "
                f"a temperature above 0; got {top=}, {temperature=}.")
        self.tower, self.encoder, self.top, self.temperature = tower, encoder, top, temperature
        raw = encoder([prompt(name) for name in tower.class_names])
        self._centre = raw.mean(0)
        self._classes = normalize(raw - self._centre, dim=-1).float()
        self.dimensions = raw.shape[1]
        self.title = f"ConSE over {tower.title}"
        self.about = (
            f"The word space of this run is ConSE (Norouzi et al., 2014). It stands in for CLIP, "
            f"whose weights lie on a model hub: {tower.title} looks at a picture, and its class "
            f"probabilities speak through sentence embeddings of the class names. It knows "
            f"{classes:,} classes and no more. Angles here cannot be compared with angles in CLIP.")

    def encode_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (n, d) of pictures from the tower's logits (n, c)."""
        if logits.shape[-1] != len(self._classes):
            raise SingError(
                f"The tower {self.tower.name} has {len(self._classes)} logits; got "
                f"{tuple(logits.shape)}.")
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

    def encode_text(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Unit embeddings (n, d) of texts; an empty one is refused."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        return normalize(self.encoder(texts) - self._centre, dim=-1).float()


class OpenClipSpace:
    """A CLIP model of open_clip: the paper's kind of joint space."""

    def __init__(
        self, model: str, *, device: str | torch.device = "cpu", precision: str = "float32",
        cache: Path | None = None,
    ) -> None:
        import open_clip

        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        architecture, _, place = model.partition(":")
        whole = architecture in ("local-dir", "hf-hub")  # with a configuration of its own
        own = Path(place).is_file() or architecture == "local-dir"
        if not whole:
            _check_name(architecture, place)
        identifier = model if whole else architecture

        def load() -> tuple:
            logging.disable(logging.ERROR)  # what open_clip logs it raises as well
            try:
                # This function never falls back to random weights.
                module, transform = open_clip.create_model_from_pretrained(
                    identifier, pretrained=None if whole else place, precision="fp32", device="cpu")
                config = open_clip.get_model_config(identifier)
                return module, transform, open_clip.get_tokenizer(identifier), config
            finally:
                logging.disable(logging.NOTSET)

        self.name, self.precision, self.cache = f"open_clip/{model}", precision, cache
        loaded = _read(self.name, load) if own else from_hub(f"the joint space {self.name}", load)
        module, self.transform, self._tokenizer, config = loaded
        self.module = module.to(device).eval().requires_grad_(False)
        self.dimensions: int = config["embed_dim"]
        self._config = json.dumps(config, sort_keys=True, default=str)
        listed = joint_spaces().get(self.name, {})
        short = Path(place).name if whole or own else place
        self.title: str = listed.get("title", f"CLIP {'' if whole else architecture} ({short})")
        self.about: str = listed.get("note", f"A joint space of the paper's kind, from the "
                                     f"checkpoint {model}; the paper's own is CLIP ViT-L/14.")

    def __repr__(self) -> str:
        return f"OpenClipSpace({self.name!r}, dimensions={self.dimensions})"

    @cached_property
    def key(self) -> str:
        """Hash of what a text embedding depends on besides the text."""
        return content_key(weights_key({"clip": self.module}), self._config, self.precision)

    @cached_property
    def _texts(self) -> Texts:
        folder = None if self.cache is None else Path(self.cache) / self.key
        return Texts(self._prompts, self.dimensions, folder)

    def encode_images(self, batch: torch.Tensor, normalise: bool = True) -> torch.Tensor:
        """Embeddings (n, d) of pictures (n, 3, h, w), of ``transform``; float32, on the CPU."""
        found = self._run(self.module.encode_image, batch)
        return normalize(found, dim=-1) if normalise else found

    def encode_text(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Unit embeddings (n, d) of texts, float32, on the CPU; an empty one is refused."""
        return self._texts(texts)

    def _prompts(self, texts: list[str]) -> torch.Tensor:
        return normalize(self._run(self.module.encode_text, self._tokenizer(texts)), dim=-1)

    @torch.no_grad()
    def _run(self, encode: Callable, batch: torch.Tensor) -> torch.Tensor:
        device = next(self.module.parameters()).device
        mixed = nullcontext() if self.precision == "float32" else torch.autocast(
            device.type, dtype=getattr(torch, self.precision))
        with mixed:
            return encode(batch.to(device)).float().cpu()


def _read(name: str, load: Callable[[], tuple]) -> tuple:
    """A model of one's own files."""
    try:
        return load()
    except Exception as error:  # open_clip, safetensors and torch raise many kinds
        raise SingError(
            f"The weights of {name} could not be read: {type(error).__name__}: {str(error)[:300]}. "
            f"Expected a state dict of this architecture, or a folder with open_clip_config.json "
            f"and open_clip_model.safetensors."
        ) from error


def _check_name(architecture: str, tag: str) -> None:
    """Refuse what open_clip does not know, before any network is asked."""
    import open_clip

    models = open_clip.list_models()
    if architecture not in models:
        raise unknown("model of open_clip", architecture, models)
    if Path(tag).is_file():
        return
    about = open_clip.get_pretrained_cfg(architecture, tag)
    if not about:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise unknown(f"weights of {architecture}", tag, tags, " Or give a file that exists.")
    quick = bool(about.get("quick_gelu"))
    if quick != bool(open_clip.get_model_config(architecture).get("quick_gelu")):
        # With the wrong one of the two activations every embedding is a little off.
        other = f"{architecture}-quickgelu" if quick else architecture.removesuffix("-quickgelu")
        raise SingError(
            f"The weights {tag} were trained {'with' if quick else 'without'} QuickGELU, unlike "
            f"the model {architecture}. "
            + (f"Take open_clip/{other}:{tag}." if other in models else "Take other weights."))


def load_joint_space(
    name: str, *, tower: str = "lite2", top: int = 75, temperature: float | None = None,
    device: str | torch.device = "cpu", precision: str = "float32", cache: Path | None = None,
) -> ConseSpace | OpenClipSpace:
    """Load a joint image-text space.

    Parameters
    ----------
    name : str
        ``"conse"`` (offline). Or of open_clip: ``"open_clip/<model>:<tag>"`` as in
        ``open_clip.list_pretrained()`` or ``"open_clip/hf-hub:<repository>"``, from the model hub
        or its cache; ``"open_clip/<model>:<weights file>"``, or ``"open_clip/local-dir:<folder>"``
        with open_clip's own ``open_clip_config.json`` and weights.
    tower : str
        Classifier whose logits build the ConSE space.
    top : int
        How many of its largest logits speak.
    temperature : float, optional
        Above 0: weigh all classes by a softmax instead.
    device : str or torch.device
        Where an open_clip model runs.
    precision : {"float32", "bfloat16", "float16"}
        Below float32 it runs under torch's autocast; results are float32 all the same, and their
        cosine with those of float32 is above 0.999.
    cache : pathlib.Path, optional
        Folder that embeddings of texts are kept in: those of a study take seconds.

    Returns
    -------
    ConseSpace or OpenClipSpace
        ``encode_images(batch)`` and ``encode_text(texts)`` give unit vectors (n, d), d =
        ``dimensions``. ``name`` is the one given; ``title`` and ``about`` are for people.

    Raises
    ------
    SingError
        If the name is unknown, the weights belong to the other activation (both before a network
        is asked), or they cannot be had or read here.

    Examples
    --------
    >>> from sing_nb.pictures.fetch import cache_dir
    >>> space = load_joint_space("conse", tower="lite0", cache=cache_dir() / "texts")
    >>> space.encode_text(["an image of a camel", "snow"]).shape
    torch.Size([2, 384])
    """
    if name == "conse":
        return ConseSpace(load_classifier(tower), SentenceEncoder(cache), top, temperature)
    if name.startswith("open_clip/") and ":" in name:
        return OpenClipSpace(
            name.removeprefix("open_clip/"), device=device, precision=precision, cache=cache)
    raise SingError(
        f"Unknown joint space {name!r}; expected 'conse' or 'open_clip/<model>:<tag>', for "
        f"example {' or '.join(key for key in joint_spaces() if key != 'conse')}.")
