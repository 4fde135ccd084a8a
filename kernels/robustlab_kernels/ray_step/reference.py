"""One step of the turning-ray attack in plain torch: first the direction, then the radius."""

from __future__ import annotations

import torch
from torch import Tensor

NEWTON_STEPS = 5  # the margin along the clipped ray is piecewise linear with few pieces: five reach its zero
TINY = 1e-30  # below this a vector has no direction


def ray_step(
    adv_inputs: Tensor,
    inputs: Tensor,
    margin: Tensor,
    gradient: Tensor,
    turn: Tensor,
    inside: Tensor,
    limit: Tensor,
) -> Tensor:
    """See :func:`robustlab_kernels.ray_step`."""
    x, x0, g = adv_inputs.flatten(1), inputs.flatten(1), gradient.flatten(1)
    slope = g.norm(dim=1).clamp(min=TINY)
    offset = x - x0
    radius = offset.norm(dim=1)
    held = ((x <= 0) & (g > 0)) | ((x >= 1) & (g < 0))
    ray = _unit(_unit(offset) - turn[:, None] * _unit(g.masked_fill(held, 0)))

    low, high = radius * (1 - limit), radius * (1 + limit)
    aim = margin - (g * offset).sum(dim=1) + inside * slope * radius
    r = radius
    for _ in range(NEWTON_STEPS):
        y = x0 + r[:, None] * ray
        free = (y > 0) & (y < 1)
        value = aim + (g * (y.clamp(0, 1) - x0)).sum(dim=1)
        rate = (g * ray * free).sum(dim=1)
        # A ray along which the margin does not fall has no zero: as far as the limit, outwards if still inside.
        newton = torch.where(rate < 0, r - value / rate, torch.where(value > 0, high, low))
        r = torch.minimum(torch.maximum(newton, low), high)
    moved = (x0 + r[:, None] * ray).clamp_(0, 1).view_as(adv_inputs)
    # The memory format of the images goes on into the next pass of the network.
    return moved if adv_inputs.is_contiguous() else torch.empty_like(adv_inputs).copy_(moved)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=TINY)
