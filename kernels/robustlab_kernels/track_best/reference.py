"""Keep the nearest adversarial image seen so far, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from robustlab_kernels.host import on_host


def track_best(
    best: Tensor, best_distance: Tensor, adv_inputs: Tensor, distance: Tensor, adversarial: Tensor
) -> Tensor:
    """See :func:`robustlab_kernels.track_best`."""
    nearer = adversarial & (distance < best_distance)
    if on_host(nearer) and not nearer.any():  # most steps improve nothing
        return nearer
    best_distance.copy_(torch.where(nearer, distance, best_distance))
    per_image = (-1,) + (1,) * (best.dim() - 1)
    best.copy_(torch.where(nearer.view(per_image), adv_inputs, best))
    return nearer
