"""Arguments for every operator, with everything in them that has ever gone wrong in a kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from robustlab_kernels import cw_start, cw_step, ifgsm_step, margin, ray_step, search_update, track_best
from torch import Tensor

LENGTHS = (1, 63, 1000, 3 * 32 * 32 + 1)
BATCH = 7
HUGE, STILL, INACTIVE = 4, 5, 6  # images: huge gradients, no gradient, left untouched by every operator


@dataclass
class Case:
    """A call of an operator.

    Attributes:
        operator: takes the arguments and ``backend``.
        arguments: float32, in the operator's order, by name.
        changed: the arguments that it changes.
        rounds: whether it computes anything that float32 has to round differently from torch's order of operations;
            else the two passes agree bit by bit.
    """

    name: str
    operator: Callable[..., Any]
    arguments: dict[str, Tensor]
    changed: tuple[str, ...] = ()
    rounds: bool = True

    def __str__(self) -> str:
        return self.name

    def run(
        self, backend: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """What the operator returns and what it left in the arguments that it changes, on the CPU."""
        with poisoned_memory():
            arguments = {
                name: value.to(device, dtype if value.is_floating_point() else None, copy=True)
                for name, value in self.arguments.items()
            }
            returned = self.operator(*arguments.values(), backend=backend)
        if not isinstance(returned, tuple):
            returned = () if returned is None else (returned,)
        results = {f"returned {position}": value for position, value in enumerate(returned)}
        results |= {name: arguments[name] for name in self.changed}
        return {name: value.cpu() for name, value in results.items()}

    def of_images(self, chosen: list[int]) -> Case:
        """The same call with these images only."""
        return self.with_arguments(lambda name, value: value[chosen])

    def with_arguments(self, change: Callable[[str, Tensor], Tensor]) -> Case:
        """The same call with other arguments."""
        arguments = {name: change(name, value) for name, value in self.arguments.items()}
        return Case(self.name, self.operator, arguments, self.changed, self.rounds)


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """Every empty tensor is filled with NaN: a result that the kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.ones(1).new_empty(1).isnan()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def per_image(low: float, high: float) -> Tensor:
    return torch.empty(BATCH).uniform_(low, high)


def active() -> Tensor:
    return torch.arange(BATCH) != INACTIVE


def images(length: int) -> Tensor:
    """Pixels in [0, 1], some of them exactly 0 and exactly 1."""
    pixels = torch.rand(BATCH, length)
    pixels[torch.rand(BATCH, length) < 0.1] = 0
    pixels[torch.rand(BATCH, length) < 0.1] = 1
    return pixels


def gradients(length: int) -> Tensor:
    gradient = torch.randn(BATCH, length)
    gradient[torch.rand(BATCH, length) < 0.1] = 0
    gradient[HUGE] *= 1e15
    gradient[STILL] = 0
    return gradient


def cw_case(length: int) -> Case:
    w = 2 * torch.randn(BATCH, length)
    w[torch.rand(BATCH, length) < 0.1] = -100  # where float32 has x = 0
    w[torch.rand(BATCH, length) < 0.1] = 100
    first, second = torch.randn(BATCH, length) / 10, torch.rand(BATCH, length) / 10
    step = torch.tensor([1, 2, 17, 1000, 3, 5, 9])
    first[step == 1] = second[step == 1] = 0
    arguments = {
        "w": w,
        "adv_inputs": torch.sigmoid(2 * w),
        "first_moment": first,
        "second_moment": second,
        "inputs": images(length),
        "gradient": gradients(length),
        "const": per_image(0.01, 10),
        "step": step,
        "learning_rate": per_image(0.001, 0.1),
        "active": active(),
    }
    return Case("cw_step", cw_step, arguments, ("w", "adv_inputs", "first_moment", "second_moment"))


def start_case(length: int) -> Case:
    arguments = cw_case(length).arguments
    names = ("w", "adv_inputs", "first_moment", "second_moment")
    arguments = {name: arguments[name] for name in names}
    arguments["squared_l2"] = per_image(0, 1)
    arguments["inputs"] = images(length)
    arguments["origin"] = images(length)
    arguments["begins"] = active()
    changed = (*names, "squared_l2")
    return Case("cw_start", partial(_with_inside, cw_start), arguments, changed)


def _with_inside(operator: Callable[..., None], *arguments: Tensor, backend: str) -> None:
    operator(*arguments, 0.999, backend=backend)


def ifgsm_case(length: int) -> Case:
    inputs = images(length)
    arguments = {
        "adv_inputs": (inputs + torch.empty_like(inputs).uniform_(-0.1, 0.1)).clamp(0, 1),
        "inputs": inputs,
        "gradient": gradients(length),
        "step_size": per_image(0.01, 0.1),
        "epsilon": per_image(0.05, 0.2),
        "active": active(),
    }
    arguments["epsilon"][INACTIVE] = 0.001  # outside its ball, and left there
    arguments["epsilon"][STILL] = 1  # nothing moves this image: it has not changed
    return Case("ifgsm_step", ifgsm_step, arguments, ("adv_inputs",), rounds=False)


def track_best_case(length: int) -> Case:
    arguments = {
        "best": images(length),
        "best_distance": torch.tensor([1.0, 1.0, 1.0, torch.inf, 2.0, 1.0, 1.0]),
        "adv_inputs": images(length),
        "distance": torch.tensor([0.5, 1.0, 2.0, 3.0, 1.0, torch.nan, 0.5]),
        "adversarial": active(),
    }
    return Case("track_best", track_best, arguments, ("best", "best_distance"), rounds=False)


def search_case() -> Case:
    arguments = {
        "value": torch.tensor([1.0, 1.0, 4.0, 7.0, 3.0, 5.0, 2.0]),
        "low": torch.tensor([0.0, 0.0, 2.0, 6.0, 0.3, 0.0, 1.0]),
        "high": torch.tensor([torch.inf, torch.inf, 8.0, 9.0, 2.0, 5.1, 3.0]),
        "succeeded": torch.tensor([False, True, False, True, True, False, True]),
        "decided": active(),
    }
    operator = partial(_with_growth, search_update)
    return Case("search_update", operator, arguments, ("value", "low", "high"), rounds=False)


def _with_growth(operator: Callable[..., None], *arguments: Tensor, backend: str) -> None:
    operator(*arguments, 10.0, backend=backend)


def ray_case(length: int) -> Case:
    inputs, gradient = images(length), gradients(length)
    x = (inputs + 0.1 * torch.randn(BATCH, length)).clamp(0, 1)
    x[0] = inputs[0]  # a ray of no length
    turn, inside, limit = per_image(0.3, 1.8), per_image(0, 0.02), per_image(0.2, 0.4)
    arguments = {
        "adv_inputs": x,
        "inputs": inputs,
        "margin": _margin_that_ends(x, inputs, gradient, turn, inside, limit),
        "gradient": gradient,
        "turn": turn,
        "inside": inside,
        "limit": limit,
    }
    arguments["margin"][1] = -1e3  # far outside: the limit stops it
    return Case("ray_step", ray_step, arguments)


def _margin_that_ends(
    x: Tensor, inputs: Tensor, gradient: Tensor, turn: Tensor, inside: Tensor, limit: Tensor
) -> Tensor:
    """The margin whose zero on the ray lies half the limit out or in, so that Newton's steps decide the radius."""
    half = 0.5 * torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0, 1.0, -1.0])
    towards = [
        ray_step(x, inputs, s * torch.ones(BATCH), gradient, turn, inside, half.abs() * limit)
        for s in (1e30, -1e30)
    ]
    end = torch.where((half > 0)[:, None], *towards)
    offset = x - inputs
    aimed = inside * gradient.norm(dim=1) * offset.norm(dim=1)
    return (gradient * (x - end)).sum(dim=1) - aimed


def margin_case(classes: int, *, targeted: bool, soft: bool, confidence: float = 0.0) -> Case:
    logits = 5 * torch.randn(BATCH, classes)
    logits[HUGE] *= 1e15
    logits[STILL] = 0  # all classes tie
    labels = torch.randint(classes, (BATCH,))
    labels[0], labels[1], labels[2] = 0, classes - 1, logits[2].argmax()
    logits[2, labels[2]] += 10  # a target that is reached
    operator = partial(_margin, targeted=targeted, soft=soft, confidence=confidence)
    name = f"margin targeted={targeted} soft={soft}"
    return Case(name, operator, {"logits": logits, "labels": labels}, rounds=soft)


def _margin(*arguments: Tensor, **settings: Any) -> tuple[Tensor, ...]:
    return tuple(margin(*arguments, **settings))


def all_cases(length: int) -> list[Case]:
    """Every operator, with rows of so many pixels (or classes, of which there are two at least)."""
    torch.manual_seed(length)
    margins = [
        margin_case(max(length, 2), targeted=targeted, soft=soft, confidence=confidence)
        for targeted, soft, confidence in [
            (False, False, 0.0),
            (True, False, 1.5),
            (False, True, 1.5),
            (True, True, 0.0),
        ]
    ]
    return [
        cw_case(length),
        start_case(length),
        ifgsm_case(length),
        track_best_case(length),
        search_case(),
        ray_case(length),
        *margins,
    ]


def assert_near_truth(case: Case, got: dict[str, Tensor], *, ulps: float = 4) -> None:
    """Element by element, got is at most twice as far from the float64 truth as torch in float32, and a few ulp.

    The ulp are those of the result, and what the result moves by where the arguments move by one: a sum of large
    terms that cancel cannot be known better. Pixels at the box's edges stay there. Whole numbers and bools, and
    operators that do not round, are equal to torch's in float32.
    """
    plain, truth = case.run("reference"), case.run("reference", dtype=torch.float64)
    eps = torch.finfo(torch.float32).eps
    nearby = [
        case.with_arguments(partial(_moved_by_an_ulp, eps=sign * eps)).run("reference", dtype=torch.float64)
        for sign in (1, -1, *[0] * 8)
    ]
    assert got.keys() == truth.keys()
    for name, value in got.items():
        label = f"{case}: {name}"
        if not value.is_floating_point() or not case.rounds:
            torch.testing.assert_close(
                value, plain[name], rtol=0, atol=0, equal_nan=True, msg=f"{label} differs"
            )
            continue
        exact = truth[name]
        assert torch.equal(value.isnan(), exact.isnan()), f"{label}: NaN elsewhere"
        spread = torch.stack([(other[name] - exact).abs() for other in nearby]).amax(0)
        allowed = (
            2 * (plain[name] - exact).abs()
            + ulps * (eps * exact.abs() + spread)
            + torch.finfo(torch.float32).tiny
        )
        error = (value - exact).abs()
        bad = ~((error <= allowed) | exact.isnan())
        assert not bad.any(), (
            f"{label}: off by {error[bad][:5].tolist()}, allowed {allowed[bad][:5].tolist()}"
        )


def _moved_by_an_ulp(name: str, value: Tensor, eps: float) -> Tensor:
    """Up, down, or (eps = 0) each element at random."""
    if not value.is_floating_point():
        return value
    exact = value.double()
    size = eps if eps else torch.finfo(torch.float32).eps * torch.sign(torch.randn_like(exact))
    moved = exact * (1 + size)
    return torch.where((exact == 0) | (exact == 1) | ~exact.isfinite(), exact, moved)
