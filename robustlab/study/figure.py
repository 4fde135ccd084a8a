"""The study's figure in the paper's layout: accuracy, L2 and Linf distortion against training size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from robustlab.errors import InputError
from robustlab.files import write_atomically
from robustlab.models import MODEL_NAMES, TABLE_1
from robustlab.robustness import mean_over_seeds, peak, too_few_images
from robustlab.study.cell import AUGMENTED_SUFFIX, CellResult

_NEUTRAL = "#444444"
_PAPER_NAMES = {(row.dataset, row.model): row.paper_name for row in TABLE_1}
_COLUMNS = (
    ("l2", "mean $L_2$ distortion\n([0, 1] pixel range)"),
    ("linf", "mean $L_\\infty$ distortion\n([0, 1] pixel range)"),
)


@dataclass(frozen=True)
class _Style:
    """Two of Okabe and Ito's colours, which colour-blind readers tell apart; markers say it again."""

    color: str
    marker: str
    train_marker: str
    fill: str
    label: str


_PLAIN = _Style("#0072B2", "o", "x", "#0072B2", "without augmentation")
_AUGMENTED = _Style("#D55E00", "s", "+", "white", f"with augmentation ({AUGMENTED_SUFFIX})")


TurningPoints = Mapping[tuple[str, str, str], int]
"""The size of the turning point by (data set, variant, ``l2`` or ``linf``), where there is one."""


class _Curve:
    """All results of one (dataset, model, augmentation), as values per seed and size."""

    def __init__(self, results: Iterable[CellResult], turning: TurningPoints | None = None) -> None:
        self.by_cell = {(result.cell.seed, result.cell.train_size): result for result in results}
        self.seeds = sorted({seed for seed, _ in self.by_cell})
        self.sizes = sorted({size for _, size in self.by_cell})
        self.augmented = next(iter(self.by_cell.values())).cell.augmented
        self.style = _AUGMENTED if self.augmented else _PLAIN
        self.turning = turning

    def values(self, field: str) -> list[list[float | None]]:
        """(seeds, sizes); None where the cell is missing or has no finite value."""
        return [[self._value(field, seed, size) for size in self.sizes] for seed in self.seeds]

    def means(self, field: str) -> list[float | None]:
        """Per size; None where a seed is missing."""
        return [mean_over_seeds(values) for values in zip(*self.values(field), strict=True)]

    def _value(self, field: str, seed: int, size: int) -> float | None:
        result = self.by_cell.get((seed, size))
        value = None if result is None else getattr(result, field)
        return value if value is not None and math.isfinite(value) else None

    def peak(self, field: str) -> int | None:
        """The turning point that a test found; the largest mean before the end where none was made."""
        if self.turning is not None:
            cell = next(iter(self.by_cell.values())).cell
            return self.turning.get((cell.dataset, cell.variant, field))
        return peak(self.sizes, self.means(field), self.means("test_accuracy"))

    def why_empty(self, field: str) -> str | None:
        """Why the whole curve has no point to draw; None where it has one."""
        if any(value is not None for values in self.values(field) for value in values):
            return None
        results = self.by_cell.values()
        if all(result.images == 0 for result in results):
            return "no common-correct images"
        if all(getattr(result, f"{field}_success_rate") is None for result in results):
            return "not attacked"
        return "no mean: images missed by the attack"

    def caption(self, field: str) -> str:
        """What the score rests on: the number of images, the peak, and what to beware of."""
        name = f"{AUGMENTED_SUFFIX}: " if self.augmented else ""
        empty = self.why_empty(field)
        if empty is not None:
            return name + empty
        counts = [result.images for result in self.by_cell.values()]
        fewest, most = min(counts), max(counts)
        text = f"n = {fewest:,}" if fewest == most else f"n = {fewest:,} to {most:,}"
        if too_few_images(fewest):
            text += " (too few)"
        if None in self.means(field):
            text += ", with gaps"
        top = self.peak(field)
        word = "peak" if self.turning is None else "turning point"
        return name + text + (f", {word} at {top:,}" if top is not None else "")


def draw_study(
    results: Sequence[CellResult], title: str, turning_points: TurningPoints | None = None
) -> Figure:
    """Draw accuracy (train dashed, test solid), L2 and Linf distortion against training size.

    Layout: Figures 1-4 of the paper. A row per architecture, the augmented variant as a second line in the
    same row; within a data set all rows share their scales; several data sets follow each other. Bold lines
    are means over the seeds (drawn where every seed has a value), bands the seeds' range, thin lines single
    seeds. A star marks a turning point of ``turning_points``; without these, untested, the peak (see
    ``robustlab.robustness.peak``). What is missing leaves a gap, and a panel without a single score says why.
    """
    rows = sorted({(result.cell.dataset, result.cell.model) for result in results}, key=_row_order)
    figure = Figure(figsize=(10.5, 1.5 + 2.15 * max(1, len(rows))), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12)
    if not rows:
        figure.text(0.5, 0.5, "no finished cells to draw", ha="center", va="center", color=_NEUTRAL)
        return figure

    axes: list[list[Axes]] = figure.subplots(len(rows), 3, squeeze=False).tolist()
    several = len({dataset for dataset, _ in rows}) > 1
    drawn: list[_Curve] = []
    for (dataset, model), row in zip(rows, axes, strict=True):
        curves = _curves(results, dataset, model, turning_points)
        name = _PAPER_NAMES.get((dataset, model), model)
        _draw_accuracy(row[0], curves, f"{dataset}: {name}" if several else name)
        for axis, (field, label) in zip(row[1:], _COLUMNS, strict=True):
            _draw_distortion(axis, curves, field, label)
        drawn += curves
    for dataset in {dataset for dataset, _ in rows}:
        members = [row for (of, _), row in zip(rows, axes, strict=True) if of == dataset]
        _share_scales(members, [result for result in results if result.cell.dataset == dataset])
        for axis in members[-1]:
            axis.set_xlabel("training images", fontsize=8)
    _draw_legend(figure, drawn)
    return figure


def save_figure(figure: Figure, directory: str | Path) -> tuple[Path, Path]:
    """Write ``study.png`` (200 dots per inch) and ``study.svg`` into a directory, each whole or not at all.

    The same figure gives the same bytes: the SVG has neither date nor random ids.

    Raises:
        InputError: the directory cannot be made or written to.
    """
    png, svg = Path(directory) / "study.png", Path(directory) / "study.svg"
    try:
        png.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context({"svg.hashsalt": "robustlab"}):
            _save_whole(figure, png, dpi=200)
            _save_whole(figure, svg, metadata={"Date": None})
    except OSError as error:
        raise InputError(
            f"cannot write the figure to {directory} ({error.strerror}); choose a writable folder"
        ) from error
    return png, svg


def _save_whole(figure: Figure, path: Path, **options: object) -> None:
    with write_atomically(path) as file:
        figure.savefig(file, format=path.suffix[1:], **options)  # type: ignore[arg-type]


def _row_order(row: tuple[str, str]) -> tuple[str, int]:
    dataset, model = row
    return dataset, MODEL_NAMES.index(model)


def _curves(
    results: Sequence[CellResult], dataset: str, model: str, turning: TurningPoints | None
) -> list[_Curve]:
    """The curves of one row, without augmentation first."""
    of_row = [result for result in results if (result.cell.dataset, result.cell.model) == (dataset, model)]
    by_variant = [[result for result in of_row if result.cell.augmented is flag] for flag in (False, True)]
    return [_Curve(of_variant, turning) for of_variant in by_variant if of_variant]


def _draw_accuracy(axis: Axes, curves: list[_Curve], name: str) -> None:
    axis.set_title(name, loc="left", fontsize=9, fontweight="bold")
    axis.set_ylabel("accuracy (%)", fontsize=8)
    for curve in curves:
        _draw_curve(axis, curve, "train_accuracy", scale=100.0, dashes="--", marker=curve.style.train_marker)
        _draw_curve(axis, curve, "test_accuracy", scale=100.0, dashes="-", marker=curve.style.marker)


def _draw_distortion(axis: Axes, curves: list[_Curve], field: str, label: str) -> None:
    axis.set_ylabel(label, fontsize=8)
    captions = "\n".join(curve.caption(field) for curve in curves)
    if all(curve.why_empty(field) for curve in curves):
        axis.text(0.5, 0.5, captions, ha="center", va="center", transform=axis.transAxes, color=_NEUTRAL)
        return
    axis.set_title(captions, loc="left", fontsize=7, color=_NEUTRAL)
    for curve in curves:
        _draw_curve(axis, curve, field, scale=1.0, dashes="-", marker=curve.style.marker)
        top = curve.peak(field)
        if top is not None:
            height = _scaled(curve.means(field)[curve.sizes.index(top)], 1.0)
            axis.plot([top], [height], "*", color=curve.style.color, ms=13, mec="black", mew=0.8, zorder=5)


def _draw_curve(axis: Axes, curve: _Curve, field: str, scale: float, dashes: str, marker: str) -> None:
    """Mean bold; with several seeds the range as a band and the single seeds thin. NaN leaves a gap."""
    color, sizes = curve.style.color, curve.sizes
    per_seed = [[_scaled(value, scale) for value in values] for values in curve.values(field)]
    means = [_scaled(value, scale) for value in curve.means(field)]
    if len(per_seed) > 1:
        for values in per_seed:
            axis.plot(sizes, values, dashes, color=color, lw=0.6, alpha=0.5, marker=".", ms=2, zorder=2)
        # The range is drawn where the mean is: NaN in a single seed says nothing in min() and max().
        columns = list(zip(means, zip(*per_seed, strict=True), strict=True))
        low, high = (
            [math.nan if math.isnan(mean) else end(values) for mean, values in columns] for end in (min, max)
        )
        axis.fill_between(sizes, low, high, color=color, alpha=0.15, lw=0, zorder=1)
    axis.plot(
        sizes, means, dashes, color=color, lw=1.6, marker=marker, ms=4.5, mfc=curve.style.fill, zorder=3
    )


def _scaled(value: float | None, scale: float) -> float:
    return math.nan if value is None else value * scale


def _share_scales(rows: list[list[Axes]], results: list[CellResult]) -> None:
    """The same limits in every row of a data set; distortions from 0, so that heights can be compared."""
    sizes = sorted({result.cell.train_size for result in results})
    span = sizes[-1] - sizes[0] or max(1, sizes[0])
    accuracies = [
        100 * value for result in results for value in (result.train_accuracy, result.test_accuracy)
    ]
    lowest = min((value for value in accuracies if math.isfinite(value)), default=0.0)
    accuracy_limits = (max(0.0, 10 * math.floor((lowest - 2) / 10)), 102.0)
    for row in rows:
        row[0].set_ylim(*accuracy_limits)
        for axis, (field, _) in zip(row[1:], _COLUMNS, strict=True):
            scores = [getattr(result, field) for result in results]
            top = max((value for value in scores if value is not None and math.isfinite(value)), default=0.0)
            axis.set_ylim(0, 1.12 * top or 1.0)
            if top == 0:
                axis.set_yticks([])
        for axis in row:
            axis.set_xlim(sizes[0] - 0.05 * span, sizes[-1] + 0.05 * span)
            axis.xaxis.set_major_locator(FixedLocator(_spaced(sizes, 0.055 * span)))
            axis.xaxis.set_minor_locator(FixedLocator(sizes))
            axis.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.tick_params(labelsize=7)
            axis.tick_params(axis="x", labelrotation=45, pad=1)
            for label in axis.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
            axis.grid(axis="y", lw=0.4, color="#dddddd")
            axis.spines[["top", "right"]].set_visible(False)
            if axis.get_yticks().size:
                axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _spaced(sizes: list[int], distance: float) -> list[int]:
    """The sizes whose labels do not run into each other, the largest first; all keep their tick."""
    kept: list[int] = []
    for size in reversed(sizes):
        if not kept or kept[-1] - size >= distance:
            kept.append(size)
    return kept


def _draw_legend(figure: Figure, curves: list[_Curve]) -> None:
    """Only what occurs in the figure."""
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=_NEUTRAL, ls="-", label="test accuracy"),
        Line2D([], [], color=_NEUTRAL, ls="--", marker="x", ms=5, label="train accuracy"),
    ]
    for style in (_PLAIN, _AUGMENTED):
        if any(curve.style is style for curve in curves):
            handles.append(
                Line2D(
                    [], [], color=style.color, marker=style.marker, mfc=style.fill, ms=5, label=style.label
                )
            )
    if any(len(curve.seeds) > 1 for curve in curves):
        handles.append(Patch(color=_NEUTRAL, alpha=0.2, lw=0, label="range over seeds"))
    if any(curve.peak(field) is not None for curve in curves for field, _ in _COLUMNS):
        tested = any(curve.turning is not None for curve in curves)
        label = (
            "turning point: robustness falls after it, accuracy rises (tested)"
            if tested
            else "peak: robustness falls after it, accuracy rises (untested)"
        )
        handles.append(Line2D([], [], marker="*", ms=11, mfc="white", mec="black", ls="", label=label))
    if any(curve.why_empty(field) is None for curve in curves for field, _ in _COLUMNS):
        handles.append(Line2D([], [], ls="", label="n: test images scored, correct at every size"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
