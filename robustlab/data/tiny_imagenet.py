"""Tiny ImageNet from its official zip or the unpacked folder; the validation images are the test set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from robustlab.data.array_cache import cache_paths, load_arrays, store_arrays
from robustlab.data.decoding import decode_images
from robustlab.data.files import download_file, missing_file
from robustlab.data.image_files import FolderFiles, ImageFiles, ZipFiles
from robustlab.data.images import DataSet, LabelledImages, ProgressCallback, digest_arrays
from robustlab.errors import InputError

DEFAULT_SIZES = tuple(range(10_000, 100_001, 10_000))
FOLDER = "tiny-imagenet-200"
SIDE = 64


@dataclass(frozen=True)
class TinyImageNetRelease:
    """Where the zip is published and how much it holds: a half-unpacked folder is not taken for whole."""

    url: str = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    md5: str = "90528d7ca1a48142e341f4ef8d21d0de"
    num_classes: int = 200
    train_per_class: int = 500
    test_images: int = 10_000


OFFICIAL = TinyImageNetRelease()


def load_tiny_imagenet(
    data_dir: Path,
    download: bool,
    on_progress: ProgressCallback | None,
    release: TinyImageNetRelease = OFFICIAL,
) -> DataSet:
    """100,000 train and 10,000 test colour images of 64x64 in 200 classes, in the order of ``wnids.txt``.

    Reads ``tiny-imagenet-200.zip``, or else the folder ``tiny-imagenet-200``. Greyscale JPEGs become RGB.
    The decoded arrays (1.4 GB) are kept in the data directory, or else in the user's cache directory, for
    the next start.

    Raises:
        InputError: a file is missing and cannot be downloaded, or is damaged.
    """
    files, source = _open(data_dir, download, on_progress, release)
    wnids = _read_lines(files, "wnids.txt")
    if len(wnids) != release.num_classes or len(set(wnids)) != len(wnids):
        raise InputError(
            f"{files.describe('wnids.txt')} lists {len(set(wnids))} classes, should be "
            f"{release.num_classes}; get Tiny ImageNet again"
        )
    paths = cache_paths(data_dir, "tinyimagenet", source)
    cached = load_arrays(paths, files.fingerprint)
    if cached is None:
        train = _decode(_list_train(files, wnids, release), files, "train", on_progress)
        test = _decode(_list_test(files, wnids, release), files, "test", on_progress)
        cached = (train, test, digest_arrays(train, test))
        store_arrays(paths, files.fingerprint, *cached)
    train, test, digest = cached
    return DataSet("tinyimagenet", train, test, _class_names(files, wnids), True, digest, DEFAULT_SIZES)


def _open(
    data_dir: Path, download: bool, on_progress: ProgressCallback | None, release: TinyImageNetRelease
) -> tuple[ImageFiles, Path]:
    archive, folder = data_dir / f"{FOLDER}.zip", data_dir / FOLDER
    if not archive.is_file():
        if folder.is_dir():
            return FolderFiles(folder), folder
        if not download:
            raise missing_file("tinyimagenet", archive)
        download_file([release.url], archive, release.md5, "tinyimagenet", on_progress)
    return ZipFiles(archive, f"{FOLDER}/"), archive


def _read_lines(files: ImageFiles, name: str) -> list[str]:
    if name not in files.names:
        raise InputError(f"{files.describe(name)} is missing; get Tiny ImageNet again")
    try:
        lines = files.read(name).decode().splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{files.describe(name)} is damaged ({error}); get Tiny ImageNet again") from error
    return [line for line in lines if line.strip()]


def _class_names(files: ImageFiles, wnids: Sequence[str]) -> tuple[str, ...]:
    """``n01443537 goldfish``: the number keeps names apart, the word (from words.txt) is for people."""
    words = dict.fromkeys(wnids, "")
    if "words.txt" in files.names:
        for line in _read_lines(files, "words.txt"):
            wnid, _, synonyms = line.partition("\t")
            if wnid in words:
                words[wnid] = synonyms.split(",")[0].strip()
    return tuple(f"{wnid} {word}".strip() for wnid, word in words.items())


def _list_train(
    files: ImageFiles, wnids: Sequence[str], release: TinyImageNetRelease
) -> list[tuple[str, int]]:
    by_wnid: defaultdict[str, list[str]] = defaultdict(list)
    for name in files.names:
        match PurePosixPath(name).parts:
            case ("train", wnid, "images", image) if image.endswith(".JPEG"):
                by_wnid[wnid].append(name)
    for wnid in wnids:
        if len(by_wnid[wnid]) != release.train_per_class:
            raise InputError(
                f"{files.describe(f'train/{wnid}/images')} has {len(by_wnid[wnid])} images, should have "
                f"{release.train_per_class}; get Tiny ImageNet again"
            )
    return [(name, label) for label, wnid in enumerate(wnids) for name in sorted(by_wnid[wnid])]


def _list_test(
    files: ImageFiles, wnids: Sequence[str], release: TinyImageNetRelease
) -> list[tuple[str, int]]:
    annotations = files.describe("val/val_annotations.txt")
    classes = {wnid: label for label, wnid in enumerate(wnids)}
    labels: dict[str, int] = {}
    for line in _read_lines(files, "val/val_annotations.txt"):
        image, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in classes:
            raise InputError(f"{annotations} gives {image} the class {wnid!r}, which is not in wnids.txt")
        labels[f"val/images/{image}"] = classes[wnid]
    images = {name for name in files.names if name.startswith("val/images/") and name.endswith(".JPEG")}
    for name in sorted(images ^ labels.keys()):
        lacks = "has no line for" if name in images else "names a missing image:"
        raise InputError(f"{annotations} {lacks} {name}; get Tiny ImageNet again")
    if len(images) != release.test_images:
        raise InputError(
            f"{files.describe('val/images')} has {len(images)} images, should have {release.test_images}; "
            "get Tiny ImageNet again"
        )
    return sorted(labels.items())


def _decode(
    entries: Sequence[tuple[str, int]], files: ImageFiles, part: str, on_progress: ProgressCallback | None
) -> LabelledImages:
    names = {files.describe(name): name for name, _ in entries}
    images = decode_images(
        list(names), lambda described: files.read(names[described]), (SIDE, SIDE), "RGB",
        (on_progress, f"decode tinyimagenet {part}"),
    )  # fmt: skip
    return LabelledImages(images, torch.tensor([label for _, label in entries], dtype=torch.int64))
