"""Which images are attacked, and what is kept of an attack."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from robustlab.attacks import IFGSM, CarliniWagnerL2
from robustlab.study.attacking import attack_images, chosen_images


def test_all_common_images_are_chosen_when_there_is_no_limit() -> None:
    """0 means all, rare classes and the images that no balanced order holds included."""
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2])
    common = torch.tensor([True, True, False, True, True, True, False, True])
    chosen = chosen_images(common, labels, 0)
    assert sorted(chosen.tolist()) == [0, 1, 3, 4, 5, 7]


def test_a_limit_keeps_the_classes_mixed() -> None:
    """Test sets sorted by class still give images of every class."""
    labels = torch.arange(10).repeat_interleave(50)
    chosen = chosen_images(torch.ones(500, dtype=torch.bool), labels, 30)
    assert torch.bincount(labels[chosen]).tolist() == [3] * 10


def test_a_smaller_limit_chooses_the_first_of_the_same_images() -> None:
    """Studies of one data set attack the same images as far as they can."""
    labels = torch.arange(100) % 10
    common = torch.arange(100) % 3 > 0
    assert chosen_images(common, labels, 40).tolist()[:10] == chosen_images(common, labels, 10).tolist()


def test_scores_arrays_and_metrics_agree() -> None:
    """The score is the mean of the stored distances, in the norm of each attack."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    inputs = torch.rand(40, 1, 4, 4)
    labels = model(inputs).argmax(dim=1)
    constants = {"cw": CarliniWagnerL2(), "ifgsm": IFGSM()}
    seen: list[tuple[str, int, int]] = []
    attacked = attack_images(
        ("cw", "ifgsm"), model, inputs, labels, constants, lambda *progress: seen.append(progress)
    )
    for norm in ("l2", "linf"):
        distances = torch.from_numpy(attacked.arrays[f"{norm}_distance"]).double()
        assert attacked.metrics[norm] == attacked.scores[norm].mean == distances.mean().item()
        assert attacked.metrics[f"{norm}_success_rate"] == 1.0
    assert attacked.metrics["linf"] < attacked.metrics["l2"]
    assert seen[-1] == ("ifgsm", 40, 40)
    assert attacked.engine == {
        "robustlab.engine": "eager",
        "robustlab.precision": "float32",
        "robustlab.kernels": "reference",
    }


def test_a_missed_image_leaves_no_mean() -> None:
    """A model whose gradient is zero is not called infinitely or not at all robust: there is no score."""

    class Constant(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0]]).expand(len(inputs), 2) + 0 * inputs.flatten(1).sum(
                1, keepdim=True
            )

    inputs = torch.rand(3, 1, 2, 2)
    few = {"ifgsm": IFGSM(passes=2), "cw": CarliniWagnerL2(max_iterations=5, binary_search_steps=2)}
    attacked = attack_images(("ifgsm", "cw"), Constant(), inputs, torch.zeros(3, dtype=torch.long), few)
    assert "outputs are the same for all 3 images" in attacked.tags["robustlab.warning"]
    for norm in ("l2", "linf"):
        assert attacked.metrics[norm] is None
        assert attacked.metrics[f"{norm}_success_rate"] == 0.0


class Answering(nn.Module):
    """A linear model whose logits ``answer`` changes; it counts its calls."""

    def __init__(self, answer: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        self.answer, self.calls = answer, 0
        self.eval()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.answer(self.calls, inputs, self.layers(inputs))


QUICK = {"cw": CarliniWagnerL2(max_iterations=5, binary_search_steps=2), "ifgsm": IFGSM(passes=5)}


@pytest.mark.parametrize(
    ("answer", "sentence", "without_verdict"),
    [
        (lambda n, x, z: z + torch.randn_like(z), "answers differently each time", 8),
        (lambda n, x, z: z - z.mean(0), "other images of its batch", 8),
        (lambda n, x, z: torch.where(x[:, 0, 0, :1] > 0.9, torch.nan, z), "logits of 2 of 8 images", 2),
    ],
)
def test_images_without_a_verdict_are_in_no_average(
    answer: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor], sentence: str, without_verdict: int
) -> None:
    """They are not attacked and have no distance; the run's tag says why, a metric how many."""
    inputs = 0.8 * torch.rand(8, 1, 4, 4)
    inputs[:2, 0, 0, 0] = 0.95
    model = Answering(answer)
    labels = model.layers(inputs).argmax(dim=1)
    attacked = attack_images(("cw", "ifgsm"), model, inputs, labels, QUICK, check_images=4)
    assert sentence in attacked.tags["robustlab.warning"]
    assert attacked.metrics["images_without_verdict"] == without_verdict
    for norm in ("l2", "linf"):
        assert attacked.metrics[norm] is None
        assert np.isinf(attacked.arrays[f"{norm}_distance"][:without_verdict]).all()
        assert (attacked.arrays[f"{norm}_forwards"][:without_verdict] == 0).all()
        assert np.isfinite(attacked.arrays[f"{norm}_distance"][without_verdict:]).all()


def test_verdicts_that_do_not_survive_are_counted() -> None:
    """A model that is another one without gradients, where the verdicts fall: no success survives, and it is said."""
    model = Answering(lambda n, x, z: z)
    inputs = torch.rand(8, 1, 4, 4)
    labels = model(inputs).argmax(dim=1)
    assert attack_images(("ifgsm",), model, inputs, labels, QUICK).metrics["linf_unstable_images"] == 0

    def fickle(calls: int, inputs: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        # Small batches are answered rightly from the 8th call on, when the diagnosis is over.
        return logits if calls < 8 or torch.is_grad_enabled() or asked_by_attack() else right(logits)

    def asked_by_attack() -> bool:
        return any(frame.name == "as_given" for frame in traceback.extract_stack())

    def right(logits: torch.Tensor) -> torch.Tensor:
        return logits + 100 * functional.one_hot(labels[: len(logits)], 3)

    attacked = attack_images(("ifgsm",), Answering(fickle), inputs, labels, QUICK)
    assert attacked.metrics["linf_unstable_images"] == 8
    assert attacked.metrics["linf"] is None
    assert "8 of 8 adversarial images did not survive" in attacked.tags["robustlab.warning"]


def test_a_model_that_changes_late_is_noticed() -> None:
    """Weights that change only after many passes, during the attack, take the verdicts with them."""

    def late(calls: int, inputs: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        if calls == 12:
            with torch.no_grad():
                model.layers[1].bias += 1e-3
        return logits

    model = Answering(late)
    inputs = torch.rand(8, 1, 4, 4)
    attacked = attack_images(("ifgsm",), model, inputs, model.layers(inputs).argmax(dim=1), QUICK)
    assert attacked.metrics["linf"] is None
    assert "changes its weights or buffers" in attacked.tags["robustlab.warning"]
