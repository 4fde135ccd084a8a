"""The run that a whole command logs to, and the store that it is in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from robustlab.errors import InputError
from robustlab.study.first_use import one_at_a_time
from robustlab.study.patience import Patience

DEFAULT_EXPERIMENT = "robustlab"


def check_store() -> None:
    """Ask the tracking store something small, so that a store that does not work is known before any training.

    Raises:
        InputError: it does not answer, or cannot be written to.
    """
    uri = mlflow.get_tracking_uri()
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///"))
        place = database if database.exists() else database.parent
        if not os.access(place, os.W_OK):
            raise InputError(
                f"cannot write the MLflow store {uri}; set MLFLOW_TRACKING_URI to one that can be written"
            )
    with _short_patience():
        try:
            with one_at_a_time(uri):
                MlflowClient().search_experiments(max_results=1)
        except Exception as error:  # each kind of store has exceptions of its own
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(
                f"the MLflow store {uri} does not answer ({reason[:200]}); start it or set MLFLOW_TRACKING_URI"
            ) from error


@contextmanager
def _short_patience() -> Iterator[None]:
    """MLflow's own seven retries of two minutes each are for a store that once worked."""
    wanted = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update({name: value for name, value in wanted.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def study_experiment() -> str:
    """The id of the experiment that a new run would go to (see ``parent_run``)."""
    if "MLFLOW_RUN_ID" in os.environ:
        return str(MlflowClient().get_run(os.environ["MLFLOW_RUN_ID"]).info.experiment_id)
    if os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return os.environ["MLFLOW_EXPERIMENT_ID"]
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", DEFAULT_EXPERIMENT)
    return str(mlflow.set_experiment(name).experiment_id)


@contextmanager
def parent_run(
    name: str,
    tags: Mapping[str, str],
    description: str,
    run_id: str | None = None,
    patience: Patience | None = None,
) -> Iterator[Run]:
    """The run that the whole command logs to: the one that ``mlflow run`` made, else ``run_id``'s, else a new one.

    A new run goes to the experiment that the environment names (MLFLOW_EXPERIMENT_NAME or _ID), else to "robustlab".

    Args:
        patience: waits for a store that is away.
    """
    patience = patience or Patience()
    launched = "MLFLOW_RUN_ID" in os.environ
    resumed = None if launched else run_id
    if (
        not launched
        and not resumed
        and not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & set(os.environ)
    ):
        patience.call(lambda: mlflow.set_experiment(DEFAULT_EXPERIMENT))
    try:
        started = patience.call(
            lambda: mlflow.start_run(run_id=resumed, run_name=None if launched or resumed else name)
        )
        patience.call(
            lambda: mlflow.set_tags({**tags, "mlflow.runName": name, "mlflow.note.content": description})
        )
    except MlflowException as error:
        with suppress(MlflowException):
            mlflow.end_run("FAILED")
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"the MLflow store {mlflow.get_tracking_uri()} takes no run ({reason}); mend it or set MLFLOW_TRACKING_URI"
        ) from error
    run_id = started.info.run_id
    try:
        yield started
    except BaseException:
        _end_run(run_id, "FAILED", None)
        raise
    _end_run(run_id, "FINISHED", patience)


def _end_run(run_id: str, status: str, patience: Patience | None) -> None:
    """End the parent run; after an error once and quietly, since that error is what the user has to see."""
    try:
        if patience is not None:
            patience.call(lambda: MlflowClient().set_terminated(run_id, status))
    finally:
        with suppress(Exception):
            mlflow.end_run(status)
