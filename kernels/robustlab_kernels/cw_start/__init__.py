"""cw_start: where a run of Adam on w begins."""

from __future__ import annotations

from torch import Tensor

from robustlab_kernels.backends import Operator
from robustlab_kernels.cw_start import reference

__all__ = ["cw_start"]

_OPERATOR = Operator(
    "cw_start",
    "(Tensor(a!) w, Tensor(b!) adv_inputs, Tensor(c!) first_moment, Tensor(d!) second_moment, "
    "Tensor(e!) squared_l2, Tensor inputs, Tensor origin, Tensor begins, float inside) -> ()",
    reference.cw_start,
    lambda *_arguments: None,
)


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
    *,
    backend: str | None = None,
) -> None:
    """Set w = arctanh(inside (2 x - 1)) for x = ``origin`` in place, for the images that ``begins``.

    Carlini and Wagner 2017, section V-B. ``adv_inputs`` becomes (tanh w + 1) / 2, which is a little inside the box
    where the origin lies on its edge; the moments become 0 and ``squared_l2`` ||adv_inputs - inputs||^2.

    Args:
        w, adv_inputs, first_moment, second_moment, inputs, origin: (B, ...).
        squared_l2: (B,), in units of the [0, 1] pixel range, squared.
        begins: (B,) bool; the other images are left untouched.
        inside: factor on 2 x - 1, below 1: at 1 tanh has no slope to leave the edge by.
        backend: "reference", "fused" or None, the kernel on a CUDA device and else the reference.
    """
    _OPERATOR(backend, w, adv_inputs, first_moment, second_moment, squared_l2, inputs, origin, begins, inside)
