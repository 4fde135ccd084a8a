"""The one loop under all iterative attacks: each image has its own search and leaves when it is done.

An attack gives two functions: ``start`` makes the state of a few images' searches from what the clean images
showed, ``advance`` takes every one of them one pass further, in place. The loop admits images up to the batch
size, advances all of them some passes, takes out those that are done, and fills up. No decision looks at the
batch, so an image's result does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustlab.attacks.attacked_model import AttackedModel, attacked
from robustlab.attacks.preflight import check_inputs, check_labels, check_model
from robustlab.attacks.result import AttackResult
from robustlab.attacks.searches import NORMS, Clean, Searches, State, per_image
from robustlab.shapes import Bool, Float, Int

Progress = Callable[[int, int], None]
Start = Callable[[AttackedModel, Clean], State]
Advance = Callable[[AttackedModel, State], None]

# On a CPU 16 to 64 images measured 1.4 times as fast as 256: the activations then stay in the cache.
_BATCH_SIZE = {"cpu": 32}
_BATCH_SIZE_ELSEWHERE = 1024
# Asking a GPU who is done waits for it, and an image that is done costs until then; asking a CPU costs nothing.
_PASSES_BETWEEN_CHECKS = {"cpu": 1}
_PASSES_BETWEEN_CHECKS_ELSEWHERE = 10
# A success that the model as given does not confirm is pushed outwards by these shares of its perturbation.
_PUSHES = (1e-5, 1e-4, 1e-3, 1e-2)


def run_searches(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    *,
    targeted: bool,
    norm: str,
    start: Start[State],
    advance: Advance[State],
    on_progress: Progress | None,
    rivals: int = 1,
) -> AttackResult:
    """Run every image's search to its end and confirm the outcome with a fresh forward pass.

    Args:
        norm: "l2" or "linf", the attack's distance.
        start, advance: the attack (see the module's docstring). ``start`` may not change what it is given.
        rivals: to how many other classes the clean image's margin and gradient are wanted.

    Raises:
        InputError: see :func:`robustlab.attacks.preflight.check_inputs`.
    """
    check_inputs(model, inputs, labels)
    result = _nothing_found(inputs)
    total, admitted, finished = len(inputs), 0, 0
    if total == 0:
        return result
    device = inputs.device.type
    batch_size = _BATCH_SIZE.get(device, _BATCH_SIZE_ELSEWHERE)
    passes = _PASSES_BETWEEN_CHECKS.get(device, _PASSES_BETWEEN_CHECKS_ELSEWHERE)
    with attacked(model, inputs, targeted=targeted) as attacked_model:
        inputs, labels = _ordinary(inputs.detach()), _ordinary(labels.long())
        check_labels(labels, attacked_model.logits(inputs[:1]).shape[1])
        working: State | None = None
        index = torch.arange(0)
        while finished < total:
            # Few newcomers at a time would go through ``start`` in small, slow batches.
            if admitted < total and len(index) <= batch_size * 3 // 4:
                newcomers = torch.arange(admitted, min(admitted + batch_size - len(index), total))
                first, admitted = admitted, admitted + len(newcomers)
                clean, misclassified = _look_at_clean(
                    attacked_model, inputs[first:admitted], labels[first:admitted], rivals, warn=first == 0
                )
                arrived = start(attacked_model, clean)
                _leave_misclassified(arrived, misclassified)
                working = arrived if working is None else working.joined(arrived)
                index = torch.cat([index, newcomers])
            assert working is not None
            for _ in range(passes):
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


def _ordinary(tensor: Tensor) -> Tensor:
    """A tensor made in inference mode cannot take part in autograd; its copy can."""
    return tensor.clone() if tensor.is_inference() else tensor


def _look_at_clean(
    model: AttackedModel, inputs: Tensor, labels: Tensor, rivals: int, *, warn: bool
) -> tuple[Clean, Bool[Tensor, " batch"]]:
    """A pass over clean images, and which are misclassified as accuracy counts it (first highest logit)."""
    logits, others, gradients = model.rival_gradients(inputs, labels, rivals)
    if warn:
        check_model(logits, gradients[0])
    sign = -1.0 if model.targeted else 1.0
    margins = sign * (logits.gather(1, labels[:, None]) - logits.gather(1, others))
    return Clean(inputs, labels, others, margins, gradients), _wanted(model, logits, labels)


def _leave_misclassified(searches: Searches, misclassified: Bool[Tensor, " batch"]) -> None:
    """An image that is already misclassified is done, at distance 0."""
    searches.done |= misclassified
    searches.best_distance.masked_fill_(misclassified, 0)
    searches.best.copy_(torch.where(per_image(misclassified, searches.best), searches.inputs, searches.best))


def _wanted(model: AttackedModel, logits: Tensor, labels: Tensor) -> Bool[Tensor, " batch"]:
    """The predicted class is what the attacker wants."""
    predicted = logits.argmax(dim=1)
    return predicted == labels if model.targeted else predicted != labels


def _confirm(model: AttackedModel, result: AttackResult, index: Tensor, ended: Searches, norm: str) -> None:
    """Write ended searches to the result; success by a fresh forward pass of the image that is returned."""
    index = index.to(result.distance.device)
    found = ended.best_distance < torch.inf
    clean = ended.best_distance == 0
    success = found & (clean | _wanted(model, model.as_given(ended.best), ended.labels))
    ended.forwards += 1
    for push in _PUSHES:
        doubtful = (found & ~success).nonzero()[:, 0]
        if len(doubtful) == 0:
            break
        inputs, best = ended.inputs[doubtful], ended.best[doubtful]
        ended.best[doubtful] = (best + push * (best - inputs)).clamp(0, 1)
        success[doubtful] = _wanted(model, model.as_given(ended.best[doubtful]), ended.labels[doubtful])
        ended.forwards[doubtful] += 1
    distance = NORMS[norm](ended.best - ended.inputs).masked_fill(clean, 0).masked_fill(~success, torch.inf)
    result.adv_inputs[index] = torch.where(per_image(success, ended.inputs), ended.best, ended.inputs)
    result.success[index] = success
    result.distance[index] = distance
    result.forwards[index] = ended.forwards
    result.backwards[index] = ended.backwards
