"""Faults injected at what a study writes, renames and asks of MLflow: started again, it ends as if nothing had been."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def survivors(*arguments: str) -> str:
    """The summary line of so many faults, in a process of their own: it forks, which pytest's should not."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    command = [sys.executable, "-m", "tests.faults.survival", *arguments]
    done = subprocess.run(
        command,
        env={
            **kept,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


def test_a_few_faults() -> None:
    """Two of each of a few kinds; `python -m tests.faults.survival` tries all of them."""
    assert survivors("--sample", "4", "--seed", "6").endswith(", 4 faults injected, 0 not survived")


@pytest.mark.slow
def test_more_faults() -> None:
    """Others, over all kinds of faults."""
    assert survivors("--sample", "18", "--seed", "9").endswith(", 18 faults injected, 0 not survived")


@pytest.mark.slow
def test_a_model_is_registered_once() -> None:
    """Whatever happens while it is: the two cells of the study, an error, a kill, an answer that gets lost."""
    assert survivors("--only", "create_model_version").endswith(", 6 faults injected, 0 not survived")
