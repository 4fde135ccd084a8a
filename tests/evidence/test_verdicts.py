"""Verdicts: their level and power by simulation, and what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlab.evidence import Curve, explain, headline, holm, judge
from tests.evidence.made_up import SIZES, curve

FLAT = (1.0,) * 6
PEAK = (0.80, 0.94, 1.0, 0.98, 0.93, 0.90)  # like the paper's CIFAR-10 curves: a tenth down from the peak
RISING = (0.70, 0.80, 0.86, 0.92, 0.98, 1.0)


def share_of(verdict: str, repetitions: int, **options: object) -> float:
    """How often simulated curves get that verdict."""
    rng = np.random.default_rng(7)
    kinds = [judge([curve(rng, **options)], draws=399, seed=i)[0].kind for i in range(repetitions)]  # type: ignore[arg-type]
    return kinds.count(verdict) / repetitions


def bound(repetitions: int, level: float = 0.05) -> float:
    """The level and three standard errors of a simulation."""
    return level + 3 * (level * (1 - level) / repetitions) ** 0.5


@pytest.mark.parametrize("kind", ["normal", "skewed", "neighbours", "heavy"])
def test_flat_curves_rarely_turn(kind: str) -> None:
    """Under a flat truth at most 5 % turning points, though the best-looking size is picked, one seed."""
    assert share_of("turning point", 800, shape=FLAT, kind=kind) <= bound(800)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_training_noise_is_no_turning_point(seeds: int) -> None:
    """Models that differ by 3 % from training alone: several seeds see that it is noise."""
    share = share_of("turning point", 400, shape=FLAT, seeds=seeds, training_noise=0.03, images=100)
    assert share <= bound(400)


def test_one_seed_cannot_see_training_noise() -> None:
    """The reason for the sentence beside every verdict of one seed: training noise passes for a turning point."""
    assert share_of("turning point", 100, shape=FLAT, training_noise=0.05, images=300) > 0.3


def test_rising_curves_do_not_turn() -> None:
    """The null hypothesis holds every curve that ends at its best, not only flat ones."""
    assert share_of("turning point", 400, shape=(*RISING[:4], 1.0, 1.0)) <= bound(400)


def test_a_family_of_flat_curves_rarely_holds_a_turning_point() -> None:
    """The chance of one false turning point among eight curves shown together is still at most 5 %."""
    rng = np.random.default_rng(3)
    families = 150
    false = sum(
        any(
            v.kind == "turning point"
            for v in judge([curve(rng, images=60) for _ in range(8)], draws=999, seed=i)
        )
        for i in range(families)
    )
    assert false / families <= bound(families)


@pytest.mark.parametrize(
    ("images", "seeds", "noise", "least"),
    [(100, 1, 0.0, 0.4), (300, 1, 0.0, 0.9), (1_000, 3, 0.02, 0.6), (1_000, 5, 0.02, 0.9)],
)
def test_curves_like_the_papers_turn(images: int, seeds: int, noise: float, least: float) -> None:
    """A fall of a tenth, as drawn in the paper, is found with the power that docs/statistics.md states."""
    share = share_of("turning point", 100, shape=PEAK, images=images, seeds=seeds, training_noise=noise)
    assert share >= least


def test_rising_curves_still_rise() -> None:
    """A gain of a seventh over the last doubling is seen with 300 images."""
    assert share_of("still rising", 60, shape=RISING, images=300) > 0.9


def test_flat_curves_are_flat_with_enough_images() -> None:
    """Calling a curve flat needs evidence too: 600 images have it, 60 do not."""
    assert share_of("flat", 60, shape=FLAT, images=600) > 0.8
    assert share_of("flat", 60, shape=FLAT, images=60) < 0.2


def test_a_curve_that_differs_by_the_margin_is_rarely_flat() -> None:
    """Sizes that differ by the margin itself are called flat at most 5 % of the time."""
    shape = (1.05, 1.05, 1.05, 0.95, 0.95, 0.95)
    assert share_of("flat", 300, shape=shape, images=400, rising_accuracy=False) <= bound(300)


def test_without_rising_accuracy_there_is_no_turning_point(rng: np.random.Generator) -> None:
    """The paper's turning point is where accuracy still rises; a model that gets worse in both is none."""
    verdict = judge([curve(rng, PEAK, images=500, rising_accuracy=False)])[0]
    assert verdict.kind == "undecided"
    assert "accuracy does not rise" in explain(verdict)


def test_undecided_curves_say_how_many_images_would_do(rng: np.random.Generator) -> None:
    """The number keeps its promise: if the curve is as measured, that many images decide it about 4 times in 5."""
    while True:
        verdict = judge([curve(rng, PEAK, images=60)])[0]
        if verdict.need and verdict.need.verdict == "turning point" and verdict.need.count > 90:
            break
    assert verdict.evidence is not None
    assert verdict.need.unit == "images"
    assert f"{verdict.need.count:,} images"[-7:] in explain(verdict)
    measured = tuple(float(score) for score in verdict.evidence.curve.scores)
    assert 0.65 <= share_of("turning point", 200, shape=measured, images=verdict.need.count) <= 0.95
    assert share_of("turning point", 200, shape=measured, images=30) < 0.5


def test_undecided_by_training_noise_asks_for_seeds(rng: np.random.Generator) -> None:
    """Where the seeds disagree, more images are no help and none are asked for."""
    verdict = judge([curve(rng, PEAK, images=2_000, seeds=2, training_noise=0.05)])[0]
    assert verdict.kind == "undecided"
    assert verdict.need is None or verdict.need.unit == "seeds"


def test_holms_own_example() -> None:
    """Smallest p value times all, the next times one fewer, never falling, never above 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.randoms())
def test_holm_keeps_order_and_never_lowers(p_values: list[float], random: object) -> None:
    """Corrected values are at least the raw ones, at most Bonferroni's, and in the same order."""
    adjusted = holm(p_values)
    for raw, corrected in zip(p_values, adjusted, strict=True):
        assert raw <= corrected <= min(1.0, max(raw, len(p_values) * raw)) + 1e-12
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_too_little_is_said() -> None:
    """One size, few images or nothing at all: undecided with the reason, and no curve else pays for them."""
    one_size = Curve((100,), (np.arange(50),), (np.ones((50, 1)),), np.ones((1, 1)))
    few = Curve((100, 200), (np.arange(5),), (np.ones((5, 2)),), np.ones((1, 2)))
    clear = curve(np.random.default_rng(0), PEAK, images=500)
    verdicts = judge([one_size, None, few, clear])
    assert [verdict.kind for verdict in verdicts] == ["undecided"] * 3 + ["turning point"]
    assert explain(verdicts[0]) == "A single training size has no turning point."
    assert "nothing to test" in explain(verdicts[1])
    assert "5 images are too few" in explain(verdicts[2])
    assert verdicts[3].p == judge([clear])[0].p


def test_words_hold_the_numbers(rng: np.random.Generator) -> None:
    """The sentence names peak, fall with its interval and the corrected p value."""
    verdict = judge([curve(rng, PEAK, images=800)])[0]
    evidence = verdict.evidence
    assert evidence is not None
    assert headline(verdict).startswith(f"turning point at {evidence.peak:,} (")
    text = explain(verdict)
    assert f"From {evidence.peak:,} to {SIZES[-1]:,} robustness falls by" in text
    assert f"{100 * evidence.relative_fall.value:.1f} %" in text
    assert "p < 0.001" in text
    assert evidence.relative_fall.low < 0.1 < evidence.relative_fall.high
