"""Is a score an overestimate? Other attacks on a few of the attacked images, none of them part of the score."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustlab.attacks import FMN, AttackResult, PreflightWarning, fmn, hard_label
from robustlab.shapes import Bool, Float, Int

# Images a cell; the whole check then costs less than a tenth of the attacks on 100 images.
DEFAULT_IMAGES = 8
# A score that lies by more than this share above what the nearest known images give is called an overestimate
# (docs/decisions/0012-cross-check.md).
TOLERANCE = 0.05
# Twice as many steps come nearer by about 1 % (docs/decisions/0012-cross-check.md).
_STEPS = 30


@dataclass(frozen=True)
class CrossCheck:
    """What the other attacks found on the sample.

    Attributes:
        metrics: by name, as logged; a value is None where there is nothing to say.
        suspicions: by norm, one sentence where the score is an overestimate.
    """

    metrics: dict[str, float | None] = field(default_factory=dict)
    suspicions: dict[str, str] = field(default_factory=dict)


def cross_check(
    found: Mapping[str, tuple[Float[Tensor, " batch"], Bool[Tensor, " batch"]]],
    model: nn.Module,
    inputs: Float[Tensor, "batch channels height width"],
    labels: Int[Tensor, " batch"],
    images: int,
) -> CrossCheck:
    """Attack the first ``images`` images again by FMN and by a search without gradients, and compare.

    Args:
        found: by norm ("l2", "linf"), the distances of the attacks that make the score (inf: missed), and which images
            may be checked: those with a verdict.
        model: in evaluation mode.
        inputs, labels: all attacked images, in an order that mixes the classes.
        images: how many of them; 0: no check.
    """
    metrics: dict[str, float | None] = {}
    suspicions: dict[str, str] = {}
    started = time.perf_counter()
    checked = 0
    for norm, (distance, verdicts) in found.items():
        sample = verdicts.nonzero()[:images, 0]
        if len(sample) == 0:
            continue
        checked = max(checked, len(sample))
        nearest, passes = _second_opinion(model, inputs, labels, sample, norm)
        ours, other = distance[sample].double(), nearest.double()
        metrics |= _compared(norm, ours, other) | {f"cross_check_passes_{norm}": passes}
        sentence = _suspicion(norm, ours, other)
        if sentence:
            suspicions[norm] = sentence
    if checked:
        metrics |= {"cross_check_images": checked, "cross_check_s": time.perf_counter() - started}
    return CrossCheck(metrics, suspicions)


def _second_opinion(
    model: nn.Module, inputs: Tensor, labels: Tensor, sample: Tensor, norm: str
) -> tuple[Float[Tensor, " sample"], float]:
    """The distance of the nearest image that the other attacks found, and their passes an image."""
    chosen, own = inputs[sample], labels[sample]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreflightWarning)  # the study's diagnosis has said it
        results: list[AttackResult] = [
            fmn(model, chosen, own, FMN(norm=norm, steps=_STEPS)),
            hard_label(model, chosen, own, inputs, norm),
        ]
    nearest = torch.stack([result.distance for result in results]).amin(dim=0)
    # A backward pass costs about two forward ones.
    work = sum((result.forwards + 2 * result.backwards).double().mean().item() / 3 for result in results)
    return nearest, work


def _compared(norm: str, ours: Tensor, other: Tensor) -> dict[str, float | None]:
    both = ours.isfinite() & other.isfinite()
    mean = ours[both].mean().item() if both.any() else 0.0
    least = torch.minimum(ours, other)[both].mean().item() if both.any() else 0.0
    return {
        f"cross_check_ratio_{norm}": mean / other[both].mean().item() if mean and both.any() else None,
        f"cross_check_overestimate_{norm}": mean / least - 1 if least else None,
        f"cross_check_beaten_{norm}": _beaten(ours, other).double().mean().item(),
    }


def _beaten(ours: Tensor, other: Tensor) -> Tensor:
    return other * (1 + TOLERANCE) < ours


def _suspicion(norm: str, ours: Tensor, other: Tensor) -> str:
    """One sentence where the sample's mean is too high by more than the tolerance, or an image missed is found."""
    name, why = {"l2": "L2", "linf": "Linf"}[norm], "masked gradients, or too few passes"
    missed = ours.isinf() & other.isfinite()
    if missed.any():
        return (
            f"{name}: other attacks reach {int(missed.sum())} of the {int(ours.isinf().sum())} images of the sample "
            f"that the attack missed ({why})"
        )
    overestimate = _compared(norm, ours, other)[f"cross_check_overestimate_{norm}"]
    if overestimate is None or overestimate <= TOLERANCE:
        return ""
    return (
        f"{name}: the score is an overestimate: other attacks come nearer on {int(_beaten(ours, other).sum())} of "
        f"{len(ours)} images of the sample, whose mean is {overestimate:.0%} too high ({why})"
    )
