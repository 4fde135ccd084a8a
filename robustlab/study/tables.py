"""Tables for the terminal, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich import box
from rich.table import Table
from rich.text import Text

from robustlab.linear_example import LinearExample
from robustlab.models import MODEL_NAMES, TABLE_1, build_model, parameter_count
from robustlab.robustness import MINIMUM_IMAGES, mean_over_seeds
from robustlab.study.cell import CellResult
from robustlab.study.report import VerdictRow

_MISSING = "-"


def _table(title: str, left: Sequence[str], right: Sequence[str], caption: str | None = None) -> Table:
    """An empty table with narrow gaps; numbers stand right and are never cut."""
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.title_justify = table.caption_justify = "left"
    for header in left:
        table.add_column(header, no_wrap=True)
    for header in right:
        table.add_column(header, justify="right", no_wrap=True)
    return table


def results_table(results: Sequence[CellResult]) -> Table:
    """A row per (dataset, variant, size): means over seeds, distortions in units of the [0, 1] pixel range.

    A mean stands only where every seed of the variant has a value. The success rates ("found") and the image
    counts are those of the worst seed, so that no seed's failure is averaged away; counts under
    ``MINIMUM_IMAGES`` carry a mark.
    """
    table = _table(
        "Accuracy, distortion, attack success by training size (means over seeds)",
        ["Model"],
        ["Size", "Train\n%", "Test\n%", "L2", "Linf", "L2\nfound\n%", "Linf\nfound\n%", "Images"],
    )
    groups = _by_variant(results)
    several = len({dataset for dataset, _, _ in groups}) > 1
    few = suspected = False
    previous_dataset = None
    for (dataset, _, _), of_variant in groups.items():
        if several and dataset != previous_dataset:
            table.add_row(f"[bold]{dataset}[/bold]")
            previous_dataset = dataset
        seeds = {result.cell.seed for result in of_variant}
        for size in sorted({result.cell.train_size for result in of_variant}):
            of_size = [result for result in of_variant if result.cell.train_size == size]
            few |= min(result.images for result in of_size) < MINIMUM_IMAGES
            suspected |= any(result.suspicion for result in of_size)
            table.add_row(of_variant[0].cell.variant, f"{size:,}", *_measures(of_size, len(seeds)))
        table.add_section()
    captions = [f"{_MISSING}: no value, or not in every seed"]
    if few:
        captions.append(f"!: fewer than {MINIMUM_IMAGES} images, too few to mean anything")
    if suspected:
        captions.append("?: an overestimate, other attacks come nearer on a sample")
    table.caption = "\n".join(captions)
    return table


def _by_variant(results: Sequence[CellResult]) -> dict[tuple[str, int, bool], list[CellResult]]:
    """Results per (dataset, position in MODEL_NAMES, augmented), in that order."""
    groups: dict[tuple[str, int, bool], list[CellResult]] = {}
    for result in results:
        cell = result.cell
        groups.setdefault((cell.dataset, MODEL_NAMES.index(cell.model), cell.augmented), []).append(result)
    return dict(sorted(groups.items()))


def _measures(of_size: list[CellResult], seeds: int) -> list[str]:
    """The cells of one row; a seed whose cell never finished counts as a missing value."""
    absent = [None] * (seeds - len(of_size))

    def mean(field: str, digits: int, scale: float = 1.0) -> str:
        value = mean_over_seeds([*(getattr(result, field) for result in of_size), *absent])
        mark = "?" if any(result.suspected(field) for result in of_size) else ""
        return (_MISSING if value is None else f"{scale * value:.{digits}f}") + mark

    def worst_rate(field: str) -> str:
        rates = [rate for result in of_size if (rate := getattr(result, field)) is not None]
        # Cut, not rounded: 99.96 % found is not 100.0 %.
        return f"{int(1000 * min(rates)) / 10:.1f}" if rates else _MISSING

    images = min(result.images for result in of_size)
    return [
        mean("train_accuracy", 1, 100.0),
        mean("test_accuracy", 1, 100.0),
        mean("l2", 4),
        mean("linf", 5),
        worst_rate("l2_success_rate"),
        worst_rate("linf_success_rate"),
        f"{images:,}" + ("!" if images < MINIMUM_IMAGES else ""),
    ]


def verdicts_table(rows: Sequence[VerdictRow], one_seed: bool) -> Table:
    """A line per curve: whether robustness turns down, where the peak may be, how far it falls, how sure that is."""
    table = _table("Where does robustness turn down?", ["Model", "Norm", "Verdict"], [])
    table.add_column("Peak may\nbe at", justify="right")
    table.add_column("Fall to the\nlargest size", justify="right")
    table.add_column("p", justify="right", no_wrap=True)
    several = len({row.dataset for row in rows}) > 1
    colors = {"turning point": "red", "still rising": "green", "flat": "blue", "undecided": "yellow"}
    previous = None
    for row in rows:
        if several and row.dataset != previous:
            table.add_row(Text(row.dataset, style="bold"))
            previous = row.dataset
        fall = row.fall.replace(" (", "\n(")
        verdict = Text(row.kind, style=colors[row.kind])
        table.add_row(Text(row.model), row.norm, verdict, row.peak.replace(" to ", "\nto "), fall, row.p)
    captions = ["95 % intervals; p allows for the choice of the peak and the number of curves (Holm)"]
    if one_seed:
        captions.append(
            "One seed: the verdicts are about these trained models, not about training in general"
        )
    table.caption = "\n".join(captions)
    return table


def table1_table() -> Table:
    """The paper's Table 1: its parameter counts beside those of the models that ``build_model`` builds."""
    table = _table(
        "Trainable parameters, the paper's Table 1",
        ["Data set", "Model", "Paper's name"],
        ["Paper", "Built", "Equal"],
    )
    for row in TABLE_1:
        with torch.device("meta"):  # shapes without memory: counting needs no weights
            built = parameter_count(build_model(row.model, row.image_shape, row.num_classes))
        equal = "yes" if built == row.parameters else "[bold red]no[/bold red]"
        counts = f"{row.parameters:,}", f"{built:,}"
        table.add_row(row.dataset, row.model, row.paper_name, *counts, equal)
    return table


def linear_table(example: LinearExample) -> Table:
    """Section 2: both regressions, their error and robustness beside what the paper prints."""
    table = _table(
        "Linear regression, the paper's Section 2",
        ["Model"],
        ["Points", "Slope", "Intercept", "MSE", "MSE\n(paper)", "Robustness", "Robustness\n(paper)"],
        f"MSE on the 2 test points, in y squared; robustness in x.\n{example.note}",
    )
    for model in example.models:
        table.add_row(
            model.name,
            str(model.train_size),
            f"{model.slope:.4f}",
            f"{model.intercept:.4f}",
            f"{model.mse:.4f}",
            f"{model.paper_mse:.4f}",
            f"{model.robustness:.5f}",
            f"{model.paper_robustness:.4f}",
        )
    return table
