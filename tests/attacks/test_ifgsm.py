"""I-FGSM's own choices."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from robustlab.attacks import IFGSM, ifgsm


def test_both_losses_give_the_nearer_of_two_images(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """Per image the smaller distance and its image, the passes of both; progress ends once."""
    labels = tiny_cnn(tiny_images).argmax(1)
    labels[0] = (labels[0] + 1) % 5
    progress: list[tuple[int, int]] = []
    each = {
        loss: ifgsm(tiny_cnn, tiny_images, labels, IFGSM(loss=loss)) for loss in ("cross_entropy", "margin")
    }
    both = ifgsm(
        tiny_cnn, tiny_images, labels, IFGSM(loss="both"), on_progress=lambda *at: progress.append(at)
    )
    first, second = each["cross_entropy"], each["margin"]
    assert not torch.equal(first.distance, second.distance)
    assert torch.equal(both.distance, torch.minimum(first.distance, second.distance))
    assert torch.equal(both.forwards, first.forwards + second.forwards)
    assert torch.equal(both.backwards, first.backwards + second.backwards)
    for i in range(12):
        nearer = second if second.distance[i] < first.distance[i] else first
        assert torch.equal(both.adv_inputs[i], nearer.adv_inputs[i])
    assert both.distance[0] == 0
    assert progress == sorted(progress)
    assert progress[-1] == (12, 12)


def test_a_success_of_either_loss_counts(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """What one search misses and the other finds is found."""
    labels = tiny_cnn(tiny_images).argmax(1)
    found = ifgsm(tiny_cnn, tiny_images, labels)
    missed = replace(
        found,
        success=torch.zeros_like(found.success),
        distance=torch.full_like(found.distance, torch.inf),
        adv_inputs=tiny_images,
    )
    for result in (missed.or_nearer(found), found.or_nearer(missed)):
        assert torch.equal(result.distance, found.distance)
        assert torch.equal(result.success, found.success)
        assert torch.equal(result.adv_inputs, found.adv_inputs)
