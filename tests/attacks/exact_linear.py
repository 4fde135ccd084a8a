"""The exact smallest perturbation in the box that a linear model does not withstand, by scalar search."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor


def smallest_perturbation(
    weight: Tensor, bias: Tensor, image: Tensor, label: int, norm: str, targeted: bool
) -> float:
    """min ||d|| so that x + d in [0, 1] is (targeted: becomes) another class; inf if there is none.

    For one rival class the margin a.x + b has to fall to zero. Both optima move each pixel along -a as far as
    a multiplier (L2: d = -t a, Linf: d = -t sgn a) or the box allows; bisection finds the smallest such t.
    """
    x = [float(v) for v in image.flatten()]
    distances = []
    for rival in range(len(bias)):
        if rival == label:
            continue
        low_class, high_class = (rival, label) if targeted else (label, rival)
        a = [float(v) for v in (weight[low_class] - weight[high_class])]
        b = float(bias[low_class] - bias[high_class])
        distances.append(_to_halfspace(x, a, b, norm))
    return max(distances) if targeted else min(distances)


def _to_halfspace(x: list[float], a: list[float], b: float, norm: str) -> float:
    """Distance within the box from x to {a.x + b <= 0}."""

    def moved(t: float) -> list[float]:
        slope: Callable[[float], float] = (
            (lambda v: v) if norm == "l2" else (lambda v: float((v > 0) - (v < 0)))
        )
        return [min(max(xi - t * slope(ai), 0.0), 1.0) for xi, ai in zip(x, a, strict=True)]

    def margin(t: float) -> float:
        return sum(ai * yi for ai, yi in zip(a, moved(t), strict=True)) + b

    if margin(0) <= 0:
        return 0.0
    low, high = 0.0, 1.0
    while margin(high) > 0:
        high *= 2
        if high > 1e12:
            return math.inf
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if margin(middle) <= 0 else (middle, high)
    differences = [yi - xi for yi, xi in zip(moved(high), x, strict=True)]
    if norm == "l2":
        return math.sqrt(sum(d * d for d in differences))
    return max(abs(d) for d in differences)
