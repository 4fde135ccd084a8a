"""The files of a data set that is published as one .tar.gz, each checked before anything reads it."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from robustlab.data.files import check_md5, download_file, missing_file, read_file
from robustlab.data.images import ProgressCallback
from robustlab.errors import InputError
from robustlab.files import write_atomically

MAX_MEMBER_BYTES = 1 << 30


@dataclass(frozen=True)
class OfficialArchive:
    """Where a data set is published and what its files must be.

    Attributes:
        dataset: the data set's name, for messages.
        folder: the archive's top folder, and the unpacked folder's name in the data directory.
        filename, url, md5: the archive's own.
        files: MD5 per wanted file, by its name inside ``folder``; other members are never unpacked.
    """

    dataset: str
    folder: str
    filename: str
    url: str
    md5: str
    files: Mapping[str, str]


def read_files(
    source: OfficialArchive, data_dir: Path, download: bool, on_progress: ProgressCallback | None
) -> dict[str, bytes]:
    """The checked content of every wanted file, from the unpacked folder, else the archive, else the network.

    What comes out of the archive is kept in the unpacked folder where that can be written to.

    Raises:
        InputError: a file is missing and cannot be downloaded, or is not the official one.
    """
    folder = data_dir / source.folder
    contents = {}
    for done, (name, md5) in enumerate(source.files.items()):
        path = folder / name
        if path.is_file():
            contents[name] = read_file(path)
            check_md5(contents[name], md5, path)
        if on_progress:
            on_progress(f"read {source.dataset}", done + 1, len(source.files))
    missing = {name: md5 for name, md5 in source.files.items() if name not in contents}
    if not missing:
        return contents
    archive = data_dir / source.filename
    if not archive.is_file():
        if not download:
            raise missing_file(source.dataset, folder / next(iter(missing)) if contents else archive)
        download_file([source.url], archive, source.md5, source.dataset, on_progress)
    unpacked = _read_members(source, archive, missing, on_progress)
    # A data directory that cannot be written to only means unpacking again next time.
    with suppress(OSError):
        folder.mkdir(exist_ok=True)
        for name, content in unpacked.items():
            with write_atomically(folder / name) as file:
                file.write(content)
    return contents | unpacked


def _read_members(
    source: OfficialArchive, archive: Path, wanted: Mapping[str, str], on_progress: ProgressCallback | None
) -> dict[str, bytes]:
    """Read members into memory by their exact names, so no path in the archive can lead anywhere."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                folder, _, name = member.name.removeprefix("./").partition("/")
                if folder != source.folder or name not in wanted or not member.isreg():
                    continue
                if member.size > MAX_MEMBER_BYTES:
                    raise InputError(
                        f"{archive}: {member.name} claims {member.size} bytes; delete the archive"
                    )
                file = tar.extractfile(member)
                contents[name] = file.read() if file else b""
                check_md5(contents[name], wanted[name], f"{archive} ({member.name})")
                if on_progress:
                    on_progress(f"unpack {archive.name}", len(contents), len(wanted))
                if len(contents) == len(wanted):
                    return contents
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise InputError(
            f"{archive} is damaged or truncated ({error}); delete it and get it again from {source.url}"
        ) from error
    absent = ", ".join(sorted(set(wanted) - set(contents)))
    raise InputError(f"{archive} does not contain {absent}; delete it and get it again from {source.url}")
