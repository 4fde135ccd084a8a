"""What every attack returns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustlab.attacks.execution import Engine
from robustlab.shapes import Bool, Float, Int


@dataclass(frozen=True)
class AttackResult:
    """Per image, in the order of the inputs.

    Attributes:
        adv_inputs: (B, ...), the nearest adversarial image found, in [0, 1]; the clean image where none was
            found or where it was already misclassified.
        success: (B,), whether ``adv_inputs`` is adversarial in a fresh forward pass of the model as given.
        distance: (B,), the measured distortion of ``adv_inputs`` in the attack's norm, in units of the [0, 1]
            pixel range; 0 where the clean image was already misclassified, inf where nothing was found.
        forwards, backwards: (B,), how often the image went through the model, its gradient came back.
        engine: what it was run with; None where there was no image.
    """

    adv_inputs: Float[Tensor, "batch ..."]
    success: Bool[Tensor, " batch"]
    distance: Float[Tensor, " batch"]
    forwards: Int[Tensor, " batch"]
    backwards: Int[Tensor, " batch"]
    engine: Engine | None = None

    def or_nearer(self, other: AttackResult) -> AttackResult:
        """Per image the nearer of two results of the same inputs; the passes of both."""
        nearer = other.distance < self.distance
        chosen = nearer.view(-1, *(1,) * (self.adv_inputs.dim() - 1))
        return replace(
            self,
            adv_inputs=torch.where(chosen, other.adv_inputs, self.adv_inputs),
            success=self.success | other.success,
            distance=torch.minimum(self.distance, other.distance),
            forwards=self.forwards + other.forwards,
            backwards=self.backwards + other.backwards,
        )
