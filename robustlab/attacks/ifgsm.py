"""I-FGSM as a minimum-norm attack: per image the smallest eps at which the signed steps succeed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from robustlab_kernels import ifgsm_step, search_update, track_best
from torch import Tensor, nn

from robustlab.attacks.attacked_model import AttackedModel
from robustlab.attacks.constants import Constants, constant
from robustlab.attacks.engine import (
    Clean,
    Progress,
    Searches,
    is_adversarial,
    linf_norm,
    new_searches,
    run_searches,
)
from robustlab.attacks.result import AttackResult
from robustlab.shapes import Float, Int


@dataclass(frozen=True)
class IFGSM(Constants):
    """Constants of :func:`ifgsm`."""

    steps: int = constant(
        10, "signed steps of eps / steps at each eps", unit="passes", low=1, high=10_000, tunable=True
    )
    search_steps: int = constant(20, "at most so many values of eps are tried", low=1, high=1_000)
    tolerance: float = constant(
        0.01, "stop when eps is known to this share of itself", low=1e-6, high=0.5, log=True, tunable=True
    )
    growth: float = constant(
        2.0, "factor on eps until one succeeds", low=1.01, high=100.0, log=True, tunable=True
    )

    def widened(self) -> IFGSM:
        """Four times the steps, twice the values of eps."""
        return replace(
            self, steps=min(4 * self.steps, 10_000), search_steps=min(2 * self.search_steps, 1_000)
        )


@dataclass
class _IFGSMSearches(Searches):
    """``epsilon`` is tried; ``low`` failed, ``high`` succeeded; ``step`` of this try, ``tries`` so far."""

    adv_inputs: Tensor
    clean_gradient: Tensor
    epsilon: Tensor
    low: Tensor
    high: Tensor
    step: Tensor
    tries: Tensor


def ifgsm(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    constants: IFGSM = IFGSM(),
    *,
    targeted: bool = False,
    on_progress: Progress | None = None,
) -> AttackResult:
    """Iterative FGSM with the smallest eps that succeeds, found per image.

    Source: Kurakin et al. 2017 (arXiv:1607.02533), section 2.2, x <- clip(x + (eps / T) sgn grad J), with J
    the negative margin of the logits (whose gradient does not vanish where the model is sure); eps by
    bracketing from the first-order estimate margin / ||gradient||_1, then bisection. A try ends at its first
    adversarial image, which counts at its measured Linf.

    Args:
        model: returns logits (B, N); left as it was found.
        inputs: (B, ...), pixels in [0, 1].
        labels: (B,), the true classes, or the targets if ``targeted``.
        on_progress: called with (images finished, images in all).

    Returns:
        AttackResult with distances in Linf, in units of the [0, 1] pixel range.

    Raises:
        InputError: inputs, labels or model that cannot be attacked.
    """

    def start(_model: AttackedModel, clean: Clean) -> _IFGSMSearches:
        slope = clean.gradient.flatten(1).abs().sum(dim=1)
        # 1.01: just beyond the linearised boundary. An image without a gradient soon outgrows its value.
        epsilon = (1.01 * clean.margin.abs() / slope).nan_to_num(nan=1.0, posinf=1.0).clamp(1e-6, 1.0)
        searches = _IFGSMSearches(
            **new_searches(clean),
            adv_inputs=clean.inputs.clone(),
            clean_gradient=clean.gradient,
            epsilon=epsilon,
            low=torch.zeros_like(epsilon),
            high=torch.full_like(epsilon, torch.inf),
            step=torch.zeros_like(clean.labels),
            tries=torch.zeros_like(clean.labels),
        )
        _take_step(searches, searches.clean_gradient, constants, torch.ones_like(searches.done))
        return searches

    def advance(attacked_model: AttackedModel, searches: _IFGSMSearches) -> None:
        active = ~searches.done
        logits, margins, gradient = attacked_model.margin_gradient(searches.adv_inputs, searches.labels)
        searches.forwards += active
        searches.backwards += active
        adversarial = active & is_adversarial(logits, margins.value)
        distance = linf_norm(searches.adv_inputs - searches.inputs)
        track_best(searches.best, searches.best_distance, searches.adv_inputs, distance, adversarial)
        # A try ends with a success or its last step; the next begins at the clean image, gradient known.
        ended = active & (adversarial | (searches.step == constants.steps))
        outgrown = ended & ~adversarial & (searches.epsilon >= 1)
        measured = torch.where(adversarial, distance, searches.epsilon)
        searches.epsilon.copy_(torch.where(ended, measured, searches.epsilon))
        search_update(searches.epsilon, searches.low, searches.high, adversarial, ended, constants.growth)
        searches.epsilon.clamp_(max=1.0)
        searches.tries += ended
        known = searches.low >= (1 - constants.tolerance) * searches.high
        searches.done |= ended & (known | outgrown | (searches.tries == constants.search_steps))
        searches.step.masked_fill_(ended, 0)
        per_image = (-1,) + (1,) * (gradient.dim() - 1)
        searches.adv_inputs.copy_(torch.where(ended.view(per_image), searches.inputs, searches.adv_inputs))
        gradient = torch.where(ended.view(per_image), searches.clean_gradient, gradient)
        _take_step(searches, gradient, constants, active)

    return run_searches(
        model,
        inputs,
        labels,
        targeted=targeted,
        norm=linf_norm,
        start=start,
        advance=advance,
        on_progress=on_progress,
    )


def _take_step(searches: _IFGSMSearches, gradient: Tensor, constants: IFGSM, active: Tensor) -> None:
    """One signed step of eps / steps down the margin."""
    step_size = searches.epsilon / constants.steps
    ifgsm_step(searches.adv_inputs, searches.inputs, gradient, step_size, searches.epsilon, active)
    searches.step += active
