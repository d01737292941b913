"""Angles between embeddings, and the two scores made of them: equations (5) to (8) and (19).

All is float64 on the CPU: float32 loses the digits of small angles, Apple's MPS has no float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import normalize

from ..errors import SingError

__all__ = ["angle", "attribute_score", "check_real", "exact", "image_score", "match_length",
           "pairwise_angle", "scores"]


def check_real(x: torch.Tensor, what: str, *, whole: bool = False) -> None:
    """Refuse what torch cannot compute with; `what` names it, `whole` allows whole numbers."""
    if not isinstance(x, torch.Tensor):
        raise SingError(
            f"The {what} must be a torch tensor; got {type(x).__name__}. torch.as_tensor makes one "
            f"of a list or a NumPy array.")
    real = x.is_floating_point() or (whole and x.dtype != torch.bool and not x.is_complex())
    if x.is_meta or x.is_quantized or x.layout != torch.strided or not real:
        raise SingError(
            f"The {what} are {x.dtype}, {x.layout}, on the device {x.device}; expected real "
            f"numbers of a floating type, such as float32, on a device that holds them: .float(), "
            f".real, .to_dense() or .dequantize() makes them.")


def exact(x: torch.Tensor, what: str) -> torch.Tensor:
    """Numbers in float64 on the CPU, checked by :func:`check_real`; gradients pass through."""
    check_real(x, what, whole=True)
    return x.cpu().double()


def angle(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    r"""Angle between vectors along the last axis, equation (5).

    .. math:: \angle(a, b) = \arccos \frac{a \cdot b}{|a| |b|} = 2 \, \mathrm{atan2}(|u-v|, |u+v|)

    with unit vectors u, v. The second form keeps its digits near 0 and 180 degrees.

    Parameters
    ----------
    a, b : torch.Tensor
        (..., d), broadcast against each other.

    Returns
    -------
    torch.Tensor
        (...), degrees in [0, 180], float64, on the CPU; nan where a vector is zero.

    Raises
    ------
    SingError
        If the last axes differ, or the others cannot be broadcast.

    Examples
    --------
    >>> import torch
    >>> angle(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])).item()
    45.0
    """
    a, b = exact(a, "vectors"), exact(b, "vectors")
    sizes = list(zip(a.shape[::-1], b.shape[::-1]))
    alike = all(p == q or 1 in (p, q) for p, q in sizes)
    if not sizes or sizes[0][0] != sizes[0][1] or not alike:
        raise SingError(
            f"angle needs vectors of one length, as many on both sides, or one; got "
            f"{tuple(a.shape)} and {tuple(b.shape)}. Translate features before comparing them with "
            f"embeddings; pairwise_angle compares each with each.")
    u, v = (normalize(x, dim=-1, eps=0) for x in (a, b))
    return torch.rad2deg(2 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1)))


def pairwise_angle(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Angles (n, p) of rows (n, d) with rows (p, d), by one product; 0 may come out as 1e-6."""
    a, b = exact(a, "vectors"), exact(b, "vectors")
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise SingError(
            f"All pairs need two matrices of one width, (n, d) and (p, d); got {tuple(a.shape)} "
            f"and {tuple(b.shape)}. Translate features before comparing them with embeddings.")
    cosine = normalize(a, dim=-1, eps=0) @ normalize(b, dim=-1, eps=0).T
    return torch.rad2deg(cosine.clamp(-1, 1).arccos())


def attribute_score(
    z: torch.Tensor, z_tilde: torch.Tensor, text: torch.Tensor, paired: bool | None = None
) -> torch.Tensor:
    r"""Attribute Score, equation (7): how far an equivalent moved towards a text.

    .. math:: \mathrm{AS} = \angle(z, t) - \angle(\tilde z, t)

    Parameters
    ----------
    z, z_tilde : torch.Tensor
        (n, d), translated features and translated equivalents.
    text : torch.Tensor
        (d,), one text for all; or (p, d), several.
    paired : bool, optional
        What several texts are for, which has to be said: True, one for each picture (p = n);
        False, each for every picture.

    Returns
    -------
    torch.Tensor
        (n,), or (n, p) if not `paired`; degrees in [-180, 180], float64, on the CPU. Positive
        means that the equivalent lies closer to the text.

    Raises
    ------
    SingError
        If the shapes do not fit, or it was not said what several texts are for.

    Examples
    --------
    >>> import torch
    >>> z, z_tilde, texts = torch.eye(2), torch.ones(2, 2), torch.eye(2)
    >>> attribute_score(z, z_tilde, texts, paired=True).tolist()
    [-45.0, -45.0]
    >>> attribute_score(z, z_tilde, texts, paired=False)[0].round().tolist()
    [-45.0, 45.0]
    """
    if paired is False:
        return pairwise_angle(z, text) - pairwise_angle(z_tilde, text)
    if paired is None and text.ndim > 1 and len(text) > 1:
        raise SingError(
            f"Several texts, {tuple(text.shape)}, can be meant in two ways: say paired=True for "
            f"one text a picture, or paired=False for every text with every picture.")
    return angle(z, text) - angle(z_tilde, text)


def image_score(z: torch.Tensor, z_tilde: torch.Tensor) -> torch.Tensor:
    r"""Image Score, equation (8): how far the equivalent moved at all.

    .. math:: \mathrm{IS} = \angle(z, \tilde z)

    Parameters
    ----------
    z, z_tilde : torch.Tensor
        (n, d), translated features and translated equivalents.

    Returns
    -------
    torch.Tensor
        (n,), degrees in [0, 180], float64, on the CPU; 0 where nothing changed.

    Raises
    ------
    SingError
        If the shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> image_score(torch.eye(2), torch.ones(2, 2)).tolist()
    [45.0, 45.0]
    """
    return angle(z, z_tilde)


class Scores(NamedTuple):
    """Both scores of a move, in degrees."""

    image_score: torch.Tensor
    attribute_score: torch.Tensor


def scores(z: torch.Tensor, z_moved: torch.Tensor, text: torch.Tensor) -> Scores:
    """Both scores, (n,) or (k, n), of z (n, d) moved to (n, d) or in k ways (k, n, d), by text."""
    return Scores(angle(z, z_moved), angle(z, text) - angle(z_moved, text))


def match_length(z_tilde: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Embeddings at the lengths of others, both (n, d), equation (19): no angle changes."""
    return z_tilde * (z.norm(dim=-1, keepdim=True) / z_tilde.norm(dim=-1, keepdim=True))
