"""What one curve says: intervals for its scores, and the tests behind a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from robustlab.evidence.curve import Curve, Floats
from robustlab.evidence.resampling import DRAWS, Resampled, resample

LEVEL = 0.05
FLAT_MARGIN = 0.10  # of the curve's mean score: sizes that differ by less count as equally robust

Kind = Literal["turning point", "still rising", "flat", "undecided"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evidence:
    """What one curve says, before the number of curves is taken into account.

    Attributes:
        scores: one interval per size.
        peak: the size with the largest score (of equal ones the last).
        peak_sizes: all sizes that may be the peak: a 95 % confidence set.
        fall: from the peak to the largest size, in units of the score; not below 0.
        p_fall: chance, without any fall, of a curve that seems to fall this clearly from its best size.
        p_rise: chance, without any rise over the last doubling, of one this clear.
        last_doubling: gain over the size that scores best among those of at most half the largest.
        spread: (highest - lowest score) / mean score.
        within_margin, beyond_margin: whether all sizes surely differ by less than FLAT_MARGIN, or some surely by more.
        accuracy_rises: test accuracy at the largest size is above the one at the peak.
        seed_share: fraction of the fall's variance that comes from the seeds.
    """

    curve: Curve
    scores: tuple[Interval, ...]
    peak: int
    peak_sizes: tuple[int, ...]
    fall: Interval
    p_fall: float
    p_rise: float
    last_doubling: Interval | None
    spread: float
    within_margin: bool
    beyond_margin: bool
    accuracy_rises: bool
    seed_share: float
    needs: tuple[tuple[float, Kind], ...] = ()

    @property
    def relative_fall(self) -> Interval:
        """The fall as a fraction of the peak's score."""
        top = max(interval.value for interval in self.scores) or math.inf
        return Interval(self.fall.value / top, self.fall.low / top, self.fall.high / top)


def measure(curve: Curve, draws: int = DRAWS, seed: int = 0) -> Evidence:
    """Weigh one curve: intervals for its scores, peak and fall, and the tests behind a verdict.

    The test for a fall takes the largest studentised difference between any size and the largest size and compares it
    with the same maximum under chance alone. Its null hypothesis is that no size scores above the largest one; it is
    hardest to tell from a flat curve, which is what chance stands for, so the level also holds on rising curves, and
    having picked the best-looking size costs nothing extra (Romano and Wolf 2005). The peak's confidence set inverts
    the same test for every size; the fall's interval comes from the same simultaneous bounds.

    Raises:
        ValueError: no seed at all.
    """
    if not curve.seeds:
        raise ValueError("a curve needs at least one seed")
    chance = resample(curve, draws, seed)
    scores = curve.scores
    last = len(scores) - 1
    peak = last - int(np.argmax(scores[::-1]))
    ratio = _studentised(scores[:, None] - scores[None, :], chance.pair_error)
    quantiles = np.quantile(chance.draws, [0.975, 0.025], axis=0)
    intervals = tuple(
        Interval(float(score), float(score - high * error), float(score - low * error))
        for score, error, high, low in zip(scores, chance.standard_error, *quantiles, strict=True)
    )
    if last == 0:
        zero = Interval(0.0, 0.0, 0.0)
        return Evidence(
            curve, intervals, curve.sizes[0], curve.sizes, zero, 1.0, 1.0, None, 0.0, False, False, False, 0.0
        )
    highest = chance.pair_draws[:, :last, last].max(axis=1)
    flipped = chance.pair_flips[:, :last, last].max(axis=1)
    statistic = float(ratio[:last, last].max())
    p_fall = max(_exceedance(highest, statistic), _exceedance(flipped, statistic))
    p_rise, hardest = _rise(curve, ratio, chance)
    within, beyond, flat_factor = _compare_with_margin(scores, chance)
    critical = max(float(np.quantile(draws, 1 - LEVEL)) for draws in (highest, flipped))
    needs: list[tuple[float, Kind]] = []
    if statistic > 0:
        needs.append((_factor(critical, statistic), "turning point"))
    if ratio[last, hardest] > 0:
        needs.append((_factor(1.645, float(ratio[last, hardest])), "still rising"))
    if flat_factor is not None:
        needs.append((flat_factor, "flat"))
    return Evidence(
        curve=curve,
        scores=intervals,
        peak=curve.sizes[peak],
        peak_sizes=_peak_set(curve.sizes, ratio, chance),
        fall=_fall(scores, highest, chance),
        p_fall=p_fall,
        p_rise=p_rise,
        last_doubling=_gain(scores, chance, max(_at_most_half(curve.sizes), key=lambda i: scores[i])),
        spread=float((scores.max() - scores.min()) / scores.mean()) if scores.mean() > 0 else 0.0,
        within_margin=within,
        beyond_margin=beyond,
        accuracy_rises=bool(curve.accuracies[:, last].mean() > curve.accuracies[:, peak].mean()),
        seed_share=float(chance.seed_share[peak, last] if peak != last else chance.seed_share[hardest, last]),
        needs=tuple(sorted(needs)),
    )


def _factor(critical: float, statistic: float) -> float:
    """How many times the sample, for 80 % power: a studentised difference grows with its root."""
    return ((critical + 0.842) / statistic) ** 2


def _studentised(difference: Floats, error: Floats) -> Floats:
    """Difference over error; without any variation a difference is infinitely clear, and none is 0."""
    scale = 1e-9 * float(np.abs(difference).max(initial=0.0))
    sure = np.where(np.abs(difference) > scale, np.copysign(np.inf, difference), 0.0)
    ratio: Floats = np.divide(difference, error, out=sure, where=error > 0)
    return ratio


def _exceedance(draws: Floats, statistic: float) -> float:
    """The fraction of chance values that reach the statistic, which itself counts as one."""
    return (1 + int((draws >= statistic - 1e-12).sum())) / (1 + len(draws))


def _rise(curve: Curve, ratio: Floats, chance: Resampled) -> tuple[float, int]:
    """The test that the last doubling helped: the largest size above every size of at most its half.

    Returns the p value and which of those sizes is the hardest to tell from the largest one.
    """
    last = len(curve.sizes) - 1
    smaller = _at_most_half(curve.sizes)
    p_values = [
        _exceedance(draws[:, last, i], float(ratio[last, i]))
        for i in smaller
        for draws in (chance.pair_draws, chance.pair_flips)
    ]
    return max(p_values), min(smaller, key=lambda i: ratio[last, i])


def _at_most_half(sizes: tuple[int, ...]) -> list[int]:
    """Where the sizes of at most half the largest stand; all but the largest where there is none."""
    smaller = range(len(sizes) - 1)
    return [i for i in smaller if 2 * sizes[i] <= sizes[-1]] or list(smaller)


def _gain(scores: Floats, chance: Resampled, start: int) -> Interval:
    last = len(scores) - 1
    difference, error = float(scores[last] - scores[start]), float(chance.pair_error[last, start])
    high, low = np.quantile(chance.pair_draws[:, last, start], [0.975, 0.025])
    return Interval(difference, difference - float(high) * error, difference - float(low) * error)


def _peak_set(sizes: tuple[int, ...], ratio: Floats, chance: Resampled) -> tuple[int, ...]:
    """Every size that no other size beats more clearly than the best of as many would by chance."""
    kept = []
    for index, size in enumerate(sizes):
        others = [other for other in range(len(sizes)) if other != index]
        chances = (chance.pair_draws, chance.pair_flips)
        critical = max(np.quantile(draws[:, others, index].max(axis=1), 1 - LEVEL) for draws in chances)
        if ratio[others, index].max() <= critical:
            kept.append(size)
    return tuple(kept)


def _fall(scores: Floats, highest: Floats, chance: Resampled) -> Interval:
    """From the peak to the largest size: bounds that hold for all sizes at once hold for whichever is the peak."""
    last = len(scores) - 1
    difference, error = scores[:last] - scores[last], chance.pair_error[:last, last]
    lowest = (-chance.pair_draws[:, :last, last]).max(axis=1)
    low = (difference - np.quantile(highest, 0.975) * error).max()
    high = (difference + np.quantile(lowest, 0.975) * error).max()
    return Interval(max(0.0, float(difference.max())), max(0.0, float(low)), max(0.0, float(high)))


def _compare_with_margin(scores: Floats, chance: Resampled) -> tuple[bool, bool, float | None]:
    """Whether all pairs surely lie within the margin, some surely beyond it, and how far from the former it is.

    "Within" needs every pair to pass its own test, which holds the level without a correction (Berger 1982).
    """
    first, second = np.triu_indices(len(scores), k=1)
    margin = FLAT_MARGIN * float(scores.mean())
    difference = np.abs(scores[first] - scores[second])
    error = chance.pair_error[first, second]
    draws = np.abs(chance.pair_draws[:, first, second])
    within = bool((difference + np.quantile(draws, 1 - 2 * LEVEL, axis=0) * error < margin).all())
    at_once = np.quantile(draws.max(axis=1), 1 - LEVEL)
    beyond = bool((difference - at_once * error > margin).any())
    if (difference >= margin).any():
        return within, beyond, None
    return within, beyond, float((((1.645 + 0.842) * error / (margin - difference)) ** 2).max())
