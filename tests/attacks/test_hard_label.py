"""The search without gradients: it proves nearness, and never claims what is not adversarial."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustlab.attacks import hard_label
from robustlab.attacks.searches import NORMS
from robustlab.errors import InputError
from tests.attacks.test_conformance import box_images, linear_model, optimum


@pytest.mark.parametrize(("norm", "bound"), [("l2", 3.0), ("linf", 4.0)])
def test_linear_model(norm: str, bound: float) -> None:
    """Every distance is that of an adversarial image, at least the optimum, and on the mean a few times it."""
    model = linear_model()
    images, others = box_images(20), box_images(40)
    labels = model(images).argmax(1)
    result = hard_label(model, images, labels, others, norm)
    exact = optimum(model, images, labels, norm)
    assert result.success.all()
    assert (model(result.adv_inputs).argmax(1) != labels).all()
    assert torch.equal(result.distance, NORMS[norm](result.adv_inputs - images))
    assert result.adv_inputs.min() >= 0
    assert result.adv_inputs.max() <= 1
    assert (result.distance >= exact * (1 - 1e-9)).all()
    assert result.distance.mean() < bound * exact.mean()
    classes = model(others).argmax(1)
    starts = [
        NORMS[norm](others[classes != label] - image).min()
        for image, label in zip(images, labels, strict=True)
    ]
    assert result.distance.mean() < torch.stack(starts).mean() / 2
    assert (result.backwards == 0).all()
    assert (result.forwards < 60).all()


def test_no_gradient_is_needed(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """A model that is flat everywhere around its images is judged all the same."""
    model = nn.Sequential(nn.Threshold(0.5, 0.0), tiny_cnn).eval()
    labels = model(tiny_images).argmax(1)
    if len(labels.unique()) == 1:
        labels[0] = 1 - labels[0]
    others = torch.rand(200, 1, 8, 8, dtype=torch.float64)
    result = hard_label(model, tiny_images, labels, others, "l2")
    reachable = torch.isin(labels, model(others).argmax(1).unique()[:1], invert=True)
    assert result.success[reachable].all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_neighbours_do_not_matter(norm: str, tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """An image alone has the result that it has in a batch."""
    labels = tiny_cnn(tiny_images).argmax(1)
    others = torch.rand(50, 1, 8, 8, dtype=torch.float64)
    together = hard_label(tiny_cnn, tiny_images, labels, others, norm)
    alone = [hard_label(tiny_cnn, tiny_images[i : i + 1], labels[i : i + 1], others, norm) for i in range(12)]
    assert torch.equal(together.distance, torch.cat([one.distance for one in alone]))


def test_where_there_is_nothing_to_find(tiny_images: Tensor) -> None:
    """Misclassified images are at distance 0; no image of another class, no image at all: nothing found, no error."""

    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.new_tensor([1.0, 0.0]).expand(len(images), 2)

    labels = torch.zeros(12, dtype=torch.long)
    labels[3] = 1
    for others in (torch.rand(5, 1, 8, 8, dtype=torch.float64), tiny_images[:0]):
        result = hard_label(Constant(), tiny_images, labels, others, "linf")
        assert result.success.tolist() == [i == 3 for i in range(12)]
        assert result.distance[3] == 0
        assert result.distance[labels == 0].isinf().all()
        assert torch.equal(result.adv_inputs, tiny_images)
    assert len(hard_label(Constant(), tiny_images[:0], labels[:0], tiny_images, "l2").distance) == 0
    with pytest.raises(InputError, match="norm"):
        hard_label(Constant(), tiny_images, labels, tiny_images, "l1")
