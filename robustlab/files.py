"""Files that are either whole or not there, flushed to the disk, and known by a digest."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_DISK_SIGNS = ("no space left", "file too large", "read-only file system", "disk is full", "disk quota")


@contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears under its name only once all of it is on the disk."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        flush(path.parent)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the content of a file, or the names in a folder, on the disk before going on."""
    if path.is_dir() and os.name != "posix":
        return  # only there can a folder be opened
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def disk_failure(error: BaseException) -> str | None:
    """Why the disk took no more, where that is what an error or its cause comes from: full, read-only, too large."""
    chain: list[BaseException] = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(before)
    for one in chain:
        if isinstance(one, OSError) and one.errno in _DISK_ERRORS:
            return f"{one.strerror}: {one.filename}" if one.filename else str(one.strerror)
    for one in reversed(chain):  # writers in C++ and Rust say it in words alone
        for line in str(one).splitlines():
            if any(sign in line.lower() for sign in _DISK_SIGNS):
                return line[:200]
    return None


def file_digest(path: Path) -> str:
    """SHA-256 of a file (64 hex digits)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
