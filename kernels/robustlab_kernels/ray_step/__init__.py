"""ray_step: turn the ray from the clean image, then find the radius at which it leaves the class."""

from __future__ import annotations

import torch
from torch import Tensor

from robustlab_kernels.backends import Operator
from robustlab_kernels.ray_step import reference

__all__ = ["ray_step"]

_OPERATOR = Operator(
    "ray_step",
    "(Tensor adv_inputs, Tensor inputs, Tensor margin, Tensor gradient, Tensor turn, Tensor inside, Tensor limit) "
    "-> Tensor",
    reference.ray_step,
    lambda adv_inputs, *_: torch.empty_like(adv_inputs),
)


def ray_step(
    adv_inputs: Tensor,
    inputs: Tensor,
    margin: Tensor,
    gradient: Tensor,
    turn: Tensor,
    inside: Tensor,
    limit: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """The next image on a ray x(r) = clip(x0 + r u) to [0, 1], without a model pass.

    1. Direction: u <- u - turn g / ||g||, normalised, with g the gradient without the pixels that the box holds
       back. At the nearest point of the boundary u = -g / ||g||, so that it is a fixed point.
    2. Radius: Newton's method on the margin's tangent, m + g.(x(r) - x) = -inside r ||g||, from the present
       radius R, within (1 - limit) R <= r <= (1 + limit) R. ``inside`` aims beyond the boundary.

    Args:
        adv_inputs, inputs, gradient: (B, ...), the present image x, the clean image x0, the margin's gradient at x.
        margin, turn, inside, limit: (B,).
        backend: "reference", "fused" or None, the kernel on a CUDA device and else the reference.
    """
    return _OPERATOR(backend, adv_inputs, inputs, margin, gradient, turn, inside, limit)
