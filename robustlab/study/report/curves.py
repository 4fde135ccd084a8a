"""From a study's cells to curves, verdicts and findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustlab.evidence import (
    DRAWS,
    AccuracyPoint,
    Curve,
    Finding,
    Judged,
    Verdict,
    check_findings,
    curve_of_cells,
    judge,
)
from robustlab.models import MODEL_NAMES
from robustlab.study.cell import AUGMENTED_SUFFIX
from robustlab.study.report.record import CellRecord, StudyRecord

NORMS = ("l2", "linf")
NORM_NAMES = {"l2": "L2", "linf": "Linf"}


@dataclass(frozen=True)
class CurveKey:
    """Which curve: a data set, an architecture with or without augmentation, a norm."""

    study: int
    dataset: str
    variant: str
    norm: str

    @property
    def model(self) -> str:
        """The architecture."""
        return self.variant.removesuffix(AUGMENTED_SUFFIX)


@dataclass(frozen=True, eq=False)
class Judgement:
    """Verdicts of all curves of a report, in the order in which they are shown, and the paper's findings."""

    verdicts: dict[CurveKey, Verdict]
    curves: dict[CurveKey, Curve | None]
    findings: list[Finding]

    @property
    def turning_points(self) -> dict[tuple[str, str, str], int]:
        """The peak's size of every curve whose verdict is a turning point, by (data set, variant, norm)."""
        return {
            (key.dataset, key.variant, key.norm): verdict.evidence.peak
            for key, verdict in self.verdicts.items()
            if verdict.kind == "turning point" and verdict.evidence is not None
        }

    @property
    def seeds(self) -> int:
        """The smallest number of seeds behind any curve; 0 without curves."""
        return min((curve.seeds for curve in self.curves.values() if curve is not None), default=0)


def judge_studies(studies: Sequence[StudyRecord], draws: int = DRAWS) -> Judgement:
    """Weigh every curve of every study together: the more are shown, the more one of them has to stand out."""
    curves, judged = {}, []
    for number, study in enumerate(studies):
        for dataset, variant in variants_of(study):
            cells = [
                c for c in study.cells if (c.result.cell.dataset, c.result.cell.variant) == (dataset, variant)
            ]
            for norm in NORMS:
                if any(f"{norm}_distance" in cell.arrays for cell in cells):
                    curves[CurveKey(number, dataset, variant, norm)] = _curve(cells, norm)
    verdicts = dict(zip(curves, judge(list(curves.values()), draws), strict=True))
    for key, verdict in verdicts.items():
        points = accuracy_points(studies[key.study], key.variant)
        judged.append(Judged(key.dataset, key.variant, key.norm, verdict, points))
    return Judgement(verdicts, curves, check_findings(judged))


def variants_of(study: StudyRecord) -> list[tuple[str, str]]:
    """(data set, variant) of the finished cells, architectures in the paper's order, plain before augmented."""
    found = {(c.result.cell.dataset, c.result.cell.model, c.result.cell.augmented) for c in study.cells}
    ordered = sorted(found, key=lambda item: (item[0], MODEL_NAMES.index(item[1]), item[2]))
    return [
        (dataset, model + (AUGMENTED_SUFFIX if augmented else "")) for dataset, model, augmented in ordered
    ]


def accuracy_points(study: StudyRecord, variant: str) -> tuple[AccuracyPoint, ...]:
    """Test accuracy per size that every seed has, with the standard error of its test images and seeds."""
    cells = [cell for cell in study.cells if cell.result.cell.variant == variant]
    seeds = {cell.result.cell.seed for cell in cells}
    points = []
    for size in sorted({cell.result.cell.train_size for cell in cells}):
        of_size = [cell for cell in cells if cell.result.cell.train_size == size]
        if len(of_size) < len(seeds):
            continue
        values = np.array([cell.result.test_accuracy for cell in of_size])
        mean = float(values.mean())
        # Studies of an older version do not say how many test images there are: at least the common-correct ones.
        known = study.dataset.get("test_images") or of_size[0].common_correct or of_size[0].result.images
        images = max(1, int(str(known)))
        variance = mean * (1 - mean) / images + (values.var(ddof=1) / len(values) if len(values) > 1 else 0.0)
        points.append(AccuracyPoint(size, mean, float(variance**0.5)))
    return tuple(points)


def _curve(cells: Sequence[CellRecord], norm: str) -> Curve | None:
    measured: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, float] | str] = {}
    for cell in cells:
        key, name = (cell.result.cell.seed, cell.result.cell.train_size), f"{norm}_distance"
        if name not in cell.arrays:
            measured[key] = "its distances are not stored"
        else:
            distance = cell.arrays[name].astype(np.float64)
            measured[key] = (
                cell.arrays["test_indices"].astype(np.int64),
                distance,
                cell.result.test_accuracy,
            )
    return curve_of_cells(measured)
