"""Data sets as uint8 tensors on one device, nested balanced subsets of them, and augmentation."""

from __future__ import annotations

from robustlab.data.augmentation import Augmentation
from robustlab.data.images import DataSet, LabelledImages, ProgressCallback
from robustlab.data.load import DATASET_NAMES, data_directory, load_dataset
from robustlab.data.subsets import (
    balanced_order,
    check_sizes,
    largest_balanced_size,
    nested_subsets,
    subset_digest,
)

__all__ = [
    "DATASET_NAMES",
    "Augmentation",
    "DataSet",
    "LabelledImages",
    "ProgressCallback",
    "balanced_order",
    "check_sizes",
    "data_directory",
    "largest_balanced_size",
    "load_dataset",
    "nested_subsets",
    "subset_digest",
]
