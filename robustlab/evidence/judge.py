"""A verdict for every curve among all that are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from robustlab.evidence.curve import Curve
from robustlab.evidence.measure import LEVEL, Evidence, Kind, measure
from robustlab.evidence.resampling import DRAWS
from robustlab.robustness import MINIMUM_IMAGES


@dataclass(frozen=True)
class Need:
    """What would decide an undecided curve, with 80 % power, if it really has the shape that it shows."""

    count: int
    unit: Literal["images", "seeds"]
    verdict: Kind


@dataclass(frozen=True)
class Verdict:
    """The answer for one curve among all that are shown.

    ``p`` is ``p_fall`` after Holm's correction for the number of curves.
    """

    kind: Kind
    evidence: Evidence | None
    p: float
    p_rise: float
    need: Need | None = None
    reasons: tuple[str, ...] = field(default=())


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p values that can be compared with the level of the whole family (Holm 1979)."""
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def judge(curves: Sequence[Curve | None], draws: int = DRAWS, seed: int = 0) -> list[Verdict]:
    """A verdict per curve; the chance of one false turning point among all curves is at most 5 %.

    Args:
        curves: all curves that are shown together; None where there was nothing to measure.
    """
    weighed = [None if curve is None else measure(curve, draws, seed) for curve in curves]
    usable = [evidence for evidence in weighed if evidence is not None and not _too_little(evidence)]
    fall = dict(zip(map(id, usable), holm([evidence.p_fall for evidence in usable]), strict=True))
    rise = dict(zip(map(id, usable), holm([evidence.p_rise for evidence in usable]), strict=True))
    verdicts = []
    for evidence in weighed:
        if evidence is None:
            reason = "no size has a score for every seed, so there is nothing to test"
            verdicts.append(Verdict("undecided", None, 1.0, 1.0, reasons=(reason,)))
        elif id(evidence) not in fall:
            verdicts.append(Verdict("undecided", evidence, 1.0, 1.0, reasons=_too_little(evidence)))
        else:
            verdicts.append(_decide(evidence, fall[id(evidence)], rise[id(evidence)]))
    return verdicts


def _decide(evidence: Evidence, p_fall: float, p_rise: float) -> Verdict:
    if p_fall <= LEVEL and evidence.accuracy_rises:
        return Verdict("turning point", evidence, p_fall, p_rise)
    if p_fall <= LEVEL:
        reason = "robustness falls after the peak, but accuracy does not rise: no turning point in the paper's sense"
        return Verdict("undecided", evidence, p_fall, p_rise, reasons=(reason,))
    if p_rise <= LEVEL:
        return Verdict("still rising", evidence, p_fall, p_rise)
    if evidence.within_margin:
        return Verdict("flat", evidence, p_fall, p_rise)
    return Verdict("undecided", evidence, p_fall, p_rise, need=_need(evidence))


def _too_little(evidence: Evidence) -> tuple[str, ...]:
    reasons = []
    if len(evidence.scores) < 2:
        reasons.append("a single training size has no turning point")
    if evidence.curve.fewest_images < MINIMUM_IMAGES:
        reasons.append(
            f"{evidence.curve.fewest_images} images are too few to test ({MINIMUM_IMAGES} at least)"
        )
    return tuple(reasons)


def _need(evidence: Evidence) -> Need | None:
    for factor, verdict in evidence.needs:
        if verdict == "turning point" and not evidence.accuracy_rises:
            continue
        unit: Literal["images", "seeds"] = "seeds" if evidence.seed_share > 0.5 else "images"
        have = evidence.curve.seeds if unit == "seeds" else evidence.curve.fewest_images
        return Need(max(have + 1, math.ceil(have * factor)), unit, verdict)
    return None
