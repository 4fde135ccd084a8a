"""What makes a result doubtful is said before the attack."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustlab.attacks import IFGSM, PreflightWarning, ifgsm

QUICK = IFGSM(passes=1)


def test_softmax_outputs(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """Outputs that are probabilities are called so."""
    model = nn.Sequential(tiny_cnn, nn.Softmax(dim=1)).eval()
    with pytest.warns(PreflightWarning, match="softmax"):
        ifgsm(model, tiny_images, model(tiny_images).argmax(1), QUICK)


def test_training_mode(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """A model in training mode is attacked in evaluation mode, with a warning, and put back."""
    labels = tiny_cnn(tiny_images).argmax(1)
    quiet = ifgsm(tiny_cnn, tiny_images, labels, QUICK)
    tiny_cnn.train()
    with pytest.warns(PreflightWarning, match="training mode"):
        loud = ifgsm(tiny_cnn, tiny_images, labels, QUICK)
    assert tiny_cnn.training
    assert torch.equal(loud.adv_inputs, quiet.adv_inputs)


def test_vanishing_gradients(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """A gradient of zero is counted, and the attack ends without success."""
    model = nn.Sequential(nn.Threshold(2.0, 0.5), tiny_cnn).eval()
    with pytest.warns(PreflightWarning, match="zero at 12 of 12"):
        result = ifgsm(model, tiny_images, model(tiny_images).argmax(1), QUICK)
    assert not result.success.any()


def test_inputs_in_0_255(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """Pixels outside [0, 1] are named with their range."""
    images = tiny_images * 255
    with pytest.warns(PreflightWarning, match="from 0 to 255"):
        ifgsm(tiny_cnn, images, tiny_cnn(images).argmax(1), QUICK)


def test_no_warning_without_reason(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """An ordinary attack is silent (warnings are errors here)."""
    ifgsm(tiny_cnn, tiny_images, tiny_cnn(tiny_images).argmax(1), QUICK)
