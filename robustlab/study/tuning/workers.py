"""Several processes on one search. An executor for a cluster would call ``work`` on its machines likewise."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlflow
import optuna
import torch
from mlflow import MlflowClient

from robustlab.study.store import StudyStore
from robustlab.study.tuning.storage import open_storage
from robustlab.study.tuning.subjects import load_subjects
from robustlab.study.tuning.trials import Search, open_search, run_trials

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
    subjects = load_subjects(assignment.subjects, torch.device(assignment.device))
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
