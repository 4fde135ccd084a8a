"""How much a cell costs, so that the progress display can say how long the rest will take."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from robustlab.models import build_model
from robustlab.study.cell import Cell
from robustlab.study.plan import StudyPlan

# What a warm start takes beside its steps; only the time left depends on it.
_PASSES_AROUND_A_WARM_START = 5


@lru_cache(maxsize=64)
def forward_flops(model: str, image_shape: tuple[int, int, int], num_classes: int) -> int:
    """Floating-point operations of one image's forward pass: those of convolutions and linear layers.

    torch's FlopCounterMode counts the same (tests), but loads its compiler first, as does a model on the device "meta":
    1.5 s of every start of a study.
    """
    flops = 0

    def count(layer: nn.Conv2d | nn.Linear, _: object, output: Tensor) -> None:
        nonlocal flops
        flops += 2 * output.numel() * layer.weight[0].numel()

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = build_model(model, image_shape, num_classes).eval()
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count)
        network(torch.zeros(1, *image_shape))
    return flops


def training_work(plan: StudyPlan, cell: Cell) -> float:
    """Operations to train a cell: forward, and twice that backward, of every image it sees."""
    recipe = plan.recipes[cell.model]
    images_seen = recipe.steps_for(cell.train_size) * min(recipe.batch_size, cell.train_size)
    return 3.0 * images_seen * forward_flops(cell.model, plan.dataset.image_shape, plan.dataset.num_classes)


def attack_work(plan: StudyPlan, cell: Cell) -> float:
    """Operations to attack a cell: forward and input gradient, as often as the attacks need."""
    images = plan.attack_images or len(plan.dataset.test)
    passes = sum(_passes(plan)[name] for name in plan.attacks)
    return (
        2.0 * images * passes * forward_flops(cell.model, plan.dataset.image_shape, plan.dataset.num_classes)
    )


def _passes(plan: StudyPlan) -> dict[str, int]:
    """Forward and input gradient of an image per attack: at most, as images that are done early leave the batch."""
    cw = plan.cw
    warm = cw.warm_starts * (cw.warm_steps + _PASSES_AROUND_A_WARM_START)
    return {"cw": warm + cw.binary_search_steps * cw.max_iterations, "ifgsm": plan.ifgsm.passes}
