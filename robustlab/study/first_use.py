"""MLflow makes a database's tables at its first use, and does not expect that many use it first at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SQLITE, _POSTGRESQL = "sqlite:///", ("postgresql:", "postgresql+")
# Any number that nobody else takes for a lock of this kind.
_LOCK_NUMBER = 7_023_615_524


@contextmanager
def one_at_a_time(uri: str) -> Iterator[None]:
    """While open, no other process that asks for this is inside, for the same database; a server sees to it itself."""
    if uri.startswith(_SQLITE):
        with _folder_locked(Path(uri.removeprefix(_SQLITE)).absolute().parent):
            yield
    elif uri.startswith(_POSTGRESQL):
        import sqlalchemy

        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:  # the lock ends with the connection, whatever becomes of us
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({_LOCK_NUMBER})"))
            yield
    else:
        yield


@contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    """The lock is the folder's own, so nothing is left lying beside the database."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)
