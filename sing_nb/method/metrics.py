"""Angles between embeddings: what moved, and did the class meaning move? Equations (5) to (8)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import normalize

from ..errors import SingError

__all__ = [
    "Scores", "angle", "attribute_score", "attribute_scores", "check_real", "image_score",
    "match_length", "pairwise_angle", "scores",
]

STEEP = 0.9999
"""|cosine| (0.8 degrees from 0 or 180) beyond which the arc cosine is not trusted."""


def check_real(
    x: torch.Tensor, what: str, *, whole: bool = False, shapes: bool = False
) -> None:
    """Refuse what cannot be computed with, before torch does so in its own words, or not at all.

    Parameters
    ----------
    x : torch.Tensor
    what : str
        Its name in the message, in the plural.
    whole : bool
        Whether whole numbers will do. Results in the dtype of x would be cut off to such.
    shapes : bool
        Whether the device meta will do, for results without numbers as well.

    Raises
    ------
    SingError
        If x is no tensor, or one without numbers (device meta), sparse, quantised, of truth
        values or complex.
    """
    if not isinstance(x, torch.Tensor):
        raise SingError(
            f"The {what} must be a torch tensor; got {type(x).__name__}. torch.as_tensor makes one "
            f"of a list or a NumPy array."
        )
    if x.device.type == "meta" and not shapes:
        raise SingError(
            f"The {what} lie on the device meta, which holds shapes and no numbers. Load the "
            f"weights, and compute on cpu or cuda."
        )
    if x.is_quantized or x.layout != torch.strided:
        raise SingError(
            f"The {what} are {'quantised' if x.is_quantized else 'sparse'}; expected a plain "
            f"tensor. {'dequantize' if x.is_quantized else 'to_dense'}() makes one."
        )
    if not (x.is_floating_point() or (whole and x.dtype != torch.bool and not x.is_complex())):
        raise SingError(
            f"The {what} are {x.dtype}; expected real numbers of a floating type, such as "
            f"float32: .float() or .real makes them."
        )


def angle(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Angle between vectors along the last axis, equation (5).

    Computed in float64 as ``2 atan2(|u - v|, |u + v|)`` of the unit vectors u, v. The arc cosine
    of the paper is the same angle, but loses everything below 0.03 degrees in float32.

    Parameters
    ----------
    a, b : torch.Tensor
        (..., d), broadcast against each other.

    Returns
    -------
    torch.Tensor
        (...), degrees in [0, 180], float64; nan where a vector is zero.

    Raises
    ------
    SingError
        If the last axes differ, or the others cannot be broadcast.

    Examples
    --------
    >>> angle(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])).item()
    45.0
    """
    check_real(a, "vectors", whole=True)
    check_real(b, "vectors", whole=True)
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-1]:
        raise SingError(
            f"angle needs vectors of one length; got {tuple(a.shape)} and {tuple(b.shape)}. "
            f"Translate features before comparing them with embeddings."
        )
    if any(p != q and 1 not in (p, q) for p, q in zip(a.shape[::-1], b.shape[::-1])):
        raise SingError(
            f"angle needs as many vectors on both sides, or one; got {tuple(a.shape)} and "
            f"{tuple(b.shape)}. pairwise_angle compares each with each."
        )
    u, v = (normalize(x.double(), dim=-1, eps=0) for x in (a, b))
    return torch.rad2deg(2 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1)))


def attribute_score(z: torch.Tensor, z_tilde: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Attribute Score, equation (7): how far an equivalent moved towards a text.

    Parameters
    ----------
    z, z_tilde : torch.Tensor
        (n, d), translated feature and translated equivalent.
    text : torch.Tensor
        (d,), (n, d), or (n, p, d) for p prompts per picture; then z and z_tilde are (n, 1, d). For
        p prompts that all pictures share see :func:`attribute_scores`.

    Returns
    -------
    torch.Tensor
        Degrees in [-180, 180]: positive means the equivalent lies closer to the text.
    """
    return angle(z, text) - angle(z_tilde, text)


def pairwise_angle(a: torch.Tensor, b: torch.Tensor, block: int = 1 << 21) -> torch.Tensor:
    """Angles between all pairs of rows, equation (5), by a matrix product.

    The arc cosine of the float64 cosine; within 0.8 degrees of 0 or 180, where it loses digits,
    :func:`angle` itself. The two agree to 1e-10 degrees everywhere. No (n, p, d) array is made.

    Parameters
    ----------
    a : torch.Tensor
        (n, d).
    b : torch.Tensor
        (p, d).
    block : int
        Numbers held at a time, in float64, besides `b` at unit length and the result; 16 MB by
        default. At least one row of `a` is worked on.

    Returns
    -------
    torch.Tensor
        (n, p), degrees in [0, 180], float64; nan where a vector is zero.

    Raises
    ------
    SingError
        If the two are not matrices of one width.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise SingError(
            f"pairwise_angle needs two matrices of one width, (n, d) and (p, d); got "
            f"{tuple(a.shape)} and {tuple(b.shape)}. Translate features before comparing them with "
            f"embeddings."
        )
    (n, d), p = a.shape, len(b)
    v = normalize(b.double(), dim=-1, eps=0)
    out = torch.empty(n, p, dtype=torch.float64, device=a.device)
    # Half the block for rows (in float64, at unit length; sizes of cosines, places of steep ones),
    # half for pairs (both vectors, again at unit length, their sum and their difference).
    rows, pairs = max(1, block // (4 * d + 8 * p)), max(1, block // (16 * d))
    for part, own in zip(out.split(rows), a.split(rows), strict=True):
        _angles(own, v, part, pairs)
    return out


def _angles(a: torch.Tensor, v: torch.Tensor, out: torch.Tensor, pairs: int) -> None:
    """Angles of rows to unit vectors into `out`; a function, so that each block is let go."""
    u = normalize(a.double(), dim=-1, eps=0)
    torch.matmul(u, v.T, out=out)
    steep = (out.abs() > STEEP).nonzero()
    out.clamp_(-1, 1).arccos_().rad2deg_()
    for i, j in (chosen.unbind(1) for chosen in steep.split(pairs)):
        out[i, j] = angle(u[i], v[j])


def attribute_scores(
    z: torch.Tensor, z_tilde: torch.Tensor, texts: torch.Tensor, block: int = 1 << 21
) -> torch.Tensor:
    """Attribute Scores of all pictures towards all prompts, equation (7), in bounded memory.

    Parameters
    ----------
    z, z_tilde : torch.Tensor
        (n, d), translated features and translated equivalents.
    texts : torch.Tensor
        (p, d), embeddings of prompts.
    block : int
        As in :func:`pairwise_angle`.

    Returns
    -------
    torch.Tensor
        (n, p), degrees in [-180, 180]: positive means the equivalent lies closer to the text.
    """
    return pairwise_angle(z, texts, block).sub_(pairwise_angle(z_tilde, texts, block))


def image_score(z: torch.Tensor, z_tilde: torch.Tensor) -> torch.Tensor:
    """Image Score, equation (8): how far the equivalent moved at all.

    Parameters
    ----------
    z, z_tilde : torch.Tensor
        (n, d), translated feature and translated equivalent.

    Returns
    -------
    torch.Tensor
        (n,), degrees in [0, 180]; 0 means that nothing changed in the joint space.
    """
    return angle(z, z_tilde)


class Scores(NamedTuple):
    """Both scores of a move in the joint space, in degrees: see :func:`scores`."""

    image_score: torch.Tensor
    attribute_score: torch.Tensor


def scores(z: torch.Tensor, z_moved: torch.Tensor, text: torch.Tensor) -> Scores:
    """Image Score and Attribute Score of one move, equations (7) and (8).

    Parameters
    ----------
    z : torch.Tensor
        (n, d), translated features.
    z_moved : torch.Tensor
        (n, d), the same after the move; or (k, n, d) for k moves of each, such as draws of a
        control.
    text : torch.Tensor
        (n, d), a text for each picture, or (d,), one for all.

    Returns
    -------
    Scores
        ``image_score``, how far each moved, in [0, 180], and ``attribute_score``, how much nearer
        to its text it came, in [-180, 180]: both (n,) or (k, n), float64, degrees.

    Raises
    ------
    SingError
        If the shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> z, moved = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    >>> turned, nearer = scores(z, moved, text=torch.tensor([0.0, 1.0]))
    >>> turned, nearer
    (tensor([45.], dtype=torch.float64), tensor([45.], dtype=torch.float64))
    """
    return Scores(angle(z, z_moved), angle(z, text) - angle(z_moved, text))


def match_length(z_tilde: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """An equivalent's embedding at the length of the original's, equation (19).

    No angle changes; what draws pictures from embeddings needs the length that it was made for.

    Parameters
    ----------
    z_tilde, z : torch.Tensor
        (n, d), translated equivalent and translated feature.

    Returns
    -------
    torch.Tensor
        (n, d), ``z_tilde |z| / |z_tilde|``; nan where z_tilde is zero.
    """
    return z_tilde * (z.norm(dim=-1, keepdim=True) / z_tilde.norm(dim=-1, keepdim=True))
