"""A file that a later run relies on is whole or not there."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from robustlab.files import write_atomically
from tests.forks import fork, wait_for


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_interrupted_write_keeps_what_stood_there(tmp_path: Path, interruption: type[BaseException]) -> None:
    """Stopping in the middle leaves the older file and no other."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write() -> None:
        with write_atomically(path) as file:
            file.write(b"half")
            raise interruption

    with pytest.raises(interruption):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_bytes(b"before")

    def die() -> int:
        with write_atomically(path) as file:
            file.write(b"half of what")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert wait_for(fork(die, tmp_path / "log.txt")) == -signal.SIGKILL
    assert path.read_bytes() == b"before"


def test_the_name_changes_hands_when_all_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the content is flushed, then the file is renamed, then the folder is flushed."""
    path = tmp_path / "kept.json"
    path.write_bytes(b"before")
    steps = []
    fsync, replace = os.fsync, os.replace

    def flushed(handle: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "content")
        fsync(handle)

    def renamed(source: Path, target: Path) -> None:
        steps.append("rename")
        assert Path(source).read_bytes() == b"after"
        assert Path(target).read_bytes() == b"before"
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    with write_atomically(path) as file:
        file.write(b"after")
    assert steps == ["content", "rename", "folder"]
    assert path.read_bytes() == b"after"
    assert [found.name for found in tmp_path.iterdir()] == ["kept.json"]
