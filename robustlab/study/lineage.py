"""With what a cell was made: code, packages, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from robustlab import __version__

FILE_NAME = "lineage.json"
# What can move a cell's numbers; packages.txt of the study has all that was installed.
_PACKAGES = ("torch", "torchvision", "triton", "numpy", "mlflow", "safetensors", "scikit-learn", "pillow")


def lineage(device: torch.device) -> dict[str, str]:
    """What a cell that is run here and now is made with, flat and readable."""
    return {
        "robustlab": __version__,
        **code_version(),
        **packages(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": str(device),
        "processor": processor(device),
        "threads": str(torch.get_num_threads()),
    }


@lru_cache(maxsize=1)
def code_version() -> dict[str, str]:
    """The commit of this checkout and whether its tracked files were changed; empty for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {"commit": "", "tree": "installed"}
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changed is None:
        return {"commit": "", "tree": "unknown"}
    return {"commit": commit, "tree": "changed" if changed else "clean"}


@lru_cache(maxsize=1)
def packages() -> dict[str, str]:
    """Versions of the packages that can move a number, where they are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor(device: torch.device) -> str:
    """What computes: the GPU's name, or the CPU's with the instruction set that torch chose."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
