"""Whatever the user gets wrong: one line on the error stream, exit status 2, nothing trained, nothing left behind."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from robustlab.cli import main
from robustlab.errors import InputError
from robustlab.study.patience import Patience


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command line, expect exit status 2 and one line; returns the line."""
    status = main(arguments)
    captured = capsys.readouterr()
    assert status == 2, captured
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("robustlab: ")
    assert "Traceback" not in captured.err
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "--dataset", "imagenet"], "unknown data set 'imagenet'"),
        (["study", "--dataset", "imagefolder:/nowhere"], "/nowhere"),
        (["study", "--models", "vgg"], "unknown model 'vgg'"),
        (["study", "--models", "resnet,resnet"], "more than once"),
        (["study", "--attacks", "pgd"], "unknown attack 'pgd'"),
        (["study", "--sizes", "15"], "not a multiple"),
        (["study", "--sizes", "1000000"], "too large"),
        (["study", "--sizes", "200,100"], "must rise"),
        (["study", "--sizes", "100,100"], "more than once"),
        (["study", "--sizes", "1e3"], "whole number"),
        (["study", "--sizes", "100,,200"], "whole number"),
        (["study", "--seeds", "a"], "whole number"),
        (["study", "--seeds", "-1"], "seeds"),
        (["study", "--epochs", "many"], "--epochs"),
        (["study", "--start-fresh", "maybe"], "give yes or no"),
        (["study", "--device", "cpu,abacus"], "'abacus' cannot be used"),
        (["study", "--device", "cpu,"], "cannot be used"),
        (["tune", "--executor", "slurm"], "choose from local, ray"),
        (["study", "--recipe", "batch_size=many"], "--recipe has batch_size='many'"),
        (["study", "--recipe", "precision=half"], "unknown precision 'half'"),
        (["study", "--epochs", "0"], "epochs must be at least 1"),
        (["study", "--train-budget", "hours"], "unknown train budget"),
        (["study", "--attack-images", "-3"], "attack_images"),
        (["study", "--attack-images", "few"], "--attack-images"),
        (["study", "--cw", "kappa=3"], "--cw has 'kappa=3'"),
        (["study", "--cw", "learning_rate"], "name=value"),
        (["study", "--cw", "learning_rate=fast"], "float"),
        (["study", "--cw", "learning_rate=-1"], "learning_rate"),
        (["study", "--cw", "learning_rate=nan"], "learning_rate"),
        (["study", "--ifgsm", "steps=0"], "steps"),
        (["study", "--ifgsm", "steps=3,steps=4"], "more than once"),
        (["study", "--device", "tpu9"], "--device"),
        (["study", "--device", "meta"], "--device"),
        (["study", "--no-such-option", "1"], "--no-such-option"),
        (["study", "--dataset"], "--dataset"),
        (["studdy"], "studdy"),
        ([], "command"),
        (["attack"], "--model"),
        (["attack", "--model", "models:/absent/1"], "cannot load the model"),
        (["attack", "--model", "models:/absent/1", "--attacks", "x"], "--attacks"),
        (["attack", "--model", "/nowhere", "--images", "-1"], "--images"),
        (["attack", "--model", "no address at all"], "cannot load the model"),
        (["study", "--constants", "/nowhere.json"], "no constants at '/nowhere.json'"),
        (["study", "--constants", "runs:/0123456789abcdef0123456789abcdef"], "cannot get runs:/0123"),
        (["attack", "--model", "models:/absent/1", "--constants", "x"], "cannot load the model"),
        (["tune", "--attack", "pgd"], "unknown attack 'pgd'"),
        (["tune", "--attack", ""], "unknown attack ''"),
        (["tune", "--mode", "best"], "unknown mode 'best'"),
        (["tune", "--sampler", "grid"], "unknown sampler"),
        (["tune", "--model", "vgg"], "unknown model 'vgg'"),
        (["tune", "--search", "kappa"], "no constant 'kappa'"),
        (["tune", "--search", "warm_steps=9:3"], "is empty"),
        (["tune", "--sizes", "100,200"], "at least 3 sizes"),
        (["tune", "--sizes", "100,200,305"], "not a multiple"),
        (["tune", "--reference", "many"], "the reference is 'many'"),
        (["tune", "--tolerance", "-1"], "--tolerance"),
        (["tune", "--tolerance", "nan"], "--tolerance"),
        (["tune", "--trials", "0"], "--trials"),
        (["tune", "--workers", "0"], "--workers"),
        (["tune", "--images", "-1"], "--images"),
        (["tune", "--epochs", "0"], "epochs must be at least 1"),
        (["tune", "--storage", "mysql://host/db"], "mysql://"),
        (["tune", "--storage", "postgresql://me:secret@127.0.0.1:9/db"], "postgresql://me@127.0.0.1:9/db"),
        (["tune", "--storage", "/proc/none/journal"], "/proc/none/journal"),
        (["report"], "no study"),
        (["status"], "no study"),
        (["status", "--study", "absent"], "absent"),
        (["reproduce"], "argument"),
        (["reproduce", 32 * "0"], "no run '000"),
        (["attack", "--model", "models:/absent@best"], "cannot load the model"),
        (["attack", "--model", "runs:/" + 32 * "0"], "cannot load the model"),
        (
            ["attack", "--model", "torchvision:absent", "--weights", "random", "--data", "digits"],
            "cannot load",
        ),
        (["study", "--executor", "dask"], "--executor is 'dask'"),
        (
            ["study", "--executor", "ray", "--ray-address", "127.0.0.1:9"],
            "no Ray cluster answers at '127.0.0.1:9'",
        ),
        (["study", "--executor", "ray", "--gpus-per-cell", "-1"], "--gpus-per-cell -1"),
        (["study", "--executor", "ray", "--cpus-per-cell", "0"], "one above 0"),
        (["report", "--study", "absent'--"], "absent'--"),
        (["status", "--study", "\udcff"], "no valid UTF-8"),
        (["report", "--study", ","], "names no study"),
        (["study", "--data-dir", "~nobody-of-that-name/x", "--dataset", "mnist"], "is no path"),
        (["study", "--constants", "~nobody-of-that-name/x"], "is no path"),
        (["study", "--cross-check", "-1"], "cross_check"),
    ],
)
def test_one_line_and_status_2(
    arguments: list[str], message: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each mistake is named with what was given, and no run is opened for it."""
    assert message in refused(arguments, capsys)
    assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []
    assert not list(store.glob("results*"))


def test_missing_files_are_named_with_their_place(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a network the user learns which file to put where."""
    line = refused(
        ["study", "--dataset", "mnist", "--no-download", "--data-dir", str(store / "data")], capsys
    )
    assert "train-images-idx3-ubyte.gz" in line
    assert str(store / "data") in line


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        stop = threading.Event()
        listener.settimeout(0.2)
        held = []

        def hold() -> None:
            while not stop.is_set():
                try:
                    held.append(listener.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=hold)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        stop.set()
        thread.join()
        for connection in held:
            connection.close()


def test_a_server_that_is_not_there(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A refused connection is said at once, with the address, before any training."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    mlflow.set_tracking_uri(address)
    line = refused(["study", "--models", "perceptron"], capsys)
    assert address in line
    assert "MLFLOW_TRACKING_URI" in line


def test_a_server_that_never_answers(
    silent_server: str, store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs is given up on after the time that the user's settings allow."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    mlflow.set_tracking_uri(silent_server)
    assert silent_server in refused(["study", "--models", "perceptron"], capsys)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "1"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_an_unwritable_store(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store without write permission is named (access is asked for by a stand-in: root may write anywhere)."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot write" in refused(["study", "--models", "perceptron"], capsys)


def test_a_store_of_an_older_schema(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MLflow's own advice is passed on; the database stays as it is."""
    with closing(sqlite3.connect(store / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    content = (store / "mlflow.db").read_bytes()
    database = shutil.copy(
        store / "mlflow.db", store / "older.db"
    )  # an address that MLflow has not opened yet
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    assert "database schema" in refused(["study", "--models", "perceptron"], capsys)
    assert Path(database).read_bytes() == content


def test_a_full_store_ends_the_study_at_once(store: Path) -> None:
    """What waiting cannot mend is not waited for, and the line says that the same command goes on."""

    def full() -> None:
        raise MlflowException("(sqlite3.OperationalError) database or disk is full")

    with pytest.raises(InputError, match=r"disk is full.*same command again"):
        Patience().call(full)


def test_two_writers_of_one_new_tag_both_get_through() -> None:
    """The one that came second tries again at once, which changes the tag; what never gets through is told."""
    answers = [MlflowException("(psycopg.errors.UniqueViolation) duplicate key value violates tag_pk"), None]

    def second() -> str:
        if (error := answers.pop(0)) is not None:
            raise error
        return "written"

    lines: list[str] = []
    assert Patience(lines.append).call(second) == "written"
    assert lines == []

    def never() -> None:
        raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: tags.key")

    with pytest.raises(MlflowException, match="UNIQUE"):
        Patience(lines.append).call(never)


def test_a_store_that_stays_away_is_given_up(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the limit that the user sets; until then the user is told what is waited for."""
    monkeypatch.setenv("ROBUSTLAB_STORE_PATIENCE_S", "1")
    lines: list[str] = []

    def away() -> None:
        raise MlflowException("API request to http://127.0.0.1:9 failed with exception refused")

    with pytest.raises(InputError, match="failed with exception"):
        Patience(lines.append).call(away)
    assert len(lines) == 1
    assert "trying again" in lines[0]


def test_a_store_in_a_folder_that_is_not_there(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """MLflow's ten attempts to open such a database are not waited for."""
    mlflow.set_tracking_uri(f"sqlite:///{store}/absent/mlflow.db")
    assert "cannot write" in refused(["study", "--models", "perceptron"], capsys)


def test_artifacts_that_cannot_be_written(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A place for artifacts that takes none is found before the first cell is trained."""
    (store / "taken").write_text("a file")
    experiment = mlflow.create_experiment("broken", artifact_location=f"{store}/taken/artifacts")
    os.environ["MLFLOW_EXPERIMENT_ID"] = experiment
    try:
        assert "cannot write artifacts" in refused(["study", "--models", "perceptron"], capsys)
    finally:
        del os.environ["MLFLOW_EXPERIMENT_ID"]
    runs = mlflow.search_runs([experiment], output_format="list")
    assert [run.info.status for run in runs] == ["FAILED"]


def test_a_report_folder_that_cannot_be_written(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file where the folder should be is an input error, found after the study was read."""
    assert main(["train", "--models", "perceptron", "--sizes", "100", "--epochs", "1"]) == 0
    run = mlflow.search_runs(
        search_all_experiments=True, output_format="list", filter_string="tags.`robustlab.kind` = 'train'"
    )[0]
    capsys.readouterr()
    (store / "taken").write_text("a file")
    assert "--out" in refused(["report", "--study", run.info.run_id, "--out", "taken"], capsys)
