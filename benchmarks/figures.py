"""The figures that robustlab's attacks have to reach, computed from a run's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from benchmarks.contenders import FAST
from benchmarks.summary import Row, best_known, mean_where_both

Rows = Mapping[str, Row]


@dataclass(frozen=True)
class Figure:
    """One target on one subject; ``reached`` is None where a row that it needs was not measured."""

    number: str
    subject: str
    target: str
    value: str
    reached: bool | None

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self)


def figures(subject: str, rows: Sequence[Row], *, folds: bool) -> list[Figure]:
    """All figures of one subject.

    Args:
        folds: the model has batch normalisation that an attack may fold into its convolutions.
    """
    measured = {row.contender.key: row for row in rows if row.runs}
    entries = [
        ("1", f"classic CW: time at most {1.0 if folds else 1.05} times that of its bare passes",
         _classic(measured, 1.0 if folds else 1.05)),
        ("2", "CW: 100 % success, mean L2 at most 1.01 times the best known, in at most 300 passes",
         _converged(measured)),
        ("3", "CW: at most the best peer's mean L2 at 9 x 1000, in a twentieth of the fastest peer's time",
         _twentieth(measured, "robustlab: cw")),
        ("3, fast", "the same for the fast attack", _twentieth(measured, f"robustlab: {FAST}")),
        ("4", "the fast attack: at most DDN's mean L2 at 300 passes, in at most 45 passes", _fast(measured)),
        ("5a", "I-FGSM: at most the 10 x 10 bisection's mean Linf, in half its passes and half its time",
         _half(measured)),
        ("5b", "I-FGSM: at most 1.01 times FMN-Linf's mean at 400 passes, in at most as many", _fmn(measured)),
    ]  # fmt: skip
    return [Figure(number, subject, target, *outcome) for number, target, outcome in entries]


def figures_table(entries: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    lines = ["| figure | model | target | value | reached |", "|---|---|---|---|---|"]
    for entry in entries:
        reached = {None: "-", True: "yes", False: "**no**"}[entry.reached]
        lines.append(f"| {entry.number} | {entry.subject} | {entry.target} | {entry.value} | {reached} |")
    return "\n".join(lines)


Outcome = tuple[str, bool | None]
_NOT_MEASURED: Outcome = ("not measured", None)


def _classic(rows: Rows, limit: float) -> Outcome:
    row = rows.get("robustlab: cw classic 9x100")
    if row is None:
        return _NOT_MEASURED
    over_bare = row.median("over_bare")
    return f"{over_bare:.3f}", over_bare <= limit


def _converged(rows: Rows) -> Outcome:
    row = rows.get("robustlab: cw")
    if row is None:
        return _NOT_MEASURED
    best = best_known(list(rows.values()), "l2")
    found = [(mine, known) for mine, known in zip(row.distances, best, strict=False) if isfinite(mine)]
    ratio = sum(mine for mine, _ in found) / sum(known for _, known in found) if found else float("inf")
    return (
        f"{row.success_rate:.1%}, {ratio:.4f} times, {row.passes:.0f} passes",
        row.success_rate == 1 and ratio <= 1.01 and row.passes <= 300,
    )


def _twentieth(rows: Rows, key: str) -> Outcome:
    mine = rows.get(key)
    peers = [
        row
        for row in rows.values()
        if row.contender.library != "robustlab" and "cw 9x1000" in row.contender.name
    ]
    if mine is None or not peers:
        return _NOT_MEASURED
    means = [mean_where_both(mine, peer) for peer in peers]
    near_enough = all(my_mean <= peer_mean for my_mean, peer_mean in means)
    # In passes' worth, so that a machine that slowed down between the two rows does not count.
    times = min(peer.median("worth") for peer in peers) / mine.median("worth")
    compared = ", ".join(f"{my_mean:.4f} against {peer_mean:.4f}" for my_mean, peer_mean in means)
    return f"{compared}, 1/{times:.1f} of the time", near_enough and times >= 20


def _fast(rows: Rows) -> Outcome:
    mine, ddn = rows.get(f"robustlab: {FAST}"), rows.get("adv-lib: ddn 300")
    if mine is None or ddn is None:
        return _NOT_MEASURED
    my_mean, ddn_mean = mean_where_both(mine, ddn)
    return (
        f"{my_mean:.4f} against {ddn_mean:.4f}, {mine.passes:.1f} passes",
        my_mean <= ddn_mean and mine.passes <= 45,
    )


def _half(rows: Rows) -> Outcome:
    mine, bisection = rows.get("robustlab: ifgsm"), rows.get("torchattacks: bim 10x10")
    if mine is None or bisection is None:
        return _NOT_MEASURED
    my_mean, its_mean = mean_where_both(mine, bisection)
    passes = mine.passes / bisection.passes
    times = mine.median("worth") / bisection.median("worth")
    return (
        f"{my_mean:.4f} against {its_mean:.4f}, {passes:.2f} of the passes, {times:.2f} of the time",
        my_mean <= its_mean and passes <= 0.5 and times <= 0.5,
    )


def _fmn(rows: Rows) -> Outcome:
    """The better of the I-FGSM rows that keep to FMN's passes; else the one with the fewest."""
    ours = [row for key, row in rows.items() if key.startswith("robustlab: ifgsm")]
    fmn = rows.get("adv-lib: fmn linf 400")
    if not ours or fmn is None:
        return _NOT_MEASURED
    within = [row for row in ours if row.passes <= fmn.passes]
    best = min(within or ours, key=lambda row: mean_where_both(row, fmn)[0] if within else row.passes)
    my_mean, its_mean = mean_where_both(best, fmn)
    return (
        f"{best.contender.name}: {my_mean:.4f} against {its_mean:.4f} "
        f"({my_mean / its_mean:.3f} times), {best.passes:.0f} passes against {fmn.passes:.0f}",
        bool(within) and my_mean <= 1.01 * its_mean,
    )
