"""Settings and fixtures for all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.postgres import postgres_server

postgres = pytest.fixture(scope="session")(postgres_server)

# Read when Triton is imported, by whichever test comes first: its own library is interpreted then, too. Where there is
# a GPU, the kernels' tests run compiled kernels on it instead (`-m gpu`).
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# The tests' tensors are small: a second thread costs more in waiting than it computes, above all on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store without runs; MLflow's migrations take seconds, so they run once for all tests."""
    import mlflow
    from mlflow import MlflowClient

    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    MlflowClient().search_experiments()
    mlflow.set_tracking_uri(before)
    return database


def forget_experiment() -> None:
    """MLflow keeps the experiment of the last run in this process: its number means nothing in another store."""
    import mlflow.tracking.fluent

    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        os.environ.pop(name, None)
    mlflow.tracking.fluent._active_experiment_id = None


@pytest.fixture
def store(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tracking store of the test's own, in a folder that is also the working directory."""
    import mlflow

    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    forget_experiment()
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")  # sets MLFLOW_TRACKING_URI too
    yield tmp_path
    forget_experiment()
    mlflow.set_tracking_uri(before)
