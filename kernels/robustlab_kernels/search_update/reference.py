"""One decision of a per-image search in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def search_update(
    value: Tensor, low: Tensor, high: Tensor, succeeded: Tensor, decided: Tensor, growth: float
) -> None:
    """See :func:`robustlab_kernels.search_update`."""
    high.copy_(torch.where(decided & succeeded, torch.minimum(high, value), high))
    low.copy_(torch.where(decided & ~succeeded, torch.maximum(low, value), low))
    chosen = torch.where(high.isinf(), growth * value, (low + high) / 2)
    value.copy_(torch.where(decided, chosen, value))
