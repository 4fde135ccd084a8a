"""Read finished studies and their models back from MLflow."""

from __future__ import annotations

from collections.abc import Sequence

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from robustlab.errors import InputError
from robustlab.study.cell import Cell, CellResult

# On a cell's run: why a score is doubtful, and where it is an overestimate.
WARNING_TAG, SUSPICION_TAG = "robustlab.warning", "robustlab.suspicion"
LINKED = "linked"


def find_study(client: MlflowClient, study: str | None) -> Run:
    """The study's parent run by id or name; the newest one if no name is given.

    Raises:
        InputError: there is none of that id or name.
    """
    if study is not None:
        try:
            return client.get_run(study)
        except MlflowException:
            pass  # not an id: try it as a name
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    named = "" if study is None else " and tags.`mlflow.runName` = '{}'".format(study.replace("'", "''"))
    runs = client.search_runs(
        experiments,
        filter_string=f"tags.`robustlab.kind` = 'study'{named}",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    if not runs:
        wanted = "study" if study is None else f"study with the run id or name {study!r}"
        raise InputError(
            f"no {wanted} in the MLflow store {mlflow.get_tracking_uri()}; run `robustlab study` first"
        )
    return runs[0]


def find_studies(client: MlflowClient, studies: Sequence[str]) -> list[Run]:
    """Studies by id or name, several names in one text separated by commas; the newest one where none is given.

    Raises:
        InputError: there is none of an id or name.
    """
    if not studies:
        return [find_study(client, None)]
    found: dict[str, Run] = {}
    for text in studies:
        try:
            runs = [find_study(client, text)]  # first whole: a study's own name holds commas
        except InputError:
            if "," not in text:
                raise
            runs = [find_study(client, part.strip()) for part in text.split(",") if part.strip()]
        found |= {run.info.run_id: run for run in runs}
    if not found:
        raise InputError(f"{', '.join(map(repr, studies))} names no study; give run ids or names")
    return list(found.values())


def read_results(client: MlflowClient, study: Run) -> list[CellResult]:
    """The results of the study's finished cells, ordered as the grid is."""
    finished = (run for run in cell_runs(client, study) if run.info.status == "FINISHED")
    return sorted(map(result_of, finished), key=lambda result: result.cell)


def cell_runs(client: MlflowClient, study: Run) -> list[Run]:
    """The runs of the study's cells, whatever became of them: its children, and cells that other studies ran for it."""
    runs: dict[str, Run] = {}
    for key, value in (("mlflow.parentRunId", study.info.run_id), (link_tag(study.info.run_id), LINKED)):
        token = None
        while True:
            page = client.search_runs(
                [study.info.experiment_id],
                filter_string=f"tags.`{key}` = '{value}'",
                max_results=1000,
                page_token=token,
            )
            # By kind here: in the search it would go through the cells of all studies once more.
            runs |= {run.info.run_id: run for run in page if run.data.tags.get("robustlab.kind") == "cell"}
            token = page.token
            if not token:
                break
    return list(runs.values())


def link_tag(study_id: str) -> str:
    """The tag of a cell that belongs to this study too, though it is another study's child."""
    return f"robustlab.study.{study_id}"


def cell_of(run: Run) -> Cell:
    """Which cell of the grid a run is."""
    # The tags are there from the run's first moment; its parameters come a call later.
    tags = run.data.tags
    return Cell(
        tags["robustlab.dataset"],
        tags["robustlab.model"],
        tags["robustlab.augmented"] == "true",
        int(tags["robustlab.train_size"]),
        int(tags["robustlab.seed"]),
    )


def result_of(run: Run) -> CellResult:
    """What a finished cell's run measured."""
    metrics = run.data.metrics
    return CellResult(
        cell=cell_of(run),
        train_accuracy=metrics["train_accuracy"],
        test_accuracy=metrics["test_accuracy"],
        l2=metrics.get("l2"),
        linf=metrics.get("linf"),
        images=int(metrics["attacked_images"]),
        l2_success_rate=metrics.get("l2_success_rate"),
        linf_success_rate=metrics.get("linf_success_rate"),
        train_s=metrics["train_s"],
        attack_s=metrics["attack_s"],
        suspicion=run.data.tags.get(SUSPICION_TAG, ""),
        warning=run.data.tags.get(WARNING_TAG, ""),
    )
