"""What an outcome is worth: by hand on small numbers."""

from __future__ import annotations

import math

import pytest
import torch

from robustlab.study.tuning.judgement import FAILURE_FACTOR, batch_cost, cost, judge
from robustlab.study.tuning.subjects import Outcome

REFERENCE = Outcome(torch.tensor([[1.0, 3.0], [0.1, 0.1]]), torch.full((2, 2), 1000))


def test_each_model_counts() -> None:
    """A loss at one size alone is not averaged away: the worst model may lie twice the tolerance off, no further."""
    outcome = Outcome(torch.tensor([[1.0, 2.0], [0.11, 0.11]]), torch.tensor([[10, 20], [30, 40]]))
    judgement = judge(outcome, REFERENCE)
    assert judgement.worst_ratio == pytest.approx(1.1)
    assert judgement.mean_ratio == pytest.approx(3.22 / 4.2)
    assert judgement.distance == pytest.approx(3.22 / 4)
    assert (judgement.success_rate, judgement.propagations) == (1.0, 25.0)
    assert judgement.within(0.051)
    assert not judgement.within(0.049)
    evenly = judge(Outcome(1.01 * REFERENCE.distance, outcome.propagations), REFERENCE)
    assert evenly.within(0.0101)
    assert not evenly.within(0.0099)


def test_a_miss_is_a_finite_penalty_and_never_within() -> None:
    """An image without an adversarial one costs many times its reference, and no tolerance forgives it."""
    outcome = Outcome(torch.tensor([[1.0, math.inf], [0.1, 0.1]]), torch.ones(2, 2, dtype=torch.long))
    judgement = judge(outcome, REFERENCE)
    assert judgement.worst_ratio == pytest.approx((1 + 3 * FAILURE_FACTOR) / 4)
    assert judgement.success_rate == 0.75
    assert not judgement.within(1.0)
    assert not judge(
        Outcome(torch.tensor([[0.1, 0.1], [0.1, math.nan]]), outcome.propagations), REFERENCE
    ).within(99.0)
    assert math.isfinite(cost(judgement, 0.005, 400.0))


def test_cost_is_propagations_within_the_tolerance_and_grows_beyond() -> None:
    """Barely beyond the tolerance costs more than the defaults' whole work, and each 1 % further as much again."""
    same = judge(Outcome(REFERENCE.distance, torch.full((2, 2), 7)), REFERENCE)
    assert cost(same, 0.005, 400.0) == 7
    further = judge(Outcome(1.015 * REFERENCE.distance, torch.full((2, 2), 7)), REFERENCE)
    assert cost(further, 0.005, 400.0) == pytest.approx(807, rel=1e-4)
    barely = judge(Outcome(1.0051 * REFERENCE.distance, torch.full((2, 2), 7)), REFERENCE)
    assert cost(barely, 0.005, 400.0) > 400


def test_what_scatters_around_the_reference_costs_no_more_by_batch() -> None:
    """Batches 2 % above and 2 % below cancel, so constants that are as good on average are not pruned for scatter."""
    passes = torch.full((1, 1), 7)
    wanted = Outcome(torch.ones(1, 1), passes)
    costs = [
        batch_cost(judge(Outcome(torch.full((1, 1), distance), passes), wanted), 0.0, 400.0)
        for distance in (0.98, 1.02)
    ]
    assert sum(costs) / 2 == pytest.approx(7, abs=1e-2)
    assert costs[0] < 7 < costs[1]
