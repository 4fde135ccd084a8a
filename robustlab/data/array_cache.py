"""Decoded arrays kept on the disk, used only while they are what the source would decode to."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from robustlab.data.images import LabelledImages, digest_arrays
from robustlab.files import write_atomically

FORMAT = "robustlab arrays 1"
MAX_HEADER_BYTES = 4096


def cache_paths(data_dir: Path, dataset: str, source: Path) -> list[Path]:
    """Where the arrays of one source may be kept: beside it, else in the user's cache directory."""
    key = hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:8]
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "robustlab" / "decoded"
    return [data_dir / f"{dataset}-decoded.bin", user_cache / f"{dataset}-{key}-decoded.bin"]


def load_arrays(paths: Sequence[Path], fingerprint: str) -> tuple[LabelledImages, LabelledImages, str] | None:
    """(train, test, digest) from the first cache file that fits and is whole; None where none is.

    Args:
        paths: see ``cache_paths``.
        fingerprint: of the source as it is now; arrays decoded from another state of it are not used.
    """
    for path in paths:
        try:
            arrays = _load(path, fingerprint)
        except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
            continue  # absent, truncated or altered: the source is decoded anew
        if arrays:
            return arrays
    return None


def _load(path: Path, fingerprint: str) -> tuple[LabelledImages, LabelledImages, str] | None:
    with path.open("rb") as file:
        header = json.loads(file.readline(MAX_HEADER_BYTES))
        if header["format"] != FORMAT or header["source"] != fingerprint:
            return None
        shapes = [tuple(int(side) for side in shape) for shape in header["image_shapes"]]
        # An image is one byte a value, its label is an int64.
        expected = sum(math.prod(shape) + 8 * shape[0] for shape in shapes)
        if len(shapes) != 2 or path.stat().st_size - file.tell() != expected:
            return None
        parts = []
        for shape in shapes:
            images = np.fromfile(file, np.uint8, math.prod(shape)).reshape(shape)
            labels = np.fromfile(file, "<i8", shape[0]).astype(np.int64, copy=False)
            parts.append(LabelledImages(torch.from_numpy(images), torch.from_numpy(labels)))
    train, test = parts
    digest = digest_arrays(train, test)
    return (train, test, digest) if digest == header["digest"] else None


def store_arrays(
    paths: Sequence[Path], fingerprint: str, train: LabelledImages, test: LabelledImages, digest: str
) -> None:
    """Keep the arrays in the first place that can be written to; where none can, say so and go on without.

    Args:
        paths: see ``cache_paths``.
        fingerprint: of the source that was decoded, taken before decoding began.
        digest: ``digest_arrays(train, test)``; checked on every reading.
    """
    shapes = [tuple(part.images.shape) for part in (train, test)]
    header = {"format": FORMAT, "source": fingerprint, "digest": digest, "image_shapes": shapes}
    failures = []
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(path) as file:
                file.write(json.dumps(header).encode() + b"\n")
                for part in (train, test):
                    file.write(part.images.contiguous().numpy().data)
                    file.write(part.labels.contiguous().numpy().astype("<i8", copy=False).data)
            return
        except OSError as error:
            failures.append(f"{path}: {error.strerror or error}")
    warnings.warn(
        f"decoded images are not kept ({'; '.join(failures)}); the next start decodes again", stacklevel=2
    )
