"""Where the trials of a tuning are kept: a journal file on one machine, PostgreSQL for workers anywhere."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import mlflow
import optuna
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file
from optuna.trial import FrozenTrial, TrialState

from robustlab.data.files import user_path
from robustlab.errors import InputError
from robustlab.study.secrets import without_password

JOURNAL = "tuning.journal"
# User attributes of a trial.
RUN_ID, WORKER, PRUNED_AFTER, UNTUNED = "run_id", "worker", "pruned_after", "untuned"

_HEARTBEAT_S = 15
_GRACE_S = 60
_MOST_RETRIES = 3
_POSTGRESQL = "postgresql+psycopg://"


def default_storage() -> str:
    """A journal file beside the MLflow store where that is a local database, else in the working directory."""
    uri = mlflow.get_tracking_uri()
    folder = Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite:///") else Path()
    return str(folder / JOURNAL)


@contextmanager
def open_storage(address: str) -> Iterator[BaseStorage]:
    """While open, the storage at ``postgresql://...``, or a journal file that is made where it does not exist.

    A worker on PostgreSQL gives a sign of life every 15 s; a trial whose worker gave none for 60 s is started
    again by another one, at most three times.

    Raises:
        InputError: no such database or driver, another kind of database, a file that cannot be written.
    """
    storage = _open(address)
    try:
        yield storage
    finally:
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()


def _open(address: str) -> BaseStorage:
    scheme, colon, rest = address.partition("://")
    try:
        if not colon:
            path = user_path(address)
            path.parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(_WholeLines(str(path)))
        if scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
            raise InputError(
                f"the storage {scheme}:// is not supported; give a file for a journal or postgresql://..."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(
                _POSTGRESQL + rest,
                engine_kwargs={"pool_pre_ping": True, "connect_args": {"connect_timeout": 10}},
                heartbeat_interval=_HEARTBEAT_S,
                grace_period=_GRACE_S,
                heartbeat_stale_trial_callback=_retry,
            )
    except InputError:
        raise
    except ImportError:
        raise InputError(
            "PostgreSQL needs its driver; install it with: pip install 'robustlab[cluster]'"
        ) from None
    except Exception as error:  # SQLAlchemy, psycopg, the journal and the file system each have their own
        reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"cannot use the storage {without_password(address)} ({reason}); start it or give another --storage"
        ) from None


class _WholeLines(JournalFileBackend):
    """Begins every entry on a line of its own.

    A disk that was full, or a process that was killed in the middle of a write, leaves half a line. Optuna passes over
    it as long as it is the last one, but would write its next entry behind it, and no reader gets past such a line.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with get_lock_file(self._lock), open(self._file_path, "rb+") as file:
            content_bytes = file.seek(0, os.SEEK_END)
            while content_bytes and not _ends_a_line(file, content_bytes):
                content_bytes -= 1
            file.truncate(content_bytes)
        super().append_logs(logs)


def _ends_a_line(file: BinaryIO, position: int) -> bool:
    file.seek(position - 1)
    return file.read(1) == b"\n"


def bury_dead_trials(study: optuna.Study) -> None:
    """Fail the trials that a killed process of this machine left running; a journal has no heartbeat."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        host, _, process = str(trial.user_attrs.get(WORKER, "")).rpartition(":")
        if host == platform.node() and not _lives(int(process)):
            close_run(trial, "its process died")
            study.tell(trial.number, state=TrialState.FAIL)


def this_worker() -> str:
    """Which process works on a trial."""
    return f"{platform.node()}:{os.getpid()}"


def close_run(trial: FrozenTrial, reason: str) -> None:
    """End the trial's MLflow run, so that nothing stays RUNNING for ever."""
    run_id = trial.user_attrs.get(RUN_ID)
    if not run_id:
        return
    client = MlflowClient()
    try:
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_tag(run_id, "robustlab.failure", reason)
            client.set_terminated(run_id, "KILLED")
    except MlflowException:
        pass  # deleted since: nothing is left to end


def _retry(study: optuna.Study, trial: FrozenTrial) -> None:
    close_run(trial, "no sign of life from its worker; started again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        RetryHeartbeatStaleTrialCallback(max_retry=_MOST_RETRIES)(study, trial)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
