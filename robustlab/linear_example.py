"""Section 2 of the paper: more training data makes a linear regression more accurate and less robust."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustlab.shapes import Float

TRAIN_1 = ((1.35, 9.52), (2.42, 16.7), (4.02, 28.03))
TRAIN_2 = (*TRAIN_1, (8.59, 60.22), (3.85, 25.74), (6.71, 47.2))
TEST = ((4.78, 33.24), (9.71, 67.78))
BOUND = 0.025  # of the true value
STEP = 0.0001
_LARGEST_DELTA = 1.0  # several times what the bound allows; the search refuses to answer beyond

_PAPER = {"M1": (0.0450, 0.2194), "M2": (0.0396, 0.2125)}


@dataclass(frozen=True)
class LinearModel:
    """One regression y = slope x + intercept, measured on the two test points.

    ``mse`` is in squared units of y, ``robustness`` (mean smallest |delta| that breaks the bound) in units of
    x; ``paper_mse`` and ``paper_robustness`` are what the paper prints.
    """

    name: str
    train_size: int
    slope: float
    intercept: float
    mse: float
    robustness: float
    paper_mse: float
    paper_robustness: float


@dataclass(frozen=True)
class LinearExample:
    """Both models of Section 2 and how they stand to the paper's numbers."""

    models: tuple[LinearModel, LinearModel]

    @property
    def order_holds(self) -> bool:
        """Whether, as in the paper, more data gives the smaller error and the smaller robustness."""
        small, large = self.models
        return large.mse < small.mse and large.robustness < small.robustness

    @property
    def note(self) -> str:
        """One sentence on the difference from the paper, to be shown with the values."""
        order = "holds" if self.order_holds else "does not hold"
        return (
            "The mean squared errors equal the paper's; the robustness values differ from the paper's under "
            "every reading of its definition that was tried, while its order (M1 more robust, M2 more "
            f"accurate) {order}."
        )


def linear_example() -> LinearExample:
    """Fit both models of the paper's Section 2 by least squares with intercept and measure them (float64)."""
    return LinearExample((_measure("M1", TRAIN_1), _measure("M2", TRAIN_2)))


def _measure(name: str, points: tuple[tuple[float, float], ...]) -> LinearModel:
    x, y = torch.tensor(points, dtype=torch.float64).T
    slope, intercept = torch.linalg.lstsq(
        torch.stack([x, torch.ones_like(x)], 1), y[:, None]
    ).solution.flatten()
    x, y = torch.tensor(TEST, dtype=torch.float64).T
    mse = (slope * x + intercept - y).square().mean()
    robustness = smallest_breaking_delta(float(slope), float(intercept), x, y).mean()
    paper_mse, paper_robustness = _PAPER[name]
    return LinearModel(
        name,
        len(points),
        float(slope),
        float(intercept),
        float(mse),
        float(robustness),
        paper_mse,
        paper_robustness,
    )


def smallest_breaking_delta(
    slope: float, intercept: float, x: Float[Tensor, " points"], y: Float[Tensor, " points"]
) -> Float[Tensor, " points"]:
    """Per point the smallest |delta|, a multiple of ``STEP``, whose prediction is off by more than ``BOUND``.

    Off means |slope (x + delta) + intercept - y| > BOUND |y|, with delta in either direction: the error
    against the true value y, as Section 2 states it, not against the prediction at x.

    Raises:
        ValueError: no delta up to 1 breaks the bound.
    """
    delta = STEP * torch.arange(round(_LARGEST_DELTA / STEP) + 1, dtype=torch.float64)[:, None]
    worst = torch.maximum(
        (slope * (x + delta) + intercept - y).abs(), (slope * (x - delta) + intercept - y).abs()
    )
    breaks = worst > BOUND * y.abs()
    if not bool(breaks[-1].all()):
        raise ValueError(f"no perturbation up to {_LARGEST_DELTA} breaks the bound of {BOUND:.1%}")
    return delta.flatten()[breaks.int().argmax(dim=0)]
