"""Scores that are overestimates are flagged: with masked gradients, after an attack too short, and not otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustlab.attacks import IFGSM, CarliniWagnerL2
from robustlab.data import LabelledImages, load_dataset, nested_subsets
from robustlab.recipes import Recipe
from robustlab.study.attacking import Attacked, attack_images, chosen_images
from robustlab.study.cross_check import DEFAULT_IMAGES, TOLERANCE
from robustlab.study.tuning.constants_file import find_constants
from robustlab.training import correctly_classified, initial_model, to_inputs, train

BOTH = ("cw", "ifgsm")
Front = Callable[[nn.Module, Tensor], Tensor]


class Masked(nn.Module):
    """A trained network behind something that hides its gradients."""

    def __init__(self, network: nn.Module, front: Front) -> None:
        super().__init__()
        self.network, self.front = network, front

    def forward(self, images: Tensor) -> Tensor:
        return self.front(self.network, images)


def trained(name: str) -> nn.Module:
    """A network of the digits, trained for seconds."""
    digits = load_dataset("digits")
    indices = nested_subsets(digits.train.labels, 10, [400], 0)[400]
    subset = LabelledImages(digits.train.images[indices], digits.train.labels[indices])
    model = initial_model(name, digits, subset, 0)
    train(model, subset, Recipe(epochs=6, learning_rate=0.02), seed=0)
    return model


@pytest.fixture(scope="module")
def perceptron() -> nn.Module:
    return trained("perceptron")


def attacked(model: nn.Module, images: int = 24, **changes: object) -> Attacked:
    """The study's attack on a model of the digits, with the constants that are shipped for them."""
    digits = load_dataset("digits")
    correct = correctly_classified(model.eval(), digits.test)
    chosen = chosen_images(correct, digits.test.labels, images)
    constants = {name: one.constants for name, one in find_constants("default", "digits", BOTH).items()}
    inputs, labels = to_inputs(digits.test.images[chosen]), digits.test.labels[chosen]
    return attack_images(BOTH, model, inputs, labels, {**constants, **changes}, check_images=DEFAULT_IMAGES)


@pytest.mark.parametrize("name", ["perceptron", "simple_cnn"])
def test_plain_models_are_not_suspected(name: str) -> None:
    """On trained models nothing comes nearer by more than the tolerance, and the check says what it looked at."""
    found = attacked(trained(name))
    assert found.check.suspicions == {}
    assert not found.doubts
    assert "robustlab.suspicion" not in found.tags
    assert found.metrics["cross_check_images"] == DEFAULT_IMAGES
    for norm in ("l2", "linf"):
        assert 0 <= found.metrics[f"cross_check_overestimate_{norm}"] <= TOLERANCE  # type: ignore[operator]
        assert found.metrics[f"{norm}_unstable_images"] == 0


class _WrongGradient(torch.autograd.Function):
    """The identity, whose gradient has nothing to do with it."""

    @staticmethod
    def forward(context, images: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return images.clone()

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return torch.sin(1e6 * gradient)


MASKS: dict[str, tuple[Front, set[str]]] = {
    "saturated softmax": (lambda network, x: (100 * network(x)).softmax(1), {"l2", "linf"}),
    "quantised input, no gradient": (lambda network, x: network((8 * x).round() / 8), {"l2", "linf"}),
    "shattered gradient": (lambda network, x: network(_WrongGradient.apply(x)), {"l2", "linf"}),
}


@pytest.mark.parametrize("mask", MASKS)
def test_masked_gradients_are_suspected(mask: str, perceptron: nn.Module) -> None:
    """The flag rises, as a tag of the run, with a sentence that names the norm and a count."""
    front, norms = MASKS[mask]
    found = attacked(Masked(perceptron, front), images=DEFAULT_IMAGES)
    assert norms <= set(found.check.suspicions), found.metrics
    for norm in norms:
        assert found.check.suspicions[norm].startswith({"l2": "L2: ", "linf": "Linf: "}[norm])
    assert found.tags["robustlab.suspicion"] == "; ".join(found.check.suspicions.values())


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_scaled_logits_mask_nothing(scale: float, perceptron: nn.Module) -> None:
    """Our attacks take the gradient at the logits, so the saturation is named and the score is as good as ever."""
    plain, scaled = attacked(perceptron), attacked(Masked(perceptron, lambda network, x: scale * network(x)))
    assert scaled.check.suspicions == {}
    assert "saturated" in scaled.tags["robustlab.warning"]
    for norm in ("l2", "linf"):
        assert scaled.metrics[norm] == pytest.approx(plain.metrics[norm], rel=0.01)


def test_an_attack_that_was_too_short_is_suspected(perceptron: nn.Module) -> None:
    """Constants that stop too early give an overestimate, whatever the model."""
    short = CarliniWagnerL2(warm_starts=1, warm_steps=1, max_iterations=5, binary_search_steps=2)
    found = attacked(perceptron, cw=short, ifgsm=IFGSM(passes=3, steps=1, step_size=1.0))
    assert set(found.check.suspicions) == {"l2", "linf"}


def test_it_costs_little(perceptron: nn.Module) -> None:
    """At the defaults, 100 attacked images, it takes less than a tenth of the attacks' passes."""
    metrics = attacked(perceptron).metrics
    of_attacks = sum(metrics[f"{norm}_backwards_per_image"] or 0 for norm in ("l2", "linf"))
    of_check = sum(metrics[f"cross_check_passes_{norm}"] or 0 for norm in ("l2", "linf"))
    assert 0 < of_check * DEFAULT_IMAGES < 0.1 * of_attacks * 100


def test_off_means_off(perceptron: nn.Module) -> None:
    """Without a check there is no metric of it; with one, the per-image results are the same to the bit."""
    digits = load_dataset("digits")
    inputs, labels = to_inputs(digits.test.images[:4]), digits.test.labels[:4]
    constants = {"cw": CarliniWagnerL2(warm_starts=1), "ifgsm": IFGSM()}
    without = attack_images(BOTH, perceptron, inputs, labels, constants)
    with_check = attack_images(BOTH, perceptron, inputs, labels, constants, check_images=2)
    assert not [name for name in without.metrics if name.startswith("cross_check")]
    assert without.arrays.keys() == with_check.arrays.keys()
    for name, values in without.arrays.items():
        assert (values == with_check.arrays[name]).all(), name
