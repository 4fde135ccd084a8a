"""Several workers on one search: processes of this machine, or tasks of a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import optuna
import torch
from mlflow import MlflowClient

from robustlab.study.store import StudyStore
from robustlab.study.tuning.storage import open_storage
from robustlab.study.tuning.subjects import load_subjects
from robustlab.study.tuning.trials import Search, open_search, run_trials

SUBJECTS = "subjects"

RunWorkers = Callable[["Assignment", int, Callable[[], None]], int]
"""Runs an assignment in so many workers, calling the third argument now and then; returns how many workers failed."""

_POLL_S = 0.5
_PATIENCE_S = 10


@dataclass(frozen=True)
class Assignment:
    """All that a worker needs; no tensor and no open connection, so it can be sent anywhere."""

    search: Search
    name: str
    storage: str
    tracking_uri: str
    parent_run_id: str
    subjects: Path
    device: str
    threads: int


def work(assignment: Assignment, worker: int) -> None:
    """Run trials of the search until there are enough."""
    torch.set_num_threads(assignment.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mlflow.set_tracking_uri(assignment.tracking_uri)
    store = StudyStore(MlflowClient().get_run(assignment.parent_run_id))
    device = torch.device(assignment.device)
    if assignment.subjects.exists():
        subjects = load_subjects(assignment.subjects, device)
    else:  # on another machine
        with store.fetched(assignment.parent_run_id, SUBJECTS) as folder:
            subjects = load_subjects(folder, device)
    with open_storage(assignment.storage) as storage:
        study = open_search(storage, assignment.name, assignment.search)
        run_trials(study, assignment.search, subjects, store, worker=worker)


def work_in_processes(assignment: Assignment, workers: int, on_poll: Callable[[], None]) -> int:
    """Start ``workers`` processes and wait for them; returns how many failed.

    They are new interpreters, because neither CUDA nor MLflow survives a fork.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=work, args=(assignment, number), name=f"tuning worker {number}")
        for number in range(1, workers + 1)
    ]
    try:
        for process in processes:
            process.start()
        while any(process.is_alive() for process in processes):
            time.sleep(_POLL_S)
            on_poll()
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            if process.pid is not None:
                process.join(_PATIENCE_S)
    return sum(process.exitcode != 0 for process in processes)


def work_on_ray(
    assignment: Assignment,
    workers: int,
    on_poll: Callable[[], None],
    *,
    address: str,
    gpus_per_worker: float,
    cpus_per_worker: float,
) -> int:
    """Start ``workers`` tasks on the Ray cluster at ``address`` and wait for them; returns how many failed.

    A worker or node that is lost is replaced; the trial it was at is started again (see ``open_storage``).
    """
    from robustlab.study.executors.on_ray import connect
    from robustlab.study.executors.worker import MOST_RETRIES

    ray = connect(address, assignment.tracking_uri, gpus_per_worker, cpus_per_worker)
    storage = assignment.storage
    assignment = replace(
        assignment,
        device="cuda" if gpus_per_worker else "cpu",
        storage=storage if "://" in storage else str(Path(storage).expanduser().resolve()),
    )
    remote = ray.remote(num_cpus=cpus_per_worker, num_gpus=gpus_per_worker, max_retries=MOST_RETRIES)(work)
    failed = 0
    try:
        waiting = [
            remote.options(name=f"tune {number}").remote(assignment, number)
            for number in range(1, workers + 1)
        ]
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=1, timeout=_POLL_S)
            on_poll()
            for reference in ready:
                try:
                    ray.get(reference)
                except ray.exceptions.RayError:
                    failed += 1
    finally:
        ray.shutdown()
    return failed
