"""One signed step inside the eps ball and the box."""

from __future__ import annotations

import torch
from torch import Tensor


def ifgsm_step(
    adv_inputs: Tensor,
    inputs: Tensor,
    gradient: Tensor,
    step_size: Tensor,
    epsilon: Tensor,
    active: Tensor,
) -> None:
    """x <- clip(x - step_size sgn(gradient)) to the Linf ball of radius epsilon and to [0, 1], in place.

    Kurakin et al. 2017, section 2.2, descending the margin (which is ascending the loss).

    Args:
        adv_inputs, inputs, gradient: (B, ...).
        step_size, epsilon: (B,), in units of the [0, 1] pixel range.
        active: (B,) bool; the other images are left untouched.
    """
    per_image = (-1,) + (1,) * (inputs.dim() - 1)
    radius = epsilon.view(per_image)
    moved = adv_inputs - step_size.view(per_image) * gradient.sign()
    moved = torch.minimum(torch.maximum(moved, inputs - radius), inputs + radius).clamp_(0, 1)
    adv_inputs.copy_(torch.where(active.view(per_image), moved, adv_inputs))
