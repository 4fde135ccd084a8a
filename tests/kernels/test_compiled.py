"""The kernels compiled ahead of time: what they will do to a GPU's memory, seen without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from robustlab_kernels import backends

ON_IMAGES = ("cw_start", "cw_step", "ifgsm_step", "track_best", "ray_step")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Every kernel for sm_80, sm_90 and sm_100, as compile_kernels.py describes them."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(backends.__file__).parents[1])]),
        "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.kernels.compile_kernels"],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_every_kernel_was_compiled(kernels: list[dict[str, Any]]) -> None:
    """Seven operators for three generations of GPUs in float32, and both types for one."""
    for capability in (80, 90, 100):
        assert {kernel["operator"] for kernel in kernels if kernel["capability"] == capability} == {
            *ON_IMAGES, "margin", "search_update",
        }  # fmt: skip
    assert {kernel["dtype"] for kernel in kernels} == {"float32", "float64"}


def test_pixels_move_sixteen_bytes_at_a_time(kernels: list[dict[str, Any]]) -> None:
    """The kernels on images load and store every pixel in 128-bit accesses; the rest is one value per image."""
    for kernel in kernels:
        if kernel["operator"] not in ON_IMAGES:
            continue
        wide = "v4.b32" if kernel["dtype"] == "float32" else "v2.b64"
        accesses = kernel["accesses"]
        pixels_per_thread = 1 if kernel["operator"] == "track_best" else 2
        assert accesses.get(f"ld.global.{wide}", 0) >= pixels_per_thread, kernel
        assert accesses.get(f"st.global.{wide}", 0) >= 1, kernel
        narrow = sum(count for name, count in accesses.items() if not name.endswith(wide))
        assert narrow <= 8, kernel


def test_a_row_that_fits_is_read_once(kernels: list[dict[str, Any]]) -> None:
    """ray_step keeps a CIFAR-10 image in registers: 3 tensors in 4096 lanes of 8 warps are 12 loads a thread."""
    wide = [
        kernel["accesses"]["ld.global.v4.b32"]
        for kernel in kernels
        if kernel["operator"] == "ray_step" and kernel["row"] == [3, 32, 32] and kernel["dtype"] == "float32"
    ]
    assert wide == [12, 12, 12]


def test_nothing_spills(kernels: list[dict[str, Any]]) -> None:
    """No kernel keeps anything in local memory, by its PTX and by the assembler's own account."""
    for kernel in kernels:
        assert not kernel["local"], kernel
        assert kernel["spill_bytes"] == kernel["stack_bytes"] == 0, kernel
        assert 0 < kernel["registers"] < 255, kernel


def test_no_atomics_and_no_doubles_in_float32(kernels: list[dict[str, Any]]) -> None:
    """Sums are never left to the order in which threads arrive, and float32 stays float32."""
    for kernel in kernels:
        assert not kernel["atomics"], kernel
        assert kernel["double"] == (kernel["dtype"] == "float64") or kernel["operator"] == "track_best", (
            kernel
        )
