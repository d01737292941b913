"""Angles between embeddings: what moved, and did the class meaning move? Equations (5) to (8)."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from .errors import SingError

__all__ = ["angle", "attribute_score", "image_score", "match_length"]


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
        If the last axes differ.

    Examples
    --------
    >>> angle(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])).item()
    45.0
    """
    if a.shape[-1] != b.shape[-1]:
        raise SingError(
            f"angle needs vectors of one length; got {tuple(a.shape)} and {tuple(b.shape)}. "
            f"Translate features before comparing them with embeddings."
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
        (d,), (n, d), or (n, p, d) for p prompts a picture; then z and z_tilde are (n, 1, d).

    Returns
    -------
    torch.Tensor
        Degrees in [-180, 180]: positive means the equivalent lies closer to the text.
    """
    return angle(z, text) - angle(z_tilde, text)


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
