"""The margin of the logits, its gradient and the class it is measured against, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

# A success must survive another batch size and another order of summation: the margin has to be below minus
# so many roundings of the largest logit.
ROUNDINGS = 16


def margin(
    logits: Tensor, labels: Tensor, targeted: bool, soft: bool, confidence: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See :func:`robustlab_kernels.margin`."""
    logits = logits.contiguous()
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    highest, other = others.max(dim=1)
    sign = -1.0 if targeted else 1.0
    if soft:
        gradient = others.softmax(dim=1).mul_(-sign)
    else:
        gradient = torch.zeros_like(logits).scatter_(1, other[:, None], -sign)
    gradient.scatter_(1, labels[:, None], sign)
    value = sign * (own[:, 0] - highest)
    rounding = ROUNDINGS * torch.finfo(logits.dtype).eps
    adversarial = value + confidence < -rounding * logits.abs().amax(dim=1)
    return value, gradient, other, adversarial
