"""Random shift, flip and rotation, drawn per image and applied to the whole batch on its device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from robustlab.shapes import Float, Shaped

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
        """Augment a batch: :meth:`move`, then :meth:`turn`.

        Args:
            inputs: images in [0, 1].
            generator: on the CPU or on the device of the inputs; the same state gives the same images.

        Returns:
            New images in [0, 1], or ``inputs`` itself where nothing is switched on.
        """
        return self.turn(self.move(inputs, generator), generator)

    def move(
        self, images: Shaped[Tensor, "batch channels height width"], generator: Generator
    ) -> Shaped[Tensor, "batch channels height width"]:
        """Flip and shift: pixels move as they are, so stored bytes do as well, a quarter of the memory."""
        if not (self.shift or self.flip) or not len(images):
            return images
        batch, channels, height, width = images.shape
        device = images.device
        across, down = (int(side * MAX_SHIFT) if self.shift else 0 for side in (width, height))
        top = left = torch.zeros(batch, 1, dtype=torch.long, device=device)
        if self.shift:
            top = down - _draw_shift(batch, down, generator).to(device)
            left = across - _draw_shift(batch, across, generator).to(device)
        if self.flip:
            coin = torch.randint(2, (batch, 1), generator=generator, device=generator.device).to(device)
            images = torch.cat([images, images.flip(3)])
        padded = functional.pad(images, (across, across, down, down)).contiguous()
        # Every row of the result is a run of pixels somewhere in ``padded``; ``starts`` says where it begins.
        tall, wide = height + 2 * down, width + 2 * across
        plane = torch.arange(batch * channels, device=device).view(batch, channels, 1) * tall
        starts = (plane + (torch.arange(height, device=device) + top)[:, None]) * wide + left[:, :, None]
        if self.flip:
            starts = starts + coin[:, :, None] * (batch * channels * tall * wide)
        return padded.as_strided((padded.numel() - width + 1, width), (1, 1))[starts]

    def turn(
        self, inputs: Float[Tensor, "batch channels height width"], generator: Generator
    ) -> Float[Tensor, "batch channels height width"]:
        """Rotate inputs in [0, 1]."""
        # affine_grid refuses a batch of no images.
        return _rotate(inputs, generator) if self.rotation and len(inputs) else inputs


def _draw_shift(batch: int, most: int, generator: Generator) -> Tensor:
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
    grid = functional.affine_grid(theta.view(batch, 2, 3), list(inputs.shape), align_corners=False).to(
        inputs.dtype
    )
    # Rounding in the weights may leave [0, 1] by a unit in the last place.
    return functional.grid_sample(inputs, grid, "bilinear", "zeros", align_corners=False).clamp(0, 1)
