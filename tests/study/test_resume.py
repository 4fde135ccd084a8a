"""Studies that are killed, as processes, and started again: what they end with is what an undisturbed one ends with."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from robustlab.study.checkpoint import load_training_state, save_training_state
from robustlab.study.store import StudyStore
from tests.study.interrupted import (
    SMALL,
    Study,
    all_runs,
    check_nothing_is_left_over,
    environment_of,
    free_port,
    kill_when,
    numbers,
    run_study,
    start_study,
    tracking_server,
)

CELLS = 4


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path
) -> tuple[dict[str, object], float]:
    """What a study that nobody disturbs measures, and how many seconds of a processor it takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copy(empty_store, folder / "mlflow.db")
    study, took_s = start_study(folder), 0.0
    while study.poll() is None:
        took_s = max(took_s, study.processor_s())
        time.sleep(0.02)
    assert study.wait() == 0, (folder / "log.txt").read_text()[-3000:]
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    found = numbers()
    mlflow.set_tracking_uri(before)
    assert len(found) == CELLS
    return dict(found), took_s


def kill_and_resume(store: Path, moments_s: list[float]) -> int:
    """Kill a study after each of these times of a processor, then let it end; returns how often it was killed."""
    killed = 0
    for moment_s in moments_s:
        study = start_study(store)
        killed += kill_when(study, lambda: study.processor_s() > moment_s)  # noqa: B023 - called at once
    run_study(store)
    return killed


def test_killed_at_random_moments(store: Path, undisturbed: tuple[dict[str, object], float]) -> None:
    """Killed twice (-9) while it works and resumed, it has the same cells and the same numbers."""
    expected, took_s = undisturbed
    draw = random.Random(6)
    moments_s = [draw.uniform(0.1, 0.9) * took_s for _ in range(2)]
    assert kill_and_resume(store, moments_s) >= 1
    assert numbers() == expected
    check_nothing_is_left_over(CELLS)
    assert len(all_runs("study")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_ten_more_random_moments(
    seed: int, store: Path, undisturbed: tuple[dict[str, object], float]
) -> None:
    """The same at ten further moments anywhere in the study's time, each on a store of its own."""
    expected, took_s = undisturbed
    kill_and_resume(store, [random.Random(seed).uniform(0.02, 1.0) * took_s])
    assert numbers() == expected
    check_nothing_is_left_over(CELLS)


def test_a_trained_cell_is_only_attacked(store: Path, undisturbed: tuple[dict[str, object], float]) -> None:
    """Killed when its first cell is trained: that cell's run goes on, with the weights it has."""
    client = MlflowClient()

    def one_is_trained() -> bool:
        return any(run.data.tags.get("robustlab.stage") == "trained" for run in all_runs("cell"))

    assert kill_when(start_study(store), one_is_trained)
    first = next(run for run in all_runs("cell") if run.data.tags.get("robustlab.stage") == "trained")
    trained_s = client.get_metric_history(first.info.run_id, "train_s")
    run_study(store)
    assert numbers() == undisturbed[0]
    run = client.get_run(first.info.run_id)
    assert run.info.status == "FINISHED"
    assert client.get_metric_history(first.info.run_id, "train_s") == trained_s, "trained once"
    assert {"owner.1", "owner.2"} <= set(run.data.params)
    # The same command once more finds all of it done.
    ends = {run.info.run_id: run.info.end_time for run in all_runs("cell")}
    run_study(store)
    assert {run.info.run_id: run.info.end_time for run in all_runs("cell")} == ends
    assert f"{CELLS} of {CELLS} cells were finished before" in (store / "log.txt").read_text()
    assert len(all_runs("study")) == 1


def test_a_training_under_way_is_taken_up(store: Path) -> None:
    """Killed in the middle of a training, the next process goes on from the kept state, to the same weights."""
    options = (
        "--models", "resnet", "--sizes", "400", "--epochs", "12", "--attack-images", "2", "--attacks", "ifgsm",
        "--ifgsm", "steps=2,tolerance=0.3", "--device", "cpu",
    )  # fmt: skip
    client = MlflowClient()

    def kept() -> list[Path]:
        folders = [
            Path(run.info.artifact_uri.removeprefix("file://")) / "progress" for run in all_runs("cell")
        ]
        return [path for folder in folders for path in folder.glob("*/training.json")]

    study = start_study(store, options=options, ROBUSTLAB_KEEP_STATE_S="0")
    assert kill_when(study, lambda: len(kept()) == 2)
    (run,) = all_runs("cell")
    assert "robustlab.stage" not in run.data.tags, "it was not trained yet"
    # A mark that ends up in the run only if the training goes on from here.
    states = [load_training_state(path.parent) for path in kept()]
    newest = max(states, key=lambda state: state.steps)
    with StudyStore(client.get_run(run.data.tags["robustlab.study"])).artifacts(
        run.info.run_id, "progress/0"
    ) as place:
        save_training_state(replace(newest, train_s=newest.train_s + 1000), place)
    run_study(store, options=options)
    (run,) = all_runs("cell")
    assert client.get_run(run.info.run_id).data.metrics["train_s"] > 1000
    # In a process of its own, as the study was: what other tests set in this one must not meet the comparison.
    again = Study(["reproduce", run.info.run_id, "--device", "cpu"], store, environment_of(store))
    assert again.wait(300) == 0, (store / "log.txt").read_text()[-3000:]


@pytest.mark.slow
def test_the_server_is_killed_and_comes_back(
    store: Path, undisturbed: tuple[dict[str, object], float]
) -> None:
    """The study waits, says so, and ends with the numbers of an undisturbed one."""
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with tracking_server(store, port):
        mlflow.set_tracking_uri(uri)
        study = start_study(store, uri=uri)
        until = time.monotonic() + 120
        while not any(run.data.tags.get("robustlab.stage") == "trained" for run in all_runs("cell")):
            assert study.poll() is None, (store / "log.txt").read_text()[-3000:]
            assert time.monotonic() < until
            time.sleep(0.1)
    time.sleep(8)  # nothing answers
    assert study.poll() is None, (store / "log.txt").read_text()[-3000:]
    with tracking_server(store, port):
        assert study.wait(300) == 0, (store / "log.txt").read_text()[-3000:]
        assert numbers() == undisturbed[0]
        check_nothing_is_left_over(CELLS)
    shown = (store / "log.txt").read_text()
    assert "does not answer" in shown
    assert "is back after" in shown


def workers_of(study: int) -> list[int]:
    """The processes that a study started to work for it."""
    children = Path(f"/proc/{study}/task/{study}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.slow
def test_a_process_for_each_device(store: Path, undisturbed: tuple[dict[str, object], float]) -> None:
    """Two workers measure what one process does; one that is killed is replaced, and none outlives its study."""
    study = start_study(store, "--device", "cpu,cpu")

    def trained(count: int) -> Callable[[], bool]:
        return lambda: sum("robustlab.stage" in run.data.tags for run in all_runs("cell")) >= count

    def begun() -> bool:
        return len([run for run in all_runs("cell") if "train_size" in run.data.params]) >= 2

    assert wait_for(begun, study)
    first = workers_of(study.pid)
    assert len(first) == 2
    os.kill(first[0], signal.SIGKILL)
    assert wait_for(lambda: len(set(workers_of(study.pid)) - {first[0]}) == 2, study)
    assert kill_when(study, trained(2), timeout_s=300)
    assert wait_for(lambda: not Path(f"/proc/{first[1]}").exists(), seconds=20)
    run_study(store, "--device", "cpu,cpu", timeout_s=500)
    assert numbers() == undisturbed[0]
    check_nothing_is_left_over(CELLS)


def wait_for(what: Callable[[], bool], study: Study | None = None, seconds: float = 300) -> bool:
    """Wait until it is so; False if the study ended before."""
    until = time.monotonic() + seconds
    while not what():
        if study is not None and study.poll() is not None:
            return False
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.05)
    return True


def test_two_at_once_share_the_work(store: Path, undisturbed: tuple[dict[str, object], float]) -> None:
    """Two identical studies started together end with one set of finished cells, and both see all of them."""
    both = [start_study(store), start_study(store)]
    assert [process.wait(300) for process in both] == [0, 0], (store / "log.txt").read_text()[-3000:]
    assert numbers() == undisturbed[0]
    check_nothing_is_left_over(CELLS)
    client = MlflowClient()
    for study in all_runs("study"):
        assert study.info.status == "FINISHED"
        assert len(client.get_metric_history(study.info.run_id, "l2/resnet")) == 2


def test_two_different_studies_at_once(store: Path, undisturbed: tuple[dict[str, object], float]) -> None:
    """Two users on one machine and one store: each study has its own cells, with the numbers that it has alone."""
    models = ("perceptron", "resnet")
    both = [start_study(store, options=[*SMALL, "--models", model]) for model in models]
    assert [process.wait(300) for process in both] == [0, 0], (store / "log.txt").read_text()[-3000:]
    assert numbers() == undisturbed[0]
    check_nothing_is_left_over(CELLS)
    studies = all_runs("study")
    assert sorted(study.data.tags["robustlab.models"] for study in studies) == sorted(models)
    for study in studies:
        cells = [run for run in all_runs("cell") if run.data.tags["mlflow.parentRunId"] == study.info.run_id]
        assert {run.data.params["model"] for run in cells} == {study.data.tags["robustlab.models"]}
        assert f"l2/{study.data.tags['robustlab.models']}" in study.data.metrics
