"""The translators that the paper's authors published, read into this package's own."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml

from ..errors import SingError
from ..method.translator import Translator
from .classifier import Classifier
from .load import model_names

__all__ = ["PUBLISHED_SPACE", "import_translator", "published_translators"]

BACKEND = "kakao_karlo_v1_alpha_image_variations"
PUBLISHED_SPACE = "open_clip/ViT-L-14-quickgelu:openai"
WIDTH = 768  # of CLIP ViT-L/14 image embeddings
KEYS = {
    "model_name": str, "translator_name": str, "architecture": str, "embedding_backend": str,
    "in_dim": int, "out_dim": int, "checkpoint_file": str,
}


def published_translators() -> dict[str, str]:
    """The authors' names of their translators, with our short names of the classifiers.

    Returns
    -------
    dict
        For example ``{"densenet": "densenet121"}``.
    """
    return {row["translator"]: name for name, row in model_names().items() if "translator" in row}


def import_translator(folder: str | Path, classifier: Classifier | None = None) -> Translator:
    """Read one of the authors' linear translators instead of fitting one.

    Parameters
    ----------
    folder : str or pathlib.Path
        Holds ``metadata.yaml`` and the checkpoint that it names (``best.pt``: a state dict with
        ``weight`` (768, m) and ``bias`` (768,)). With a classifier it may also be the authors'
        folder ``translators``, in which ``<model>/linear`` is looked for.
    classifier : Classifier, optional
        The classifier it is for: its width, and where ``data/models.yaml`` knows it the
        translator's name, are checked.

    Returns
    -------
    Translator
        Affine, float32, from features (n, m) to image embeddings (n, 768) of CLIP ViT-L/14 as
        Karlo uses them: before normalisation, so their length means something. Its card says
        where it comes from and holds the SHA-256 of the file.

    Raises
    ------
    SingError
        If something is missing, of another layout, backend or width, not finite, or not plain
        weights (no code of a pickle is run).
    """
    folder = Path(folder)
    wanted = None if classifier is None else _translator_of(classifier.name)
    if wanted and not (folder / "metadata.yaml").exists():
        folder = folder / wanted / "linear"
    card = _metadata(folder / "metadata.yaml")
    if classifier is not None:
        m = classifier.head.weight.shape[1]
        if card["in_dim"] != m:
            raise SingError(
                f"The translator in {folder} is for {card['model_name']} and reads "
                f"{card['in_dim']} features; {classifier.name} has {m}."
            )
        if wanted is not None and wanted != card["model_name"]:
            raise SingError(
                f"The translator in {folder} is for {card['model_name']}, of the same width as "
                f"{classifier.name} but fitted to other features; "
                + (f"take the one named {wanted}." if wanted else "none was published for it.")
            )
    content = _inside(folder, card["checkpoint_file"])
    weight, bias = _tensors(content, folder / card["checkpoint_file"], card)
    return Translator(weight.float(), bias.float(), {
        "model": classifier.name if classifier is not None else card["model_name"],
        "origin": "published by the authors of the paper, not fitted here",
        "published_name": f"{card['model_name']}/{card['translator_name']}",
        "architecture": card["architecture"], "backend": card["embedding_backend"],
        "targets": "CLIP ViT-L/14 image embeddings of Karlo, not normalised",
        "sha256": hashlib.sha256(content).hexdigest(),
    })


def _translator_of(name: str) -> str | None:
    """The authors' name for a classifier's translator; '' if it has none, None if unknown."""
    for short, row in model_names().items():
        full = f"{row['source']}/{row['id']}"
        if name in (short, full if "weights" not in row else f"{full}:{row['weights']}"):
            return row.get("translator", "")
    return None


def _metadata(path: Path) -> dict:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SingError(
            f"There is no {path}. A published translator is a folder with metadata.yaml and "
            f"best.pt, such as translators/densenet/linear in the authors' repository."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SingError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from error
    found = found if isinstance(found, Mapping) else {}
    wrong = [key for key, kind in KEYS.items() if type(found.get(key)) is not kind]
    if wrong:
        raise SingError(
            f"{path} lacks {', '.join(wrong)} or has another type there; expected "
            f"{', '.join(f'{key} ({kind.__name__})' for key, kind in KEYS.items())}."
        )
    if found["architecture"] != "linear":
        raise SingError(
            f"{path} describes a translator of the architecture {found['architecture']!r}; only "
            f"'linear' is read, which all thirteen published ones are."
        )
    if found["embedding_backend"] != BACKEND or found["out_dim"] != WIDTH:
        raise SingError(
            f"{path}: the translator writes {found['out_dim']} dimensions for the backend "
            f"{found['embedding_backend']!r}; expected {WIDTH} for {BACKEND!r}. Another CLIP "
            f"needs another translator."
        )
    return dict(found)


def _inside(folder: Path, name: str) -> bytes:
    """Content of a file named by the metadata, which must lie in the folder."""
    path = (folder / name).resolve()
    if folder.resolve() not in path.parents:
        raise SingError(f"{folder}/metadata.yaml: checkpoint_file {name!r} leaves its folder.")
    if not path.is_file():
        raise SingError(f"{folder} has no {name}, which its metadata.yaml names; fetch it anew.")
    content = path.read_bytes()
    if content.startswith(b"version https://git-lfs"):
        raise SingError(
            f"{path} is a pointer to the file, not the file; run `git lfs pull` where it is from."
        )
    return content


def _tensors(content: bytes, path: Path, card: Mapping) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise their own kinds
        raise SingError(
            f"{path} could not be read as weights ({' '.join(str(error).split())[:160]}); code in "
            f"a pickle is never run. Fetch the published file anew."
        ) from error
    state = state if isinstance(state, Mapping) else {}
    # Models compiled before they were saved keep this prefix.
    state = {str(key).removeprefix("_orig_mod."): value for key, value in state.items()}
    shapes = {"weight": (card["out_dim"], card["in_dim"]), "bias": (card["out_dim"],)}
    got = {key: tuple(getattr(value, "shape", ())) for key, value in state.items()}
    if got != shapes:
        raise SingError(f"{path} holds {got}; its metadata.yaml promises {shapes}.")
    if not all(value.is_floating_point() and value.isfinite().all() for value in state.values()):
        raise SingError(f"{path} holds NaN, infinite or whole numbers; fetch it anew.")
    return state["weight"], state["bias"]
