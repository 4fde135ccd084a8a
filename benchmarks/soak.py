"""Many small cells in one process: do memory, file handles, threads and database connections stay where they were?

    PYTHONPATH=.:kernels OMP_NUM_THREADS=1 python -m benchmarks.soak [--cells 500] [--out soak.json]

Samples after every tenth cell, with the garbage collected and free memory given back. Flat means, against the cells up
to the ``--settle``-th (caches fill): at the end not one handle, thread or connection more than the most there was, and
resident memory that grows by less than ``MOST_KB_A_CELL`` a cell (straight line through all later samples). At the end
is the least of the last fifth of the samples: the heartbeat's thread opens a file or two for a moment, and a sample
may fall on it, but what is leaked stays. MLflow itself keeps up to 1,024 repositories of artifacts, two a cell.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch

from benchmarks.machine import circumstances
from robustlab.attacks import IFGSM, CarliniWagnerL2
from robustlab.data import load_dataset
from robustlab.study.conduct import conduct_study
from robustlab.study.plan import plan_study
from robustlab.study.runner import StudyProgress

SIZES = (50, 100)
EVERY = 10
MOST_KB_A_CELL = 96.0


@dataclass(frozen=True)
class Sample:
    """This process after so many cells."""

    cells: int
    wall_s: float
    rss_kb: int
    handles: int
    threads: int
    connections: int


def soak(cells: int, folder: Path) -> list[Sample]:
    """Run a study of so many cells (an even number) on a store in ``folder``; one sample every tenth cell."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.create_experiment("soak", artifact_location=f"{folder}/artifacts")
    mlflow.set_experiment("soak")
    plan = plan_study(
        load_dataset("digits"),
        models=["perceptron"],
        sizes=SIZES,
        seeds=range(cells // len(SIZES)),
        attack_images=2,
        epochs=1,
        cw=CarliniWagnerL2(max_iterations=5, binary_search_steps=1),
        ifgsm=IFGSM(steps=2, tolerance=0.5),
        device=torch.device("cpu"),
    )
    samples: list[Sample] = []
    began = time.perf_counter()

    def look(progress: StudyProgress) -> None:
        if progress.cells_done >= EVERY * (len(samples) + 1):
            samples.append(sample(progress.cells_done, time.perf_counter() - began, folder / "mlflow.db"))

    conduct_study(plan, on_progress=look)
    return samples


def sample(cells: int, wall_s: float, database: Path) -> Sample:
    """Look at this process now (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    handles = [_target(handle) for handle in os.listdir("/proc/self/fd")]
    return Sample(
        cells,
        round(wall_s, 2),
        int(status["VmRSS"].split()[0]),
        len(handles),
        int(status["Threads"]),
        sum(target == str(database) for target in handles),
    )


def _target(handle: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{handle}")
    except OSError:
        return ""  # the listing's own


def judge(samples: Sequence[Sample], settle: int) -> dict[str, Any]:
    """The figures and whether all is flat after ``settle`` cells."""
    early = [one for one in samples if one.cells <= settle]
    late = [one for one in samples if one.cells > settle]
    slope_kb, _ = np.polyfit([one.cells for one in late], [one.rss_kb for one in late], 1)
    figures: dict[str, Any] = {
        "cells": samples[-1].cells,
        "settle": settle,
        "rss_mb_after_settling": round(late[0].rss_kb / 1024, 1),
        "rss_mb_at_the_end": round(late[-1].rss_kb / 1024, 1),
        "rss_kb_a_cell": round(float(slope_kb), 1),
        "wall_s": samples[-1].wall_s,
    }
    flat = slope_kb <= MOST_KB_A_CELL
    for name in ("handles", "threads", "connections"):
        before, after = ([getattr(one, name) for one in part] for part in (early, late))
        left = min(after[-max(1, len(samples) // 5) :])
        figures |= {
            f"most_{name}_while_settling": max(before),
            f"most_{name}_after": max(after),
            f"{name}_at_the_end": left,
        }
        flat &= left <= max(before)
    return {**figures, "flat": bool(flat)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--settle", type=int, default=50)
    parser.add_argument("--out", type=Path, help="a JSON file with all samples")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        samples = soak(options.cells, Path(folder))
    figures = judge(samples, options.settle)
    print(json.dumps(figures, indent=2))
    if options.out:
        packages = ("torch", "mlflow", "sqlalchemy", "numpy")
        report = {
            **circumstances(torch.get_num_threads(), packages),
            "figures": figures,
            "samples": [list(asdict(one).values()) for one in samples],
            "columns": list(asdict(samples[0])),
        }
        options.out.write_text(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
