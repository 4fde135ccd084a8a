"""The turning-ray attack: a fast minimum-norm L2 attack. Derivation and ablation: docs/attacks.md."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from robustlab_kernels import margin, ray_step, track_best
from torch import Tensor, nn

from robustlab.attacks.attacked_model import AttackedModel
from robustlab.attacks.constants import Constants, constant
from robustlab.attacks.engine import Progress, run_searches
from robustlab.attacks.execution import Execution
from robustlab.attacks.loops import Advance, EagerLoop
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


@dataclass(frozen=True)
class TurningRayL2(Constants):
    """Constants of :func:`turning_ray_l2`; chosen on images other than those reported (docs/attacks.md)."""

    steps: int = constant(36, "steps of each image", unit="passes", low=1, high=10_000)
    rivals: int = constant(4, "classes whose boundary is estimated at the clean image", low=1, high=1_000)
    candidates: int = constant(2, "of these, the nearest are tried in parallel", low=1, high=100)
    probe_steps: int = constant(6, "first steps, each candidate towards its own class", low=1, high=100)
    turn: float = constant(
        1.8,
        "first turn of the direction, relative to its length",
        low=0.01,
        high=10.0,
        log=True,
    )
    final_turn: float = constant(0.0036, "last turn (squared cosine decay)", low=1e-5, high=1.0, log=True)
    inside: float = constant(
        0.013,
        "how far beyond the boundary the first step aims, as a share of the radius",
        low=1e-6,
        high=0.5,
        log=True,
    )
    final_inside: float = constant(
        5e-4, "the same for the last step (geometric decay)", low=1e-8, high=0.5, log=True
    )
    limit: float = constant(
        0.3, "the radius changes by at most this share at first", low=0.01, high=0.99, log=True
    )
    final_limit: float = constant(
        0.01, "the same for the last step (cosine decay)", low=1e-4, high=0.99, log=True
    )
    overshoot: float = constant(
        0.3, "until adversarial: step beyond the linearised boundary by this share, times the step's number",
        low=1e-4, high=10.0, log=True,
    )  # fmt: skip

    @classmethod
    def thorough(cls) -> TurningRayL2:
        """Three candidates out of nine classes: nearer, for five passes and five backwards more."""
        return cls(rivals=9, candidates=3)

    @classmethod
    def far(cls) -> TurningRayL2:
        """Crosses the boundary far beyond it at first: worse alone, but it ends in other local minima again."""
        return cls(candidates=1, overshoot=3.0, turn=3.0, inside=0.05)

    @classmethod
    def wide(cls) -> TurningRayL2:
        """Longer turns and further inside: somewhat worse alone, but it ends in other local minima."""
        return cls(candidates=1, turn=4.0, inside=0.1)

    def widened(self) -> TurningRayL2:
        """Three times the steps, twice the overshoot."""
        return replace(self, steps=min(3 * self.steps, 10_000), overshoot=min(2 * self.overshoot, 10.0))


def turning_ray_l2(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    constants: TurningRayL2 = TurningRayL2(),
    *,
    targeted: bool = False,
    execution: Execution = Execution(),
    on_progress: Progress | None = None,
) -> AttackResult:
    """A minimum-norm L2 attack of a few dozen passes: turn a ray from the clean image, solve for its radius.

    Source: ours (docs/attacks.md); until the first success DeepFool's step (Moosavi-Dezfooli et al. 2016,
    eq. 7), afterwards direction and radius are separated as in DDN (Rony et al. 2019), but the radius is solved
    for by Newton's method on the margin's tangent along the ray that the box clips.

    Args, returns and errors as :func:`robustlab.attacks.carlini_wagner_l2`.
    """

    def start(loop: EagerLoop, clean: Clean) -> Searches:
        return start_rays(loop.model, clean, constants)

    def advance(attacked_model: AttackedModel, searches: Searches) -> None:
        advance_rays(attacked_model, searches, constants)

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
        rivals=1 if targeted else constants.rivals,
    )


def start_rays(model: AttackedModel, clean: Clean, constants: TurningRayL2) -> Searches:
    """Probe the nearest classes in parallel, a few passes each, and go on with the best candidate."""
    slopes = clean.gradients.flatten(2).norm(dim=2).T
    estimates = (clean.margins / slopes).nan_to_num(nan=torch.inf)
    count = min(constants.candidates, estimates.shape[1])
    nearest = estimates.topk(count, dim=1, largest=False).indices.flatten()
    image = torch.arange(len(clean.labels), device=nearest.device).repeat_interleave(count)

    searches = Searches(**new_searches(clean)).select(image)
    rivals = clean.rivals[image, nearest]
    _move(searches, clean.margins[image, nearest], clean.gradients[nearest, image], constants)
    probes = _probes(constants, count)
    sign = -1.0 if model.targeted else 1.0
    for _ in range(1, probes):
        logits, gradient = model.rival_gradient(searches.adv_inputs, searches.labels, rivals)
        to_any = margin(logits, searches.labels, targeted=model.targeted)
        distance = l2_norm(searches.adv_inputs - searches.inputs)
        track_best(searches.best, searches.best_distance, searches.adv_inputs, distance, to_any.adversarial)
        own, rival = (logits.gather(1, classes[:, None])[:, 0] for classes in (searches.labels, rivals))
        _move(searches, sign * (own - rival), gradient, constants)

    # The best candidate is the nearest adversarial one; where there is none, the one that went least far.
    reached = l2_norm(searches.adv_inputs - searches.inputs)
    none = searches.best_distance.isinf()
    score = torch.where(none, reached * 1e6, searches.best_distance).view(-1, count)
    best = score.argmin(dim=1) + torch.arange(len(score), device=score.device) * count
    winners = searches.select(best)
    winners.forwards += count * (probes - 1)
    winners.backwards += count * (probes - 1)
    return winners


def run_rays(loop: EagerLoop, clean: Clean, constants: TurningRayL2, advance: Advance) -> Searches:
    """All steps at once, for an attack that starts from the result.

    Args:
        advance: ``advance_rays`` with these constants, the same function each time: a loop knows it again.
    """
    count = min(constants.candidates, clean.rivals.shape[1])
    passes = constants.steps - _probes(constants, count) + 1
    return loop.repeat(start_rays(loop.model, clean, constants), advance, passes)


def _probes(constants: TurningRayL2, count: int) -> int:
    """Steps that ``count`` candidates make before the best one goes on alone."""
    return min(constants.probe_steps, constants.steps) if count > 1 else 1


def advance_rays(model: AttackedModel, searches: Searches, constants: TurningRayL2) -> None:
    """One pass towards any class; the last one only looks at the last image."""
    seen = take_pass(model, searches, "l2")
    searches.done |= searches.step == constants.steps
    _move(searches, seen.margin, seen.gradient, constants)


def _move(searches: Searches, margin: Tensor, gradient: Tensor, constants: TurningRayL2) -> None:
    """The next image of the searches that are not done, from the margin and gradient at the present one."""
    share = cosine_decay(searches.step, constants.steps, 1.0, 0.0, margin.dtype)
    turn = constants.final_turn + (constants.turn - constants.final_turn) * share.square()
    limit = constants.final_limit + (constants.limit - constants.final_limit) * share
    passed = searches.step.to(margin.dtype) / constants.steps
    inside = constants.inside * (constants.final_inside / constants.inside) ** passed
    on_ray = ray_step(searches.adv_inputs, searches.inputs, margin, gradient, turn, inside, limit)

    # Nothing adversarial yet: to the linearised boundary and beyond it, further each time.
    beyond = 1 + constants.overshoot * (1 + searches.step.to(margin.dtype))
    scale = beyond * margin.abs() / gradient.flatten(1).square().sum(dim=1).clamp(min=1e-30)
    downhill = (searches.adv_inputs - per_image(scale, gradient) * gradient).clamp(0, 1)

    found = per_image(searches.best_distance < torch.inf, on_ray)
    moved = torch.where(found, on_ray, downhill)
    searches.adv_inputs.copy_(torch.where(per_image(searches.done, moved), searches.adv_inputs, moved))
    searches.step += ~searches.done
