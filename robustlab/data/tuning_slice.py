"""The test images that attack constants are tuned on: fixed, balanced, and no longer test images."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from robustlab.data.images import DataSet, LabelledImages
from robustlab.data.subsets import balanced_order
from robustlab.shapes import Int

# A twentieth of the test images, but enough for a mean; where that would empty a small test set, a fifth of it.
SHARE = 0.05
LEAST_IMAGES = 100
LARGEST_SHARE = 0.2
# Once and for all: the slice is part of the data set, not of a study. Another seed than that of the order in which
# test images are attacked.
_SEED = 1


def tuning_images_per_class(labels: Int[Tensor, " n"], num_classes: int) -> int:
    """How many test images of each class are for tuning (docs/decisions/0005-tuning-slice-and-constants.md)."""
    rarest = int(torch.bincount(labels.cpu(), minlength=num_classes).min())
    wanted = max(SHARE * len(labels), LEAST_IMAGES)
    return min(-int(-wanted // num_classes), int(LARGEST_SHARE * rarest + 1e-9))


def hold_out_tuning(dataset: DataSet) -> DataSet:
    """Move the tuning slice from ``test`` to ``tuning``; the rest of the test images keep their order."""
    labels = dataset.test.labels
    count = tuning_images_per_class(labels, dataset.num_classes) * dataset.num_classes
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[balanced_order(labels, seed=_SEED)[:count]] = True
    return replace(dataset, test=_part(dataset.test, ~held_out), tuning=_part(dataset.test, held_out))


def _part(whole: LabelledImages, chosen: Tensor) -> LabelledImages:
    return LabelledImages(whole.images[chosen], whole.labels[chosen])
