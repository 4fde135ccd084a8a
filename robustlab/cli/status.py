"""The verb ``status``: a study's cells as a live table, from the store."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from mlflow import MlflowClient
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from robustlab.cli.auto import AUTO, is_auto
from robustlab.study.owners import Liveness
from robustlab.study.parent import check_store
from robustlab.study.read_back import find_study
from robustlab.study.status import CellStatus, StudyStatus, read_status

_REFRESH_S = 2.0
_MOST_ROWS = 30


def status(
    study: Annotated[str, typer.Option(help="Run id or name of a study; auto: the newest.")] = AUTO,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
) -> None:
    """Show which cells of a study are done, running or failed and why, until the study ends or Ctrl-C."""
    check_store()
    client = MlflowClient()
    run = find_study(client, None if is_auto(study) else study)
    liveness = Liveness(client)
    console = Console()
    now = read_status(client, run, liveness)
    if once or now.state != "running" or not console.is_terminal:
        console.print(_show(now))
        return
    with Live(_show(now), console=console, auto_refresh=False) as live:
        while now.state == "running":
            time.sleep(_REFRESH_S)
            now = read_status(client, run, liveness)
            live.update(_show(now), refresh=True)


def _show(status: StudyStatus) -> RenderableType:
    running, failed = status.count("training", "trained"), status.count("failed")
    begun = status.count("finished", "training", "trained", "failed", "stopped")
    parts = [
        f"{status.count('finished')} of {status.total} cells done",
        f"{running} running",
        f"{failed} failed",
        f"{status.count('stopped')} stopped",
        f"{max(0, status.total - begun)} not begun",
    ]
    if status.left_s is not None:
        parts.append(f"about {_duration(status.left_s)} left")
    head = Text(f"{status.name} ({status.run_id}): {status.state}\n{', '.join(parts)}")
    shown = [cell for cell in status.cells if cell.state != "finished"][:_MOST_ROWS]
    by_variant = Table("data set", "model", "done", "running", "failed", "stopped")
    for key in dict.fromkeys((cell.cell.dataset, cell.cell.variant) for cell in status.cells):
        ours = [cell for cell in status.cells if (cell.cell.dataset, cell.cell.variant) == key]
        counts = [
            sum(cell.state in states for cell in ours)
            for states in (("finished",), ("training", "trained"), ("failed",), ("stopped",))
        ]
        by_variant.add_row(*key, *map(str, counts))
    return Group(head, by_variant, *([_unfinished(shown)] if shown else []))


def _unfinished(cells: list[CellStatus]) -> Table:
    table = Table("model", "size", "seed", "state", "since", "by", "why")
    for one in cells:
        cell = one.cell
        row = (cell.variant, f"{cell.train_size:,}", str(cell.seed), one.state, _duration(one.since_s))
        table.add_row(*row, one.owner, one.reason)
    return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
