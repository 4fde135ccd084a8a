"""Shapes in annotations are checked at run time while these tests run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook
from torch import Tensor, nn


def _check(function: Callable[..., Any]) -> Callable[..., Any]:
    """beartype, with an int as a float as for mypy; constants check their own fields and say what is wrong."""
    if function.__name__ == "__init__":
        return function
    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)


# jaxtyping wants the checker as "module.function", and a conftest has no name that can be imported.
_checker = ModuleType("robustlab_shape_checker")
_checker.check = _check
sys.modules[_checker.__name__] = _checker
install_import_hook("robustlab.attacks", "robustlab_shape_checker.check")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class TinyCNN(nn.Module):
    """Two convolutions with batch normalisation, smooth and quick; labels are its own predictions."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(6 * 16, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


@pytest.fixture
def tiny_cnn() -> nn.Module:
    """A random network in float64 and evaluation mode."""
    model = TinyCNN().double()
    model.layers[1].running_mean.normal_(0, 0.1)
    model.layers[1].running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture
def tiny_images() -> Tensor:
    """Twelve images of 8x8 in float64, some pixels exactly 0 or 1."""
    images = torch.rand(12, 1, 8, 8, dtype=torch.float64) * 1.4 - 0.2
    return images.clamp(0, 1)
