"""Work off the grid: train a curve's models, find the images they all get right, attack those; skip what is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from robustlab.study.attacking import chosen_images
from robustlab.study.cell import Cell, CellResult
from robustlab.study.claims import CELL_TAG, CURVE_TAG, ClaimLost, Claims, is_trained
from robustlab.study.executors import Done, Executor, LocalExecutor, Task
from robustlab.study.executors.task import TaskGone
from robustlab.study.grid import CellState, Curve, curves_of, fail
from robustlab.study.patience import StoreLost
from robustlab.study.plan import StudyPlan
from robustlab.study.read_back import LINKED, link_tag
from robustlab.study.stages import Stages
from robustlab.study.store import StudyStore
from robustlab.study.work import attack_work, training_work
from robustlab.training import TrainingDiverged

_POLL_S, _MOST_POLL_S = 1.0, 10.0
# While there is work, curves that wait for other studies' trainings are looked at again after so long.
_LOOK_AGAIN_S = 10.0


@dataclass(frozen=True)
class StudyProgress:
    """Where a study stands: ``done`` of ``total`` in the current stage, ``work`` the finished share of everything.

    ``work_before`` is the share that was done when this command began.
    """

    cell: Cell
    stage: str
    done: int
    total: int
    cells_done: int
    cells: int
    work: float
    work_before: float = 0.0


@dataclass(frozen=True)
class StudyOutcome:
    """What a study measured, which cells failed for what reason, and how many were finished before it began."""

    results: list[CellResult] = field(default_factory=list)
    failures: dict[Cell, str] = field(default_factory=dict)
    found: int = 0


MakeExecutor = Callable[[Stages], Executor]


def run_study(
    plan: StudyPlan,
    store: StudyStore,
    claims: Claims,
    on_progress: Callable[[StudyProgress], None] | None = None,
    make_executor: MakeExecutor = LocalExecutor,
    tell: Callable[[str], None] | None = None,
    make_stages: type[Stages] = Stages,
) -> StudyOutcome:
    """Train and attack every cell of the plan that the store has no result of.

    A cell that fails is recorded and left out, the others go on. Cells that another study works on are waited for.

    Args:
        tell: called with a line for the user: how much was done before.
        make_stages: what a cell's stages do; a benchmark of the rest puts others in their place.
    """
    return _StudyRun(plan, store, claims, on_progress, make_executor, tell, make_stages).run()


class _StudyRun:
    """One pass over the grid; holds what the stages share."""

    def __init__(
        self,
        plan: StudyPlan,
        store: StudyStore,
        claims: Claims,
        on_progress: Callable[[StudyProgress], None] | None,
        make_executor: MakeExecutor,
        tell: Callable[[str], None] | None,
        make_stages: type[Stages],
    ) -> None:
        self.plan, self.store, self.claims = plan, store, claims
        self.started_ms = int(time.time() * 1000)
        self.stages = make_stages(plan, store, str(claims.owner), self.show)
        self.make_executor = make_executor
        self.curves = curves_of(plan)
        self._on_progress = on_progress
        self._tell = tell
        self._busy: dict[str, tuple[Curve, CellState]] = {}
        self._work_before = 0.0
        self._looked_at = time.monotonic()

    @cached_property
    def _work(self) -> dict[Cell, tuple[float, float]]:
        """Each cell's training and attack; counted when it is first asked for, after what is done has been said."""
        cells = [state.cell for curve in self.curves for state in curve.cells]
        return {cell: (training_work(self.plan, cell), attack_work(self.plan, cell)) for cell in cells}

    @cached_property
    def _work_total(self) -> float:
        return sum(map(sum, self._work.values())) or 1.0

    def run(self) -> StudyOutcome:
        try:
            for curve in self.curves:
                self.read(curve)
            found = sum(state.state == "finished" for curve in self.curves for state in curve.cells)
            if found and self._tell is not None:
                self._tell(
                    f"{found} of {self.plan.cell_count} cells were finished before and are not done again "
                    "(--fresh starts anew)"
                )
            self._work_before = self.work_done() / self._work_total
            if not all(curve.ended for curve in self.curves):
                executor = self.make_executor(self.stages)
                try:
                    self.work_off(executor)
                finally:
                    executor.close()
        except BaseException as error:
            # Nothing may stay RUNNING for ever, whatever ended the study (Ctrl-C too).
            with suppress(StoreLost):
                for run_id in list(self.claims.held):
                    self.claims.release(run_id, f"the study ended: {type(error).__name__}")
            raise
        states = [state for curve in self.curves for state in curve.cells]
        return StudyOutcome(
            [state.result for state in states if state.result is not None],
            {state.cell: state.reason for state in states if state.state == "failed"},
            found,
        )

    def work_off(self, executor: Executor) -> None:
        pause_s = _POLL_S
        while not all(curve.ended for curve in self.curves):
            while executor.free() > 0 and (task := self.next_task()) is not None:
                executor.submit(task)
            if self._busy:
                for done in executor.wait():
                    self.take_in(done)
                pause_s = _POLL_S
            elif not all(curve.ended for curve in self.curves):
                # What is left is with other studies. Many that wait must not keep the server from those who work.
                time.sleep(pause_s)
                pause_s = min(_MOST_POLL_S, 1.5 * pause_s)
                for curve in self.curves:
                    if not curve.ended:
                        self.read(curve)
                self._looked_at = time.monotonic()

    def next_task(self) -> Task | None:
        """An attack that can start, else the next training; None where all that is left is taken."""
        self.look_again()
        for curve in self.curves:
            if curve.all_trained and not curve.ended:
                for state in curve.cells:
                    if state.state == "trained" and not state.theirs and self.claim(curve, state):
                        return self.attack_task(curve, state)
        for curve in self.curves:
            for state in curve.cells:
                if state.state == "open" and not state.theirs and self.claim(curve, state):
                    assert state.run is not None
                    if is_trained(state.run):  # by somebody who died since we looked
                        return self.next_task()
                    state.state = "training"
                    self._busy[state.run.info.run_id] = (curve, state)
                    return Task("train", state.cell, state.run.info.run_id)
        return None

    def look_again(self) -> None:
        """See what other studies trained of the curves that nothing else is missing from: attacks come early."""
        if time.monotonic() - self._looked_at < _LOOK_AGAIN_S:
            return
        for curve in self.curves:
            if curve.waits_for_others:
                self.read(curve)
        self._looked_at = time.monotonic()

    def attack_task(self, curve: Curve, state: CellState) -> Task:
        if curve.common is None:
            for other in curve.cells:
                if other.correct is None and other.state != "failed" and other.run is not None:
                    other.correct = self.stages.correct_images(other.run.info.run_id)
            curve.common = curve.common_correct()
        common = curve.common
        assert common is not None
        assert state.run is not None
        state.state = "attacking"
        self._busy[state.run.info.run_id] = (curve, state)
        return Task("attack", state.cell, state.run.info.run_id, int(common.sum()), self.chosen(common))

    def chosen(self, common: Tensor) -> Tensor:
        return chosen_images(common, self.plan.dataset.test.labels, self.plan.attack_images)

    def claim(self, curve: Curve, state: CellState) -> bool:
        """Try to get hold of the cell; takes over what another study has made of it meanwhile."""
        if state.ours:
            return True
        tags = {CELL_TAG: state.digest, CURVE_TAG: curve.digest}
        claim = self.claims.claim(
            state.digest, lambda more: self.store.open_cell(state.cell, {**tags, **more}), retry_failed=True
        )
        state.run = claim.run
        if claim.state == "mine":
            state.ours = True
            if claim.trained and state.state == "open":
                state.state = "trained"
            return True
        self.read(curve)
        return False

    def take_in(self, done: Done) -> None:
        curve, state = self._busy.pop(done.task.run_id)
        if done.error is None and done.task.stage == "train":
            state.state, state.correct = "trained", done.result
        elif done.error is None:
            state.state, state.result, state.ours = "finished", done.result, False
            self.claims.let_go(done.task.run_id)
            self.link(state)
        elif isinstance(done.error, TrainingDiverged | torch.OutOfMemoryError | TaskGone):
            reason = str(done.error).splitlines()[0][:500]
            self.store.fail_cell(done.task.run_id, reason)
            self.claims.let_go(done.task.run_id)
            fail(state, None, reason)
        elif isinstance(done.error, ClaimLost):
            self.claims.let_go(done.task.run_id)
            state.state, state.ours = "open", False
            self.read(curve)
        else:
            raise done.error
        if curve.ended:
            curve.let_go()
        self.show(state.cell, "logging", 1, 1, 1.0 if state.ended else 0.0)

    def read(self, curve: Curve) -> None:
        curve.read_store(self.claims, self.started_ms)
        for state in curve.cells:
            if state.ended:
                self.link(state)
        if curve.ended:
            curve.let_go()

    def link(self, state: CellState) -> None:
        """A cell that is another study's child belongs to this one too."""
        parent, run = self.store.parent_run_id, state.run
        if run is None or run.data.tags.get("mlflow.parentRunId") == parent:
            return
        if run.data.tags.get(link_tag(parent)) != LINKED:
            self.store.client.set_tag(run.info.run_id, link_tag(parent), LINKED)
            run.data.tags[link_tag(parent)] = LINKED

    def work_done(self) -> float:
        done = 0.0
        for curve in self.curves:
            for state in curve.cells:
                training, attack = self._work[state.cell]
                done += training * (state.state in ("trained", "attacking") or state.ended)
                done += attack * state.ended
        return done

    def show(self, cell: Cell, stage: str, done: int, total: int, share: float) -> None:
        if self._on_progress is None:
            return
        states = {state.cell: state for curve in self.curves for state in curve.cells}
        training, attack = self._work[cell]
        now = {"training": training, "attacking": attack}.get(states[cell].state, 0.0) * share
        fraction = min(1.0, (self.work_done() + now) / self._work_total)
        ended = sum(state.ended for state in states.values())
        self._on_progress(
            StudyProgress(
                cell, stage, done, total, ended, len(states), fraction, min(self._work_before, fraction)
            )
        )
