"""The handwritten digits that scikit-learn carries: real images without a download."""

from __future__ import annotations

import gzip
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import torch

from robustlab.data.images import DataSet, LabelledImages, digest_arrays
from robustlab.data.subsets import split_balanced

TEST_PER_CLASS = 54
DEFAULT_SIZES = (100, 200, 300, 400, 600, 800, 1000, 1200)


def load_digits() -> DataSet:
    """1,797 greyscale digits of 8x8 in 17 shades, split once into 1,257 train and 540 test (54 per class).

    Source: UCI "Optical Recognition of Handwritten Digits" (its test part), as in scikit-learn.
    """
    rows = _rows()
    shades = torch.from_numpy(rows[:, :-1].reshape(-1, 8, 8))
    images = (shades * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(rows[:, -1].astype(np.int64))
    in_train, in_test = split_balanced(labels, TEST_PER_CLASS)
    train = LabelledImages(images[in_train], labels[in_train])
    test = LabelledImages(images[in_test], labels[in_test])
    names = tuple(str(digit) for digit in range(10))
    return DataSet("digits", train, test, names, False, digest_arrays(train, test), DEFAULT_SIZES)


def _rows() -> np.ndarray:
    """(1797, 65) float64: 64 shades from 0 to 16, then the class; read without scikit-learn's second of imports."""
    try:
        place = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    except PackageNotFoundError:
        raise ModuleNotFoundError("no scikit-learn", name="scikit-learn") from None
    with gzip.open(Path(str(place)), "rt") as file:
        return np.loadtxt(file, delimiter=",", dtype=np.float64)
