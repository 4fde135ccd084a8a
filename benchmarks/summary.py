"""From runs to rows, and from rows to tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

import torch

from benchmarks.contenders import Contender
from benchmarks.measure import Run


@dataclass
class Row:
    """One contender on one subject: its runs, or why there is none (``status``, empty where all is well)."""

    contender: Contender
    images: int
    runs: list[Run] = field(default_factory=list)
    status: str = ""

    @property
    def distances(self) -> list[float]:
        """Per image, inf without success: of the first run (the others differ in time only)."""
        return self.runs[0].distances if self.runs else []

    @property
    def success_rate(self) -> float:
        """Share of the images with a success."""
        return sum(map(isfinite, self.distances)) / len(self.distances)

    @property
    def forwards(self) -> float:
        """Forward passes per image, counted by the wrapper."""
        return self.runs[0].forwards

    @property
    def backwards(self) -> float:
        """Input gradients per image, counted by the wrapper."""
        return self.runs[0].backwards

    @property
    def passes(self) -> float:
        """(forwards + backwards) / 2: an input gradient has a forward's multiplications."""
        return (self.forwards + self.backwards) / 2

    def median(self, quantity: str) -> float:
        """Median over the runs of one of Run's numbers."""
        return spread([getattr(run, quantity) for run in self.runs])["median"]

    def as_json(self) -> dict[str, Any]:
        """What the results file says of this row."""
        contender = self.contender
        entry: dict[str, Any] = {
            "library": contender.library,
            "attack": contender.name,
            "norm": contender.norm,
            "note": contender.note,
            "images": self.images,
            "repeats": len(self.runs),
            "status": self.status or "ok",
        }
        if not self.runs:
            return entry
        found = [distance for distance in self.distances if isfinite(distance)]
        first = self.runs[0]
        entry |= {
            "success_rate": self.success_rate,
            "claimed_success_rate": first.claimed,
            "mean_distance": sum(found) / len(found) if found else None,
            "median_distance": spread(found)["median"] if found else None,
            "forwards_per_image": self.forwards,
            "backwards_per_image": self.backwards,
            "own_forwards_per_image": first.own_forwards,
            "own_backwards_per_image": first.own_backwards,
            "passes_per_image": self.passes,
        }
        for quantity in ("cpu_s", "wall_s", "over_bare", "worth", "bare_pass_s"):
            entry[quantity] = spread([getattr(run, quantity) for run in self.runs])
        entry["distances"] = [
            round(distance, 6) if isfinite(distance) else None for distance in self.distances
        ]
        return entry


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median with the 20 and 80 % quantiles, linear between the values."""
    quantiles = torch.tensor(values, dtype=torch.float64).quantile(
        torch.tensor([0.5, 0.2, 0.8], dtype=torch.float64)
    )
    return dict(zip(("median", "p20", "p80"), quantiles.tolist(), strict=True))


def mean_where_both(mine: Row, other: Row) -> tuple[float, float]:
    """Mean distances of two rows over the images that both attacked and that ``other`` succeeded on.

    An image that ``other`` found and ``mine`` did not makes mine infinite: a failure is never an advantage.
    Where ``other`` found nothing, both are (0, inf): anything is better.
    """
    pairs = [pair for pair in zip(mine.distances, other.distances, strict=False) if isfinite(pair[1])]
    if not pairs:
        return 0.0, inf
    return tuple(sum(column) / len(pairs) for column in zip(*pairs, strict=True))  # type: ignore[return-value]


def best_known(rows: Sequence[Row], norm: str) -> list[float]:
    """Per image the smallest distance that any row reached."""
    lists = [row.distances for row in rows if row.runs and row.contender.norm == norm]
    longest = max(map(len, lists), default=0)
    return [min(distances[i] for distances in lists if i < len(distances)) for i in range(longest)]


def rows_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| attack | norm | images | success | mean | median | forwards | backwards | CPU ms an image "
        "| over bare passes | passes' worth | n | note |",
        "|" + "---|" * 13,
    ]
    for row in rows:
        head = f"| {row.contender.key} | {row.contender.norm} | {row.images} |"
        note = "; ".join(filter(None, [row.status, row.contender.note]))
        if not row.runs:
            lines.append(f"{head}" + " |" * 9 + f" {note} |")
            continue
        entry = row.as_json()
        claimed = entry["claimed_success_rate"]
        if round(claimed, 3) != round(row.success_rate, 3):
            note = "; ".join(filter(None, [note, f"{claimed:.0%} have another label"]))
        lines.append(
            f"{head} {row.success_rate:.0%} | {_number(entry['mean_distance'])} "
            f"| {_number(entry['median_distance'])} | {row.forwards:,.1f} | {row.backwards:,.1f} "
            f"| {1e3 * entry['cpu_s']['median']:,.1f} | {_spread(entry['over_bare'], 3)} "
            f"| {_spread(entry['worth'], 0)} | {len(row.runs)} | {note} |"
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _spread(values: dict[str, float], digits: int) -> str:
    """``median (p20 to p80)``."""
    median, low, high = (f"{values[key]:,.{digits}f}" for key in ("median", "p20", "p80"))
    return f"{median} ({low} to {high})"
