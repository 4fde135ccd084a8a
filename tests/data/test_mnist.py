"""MNIST's IDX files, small ones in the official format."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from robustlab.data.mnist import MnistFiles, load_mnist
from robustlab.errors import InputError

Damage = Callable[[bytes], bytes]

NAMES = [
    f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
]


def make_idx(array: np.ndarray) -> bytes:
    """An IDX file of uint8 values."""
    sizes = b"".join(side.to_bytes(4, "big") for side in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()


def make_contents() -> dict[str, bytes]:
    """The four files with 30 train and 20 test images of 28x28."""
    random = np.random.RandomState(0)
    contents = {}
    for part, count in (("train", 30), ("t10k", 20)):
        images = random.randint(0, 256, (count, 28, 28)).astype(np.uint8)
        contents[f"{part}-images-idx3-ubyte"] = make_idx(images)
        contents[f"{part}-labels-idx1-ubyte"] = make_idx(np.arange(count, dtype=np.uint8) % 10)
    return contents


def describe(contents: dict[str, bytes], mirror: str = "file:///nowhere/") -> MnistFiles:
    """What the official table would say of these files."""
    packed = {
        name: hashlib.md5(gzip.compress(content, mtime=0)).hexdigest() for name, content in contents.items()
    }
    return MnistFiles([mirror], packed, {name: hashlib.md5(c).hexdigest() for name, c in contents.items()})


def write(folder: Path, contents: dict[str, bytes], packed: bool) -> None:
    """Put the files into a folder, packed as .gz or not."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content, mtime=0) if packed else content)


@pytest.mark.parametrize("folder", ["MNIST/raw", "mnist", "."])
@pytest.mark.parametrize("packed", [True, False])
def test_files_are_found_and_read_without_writing(folder: str, packed: bool, tmp_path: Path) -> None:
    """Packed or not, in torchvision's folder or another; the folder looks the same afterwards."""
    contents = make_contents()
    write(tmp_path / folder, contents, packed)
    before = sorted(tmp_path.rglob("*"))
    data = load_mnist(tmp_path, False, None, describe(contents))
    assert sorted(tmp_path.rglob("*")) == before
    assert data.train.images.shape == (30, 1, 28, 28)
    assert data.image_shape == (1, 28, 28)
    assert data.train.images.numpy().tobytes() == contents["train-images-idx3-ubyte"][16:]
    assert data.test.images.numpy().tobytes() == contents["t10k-images-idx3-ubyte"][16:]
    assert data.test.labels.tolist() == list(range(10)) * 2
    assert data.train.labels.dtype == torch.int64
    assert not data.mirror_invariant
    assert data.default_sizes == (1000, 5000, 10000, 15000, 20000, 25000, 30000, 35000, 40000, 45000, 50000)


def test_reading_agrees_with_torchvision(tmp_path: Path) -> None:
    """The same images and labels as torchvision reads from the same files."""
    from torchvision.datasets import MNIST

    contents = make_contents()
    write(tmp_path / "MNIST" / "raw", contents, packed=False)
    data = load_mnist(tmp_path, False, None, describe(contents))
    theirs = MNIST(str(tmp_path), train=True)
    assert torch.equal(data.train.images[:, 0], theirs.data)
    assert torch.equal(data.train.labels, theirs.targets)


def test_missing_files_are_downloaded_and_then_read_again(tmp_path: Path) -> None:
    """What is missing comes from the mirror, into torchvision's folder; the second start needs no mirror."""
    contents = make_contents()
    write(tmp_path / "mirror", contents, packed=True)
    heard: list[str] = []
    files = describe(contents, (tmp_path / "mirror").as_uri() + "/")
    first = load_mnist(tmp_path / "data", True, lambda stage, *_: heard.append(stage), files)
    second = load_mnist(tmp_path / "data", False, None, files)
    assert first.digest == second.digest
    assert "download t10k-labels-idx1-ubyte.gz" in heard
    assert sorted(p.name for p in (tmp_path / "data" / "MNIST" / "raw").iterdir()) == sorted(
        f"{n}.gz" for n in NAMES
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c[:-1], "truncated: its header asks for"),
        (lambda c: c + b"\0", "its header asks for"),
        (lambda c: c[:6], "truncated|asks for"),
        (lambda _: b"", "no IDX file"),
        (lambda c: b"\0\0\x0d" + c[3:], "no IDX file"),
        (lambda c: c[:3] + b"\x02" + c[4:], "no IDX file"),
        # No image, and sides that no tensor can have: found by coverage-guided fuzzing.
        (lambda c: c[:4] + bytes(4) + b"\xf6" + b"\xff" * 7, "is empty|asks for"),
        (lambda c: c[:4] + b"\xff\xff\xff\xff" + c[8:], "asks for"),
        (lambda c: c[:-1] + bytes([c[-1] ^ 1]), "MD5"),
    ],
)
def test_damaged_files_are_named(name: str, damage: Damage, message: str, tmp_path: Path) -> None:
    """Truncated, too long, wrong magic, wrong count or one bit off: an error with the file's path."""
    contents = make_contents()
    files = describe(contents)
    write(tmp_path, contents | {name: damage(contents[name])}, packed=False)
    with pytest.raises(InputError, match=message) as error:
        load_mnist(tmp_path, False, None, files)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-9], lambda c: c[:20], lambda _: b"<html>", lambda c: c[:30] + b"x" * 9]
)
def test_damaged_gz_is_named(damage: Damage, tmp_path: Path) -> None:
    """A .gz that was cut or is something else gives an error with its path."""
    contents = make_contents()
    write(tmp_path, contents, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="damaged or truncated") as error:
        load_mnist(tmp_path, False, None, describe(contents))
    assert str(path) in str(error.value)


def test_gz_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that unpacks to far more than MNIST has is stopped before it fills the memory."""
    monkeypatch.setattr("robustlab.data.mnist.MAX_UNPACKED_BYTES", 1000)
    contents = make_contents()
    write(tmp_path, contents, packed=True)
    with pytest.raises(InputError, match="unpacks to more than 1000 bytes"):
        load_mnist(tmp_path, False, None, describe(contents))


def test_images_and_labels_must_agree(tmp_path: Path) -> None:
    """Fewer labels than images, or a label above 9, is said."""
    fewer = make_contents() | {"train-labels-idx1-ubyte": make_idx(np.zeros(29, np.uint8))}
    write(tmp_path / "fewer", fewer, packed=False)
    with pytest.raises(InputError, match="30 images but train-labels-idx1-ubyte has 29 labels"):
        load_mnist(tmp_path / "fewer", False, None, describe(fewer))
    above = make_contents() | {"train-labels-idx1-ubyte": make_idx(np.full(30, 10, np.uint8))}
    write(tmp_path / "above", above, packed=False)
    with pytest.raises(InputError, match="label 10"):
        load_mnist(tmp_path / "above", False, None, describe(above))
