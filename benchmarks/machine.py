"""What a results file says of where it was made."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]


def circumstances(threads: int, distributions: Sequence[str] = ("torch", "numpy")) -> dict[str, Any]:
    """What a reader needs to judge or repeat a run: date, commit, processor, versions."""
    measured = ("robustlab", "kernels", "benchmarks/*.py")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": said("git", "-C", str(_ROOT), "rev-parse", "HEAD"),
        "uncommitted_changes": bool(said("git", "-C", str(_ROOT), "status", "--porcelain", "--", *measured)),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in distributions},
    }


def cpu_model() -> str:
    """The processor's name as the operating system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def file_name(machine: str) -> str:
    """The machine's name as part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-")


def said(*command: str) -> str:
    """What a command prints; empty where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
