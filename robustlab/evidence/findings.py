"""The paper's five findings, each held against a study's curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Literal

from robustlab.evidence.judge import Verdict, holm
from robustlab.evidence.measure import LEVEL

Outcome = Literal["supported", "contradicted", "undecided", "not covered"]


@dataclass(frozen=True)
class AccuracyPoint:
    """A curve's accuracy at one size: mean over seeds, and its standard error from the test images."""

    size: int
    accuracy: float
    standard_error: float


@dataclass(frozen=True)
class Judged:
    """One curve with its verdict: what the findings look at."""

    dataset: str
    variant: str
    norm: str
    verdict: Verdict
    accuracies: tuple[AccuracyPoint, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A claim of the paper, what this study says to it, and why in one sentence."""

    number: int
    claim: str
    outcome: Outcome
    because: str


def check_findings(curves: Sequence[Judged]) -> list[Finding]:
    """Hold the curves against the findings of the paper's Section 4.

    A finding about several curves is supported when all its curves support it, contradicted when one surely does.
    """
    return [
        _accuracy_rises(curves),
        _turns_down(curves),
        _all_of(
            curves,
            3,
            "On Tiny ImageNet robustness still rises at the largest size.",
            ("tinyimagenet",),
            _rising,
        ),
        _all_of(
            curves,
            4,
            "On MNIST robustness stays flat (here: all sizes within 10 % of each other).",
            ("mnist",),
            _flat,
        ),
        _accurate_is_less_robust(curves),
    ]


def _accuracy_rises(curves: Sequence[Judged]) -> Finding:
    claim = "Test accuracy rises with the training size, on every data set and for every model."
    unique = {(curve.dataset, curve.variant): curve for curve in curves if len(curve.accuracies) > 1}
    outcomes: dict[str, Outcome] = {}
    drops = [
        (f"{dataset} {variant}", smaller, larger)
        for (dataset, variant), curve in unique.items()
        for smaller, larger in combinations(curve.accuracies, 2)
    ]
    p_values = holm([_above(smaller, larger) for _, smaller, larger in drops])
    for name, curve in ((f"{d} {v}", curve) for (d, v), curve in unique.items()):
        rises = _above(curve.accuracies[-1], curve.accuracies[0]) <= LEVEL
        outcomes[name] = "supported" if rises else "undecided"
    for (name, _, _), p_value in zip(drops, p_values, strict=True):
        if p_value <= LEVEL:
            outcomes[name] = "contradicted"
    return _summed(1, claim, outcomes)


def _above(one: AccuracyPoint, other: AccuracyPoint) -> float:
    """One-sided p value that ``one`` is more accurate; the runs' shared test images would only lower it."""
    error = math.hypot(one.standard_error, other.standard_error)
    difference = one.accuracy - other.accuracy
    if error == 0:
        return 0.0 if difference > 0 else 1.0
    return 1 - NormalDist().cdf(difference / error)


def _turns_down(curves: Sequence[Judged]) -> Finding:
    claim = (
        "On CIFAR-10 and STL-10 robustness turns down after some size, except for ResNet without augmentation, which "
        "keeps rising."
    )

    def agrees(curve: Judged) -> Outcome:
        turned, decided = curve.verdict.kind == "turning point", curve.verdict.kind != "undecided"
        if not decided:
            return "undecided"
        return "supported" if turned is (curve.variant != "resnet") else "contradicted"

    return _all_of(curves, 2, claim, ("cifar10", "stl10"), agrees)


def _rising(curve: Judged) -> Outcome:
    kind = curve.verdict.kind
    return "supported" if kind == "still rising" else "undecided" if kind == "undecided" else "contradicted"


def _flat(curve: Judged) -> Outcome:
    evidence = curve.verdict.evidence
    if evidence is None or curve.verdict.reasons:
        return "undecided"
    return (
        "supported" if evidence.within_margin else "contradicted" if evidence.beyond_margin else "undecided"
    )


def _accurate_is_less_robust(curves: Sequence[Judged]) -> Finding:
    claim = "More accurate architectures are less robust: on CIFAR-10 ResNet and DenseNet below perceptron and CNN."
    outcomes: dict[str, Outcome] = {}
    ends = {
        (curve.norm, curve.variant): (
            curve.verdict.evidence.scores[-1],
            curve.verdict.evidence.curve.sizes[-1],
        )
        for curve in curves
        if curve.dataset == "cifar10" and curve.verdict.evidence is not None
    }
    for (norm, deep), (score, size) in ends.items():
        if deep.partition("+")[0] not in ("resnet", "densenet"):
            continue
        for shallow in ("perceptron", "simple_cnn"):
            other, other_size = ends.get((norm, shallow), (None, None))
            if other is None or other_size != size:
                continue
            below, above = score.high < other.low, score.low > other.high
            outcomes[f"{deep} against {shallow} ({norm})"] = (
                "supported" if below else "contradicted" if above else "undecided"
            )
    return _summed(5, claim, outcomes)


def _all_of(
    curves: Sequence[Judged],
    number: int,
    claim: str,
    datasets: tuple[str, ...],
    judge: Callable[[Judged], Outcome],
) -> Finding:
    covered = [curve for curve in curves if curve.dataset in datasets]
    return _summed(
        number, claim, {f"{curve.dataset} {curve.variant} ({curve.norm})": judge(curve) for curve in covered}
    )


def _summed(number: int, claim: str, outcomes: dict[str, Outcome]) -> Finding:
    if not outcomes:
        return Finding(number, claim, "not covered", "no curve of this report is about it")
    for outcome in ("contradicted", "undecided"):
        which = [name for name, value in outcomes.items() if value == outcome]
        if which:
            return Finding(
                number, claim, outcome, f"{outcome} by {len(which)} of {len(outcomes)}: {', '.join(which)}"
            )
    return Finding(number, claim, "supported", f"by all {len(outcomes)}: {', '.join(outcomes)}")
