"""A PostgreSQL server of the tests' own: a fresh cluster on a free port, gone with the test session.

Use it as a fixture from a conftest: ``postgres = pytest.fixture(scope="session")(postgres_server)``.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")
_USER = "robustlab"


def postgres_server() -> Iterator[str]:
    """The server's address, ``postgresql://robustlab@127.0.0.1:<port>/postgres``; no password, local only."""
    programs = _programs()
    account = _account()
    # Not pytest's tmp_path: its parents are closed to other users, and the socket's path would be too long.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)
    user = None if account is None else account.pw_name

    def run(*command: str) -> None:
        done = subprocess.run(
            command,
            check=False,
            user=user,
            cwd=folder,
            env=_environment(folder),
            capture_output=True,
            text=True,
            timeout=120,
        )
        log = folder / "log"
        if done.returncode:
            pytest.fail(f"{command[0]} failed: {done.stderr}{log.read_text() if log.exists() else ''}")

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")
    run(str(programs / "initdb"), "-D", data, "-U", _USER, "--auth=trust", "--encoding=UTF8", "--no-sync")
    settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    control = str(programs / "pg_ctl")
    try:
        run(control, "-D", data, "-w", "-t", "60", "-l", str(folder / "log"), "-o", settings, "start")
        yield f"postgresql://{_USER}@127.0.0.1:{port}/postgres"
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            run(control, "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    """Where initdb and pg_ctl are."""
    found = [Path(path).parent for path in [shutil.which("initdb")] if path]
    for place in _PLACES:
        found += sorted(path for path in Path("/").glob(place[1:]) if (path / "initdb").exists())
    if not found:
        pytest.fail(
            "this test needs a PostgreSQL server and found none; install one (Debian: apt-get install postgresql)"
        )
    return found[-1]


def _account() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root: then some account without rights, else the tests' own (None)."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.fail("PostgreSQL does not run as root; run the tests as another user or add the user 'postgres'")


def _environment(folder: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return {**kept, "HOME": str(folder), "LC_ALL": "C"}
