"""Carlini and Wagner's L2 attack, every image with its own c, its own bounds and its own Adam."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from robustlab_kernels import cw_step, search_update, track_best
from torch import Tensor, nn

from robustlab.attacks.attacked_model import AttackedModel
from robustlab.attacks.constants import Constants, constant
from robustlab.attacks.engine import (
    Clean,
    Progress,
    Searches,
    is_adversarial,
    l2_norm,
    new_searches,
    run_searches,
)
from robustlab.attacks.result import AttackResult
from robustlab.shapes import Float, Int


@dataclass(frozen=True)
class CarliniWagnerL2(Constants):
    """Constants of :func:`carlini_wagner_l2`; ``classic()`` gives the published ones."""

    binary_search_steps: int = constant(6, "values of c tried per image", low=1, high=100, tunable=True)
    max_iterations: int = constant(
        150, "Adam steps at each c", unit="passes", low=1, high=100_000, tunable=True
    )
    learning_rate: float = constant(
        0.1, "Adam's first step size", unit="w", low=1e-5, high=10.0, log=True, tunable=True
    )
    final_learning_rate: float = constant(
        0.05,
        "the last step size as a share of the first (cosine decay; 1: constant)",
        low=1e-4,
        high=1.0,
        log=True,
        tunable=True,
    )
    initial_const: float = constant(
        1.0, "first c; with first_order_const a factor on the estimate", low=1e-9, high=1e9, log=True
    )
    first_order_const: bool = constant(
        True, "estimate the first c per image as 2 margin / ||gradient||^2, exact for a linear model"
    )
    const_growth: float = constant(
        4.0, "factor on c until one succeeds", low=1.01, high=1e3, log=True, tunable=True
    )
    inside: float = constant(
        0.99,
        "scale on 2 x - 1 before arctanh: start inside the box, where tanh has a slope",
        low=0.5,
        high=0.9999999,
        tunable=True,
    )
    confidence: float = constant(0.0, "kappa, the margin aimed at", unit="logits", low=0.0, high=1e6)
    stall_tolerance: float = constant(
        1e-4, "give a c up when a tenth of its iterations lowers the loss by less than this share (0: never)",
        low=0.0, high=0.5,
    )  # fmt: skip

    @classmethod
    def classic(cls) -> CarliniWagnerL2:
        """The published constants (Carlini and Wagner 2017; their code nn_robust_attacks/l2_attack.py)."""
        return cls(
            binary_search_steps=9,
            max_iterations=1_000,
            learning_rate=0.01,
            final_learning_rate=1.0,
            initial_const=1e-3,
            first_order_const=False,
            const_growth=10.0,
            inside=0.999999,
            stall_tolerance=1e-4,
        )

    def widened(self) -> CarliniWagnerL2:
        """Twice the values of c and the iterations, a first c ten times as large."""
        return replace(
            self,
            binary_search_steps=min(2 * self.binary_search_steps, 100),
            max_iterations=min(2 * self.max_iterations, 100_000),
            initial_const=min(10 * self.initial_const, 1e9),
        )


@dataclass
class _CWSearches(Searches):
    """``const`` is tried; ``low`` failed, ``high`` succeeded; ``step`` of this try, ``tries`` so far."""

    w: Tensor
    adv_inputs: Tensor
    first_moment: Tensor
    second_moment: Tensor
    const: Tensor
    low: Tensor
    high: Tensor
    step: Tensor
    tries: Tensor
    succeeded: Tensor  # an adversarial image was seen during this try
    last_loss: Tensor  # at the last check for a stall


def carlini_wagner_l2(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    constants: CarliniWagnerL2 = CarliniWagnerL2(),
    *,
    targeted: bool = False,
    on_progress: Progress | None = None,
) -> AttackResult:
    """Carlini and Wagner's L2 attack.

    Source: Carlini and Wagner 2017 (arXiv:1608.04644), section V: minimise c f(x) + ||x - x0||_2^2 over w
    with x = (tanh w + 1) / 2 and f = max(margin, -kappa), by Adam; c by search per image.

    Args:
        model: returns logits (B, N); left as it was found.
        inputs: (B, ...), pixels in [0, 1].
        labels: (B,), the true classes, or the targets if ``targeted``.
        on_progress: called with (images finished, images in all).

    Returns:
        AttackResult with distances in L2 (not squared), in units of the [0, 1] pixel range.

    Raises:
        InputError: inputs, labels or model that cannot be attacked.
    """

    def start(_model: AttackedModel, clean: Clean) -> _CWSearches:
        const = torch.full_like(clean.margin, constants.initial_const)
        if constants.first_order_const:
            const *= first_order_const(clean)
        w = torch.atanh((2 * clean.inputs - 1).clamp(-1, 1) * constants.inside)
        return _CWSearches(
            **new_searches(clean),
            w=w,
            adv_inputs=torch.sigmoid(2 * w),
            first_moment=torch.zeros_like(w),
            second_moment=torch.zeros_like(w),
            const=const,
            low=torch.zeros_like(const),
            high=torch.full_like(const, torch.inf),
            step=torch.zeros_like(clean.labels),
            tries=torch.zeros_like(clean.labels),
            succeeded=torch.zeros_like(clean.labels, dtype=torch.bool),
            last_loss=torch.full_like(const, torch.inf),
        )

    def advance(attacked_model: AttackedModel, searches: _CWSearches) -> None:
        active = ~searches.done
        per_image = (-1,) + (1,) * (searches.w.dim() - 1)
        logits, margins, gradient = attacked_model.margin_gradient(searches.adv_inputs, searches.labels)
        searches.forwards += active
        searches.backwards += active
        distance = l2_norm(searches.adv_inputs - searches.inputs)
        far_enough = is_adversarial(logits, margins.value + constants.confidence)
        adversarial = active & far_enough
        track_best(searches.best, searches.best_distance, searches.adv_inputs, distance, adversarial)
        searches.succeeded |= adversarial

        hinge = searches.const * (margins.value > -constants.confidence)
        cw_step(
            searches.w,
            searches.adv_inputs,
            searches.first_moment,
            searches.second_moment,
            searches.inputs,
            hinge.view(per_image) * gradient,
            searches.step + 1,
            _learning_rate(searches.step, constants),
            active,
        )
        searches.step += active

        loss = searches.const * margins.value.clamp(min=-constants.confidence) + distance.square()
        ended = active & ((searches.step == constants.max_iterations) | _stalled(searches, loss, constants))
        search_update(
            searches.const, searches.low, searches.high, searches.succeeded, ended, constants.const_growth
        )
        searches.tries += ended
        searches.done |= ended & (searches.tries == constants.binary_search_steps)
        _restart(searches, ended, constants)

    return run_searches(
        model,
        inputs,
        labels,
        targeted=targeted,
        norm=l2_norm,
        start=start,
        advance=advance,
        on_progress=on_progress,
    )


def first_order_const(clean: Clean) -> Float[Tensor, " batch"]:
    """c at which the linearised problem's solution lies on the boundary: 2 d = c g with d = m g / ||g||^2."""
    slope = clean.gradient.flatten(1).square().sum(dim=1)
    return (2 * clean.margin.abs() / slope).nan_to_num(nan=1.0, posinf=1.0).clamp(1e-9, 1e9)


def _learning_rate(step: Int[Tensor, " batch"], constants: CarliniWagnerL2) -> Float[Tensor, " batch"]:
    """Cosine decay from the first learning rate to the last over one try."""
    share = torch.cos(step * (torch.pi / constants.max_iterations)) / 2 + 0.5
    last = constants.final_learning_rate
    return constants.learning_rate * (last + (1 - last) * share)


def _stalled(searches: _CWSearches, loss: Tensor, constants: CarliniWagnerL2) -> Tensor:
    """The image's own loss stopped falling over a tenth of its iterations (the published early abort)."""
    if constants.stall_tolerance == 0:
        return torch.zeros_like(searches.done)
    interval = max(constants.max_iterations // 10, 1)
    check = (searches.step - 1) % interval == 0  # the loss belongs to the image before the step
    stalled = check & (loss > searches.last_loss * (1 - constants.stall_tolerance))
    searches.last_loss.copy_(torch.where(check, loss, searches.last_loss))
    return stalled


def _restart(searches: _CWSearches, ended: Tensor, constants: CarliniWagnerL2) -> None:
    """The next c begins at the clean image with a fresh Adam."""
    restart = ended.view((-1,) + (1,) * (searches.w.dim() - 1))
    w = torch.atanh((2 * searches.inputs - 1).clamp(-1, 1) * constants.inside)
    searches.w.copy_(torch.where(restart, w, searches.w))
    searches.adv_inputs.copy_(torch.where(restart, torch.sigmoid(2 * w), searches.adv_inputs))
    searches.first_moment.masked_fill_(restart, 0)
    searches.second_moment.masked_fill_(restart, 0)
    searches.step.masked_fill_(ended, 0)
    searches.succeeded.masked_fill_(ended, False)
    searches.last_loss.masked_fill_(ended, torch.inf)
