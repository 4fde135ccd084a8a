"""One task at a time, in this process."""

from __future__ import annotations

from robustlab.study.executors.task import Done, Task
from robustlab.study.stages import Stages


class LocalExecutor:
    """Runs each task where it is waited for."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._waiting: Task | None = None

    def free(self) -> int:
        """One, as long as nothing waits."""
        return int(self._waiting is None)

    def submit(self, task: Task) -> None:
        """Take a task on."""
        self._waiting = task

    def wait(self) -> list[Done]:
        """Run the task."""
        task, self._waiting = self._waiting, None
        if task is None:
            return []
        try:
            return [Done(task, task.run(self._stages))]
        except Exception as error:
            return [Done(task, error=error)]

    def close(self) -> None:
        """Nothing runs outside ``wait``."""
