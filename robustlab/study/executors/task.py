"""What the runner hands to an executor and gets back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from robustlab.study.cell import Cell
from robustlab.study.stages import Stages


@dataclass(frozen=True, eq=False)
class Task:
    """One stage of one cell; the attack needs to know the common-correct images, and how many there are."""

    stage: Literal["train", "attack"]
    cell: Cell
    run_id: str
    common_images: int = 0
    chosen: Tensor | None = None

    def run(self, stages: Stages) -> Any:
        """The stage's own result: the correct images, or the cell's result."""
        if self.stage == "train":
            return stages.train(self.cell, self.run_id)
        assert self.chosen is not None
        return stages.attack(self.cell, self.run_id, self.common_images, self.chosen)


@dataclass(frozen=True, eq=False)
class Done:
    """A task that ended: its result, or the error that ended it."""

    task: Task
    result: Any = None
    error: Exception | None = None


@runtime_checkable
class Executor(Protocol):
    """Runs tasks; a task may be run more than once, a later attempt replaces what an earlier one wrote."""

    def free(self) -> int:
        """How many more tasks may be submitted now."""

    def submit(self, task: Task) -> None:
        """Take a task on."""

    def wait(self) -> list[Done]:
        """Tasks that ended; waits a moment for the first, and may return none."""

    def close(self) -> None:
        """Give up what still runs."""


class TaskGone(RuntimeError):
    """The task's worker died more often than it is tried again."""
