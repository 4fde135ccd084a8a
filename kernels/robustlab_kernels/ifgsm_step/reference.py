"""One signed step inside the eps ball and the box in plain torch."""

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
) -> tuple[Tensor, Tensor]:
    """See :func:`robustlab_kernels.ifgsm_step`."""
    per_image = (-1,) + (1,) * (inputs.dim() - 1)
    radius = epsilon.view(per_image)
    moved = adv_inputs - step_size.view(per_image) * gradient.sign()
    moved = torch.minimum(torch.maximum(moved, inputs - radius), inputs + radius).clamp_(0, 1)
    moved = torch.where(active.view(per_image), moved, adv_inputs)
    changed = active & (moved != adv_inputs).flatten(1).any(dim=1)
    adv_inputs.copy_(moved)
    return (adv_inputs - inputs).flatten(1).abs().amax(dim=1), changed
