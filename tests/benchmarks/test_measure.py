"""The benchmark's own counting, timing and judging."""

from __future__ import annotations

import copy
import time
from math import inf

import pytest
import torch
from torch import fx, nn

from benchmarks.contenders import Contender, Effort, robustlab_contenders
from benchmarks.measure import BarePasses, CountedModel, OutOfTime, Stopwatch, judge, run


def linear_model() -> nn.Sequential:
    """Two classes of 1x1x2 images: class 1 where the second pixel is the brighter one."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    model[1].weight.data = 3 * torch.eye(2)  # logits that do not add up to 1 like probabilities
    return model.eval()


INPUTS = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]]).view(3, 1, 1, 2)
LABELS = torch.zeros(3, dtype=torch.long)


def test_forwards_count_images():
    """Every image that passes forward counts, with and without gradients."""
    model = CountedModel(linear_model())
    with torch.no_grad():
        model(INPUTS)
    model(INPUTS[:1])
    assert (model.forwards, model.backwards) == (4, 0)


def test_backwards_count_images_of_each_gradient():
    """A gradient counts its images when it comes back: through a leaf, an inner tensor, twice through a graph."""
    model = CountedModel(linear_model())
    leaf = INPUTS.clone().requires_grad_()
    torch.autograd.grad(model(leaf).sum(), leaf)
    assert model.backwards == 3
    torch.autograd.grad(model(torch.tanh(leaf)).sum(), leaf)
    assert model.backwards == 6
    logits = model(leaf[:2])
    for number in range(2):
        torch.autograd.grad(logits[:, number].sum(), leaf, retain_graph=True)
    assert (model.forwards, model.backwards) == (8, 10)


def test_a_leaf_of_two_passes_counts_only_the_pass_that_is_differentiated():
    """Two forwards of one leaf and one gradient are one backward."""
    model = CountedModel(linear_model())
    leaf = INPUTS.clone().requires_grad_()
    model(leaf)
    torch.autograd.grad(model(leaf).sum(), leaf)
    assert (model.forwards, model.backwards) == (6, 3)


def test_weight_gradients_are_no_input_gradients():
    """Differentiating towards the weights alone counts nothing."""
    model = CountedModel(linear_model())
    model(INPUTS).sum().backward()
    assert model.backwards == 0


def test_a_traced_copy_counts_for_the_same_model():
    """Tracing and copying go through, cost nothing, and what the copy is asked is counted."""
    model = CountedModel(linear_model())
    traced = fx.symbolic_trace(copy.deepcopy(model))
    assert (model.forwards, model.backwards) == (0, 0)
    leaf = INPUTS.clone().requires_grad_()
    torch.autograd.grad(traced(leaf).sum(), leaf)
    assert (model.forwards, model.backwards) == (3, 3)


def test_counting_changes_neither_logits_nor_gradients():
    """The wrapper is transparent."""
    plain = linear_model()
    leaf = INPUTS.clone().requires_grad_()
    expected = torch.autograd.grad(plain(leaf)[:, 0].sum(), leaf)[0]
    assert torch.equal(torch.autograd.grad(CountedModel(plain)(leaf)[:, 0].sum(), leaf)[0], expected)


def test_judge_measures_distances_in_both_norms():
    """A success has the measured L2 or Linf distance, an unchanged image none."""
    adv_inputs = INPUTS.clone()
    adv_inputs[0] = torch.tensor([0.6, 0.5 + 1e-9]).view(1, 1, 2)  # still the right label
    adv_inputs[1] = torch.tensor([0.5, 0.6]).view(1, 1, 2)
    l2, claimed = judge(linear_model(), INPUTS, LABELS, adv_inputs, "l2")
    linf, _ = judge(linear_model(), INPUTS, LABELS, adv_inputs, "linf")
    assert l2 == [inf, pytest.approx(0.5), inf]
    assert linf == [inf, pytest.approx(0.4), inf]
    assert claimed == pytest.approx(1 / 3)


@pytest.mark.parametrize("pixels", [[-0.2, 0.5], [0.9, 1.1], [float("nan"), 0.5]])
def test_judge_refuses_images_outside_the_box(pixels):
    """Pixels below 0, above 1 or undefined are no success whatever the label."""
    adv_inputs = torch.tensor(pixels).view(1, 1, 1, 2)
    distances, _ = judge(linear_model(), INPUTS[:1], LABELS[:1], adv_inputs, "l2")
    assert distances == [inf]


def test_judge_does_not_take_an_all_black_image_for_a_success():
    """A black image with another label counts as claimed, not as found."""
    model = linear_model()
    model[1] = nn.Linear(2, 2)
    nn.init.eye_(model[1].weight)
    model[1].bias.data = torch.tensor([0.0, 0.1])  # black is class 1
    distances, claimed = judge(model, INPUTS, LABELS, torch.zeros_like(INPUTS), "l2")
    assert distances == [inf, inf, inf]
    assert claimed == 1


def test_bare_time_adds_up_forwards_and_gradients():
    """A pass is a forward and a gradient; what one side has more of costs its own share."""
    bare = BarePasses(linear_model(), INPUTS, forward_s=[1.0, 3.0], pass_s=[5.0, 5.0])
    assert bare.time_for(forwards=10, backwards=10) == pytest.approx(50)
    assert bare.time_for(forwards=10, backwards=0) == pytest.approx(20)
    assert bare.time_for(forwards=1, backwards=10) == pytest.approx(32)


def test_best_batch_size_is_among_those_that_the_images_allow():
    """No batch is larger than the images at hand, and few images are one batch."""
    assert len(BarePasses.at_best_batch_size(linear_model(), INPUTS, (1, 2, 64)).inputs) <= 2
    assert len(BarePasses.at_best_batch_size(linear_model(), INPUTS, (64,)).inputs) == 3


def test_halted_stopwatch_stands_still():
    """Work between halt and start does not count."""
    watch = Stopwatch()
    watch.start()
    watch.halt()
    before = watch.cpu_s, watch.wall_s
    sum(range(200_000))
    assert (watch.cpu_s, watch.wall_s) == before
    watch.start()
    sum(range(200_000))
    assert watch.wall_s > before[1]


def test_stopwatch_has_a_limit():
    """Past its limit the stopwatch raises."""
    watch = Stopwatch(limit_s=0.0)
    watch.start()
    sum(range(10_000))
    with pytest.raises(OutOfTime):
        watch.check()


def test_run_counts_times_and_judges_an_attack():
    """Two passes and a step to the other side: counted, timed, measured, and the model left clean."""

    def attack(model, inputs, _labels):
        leaf = inputs.clone().requires_grad_()
        model(leaf)[:, 0].sum().backward()
        model(leaf.detach())
        return inputs.flip(-1)

    model = linear_model()
    outcome = run(Contender("here", "flip", "linf", attack), model, INPUTS, LABELS, BarePasses(model, INPUTS))
    assert (outcome.forwards, outcome.backwards) == (2, 1)
    assert outcome.distances == pytest.approx([0.8, 0.6, 0.2])
    assert outcome.cpu_s > 0
    assert outcome.over_bare > 0
    assert outcome.own_forwards is None
    assert model[1].weight.grad is None


def test_bare_passes_are_sampled_outside_of_the_count():
    """Samples taken during an attack add no forwards to it."""

    def attack(model, inputs, _labels):
        for _ in range(5):
            model(inputs)
        return inputs

    model = linear_model()
    bare = BarePasses(model, INPUTS)
    outcome = run(Contender("here", "none", "l2", attack), model, INPUTS, LABELS, bare, sample_every_s=-1)
    assert outcome.forwards == 5
    assert bare.pass_s == []


def spend(cpu_s: float) -> None:
    """Be busy for so many CPU seconds."""
    ended = time.process_time() + cpu_s
    while time.process_time() < ended:
        pass


def test_the_clock_stands_still_while_bare_passes_are_sampled():
    """Samples that take long do not lengthen the attack, and none of its own time is lost."""

    class Slow(BarePasses):
        def fresh(self):
            return Slow(self.model, self.inputs)

        def sample(self):
            spend(0.05)
            self.forward_s.append(0.0)
            self.pass_s.append(0.0)

    def attack(model, inputs, _labels):
        for _ in range(20):
            model(inputs)
            spend(0.01)
        return inputs

    model = linear_model()
    contender, bare = Contender("here", "none", "l2", attack), Slow(model, INPUTS)
    outcome = run(contender, model, INPUTS, LABELS, bare, sample_every_s=-1)
    assert 0.2 <= outcome.cpu_s * len(INPUTS) < 0.6  # the 20 samples take a second


def test_run_stops_past_the_limit():
    """A contender that goes on and on is stopped at a forward pass."""

    def attack(model, inputs, _labels):
        while True:
            model(inputs)

    model = linear_model()
    with pytest.raises(OutOfTime):
        run(
            Contender("here", "endless", "l2", attack),
            model, INPUTS, LABELS, BarePasses(model, INPUTS), limit_s=0.05,
        )  # fmt: skip


@pytest.mark.parametrize("contender", robustlab_contenders(Effort(quick=True)), ids=lambda c: c.name)
def test_our_contenders_run(contender):
    """Every contender of robustlab finds the linear model's adversarial images or says that it did not."""
    model = linear_model()
    outcome = run(contender, model, INPUTS, LABELS, BarePasses(model, INPUTS))
    assert len(outcome.distances) == 3
    assert outcome.forwards >= outcome.own_forwards > 0
