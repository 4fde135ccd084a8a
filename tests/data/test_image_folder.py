"""Anybody's own images in class folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustlab.data import DataSet, load_dataset
from robustlab.errors import InputError


def save_image(path: Path, shade: int = 0, mode: str = "RGB", size: tuple[int, int] = (6, 5)) -> None:
    """One image of a single shade; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (shade,) * len(mode) if len(mode) > 1 else shade).save(path)


def save_16_bits(path: Path) -> None:
    """A greyscale PNG of 16 bits a pixel."""
    Image.fromarray(np.full((5, 6), 300, np.uint16)).save(path)


def make_folder(root: Path, mode: str = "RGB", test: str = "test") -> Path:
    """Two classes with 12 and 15 train images and 2 test images each."""
    for count, name in ((12, "cat"), (15, "ant")):
        for number in range(count):
            save_image(root / "train" / name / f"{number:02}.png", number, mode)
        for number in range(2):
            save_image(root / test / name / f"{number}.png", 100 + number, mode)
    return root


def load(root: Path) -> DataSet:
    """Load the folder by its name, as a user does."""
    return load_dataset(f"imagefolder:{root}")


@pytest.mark.parametrize("test", ["test", "val"])
def test_folder_is_read(test: str, tmp_path: Path) -> None:
    """Classes sorted, images by name, RGB, and 10 balanced sizes up to the largest."""
    data = load(make_folder(tmp_path, test=test))
    assert data.name == f"imagefolder:{tmp_path}"
    assert data.class_names == ("ant", "cat")
    assert data.image_shape == (3, 5, 6)
    assert data.train.images[:, 0, 0, 0].tolist() == [*range(15), *range(12)]
    assert data.train.labels.tolist() == [0] * 15 + [1] * 12
    assert data.test.images[:, 2, 4, 5].tolist() == [100, 101, 100, 101]
    assert data.default_sizes == (2, 4, 6, 8, 12, 14, 16, 18, 20, 24)
    assert data.mirror_invariant


def test_pixels_are_kept_the_right_way_up(tmp_path: Path) -> None:
    """Channel, row and column of a lossless image arrive where they were."""
    make_folder(tmp_path)
    pixels = np.random.RandomState(0).randint(0, 256, (5, 6, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "train" / "ant" / "00.png")
    assert torch.equal(load(tmp_path).train.images[0], torch.from_numpy(pixels).permute(2, 0, 1))


def test_greyscale_stays_one_channel_only_where_all_are(tmp_path: Path) -> None:
    """All greyscale: one channel; one colour image among them: three."""
    assert load(make_folder(tmp_path, mode="L")).image_shape == (1, 5, 6)
    save_image(tmp_path / "test" / "cat" / "0.png", 9, "RGB")
    data = load(tmp_path)
    assert data.image_shape == (3, 5, 6)
    assert data.train.images[3, :, 0, 0].tolist() == [3, 3, 3]


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    """Notes, hidden files and hidden folders do no harm."""
    make_folder(tmp_path)
    before = load(tmp_path).digest
    for name in ("train/notes.txt", "train/cat/.hidden.png", "test/cat/Thumbs.db"):
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "train" / ".git").mkdir()
    assert load(tmp_path).digest == before


def test_digest_follows_the_images(tmp_path: Path) -> None:
    """A changed image is another version of the data set."""
    before = load(make_folder(tmp_path)).digest
    save_image(tmp_path / "train" / "cat" / "03.png", 77)
    assert load(tmp_path).digest != before


def empty(folder: Path) -> None:
    """Remove the images of a folder."""
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "message", "file"),
    [
        (
            lambda r: save_image(r / "test/cat/1.png", size=(6, 6)),
            "is 6x6, but .*00.png is 6x5",
            "test/cat/1.png",
        ),
        (lambda r: (r / "train/cat/04.png").write_bytes(b"nothing"), "no readable image", "train/cat/04.png"),
        (lambda r: (r / "train/cat/04.png").write_bytes(b""), "no readable image", "train/cat/04.png"),
        (
            lambda r: (r / "train/cat/04.png").write_bytes((r / "train/cat/04.png").read_bytes()[:50]),
            "damaged|no readable",
            "train/cat/04.png",
        ),
        (lambda r: save_16_bits(r / "train/ant/00.png"), "pixels of type I", "train/ant/00.png"),
        (lambda r: empty(r / "train/cat"), "has no images", "train/cat"),
        (lambda r: save_image(r / "test/dog/0.png"), "'dog' is in .*test but not in .*train", "dog"),
        (lambda r: save_image(r / "train/dog/0.png"), "'dog' is in .*train but not in .*test", "dog"),
        (lambda r: (r / "train").rename(r / "trains"), "cannot read the folder", "train"),
        (lambda r: (r / "test").rename(r / "tests"), "cannot read the folder", "test"),
    ],
)
def test_what_cannot_work_is_named(
    damage: Callable[[Path], object], message: str, file: str, tmp_path: Path
) -> None:
    """Another size, damaged pixels, differing or empty classes, missing folders: the place is named."""
    make_folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path)
    assert file in str(error.value)
    assert "\n" not in str(error.value)


def test_one_class_is_too_few(tmp_path: Path) -> None:
    """A classifier needs two classes."""
    save_image(tmp_path / "train" / "cat" / "0.png")
    save_image(tmp_path / "test" / "cat" / "0.png")
    with pytest.raises(InputError, match="has 1 class folders, at least 2"):
        load(tmp_path)


def test_huge_images_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A size beyond the limit is read from the header alone."""
    monkeypatch.setattr("robustlab.data.image_folder.MAX_PIXELS", 29)
    with pytest.raises(InputError, match="is 6x5, at most 29 pixels"):
        load(make_folder(tmp_path))


@pytest.mark.parametrize("name", ["imagefolder:", "imagefolder:/no/such/folder"])
def test_missing_path_is_said(name: str) -> None:
    """No path, or one that is not there."""
    with pytest.raises(InputError, match="train"):
        load_dataset(name)
