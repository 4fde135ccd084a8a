"""Attack again, with a wider search, only what was missed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from robustlab.attacks.constants import Constants
from robustlab.attacks.engine import Progress
from robustlab.attacks.execution import Execution
from robustlab.attacks.result import AttackResult
from robustlab.shapes import Float, Int


def attack_until_found(
    attack: Callable[..., AttackResult],
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    constants: Constants,
    *,
    max_widenings: int = 3,
    targeted: bool = False,
    execution: Execution = Execution(),
    on_progress: Progress | None = None,
) -> AttackResult:
    """Run ``attack``, then again on the images it missed, each time with ``constants.widened()``.

    Args:
        attack: any attack of this package; the rest as it takes them.
        max_widenings: at most so many further runs.
        on_progress: told of the first run; the further ones are few images.

    Returns:
        AttackResult of all images, passes added up over the runs.
    """
    result = attack(
        model, inputs, labels, constants, targeted=targeted, execution=execution, on_progress=on_progress
    )
    for _ in range(max_widenings):
        missed = (~result.success).nonzero()[:, 0]
        if len(missed) == 0:
            break
        constants = constants.widened()
        again = attack(
            model, inputs[missed], labels[missed], constants, targeted=targeted, execution=execution
        )
        result.adv_inputs[missed] = again.adv_inputs
        result.success[missed] = again.success
        result.distance[missed] = again.distance
        result.forwards[missed] += again.forwards
        result.backwards[missed] += again.backwards
    return result
