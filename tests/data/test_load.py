"""Data sets by name."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

import robustlab
from robustlab.data import (
    DATASET_NAMES,
    DataSet,
    balanced_order,
    check_sizes,
    data_directory,
    load_dataset,
    subset_digest,
)
from robustlab.data.images import LabelledImages, digest_arrays
from robustlab.errors import InputError


@pytest.fixture(scope="module")
def digits() -> DataSet:
    """The embedded data set."""
    return load_dataset("digits")


def test_digits_are_split_balanced_and_fixed(digits: DataSet) -> None:
    """440 test images, 44 a class, 10 a class for tuning, and a digest that tells when the split or images change."""
    assert torch.bincount(digits.test.labels).tolist() == [44] * 10
    assert torch.bincount(digits.tuning.labels).tolist() == [10] * 10
    assert len(digits.train) + len(digits.test) + len(digits.tuning) == 1797
    assert int(torch.bincount(digits.train.labels).min()) == 120
    assert digits.digest == "c2960fdc0a7d3623e4f3dec40c1184ce2d4b9f25c79f2f616dc6d31a7a9fd201"


def test_digits_keep_scikit_learns_images(digits: DataSet) -> None:
    """Shades 0 to 16 become 0 to 255, rounded, and every image is still there with its label."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    parts = (digits.train, digits.test, digits.tuning)
    images = torch.cat([part.images for part in parts]).flatten(1).tolist()
    labels = torch.cat([part.labels for part in parts]).tolist()
    expected = [[round(v * 255 / 16) for v in row] for row in bunch.data.tolist()]
    assert sorted(zip(images, labels, strict=True)) == sorted(
        zip(expected, bunch.target.tolist(), strict=True)
    )


def test_digits_describe_themselves(digits: DataSet) -> None:
    """Shape, classes, dtype and usable default sizes."""
    assert digits.image_shape == (1, 8, 8)
    assert digits.num_classes == 10
    assert digits.train.images.dtype == torch.uint8
    assert not digits.mirror_invariant
    assert digits.default_sizes == (100, 200, 300, 400, 600, 800, 1000, 1200)
    check_sizes(digits.default_sizes, digits.train.labels, 10)
    assert digits.to("cpu").train.images.device.type == "cpu"


def test_subsets_of_digits_are_the_same_for_ever(digits: DataSet) -> None:
    """The index lists that studies stand on do not move."""
    order = balanced_order(digits.train.labels, seed=0)
    assert (
        subset_digest(digits.digest, order[:1200])
        == "1577e5910ca8496c058f42bc4b940973426a8ca62e8171c9ca70b65ede3ae365"
    )


def test_digest_sees_every_array_and_shape() -> None:
    """One pixel, one label, or the same bytes in another shape change the digest."""

    def digest(images: torch.Tensor, labels: torch.Tensor) -> str:
        other = LabelledImages(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([0]))
        return digest_arrays(LabelledImages(images, labels), other)

    images, labels = torch.arange(16, dtype=torch.uint8).view(2, 1, 2, 4), torch.tensor([0, 1])
    altered = images.clone()
    altered[1, 0, 1, 3] = 99
    cases = [(images, labels), (altered, labels), (images, labels.flip(0)), (images.view(2, 1, 4, 2), labels)]
    assert len({digest(*case) for case in cases}) == 4


@pytest.mark.parametrize("name", ["MNIST", "", "digit", "imagefolder"])
def test_unknown_name_lists_the_known_ones(name: str) -> None:
    """The message repeats what was given and every name that works."""
    with pytest.raises(InputError, match="unknown data set") as error:
        load_dataset(name)
    assert all(known in str(error.value) for known in (*DATASET_NAMES, "imagefolder:<path>", repr(name)))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte.gz"),
        ("cifar10", "cifar-10-python.tar.gz"),
        ("stl10", "stl10_binary.tar.gz"),
        ("tinyimagenet", "tiny-imagenet-200.zip"),
    ],
)
def test_missing_file_is_named_with_its_place(name: str, file: str, tmp_path: Path) -> None:
    """Without a download: one line that says the missing file and where it belongs; nothing is written."""
    with pytest.raises(InputError, match="is missing") as error:
        load_dataset(name, tmp_path / "none", download=False)
    assert str(tmp_path / "none" / file) in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """A file in the place of the data directory is said to be one."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a directory"):
        load_dataset("mnist", tmp_path / "file")


def test_data_directory_prefers_the_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The option comes first, then the environment variable, then the user's cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ROBUSTLAB_DATA_DIR", "~/from_environment")
    assert data_directory("~/option") == tmp_path / "option"
    assert data_directory(None) == tmp_path / "from_environment"
    monkeypatch.delenv("ROBUSTLAB_DATA_DIR")
    assert data_directory(None) == tmp_path / ".cache" / "robustlab" / "data"


def test_importing_the_package_is_light() -> None:
    """What only one data set needs is imported when that data set is loaded."""
    light = "[m for m in ('sklearn', 'torchvision', 'PIL') if m in sys.modules]"
    code = f"import sys, robustlab.data; print({light})"
    top = Path(robustlab.__file__).parents[1]
    answer = subprocess.run([sys.executable, "-c", code], cwd=top, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_missing_library_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the study's libraries are not installed, the message says which and how to get it."""
    monkeypatch.setattr("importlib.metadata.Distribution.from_name", _not_installed)
    with pytest.raises(InputError, match=r"digits needs scikit-learn.*pip install 'robustlab\[study\]'"):
        load_dataset("digits")


def _not_installed(name: str) -> None:
    raise PackageNotFoundError(name)
