"""A picture for an embedding: the nearest photo (offline), or unCLIP, equations (18) and (19)."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import io
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from ..errors import SingError
from ..pictures.features import run_device
from ..pictures.fetch import write_atomic
from ..pictures.images import read_picture
from .hub import from_hub, hub_reachable
from .joint import OpenClipSpace, fingerprint

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["KARLO", "NearestPhotos", "Renderer", "UnClip", "embedding_length", "load_renderer"]

KARLO = "kakaobrain/karlo-v1-alpha-image-variations"
"""The paper's unCLIP: it draws from image embeddings of OpenAI's CLIP ViT-L/14, 768 wide."""

RANGE = "diffusers>=0.35,<0.43"  # run here at both ends; the same range stands in pyproject.toml

# What the picture is made with; the pipeline's image encoder is not asked.
DRAWING = ("text_encoder", "text_proj", "decoder", "super_res_first", "super_res_last")


class Renderer(ABC):
    """Draws a picture for each embedding: ``renderer(z)``.

    Attributes
    ----------
    title : str
        Name for people.
    dimensions : int
        Width d of the embeddings that it draws.
    batch : int
        Pictures that are drawn at a time, and that a killed run loses at most.
    """

    title: str
    dimensions: int
    batch: int = 1

    def __call__(
        self, z: torch.Tensor, *, exclude: Sequence[Sequence[int]] | None = None,
        progress: bool = False,
    ) -> list[Image.Image]:
        """Pictures (RGB) of embeddings.

        Parameters
        ----------
        z : torch.Tensor
            (n, d).
        exclude : sequence of sequence of int, optional
            For each embedding the photos that may not stand for it, such as its own subject's.
            unCLIP ignores it: it has no photos to choose from.
        progress : bool
            Whether to show a progress bar.

        Returns
        -------
        list of PIL.Image.Image
            One for each row.

        Raises
        ------
        SingError
            If z has another width, or a row that is zero or not finite.
        """
        z, exclude = self._checked(z, exclude)
        pictures: list[Image.Image] = []
        with self._bar(len(z), progress) as bar:
            for start in range(0, len(z), self.batch):
                rows = slice(start, start + self.batch)
                pictures += self._draw(z[rows], exclude[rows])
                bar.update(len(z[rows]))
        return pictures

    def render_to(
        self, folder: Path, z: torch.Tensor, *, exclude: Sequence[Sequence[int]] | None = None,
        progress: bool = True,
    ) -> list[Path]:
        """Pictures of embeddings as PNG files, drawn or found from an earlier run.

        A file's name is a hash of its embedding and of everything else that the picture depends
        on. Files are written as they are drawn, so that a killed run loses one batch at most;
        equal rows are drawn once.

        Parameters
        ----------
        folder : pathlib.Path
            Where the files lie; made if missing.
        z, exclude, progress
            As for a call.

        Returns
        -------
        list of pathlib.Path
            One for each row.
        """
        z, exclude = self._checked(z, exclude)
        paths = [Path(folder) / f"{self._name(*row)}.png" for row in zip(z, exclude)]
        missing = {path: at for at, path in enumerate(paths) if not _whole(path)}
        todo = list(missing.items())
        with self._bar(len(todo), progress) as bar:
            for start in range(0, len(todo), self.batch):
                part = todo[start : start + self.batch]
                rows = [at for _, at in part]
                drawn = self._draw(z[rows], [exclude[at] for at in rows])
                for (path, _), picture in zip(part, drawn, strict=True):
                    buffer = io.BytesIO()
                    picture.save(buffer, "PNG")
                    write_atomic(path, buffer.getvalue())
                bar.update(len(part))
        return paths

    @property
    @abstractmethod
    def key(self) -> str:
        """Hash of everything but the embedding that a picture depends on."""

    @abstractmethod
    def _draw(self, z: torch.Tensor, exclude: Sequence[tuple[int, ...]]) -> list[Image.Image]:
        """Pictures of checked embeddings, at most a batch."""

    def _name(self, row: torch.Tensor, exclude: tuple[int, ...]) -> str:
        what = row.numpy().tobytes() + repr((self.key, exclude)).encode()
        return hashlib.sha256(what).hexdigest()[:32]

    def _bar(self, total: int, progress: bool) -> tqdm:
        return tqdm(
            total=total, desc=f"drawing with {self.title}", unit="picture",
            disable=None if progress and total else True,
        )

    def _checked(
        self, z: torch.Tensor, exclude: Sequence[Sequence[int]] | None
    ) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
        if z.ndim != 2 or z.shape[1] != self.dimensions:
            raise SingError(
                f"{self.title} draws embeddings of {self.dimensions} dimensions, (n, "
                f"{self.dimensions}); got {tuple(z.shape)}. {self._advice}"
            )
        z = z.detach().float().cpu().contiguous()
        length = z.norm(dim=1)
        bad = torch.nonzero(~torch.isfinite(length) | (length == 0)).flatten().tolist()
        if bad:
            raise SingError(f"Row {bad[0]} of the embeddings is zero, NaN or infinite.")
        if exclude is not None and len(exclude) != len(z):
            raise SingError(
                f"exclude needs one list of photos an embedding; got {len(exclude)} for {len(z)}."
            )
        # What is left out must not tell unCLIP's pictures apart.
        chosen = exclude if exclude is not None and self._chooses else [()] * len(z)
        return z, [tuple(sorted({int(index) for index in row})) for row in chosen]

    _advice = ""
    _chooses = False


class NearestPhotos(Renderer):
    """The photo whose embedding has the smallest angle to the one asked for; needs no weights.

    Parameters
    ----------
    embeddings : torch.Tensor
        (N, d), of photos.
    paths : sequence of path-like
        Their files.
    side : int
        Longer side of a returned picture in pixels, at most.
    """

    title = "nearest photos"
    batch = 64
    _chooses = True
    _advice = "Photos and embeddings must lie in one joint space."

    def __init__(
        self, embeddings: torch.Tensor, paths: Sequence[str | Path], *, side: int = 256
    ) -> None:
        if embeddings.ndim != 2 or len(embeddings) != len(paths) or not len(paths):
            raise SingError(
                f"NearestPhotos needs one embedding a photo, (N, d); got "
                f"{tuple(embeddings.shape)} for {len(paths)} photos."
            )
        self.paths, self.side = [Path(path) for path in paths], side
        self.dimensions = embeddings.shape[1]
        self._units = normalize(embeddings.detach().double().cpu(), dim=1)

    @cached_property
    def key(self) -> str:
        """Hash of the embeddings and of the files' names, sizes and times."""
        digest = hashlib.sha256(self._units.numpy().tobytes())
        for path in self.paths:
            try:
                stat = path.stat()
            except OSError as error:
                raise SingError(f"The photo {path} cannot be read: {error.strerror}.") from error
            digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return f"nearest-{digest.hexdigest()}-{self.side}"

    def nearest(
        self, z: torch.Tensor, *, exclude: Sequence[Sequence[int]] | None = None
    ) -> torch.Tensor:
        """Index of the nearest photo of each embedding (n, d); (n,), int64.

        Raises
        ------
        SingError
            If all photos are left out, or z cannot be drawn.
        """
        return self._nearest(*self._checked(z, exclude))

    def _nearest(self, z: torch.Tensor, exclude: Sequence[tuple[int, ...]]) -> torch.Tensor:
        cosine = normalize(z.double(), dim=1) @ self._units.T
        for line, left_out in zip(cosine, exclude):
            if any(not 0 <= index < len(self.paths) for index in left_out):
                raise SingError(
                    f"exclude names photo {max(left_out)}; there are {len(self.paths)}, from 0."
                )
            line[list(left_out)] = -torch.inf
            if len(left_out) == len(self.paths):
                raise SingError("All photos are left out; there is none to show.")
        return cosine.argmax(dim=1)

    def _draw(self, z: torch.Tensor, exclude: Sequence[tuple[int, ...]]) -> list[Image.Image]:
        pictures = []
        for index in self._nearest(z, exclude).tolist():
            picture = read_picture(self.paths[index])
            picture.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
            pictures.append(picture)
        return pictures


class UnClip(Renderer):
    """Karlo's image variations, fed with an embedding instead of a picture.

    One fixed noise tensor for the decoder and one for the super-resolution is shared by all
    pictures, and so is the noise that the scheduler adds at every step: pictures differ by their
    embeddings alone, and a fixed embedding gives a fixed picture, bit by bit on one machine.

    Parameters
    ----------
    pipeline : diffusers.UnCLIPImageVariationPipeline
        On its device and in its precision. Embeddings are cast to both.
    norm : float, optional
        Length that every embedding is given, that of the joint space's own embeddings before
        normalisation (:func:`embedding_length`). T(f) and T(f~) then have one length, as
        equation (19) asks for. Without it embeddings are drawn at the length they come with: use
        `metrics.match_length` on those of a translator that was fitted on lengths.
    seed : int
        Of all noise.
    decoder_steps, super_res_steps : int
        Denoising steps, at least 2; the defaults are the pipeline's.
    guidance : float
        Scale of the decoder's classifier-free guidance; the default is the pipeline's.
    batch : int
        Embeddings a pass. With 1 a picture never depends on what is drawn with it. More are
        faster on a large GPU, but the same only within rounding, which denoising can enlarge.
    """

    title = "unCLIP"
    _advice = (
        "A picture can only be drawn from the joint space that the decoder was trained with: "
        "Karlo's is CLIP ViT-L/14, open_clip/ViT-L-14-quickgelu:openai."
    )

    def __init__(
        self, pipeline: DiffusionPipeline, *, norm: float | None, seed: int = 0,
        decoder_steps: int = 25, super_res_steps: int = 7, guidance: float = 8.0, batch: int = 1,
    ) -> None:
        if norm is not None and not 0 < norm < float("inf"):
            raise SingError(
                f"norm must be above 0, about the length of the space's own embeddings before "
                f"normalisation (embedding_length measures it); got {norm}."
            )
        if decoder_steps < 2 or super_res_steps < 2 or batch < 1:
            raise SingError(
                f"unCLIP needs at least 2 steps a stage and 1 picture a batch; got "
                f"decoder_steps={decoder_steps}, super_res_steps={super_res_steps}, batch={batch}."
            )
        self.pipeline, self.norm, self.seed, self.batch = pipeline, norm, seed, batch
        self.decoder_steps, self.super_res_steps = decoder_steps, super_res_steps
        self.guidance = guidance
        self.dimensions = pipeline.text_proj.config.clip_embeddings_dim
        # One bar a picture and stage would drown ours.
        pipeline.set_progress_bar_config(disable=True)

    @cached_property
    def key(self) -> str:
        """Hash of weights, precision, device and settings."""
        weights = fingerprint({name: getattr(self.pipeline, name) for name in DRAWING})
        settings = (
            self.norm, self.seed, self.decoder_steps, self.super_res_steps, self.guidance,
            self.batch, self.pipeline.device.type,
        )
        return f"unclip-{weights}-{settings}"

    def _draw(self, z: torch.Tensor, exclude: Sequence[tuple[int, ...]]) -> list[Image.Image]:
        pipeline, n = self.pipeline, len(z)
        device, dtype = pipeline.device, pipeline.decoder.dtype
        if self.norm is not None:
            z = normalize(z, dim=1) * self.norm
        # On the CPU, whose stream of numbers is the same beside every GPU. Generators that start
        # alike draw alike, also inside the schedulers, which add noise at every step.
        generators = [torch.Generator().manual_seed(self.seed) for _ in range(n)]
        noise = []
        for unet, scheduler, channels in (
            (pipeline.decoder, pipeline.decoder_scheduler, pipeline.decoder.config.in_channels),
            (
                pipeline.super_res_first, pipeline.super_res_scheduler,
                pipeline.super_res_first.config.in_channels // 2,
            ),
        ):
            shape = (1, channels, unet.config.sample_size, unet.config.sample_size)
            drawn = [torch.randn(shape, generator=generator) for generator in generators]
            noise.append((torch.cat(drawn) * scheduler.init_noise_sigma).to(device, dtype))
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            return pipeline(
                image_embeddings=z.to(device, dtype), decoder_latents=noise[0],
                super_res_latents=noise[1], generator=generators,
                decoder_num_inference_steps=self.decoder_steps,
                super_res_num_inference_steps=self.super_res_steps,
                decoder_guidance_scale=self.guidance,
            ).images


def embedding_length(
    space: OpenClipSpace, paths: Sequence[str | Path], *, limit: int = 64
) -> float:
    """Median length of pictures' embeddings before normalisation, for :class:`UnClip`.

    Parameters
    ----------
    space : OpenClipSpace
        The decoder's own joint space.
    paths : sequence of path-like
        Picture files; `limit` of them, evenly spread, are embedded.
    """
    if not len(paths):
        raise SingError("embedding_length needs at least one picture.")
    chosen = [paths[at] for at in range(0, len(paths), -(-len(paths) // limit))]
    parts = []
    for start in range(0, len(chosen), 16):
        pictures = [read_picture(path) for path in chosen[start : start + 16]]
        batch = torch.stack([space.transform(picture) for picture in pictures])
        parts.append(space.encode_images(batch, normalise=False).norm(dim=1))
    return float(torch.cat(parts).median())


def load_renderer(
    name: str, *, embeddings: torch.Tensor | None = None,
    paths: Sequence[str | Path] | None = None, norm: float | None = None, device: str = "auto",
    **settings: object,
) -> Renderer:
    """Load a rendering by name.

    Parameters
    ----------
    name : str
        ``"nearest"`` (offline), or ``"unclip/<repository>"`` (:data:`KARLO`) or
        ``"unclip/<folder>"`` with a saved ``UnCLIPImageVariationPipeline``.
    embeddings, paths
        Of the photos, for ``"nearest"``; see :class:`NearestPhotos`.
    norm : float, optional
        For unCLIP; see :class:`UnClip`.
    device : str
        For unCLIP: ``"auto"`` (a GPU if there is one) or a device of torch. Weights are float16
        on a CUDA device and float32 elsewhere.
    **settings
        More keywords of :class:`NearestPhotos` or :class:`UnClip`.

    Returns
    -------
    NearestPhotos or UnClip

    Raises
    ------
    SingError
        If the name is unknown, the weights cannot be had, or diffusers no longer has the pipeline.
    """
    if name == "nearest":
        if embeddings is None or paths is None:
            raise SingError("The rendering 'nearest' needs the embeddings and paths of photos.")
        return NearestPhotos(embeddings, paths, **settings)
    kind, _, source = name.partition("/")
    if kind != "unclip" or not source:
        raise SingError(
            f"Unknown rendering {name!r}; expected 'nearest' or 'unclip/<repository or folder>', "
            f"for example 'unclip/{KARLO}'."
        )
    place = run_device(device)
    return UnClip(_load_karlo(source, place), norm=norm, **settings)


def _load_karlo(source: str, device: torch.device) -> DiffusionPipeline:
    pipeline_class, classes = _karlo_classes()
    import diffusers
    import transformers

    half = torch.float16 if device.type == "cuda" else torch.float32
    folder = Path(source).expanduser()

    def load(local: bool) -> DiffusionPipeline:
        # Part by part: the published index names the projection's module by a place that diffusers
        # 0.42 no longer looks into, so that the pipeline's own from_pretrained refuses it.
        parts = {}
        for part, kind in classes.items():
            options = {"subfolder": part, "local_files_only": local}
            if issubclass(kind, diffusers.ModelMixin):
                options |= {
                    "torch_dtype": half,
                    "low_cpu_mem_usage": importlib.util.find_spec("accelerate") is not None,
                }
            loaded = kind.from_pretrained(str(folder) if local_folder else source, **options)
            if isinstance(loaded, transformers.PreTrainedModel):
                loaded = loaded.to(half).eval()
            parts[part] = loaded
        with _without_notice(pipeline_class.__name__):
            return pipeline_class(**parts).to(device)

    transformers.utils.logging.disable_progress_bar()
    local_folder = folder.is_dir()
    if not local_folder and (folder.is_absolute() or source.startswith((".", "~"))):
        raise SingError(f"There is no folder {folder} to load unCLIP from.")
    if not local_folder:
        return from_hub(
            f"the unCLIP weights {source}", lambda: load(not hub_reachable()),
            advice="the rendering 'nearest' needs none",
        )
    try:
        return load(True)
    except Exception as error:  # diffusers, transformers and safetensors raise many kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise SingError(
            f"{folder} could not be read as a saved UnCLIPImageVariationPipeline: {reason}"
        ) from error


def _karlo_classes() -> tuple[type, dict[str, type]]:
    """The pipeline's class, and that of each of its parts."""
    import diffusers
    import transformers

    try:
        try:
            pipeline = diffusers.UnCLIPImageVariationPipeline
        except AttributeError:  # dropped from the front door, but perhaps still in the house
            pipeline = importlib.import_module(
                "diffusers.pipelines.deprecated"
            ).UnCLIPImageVariationPipeline
        home = pipeline.__module__.rpartition(".")[0]
        projection = importlib.import_module(f"{home}.text_proj").UnCLIPTextProjModel
        scheduler = diffusers.UnCLIPScheduler
    except (ImportError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise SingError(
            f"diffusers {diffusers.__version__} has no UnCLIPImageVariationPipeline that works "
            f"here ({reason}). It is among the deprecated pipelines: install a version that has it "
            f"(pip install '{RANGE}'), or take the rendering 'nearest'. Other pipelines draw from "
            f"an embedding, too (StableUnCLIPImg2ImgPipeline, KandinskyV22Pipeline), but from that "
            f"of another CLIP, and need another translator."
        ) from error
    unet = diffusers.UNet2DModel
    return pipeline, {
        "text_encoder": transformers.CLIPTextModelWithProjection,
        "tokenizer": transformers.CLIPTokenizer,
        "text_proj": projection,
        "feature_extractor": transformers.CLIPImageProcessor,
        "image_encoder": transformers.CLIPVisionModelWithProjection,
        "decoder": diffusers.UNet2DConditionModel,
        "super_res_first": unet,
        "super_res_last": unet,
        "decoder_scheduler": scheduler,
        "super_res_scheduler": scheduler,
    }


@contextmanager
def _without_notice(name: str) -> Iterator[None]:
    """Without diffusers' notice that one pipeline is deprecated: the pin in pyproject knows."""
    def other(record: logging.LogRecord) -> bool:
        return f"The {name} has been deprecated" not in record.getMessage()

    logger = logging.getLogger("diffusers.pipelines.pipeline_utils")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def _whole(path: Path) -> bool:
    """Whether a drawn picture can be read; a damaged one is drawn again."""
    if not path.is_file():
        return False
    try:
        read_picture(path)
    except SingError:
        return False
    return True
