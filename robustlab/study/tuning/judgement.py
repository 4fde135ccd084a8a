"""What an outcome is worth beside the reference: distance, success, propagations, and one number for the search."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from robustlab.study.tuning.subjects import Outcome

# A missed image counts as so many times the reference's distance: finite, so that a search can compare, and far
# beyond any tolerance, so that nothing with a miss is ever chosen.
FAILURE_FACTOR = 10.0
# 1 % of distance beyond the tolerance weighs as much as all propagations of the untuned defaults.
_EXCESS_WEIGHT = 100.0
# A loss at one size alone would look like a turning point, so the mean over models does not suffice; but with some
# tens of images a single one that falls into another local minimum moves one model's mean by half a percent.
_WORST_MODEL = 2.0
# By batch 5 %, because a batch's mean distance scatters by a percent around that of all images.
_BATCH_WEIGHT = 20.0


@dataclass(frozen=True)
class Judgement:
    """Means over all models and images.

    Attributes:
        distance: mean distortion, a missed image at ``FAILURE_FACTOR`` times the reference's.
        worst_ratio: the largest over the models of mean distance over the reference's mean distance.
        mean_ratio: mean distance over the reference's.
        success_rate: share of (model, image) pairs that were found.
        propagations: forwards + backwards per image.
    """

    distance: float
    worst_ratio: float
    mean_ratio: float
    success_rate: float
    propagations: float

    def within(self, tolerance: float) -> bool:
        """Every image was found, the mean distance is within the tolerance, and each model's within twice that."""
        return self.success_rate == 1.0 and self.excess(tolerance) <= 0

    def excess(self, tolerance: float) -> float:
        """How far beyond the tolerance, as a share of the reference's distance; negative within."""
        return max(self.mean_ratio - 1 - tolerance, self.worst_ratio - 1 - _WORST_MODEL * tolerance)

    def metrics(self) -> dict[str, float]:
        """As logged."""
        return asdict(self)


def judge(outcome: Outcome, reference: Outcome) -> Judgement:
    """Compare outcomes on the same models and images, all (M, B)."""
    missed = ~(outcome.distance < torch.inf)
    wanted = reference.distance.double()
    distance = torch.where(missed, FAILURE_FACTOR * wanted, outcome.distance.double())
    per_model = distance.mean(dim=1) / wanted.mean(dim=1)
    return Judgement(
        distance=distance.mean().item(),
        worst_ratio=per_model.max().item(),
        mean_ratio=(distance.mean() / wanted.mean()).item(),
        success_rate=1 - missed.double().mean().item(),
        propagations=outcome.propagations.double().mean().item(),
    )


def cost(judgement: Judgement, tolerance: float, untuned_propagations: float) -> float:
    """What the search for the cheapest constants minimises: propagations, plus a penalty beyond the tolerance.

    The penalty begins with all propagations of the untuned defaults: constants that are barely beyond the tolerance
    must not be the best of a search, because the pruner would end all that are within it and cost a little more.
    """
    if judgement.within(tolerance):
        return judgement.propagations
    excess = max(0.0, judgement.excess(tolerance))
    return judgement.propagations + untuned_propagations * (1 + _EXCESS_WEIGHT * excess)


def batch_cost(judgement: Judgement, tolerance: float, untuned_propagations: float) -> float:
    """What the pruner compares by batch.

    Not cut off within the tolerance: of a distance that scatters around the reference's, a cut would count the
    batches above and drop those below, and prune what is as good on average.
    """
    excess = judgement.mean_ratio - (1 + tolerance)
    return judgement.propagations + _BATCH_WEIGHT * untuned_propagations * excess
