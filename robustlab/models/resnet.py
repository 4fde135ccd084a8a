"""ResNet of 6n + 2 layers for small images: ResNet-32 on 32-pixel colour images, ResNet-20 elsewhere."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from robustlab.errors import InputError
from robustlab.models.initialize import he_initialize


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, Fig. 2); a 1x1 convolution where the width changes.

    All convolutions have biases and the shortcut has no batch normalisation: that is what Table 1's counts say.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride=stride)

    def forward(self, features: Tensor) -> Tensor:
        hidden = functional.relu(self.norm1(self.conv1(features)))
        return functional.relu(self.norm2(self.conv2(hidden)) + self.shortcut(features))


def resnet(image_shape: tuple[int, int, int], num_classes: int) -> nn.Sequential:
    """Widths 16, 32, 64, n blocks each; 8x8 average pooling (or what is left of a smaller image), flatten, logits.

    Source: He et al. 2016, section 4.2, with depth and pooling as Table 1's counts say.
    """
    channels, height, width = image_shape
    if min(height, width) < 4:
        raise InputError(f"resnet needs images of at least 4 pixels a side, not {min(height, width)}")
    blocks_per_width = 5 if image_shape == (3, 32, 32) else 3
    layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for outputs in (16, 32, 64):
        for block in range(blocks_per_width):
            stride = 2 if block == 0 and outputs != 16 else 1
            layers.append(ResidualBlock(inputs, outputs, stride))
            inputs = outputs
    height, width = -(-height // 4), -(-width // 4)
    pool = (min(8, height), min(8, width))
    features = 64 * (height // pool[0]) * (width // pool[1])
    network = nn.Sequential(*layers, nn.AvgPool2d(pool), nn.Flatten(), nn.Linear(features, num_classes))
    he_initialize(network)
    return network
