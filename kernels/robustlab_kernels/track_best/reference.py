"""Keep the nearest adversarial image seen so far."""

from __future__ import annotations

import torch
from torch import Tensor


def track_best(
    best: Tensor, best_distance: Tensor, adv_inputs: Tensor, distance: Tensor, adversarial: Tensor
) -> Tensor:
    """Copy an image (B, ...) to ``best`` where it is ``adversarial`` and nearer than ``best_distance`` (B,).

    Changes ``best`` and ``best_distance`` in place and returns where it did, (B,) bool.
    """
    nearer = adversarial & (distance < best_distance)
    best_distance.copy_(torch.where(nearer, distance, best_distance))
    per_image = (-1,) + (1,) * (best.dim() - 1)
    best.copy_(torch.where(nearer.view(per_image), adv_inputs, best))
    return nearer
