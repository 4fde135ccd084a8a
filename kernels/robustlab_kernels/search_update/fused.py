"""One decision of a per-image search in one launch."""

# Kernels are written in Triton's language: their arguments have no Python types.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from robustlab_kernels.rows import LAUNCH, copy_back, per_image

_NAN = tl.constexpr(tl.PropagateNan.ALL)  # as torch's minimum and maximum
_BLOCK, _WARPS = 256, 2


@triton.jit(do_not_specialize=["batch"])
def search_update_kernel(
    value_ptr, low_ptr, high_ptr, succeeded_ptr, decided_ptr, batch, GROWTH: tl.constexpr, BLOCK: tl.constexpr
):
    image = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = image < batch
    decided = tl.load(decided_ptr + image, inside, other=0) != 0
    succeeded = tl.load(succeeded_ptr + image, inside, other=0) != 0
    value = tl.load(value_ptr + image, inside, other=0)
    low = tl.load(low_ptr + image, inside, other=0)
    high = tl.load(high_ptr + image, inside, other=0)
    high = tl.where(succeeded & decided, tl.minimum(high, value, propagate_nan=_NAN), high)
    low = tl.where((succeeded == 0) & decided, tl.maximum(low, value, propagate_nan=_NAN), low)
    chosen = tl.where(tl.abs(high) == float("inf"), GROWTH * value, (low + high) / 2)
    tl.store(high_ptr + image, high, inside & decided)
    tl.store(low_ptr + image, low, inside & decided)
    tl.store(value_ptr + image, chosen, inside & decided)


def search_update(
    value: Tensor, low: Tensor, high: Tensor, succeeded: Tensor, decided: Tensor, growth: float
) -> None:
    """See :func:`robustlab_kernels.search_update`.

    Moves, in float32 (float64: twice as much of the three values):
        per image: 14 bytes read, 12 bytes written.
    """
    batch = len(value)
    if not value.dtype == low.dtype == high.dtype:
        raise ValueError(f"the bounds have to be of one dtype, got {value.dtype}, {low.dtype}, {high.dtype}")
    changed = (value, low, high)
    used = per_image(batch, *changed, succeeded, decided)
    if batch:
        with torch.cuda.device_of(value):
            search_update_kernel[(triton.cdiv(batch, _BLOCK),)](
                *used, batch, GROWTH=float(growth), BLOCK=_BLOCK, num_warps=_WARPS, **LAUNCH
            )
    copy_back(changed, used[:3])
