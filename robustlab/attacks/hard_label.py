"""A search that looks at the predicted class alone: a second opinion where gradients may lead astray."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from robustlab.attacks.execution import arithmetic
from robustlab.attacks.result import AttackResult
from robustlab.attacks.searches import NORMS, per_image
from robustlab.errors import InputError
from robustlab.shapes import Bool, Float, Int

# Images of other classes that each image is blended towards, halvings of the blend, levels of ever smaller blocks.
_NEIGHBOURS = 2
_HALVINGS = 5
_LEVELS = 3
# In Linf a block's new sign has to succeed at a radius that is smaller by this share.
_SMALLER = 0.04


def hard_label(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    others: Float[Tensor, "others ..."],
    norm: str,
) -> AttackResult:
    """A cheap minimum-norm attack without gradients, of about 45 forward passes.

    Source: after RayS (Chen and Gu 2020, arXiv:2006.12792), which finds models whose robustness to gradient attacks is
    false. The start is not a random direction but the nearest of ``others`` that the model puts in another class.
    Then blocks of pixels, halved three times over: in L2 a block goes back to the clean image, in Linf its sign is
    turned; what keeps the image adversarial is kept, and the radius bisected anew.

    It finds no minimum; it proves that an adversarial image is no further away than this.

    Args:
        model: returns logits, in evaluation mode.
        inputs: (B, ...), pixels in [0, 1].
        labels: (B,), the true classes.
        others: (M, ...), images to blend towards; those that the model puts in an image's own class are not used.
        norm: "l2" or "linf".

    Returns:
        AttackResult as every attack's; ``backwards`` is 0.

    Raises:
        InputError: an unknown norm.
    """
    if norm not in NORMS:
        raise InputError(f"the norm is {norm!r}; choose from {', '.join(NORMS)}")
    with torch.no_grad(), arithmetic("ieee", inputs.device):
        search = _Search(model, inputs, labels, norm)
        wrong = search.adversarial(inputs)
        for start in _nearest(model, inputs, labels, others, norm):
            search.blend(start)
        for level in range(1, _LEVELS + 1):
            search.move_blocks(2**level)
            search.bisect()
        best = (inputs + search.perturbation).clamp(0, 1)
        success = (search.found & search.adversarial(best)) | wrong
        clean = per_image(wrong | ~success, inputs)
        best = torch.where(clean, inputs, best)
        distance = NORMS[norm](best - inputs).masked_fill(~success, torch.inf).masked_fill(wrong, 0)
    passes = torch.full_like(labels, search.forwards)
    return AttackResult(best, success, distance, passes, torch.zeros_like(passes))


class _Search:
    """The smallest perturbation so far of every image, and the class alone to go by."""

    def __init__(self, model: nn.Module, inputs: Tensor, labels: Tensor, norm: str) -> None:
        self.model, self.inputs, self.labels, self.norm = model, inputs, labels, norm
        self.perturbation = torch.zeros_like(inputs)
        self.found = torch.zeros(inputs.shape[0], dtype=torch.bool, device=inputs.device)
        self.forwards = 0

    def adversarial(self, images: Tensor) -> Bool[Tensor, " batch"]:
        """Whether the model's class is another one; logits that are not finite are no class."""
        self.forwards += 1
        logits = self.model(images)
        return (logits.argmax(dim=1) != self.labels) & logits.isfinite().all(dim=1)

    def keep(self, perturbation: Tensor, adversarial: Tensor) -> None:
        """Take over what is adversarial and nearer than before."""
        measure = NORMS[self.norm]
        nearer = adversarial & (~self.found | (measure(perturbation) < measure(self.perturbation)))
        self.perturbation = torch.where(per_image(nearer, self.inputs), perturbation, self.perturbation)
        self.found = self.found | nearer

    def blend(self, start: Tensor) -> None:
        """Bisect the way from the clean images to ``start`` (B, ...), rows of NaN: no start."""
        there = ~start.flatten(1).isnan().any(dim=1)
        towards = torch.where(per_image(there, start), start - self.inputs, torch.zeros_like(start))
        self._bisect(towards, there)

    def bisect(self) -> None:
        """Shrink the best perturbation along its own ray."""
        self._bisect(self.perturbation.clone(), self.found.clone())

    def _bisect(self, towards: Tensor, valid: Tensor) -> None:
        """``towards`` is adversarial, or is taken for it; Linf clips it, so that all its pixels move alike."""
        largest = NORMS[self.norm](towards)
        low, high = torch.zeros_like(largest), torch.ones_like(largest)
        for halving in range(_HALVINGS + 1):
            share = high if halving == 0 else (low + high) / 2
            if self.norm == "l2":
                tried = per_image(share, towards) * towards
            else:
                radius = per_image(share * largest, towards)
                tried = torch.minimum(torch.maximum(towards, -radius), radius)
            adversarial = valid & self.adversarial(self.inputs + tried)
            self.keep(tried, adversarial)
            low, high = torch.where(adversarial, low, share), torch.where(adversarial, share, high)

    def move_blocks(self, count: int) -> None:
        """Move each of ``count`` blocks of pixels and keep what stays adversarial and comes nearer."""
        pixels = self.inputs[0].numel() if self.inputs.shape[0] else 0
        edges = [round(pixels * k / count) for k in range(count + 1)]
        for first, last in pairwise(edges):
            if first == last:
                continue
            moved = self.perturbation.flatten(1).clone()
            if self.norm == "l2":
                moved[:, first:last] = 0
            else:
                radius = moved.abs().amax(dim=1, keepdim=True)
                moved[:, first:last] = -moved[:, first:last].sign() * radius
                moved = moved.clamp(-(1 - _SMALLER) * radius, (1 - _SMALLER) * radius)
            tried = (self.inputs + moved.view_as(self.inputs)).clamp(0, 1) - self.inputs
            self.keep(tried, self.found & self.adversarial(self.inputs + tried))


def _nearest(model: nn.Module, inputs: Tensor, labels: Tensor, others: Tensor, norm: str) -> list[Tensor]:
    """A few starts for each image, nearest first: (B, ...) each, NaN where there are no more."""
    if others.shape[0] == 0 or inputs.shape[0] == 0:
        return []
    predicted = torch.cat([model(part).argmax(dim=1) for part in others.split(64)])
    distance = torch.stack([NORMS[norm](others - image) for image in inputs])
    distance = distance.masked_fill(predicted[None, :] == labels[:, None], torch.inf)
    nearest = distance.topk(min(_NEIGHBOURS, others.shape[0]), dim=1, largest=False)
    starts = []
    for index, how_far in zip(nearest.indices.T, nearest.values.T, strict=True):
        starts.append(others[index].masked_fill(per_image(how_far.isinf(), inputs), torch.nan))
    return starts
