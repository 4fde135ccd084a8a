"""The margin of the logits, its gradient and the class it is measured against, in plain torch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Margin(NamedTuple):
    """Per image: the margin (B,), the gradient by the logits (B, N), the best other class (B,)."""

    value: Tensor
    gradient: Tensor
    other: Tensor


def margin(logits: Tensor, labels: Tensor, *, targeted: bool = False, soft: bool = False) -> Margin:
    """How far the logits (B, N) are from what the attacker wants; below zero, the attack has succeeded.

    Carlini and Wagner 2017, f_6 without the maximum: z_t - max_{i != t} z_i, and its negative when ``labels``
    are targets. The gradient is +1 and -1 at the two classes: no autograd through the loss is needed. With
    ``soft`` the gradient is that of z_t - log sum_{i != t} exp z_i instead, which is the cross-entropy's times
    -1 / (1 - p_t): the same direction, but it does not vanish where the model is sure. NaN logits give a NaN
    margin, which is below nothing.
    """
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf)
    highest, other = others.max(dim=1)
    sign = -1.0 if targeted else 1.0
    if soft:
        gradient = others.softmax(dim=1).mul_(-sign)
    else:
        gradient = torch.zeros_like(logits).scatter_(1, other[:, None], -sign)
    gradient.scatter_(1, labels[:, None], sign)
    return Margin(sign * (own[:, 0] - highest), gradient, other)
