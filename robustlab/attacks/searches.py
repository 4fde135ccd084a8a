"""The images at work: what every search remembers of its image, and the pass that all attacks are made of."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple, TypeVar

import torch
from robustlab_kernels import track_best
from torch import Tensor

from robustlab.attacks.attacked_model import AttackedModel
from robustlab.shapes import Bool, Float, Int

State = TypeVar("State", bound="Searches")


def l2_norm(perturbation: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """||.||_2 of each image's perturbation."""
    return perturbation.flatten(1).norm(dim=1)


def linf_norm(perturbation: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """||.||_inf of each image's perturbation."""
    return perturbation.flatten(1).abs().amax(dim=1)


NORMS = {"l2": l2_norm, "linf": linf_norm}


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """One value per image (B,), shaped so that it broadcasts over the images (B, ...)."""
    return values.view(-1, *(1,) * (images.dim() - 1))


@dataclass
class Clean:
    """What one pass over the clean images showed.

    Attributes:
        inputs, labels: (B, ...) and (B,).
        rivals: (B, K), the classes with the highest other logits, highest first.
        margins: (B, K), to each of them; negative: misclassified.
        gradients: (K, B, ...), of these margins.
    """

    inputs: Tensor
    labels: Tensor
    rivals: Tensor
    margins: Tensor
    gradients: Tensor

    @property
    def margin(self) -> Tensor:
        """(B,), to the highest other class."""
        return self.margins[:, 0]

    @property
    def gradient(self) -> Tensor:
        """(B, ...), of the margin to the highest other class."""
        return self.gradients[0]


@dataclass
class Searches:
    """The images at work: every field's first dimension is the image. Attacks add their own state.

    Attributes:
        inputs, labels: the clean images (B, ...) and their labels (or targets) (B,).
        adv_inputs: the images of the next pass.
        best, best_distance: the nearest adversarial image so far and its distance (inf: none yet).
        step: passes of the current stage of the search.
        done: the search has ended; the image is left untouched from then on.
        forwards, backwards: passes so far.
    """

    inputs: Tensor
    labels: Tensor
    adv_inputs: Tensor
    best: Tensor
    best_distance: Tensor
    step: Tensor
    done: Tensor
    forwards: Tensor
    backwards: Tensor

    def select(self: State, chosen: Tensor) -> State:
        """The searches at the given positions (or where a mask is true), as copies."""
        return type(self)(**{entry.name: getattr(self, entry.name)[chosen] for entry in fields(self)})

    def joined(self: State, others: State) -> State:
        """These searches, then the others."""
        names = [entry.name for entry in fields(self)]
        return type(self)(**{name: torch.cat([getattr(self, name), getattr(others, name)]) for name in names})


def new_searches(clean: Clean) -> dict[str, Tensor]:
    """The common fields of searches that have seen the clean image only."""
    passes = torch.ones_like(clean.labels)
    return {
        "inputs": clean.inputs,
        "labels": clean.labels,
        "adv_inputs": clean.inputs.clone(),
        "best": clean.inputs.clone(),
        "best_distance": torch.full_like(clean.margin, torch.inf),
        "step": torch.zeros_like(clean.labels),
        "done": torch.zeros_like(passes, dtype=torch.bool),
        "forwards": passes,
        "backwards": passes * clean.rivals.shape[1],
    }


class Pass(NamedTuple):
    """What a pass showed of ``adv_inputs``; ``active`` and ``adversarial`` are false where the search is done."""

    active: Bool[Tensor, " batch"]
    margin: Float[Tensor, " batch"]
    gradient: Float[Tensor, "batch ..."]
    distance: Float[Tensor, " batch"]
    adversarial: Bool[Tensor, " batch"]


def take_pass(model: AttackedModel, searches: Searches, norm: str, *, soft: bool = False) -> Pass:
    """One forward and one input gradient of every image at work; the nearest adversarial image is kept.

    Args:
        norm: "l2" or "linf", what nearest means.
        soft: the gradient is the cross-entropy's direction instead of the margin's.
    """
    active = ~searches.done
    margins, gradient = model.margin_gradient(searches.adv_inputs, searches.labels, soft=soft)
    searches.forwards += active
    searches.backwards += active
    distance = NORMS[norm](searches.adv_inputs - searches.inputs)
    adversarial = active & margins.adversarial
    track_best(searches.best, searches.best_distance, searches.adv_inputs, distance, adversarial)
    return Pass(active, margins.value, gradient, distance, adversarial)


def cosine_decay(
    step: Int[Tensor, " batch"], steps: int, first: float, last: float, dtype: torch.dtype
) -> Float[Tensor, " batch"]:
    """From ``first`` at step 0 along half a cosine to ``last`` at ``steps``, by each image's own step."""
    share = torch.cos(step.to(dtype) * (torch.pi / steps)) / 2 + 0.5
    return last + (first - last) * share
