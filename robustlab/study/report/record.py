"""Everything that a study left in MLflow and a report needs, read back into memory."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run

from robustlab.errors import InputError
from robustlab.study.artifacts import digests, fetch_files, read_arrays
from robustlab.study.cell import Cell, CellResult
from robustlab.study.examples import FILE_NAME, Examples, read_examples
from robustlab.study.patience import StoreLost
from robustlab.study.plan import Variant
from robustlab.study.read_back import WARNING_TAG, cell_of, cell_runs, result_of


@dataclass(frozen=True, eq=False)
class CellRecord:
    """A finished cell: its result, its per-image arrays, its kept images, and what to beware of."""

    result: CellResult
    settings: dict[str, str]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    examples: dict[str, Examples] = field(default_factory=dict)
    warning: str = ""
    common_correct: int | None = None


@dataclass(frozen=True, eq=False)
class StudyRecord:
    """A study as MLflow holds it.

    Attributes:
        cells: the finished cells, in the grid's order.
        unfinished: (cell, why) of every cell of the grid that has no result.
        dataset: facts of the data set: name, digest, class_names, image_shape, train_images, test_images.
        packages: name and version of what was installed, sorted.
    """

    run_id: str
    name: str
    started: str
    params: dict[str, str]
    tags: dict[str, str]
    cells: list[CellRecord]
    unfinished: list[tuple[str, str]]
    dataset: dict[str, Any]
    packages: list[str]

    @property
    def results(self) -> list[CellResult]:
        """The results of the finished cells."""
        return [cell.result for cell in self.cells]


def read_study(client: MlflowClient, run: Run) -> StudyRecord:
    """Read a study's runs and the artifacts that a report shows; one that it never logged leaves its field empty.

    Raises:
        InputError: an artifact is gone, or is not what was logged.
    """
    with tempfile.TemporaryDirectory(prefix="robustlab-report-") as folder:
        finished, unfinished, seen = [], [], set()
        children = cell_runs(client, run)
        for number, child in enumerate(children):
            cell = cell_of(child)
            if child.info.status == "FINISHED":
                finished.append(_read_cell(client, child, Path(folder) / str(number)))
                seen.add(cell)
        for child in children:
            cell = cell_of(child)
            if cell not in seen:
                seen.add(cell)
                unfinished.append((cell.shown, _why(child)))
        unfinished += [(cell.shown, "never started") for cell in _planned(run) if cell not in seen]
        dataset, packages = (
            _fetch(client, run, name, Path(folder)) for name in ("dataset.json", "packages.txt")
        )
        return StudyRecord(
            run_id=run.info.run_id,
            name=run.info.run_name,
            started=time.strftime("%Y-%m-%d %H:%M", time.gmtime(run.info.start_time / 1000)) + " UTC",
            params=dict(run.data.params),
            tags=dict(run.data.tags),
            cells=sorted(finished, key=lambda cell: cell.result.cell),
            unfinished=unfinished,
            dataset=_facts(dataset) if dataset else {},
            packages=packages.read_text().split() if packages else [],
        )


def _read_cell(client: MlflowClient, run: Run, folder: Path) -> CellRecord:
    distances, examples = (_fetch(client, run, name, folder) for name in ("distances.npz", FILE_NAME))
    common = run.data.metrics.get("common_correct_images")
    return CellRecord(
        result=result_of(run),
        settings=dict(run.data.params),
        arrays=read_arrays(distances) if distances else {},
        examples=read_examples(examples) if examples else {},
        warning=run.data.tags.get(WARNING_TAG, ""),
        common_correct=None if common is None else int(common),
    )


def _facts(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is damaged ({error}); it was truncated or altered") from error
    return found if isinstance(found, dict) else {}


def _fetch(client: MlflowClient, run: Run, path: str, folder: Path) -> Path | None:
    """The artifact on this machine, or None where the run never had it: studies of an older version lack some."""
    folder.mkdir(exist_ok=True)
    try:
        return fetch_files(client, run, path, folder)
    except StoreLost:
        raise
    except InputError:
        if digests(run, path):
            raise  # it was there: a report without it would be another one
        return None


def _planned(run: Run) -> list[Cell]:
    """The grid's cells, from the study's parameters."""
    params, dataset = run.data.params, run.data.tags.get("robustlab.dataset", "")
    texts = [params.get(f"grid.{key}", "") for key in ("models", "sizes", "seeds")]
    if not all(texts):
        return []
    variants, sizes, seeds = (text.split(",") for text in texts)
    return [
        Cell(dataset, variant.model, variant.augmented, int(size), int(seed))
        for variant in map(Variant.parse, variants)
        for size in sizes
        for seed in seeds
    ]


def _why(run: Run) -> str:
    state = {"RUNNING": "still running, or its process is gone", "KILLED": "stopped"}
    return run.data.tags.get("robustlab.failure") or state.get(run.info.status, run.info.status.lower())
