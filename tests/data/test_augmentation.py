"""Random shift, flip and rotation."""

from __future__ import annotations

import math

import pytest
import torch

from robustlab.data import Augmentation

ALL = Augmentation(shift=True, flip=True, rotation=True)


def make_generator(seed: int = 0) -> torch.Generator:
    """A seeded generator on the CPU."""
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (3, 3, 32, 32), (1, 3, 16, 24), (2, 1, 4, 4), (0, 1, 8, 8)])
def test_shape_and_range_are_kept(shape: tuple[int, ...]) -> None:
    """Any batch, also an empty one and images that are not square, keeps its shape and stays in [0, 1]."""
    inputs = torch.rand(shape, generator=make_generator())
    inputs[:, :, ::2] = 1.0
    outputs = ALL(inputs, make_generator(1))
    assert outputs.shape == inputs.shape
    assert outputs.dtype == inputs.dtype
    assert bool(((outputs >= 0) & (outputs <= 1)).all())


def test_same_generator_state_gives_the_same_images() -> None:
    """Bit-identical under a seed, different under another, and the input is left alone."""
    inputs = torch.rand(16, 3, 32, 32, generator=make_generator())
    before = inputs.clone()
    first, second, other = (ALL(inputs, make_generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(inputs, before)


def test_nothing_switched_on_changes_nothing() -> None:
    """The identity returns its input."""
    inputs = torch.rand(4, 1, 8, 8)
    assert torch.equal(
        Augmentation(shift=False, flip=False, rotation=False)(inputs, make_generator()), inputs
    )


def test_shift_moves_whole_pixels_and_fills_with_zeros() -> None:
    """Each image is one of the 25 shifts by up to 2 of 16 pixels, all 25 occur, and zeros move in."""
    image = torch.rand(2, 16, 16, generator=make_generator()) + 0.1
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    shifts = {(y, x): padded[:, 2 - y : 18 - y, 2 - x : 18 - x] for y in range(-2, 3) for x in range(-2, 3)}
    outputs = Augmentation(shift=True, flip=False, rotation=False)(
        image.expand(600, -1, -1, -1), make_generator()
    )
    found = [key for output in outputs for key, shifted in shifts.items() if torch.equal(output, shifted)]
    assert len(found) == 600
    assert set(found) == set(shifts)


def test_flip_mirrors_about_half_of_the_images() -> None:
    """Each image is itself or its left-right mirror; the coin is fair."""
    image = torch.rand(3, 8, 8, generator=make_generator())
    outputs = Augmentation(shift=False, flip=True, rotation=False)(
        image.expand(1000, -1, -1, -1), make_generator()
    )
    flipped = sum(torch.equal(output, image.flip(2)) for output in outputs)
    kept = sum(torch.equal(output, image) for output in outputs)
    assert flipped + kept == 1000
    assert 430 < flipped < 570


def test_flip_comes_with_the_shift_of_the_same_image() -> None:
    """With both on, each image is a flip of a shift that alone would be allowed."""
    image = torch.rand(1, 8, 8, generator=make_generator()) + 0.1
    outputs = Augmentation(shift=True, flip=True, rotation=False)(
        image.expand(300, -1, -1, -1), make_generator()
    )
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    shifted = [padded[:, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
    allowed = shifted + [candidate.flip(2) for candidate in shifted]
    hits = [sum(torch.equal(output, candidate) for output in outputs) for candidate in allowed]
    assert sum(hits) == 300
    assert min(hits) > 0


@pytest.mark.parametrize("shape", [(64, 64), (48, 96)])
def test_rotation_turns_by_at_most_15_degrees_without_distortion(shape: tuple[int, int]) -> None:
    """A spot off the centre keeps its distance to it and turns by -15 to 15 degrees, in wide images too."""
    height, width = shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    spot = torch.exp(-((rows - middle_row) ** 2 + (columns - middle_column - 16) ** 2) / 8)
    outputs = Augmentation(shift=False, flip=False, rotation=True)(
        spot.expand(400, 1, height, width), make_generator()
    )[:, 0]
    mass = outputs.sum((1, 2))
    row = (outputs * rows).sum((1, 2)) / mass - middle_row
    column = (outputs * columns).sum((1, 2)) / mass - middle_column
    assert torch.allclose(torch.hypot(row, column), torch.tensor(16.0), atol=0.1)
    angles = torch.atan2(row, column) * 180 / math.pi
    assert -15.1 < angles.min() < -13
    assert 13 < angles.max() < 15.1


def test_images_draw_their_own_transformation() -> None:
    """Equal images in one batch come out different."""
    outputs = ALL(
        torch.rand(1, 1, 32, 32, generator=make_generator()).expand(8, -1, -1, -1), make_generator()
    )
    assert len({tuple(output.flatten().tolist()) for output in outputs}) == 8
