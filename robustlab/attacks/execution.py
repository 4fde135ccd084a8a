"""How an attack's passes are run; changes their speed, and only a lower precision changes the search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from robustlab.errors import InputError

LOOPS = ("auto", "eager", "graph")
PRECISIONS = ("ieee", "tf32", "bf16")


@dataclass(frozen=True)
class Execution:
    """What a caller may choose of how passes are run; the defaults suit every machine.

    Attributes:
        loop: "eager" launches every operation of every pass; "graph" keeps the images in buffers of a few fixed
            sizes and, on CUDA, replays a captured pass on them; "auto" is "graph" on CUDA, "eager" elsewhere.
        precision: of the network alone: "ieee" (the inputs' own type), "tf32" (CUDA's rounded float32) or "bf16".
            The margin, every state of a search and the verdict keep the inputs' type and IEEE arithmetic.
        batch_size: images at work at once; None: what measured fastest on the kind of device. Halved when the
            device runs out of memory.
        passes_between_checks: passes between two questions of who is done; None: 1 on a CPU, 10 elsewhere.

    Raises:
        InputError: an unknown name or a count below 1.
    """

    loop: str = "auto"
    precision: str = "ieee"
    batch_size: int | None = None
    passes_between_checks: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("loop", LOOPS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; choose from {', '.join(known)}")
        for name in ("batch_size", "passes_between_checks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; give at least 1")


@dataclass(frozen=True)
class Engine:
    """What an attack was run with, for the record.

    Attributes:
        loop: "eager" or "graph".
        precision: of the network: "float32", "float64", "tf32", "bf16".
        kernels: "reference" where the operators ran in plain torch, or "triton" and its version.
        fallback: why the graph loop was left for the eager one; empty where it was not.
    """

    loop: str
    precision: str
    kernels: str
    fallback: str = ""

    def __str__(self) -> str:
        reason = f" ({self.fallback})" if self.fallback else ""
        return f"{self.loop}, {self.precision}, {self.kernels}{reason}"


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """:func:`float32_arithmetic` on CUDA; the switches are CUDA's, elsewhere they stay as they are."""
    return float32_arithmetic(precision) if device.type == "cuda" else nullcontext()


@contextmanager
def float32_arithmetic(precision: str) -> Iterator[None]:
    """CUDA's convolutions and matrix products in TF32 for "tf32", in IEEE float32 otherwise; then as before.

    torch multiplies convolutions in TF32 unless told otherwise, so that IEEE arithmetic has to be asked for. Inside,
    torch refuses to read its older switches (``allow_tf32``), which cannot express what was set.
    """
    backends: Any = torch.backends  # its switches are made at run time
    switches = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
