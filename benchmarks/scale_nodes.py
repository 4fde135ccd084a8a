"""A grid of cells that sleep instead of computing, on one and on two Ray nodes of this machine."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mlflow
import torch
from torch import Tensor

from robustlab.data import load_dataset
from robustlab.study import conduct
from robustlab.study.cell import Cell, CellResult
from robustlab.study.claims import Claims
from robustlab.study.executors.on_ray import RayExecutor
from robustlab.study.parent import parent_run
from robustlab.study.plan import plan_study
from robustlab.study.read_back import result_of
from robustlab.study.resume import own
from robustlab.study.runner import run_study
from robustlab.study.stages import Stages
from robustlab.study.store import StudyStore

SLEEP = "ROBUSTLAB_BENCHMARK_SLEEP_S"


class SleepingStages(Stages):
    """Sleeps where a model would be trained or attacked; what the runner needs of the store is written as always."""

    def train(self, cell: Cell, run_id: str) -> Tensor:  # noqa: ARG002 - the signature is that of Stages
        """Every image counts as classified correctly."""
        time.sleep(float(os.environ[SLEEP]))
        metrics = {"train_accuracy": 1.0, "test_accuracy": 1.0, "train_s": 0.0}
        self.store.log_metrics(run_id, metrics)
        self.store.log_tags(run_id, {"robustlab.stage": "trained"})
        return torch.ones(len(self.dataset.test), dtype=torch.bool)

    def attack(self, cell: Cell, run_id: str, common_images: int, chosen: Tensor) -> CellResult:  # noqa: ARG002
        """No image is attacked."""
        time.sleep(float(os.environ[SLEEP]))
        self.store.log_metrics(run_id, {"attacked_images": 0, "attack_s": 0.0})
        result = result_of(self.store.client.get_run(run_id))
        self.store.finish_cell(run_id)
        return result


def measure_nodes(sleep_s: float, cells: int) -> dict[str, Any]:
    """Stages a second, counted from when every worker has done one: until then they start and load libraries."""
    from ray.cluster_utils import Cluster

    os.environ[SLEEP] = str(sleep_s)
    with tempfile.TemporaryDirectory() as folder:
        server, uri = _server(Path(folder))
        times = {}
        try:
            mlflow.set_tracking_uri(uri)
            for nodes in (1, 2):
                cluster = Cluster(
                    initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
                )
                for _ in range(nodes - 1):
                    cluster.add_node(num_cpus=1)
                try:
                    times[nodes] = _run(cluster.address, nodes, nodes * cells, seed=1000 * nodes)
                finally:
                    cluster.shutdown()
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    return {
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "cells_a_node": cells,
        "sleep_s_a_stage": sleep_s,
        "one_node_stages_per_s": round(times[1], 3),
        "two_nodes_stages_per_s": round(times[2], 3),
        "speed_up": round(times[2] / times[1], 3),
    }


def _run(address: str, workers: int, cells: int, seed: int) -> float:
    plan = plan_study(
        load_dataset("digits"),
        models=["perceptron"],
        sizes=[100],
        seeds=range(seed, seed + cells),
        device=torch.device("cpu"),
    )
    conduct.use_cpu_threads(plan)
    with parent_run("sleep", {"robustlab.kind": "study"}, "cells that sleep") as run:
        store = StudyStore(run)
        claims = Claims(store.client, store.experiment_id, own(store.client, run))
        ended: list[float] = []  # the runner reports once for every stage that ended
        outcome = run_study(
            plan,
            store,
            claims,
            on_progress=lambda _: ended.append(time.perf_counter()),
            make_executor=lambda stages: RayExecutor(stages, address, 0.0, 1.0),
            make_stages=SleepingStages,
        )
    assert len(outcome.results) == cells
    assert len(ended) == 2 * cells
    return (len(ended) - workers) / (ended[-1] - ended[workers - 1])


def _server(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", str(folder / "artifacts"), "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    server = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # as in docs/deploy.md
    )
    while True:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return server, f"http://127.0.0.1:{port}"
        time.sleep(0.2)
