"""STL-10's labelled images, pooled and split anew as in the paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from robustlab.data.archive import OfficialArchive, read_files
from robustlab.data.images import DataSet, LabelledImages, ProgressCallback, digest_arrays
from robustlab.data.subsets import split_balanced
from robustlab.errors import InputError

CLASS_NAMES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
DEFAULT_SIZES = tuple(range(1_000, 10_001, 1_000))
TEST_PER_CLASS = 300
SIDE = 96


def official_archive() -> OfficialArchive:
    """torchvision's address and checksums, without the 100,000 unlabelled images, which nothing needs."""
    from torchvision.datasets import STL10

    files = dict(STL10.train_list + STL10.test_list)
    del files["unlabeled_X.bin"]
    return OfficialArchive(
        dataset="stl10",
        folder=STL10.base_folder,
        filename=STL10.filename,
        url=STL10.url,
        md5=STL10.tgz_md5,
        files=files,
    )


def load_stl10(
    data_dir: Path,
    download: bool,
    on_progress: ProgressCallback | None,
    source: OfficialArchive | None = None,
    test_per_class: int = TEST_PER_CLASS,
) -> DataSet:
    """13,000 labelled colour images of 96x96, always split into the same 10,000 train and 3,000 test.

    Reads the unpacked folder ``stl10_binary``, or else ``stl10_binary.tar.gz``.

    Raises:
        InputError: a file is missing and cannot be downloaded, or is not the official one.
    """
    source = source or official_archive()
    contents = read_files(source, data_dir, download, on_progress)
    folder = data_dir / source.folder
    parts = [_parse(contents, part, folder) for part in ("train", "test")]
    images = torch.cat([part.images for part in parts])
    labels = torch.cat([part.labels for part in parts])
    in_train, in_test = split_balanced(labels, test_per_class)
    train = LabelledImages(images[in_train], labels[in_train])
    test = LabelledImages(images[in_test], labels[in_test])
    return DataSet("stl10", train, test, CLASS_NAMES, True, digest_arrays(train, test), DEFAULT_SIZES)


def _parse(contents: dict[str, bytes], part: str, folder: Path) -> LabelledImages:
    pixels = np.frombuffer(contents[f"{part}_X.bin"], np.uint8)
    labels = np.frombuffer(contents[f"{part}_y.bin"], np.uint8)
    if len(pixels) != len(labels) * 3 * SIDE * SIDE:
        raise InputError(
            f"{folder / f'{part}_X.bin'} has {len(pixels)} bytes, {len(labels) * 3 * SIDE * SIDE} are needed "
            f"for the {len(labels)} labels of {part}_y.bin; delete both, then run again"
        )
    if len(labels) and not 1 <= labels.min() <= labels.max() <= len(CLASS_NAMES):
        raise InputError(f"{folder / f'{part}_y.bin'} has labels outside 1 to {len(CLASS_NAMES)}; delete it")
    # Each channel is stored column by column.
    images = np.ascontiguousarray(pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 1, 3, 2))
    return LabelledImages(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64) - 1))
