"""Coverage-guided fuzzing of the parsers that read bytes cheaply enough for it (atheris, a binding of libFuzzer).

    pip install atheris          (Linux, CPython)
    python -m tests.fuzz.guided idx|constants|arrays|examples [--seconds 60]

Ends with 0 if every input was read or refused with an InputError of one line, and says how many there were; libFuzzer
prints a traceback and keeps the input in ``crash-*`` otherwise.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris
import numpy as np
import torch

with atheris.instrument_imports(include=["robustlab"]):
    from robustlab.attacks import IFGSM
    from robustlab.data import LabelledImages, array_cache
    from robustlab.data.images import digest_arrays
    from robustlab.data.mnist import parse_idx
    from robustlab.errors import InputError
    from robustlab.study.examples import read_examples
    from robustlab.study.tuning.constants_file import ChosenConstants, read_constants, write_constants

FORMATS = ("idx", "constants", "arrays", "examples")


def parser_of(name: str, folder: Path) -> tuple[bytes, Callable[[bytes], object]]:
    """A whole file of that format, and what reads it."""
    path = folder / "file"

    def from_file(read: Callable[[], object]) -> Callable[[bytes], object]:
        def reader(content: bytes) -> object:
            path.write_bytes(content)
            return read()

        return reader

    if name == "idx":
        sides = b"".join(side.to_bytes(4, "big") for side in (2, 3, 3))
        return bytes((0, 0, 8, 3)) + sides + bytes(18), lambda content: parse_idx(content, 3, Path("images"))
    if name == "constants":
        write_constants(path, {"ifgsm": ChosenConstants(IFGSM(), "made")})
        return path.read_bytes(), from_file(lambda: read_constants(path, "given.json"))
    if name == "arrays":
        part = LabelledImages(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.arange(2))
        array_cache.store_arrays([path], "source", part, part, digest_arrays(part, part))
        return path.read_bytes(), from_file(lambda: array_cache.load_arrays([path], "source"))
    buffer = io.BytesIO()
    images = np.zeros((2, 1, 3, 3), np.uint8)
    np.savez(buffer, test_indices=np.arange(2), inputs=images, l2_perturbation=images, l2_scale=np.ones(2))
    return buffer.getvalue(), from_file(lambda: read_examples(path))


def run() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="guided-"))
    whole, read = parser_of(options.format, folder)
    (folder / "corpus").mkdir()
    (folder / "corpus" / "whole").write_bytes(whole)
    read(whole)  # it is whole
    counts = {"tried": 0, "read": 0}

    def try_it(content: bytes) -> None:
        counts["tried"] += 1
        try:
            read(content)
            counts["read"] += 1
        except InputError as error:
            if len(str(error).splitlines()) != 1:
                raise AssertionError(f"not one line: {error}") from error
        # libFuzzer ends the process itself, without Python's own end.
        if counts["tried"] % 1000 == 0:
            (folder / "counts.json").write_text(json.dumps(counts))

    child = os.fork()
    if child == 0:
        limits = [f"-max_total_time={options.seconds}", "-max_len=4096", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *limits, str(folder / "corpus")], try_it)
        atheris.Fuzz()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = json.loads((folder / "counts.json").read_text())
    kept = len(list((folder / "corpus").iterdir()))
    print(
        f"{options.format}: at least {found['tried']:,} inputs, {found['read']:,} read, others refused in one line; "
        f"{kept} reached new code; {'failed' if status else 'none failed'}"
    )
    sys.exit(status)


if __name__ == "__main__":
    run()
