"""What a finished study leaves for later: names in the registry, models to load, cells to do again, a status."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.torch import save_file

import robustlab
from robustlab.cli import main
from robustlab.data import load_dataset
from robustlab.errors import InputError
from robustlab.study.load import load_library_model
from robustlab.study.registry import set_aliases
from robustlab.study.report import judge_studies, read_study
from robustlab.study.store import StudyStore
from robustlab.training import correctly_classified, to_inputs
from tests.conftest import forget_experiment

OPTIONS = [
    "--models", "perceptron", "--sizes", "50,100", "--epochs", "3", "--attack-images", "4",
    "--cw", "max_iterations=20,binary_search_steps=2", "--ifgsm", "steps=4,tolerance=0.2", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A store with one finished study, in one place for the tests of this file that only read."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(empty_store, folder / "mlflow.db")
    forget_experiment()
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["study", *OPTIONS]) == 0
    forget_experiment()
    mlflow.set_tracking_uri(before)
    return folder


@pytest.fixture
def studied(study_folder: Path, store: Path) -> Path:
    """The finished study as the current store."""
    mlflow.set_tracking_uri(f"sqlite:///{study_folder}/mlflow.db")
    return study_folder


def cells() -> list[Run]:
    """The study's cells, the smaller size first."""
    runs = mlflow.search_runs(
        search_all_experiments=True, output_format="list", filter_string="tags.`robustlab.kind` = 'cell'"
    )
    return sorted(runs, key=lambda run: int(run.data.params["train_size"]))


def test_versions_say_what_they_are_and_aliases_name_the_best(studied: Path) -> None:
    """Aliases point at the versions whose measured numbers are the largest; tags and description hold the numbers."""
    client = MlflowClient()
    runs = {run.info.run_id: run for run in cells()}
    versions = {v.run_id: v for v in client.search_model_versions("name = 'digits-perceptron'")}
    assert set(versions) == set(runs)
    for run_id, run in runs.items():
        tags = versions[run_id].tags
        for key in ("test_accuracy", "l2", "linf"):
            assert float(tags[key]) == pytest.approx(run.data.metrics[key], abs=1e-6)
        assert int(tags["common_correct_images"]) == run.data.metrics["common_correct_images"]
        assert tags["subset_digest"] == run.inputs.dataset_inputs[0].dataset.digest
        assert "learning rate 0.02" in tags["recipe"]
        assert f"{run.data.metrics['test_accuracy']:.2%}" in versions[run_id].description
    for alias, metric in (
        ("most-accurate", "test_accuracy"),
        ("most-robust-l2", "l2"),
        ("most-robust-linf", "linf"),
    ):
        meant = client.get_model_version_by_alias("digits-perceptron", alias)
        assert runs[meant.run_id].data.metrics[metric] == max(
            run.data.metrics[metric] for run in runs.values()
        )
    for size in ("50", "100"):
        meant = client.get_model_version_by_alias("digits-perceptron", f"size-{size}")
        assert runs[meant.run_id].data.params["train_size"] == size
    assert "turning-point-l2" not in client.get_registered_model("digits-perceptron").aliases


def test_a_turning_point_has_a_name_while_a_study_finds_one(studied: Path, tmp_path: Path) -> None:
    """The alias points at the peak's version, of the smallest seed, for its norm alone; without one it goes."""
    mlflow.set_tracking_uri(f"sqlite:///{shutil.copy(studied / 'mlflow.db', tmp_path / 'copy.db')}")
    client = MlflowClient()
    store = StudyStore(client.get_run(cells()[0].data.tags["robustlab.study"]))
    studies = [read_study(client, client.get_run(store.parent_run_id))]
    results, judgement = list(studies[0].results), judge_studies(studies)
    (key,) = (key for key in judgement.verdicts if key.norm == "linf")
    evidence = judgement.verdicts[key].evidence
    assert evidence is not None
    turned = replace(judgement.verdicts[key], kind="turning point", evidence=replace(evidence, peak=50))
    set_aliases(store, results, replace(judgement, verdicts={**judgement.verdicts, key: turned}))
    meant = client.get_model_version_by_alias("digits-perceptron", "turning-point-linf")
    assert meant.run_id == cells()[0].info.run_id, "trained on 50 images"
    assert "turning-point-l2" not in client.get_registered_model("digits-perceptron").aliases
    set_aliases(store, results, judgement)
    assert not [
        name for name in client.get_registered_model("digits-perceptron").aliases if "turning" in name
    ]
    assert client.get_model_version_by_alias("digits-perceptron", "size-50").run_id == meant.run_id


@pytest.mark.filterwarnings("ignore::UserWarning:torch.export")
def test_models_load_by_every_address_and_have_input_gradients(studied: Path) -> None:
    """Alias, version, run, logged model, folder: the same logits to the bit, and gradients that are not zero."""
    run = cells()[1]
    version = MlflowClient().get_model_version_by_alias("digits-perceptron", "size-100").version
    folder = Path(MlflowClient().download_artifacts(run.info.run_id, "checkpoint"))
    inputs = to_inputs(load_dataset("digits").test.images[:5])
    expected = robustlab.load_model(str(folder))(inputs)
    addresses = [
        "models:/digits-perceptron@size-100",
        f"models:/digits-perceptron/{version}",
        f"runs:/{run.info.run_id}",
        f"runs:/{run.info.run_id}/model",
        f"models:/{run.data.tags['robustlab.model_id']}",
    ]
    for address in addresses:
        model = robustlab.load_model(address)
        images = inputs.clone().requires_grad_()
        logits = model(images)
        assert torch.equal(logits, expected), address
        (gradient,) = torch.autograd.grad(logits.square().sum(), images)
        assert gradient.flatten(1).abs().amax(dim=1).min() > 0


def test_altered_or_unknown_models_are_refused(studied: Path, tmp_path: Path) -> None:
    """A checkpoint with one changed byte, a truncated one, an unknown alias or run: said, nothing loaded."""
    source = Path(MlflowClient().download_artifacts(cells()[0].info.run_id, "checkpoint"))
    altered = Path(shutil.copytree(source, tmp_path / "altered"))
    content = bytearray((altered / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (altered / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="truncated or altered"):
        robustlab.load_model(str(altered))
    (altered / "model.safetensors").write_bytes(content[:100])
    with pytest.raises(InputError, match="truncated or altered"):
        robustlab.load_model(str(altered))
    for address in (
        "models:/digits-perceptron@absent",
        "models:/absent@size-50",
        "runs:/" + 32 * "0",
        "/nowhere",
    ):
        with pytest.raises(InputError, match="cannot load the model"):
            robustlab.load_model(address)


def test_a_cell_can_be_done_again(studied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the same machine weights and distances are equal to the bit; nothing is written."""
    run = cells()[1]
    assert main(["reproduce", run.info.run_id, "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "equal to the bit" in shown
    for word in ("training images", "weights", "l2 distances", "linf distances"):
        assert word in shown
    assert len(cells()) == 2, "nothing was written"


def test_reproduce_tells_differences(
    studied: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Where the stored weights are others than what comes out again, the exit status is 1 and the table shows it."""
    database = shutil.copy(studied / "mlflow.db", tmp_path / "copy.db")
    run = cells()[0]
    artifacts = Path(shutil.copytree(run.info.artifact_uri.removeprefix("file://"), tmp_path / "artifacts"))
    import sqlite3

    with sqlite3.connect(database) as connection:
        connection.execute(
            "UPDATE params SET value = '2' WHERE key = 'recipe.epochs' AND run_uuid = ?", (run.info.run_id,)
        )
        connection.execute(
            "UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (str(artifacts), run.info.run_id)
        )
    connection.close()
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    assert main(["reproduce", run.info.run_id, "--device", "cpu"]) == 1
    assert "largest" in capsys.readouterr().out
    assert main(["reproduce", 32 * "0"]) == 2
    assert "no run" in capsys.readouterr().err
    (artifacts / "distances.npz").write_bytes((artifacts / "distances.npz").read_bytes()[:200])
    assert main(["reproduce", run.info.run_id, "--device", "cpu"]) == 2
    assert "is not the file that was written" in capsys.readouterr().err


def test_status_of_a_finished_study(studied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Done cells are counted, nothing runs."""
    assert main(["status", "--once"]) == 0
    shown = capsys.readouterr().out
    assert "2 of 2 cells done, 0 running, 0 failed, 0 stopped, 0 not begun" in shown
    assert main(["status", "--study", "absent"]) == 2


def test_models_of_libraries(tmp_path: Path) -> None:
    """torchvision's and timm's architectures take [0, 1] images, with weights of a file or random ones."""
    import torchvision

    source = torchvision.models.get_model("squeezenet1_1", weights=None, num_classes=10).eval()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    model = load_library_model("torchvision:squeezenet1_1", str(tmp_path / "weights.safetensors"), 10)
    images = torch.rand(2, 3, 64, 64)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    assert torch.equal(model(images), source((images - mean) / std))
    assert load_library_model("timm:test_vit", "random", 7)(torch.rand(1, 3, 160, 160)).shape == (1, 7)
    torch.save({"absent": torch.zeros(1)}, tmp_path / "other.pt")
    for name, weights in (
        ("torchvision:absent", "random"),
        ("timm:absent", "random"),
        ("keras:resnet50", "random"),
        ("torchvision:squeezenet1_1", str(tmp_path / "other.pt")),
        ("torchvision:squeezenet1_1", str(tmp_path / "absent.pt")),
    ):
        with pytest.raises(InputError, match="cannot load"):
            load_library_model(name, weights, 10)


def test_attack_takes_models_of_others(studied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The verb attacks an alias; a model with another number of classes or channels is refused."""
    quick = [
        "--images",
        "3",
        "--cw",
        "max_iterations=20",
        "--ifgsm",
        "steps=4,tolerance=0.2",
        "--device",
        "cpu",
    ]
    assert main(["attack", "--model", "models:/digits-perceptron@most-accurate", *quick]) == 0
    assert "100.0%" in capsys.readouterr().out
    library = ["attack", "--model", "torchvision:squeezenet1_1", "--weights", "random", "--data", "digits"]
    assert main([*library, *quick]) == 2
    assert "does not take images of shape (1, 8, 8)" in capsys.readouterr().err


# Serving starts a web server with an environment of its own making.
@pytest.mark.slow
def test_a_registered_version_answers_over_http(studied: Path) -> None:
    """`mlflow models serve` on an alias gives the logits that the loaded model gives."""
    import json
    import os
    import socket
    import subprocess
    import sys
    import time
    import urllib.request

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        "models",
        "serve",
        "-m",
        "models:/digits-perceptron@size-100",
        "-p",
        str(port),
        "--env-manager",
        "local",
    ]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        images = to_inputs(load_dataset("digits").test.images[:3])
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            data=json.dumps({"inputs": images.tolist()}).encode(),
            headers={"Content-Type": "application/json"},
        )
        until = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    answer = json.loads(response.read())["predictions"]
                break
            except OSError:
                assert time.monotonic() < until
                assert server.poll() is None
                time.sleep(1)
        expected = robustlab.load_model("models:/digits-perceptron@size-100")(images)
        torch.testing.assert_close(torch.tensor(answer), expected.detach())
    finally:
        server.terminate()
        server.wait(30)


def test_accuracy_of_a_loaded_model_is_the_logged_one(studied: Path) -> None:
    """What the alias names is as accurate as the registry says."""
    client = MlflowClient()
    version = client.get_model_version_by_alias("digits-perceptron", "most-accurate")
    model = robustlab.load_model("models:/digits-perceptron@most-accurate")
    accuracy = correctly_classified(model, load_dataset("digits").test).double().mean().item()
    assert f"{accuracy:.6f}" == version.tags["test_accuracy"]
