"""What is known of every cell of a grid: what the store had, what this study did, what others are at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from mlflow.entities import Run
from torch import Tensor

from robustlab.study.cell import Cell, CellResult
from robustlab.study.claims import CELL_TAG, CURVE_TAG, Claims, is_trained
from robustlab.study.plan import StudyPlan, Variant
from robustlab.study.read_back import result_of

State = Literal["open", "training", "trained", "attacking", "finished", "failed"]


@dataclass(eq=False)
class CellState:
    """Where one cell stands.

    Attributes:
        run: its run, as last seen in the store.
        ours: this study holds the claim.
        theirs: another study that is alive held it when the store was last read.
        result, reason: of a finished, of a failed cell.
    """

    cell: Cell
    digest: str
    state: State = "open"
    run: Run | None = None
    ours: bool = False
    theirs: bool = False
    correct: Tensor | None = None
    result: CellResult | None = None
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Finished or failed."""
        return self.state in ("finished", "failed")


@dataclass(eq=False)
class Curve:
    """The cells of one (variant, seed): they share the subsets and the images that are attacked."""

    variant: Variant
    seed: int
    digest: str
    cells: list[CellState]
    common: Tensor | None = None
    read: bool = field(default=False)

    @property
    def decided(self) -> bool:
        """Some cell was attacked, so the attacked images are fixed: what failed before cannot join any more."""
        return any(cell.state == "finished" for cell in self.cells)

    @property
    def all_trained(self) -> bool:
        """Every cell is trained, or has failed."""
        return all(cell.state in ("trained", "attacking", "finished", "failed") for cell in self.cells)

    @property
    def waits_for_others(self) -> bool:
        """A cell of ours could be attacked, were those trained that other studies hold, as far as we know."""
        untrained = [cell for cell in self.cells if cell.state in ("open", "training")]
        ours = any(cell.ours and cell.state == "trained" for cell in self.cells)
        return ours and bool(untrained) and all(cell.theirs for cell in untrained)

    @property
    def ended(self) -> bool:
        """Every cell has ended."""
        return all(cell.ended for cell in self.cells)

    def let_go(self) -> None:
        """Once it has ended, forget the runs and verdicts: with its parameters and tags, a run takes 0.1 MB."""
        for state in self.cells:
            state.run, state.correct = None, None
        self.common = None

    def read_store(self, claims: Claims, since_ms: int) -> None:
        """Take over what the store knows of the cells that are not ours.

        Args:
            since_ms: a failure after this moment counts; an older one is tried again while the curve is not decided.
        """
        by_digest: dict[str, list[Run]] = {}
        for run in claims.runs_of(CURVE_TAG, self.digest):
            by_digest.setdefault(run.data.tags.get(CELL_TAG, ""), []).append(run)
        self.read = True
        for state in self.cells:
            runs = by_digest.get(state.digest, [])
            if state.ended or state.ours:
                continue
            unfinished = [run for run in runs if run.info.status in ("RUNNING", "KILLED")]
            state.theirs = any(claims.liveness.holder(run) is not None for run in unfinished)
            finished = [run for run in runs if run.info.status == "FINISHED"]
            trained = [run for run in unfinished if is_trained(run)]
            if finished:
                state.state, state.run, state.result = "finished", finished[0], result_of(finished[0])
            elif trained:
                state.state, state.run = "trained", min(trained, key=lambda run: run.info.run_id)
        for state in self.cells:
            failed = [run for run in by_digest.get(state.digest, []) if run.info.status == "FAILED"]
            if state.state != "open" or state.ours or not failed:
                continue
            if self.decided or (failed[-1].info.end_time or 0) >= since_ms:
                fail(state, failed[-1], failed[-1].data.tags.get("robustlab.failure", "failed"))

    def common_correct(self) -> Tensor | None:
        """Which test images all trained cells get right; None where no cell was trained."""
        correct = [cell.correct for cell in self.cells if cell.state != "failed" and cell.correct is not None]
        return torch.stack(correct).all(dim=0) if correct else None


def fail(state: CellState, run: Run | None, reason: str) -> None:
    """The cell has no result."""
    state.state, state.run, state.reason, state.ours = "failed", run or state.run, reason, False


def curves_of(plan: StudyPlan) -> list[Curve]:
    """The grid, nothing of it done."""
    return [
        Curve(
            variant,
            seed,
            plan.curve_digest(variant, seed),
            [CellState(cell, plan.cell_digest(cell)) for cell in plan.cells(variant, seed)],
        )
        for variant, seed in plan.curves()
    ]
