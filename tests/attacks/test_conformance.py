"""The contract of an attack, held by every public attack."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from robustlab.attacks import (
    DDN,
    FMN,
    IFGSM,
    CarliniWagnerL2,
    Execution,
    PreflightWarning,
    TurningRayL2,
    carlini_wagner_l2,
    ddn,
    fmn,
    ifgsm,
    turning_ray_l2,
)
from robustlab.errors import InputError
from tests.attacks.exact_linear import smallest_perturbation


@dataclass(frozen=True)
class Case:
    attack: Any
    constants: Any
    norm: str
    bound: float  # times the closed-form optimum of a linear model

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.attack(*arguments, self.constants, **options)


CASES = [
    pytest.param(Case(carlini_wagner_l2, CarliniWagnerL2(), "l2", 1.01), id="carlini_wagner_l2"),
    pytest.param(Case(turning_ray_l2, TurningRayL2(), "l2", 1.01), id="turning_ray_l2"),
    pytest.param(Case(ddn, DDN(), "l2", 1.01), id="ddn"),
    pytest.param(Case(fmn, FMN(norm="l2", steps=300), "l2", 1.01), id="fmn-l2"),
    # Known to the share at which the search ends, which the last failure has narrowed once more.
    pytest.param(Case(ifgsm, IFGSM(), "linf", 1 / (1 - IFGSM().tolerance / IFGSM().narrowing)), id="ifgsm"),
    pytest.param(Case(fmn, FMN(steps=300), "linf", 1.01), id="fmn-linf"),
]
every_attack = pytest.mark.parametrize("case", CASES)


def linear_model(classes: int = 2, pixels: int = 24, scale: float = 1.0, shift: float = 0.0) -> nn.Sequential:
    """Logits scale (W x + b) + shift in float64."""
    layer = nn.Linear(pixels, classes, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_(0, 0.1)
        layer.weight *= scale
        layer.bias *= scale
        layer.bias += shift
    return nn.Sequential(nn.Flatten(), layer).eval()


def box_images(count: int, pixels: int = 24) -> Tensor:
    """A third of the pixels exactly 0, a sixth exactly 1, the rest inside."""
    images = torch.rand(count, 1, 2, pixels // 2, dtype=torch.float64)
    return torch.where(images < 1 / 3, 0.0, torch.where(images > 5 / 6, 1.0, images))


def optimum(
    model: nn.Sequential, images: Tensor, labels: Tensor, norm: str, targeted: bool = False
) -> Tensor:
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    pairs = zip(images, labels.tolist(), strict=True)
    exact = [smallest_perturbation(weight, bias, x, y, norm, targeted) for x, y in pairs]
    return torch.tensor(exact, dtype=torch.float64)


@every_attack
@pytest.mark.parametrize("interior", [True, False], ids=["interior", "box"])
@pytest.mark.parametrize("count", [1, 3, 64])
def test_linear_optimum(case: Case, count: int, interior: bool) -> None:
    """On a linear model the distance is the closed-form optimum to the attack's bound, never below it."""
    model = linear_model()
    images = 0.4 + 0.2 * torch.rand(count, 1, 2, 12, dtype=torch.float64) if interior else box_images(count)
    labels = model(images).argmax(1)
    result = case(model, images, labels)
    exact = optimum(model, images, labels, case.norm)
    assert result.success.all()
    assert (result.distance >= exact * (1 - 1e-9)).all()
    assert (result.distance <= exact * case.bound + 1e-9).all()


@every_attack
@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (1e3, 0.0), (1.0, -100.0)])
def test_logits_scaled_or_negative(case: Case, scale: float, shift: float) -> None:
    """Scaled logits, or logits that are all negative, change nothing about the optimum that is reached."""
    model = linear_model(scale=scale, shift=shift)
    images = box_images(4)
    labels = model(images).argmax(1)
    result = case(model, images, labels)
    exact = optimum(model, images, labels, case.norm)
    assert result.success.all()
    assert (result.distance <= exact * case.bound + 1e-9).all()


@every_attack
def test_targeted_linear_optimum(case: Case) -> None:
    """Targeted, the result is the target class at the distance of its half-space."""
    model = linear_model()
    images = box_images(4)
    targets = 1 - model(images).argmax(1)
    result = case(model, images, targets, targeted=True)
    exact = optimum(model, images, targets, case.norm, targeted=True)
    assert torch.equal(model(result.adv_inputs).argmax(1), targets)
    assert (result.distance <= exact * case.bound + 1e-9).all()


@every_attack
def test_already_misclassified(case: Case) -> None:
    """A misclassified image comes back unchanged, with success, distance 0 and less work than the others."""
    model = linear_model()
    images = box_images(4)
    labels = model(images).argmax(1)
    labels[1] = 1 - labels[1]
    result = case(model, images, labels)
    assert result.success.all()
    assert result.distance[1] == 0
    assert torch.equal(result.adv_inputs[1], images[1])
    assert (result.distance[[0, 2, 3]] > 0).all()
    assert (result.forwards[1] < result.forwards[[0, 2, 3]]).all()


@every_attack
def test_unattackable(case: Case) -> None:
    """Where no image in the box is misclassified: no success, distance inf, the clean image back."""
    model = linear_model()
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([1000.0, -1000.0]))
    images = box_images(3)
    result = case(model, images, torch.zeros(3, dtype=torch.long))
    assert not result.success.any()
    assert result.distance.isinf().all()
    assert torch.equal(result.adv_inputs, images)


@every_attack
def test_no_images(case: Case) -> None:
    """A batch of no images gives a result of no images."""
    model = linear_model()
    result = case(model, box_images(0), torch.zeros(0, dtype=torch.long))
    assert result.adv_inputs.shape == (0, 1, 2, 12)
    assert result.success.shape == result.distance.shape == (0,)


@every_attack
def test_neighbours_do_not_matter(case: Case, tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """Alone, in a batch, in another order or beside images that leave early: the same distances to 1e-9."""
    images = tiny_images[:6]
    labels = tiny_cnn(images).argmax(1)
    together = case(tiny_cnn, images, labels)
    alone = case(tiny_cnn, images[1:2], labels[1:2])
    torch.testing.assert_close(alone.distance, together.distance[1:2], rtol=0, atol=1e-9)
    # In reverse, with two images that are misclassified and leave at once.
    mixed = labels.flip(0)
    mixed[:2] = (mixed[:2] + 1) % 5
    reverse = case(tiny_cnn, images.flip(0), mixed)
    torch.testing.assert_close(reverse.distance[2:], together.distance.flip(0)[2:], rtol=0, atol=1e-9)


@every_attack
def test_refilled_batches(case: Case, tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """Images that wait until others have left get the same distances as in one batch."""
    images = tiny_images[:6]
    labels = tiny_cnn(images).argmax(1)
    together = case(tiny_cnn, images, labels)
    four = Execution(batch_size=4)  # two wait, then join those still at work
    refilled = case(tiny_cnn, images, labels, execution=four)
    torch.testing.assert_close(refilled.distance, together.distance, rtol=0, atol=1e-9)


@every_attack
def test_both_loops_find_the_same_images(case: Case, tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """Padded buffers advanced several passes between checks give the eager loop's images, in float64."""
    labels = tiny_cnn(tiny_images).argmax(1)
    labels[0] = (labels[0] + 1) % 5
    eager = case(tiny_cnn, tiny_images, labels)
    for execution in (
        Execution(loop="graph", passes_between_checks=3),
        Execution(loop="graph", passes_between_checks=10, batch_size=5),
    ):
        graph = case(tiny_cnn, tiny_images, labels, execution=execution)
        assert (eager.engine.loop, graph.engine.loop) == ("eager", "graph")
        assert torch.equal(eager.success, graph.success)
        torch.testing.assert_close(graph.adv_inputs, eager.adv_inputs, rtol=0, atol=1e-9)
        assert torch.equal(graph.forwards, eager.forwards)


@every_attack
def test_success_survives_a_fresh_forward(case: Case, tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """Every success in float32 is one again in a fresh forward pass of the image alone, at its distance."""
    model, images = tiny_cnn.float(), tiny_images.float()
    labels = model(images).argmax(1)
    result = case(model, images, labels)
    assert result.success.any()
    for adv, image, label, success, distance in zip(
        result.adv_inputs, images, labels, result.success, result.distance, strict=True
    ):
        if success:
            assert model(adv[None]).argmax(1) != label
            perturbation = (adv - image).flatten()
            measured = perturbation.norm() if case.norm == "l2" else perturbation.abs().max()
            torch.testing.assert_close(distance, measured)
            assert adv.min() >= 0
            assert adv.max() <= 1


@every_attack
@pytest.mark.parametrize("fails", [False, True], ids=["normal end", "exception"])
def test_model_is_left_as_found(case: Case, tiny_cnn: nn.Module, tiny_images: Tensor, fails: bool) -> None:
    """Training flags, parameters, their gradients and flags, buffers and hooks are those from before."""
    model = tiny_cnn
    model.layers[0].train()  # a mix of modes
    model.layers[3].weight.requires_grad_(False)
    model.layers[6].weight.grad = torch.ones_like(model.layers[6].weight)
    calls = []
    model.layers[2].register_forward_hook(lambda *_: calls.append(1))
    if fails:
        model.layers[6].register_forward_hook(lambda *_: 1 / 0 if len(calls) > 3 else None)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in model.modules()]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", PreflightWarning)
        labels = torch.zeros(12, dtype=torch.long)
        if fails:
            with pytest.raises(ZeroDivisionError):
                case(model, tiny_images, labels)
        else:
            case(model, tiny_images, labels)
    assert [module.training for module in model.layers] == [True] + 6 * [False]
    assert not model.training
    assert not model.layers[3].weight.requires_grad
    assert model.layers[0].weight.requires_grad
    assert model.layers[0].weight.grad is None
    assert (model.layers[6].weight.grad == 1).all()
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name])


class Counting(nn.Module):
    """Counts the images that go through and the gradients that come back."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0
        self.register_forward_hook(lambda *_: None)  # a model with hooks is not copied, so every pass is seen

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += len(images)
        images = images * 1
        if images.requires_grad:
            images.register_hook(self.came_back)
        return self.model(images)

    def came_back(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


@every_attack
def test_passes_are_counted(case: Case, tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """An image's passes are those the model did, but for the idle ones until it is asked who is done."""
    image = tiny_images[:1]
    model = Counting(tiny_cnn).eval()
    result = case(model, image, tiny_cnn(image).argmax(1))
    idle = 1  # the CPU's passes between checks
    assert result.forwards <= model.forwards <= result.forwards + idle + 1  # 1: how many classes there are
    assert result.backwards <= model.backwards <= result.backwards + idle


@every_attack
def test_progress(case: Case, tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """Progress counts up to (all, all)."""
    progress = []
    case(
        tiny_cnn,
        tiny_images[:3],
        tiny_cnn(tiny_images[:3]).argmax(1),
        on_progress=lambda done, total: progress.append((done, total)),
    )
    assert progress[-1] == (3, 3)
    assert progress == sorted(progress)


@every_attack
def test_same_result_twice(case: Case, tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """Nothing is random: two runs under different seeds give the same images."""
    images = tiny_images[:3]
    labels = tiny_cnn(images).argmax(1)
    first = case(tiny_cnn, images, labels)
    torch.manual_seed(7)
    assert torch.equal(case(tiny_cnn, images, labels).adv_inputs, first.adv_inputs)


@every_attack
def test_bad_input_is_one_clear_line(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs, labels and models that cannot be attacked raise InputError before anything is done."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would complain first
    model = linear_model()
    images, labels = box_images(2), torch.zeros(2, dtype=torch.long)
    for bad_images, bad_labels in [
        (images, labels + 5),
        (images, labels[:1]),
        (images, labels.double()),
        (images.float(), labels),
        ((images * 255).byte(), labels),
        (images * math.nan, labels),
    ]:
        with pytest.raises(InputError, match=r"^[^\n]+$"):
            case(model, bad_images, bad_labels)
    with pytest.raises(InputError, match="logits"):
        case(nn.Conv2d(1, 2, 1, dtype=torch.float64).eval(), images, labels)
