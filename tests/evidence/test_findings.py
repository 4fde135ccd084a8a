"""The paper's findings against made-up curves."""

from __future__ import annotations

import numpy as np
import pytest

from robustlab.evidence import AccuracyPoint, Judged, check_findings, judge
from tests.evidence.made_up import curve

PEAK = (0.80, 0.94, 1.0, 0.98, 0.90, 0.86)
RISING = (0.70, 0.78, 0.84, 0.88, 0.96, 1.0)
FLAT = (1.0,) * 6


def judged(
    dataset: str, variant: str, shape: tuple[float, ...], images: int = 1_500, rise: float = 0.1
) -> Judged:
    """One curve whose accuracy rises by ``rise`` from each size to the next."""
    rng = np.random.default_rng(sum(map(ord, dataset + variant)))
    verdict = judge([curve(rng, shape, images=images)], draws=1_999)[0]
    points = tuple(AccuracyPoint(100 * (i + 1), 0.3 + rise * i, 0.005) for i in range(6))
    return Judged(dataset, variant, "l2", verdict, points)


def outcomes(*curves: Judged) -> list[str]:
    """The five outcomes."""
    return [finding.outcome for finding in check_findings(curves)]


def test_what_the_paper_saw_is_supported() -> None:
    """Curves like the paper's support all five findings."""
    scaled = {name: tuple(factor * value for value in PEAK) for name, factor in (("low", 0.3), ("high", 1.0))}
    curves = (
        judged("cifar10", "perceptron", scaled["high"]),
        judged("cifar10", "simple_cnn", scaled["high"]),
        judged("cifar10", "resnet", tuple(0.3 * value for value in RISING)),
        judged("cifar10", "densenet", scaled["low"]),
        judged("tinyimagenet", "resnet", RISING),
        judged("mnist", "perceptron", FLAT),
    )
    assert outcomes(*curves) == ["supported"] * 5


@pytest.mark.parametrize(
    ("number", "dataset", "variant", "shape", "rise"),
    [
        (1, "mnist", "perceptron", FLAT, -0.05),
        (2, "cifar10", "perceptron", RISING, 0.1),
        (2, "stl10", "resnet", PEAK, 0.1),
        (3, "tinyimagenet", "resnet", PEAK, 0.1),
        (4, "mnist", "perceptron", RISING, 0.1),
    ],
)
def test_each_finding_can_be_contradicted(
    number: int, dataset: str, variant: str, shape: tuple[float, ...], rise: float
) -> None:
    """A clear curve of the opposite shape contradicts, and is named."""
    finding = check_findings([judged(dataset, variant, shape, rise=rise)])[number - 1]
    assert finding.outcome == "contradicted"
    assert variant in finding.because


def test_accurate_and_more_robust_contradicts_the_fifth() -> None:
    """A ResNet that is more robust than the perceptron is named."""
    curves = [
        judged("cifar10", "perceptron", tuple(0.3 * v for v in PEAK)),
        judged("cifar10", "resnet+aug", PEAK),
    ]
    finding = check_findings(curves)[4]
    assert finding.outcome == "contradicted"
    assert "resnet+aug against perceptron" in finding.because


def test_noise_is_undecided_and_other_data_not_covered() -> None:
    """Few images decide nothing; data sets that the finding is not about say nothing."""
    found = outcomes(judged("mnist", "perceptron", FLAT, images=40, rise=0.0))
    assert found == ["undecided", "not covered", "not covered", "undecided", "not covered"]


def test_a_single_accuracy_dip_within_the_noise_is_no_contradiction() -> None:
    """Many pairs of sizes are compared; the correction keeps chance from contradicting."""
    points = tuple(AccuracyPoint(i, a, 0.01) for i, a in enumerate((0.5, 0.7, 0.8, 0.79, 0.85, 0.9)))
    one = judged("mnist", "perceptron", FLAT, images=40)
    assert (
        check_findings([Judged("mnist", "perceptron", "l2", one.verdict, points)])[0].outcome == "supported"
    )
