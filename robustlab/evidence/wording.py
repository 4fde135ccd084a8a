"""Verdicts in words: what was found, how sure it is, and what it does not say."""

from __future__ import annotations

from robustlab.evidence.judge import Verdict
from robustlab.evidence.measure import FLAT_MARGIN, LEVEL, Evidence, Interval

ONE_SEED = (
    "One training run per size: every verdict is about these trained models. Another seed could bend the curve by "
    "itself; only several seeds can say what the training size does in general."
)


def headline(verdict: Verdict) -> str:
    """The verdict in a few words: ``turning point at 20,000 (15,000 to 30,000)``."""
    evidence = verdict.evidence
    if verdict.kind == "turning point" and evidence is not None:
        return f"turning point at {evidence.peak:,} ({peak_range(evidence)})"
    return verdict.kind


def peak_range(evidence: Evidence) -> str:
    """The sizes that may be the peak: a 95 % confidence set, from its smallest to its largest."""
    if len(evidence.peak_sizes) < 2:
        return f"{evidence.peak:,}"
    return f"{evidence.peak_sizes[0]:,} to {evidence.peak_sizes[-1]:,}"


def explain(verdict: Verdict) -> str:
    """One to three sentences: the verdict's reason in numbers, and how many images or seeds would decide it."""
    evidence = verdict.evidence
    if evidence is None or verdict.reasons:
        return f"{_capital('; '.join(verdict.reasons))}."
    sentences = {
        "turning point": _turning_point,
        "still rising": _still_rising,
        "flat": _flat,
        "undecided": _undecided,
    }[verdict.kind](verdict, evidence)
    return " ".join(sentences)


def _turning_point(verdict: Verdict, evidence: Evidence) -> list[str]:
    fall = percent(evidence.relative_fall)
    sentences = [
        f"From {evidence.peak:,} to {evidence.curve.sizes[-1]:,} robustness falls by {fall}, {p(verdict.p)}."
    ]
    if evidence.peak == evidence.curve.sizes[0]:
        sentences.append("The peak is the smallest size tried; it may lie lower still.")
    if evidence.within_margin:
        sentences.append(
            f"All sizes lie within {FLAT_MARGIN:.0%} of each other: a real fall, but a small one."
        )
    return sentences


def _still_rising(verdict: Verdict, evidence: Evidence) -> list[str]:
    gain = evidence.last_doubling
    top = evidence.scores[-1].value
    share = percent(Interval(*(x / top for x in (gain.value, gain.low, gain.high)))) if gain and top else ""
    return [f"The last doubling of the training set brought {share} of the score, {p(verdict.p_rise)}."]


def _flat(_: Verdict, evidence: Evidence) -> list[str]:
    return [
        f"No two sizes differ by more than {FLAT_MARGIN:.0%} of the mean score (95 % sure); measured spread "
        f"{evidence.spread:.1%}."
    ]


def _undecided(verdict: Verdict, evidence: Evidence) -> list[str]:
    sentences = []
    if evidence.fall.value > 0:
        sentences.append(
            f"The score is {percent(evidence.relative_fall)} lower at {evidence.curve.sizes[-1]:,} than at the peak "
            f"({evidence.peak:,}); chance alone does that too often ({p(verdict.p)})."
        )
    else:
        sentences.append(
            f"The largest size scores best, but the last doubling adds too little to be sure ({p(verdict.p_rise)})."
        )
    need = verdict.need
    if need is None:
        sentences.append(
            "More of the same would not decide it soon: the sizes differ too little or too unevenly."
        )
    elif need.count > 1_000_000:
        sentences.append(f"No realistic number of {need.unit} would decide it.")
    else:
        sentences.append(
            f"About {_rounded(need.count)} {need.unit} would decide it (80 % power), "
            f"if {_assumed(need.verdict)}."
        )
    return sentences


def percent(interval: Interval) -> str:
    """``12.3 % (8.1 to 16.0)``."""
    return f"{100 * interval.value:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def p(value: float) -> str:
    """``p = 0.013``; small ones as a bound."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 2 * LEVEL else f"p = {value:.2f}"


def _rounded(count: int) -> str:
    """Two digits: the estimate is no better."""
    scale = 10 ** max(0, len(str(count)) - 2)
    return f"{-(-count // scale) * scale:,}"


def _assumed(kind: str) -> str:
    """What the number rests on: differences as large as they look, which chance has made larger more often than not."""
    return {
        "turning point": "the fall is really this large (a smaller one needs more)",
        "still rising": "the rise is really this large (a smaller one needs more)",
        "flat": "the sizes really differ no more than they seem to",
    }[kind]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
