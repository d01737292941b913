"""Pushes that a head cannot see, and controls of the same size. Equations (9) to (13), (16), (17).

All is float64 on the CPU (Apple's MPS has none); features keep their dtype and device.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import normalize

from ..errors import SingError
from .metrics import angle, exact, scores
from .nullspace import HeadSpaces
from .translator import Translator

__all__ = ["Steered", "matched_removal", "null_direction", "random_basis",
           "random_part", "steer", "steer_all", "turning_step"]


def random_basis(dimensions: int, size: int, seed: int) -> np.ndarray:
    """Orthonormal basis (dimensions, size) of a uniformly random subspace."""
    if not 0 < size <= dimensions:
        raise SingError(f"A subspace of {dimensions} dimensions cannot have {size}.")
    gaussian = np.random.default_rng(seed).standard_normal((dimensions, size))
    basis, triangle = np.linalg.qr(gaussian)
    return basis * np.sign(np.diagonal(triangle))


def matched_removal(f: torch.Tensor, energy: torch.Tensor, basis: np.ndarray) -> torch.Tensor:
    """Features (n, m) minus their part in the span of a basis (m, k), rescaled to lengths (n,)."""
    wide, frame = exact(f, "features"), torch.as_tensor(basis, dtype=torch.float64)
    part = normalize((wide @ frame) @ frame.T, dim=-1)
    return (wide - part * exact(energy, "lengths")[:, None]).to(f)


def random_part(f: torch.Tensor, *, like: torch.Tensor, size: int, seed: int = 0) -> torch.Tensor:
    """The control of a part of features: a random part, row by row as long.

    Parameters
    ----------
    f : torch.Tensor
        (n, m), features.
    like : torch.Tensor
        (n, m), the part it is a control of, such as the null part; only its lengths count.
    size : int
        Dimensions of the random subspace, as many as the null space has.
    seed : int
        Of the subspace.

    Returns
    -------
    torch.Tensor
        (n, m), the part of `f` in a uniformly random subspace, rescaled to the lengths of `like`.

    Raises
    ------
    SingError
        If a subspace of m dimensions cannot have `size`.

    Examples
    --------
    >>> import torch
    >>> f, part = torch.eye(3), torch.full((3, 3), 0.1)
    >>> random_part(f, like=part, size=2).norm(dim=1).mul(10).round(decimals=3)
    tensor([1.7320, 1.7320, 1.7320])
    """
    basis = random_basis(f.shape[-1], size, seed)
    return f - matched_removal(f, like.norm(dim=-1), basis)


class Steered(NamedTuple):
    """Features pushed along null directions; from :func:`steer_all` without the last two fields."""

    step: torch.Tensor
    image_score: torch.Tensor
    attribute_score: torch.Tensor
    reachable: torch.Tensor
    limit: torch.Tensor
    features: torch.Tensor | None = None
    direction: torch.Tensor | None = None


def null_direction(
    f: torch.Tensor, translator: Translator, text: torch.Tensor, spaces: HeadSpaces
) -> torch.Tensor:
    """Unit direction (n, m) in the null space that turns T(f) towards a text: (11) and (12)."""
    # The gradient of their cosine, with unit vectors u, t, is W^T (t - (u.t) u) / |T(f)|.
    seen = _seen(translator, spaces)
    u = normalize(translator(exact(f, "features")), dim=-1)
    t = normalize(exact(text, "texts"), dim=-1)
    return normalize((t - (u * t).sum(-1, keepdim=True) * u) @ seen, dim=-1)


def turning_step(
    z: torch.Tensor, turn: torch.Tensor, target: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Step (n,) at which z + step * turn lies `target` degrees from z, and its limit: (13).

    By the sine rule |z| sin(target) / (|turn| sin(limit - target)); the limit, in degrees, is the
    angle between z and turn (n, d). Out of reach the step is nan.
    """
    if not 0 < target < 180:
        raise SingError(f"The target Image Score lies between 0 and 180 degrees; got {target}.")
    limit, theta = angle(z, turn), math.radians(target)
    z, turn = exact(z, "vectors"), exact(turn, "vectors")
    sine = torch.sin(torch.deg2rad(limit) - theta)
    step = z.norm(dim=-1) * math.sin(theta) / (turn.norm(dim=-1) * sine)
    return torch.where(limit > target, step, torch.nan), limit


def steer(
    f: torch.Tensor, translator: Translator, text: torch.Tensor, spaces: HeadSpaces,
    step: float | None = None, target_is: float | None = None,
) -> Steered:
    """Push features towards a text inside the null space, equations (10) to (13).

    Parameters
    ----------
    f : torch.Tensor
        (n, m), features.
    translator : Translator
    text : torch.Tensor
        (d,) or (n, d), embedding of the prompt.
    spaces : HeadSpaces
        Of the head that shall not notice.
    step : float, optional
        Length of the push, in units of the feature.
    target_is : float, optional
        Image Score to reach, degrees; the step follows in closed form. Give one of the two.

    Returns
    -------
    Steered
        ``features`` (n, m), f + step * direction, the original where the target is out of reach;
        ``direction`` (n, m), unit vectors in the null space; ``step`` (n,), in units of the
        feature, ``image_score`` and ``attribute_score`` (towards the text; positive: closer), (n,),
        degrees, all nan where out of reach; ``reachable`` (n,), bool; and ``limit`` (n,), the
        angle in degrees that no step in this direction reaches.

    Raises
    ------
    SingError
        If both or none of `step` and `target_is` are given, or the null space is empty.

    Examples
    --------
    >>> import torch
    >>> spaces = HeadSpaces.from_weight(torch.tensor([[1.0, 0.0]]))  # reads the first number
    >>> f, T = torch.tensor([[1.0, 0.0]]), Translator(torch.eye(2), torch.zeros(2))
    >>> pushed = steer(f, T, torch.tensor([0.0, 1.0]), spaces, target_is=45.0)
    >>> pushed.features, pushed.attribute_score.round()
    (tensor([[1., 1.]]), tensor([45.], dtype=torch.float64))
    """
    wide, direction = exact(f, "features"), null_direction(f, translator, text, spaces)
    z, turn = translator(wide), translator.linear(direction)
    found = _pushed(z, turn, exact(text, "texts"), step, target_is)
    length = torch.where(found.reachable, found.step, 0.0)[:, None]
    return found._replace(features=(wide + length * direction).to(f), direction=direction.to(f))


def steer_all(
    f: torch.Tensor, translator: Translator, texts: torch.Tensor, spaces: HeadSpaces,
    step: float | None = None, target_is: float | None = None,
) -> Steered:
    """What :func:`steer` finds for every feature and every text, without feature-wide pushes.

    Parameters
    ----------
    f, translator, spaces, step, target_is
        As for :func:`steer`.
    texts : torch.Tensor
        (p, d), embeddings of the prompts.

    Returns
    -------
    Steered
        As of :func:`steer`, (n, p) in float64, without ``features`` and ``direction``.

    Raises
    ------
    SingError
        As :func:`steer`, or if `texts` is no matrix of the translator's width.

    Examples
    --------
    >>> import torch
    >>> spaces = HeadSpaces.from_weight(torch.tensor([[1.0, 0.0]]))
    >>> f, T = torch.tensor([[1.0, 0.0]]), Translator(torch.eye(2), torch.zeros(2))
    >>> texts = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    >>> steer_all(f, T, texts, spaces, target_is=45.0).step.round()
    tensor([[1., 1.]], dtype=torch.float64)
    """
    if texts.ndim != 2 or texts.shape[1] != len(translator.weight):
        raise SingError(
            f"steer_all needs prompts of shape (p, {len(translator.weight)}), as wide as the "
            f"translator's embeddings; got {tuple(texts.shape)}. Encode them by encode_text.")
    # With A = W P (the translator's weight in the null space), B = A A^T and w = t - (u.t) u, a
    # unit push turns z by B w / sqrt(w.B w): all happens in the joint space.
    seen = _seen(translator, spaces)
    gram, z = seen @ seen.T, translator(exact(f, "features"))
    u = normalize(z, dim=-1)
    turned_u, columns = u @ gram, []
    for t in normalize(exact(texts, "texts"), dim=-1):
        along = (u @ t)[:, None]
        w, turned = t - along * u, t @ gram - along * turned_u
        # A translator that is blind to the null space turns nothing: 0, and not 0 / 0.
        square = (w * turned).sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        columns.append(_pushed(z, turned / square.sqrt(), t, step, target_is)[:5])
    return Steered(*(torch.stack(column, 1) for column in zip(*columns)))


def _pushed(
    z: torch.Tensor, turn: torch.Tensor, text: torch.Tensor, step: float | None,
    target_is: float | None,
) -> Steered:
    """How far rows of z go along unit pushes, and what that does to both scores; all (n,)."""
    if (step is None) == (target_is is None):
        raise SingError("steer needs either step (a length) or target_is (degrees), one of them.")
    reach, limit = turning_step(z, turn, 90.0 if target_is is None else target_is)
    if step is not None:
        reach = torch.full_like(limit, step)
    reachable = torch.isfinite(reach)
    both = scores(z, z + torch.where(reachable, reach, 0.0)[:, None] * turn, text)
    blank = (torch.where(reachable, score, torch.nan) for score in both)
    return Steered(reach, *blank, reachable, limit)


def _seen(translator: Translator, spaces: HeadSpaces) -> torch.Tensor:
    """What a translator reads of the null space, (d, m): the null parts of its weights."""
    if spaces.null_dim == 0:
        raise SingError(
            f"This head has rank {spaces.rank} for {spaces.features} features: its null space is "
            f"empty, so no direction leaves the logits unchanged. Choose a classifier with fewer "
            f"classes than features.")
    return spaces.null(exact(translator.weight, "weights"))
