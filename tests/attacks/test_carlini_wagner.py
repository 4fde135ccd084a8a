"""The classic constants reproduce the published algorithm."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from robustlab.attacks import CarliniWagnerL2, carlini_wagner_l2


def published(model: nn.Module, image: Tensor, label: int, c: CarliniWagnerL2) -> tuple[float, Tensor]:
    """nn_robust_attacks/l2_attack.py for one image, with autograd and torch's Adam; pixels in [0, 1]."""
    start = torch.atanh((2 * image - 1) * 0.999999)
    const, low, high = c.initial_const, 0.0, 1e10
    best, best_image = math.inf, image
    for _ in range(c.binary_search_steps):
        modifier = torch.zeros_like(image, requires_grad=True)
        optimizer = torch.optim.Adam([modifier], lr=c.learning_rate)
        succeeded, previous = False, 1e300
        for iteration in range(c.max_iterations):
            adv = (torch.tanh(modifier + start) + 1) / 2
            logits = model(adv[None])[0]
            others = torch.cat([logits[:label], logits[label + 1 :]])
            l2 = (adv - image).square().sum()
            loss = l2 + const * torch.clamp(logits[label] - others.max() + c.confidence, min=0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if iteration % (c.max_iterations // 10) == 0:
                if loss.item() > previous * 0.9999:
                    break
                previous = loss.item()
            kept = logits.detach().clone()
            kept[label] += c.confidence
            if kept.argmax() != label:
                succeeded = True
                if l2.item() < best:
                    best, best_image = l2.item(), adv.detach()
        if succeeded:
            high = min(high, const)
        else:
            low = max(low, const)
        const = (low + high) / 2 if high < 1e9 else const * 10
    return math.sqrt(best), best_image


@pytest.mark.parametrize("confidence", [0.0, 0.02])
def test_classic_is_the_published_algorithm(
    tiny_cnn: nn.Module, tiny_images: Tensor, confidence: float
) -> None:
    """Step for step: the same best image to 1e-7 as a plain transcription, image by image, in float64."""
    images = tiny_images[:3]
    labels = tiny_cnn(images).argmax(1)
    constants = replace(
        CarliniWagnerL2.classic(),
        binary_search_steps=5,
        max_iterations=60,
        learning_rate=0.05,
        confidence=confidence,
    )
    result = carlini_wagner_l2(tiny_cnn, images, labels, constants)
    assert result.success.any()
    for i in range(3):
        distance, adv = published(tiny_cnn, images[i], int(labels[i]), constants)
        assert result.distance[i].item() == pytest.approx(distance, abs=1e-7)
        torch.testing.assert_close(result.adv_inputs[i], adv, rtol=0, atol=1e-6)


def test_confidence_is_reached(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """With kappa the returned images' margin is at least that far on the adversarial side."""
    images = tiny_images[:3]
    labels = tiny_cnn(images).argmax(1)
    result = carlini_wagner_l2(tiny_cnn, images, labels, CarliniWagnerL2(confidence=0.02))
    logits = tiny_cnn(result.adv_inputs)
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -math.inf).amax(1)
    assert result.success.all()
    assert (others - own >= 0.02 - 1e-9).all()


def test_a_try_that_stalls_keeps_nothing_of_that_step() -> None:
    """The published code leaves a try before it looks at the image at which the loss rose, adversarial or not."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, dtype=torch.float64))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        model[1].bias.copy_(torch.tensor([0.05, 0.0]))
    image = torch.tensor([[[[0.5, 0.5]]]], dtype=torch.float64)
    # One step of Adam crosses the boundary, far enough that the distance outweighs a tiny c.
    constants = replace(
        CarliniWagnerL2.classic(), binary_search_steps=1, max_iterations=10, learning_rate=0.5, initial_const=1e-3
    )  # fmt: skip
    label = torch.zeros(1, dtype=torch.long)
    expected, _ = published(model, image[0], 0, constants)
    assert math.isinf(expected)
    assert not carlini_wagner_l2(model.eval(), image, label, constants).success.any()
    patient = replace(constants, stall_tolerance=0.0)
    assert carlini_wagner_l2(model, image, label, patient).success.all()
