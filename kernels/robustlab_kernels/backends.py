"""Which of an operator's passes runs: the torch reference or the Triton kernel, and how torch knows of both."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

BACKENDS = ("reference", "fused")
TRITON_INSTALLED = find_spec("triton") is not None


def kernels_version() -> str:
    """What runs on a CUDA device: "triton" and its version, or "reference" where Triton is not installed."""
    return f"triton {metadata.version('triton')}" if TRITON_INSTALLED else "reference"


class Operator:
    """One operator: ``torch.ops.robustlab.<name>`` and the choice between its two passes.

    The registered operator is opaque to ``torch.compile``, which would otherwise have to prove that the kernels
    write in place what they write; tensors on the CPU take the reference there.

    Args:
        schema: the arguments as torch writes them, with (a!) at those that change.
        reference: the torch truth, with the arguments in the schema's order.
        fake: the new tensors that it returns, without their values.
    """

    def __init__(
        self, name: str, schema: str, reference: Callable[..., Any], fake: Callable[..., Any]
    ) -> None:
        self.name, self.reference = name, reference
        changed = [argument.split()[-1] for argument in schema.split("->")[0].split(",") if "!)" in argument]
        definition = torch.library.custom_op(
            f"robustlab::{name}", self.fused, mutates_args=changed, device_types="cuda", schema=schema
        )
        definition.register_kernel("cpu")(reference)
        definition.register_fake(fake)
        self.registered = getattr(torch.ops.robustlab, name)

    def fused(self, *arguments: Any) -> Any:
        """The Triton pass; Triton is imported with the first call."""
        if not TRITON_INSTALLED:
            raise RuntimeError(
                f"{self.name} with backend='fused' needs triton, which is not installed: pip install triton, "
                "or leave backend out"
            )
        return getattr(importlib.import_module(f"robustlab_kernels.{self.name}.fused"), self.name)(*arguments)

    def __call__(self, backend: str | None, *arguments: Any) -> Any:
        """Run the pass that ``backend`` names; by default the kernel where the tensors are on a CUDA device."""
        if backend not in (None, *BACKENDS):
            raise ValueError(f"backend must be one of {BACKENDS} or None, got {backend!r}")
        leading: Tensor = arguments[0]
        if backend == "reference" or (backend is None and not (leading.is_cuda and TRITON_INSTALLED)):
            return self.reference(*arguments)
        if leading.is_cuda:
            return self.registered(*arguments)
        if TRITON_INSTALLED and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError(
                f"{self.name} with backend='fused' needs tensors on a CUDA device, got {leading.device}; Triton's "
                "interpreter takes others: set TRITON_INTERPRET=1 before the first call"
            )
        return self.fused(*arguments)
