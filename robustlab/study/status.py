"""Where a study stands, from what the store holds of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities import Run

from robustlab.study.cell import Cell
from robustlab.study.claims import is_trained
from robustlab.study.owners import Liveness
from robustlab.study.read_back import cell_of, cell_runs
from robustlab.study.resume import works_on

State = Literal["finished", "attacking", "trained", "training", "stopped", "failed"]


@dataclass(frozen=True)
class CellStatus:
    """One cell that was begun: its state, since when, by whom, and why it failed or stopped."""

    cell: Cell
    state: State
    since_s: float
    owner: str
    reason: str
    work_s: float


@dataclass(frozen=True)
class StudyStatus:
    """A study's cells; ``total`` counts those that were not begun too. ``left_s`` is None where nothing is known."""

    run_id: str
    name: str
    state: Literal["running", "finished", "stopped", "failed"]
    total: int
    cells: list[CellStatus]
    left_s: float | None

    def count(self, *states: State) -> int:
        """How many cells are in one of the states."""
        return sum(cell.state in states for cell in self.cells)


def read_status(client: MlflowClient, study: Run, liveness: Liveness) -> StudyStatus:
    """Read where the study stands now."""
    study = client.get_run(study.info.run_id)
    newest: dict[Cell, CellStatus] = {}
    for run in sorted(cell_runs(client, study), key=lambda run: run.info.start_time):
        cell = cell_of(run)
        if newest.get(cell) is None or newest[cell].state != "finished":
            newest[cell] = _cell_status(run, liveness)
    cells = sorted(newest.values(), key=lambda status: status.cell)
    total = int(study.data.tags.get("robustlab.cells", len(cells)))
    running = works_on(liveness, study)
    state: Literal["running", "finished", "stopped", "failed"] = "stopped"
    if running:
        state = "running"
    elif study.info.status in ("FINISHED", "FAILED"):
        state = "finished" if study.info.status == "FINISHED" else "failed"
    return StudyStatus(
        study.info.run_id,
        study.info.run_name,
        state,
        total,
        cells,
        _left_s(cells, total) if running else None,
    )


def _cell_status(run: Run, liveness: Liveness) -> CellStatus:
    tags, metrics = run.data.tags, run.data.metrics
    states: dict[str, State] = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped"}
    working: State = "trained" if is_trained(run) else "training"
    state = states.get(run.info.status) or ("stopped" if liveness.holder(run) is None else working)
    reason = tags.get("robustlab.failure", "its process is gone" if state == "stopped" else "")
    return CellStatus(
        cell_of(run),
        state,
        time.time() - run.info.start_time / 1000,
        tags.get("robustlab.owner", ""),
        reason if state in ("failed", "stopped") else "",
        metrics.get("train_s", 0.0) + metrics.get("attack_s", 0.0),
    )


def _left_s(cells: list[CellStatus], total: int) -> float | None:
    """Seconds of work left, as long per cell as the finished ones took, shared by the owners at work."""
    finished = [cell for cell in cells if cell.state == "finished"]
    if not finished:
        return None
    owners = len({cell.owner for cell in cells if cell.state in ("training", "trained")}) or 1
    waiting = total - len(finished) - sum(cell.state == "failed" for cell in cells)
    return waiting * sum(cell.work_s for cell in finished) / len(finished) / owners
