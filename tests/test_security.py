"""What must not happen: code from data, files out of their place, secrets where others read them."""

from __future__ import annotations

import ast
import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import robustlab_kernels

import robustlab
from robustlab.cli import main
from robustlab.data.archive import MAX_MEMBER_BYTES, OfficialArchive, read_files
from robustlab.errors import InputError
from robustlab.study.secrets import without_password
from robustlab.study.store import run_page, ui_command
from robustlab.study.ui_view import view_page

SECRET = "pl4nted-s3cret"


def calls() -> Iterator[tuple[str, str, dict[str, object]]]:
    """(file, what is called, its constant keywords) of every call in the two packages."""
    for package in (robustlab, robustlab_kernels):
        for path in Path(str(package.__file__)).parent.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    named = {
                        k.arg: k.value.value
                        for k in node.keywords
                        if k.arg and isinstance(k.value, ast.Constant)
                    }
                    yield path.name, ast.unparse(node.func), named


def test_nothing_is_unpickled_but_cifar10() -> None:
    """torch.load reads tensors only, numpy arrays only; the one unpickler stands behind CIFAR-10's checksum."""
    seen = list(calls())
    assert len(seen) > 1000
    for file, called, named in seen:
        if called == "torch.load":
            assert named.get("weights_only") is True, file
        if called in ("np.load", "numpy.load"):
            assert named.get("allow_pickle") is False, file
        assert not called.startswith(
            ("marshal.", "shelve.", "dill.", "cloudpickle.", "joblib.load", "yaml.load")
        ), file
        if called.startswith("pickle."):
            assert (file, called) == ("cifar10.py", "pickle.loads")


def test_no_shell_and_no_code_from_text() -> None:
    """Neither a shell nor the interpreter is ever given text."""
    for file, called, named in calls():
        assert called not in ("eval", "exec", "os.system", "os.popen", "compile"), file
        assert not named.get("shell"), file


def archive(path: Path, members: list[tarfile.TarInfo | tuple[str, bytes]]) -> None:
    """A .tar.gz of these members."""
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    """A link in the place of a wanted file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_archives_lead_nowhere(kind: bytes, tmp_path: Path) -> None:
    """Links and devices are not taken for files, paths out of the folder are not followed, nothing is left behind."""
    wanted = b"wanted"
    (tmp_path / "outside").write_bytes(wanted)
    data = tmp_path / "data"
    data.mkdir()
    source = OfficialArchive("made", "top", "made.tar.gz", "", "", {"a": hashlib.md5(wanted).hexdigest()})
    members = [
        ("../evil", b"x"),
        ("/tmp/evil", b"x"),
        ("top/../../evil", b"x"),
        link("top/a", "../../outside", kind),
    ]
    archive(data / "made.tar.gz", members)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not contain a"):
        read_files(source, data, False, None)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "made.tar.gz", "outside"]


def test_an_archive_that_claims_too_much_is_refused_unread(tmp_path: Path) -> None:
    """The size in a member's header is looked at before any of it is read."""
    info = tarfile.TarInfo("top/a")
    info.size = MAX_MEMBER_BYTES + 1
    content = info.tobuf()
    import gzip

    (tmp_path / "made.tar.gz").write_bytes(gzip.compress(content + bytes(1024)))
    source = OfficialArchive("made", "top", "made.tar.gz", "", "", {"a": "0" * 32})
    with pytest.raises(InputError, match="claims"):
        read_files(source, tmp_path, False, None)


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://me:{SECRET}@127.0.0.1:9/db",
        f"http://me:{SECRET}@127.0.0.1:9",
        f"postgresql://127.0.0.1:9/db?user=me&password={SECRET}",
    ],
)
def test_passwords_of_addresses_are_never_shown(
    address: str, store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where the store is named for people nor in the line that says why it does not work."""
    assert SECRET not in without_password(f"cannot reach {address}, then {address}")
    assert "127.0.0.1:9" in without_password(address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert main(["tune", "--storage", address.replace("http://", "mysql://")]) == 2
    mlflow.set_tracking_uri(address)
    assert SECRET not in ui_command() + run_page("1", "2") + view_page("1")
    if address.startswith("http"):
        assert main(["study", "--models", "perceptron"]) == 2
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err
    assert "robustlab: " in shown.err


def test_a_password_with_signs_of_its_own_is_hidden_whole() -> None:
    """Up to the last @, so that an unquoted one in a password does not show the rest."""
    shown = without_password(f"at postgresql+psycopg://me:a@b:{SECRET}@127.0.0.1:9/db it failed")
    assert shown == "at postgresql+psycopg://me@127.0.0.1:9/db it failed"


def test_secrets_of_the_environment_are_stored_nowhere(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study with secrets in its environment: no output, run, parameter, tag, artifact or database holds one."""
    for name in ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "ROBUSTLAB_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    arguments = [
        "--models",
        "perceptron",
        "--sizes",
        "100",
        "--epochs",
        "1",
        "--attack-images",
        "2",
        "--cw",
        "warm_starts=1",
    ]
    assert main(["study", *arguments]) == 0
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err
    files = [path for path in store.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in files)
    assert any(path.name == "report.html" for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
