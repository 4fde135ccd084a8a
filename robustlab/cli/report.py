"""The verb ``report``: a study's table and figure, again, from what MLflow holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from mlflow import MlflowClient
from rich.console import Console

from robustlab.cli import options
from robustlab.cli.app import app
from robustlab.errors import InputError
from robustlab.study.conduct import write_results
from robustlab.study.figure import draw_study, save_figure
from robustlab.study.read_back import find_study, read_results
from robustlab.study.store import check_store
from robustlab.study.tables import results_table


@app.command()
def report(
    study: Annotated[str, typer.Option(help="Run id or name of a study; auto: the newest.")] = options.AUTO,
    out: Annotated[str, typer.Option(help="Folder for the figure (PNG, SVG) and results.csv.")] = "results",
) -> None:
    """Print a study's table again and write its figure and results.csv into a folder."""
    check_store()
    console = Console()
    client = MlflowClient()
    run = find_study(client, None if options.is_auto(study) else study)
    results = read_results(client, run)
    if not results:
        raise InputError(f"the run {run.info.run_id} has no finished cell; give a study that finished some")
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_results(results, folder / "results.csv")
        png, _ = save_figure(draw_study(results, results[0].cell.dataset), folder)
    except OSError as error:
        raise InputError(
            f"cannot write into --out {out!r} ({error.strerror}); give a folder that can be written"
        ) from None
    console.print(results_table(results))
    console.print(f"{'study':<10}  {run.info.run_name} ({run.info.run_id})", soft_wrap=True, highlight=False)
    console.print(f"{'figure':<10}  {png.resolve()}", soft_wrap=True, highlight=False)
    if launched := os.environ.get("MLFLOW_RUN_ID"):
        client.set_tag(launched, "robustlab.kind", "report")
        client.log_artifacts(launched, str(folder))
