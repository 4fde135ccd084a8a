"""CIFAR-10's pickled batches and their archive, small ones in the official format."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from robustlab.data.archive import OfficialArchive
from robustlab.data.cifar10 import load_cifar10, official_archive
from robustlab.errors import InputError

Damage = Callable[[bytes], bytes]

FOLDER = "cifar-10-batches-py"
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def make_batch(seed: int, count: int = 20) -> dict[str, object]:
    """A batch as the official pickles hold it."""
    data = np.random.RandomState(seed).randint(0, 256, (count, 3072)).astype(np.uint8)
    names = [f"{i}.png" for i in range(count)]
    return {"batch_label": "b", "labels": [i % 10 for i in range(count)], "data": data, "filenames": names}


def make_contents(**changed: object) -> dict[str, bytes]:
    """The six files; ``changed`` replaces a batch."""
    batches = {name: make_batch(seed) for seed, name in enumerate(BATCHES)} | changed
    return {name: pickle.dumps(batch, protocol=2) for name, batch in batches.items()}


def pack(path: Path, contents: dict[str, bytes]) -> None:
    """Write the archive, with a file that nothing asks for and a path that leads out."""
    with tarfile.open(path, "w:gz") as tar:
        members = {f"{FOLDER}/{name}": content for name, content in contents.items()}
        for name, content in ({f"{FOLDER}/readme.html": b"hi", "../outside": b"x"} | members).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def unpack(folder: Path, contents: dict[str, bytes]) -> None:
    """Write the unpacked folder."""
    (folder / FOLDER).mkdir(parents=True)
    for name, content in contents.items():
        (folder / FOLDER / name).write_bytes(content)


def describe(contents: dict[str, bytes]) -> OfficialArchive:
    """The official table with these files' checksums and no address."""
    files = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    return replace(official_archive(), files=files, url="file:///nowhere/cifar-10-python.tar.gz")


def test_official_table_names_the_six_batches() -> None:
    """torchvision's checksums cover every file that is read."""
    source = official_archive()
    assert list(source.files) == BATCHES
    assert all(len(md5) == 32 for md5 in (source.md5, *source.files.values()))


def test_unpacked_folder_is_read(tmp_path: Path) -> None:
    """Images come as channels, rows, columns, in the order of the batches, each with its label."""
    contents = make_contents()
    unpack(tmp_path, contents)
    data = load_cifar10(tmp_path, False, None, describe(contents))
    assert data.image_shape == (3, 32, 32)
    assert len(data.train) == 100
    assert len(data.test) == 20
    expected = np.concatenate([np.asarray(make_batch(seed)["data"]) for seed in range(5)])
    assert torch.equal(data.train.images.flatten(1), torch.from_numpy(expected))
    assert data.train.labels.tolist() == list(range(10)) * 10
    assert data.mirror_invariant
    assert data.class_names[3] == "cat"


def test_reading_agrees_with_torchvision(tmp_path: Path) -> None:
    """The same images and labels as torchvision reads from the same files."""
    from torchvision.datasets import CIFAR10

    contents = make_contents()
    source = describe(contents)
    names = pickle.dumps({"label_names": [str(i) for i in range(10)]})
    unpack(tmp_path, contents | {"batches.meta": names})

    class SmallCIFAR10(CIFAR10):
        """torchvision's own way to have other checksums."""

    SmallCIFAR10.train_list = [[name, source.files[name]] for name in BATCHES[:5]]
    SmallCIFAR10.test_list = [[name, source.files[name]] for name in BATCHES[5:]]
    SmallCIFAR10.meta = {**CIFAR10.meta, "md5": hashlib.md5(names).hexdigest()}
    data, theirs = load_cifar10(tmp_path, False, None, source), SmallCIFAR10(str(tmp_path), train=True)
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1).numpy(), theirs.data)
    assert data.train.labels.tolist() == theirs.targets


def test_archive_is_unpacked_once_and_only_what_is_wanted(tmp_path: Path) -> None:
    """The wanted files are kept beside the archive, so that the second start does without it."""
    contents = make_contents()
    pack(tmp_path / "cifar-10-python.tar.gz", contents)
    first = load_cifar10(tmp_path, False, None, describe(contents))
    (tmp_path / "cifar-10-python.tar.gz").unlink()
    assert load_cifar10(tmp_path, False, None, describe(contents)).digest == first.digest
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == sorted(BATCHES)
    assert not (tmp_path.parent / "outside").exists()


def test_archive_in_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive alone is enough where nothing can be unpacked."""
    contents = make_contents()
    pack(tmp_path / "cifar-10-python.tar.gz", contents)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert len(load_cifar10(tmp_path, False, None, describe(contents)).train) == 100
    assert os.listdir(tmp_path) == ["cifar-10-python.tar.gz"]


def test_archive_is_downloaded_when_missing(tmp_path: Path) -> None:
    """The archive's checksum is held to before it gets its name."""
    contents = make_contents()
    pack(tmp_path / "published.tar.gz", contents)
    md5 = hashlib.md5((tmp_path / "published.tar.gz").read_bytes()).hexdigest()
    source = replace(describe(contents), url=(tmp_path / "published.tar.gz").as_uri(), md5=md5)
    assert len(load_cifar10(tmp_path / "data", True, None, source).train) == 100
    with pytest.raises(InputError, match="cannot download"):
        load_cifar10(tmp_path / "other", True, None, replace(source, md5="0" * 32))
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch"])
@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda _: b"", lambda c: c[:-1] + b"x"])
def test_damaged_batch_is_named_and_never_unpickled(name: str, damage: Damage, tmp_path: Path) -> None:
    """A file whose checksum differs is refused with its path."""
    contents = make_contents()
    unpack(tmp_path, contents | {name: damage(contents[name])})
    with pytest.raises(InputError, match="MD5") as error:
        load_cifar10(tmp_path, False, None, describe(contents))
    assert str(tmp_path / FOLDER / name) in str(error.value)


class Bomb:
    """A pickle that leaves a trace when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.trace,))


def test_foreign_pickle_runs_no_code(tmp_path: Path) -> None:
    """A pickle put in the place of a batch is refused before it can do anything."""
    contents = make_contents()
    unpack(tmp_path, contents | {"data_batch_1": pickle.dumps(Bomb(tmp_path / "trace"))})
    with pytest.raises(InputError, match="data_batch_1"):
        load_cifar10(tmp_path, False, None, describe(contents))
    assert not (tmp_path / "trace").exists()


def test_missing_batch_is_named(tmp_path: Path) -> None:
    """A half-unpacked folder is not taken for whole."""
    contents = make_contents()
    source = describe(contents)
    del contents["data_batch_4"]
    unpack(tmp_path, contents)
    with pytest.raises(InputError, match="data_batch_4 is missing"):
        load_cifar10(tmp_path, False, None, source)


@pytest.mark.parametrize("keep", [0.5, 0.99, 0.0])
def test_truncated_archive_is_named_and_leaves_nothing(keep: float, tmp_path: Path) -> None:
    """An archive that was cut gives an error with its path and no unpacked folder."""
    contents = make_contents()
    path = tmp_path / "cifar-10-python.tar.gz"
    pack(path, contents)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(InputError, match="damaged or truncated") as error:
        load_cifar10(tmp_path, False, None, describe(contents))
    assert str(path) in str(error.value)
    assert list(tmp_path.iterdir()) == [path]


def test_archive_without_a_batch_is_named(tmp_path: Path) -> None:
    """The message says which file the archive lacks."""
    contents = make_contents()
    source = describe(contents)
    del contents["test_batch"]
    pack(tmp_path / "cifar-10-python.tar.gz", contents)
    with pytest.raises(InputError, match="does not contain test_batch"):
        load_cifar10(tmp_path, False, None, source)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (make_batch(0) | {"labels": [0] * 19}, "should be uint8"),
        (make_batch(0) | {"labels": [10] * 20}, "labels outside"),
        (make_batch(0) | {"data": np.zeros((20, 3072), np.float32)}, "should be uint8"),
        ({"data": b""}, "no CIFAR-10 batch"),
        ([1, 2], "no CIFAR-10 batch"),
    ],
)
def test_batch_of_another_form_is_named(batch: object, message: str, tmp_path: Path) -> None:
    """A pickle that is no batch gives an error, not a traceback."""
    contents = make_contents(data_batch_2=batch)
    unpack(tmp_path, contents)
    with pytest.raises(InputError, match=message) as error:
        load_cifar10(tmp_path, False, None, describe(contents))
    assert "data_batch_2" in str(error.value)
