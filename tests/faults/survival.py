"""A small study that meets one fault, is started again, and has to end as the undisturbed one did.

    python -m tests.faults.survival --sample 30 --seed 1
    python -m tests.faults.survival --only create_model_version
    python -m tests.faults.survival --out faults.jsonl      (all of them; goes on where it was stopped)

Each study is a fork of this process, which has run one already: loading the libraries takes longer than the study.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlflow
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient

from robustlab.cli import main
from robustlab.study import conduct
from robustlab.study.artifacts import digests, fetch_files
from tests.faults.inject import Injector, Point, faults_at, read_points
from tests.forks import fork, wait_for
from tests.study.interrupted import all_runs, check_nothing_is_left_over, numbers

STUDY = (
    "study", "--models", "perceptron", "--sizes", "50,100", "--epochs", "2", "--attack-images", "3",
    "--cw", "max_iterations=10,binary_search_steps=1", "--ifgsm", "steps=3,tolerance=0.3", "--device", "cpu",
)  # fmt: skip
CELLS = 2
PARENT_FILES = {
    "packages.txt", "dataset.json", "attack_constants.json", "results.csv", "study.png", "study.svg", "report.html",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One fault at one point."""

    point: Point
    fault: str

    @property
    def name(self) -> str:
        """Unique among all cases of one code version."""
        return f"{self.point.number}-{self.fault}"

    def __str__(self) -> str:
        return f"{self.fault} at {self.point.number} ({self.point.kind} {self.point.name})"


class Faults:
    """Runs the small study with and without faults, each time on an empty store of its own.

    Args:
        folder: for the stores.
        empty_store: an MlflowClient's SQLite database without runs.
    """

    def __init__(self, folder: Path, empty_store: Path) -> None:
        self.folder, self.empty_store = folder, empty_store
        self.injector = Injector()
        conduct.draw_study = lambda *_: (
            Figure()
        )  # drawing it takes a third of the study and is not what fails
        place = self._place("undisturbed")
        self.injector.start(place, place / "points")
        status = in_folder(place, lambda: main(STUDY))
        self.injector.stop()
        if status:
            raise AssertionError(f"the undisturbed study ended with {status}")
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
        mlflow.tracking.fluent._active_experiment_id = None
        self.points = read_points(place / "points")
        self.undisturbed = self._outcome(place)
        if "wrong" in self.undisturbed:
            raise AssertionError(self.undisturbed["wrong"])

    def cases(self) -> list[Case]:
        """Every fault at every point that leaves a state of its own."""
        return [Case(point, fault) for point in self.points for fault in faults_at(point)]

    def sample(self, count: int, seed: int) -> list[Case]:
        """So many cases, each (kind, fault) about as often as the others."""
        draw = random.Random(seed)
        groups: dict[tuple[str, str], list[Case]] = {}
        for case in self.cases():
            groups.setdefault((case.point.kind, case.fault), []).append(case)
        for group in groups.values():
            draw.shuffle(group)
        ordered = [case for row in itertools.zip_longest(*groups.values()) for case in row if case]
        return ordered[:count]

    def survive(self, case: Case) -> str:
        """Inject the fault and start the study again; returns what is wrong then, nothing if it survived."""
        place = self._place(case.name)
        struck = place / "struck"

        def faulty() -> int:
            self.injector.start(place, struck, case.point.number, case.fault)
            return main(STUDY)

        status = forked(place, faulty)
        wrong = ""
        met = read_points(struck)
        if not met or met[0].kind != case.point.kind:
            wrong = f"the fault was injected elsewhere: {met}"
        elif status not in (0, 2) and not (status < 0 and case.fault in ("kill", "cut")):
            wrong = f"ended with {status}"
        elif status == 2 and not log_of(place).splitlines()[-1].startswith("robustlab: "):
            wrong = "status 2 without a line that says why"
        if not wrong and status != 0:
            status = forked(place, lambda: main(STUDY))
            wrong = f"started again, it ended with {status}" if status else ""
        if not wrong:
            found = self._outcome(place)
            different = [key for key in self.undisturbed if found.get(key) != self.undisturbed[key]]
            wrong = str(found.get("wrong") or (f"other results: {different}" if different else ""))
        if wrong:
            return f"{case}: {wrong}\n{log_of(place)[-3000:]}"
        shutil.rmtree(place)
        return ""

    def _place(self, name: str) -> Path:
        place = self.folder / name
        (place / "tmp").mkdir(parents=True)
        shutil.copy(self.empty_store, place / "mlflow.db")
        return place

    def _outcome(self, place: Path) -> dict[str, object]:
        answer = place / "outcome.json"

        def look() -> int:
            answer.write_text(json.dumps(outcome()))
            return 0

        if forked(place, look):
            return {"wrong": f"what it left cannot be read: {log_of(place)}"}
        found: dict[str, object] = json.loads(answer.read_text())
        return found


def outcome() -> dict[str, object]:
    """All that the current store holds of the study, checked to be whole."""
    check_nothing_is_left_over(CELLS)
    client = MlflowClient()
    studies = [run for run in all_runs("study") if run.info.status == "FINISHED"]
    assert len(studies) == 1, f"{len(studies)} finished studies"
    curves = {
        key: [(point.step, point.value) for point in client.get_metric_history(studies[0].info.run_id, key)]
        for key in studies[0].data.metrics
    }
    for run in [*studies, *(run for run in all_runs("cell") if run.info.status == "FINISHED")]:
        root = fetch_files(client, run, "", Path())
        # What a killed process was uploading has a name that MLflow never shows.
        shown = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        shown = {path for path in shown if not path.rpartition("/")[2].startswith(".artifact.uploading.")}
        assert shown == set(digests(run, "")), "a file without its digest"
    assert set(digests(studies[0], "")) >= PARENT_FILES
    models = client.search_registered_models()
    aliases = {alias: str(version) for model in models for alias, version in model.aliases.items()}
    return {"cells": numbers(), "curves": curves, "aliases": sorted(aliases)}


def forked(place: Path, action: Callable[[], int]) -> int:
    """Run in a fork of this process on the store in ``place``; returns its exit status, -9 if it was killed."""
    return wait_for(fork(lambda: in_folder(place, action), place / "log.txt"))


def in_folder(place: Path, action: Callable[[], int]) -> int:
    """Run on the store in ``place``, with all temporary files below it."""
    os.chdir(place)
    tempfile.tempdir = str(place / "tmp")
    mlflow.set_tracking_uri(f"sqlite:///{place}/mlflow.db")
    return action()


def log_of(place: Path) -> str:
    """What the studies on the store in ``place`` printed."""
    return (place / "log.txt").read_text()


def run() -> int:
    """The command line; ends with 0 if every fault was survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=0, help="so many cases, evenly over the kinds; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", default="", help="only at points of this name, say a file or a call of MLflow"
    )
    parser.add_argument(
        "--out", type=Path, help="a line of JSON per case; those that it has are not done again"
    )
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, contextlib.chdir(folder):
        empty = Path(folder) / "empty.db"
        mlflow.set_tracking_uri(f"sqlite:///{empty}")
        MlflowClient().search_experiments()
        faults = Faults(Path(folder) / "studies", empty)
        cases = faults.sample(options.sample or len(faults.cases()), options.seed)
        cases = [case for case in cases if options.only in ("", case.point.name)]
        done = set()
        if options.out and options.out.exists():
            done = {json.loads(line)["case"] for line in options.out.read_text().splitlines()}
        failed = 0
        for number, case in enumerate(cases, start=1):
            if case.name in done:
                continue
            wrong = faults.survive(case)
            failed += bool(wrong)
            print(f"{number} of {len(cases)}: {case}: {wrong or 'survived'}", flush=True)
            if options.out:
                with options.out.open("a") as file:
                    line = {"case": case.name, "kind": case.point.kind, "fault": case.fault, "wrong": wrong}
                    file.write(json.dumps(line) + "\n")
        print(f"{len(faults.points)} points, {len(cases)} faults injected, {failed} not survived")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run())
