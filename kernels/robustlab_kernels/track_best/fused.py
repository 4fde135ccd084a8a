"""Keep the nearest adversarial image seen so far; images that did not improve are not read."""

# Kernels are written in Triton's language: their arguments have no Python types.
# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from robustlab_kernels.rows import as_rows, blocks, copy_back, per_image


@triton.jit
def track_best_kernel(
    best_ptr, adv_ptr, best_distance_ptr, distance_ptr, adversarial_ptr, nearer_ptr,
    N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    start = image * N
    distance = tl.load(distance_ptr + image)
    nearer = tl.load(adversarial_ptr + image) & (distance < tl.load(best_distance_ptr + image))
    tl.debug_barrier()  # every thread reads the best distance before one of them replaces it
    tl.store(nearer_ptr + image, nearer)
    if nearer:
        tl.store(best_distance_ptr + image, distance)
        for begin in range(0, N, BLOCK):
            pixel = begin + tl.arange(0, BLOCK)
            at, inside = start + pixel, pixel < N
            tl.store(best_ptr + at, tl.load(adv_ptr + at, inside, other=0), inside)


def track_best(
    best: Tensor, best_distance: Tensor, adv_inputs: Tensor, distance: Tensor, adversarial: Tensor
) -> Tensor:
    """See :func:`robustlab_kernels.track_best`.

    Moves, in float32 (float64: twice as much per pixel):
        per pixel of an active image: 4 bytes read, 4 bytes written.
        per pixel of another image: 0 bytes read, 0 bytes written.
        per image: 9 bytes read, 5 bytes written.
    """
    batch = len(best)
    nearer = best.new_empty(batch, dtype=torch.bool)
    rows = as_rows(best, adv_inputs)
    nearest, distance, adversarial = per_image(batch, best_distance, distance, adversarial)
    if batch:
        with torch.cuda.device_of(best):
            track_best_kernel[(batch,)](*rows, nearest, distance, adversarial, nearer, **blocks(best))
    copy_back((best, best_distance), (rows[0], nearest))
    return nearer
