"""The handwritten digits that scikit-learn carries: real images without a download."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits as load_sklearn_digits

from robustlab.data.images import DataSet, LabelledImages, digest_arrays
from robustlab.data.subsets import split_balanced

TEST_PER_CLASS = 54
DEFAULT_SIZES = (100, 200, 300, 400, 600, 800, 1000, 1200)


def load_digits() -> DataSet:
    """1,797 greyscale digits of 8x8 in 17 shades, split once into 1,257 train and 540 test (54 per class).

    Source: UCI "Optical Recognition of Handwritten Digits" (its test part), as in scikit-learn.
    """
    bunch = load_sklearn_digits()
    shades = torch.from_numpy(np.asarray(bunch.images, dtype=np.float64))
    images = (shades * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(np.asarray(bunch.target, dtype=np.int64))
    in_train, in_test = split_balanced(labels, TEST_PER_CLASS)
    train = LabelledImages(images[in_train], labels[in_train])
    test = LabelledImages(images[in_test], labels[in_test])
    names = tuple(str(digit) for digit in range(10))
    return DataSet("digits", train, test, names, False, digest_arrays(train, test), DEFAULT_SIZES)
