"""Where a number of a tensor may be looked at."""

from __future__ import annotations

import torch
from torch import Tensor


def on_host(flags: Tensor) -> bool:
    """Whether asking ``flags`` for a value is free: a CPU's tensor, and nobody traces what is done with it.

    Another device would have to be waited for, and a trace cannot branch.
    """
    return flags.device.type == "cpu" and not torch.compiler.is_compiling()
