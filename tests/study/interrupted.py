"""Studies as processes of their own, to be killed and started again; and what they left in the store."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run

from robustlab.cli import main
from robustlab.files import file_digest
from robustlab.study.checkpoint import WEIGHTS_FILE

# Small and whole: two sizes of a model with batch normalisation, both attacks.
SMALL = (
    "--models", "perceptron,resnet", "--sizes", "50,100", "--epochs", "2", "--attack-images", "5",
    "--cw", "max_iterations=20,binary_search_steps=2", "--ifgsm", "steps=4,tolerance=0.2", "--device", "cpu",
)  # fmt: skip


# What a study imports takes longer than these small studies do: one process imports it, and forks them.
_IMPORTED = ("robustlab.cli.study", "robustlab.study.figure", "mlflow.pytorch", "tests.study.interrupted")
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(list(_IMPORTED))


class Study:
    """A process of its own that runs the command line, with what the tests need of ``subprocess.Popen``."""

    def __init__(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        for name in ("OMP_NUM_THREADS", "PYTHONPATH"):  # of the process that forks, too
            os.environ.setdefault(name, environment[name])
        (folder / "log.txt").touch()  # there to be read from now on
        self._process = _forks.Process(target=_run, args=(list(arguments), folder, dict(environment)))
        self._process.start()
        self.pid: int = self._process.pid or 0

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit status, once it is there."""
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            raise TimeoutError(f"the study still runs after {timeout_s} s")
        return self._process.exitcode

    def processor_s(self) -> float:
        """Processor time it has used; unlike the clock, it says how far a study is on a busy machine too."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.join()


def _run(arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
    """The body of a study's process."""
    os.setpgid(0, 0)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.exit(main(arguments))


def start_study(
    folder: Path, *further: str, uri: str | None = None, options: Sequence[str] = SMALL, **variables: str
) -> Study:
    """Start ``robustlab study`` on the store in ``folder`` (or at ``uri``); its output goes to log.txt there."""
    return Study(["study", *options, *further], folder, {**environment_of(folder, uri), **variables})


def environment_of(folder: Path, uri: str | None = None) -> dict[str, str]:
    """The variables of a command that works on the store in ``folder`` (or at ``uri``)."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return {
        **kept,
        "MLFLOW_TRACKING_URI": uri or f"sqlite:///{folder}/mlflow.db",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def run_study(folder: Path, *further: str, timeout_s: float = 300, **keywords: object) -> None:
    """Run it to its end, which has to be a good one."""
    process = start_study(folder, *further, **keywords)  # type: ignore[arg-type]
    status = process.wait(timeout_s)
    assert status == 0, (folder / "log.txt").read_text()[-3000:]


def kill_when(process: Study, reached: Callable[[], bool], timeout_s: float = 120) -> bool:
    """Kill it (-9) as soon as ``reached``; False if it ended before."""
    until = time.monotonic() + timeout_s
    while process.poll() is None:
        assert time.monotonic() < until, "the study never got there"
        if reached():
            process.kill()
            return True
        time.sleep(0.02)
    return False


def all_runs(*kinds: str) -> list[Run]:
    """Every run of the current store of those kinds."""
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    return [run for run in runs if run.data.tags.get("robustlab.kind") in kinds]


def numbers() -> dict[str, dict[str, object]]:
    """By cell's digest, all that a finished cell measured, to the bit: metrics but times, weights, distances."""
    found: dict[str, dict[str, object]] = {}
    for run in all_runs("cell"):
        if run.info.status != "FINISHED":
            continue
        digest = run.data.tags["robustlab.cell"]
        assert digest not in found, "a cell with two finished runs"
        metrics = {key: value for key, value in run.data.metrics.items() if not key.endswith("_s")}
        client = MlflowClient()
        folder = Path(client.download_artifacts(run.info.run_id, ""))
        with np.load(folder / "distances.npz") as stored:
            arrays = {key: stored[key].tobytes().hex() for key in sorted(stored)}
        losses = [point.value for point in client.get_metric_history(run.info.run_id, "train_loss")]
        found[digest] = {
            "metrics": metrics,
            "weights": file_digest(folder / "checkpoint" / WEIGHTS_FILE),
            "arrays": json.dumps(arrays),
            "losses": losses[-2:],
        }
    return found


def check_nothing_is_left_over(cells: int) -> None:
    """One finished run and one registered version per cell, nothing RUNNING, one logged model per run."""
    client = MlflowClient()
    runs = all_runs("cell", "study")
    assert [run for run in runs if run.info.status == "RUNNING"] == []
    finished = [run for run in all_runs("cell") if run.info.status == "FINISHED"]
    assert len(finished) == cells
    versions = [v for name in client.search_registered_models() for v in _versions(client, name.name)]
    assert sorted(version.run_id for version in versions) == sorted(run.info.run_id for run in finished)
    for run in finished:
        models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
        assert len(models) == 1
        assert not client.list_artifacts(run.info.run_id, "progress")


def _versions(client: MlflowClient, name: str) -> list[object]:
    return list(client.search_model_versions(f"name = '{name}'"))


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def tracking_server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """An MLflow server on the folder's store, with artifacts through the server."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", str(folder / "artifacts"), "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    # Seven more processes that load all of MLflow, for jobs that a study never asks for.
    kept["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    with (folder / "server.txt").open("ab") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=kept, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until = time.monotonic() + 120
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (folder / "server.txt").read_text()
            assert time.monotonic() < until
            time.sleep(0.2)
        yield server
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
