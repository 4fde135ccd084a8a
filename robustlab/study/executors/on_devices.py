"""One process per device of this machine; a process that dies costs the stage it was at, which another does again."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import mlflow
import torch

from robustlab.study.executors.task import Done, Task, TaskGone
from robustlab.study.executors.worker import MOST_RETRIES, open_stages
from robustlab.study.stages import Stages

_WAIT_S = 1.0
_PATIENCE_S = 10.0


class DeviceExecutor:
    """Runs tasks in worker processes, one for each of ``devices``; a device that is named twice gets two.

    The study's process claims cells and decides; a worker gets a run that is claimed for it, and writes what belongs
    to it into the store.
    """

    def __init__(self, stages: Stages, devices: Sequence[str]) -> None:
        store = stages.store
        self._folder = tempfile.TemporaryDirectory(prefix="robustlab-")
        plan_file = Path(self._folder.name) / "plan.pickle"
        with plan_file.open("wb") as file:
            # By way of the disk: a data set can be larger than what a container has of shared memory.
            pickle.dump(replace(stages.plan, dataset=stages.plan.dataset.to("cpu")), file)
        threads = max(1, torch.get_num_threads() // len(devices))
        said = (type(stages), store.parent_run_id, stages.owner)
        self._workers = [_Worker((plan_file, *said, device, _store_uri(), threads)) for device in devices]

    def free(self) -> int:
        """The workers that have nothing to do."""
        return sum(worker.task is None for worker in self._workers)

    def submit(self, task: Task) -> None:
        """Hand the task to a worker."""
        next(worker for worker in self._workers if worker.task is None).begin(task)

    def wait(self) -> list[Done]:
        """Tasks that ended within the next second; those of a worker that died begin again, in a new one."""
        busy = {worker.connection: worker for worker in self._workers if worker.task is not None}
        ended = wait(list(busy), timeout=_WAIT_S)
        return [done for connection in ended if (done := busy[connection].end()) is not None]  # type: ignore[index]

    def close(self) -> None:
        """End the workers, whatever they are at."""
        for worker in self._workers:
            worker.stop()
        self._folder.cleanup()


class _Worker:
    """A process and the task it is at."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self._arguments = arguments
        self.task: Task | None = None
        self._attempts = 0
        self._start()

    def begin(self, task: Task) -> None:
        self.task, self._attempts = task, 0
        self._send()

    def end(self) -> Done | None:
        """What came of the task; None where the process died and a new one does the task again."""
        task = self.task
        assert task is not None
        try:
            result, error = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            self.stop()
            self._start()
            if self._attempts <= MOST_RETRIES:
                self._send()
                return None
            result, error = None, TaskGone(f"lost {self._attempts} times with its process")
        self.task = None
        return Done(task, result, error)

    def stop(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.join(_PATIENCE_S)

    def _send(self) -> None:
        self._attempts += 1
        with suppress(OSError):  # it died while it had nothing to do: ``end`` finds its connection closed
            self.connection.send_bytes(pickle.dumps(self.task))

    def _start(self) -> None:
        # New interpreters, because neither CUDA nor MLflow survives a fork.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=_work, args=(theirs, *self._arguments), name=f"robustlab on {self._arguments[-3]}"
        )
        self._process.start()
        theirs.close()  # the worker's end is the worker's alone, so its death closes the connection


def _work(
    connection: Connection,
    plan_file: Path,
    kind: type[Stages],
    study: str,
    owner: str,
    device: str,
    store_uri: str,
    threads: int,
) -> None:
    """The body of a worker: tasks in, results or errors out, until the study's process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the study's process's to handle
    threading.Thread(target=_die_with_parent, daemon=True).start()
    warnings.simplefilter(
        "ignore"
    )  # they would tear the display apart; what an attack warns of is in its tags
    torch.set_num_threads(threads)
    if device.startswith("cuda"):
        torch.cuda.set_device(device)  # Triton launches on the current device, wherever the tensors are
    stages: Stages | None = None
    while True:
        try:
            task: Task = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            if stages is None:
                with plan_file.open("rb") as file:
                    stages = open_stages(pickle.load(file), kind, study, owner, device, store_uri)
            answer = pickle.dumps((task.run(stages), None))
        except Exception as error:
            answer = _packed(error)
        connection.send_bytes(answer)


def _die_with_parent() -> None:
    """A study that was killed leaves nobody behind who trains for it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _packed(error: Exception) -> bytes:
    try:
        packed = pickle.dumps((None, error))
        pickle.loads(packed)  # some can be written and not read
    except Exception:
        return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))
    return packed


def _store_uri() -> str:
    uri: str = mlflow.get_tracking_uri()
    return uri
