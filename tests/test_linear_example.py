"""Section 2 of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustlab.linear_example import (
    BOUND,
    STEP,
    TEST,
    TRAIN_1,
    TRAIN_2,
    linear_example,
    smallest_breaking_delta,
)


def test_errors_equal_the_paper() -> None:
    """Both mean squared errors agree with the paper in all digits it prints."""
    for model in linear_example().models:
        assert round(model.mse, 4) == model.paper_mse


def test_robustness_values() -> None:
    """The smallest perturbations stay at the values that the stated definition gives, beside the paper's."""
    small, large = linear_example().models
    assert small.robustness == pytest.approx(0.15990, abs=1e-9)
    assert large.robustness == pytest.approx(0.15645, abs=1e-9)
    assert (small.paper_robustness, large.paper_robustness) == (0.2194, 0.2125)


def test_order_holds_and_the_note_says_what_differs() -> None:
    """More data is more accurate and less robust, and the note admits that the values are not the paper's."""
    example = linear_example()
    assert example.order_holds
    assert "differ from the paper's" in example.note
    assert "holds" in example.note


@pytest.mark.parametrize(("index", "points"), [(0, TRAIN_1), (1, TRAIN_2)], ids=["M1", "M2"])
def test_coefficients_are_least_squares(index: int, points: tuple[tuple[float, float], ...]) -> None:
    """Slope and intercept agree with NumPy's polynomial fit."""
    model = linear_example().models[index]
    slope, intercept = np.polyfit(*np.array(points).T, deg=1)
    assert (model.slope, model.intercept) == pytest.approx((slope, intercept), abs=1e-9)
    assert model.train_size == len(points)


def test_breaking_delta_is_the_smallest_step() -> None:
    """The delta breaks the bound in one direction and the step before it breaks it in none."""
    x, y = torch.tensor(TEST, dtype=torch.float64).T
    model = linear_example().models[0]
    delta = smallest_breaking_delta(model.slope, model.intercept, x, y)

    def off(change: torch.Tensor) -> torch.Tensor:
        return (model.slope * (x + change) + model.intercept - y).abs() / y.abs() > BOUND

    assert bool((off(delta) | off(-delta)).all())
    assert not bool((off(delta - STEP) | off(STEP - delta)).any())


def test_breaking_delta_against_the_closed_form() -> None:
    """For an exact model the bound is broken right after BOUND |y| / |slope|, also for a negative slope."""
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    delta = smallest_breaking_delta(-3.0, 0.0, x, -3 * x)
    assert torch.allclose(delta, BOUND * x + STEP / 2, atol=0.51 * STEP, rtol=0)


def test_a_broken_bound_needs_no_perturbation() -> None:
    """Where the prediction is off by more than the bound at once, delta is 0."""
    one = torch.ones(1, dtype=torch.float64)
    assert smallest_breaking_delta(1.0, 0.5, one, one).item() == 0


def test_a_flat_model_is_refused() -> None:
    """A model that no perturbation moves has no smallest perturbation, and the search says so."""
    one = torch.ones(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="no perturbation up to"):
        smallest_breaking_delta(0.0, 1.0, one, one)
