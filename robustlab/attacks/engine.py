"""The one engine under all iterative attacks: each image has its own search and leaves when it is done.

An attack gives two functions: ``start`` makes the state of a few images' searches from what the clean images
showed, ``advance`` takes every one of them one pass further, in place and without asking the device for a
number. The engine admits images up to the batch size, advances all of them some passes, takes out those that are
done, and fills up. No decision looks at the batch, so an image's result does not depend on its neighbours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Generic

import torch
from robustlab_kernels import kernels_version
from torch import Tensor, nn

from robustlab.attacks.attacked_model import AttackedModel, attacked
from robustlab.attacks.execution import Engine, Execution
from robustlab.attacks.loops import Advance, EagerLoop, GraphLoop
from robustlab.attacks.preflight import check_inputs, check_labels, check_model, check_precision
from robustlab.attacks.result import AttackResult
from robustlab.attacks.searches import NORMS, Clean, Searches, State, per_image
from robustlab.shapes import Bool, Float, Int

Progress = Callable[[int, int], None]
Start = Callable[[EagerLoop, Clean], State]

# On a CPU 16 to 64 images measured 1.4 times as fast as 256: the activations then stay in the cache.
_BATCH_SIZE = {"cpu": 32}
_BATCH_SIZE_ELSEWHERE = 1024
# Asking a GPU who is done waits for it, and an image that is done costs until then; asking a CPU costs nothing.
_PASSES_BETWEEN_CHECKS = {"cpu": 1}
_PASSES_BETWEEN_CHECKS_ELSEWHERE = 10
# A success that the model as given does not confirm is pushed outwards by these shares of its perturbation.
_PUSHES = (1e-5, 1e-4, 1e-3, 1e-2)
# A network in lower precision takes images for adversarial that are further from it.
_LOW_PRECISION_PUSHES = (*_PUSHES, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

_log = logging.getLogger(__name__)


def run_searches(
    model: nn.Module,
    inputs: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"],
    *,
    targeted: bool,
    norm: str,
    start: Start[State],
    advance: Advance,
    execution: Execution,
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
        torch.OutOfMemoryError: not even one image fits.
    """
    check_inputs(model, inputs, labels)
    check_precision(inputs, execution.precision)
    result = _nothing_found(inputs)
    if len(inputs) == 0:
        return result
    with attacked(model, inputs, targeted=targeted, precision=execution.precision) as attacked_model:
        inputs, labels = _ordinary(inputs.detach()), _ordinary(labels.long())
        check_labels(labels, attacked_model.logits(inputs[:1]).shape[1])
        run = _Run(
            attacked_model, inputs, labels, norm, start, advance, execution, on_progress, rivals, result
        )
        run.to_the_end()
        kernels = kernels_version() if inputs.is_cuda else "reference"
        engine = Engine(run.loop.name, attacked_model.precision, kernels, run.loop.fallback)
    return replace(result, engine=engine)


class _Run(Generic[State]):
    """The images of one attack on their way: waiting, at work, finished."""

    def __init__(
        self,
        model: AttackedModel,
        inputs: Tensor,
        labels: Tensor,
        norm: str,
        start: Start[State],
        advance: Advance,
        execution: Execution,
        on_progress: Progress | None,
        rivals: int,
        result: AttackResult,
    ) -> None:
        self.model, self.inputs, self.labels, self.norm = model, inputs, labels, norm
        self.start, self.advance, self.on_progress = start, advance, on_progress
        self.rivals, self.result, self.execution = rivals, result, execution
        device = inputs.device.type
        self.batch_size = execution.batch_size or _BATCH_SIZE.get(device, _BATCH_SIZE_ELSEWHERE)
        self.passes = execution.passes_between_checks or _PASSES_BETWEEN_CHECKS.get(
            device, _PASSES_BETWEEN_CHECKS_ELSEWHERE
        )
        self.loop = self.new_loop()
        self.waiting = torch.arange(len(inputs))
        self.index = torch.arange(0)  # of the images at work: the first rows of ``held``
        self.held: State | None = None
        self.finished = 0

    def new_loop(self) -> EagerLoop:
        graph = self.execution.loop == "graph" or (
            self.execution.loop == "auto" and self.inputs.device.type == "cuda"
        )
        return GraphLoop(self.model, self.batch_size) if graph else EagerLoop(self.model)

    def to_the_end(self) -> None:
        while self.finished < len(self.inputs):
            try:
                self.admit()
                assert self.held is not None
                self.loop.run(self.held, self.advance, self.passes)
                self.take_out()
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.start_smaller()

    def admit(self) -> None:
        """Fill up from those who wait; few at a time would go through ``start`` in small, slow batches."""
        if len(self.waiting) == 0 or len(self.index) > self.batch_size * 3 // 4:
            return
        room = self.batch_size - len(self.index)
        newcomers = self.waiting[:room]
        place = newcomers.to(self.inputs.device)
        first = not self.finished and not len(self.index)
        inputs = self.model.in_its_layout(self.inputs[place])  # indexing may have rearranged them
        clean, misclassified = _look_at_clean(self.model, inputs, self.labels[place], self.rivals, warn=first)
        arrived = self.start(self.loop, clean)
        _leave_misclassified(arrived, misclassified)
        working = arrived if self.held is None else self.at_work(self.held).joined(arrived)
        self.held = self.loop.hold(working, self.advance)
        self.waiting, self.index = self.waiting[room:], torch.cat([self.index, newcomers])

    def at_work(self, held: State) -> State:
        """The searches without the rows that only fill a buffer."""
        rows = len(self.index)
        return held if len(held.done) == rows else held.select(torch.arange(rows, device=held.done.device))

    def take_out(self) -> None:
        """Confirm and remove the searches that are done, once a pass over the others costs less without them."""
        assert self.held is not None
        done = self.held.done[: len(self.index)].cpu()
        alive = int((~done).sum())
        rows = len(self.held.done)
        room_for_others = len(self.waiting) > 0 and alive <= self.batch_size * 3 // 4
        if not done.any() or not (self.loop.rows_for(alive) < rows or room_for_others or alive == 0):
            return
        working = self.at_work(self.held)
        chosen = done.to(working.done.device)
        _confirm(self.model, self.result, self.index[done], working.select(chosen), self.norm)
        self.finished += int(done.sum())
        self.index, self.held = self.index[~done], None
        if alive:
            self.held = self.loop.hold(working.select(~chosen), self.advance)
        if self.on_progress is not None:
            self.on_progress(self.finished, len(self.inputs))

    def start_smaller(self) -> None:
        """Out of memory: the images at work begin again in half the batch; theirs is the same result there."""
        self.batch_size = max(1, min(self.batch_size, len(self.index) or self.batch_size) // 2)
        _log.warning("out of memory: going on with batches of %d images", self.batch_size)
        self.waiting = torch.cat([self.index, self.waiting])
        self.index, self.held = torch.arange(0), None
        self.loop = self.new_loop()
        if self.inputs.device.type == "cuda":
            torch.cuda.empty_cache()


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
    """The predicted class is what the attacker wants; logits that are not finite predict nothing."""
    predicted = logits.argmax(dim=1)
    wanted = predicted == labels if model.targeted else predicted != labels
    return wanted & logits.isfinite().all(dim=1)


def _confirm(model: AttackedModel, result: AttackResult, index: Tensor, ended: Searches, norm: str) -> None:
    """Write ended searches to the result; success by a fresh forward pass of the image that is returned."""
    index = index.to(result.distance.device)
    found = ended.best_distance < torch.inf
    clean = ended.best_distance == 0
    success = found & (clean | _wanted(model, model.as_given(ended.best), ended.labels))
    ended.forwards += 1
    searched = ended.best.clone()  # each push starts from what the search found, not from the last push
    for push in _PUSHES if model.ieee else _LOW_PRECISION_PUSHES:
        doubtful = (found & ~success).nonzero()[:, 0]
        if len(doubtful) == 0:
            break
        inputs, best = ended.inputs[doubtful], searched[doubtful]
        ended.best[doubtful] = (best + push * (best - inputs)).clamp(0, 1)
        success[doubtful] = _wanted(model, model.as_given(ended.best[doubtful]), ended.labels[doubtful])
        ended.forwards[doubtful] += 1
    distance = NORMS[norm](ended.best - ended.inputs).masked_fill(clean, 0).masked_fill(~success, torch.inf)
    result.adv_inputs[index] = torch.where(per_image(success, ended.inputs), ended.best, ended.inputs)
    result.success[index] = success
    result.distance[index] = distance
    result.forwards[index] = ended.forwards
    result.backwards[index] = ended.backwards
