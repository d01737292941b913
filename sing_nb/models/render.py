"""A picture for an embedding: unCLIP, equations (18) and (19).

Offline there is no decoder, and the nearest photos stand for an embedding (study/neighbours.py).
"""

from __future__ import annotations

import io
import typing
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from ..errors import SingError
from ..pictures.cache import content_key
from ..pictures.features import run_device
from ..pictures.fetch import write_atomic
from ..pictures.images import read_picture
from .hub import from_hub, hub_reachable
from .joint import OpenClipSpace, weights_key

if typing.TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["KARLO", "UnClip", "embedding_length", "load_renderer"]

KARLO = "kakaobrain/karlo-v1-alpha-image-variations"
"""The paper's unCLIP: it draws from image embeddings of OpenAI's CLIP ViT-L/14, 768 wide."""


class UnClip:
    """Karlo's image variations, fed with an embedding instead of a picture."""

    def __init__(
        self, pipeline: DiffusionPipeline, *, norm: float | None = None, seed: int = 0,
        decoder_steps: int = 25, super_res_steps: int = 7, guidance: float = 8.0,
    ) -> None:
        if norm is not None and not 0 < norm < float("inf"):
            raise SingError(f"norm must be above 0, as embedding_length measures it; got {norm}.")
        self.pipeline, self.norm, self.seed = pipeline, norm, seed
        self.settings = {
            "decoder_num_inference_steps": decoder_steps,
            "super_res_num_inference_steps": super_res_steps, "decoder_guidance_scale": guidance}
        self.dimensions = pipeline.text_proj.config.clip_embeddings_dim
        # One bar a picture and stage would drown ours.
        pipeline.set_progress_bar_config(disable=True)

    def __call__(self, z: torch.Tensor, *, progress: bool = False) -> list[Image.Image]:
        """A picture (PIL, RGB) for each row of z (n, d), d = ``dimensions``."""
        return [self._draw(row) for row in self._rows(z, progress)]

    def render_to(self, folder: Path, z: torch.Tensor, *, progress: bool = True) -> list[Path]:
        """Pictures of z as PNG files, drawn or from an earlier run."""
        paths = []
        for row in self._rows(z, progress):
            paths.append(Path(folder) / f"{content_key(self.key, row)}.png")
            if not _whole(paths[-1]):
                buffer = io.BytesIO()
                self._draw(row).save(buffer, "PNG")
                write_atomic(paths[-1], buffer.getvalue())
        return paths

    @cached_property
    def key(self) -> str:
        """Hash of weights, precision, device and settings."""
        parts = self.pipeline.components.items()
        weights = weights_key({n: part for n, part in parts if isinstance(part, torch.nn.Module)})
        device = self.pipeline.device.type
        return content_key("unclip", weights, self.norm, self.seed, self.settings, device)

    def _rows(self, z: torch.Tensor, progress: bool) -> tqdm:
        z = z.detach().float().cpu()
        length = z.norm(dim=-1)
        if z.shape[1:] != (self.dimensions,) or not ((length > 0) & length.isfinite()).all():
            raise SingError(
                f"unCLIP draws embeddings (n, {self.dimensions}), finite and not zero, of its own "
                f"joint space (Karlo's is open_clip/ViT-L-14-quickgelu:openai); got "
                f"{tuple(z.shape)} with lengths {length.flatten()[:4].tolist()} …")
        bar = None if progress and len(z) else True
        return tqdm(z, desc="drawing with unCLIP", unit="picture", disable=bar)

    def _draw(self, row: torch.Tensor) -> Image.Image:
        if self.norm is not None:
            row = normalize(row, dim=0) * self.norm
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            return self.pipeline(
                image_embeddings=row[None].to(self.pipeline.device, self.pipeline.decoder.dtype),
                # On the CPU, whose stream of numbers is the same beside every GPU.
                generator=torch.Generator().manual_seed(self.seed), **self.settings,
            ).images[0]


def _whole(path: Path) -> bool:
    """Whether a drawn picture can be read; a damaged one is drawn again."""
    try:
        return path.is_file() and bool(read_picture(path))
    except SingError:
        return False


def embedding_length(
    space: OpenClipSpace, paths: Sequence[str | Path], *, limit: int = 64
) -> float:
    """Median length of pictures' embeddings before normalisation, for :class:`UnClip`."""
    chosen = paths[:: -(-len(paths) // limit) or 1]
    lengths = [
        space.encode_images(space.transform(read_picture(path))[None], normalise=False).norm()
        for path in chosen]
    return float(torch.stack(lengths).median())


def load_renderer(name: str, *, device: str = "auto", **settings: object) -> UnClip:
    """Load a decoder that draws pictures of embeddings, by name.

    Parameters
    ----------
    name : str
        ``"unclip/<repository>"`` (:data:`KARLO`) or ``"unclip/<folder>"`` with a saved
        ``UnCLIPImageVariationPipeline``.
    device : str
        ``"auto"`` (a GPU if there is one) or a device of torch. Weights are float16 on a CUDA
        device and float32 elsewhere.
    **settings
        Of :class:`UnClip`, such as ``norm`` and ``seed``.

    Returns
    -------
    UnClip
        Called with embeddings (n, d) it returns n pictures.

    Raises
    ------
    SingError
        If the name is unknown, the weights cannot be had, or diffusers no longer has the pipeline.

    Examples
    --------
    >>> load_renderer("unclip/./no-such-folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sing_nb.errors.SingError: no-such-folder is no folder with a saved UnCLIP...
    """
    kind, _, source = name.partition("/")
    if kind != "unclip" or not source:
        raise SingError(
            f"Unknown rendering {name!r}; expected 'unclip/<repository or folder>', for example "
            f"'unclip/{KARLO}'.")
    return UnClip(_load_karlo(source, run_device(device)), **settings)


def _load_karlo(source: str, device: torch.device) -> DiffusionPipeline:
    import diffusers
    import transformers

    folder = Path(source).expanduser()
    own = folder.is_dir() or folder.is_absolute() or source.startswith(".")

    def load() -> DiffusionPipeline:
        level = diffusers.utils.logging.get_verbosity()
        diffusers.utils.logging.set_verbosity_error()  # it is deprecated: pyproject's range knows
        transformers.utils.logging.disable_progress_bar()
        try:
            return _pipeline(str(folder) if own else source, own or not hub_reachable(),
                             torch.float16 if device.type == "cuda" else torch.float32)
        finally:
            diffusers.utils.logging.set_verbosity(level)

    if not own:
        advice = "renderer: nearest shows photos and needs none"
        pipeline = from_hub(f"the unCLIP weights {source}", load, advice=advice)
    else:
        try:
            pipeline = load()
        except Exception as error:  # diffusers, transformers and safetensors raise many kinds
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise SingError(
                f"{folder} is no folder with a saved UnCLIPImageVariationPipeline: {reason}"
            ) from error
    return pipeline.to(device)


def _pipeline(source: str, local: bool, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline, part by part, each in its precision as its library makes it."""
    import diffusers

    try:
        kind = diffusers.UnCLIPImageVariationPipeline
    except (ImportError, AttributeError, RuntimeError) as error:
        raise SingError(
            f"diffusers {diffusers.__version__} has no UnCLIPImageVariationPipeline: install a "
            f"version that still has it (pip install 'diffusers>=0.35,<0.43'), or take "
            f"renderer: nearest."
        ) from error
    parts = {}
    for name, part in typing.get_type_hints(kind.__init__).items():
        if name == "return":
            continue
        precise = {}
        if issubclass(part, torch.nn.Module):
            key = "torch_dtype" if issubclass(part, diffusers.ModelMixin) else "dtype"
            precise = {key: dtype}
        parts[name] = part.from_pretrained(
            source, subfolder=name, local_files_only=local, **precise)
    return kind(**parts)
