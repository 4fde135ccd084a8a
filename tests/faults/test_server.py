"""An MLflow server that is away, slow or cuts answers off, through a real proxy process: the study waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from robustlab.cli import main
from robustlab.study.conduct import conduct_study
from robustlab.study.plan import StudyPlan
from robustlab.study.runner import StudyProgress
from tests.conftest import forget_experiment
from tests.faults.outages import CELLS, endure
from tests.faults.proxy import ProxyProcess, proxy_to
from tests.faults.survival import STUDY
from tests.study.interrupted import (
    all_runs,
    check_nothing_is_left_over,
    free_port,
    numbers,
    tracking_server,
)
from tests.study.test_study import small_plan

# One outage for each stage that the first cells of the small study reach.
OUTAGES = {
    (100, "training"): "reset",
    (100, "logging"): "cut",
    (200, "training"): "error",
    (200, "logging"): "refuse",
    (100, "cw"): "hang",
}
OUTAGE_S = 1.5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[int]:
    """The port of an MLflow server with a store of its own."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    port = free_port()
    with tracking_server(folder, port):
        yield port


def plan() -> StudyPlan:
    """Two cells."""
    return small_plan(seeds=[0], epochs=2, device=torch.device("cpu"))


def at(proxy: ProxyProcess) -> None:
    """Log to the server behind the proxy from now on."""
    forget_experiment()
    mlflow.set_tracking_uri(f"http://127.0.0.1:{proxy.port}")


def test_a_server_that_fails_in_every_way(store: Path, server: int) -> None:
    """Reset, refused and hanging connections, errors 500 and answers cut off: waited for, and the same numbers."""
    conduct_study(plan())
    expected = numbers()
    lines: list[str] = []
    left = dict(OUTAGES)
    with proxy_to(server) as proxy:
        at(proxy)

        def disturb(progress: StudyProgress) -> None:
            outage = left.pop((progress.cell.train_size, progress.stage), None)
            if outage:
                proxy.disturb(outage, OUTAGE_S)

        conduct_study(plan(), on_progress=disturb, tell=lines.append)
        assert not left
        assert numbers() == expected
        check_nothing_is_left_over(2)
    assert any("does not answer" in line and "trying again" in line for line in lines), lines
    assert any("is back after" in line for line in lines), lines


def test_a_server_that_stays_away(
    store: Path, server: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the limit one line and status 2, soon; what was stored is kept, and the same command ends the study."""
    command = [*STUDY, "--seeds", "7"]
    monkeypatch.setenv("ROBUSTLAB_STORE_PATIENCE_S", "1")
    with proxy_to(server) as proxy:
        at(proxy)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "stays away")
        show = "robustlab.cli.progress.StudyDisplay.show"

        def vanish(_: object, progress: StudyProgress) -> None:
            if (progress.cell.train_size, progress.stage) == (100, "logging"):
                proxy.disturb("refuse", 600)

        with monkeypatch.context() as watched:
            watched.setattr(show, vanish)
            assert main(command) == 2
        captured = capsys.readouterr()
        assert "trying again, for 1 s at most" in captured.out
        assert captured.err.count("\n") == 1
        assert "give the same command again: what was finished is kept" in captured.err
        proxy.disturb("pass", 0)
        monkeypatch.setenv("ROBUSTLAB_STORE_PATIENCE_S", "60")
        assert main(command) == 0, capsys.readouterr()
        finished = [run for run in all_runs("cell") if run.data.tags["robustlab.seed"] == "7"]
        assert sorted(run.info.status for run in finished) == ["FINISHED", "FINISHED"]
        first = min(finished, key=lambda run: int(run.data.params["train_size"]))
        history = MlflowClient().get_metric_history(first.info.run_id, "train_s")
        assert len(history) == 1, "trained before the server went, and not again"


@pytest.mark.slow
def test_half_a_minute_of_outages(tmp_path: Path) -> None:
    """A study as its own process, disturbed in turn by all that the proxy can do: 12 cells with the same numbers."""
    found = endure(tmp_path, seconds=30, outage_s=6)
    assert found["status"] == 0, found["log"]
    assert (found["cells"], found["different_cells"], found["tracebacks"]) == (CELLS, [], 0)
    assert found["times_waited"]
