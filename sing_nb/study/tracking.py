"""Weights & Biases, only where the user has installed and enabled it.

The book needs neither the package nor an account: its own results lie in tables on disk.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..errors import SingError
from .profile import unknown

__all__ = ["MODES", "PROJECT", "tracked"]

MODES = ("off", "offline", "online")
PROJECT = "sing-translators"


@contextmanager
def tracked(
    mode: str, folder: Path, name: str, settings: Mapping[str, object]
) -> Iterator[Callable[[dict], object]]:
    """A run that is logged to Weights & Biases, or not at all.

    Parameters
    ----------
    mode : str
        ``off`` (the package is not even imported), ``offline`` (files only, for ``wandb sync``;
        nothing is sent) or ``online``.
    folder : pathlib.Path
        Where the run's folder ``wandb`` goes.
    name : str
        Of the run.
    settings : mapping
        Shown beside the run.

    Yields
    ------
    callable
        Logs one dict of numbers.

    Raises
    ------
    SingError
        For an unknown mode, or if the package is missing.
    """
    if mode not in MODES:
        raise unknown("wandb_mode", mode, MODES)
    if mode == "off":
        yield lambda record: None
        return
    if importlib.util.find_spec("wandb") is None:
        raise SingError(
            f"wandb_mode is {mode!r}, but the package wandb is not installed; run "
            f"`pip install wandb`, or leave wandb_mode at 'off'."
        )
    if mode == "offline":
        # Its own crash reports would be the one thing that still leaves the machine.
        os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb

    Path(folder).mkdir(parents=True, exist_ok=True)
    quiet = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
    run = wandb.init(
        project=PROJECT, name=name, mode=mode, dir=str(folder), config=dict(settings),
        settings=quiet,
    )
    with run:
        yield run.log
