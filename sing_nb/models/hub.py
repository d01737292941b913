"""Model and data hubs: asked once whether they answer, never waited for in retries."""

from __future__ import annotations

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
    """Folders of downloads, by library: ``huggingface_hub`` and ``torch`` (torchvision)."""
    import torch
    from huggingface_hub import constants

    return {
        "huggingface_hub": Path(constants.HF_HUB_CACHE),
        "torch": Path(torch.hub.get_dir()) / "checkpoints"}


def hub_reachable(url: str | None = None) -> bool:
    """Whether a hub (the Hugging Face hub by default) answers; each is asked once a process."""
    from huggingface_hub import constants

    if url is None and constants.HF_HUB_OFFLINE:
        return False
    return _answers(url or constants.ENDPOINT)


@cache
def _answers(url: str) -> bool:
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

    # In a thread, since looking up a name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return any(answers)


def from_hub(
    what: str, load: Callable[[], Loaded], *, url: str | None = None, advice: str = ""
) -> Loaded:
    """What `load` returns; a SingError within seconds where it can neither be had nor is kept."""
    reachable = hub_reachable(url)
    folder = hub_caches()["torch" if url else "huggingface_hub"]
    try:
        if reachable or (url and (folder / url.rsplit("/", 1)[-1]).is_file()):
            return load()
        if url:
            raise FileNotFoundError(f"{folder} does not hold it")
        with _only_cache():
            return load()
    except SingError:
        raise
    except Exception as error:  # the clients raise many kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:240]
        found = "answers" if reachable else f"does not answer (asked for {PATIENCE:.0f} s)"
        raise SingError(
            f"{what[:1].upper()}{what[1:]} could not be had: {reason}. The hub {found}; the cache "
            f"is {folder}. Check the name and the network, or copy the cache from a machine that "
            f"has it{'; ' + advice if advice else ''}. The profile offline needs no hub."
        ) from error


@contextmanager
def _only_cache() -> Iterator[None]:
    """The Hugging Face client in offline mode: by itself it asks six times, 23 s a file."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
