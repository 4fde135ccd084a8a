"""The score of the paper's equation (4): the mean distance to adversarial images, and the peak of a curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from robustlab.shapes import Bool, Float

# Where distances spread by half their mean, 30 images leave a standard error of 9 % of the score: no less
# than the differences between neighbouring training sizes that a study looks for.
MINIMUM_IMAGES = 30


def common_correct(correct: Bool[Tensor, "models images"]) -> Bool[Tensor, " images"]:
    """Which test images all models of one curve classify correctly: the set X of the paper's equation (4).

    Args:
        correct: (models, images), whether a model's clean prediction is right; at least one model.

    Raises:
        ValueError: no model at all, for which every image would count as correct.
    """
    if correct.shape[0] == 0:
        raise ValueError(f"the common-correct set needs at least one model, got shape {tuple(correct.shape)}")
    return correct.all(dim=0)


@dataclass(frozen=True)
class Score:
    """Robustness of one model against one attack over the common-correct images.

    Distances are in units of the [0, 1] pixel range. ``mean`` is the score of equation (4); it is None where
    it does not exist: no image at all, or an image for which the attack found nothing. ``mean_found`` is the
    mean over the images that were found and nothing else: it is no robustness score, because what it leaves
    out is what the attack found hardest.
    """

    mean: float | None
    mean_found: float | None
    images: int
    missed: int

    @property
    def success_rate(self) -> float | None:
        """Fraction of the images for which an adversarial image was found, in [0, 1]; None without images."""
        return (self.images - self.missed) / self.images if self.images else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each reason not to trust ``mean``; empty where there is none."""
        sentences = []
        if self.missed:
            sentences.append(
                f"the attack missed {self.missed:,} of {self.images:,} images, so there is no mean distance; "
                "mean_found leaves them out"
            )
        too_few = too_few_images(self.images)
        return (*sentences, *([too_few] if too_few else []))


def robustness_score(distance: Float[Tensor, " images"], success: Bool[Tensor, " images"]) -> Score:
    """Mean distance between the common-correct images and their adversarial images (the paper's equation 4).

    Args:
        distance: per image, in units of the [0, 1] pixel range; ``inf`` where nothing was found.
        success: per image, whether an adversarial image was found; only its distance is read where it was.

    Raises:
        ValueError: an image that was found has a distance that is negative or not finite.
    """
    found = distance[success].double()
    if not bool((torch.isfinite(found) & (found >= 0)).all()):
        raise ValueError("an image marked as found has a distance that is negative, infinite or not a number")
    images, missed = distance.shape[0], distance.shape[0] - found.shape[0]
    mean_found = float(found.mean()) if found.shape[0] else None
    return Score(None if missed else mean_found, mean_found, images, missed)


def too_few_images(images: int) -> str | None:
    """One sentence where a score rests on fewer than ``MINIMUM_IMAGES`` images, else None."""
    if images >= MINIMUM_IMAGES:
        return None
    if images == 0:
        return "no image is classified correctly by all models of the curve, so there is no score"
    return f"a mean over {images} images (fewer than {MINIMUM_IMAGES}) says little about the model"


def mean_over_seeds(values: Sequence[float | int | None]) -> float | None:
    """Mean over the seeds of one curve; None where a seed has no finite value.

    A mean over the remaining seeds would compare different seeds at different sizes, which alone can bend a
    curve.
    """
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite and len(finite) == len(values) else None


def peak(
    sizes: Sequence[int], scores: Sequence[float | None], accuracies: Sequence[float | None]
) -> int | None:
    """The turning point in the paper's sense: the training size after which only accuracy still rises.

    It is the size with the largest score, if that lies before the largest size and the accuracy at the
    largest size is above the one at the peak. Of equal scores the last counts, so a flat end is no turning
    point. No statistical test is behind it yet: noise alone puts the largest of n values before the end in
    most cases.

    Args:
        sizes: training sizes, increasing.
        scores: mean distance per size; sizes where it is None (or not finite) are left out.
        accuracies: test accuracy per size, as a fraction; sizes where it is None are left out as well.

    Raises:
        ValueError: lengths differ, or sizes do not increase.
    """
    if any(later <= earlier for earlier, later in pairwise(sizes)):
        raise ValueError(f"sizes have to increase, got {list(sizes)}")
    measured = [
        (size, score, accuracy)
        for size, score, accuracy in zip(sizes, scores, accuracies, strict=True)
        if score is not None and accuracy is not None and math.isfinite(score) and math.isfinite(accuracy)
    ]
    if not measured:
        return None
    size, _, accuracy = max(measured, key=lambda point: (point[1], point[0]))
    last_accuracy = measured[-1][2]
    return size if last_accuracy > accuracy else None  # never so where the peak is the largest size
