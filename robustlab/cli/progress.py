"""What the user watches while a study runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from robustlab.data import ProgressCallback
from robustlab.study.runner import StudyProgress

_STAGES = {"training": "training", "logging": "logging", "cw": "Carlini-Wagner", "ifgsm": "I-FGSM"}


class _TimeLeft(ProgressColumn):
    """Time left from the share of the work that is done; the cells differ too much in cost to count them."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        done_here = task.completed - task.fields["before"]  # the rest was done before this command began
        if not task.elapsed or done_here < 0.01:
            return Text("time left -:--", style="cyan")
        seconds = int(task.elapsed * (1 - task.completed) / done_here)
        hours, minutes = seconds // 3600, seconds // 60 % 60
        text = f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"
        return Text(f"time left {text}", style="cyan")


class StudyDisplay:
    """A live line on a terminal; elsewhere (a log file) one line per finished cell."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.fields[cells]}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            _TimeLeft(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=1.0, cells="", before=0.0)
        self._cells_reported = 0

    def __enter__(self) -> StudyDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, progress: StudyProgress) -> None:
        """Take in where the study stands."""
        cell = progress.cell
        what = f"{_STAGES[progress.stage]} {cell.variant} {cell.train_size:,}"
        if progress.total > 1:
            what += f" ({progress.done}/{progress.total})"
        cells = f"cells {progress.cells_done}/{progress.cells}"
        self._progress.update(
            self._task,
            completed=progress.work,
            description=what,
            cells=cells,
            before=progress.work_before,
        )
        if not self._console.is_terminal and progress.cells_done > self._cells_reported:
            self._cells_reported = progress.cells_done
            self._console.print(f"{cells} done, {progress.work:.0%} of the work, now {what}")

    def say(self, line: str) -> None:
        """Show a line above the display."""
        self._console.print(line, style="yellow", soft_wrap=True, highlight=False)


@contextmanager
def data_progress(console: Console) -> Iterator[ProgressCallback]:
    """Show downloads and decoding while a data set is loaded; nothing where there is nothing to wait for."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as display:
        tasks: dict[str, object] = {}

        def show(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = display.add_task(stage, total=total)
            display.update(tasks[stage], completed=done, total=total)  # type: ignore[arg-type]

        yield show
