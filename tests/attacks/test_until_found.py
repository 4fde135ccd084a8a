"""Missed images are attacked again with a wider search, the others are not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustlab.attacks import IFGSM, CarliniWagnerL2, attack_until_found, carlini_wagner_l2, ifgsm


def test_widens_until_found(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """Constants too narrow for any image still find all of them in the end, and the passes add up."""
    tiny_images = tiny_images[:3]
    labels = tiny_cnn(tiny_images).argmax(1)
    narrow = CarliniWagnerL2(warm_starts=0, binary_search_steps=1, max_iterations=1)
    once = carlini_wagner_l2(tiny_cnn, tiny_images, labels, narrow)
    assert not once.success.all()
    result = attack_until_found(carlini_wagner_l2, tiny_cnn, tiny_images, labels, narrow, max_widenings=8)
    assert result.success.all()
    assert torch.equal(result.adv_inputs[once.success], once.adv_inputs[once.success])
    assert (result.forwards > once.forwards)[~once.success].all()


def test_limit_ends_it(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """An unattackable image stops at the limit, with the passes of every run."""
    model = nn.Sequential(tiny_cnn, nn.Linear(5, 2, dtype=torch.float64)).eval()
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([1e6, -1e6]))
    calls = []

    def counted(*arguments: object, **options: object) -> object:
        calls.append(1)
        return ifgsm(*arguments, **options)

    labels = torch.zeros(12, dtype=torch.long)
    result = attack_until_found(counted, model, tiny_images, labels, IFGSM(), max_widenings=2)
    assert len(calls) == 3
    assert not result.success.any()
    assert result.distance.isinf().all()
