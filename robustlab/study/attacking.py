"""Attack a model's images with every chosen attack and sum up: what a cell and the verb ``attack`` share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from robustlab.attacks import AttackResult, attack_until_found, carlini_wagner_l2, ifgsm
from robustlab.attacks.constants import Constants
from robustlab.data import balanced_order
from robustlab.robustness import Score, robustness_score
from robustlab.shapes import Bool, Float, Int

ATTACKS: dict[str, Callable[..., AttackResult]] = {"cw": carlini_wagner_l2, "ifgsm": ifgsm}
NORMS = {"cw": "l2", "ifgsm": "linf"}


@dataclass
class Attacked:
    """What the attacks found: scores and images by norm, per-image arrays to store, metrics, wall-clock seconds.

    ``engine`` is what they were run with, as tags of a run.
    """

    scores: dict[str, Score] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    metrics: dict[str, float | None] = field(default_factory=dict)
    adv_inputs: dict[str, Tensor] = field(default_factory=dict)
    engine: dict[str, str] = field(default_factory=dict)
    attack_s: float = 0.0


def attack_images(
    attacks: Sequence[str],
    model: nn.Module,
    inputs: Float[Tensor, "batch channels height width"],
    labels: Int[Tensor, " batch"],
    constants: Mapping[str, Constants],
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Attacked:
    """Run the named attacks on images that the model classifies correctly.

    Args:
        constants: per attack's name.
        on_progress: called with (attack, images finished, images in all).
    """
    attacked = Attacked()
    for name in attacks:
        started = time.perf_counter()
        progress = None if on_progress is None else partial(on_progress, name)
        result = attack_until_found(
            ATTACKS[name], model, inputs, labels, constants[name], on_progress=progress
        )
        attacked.attack_s += time.perf_counter() - started
        norm = NORMS[name]
        attacked.scores[norm] = robustness_score(result.distance, result.success)
        attacked.arrays |= _arrays(norm, result)
        attacked.arrays[f"{norm}_adv_labels"] = _predicted(model, result.adv_inputs).cpu().numpy()
        attacked.adv_inputs[norm] = result.adv_inputs
        attacked.metrics |= _metrics(norm, attacked.scores[norm], result)
        attacked.engine |= _engine_tags(result)
    return attacked


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
