"""Equivalents: features that a head cannot tell from the original, and pushes that it can.

Equations (9) to (13), (16) and (17).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import normalize

from ..checks.intervals import random_basis
from ..errors import SingError
from .metrics import STEEP, angle, attribute_score, image_score
from .nullspace import HeadSpaces
from .translator import Translator

__all__ = [
    "Steered",
    "SteeredAll",
    "directions",
    "matched_perturbations",
    "matched_removal",
    "move",
    "null_direction",
    "random_part",
    "steer",
    "steer_all",
    "step_for_angle",
    "turning_step",
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


class SteeredAll(NamedTuple):
    """Every feature pushed towards every text, without the pushed features: see :func:`steer_all`.

    Attributes
    ----------
    step : torch.Tensor
        (n, p), in units of the feature; nan where the target cannot be reached.
    image_score, attribute_score : torch.Tensor
        (n, p), degrees; nan where the target cannot be reached.
    reachable : torch.Tensor
        (n, p), bool.
    limit : torch.Tensor
        (n, p), degrees: the angle that no step in this direction reaches.
    """

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
    >>> import torch, sing_nb as sing
    >>> f, part = torch.eye(3), torch.full((3, 3), 0.1)
    >>> sing.random_part(f, like=part, size=2).norm(dim=1).mul(10).round(decimals=3)
    tensor([1.7320, 1.7320, 1.7320])
    """
    basis = random_basis(f.shape[-1], size, seed)
    return f - matched_removal(f, like.norm(dim=-1), basis)


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
    _need_null_space(spaces)
    return normalize(spaces.null(directions(f, translator, text)), dim=-1)


def _need_null_space(spaces: HeadSpaces) -> None:
    if spaces.null_dim == 0:
        raise SingError(
            f"This head has rank {spaces.rank} for {spaces.features} features: its null space is "
            f"empty, so no direction leaves the logits unchanged. Choose a classifier with fewer "
            f"classes than features."
        )


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
    return turning_step(translator(f.double()), translator.linear(direction.double()), target)


def turning_step(
    z: torch.Tensor, turn: torch.Tensor, target: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`step_for_angle` inside the joint space: z + step * turn lies `target` degrees from z.

    Parameters
    ----------
    z, turn : torch.Tensor
        (n, d), T(f) and T.linear(direction).
    target : float
        Degrees, above 0 and below 180.

    Returns
    -------
    step, limit : torch.Tensor
        (n,), as in :func:`step_for_angle`.
    """
    _need_target(target)
    limit = angle(z, turn)
    phi, theta = torch.deg2rad(limit), np.deg2rad(target)
    step = z.norm(dim=-1) * np.sin(theta) / (turn.norm(dim=-1) * torch.sin(phi - theta))
    return torch.where(limit > target, step, torch.nan), limit


def _need_target(target: float) -> None:
    if not 0 < target < 180:
        raise SingError(f"The target Image Score lies between 0 and 180 degrees; got {target}.")


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
    _need_one_of(step, target_is)
    return move(f, null_direction(f, translator, text, spaces), translator, text, step, target_is)


def move(
    f: torch.Tensor, direction: torch.Tensor, translator: Translator, text: torch.Tensor,
    step: float | None = None, target_is: float | None = None,
) -> Steered:
    """Push features along given unit directions; what :func:`steer` does after finding them."""
    z, turn = translator(f.double()), translator.linear(direction.double())
    reach, limit = turning_step(z, turn, 90.0 if target_is is None else target_is)
    if step is not None:
        reach = torch.full_like(limit, step)
    reachable = torch.isfinite(reach)
    length = torch.where(reachable, reach, 0.0)[:, None]
    moved, z_tilde = f.double() + length * direction, z + length * turn
    blank = torch.where(reachable, 1.0, torch.nan)
    return Steered(
        moved.to(f.dtype), direction.to(f.dtype), reach, image_score(z, z_tilde) * blank,
        attribute_score(z, z_tilde, text.double()) * blank, reachable, limit,
    )


def _need_one_of(step: float | None, target_is: float | None) -> None:
    if (step is None) == (target_is is None):
        raise SingError("steer needs either step (a length) or target_is (degrees), one of them.")


# --- all pictures towards all prompts -----------------------------------------------------------


def steer_all(
    f: torch.Tensor, translator: Translator, texts: torch.Tensor, spaces: HeadSpaces,
    step: float | None = None, target_is: float | None = None, block: int = 1 << 22,
) -> SteeredAll:
    """What :func:`steer` finds for every feature and every text, without a feature-wide push.

    With ``A = W P`` (the translator's weight in the null space), ``B = A A^T``, ``z = T(f)``,
    ``u = z / |z|``, a unit text t and ``w = t - (u.t) u``, the gradient in the null space is
    ``A^T w / |z|`` and a unit push turns z by ``q = B w / |A^T w|``, with ``|A^T w|^2 = w.B w``.
    So all lengths and angles are sums of u.t, t.B u, u.B u, t.B t and the same with B B: of two
    large products, f W^T and u B, and small ones. Pairs whose sums lose digits (a text, or q,
    within 0.8 degrees of z or its opposite, or a push that turns z a thousand times less than
    others would) are worked out one by one.

    Parameters
    ----------
    f : torch.Tensor
        (n, m), features.
    translator : Translator
    texts : torch.Tensor
        (p, d), embeddings of the prompts.
    spaces : HeadSpaces
        Of the head that shall not notice.
    step, target_is : float, optional
        As in :func:`steer`, one of the two.
    block : int
        Numbers held at a time, in float64, besides A, B and the result; 32 MB by default. At
        least one picture is worked on.

    Returns
    -------
    SteeredAll
        In float64: those of :func:`steer`, whose features are ``f[i] + step[i, j] * direction``
        with ``null_direction(f[i], translator, texts[j], spaces)``.

    Raises
    ------
    SingError
        As :func:`steer`, or if `texts` is no matrix of the translator's width.
    """
    _need_one_of(step, target_is)
    _need_null_space(spaces)
    if target_is is not None:
        _need_target(target_is)
    if texts.ndim != 2 or texts.shape[1] != len(translator.weight):
        raise SingError(
            f"steer_all needs prompts of shape (p, {len(translator.weight)}), as wide as the "
            f"translator's embeddings; got {tuple(texts.shape)}. Encode them by encode_text."
        )
    seen = spaces.null(translator.weight.to(f.device).double())
    t = normalize(texts.to(f.device).double(), dim=-1)
    gram = seen @ seen.T
    # Half the block for rows, half for pairs that are worked out one by one: what both hold.
    rows = max(1, block // (2 * f.shape[1] + 10 * t.shape[1] + 60 * len(t)))
    pairs = max(1, block // (4 * f.shape[1] + 24 * t.shape[1]))
    parts = [
        _steered(translator(own.double()), seen, gram, t, step, target_is, pairs)
        for own in f.split(rows)
    ]
    return SteeredAll(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _steered(
    z: torch.Tensor, seen: torch.Tensor, gram: torch.Tensor, t: torch.Tensor,
    step: float | None, target: float | None, pairs: int,
) -> SteeredAll:
    """:func:`steer_all` for a block of z (n, d) and unit texts (p, d); A (d, m) and B (d, d)."""
    length = z.norm(dim=-1, keepdim=True)
    u = z / length
    bu, bt = u @ gram, t @ gram
    ut, ubt, ubbt = u @ t.T, bu @ t.T, bu @ bt.T
    ubu, ubbu = (bu * u).sum(-1, keepdim=True), (bu * bu).sum(-1, keepdim=True)
    tbt, tbbt = (bt * t).sum(-1), (bt * bt).sum(-1)
    # With w = t - (u.t) u: w.Bw, |Bw|, t.Bw, and the cosine of the angle between u and Bw.
    energy = tbt - 2 * ut * ubt + ut.square() * ubu
    reach = (tbbt - 2 * ut * ubbt + ut.square() * ubbu).clamp_min(0).sqrt()
    tbw, cosine = tbt - ut * ubt, (ubt - ut * ubu) / reach
    limit = torch.rad2deg(cosine.clamp(-1, 1).arccos())
    # Sums of which little is left have lost their digits, and so has a steep arc cosine.
    size = gram.norm()
    lost = (ut.abs() > STEEP) | (cosine.abs() > STEEP)
    lost |= ~((reach > 1e-3 * size) & (energy > 1e-6 * size))
    for i, j in (chosen.unbind(1) for chosen in lost.nonzero().split(pairs)):
        gradient = (t[j] - ut[i, j, None] * u[i]) @ seen
        bw = gradient @ seen.T
        energy[i, j], reach[i, j] = gradient.square().sum(-1), bw.norm(dim=-1)
        tbw[i, j], limit[i, j] = (t[j] * bw).sum(-1), angle(u[i], bw)
    # A unit push adds q to z: its length, and its parts along z, across z and along t.
    # Where the null space turns nothing, and the limit is nan, q is zero.
    unit = energy.clamp_min(0).rsqrt().nan_to_num(posinf=0.0)
    q, phi = reach * unit, torch.deg2rad(limit).nan_to_num()
    if target is None:
        found = torch.full_like(limit, step)
    else:
        theta = np.deg2rad(target)
        found = length * np.sin(theta) / (q * torch.sin(phi - theta))
        found = torch.where(limit > target, found, torch.nan)
    reachable = torch.isfinite(found)
    along, across = length + found * q * phi.cos(), found * q * phi.sin()
    turned = torch.rad2deg(torch.atan2(across.abs(), along))
    after = (length * ut + found * tbw * unit) / torch.hypot(along, across)
    score = torch.rad2deg(ut.clamp(-1, 1).arccos() - after.clamp(-1, 1).arccos())
    steep = reachable & ((ut.abs() > STEEP) | (after.abs() > STEEP))
    for i, j in (chosen.unbind(1) for chosen in steep.nonzero().split(pairs)):
        bw = (t[j] - ut[i, j, None] * u[i]) @ seen @ seen.T
        moved = z[i] + (found[i, j] * unit[i, j])[:, None] * bw
        score[i, j] = attribute_score(z[i], moved, t[j])
    return SteeredAll(found, turned, score, reachable, limit)
