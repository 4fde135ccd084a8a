"""Count, time and judge one run of one contender."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from benchmarks.contenders import Contender
from robustlab.attacks import AttackResult


class Counter(nn.Module):
    """The identity, counting images on their way forward and gradients on their way back.

    torch.fx leaves modules of torch's own namespace alone when it traces a model, and copies of a counter are the
    counter itself: a library that attacks a traced copy of the model (robustlab folds batch normalisation in one)
    is counted as well.
    """

    __module__ = "torch.nn.counted"

    def __init__(self, before_forward: Callable[[], None] | None) -> None:
        super().__init__()
        self.before_forward = before_forward
        self.forwards = 0
        self.backwards = 0

    def __deepcopy__(self, memo: object) -> Counter:
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        if self.before_forward is not None:
            self.before_forward()
        self.forwards += len(inputs)
        if torch.is_grad_enabled() and inputs.requires_grad:
            inputs = inputs.view_as(inputs)  # a node of this pass's own: a leaf may take part in several
            inputs.register_hook(self._count_backward)
        return inputs

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


class CountedModel(nn.Module):
    """A model that counts the images passing forward and the input gradients coming back.

    Args:
        before_forward: called before each forward pass, outside of what is counted.
    """

    def __init__(self, model: nn.Module, before_forward: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.counter = Counter(before_forward)
        self.model = model
        self.train(model.training)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(self.counter(inputs))

    @property
    def forwards(self) -> int:
        """Images that passed forward."""
        return self.counter.forwards

    @property
    def backwards(self) -> int:
        """Images whose gradient came back."""
        return self.counter.backwards


@dataclass
class BarePasses:
    """What passes cost without any attack around them: the yardstick, at the batch size that is fastest here.

    ``forward_s``, ``pass_s``: samples of CPU seconds per image of a forward pass, and of one with the input's
    gradient.
    """

    model: nn.Module
    inputs: Tensor
    forward_s: list[float] = field(default_factory=list)
    pass_s: list[float] = field(default_factory=list)

    @classmethod
    def at_best_batch_size(
        cls, model: nn.Module, inputs: Tensor, batch_sizes: tuple[int, ...] = (8, 16, 32, 64, 128)
    ) -> BarePasses:
        """Try the batch sizes that the images allow, three times each."""
        candidates = [cls(model, inputs[:size]) for size in batch_sizes if size <= len(inputs)]
        candidates = candidates or [cls(model, inputs)]
        for _ in range(4):
            for candidate in candidates:
                candidate.sample()
        best = min(candidates, key=lambda candidate: min(candidate.pass_s[1:]))
        return cls(model, best.inputs)

    def sample(self) -> None:
        """Time one batch forward, and one forward and back."""
        inputs, batch = self.inputs.detach(), len(self.inputs)
        with torch.inference_mode(False):
            started = time.process_time()
            with torch.no_grad():
                logits = self.model(inputs)
            forward = time.process_time()
            with torch.enable_grad():
                inputs = inputs.requires_grad_()
                torch.autograd.grad(self.model(inputs), inputs, torch.ones_like(logits))
            ended = time.process_time()
        self.forward_s.append((forward - started) / batch)
        self.pass_s.append((ended - forward) / batch)

    def fresh(self) -> BarePasses:
        """The same batch, no samples yet."""
        return BarePasses(self.model, self.inputs)

    @property
    def mean_pass_s(self) -> float:
        """Mean of the samples, CPU seconds per image."""
        return sum(self.pass_s) / len(self.pass_s)

    def time_for(self, forwards: float, backwards: float) -> float:
        """CPU seconds of so many forwards and input gradients; gradients may outnumber the forwards."""
        forward = sum(self.forward_s) / len(self.forward_s)
        return forwards * forward + backwards * (self.mean_pass_s - forward)


class OutOfTime(RuntimeError):
    """A contender used more than its time."""


class Stopwatch:
    """CPU and wall-clock seconds, which can be halted; at most ``limit_s`` of CPU."""

    def __init__(self, limit_s: float = float("inf")) -> None:
        self.limit_s = limit_s
        self._cpu_s = self._wall_s = 0.0
        self._since: tuple[float, float] | None = None

    def start(self) -> None:
        """Go on counting."""
        self._since = time.process_time(), time.perf_counter()

    def halt(self) -> None:
        """Stop counting until the next start."""
        self._cpu_s, self._wall_s = self.cpu_s, self.wall_s
        self._since = None

    @property
    def cpu_s(self) -> float:
        """CPU seconds so far."""
        return self._cpu_s + (time.process_time() - self._since[0] if self._since else 0.0)

    @property
    def wall_s(self) -> float:
        """Wall-clock seconds so far."""
        return self._wall_s + (time.perf_counter() - self._since[1] if self._since else 0.0)

    def check(self) -> None:
        """Raise OutOfTime past the limit."""
        if self.cpu_s > self.limit_s:
            raise OutOfTime(f"stopped after {self.limit_s:g} s of CPU time")


@dataclass(frozen=True)
class Run:
    """One run of one contender; counts and seconds per image, ``distances`` one per image (inf: no success).

    ``over_bare`` is the time over that of the same passes without an attack; ``worth`` the time in passes.
    ``claimed``: share of images with another label, whatever else is wrong with them. ``own_forwards``,
    ``own_backwards``: what AttackResult says (None for peers); less than the wrapper's by finished images that
    were still in a batch.
    """

    distances: list[float]
    claimed: float
    forwards: float
    backwards: float
    cpu_s: float
    wall_s: float
    over_bare: float
    worth: float
    bare_pass_s: float
    own_forwards: float | None = None
    own_backwards: float | None = None


def run(
    contender: Contender,
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    bare: BarePasses,
    *,
    limit_s: float = float("inf"),
    sample_every_s: float = 0.5,
) -> Run:
    """Attack the images once, with bare passes sampled before, after and in between (the clock is halted then).

    Raises:
        OutOfTime: past ``limit_s``. And whatever the contender raises.
    """
    bare = bare.fresh()
    bare.sample()
    # Sampling takes at most an eighth of the time.
    interval = max(sample_every_s, 8 * len(bare.inputs) * (bare.forward_s[0] + bare.pass_s[0]))
    watch, next_sample = Stopwatch(limit_s), interval

    def between() -> None:
        nonlocal next_sample
        watch.check()
        if watch.cpu_s >= next_sample:
            watch.halt()
            bare.sample()
            next_sample = watch.cpu_s + interval
            watch.start()

    counted = CountedModel(model, between)
    torch.manual_seed(0)
    watch.start()
    try:
        returned = contender.attack(counted, inputs, labels)
        watch.halt()
    finally:
        model.zero_grad(set_to_none=True)  # some peers leave weight gradients behind
        model.eval()
    bare.sample()
    own_forwards = own_backwards = None
    if isinstance(returned, AttackResult):
        own_forwards = returned.forwards.double().mean().item()
        own_backwards = returned.backwards.double().mean().item()
        returned = returned.adv_inputs
    distances, claimed = judge(model, inputs, labels, returned, contender.norm)
    count = len(inputs)
    return Run(
        distances=distances,
        claimed=claimed,
        forwards=counted.forwards / count,
        backwards=counted.backwards / count,
        cpu_s=watch.cpu_s / count,
        wall_s=watch.wall_s / count,
        over_bare=_ratio(watch.cpu_s, bare.time_for(counted.forwards, counted.backwards)),
        worth=_ratio(watch.cpu_s / count, bare.mean_pass_s),
        bare_pass_s=bare.mean_pass_s,
        own_forwards=own_forwards,
        own_backwards=own_backwards,
    )


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else 0.0  # no pass at all was made


@torch.no_grad()
def judge(
    model: nn.Module, inputs: Tensor, labels: Tensor, adv_inputs: Tensor, norm: str, batch_size: int = 17
) -> tuple[list[float], float]:
    """Distances of the returned images, inf where there is no success, and the share with another label.

    A success is adversarial in a fresh float32 forward pass (at a batch size that no contender used), lies in
    [0, 1] up to rounding, and is not the all-black image with which foolbox says that it found nothing.
    """
    adv_inputs = adv_inputs.detach().float()
    logits = torch.cat([model(part) for part in adv_inputs.split(batch_size)])
    wrong = logits.argmax(dim=1) != labels
    flat = adv_inputs.flatten(1)
    in_box = (flat >= -1e-6).all(dim=1) & (flat <= 1 + 1e-6).all(dim=1)  # false for NaN as well
    given_up = (flat == 0).all(dim=1) & (inputs.flatten(1) != 0).any(dim=1)
    perturbation = flat - inputs.flatten(1)
    distance = perturbation.norm(dim=1) if norm == "l2" else perturbation.abs().amax(dim=1)
    distance = distance.masked_fill(~(wrong & in_box & ~given_up), torch.inf)
    return distance.tolist(), wrong.float().mean().item()
