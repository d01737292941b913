"""Model and data hubs: asked once whether they answer, never waited for in retries."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

from ..errors import SingError

__all__ = ["from_hub", "hub_caches", "hub_reachable"]

PATIENCE = 5.0  # seconds that a hub has to answer
Loaded = TypeVar("Loaded")


def hub_caches() -> dict[str, Path]:
    """Folders that downloads of the two hubs are kept in, by the library that fills them.

    Returns
    -------
    dict
        ``huggingface_hub`` (timm, open_clip, transformers, diffusers, datasets) and ``torch``
        (torchvision).
    """
    import huggingface_hub.constants
    import torch

    return {
        "huggingface_hub": Path(huggingface_hub.constants.HF_HUB_CACHE),
        "torch": Path(torch.hub.get_dir()) / "checkpoints",
    }


def hub_reachable(url: str | None = None) -> bool:
    """Whether a hub answers within five seconds; each is asked once a process.

    Parameters
    ----------
    url : str, optional
        An address at the hub; the Hugging Face hub's own by default.

    Returns
    -------
    bool
        False too if ``HF_HUB_OFFLINE`` is set, for the Hugging Face hub.
    """
    import huggingface_hub.constants

    if url is None:
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            return False
        url = huggingface_hub.constants.ENDPOINT
    return _answers(url)


@cache
def _answers(url: str) -> bool:
    # In a thread, since looking up a name has no time limit of its own.
    answers: list[bool] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE)
            answers.append(True)
        except urllib.error.HTTPError as error:
            # A refusal by the hub itself is an answer, one by a proxy on the way to it is not.
            answers.append(error.code not in (403, 407, 502, 503, 504))
        except (OSError, ValueError):
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return bool(answers and answers[0])


def from_hub(
    what: str, load: Callable[[], Loaded], *, url: str | None = None, advice: str = ""
) -> Loaded:
    """Load something that may have to be downloaded; fail within seconds where it cannot be.

    Parameters
    ----------
    what : str
        What is wanted, for the message: "the weights of timm/resnet50".
    load : callable
        Loads and returns it by its library's own means (download, cache, checks).
    url : str, optional
        Where it comes from, if that is not the Hugging Face hub.
    advice : str
        One more sentence on what to do.

    Returns
    -------
    object
        What `load` returns. Where the hub does not answer, it is called only if torch's cache
        holds the file of `url`, or with the hub's client in offline mode, so that only its cache
        is looked at.

    Raises
    ------
    SingError
        With what was wanted, why it failed, where the cache is and what works now.
    """
    reachable = hub_reachable(url)
    kept = hub_caches()["torch"] / url.rsplit("/", 1)[-1] if url else None
    try:
        if reachable or (kept and kept.is_file()):
            return load()
        if kept:
            raise FileNotFoundError(kept)
        with _offline():
            return load()
    except SingError:
        raise
    except Exception as error:  # the clients raise many kinds
        folder = hub_caches()["huggingface_hub" if url is None else "torch"]
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:240]
        why = (
            f"The hub answers, but: {reason}" if reachable
            else f"The hub does not answer (asked for {PATIENCE:.0f} s), and the cache {folder} "
            f"does not hold it."
        )
        raise SingError(
            f"{what[:1].upper()}{what[1:]} could not be had. {why} Check the name and the network "
            f"or copy the cache from a machine that has it{'; ' + advice if advice else ''}. The "
            f"profile offline works now: it needs no hub."
        ) from error


@contextmanager
def _offline() -> Iterator[None]:
    """The Hugging Face client in offline mode."""
    import huggingface_hub.constants

    constants = huggingface_hub.constants
    before, variable = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        os.environ.pop("HF_HUB_OFFLINE")
        if variable is not None:
            os.environ["HF_HUB_OFFLINE"] = variable
