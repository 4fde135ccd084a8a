"""A study as a process of its own, with a proxy between it and its MLflow server that keeps disturbing them.

python -m tests.faults.outages --seconds 300
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import mlflow

from tests.faults.proxy import DISTURBANCES, proxy_to
from tests.study.interrupted import (
    check_nothing_is_left_over,
    free_port,
    numbers,
    run_study,
    start_study,
    tracking_server,
)

CELLS = 12
STUDY = (
    "--models", "perceptron,resnet", "--sizes", "50,100,150,200,250,300", "--epochs", "2", "--attack-images", "5",
    "--cw", "max_iterations=20,binary_search_steps=2", "--ifgsm", "steps=4,tolerance=0.2", "--device", "cpu",
)  # fmt: skip
# MLflow's own limit on an answer is two minutes: a hanging server would be noticed only after that.
TIMEOUT_S = 10
PAUSE_S = 4.0


def endure(folder: Path, seconds: float, outage_s: float) -> dict[str, object]:
    """Run the study undisturbed, and through outages of ``outage_s`` each until they add up to ``seconds``.

    Returns:
        what was measured; ``different_cells`` are those whose numbers are not the undisturbed ones, to the bit.
    """
    (folder / "undisturbed").mkdir()
    (folder / "disturbed").mkdir()
    run_study(folder / "undisturbed", options=STUDY)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/undisturbed/mlflow.db")
    expected = numbers()
    port, place = free_port(), folder / "disturbed"
    outages: dict[str, float] = dict.fromkeys(DISTURBANCES, 0.0)
    with tracking_server(place, port), proxy_to(port) as proxy:
        began = time.monotonic()
        study = start_study(
            place,
            uri=f"http://127.0.0.1:{proxy.port}",
            options=STUDY,
            MLFLOW_HTTP_REQUEST_TIMEOUT=str(TIMEOUT_S),
        )
        log = place / "log.txt"
        while study.poll() is None and "cells on" not in log.read_text():
            time.sleep(0.2)  # until it has loaded its libraries and begins
        for disturbance in itertools.cycle(DISTURBANCES):
            if study.poll() is not None or sum(outages.values()) >= seconds:
                break
            proxy.disturb(disturbance, outage_s)
            outages[disturbance] += outage_s
            time.sleep(outage_s + PAUSE_S)
        status = study.wait(600)
        took_s = time.monotonic() - began
        mlflow.set_tracking_uri(f"http://127.0.0.1:{port}")
        found = numbers() if status == 0 else {}
        if status == 0:
            check_nothing_is_left_over(CELLS)
        shown = log.read_text()
    return {
        "outages_s": outages,
        "status": status,
        "took_s": round(took_s),
        "cells": len(found),
        "different_cells": [digest for digest in expected if found.get(digest) != expected[digest]],
        "times_waited": shown.count("is back after"),
        "tracebacks": shown.count("Traceback"),
        "log": shown[-3000:],
    }


def run() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300, help="how long the outages are together")
    parser.add_argument("--outage", type=float, default=20, help="how long each one is")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="outages-") as folder:
        found = endure(Path(folder), options.seconds, options.outage)
    print(json.dumps(found, indent=2))
    return int(bool(found["status"] or found["different_cells"]))


if __name__ == "__main__":
    sys.exit(run())
