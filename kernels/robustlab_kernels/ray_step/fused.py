"""One step of the turning-ray attack in one program per image."""

# Kernels are written in Triton's language: their arguments have no Python types.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from robustlab_kernels.ray_step import reference
from robustlab_kernels.rows import LAUNCH, as_rows, copy_back, per_image

_NEWTON_STEPS = tl.constexpr(reference.NEWTON_STEPS)
_TINY = tl.constexpr(reference.TINY)
_NAN = tl.constexpr(tl.PropagateNan.ALL)  # as torch's minimum, maximum and clamp
_RESIDENT = 4096  # pixels that a program holds in registers


@triton.jit
def _between(x, low, high):
    return tl.minimum(tl.maximum(x, low, propagate_nan=_NAN), high, propagate_nan=_NAN)


@triton.jit
def _load(adv_ptr, inputs_ptr, gradient_ptr, start, begin, N: tl.constexpr, BLOCK: tl.constexpr):
    """The clean pixels, their offset, the gradient, and the gradient without the pixels that the box holds back."""
    pixel = begin + tl.arange(0, BLOCK)
    x = tl.load(adv_ptr + start + pixel, pixel < N, other=0)
    clean = tl.load(inputs_ptr + start + pixel, pixel < N, other=0)
    gradient = tl.load(gradient_ptr + start + pixel, pixel < N, other=0)
    held = ((x <= 0) & (gradient > 0)) | ((x >= 1) & (gradient < 0))
    return clean, x - clean, gradient, tl.where(held, 0, gradient)


@triton.jit
def ray_step_kernel(
    adv_ptr, inputs_ptr, gradient_ptr, margin_ptr, turn_ptr, inside_ptr, limit_ptr, moved_ptr,
    N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # N is a constant of the program: where it fits one block, every loop below is one straight run, the compiler sees
    # that they load the same pixels, and the image is read once.
    dtype: tl.constexpr = adv_ptr.dtype.element_ty
    image = tl.program_id(0).to(tl.int64)
    start = image * N
    margin = tl.load(margin_ptr + image).to(dtype)
    turn = tl.load(turn_ptr + image).to(dtype)
    inside = tl.load(inside_ptr + image).to(dtype)
    limit = tl.load(limit_ptr + image).to(dtype)

    slopes = tl.zeros((BLOCK,), dtype)
    radii = tl.zeros((BLOCK,), dtype)
    frees = tl.zeros((BLOCK,), dtype)
    falls = tl.zeros((BLOCK,), dtype)
    for begin in range(0, N, BLOCK):
        clean, offset, gradient, free = _load(adv_ptr, inputs_ptr, gradient_ptr, start, begin, N, BLOCK)
        slopes += gradient * gradient
        radii += offset * offset
        frees += free * free
        falls += gradient * offset
    slope = tl.maximum(tl.sqrt(tl.sum(slopes, axis=0)), _TINY, propagate_nan=_NAN)
    radius = tl.sqrt(tl.sum(radii, axis=0))
    along = 1 / tl.maximum(radius, _TINY, propagate_nan=_NAN)
    across = turn / tl.maximum(tl.sqrt(tl.sum(frees, axis=0)), _TINY, propagate_nan=_NAN)

    lengths = tl.zeros((BLOCK,), dtype)
    for begin in range(0, N, BLOCK):
        clean, offset, gradient, free = _load(adv_ptr, inputs_ptr, gradient_ptr, start, begin, N, BLOCK)
        ray = offset * along - free * across
        lengths += ray * ray
    scale = 1 / tl.maximum(tl.sqrt(tl.sum(lengths, axis=0)), _TINY, propagate_nan=_NAN)

    low, high = radius * (1 - limit), radius * (1 + limit)
    aim = margin - tl.sum(falls, axis=0) + inside * slope * radius
    r = radius
    for _ in tl.static_range(_NEWTON_STEPS):
        values = tl.zeros((BLOCK,), dtype)
        rates = tl.zeros((BLOCK,), dtype)
        for begin in range(0, N, BLOCK):
            clean, offset, gradient, free = _load(adv_ptr, inputs_ptr, gradient_ptr, start, begin, N, BLOCK)
            ray = (offset * along - free * across) * scale
            y = clean + r * ray
            values += gradient * (_between(y, 0.0, 1.0) - clean)
            rates += tl.where((y > 0) & (y < 1), gradient * ray, 0)
        value = aim + tl.sum(values, axis=0)
        rate = tl.sum(rates, axis=0)
        newton = tl.where(rate < 0, r - value / rate, tl.where(value > 0, high, low))
        r = _between(newton, low, high)
    for begin in range(0, N, BLOCK):
        clean, offset, gradient, free = _load(adv_ptr, inputs_ptr, gradient_ptr, start, begin, N, BLOCK)
        ray = (offset * along - free * across) * scale
        pixel = begin + tl.arange(0, BLOCK)
        tl.store(moved_ptr + start + pixel, _between(clean + r * ray, 0.0, 1.0), pixel < N)


def ray_step(
    adv_inputs: Tensor,
    inputs: Tensor,
    margin: Tensor,
    gradient: Tensor,
    turn: Tensor,
    inside: Tensor,
    limit: Tensor,
) -> Tensor:
    """See :func:`robustlab_kernels.ray_step`.

    Moves, in float32 (float64: twice as much); images of more than 4096 pixels are read again, seven times, from the
    caches:
        per pixel: 12 bytes read, 4 bytes written.
        per image: 16 bytes read, 0 bytes written.
    """
    batch = len(adv_inputs)
    moved = torch.empty_like(adv_inputs)
    *rows, out = as_rows(adv_inputs, inputs, gradient, moved)
    vectors = per_image(batch, margin, turn, inside, limit)
    if batch:
        with torch.cuda.device_of(adv_inputs):
            ray_step_kernel[(batch,)](*rows, *vectors, out, **_blocks(adv_inputs))
    copy_back((moved,), (out,))
    return moved


def _blocks(row: Tensor) -> dict[str, Any]:
    """As :func:`robustlab_kernels.rows.blocks`, with blocks that hold a whole image where registers allow it."""
    length = row[0].numel()
    block = next((size for size in (256, 1024, _RESIDENT) if length <= size), _RESIDENT // 2)
    return {"N": length, "BLOCK": block, "num_warps": max(block * row.element_size() // 2048, 1), **LAUNCH}
