"""Attack a model's images with every chosen attack and sum up: what a cell and the verb ``attack`` share."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from robustlab.attacks import (
    AttackResult,
    Diagnosis,
    PreflightWarning,
    attack_until_found,
    carlini_wagner_l2,
    diagnose,
    ifgsm,
    surviving,
)
from robustlab.attacks.constants import Constants
from robustlab.attacks.diagnosis import ModelState
from robustlab.data import balanced_order
from robustlab.robustness import Score, robustness_score
from robustlab.shapes import Bool, Float, Int
from robustlab.study.cross_check import CrossCheck, cross_check
from robustlab.study.read_back import SUSPICION_TAG, WARNING_TAG

ATTACKS: dict[str, Callable[..., AttackResult]] = {"cw": carlini_wagner_l2, "ifgsm": ifgsm}
NORMS = {"cw": "l2", "ifgsm": "linf"}


@dataclass
class Attacked:
    """What the attacks found: scores and images by norm, per-image arrays to store, metrics, wall-clock seconds.

    Attributes:
        engine: what the attacks were run with, as tags of a run.
        doubts: what is wrong with the model, a sentence each.
        check: what other attacks found on a sample.
    """

    scores: dict[str, Score] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    adv_inputs: dict[str, Tensor] = field(default_factory=dict)
    engine: dict[str, str] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    check: CrossCheck = field(default_factory=CrossCheck)
    attack_s: float = 0.0

    @property
    def warnings(self) -> list[str]:
        """A sentence for each reason not to trust the scores, for people."""
        of_scores = {sentence for score in self.scores.values() for sentence in score.warnings}
        return [*self.doubts, *sorted(of_scores)]

    @property
    def tags(self) -> dict[str, str]:
        """What belongs on the run: the engine, the warnings, and the suspicion that a score is an overestimate."""
        said = {
            WARNING_TAG: "; ".join(self.warnings),
            SUSPICION_TAG: "; ".join(self.check.suspicions.values()),
        }
        return self.engine | {name: text for name, text in said.items() if text}


def attack_images(
    attacks: Sequence[str],
    model: nn.Module,
    inputs: Float[Tensor, "batch channels height width"],
    labels: Int[Tensor, " batch"],
    constants: Mapping[str, Constants],
    on_progress: Callable[[str, int, int], None] | None = None,
    check_images: int = 0,
) -> Attacked:
    """Run the named attacks on images that the model classifies correctly.

    The model is diagnosed first: an image of which it has no verdict is not attacked and has no distance. Every
    success is asked about again, in fresh forward passes at two batch sizes; one that does not survive is missed.

    Args:
        constants: per attack's name.
        on_progress: called with (attack, images finished, images in all).
        check_images: other attacks check the scores on so many of the images; 0: none.
    """
    attacked = Attacked()
    if not attacks:
        return attacked
    started = time.perf_counter()
    before = ModelState(model)
    diagnosis = diagnose(model, inputs, labels)
    attacked.doubts += diagnosis.findings.values()
    distances = {}
    for name in attacks:
        progress = None if on_progress is None else partial(on_progress, name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PreflightWarning)  # the diagnosis has said it
            result = _attack_where(diagnosis, name, model, inputs, labels, constants[name], progress)
        norm = NORMS[name]
        lost = result.success & ~surviving(model, result.adv_inputs, labels)
        unstable = int(lost.sum())
        result = _without_verdict(result, inputs, lost)
        changed = before.differs(model)
        if changed and "changes_itself" not in diagnosis.findings:
            result = _without_verdict(result, inputs, result.success)
            attacked.doubts.append(f"{changed}; no verdict about it means anything")
        if unstable:
            attacked.doubts.append(
                f"{norm}: the verdict about {unstable:,} of {len(labels):,} adversarial images did not survive a fresh "
                "forward pass; they count as missed"
            )
        distances[norm] = (result.distance, diagnosis.verdicts)
        attacked.scores[norm] = robustness_score(result.distance, result.success)
        attacked.arrays |= _arrays(norm, result)
        attacked.arrays[f"{norm}_adv_labels"] = _predicted(model, result.adv_inputs).cpu().numpy()
        attacked.adv_inputs[norm] = result.adv_inputs
        attacked.metrics |= _metrics(norm, attacked.scores[norm], result)
        attacked.metrics[f"{norm}_unstable_images"] = unstable
        attacked.engine |= _engine_tags(result)
    attacked.metrics["images_without_verdict"] = int((~diagnosis.verdicts).sum())
    attacked.attack_s = time.perf_counter() - started
    if check_images:
        attacked.check = cross_check(distances, model, inputs, labels, check_images)
        attacked.metrics |= attacked.check.metrics
    return attacked


def _attack_where(
    diagnosis: Diagnosis,
    name: str,
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    constants: Constants,
    on_progress: Callable[[int, int], None] | None,
) -> AttackResult:
    """Attack the images of which the model has a verdict; the others are missed without a pass."""
    verdicts = diagnosis.verdicts
    # Where every gradient is zero, a longer search stays where the first one stayed.
    widenings = 0 if diagnosis.flat else 3
    attack = partial(attack_until_found, ATTACKS[name], model, max_widenings=widenings)
    if verdicts.all():
        return attack(inputs, labels, constants, on_progress=on_progress)
    part = attack(inputs[verdicts], labels[verdicts], constants, on_progress=on_progress)
    zeros = torch.zeros_like(labels)
    whole = AttackResult(
        adv_inputs=inputs.clone(),
        success=zeros.bool(),
        distance=torch.full(labels.shape, torch.inf, dtype=inputs.dtype, device=inputs.device),
        forwards=zeros,
        backwards=zeros.clone(),
        engine=part.engine,
    )
    for key in ("adv_inputs", "success", "distance", "forwards", "backwards"):
        getattr(whole, key)[verdicts] = getattr(part, key)
    return whole


def _without_verdict(result: AttackResult, inputs: Tensor, lost: Tensor) -> AttackResult:
    """The result with these images missed."""
    if not lost.any():
        return result
    chosen = lost.view(-1, *(1,) * (inputs.dim() - 1))
    return replace(
        result,
        adv_inputs=torch.where(chosen, inputs, result.adv_inputs),
        success=result.success & ~lost,
        distance=result.distance.masked_fill(lost, torch.inf),
    )


def chosen_images(common: Bool[Tensor, " images"], labels: Int[Tensor, " images"], most: int) -> Tensor:
    """Indices of the images to attack: all that are true, or the first ``most`` in an order that mixes the classes.

    The order does not depend on the study, so studies of one data set attack the same images as far as they can.
    """
    # Where the classes are not equally large, the balanced order leaves some images out: they come last.
    order = balanced_order(labels, seed=0).tolist()
    order += sorted(set(range(len(labels))) - set(order))
    chosen = [index for index in order if common[index]]
    return labels.new_tensor(chosen[:most] if most else chosen)


def _engine_tags(result: AttackResult) -> dict[str, str]:
    """Loop, precision of the network and kernels; why the loop is not the usual one, where it is not."""
    if result.engine is None:  # no image, no engine
        return {}
    tags = {
        "robustlab.engine": result.engine.loop,
        "robustlab.precision": result.engine.precision,
        "robustlab.kernels": result.engine.kernels,
    }
    return tags | ({"robustlab.engine_fallback": result.engine.fallback} if result.engine.fallback else {})


@torch.no_grad()
def _predicted(model: nn.Module, inputs: Tensor) -> Tensor:
    """The model's classes for the inputs; the model is in evaluation mode, as for the attack."""
    classes = [model(part).argmax(dim=1) for part in inputs.split(256) if len(part)]
    return torch.cat(classes) if classes else torch.zeros(0, dtype=torch.long)


def _arrays(norm: str, result: AttackResult) -> dict[str, np.ndarray]:
    """What is stored per image beside the adversarial image itself, under names that begin with the norm."""
    fields = ("distance", "success", "forwards", "backwards")
    return {f"{norm}_{key}": getattr(result, key).cpu().numpy() for key in fields}


def _metrics(norm: str, score: Score, result: AttackResult) -> dict[str, float | None]:
    """An attack's summary as metrics; None where there is nothing honest to say."""
    some = score.images > 0
    return {
        norm: score.mean,
        f"{norm}_mean_found": score.mean_found if score.missed else None,
        f"{norm}_success_rate": score.success_rate,
        f"{norm}_median": result.distance.median().item() if some and not score.missed else None,
        f"{norm}_forwards_per_image": result.forwards.double().mean().item() if some else None,
        f"{norm}_backwards_per_image": result.backwards.double().mean().item() if some else None,
    }
