"""One step of Carlini and Wagner's attack in one pass over memory."""

# Kernels are written in Triton's language: their arguments have no Python types.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from robustlab_kernels.cw_step import reference
from robustlab_kernels.rows import as_rows, blocks, copy_back, per_image

_ONE_MINUS_BETA_1 = tl.constexpr(1 - reference.BETA_1)
_ONE_MINUS_BETA_2 = tl.constexpr(1 - reference.BETA_2)
_LOG_BETA_1 = tl.constexpr(math.log(reference.BETA_1))
_LOG_BETA_2 = tl.constexpr(math.log(reference.BETA_2))
_EPSILON = tl.constexpr(reference.EPSILON)


@triton.jit
def _one_minus_power(count, LOG_BETA: tl.constexpr):
    # 1 - beta^t = -expm1(t log beta). Near zero by its series, since 1 - exp(y) would cancel there.
    TERMS: tl.constexpr = 9 if count.dtype.primitive_bitwidth == 32 else 17
    y = count * LOG_BETA
    series = y * 0 + 1
    for k in tl.static_range(TERMS - 1):
        series = 1 + series * y * (1.0 / (TERMS - k))
    return tl.where(y > -0.5, -y * series, 1 - tl.exp(y))


@triton.jit
def cw_step_kernel(
    w_ptr, adv_ptr, first_ptr, second_ptr, inputs_ptr, gradient_ptr,
    const_ptr, step_ptr, learning_rate_ptr, active_ptr, squared_ptr,
    N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = w_ptr.dtype.element_ty
    image = tl.program_id(0).to(tl.int64)
    start = image * N
    squared = tl.zeros((BLOCK,), dtype)
    if tl.load(active_ptr + image):
        const = tl.load(const_ptr + image).to(dtype)
        count = tl.load(step_ptr + image).to(dtype)
        first_scale = tl.load(learning_rate_ptr + image).to(dtype) / _one_minus_power(count, _LOG_BETA_1)
        second_scale = 1 / tl.sqrt(_one_minus_power(count, _LOG_BETA_2))
        for begin in range(0, N, BLOCK):
            pixel = begin + tl.arange(0, BLOCK)
            at, inside = start + pixel, pixel < N
            w = tl.load(w_ptr + at, inside, other=0)
            x = tl.load(adv_ptr + at, inside, other=0)
            first = tl.load(first_ptr + at, inside, other=0)
            second = tl.load(second_ptr + at, inside, other=0)
            clean = tl.load(inputs_ptr + at, inside, other=0)
            gradient = tl.load(gradient_ptr + at, inside, other=0)
            grad_w = (const * gradient + 2 * (x - clean)) * (2 * x * (1 - x))
            first += _ONE_MINUS_BETA_1 * (grad_w - first)
            second += _ONE_MINUS_BETA_2 * (grad_w * grad_w - second)
            w -= first_scale * first / (tl.sqrt(second) * second_scale + _EPSILON)
            x = tl.sigmoid(2 * w)
            tl.store(w_ptr + at, w, inside)
            tl.store(adv_ptr + at, x, inside)
            tl.store(first_ptr + at, first, inside)
            tl.store(second_ptr + at, second, inside)
            moved = tl.where(inside, x - clean, 0)
            squared += moved * moved
    else:
        for begin in range(0, N, BLOCK):
            pixel = begin + tl.arange(0, BLOCK)
            at, inside = start + pixel, pixel < N
            moved = tl.load(adv_ptr + at, inside, other=0) - tl.load(inputs_ptr + at, inside, other=0)
            squared += moved * moved
    tl.store(squared_ptr + image, tl.sum(squared, axis=0))


def cw_step(
    w: Tensor,
    adv_inputs: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    inputs: Tensor,
    gradient: Tensor,
    const: Tensor,
    step: Tensor,
    learning_rate: Tensor,
    active: Tensor,
) -> Tensor:
    """See :func:`robustlab_kernels.cw_step`.

    Moves, in float32 (float64: twice as much per pixel):
        per pixel of an active image: 24 bytes read, 16 bytes written.
        per pixel of another image: 8 bytes read, 0 bytes written.
        per image: 17 bytes read, 4 bytes written.
    """
    batch = len(w)
    squared = w.new_empty(batch)
    changed = (w, adv_inputs, first_moment, second_moment)
    rows = as_rows(*changed, inputs, gradient)
    vectors = per_image(batch, const, step, learning_rate, active)
    if batch:
        with torch.cuda.device_of(w):
            cw_step_kernel[(batch,)](*rows, *vectors, squared, **blocks(w))
    copy_back(changed, rows[:4])
    return squared
