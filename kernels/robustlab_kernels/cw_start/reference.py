"""Where a run of Carlini and Wagner's Adam begins: w from an image, moments of zero."""

from __future__ import annotations

import torch
from torch import Tensor

from robustlab_kernels.host import on_host


def cw_start(
    w: Tensor,
    adv_inputs: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    squared_l2: Tensor,
    inputs: Tensor,
    origin: Tensor,
    begins: Tensor,
    inside: float,
) -> None:
    """See :func:`robustlab_kernels.cw_start`."""
    if on_host(begins) and not begins.any():  # most steps begin nothing
        return
    chosen = begins.view((-1,) + (1,) * (w.dim() - 1))
    start = torch.atanh((2 * origin - 1).clamp(-1, 1) * inside)
    image = torch.sigmoid(2 * start)
    w.copy_(torch.where(chosen, start, w))
    adv_inputs.copy_(torch.where(chosen, image, adv_inputs))
    first_moment.masked_fill_(chosen, 0)
    second_moment.masked_fill_(chosen, 0)
    distance = (image - inputs).flatten(1).square().sum(dim=1)
    squared_l2.copy_(torch.where(begins, distance, squared_l2))
