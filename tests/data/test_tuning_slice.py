"""The tuning slice: fixed, balanced, never among the test images."""

from __future__ import annotations

import hashlib

import pytest
import torch

from robustlab.data import load_dataset
from robustlab.data.digits import load_digits
from robustlab.data.tuning_slice import tuning_images_per_class


@pytest.mark.parametrize(
    ("classes", "per_class", "expected"),
    [
        (10, 54, 10),  # digits: 100 images are 19 %
        (10, 1_000, 50),  # CIFAR-10: 5 %
        (10, 300, 15),  # STL-10: 5 %
        (200, 50, 3),  # Tiny ImageNet: 5 % rounded up to whole images a class
        (2, 20, 4),  # a small image folder: a fifth
        (10, 2, 0),  # too few to spare any
    ],
)
def test_size_of_the_slice(classes: int, per_class: int, expected: int) -> None:
    """5 %, at least 100 images, at most a fifth, whole images a class."""
    labels = torch.arange(classes).repeat_interleave(per_class)
    assert tuning_images_per_class(labels, classes) == expected


def test_the_rarest_class_decides_the_limit() -> None:
    """No class loses more than a fifth of its test images, and a class without images stops the slice."""
    labels = torch.tensor([0] * 1000 + [1] * 9)
    assert tuning_images_per_class(labels, 2) == 1
    assert tuning_images_per_class(torch.zeros(500, dtype=torch.long), 2) == 0


def test_slice_and_test_are_the_published_test_images_cut_in_two() -> None:
    """Nothing is lost, nothing is in both, and the data set's digest is that of the published images."""

    def digests(images: torch.Tensor) -> list[str]:
        return sorted(hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images)

    published, loaded = load_digits(), load_dataset("digits")
    assert len(published.tuning) == 0
    assert len(loaded.tuning) == 100
    assert digests(published.test.images) == sorted(
        digests(loaded.test.images) + digests(loaded.tuning.images)
    )
    assert loaded.digest == published.digest
    assert not set(digests(loaded.test.images)) & set(digests(loaded.tuning.images))


def test_the_slice_is_the_same_for_ever() -> None:
    """Every load holds out the same images; which ones is pinned, because published numbers stand on it."""
    first, second = load_dataset("digits").tuning, load_dataset("digits").tuning
    assert torch.equal(first.images, second.images)
    assert hashlib.sha256(first.images.numpy().tobytes()).hexdigest()[:16] == "69e52db166d10dfa"
