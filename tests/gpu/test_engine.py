"""The attack engine on a CUDA device: captured passes, fallbacks, precision. ``make test-gpu`` runs these."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustlab.attacks import (
    DDN,
    FMN,
    IFGSM,
    CarliniWagnerL2,
    Execution,
    TurningRayL2,
    carlini_wagner_l2,
    ddn,
    fmn,
    ifgsm,
    turning_ray_l2,
)
from robustlab.models import build_model

pytestmark = pytest.mark.gpu

ATTACKS = [
    (carlini_wagner_l2, CarliniWagnerL2()),
    (turning_ray_l2, TurningRayL2()),
    (ifgsm, IFGSM()),
    (ddn, DDN(steps=40)),
    (fmn, FMN(steps=40)),
]


def network(dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor]:
    """A random ResNet for small images, and images with the labels that it gives them."""
    torch.manual_seed(0)
    model = build_model("resnet", (3, 32, 32), 10, [0.5] * 3, [0.25] * 3).cuda().to(dtype).eval()
    images = torch.rand(40, 3, 32, 32, device="cuda", dtype=dtype)
    return model, images, model(images).argmax(1)


@pytest.mark.parametrize(("attack", "constants"), ATTACKS, ids=lambda value: getattr(value, "__name__", ""))
def test_replayed_passes_find_the_eager_images(attack, constants) -> None:
    """In float64, a captured pass over padded buffers gives the images of the eager loop."""
    model, images, labels = network(torch.float64)
    eager = attack(model, images, labels, constants, execution=Execution(loop="eager"))
    graph = attack(model, images, labels, constants, execution=Execution(batch_size=24))
    assert (graph.engine.loop, graph.engine.fallback) == ("graph", "")
    assert graph.engine.kernels.startswith("triton")
    assert torch.equal(eager.success, graph.success)
    torch.testing.assert_close(graph.distance, eager.distance, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
def test_successes_hold_in_float32(precision: str) -> None:
    """Whatever the network was run in, each success is one in a fresh IEEE pass at another batch size."""
    model, images, labels = network(torch.float32)
    result = carlini_wagner_l2(model, images, labels, execution=Execution(precision=precision))
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    with torch.no_grad():
        wrong = torch.cat([model(part) for part in result.adv_inputs.split(7)]).argmax(1) != labels
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    assert result.success.any()
    assert wrong[result.success].all()


def test_a_model_that_asks_the_device_runs_eagerly() -> None:
    """It cannot be captured; the result says why, and the device goes on working."""
    model, images, labels = network(torch.float32)

    class Asking(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            scale = 1.0 if inputs.sum().item() > -1 else 2.0
            return scale * model(inputs)

    result = ifgsm(Asking().eval(), images, labels)
    assert result.engine.loop == "eager"
    assert "not captured" in result.engine.fallback
    assert result.success.any()
    torch.cuda.synchronize()


def test_memory_that_does_not_suffice_halves_the_batch() -> None:
    """With a small share of the memory the attack ends with the same successes."""
    model, images, labels = network(torch.float32)
    images, labels = images.repeat(50, 1, 1, 1), labels.repeat(50)
    expected = ifgsm(model, images, labels, IFGSM(passes=4), execution=Execution(batch_size=100))
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 6e8 / total + torch.cuda.memory_allocated() / total))
    try:
        result = ifgsm(model, images, labels, IFGSM(passes=4), execution=Execution(batch_size=2000))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    torch.testing.assert_close(result.distance, expected.distance, rtol=1e-3, atol=1e-5)
