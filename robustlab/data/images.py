"""Images and labels as uint8 tensors that live on one device."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from robustlab.shapes import Int, UInt8

ProgressCallback = Callable[[str, int, int | None], None]
"""Called as ``on_progress(stage, done, total)``; total is None where it is not known."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images in 0..255 with one class index each."""

    images: UInt8[Tensor, "n channels height width"]
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> LabelledImages:
        """The same images and labels on the given device."""
        return LabelledImages(self.images.to(device), self.labels.to(device))


def no_images() -> LabelledImages:
    """An empty part of a data set."""
    return LabelledImages(torch.empty(0, 1, 1, 1, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))


@dataclass(frozen=True, eq=False)
class DataSet:
    """A training set, a test set, and what the study has to know of them.

    Attributes:
        name: as the user wrote it, such as ``cifar10`` or ``imagefolder:/data/birds``.
        train, test: labels in 0..num_classes - 1, the same classes in both.
        class_names: one name per class index, all different.
        mirror_invariant: a left-right mirrored image keeps its class.
        digest: SHA-256 (64 hex digits) over the shapes and bytes of all arrays as published (before the tuning
            slice left the test set); tells versions apart.
        default_sizes: the training sizes of a study that names none, rising, each balanced.
        tuning: test images that attack constants are tuned on; never part of ``test``.
    """

    name: str
    train: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]
    mirror_invariant: bool
    digest: str
    default_sizes: tuple[int, ...]
    tuning: LabelledImages = field(default_factory=no_images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def to(self, device: torch.device | str) -> DataSet:
        """The same data set with its images and labels on the given device."""
        return replace(
            self, train=self.train.to(device), test=self.test.to(device), tuning=self.tuning.to(device)
        )


def digest_arrays(train: LabelledImages, test: LabelledImages) -> str:
    """SHA-256 (64 hex digits) over the shapes and bytes of the four arrays, labels as little-endian int64."""
    digest = hashlib.sha256()
    for part in (train, test):
        for tensor, kind in ((part.images, "u1"), (part.labels, "<i8")):
            array = tensor.cpu().contiguous().numpy().astype(kind, copy=False)
            digest.update(f"{kind}{tuple(array.shape)}".encode())
            digest.update(array.data)
    return digest.hexdigest()
