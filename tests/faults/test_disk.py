"""A disk that fills up, cannot be written to, or gives back other bytes: said in one line, and nothing half kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import mlflow
import pytest

from robustlab.cli import main
from robustlab.study.artifacts import local_root
from tests.conftest import forget_experiment
from tests.faults.survival import STUDY
from tests.study.interrupted import all_runs, check_nothing_is_left_over

SIZE_KB = 1800  # the empty database takes 950, a finished study of two perceptrons 2500


@pytest.fixture
def small_disk(tmp_path: Path, empty_store: Path) -> Iterator[Path]:
    """A file system of its own with room for half a study and its store; mounting one needs root."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_KB}k", "tmpfs", str(place)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root; the same is tested by limiting the files' size")
    shutil.copy(empty_store, place / "mlflow.db")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def study_in(place: Path, temporary: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run the small study on the store in ``place``; its status and what it wrote to the error stream."""
    forget_experiment()
    os.chdir(place)
    mlflow.set_tracking_uri(f"sqlite:///{place}/mlflow.db")
    tempfile.tempdir = str(temporary)
    try:
        return main(STUDY), capsys.readouterr().err
    finally:
        tempfile.tempdir = None
        os.chdir("/")


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_full_disk(small_disk: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Really full, in the middle: one line and status 2; with room again the same command ends the study."""
    status, said = study_in(small_disk, store, capsys)
    assert status == 2, said
    assert said.startswith("robustlab: "), said
    assert said.count("\n") == 1
    assert "give the same command again: what was finished is kept" in said
    for run in all_runs("cell"):
        assert run.info.status != "FINISHED" or run.data.metrics["attacked_images"]
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    status, said = study_in(small_disk, store, capsys)
    assert status == 0, said
    check_nothing_is_left_over(2)


def test_a_store_that_cannot_be_written(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A read-only folder for the artifacts: status 2 before anything is trained, and the store's rows stay whole."""
    artifacts = store / "read-only"
    artifacts.mkdir()
    mlflow.create_experiment("read-only", artifact_location=str(artifacts))
    with suppress(PermissionError):
        artifacts.chmod(0o500)
    if os.geteuid() == 0:  # whom no permission keeps from writing
        immutable = subprocess.run(
            ["mount", "--bind", "-o", "ro", str(artifacts), str(artifacts)], check=False, capture_output=True
        )
        if immutable.returncode:
            pytest.skip("as root this needs a read-only mount")
    os.environ["MLFLOW_EXPERIMENT_NAME"] = "read-only"
    try:
        assert main(STUDY) == 2
        said = capsys.readouterr().err
    finally:
        del os.environ["MLFLOW_EXPERIMENT_NAME"]
        if os.geteuid() == 0:
            subprocess.run(["umount", "--lazy", str(artifacts)], check=True)
    assert said.count("\n") == 1
    assert "cannot write artifacts" in said
    assert all_runs("cell") == []


def test_files_that_changed_on_the_disk(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each file that a later command reads, cut short or with one bit turned: refused by name, nothing overwritten."""
    assert main(STUDY) == 0
    capsys.readouterr()
    cell = all_runs("cell")[0]
    study = all_runs("study")[0]
    model = f"models:/digits-perceptron@size-{cell.data.params['train_size']}"
    readers = {
        (cell, "distances.npz"): ["report"],
        (cell, "examples.npz"): ["report"],
        (study, "dataset.json"): ["report"],
        (cell, "checkpoint/model.safetensors"): ["attack", "--model", model],
        (cell, "checkpoint/model.json"): ["attack", "--model", model],
        (study, "attack_constants.json"): ["study", "--constants", f"runs:/{study.info.run_id}"],
    }
    for (run, name), command in readers.items():
        root = local_root(run)
        assert root is not None
        path = root / name
        whole = path.read_bytes()
        turned = bytearray(whole)
        turned[len(whole) // 2] ^= 1
        for damaged in (whole[: len(whole) // 2], bytes(turned)):
            path.write_bytes(damaged)
            runs = len(all_runs("study", "cell", "attack", "report"))
            assert main([*command, "--out", str(store / "out")] if command == ["report"] else command) == 2, (
                name
            )
            said = capsys.readouterr().err
            assert name.rpartition("/")[2] in said, (name, said)
            assert said.count("\n") == 1
            assert path.read_bytes() == damaged
            assert len(all_runs("study", "cell", "attack", "report")) == runs
        path.write_bytes(whole)
    assert main(["report", "--out", str(store / "out")]) == 0
