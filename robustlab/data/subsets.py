"""Nested, balanced subsets of a training set, the same on every machine and library version."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from robustlab.errors import InputError
from robustlab.shapes import Int


def balanced_order(labels: Int[Tensor, " n"], seed: int) -> Int[Tensor, " m"]:
    """One list of indices whose first k * num_classes entries are the balanced subset of k images per class.

    Nesting needs no further care: every subset is a prefix of this list. Within a class, images are ranked by
    the SHA-256 of ``f"{seed}:{index}"``; the list then takes the first of each class, the second of each
    class, and so on until the rarest class is used up. No random number generator is involved, because none
    of them promises the same stream for ever.

    Args:
        labels: class indices in 0..num_classes - 1.
        seed: any integer; another seed ranks the images independently.

    Returns:
        m = (images of the rarest class) * num_classes different indices, on the CPU.
    """
    by_class: list[list[int]] = [[] for _ in range(int(labels.max()) + 1 if len(labels) else 0)]
    for index, label in enumerate(labels.tolist()):
        by_class[label].append(index)
    ranked = [
        sorted(members, key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest()) for members in by_class
    ]
    # zip stops at the rarest class: what the others have more of is in no balanced subset.
    order = [index for one_per_class in zip(*ranked, strict=False) for index in one_per_class]
    return torch.tensor(order, dtype=torch.int64)


def nested_subsets(
    labels: Int[Tensor, " n"], num_classes: int, sizes: Sequence[int], seed: int
) -> dict[int, Int[Tensor, " _"]]:
    """The indices of each balanced subset; every subset is contained in the next.

    Args:
        labels: class indices of the training set, in 0..num_classes - 1.
        sizes: images per subset, rising multiples of ``num_classes``.
        seed: ranks the images, see ``balanced_order``.

    Raises:
        InputError: sizes that ``check_sizes`` refuses.
    """
    check_sizes(sizes, labels, num_classes)
    order = balanced_order(labels, seed)
    return {size: order[:size] for size in sizes}


def subset_digest(dataset_digest: str, indices: Int[Tensor, " m"]) -> str:
    """SHA-256 (64 hex digits) of the data set's digest and the index list as little-endian int64."""
    digest = hashlib.sha256(dataset_digest.encode())
    digest.update(b"".join(index.to_bytes(8, "little") for index in indices.tolist()))
    return digest.hexdigest()


def largest_balanced_size(labels: Int[Tensor, " n"], num_classes: int) -> int:
    """The rarest class's image count times the number of classes."""
    return int(torch.bincount(labels.cpu(), minlength=num_classes).min()) * num_classes


def check_sizes(sizes: Sequence[int], labels: Int[Tensor, " n"], num_classes: int) -> None:
    """Refuse training sizes that no nested, balanced subsets can have.

    Raises:
        InputError: no sizes, or one that is not positive, not a multiple of the class count, larger than the
            largest balanced subset, repeated, or smaller than the one before it.
    """
    if not sizes:
        raise InputError("no training sizes were given; give at least one, such as 1000")
    largest = largest_balanced_size(labels, num_classes)
    for size in sizes:
        if size <= 0:
            raise InputError(f"a training size must be positive, not {size}")
        if size % num_classes:
            lower = size - size % num_classes
            near = f"{lower} or {lower + num_classes}" if lower else f"{num_classes}"
            raise InputError(
                f"training size {size} is not a multiple of the {num_classes} classes, so the subset cannot "
                f"be balanced; the nearest that can: {near}"
            )
        if size > largest:
            raise InputError(
                f"training size {size} is too large: the largest balanced subset has {largest} images "
                f"({largest // num_classes} of each of the {num_classes} classes)"
            )
    if len(set(sizes)) < len(sizes):
        repeated = next(size for size in sizes if list(sizes).count(size) > 1)
        raise InputError(f"training size {repeated} was given more than once; give each size once")
    if list(sizes) != sorted(sizes):
        rising = ",".join(str(size) for size in sorted(sizes))
        raise InputError(f"training sizes must rise, not {','.join(map(str, sizes))}; give {rising}")


def spaced_sizes(labels: Int[Tensor, " n"], num_classes: int, count: int = 10) -> tuple[int, ...]:
    """At most ``count`` evenly spaced balanced sizes, the last of them the largest one."""
    per_class = largest_balanced_size(labels, num_classes) // num_classes
    steps = {per_class * step // count for step in range(1, count + 1)} - {0}
    return tuple(step * num_classes for step in sorted(steps))


def split_balanced(
    labels: Int[Tensor, " n"], test_per_class: int
) -> tuple[Int[Tensor, " _"], Int[Tensor, " _"]]:
    """A fixed split into (train, test) indices, both rising, with ``test_per_class`` per class in test."""
    num_classes = int(labels.max()) + 1
    # Seed 0 once and for all: the split is part of the data set, not of a study.
    test = balanced_order(labels, seed=0)[: test_per_class * num_classes]
    in_train = torch.ones(len(labels), dtype=torch.bool)
    in_train[test] = False
    return in_train.nonzero().flatten(), test.sort().values
