"""The translators that the paper's authors published, read into this package's own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import yaml

from ..errors import SingError
from ..method.translator import Translator
from .checkpoints import read_weights
from .classifier import Classifier
from .load import model_names

__all__ = ["PUBLISHED_SPACE", "import_translator"]

BACKEND = "kakao_karlo_v1_alpha_image_variations"
PUBLISHED_SPACE = "open_clip/ViT-L-14-quickgelu:openai"
WIDTH = 768  # of CLIP ViT-L/14 image embeddings
EXPECTED = {"architecture": "linear", "embedding_backend": BACKEND, "out_dim": WIDTH}
READ = ("model_name", "translator_name", "checkpoint_file", "in_dim")


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

    Examples
    --------
    >>> import tempfile, torch
    >>> folder = Path(tempfile.mkdtemp())
    >>> torch.save({"weight": torch.ones(768, 4), "bias": torch.zeros(768)}, folder / "best.pt")
    >>> _ = (folder / "metadata.yaml").write_text(
    ...     "{model_name: densenet, translator_name: linear, architecture: linear, in_dim: 4, "
    ...     "out_dim: 768, checkpoint_file: best.pt, "
    ...     "embedding_backend: kakao_karlo_v1_alpha_image_variations}")
    >>> import_translator(folder)(torch.ones(1, 4)).shape
    torch.Size([1, 768])
    """
    folder = Path(folder)
    wanted = None if classifier is None else _translator_of(classifier.name)
    if wanted and not (folder / "metadata.yaml").exists():
        folder = folder / wanted / "linear"
    card = _metadata(folder / "metadata.yaml")
    theirs = card["model_name"]
    if classifier is not None:
        m = classifier.head.weight.shape[1]
        if card["in_dim"] != m or wanted not in (None, theirs):
            raise SingError(
                f"The translator in {folder} is for {theirs} and reads {card['in_dim']} features; "
                f"{classifier.name} has {m}, and the one published for it is {wanted or 'none'}.")
    path = (folder / str(card["checkpoint_file"])).resolve()
    if folder.resolve() not in path.parents:
        raise SingError(f"{folder}/metadata.yaml: checkpoint_file {path} leaves its folder.")
    # Models compiled before they were saved keep this prefix.
    state = {str(key).removeprefix("_orig_mod."): value
             for key, value in read_weights(path, theirs).items()}
    got = {key: tuple(getattr(value, "shape", ())) for key, value in state.items()}
    wide = {"weight": (WIDTH, card["in_dim"]), "bias": (WIDTH,)}
    if got != wide or not all(
        value.is_floating_point() and value.isfinite().all() for value in state.values()
    ):
        raise SingError(f"{path} holds {got}; its metadata.yaml promises {wide}, finite numbers. "
                        f"Fetch it anew; where it is from git, by `git lfs pull`.")
    return Translator(state["weight"].float(), state["bias"].float(), {
        "model": theirs if classifier is None else classifier.name,
        "origin": "published by the authors of the paper, not fitted here",
        "published_name": f"{theirs}/{card['translator_name']}",
        "architecture": card["architecture"], "backend": BACKEND,
        "targets": "CLIP ViT-L/14 image embeddings of Karlo, not normalised",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})


def _translator_of(name: str) -> str | None:
    """The authors' name for a classifier's translator; '' if it has none, None if unknown."""
    for short, row in model_names().items():
        full = f"{row['source']}/{row['id']}"
        if name in (short, full if "weights" not in row else f"{full}:{row['weights']}"):
            return row.get("translator", "")
    return None


def _metadata(path: Path) -> dict:
    try:
        card = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise SingError(
            f"{path} cannot be read ({' '.join(str(error).split())[:200]}). A published translator "
            f"is a folder with metadata.yaml and best.pt, such as translators/densenet/linear."
        ) from error
    wrong = [key for key, value in EXPECTED.items() if card.get(key) != value]
    wrong += [key for key in READ if key not in card]
    if wrong:
        raise SingError(
            f"{path} lacks {', '.join(wrong)} or has something else there than expected: {EXPECTED}"
            f" and any {', '.join(READ)}. Another CLIP needs another translator.")
    return card
