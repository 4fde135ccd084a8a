"""margin: from logits and labels f, its gradient with respect to the logits, and the best other class."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustlab_kernels.backends import Operator
from robustlab_kernels.margin import reference

__all__ = ["Margin", "margin"]


class Margin(NamedTuple):
    """Per image: the margin (B,), its gradient by the logits (B, N), the best other class (B,), success (B,)."""

    value: Tensor
    gradient: Tensor
    other: Tensor
    adversarial: Tensor


def _fake(logits: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch = logits.shape[0]
    return (
        logits.new_empty(batch),
        logits.new_empty(logits.shape),
        logits.new_empty(batch, dtype=torch.int64),
        logits.new_empty(batch, dtype=torch.bool),
    )


_OPERATOR = Operator(
    "margin",
    "(Tensor logits, Tensor labels, bool targeted, bool soft, float confidence) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    reference.margin,
    _fake,
)


def margin(
    logits: Tensor,
    labels: Tensor,
    *,
    targeted: bool = False,
    soft: bool = False,
    confidence: float = 0.0,
    backend: str | None = None,
) -> Margin:
    """How far the logits (B, N) are from what the attacker wants; below zero, the attack has succeeded.

    Carlini and Wagner 2017, f_6 without the maximum: z_t - max_{i != t} z_i, and its negative when ``labels``
    are targets. The gradient is +1 and -1 at the two classes: no autograd through the loss is needed. With
    ``soft`` the gradient is that of z_t - log sum_{i != t} exp z_i instead, which is the cross-entropy's times
    -1 / (1 - p_t): the same direction, but it does not vanish where the model is sure.

    ``adversarial``: the margin is below -``confidence`` by more than 16 roundings of the row's largest logit, so
    that the verdict survives another batch size. NaN logits give a NaN margin, which is below nothing.

    Args:
        logits: (B, N), two classes or more.
        labels: (B,) int64, from 0 to N - 1.
        confidence: kappa, in units of the logits.
        backend: "reference", "fused" or None, the kernel on a CUDA device and else the reference.
    """
    return Margin(*_OPERATOR(backend, logits, labels, targeted, soft, confidence))
