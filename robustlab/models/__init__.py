"""The four architectures of the study, each with exactly the parameter count of the paper's Table 1.

Every model takes inputs in [0, 1] of shape (B, C, H, W), normalises them inside, and returns logits (B, N).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from robustlab.errors import InputError
from robustlab.models.densenet import densenet
from robustlab.models.normalize import Normalize
from robustlab.models.perceptron import perceptron
from robustlab.models.resnet import resnet
from robustlab.models.simple_cnn import simple_cnn
from robustlab.models.table1 import TABLE_1, Table1Row, parameter_count

MODEL_NAMES = ("perceptron", "simple_cnn", "resnet", "densenet")

__all__ = ["MODEL_NAMES", "TABLE_1", "Table1Row", "build_model", "parameter_count"]

_BUILDERS = {"perceptron": perceptron, "simple_cnn": simple_cnn, "resnet": resnet, "densenet": densenet}


def build_model(
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Sequential:
    """Build an untrained classifier: normalisation, then the named architecture, logits out.

    Source: the paper's Table 1; the choices that its counts pin down are in the modules of this package.

    Args:
        name: one of ``MODEL_NAMES``.
        image_shape: (channels, height, width) of one image.
        num_classes: number of logits, at least 2.
        mean, std: per channel, in units of the [0, 1] pixel range; 0 and 1 (no normalisation) if not given.

    Raises:
        InputError: an unknown name, or an image too small for the architecture.
    """
    if name not in _BUILDERS:
        raise InputError(f"unknown model {name!r}; choose from {', '.join(MODEL_NAMES)}")
    if num_classes < 2:
        raise InputError(f"a classifier needs at least 2 classes, not {num_classes}")
    channels = image_shape[0]
    normalize = Normalize(mean or [0.0] * channels, std or [1.0] * channels)
    return nn.Sequential(normalize, *_BUILDERS[name](image_shape, num_classes))
