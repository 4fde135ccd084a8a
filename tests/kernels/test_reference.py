"""The operators' torch truth against independent formulas."""

from __future__ import annotations

import pytest
import torch
from robustlab_kernels import cw_step, ifgsm_step, margin, ray_step, search_update, track_best
from torch import Tensor


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_margin_and_its_gradient(targeted: bool, soft: bool) -> None:
    """The value is z_t - max of the others, the gradient what autograd gives (soft: log-sum-exp of the others)."""
    torch.manual_seed(0)
    logits = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1])
    got = margin(logits.detach(), labels, targeted=targeted, soft=soft)
    sign = -1 if targeted else 1
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.masked_fill(torch.nn.functional.one_hot(labels, 5).bool(), -torch.inf)
    value = sign * (own - (others.logsumexp(1) if soft else others.amax(1)))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(got.gradient, gradient)
    torch.testing.assert_close(got.value, sign * (own - others.amax(1)).detach())
    assert torch.equal(got.other, others.argmax(1))


def test_margin_of_nan_is_no_success() -> None:
    """NaN logits stay in their own row and are not below zero."""
    logits = torch.tensor([[1.0, torch.nan, 0.0], [2.0, 5.0, 1.0]])
    got = margin(logits, torch.tensor([0, 0]))
    assert not got.value[0] < 0
    assert got.value[1] == -3
    assert got.adversarial.tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_margin_succeeds_by_more_than_rounding_and_confidence(dtype: torch.dtype) -> None:
    """Success needs a margin below -confidence by 16 roundings of the row's largest logit, whichever class it is."""
    rounding = 16 * torch.finfo(dtype).eps * 128
    others = torch.tensor([0.5, 2.0, 0.5 + 2**-20, 2.0 + 2**-20], dtype=torch.float64) * rounding
    logits = torch.stack([torch.zeros(4), others, torch.full((4,), -128.0)], dim=1).to(dtype)
    labels = torch.zeros(4, dtype=torch.int64)
    assert margin(logits, labels).adversarial.tolist() == [False, True, False, True]
    assert not margin(logits, labels, confidence=3 * rounding).adversarial.any()
    assert margin(logits, labels, confidence=-0.75 * rounding).adversarial.all()
    assert margin(-logits, labels, targeted=True).adversarial.tolist() == [False] * 4


def test_cw_step_is_adam_on_w() -> None:
    """Steps equal torch's Adam on c f + ||x - x0||^2 with f linear; an inactive image only gets its distance."""
    torch.manual_seed(0)
    inputs, slope = images(3, 2, 4), torch.randn(3, 2, 4, dtype=torch.float64)
    const = torch.tensor([0.5, 3.0, 1.0], dtype=torch.float64)
    w = torch.randn(3, 2, 4, dtype=torch.float64)
    expected = w.clone().requires_grad_()
    adv, first, second = torch.sigmoid(2 * w), torch.zeros_like(w), torch.zeros_like(w)
    untouched = w[2].clone(), adv[2].clone()
    adam = torch.optim.Adam([expected], lr=0.03)
    active = torch.tensor([True, True, False])
    for step in range(1, 4):
        x = (torch.tanh(expected) + 1) / 2
        loss = (const.view(3, 1, 1) * slope * x).sum() + (x - inputs).square().sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        count, rate = torch.full((3,), step), torch.full((3,), 0.03, dtype=torch.float64)
        squared = cw_step(w, adv, first, second, inputs, slope, const, count, rate, active)
    torch.testing.assert_close(squared, (adv - inputs).square().sum((1, 2)))
    torch.testing.assert_close(w[:2], expected.detach()[:2], rtol=0, atol=1e-12)
    torch.testing.assert_close(adv[:2], ((torch.tanh(expected) + 1) / 2).detach()[:2], rtol=0, atol=1e-12)
    assert torch.equal(w[2], untouched[0])
    assert torch.equal(adv[2], untouched[1])
    assert (first[2] == 0).all()


@pytest.mark.parametrize("step", [1, 2, 1000])
def test_cw_step_corrects_the_bias_accurately(step: int) -> None:
    """In float32 a step from zero moments at any count is Adam's to a few roundings: 1 - 0.999^t keeps its digits."""
    x = torch.full((1, 4), 0.25)
    w, first, second = torch.atanh(2 * x - 1), torch.zeros(1, 4), torch.zeros(1, 4)
    start, one = w.clone(), torch.ones(1)
    cw_step(w, x, first, second, x.clone(), torch.ones(1, 4), one, torch.tensor([step]), one, one.bool())
    grad_w = 2 * 0.25 * 0.75
    update = 0.1 * grad_w / (1 - 0.9**step) / ((0.001 * grad_w**2 / (1 - 0.999**step)) ** 0.5 + 1e-8)
    torch.testing.assert_close(start - w, torch.full((1, 4), update), rtol=5e-7, atol=0)


def test_ifgsm_step_stays_in_ball_and_box() -> None:
    """Each pixel moves by the step against the gradient's sign, no further than eps, 0 and 1, until none can."""
    inputs = torch.tensor([[0.5, 0.0, 0.99, 0.5], [0.5, 0.5, 0.5, 0.5]])
    adv = inputs.clone()
    gradient = torch.tensor([[2.0, 1.0, -3.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    eps, step = torch.tensor([0.1, 0.1]), torch.tensor([0.08, 0.08])
    changes = []
    for _ in range(3):
        linf, changed = ifgsm_step(adv, inputs, gradient, step, eps, torch.tensor([True, False]))
        changes.append(changed.tolist())
    assert changes == [[True, False], [True, False], [False, False]]
    torch.testing.assert_close(linf, torch.tensor([0.1, 0.0]))
    torch.testing.assert_close(adv[0], torch.tensor([0.4, 0.0, 1.0, 0.5]))
    assert torch.equal(adv[1], inputs[1])


def test_track_best_keeps_the_nearest() -> None:
    """Only a nearer adversarial image replaces the best."""
    best, best_distance = torch.zeros(3, 2), torch.tensor([5.0, 5.0, 5.0])
    adv, distance = torch.ones(3, 2), torch.tensor([4.0, 4.0, 6.0])
    changed = track_best(best, best_distance, adv, distance, torch.tensor([True, False, True]))
    assert changed.tolist() == [True, False, False]
    assert best.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert best_distance.tolist() == [4, 5, 5]


def test_search_update_brackets_then_bisects() -> None:
    """Growing until a success, the middle afterwards, nothing where nothing was decided."""
    value, low = torch.tensor([1.0, 1.0, 4.0, 7.0]), torch.tensor([0.0, 0.0, 2.0, 0.0])
    high = torch.tensor([torch.inf, torch.inf, 8.0, 9.0])
    succeeded, decided = torch.tensor([False, True, False, True]), torch.tensor([True, True, True, False])
    search_update(value, low, high, succeeded, decided, 10.0)
    assert value.tolist() == [10, 0.5, 6, 7]
    assert low.tolist() == [1, 0, 4, 0]
    assert high.tolist() == [torch.inf, 1, 8, 9]


def test_ray_step_solves_a_linear_model_in_the_box() -> None:
    """With a linear margin repeated steps reach the nearest boundary point, its pixels held at 0 included."""
    g = torch.tensor([[3.0, 4.0, 1.0]], dtype=torch.float64)
    inputs = torch.tensor([[0.9, 0.9, 0.0]], dtype=torch.float64)  # the third pixel cannot go down
    offset = 2.5
    x = torch.tensor([[0.4, 0.5, 0.2]], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    for _ in range(40):
        value = (g * x).sum(1) - offset
        x = ray_step(x, inputs, value, g, 0.5 * one, 0 * one, 0.5 * one)
    margin_left = 0.9 * 7 - offset
    nearest = inputs - torch.tensor([[3.0, 4.0, 0.0]], dtype=torch.float64) * margin_left / 25
    torch.testing.assert_close(x, nearest, rtol=0, atol=1e-6)


def test_ray_step_respects_the_limit_and_contains_nan() -> None:
    """The radius changes by no more than its limit, and a NaN gradient spoils its own image only."""
    inputs, x = torch.full((2, 3), 0.5), torch.full((2, 3), 0.6)
    gradient = torch.tensor([[torch.nan, 1.0, 1.0], [-1.0, -1.0, -1.0]])
    one = torch.ones(2)
    moved = ray_step(x, inputs, 5 * one, gradient, 0.1 * one, 0 * one, 0.2 * one)
    radius = (x - inputs)[1].norm()
    torch.testing.assert_close((moved - inputs)[1].norm(), 1.2 * radius)
    assert moved[1].isfinite().all()
