"""Wait for a store that went away for a while: retry with a limit, and say so, instead of losing hours of work."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode

from robustlab.errors import InputError
from robustlab.study.secrets import without_password

PATIENCE_VARIABLE = "ROBUSTLAB_STORE_PATIENCE_S"
_DEFAULT_PATIENCE_S = 900.0
_MOST_PAUSE_S = 15.0
# What MLflow's exceptions say where no answer came, or a proxy or the database behind the server gave a poor one.
_AWAY = (
    "failed with exception",
    "failed with timeout exception",
    "too many 50",
    "database is locked",
    "could not connect",
    "connection refused",
    "server closed the connection",
    "terminating connection",
)
# What databases say where two set the same new tag at once: MLflow looks, finds none, and inserts; a repeat updates it.
_COLLISIONS = ("duplicate key value", "unique constraint failed")
_MOST_COLLISIONS = 5
_SERVER_ERRORS = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")
# Nothing that waiting mends, though it comes as an error of the server.
_HOPELESS = ("disk is full", "no space left", "readonly database", "read-only", "permission denied")

T = TypeVar("T")


class StoreLost(InputError):
    """The tracking store stayed away for longer than the study waits for it."""


class Patience:
    """Repeats calls that fail because the store is away.

    Once the store was given up, each further call is tried a single time: what is tidied up after that waits no more.
    ``on_wait`` is called with one line when the store went away, about every half minute while it is, and when it is
    back. The limit is 15 minutes, or ROBUSTLAB_STORE_PATIENCE_S seconds.
    """

    def __init__(self, on_wait: Callable[[str], None] | None = None) -> None:
        self._on_wait = on_wait
        self._lost = False
        self.limit_s = float(os.environ.get(PATIENCE_VARIABLE, _DEFAULT_PATIENCE_S))

    def call(self, action: Callable[[], T]) -> T:
        """What ``action`` returns; it has to bear being repeated.

        Raises:
            StoreLost: the store stayed away for too long, or is full or read-only.
        """
        started, pause_s, told_s, collisions = time.monotonic(), 0.5, -1e9, 0
        while True:
            try:
                answer = action()
            except Exception as error:
                if collisions < _MOST_COLLISIONS and _is_collision(error):
                    collisions += 1
                    continue
                away = is_away(error)
                if away is None:
                    raise
                waited_s = time.monotonic() - started
                if self._lost or not away or waited_s + pause_s > self.limit_s:
                    self._lost = True
                    raise StoreLost(
                        f"the MLflow store {mlflow.get_tracking_uri()} failed ({_reason(error)}) for {waited_s:.0f} s; "
                        "mend it and give the same command again: what was finished is kept"
                    ) from error
                if waited_s - told_s > 30:
                    told_s = waited_s
                    self._say(
                        without_password(
                            f"the MLflow store {mlflow.get_tracking_uri()} does not answer ({_reason(error)}); "
                            f"trying again, for {self.limit_s - waited_s:.0f} s at most"
                        )
                    )
                time.sleep(pause_s)
                pause_s = min(_MOST_PAUSE_S, 2 * pause_s)
            else:
                if told_s >= 0:
                    self._say(f"the MLflow store is back after {time.monotonic() - started:.0f} s")
                self._lost = False
                return answer

    def _say(self, line: str) -> None:
        if self._on_wait is not None:
            self._on_wait(line)


class PatientClient(MlflowClient):
    """An MlflowClient each of whose calls waits for a store that is away."""

    def __init__(self, patience: Patience) -> None:
        super().__init__()
        self._patience = patience

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found
        patience = super().__getattribute__("_patience")

        @wraps(found)
        def patient(*arguments: Any, **keywords: Any) -> Any:
            return patience.call(lambda: found(*arguments, **keywords))

        return patient


def is_away(error: Exception) -> bool | None:
    """True where waiting may mend it, False where the store itself is broken (full, read-only), None for all else."""
    text = str(error).lower()
    if isinstance(error, MlflowException | OSError) and any(sign in text for sign in _HOPELESS):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if not isinstance(error, MlflowException):
        # requests' exceptions are OSErrors; artifacts travel by them directly.
        return True if type(error).__module__.startswith(("requests", "urllib3")) else None
    code = error.error_code if isinstance(error.error_code, str) else ErrorCode.Name(error.error_code)
    over_http = mlflow.get_tracking_uri().startswith("http")
    return True if any(s in text for s in _AWAY) or (over_http and code in _SERVER_ERRORS) else None


def _is_collision(error: Exception) -> bool:
    return isinstance(error, MlflowException) and any(sign in str(error).lower() for sign in _COLLISIONS)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]


@contextmanager
def few_http_retries() -> Iterator[None]:
    """MLflow's own silent retries (seven, minutes long) give way to ours, unless the user has set them."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    before = os.environ.get(name)
    os.environ.setdefault(name, "1")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
