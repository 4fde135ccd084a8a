"""Studies as a report reads them, made up: no training, no store."""

from __future__ import annotations

from typing import Any

import numpy as np

from robustlab.study.cell import Cell, CellResult
from robustlab.study.examples import Examples
from robustlab.study.report.record import CellRecord, StudyRecord

CIFAR_SIZES = (1_000, *range(5_000, 50_001, 5_000))


def cell_record(
    cell: Cell,
    images: int = 60,
    level: float = 1.0,
    missed: bool = False,
    shape: tuple[int, int, int] = (1, 8, 8),
) -> CellRecord:
    """A finished cell whose mean L2 distance is about ``level``; the same images at every size."""
    rng = np.random.default_rng(hash((cell.train_size, cell.seed)) % 2**32)
    shared = np.random.default_rng(0).lognormal(0, 0.4, images)
    distance = (level * shared * rng.lognormal(0, 0.15, images)).astype(np.float32)
    success = np.ones(images, dtype=bool)
    if missed and images:
        distance[0], success[0] = np.inf, False
    kept = min(4, images)
    pictures = np.random.default_rng(1).random((kept, *shape)).astype(np.float32)
    noise = (0.1 * rng.standard_normal((kept, *shape))).astype(np.float32)
    arrays: dict[str, np.ndarray] = {
        "test_indices": np.arange(images),
        "labels": np.arange(images) % 10,
        **{f"{norm}_distance": distance / (1 if norm == "l2" else 20) for norm in ("l2", "linf")},
        **{f"{norm}_success": success for norm in ("l2", "linf")},
        **{f"{norm}_adv_labels": (np.arange(images) + 1) % 10 for norm in ("l2", "linf")},
    }
    score = None if missed or not images else float(distance.mean())
    rate = float(success.mean()) if images else None
    accuracy = 0.5 + 0.4 * cell.train_size / 50_000 + 0.01 * cell.seed
    result = CellResult(cell, 0.99, accuracy, score, score and score / 20, images, rate, rate, 1.0, 1.0)
    examples = {norm: Examples(np.arange(kept), pictures, noise) for norm in ("l2", "linf")}
    warning = "the attack missed 1 of 60 images, so there is no mean distance" if missed else ""
    return CellRecord(result, {}, arrays, examples, warning, images)


def study_record(cells: list[CellRecord], dataset: str = "digits", **fields: Any) -> StudyRecord:
    """A study of these cells."""
    made: dict[str, Any] = {
        "run_id": "0123456789abcdef",
        "name": f"study {dataset}",
        "started": "2026-11-22 12:00 UTC",
        "params": {
            "grid.attacks": "cw,ifgsm",
            "grid.dataset_digest": "d1ge57",
            "recipe.epochs.perceptron": "30",
        },
        "tags": {"robustlab.dataset": dataset, "robustlab.version": "9.9"},
        "unfinished": [],
        "dataset": {
            "name": dataset,
            "digest": "d1ge57",
            "image_shape": [1, 8, 8],
            "class_names": [f"class {i}" for i in range(10)],
            "train_images": 1_200,
            "test_images": 540,
        },
        "packages": ["torch==2.15.0", "mlflow==3.17.2"],
    }
    return StudyRecord(cells=cells, **{**made, **fields})


def whole_study(
    dataset: str = "digits",
    variants: tuple[str, ...] = ("perceptron",),
    sizes: tuple[int, ...] = (100, 200, 400),
    seeds: tuple[int, ...] = (0, 1),
    **fields: Any,
) -> StudyRecord:
    """Curves that peak in the middle and fall by a third."""
    cells = []
    for variant in variants:
        model, _, augmented = variant.partition("+")
        for seed in seeds:
            for index, size in enumerate(sizes):
                bend = 1 - 1.3 * (index / max(1, len(sizes) - 1) - 0.5) ** 2
                cells.append(
                    cell_record(Cell(dataset, model, bool(augmented), size, seed), level=bend, **fields)
                )
    return study_record(cells, dataset)
