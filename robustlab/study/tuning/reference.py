"""What a tuning is measured against: a published attack with a large budget, or the attack's own defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustlab.attacks import CarliniWagnerL2
from robustlab.attacks.engine import Progress
from robustlab.attacks.result import AttackResult
from robustlab.attacks.searches import linf_norm, per_image
from robustlab.errors import InputError
from robustlab.shapes import Float, Int
from robustlab.study.attacking import ATTACKS
from robustlab.study.tuning.constants_file import CONSTANTS

_DEFAULT = {"cw": "9x1000", "ifgsm": "20x100"}
_BATCH_SIZE = 64


@dataclass(frozen=True)
class Reference:
    """``searches`` values of c (or eps), each with ``iterations`` steps; 0 searches: the attack's own defaults."""

    attack: str
    searches: int
    iterations: int

    @classmethod
    def parse(cls, attack: str, text: str) -> Reference:
        """Read ``auto`` (9x1000 for cw, 20x100 for ifgsm), ``default`` or ``<searches>x<iterations>``.

        Raises:
            InputError: none of these.
        """
        text = text.strip().lower()
        if text == "default":
            return cls(attack, 0, 0)
        found = re.fullmatch(r"(\d+)x(\d+)", _DEFAULT[attack] if text in ("", "auto") else text)
        if not found or not (1 <= int(found[1]) <= 100 and 1 <= int(found[2]) <= 1_000_000):
            raise InputError(
                f"the reference is {text!r}; give auto, default or <searches>x<iterations> such as 9x1000"
            )
        return cls(attack, int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.searches}x{self.iterations}" if self.searches else "default"

    @property
    def title(self) -> str:
        """What it is, for people."""
        if not self.searches:
            return "the attack's own defaults"
        if self.attack == "cw":
            return f"classic Carlini-Wagner, {self.searches} values of c x {self.iterations:,} iterations"
        return f"I-FGSM, {self.searches} bisections of eps x {self.iterations:,} steps"

    def run(
        self,
        model: nn.Module,
        inputs: Float[Tensor, "batch ..."],
        labels: Int[Tensor, " batch"],
        on_progress: Progress | None = None,
    ) -> AttackResult:
        """Attack; missed images stay missed."""
        if self.searches and self.attack == "ifgsm":
            return bisected_ifgsm(model, inputs, labels, self.iterations, self.searches, on_progress)
        constants = CONSTANTS[self.attack]()
        if self.searches:
            constants = replace(
                CarliniWagnerL2.classic(), binary_search_steps=self.searches, max_iterations=self.iterations
            )
        return ATTACKS[self.attack](model, inputs, labels, constants, on_progress=on_progress)


def bisected_ifgsm(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    steps: int,
    bisections: int,
    on_progress: Progress | None = None,
) -> AttackResult:
    """The paper's I-FGSM inside a bisection of eps over [0, 1], per image; plain on purpose.

    Source: Kurakin et al. 2017, section 2.2. Each eps starts at the clean image and makes ``steps`` signed steps of
    eps / steps; it succeeds if any of the images on the way is adversarial, and counts at the Linf of the nearest.

    Args:
        model: in evaluation mode; returns logits.
        inputs: (B, ...), pixels in [0, 1]; ``labels`` (B,), the true classes.

    Returns:
        AttackResult with distances in Linf.
    """
    parts = []
    for start in range(0, len(inputs), _BATCH_SIZE):
        end = min(start + _BATCH_SIZE, len(inputs))
        parts.append(_bisect(model, inputs[start:end], labels[start:end], steps, bisections))
        if on_progress is not None:
            on_progress(end, len(inputs))
    return AttackResult(
        adv_inputs=torch.cat([part.adv_inputs for part in parts]),
        success=torch.cat([part.success for part in parts]),
        distance=torch.cat([part.distance for part in parts]),
        forwards=torch.cat([part.forwards for part in parts]),
        backwards=torch.cat([part.backwards for part in parts]),
    )


def _bisect(
    model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, steps: int, bisections: int
) -> AttackResult:
    low, high = torch.zeros(len(inputs), device=inputs.device), torch.ones(len(inputs), device=inputs.device)
    best, distance = inputs.clone(), torch.full_like(low, torch.inf)
    for _ in range(bisections):
        epsilon = (low + high) / 2
        size = per_image(epsilon, inputs)
        images, succeeded = inputs, torch.zeros_like(labels, dtype=torch.bool)
        for step in range(steps + 1):  # the last pass only looks
            images = images.detach().requires_grad_(step < steps)
            logits = model(images)
            now = linf_norm(images.detach() - inputs)
            adversarial = logits.detach().argmax(dim=1) != labels
            succeeded |= adversarial
            nearer = adversarial & (now < distance)
            best = torch.where(per_image(nearer, inputs), images.detach(), best)
            distance = torch.where(nearer, now, distance)
            if step < steps:
                loss = functional.cross_entropy(logits, labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, images)
                moved = images.detach() + size / steps * gradient.sign()
                images = torch.minimum(torch.maximum(moved, inputs - size), inputs + size).clamp(0, 1)
        low, high = torch.where(succeeded, low, epsilon), torch.where(succeeded, epsilon, high)
    backwards = torch.full_like(labels, bisections * steps)
    return AttackResult(best, distance < torch.inf, distance, backwards + bisections, backwards)
