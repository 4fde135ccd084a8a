"""DenseNet-40 with growth 12, without bottleneck and compression."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustlab.errors import InputError
from robustlab.models.initialize import he_initialize

_GROWTH = 12
_LAYERS_PER_BLOCK = 12


class DenseLayer(nn.Module):
    """Append ``growth`` new features to the input's (Huang et al. 2017, eq. 2)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, _GROWTH, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([features, self.conv(torch.relu(self.norm(features)))], dim=1)


def densenet(image_shape: tuple[int, int, int], num_classes: int) -> nn.Sequential:
    """Three dense blocks of 12 layers, global average pooling, logits (Huang et al. 2017, section 3, DenseNet-40).

    Convolutions have no bias; the first has 2 x growth = 24 filters; a transition keeps the width.
    """
    channels, height, width = image_shape
    if min(height, width) < 4:
        raise InputError(f"densenet needs images of at least 4 pixels a side, not {min(height, width)}")
    features = 2 * _GROWTH
    layers: list[nn.Module] = [nn.Conv2d(channels, features, 3, padding=1, bias=False)]
    for block in range(3):
        if block > 0:
            transition = nn.Conv2d(features, features, 1, bias=False)
            layers += [nn.BatchNorm2d(features), nn.ReLU(), transition, nn.AvgPool2d(2)]
        for _ in range(_LAYERS_PER_BLOCK):
            layers.append(DenseLayer(features))
            features += _GROWTH
    head = [nn.BatchNorm2d(features), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers, *head, nn.Linear(features, num_classes))
    he_initialize(network)
    return network
