"""track_best: per image, copy x to the best so far only where it improved."""

from __future__ import annotations

import torch
from torch import Tensor

from robustlab_kernels.backends import Operator
from robustlab_kernels.track_best import reference

__all__ = ["track_best"]

_OPERATOR = Operator(
    "track_best",
    "(Tensor(a!) best, Tensor(b!) best_distance, Tensor adv_inputs, Tensor distance, Tensor adversarial) -> Tensor",
    reference.track_best,
    lambda best, *_: best.new_empty(best.shape[0], dtype=torch.bool),
)


def track_best(
    best: Tensor,
    best_distance: Tensor,
    adv_inputs: Tensor,
    distance: Tensor,
    adversarial: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Copy an image (B, ...) to ``best`` where it is ``adversarial`` and nearer than ``best_distance`` (B,).

    Changes ``best`` and ``best_distance`` in place and returns where it did, (B,) bool.

    Args:
        best, adv_inputs: (B, ...).
        best_distance, distance: (B,).
        adversarial: (B,) bool.
        backend: "reference", "fused" or None, the kernel on a CUDA device and else the reference.
    """
    return _OPERATOR(backend, best, best_distance, adv_inputs, distance, adversarial)
