"""The score of equation (4) and the peak of a curve."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlab.robustness import (
    MINIMUM_IMAGES,
    common_correct,
    mean_over_seeds,
    peak,
    robustness_score,
    too_few_images,
)


def test_common_correct_keeps_what_every_model_gets_right() -> None:
    """An image counts only if all models of the curve classify it correctly."""
    correct = torch.tensor([[True, True, False, True], [True, False, False, True], [True, True, True, False]])
    assert common_correct(correct).tolist() == [True, False, False, False]


def test_common_correct_needs_a_model() -> None:
    """Without models every image would count as correct; that is refused."""
    with pytest.raises(ValueError, match="at least one model"):
        common_correct(torch.ones(0, 5, dtype=torch.bool))


def test_score_is_the_mean_distance() -> None:
    """With every image found, the score is the plain mean, without warnings from 30 images on."""
    distance = torch.linspace(0.1, 0.3, MINIMUM_IMAGES)
    score = robustness_score(distance, torch.ones(MINIMUM_IMAGES, dtype=torch.bool))
    assert score.mean == pytest.approx(0.2)
    assert (score.images, score.missed, score.success_rate) == (MINIMUM_IMAGES, 0, 1.0)
    assert score.warnings == ()


@pytest.mark.parametrize("missed_distance", [math.inf, 0.0, math.nan], ids=["inf", "clean image", "nan"])
def test_a_missed_image_leaves_no_mean(missed_distance: float) -> None:
    """A failed image neither counts as distance 0 nor disappears: there is no mean, and the score says so."""
    success = torch.tensor([True] * 39 + [False])
    distance = torch.cat([torch.full((39,), 0.5), torch.tensor([missed_distance])])
    score = robustness_score(distance, success)
    assert score.mean is None
    assert score.mean_found == pytest.approx(0.5)
    assert score.success_rate == pytest.approx(39 / 40)
    assert len(score.warnings) == 1
    assert "missed 1 of 40 images" in score.warnings[0]


def test_a_found_image_needs_a_finite_distance() -> None:
    """A success with an infinite distance contradicts itself and is refused."""
    with pytest.raises(ValueError, match="marked as found"):
        robustness_score(torch.tensor([0.1, math.inf]), torch.tensor([True, True]))


def test_no_image_means_no_score() -> None:
    """An empty common-correct set has neither mean nor success rate, and says why."""
    score = robustness_score(torch.empty(0), torch.empty(0, dtype=torch.bool))
    assert (score.mean, score.mean_found, score.success_rate, score.images) == (None, None, None, 0)
    assert "no image is classified correctly by all models" in score.warnings[0]


def test_small_counts_are_said() -> None:
    """One image fewer than the minimum gets a sentence, the minimum none."""
    assert str(MINIMUM_IMAGES) in (too_few_images(MINIMUM_IMAGES - 1) or "")
    assert too_few_images(MINIMUM_IMAGES) is None


def test_the_mean_does_not_lose_small_distances() -> None:
    """A float32 sum over many images would drift; the score is computed in float64."""
    distance = torch.full((200_000,), 0.1)
    mean = robustness_score(distance, torch.ones(200_000, dtype=torch.bool)).mean
    assert mean == pytest.approx(float(distance[0]), rel=1e-12)


def test_mean_over_seeds_needs_every_seed() -> None:
    """A seed without a finite value leaves no mean, because other seeds would stand in for it."""
    assert mean_over_seeds([1.0, 2.0, 6.0]) == pytest.approx(3)
    assert mean_over_seeds([1.0, None]) is None
    assert mean_over_seeds([1.0, math.inf]) is None
    assert mean_over_seeds([]) is None


@pytest.mark.parametrize(
    ("scores", "accuracies", "expected"),
    [
        ([0.1, 0.3, 0.2], [0.5, 0.6, 0.7], 20),
        ([0.3, 0.2, 0.1], [0.5, 0.6, 0.7], 10),
        ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7], None),
        ([0.1, 0.3, 0.2], [0.5, 0.7, 0.7], None),
        ([0.1, 0.3, 0.3], [0.5, 0.6, 0.7], None),
        ([0.3, None, 0.2], [0.5, 0.6, 0.7], 10),
        ([None, None, None], [0.5, 0.6, 0.7], None),
        ([0.1, math.inf, 0.2], [0.5, 0.6, 0.7], None),
    ],
    ids=["inside", "first", "still rising", "accuracy too", "flat end", "gap", "no score", "infinite"],
)
def test_peak(scores: list[float | None], accuracies: list[float | None], expected: int | None) -> None:
    """The peak is where robustness is largest, if it then falls while accuracy rises; else there is none."""
    assert peak([10, 20, 30], scores, accuracies) == expected


def test_peak_of_one_size_or_none() -> None:
    """A single size and an empty curve have no turning point."""
    assert peak([10], [0.1], [0.5]) is None
    assert peak([], [], []) is None


def test_peak_refuses_sizes_that_do_not_increase() -> None:
    """Unsorted or repeated sizes would make 'after the peak' meaningless."""
    with pytest.raises(ValueError, match="have to increase"):
        peak([10, 10], [0.1, 0.2], [0.5, 0.6])


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(6)), st.floats(0.1, 10))
def test_peak_ignores_the_unit(order: list[int], factor: float) -> None:
    """Scaling all distances (another pixel range) does not move the peak."""
    sizes = list(range(100, 700, 100))
    accuracies = [0.1 * n for n in range(6)]
    scores = [1.0 + rank for rank in order]
    expected = sizes[order.index(5)] if order.index(5) < 5 else None
    assert peak(sizes, [factor * score for score in scores], accuracies) == expected
