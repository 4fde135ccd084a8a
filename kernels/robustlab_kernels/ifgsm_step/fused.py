"""One signed step inside the eps ball and the box in one pass over memory."""

# Kernels are written in Triton's language: their arguments have no Python types.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from robustlab_kernels.rows import as_rows, blocks, copy_back, per_image

_NAN = tl.constexpr(tl.PropagateNan.ALL)  # as torch's minimum and maximum


@triton.jit
def ifgsm_step_kernel(
    adv_ptr, inputs_ptr, gradient_ptr, step_size_ptr, epsilon_ptr, active_ptr, linf_ptr, changed_ptr,
    N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = adv_ptr.dtype.element_ty
    image = tl.program_id(0).to(tl.int64)
    start = image * N
    linf = tl.zeros((BLOCK,), dtype)
    changed = tl.zeros((BLOCK,), tl.int32)
    active = changed + tl.load(active_ptr + image).to(tl.int32) != 0  # one for each lane, to mask with
    step_size = tl.load(step_size_ptr + image).to(dtype)
    epsilon = tl.load(epsilon_ptr + image).to(dtype)
    for begin in range(0, N, BLOCK):
        pixel = begin + tl.arange(0, BLOCK)
        at, inside = start + pixel, pixel < N
        x = tl.load(adv_ptr + at, inside, other=0)
        clean = tl.load(inputs_ptr + at, inside, other=0)
        gradient = tl.load(gradient_ptr + at, inside & active, other=0)
        moved = tl.where(gradient > 0, x - step_size, tl.where(gradient < 0, x + step_size, x))
        moved = tl.maximum(moved, clean - epsilon, propagate_nan=_NAN)
        moved = tl.minimum(moved, clean + epsilon, propagate_nan=_NAN)
        moved = tl.maximum(moved, tl.zeros_like(moved), propagate_nan=_NAN)
        moved = tl.minimum(moved, tl.zeros_like(moved) + 1, propagate_nan=_NAN)
        moved = tl.where(active, moved, x)
        tl.store(adv_ptr + at, moved, inside & active)
        changed |= ((moved != x) & inside).to(tl.int32)
        linf = tl.maximum(linf, tl.abs(moved - clean), propagate_nan=_NAN)
    # The reduction over a block drops NaN on a GPU.
    spoiled = tl.max((linf != linf).to(tl.int32), axis=0) > 0
    tl.store(linf_ptr + image, tl.where(spoiled, float("nan"), tl.max(linf, axis=0)))
    tl.store(changed_ptr + image, tl.max(changed, axis=0) > 0)


def ifgsm_step(
    adv_inputs: Tensor,
    inputs: Tensor,
    gradient: Tensor,
    step_size: Tensor,
    epsilon: Tensor,
    active: Tensor,
) -> tuple[Tensor, Tensor]:
    """See :func:`robustlab_kernels.ifgsm_step`.

    Moves, in float32 (float64: twice as much per pixel):
        per pixel of an active image: 12 bytes read, 4 bytes written.
        per pixel of another image: 8 bytes read, 0 bytes written.
        per image: 9 bytes read, 5 bytes written.
    """
    batch = len(adv_inputs)
    linf = adv_inputs.new_empty(batch)
    changed = adv_inputs.new_empty(batch, dtype=torch.bool)
    rows = as_rows(adv_inputs, inputs, gradient)
    vectors = per_image(batch, step_size, epsilon, active)
    if batch:
        with torch.cuda.device_of(adv_inputs):
            ifgsm_step_kernel[(batch,)](*rows, *vectors, linf, changed, **blocks(adv_inputs))
    copy_back((adv_inputs,), rows[:1])
    return linf, changed
