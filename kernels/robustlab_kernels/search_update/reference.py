"""One decision of a per-image search for the smallest value that succeeds."""

from __future__ import annotations

import torch
from torch import Tensor


def search_update(
    value: Tensor, low: Tensor, high: Tensor, succeeded: Tensor, decided: Tensor, growth: float
) -> None:
    """Narrow [low, high] (B,) around the smallest ``value`` (B,) that succeeds, choose the next, in place.

    Where ``decided``: a value that succeeded is the new high (unless something smaller was known), one that
    failed the new low; the next is the middle, or ``growth`` times the last while none has succeeded.
    """
    high.copy_(torch.where(decided & succeeded, torch.minimum(high, value), high))
    low.copy_(torch.where(decided & ~succeeded, torch.maximum(low, value), low))
    chosen = torch.where(high.isinf(), growth * value, (low + high) / 2)
    value.copy_(torch.where(decided, chosen, value))
