"""DDN, the decoupled direction and norm attack: a second opinion on L2."""

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
class DDN(Constants):
    """Constants of :func:`ddn`; the defaults are the paper's, but for the number of steps."""

    steps: int = constant(300, "steps", unit="passes", low=1, high=100_000)
    initial_norm: float = constant(
        1.0, "radius of the first step", unit="pixel range", low=1e-6, high=1e3, log=True
    )
    gamma: float = constant(
        0.05,
        "share by which the radius grows or shrinks per step",
        low=1e-4,
        high=0.9,
        log=True,
    )
    step_size: float = constant(
        1.0,
        "length of the first gradient step",
        unit="pixel range",
        low=1e-4,
        high=1e3,
        log=True,
    )
    final_step_size: float = constant(
        0.01, "length of the last one (cosine decay)", unit="pixel range", low=1e-6, high=1e3, log=True
    )

    def widened(self) -> DDN:
        """Four times the steps."""
        return replace(self, steps=min(4 * self.steps, 100_000))


@dataclass
class _DDNSearches(Searches):
    """``radius`` is the norm of the next perturbation before the box clips it."""

    radius: Tensor


def ddn(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    constants: DDN = DDN(),
    *,
    targeted: bool = False,
    execution: Execution = Execution(),
    on_progress: Progress | None = None,
) -> AttackResult:
    """Decoupled direction and norm, L2.

    Source: Rony et al. 2019 (arXiv:1811.09600), algorithm 1, without the rounding to 8 bits. The cross-entropy's
    direction comes from the logits in closed form, so that it does not vanish where the model is sure.

    Args, returns and errors as :func:`robustlab.attacks.carlini_wagner_l2`.
    """

    def start(_loop: EagerLoop, clean: Clean) -> _DDNSearches:
        return _DDNSearches(
            **new_searches(clean), radius=torch.full_like(clean.margin, constants.initial_norm)
        )

    def advance(attacked_model: AttackedModel, searches: _DDNSearches) -> None:
        seen = take_pass(attacked_model, searches, "l2", soft=True)
        step_size = cosine_decay(
            searches.step, constants.steps, constants.step_size, constants.final_step_size, seen.margin.dtype
        )
        direction = seen.gradient / per_image(l2_norm(seen.gradient).clamp(min=_TINY), seen.gradient)
        moved = searches.adv_inputs - searches.inputs - per_image(step_size, direction) * direction
        # The radius of step 0 is the initial norm; from then on it follows the outcome.
        factor = torch.where(seen.adversarial, 1 - constants.gamma, 1 + constants.gamma)
        searches.radius *= torch.where(searches.step == 0, 1.0, factor)
        moved *= per_image(searches.radius / l2_norm(moved).clamp(min=_TINY), moved)
        searches.adv_inputs.copy_((searches.inputs + moved).clamp_(0, 1))
        searches.step += seen.active
        searches.done |= searches.step == constants.steps

    return run_searches(
        model,
        inputs,
        labels,
        targeted=targeted,
        norm="l2",
        start=start,
        advance=advance,
        execution=execution,
        on_progress=on_progress,
    )
