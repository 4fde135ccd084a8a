"""cw_step: the L2 term's gradient, the chain through tanh, Adam and the new image."""

from __future__ import annotations

from torch import Tensor

from robustlab_kernels.backends import Operator
from robustlab_kernels.cw_step import reference

__all__ = ["cw_step"]

_OPERATOR = Operator(
    "cw_step",
    "(Tensor(a!) w, Tensor(b!) adv_inputs, Tensor(c!) first_moment, Tensor(d!) second_moment, Tensor inputs, "
    "Tensor gradient, Tensor const, Tensor step, Tensor learning_rate, Tensor active) -> Tensor",
    reference.cw_step,
    lambda w, *_: w.new_empty(w.shape[0]),
)


def cw_step(
    w: Tensor,
    adv_inputs: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    inputs: Tensor,
    gradient: Tensor,
    const: Tensor,
    step: Tensor,
    learning_rate: Tensor,
    active: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """One step of Adam on w, where x = (tanh w + 1) / 2; returns ||x - x0||^2 of the new images, (B,).

    The loss is c f(x) + ||x - x0||^2 (Carlini and Wagner 2017, section V-D): the first term's gradient is
    ``const`` times ``gradient``, the second's 2 (x - x0), and dx/dw = 2 x (1 - x). (tanh w + 1) / 2 =
    sigmoid(2w). ``w``, ``adv_inputs`` and the two moments are changed in place where ``active``.

    Args:
        w, adv_inputs, first_moment, second_moment, inputs, gradient: (B, ...); ``gradient`` is that of f by x.
        const: (B,), the image's c.
        step: (B,) integers, the number of this step within the image's own run of Adam, from 1.
        learning_rate: (B,), in units of w.
        active: (B,) bool; the other images are left untouched. Their distance is returned all the same.
        backend: "reference", "fused" or None, the kernel on a CUDA device and else the reference.
    """
    return _OPERATOR(
        backend, w, adv_inputs, first_moment, second_moment, inputs, gradient, const, step, learning_rate, active
    )  # fmt: skip
