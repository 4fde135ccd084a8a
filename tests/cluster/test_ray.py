"""Cells as Ray tasks on real clusters: workers and nodes that are killed cost no cell and double none."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from robustlab.cli import main
from tests.study.interrupted import (
    all_runs,
    check_nothing_is_left_over,
    numbers,
    run_study,
    start_study,
    tracking_server,
)

pytestmark = pytest.mark.slow

SMALL = (
    "--models", "perceptron,simple_cnn", "--sizes", "50,100", "--epochs", "2", "--attack-images", "5",
    "--cw", "max_iterations=20,binary_search_steps=2", "--ifgsm", "steps=4,tolerance=0.2", "--device", "cpu",
)  # fmt: skip
CELLS = 4


@pytest.fixture
def cluster() -> Iterator[object]:
    """A Ray cluster of one node with one core, to which nodes can be added."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> dict[str, object]:
    """What the study measures in a process of its own, without Ray."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copy(empty_store, folder / "mlflow.db")
    run_study(folder, options=SMALL)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    found = dict(numbers())
    mlflow.set_tracking_uri(before)
    assert len(found) == CELLS
    return found


def workers_at_work(mark: str) -> list[int]:
    """The processes that run a task of the study with that mark in its environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            title = (entry / "cmdline").read_bytes()
            if (
                title.startswith((b"ray::train", b"ray::attack"))
                and mark.encode() in (entry / "environ").read_bytes()
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_for(what: object, seconds: float = 180) -> object:
    """Wait until the call returns something."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = what()  # type: ignore[operator]
        if found:
            return found
        time.sleep(0.1)
    pytest.fail("it never happened")


def test_a_killed_worker_is_replaced(cluster: object, store: Path, undisturbed: dict[str, object]) -> None:
    """kill -9 of the process that runs a task: Ray runs it again, and the cells and numbers are the same."""
    address = cluster.address  # type: ignore[attr-defined]
    study = start_study(
        store, "--executor", "ray", "--ray-address", address, options=SMALL, ROBUSTLAB_MARK=str(store)
    )
    for stage in ("training", "trained"):
        wait_for(
            lambda: [
                run
                for run in all_runs("cell")
                if run.info.status == "RUNNING"
                and (stage == "training" or run.data.tags.get("robustlab.stage") == stage)  # noqa: B023
            ]
        )
        for process in wait_for(lambda: workers_at_work(str(store))):  # type: ignore[attr-defined]
            os.kill(process, signal.SIGKILL)
    assert study.wait(400) == 0, (store / "log.txt").read_text()[-3000:]
    assert numbers() == undisturbed
    check_nothing_is_left_over(CELLS)


def test_a_killed_node_is_done_without(cluster: object, store: Path, undisturbed: dict[str, object]) -> None:
    """A node that is lost with its workers: its cells are done elsewhere, each once, with the same numbers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    node = cluster.add_node(num_cpus=1)  # type: ignore[attr-defined]
    with tracking_server(store, port):
        mlflow.set_tracking_uri(uri)
        arguments = ("--executor", "ray", "--ray-address", cluster.address)  # type: ignore[attr-defined]
        study = start_study(store, *arguments, uri=uri, options=SMALL, ROBUSTLAB_MARK=str(store))
        wait_for(lambda: len(workers_at_work(str(store))) == 2)
        cluster.remove_node(node, allow_graceful=False)  # type: ignore[attr-defined]
        assert study.wait(400) == 0, (store / "log.txt").read_text()[-3000:]
        assert numbers() == undisturbed
        check_nothing_is_left_over(CELLS)


def test_a_tuning_on_ray(cluster: object, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trials run in Ray's workers, as many as were asked for, and the result is kept as always."""
    arguments = [
        "tune", "--model", "perceptron", "--attack", "ifgsm", "--sizes", "100,200,300", "--epochs", "1",
        "--images", "5", "--trials", "3", "--reference", "default", "--search", "passes=10:60", "--device", "cpu",
        "--storage", str(store / "trials.journal"), "--workers", "2", "--executor", "ray",
        "--cpus-per-worker", "0.5",
    ]  # fmt: skip
    assert main([*arguments, "--ray-address", cluster.address]) in (0, 1), capsys.readouterr()  # type: ignore[attr-defined]
    (tuning,) = all_runs("tuning")
    assert tuning.info.status == "FINISHED"
    assert "robustlab.failed_workers" not in tuning.data.tags
    assert tuning.data.metrics["trials"] >= 3
    assert {run.info.status for run in all_runs("trial")} == {"FINISHED"}


def test_two_nodes_need_a_server(cluster: object, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A local file as the store of a cluster of two nodes is refused before anything starts."""
    cluster.add_node(num_cpus=1)  # type: ignore[attr-defined]
    arguments = ["--executor", "ray", "--ray-address", cluster.address]  # type: ignore[attr-defined]
    assert main(["study", *SMALL, *arguments]) == 2
    line = capsys.readouterr().err
    assert "has 2 nodes" in line
    assert "MLFLOW_TRACKING_URI" in line
    assert all_runs("cell", "study") == []
