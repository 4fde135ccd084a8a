"""Whatever stands in a file that the project parses: it is read, or an InputError of one line says what is wrong."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustlab.attacks import IFGSM
from robustlab.data import LabelledImages
from robustlab.data.array_cache import load_arrays, store_arrays
from robustlab.data.images import digest_arrays
from robustlab.data.mnist import parse_idx
from robustlab.data.tiny_imagenet import load_tiny_imagenet
from robustlab.errors import InputError
from robustlab.models import build_model
from robustlab.study.checkpoint import (
    load_checkpoint,
    load_training_state,
    save_checkpoint,
    save_training_state,
)
from robustlab.study.examples import read_examples
from robustlab.study.tuning.constants_file import ChosenConstants, read_constants, write_constants
from robustlab.training import TrainingState
from tests.data.test_tiny_imagenet import ANNOTATIONS, FOLDER, RELEASE, make_files
from tests.fuzz.profile import fuzzed, tried

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
DEEP = b"[" * 100_000


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The file cut off, with bytes altered, put in or taken out, or something else altogether."""
    size = len(content)
    at, few = st.integers(0, max(0, size - 1)), st.binary(min_size=1, max_size=4)
    return st.one_of(
        at.map(lambda n: content[:n]),
        st.tuples(at, few).map(lambda c: content[: c[0]] + c[1] + content[c[0] + len(c[1]) :]),
        st.tuples(at, few).map(lambda c: content[: c[0]] + c[1] + content[c[0] :]),
        st.tuples(at, st.integers(1, 8)).map(lambda c: content[: c[0]] + content[c[0] + c[1] :]),
        st.binary(max_size=64),
        st.just(DEEP),
    )  # fmt: skip


def refused_in_one_line(name: str, read: Callable[[], object]) -> None:
    """Reads, or raises an InputError whose message is one line."""
    tried[name] += 1
    refusal = ""
    try:
        read()
    except InputError as error:
        refusal = str(error)
    assert len(refusal.splitlines()) < 2, refusal


def test_idx_files(tmp_path: Path) -> None:
    """MNIST's format: any bytes, and any sizes in the header."""
    whole = bytes((0, 0, 8, 3)) + b"".join(side.to_bytes(4, "big") for side in (2, 3, 3)) + bytes(18)
    sizes = st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3)
    headers = sizes.map(
        lambda n: bytes((0, 0, 8, 3)) + b"".join(side.to_bytes(4, "big") for side in n) + bytes(18)
    )

    @fuzzed
    @given(st.one_of(damaged(whole), headers, st.just(whole)))
    def try_it(content: bytes) -> None:
        refused_in_one_line("MNIST's IDX", lambda: parse_idx(content, 3, Path("images")))

    try_it()


@pytest.fixture(autouse=True)
def _user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_tiny_imagenet_text_files(tmp_path: Path) -> None:
    """Annotations, class lists and words with anything in them."""
    files = make_files()

    def zipped(name: str, content: bytes) -> None:
        with zipfile.ZipFile(tmp_path / f"{FOLDER}.zip", "w") as archive:
            for other, whole in files.items():
                archive.writestr(f"{FOLDER}/{other}", content if other == name else whole)

    lines = st.lists(
        st.tuples(st.text(max_size=12), st.sampled_from(["n01", "n02", "n03", "", "x"])).map("\t".join),
        max_size=8,
    ).map(lambda rows: "\n".join(rows).encode("utf-8", "surrogatepass"))

    @fuzzed
    @given(st.data(), st.sampled_from([ANNOTATIONS, "wnids.txt", "words.txt"]))
    def try_it(data: st.DataObject, name: str) -> None:
        content = data.draw(damaged(files[name]) | lines)
        zipped(name, content)
        refused_in_one_line(
            "Tiny ImageNet's text files", lambda: load_tiny_imagenet(tmp_path, False, None, RELEASE)
        )
        for kept in tmp_path.glob("*.bin"):
            kept.unlink()

    try_it()


def test_tiny_imagenet_zip(tmp_path: Path) -> None:
    """The zip itself, damaged anywhere: its directory, a member's header, a member's bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in make_files().items():
            archive.writestr(f"{FOLDER}/{name}", content)
    whole = buffer.getvalue()
    directory = whole.rindex(b"PK\x01\x02", 0, whole.rindex(b"PK\x05\x06"))
    near_the_end = damaged(whole[directory:]).map(lambda end: whole[:directory] + end)

    @fuzzed
    @given(damaged(whole) | near_the_end)
    def try_it(content: bytes) -> None:
        (tmp_path / f"{FOLDER}.zip").write_bytes(content)
        refused_in_one_line("Tiny ImageNet's zip", lambda: load_tiny_imagenet(tmp_path, False, None, RELEASE))
        for kept in tmp_path.glob("*.bin"):
            kept.unlink()

    try_it()


def test_cached_arrays(tmp_path: Path) -> None:
    """A cache that is not what was written is no cache: it is decoded anew, and nothing is raised."""
    part = LabelledImages(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.arange(2))
    path = tmp_path / "kept.bin"
    store_arrays([path], "source", part, part, digest_arrays(part, part))
    whole = path.read_bytes()
    header, _, arrays = whole.partition(b"\n")
    known = json.loads(header)
    altered = st.tuples(st.sampled_from(sorted(known)), JSON).map(lambda c: json.dumps({**known, c[0]: c[1]}))
    shapes = st.lists(st.lists(JSON | st.integers(-3, 9), max_size=5), max_size=3)
    shaped = shapes.map(lambda made: json.dumps({**known, "image_shapes": made}))

    @fuzzed
    @given(damaged(whole) | (altered | shaped).map(lambda text: text.encode() + b"\n" + arrays))
    def try_it(content: bytes) -> None:
        tried["cached arrays"] += 1
        path.write_bytes(content)
        found = load_arrays([path], "source")
        assert found is None or torch.equal(found[0].labels, part.labels)

    try_it()


def test_constants_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """attack_constants.json with any value anywhere."""
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # it would complain before the project does
    path = tmp_path / "attack_constants.json"
    write_constants(path, {"ifgsm": ChosenConstants(IFGSM(), "made")})
    whole, content = path.read_bytes(), json.loads(path.read_text())
    names = st.sampled_from(sorted(content["attacks"]["ifgsm"]["constants"]))

    def with_constant(change: tuple[str, object]) -> bytes:
        changed = json.loads(path_text)
        changed["attacks"]["ifgsm"]["constants"][change[0]] = change[1]
        return json.dumps(changed).encode()

    path_text = whole.decode()
    altered = st.tuples(st.sampled_from(sorted(content)), JSON).map(
        lambda c: json.dumps({**content, c[0]: c[1]}).encode()
    )
    attacks = JSON.map(lambda made: json.dumps({**content, "attacks": {"cw": made, "ifgsm": made}}).encode())

    @fuzzed
    @given(
        damaged(whole)
        | altered
        | attacks
        | st.tuples(names, JSON).map(with_constant)
        | JSON.map(json.dumps).map(str.encode)
    )
    def try_it(made: bytes) -> None:
        path.write_bytes(made)
        refused_in_one_line("constants files", lambda: read_constants(path, "given.json"))

    try_it()


def test_checkpoints(tmp_path: Path) -> None:
    """Descriptions and weights of a model, and a training's state: read, or refused."""
    model = build_model("perceptron", (1, 4, 4), 2)
    save_checkpoint(model, "perceptron", (1, 4, 4), 2, tmp_path / "model")
    save_training_state(TrainingState({"model.a": torch.zeros(2)}, (1.0,), 1, 0.5), tmp_path / "training")
    readers = {"model": load_checkpoint, "training": load_training_state}
    whole = {path: path.read_bytes() for kind in readers for path in (tmp_path / kind).iterdir()}

    @fuzzed
    @given(st.data(), st.sampled_from(sorted(whole)))
    def try_it(data: st.DataObject, path: Path) -> None:
        content = whole[path]
        if path.suffix == ".json":
            known = json.loads(content)
            changes = st.tuples(
                st.sampled_from(sorted(known)), JSON | st.lists(st.integers(), min_size=3, max_size=3)
            )
            made = data.draw(
                damaged(content) | changes.map(lambda c: json.dumps({**known, c[0]: c[1]}).encode())
            )
        else:
            made = data.draw(damaged(content))
        path.write_bytes(made)
        try:
            refused_in_one_line("checkpoints", lambda: readers[path.parent.name](path.parent))
        finally:
            path.write_bytes(content)

    try_it()


def test_kept_images(tmp_path: Path) -> None:
    """The images that a report shows."""
    buffer = io.BytesIO()
    images = np.zeros((2, 1, 3, 3), np.uint8)
    np.savez_compressed(
        buffer, test_indices=np.arange(2), inputs=images, l2_perturbation=images, l2_scale=np.ones(2)
    )
    path = tmp_path / "examples.npz"

    @fuzzed
    @given(damaged(buffer.getvalue()))
    def try_it(content: bytes) -> None:
        path.write_bytes(content)
        refused_in_one_line("kept images", lambda: read_examples(path))

    try_it()
