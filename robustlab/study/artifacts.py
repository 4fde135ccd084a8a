"""A run's files: written whole and flushed before a tag of the run names their digest, checked when they are read.

A digest lies in the tracking store, not beside its file: the store's database keeps a tag whole or not at all, so what
has a digest was complete, and a file that was cut off or altered later, on whatever disk or server, no longer fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from mlflow.entities import Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path

from robustlab.errors import InputError
from robustlab.files import file_digest, flush

DIGEST_TAG = "robustlab.sha256."
_MOST_TAGS_A_CALL = 100
_MEND = "put back a copy of it, or do the study's cells again with --fresh"


def log_folder(client: Any, run_id: str, folder: Path, artifact_path: str = "") -> None:
    """Log all files of a folder, see ``log_files``; ``artifact_path``: the folder inside the run's artifacts."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [f"{artifact_path}/{path.relative_to(folder).as_posix()}".lstrip("/") for path in files]
    log_files(client, run_id, dict(zip(names, files, strict=True)))


def log_files(client: Any, run_id: str, places: Mapping[str, Path]) -> None:
    """Log files and then their digests.

    Args:
        client: an MlflowClient.
        places: the files by their paths inside the run's artifacts; the names are the files' own.
    """
    run = client.get_run(run_id)
    # Between the files' change and the new tag there is none, rather than one that does not fit.
    for place in places:
        if run.data.tags.get(DIGEST_TAG + place):
            client.set_tag(run_id, DIGEST_TAG + place, "")
    root = local_root(run)
    for place, path in places.items():
        client.log_artifact(run_id, str(path), place.rpartition("/")[0] or None)
        if root is not None:
            flush(root / place)
            flush((root / place).parent)
    tags = [RunTag(DIGEST_TAG + place, file_digest(path)) for place, path in places.items()]
    for start in range(0, len(tags), _MOST_TAGS_A_CALL):
        client.log_batch(run_id, tags=tags[start : start + _MOST_TAGS_A_CALL])


def fetch_files(client: Any, run: Run, path: str, folder: Path) -> Path:
    """A run's file, or a folder of its files, on this machine's disk; none of another content than was logged.

    Files of runs that name no digest (of older versions) are taken as they are.

    Args:
        client: an MlflowClient; a patient one waits for a server that is away.
        folder: where they go if they have to be fetched; files on this machine are read in place.

    Raises:
        InputError: there is no such file, it cannot be fetched, or it is not what was written.
    """
    root = local_root(run)
    try:
        place = (
            root / path
            if root is not None
            else Path(client.download_artifacts(run.info.run_id, path, str(folder)))
        )
    except (MlflowException, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"cannot get {path} of run {run.info.run_id} ({reason}); {_MEND}") from error
    if not place.exists():
        raise InputError(f"{path} of run {run.info.run_id} is gone from {root}; {_MEND}")
    for name, digest in digests(run, path).items():
        file = place / name if name else place
        if not file.is_file():
            raise InputError(f"{path}/{name} of run {run.info.run_id} is gone; {_MEND}")
        if file_digest(file) != digest:
            raise InputError(
                f"{path}{'/' + name if name else ''} of run {run.info.run_id} is not the file that was written "
                f"(its SHA-256 differs: truncated or altered); {_MEND}"
            )
    return place


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except Exception as error:  # zipfile, zlib and numpy each have their own for a damaged file
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: truncated or altered); {_MEND}"
        ) from error


def digests(run: Run, path: str) -> dict[str, str]:
    """SHA-256 of the files at ``path`` by their names below it; of a single file, by the empty name."""
    names = {
        tag.removeprefix(DIGEST_TAG): digest for tag, digest in run.data.tags.items() if DIGEST_TAG in tag
    }
    below = f"{path}/" if path else ""
    return {
        name.removeprefix(path).lstrip("/"): digest
        for name, digest in names.items()
        if digest and (name == path or name.startswith(below))
    }


def local_root(run: Run) -> Path | None:
    """The folder of the run's artifacts if it is on this machine."""
    uri = run.info.artifact_uri
    # A server's own are mlflow-artifacts:/...; a drive letter of Windows is no scheme either.
    return (
        Path(local_file_uri_to_path(uri))
        if len(urlsplit(uri).scheme) <= 1 or uri.startswith("file:")
        else None
    )
