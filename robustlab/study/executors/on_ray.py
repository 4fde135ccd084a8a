"""Cells as tasks of a Ray cluster: training and attack apart, Ray's own retries where a worker or a node is lost.

Ray is imported when it is asked for and nowhere else. The driver, which is the study's own process, claims cells and
decides; a task gets a run that is claimed for it and writes what belongs to it into the store, so the workers need no
more than the store's address.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from functools import lru_cache
from typing import Any

import mlflow

from robustlab.errors import InputError
from robustlab.study.executors.task import Done, Task, TaskGone
from robustlab.study.executors.worker import MOST_RETRIES, open_stages
from robustlab.study.plan import StudyPlan
from robustlab.study.secrets import without_password
from robustlab.study.stages import Stages

_WAIT_S = 1.0
_CONNECT_S = 20
# What a worker needs of the driver's environment: where the store is, who asks, how patiently.
_PASSED_ON = ("MLFLOW_", "ROBUSTLAB_", "OMP_", "AWS_")


class RayExecutor:
    """Runs tasks on the cluster at ``address``, or on one that is started on this machine.

    Args:
        address: ``host:port`` of a cluster, ``ray://host:port``, or ``local``.
        gpus_per_cell, cpus_per_cell: what each task reserves; 0.25 of a GPU puts four cells on one.

    Raises:
        InputError: Ray is not installed, no cluster answers, no node has what a cell asks for, or the store is a local
            file and the cluster has more than this machine.
    """

    def __init__(self, stages: Stages, address: str, gpus_per_cell: float, cpus_per_cell: float) -> None:
        self._ray = connect(address, mlflow.get_tracking_uri(), gpus_per_cell, cpus_per_cell)
        ray = self._ray
        # On the CPU for the journey; a worker puts it on its own device.
        plan = replace(stages.plan, dataset=stages.plan.dataset.to("cpu"))
        self._plan = ray.put(plan)
        self._device = "cuda" if gpus_per_cell > 0 else "cpu"
        self._stages = stages
        self._cpus, self._gpus = cpus_per_cell, gpus_per_cell
        # max_calls=0: a worker lives on, with the images on its device and the traced graphs.
        self._remote = ray.remote(
            num_cpus=cpus_per_cell, num_gpus=gpus_per_cell, max_retries=MOST_RETRIES, max_calls=0
        )(_run)
        self._running: dict[Any, Task] = {}

    def free(self) -> int:
        """Enough that no slot waits for the driver; cells beyond that stay unclaimed, for other studies."""
        total = self._ray.cluster_resources()
        slots = total.get("CPU", 0) / self._cpus if self._cpus else float("inf")
        if self._gpus:
            slots = min(slots, total.get("GPU", 0) / self._gpus)
        return max(1, int(slots)) + 1 - len(self._running)

    def submit(self, task: Task) -> None:
        """Hand a task to Ray."""
        store = self._stages.store
        reference = self._remote.options(
            name=f"{task.stage} {task.cell.variant} {task.cell.train_size}"
        ).remote(
            task,
            self._plan,
            type(self._stages),
            store.parent_run_id,
            self._stages.owner,
            self._device,
            mlflow.get_tracking_uri(),
        )
        self._running[reference] = task

    def wait(self) -> list[Done]:
        """Tasks that ended within the next second."""
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_WAIT_S)
        done = []
        for reference in ready:
            task = self._running.pop(reference)
            try:
                done.append(Done(task, self._ray.get(reference)))
            except self._ray.exceptions.RayTaskError as error:
                cause = error.cause
                done.append(Done(task, error=cause if isinstance(cause, Exception) else error))
            except self._ray.exceptions.RayError as error:
                reason = f"lost {MOST_RETRIES + 1} times with its worker ({type(error).__name__})"
                done.append(Done(task, error=TaskGone(reason)))
        return done

    def close(self) -> None:
        """Cancel what still runs and leave the cluster."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()


def connect(
    address: str,
    store_uri: str,
    gpus_per_cell: float = 0.0,
    cpus_per_cell: float = 1.0,
    trials: str | None = None,
) -> Any:
    """Connect to the cluster and check that it can run the study; returns the module ``ray``.

    ``trials`` is where a tuning keeps its trials; a file will do for one node only.

    Raises:
        InputError: see ``RayExecutor``.
    """
    if gpus_per_cell < 0 or cpus_per_cell < 0 or not (gpus_per_cell or cpus_per_cell):
        raise InputError(
            f"--gpus-per-cell {gpus_per_cell:g} and --cpus-per-cell {cpus_per_cell:g}: give 0 or more, and one above 0"
        )
    try:
        import ray
    except ImportError:
        raise InputError(
            "--executor ray needs Ray; install it with: pip install 'robustlab[cluster]'"
        ) from None
    _check_answers(address)
    if not ray.is_initialized():
        variables = {key: value for key, value in os.environ.items() if key.startswith(_PASSED_ON)}
        variables["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
        try:
            ray.init(
                address=None if address == "local" else address,
                runtime_env={"env_vars": variables},
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False if address == "local" else None,
            )
        except Exception as error:  # ConnectionError, RuntimeError, ValueError: Ray has no common one
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise InputError(
                f"no Ray cluster answers at {address!r} ({reason}); start one with `ray start --head` or give local"
            ) from error
    try:
        _check_nodes(ray, store_uri, gpus_per_cell, cpus_per_cell)
        nodes = sum(node["Alive"] for node in ray.nodes())
        if nodes > 1 and trials is not None and "://" not in trials:
            raise InputError(
                f"the Ray cluster has {nodes} nodes, but the trials are kept in the file {trials}; "
                "give --storage postgresql://... (docs/deploy.md)"
            )
    except InputError:
        ray.shutdown()
        raise
    return ray


def _check_answers(address: str) -> None:
    """Ray itself would try for minutes."""
    import socket

    place = address.removeprefix("ray://")
    if address == "local" or ":" not in place:
        return
    host, _, port = place.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_S):
            pass
    except (OSError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers at {address!r} ({error}); start one with `ray start --head` or give local"
        ) from None


def _check_nodes(ray: Any, store_uri: str, gpus_per_cell: float, cpus_per_cell: float) -> None:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) > 1 and not store_uri.startswith(("http:", "https:")):
        raise InputError(
            f"the Ray cluster has {len(nodes)} nodes, but the MLflow store {without_password(store_uri)} is no "
            "tracking server that they all reach; start `mlflow server` and set MLFLOW_TRACKING_URI (docs/deploy.md)"
        )
    for resource, wanted in (("GPU", gpus_per_cell), ("CPU", cpus_per_cell)):
        most = max((node["Resources"].get(resource, 0.0) for node in nodes), default=0.0)
        if wanted > most:
            raise InputError(
                f"a cell asks for {wanted:g} {resource}s and no node of the Ray cluster has more than {most:g}; "
                f"lower --{resource.lower()}s-per-cell"
            )


def _run(
    task: Task, plan: StudyPlan, kind: type[Stages], study: str, owner: str, device: str, store_uri: str
) -> Any:
    """The body of a Ray task."""
    return task.run(_stages(_Key(plan, kind), study, owner, device, store_uri))


class _Key:
    """The plan, for the cache: a study's id tells plans apart."""

    def __init__(self, plan: StudyPlan, kind: type[Stages]) -> None:
        self.plan, self.kind = plan, kind

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key)


@lru_cache(maxsize=1)
def _stages(key: _Key, study: str, owner: str, device: str, store_uri: str) -> Stages:
    return open_stages(key.plan, key.kind, study, owner, device, store_uri)
