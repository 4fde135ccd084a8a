"""Random shift, flip and rotation, drawn per image and applied to the whole batch on its device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from robustlab.shapes import Float

MAX_SHIFT = 1 / 8  # of the image's side, in whole pixels
MAX_ROTATION_DEGREES = 15.0


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image; each image draws its own shift, flip and angle.

    Attributes:
        shift: up to an eighth of each side, whole pixels, zeros move in.
        flip: left-right, with probability one half.
        rotation: up to 15 degrees either way about the centre, bilinear, zeros outside.
    """

    shift: bool
    flip: bool
    rotation: bool

    def __call__(
        self, inputs: Float[Tensor, "batch channels height width"], generator: Generator
    ) -> Float[Tensor, "batch channels height width"]:
        """Augment a batch.

        Args:
            inputs: images in [0, 1].
            generator: on the CPU or on the device of the inputs; the same state gives the same images.

        Returns:
            New images in [0, 1], or ``inputs`` itself where nothing is switched on.
        """
        if self.shift or self.flip:
            inputs = self._move_pixels(inputs, generator)
        # affine_grid refuses a batch of no images.
        return _rotate(inputs, generator) if self.rotation and len(inputs) else inputs

    def _move_pixels(
        self, inputs: Float[Tensor, "batch channels height width"], generator: Generator
    ) -> Float[Tensor, "batch channels height width"]:
        """Shift and flip in one gather: no pixel is interpolated."""
        batch, channels, height, width = inputs.shape
        rows = torch.arange(height, device=inputs.device).expand(batch, height)
        columns = torch.arange(width, device=inputs.device).expand(batch, width)
        if self.shift:
            rows = rows - _draw_shift(batch, height, generator).to(inputs.device)
            columns = columns - _draw_shift(batch, width, generator).to(inputs.device)
        if self.flip:
            coin = torch.randint(2, (batch, 1), generator=generator, device=generator.device)
            columns = torch.where(coin.to(inputs.device) == 1, width - 1 - columns, columns)
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
            :, None, :
        ]
        source = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
        source = source.view(batch, 1, height * width).expand(batch, channels, height * width)
        moved = inputs.reshape(batch, channels, height * width).gather(2, source).view(inputs.shape)
        return torch.where(inside[:, None], moved, 0.0)


def _draw_shift(batch: int, side: int, generator: Generator) -> Tensor:
    most = int(side * MAX_SHIFT)
    return torch.randint(-most, most + 1, (batch, 1), generator=generator, device=generator.device)


def _rotate(
    inputs: Float[Tensor, "batch channels height width"], generator: Generator
) -> Float[Tensor, "batch channels height width"]:
    batch, _, height, width = inputs.shape
    turn = torch.rand(batch, generator=generator, device=generator.device).to(inputs.device) * 2 - 1
    angle = turn * (MAX_ROTATION_DEGREES * torch.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # The grid's axes both run from -1 to 1, so in images that are not square a rotation needs the ratio of
    # sides.
    theta = torch.stack([cos, -sin * (height / width), zero, sin * (width / height), cos, zero], dim=1)
    grid = F.affine_grid(theta.view(batch, 2, 3), list(inputs.shape), align_corners=False).to(inputs.dtype)
    # Rounding in the weights may leave [0, 1] by a unit in the last place.
    return F.grid_sample(inputs, grid, "bilinear", "zeros", align_corners=False).clamp(0, 1)
