"""Many small files, in a folder or still inside a zip, behind one face.

Both classes have ``names`` (relative to the data set's top folder, with ``/`` between the parts),
``fingerprint`` (a SHA-256 that changes whenever a file is added, removed or altered), ``read`` (a file's
content by its name, from any thread; InputError where it cannot be read) and ``describe`` (the file as a
message names it).
"""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from pathlib import Path

from robustlab.data.files import read_file
from robustlab.errors import InputError

MAX_FILE_BYTES = 16 << 20


class FolderFiles:
    """The files of an unpacked folder; altered ones show in their size or modification time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listing: dict[str, tuple[int, int]] = {}
        try:
            _list_files(str(folder), "", listing)
        except OSError as error:
            raise InputError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error
        self.names = frozenset(listing)
        digest = hashlib.sha256(b"folder")
        for name, state in sorted(listing.items()):
            digest.update(f"{name}\0{state}\n".encode(errors="surrogateescape"))
        self.fingerprint = digest.hexdigest()

    def read(self, name: str) -> bytes:
        path = self.folder / name
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise InputError(f"{path} is larger than {MAX_FILE_BYTES} bytes; replace or remove it")
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        return read_file(path)

    def describe(self, name: str) -> str:
        return str(self.folder / name)


def _list_files(folder: str, prefix: str, listing: dict[str, tuple[int, int]]) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                _list_files(entry.path, f"{prefix}{entry.name}/", listing)
            elif entry.is_file():
                state = entry.stat()
                listing[prefix + entry.name] = (state.st_size, state.st_mtime_ns)


class ZipFiles:
    """The files of a zip, read straight from it: nothing is extracted, so no member's path leads anywhere."""

    def __init__(self, path: Path, top: str) -> None:
        self.path, self.top = path, top
        try:
            state = path.stat()
            self._zip = zipfile.ZipFile(path)
        except Exception as error:  # zipfile has a dozen for damaged bytes
            reason = " ".join(str(error).split())
            raise InputError(
                f"{path} is damaged or truncated ({reason}); delete it, then run again or get it again"
            ) from error
        self._members = {
            member.filename.removeprefix(top): member
            for member in self._zip.infolist()
            if member.filename.startswith(top) and not member.is_dir()
        }
        self.names = frozenset(self._members)
        digest = hashlib.sha256(f"zip {state.st_size} {state.st_mtime_ns}\n".encode())
        for name, member in sorted(self._members.items()):
            digest.update(f"{name}\0{member.CRC} {member.file_size}\n".encode(errors="surrogateescape"))
        self.fingerprint = digest.hexdigest()
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes:
        member = self._members[name]
        if member.file_size > MAX_FILE_BYTES:
            raise InputError(
                f"{self.describe(name)} is larger than {MAX_FILE_BYTES} bytes; get the zip again"
            )
        try:
            with self._lock, self._zip.open(member) as file:
                # No more than promised, whatever the compressed bytes would unpack to.
                return file.read(member.file_size)
        except Exception as error:  # zipfile and each decompressor have their own
            reason = " ".join(str(error).split())
            raise InputError(
                f"{self.describe(name)} is damaged ({reason}); delete the zip, then run again or get it again"
            ) from error

    def describe(self, name: str) -> str:
        return f"{self.path} ({self.top}{name})"


ImageFiles = FolderFiles | ZipFiles
