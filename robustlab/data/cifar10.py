"""CIFAR-10 from its Python batches."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from robustlab.data.archive import OfficialArchive, read_files
from robustlab.data.images import DataSet, LabelledImages, ProgressCallback, digest_arrays
from robustlab.errors import InputError

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DEFAULT_SIZES = (1_000, *range(5_000, 50_001, 5_000))
IMAGE_SHAPE = (3, 32, 32)
TEST_BATCH = "test_batch"


def official_archive() -> OfficialArchive:
    """torchvision's address and checksums of the archive and of each batch."""
    from torchvision.datasets import CIFAR10

    return OfficialArchive(
        dataset="cifar10",
        folder=CIFAR10.base_folder,
        filename=CIFAR10.filename,
        url=CIFAR10.url,
        md5=CIFAR10.tgz_md5,
        files=dict(CIFAR10.train_list + CIFAR10.test_list),
    )


def load_cifar10(
    data_dir: Path,
    download: bool,
    on_progress: ProgressCallback | None,
    source: OfficialArchive | None = None,
) -> DataSet:
    """50,000 train and 10,000 test colour images of 32x32.

    Reads the unpacked folder ``cifar-10-batches-py``, or else ``cifar-10-python.tar.gz``.

    Raises:
        InputError: a file is missing and cannot be downloaded, or is not the official one.
    """
    source = source or official_archive()
    # The batches are pickles, which can run code when read: only bytes whose checksum held reach this line,
    # and the bytes that were checked are the ones that are read.
    contents = read_files(source, data_dir, download, on_progress)
    batches = {
        name: _parse_batch(content, data_dir / source.folder / name) for name, content in contents.items()
    }
    train = _join([batches[name] for name in source.files if name != TEST_BATCH])
    test = batches[TEST_BATCH]
    return DataSet("cifar10", train, test, CLASS_NAMES, True, digest_arrays(train, test), DEFAULT_SIZES)


def _join(parts: Sequence[LabelledImages]) -> LabelledImages:
    return LabelledImages(
        torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
    )


def _parse_batch(content: bytes, path: Path) -> LabelledImages:
    try:
        with warnings.catch_warnings():
            # The official pickles are older than NumPy's present rules for dtype(align=...).
            warnings.simplefilter("ignore")
            batch = pickle.loads(content, encoding="latin1")
        data = np.asarray(batch["data"])
        labels = torch.tensor(batch["labels"], dtype=torch.int64)
    except Exception as error:  # unpickling raises anything
        raise InputError(f"{path} is no CIFAR-10 batch ({error}); delete it, then run again") from error
    size = int(np.prod(IMAGE_SHAPE))
    if data.dtype != np.uint8 or data.shape != (len(labels), size):
        raise InputError(
            f"{path} is no CIFAR-10 batch: its images are {data.dtype} of shape {data.shape}, should be "
            f"uint8 of {(len(labels), size)}; delete it, then run again"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(CLASS_NAMES):
        raise InputError(f"{path} has labels outside 0 to {len(CLASS_NAMES) - 1}; delete it, then run again")
    return LabelledImages(torch.from_numpy(data.reshape(-1, *IMAGE_SHAPE).copy()), labels)
