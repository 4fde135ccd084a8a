"""The Simple CNN: 7 layers on small images, 20 layers from 64 pixels on."""

from __future__ import annotations

from torch import nn

from robustlab.errors import InputError
from robustlab.models.initialize import he_initialize

# Groups of 3x3 convolutions, each followed by a 2x2 pool, then the dense widths. The widths of the 20-layer
# network are our solution: the paper prints only its count, and these meet it on STL-10 and Tiny ImageNet at once.
_SEVEN_GREY = ([(32, 2), (64, 2)], 200)
_SEVEN_COLOUR = ([(64, 2), (128, 2)], 256)
_TWENTY = ([(32, 4), (64, 2), (96, 6), (192, 3), (512, 2)], 512)


def simple_cnn(image_shape: tuple[int, int, int], num_classes: int) -> nn.Sequential:
    """Carlini and Wagner's (2017, Table I) 7-layer network, or 20 layers for images of 64 pixels and more.

    7 layers: unpadded convolutions; images under 16 pixels (which unpadded convolutions would use up, the paper has
    none) get padded ones. 20 layers: padded convolutions, no batch normalisation; the output layer starts at zero.
    """
    channels, height, width = image_shape
    side = min(height, width)
    if side >= 64:
        groups, dense = _TWENTY
    else:
        groups, dense = _SEVEN_GREY if channels == 1 else _SEVEN_COLOUR
    padded = side >= 64 or side < 16
    if side < 2 ** len(groups):
        raise InputError(f"simple_cnn needs images of at least {2 ** len(groups)} pixels a side, not {side}")
    layers: list[nn.Module] = []
    for features, depth in groups:
        for _ in range(depth):
            layers += [nn.Conv2d(channels, features, 3, padding=1 if padded else 0), nn.ReLU()]
            channels = features
            if not padded:
                height, width = height - 2, width - 2
        layers.append(nn.MaxPool2d(2))
        height, width = height // 2, width // 2
    layers.append(nn.Flatten())
    for inputs, outputs in ((channels * height * width, dense), (dense, dense)):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    output = nn.Linear(dense, num_classes)
    network = nn.Sequential(*layers, output)
    he_initialize(network)
    if side >= 64:
        # Without normalisation 20 layers hand the output values that make the first steps large enough to kill the
        # network for good (docs/decisions/0011-recipes-for-real-images.md); from zero it grows with what it learns.
        nn.init.zeros_(output.weight)
    return network
