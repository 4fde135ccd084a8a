"""Anybody's own images: a folder with train/ and test/, one folder per class in each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from robustlab.data.decoding import decode_images, open_image
from robustlab.data.files import read_file
from robustlab.data.images import DataSet, LabelledImages, ProgressCallback, digest_arrays
from robustlab.data.subsets import spaced_sizes
from robustlab.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm")
MAX_PIXELS = 1 << 22
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
GREY_MODES = ("1", "L", "LA")


def load_image_folder(name: str, root: Path, on_progress: ProgressCallback | None) -> DataSet:
    """Images under ``train/<class>/`` and ``test/<class>/`` (or ``val/<class>/``), all of one size.

    Classes are the folders' names, sorted. Images are greyscale where all of them are, else RGB. Hidden
    folders and files that are no images (by suffix) are passed over.

    Args:
        name: the data set's name as the user wrote it.
        root: the folder that holds ``train`` and ``test``.

    Raises:
        InputError: a folder is missing or empty, the classes differ, or an image is damaged or of another
            size.
    """
    test_folder = root / "test" if (root / "test").is_dir() or not (root / "val").is_dir() else root / "val"
    folders = {"train": root / "train", "test": test_folder}
    classes = _list_classes(folders["train"])
    for absent in sorted(set(classes) ^ set(_list_classes(test_folder))):
        here, there = (
            (folders["train"], test_folder) if absent in classes else (test_folder, folders["train"])
        )
        raise InputError(
            f"class folder {absent!r} is in {here} but not in {there}; both need the same classes"
        )
    if len(classes) < 2:
        raise InputError(f"{folders['train']} has {len(classes)} class folders, at least 2 are needed")
    entries = {
        part: [
            (path, label) for label, wanted in enumerate(classes) for path in _list_images(folder / wanted)
        ]
        for part, folder in folders.items()
    }
    size, mode = _check_headers([path for part in entries.values() for path, _ in part], on_progress)
    parts = {}
    for part, files in entries.items():
        paths = [str(path) for path, _ in files]
        stage = (on_progress, f"decode {part}")
        images = decode_images(paths, lambda path: read_file(Path(path)), size, mode, stage)
        parts[part] = LabelledImages(images, torch.tensor([label for _, label in files], dtype=torch.int64))
    train, test = parts["train"], parts["test"]
    sizes = spaced_sizes(train.labels, len(classes))
    return DataSet(name, train, test, tuple(classes), True, digest_arrays(train, test), sizes)


def _list_classes(folder: Path) -> list[str]:
    try:
        return sorted(
            path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
        )
    except OSError as error:
        raise InputError(
            f"cannot read the folder {folder} ({error.strerror or error}); an image folder needs "
            "train/<class>/ and test/<class>/ with images"
        ) from error


def _list_images(folder: Path) -> list[Path]:
    try:
        images = sorted(
            path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()
        )
    except OSError as error:
        raise InputError(f"cannot read the folder {folder} ({error.strerror or error})") from error
    images = [path for path in images if not path.name.startswith(".")]
    if not images:
        raise InputError(
            f"{folder} has no images ({', '.join(SUFFIXES)}); add some or remove the class everywhere"
        )
    return images


def _check_headers(
    paths: Sequence[Path], on_progress: ProgressCallback | None
) -> tuple[tuple[int, int], str]:
    """The (width, height) that all images share, and ``L`` if all are greyscale, else ``RGB``."""
    grey, size = True, (0, 0)
    for done, path in enumerate(paths):
        image = open_image(read_file(path), str(path))
        if image.mode not in EIGHT_BIT_MODES:
            raise InputError(
                f"{path} has pixels of type {image.mode}, should be 8 bits a channel; convert it"
            )
        if done == 0:
            size = image.size
            if size[0] * size[1] > MAX_PIXELS:
                raise InputError(
                    f"{path} is {size[0]}x{size[1]}, at most {MAX_PIXELS} pixels are allowed; resize it"
                )
        if image.size != size:
            raise InputError(
                f"{path} is {image.width}x{image.height}, but {paths[0]} is {size[0]}x{size[1]} (width x "
                "height); all images must have the same size"
            )
        grey = grey and image.mode in GREY_MODES
        if on_progress and (done + 1) % 256 == 0:
            on_progress("check images", done + 1, len(paths))
    return size, "L" if grey else "RGB"
