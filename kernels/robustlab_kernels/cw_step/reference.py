"""One step of Carlini and Wagner's attack in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustlab_kernels.host import on_host

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Kingma and Ba 2015, algorithm 1


def cw_step(
    w: Tensor,
    adv_inputs: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    inputs: Tensor,
    gradient: Tensor,
    const: Tensor,
    step: Tensor,
    learning_rate: Tensor,
    active: Tensor,
) -> Tensor:
    """See :func:`robustlab_kernels.cw_step`."""
    per_image = (-1,) + (1,) * (w.dim() - 1)
    alive = active.view(per_image)
    grad_x = const.view(per_image) * gradient + 2 * (adv_inputs - inputs)
    grad_w = grad_x * (2 * adv_inputs * (1 - adv_inputs))
    # In float32 1 - beta and 1 - beta^t keep only three digits where they are differences of float32 numbers, so the
    # moments are weighted by 1 - beta and their bias is corrected through expm1.
    first = torch.lerp(first_moment, grad_w, 1 - BETA_1)
    second = torch.lerp(second_moment, grad_w.square(), 1 - BETA_2)
    count = step.to(w.dtype)
    first_scale = (learning_rate / -torch.expm1(count * math.log(BETA_1))).view(per_image)
    second_scale = (-torch.expm1(count * math.log(BETA_2))).rsqrt().view(per_image)
    moved = w - first_scale * first / (second.sqrt() * second_scale + EPSILON)
    changed = (
        (first_moment, first),
        (second_moment, second),
        (w, moved),
        (adv_inputs, torch.sigmoid(2 * moved)),
    )
    every_image = on_host(active) and bool(active.all())  # a mask costs as much as a copy
    for tensor, values in changed:
        tensor.copy_(values if every_image else torch.where(alive, values, tensor))
    return (adv_inputs - inputs).flatten(1).square().sum(dim=1)
