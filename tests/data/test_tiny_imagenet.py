"""Tiny ImageNet's zip and folder, small ones in the official format, and the cache of decoded arrays."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustlab.data import DataSet
from robustlab.data.tiny_imagenet import FOLDER, TinyImageNetRelease, load_tiny_imagenet
from robustlab.errors import InputError

WNIDS = ["n03", "n01", "n02"]  # wnids.txt is not sorted in the official files either
RELEASE = TinyImageNetRelease(url="file:///nowhere.zip", num_classes=3, train_per_class=4, test_images=6)
GREY = "train/n01/images/n01_2.JPEG"
ANNOTATIONS = "val/val_annotations.txt"


def make_jpeg(shade: int, mode: str = "RGB", side: int = 64) -> bytes:
    """One JPEG of a single shade."""
    buffer = io.BytesIO()
    Image.new(mode, (side, side), (shade,) * 3 if mode == "RGB" else shade).save(buffer, "JPEG")
    return buffer.getvalue()


def make_noise() -> bytes:
    """One JPEG whose pixels fill most of the file."""
    buffer = io.BytesIO()
    pixels = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def make_files() -> dict[str, bytes]:
    """4 train images of each of 3 classes and 6 validation images, told apart by their shades."""
    files = {"wnids.txt": "\n".join(WNIDS).encode() + b"\n"}
    files["words.txt"] = b"n01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcrane\nn99\tother\n"
    for label, wnid in enumerate(WNIDS):
        for number in range(4):
            name = f"train/{wnid}/images/{wnid}_{number}.JPEG"
            files[name] = make_jpeg(60 * label + 10 * number, "L" if name == GREY else "RGB")
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"n03_0.JPEG\t0\t0\t63\t63\n"
    lines = []
    for number in range(6):
        files[f"val/images/val_{number}.JPEG"] = make_jpeg(40 * number)
        lines.append(f"val_{number}.JPEG\t{WNIDS[number % 3]}\t0\t32\t44\t62\n")
    files[ANNOTATIONS] = "".join(reversed(lines)).encode()
    files["test/images/test_0.JPEG"] = b"never read"
    return files


def write_zip(data_dir: Path, files: dict[str, bytes]) -> Path:
    """The zip, with a member whose path leads out of it."""
    path = data_dir / f"{FOLDER}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../outside.txt", "x")
        archive.writestr(f"{FOLDER}/", "")
        for name, content in files.items():
            archive.writestr(f"{FOLDER}/{name}", content)
    return path


def write_folder(data_dir: Path, files: dict[str, bytes]) -> Path:
    """The unpacked folder."""
    for name, content in files.items():
        path = data_dir / FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return data_dir / FOLDER


Writer = Callable[[Path, dict[str, bytes]], Path]
WRITERS = pytest.mark.parametrize("write", [write_zip, write_folder])


def load(data_dir: Path) -> DataSet:
    """Load what was written, without a network."""
    return load_tiny_imagenet(data_dir, False, None, RELEASE)


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache directory, out of the way of the real one."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    return path


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on a decoded image fails the test."""

    def fail(*_: object, **__: object) -> None:
        pytest.fail("an image was decoded")

    monkeypatch.setattr("robustlab.data.decoding.decode_image", fail)


@WRITERS
def test_images_labels_and_names_are_read(write: Writer, tmp_path: Path) -> None:
    """Classes in the order of wnids.txt, validation images as the test set, greyscale turned to RGB."""
    write(tmp_path, make_files())
    data = load(tmp_path)
    assert data.image_shape == (3, 64, 64)
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    shades = [60 * label + 10 * number for label in range(3) for number in range(4)]
    expected = torch.tensor(shades, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 64, 64)
    assert torch.allclose(data.train.images.int(), expected.int(), atol=1)
    assert data.test.images[:, 0, 0, 0].tolist() == pytest.approx([0, 40, 80, 120, 160, 200], abs=1)
    assert data.class_names == ("n03 crane", "n01 goldfish", "n02 crane")
    assert data.mirror_invariant
    assert data.default_sizes == tuple(range(10_000, 100_001, 10_000))


def test_zip_and_folder_give_the_same_data_set(tmp_path: Path) -> None:
    """The same files give the same digest, and the zip is not extracted."""
    (tmp_path / "zip").mkdir()
    write_zip(tmp_path / "zip", make_files())
    write_folder(tmp_path / "folder", make_files())
    assert load(tmp_path / "zip").digest == load(tmp_path / "folder").digest
    assert not (tmp_path / "zip" / FOLDER).exists()
    assert not (tmp_path / "outside.txt").exists()


def test_words_are_optional(tmp_path: Path) -> None:
    """Without words.txt the classes are named by their numbers."""
    files = make_files()
    del files["words.txt"]
    write_zip(tmp_path, files)
    assert load(tmp_path).class_names == tuple(WNIDS)


def test_progress_is_reported(tmp_path: Path) -> None:
    """The callback hears both parts up to their totals."""
    write_zip(tmp_path, make_files())
    heard: list[tuple[str, int, int | None]] = []
    load_tiny_imagenet(tmp_path, False, lambda *event: heard.append(event), RELEASE)
    assert heard == [("decode tinyimagenet train", 12, 12), ("decode tinyimagenet test", 6, 6)]


def test_zip_is_downloaded_when_missing(tmp_path: Path) -> None:
    """The zip is fetched, checked and then read."""
    published = write_zip(tmp_path, make_files())
    md5 = hashlib.md5(published.read_bytes()).hexdigest()
    release = TinyImageNetRelease(published.as_uri(), md5, 3, 4, 6)
    assert len(load_tiny_imagenet(tmp_path / "data", True, None, release).train) == 12
    assert (tmp_path / "data" / f"{FOLDER}.zip").is_file()


@WRITERS
def test_second_start_decodes_nothing(write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache gives the same arrays, labels and digest."""
    write(tmp_path, make_files())
    first = load(tmp_path)
    forbid_decoding(monkeypatch)
    second = load(tmp_path)
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.labels, second.test.labels)
    assert first.digest == second.digest
    assert first.class_names == second.class_names


@pytest.mark.parametrize("at", [0, 200, -1, -5000, "cut", "longer", "empty", "header"])
def test_altered_cache_is_decoded_anew(at: int | str, tmp_path: Path) -> None:
    """One byte off, a cut or a foreign file: the images are right all the same, the cache is mended."""
    write_zip(tmp_path, make_files())
    first = load(tmp_path)
    cache = tmp_path / "tinyimagenet-decoded.bin"
    content = cache.read_bytes()
    match at:
        case int():
            altered = bytearray(content)
            altered[at] ^= 1
        case _:
            variants = {"cut": content[:-1], "longer": content + b"x", "empty": b"", "header": b"{}\n[1]"}
            altered = bytearray(variants[at])
    cache.write_bytes(altered)
    second = load(tmp_path)
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.train.labels, second.train.labels)
    assert cache.read_bytes() == content


@WRITERS
def test_changed_source_is_decoded_anew(write: Writer, tmp_path: Path) -> None:
    """Another image under the same name and of the same size is not hidden by the cache."""
    files = make_files()
    source = write(tmp_path, files)
    first = load(tmp_path)
    name = "train/n03/images/n03_0.JPEG"
    changed = make_jpeg(1)
    assert len(changed) == len(files[name])
    write(tmp_path, files | {name: changed})
    os.utime(source if source.is_file() else source / name, ns=(1, 1))
    assert load(tmp_path).digest != first.digest


def test_cache_goes_to_the_user_where_the_data_cannot_be_written_to(
    tmp_path: Path, user_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data directory for reading only still starts fast the second time."""
    from robustlab.data import array_cache

    write_zip(tmp_path, make_files())
    write = array_cache.write_atomically

    def refuse(path: Path):
        if path.is_relative_to(tmp_path):
            raise PermissionError(13, "Permission denied")
        return write(path)

    monkeypatch.setattr(array_cache, "write_atomically", refuse)
    first = load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{FOLDER}.zip"]
    assert len(list((user_cache / "robustlab" / "decoded").iterdir())) == 1
    forbid_decoding(monkeypatch)
    assert load(tmp_path).digest == first.digest


def test_nowhere_to_keep_the_arrays_is_said_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a place for the cache there is a warning, and the data set."""
    write_zip(tmp_path, make_files())

    def refuse(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("robustlab.data.array_cache.write_atomically", refuse)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert len(load(tmp_path).train) == 12


def replace_image(content: bytes) -> dict[str, bytes]:
    """The files with another content of one image."""
    return make_files() | {"train/n02/images/n02_3.JPEG": content}


@WRITERS
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (make_noise()[:-300], "is damaged"),
        (make_jpeg(1)[:100], "no readable image|damaged"),
        (b"", "no readable image"),
        (b"GIF89a" + bytes(100), "no readable image"),
        (make_jpeg(1, side=65), "is 65x65 .* should be 64x64"),
        (make_jpeg(1, side=4000), "is 4000x4000 .* should be 64x64"),
    ],
)
def test_bad_image_is_named(write: Writer, content: bytes, message: str, tmp_path: Path) -> None:
    """A corrupted JPEG or one of another size gives an error with its name, and no cache."""
    write(tmp_path, replace_image(content))
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path)
    assert "n02_3.JPEG" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "tinyimagenet-decoded.bin").exists()


@WRITERS
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("wnids.txt", None, "wnids.txt.* is missing"),
        ("wnids.txt", b"n01\nn02\n", "lists 2 classes, should be 3"),
        ("wnids.txt", b"n01\nn02\nn02\n", "lists 2 classes, should be 3"),
        ("wnids.txt", b"\xff\xfe\n", "is damaged"),
        ("wnids.txt", b"n01\nn02\nn04\n", "train/n04/images.* has 0 images, should have 4"),
        ("train/n01/images/n01_0.JPEG", None, "train/n01/images.* has 3 images, should have 4"),
        (ANNOTATIONS, None, "val_annotations.txt.* is missing"),
        (ANNOTATIONS, b"val_0.JPEG\tn01\t0\t0\t1\t1\n", "has no line for val/images/val_1.JPEG"),
        (ANNOTATIONS, b"val_0.JPEG\tn77\t0\t0\t1\t1\n", "gives val_0.JPEG the class 'n77'"),
        ("val/images/val_5.JPEG", None, "names a missing image: val/images/val_5.JPEG"),
    ],
)
def test_incomplete_files_are_named(
    write: Writer, name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    """A missing or wrong list, or a half-unpacked folder, is said with the file's name."""
    files = make_files()
    if content is None:
        del files[name]
    else:
        files[name] = content
    write(tmp_path, files)
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_fewer_test_images_than_published_are_refused(tmp_path: Path) -> None:
    """Annotations and images that agree on too few are still too few."""
    write_zip(tmp_path, make_files())
    with pytest.raises(InputError, match=r"val/images.* has 6 images, should have 7"):
        load_tiny_imagenet(
            tmp_path, False, None, TinyImageNetRelease(num_classes=3, train_per_class=4, test_images=7)
        )


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
def test_truncated_zip_is_named(keep: float, tmp_path: Path) -> None:
    """A zip that was cut anywhere gives an error with its path."""
    path = write_zip(tmp_path, make_files())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(InputError, match="damaged or truncated") as error:
        load(tmp_path)
    assert str(path) in str(error.value)


def test_altered_member_is_named(tmp_path: Path) -> None:
    """A byte changed inside the zip is found by the member's checksum, even if the JPEG decodes."""
    path = write_zip(tmp_path, make_files())
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{FOLDER}/{GREY}")
    content[member.header_offset + 30 + len(member.filename) + 25] ^= 1  # in the quantisation table
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"n01_2\.JPEG.* is damaged .*CRC"):
        load(tmp_path)


def test_member_that_claims_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member far larger than an image of 64x64 is not unpacked."""
    monkeypatch.setattr("robustlab.data.image_files.MAX_FILE_BYTES", 10_000)
    write_zip(tmp_path, replace_image(np.zeros(10_001, np.uint8).tobytes()))
    with pytest.raises(InputError, match=r"n02_3\.JPEG.* is larger than 10000 bytes"):
        load(tmp_path)
