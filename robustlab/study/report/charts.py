"""Charts as plain data: what charts.js draws, with the text that stands in for the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from robustlab.evidence import Curve, Interval, Verdict, headline
from robustlab.models import TABLE_1
from robustlab.robustness import mean_over_seeds
from robustlab.study.cell import AUGMENTED_SUFFIX
from robustlab.study.report.curves import NORM_NAMES, NORMS, CurveKey, Judgement, variants_of
from robustlab.study.report.record import CellRecord, StudyRecord

Chart = dict[str, Any]
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_MARKERS = ("circle", "square", "triangle", "diamond", "cross", "plus")
_PAPER_NAMES = {(row.dataset, row.model): row.paper_name for row in TABLE_1}
_MODEL_NAMES = {
    "perceptron": "2-layer perceptron",
    "simple_cnn": "Simple CNN",
    "resnet": "ResNet",
    "densenet": "DenseNet",
}
_EPS_POINTS = 80


def model_name(dataset: str, model: str) -> str:
    """The architecture as the paper calls it."""
    return _PAPER_NAMES.get((dataset, model), _MODEL_NAMES.get(model, model))


def figure_rows(study: StudyRecord, number: int, judgement: Judgement) -> list[dict[str, Any]]:
    """The paper's layout: a row per architecture; accuracy, L2 and Linf against size; the augmented variant beside."""
    rows: dict[tuple[str, str], list[str]] = {}
    for dataset, variant in variants_of(study):
        rows.setdefault((dataset, variant.removesuffix(AUGMENTED_SUFFIX)), []).append(variant)
    norms = [
        norm for norm in NORMS if any(key.norm == norm for key in judgement.curves if key.study == number)
    ]
    made: list[dict[str, Any]] = []
    for (dataset, model), variants in rows.items():
        charts = [_accuracy_chart(study, variants, model_name(dataset, model))]
        for norm in norms:
            keys = [CurveKey(number, dataset, variant, norm) for variant in variants]
            charts.append(_distortion_chart(study, keys, judgement, model_name(dataset, model)))
        made.append({"name": model_name(dataset, model), "charts": charts})
    for column in range(1 + len(norms)):
        tops = [_top(row["charts"][column]) for row in made]
        for row in made:
            row["charts"][column]["sharedTop"] = max(tops, default=1.0)
    return made


def _accuracy_chart(study: StudyRecord, variants: Sequence[str], name: str) -> Chart:
    series = []
    for variant in variants:
        cells = _cells(study, variant)
        for field, label, dash in (("test_accuracy", "test", ""), ("train_accuracy", "training", "5 4")):
            points = [
                {"x": size, "y": _percent(_mean(cells, size, field)), "seeds": _percents(cells, size, field)}
                for size in _sizes(cells)
            ]
            style = _style(variant)
            if field == "train_accuracy":
                style = {**style, "marker": "cross" if style["marker"] == "circle" else "plus", "thin": True}
            series.append({"name": f"{label}{_suffix(variant)}", **style, "dash": dash, "points": points})
    ends = series[0]["points"]
    return {
        "title": "Accuracy",
        "alt": f"Accuracy of {name} in percent against training size. Test accuracy {_from_to(ends, '{:.1f} %')}.",
        "xLabel": "training images",
        "yLabel": "accuracy (%)",
        "digits": 1,
        "yMax": 100,
        "fit": True,
        "series": series,
        "notes": [],
    }


def _distortion_chart(study: StudyRecord, keys: Sequence[CurveKey], judgement: Judgement, name: str) -> Chart:
    norm = NORM_NAMES[keys[0].norm]
    series, notes, spoken = [], [], []
    for key in keys:
        if key not in judgement.curves:
            notes.append(f"{key.variant}: not attacked")
            continue
        verdict, curve = judgement.verdicts[key], judgement.curves[key]
        cells = _cells(study, key.variant)
        intervals = _intervals(verdict, curve)
        points = [
            {
                "x": size,
                "y": _finite(_mean(cells, size, key.norm)),
                "seeds": [_finite(getattr(cell.result, key.norm)) for cell in _of_size(cells, size)],
                **({"lo": intervals[size].low, "hi": intervals[size].high} if size in intervals else {}),
            }
            for size in _sizes(cells)
        ]
        entry = {"name": f"mean {norm}{_suffix(key.variant)}", **_style(key.variant), "points": points}
        if verdict.evidence is not None and verdict.kind == "turning point":
            evidence = verdict.evidence
            entry["peak"] = {
                "x": evidence.peak,
                "from": evidence.peak_sizes[0],
                "to": evidence.peak_sizes[-1],
            }
        series.append(entry)
        label = f"{key.variant}: " if len(keys) > 1 else ""
        notes.append(f"{label}{headline(verdict)}{_count(curve)}")
        spoken.append(f"{key.variant} {_from_to(points, '{:.4g}')}, {headline(verdict)}.")
    return {
        "title": f"Mean {norm} distortion",
        "alt": f"Mean {norm} distortion of {name} against training size. {' '.join(spoken) or 'Nothing to draw.'}",
        "xLabel": "training images",
        "yLabel": f"mean {norm} distortion ([0, 1] pixel range)",
        "digits": 4 if norm == "L2" else 5,
        "series": series,
        "notes": notes,
    }


def accuracy_against_robustness(study: StudyRecord, number: int, judgement: Judgement) -> list[Chart]:
    """Every model as a point: test accuracy across, score up; a line follows each curve from small to large."""
    charts = []
    for norm in NORMS:
        series = []
        keys = [key for key in judgement.curves if key.study == number and key.norm == norm]
        for index, key in enumerate(keys):
            cells = _cells(study, key.variant)
            points = [
                {
                    "x": _percent(_mean(cells, size, "test_accuracy")),
                    "y": _finite(_mean(cells, size, norm)),
                    "label": f"{size:,} images",
                }
                for size in _sizes(cells)
            ]
            points = [point for point in points if point["x"] is not None and point["y"] is not None]
            if points:
                series.append({"name": key.variant, **_numbered(index), "points": points})
        if series:
            charts.append(
                {
                    "title": f"{NORM_NAMES[norm]}: accuracy against robustness",
                    "alt": f"Mean {NORM_NAMES[norm]} distortion against test accuracy, a point per training size, for "
                    f"{', '.join(str(one['name']) for one in series)}. The numbers are in the table of all cells.",
                    "xLabel": "test accuracy (%)",
                    "yLabel": f"mean {NORM_NAMES[norm]} distortion",
                    "digits": 4,
                    "scatter": True,
                    "legend": True,
                    "series": series,
                    "notes": [],
                }
            )
    return charts


def robust_accuracy(study: StudyRecord, number: int, judgement: Judgement) -> list[Chart]:
    """The share of the attacked images that no perturbation of length eps turned, one curve a size, seeds pooled."""
    charts = []
    for key in (key for key in judgement.curves if key.study == number):
        cells = [
            cell for cell in _cells(study, key.variant) if len(cell.arrays.get(f"{key.norm}_distance", ()))
        ]
        finite = [d[np.isfinite(d)] for d in (cell.arrays[f"{key.norm}_distance"] for cell in cells)]
        if not any(map(len, finite)):
            continue
        longest = float(np.quantile(np.concatenate(finite), 0.995))
        sizes = _sizes(cells)
        series = []
        for index, size in enumerate(sizes):
            distances = np.concatenate(
                [cell.arrays[f"{key.norm}_distance"] for cell in _of_size(cells, size)]
            )
            eps = np.linspace(0, longest, _EPS_POINTS)
            share = 100 * (1 - np.searchsorted(np.sort(distances), eps, side="right") / len(distances))
            points = [
                {"x": float(f"{x:.4g}"), "y": round(float(y), 2)} for x, y in zip(eps, share, strict=True)
            ]
            shade = index / max(1, len(sizes) - 1)
            series.append(
                {
                    "name": f"{size:,}",
                    "shade": shade,
                    "dash": _DASHES[index % 4],
                    "marker": "",
                    "points": points,
                }
            )
        name = f"{model_name(key.dataset, key.model)}{_suffix(key.variant)}, {NORM_NAMES[key.norm]}"
        half = [float(f"{np.median(np.concatenate(finite)):.3g}")]
        charts.append(
            {
                "title": name,
                "alt": f"Robust accuracy of {name} against eps, one curve per training size from {sizes[0]:,} to "
                f"{sizes[-1]:,}; half of all attacked images are turned within {half[0]}.",
                "xLabel": f"eps: length of the perturbation, {NORM_NAMES[key.norm]}",
                "yLabel": "still classified right (%)",
                "digits": 1,
                "yMax": 100,
                "legend": True,
                "series": series,
                "notes": [],
            }
        )
    return charts


def _intervals(verdict: Verdict, curve: Curve | None) -> dict[int, Interval]:
    if verdict.evidence is None or curve is None or curve.fewest_images < 2:
        return {}
    return dict(zip(curve.sizes, verdict.evidence.scores, strict=True))


def _cells(study: StudyRecord, variant: str) -> list[CellRecord]:
    return [cell for cell in study.cells if cell.result.cell.variant == variant]


def _sizes(cells: Sequence[CellRecord]) -> list[int]:
    return sorted({cell.result.cell.train_size for cell in cells})


def _of_size(cells: Sequence[CellRecord], size: int) -> list[CellRecord]:
    return [cell for cell in cells if cell.result.cell.train_size == size]


def _mean(cells: Sequence[CellRecord], size: int, field: str) -> float | None:
    """Over the seeds; None where one of the curve's seeds has no value at this size."""
    of_size = _of_size(cells, size)
    if len(of_size) < len({cell.result.cell.seed for cell in cells}):
        return None
    return mean_over_seeds([getattr(cell.result, field) for cell in of_size])


def _percents(cells: Sequence[CellRecord], size: int, field: str) -> list[float | None]:
    return [_percent(getattr(cell.result, field)) for cell in _of_size(cells, size)]


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 4)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _style(variant: str) -> dict[str, Any]:
    augmented = variant.endswith(AUGMENTED_SUFFIX)
    return {"color": 1 if augmented else 0, "marker": "square" if augmented else "circle", "dash": ""}


def _numbered(index: int) -> dict[str, Any]:
    return {"color": index % 8, "marker": _MARKERS[index % 6], "dash": _DASHES[index % 4]}


def _suffix(variant: str) -> str:
    return ", augmented" if variant.endswith(AUGMENTED_SUFFIX) else ""


def _count(curve: Curve | None) -> str:
    return "" if curve is None else f" · {curve.fewest_images:,} images"


def _top(chart: Chart) -> float:
    """The largest value of any mean or seed; intervals of few seeds would flatten every other row."""
    values = [0.0]
    for one in chart["series"]:
        for point in one["points"]:
            values += [value for value in (point["y"], *point.get("seeds", ())) if value is not None]
    return max(values) or 1.0


def _from_to(points: Sequence[Chart], form: str) -> str:
    known = [point for point in points if point["y"] is not None]
    if not known:
        return "has no value"
    if len(known) == 1:
        return f"is {form.format(known[0]['y'])} at {known[0]['x']:,}"
    best = max(known, key=lambda point: point["y"])
    first, last = known[0], known[-1]
    text = f"goes from {form.format(first['y'])} at {first['x']:,}"
    if best is not first and best is not last:
        text += f" over {form.format(best['y'])} at {best['x']:,}"
    return f"{text} to {form.format(last['y'])} at {last['x']:,}"
