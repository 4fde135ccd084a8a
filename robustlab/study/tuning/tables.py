"""The end of a tuning on the terminal: the reference, the untuned defaults, and what was chosen."""

from __future__ import annotations

from dataclasses import asdict

from rich import box
from rich.table import Table

from robustlab.study.tuning.conduct import FinishedTuning
from robustlab.study.tuning.judgement import Judgement


def comparison_table(finished: FinishedTuning) -> Table:
    """Distances and propagations side by side, on the tuning images."""
    choice, plan = finished.choice, finished.plan
    table = Table(
        title=f"{plan.attack} on {plan.dataset.name}, {len(finished.subjects.models)} models, "
        f"{len(finished.subjects.labels)} tuning images each",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.title_justify = table.caption_justify = "left"
    table.add_column("", no_wrap=True)
    for header in (
        "Mean\ndistance",
        "Ratio,\nall / worst",
        "Found\n%",
        "Propagations\nan image",
        "Share of\ndefaults",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    chosen = "tuned" if choice.trial is not None else "tuned: defaults"
    sides = [("untuned", choice.untuned), (chosen, choice.judgement)]
    if plan.reference.searches:
        sides.insert(0, (f"reference {plan.reference}", choice.reference))
    for name, side in sides:
        table.add_row(name, *_cells(side, choice.untuned))
    table.caption = "Ratio: mean distance over the reference's, of all models and of the worst one"
    if finished.subjects.missed:
        table.caption += f"\n{finished.subjects.missed} more images left out: the reference missed them"
    if not choice.within:
        table.caption += (
            f"\nNothing found every image within {plan.tolerance:.2%} of the reference; this is the nearest"
        )
    return table


def changed_constants(finished: FinishedTuning) -> Table:
    """The constants that differ from the defaults."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Constant", no_wrap=True)
    table.add_column("Default", justify="right")
    table.add_column("Tuned", justify="right")
    untuned = asdict(finished.plan.untuned)
    for name, value in asdict(finished.choice.constants).items():
        if value != untuned[name]:
            table.add_row(name, _short(untuned[name]), _short(value))
    return table


def _cells(side: Judgement, untuned: Judgement) -> list[str]:
    return [
        f"{side.distance:.5f}",
        f"{side.mean_ratio:.4f} / {side.worst_ratio:.4f}",
        f"{int(1000 * side.success_rate) / 10:.1f}",  # cut: 99.96 % is not all
        f"{side.propagations:,.1f}",
        f"{side.propagations / untuned.propagations:.2f}",
    ]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
