"""The bytes that an operator says it moves are those that it moves."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from tests.kernels.cases import BATCH, Case, all_cases

np = pytest.importorskip("numpy")  # which Triton needs to interpret, not to compile

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"),  # the interpreter's numpy sees inf and NaN
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="only the interpreter's memory accesses can be counted"
    ),
]
PIXELS = 1500  # two blocks, the second one ragged
CASES = [pytest.param(case, id=str(case)) for case in all_cases(PIXELS)]


@dataclass
class Traffic:
    """Addresses that were read and written, with the bytes at each."""

    read: dict[int, int] = field(default_factory=dict)
    written: dict[int, int] = field(default_factory=dict)


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traffic]:
    """What the interpreter's loads and stores touch; an address that is touched again moves once, from a cache."""
    import triton.runtime.interpreter

    inner, seen = triton.runtime.interpreter._interpreter, Traffic()

    class Counted:
        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

        def load(self, addresses: Any, mask: Any, other: Any, dtype: Any) -> Any:
            seen.read |= dict.fromkeys(
                np.asarray(addresses)[np.asarray(mask)].tolist(), np.dtype(dtype).itemsize
            )
            return inner.load(addresses, mask, other, dtype)

        def store(self, addresses: Any, values: Any, mask: Any) -> None:
            seen.written |= dict.fromkeys(
                np.asarray(addresses)[np.asarray(mask)].tolist(), values.dtype.itemsize
            )
            inner.store(addresses, values, mask)

    monkeypatch.setattr(triton.runtime.interpreter, "_interpreter", Counted())
    return seen


def stated(operator: str) -> dict[str, tuple[int, int]]:
    """The bytes read and written in the launcher's docstring: per pixel, per pixel of another image, per image."""
    module = importlib.import_module(f"robustlab_kernels.{operator}.fused")
    lines = re.findall(
        r"per ([\w ]+): (\d+) bytes read, (\d+) bytes written", str(getattr(module, operator).__doc__)
    )
    return {unit: (int(read), int(written)) for unit, read, written in lines}


@pytest.mark.parametrize("case", CASES)
def test_bytes_moved_are_those_stated(case: Case, traffic: Traffic) -> None:
    """Every byte that the kernel touches is in its docstring, and the other way round."""
    operator = case.name.split()[0]
    expected = stated(operator)
    got = case.run("fused")
    active = BATCH if operator in ("margin", "ray_step") else BATCH - 1
    if operator == "track_best":
        active = int(got["returned 0"].sum())
    if operator == "search_update":
        active = 0  # values of images that are not decided are read with their neighbours', but not written
    # Values per image that belong to a change are not touched for the others.
    for position, moved in enumerate((traffic.read, traffic.written)):
        per_pixel = (
            expected.get("pixel of an active image")
            or expected.get("pixel")
            or expected.get("logit")
            or (0, 0)
        )
        other = expected.get("pixel of another image", (0, 0))
        total = active * PIXELS * per_pixel[position] + (BATCH - active) * PIXELS * other[position]
        least = total + BATCH * expected["image"][position]
        skipped = least - sum(moved.values())
        assert 0 <= skipped <= 16 * BATCH, (skipped, least)


@pytest.mark.parametrize("case", CASES)
def test_every_image_at_work_moves_exactly_what_is_stated(case: Case, traffic: Traffic) -> None:
    """With no image finished, the bytes are the stated ones to the last; so are those of the tensors."""
    operator = case.name.split()[0]
    expected = stated(operator)
    worked = case.of_images([0] * BATCH if operator == "track_best" else list(range(BATCH - 1)))
    images = len(next(iter(worked.arguments.values())))
    worked.run("fused")
    per_pixel = (
        expected.get("pixel of an active image") or expected.get("pixel") or expected.get("logit") or (0, 0)
    )
    for position, moved in enumerate((traffic.read, traffic.written)):
        assert sum(moved.values()) == images * (PIXELS * per_pixel[position] + expected["image"][position])
