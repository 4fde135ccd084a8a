"""One study in MLflow: a parent run, one flat child per cell, curves on the parent."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID

from robustlab.errors import InputError
from robustlab.files import disk_failure
from robustlab.study.artifacts import DIGEST_TAG, digests, fetch_files, local_root, log_folder
from robustlab.study.cell import Cell
from robustlab.study.patience import Patience, PatientClient, StoreLost
from robustlab.study.secrets import without_password

# Tags that say where a run's code came from; children take them over from the parent.
_ORIGIN_TAGS = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")
_MOST_PARAMS_A_CALL = 100


@dataclass(frozen=True)
class TrainingSubset:
    """What identifies the images that a cell trained on: they differ in digest even where they share a size."""

    name: str
    digest: str
    source: str


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
            InputError: see ``fetch_files``.
        """
        with tempfile.TemporaryDirectory(prefix="robustlab-") as folder:
            yield fetch_files(self.client, self.client.get_run(run_id), path, Path(folder))

    @contextmanager
    def artifacts(self, run_id: str, artifact_path: str = "") -> Iterator[Path]:
        """A temporary folder whose content is logged to the run when the block ends without an error."""
        with tempfile.TemporaryDirectory(prefix="robustlab-") as folder:
            yield Path(folder)
            log_folder(self.client, run_id, Path(folder), artifact_path)

    def delete_artifacts(self, run_id: str, path: str) -> None:
        """Delete an artifact folder, where there is one; its files' digests stay behind, empty."""
        run = self.client.get_run(run_id)
        self.log_tags(run_id, {f"{DIGEST_TAG}{path}/{name}": "" for name in digests(run, path)})
        if self.client.list_artifacts(run_id, path):
            repository = get_artifact_repository(run.info.artifact_uri)
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
        except (OSError, MlflowException, StoreLost) as error:
            reason = disk_failure(error)
            if reason is None and isinstance(error, StoreLost):
                raise
            place = self.client.get_run(self.parent_run_id).info.artifact_uri
            raise InputError(
                f"cannot write artifacts to {place} ({reason or str(error).splitlines()[0][:200]}); "
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
        run = self.client.get_run(run_id)
        root = local_root(run)
        return str(root / path) if root is not None else f"{run.info.artifact_uri}/{path}"


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
    uri = without_password(mlflow.get_tracking_uri())
    return f"open {uri}" if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"


def run_page(experiment_id: str, run_id: str) -> str:
    """The run's address in the UI (on the UI's default port where the store is local)."""
    uri = without_password(mlflow.get_tracking_uri())
    root = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    return f"{root}/#/experiments/{experiment_id}/runs/{run_id}"
