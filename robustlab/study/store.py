"""One study in MLflow: a parent run, one flat child per cell, curves on the parent."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import mlflow
import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID

from robustlab.errors import InputError
from robustlab.study.cell import Cell
from robustlab.study.first_use import one_at_a_time
from robustlab.study.patience import Patience, PatientClient

DEFAULT_EXPERIMENT = "robustlab"

# Tags that say where a run's code came from; children take them over from the parent.
_ORIGIN_TAGS = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")
_MOST_PARAMS_A_CALL = 100


@dataclass(frozen=True)
class TrainingSubset:
    """What identifies the images that a cell trained on: they differ in digest even where they share a size."""

    name: str
    digest: str
    source: str


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
    name: str, tags: Mapping[str, str], description: str, run_id: str | None = None
) -> Iterator[Run]:
    """The run that the whole command logs to: the one that ``mlflow run`` made, else ``run_id``'s, else a new one.

    A new run goes to the experiment that the environment names (MLFLOW_EXPERIMENT_NAME or _ID), else to "robustlab".
    """
    launched = "MLFLOW_RUN_ID" in os.environ
    resumed = None if launched else run_id
    if (
        not launched
        and not resumed
        and not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & set(os.environ)
    ):
        mlflow.set_experiment(DEFAULT_EXPERIMENT)
    try:
        started = mlflow.start_run(run_id=resumed, run_name=None if launched or resumed else name)
        mlflow.set_tags({**tags, "mlflow.runName": name, "mlflow.note.content": description})
    except MlflowException as error:
        mlflow.end_run("FAILED")
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"the MLflow store {mlflow.get_tracking_uri()} takes no run ({reason}); mend it or set MLFLOW_TRACKING_URI"
        ) from error
    with started as run:
        yield run


class StudyStore:
    """Writes the cells of a study as children of ``parent``; a store that is away is waited for."""

    def __init__(self, parent: Run, patience: Patience | None = None) -> None:
        self.patience = patience or Patience()
        self.client: Any = PatientClient(self.patience)
        self.parent_run_id: str = parent.info.run_id
        self.experiment_id: str = parent.info.experiment_id
        tags = self.client.get_run(self.parent_run_id).data.tags
        self._origin = {key: tags[key] for key in _ORIGIN_TAGS if key in tags}

    def log_params(self, run_id: str, params: Mapping[str, object]) -> None:
        """Log parameters, as many calls as the store's limit on one call makes of them."""
        entries = [Param(key, str(value)) for key, value in params.items()]
        for start in range(0, len(entries), _MOST_PARAMS_A_CALL):
            self.client.log_batch(run_id, params=entries[start : start + _MOST_PARAMS_A_CALL])

    def log_new_params(self, run_id: str, params: Mapping[str, object]) -> None:
        """Log the parameters that the run does not have yet; MLflow lets none be changed."""
        known = self.client.get_run(run_id).data.params
        self.log_params(run_id, {key: value for key, value in params.items() if key not in known})

    def log_metrics(
        self,
        run_id: str,
        metrics: Mapping[str, float | int | None],
        step: int = 0,
        model_id: str | None = None,
    ) -> None:
        """Log the metrics that have a value; those of a model also under the model."""
        now = int(time.time() * 1000)
        entries = [
            Metric(key, value, now, step, model_id=model_id)
            for key, value in metrics.items()
            if value is not None
        ]
        self.client.log_batch(run_id, metrics=entries)

    def log_series(self, run_id: str, key: str, steps: Sequence[int], values: Sequence[float]) -> None:
        """Log a curve: one value a step."""
        now = int(time.time() * 1000)
        entries = [Metric(key, value, now, step) for step, value in zip(steps, values, strict=True)]
        self.client.log_batch(run_id, metrics=entries)

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags."""
        if tags:
            self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def open_cell(self, cell: Cell, tags: Mapping[str, str]) -> str:
        """Open the child run of a cell and return its id; ``describe_cell`` says the rest about it."""
        identity = {f"robustlab.{key}": value for key, value in _identity(cell).items()}
        return self.start_child(
            f"{cell.dataset} {cell.variant} {cell.train_size} seed {cell.seed}",
            {"robustlab.kind": "cell", "robustlab.study": self.parent_run_id, **identity, **tags},
            {},
        )

    def describe_cell(
        self, run_id: str, cell: Cell, settings: Mapping[str, object], subset: TrainingSubset
    ) -> None:
        """Log what the cell is made with; again is as good as once, so a cell that is taken up is complete."""
        self.log_params(run_id, {**_identity(cell), **settings})
        dataset = Dataset(
            name=subset.name, digest=subset.digest[:32], source_type="robustlab", source=subset.source
        )
        context = InputTag(MLFLOW_DATASET_CONTEXT, "training")
        self.client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags=[context])])

    def start_child(self, name: str, tags: Mapping[str, str], params: Mapping[str, object]) -> str:
        """Open a child run and return its id."""
        run = self.client.create_run(
            self.experiment_id,
            run_name=name,
            tags={**self._origin, MLFLOW_PARENT_RUN_ID: self.parent_run_id, **tags},
        )
        run_id: str = run.info.run_id
        if params:
            self.log_params(run_id, params)
        return run_id

    @contextmanager
    def fetched(self, run_id: str, path: str) -> Iterator[Path]:
        """The artifact, a file or a folder, on this machine's disk while the block runs.

        Raises:
            InputError: the run has no such artifact, or it cannot be fetched.
        """
        with tempfile.TemporaryDirectory(prefix="robustlab-") as folder:
            try:
                place = self.patience.call(
                    lambda: mlflow.artifacts.download_artifacts(
                        run_id=run_id, artifact_path=path, dst_path=folder
                    )
                )
            except (MlflowException, OSError) as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                raise InputError(
                    f"cannot get {path} of run {run_id} ({reason}); the artifact is gone, so do the cell again"
                ) from error
            yield Path(place)

    @contextmanager
    def artifacts(self, run_id: str, artifact_path: str | None = None) -> Iterator[Path]:
        """A temporary folder whose content is logged to the run when the block ends without an error."""
        with tempfile.TemporaryDirectory(prefix="robustlab-") as folder:
            yield Path(folder)
            self.client.log_artifacts(run_id, folder, artifact_path)

    def delete_artifacts(self, run_id: str, path: str) -> None:
        """Delete an artifact folder, where there is one."""
        if self.client.list_artifacts(run_id, path):
            uri = self.client.get_run(run_id).info.artifact_uri
            repository = get_artifact_repository(uri)
            self.patience.call(lambda: repository.delete_artifacts(path))

    def check_artifacts(self) -> None:
        """Log the packages in use to the parent run: useful later, and the proof that artifacts can be written.

        Raises:
            InputError: they cannot; said before any training instead of after the first cell.
        """
        packages = sorted(f"{found.name}=={found.version}" for found in distributions() if found.name)
        try:
            with self.artifacts(self.parent_run_id) as folder:
                (folder / "packages.txt").write_text("\n".join(dict.fromkeys(packages)) + "\n")
        except (OSError, MlflowException) as error:
            place = self.client.get_run(self.parent_run_id).info.artifact_uri
            raise InputError(
                f"cannot write artifacts to {place} ({type(error).__name__}: {str(error).splitlines()[0][:200]}); "
                "make it writable or choose another experiment or MLFLOW_TRACKING_URI"
            ) from error

    def finish_cell(self, run_id: str) -> None:
        """Mark the cell's run as finished."""
        self.client.set_terminated(run_id, "FINISHED")

    def fail_cell(self, run_id: str, reason: str, status: str = "FAILED") -> None:
        """Mark the cell's run as failed (or KILLED) with its reason."""
        self.log_tags(run_id, {"robustlab.failure": reason})
        self.client.set_terminated(run_id, status)

    def local_artifact(self, run_id: str, path: str) -> str:
        """The artifact's path on this machine's disk if it has one, else its address."""
        root: str = self.client.get_run(run_id).info.artifact_uri
        if "://" not in root:
            return str(Path(root) / path)
        if root.startswith("file://"):
            return str(Path(root.removeprefix("file://")) / path)
        return f"{root}/{path}"


def _identity(cell: Cell) -> dict[str, str]:
    return {
        "dataset": cell.dataset,
        "model": cell.model,
        "augmented": str(cell.augmented).lower(),
        "train_size": str(cell.train_size),
        "seed": str(cell.seed),
    }


def ui_command() -> str:
    """The one line that opens the MLflow UI on the current store."""
    uri = mlflow.get_tracking_uri()
    return f"open {uri}" if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"


def run_page(experiment_id: str, run_id: str) -> str:
    """The run's address in the UI (on the UI's default port where the store is local)."""
    uri = mlflow.get_tracking_uri()
    root = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    return f"{root}/#/experiments/{experiment_id}/runs/{run_id}"
