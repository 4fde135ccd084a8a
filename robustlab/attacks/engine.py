"""The one loop under all iterative attacks: each image has its own search and leaves when it is done.

An attack gives two functions: ``start`` makes the state of a few images' searches from what the clean images
showed, ``advance`` takes every one of them one pass further, in place. The loop admits images up to the batch
size, advances all of them some passes, takes out those that are done, and fills up. No decision looks at the
batch, so an image's result does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor, nn

from robustlab.attacks.attacked_model import AttackedModel, attacked
from robustlab.attacks.preflight import check_inputs, check_labels, check_model
from robustlab.attacks.result import AttackResult
from robustlab.shapes import Bool, Float, Int

Progress = Callable[[int, int], None]
Norm = Callable[[Tensor], Tensor]
State = TypeVar("State", bound="Searches")

# A success must survive another batch size and another order of summation: the margin has to be below minus
# so many roundings of the largest logit.
_ROUNDINGS = 16


def l2_norm(perturbation: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """||.||_2 of each image's perturbation."""
    return perturbation.flatten(1).norm(dim=1)


def linf_norm(perturbation: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """||.||_inf of each image's perturbation."""
    return perturbation.flatten(1).abs().amax(dim=1)


def is_adversarial(
    logits: Float[Tensor, "batch classes"], margin: Float[Tensor, " batch"]
) -> Bool[Tensor, " batch"]:
    """The margin is below zero by more than rounding."""
    rounding = _ROUNDINGS * torch.finfo(logits.dtype).eps
    return margin < -rounding * logits.abs().amax(dim=1)


@dataclass
class Clean:
    """What one pass over the clean images showed: the margin (negative: misclassified), its gradient."""

    inputs: Float[Tensor, "batch ..."]
    labels: Int[Tensor, " batch"]
    margin: Float[Tensor, " batch"]
    gradient: Float[Tensor, "batch ..."]


@dataclass
class Searches:
    """The images at work: every field's first dimension is the image. Attacks add their own state.

    Attributes:
        inputs, labels: the clean images (B, ...) and their labels (or targets) (B,).
        best, best_distance: the nearest adversarial image so far and its distance (inf: none yet).
        done: the search has ended; the image is left untouched from then on.
        forwards, backwards: passes so far.
    """

    inputs: Tensor
    labels: Tensor
    best: Tensor
    best_distance: Tensor
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
    count = torch.ones_like(clean.labels)
    return {
        "inputs": clean.inputs,
        "labels": clean.labels,
        "best": clean.inputs.clone(),
        "best_distance": torch.full_like(clean.margin, torch.inf),
        "done": torch.zeros_like(count, dtype=torch.bool),
        "forwards": count,
        "backwards": count.clone(),
    }


def run_searches(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    *,
    targeted: bool,
    norm: Norm,
    start: Callable[[AttackedModel, Clean], State],
    advance: Callable[[AttackedModel, State], None],
    on_progress: Progress | None,
    batch_size: int | None = None,
    passes_between_checks: int = 10,
) -> AttackResult:
    """Run every image's search to its end and confirm the outcome with a fresh forward pass.

    Args:
        start, advance: the attack (see the module's docstring). ``start`` may not change what it is given.
        norm: of a perturbation, the attack's distance.
        batch_size: images at work at once; measured defaults where None.
        passes_between_checks: how often the searches are asked who is done (a device-to-host sync on a GPU).

    Raises:
        InputError: see :func:`robustlab.attacks.preflight.check_inputs`.
    """
    check_inputs(model, inputs, labels)
    result = _nothing_found(inputs)
    if len(inputs) == 0:
        return result
    batch_size = batch_size or _default_batch_size(inputs)
    total, admitted, finished = len(inputs), 0, 0
    with attacked(model, targeted=targeted) as attacked_model:
        inputs, labels = _ordinary(inputs.detach()), _ordinary(labels.long())
        check_labels(labels, attacked_model.logits(inputs[:1]).shape[1])
        working: State | None = None
        index = torch.arange(0)
        while admitted < total or working is not None:
            if admitted < total and (working is None or len(index) < batch_size):
                room = slice(admitted, admitted + batch_size - (0 if working is None else len(index)))
                admitted = min(room.stop, total)
                clean, misclassified, logits = _look_at_clean(attacked_model, inputs[room], labels[room])
                if room.start == 0:
                    check_model(logits, clean.gradient)
                arrived = start(attacked_model, clean)
                arrived.done |= misclassified
                arrived.best_distance.masked_fill_(misclassified, 0)
                working = arrived if working is None else working.joined(arrived)
                index = torch.cat([index, torch.arange(room.start, admitted)])
            assert working is not None
            for _ in range(passes_between_checks):
                advance(attacked_model, working)
            done = working.done.cpu()
            if done.any():
                _confirm(attacked_model, result, index[done], working.select(working.done), norm)
                finished += int(done.sum())
                working = None if done.all() else working.select(~working.done)
                index = index[~done]
                if on_progress is not None:
                    on_progress(finished, total)
    return result


def _nothing_found(inputs: Tensor) -> AttackResult:
    """A result to fill in: the clean images, no success."""
    rows = inputs.shape[0]
    return AttackResult(
        adv_inputs=inputs.detach().clone(),
        success=torch.zeros(rows, dtype=torch.bool, device=inputs.device),
        distance=torch.full((rows,), torch.inf, dtype=inputs.dtype, device=inputs.device),
        forwards=torch.zeros(rows, dtype=torch.long, device=inputs.device),
        backwards=torch.zeros(rows, dtype=torch.long, device=inputs.device),
    )


def _default_batch_size(inputs: Tensor) -> int:
    """On a CPU 32: 16 to 64 measured 1.4 times as fast as 256, the activations then stay in the cache."""
    return 32 if inputs.device.type == "cpu" else 1024


def _ordinary(tensor: Tensor) -> Tensor:
    """A tensor made in inference mode cannot take part in autograd; its copy can."""
    return tensor.clone() if tensor.is_inference() else tensor


def _look_at_clean(
    model: AttackedModel, inputs: Tensor, labels: Tensor
) -> tuple[Clean, Bool[Tensor, " batch"], Tensor]:
    """One pass over clean images; misclassified as accuracy counts it, by the first of the highest logits."""
    logits, margins, gradient = model.margin_gradient(inputs, labels)
    wrong = logits.argmax(dim=1) != labels
    return Clean(inputs, labels, margins.value, gradient), ~wrong if model.targeted else wrong, logits


def _confirm(model: AttackedModel, result: AttackResult, index: Tensor, ended: Searches, norm: Norm) -> None:
    """Write ended searches to the result; success by a fresh forward pass of the image that is returned."""
    index = index.to(result.distance.device)
    found = ended.best_distance < torch.inf
    clean = ended.best_distance == 0
    logits = model.logits(ended.best)
    wrong = logits.argmax(dim=1) != ended.labels
    success = found & (clean | (~wrong if model.targeted else wrong))
    distance = norm(ended.best - ended.inputs).masked_fill(clean, 0).masked_fill(~success, torch.inf)
    per_image = (-1,) + (1,) * (ended.inputs.dim() - 1)
    result.adv_inputs[index] = torch.where(success.view(per_image), ended.best, ended.inputs)
    result.success[index] = success
    result.distance[index] = distance
    result.forwards[index] = ended.forwards + 1
    result.backwards[index] = ended.backwards
