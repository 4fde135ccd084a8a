"""Where the stages of a study's cells are run: in this process, or as tasks of a Ray cluster."""

from robustlab.study.executors.local import LocalExecutor
from robustlab.study.executors.task import Done, Executor, Task

__all__ = ["Done", "Executor", "LocalExecutor", "Task"]
