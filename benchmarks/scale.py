"""How a store with many finished cells slows things down, and how a second Ray node speeds a study up.

    PYTHONPATH=.:kernels python -m benchmarks.scale store --uri sqlite:////tmp/scale/mlflow.db --cells 10000
    PYTHONPATH=.:kernels python -m benchmarks.scale nodes

``store`` runs one small study, copies its cells' rows until the store holds that many, and times a resumed study,
``status`` and ``report`` as whole processes. ``nodes`` times a grid of cells that sleep instead of computing on one and
on two Ray nodes of this machine, with an MLflow server between them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy

SIZES = [100 * step for step in range(1, 12)]
STUDY = [
    "study", "--models", "perceptron", "--sizes", ",".join(map(str, SIZES)), "--seeds", "0,1,2,3,4,5", "--epochs", "1",
    "--attack-images", "100", "--cw", "max_iterations=10,binary_search_steps=1", "--ifgsm", "steps=3,tolerance=0.3",
    "--device", "cpu",
]  # fmt: skip
CELLS_A_STUDY = 66
# Tables whose rows belong to a run, with the column that names it.
TABLES = {"tags": "run_uuid", "params": "run_uuid", "metrics": "run_uuid", "latest_metrics": "run_uuid"}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    store = verbs.add_parser("store")
    store.add_argument("--uri", required=True, help="database of the MLflow store; made where it is empty")
    store.add_argument("--cells", type=int, default=10_000)
    store.add_argument("--repeats", type=int, default=3)
    nodes = verbs.add_parser("nodes")
    nodes.add_argument("--sleep-s", type=float, default=2.0, help="seconds that each stage of a cell sleeps")
    nodes.add_argument("--cells", type=int, default=12)
    verbs_alone = verbs.add_parser("verbs", help="time the verbs on a store that is there already")
    verbs_alone.add_argument("--uri", required=True)
    verbs_alone.add_argument("--repeats", type=int, default=5)
    verbs_alone.add_argument(
        "--code", action="append", help="checkouts to compare, in turn; this one if none is given"
    )
    chosen = parser.parse_args(arguments)
    if chosen.verb == "store":
        print(json.dumps(measure_store(chosen.uri, chosen.cells, chosen.repeats), indent=2))
    elif chosen.verb == "verbs":
        print(json.dumps(compare_verbs(chosen.uri, chosen.repeats, chosen.code or ["."]), indent=2))
    else:
        from benchmarks.scale_nodes import measure_nodes

        print(json.dumps(measure_nodes(chosen.sleep_s, chosen.cells), indent=2))


def measure_store(uri: str, cells: int, repeats: int) -> dict[str, Any]:
    """Times [s] of the three verbs, each the median of ``repeats``, before and after the store is filled."""
    began = time.perf_counter()
    robustlab(uri, *STUDY)
    first_s = time.perf_counter() - began
    empty = verbs_s(uri, repeats)
    began = time.perf_counter()
    engine = sqlalchemy.create_engine(uri)
    rows = fill(engine, cells)
    fill_s = time.perf_counter() - began
    size_bytes = database_bytes(engine, uri)
    engine.dispose()
    return {
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "store": uri.partition(":")[0],
        "cells": cells,
        "rows_a_cell": rows,
        "database_bytes_a_cell": size_bytes / cells,
        "first_study_s": first_s,
        "fill_s": fill_s,
        "with_66_cells_s": empty,
        "with_all_cells_s": verbs_s(uri, repeats),
    }


def compare_verbs(uri: str, repeats: int, code: Sequence[str]) -> dict[str, Any]:
    """The verbs of several checkouts on one store, in turn, so that whatever else the machine does meets all."""
    rounds: dict[str, list[dict[str, float]]] = {checkout: [] for checkout in code}
    for _ in range(repeats):
        for checkout in code:
            rounds[checkout].append(verbs_s(uri, 1, checkout))
    return {
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "repeats": repeats,
        "checkouts": {
            checkout: {
                name: {
                    "median": round(statistics.median(one[name] for one in found), 2),
                    "least": min(one[name] for one in found),
                    "most": max(one[name] for one in found),
                }
                for name in found[0]
            }
            for checkout, found in rounds.items()
        },
    }


def verbs_s(uri: str, repeats: int, checkout: str | None = None) -> dict[str, float]:
    """Median wall-clock seconds of each verb as a whole process, and processor seconds under the name with "_cpu".

    "start" ends where a study knows what is done.
    """
    commands = {
        "version": ["version"],
        "resumed_study": STUDY,
        "status": ["status", "--once"],
        "report": ["report", "--out", tempfile.mkdtemp(prefix="scale-report-")],
    }
    cpu = {f"{name}_cpu": [] for name in commands}
    times: dict[str, list[float]] = {**{name: [] for name in (*commands, "resumed_study_start")}, **cpu}
    for _ in range(repeats):
        for name, command in commands.items():
            began, cpu_began = time.perf_counter(), _children_cpu_s()
            known_s = robustlab(uri, *command, checkout=checkout)
            times[name].append(time.perf_counter() - began)
            times[f"{name}_cpu"].append(_children_cpu_s() - cpu_began)
            if name == "resumed_study":
                times["resumed_study_start"].append(known_s)
    return {name: round(statistics.median(found), 2) for name, found in times.items()}


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def robustlab(uri: str, *arguments: str, checkout: str | None = None) -> float:
    """Run a verb; returns the seconds until it said what was finished before (0 if it does not)."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    if checkout is not None:
        environment["PYTHONPATH"] = (
            f"{Path(checkout).resolve()}{os.pathsep}{Path(checkout).resolve() / 'kernels'}"
        )
    began, known_s, lines = time.perf_counter(), 0.0, []
    command = [sys.executable, "-m", "robustlab", *arguments]
    # There, because Python looks for a module in the current folder before it looks along PYTHONPATH.
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, cwd=checkout
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "were finished before" in line:
                known_s = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"robustlab {' '.join(arguments)} ended with {process.returncode}: {''.join(lines)[-2000:]}")
    return known_s


def fill(engine: sqlalchemy.Engine, cells: int) -> dict[str, int]:
    """Copy the rows of the newest study's cells, as cells of other studies, until there are so many; rows a cell."""
    tables = sqlalchemy.MetaData()
    tables.reflect(engine, only=["runs", *TABLES])
    with engine.connect() as connection:
        templates = _templates(connection, tables)
    done = len(templates)
    while done < cells:
        study = uuid.uuid4().hex
        new: dict[str, list[dict[str, Any]]] = {name: [] for name in ("runs", *TABLES)}
        for template in templates[: cells - done]:
            run_id = uuid.uuid4().hex
            new["runs"].append({**template["runs"][0], "run_uuid": run_id})
            for name, column in TABLES.items():
                new[name] += [_other(row, name, column, run_id, study) for row in template[name]]
        with engine.begin() as connection:
            for name, rows in new.items():
                connection.execute(tables.tables[name].insert(), rows)
        done += len(new["runs"])
    return {name: len(rows) for name, rows in templates[0].items()}


def _templates(
    connection: sqlalchemy.Connection, tables: sqlalchemy.MetaData
) -> list[dict[str, list[dict[str, Any]]]]:
    tags = tables.tables["tags"]
    cells = connection.execute(
        sqlalchemy.select(tags.c.run_uuid).where(tags.c.key == "robustlab.kind", tags.c.value == "cell")
    ).scalars()
    found = []
    for run_id in list(cells):
        rows = {"runs": tables.tables["runs"], **{name: tables.tables[name] for name in TABLES}}
        found.append(
            {
                name: [
                    dict(row)
                    for row in connection.execute(
                        sqlalchemy.select(table).where(table.c.run_uuid == run_id)
                    ).mappings()
                ]
                for name, table in rows.items()
            }
        )
    return found


def _other(row: dict[str, Any], table: str, column: str, run_id: str, study: str) -> dict[str, Any]:
    """The row for another run; digests and parents are those of another study."""
    changed = {**row, column: run_id}
    if table == "tags" and row["key"] in ("robustlab.cell", "robustlab.curve"):
        changed["value"] = (study + row["value"])[-16:][::-1] + study[:4]
    if table == "tags" and row["key"] in ("mlflow.parentRunId", "robustlab.study"):
        changed["value"] = study
    return changed


def database_bytes(engine: sqlalchemy.Engine, uri: str) -> int:
    """What the database takes on disk."""
    if uri.startswith("sqlite"):
        return Path(uri.removeprefix("sqlite:///")).stat().st_size
    with engine.connect() as connection:
        return int(
            connection.execute(sqlalchemy.text("SELECT pg_database_size(current_database())")).scalar_one()
        )


if __name__ == "__main__":
    main()
