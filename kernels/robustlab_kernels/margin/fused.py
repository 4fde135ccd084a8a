"""The margin, its gradient by the logits, the best other class and success in one pass over the logits."""

# Kernels are written in Triton's language: their arguments have no Python types.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from robustlab_kernels.margin.reference import ROUNDINGS
from robustlab_kernels.rows import DTYPES, LAUNCH, per_image

_LARGEST_BLOCK = 1024  # classes of a row at once; a row with more is read again for its gradient
_TILE, _WARPS = 1024, 4


@triton.jit(do_not_specialize=["batch"])
def margin_kernel(
    logits_ptr, labels_ptr, value_ptr, gradient_ptr, other_ptr, adversarial_ptr, batch,
    SIGN: tl.constexpr, SOFT: tl.constexpr, CONFIDENCE: tl.constexpr, ROUNDING: tl.constexpr,
    N: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    # A few rows of few classes share a program: each is reduced along its own axis, whatever its neighbours hold.
    dtype: tl.constexpr = logits_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    live = row < batch
    label = tl.load(labels_ptr + row, live, other=-1)
    own = tl.load(logits_ptr + row * N + label, live & (label >= 0) & (label < N), other=float("nan"))

    highest = tl.full((ROWS,), float("-inf"), dtype)
    largest = tl.zeros((ROWS,), dtype)
    other = tl.zeros((ROWS,), tl.int32)
    first_nan = tl.full((ROWS,), N, tl.int32)
    for begin in range(0, N, BLOCK):
        column = begin + tl.arange(0, BLOCK)[None, :]
        inside = live[:, None] & (column < N)
        z = tl.load(logits_ptr + row[:, None] * N + column, inside, other=float("-inf"))
        is_nan = (z != z) & (column != label[:, None])
        first_nan = tl.minimum(first_nan, tl.min(tl.where(is_nan, column, N), axis=1))
        largest = tl.maximum(largest, tl.max(tl.where(inside & (z == z), tl.abs(z), 0), axis=1))
        rival = tl.where((column == label[:, None]) | is_nan, float("-inf"), z)
        top = tl.max(rival, axis=1)
        at = tl.min(tl.where((rival == top[:, None]) & inside, column, N), axis=1)
        other = tl.where(top > highest, at, other)
        highest = tl.maximum(highest, top)
    # The reductions drop NaN on a GPU, and a NaN is what torch's maximum finds first.
    other = tl.where(first_nan < N, first_nan, other)
    highest = tl.where(first_nan < N, float("nan"), highest)

    value = SIGN * (own - highest)
    tl.store(value_ptr + row, value, live)
    tl.store(other_ptr + row, other.to(tl.int64), live)
    tl.store(adversarial_ptr + row, value + CONFIDENCE < -ROUNDING * largest, live)

    total = tl.zeros((ROWS,), dtype)
    if SOFT:
        for begin in range(0, N, BLOCK):
            column = begin + tl.arange(0, BLOCK)[None, :]
            inside = live[:, None] & (column < N)
            z = tl.load(logits_ptr + row[:, None] * N + column, inside, other=float("-inf"))
            rival = tl.where(column == label[:, None], float("-inf"), z)
            total += tl.sum(tl.where(inside, tl.exp(rival - highest[:, None]), 0), axis=1)
    for begin in range(0, N, BLOCK):
        column = begin + tl.arange(0, BLOCK)[None, :]
        inside = live[:, None] & (column < N)
        if SOFT:
            z = tl.load(logits_ptr + row[:, None] * N + column, inside, other=float("-inf"))
            gradient = -SIGN * (tl.exp(z - highest[:, None]) / total[:, None])
        else:
            gradient = tl.where(column == other[:, None], -SIGN, tl.zeros((ROWS, BLOCK), dtype))
        gradient = tl.where(column == label[:, None], SIGN, gradient)
        tl.store(gradient_ptr + row[:, None] * N + column, gradient, inside)


def margin(
    logits: Tensor, labels: Tensor, targeted: bool, soft: bool, confidence: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See :func:`robustlab_kernels.margin`.

    Moves, in float32 (float64: twice as much per logit):
        per logit: 4 bytes read, 4 bytes written.
        per image: 8 bytes read, 13 bytes written.
    """
    if logits.dim() != 2 or logits.shape[1] < 2 or logits.dtype not in DTYPES:
        raise ValueError(
            f"logits have to be (B, N), N >= 2, in {DTYPES}, got {tuple(logits.shape)}, {logits.dtype}"
        )
    batch, classes = logits.shape
    logits = logits.contiguous()
    (labels,) = per_image(batch, labels)
    value, gradient = logits.new_empty(batch), torch.empty_like(logits)
    other = logits.new_empty(batch, dtype=torch.int64)
    adversarial = logits.new_empty(batch, dtype=torch.bool)
    block = min(max(triton.next_power_of_2(classes), 16), _LARGEST_BLOCK)
    rows = _TILE // block
    if batch:
        with torch.cuda.device_of(logits):
            margin_kernel[(triton.cdiv(batch, rows),)](
                logits, labels, value, gradient, other, adversarial, batch,
                SIGN=-1.0 if targeted else 1.0, SOFT=bool(soft), CONFIDENCE=float(confidence),
                ROUNDING=ROUNDINGS * torch.finfo(logits.dtype).eps,
                N=classes, BLOCK=block, ROWS=rows, num_warps=_WARPS, **LAUNCH,
            )  # fmt: skip
    return value, gradient, other, adversarial
