"""FMN, the fast minimum-norm attack: a second opinion on L2 and Linf."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robustlab.attacks.attacked_model import AttackedModel
from robustlab.attacks.constants import Constants, constant
from robustlab.attacks.engine import Progress, run_searches
from robustlab.attacks.execution import Execution
from robustlab.attacks.loops import EagerLoop
from robustlab.attacks.result import AttackResult
from robustlab.attacks.searches import (
    NORMS,
    Clean,
    Searches,
    cosine_decay,
    l2_norm,
    new_searches,
    per_image,
    take_pass,
)
from robustlab.shapes import Float, Int

# Below this a gradient or a perturbation has no direction.
_TINY = 1e-30


@dataclass(frozen=True)
class FMN(Constants):
    """Constants of :func:`fmn`; step sizes and gammas are the paper's."""

    norm: str = constant("linf", "the distance that is made small", choices=("l2", "linf"))
    steps: int = constant(100, "steps", unit="passes", low=1, high=100_000)
    step_size: float = constant(
        1.0,
        "L2 length of the first gradient step",
        unit="pixel range",
        low=1e-4,
        high=1e3,
        log=True,
    )
    final_step_size: float = constant(
        0.01, "L2 length of the last one (cosine decay)", unit="pixel range", low=1e-6, high=1e3, log=True
    )
    gamma: float = constant(
        0.05, "share by which eps grows or shrinks at first", low=1e-4, high=0.9, log=True
    )
    final_gamma: float = constant(0.001, "the same at the end (cosine decay)", low=1e-6, high=0.9, log=True)

    def widened(self) -> FMN:
        """Four times the steps."""
        return replace(self, steps=min(4 * self.steps, 100_000))


@dataclass
class _FMNSearches(Searches):
    """``epsilon`` is the radius that the next perturbation is projected to."""

    epsilon: Tensor


def fmn(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    constants: FMN = FMN(),
    *,
    targeted: bool = False,
    execution: Execution = Execution(),
    on_progress: Progress | None = None,
) -> AttackResult:
    """Fast minimum-norm attack, L2 or Linf (``constants.norm``).

    Source: Pintor et al. 2021 (arXiv:2102.12827), algorithm 1.

    Args, errors and returns as :func:`robustlab.attacks.carlini_wagner_l2`, distances in ``constants.norm``.
    """
    norm = NORMS[constants.norm]

    def start(_loop: EagerLoop, clean: Clean) -> _FMNSearches:
        return _FMNSearches(**new_searches(clean), epsilon=torch.full_like(clean.margin, torch.inf))

    def advance(attacked_model: AttackedModel, searches: _FMNSearches) -> None:
        seen = take_pass(attacked_model, searches, constants.norm)
        dtype = seen.margin.dtype
        first, last = constants.step_size, constants.final_step_size
        step_size = cosine_decay(searches.step, constants.steps, first, last, dtype)
        gamma = cosine_decay(searches.step, constants.steps, constants.gamma, constants.final_gamma, dtype)

        # Adversarial: shrink. Not, but seen before: grow. Never yet: to the linearised boundary.
        slope = (
            l2_norm(seen.gradient) if constants.norm == "l2" else seen.gradient.flatten(1).abs().sum(dim=1)
        )
        boundary = seen.distance + seen.margin.abs() / slope.clamp(min=_TINY)
        shrunk = torch.minimum(searches.epsilon * (1 - gamma), searches.best_distance)
        found = searches.best_distance < torch.inf
        grown = searches.epsilon * (1 + gamma)
        # The paper goes just to the linearised boundary until something is found: on a linear model, or where the
        # box clips, that comes nearer and nearer without ever crossing. So eps grows at least by gamma.
        reaching = torch.where(searches.step == 0, boundary, torch.maximum(boundary, grown))
        outside = torch.where(found, grown, reaching)
        largest = norm(torch.maximum(searches.inputs, 1 - searches.inputs))
        searches.epsilon.copy_(torch.minimum(torch.where(seen.adversarial, shrunk, outside), largest))

        scale = step_size / l2_norm(seen.gradient).clamp(min=_TINY)
        moved = searches.adv_inputs - searches.inputs - per_image(scale, seen.gradient) * seen.gradient
        if constants.norm == "l2":
            moved *= per_image((searches.epsilon / l2_norm(moved).clamp(min=_TINY)).clamp(max=1), moved)
        else:
            radius = per_image(searches.epsilon, moved)
            moved = torch.minimum(torch.maximum(moved, -radius), radius)
        searches.adv_inputs.copy_((searches.inputs + moved).clamp_(0, 1))
        searches.step += seen.active
        searches.done |= searches.step == constants.steps

    return run_searches(
        model,
        inputs,
        labels,
        targeted=targeted,
        norm=constants.norm,
        start=start,
        advance=advance,
        execution=execution,
        on_progress=on_progress,
    )
