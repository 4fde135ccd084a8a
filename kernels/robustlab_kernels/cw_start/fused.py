"""The beginning of a run of Carlini and Wagner's Adam in one pass over memory."""

# Kernels are written in Triton's language: their arguments have no Python types.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from robustlab_kernels.rows import as_rows, blocks, copy_back, per_image


@triton.jit
def cw_start_kernel(
    w_ptr, adv_ptr, first_ptr, second_ptr, squared_ptr, inputs_ptr, origin_ptr, begins_ptr,
    inside_box: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = w_ptr.dtype.element_ty
    image = tl.program_id(0).to(tl.int64)
    start = image * N
    if tl.load(begins_ptr + image):
        squared = tl.zeros((BLOCK,), dtype)
        zeros = tl.zeros((BLOCK,), dtype)
        for begin in range(0, N, BLOCK):
            pixel = begin + tl.arange(0, BLOCK)
            at, inside = start + pixel, pixel < N
            origin = tl.load(origin_ptr + at, inside, other=0)
            clean = tl.load(inputs_ptr + at, inside, other=0)
            centred = tl.minimum(tl.maximum(2 * origin - 1, -1.0), 1.0) * inside_box
            w = (tl.log(1 + centred) - tl.log(1 - centred)) / 2  # arctanh
            x = tl.sigmoid(2 * w)
            tl.store(w_ptr + at, w, inside)
            tl.store(adv_ptr + at, x, inside)
            tl.store(first_ptr + at, zeros, inside)
            tl.store(second_ptr + at, zeros, inside)
            moved = tl.where(inside, x - clean, 0)
            squared += moved * moved
        tl.store(squared_ptr + image, tl.sum(squared, axis=0))


def cw_start(
    w: Tensor,
    adv_inputs: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    squared_l2: Tensor,
    inputs: Tensor,
    origin: Tensor,
    begins: Tensor,
    inside: float,
) -> None:
    """See :func:`robustlab_kernels.cw_start`.

    Moves, in float32 (float64: twice as much per pixel):
        per pixel of an active image: 8 bytes read, 16 bytes written.
        per pixel of another image: 0 bytes read, 0 bytes written.
        per image: 1 bytes read, 4 bytes written.
    """
    batch = len(w)
    changed = (w, adv_inputs, first_moment, second_moment)
    rows = as_rows(*changed, inputs, origin)
    squared, flags = per_image(batch, squared_l2, begins)
    if batch:
        with torch.cuda.device_of(w):
            cw_start_kernel[(batch,)](*rows[:4], squared, *rows[4:], flags, inside_box=inside, **blocks(w))
    copy_back((*changed, squared_l2), (*rows[:4], squared))
