"""Data sets by name, from one data directory."""

from __future__ import annotations

import os
from pathlib import Path

from robustlab.data.files import user_path
from robustlab.data.images import DataSet, ProgressCallback
from robustlab.data.tuning_slice import hold_out_tuning
from robustlab.errors import InputError

DATASET_NAMES = ("digits", "mnist", "cifar10", "stl10", "tinyimagenet")
IMAGE_FOLDER_PREFIX = "imagefolder:"
DATA_DIR_VARIABLE = "ROBUSTLAB_DATA_DIR"


def data_directory(option: str | Path | None = None) -> Path:
    """Where data sets live: the option, else ROBUSTLAB_DATA_DIR, else ``~/.cache/robustlab/data``."""
    given = str(option or os.environ.get(DATA_DIR_VARIABLE) or "")
    return user_path(given) if given else Path.home() / ".cache" / "robustlab" / "data"


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    download: bool = True,
    on_progress: ProgressCallback | None = None,
) -> DataSet:
    """Load a data set as uint8 tensors on the CPU, its tuning slice taken off the test images.

    Args:
        name: one of ``DATASET_NAMES``, or ``imagefolder:<path>``.
        data_dir: see ``data_directory``.
        download: whether what is missing may be fetched from the official address.
        on_progress: called as ``(stage, done, total)`` while files are fetched, read and decoded; total may
            be None.

    Raises:
        InputError: an unknown name; a missing, truncated or corrupted file; a directory that cannot be
            written to.
    """
    directory = data_directory(data_dir)
    if name not in DATASET_NAMES and not name.startswith(IMAGE_FOLDER_PREFIX):
        known = ", ".join(DATASET_NAMES)
        raise InputError(f"unknown data set {name!r}; choose from {known}, {IMAGE_FOLDER_PREFIX}<path>")
    if name == IMAGE_FOLDER_PREFIX:
        raise InputError(f"{name!r} lacks the path; give the folder that holds train/ and test/")
    if name in DATASET_NAMES[1:] and directory.is_file():
        raise InputError(f"the data directory {directory} is not a directory; choose another")
    try:
        return hold_out_tuning(_load(name, directory, download, on_progress))
    except OSError as error:
        # Reading names its file itself; this is for what only looks around, such as a folder nobody may
        # enter.
        raise InputError(f"{name}: cannot read {error.filename}: {error.strerror or error}") from error
    except ModuleNotFoundError as error:
        raise InputError(
            f"{name} needs {error.name}; install it with: pip install 'robustlab[study]'"
        ) from error


def _load(name: str, directory: Path, download: bool, on_progress: ProgressCallback | None) -> DataSet:
    # scikit-learn, torchvision and Pillow are slow to import: only what is needed is.
    if name == "digits":
        from robustlab.data.digits import load_digits

        return load_digits()
    if name == "mnist":
        from robustlab.data.mnist import load_mnist

        return load_mnist(directory, download, on_progress)
    if name == "cifar10":
        from robustlab.data.cifar10 import load_cifar10

        return load_cifar10(directory, download, on_progress)
    if name == "stl10":
        from robustlab.data.stl10 import load_stl10

        return load_stl10(directory, download, on_progress)
    if name == "tinyimagenet":
        from robustlab.data.tiny_imagenet import load_tiny_imagenet

        return load_tiny_imagenet(directory, download, on_progress)
    from robustlab.data.image_folder import load_image_folder

    folder = user_path(name.removeprefix(IMAGE_FOLDER_PREFIX))
    return load_image_folder(name, folder, on_progress)
