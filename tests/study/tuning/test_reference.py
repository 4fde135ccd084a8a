"""The references: named by their budget, and right where the answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustlab.attacks import CarliniWagnerL2, carlini_wagner_l2
from robustlab.errors import InputError
from robustlab.study.tuning.reference import Reference, bisected_ifgsm


def linear(features: int) -> nn.Sequential:
    """Two classes with an exact smallest distortion: |margin| / ||w||_1 in Linf."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(features, 2)).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 10)
    return model


def test_bisection_finds_the_closed_form() -> None:
    """On a linear model away from the box the smallest eps is |margin| / ||w1 - w2||_1, to 2 to the -20."""
    model = linear(25)
    generator = torch.Generator().manual_seed(1)
    inputs = 0.4 + 0.2 * torch.rand(70, 1, 5, 5, generator=generator, dtype=torch.float64)
    logits = model(inputs)
    labels = logits.argmax(dim=1)
    weight = model[1].weight
    margin = (logits[:, 0] - logits[:, 1]).abs()
    exact = (margin / (weight[0] - weight[1]).abs().sum()).detach()
    assert float(exact.max()) < 0.4, "otherwise the box matters"
    result = bisected_ifgsm(model, inputs, labels, steps=10, bisections=20)
    assert result.success.all()
    assert (result.distance >= exact - 1e-12).all()
    assert (result.distance - exact).max() < 2e-6
    assert (model(result.adv_inputs).argmax(dim=1) != labels).all()
    assert torch.equal((result.adv_inputs - inputs).flatten(1).abs().amax(dim=1), result.distance)
    assert result.backwards.tolist() == [200] * 70


def test_a_model_without_gradient_is_a_miss() -> None:
    """Nothing found is inf, not a distance."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))
    result = bisected_ifgsm(model, torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long), 3, 4)
    assert not result.success.any()
    assert torch.isinf(result.distance).all()


def test_cw_reference_is_the_classic_attack_of_that_budget() -> None:
    """`2x30` runs two values of c with 30 iterations each, from the published first c."""
    model = linear(4)
    inputs = torch.rand(5, 1, 2, 2, dtype=torch.float64)
    labels = model(inputs).argmax(dim=1)
    found = Reference.parse("cw", "2x30").run(model, inputs, labels)
    classic = CarliniWagnerL2.classic()
    assert found.forwards.max() <= 2 * 30 + 8
    from dataclasses import replace

    same = carlini_wagner_l2(
        model, inputs, labels, replace(classic, binary_search_steps=2, max_iterations=30)
    )
    assert torch.equal(found.distance, same.distance)


def test_names() -> None:
    """`auto` is the published budget of each attack."""
    assert str(Reference.parse("cw", "auto")) == "9x1000"
    assert str(Reference.parse("ifgsm", "")) == "20x100"
    assert str(Reference.parse("ifgsm", "default")) == "default"
    for text in ("9", "x", "0x3", "9x0", "101x10", "9x1000x2", "-1x4"):
        with pytest.raises(InputError, match="the reference is"):
            Reference.parse("cw", text)
