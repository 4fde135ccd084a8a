"""The verb ``report``: what one or several studies found, again, from what MLflow holds."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from mlflow import MlflowClient
from rich.console import Console

from robustlab.cli import options
from robustlab.data.files import user_path
from robustlab.errors import InputError
from robustlab.study.artifacts import log_files
from robustlab.study.conduct import write_results
from robustlab.study.figure import draw_study, save_figure
from robustlab.study.parent import check_store
from robustlab.study.read_back import find_studies
from robustlab.study.report import FILE_NAME, judge_studies, read_study, verdict_rows, write_report
from robustlab.study.tables import results_table, verdicts_table


def report(
    study: Annotated[
        list[str] | None,
        typer.Option(
            help="Run id or name of a study, several times or separated by commas for several studies in one "
            "report; auto: the newest."
        ),
    ] = None,
    out: Annotated[
        str, typer.Option(help="Folder for report.html, the figure (PNG, SVG) and results.csv.")
    ] = "results",
) -> None:
    """Judge studies and write their report: one HTML page, the figure and results.csv, into a folder and to MLflow."""
    check_store()
    console = Console()
    client = MlflowClient()
    runs = find_studies(client, [] if study is None or all(map(options.is_auto, study)) else study)
    studies = [read_study(client, run) for run in runs]
    results = [result for one in studies for result in one.results]
    if not results:
        raise InputError(
            f"the run {runs[0].info.run_id} has no finished cell; give a study that finished some"
        )
    judgement = judge_studies(studies)
    folder = user_path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_results(results, folder / "results.csv")
        title = ", ".join(dict.fromkeys(result.cell.dataset for result in results))
        png, _ = save_figure(draw_study(results, title, judgement.turning_points), folder)
        page = write_report(studies, judgement, folder)
    except OSError as error:
        raise InputError(
            f"cannot write into --out {out!r} ({error.strerror}); give a folder that can be written"
        ) from None
    launched = os.environ.get("MLFLOW_RUN_ID")
    for run_id in {launched} if launched else {run.info.run_id for run in runs}:
        log_files(client, run_id, {FILE_NAME: page})
    if launched:
        client.set_tag(launched, "robustlab.kind", "report")
        files = (png, png.with_suffix(".svg"), folder / "results.csv")
        log_files(client, launched, {path.name: path for path in files})
    console.print(results_table(results))
    if judgement.verdicts:
        console.print(verdicts_table(verdict_rows(judgement), judgement.seeds == 1))
    for run in runs:
        console.print(
            f"{'study':<10}  {run.info.run_name} ({run.info.run_id})", soft_wrap=True, highlight=False
        )
    for label, path in (("report", folder / FILE_NAME), ("figure", png)):
        console.print(f"{label:<10}  {path.resolve()}", soft_wrap=True, highlight=False)
