"""Downloads that are whole or not there, checksums, and errors that name the file."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from robustlab.data.images import ProgressCallback
from robustlab.errors import InputError
from robustlab.files import write_atomically

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30


def user_path(text: str) -> Path:
    """A path as the user wrote it, ``~`` included.

    Raises:
        InputError: it cannot be one: an unknown user's home, or a NUL.
    """
    try:
        path = Path(text).expanduser()
        os.fsencode(path)
    except (RuntimeError, ValueError) as error:  # ValueError: what no file name can be encoded from
        raise InputError(f"{text!r} is no path ({error}); give another") from None
    if "\0" in text:
        raise InputError(f"{text!r} is no path (it holds a NUL); give another")
    return path


def read_file(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def check_md5(content: bytes | memoryview, md5: str, path: Path | str) -> None:
    """Refuse content that is not the official file's.

    Raises:
        InputError: the checksum differs.
    """
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise InputError(
            f"{path} is damaged or not the official file (MD5 {found}, should be {md5}); delete it, then run "
            "again"
        )


def download_file(
    urls: Sequence[str], path: Path, md5: str, dataset: str, on_progress: ProgressCallback | None
) -> None:
    """Download a file from the first address that gives it whole; nothing is left behind where none does.

    Args:
        urls: addresses of the same file.
        path: where it goes, under this name only after its checksum held.
        md5: 32 hex digits.
        dataset: the data set's name, for messages.

    Raises:
        InputError: no address answers with the file, or the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass  # whether the folder can be written to is found out before the download
    except OSError as error:
        raise InputError(
            f"cannot write to {path.parent} ({error.strerror or error}); choose another data directory, or "
            f"put {path.name} there by hand"
        ) from error
    failures = []
    for url in urls:
        try:
            _fetch(url, path, md5, f"download {path.name}", on_progress)
            return
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures.append(f"{url}: {' '.join(str(error).split())}")
    raise InputError(
        f"{dataset}: cannot download {path.name} ({'; '.join(failures)}); without a network, get the file "
        f"elsewhere and put it at {path}"
    )


def _fetch(url: str, path: Path, md5: str, stage: str, on_progress: ProgressCallback | None) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "robustlab"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer, write_atomically(path) as file:
        length = answer.headers.get("Content-Length")
        total = int(length) if length else None
        digest, done = hashlib.md5(usedforsecurity=False), 0
        while chunk := answer.read(CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if on_progress:
                on_progress(stage, done, total)
        if digest.hexdigest() != md5:
            raise ValueError(f"got {done} bytes with MD5 {digest.hexdigest()}, should be {md5}")


def missing_file(dataset: str, path: Path) -> InputError:
    """The error for a file that is not there and may not be downloaded."""
    return InputError(
        f"{dataset}: {path.name} is missing; put it at {path}, or run again with downloads allowed"
    )
