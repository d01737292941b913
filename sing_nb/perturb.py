"""Equivalents: features that a head cannot tell from the original, and pushes that it can.

Equations (9) to (13), (16) and (17).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import normalize

from .errors import SingError
from .metrics import angle, attribute_score, image_score
from .nullspace import HeadSpaces
from .translator import Translator

__all__ = [
    "Steered",
    "directions",
    "logit_distance",
    "matched_perturbations",
    "matched_removal",
    "move",
    "null_direction",
    "steer",
    "step_for_angle",
]


class Steered(NamedTuple):
    """Features pushed along a null direction.

    Attributes
    ----------
    features : torch.Tensor
        (n, m), f + step * direction; the original where the target cannot be reached.
    direction : torch.Tensor
        (n, m), unit vectors in the null space.
    step : torch.Tensor
        (n,), in units of the feature; nan where the target cannot be reached.
    image_score, attribute_score : torch.Tensor
        (n,), degrees; nan where the target cannot be reached.
    reachable : torch.Tensor
        (n,), bool.
    limit : torch.Tensor
        (n,), degrees: the angle that no step in this direction reaches.
    """

    features: torch.Tensor
    direction: torch.Tensor
    step: torch.Tensor
    image_score: torch.Tensor
    attribute_score: torch.Tensor
    reachable: torch.Tensor
    limit: torch.Tensor


def matched_removal(f: torch.Tensor, energy: torch.Tensor, basis: np.ndarray) -> torch.Tensor:
    """The control of null removal: remove a random part of the same size.

    Parameters
    ----------
    f : torch.Tensor
        (n, m), features.
    energy : torch.Tensor
        (n,), length of what null removal takes away from each feature.
    basis : numpy.ndarray
        (m, k), orthonormal basis of a random subspace as large as the null space.

    Returns
    -------
    torch.Tensor
        (n, m), f minus its part in the random subspace, that part rescaled to length `energy`.
    """
    frame = torch.as_tensor(basis, dtype=torch.float64)
    part = (f.double() @ frame) @ frame.T
    return (f.double() - normalize(part, dim=-1) * energy.double()[:, None]).to(f.dtype)


def matched_perturbations(
    f: torch.Tensor, sensitive: torch.Tensor, spaces: HeadSpaces, wider: HeadSpaces, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Pushes of one length, as long as each feature's null part: seen or not seen by the head.

    Parameters
    ----------
    f : torch.Tensor
        (n, m), features.
    sensitive : torch.Tensor
        (n, m), a direction for each feature that the head reads strongly, such as the weight of
        the predicted class.
    spaces : HeadSpaces
        Of the logits.
    wider : HeadSpaces
        Of the probabilities, see :meth:`HeadSpaces.for_probabilities`.
    seed : int
        Of the random directions.

    Returns
    -------
    dict of torch.Tensor
        (n, m), float64, in the paper's supplement 2 and beyond it: ``null part removed`` and
        ``random null direction`` (equation 17: W delta = 0); ``common shift``, along the direction
        that moves all logits alike, and so no probability; ``random direction``, isotropic; and
        ``principal direction``, against `sensitive`. Without a null space,
        or without a common shift, those entries are missing.
    """
    f = f.double()
    null = spaces.null(f)
    length = null.norm(dim=1, keepdim=True)
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, *f.shape, generator=rng, dtype=torch.float64)
    found = {}
    if spaces.null_dim:
        found["null part removed"] = -null
        found["random null direction"] = spaces.null(noise[0])
    if wider.null_dim == spaces.null_dim + 1:
        # What the wider null space has of the head's principal space is one direction.
        shift = spaces.principal(wider.null(noise[0]))
        found["common shift"] = shift
    found["random direction"] = noise[1]
    found["principal direction"] = -sensitive.double()
    return {kind: normalize(delta, dim=1) * length for kind, delta in found.items()}


def logit_distance(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Length of the logit change, equation (16): (n, c) and (n, c) to (n,), at least 0."""
    return (after.double() - before.double()).norm(dim=-1)


def directions(f: torch.Tensor, translator: Translator, text: torch.Tensor) -> torch.Tensor:
    """Gradient of the cosine between T(f) and a text with respect to f, equation (11).

    Closed form through the affine map: with z = T(f), u = z / |z| and the unit text t,
    the gradient is W^T (t - (u.t) u) / |z|.

    Parameters
    ----------
    f : torch.Tensor
        (n, m).
    translator : Translator
    text : torch.Tensor
        (d,) or (n, d).

    Returns
    -------
    torch.Tensor
        (n, m), float64.
    """
    z = translator(f.double())
    u, t = normalize(z, dim=-1), normalize(text.double(), dim=-1)
    along = (u * t).sum(-1, keepdim=True)
    return ((t - along * u) / z.norm(dim=-1, keepdim=True)) @ translator.weight.double()


def null_direction(
    f: torch.Tensor, translator: Translator, text: torch.Tensor, spaces: HeadSpaces
) -> torch.Tensor:
    """Unit direction towards a text inside the null space, equation (12); (n, m), float64."""
    if spaces.null_dim == 0:
        raise SingError(
            f"This head has rank {spaces.rank} for {spaces.features} features: its null space is "
            f"empty, so no direction leaves the logits unchanged. Choose a classifier with fewer "
            f"classes than features."
        )
    return normalize(spaces.null(directions(f, translator, text)), dim=-1)


def step_for_angle(
    f: torch.Tensor, direction: torch.Tensor, translator: Translator, target: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Step along a direction that turns T(f) by a target angle, in closed form.

    With a = T(f), b = T.linear(direction) and phi the angle between them, the sine rule gives
    step = |a| sin(target) / (|b| sin(phi - target)); angles from phi on are out of reach.

    Parameters
    ----------
    f, direction : torch.Tensor
        (n, m).
    translator : Translator
    target : float
        Degrees, above 0 and below 180.

    Returns
    -------
    step : torch.Tensor
        (n,), float64; nan where out of reach.
    limit : torch.Tensor
        (n,), phi in degrees.
    """
    if not 0 < target < 180:
        raise SingError(f"The target Image Score lies between 0 and 180 degrees; got {target}.")
    a, b = translator(f.double()), translator.linear(direction.double())
    limit = angle(a, b)
    phi, theta = torch.deg2rad(limit), np.deg2rad(target)
    step = a.norm(dim=-1) * np.sin(theta) / (b.norm(dim=-1) * torch.sin(phi - theta))
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
        Attribute Scores are towards `text`: positive means closer to it.

    Raises
    ------
    SingError
        If both or none of `step` and `target_is` are given, or the null space is empty.
    """
    if (step is None) == (target_is is None):
        raise SingError("steer needs either step (a length) or target_is (degrees), one of them.")
    return move(f, null_direction(f, translator, text, spaces), translator, text, step, target_is)


def move(
    f: torch.Tensor, direction: torch.Tensor, translator: Translator, text: torch.Tensor,
    step: float | None = None, target_is: float | None = None,
) -> Steered:
    """Push features along given unit directions; what :func:`steer` does after finding them."""
    reach, limit = step_for_angle(
        f, direction, translator, 90.0 if target_is is None else target_is
    )
    if step is not None:
        reach = torch.full_like(limit, step)
    reachable = torch.isfinite(reach)
    moved = f.double() + torch.where(reachable, reach, 0.0)[:, None] * direction
    z, z_tilde = translator(f.double()), translator(moved)
    blank = torch.where(reachable, 1.0, torch.nan)
    return Steered(
        moved.to(f.dtype), direction.to(f.dtype), reach, image_score(z, z_tilde) * blank,
        attribute_score(z, z_tilde, text.double()) * blank, reachable, limit,
    )
