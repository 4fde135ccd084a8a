"""Carlini and Wagner's L2 attack, every image with its own c, its own bounds and its own Adam."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from robustlab_kernels import cw_start, cw_step, search_update, track_best
from torch import Tensor, nn

from robustlab.attacks.attacked_model import AttackedModel
from robustlab.attacks.carlini_wagner_constants import CarliniWagnerL2
from robustlab.attacks.engine import Progress, run_searches
from robustlab.attacks.execution import Execution
from robustlab.attacks.loops import EagerLoop
from robustlab.attacks.result import AttackResult
from robustlab.attacks.searches import Clean, Searches, cosine_decay, new_searches
from robustlab.attacks.turning_ray import TurningRayL2, advance_rays, run_rays
from robustlab.shapes import Float, Int


@dataclass
class _CWSearches(Searches):
    """``const`` is tried; ``low`` failed, ``high`` succeeded; ``tries`` so far; ``step`` is this try's."""

    squared_l2: Tensor  # of the present perturbation
    rate: Tensor  # Adam's first step size
    w: Tensor
    first_moment: Tensor
    second_moment: Tensor
    const: Tensor
    low: Tensor
    high: Tensor
    tries: Tensor
    succeeded: Tensor  # an adversarial image was seen during this try
    last_loss: Tensor  # at the last check for a stall
    best_before: Tensor  # best_distance when this try began


def carlini_wagner_l2(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    constants: CarliniWagnerL2 = CarliniWagnerL2(),
    *,
    targeted: bool = False,
    execution: Execution = Execution(),
    on_progress: Progress | None = None,
) -> AttackResult:
    """Carlini and Wagner's L2 attack.

    Source: Carlini and Wagner 2017 (arXiv:1608.04644), section V: minimise c f(x) + ||x - x0||_2^2 over w
    with x = (tanh w + 1) / 2 and f = max(margin, -kappa), by Adam; c by search per image. The early abort (a try
    ends when a tenth of its iterations did not lower the loss) looks at each image's own loss.

    Args:
        model: returns logits (B, N); left as it was found.
        inputs: (B, ...), pixels in [0, 1].
        labels: (B,), the true classes, or the targets if ``targeted``.
        constants: the defaults converge in about 220 passes; ``CarliniWagnerL2.classic()`` are the published ones.
        execution: how the passes are run; the defaults suit every machine.
        on_progress: called with (images finished, images in all).

    Returns:
        AttackResult with distances in L2 (not squared), in units of the [0, 1] pixel range.

    Raises:
        InputError: inputs, labels or model that cannot be attacked.
    """
    rays_of_each = (TurningRayL2.thorough(), TurningRayL2.wide(), TurningRayL2.far())
    warm_starts = [
        replace(rays, steps=constants.warm_steps) for rays in rays_of_each[: constants.warm_starts]
    ]
    warm_advances = [partial(advance_rays, constants=rays) for rays in warm_starts]

    def start(loop: EagerLoop, clean: Clean) -> _CWSearches:
        common = Searches(**new_searches(clean))
        for rays, advance_warm in zip(warm_starts, warm_advances, strict=True):
            _take_over(common, run_rays(loop, clean, rays, advance_warm), clean)
        if constants.confidence > 0:  # the rays know nothing of kappa: a place to start from, no success
            common.best_distance.fill_(torch.inf)
        const = constants.initial_const * first_const(loop.model, common, clean, constants)
        searches = _CWSearches(
            **{entry.name: getattr(common, entry.name) for entry in fields(common)},
            squared_l2=torch.zeros_like(const),
            rate=first_rate(common.best, clean, constants),
            w=torch.empty_like(clean.inputs),
            first_moment=torch.zeros_like(clean.inputs),
            second_moment=torch.zeros_like(clean.inputs),
            const=const,
            low=torch.zeros_like(const),
            high=torch.full_like(const, torch.inf),
            tries=torch.zeros_like(clean.labels),
            succeeded=torch.zeros_like(clean.labels, dtype=torch.bool),
            last_loss=torch.full_like(const, torch.inf),
            best_before=common.best_distance.clone(),
        )
        _begin_try(searches, torch.ones_like(searches.done), constants)
        return searches

    def advance(attacked_model: AttackedModel, searches: _CWSearches) -> None:
        active = ~searches.done
        margins, gradient = attacked_model.margin_gradient(
            searches.adv_inputs, searches.labels, confidence=constants.confidence
        )
        searches.forwards += active
        searches.backwards += active
        loss = searches.const * margins.value.clamp(min=-constants.confidence) + searches.squared_l2
        stalled = active & _stalled(searches, loss, constants)

        adversarial = active & ~stalled & margins.adversarial
        distance = searches.squared_l2.sqrt()
        track_best(searches.best, searches.best_distance, searches.adv_inputs, distance, adversarial)
        searches.succeeded |= adversarial

        slope = searches.const * (margins.value > -constants.confidence)
        last = constants.final_learning_rate
        decay = cosine_decay(searches.step, constants.max_iterations, 1.0, last, loss.dtype)
        squared_l2 = cw_step(
            searches.w,
            searches.adv_inputs,
            searches.first_moment,
            searches.second_moment,
            searches.inputs,
            gradient,
            slope,
            searches.step + 1,
            searches.rate * decay,
            active,
        )
        searches.squared_l2.copy_(squared_l2)
        searches.step += active

        ended = active & (stalled | (searches.step == constants.max_iterations))
        search_update(
            searches.const, searches.low, searches.high, searches.succeeded, ended, constants.const_growth
        )
        searches.tries += ended
        improved = searches.best_distance < searches.best_before * (1 - constants.search_tolerance)
        settled = (searches.best_distance < torch.inf) & ~improved
        all_tried = searches.tries == constants.binary_search_steps
        searches.done |= ended & (all_tried | (settled & (constants.search_tolerance > 0)))
        _begin_try(searches, ended, constants)

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
        rivals=warm_starts[0].rivals if warm_starts and not targeted else 1,
    )


def first_const(
    model: AttackedModel, searches: Searches, clean: Clean, constants: CarliniWagnerL2
) -> Float[Tensor, " batch"]:
    """c at which the loss is stationary on the boundary: c g = -2 d, the least c whose solution is adversarial.

    With a warm start d and g are those of its image, over the pixels that the box does not hold; without, those
    of the linearised problem, d = m g / ||g||^2. 1 without ``first_order_const``.
    """
    if not constants.first_order_const:
        return torch.ones_like(clean.margin)
    linearised = 2 * clean.margin.abs() / clean.gradient.flatten(1).square().sum(dim=1)
    const = linearised
    if constants.warm_starts:
        _, gradient = model.margin_gradient(searches.best, searches.labels)
        searches.forwards += 1
        searches.backwards += 1
        moved = (searches.best - searches.inputs).flatten(1)
        free = (searches.best > 0) & (searches.best < 1)
        slope = (gradient * free).flatten(1)
        balance = 2 * (moved * free.flatten(1)).norm(dim=1) / slope.norm(dim=1)
        const = torch.where(searches.best_distance < torch.inf, balance, linearised)
    return const.nan_to_num(nan=1.0, posinf=1.0).clamp(1e-12, 1e12)


def first_rate(
    origin: Float[Tensor, "batch ..."], clean: Clean, constants: CarliniWagnerL2
) -> Float[Tensor, " batch"]:
    """Adam's first step size, if wanted relative to how far the warm start moved a pixel (0.01 if it did not)."""
    rate = torch.full_like(clean.margin, constants.learning_rate)
    if not constants.relative_learning_rate:
        return rate
    change = (origin - clean.inputs).flatten(1).square().mean(dim=1).sqrt()
    return rate * torch.where(change > 0, change, 0.01)


def _take_over(searches: Searches, rays: Searches, clean: Clean) -> None:
    """Keep the warm start's image where it is nearer, and count its passes (both have seen the clean image)."""
    found = rays.best_distance < torch.inf
    track_best(searches.best, searches.best_distance, rays.best, rays.best_distance, found)
    searches.forwards += rays.forwards - 1
    searches.backwards += rays.backwards - clean.rivals.shape[1]


def _stalled(searches: _CWSearches, loss: Tensor, constants: CarliniWagnerL2) -> Tensor:
    """The image's own loss stopped falling over a tenth of its iterations (the published early abort)."""
    if constants.stall_tolerance == 0:
        return torch.zeros_like(searches.done)
    interval = max(constants.max_iterations // 10, 1)
    check = searches.step % interval == 0
    stalled = check & (loss > searches.last_loss * (1 - constants.stall_tolerance))
    searches.last_loss.copy_(torch.where(check, loss, searches.last_loss))
    return stalled


def _begin_try(searches: _CWSearches, begins: Tensor, constants: CarliniWagnerL2) -> None:
    """The next c begins with a fresh Adam, at the warm start's best image or else at the clean image."""
    cw_start(
        searches.w,
        searches.adv_inputs,
        searches.first_moment,
        searches.second_moment,
        searches.squared_l2,
        searches.inputs,
        searches.best if constants.warm_starts else searches.inputs,
        begins,
        constants.inside,
    )
    searches.step.masked_fill_(begins, 0)
    searches.succeeded.masked_fill_(begins, False)
    searches.last_loss.masked_fill_(begins, torch.inf)
    searches.best_before.copy_(torch.where(begins, searches.best_distance, searches.best_before))
