"""Triton's interpreter stands in for a GPU where there is none."""

from __future__ import annotations

import os

import torch

# Read when Triton is imported: its own library is interpreted then, too. Where there is a GPU, the same tests run the
# compiled kernels on it instead (`-m gpu`).
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
