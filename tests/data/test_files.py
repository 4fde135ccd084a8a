"""Downloads and atomic writes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from robustlab.data.files import download_file
from robustlab.errors import InputError

CONTENT = bytes(range(256)) * 8192  # 2 MB: more than one chunk
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A file at an address that needs no network."""
    path = tmp_path / "published.bin"
    path.write_bytes(CONTENT)
    return path


def test_download_arrives_whole_with_progress(tmp_path: Path, published: Path) -> None:
    """The file lands under its name, and the callback hears bytes up to the total."""
    heard: list[tuple[str, int, int | None]] = []
    target = tmp_path / "new" / "folder" / "file.bin"
    download_file([published.as_uri()], target, MD5, "some", lambda *event: heard.append(event))
    assert target.read_bytes() == CONTENT
    assert heard[0][1] < heard[-1][1] == heard[-1][2] == len(CONTENT)
    assert list(target.parent.iterdir()) == [target]


def test_second_address_helps_where_the_first_fails(tmp_path: Path, published: Path) -> None:
    """A mirror that is gone or gives another file does not stop the download."""
    other = tmp_path / "other.bin"
    other.write_bytes(b"<html>moved</html>")
    urls = [(tmp_path / "gone.bin").as_uri(), other.as_uri(), published.as_uri()]
    download_file(urls, tmp_path / "file.bin", MD5, "some", None)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("kept", [0, 1000, len(CONTENT) - 1])
def test_truncated_download_leaves_nothing(tmp_path: Path, published: Path, kept: int) -> None:
    """A file that is not whole never gets the name; the message says where the whole one belongs."""
    published.write_bytes(CONTENT[:kept])
    target = tmp_path / "target" / "file.bin"
    with pytest.raises(InputError, match=f"some: cannot download file.bin .*{MD5}.* put it at {target}"):
        download_file([published.as_uri()], target, MD5, "some", None)
    assert list(target.parent.iterdir()) == []


def test_address_without_an_answer_is_an_input_error(tmp_path: Path) -> None:
    """No network gives one line, whatever the address raised."""
    urls = ["http://127.0.0.1:9/file.bin", "no address"]
    with pytest.raises(InputError, match="without a network") as error:
        download_file(urls, tmp_path / "file.bin", MD5, "some", None)
    assert "\n" not in str(error.value)


def test_unwritable_directory_is_found_before_the_download(tmp_path: Path) -> None:
    """A directory that cannot be made is an error about the directory, not the network."""
    (tmp_path / "blocked").write_text("a file stands here")
    with pytest.raises(InputError, match="cannot write to"):
        download_file(["http://127.0.0.1:9/f"], tmp_path / "blocked" / "f", MD5, "some", None)
