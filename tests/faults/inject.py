"""Counts what a process writes and asks of MLflow, and makes one of those fail or kill the process.

Everything is hooked from outside, in a process of the tests' own: Python's audit events of opened and renamed files,
``os.fsync``, and the methods of MLflow's stores, each of which is one call to the server where there is one. Nothing of
the product knows of it.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

CUT_BYTES = 64
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Point:
    """The ``number``-th thing of all that a study does, and what it is."""

    number: int
    kind: str
    name: str


def faults_at(point: Point) -> tuple[str, ...]:
    """What can be done at a point.

    "cut": the file ends after 64 bytes, and the process with it; "lost": the call is carried out, but its answer does
    not arrive. What only reads or flushes leaves the same files and rows behind as the next point that writes, so a
    process is killed there and not here.
    """
    if point.kind == "mlflow":
        reads = point.name.startswith(("get_", "search_", "shut_down_async"))
        return ("error",) if reads else ("kill", "error", "lost")
    return {"write": ("kill", "error", "cut"), "rename": ("kill", "error"), "fsync": ("error",)}[point.kind]


class Injector:
    """Counts the points of the main thread; at one of them, does what ``fault`` says. Hooked in once and for ever."""

    def __init__(self) -> None:
        self._folder, self._log, self._fault = "", -1, ""
        self._at: int | None = None
        self._count, self._inside = 0, False
        sys.addaudithook(self._audit)
        os.fsync = self._around(os.fsync, "fsync")  # type: ignore[assignment]
        for kind in (Tracking, Registry):
            for name in [name for name in dir(kind) if not name.startswith("_")]:
                method = getattr(kind, name)
                if callable(method) and not isinstance(method, type):
                    setattr(kind, name, self._around(method, "mlflow"))

    def start(self, folder: Path, log: Path, at: int | None = None, fault: str = "") -> None:
        """Count from 0, files below ``folder`` only; ``log`` gets a line of JSON per point, or that of the fault."""
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._folder, self._at, self._fault, self._count = os.path.realpath(folder), at, fault, 0

    def stop(self) -> None:
        """Count no more."""
        os.close(self._log)
        self._folder, self._log = "", -1

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and (arguments[2] or 0) & _WRITES and self._is_ours(arguments[0]):
            self._reached("write", os.path.basename(os.fsdecode(arguments[0])))
        elif event == "os.rename" and self._is_ours(arguments[1]):
            self._reached("rename", os.path.basename(os.fsdecode(arguments[1])))

    def _is_ours(self, path: object) -> bool:
        if not self._folder or not isinstance(path, str | bytes):
            return False
        return os.path.realpath(os.fsdecode(path)).startswith(self._folder + "/")

    def _around(self, function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def counted(*arguments: Any, **keywords: Any) -> Any:
            if self._inside or not self._folder:  # a store's method that calls another one is one call
                return function(*arguments, **keywords)
            lost = self._reached(kind, function.__name__)
            self._inside = kind == "mlflow" and threading.current_thread() is threading.main_thread()
            try:
                answer = function(*arguments, **keywords)
            finally:
                self._inside = False
            if lost:
                raise MlflowException("API request failed with exception: connection reset by peer")
            return answer

        return counted

    def _reached(self, kind: str, name: str) -> bool:
        """Count a point; returns whether the answer of the call that follows gets lost."""
        if threading.current_thread() is not threading.main_thread():
            return False
        number, self._count = self._count, self._count + 1
        if self._at is None or number == self._at:
            os.write(self._log, (json.dumps([number, kind, name]) + "\n").encode())
        if number != self._at:
            return False
        if self._fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "cut":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (CUT_BYTES, CUT_BYTES))
        elif self._fault == "error" and kind == "mlflow":
            raise MlflowException("API request failed with exception: connection refused")
        elif self._fault == "error":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        return self._fault == "lost"


def read_points(log: Path) -> list[Point]:
    """What an ``Injector`` wrote."""
    return [Point(*json.loads(line)) for line in log.read_text().splitlines()]
