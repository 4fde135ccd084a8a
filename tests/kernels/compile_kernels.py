"""Compile every kernel for GPUs that need not be there, and print what came out as JSON.

A program of its own, run by test_compiled.py: where Triton interprets, it does not compile.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

CAPABILITIES = (80, 90, 100)
ROW = (3, 32, 32)
LONG_ROW = (3, 64, 64)
POINTERS = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.bool: "*i1",
}


class Launch(Exception):
    """Carries what a kernel would have been launched with."""


class Recorder:
    """Stands in for a kernel: its launch raises instead."""

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **settings: Any) -> None:
            raise Launch(arguments, settings)

        return launch


def launches(name: str, *arguments: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """An operator's kernel and what its launcher hands to it."""
    module = importlib.import_module(f"robustlab_kernels.{name}.fused")
    kernel = getattr(module, f"{name}_kernel")
    setattr(module, f"{name}_kernel", Recorder())
    try:
        getattr(module, name)(*arguments)
    except Launch as launch:
        return kernel, *launch.args
    finally:
        setattr(module, f"{name}_kernel", kernel)
    raise AssertionError(f"{name} launched nothing")


def calls(dtype: torch.dtype, row: tuple[int, ...]) -> list[tuple[str, tuple[Any, ...]]]:
    """A call of every operator on images of this size."""
    image, value = torch.zeros(2, *row, dtype=dtype), torch.zeros(2, dtype=dtype)
    flag, count = torch.zeros(2, dtype=torch.bool), torch.zeros(2, dtype=torch.int64)
    images = [(name, arguments) for name, arguments in (
        ("cw_step", (image, image, image, image, image, image, value, count, value, flag)),
        ("cw_start", (image, image, image, image, value, image, image, flag, 0.999)),
        ("ifgsm_step", (image, image, image, value, value, flag)),
        ("track_best", (image, value, image, value, flag)),
        ("ray_step", (image, image, value, image, value, value, value)),
    )]  # fmt: skip
    if row != ROW:
        return images
    logits = [
        ("margin", (torch.zeros(2, classes, dtype=dtype), count, False, soft, 0.0))
        for classes in (10, 1000, 5000)
        for soft in (False, True)
    ]
    return [*images, ("search_update", (value, value, value, flag, flag, 10.0)), *logits]


def compiled(capability: int, name: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The loads, stores and spills of a kernel compiled as it would be launched."""
    kernel, passed, settings = launches(name, *arguments)
    options = {key: value for key, value in settings.items() if key not in kernel.arg_names}
    constants = {key: value for key, value in settings.items() if key in kernel.arg_names}
    given = dict(zip(kernel.arg_names, passed, strict=False)) | constants
    signature, aligned = {}, {}
    for position, argument in enumerate(kernel.arg_names):
        value = given[argument]
        if isinstance(value, Tensor):
            signature[argument] = POINTERS[value.dtype]
            aligned[(position,)] = [["tt.divisibility", 16]]  # as every tensor that torch allocates
        else:
            signature[argument] = "constexpr" if argument in constants else "i32"
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = binary.asm["ptx"]
    return {
        "operator": name,
        "row": list(arguments[0].shape[1:]),
        "dtype": str(arguments[0].dtype).removeprefix("torch."),
        "capability": capability,
        "accesses": Counter(re.findall(r"\b(?:ld|st|atom|red)\.global[.\w]*", ptx)),
        "atomics": bool(re.search(r"\b(atom|red)\.", ptx)),
        "local": ".local" in ptx,
        "double": bool(re.search(r"\.f64", ptx)),
        **spills(ptx, capability),
    }


def spills(ptx: str, capability: int) -> dict[str, int]:
    """Bytes that the assembler had to spill, and registers a thread, as it says itself."""
    target = re.findall(r"^\.target (\w+)", ptx, re.MULTILINE)[0]
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [get_ptxas(capability).path, "-v", f"--gpu-name={target}", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return {
        "spill_bytes": sum(int(size) for size in re.findall(r"(\d+) bytes spill", said)),
        "stack_bytes": sum(int(size) for size in re.findall(r"(\d+) bytes stack", said)),
        "registers": max(int(count) for count in re.findall(r"Used (\d+) registers", said)),
    }


def main() -> None:
    """All operators in float32 for every capability; float64 and long rows for one."""
    wanted = [(capability, torch.float32, ROW) for capability in CAPABILITIES]
    wanted += [(90, torch.float64, ROW), (90, torch.float32, LONG_ROW), (90, torch.float64, LONG_ROW)]
    found = [
        compiled(capability, name, arguments)
        for capability, dtype, row in wanted
        for name, arguments in calls(dtype, row)
    ]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
