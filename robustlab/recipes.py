"""How a model is trained: the recipe, its defaults, its learning rate over the steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch

from robustlab.errors import InputError

# Of a subset of real images: 128 passes over 1,000 of them.
LEAST_STEPS = 1000
PRECISIONS = ("auto", "float32", "bf16")
_RANGES = (
    ("learning_rate", 0.0, math.inf),
    ("momentum", 0.0, 0.9999),
    ("weight_decay", 0.0, 1.0),
    ("warmup", 0.0, 1.0),
    ("label_smoothing", 0.0, 0.9),
    ("least_steps", 0, math.inf),
)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; stated with every result, because the paper gives none.

    SGD with Nesterov momentum; the learning rate rises linearly over the first ``warmup`` of the steps and falls to 0
    along a cosine. ``steps`` of None means ``epochs`` passes over whatever the subset holds (more data is also more
    steps), but at least ``least_steps``, so that a small subset is fitted too; a number means that many steps at every
    size (docs/decisions/0002-training-budget.md, 0011-recipes-for-real-images.md). ``precision`` is that of the
    network's forward and backward pass: weights, optimiser and loss are always float32; "auto" is bf16 on CUDA and
    float32 on the CPU (docs/decisions/0010-precision-of-training.md).
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.2
    label_smoothing: float = 0.0
    least_steps: int = 0
    steps: int | None = None
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size") + (("steps",) if self.steps is not None else ()):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name, low, high in _RANGES:
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} must be from {low:g} to {high:g}, not {getattr(self, name)}")
        if self.learning_rate == 0:
            raise InputError("learning_rate must be above 0")
        if self.precision not in PRECISIONS:
            raise InputError(f"unknown precision {self.precision!r}; choose from {', '.join(PRECISIONS)}")

    def steps_for(self, train_size: int) -> int:
        """Optimiser steps that a subset of ``train_size`` images gets."""
        if self.steps is not None:
            return self.steps
        return max(self.least_steps, self.epochs * math.ceil(train_size / self.batch_size))

    def with_equal_steps(self, largest_size: int) -> Recipe:
        """The same recipe with the steps of the largest subset for every size."""
        return replace(self, steps=replace(self, steps=None).steps_for(largest_size))

    def low_precision(self, device: torch.device) -> bool:
        """Whether the network runs in bf16 on that device."""
        return self.precision == "bf16" or (self.precision == "auto" and device.type == "cuda")


# The budget has options of its own; everything else of a recipe can be given by name.
RECIPE_OPTIONS = tuple(field.name for field in fields(Recipe) if field.name not in ("epochs", "steps"))


def default_recipe(model: str, image_side: int) -> Recipe:
    """The recipe for images of that side [pixels] (docs/decisions/0011-recipes-for-real-images.md)."""
    if image_side < 16:  # the digits, whose sets are small
        return Recipe(
            epochs=30, batch_size=32, learning_rate=0.05 if model in ("resnet", "densenet") else 0.02
        )
    if model in ("resnet", "densenet"):
        return Recipe(epochs=40, learning_rate=0.1)
    if image_side >= 64:
        return Recipe(epochs=20, learning_rate=0.01, least_steps=LEAST_STEPS)
    easy = image_side < 32  # MNIST
    return {
        "perceptron": Recipe(
            epochs=15 if easy else 12, learning_rate=0.1 if easy else 0.02, least_steps=LEAST_STEPS
        ),
        "simple_cnn": Recipe(epochs=8 if easy else 10, learning_rate=0.02, least_steps=LEAST_STEPS),
    }[model]


def learning_rate_factor(step: int, total_steps: int, recipe: Recipe) -> float:
    """Linear warm-up, then a half cosine to 0 (Loshchilov and Hutter 2017, eq. 5, without restarts)."""
    warmup_steps = max(1, round(recipe.warmup * total_steps))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
