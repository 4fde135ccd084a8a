"""search_update: the per-image bounds of c or of eps after a search step."""

from __future__ import annotations

from torch import Tensor

from robustlab_kernels.backends import Operator
from robustlab_kernels.search_update import reference

__all__ = ["search_update"]

_OPERATOR = Operator(
    "search_update",
    "(Tensor(a!) value, Tensor(b!) low, Tensor(c!) high, Tensor succeeded, Tensor decided, float growth) -> ()",
    reference.search_update,
    lambda *_: None,
)


def search_update(
    value: Tensor,
    low: Tensor,
    high: Tensor,
    succeeded: Tensor,
    decided: Tensor,
    growth: float,
    *,
    backend: str | None = None,
) -> None:
    """Narrow [low, high] (B,) around the smallest ``value`` (B,) that succeeds, choose the next, in place.

    Where ``decided``: a value that succeeded is the new high (unless something smaller was known), one that
    failed the new low; the next is the middle, or ``growth`` times the last while none has succeeded (high is
    inf).

    Args:
        succeeded, decided: (B,) bool.
        backend: "reference", "fused" or None, the kernel on a CUDA device and else the reference.
    """
    _OPERATOR(backend, value, low, high, succeeded, decided, growth)
