"""The 2-layer perceptron: one hidden layer of 1,024."""

from __future__ import annotations

from math import prod

from torch import nn

from robustlab.models.initialize import he_initialize


def perceptron(image_shape: tuple[int, int, int], num_classes: int) -> nn.Sequential:
    """Flatten, 1,024 hidden ReLU units, logits (Table 1: 3,157,002 parameters on CIFAR-10)."""
    layers = nn.Sequential(
        nn.Flatten(), nn.Linear(prod(image_shape), 1024), nn.ReLU(), nn.Linear(1024, num_classes)
    )
    he_initialize(layers)
    return layers
