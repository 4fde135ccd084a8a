"""Images as rows of memory: what the kernels may be pointed at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64)
_BLOCK = 1024  # divides 3 x 32 x 32, 3 x 64 x 64 and 3 x 96 x 96: no lane of a colour image idles
_SHORT_BLOCK = 256

# A product and a sum are rounded one by one, as torch rounds them; Triton's own default is about to change.
LAUNCH: dict[str, Any] = {"enable_fp_fusion": False}


def as_rows(*images: Tensor) -> tuple[Tensor, ...]:
    """The tensors (B, ...) themselves where image i is the same run of memory in each; else contiguous copies.

    The same run: all contiguous, or all channels last, or in any other order of the dimensions after the first.
    What the caller changes in a copy has to be copied back, :func:`copy_back`.
    """
    first = images[0]
    if first.dtype not in DTYPES:
        raise ValueError(f"the fused operators know {DTYPES}, got {first.dtype}")
    for image in images:
        if image.shape != first.shape or image.dtype != first.dtype:
            raise ValueError(
                "images have to be of one shape and dtype, got "
                f"{[(tuple(other.shape), str(other.dtype)) for other in images]}"
            )
    layout = _dense_layout(first)
    if layout is not None and all(_dense_layout(image) == layout for image in images[1:]):
        return images
    return tuple(image.contiguous() for image in images)


def per_image(batch: int, *vectors: Tensor) -> tuple[Tensor, ...]:
    """One value per image each, (B,) and contiguous."""
    for vector in vectors:
        if vector.shape != (batch,):
            raise ValueError(
                f"values per image have to be of shape ({batch},), got {tuple(vector.shape)}; "
                "one value for all images: value.expand(batch)"
            )
    return tuple(vector.contiguous() for vector in vectors)


def copy_back(changed: Iterable[Tensor], used: Iterable[Tensor]) -> None:
    """Give the caller's tensors what the kernel wrote to their copies."""
    for original, copy in zip(changed, used, strict=True):
        if copy is not original:
            original.copy_(copy)


def blocks(row: Tensor) -> dict[str, Any]:
    """The kernels' constants for images like ``row``: a few fixed ones, since autotuning would change live buffers.

    A thread holds eight float32 or four float64 of a block, so no two threads share an element: a kernel that
    writes where it reads needs that.
    """
    length = row[0].numel()
    block = _SHORT_BLOCK if length <= _SHORT_BLOCK else _BLOCK
    return {"N": length, "BLOCK": block, "num_warps": block * row.element_size() // 1024, **LAUNCH}


def _dense_layout(images: Tensor) -> tuple[tuple[int, int], ...] | None:
    """(size, stride) of the dimensions that have a stride, or None where an image is no run of memory."""
    layout = tuple(
        (size, stride)
        for size, stride in zip(images.shape[1:], images.stride()[1:], strict=True)
        if size != 1
    )
    expected = 1
    for size, stride in sorted(layout, key=lambda dimension: dimension[1]):
        if stride != expected:
            return None
        expected *= size
    return layout if len(images) <= 1 or images.stride(0) == expected else None
