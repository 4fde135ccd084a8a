"""Every pathology of a model is named, and plain models are called nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustlab.attacks import (
    IFGSM,
    CarliniWagnerL2,
    PreflightWarning,
    carlini_wagner_l2,
    diagnose,
    ifgsm,
    surviving,
)


class Made(nn.Module):
    """A linear classifier of 8x8 images with something wrong: ``answer`` is given the model, the images, the logits."""

    def __init__(self, answer) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.linear = nn.Linear(64, 5)
        self.answer = answer
        self.register_buffer("calls", torch.zeros(()))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self, images, self.linear(images.flatten(1)))


def _drifts(model: Made, images: Tensor, logits: Tensor) -> Tensor:
    model.calls += 1
    return logits


def _drops_weights(model: Made, images: Tensor, logits: Tensor) -> Tensor:
    with torch.no_grad():
        model.linear.weight *= 0.999
    return logits


def _turns_to_training(model: Made, images: Tensor, logits: Tensor) -> Tensor:
    model.linear.train()
    return logits


def _in_place(model: Made, images: Tensor, logits: Tensor) -> Tensor:
    squared = logits.exp()
    squared *= 2
    return squared


def _not_a_number(value: float):  # type: ignore[no-untyped-def]
    """Logits that are not finite where the first pixel is bright."""
    return lambda model, images, logits: torch.where(images[:, 0, :1, 0] > 0.5, value, logits)


PATHOLOGIES = [
    # name, answer, sentence, whether any verdict is left
    ("not_finite_logits", _not_a_number(torch.nan), "NaN or infinite", True),
    ("not_finite_logits", _not_a_number(torch.inf), "NaN or infinite", True),
    (
        "not_finite_gradient",
        lambda m, x, z: z + (x - x).sum((1, 2, 3))[:, None].sqrt(),
        "gradient at 16 of 16",
        True,
    ),
    ("constant", lambda m, x, z: torch.arange(5.0).expand(len(x), 5), "same for all 16 images", True),
    ("constant", lambda m, x, z: torch.arange(5.0) + 0 * z, "same for all 16 images", True),
    ("softmax", lambda m, x, z: z.softmax(1), "softmax probabilities", True),
    ("softmax", lambda m, x, z: (1e4 * z).softmax(1), "16 of 16 images have probability exactly 1", True),
    ("saturated", lambda m, x, z: 1e6 * z, "softmax of 16 of 16 images is saturated", True),
    ("zero_gradient", lambda m, x, z: z.detach(), "gradient at 16 of 16 images is zero", True),
    ("zero_gradient", lambda m, x, z: z.round() + 0.01 * torch.arange(5), "is zero", True),
    ("changes_itself", _drifts, "changes its weights or buffers", False),
    ("changes_itself", _drops_weights, "changes its weights or buffers", False),
    ("changes_itself", _turns_to_training, "changes its mode", False),
    ("random", lambda m, x, z: nn.functional.dropout(z, 0.5, training=True), "differently each time", False),
    ("random", lambda m, x, z: z + 0.01 * torch.randn_like(z), "differently each time", False),
    ("no_gradient", _in_place, "differentiated", False),
    ("depends_on_batch", lambda m, x, z: z - z.mean(0), "other images of its batch", False),
]


@pytest.mark.parametrize(("name", "answer", "sentence", "verdicts"), PATHOLOGIES)
def test_a_pathology_is_named(name: str, answer, sentence: str, verdicts: bool) -> None:  # type: ignore[no-untyped-def]
    """Each has its name and a sentence; where no verdict means anything, no image has one."""
    images = torch.rand(16, 1, 8, 8)
    images[:, 0, 0, 0] = torch.tensor([0.2, 0.8] * 8)
    diagnosis = diagnose(Made(answer), images, torch.zeros(16, dtype=torch.long))
    assert name in diagnosis.findings, diagnosis.findings
    assert sentence in diagnosis.findings[name]
    assert "\n" not in diagnosis.findings[name]
    bright = images[:, 0, 0, 0] > 0.5
    expected = ~bright if name == "not_finite_logits" else torch.full((16,), verdicts)
    assert torch.equal(diagnosis.verdicts, expected)


def test_a_plain_model_is_called_nothing(tiny_cnn: nn.Module, tiny_images: Tensor) -> None:
    """Convolutions, batch normalisation and dropout in evaluation mode, in both precisions; no image, no finding."""
    model = nn.Sequential(tiny_cnn, nn.Dropout(0.5)).eval()
    labels = model(tiny_images).argmax(1)
    diagnosis = diagnose(model, tiny_images, labels)
    assert not diagnosis.findings
    assert diagnosis.verdicts.all()
    assert not diagnosis.flat
    assert not diagnose(model.float(), tiny_images.float(), labels).findings
    assert not diagnose(model, tiny_images[:0].float(), labels[:0]).findings


def test_logits_that_are_not_finite_are_no_success() -> None:
    """An image that drives the logits to NaN is no adversarial image, and one that starts so is not "distance 0"."""
    model = Made(lambda m, x, z: torch.where(x[:, 0, 0, :1] > 0.9, torch.nan, z)).double()
    images = 0.5 * torch.rand(8, 1, 8, 8, dtype=torch.float64)
    images[:2, 0, 0, 0] = 0.95
    labels = model.linear(images.flatten(1)).argmax(1)
    quick = CarliniWagnerL2(max_iterations=5, binary_search_steps=2)
    for attack, constants in ((ifgsm, IFGSM(passes=10)), (carlini_wagner_l2, quick)):
        with pytest.warns(PreflightWarning, match="zero at 2 of 8"):
            result = attack(model, images, labels, constants)  # type: ignore[operator]
        assert result.distance[:2].isinf().all()
        assert not result.success[:2].any()
        assert model(result.adv_inputs[result.success]).isfinite().all()
        assert result.success[2:].any()


def test_a_success_has_to_survive_at_two_batch_sizes() -> None:
    """One that holds in large or in small batches alone does not survive; one that holds in both does."""
    honest = Made(lambda m, x, z: z)
    in_large = Made(lambda m, x, z: z.roll(1, 1) if len(x) > 8 else z)
    in_small = Made(lambda m, x, z: z.roll(1, 1) if len(x) <= 8 else z)
    in_both = Made(lambda m, x, z: z.roll(1, 1))
    images = torch.rand(16, 1, 8, 8)
    for model, survive in ((honest, False), (in_large, False), (in_small, False), (in_both, True)):
        labels = model.linear(images.flatten(1)).argmax(1)
        assert (surviving(model, images, labels) == survive).all()


@pytest.mark.parametrize("count", [1, 2, 9, 70])
def test_two_batch_sizes_whatever_the_number_of_images(count: int) -> None:
    """A model that normalises by its batch is found out by one image as by many."""
    model = Made(lambda m, x, z: z / (1 + len(x)))
    diagnosis = diagnose(model, torch.rand(count, 1, 8, 8), torch.zeros(count, dtype=torch.long))
    assert list(diagnosis.findings) == ["depends_on_batch"]
