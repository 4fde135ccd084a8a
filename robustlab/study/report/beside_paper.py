"""Our distortions beside the ranges that the paper's Figures 1 to 4 draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from robustlab.study.report.charts import model_name
from robustlab.study.report.curves import NORM_NAMES, CurveKey, Judgement

# (lowest, highest) that the axis shows; a model of its own where the paper's rows differ within a data set.
_L2: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "mnist": {"": (0.0, 1.5)},
    "cifar10": {"": (0.0, 0.25), "perceptron": (0.30, 0.55), "simple_cnn": (0.30, 0.55)},
    "stl10": {"": (0.0, 0.8)},
    "tinyimagenet": {"": (0.0, 0.4)},
}
_LINF: Mapping[str, tuple[float, float]] = {
    "mnist": (0.0, 0.20),
    "cifar10": (0.0, 0.025),
    "stl10": (0.0, 0.010),
    "tinyimagenet": (0.0, 0.008),
}


@dataclass(frozen=True)
class PaperRow:
    """A curve of ours, the range of the paper's axis, and how the two lie to each other, in words."""

    dataset: str
    model: str
    norm: str
    paper: str
    ours: str
    place: str


def paper_rows(judgement: Judgement) -> list[PaperRow]:
    """A row per curve of a data set that the paper has, in the order of the figure."""
    rows = []
    for key, curve in judgement.curves.items():
        axis = paper_axis(key)
        if axis is None or curve is None:
            continue
        low, high = min(curve.scores), max(curve.scores)
        rows.append(
            PaperRow(
                key.dataset,
                model_name(key.dataset, key.model) + (", augmented" if key.variant != key.model else ""),
                NORM_NAMES[key.norm],
                f"{axis[0]:g} to {axis[1]:g}",
                f"{low:.4g} to {high:.4g}",
                _place(low, high, axis),
            )
        )
    return rows


def paper_axis(key: CurveKey) -> tuple[float, float] | None:
    """The range of distortions that the paper draws for this curve; None where it has no such figure."""
    if key.norm == "linf":
        return _LINF.get(key.dataset)
    of_dataset = _L2.get(key.dataset, {})
    return of_dataset.get(key.model, of_dataset.get(""))


def _place(low: float, high: float, axis: tuple[float, float]) -> str:
    if low > axis[1]:
        return "above it"
    if high < axis[0]:
        return "below it"
    if low >= axis[0] and high <= axis[1]:
        return "within it"
    return "partly beyond it"
