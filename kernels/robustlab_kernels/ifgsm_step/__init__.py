"""ifgsm_step: a signed step, clipped to the ball and the box."""

from __future__ import annotations

import torch
from torch import Tensor

from robustlab_kernels.backends import Operator
from robustlab_kernels.ifgsm_step import reference

__all__ = ["ifgsm_step"]

_OPERATOR = Operator(
    "ifgsm_step",
    "(Tensor(a!) adv_inputs, Tensor inputs, Tensor gradient, Tensor step_size, Tensor epsilon, Tensor active) "
    "-> (Tensor, Tensor)",
    reference.ifgsm_step,
    lambda x, *_: (x.new_empty(x.shape[0]), x.new_empty(x.shape[0], dtype=torch.bool)),
)


def ifgsm_step(
    adv_inputs: Tensor,
    inputs: Tensor,
    gradient: Tensor,
    step_size: Tensor,
    epsilon: Tensor,
    active: Tensor,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """x <- clip(x - step_size sgn(gradient)) to the Linf ball of radius epsilon and to [0, 1], in place.

    Kurakin et al. 2017, section 2.2, descending the margin (which is ascending the loss). A pixel whose gradient
    is NaN does not move.

    Args:
        adv_inputs, inputs, gradient: (B, ...).
        step_size, epsilon: (B,), in units of the [0, 1] pixel range.
        active: (B,) bool; the other images are left untouched.
        backend: "reference", "fused" or None, the kernel on a CUDA device and else the reference.

    Returns:
        (B,) Linf of the new ``adv_inputs`` - ``inputs``, for inactive images too; (B,) bool, whether this step
        changed a pixel.
    """
    return _OPERATOR(backend, adv_inputs, inputs, gradient, step_size, epsilon, active)
