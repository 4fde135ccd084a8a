"""Which images are attacked, and what is kept of an attack."""

from __future__ import annotations

import torch
from torch import nn

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
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attacked = attack_images(("ifgsm", "cw"), Constant(), inputs, torch.zeros(3, dtype=torch.long), few)
    for norm in ("l2", "linf"):
        assert attacked.metrics[norm] is None
        assert attacked.metrics[f"{norm}_success_rate"] == 0.0
