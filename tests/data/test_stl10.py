"""STL-10's binaries, small ones in the official format."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from robustlab.data.archive import OfficialArchive
from robustlab.data.stl10 import load_stl10, official_archive
from robustlab.errors import InputError

Damage = Callable[[bytes], bytes]


def make_contents() -> dict[str, bytes]:
    """The labelled files with 2 train and 3 test images a class."""
    contents = {}
    for part, per_class in (("train", 2), ("test", 3)):
        labels = np.repeat(np.arange(1, 11, dtype=np.uint8), per_class)
        # The image's rows, columns and channels tell themselves apart; the class is in the first pixel.
        rows, columns = np.meshgrid(np.arange(96), np.arange(96), indexing="ij")
        image = np.stack([rows, columns, rows + columns]).astype(np.uint8)
        images = np.repeat(image[None], len(labels), axis=0)
        images[:, :, 0, 0] = labels[:, None]
        contents[f"{part}_X.bin"] = images.transpose(0, 1, 3, 2).tobytes()
        contents[f"{part}_y.bin"] = labels.tobytes()
    return contents


def describe(contents: dict[str, bytes]) -> OfficialArchive:
    """The official table with these files' checksums."""
    files = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    return replace(official_archive(), files=files)


def unpack(folder: Path, contents: dict[str, bytes]) -> None:
    """Write the unpacked folder."""
    (folder / "stl10_binary").mkdir()
    for name, content in contents.items():
        (folder / "stl10_binary" / name).write_bytes(content)


def test_official_table_leaves_the_unlabelled_images_out() -> None:
    """Only the four labelled files are wanted."""
    assert sorted(official_archive().files) == ["test_X.bin", "test_y.bin", "train_X.bin", "train_y.bin"]


def test_labelled_images_are_pooled_and_split_balanced(tmp_path: Path) -> None:
    """Both files are pooled and split balanced; images are the right way up, each with its label."""
    contents = make_contents()
    unpack(tmp_path, contents)
    data = load_stl10(tmp_path, False, None, describe(contents), test_per_class=2)
    assert data.image_shape == (3, 96, 96)
    assert torch.bincount(data.train.labels).tolist() == [3] * 10
    assert torch.bincount(data.test.labels).tolist() == [2] * 10
    for part in (data.train, data.test):
        assert torch.equal(part.images[:, 0, 0, 0].long() - 1, part.labels)
        assert part.images[0, 0, 50, 7] == 50
        assert part.images[0, 1, 50, 7] == 7
    assert data.default_sizes == tuple(range(1000, 10001, 1000))
    assert data.digest == load_stl10(tmp_path, False, None, describe(contents), test_per_class=2).digest


def test_official_counts_give_the_papers_split() -> None:
    """13,000 labels, 1,300 a class, split into 10,000 and 3,000, and the same ones for ever."""
    from robustlab.data import subset_digest
    from robustlab.data.subsets import split_balanced

    labels = torch.arange(13_000) % 10
    train, test = split_balanced(labels, 300)
    assert torch.bincount(labels[train]).tolist() == [1000] * 10
    assert torch.bincount(labels[test]).tolist() == [300] * 10
    assert subset_digest("", test) == "4afb33678b481138439e0f2ada2cbbff4231d44a165dd0f3be82680cccdd8f41"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train_X.bin", lambda c: c[:-1], r"train_X.bin has 552959 bytes, 552960 are needed"),
        ("test_y.bin", lambda c: c[:-1], r"test_X.bin has 829440 bytes, 801792 are needed"),
        ("test_y.bin", lambda c: b"\0" + c[1:], r"test_y.bin has labels outside 1 to 10"),
        ("test_y.bin", lambda c: b"\x0b" + c[1:], r"test_y.bin has labels outside 1 to 10"),
    ],
)
def test_files_that_do_not_fit_are_named(name: str, damage: Damage, message: str, tmp_path: Path) -> None:
    """A length or a label that cannot be is said, with the file."""
    contents = make_contents()
    contents[name] = damage(contents[name])
    unpack(tmp_path, contents)
    with pytest.raises(InputError, match=message):
        load_stl10(tmp_path, False, None, describe(contents), test_per_class=2)


@pytest.mark.parametrize("name", ["train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin"])
def test_altered_file_is_named(name: str, tmp_path: Path) -> None:
    """One byte off is found by the checksum."""
    contents = make_contents()
    unpack(tmp_path, contents | {name: contents[name][:-1] + b"\x07"})
    with pytest.raises(InputError, match="MD5") as error:
        load_stl10(tmp_path, False, None, describe(contents), test_per_class=2)
    assert str(tmp_path / "stl10_binary" / name) in str(error.value)
