"""The engine's own promises: memory, precision, fallbacks, what it says of itself."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from robustlab.attacks import IFGSM, Execution, TurningRayL2, ifgsm, turning_ray_l2
from robustlab.attacks.attacked_model import AttackedModel
from robustlab.attacks.execution import float32_arithmetic
from robustlab.attacks.loops import EagerLoop, GraphLoop
from robustlab.attacks.searches import Searches
from robustlab.errors import InputError


class SmallMemory(nn.Module):
    """Runs out of memory on more than so many images at once."""

    def __init__(self, model: nn.Module, most: int) -> None:
        super().__init__()
        self.model, self.most = model, most

    def forward(self, images: Tensor) -> Tensor:
        if not isinstance(images, torch.fx.Proxy) and len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model(images)


@pytest.mark.parametrize("loop", ["eager", "graph"])
def test_out_of_memory_halves_the_batch(
    tiny_cnn: nn.Module, tiny_images: Tensor, caplog: pytest.LogCaptureFixture, loop: str
) -> None:
    """Every halving is said once, and the result is the one of a larger memory."""
    labels = tiny_cnn(tiny_images).argmax(1)
    expected = turning_ray_l2(tiny_cnn, tiny_images, labels, TurningRayL2(candidates=1))
    model = SmallMemory(tiny_cnn, 5).eval()
    with caplog.at_level(logging.WARNING):
        result = turning_ray_l2(
            model, tiny_images, labels, TurningRayL2(candidates=1), execution=Execution(loop=loop, batch_size=12)
        )  # fmt: skip
    assert [record.args for record in caplog.records] == [(6,), (3,)]
    torch.testing.assert_close(result.distance, expected.distance, rtol=0, atol=1e-9)


def test_out_of_memory_for_one_image_is_an_error(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """What does not fit alone is not tried for ever."""
    model = SmallMemory(tiny_cnn, 0).eval()
    with pytest.raises(torch.OutOfMemoryError):
        ifgsm(model, tiny_images, tiny_cnn(tiny_images).argmax(1))


def test_a_result_says_what_it_was_run_with(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """Loop, precision and kernels; float64 is called float64."""
    labels = tiny_cnn(tiny_images).argmax(1)
    double = ifgsm(tiny_cnn, tiny_images, labels, IFGSM(passes=1))
    single = ifgsm(tiny_cnn.float(), tiny_images.float(), labels, IFGSM(passes=1))
    assert str(double.engine) == "eager, float64, reference"
    assert str(single.engine) == "eager, float32, reference"


def test_bf16_networks_are_confirmed_in_float32(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """A network in bf16 finds images that the model as given misclassifies, hardly further than float32's."""
    model, images = tiny_cnn.float(), tiny_images.float()
    labels = model(images).argmax(1)
    exact = turning_ray_l2(model, images, labels)
    low = turning_ray_l2(model, images, labels, execution=Execution(precision="bf16"))
    assert low.engine.precision == "bf16"
    assert low.success.equal(exact.success)
    assert (model(low.adv_inputs).argmax(1) != labels)[low.success].all()
    assert low.distance.mean() < 1.1 * exact.distance.mean()
    assert not torch.equal(low.adv_inputs, exact.adv_inputs)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_bf16_by_autocast_where_the_model_cannot_be_copied(tiny_images: Tensor) -> None:
    """A model without a copy of its own runs under autocast."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).eval()
    images = tiny_images.float()
    labels = model(images).argmax(1)
    low = turning_ray_l2(model, images, labels, execution=Execution(precision="bf16"))
    exact = turning_ray_l2(model, images, labels)
    assert not torch.equal(low.adv_inputs, exact.adv_inputs)
    assert low.success.all()


def test_arithmetic_is_put_back() -> None:
    """TF32 is on inside only."""
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = conv.fp32_precision, matmul.fp32_precision
    with float32_arithmetic("tf32"):
        assert (conv.fp32_precision, matmul.fp32_precision) == ("tf32", "tf32")
        with float32_arithmetic("ieee"):
            assert (conv.fp32_precision, matmul.fp32_precision) == ("ieee", "ieee")
    assert (conv.fp32_precision, matmul.fp32_precision) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loop": "fast"}, "loop is 'fast'"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"passes_between_checks": 0}, "passes_between_checks is 0"),
    ],
)
def test_unknown_choices(options: dict, message: str) -> None:
    """What does not exist is named with what does."""
    with pytest.raises(InputError, match=message):
        Execution(**options)


def test_low_precision_needs_float32_inputs(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """bf16 for a float64 model, and TF32 on a CPU, are refused instead of ignored."""
    labels = tiny_cnn(tiny_images).argmax(1)
    with pytest.raises(InputError, match="float64"):
        ifgsm(tiny_cnn, tiny_images, labels, execution=Execution(precision="bf16"))
    with pytest.raises(InputError, match=r"tf32.*cpu"):
        ifgsm(tiny_cnn.float(), tiny_images.float(), labels, execution=Execution(precision="tf32"))


def searches(count: int) -> Searches:
    """Searches over images of one pixel."""
    ones = torch.ones(count)
    zeros = torch.zeros(count, dtype=torch.long)
    images = torch.rand(count, 1)
    return Searches(
        images, zeros, images.clone(), images.clone(), ones, zeros.clone(), zeros > 0, zeros.clone(), zeros.clone()
    )  # fmt: skip


NO_MODEL = AttackedModel(nn.Identity(), nn.Identity(), False, "ieee", torch.zeros(1, 1))


class TestGraphLoop:
    """Buffers of fixed sizes, advanced in place."""

    @staticmethod
    def advance(_model: AttackedModel, state: Searches) -> None:
        state.step += ~state.done

    def test_only_those_at_work_advance(self) -> None:
        """Three searches in a buffer of sixteen: thirteen rows are done and stay."""
        loop = GraphLoop(NO_MODEL, batch_size=64)
        held = loop.hold(searches(3), self.advance)
        assert (len(held.done), held.done[:3].any().item(), held.done[3:].all().item()) == (16, False, True)
        loop.run(held, self.advance, 7)
        assert held.step[:3].tolist() == [7, 7, 7]
        assert held.step[3:].sum() == 0

    def test_a_buffer_is_used_again(self) -> None:
        """The second load leaves nothing of the first in the rows at work."""
        loop = GraphLoop(NO_MODEL, batch_size=64)
        first = loop.hold(searches(9), self.advance)
        loop.run(first, self.advance, 2)
        second = loop.hold(searches(5), self.advance)
        assert second is first
        assert second.step[:5].sum() == 0
        assert second.done[5:].all()

    @pytest.mark.parametrize(("alive", "rows"), [(1, 16), (16, 16), (17, 32), (33, 50), (50, 50), (60, 60)])
    def test_sizes(self, alive: int, rows: int) -> None:
        """Powers of two up to the batch; a few more than the batch are taken as they are."""
        assert GraphLoop(NO_MODEL, batch_size=50).rows_for(alive) == rows

    def test_an_attack_that_replaces_its_state_is_run_eagerly(self) -> None:
        """A replay would not see the new tensor: the reason is kept."""

        def replacing(_model: AttackedModel, state: Searches) -> None:
            state.step = state.step + 1

        loop = GraphLoop(NO_MODEL, batch_size=64)
        own = searches(3)
        held = loop.hold(own, replacing)
        assert held is own
        assert loop.name == "eager"
        assert "replaced its state step" in loop.fallback
        loop.run(held, replacing, 2)
        assert held.step.tolist() == [2, 2, 2]
        assert isinstance(loop, EagerLoop)
