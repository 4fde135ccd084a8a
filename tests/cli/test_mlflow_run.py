"""`mlflow run` as users type it: real processes, from this checkout, from a changed clone, from a git address."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from robustlab.data import load_dataset
from robustlab.study.model_log import load_logged_model
from robustlab.training import correctly_classified

PROJECT = Path(__file__).resolve().parents[2]
SMALL = {
    "models": "perceptron,resnet+aug",
    "sizes": "100,200",
    "epochs": "3",
    "attack_images": "6",
    "cw": "max_iterations=30",
    "ifgsm": "steps=5",
}


def mlflow_run(
    project: str | Path, store: Path, *arguments: str, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run ``mlflow run`` in a process of its own, with the interpreter that runs the tests."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "mlflow", "run", str(project), "--env-manager=local", *arguments]
    return subprocess.run(
        command, cwd=store, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def parameters(values: dict[str, str]) -> list[str]:
    """The values as -P options."""
    return [part for key, value in values.items() for part in ("-P", f"{key}={value}")]


def only_run(kind: str) -> Run:
    """The one run of that kind."""
    runs = mlflow.search_runs(
        search_all_experiments=True, output_format="list", filter_string=f"tags.`robustlab.kind` = '{kind}'"
    )
    assert len(runs) == 1
    return runs[0]


def tracked_copy(destination: Path) -> Path:
    """The project's own files, and none of what other processes write and delete beside them meanwhile."""
    command = ["git", "-C", str(PROJECT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (PROJECT / name).is_file():
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, destination / name)
    return destination


def test_study_then_report_then_attack(store: Path) -> None:
    """The study's own run is the one that MLflow made; its results can be reported and its models attacked."""
    done = mlflow_run(PROJECT, store, "--experiment-name", "mine", *parameters(SMALL))
    assert done.returncode == 0, done.stderr
    for line in (
        "cells 1/4 done",
        "resnet+aug",
        "study.png",
        "report.html",
        "turn down?",
        "mlflow ui --backend-store-uri sqlite:///",
    ):
        assert line in done.stdout
    study = only_run("study")
    client = MlflowClient()
    assert client.get_experiment(study.info.experiment_id).name == "mine"
    assert study.data.params["models"] == SMALL["models"]
    assert study.data.params["grid.sizes"] == "100,200"
    assert study.data.tags["robustlab.code"] == str(PROJECT / "robustlab")
    cells = client.search_runs([study.info.experiment_id], f"tags.`robustlab.study` = '{study.info.run_id}'")
    assert len(cells) == 4
    assert all(cell.data.metrics["l2_success_rate"] == 1.0 for cell in cells)

    report = mlflow_run(PROJECT, store, "-e", "report", "-P", f"out={store}/again")
    assert report.returncode == 0, report.stderr
    assert (store / "again" / "study.png").stat().st_size > 10_000
    assert "Where does robustness turn down?" in report.stdout
    assert "6 images are too few to test" in (store / "again" / "report.html").read_text()
    original = Path(study.info.artifact_uri.removeprefix("file://")) / "results.csv"
    assert sorted((store / "again" / "results.csv").read_text().split()) == sorted(
        original.read_text().split()
    )

    model = "models:/digits-resnet-aug/2"
    attack = mlflow_run(PROJECT, store, "-e", "attack", *parameters({"model": model, "images": "4"}))
    assert attack.returncode == 0, attack.stderr
    assert "linf" in attack.stdout
    assert only_run("attack").data.metrics["l2_success_rate"] == 1.0


def test_linear_and_train(store: Path) -> None:
    """The small verbs log one run each."""
    linear = mlflow_run(PROJECT, store, "-e", "linear")
    assert linear.returncode == 0, linear.stderr
    run = only_run("linear")
    assert round(run.data.metrics["M1.mse"], 4) == 0.0450
    assert round(run.data.metrics["M2.mse"], 4) == 0.0396
    train = mlflow_run(PROJECT, store, "-e", "train", *parameters({"models": "perceptron", "epochs": "1"}))
    assert train.returncode == 0, train.stderr
    assert only_run("cell").data.params["train_size"] == "1200"


TUNE = {
    "model": "perceptron",
    "attack": "ifgsm",
    "sizes": "100,200,300",
    "epochs": "3",
    "images": "6",
    "trials": "3",
    "reference": "default",
    "search": "passes=10:60,step_size",
}


def test_tune_then_study_with_what_was_found(store: Path) -> None:
    """`-e tune` tunes in the run that MLflow made; `-P constants=runs:/...` hands the result to a study."""
    tuned = mlflow_run(PROJECT, store, "-e", "tune", *parameters(TUNE))
    assert tuned.returncode == 0, tuned.stderr
    run = only_run("tuning")
    for line in ("untuned", "tuned", "best ", f"robustlab study --constants runs:/{run.info.run_id}"):
        assert line in tuned.stdout
    assert run.data.params["trials"] == TUNE["trials"]
    source = f"runs:/{run.info.run_id}"
    done = mlflow_run(
        PROJECT,
        store,
        *parameters({**SMALL, "models": "perceptron", "sizes": "100", "constants": source, "ifgsm": "auto"}),
    )
    assert done.returncode == 0, done.stderr
    assert only_run("study").data.params["constants.ifgsm"] == source


def test_a_changed_clone_runs_its_own_code_and_kernels(store: Path) -> None:
    """Though another copy is installed, what lies beside MLproject runs, kernels included."""
    clone = tracked_copy(store / "clone")
    version = clone / "robustlab" / "__init__.py"
    version.write_text(version.read_text().replace('__version__ = "', '__version__ = "9.'))
    kernels = clone / "kernels" / "robustlab_kernels" / "__init__.py"
    kernels.write_text(kernels.read_text() + '\nprint("these are the kernels of the clone")\n')
    done = mlflow_run(clone, store, *parameters({**SMALL, "models": "perceptron", "sizes": "100"}))
    assert done.returncode == 0, done.stderr
    assert "these are the kernels of the clone" in done.stdout
    tags = only_run("study").data.tags
    assert tags["robustlab.version"].startswith("9.")
    assert tags["robustlab.code"] == str(clone / "robustlab")


def test_bad_parameters_fail_the_run_in_one_line(store: Path) -> None:
    """MLflow's own run is marked as failed and holds nothing else."""
    done = mlflow_run(PROJECT, store, "-P", "models=vgg; touch injected", "-P", "sizes=$(touch injected)")
    assert done.returncode != 0
    assert (
        "robustlab: unknown model 'vgg; touch injected'" in done.stderr or "robustlab: --sizes" in done.stderr
    )
    assert "Traceback" not in done.stderr.split("robustlab:")[1].split("mlflow.cli")[0]
    assert not list(store.rglob("injected"))
    assert not (PROJECT / "injected").exists()
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert [run.info.status for run in runs] == ["FAILED"]


@contextmanager
def git_server(repository: Path) -> Iterator[str]:
    """Serve a repository at a git:// address of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["git", "daemon", "--export-all", f"--base-path={repository.parent}", "--listen=127.0.0.1"]
    server = subprocess.Popen([*command, f"--port={port}"], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"git://127.0.0.1:{port}/{repository.name}"
    finally:
        server.terminate()
        server.wait()


def test_a_git_address(store: Path) -> None:
    """MLflow fetches the project itself and the fetched code runs."""
    clone = tracked_copy(store / "source")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.invalid", "-C", str(clone)]
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *arguments], check=True)
    with git_server(clone) as address:
        done = mlflow_run(address, store, *parameters({**SMALL, "models": "perceptron", "sizes": "100"}))
    assert done.returncode == 0, done.stderr
    code = only_run("study").data.tags["robustlab.code"]
    assert not code.startswith(str(PROJECT))
    assert "mlflow.source.git.commit" in only_run("cell").data.tags


@pytest.mark.slow
def test_the_default_study_keeps_its_promises(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `make study` runs: every cell with both scores, full success, a model that loads and is as accurate."""
    done = mlflow_run(PROJECT, store, timeout_s=1200)
    assert done.returncode == 0, done.stderr
    study = only_run("study")
    client = MlflowClient()
    for curve in ("l2/resnet", "linf/simple_cnn", "test_accuracy/perceptron"):
        assert len(client.get_metric_history(study.info.run_id, curve)) == 8
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_ALLOW_MODEL_CODE_EXECUTION", "false")
    digits = load_dataset("digits")
    names = [f"digits-{model}" for model in ("perceptron", "simple_cnn", "resnet")]
    versions = [v for name in names for v in client.search_model_versions(f"name = '{name}'")]
    assert len(versions) == 24
    for version in versions:
        metrics = client.get_run(version.run_id).data.metrics
        assert metrics["l2_success_rate"] == metrics["linf_success_rate"] == 1.0
        assert 0 < metrics["linf"] < metrics["l2"]
        assert metrics["attacked_images"] == 100
        model = load_logged_model(f"models:/{version.name}/{version.version}")
        assert correctly_classified(model, digits.test).double().mean().item() == metrics["test_accuracy"]
    last = {v.name: float(v.tags["test_accuracy"]) for v in versions if v.tags["train_size"] == "1200"}
    assert min(last.values()) > 0.95


_HOSTILE = (
    "$(touch {0})", "`touch {0}`", "; touch {0}", "| touch {0}", "&& touch {0}", "|| touch {0}", "' ; touch {0} ; '",
    "\" ; touch {0} ; \"", "\n touch {0}\n", "> {0}", "x}} ; touch {0} ; {{x", "$IFS;touch {0}", "--help; touch {0}",
    "\\'; touch {0}; #", "$(touch${{IFS}}{0})", "<(touch {0})", "& touch {0} &",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["main", "tune"])
def test_values_cannot_inject_shell(entry: str, store: Path) -> None:
    """Hostile values in every text parameter at once: refused in one line, and no file that they would have made."""
    text = [
        line.strip() for line in (PROJECT / "MLproject").read_text().split(f"  {entry}:\n")[1].splitlines()
    ]
    stop = next(index for index, line in enumerate(text) if line.startswith("command"))
    names = [line.split(":")[0] for line in text[1:stop] if "type: string" in line]
    assert len(names) > 8
    values = {
        name: _HOSTILE[number % len(_HOSTILE)].format(f"pwned-{name}") for number, name in enumerate(names)
    }
    done = mlflow_run(PROJECT, store, "-e", entry, *parameters(values))
    assert done.returncode != 0
    assert "robustlab: " in done.stderr
    assert "Traceback" not in done.stderr.partition("robustlab: ")[0]
    assert [*store.rglob("*pwned*"), *PROJECT.glob("*pwned*"), *PROJECT.glob("*/pwned*")] == []
