"""Many first users of a bare database at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import psycopg
import pytest

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def bare_database(request: pytest.FixtureRequest, store: Path) -> str:
    """A database without any table."""
    if request.param == "sqlite":
        (store / "mlflow.db").unlink()
        return f"sqlite:///{store}/mlflow.db"
    server: str = request.getfixturevalue("postgres")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS bare WITH (FORCE)")
        connection.execute("CREATE DATABASE bare")
    place = urlsplit(server)
    return f"postgresql+psycopg://{place.netloc}/bare"


def test_many_first_users_at_once(bare_database: str, store: Path) -> None:
    """Eight commands that meet the empty database together all succeed, and none makes a table twice."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.study.many_at_once", "8", "linear"],
        cwd=store,
        env={
            **environment,
            "MLFLOW_TRACKING_URI": bare_database,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "kernels")]),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    shown = "".join((store / f"{number}.txt").read_text() for number in range(1, 9))
    assert done.returncode == 0, done.stdout + done.stderr + shown
    mlflow.set_tracking_uri(bare_database)
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert [run.info.status for run in runs] == 8 * ["FINISHED"]
    assert len({run.info.experiment_id for run in runs}) == 1
