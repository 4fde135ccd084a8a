"""The faster copy of a model gives the model's logits, or is the model itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustlab.attacks import IFGSM, folding, ifgsm
from robustlab.attacks.folding import faster_copy


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_batch_norm_is_folded(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """The copy has no batch normalisation left, the same logits, and the model keeps its own."""
    fast = faster_copy(tiny_cnn, tiny_images)
    assert norms(fast) == 0
    assert norms(tiny_cnn) == 1
    torch.testing.assert_close(fast(tiny_images), tiny_cnn(tiny_images), rtol=0, atol=1e-12)
    assert all(parameter.requires_grad for parameter in tiny_cnn.parameters())
    assert tiny_cnn.layers[0].weight.is_contiguous()


class Twice(nn.Module):
    """A convolution whose output is normalised and used as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        return (features + self.norm(features)).mean(dim=(2, 3))


def test_an_output_used_twice_stays(tiny_images: Tensor) -> None:
    """A convolution whose output goes elsewhere too is not folded."""
    model = Twice().double().eval()
    fast = faster_copy(model, tiny_images)
    assert fast is not model
    assert norms(fast) == 1
    torch.testing.assert_close(fast(tiny_images), model(tiny_images), rtol=0, atol=1e-12)


class Branching(nn.Module):
    """A path that depends on the pixels cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 8)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.conv(images).flatten(1)
        return logits if images.sum() > 0 else -logits


def test_falls_back_to_the_model(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """Untraceable, with a hook, or without convolutions: the model itself, and the attack works."""
    branching = Branching().double().eval()
    assert faster_copy(branching, tiny_images) is branching
    assert ifgsm(branching, tiny_images, branching(tiny_images).argmax(1), IFGSM()).success.all()
    perceptron = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double().eval()
    assert faster_copy(perceptron, tiny_images) is perceptron
    tiny_cnn.layers[2].register_forward_hook(lambda *_: None)
    assert faster_copy(tiny_cnn, tiny_images) is tiny_cnn


def test_a_copy_that_differs_is_refused(
    tiny_cnn: nn.Module, tiny_images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy whose logits are not the model's is not used."""
    wrong = nn.Conv2d(1, 6, 3, padding=1, dtype=torch.float64)
    monkeypatch.setattr(folding, "fuse_conv_bn_eval", lambda *_: wrong)
    assert faster_copy(tiny_cnn, tiny_images) is tiny_cnn
