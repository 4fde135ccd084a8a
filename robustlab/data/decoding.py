"""Image files to uint8 arrays, many at a time, with errors that name the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from robustlab.data.images import ProgressCallback
from robustlab.errors import InputError
from robustlab.shapes import UInt8

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP")
BATCH = 256


def open_image(content: bytes, name: str) -> Image.Image:
    """Read an image's header: its size and mode are known, its pixels are not decoded yet.

    Raises:
        InputError: no image in one of ``FORMATS``.
    """
    try:
        return Image.open(BytesIO(content), formats=FORMATS)
    except Exception as error:  # Pillow's readers raise anything on damaged files
        raise InputError(f"{name} is no readable image; replace or remove it") from error


def decode_image(content: bytes, name: str, size: tuple[int, int], mode: str) -> np.ndarray:
    """Decode an image to (channels, height, width), uint8.

    Args:
        size: (width, height) it must have, checked before a pixel is decoded.
        mode: ``RGB`` or ``L`` (greyscale).

    Raises:
        InputError: not an image, another size, or damaged pixels.
    """
    image = open_image(content, name)
    if image.size != size:
        raise InputError(
            f"{name} is {image.width}x{image.height} (width x height), should be {size[0]}x{size[1]}; "
            "replace or resize it"
        )
    try:
        pixels = np.asarray(image.convert(mode))
    except Exception as error:  # Pillow's readers raise anything on damaged files
        raise InputError(
            f"{name} is damaged ({' '.join(str(error).split())}); replace or remove it"
        ) from error
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def decode_images(
    names: Sequence[str],
    read: Callable[[str], bytes],
    size: tuple[int, int],
    mode: str,
    progress: tuple[ProgressCallback | None, str] = (None, ""),
) -> UInt8[torch.Tensor, "n channels height width"]:
    """Decode images of one size in the order of their names, on all cores (Pillow decodes outside the lock).

    Args:
        read: gives a file's content by its name; called from several threads.
        size: (width, height) of each image.
        mode: ``RGB`` or ``L`` (greyscale).
        progress: the callback and the name of the stage it hears.

    Raises:
        InputError: an image that cannot be read, or of another size; the message names it.
    """
    on_progress, stage = progress
    images = np.empty((len(names), 3 if mode == "RGB" else 1, size[1], size[0]), np.uint8)

    def decode(start: int) -> int:
        for at in range(start, min(start + BATCH, len(names))):
            images[at] = decode_image(read(names[at]), names[at], size, mode)
        return min(start + BATCH, len(names))

    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
    try:
        for done in pool.map(decode, range(0, len(names), BATCH)):
            if on_progress:
                on_progress(stage, done, len(names))
    finally:
        # At the first bad image the rest is not worth decoding.
        pool.shutdown(cancel_futures=True)
    return torch.from_numpy(images)
