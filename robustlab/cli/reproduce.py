"""The verb ``reproduce``: do a cell again and compare."""

from __future__ import annotations

from typing import Annotated

import typer
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from robustlab.cli import options
from robustlab.cli.study import open_dataset
from robustlab.errors import InputError
from robustlab.study.parent import check_store
from robustlab.study.plan import default_device
from robustlab.study.read_back import cell_of
from robustlab.study.reproduce import Comparison, finished_cell, reproduce_cell
from robustlab.study.store import StudyStore


def reproduce(
    run: Annotated[str, typer.Argument(help="Run id of a finished cell.")],
    data_dir: options.DataDir = options.AUTO,
    download: options.Download = True,
    device: options.Device = options.AUTO,
) -> int:
    """Train and attack a finished cell again and compare weights and distances; writes nothing.

    Exit status 0: equal to the bit, 1: something differs (a table says what).
    """
    place = options.parse_device(device) or default_device()
    check_store()
    console = Console()
    try:
        store = StudyStore(MlflowClient().get_run(run))
    except MlflowException as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"there is no run {run!r} ({reason}); give the run id of a finished cell") from error
    found = finished_cell(store, run)
    data = open_dataset(cell_of(found).dataset, data_dir, download, console)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as display:
        task = display.add_task("again", total=1.0)
        done = reproduce_cell(
            store,
            found,
            data,
            place,
            lambda stage, finished, total: display.update(
                task, description=stage, completed=finished, total=total
            ),
        )
    console.print(_table("what came out", done.results))
    differing = [one for one in done.made_with if not one.equal]
    if differing:
        console.print(_table("made with something else", differing))
    console.print("equal to the bit" if done.equal else "not equal to the bit", style="bold")
    return 0 if done.equal else 1


def _table(title: str, rows: list[Comparison]) -> Table:
    table = Table("", "then", "now", "equal", title=title, title_justify="left")
    for row in rows:
        table.add_row(row.what, row.then, row.now, "yes" if row.equal else "no")
    return table
