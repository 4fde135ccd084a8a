"""I-FGSM as a minimum-norm attack: per image the smallest eps at which the signed steps succeed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from robustlab_kernels import ifgsm_step
from torch import Tensor, nn

from robustlab.attacks.attacked_model import AttackedModel
from robustlab.attacks.constants import Constants, constant
from robustlab.attacks.engine import Progress, run_searches
from robustlab.attacks.execution import Execution
from robustlab.attacks.loops import EagerLoop
from robustlab.attacks.result import AttackResult
from robustlab.attacks.searches import Clean, Searches, cosine_decay, new_searches, take_pass
from robustlab.shapes import Float, Int

_MOST_PASSES = 1_000_000


@dataclass(frozen=True)
class IFGSM(Constants):
    """Constants of :func:`ifgsm`; chosen on images other than those reported (docs/attacks.md)."""

    passes: int = constant(
        50,
        "passes of an image; four times as many until one succeeds",
        unit="passes",
        low=1,
        high=_MOST_PASSES,
        log=True,
        search=(8, 200),
    )
    steps: int = constant(
        4, "signed steps at one eps before it counts as failed", low=1, high=10_000, log=True, search=(1, 20)
    )
    step_size: float = constant(
        0.5, "first signed step as a share of eps", low=1e-3, high=10.0, log=True, search=(0.05, 2.0)
    )
    final_step_size: float = constant(
        0.02,
        "signed step as a share of eps at the last pass (geometric in a cosine)",
        low=1e-5,
        high=10.0,
        log=True,
        search=(0.001, 0.5),
    )
    first_epsilon: float = constant(
        1.5,
        "first eps, as a multiple of the linearised distance",
        low=0.1,
        high=100.0,
        log=True,
        search=(0.5, 5.0),
    )
    growth: float = constant(
        2.0, "factor on eps until one succeeds", low=1.01, high=100.0, log=True, search=(1.2, 8.0)
    )
    shrink: float = constant(
        0.22,
        "the next eps lies by this share below the smallest success",
        low=1e-4,
        high=0.9,
        log=True,
        search=(0.02, 0.6),
    )
    narrowing: float = constant(
        0.7, "factor on that share when an eps fails (0.5: bisection)", low=0.1, high=0.99, search=(0.2, 0.95)
    )
    tolerance: float = constant(
        0.002,
        "an image is done when the share is below this: eps is known as well",
        low=1e-9,
        high=0.5,
        log=True,
        search=(0.0001, 0.05),
    )
    loss: str = constant(
        "cross_entropy",
        "what the steps ascend: J of the paper, the negative margin, or one search with each and the nearer image: "
        "they end in different local minima",
        choices=("cross_entropy", "margin", "both"),
    )

    def widened(self) -> IFGSM:
        """A search with each loss, each with four times the passes, twice the steps at each eps, half as long."""
        return replace(
            self,
            passes=min(4 * self.passes, _MOST_PASSES),
            steps=min(2 * self.steps, 10_000),
            step_size=max(self.step_size / 2, 1e-3),
            final_step_size=max(self.final_step_size / 2, 1e-5),
            loss="both",
        )


@dataclass
class _IFGSMSearches(Searches):
    """``epsilon`` is tried, by ``share`` below the best; ``tried`` steps were made; ``stuck``: the last did nothing."""

    epsilon: Tensor
    share: Tensor
    tried: Tensor
    stuck: Tensor


def ifgsm(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    constants: IFGSM = IFGSM(),
    *,
    targeted: bool = False,
    execution: Execution = Execution(),
    on_progress: Progress | None = None,
) -> AttackResult:
    """Iterative FGSM with the smallest eps that succeeds, found per image.

    Source: Kurakin et al. 2017 (arXiv:1607.02533), section 2.2: x <- clip(x + alpha sgn grad J) to the eps ball
    and the box. eps is bracketed from the linearised distance margin / ||gradient||_1, then narrowed: each eps
    starts from the last one's image; a success counts at its measured Linf and ends the try at once, an eps that
    fails for ``steps`` steps halves (``narrowing``) the distance that is tried next.

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
    if constants.loss == "both":
        half = partial(ifgsm, model, inputs, labels, targeted=targeted, execution=execution)
        first = half(replace(constants, loss="cross_entropy"), on_progress=_halved(on_progress, 0))
        second = half(replace(constants, loss="margin"), on_progress=_halved(on_progress, 1))
        return first.or_nearer(second)

    def start(_loop: EagerLoop, clean: Clean) -> _IFGSMSearches:
        slope = clean.gradient.flatten(1).abs().sum(dim=1)
        linearised = (clean.margin.abs() / slope).nan_to_num(nan=1.0, posinf=1.0)
        searches = _IFGSMSearches(
            **new_searches(clean),
            epsilon=(constants.first_epsilon * linearised).clamp(1e-6, 1.0),
            share=torch.full_like(clean.margin, constants.shrink),
            tried=torch.zeros_like(clean.labels),
            stuck=torch.zeros_like(clean.labels, dtype=torch.bool),
        )
        _take_step(searches, clean.gradient, constants)
        return searches

    def advance(attacked_model: AttackedModel, searches: _IFGSMSearches) -> None:
        seen = take_pass(attacked_model, searches, "linf", soft=constants.loss == "cross_entropy")
        found = searches.best_distance < torch.inf
        failed = seen.active & ~seen.adversarial & ((searches.tried == constants.steps) | searches.stuck)
        ended = failed | seen.adversarial
        outgrown = failed & ~found & (searches.epsilon >= 1)

        searches.share *= torch.where(failed & found, constants.narrowing, 1.0)
        below_best = searches.best_distance * (1 - searches.share)
        chosen = torch.where(found, below_best, constants.growth * searches.epsilon).clamp(max=1)
        searches.epsilon.copy_(torch.where(ended, chosen, searches.epsilon))
        searches.tried.masked_fill_(ended, 0)

        limit = torch.where(found, constants.passes, 4 * constants.passes)
        known = found & (searches.share < constants.tolerance)
        searches.done |= seen.active & (outgrown | known | (searches.step >= limit))
        _take_step(searches, seen.gradient, constants)

    return run_searches(
        model,
        inputs,
        labels,
        targeted=targeted,
        norm="linf",
        start=start,
        advance=advance,
        execution=execution,
        on_progress=on_progress,
    )


def _halved(on_progress: Progress | None, half: int) -> Progress | None:
    """The progress of one of two searches over the same images."""
    if on_progress is None:
        return None
    return lambda finished, total: on_progress((half * total + finished) // 2, total)


def _take_step(searches: _IFGSMSearches, gradient: Tensor, constants: IFGSM) -> None:
    """One signed step from the last image, clipped to the present eps."""
    step = searches.step.clamp(max=constants.passes)
    decay = cosine_decay(step, constants.passes, 1.0, 0.0, searches.epsilon.dtype)
    last = constants.final_step_size
    step_size = searches.epsilon * last * (constants.step_size / last) ** decay
    active = ~searches.done
    _, changed = ifgsm_step(
        searches.adv_inputs, searches.inputs, gradient, step_size, searches.epsilon, active
    )
    searches.stuck.copy_(~changed)
    searches.step += active
    searches.tried += active
