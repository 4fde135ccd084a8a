"""MNIST from its four IDX files."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustlab.data.files import check_md5, download_file, missing_file, read_file
from robustlab.data.images import DataSet, LabelledImages, ProgressCallback, digest_arrays
from robustlab.errors import InputError

DEFAULT_SIZES = (1_000, *range(5_000, 50_001, 5_000))
NUM_CLASSES = 10
MAX_UNPACKED_BYTES = 64 << 20  # the largest of the four has 47 MB
FOLDERS = ("MNIST/raw", "mnist", "mnist/raw", "MNIST", ".")
IDX_UINT8 = 0x08


@dataclass(frozen=True)
class MnistFiles:
    """Where MNIST is published and what its files must be.

    Attributes:
        mirrors: addresses of the folder that holds the .gz files.
        packed_md5: MD5 of each .gz file as published, checked on download.
        content_md5: MD5 of each file's content; checked on every reading, so that files packed anew count
            too.
    """

    mirrors: Sequence[str]
    packed_md5: Mapping[str, str]
    content_md5: Mapping[str, str]


def official_files() -> MnistFiles:
    """torchvision's addresses and checksums; it has none for the unpacked files, which it reads unchecked."""
    from torchvision.datasets import MNIST

    content_md5 = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
    packed_md5 = {name.removesuffix(".gz"): md5 for name, md5 in MNIST.resources}
    return MnistFiles(MNIST.mirrors, packed_md5, content_md5)


def load_mnist(
    data_dir: Path, download: bool, on_progress: ProgressCallback | None, files: MnistFiles | None = None
) -> DataSet:
    """60,000 train and 10,000 test digits of 28x28, greyscale.

    Looks for each file, packed (.gz) or not, in ``MNIST/raw`` (where torchvision keeps them), ``mnist`` and
    the data directory itself; reading writes nothing.

    Raises:
        InputError: a file is missing and cannot be downloaded, or is damaged.
    """
    files = files or official_files()
    parts = []
    for done, part in enumerate(("train", "t10k")):
        images = _read_idx(f"{part}-images-idx3-ubyte", 3, data_dir, files, download, on_progress)
        labels = _read_idx(f"{part}-labels-idx1-ubyte", 1, data_dir, files, download, on_progress)
        if len(images) != len(labels):
            raise InputError(
                f"mnist: {part}-images-idx3-ubyte has {len(images)} images but {part}-labels-idx1-ubyte has "
                f"{len(labels)} labels; get both files again"
            )
        if len(labels) and int(labels.max()) >= NUM_CLASSES:
            raise InputError(
                f"mnist: {part}-labels-idx1-ubyte has label {int(labels.max())}, should be 0 to 9"
            )
        parts.append(LabelledImages(images[:, None], labels.long()))
        if on_progress:
            on_progress("read mnist", done + 1, 2)
    train, test = parts
    names = tuple(str(digit) for digit in range(NUM_CLASSES))
    return DataSet("mnist", train, test, names, False, digest_arrays(train, test), DEFAULT_SIZES)


def _read_idx(
    name: str,
    dimensions: int,
    data_dir: Path,
    files: MnistFiles,
    download: bool,
    on_progress: ProgressCallback | None,
) -> Tensor:
    path = _find(name, data_dir)
    if path is None:
        path = data_dir / FOLDERS[0] / f"{name}.gz"
        if not download:
            raise missing_file("mnist", path)
        urls = [mirror + path.name for mirror in files.mirrors]
        download_file(urls, path, files.packed_md5[name], "mnist", on_progress)
    content = _unpack(path) if path.suffix == ".gz" else read_file(path)
    array = parse_idx(content, dimensions, path)
    check_md5(content, files.content_md5[name], path)
    return array


def _find(name: str, data_dir: Path) -> Path | None:
    candidates = (data_dir / folder / file for folder in FOLDERS for file in (name, f"{name}.gz"))
    return next((path for path in candidates if path.is_file()), None)


def _unpack(path: Path) -> bytes:
    try:
        with gzip.GzipFile(fileobj=BytesIO(read_file(path))) as file:
            content = file.read(MAX_UNPACKED_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged or truncated ({error}); delete it, then run again") from error
    if len(content) > MAX_UNPACKED_BYTES:
        raise InputError(f"{path} unpacks to more than {MAX_UNPACKED_BYTES} bytes; it is not a file of MNIST")
    return content


def parse_idx(content: bytes, dimensions: int, path: Path) -> Tensor:
    """The uint8 array of an IDX file: zeros, type, dimension count, big-endian sizes, values.

    Raises:
        InputError: another type or dimension count, another length than the sizes ask for, or a size of 0.
    """
    header = 4 + 4 * dimensions
    magic = bytes((0, 0, IDX_UINT8, dimensions))
    if content[:4] != magic:
        raise InputError(
            f"{path} is no IDX file of {dimensions} dimensions: it starts with "
            f"{content[:4].hex() or 'nothing'}, should be {magic.hex()}; delete it, then run again"
        )
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4))
    if len(content) != header + math.prod(shape):
        raise InputError(
            f"{path} is damaged or truncated: its header asks for {header + math.prod(shape)} bytes, it has "
            f"{len(content)}; delete it, then run again"
        )
    if 0 in shape:  # then the other sizes may be anything, beyond what a tensor can have
        raise InputError(f"{path} is empty: its sizes are {shape}; delete it, then run again")
    # The copy is what makes the array writable, which torch asks for.
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).copy()).view(shape)
