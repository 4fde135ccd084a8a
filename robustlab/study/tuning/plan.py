"""What a tuning will do, checked whole before anything is trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from robustlab.attacks.constants import Constants
from robustlab.data import DataSet, check_sizes
from robustlab.errors import InputError
from robustlab.models import build_model
from robustlab.recipes import Recipe
from robustlab.study.plan import Variant, default_device, recipe_of
from robustlab.study.tuning.constants_file import CONSTANTS
from robustlab.study.tuning.reference import Reference
from robustlab.study.tuning.space import Dimension, search_space
from robustlab.study.tuning.storage import default_storage

MODES = ("cheapest", "pareto")
SAMPLERS = ("tpe", "nsga2")
LEAST_SIZES = 3


@dataclass(frozen=True)
class TuningPlan:
    """One attack's constants, tuned on variants x sizes at once.

    ``trials``, ``workers`` and ``starts`` say how to search; they are no part of what a trial's result means.
    """

    dataset: DataSet
    variants: tuple[Variant, ...]
    attack: str
    mode: str
    sizes: tuple[int, ...]
    train_seed: int
    recipes: dict[str, Recipe]
    models_from: str | None
    images: int
    batch_size: int
    tolerance: float
    reference: Reference
    space: tuple[Dimension, ...]
    sampler: str
    seed: int
    trials: int
    workers: int
    storage: str
    name: str
    device: torch.device
    starts: tuple[Constants, ...] = ()

    @property
    def untuned(self) -> Constants:
        """The attack's own defaults; what is not searched keeps them."""
        return CONSTANTS[self.attack]()

    def settings(self) -> dict[str, object]:
        """Everything that decides a trial's result, flat, as logged and hashed."""
        return {
            "dataset": self.dataset.name,
            "dataset_digest": self.dataset.digest,
            "tuning_images": len(self.dataset.tuning),
            "models": ",".join(map(str, self.variants)),
            "attack": self.attack,
            "mode": self.mode,
            "sizes": ",".join(map(str, self.sizes)),
            "train_seed": self.train_seed,
            "models_from": self.models_from or "trained here",
            "images": self.images,
            "batch_size": self.batch_size,
            "tolerance": self.tolerance,
            "reference": str(self.reference),
            "sampler": self.sampler,
            "seed": self.seed,
            **{
                f"recipe.{name}.{model}": value
                for model, recipe in self.recipes.items()
                for name, value in asdict(recipe).items()
            },
            **{f"space.{dimension.name}": str(dimension) for dimension in self.space},
            **{f"untuned.{name}": value for name, value in asdict(self.untuned).items()},
        }

    def digest(self) -> str:
        """SHA-256 (first 16 hex digits) over the settings: a tuning goes on only under the same ones."""
        text = json.dumps(self.settings(), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def plan_tuning(
    dataset: DataSet,
    *,
    attack: str,
    models: Sequence[str] = ("simple_cnn",),
    mode: str = "cheapest",
    sizes: Sequence[int] = (),
    train_seed: int = 0,
    epochs: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    models_from: str | None = None,
    images: int = 50,
    batch_size: int = 10,
    tolerance: float = 0.005,
    reference: str = "auto",
    space: Sequence[str] = (),
    sampler: str = "tpe",
    seed: int = 0,
    trials: int = 60,
    workers: int = 1,
    storage: str | None = None,
    name: str | None = None,
    device: torch.device | None = None,
    starts: Sequence[Constants] = (),
) -> TuningPlan:
    """Resolve defaults and check everything that can be checked before training.

    Args:
        models: variants as the user writes them, ``resnet`` or ``resnet+aug``; the tolerance holds for each.
        mode: ``cheapest`` (within ``tolerance`` of the reference) or ``pareto`` (distance against propagations).
        sizes: training sizes, at least three; empty: the smallest, middle and largest of the data set's grid.
        epochs, recipe: as ``plan_study`` takes them.
        models_from: a study's run, whose models of those sizes are taken instead of trained.
        images: at most so many of the slice; 0: all.
        batch_size: images per step at which the pruner may end a trial.
        tolerance: how far the mean distance may lie above the reference's, as a share; each model's twice as far.
        reference: see ``Reference.parse``; ``space``: see ``search_space``.
        storage, name: of the Optuna study; by default a journal beside the MLflow store, and a name from the settings.
        starts: constants to try first, such as those tuned on another data set.

    Raises:
        InputError: anything unknown, repeated or out of range.
    """
    dimensions = search_space(attack, space)
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}; choose from {', '.join(MODES)}")
    if sampler not in SAMPLERS:
        raise InputError(f"unknown sampler {sampler!r}; choose from {', '.join(SAMPLERS)}")
    grid = dataset.default_sizes
    sizes = tuple(sizes) or tuple(dict.fromkeys((grid[0], grid[len(grid) // 2], grid[-1])))
    check_sizes(sizes, dataset.train.labels, dataset.num_classes)
    if len(sizes) < LEAST_SIZES:
        raise InputError(
            f"constants are tuned on at least {LEAST_SIZES} sizes at once (smallest, middle, largest), not on "
            f"{', '.join(map(str, sizes))}: tuned on fewer they could pass for a turning point"
        )
    counts = {"trials": trials, "workers": workers, "batch-size": batch_size}
    for option, value in counts.items():
        if value < 1:
            raise InputError(f"--{option} must be at least 1, not {value}")
    if images < 0 or train_seed < 0 or seed < 0:
        raise InputError("--images, --seed and --train-seed must be 0 or positive")
    if not 0 <= tolerance <= 1:
        raise InputError(f"--tolerance must be a share from 0 to 1 such as 0.005, not {tolerance}")
    for start in starts:
        for dimension in dimensions:
            value = getattr(start, dimension.name)
            if not dimension.holds(value):
                raise InputError(
                    f"--start-from has {dimension.name}={value}, outside of what is searched ({dimension}); "
                    f"give --search with a wider {dimension.name}"
                )
    variants = tuple(Variant.parse(model) for model in dict.fromkeys(models))
    recipes = {}
    for variant in variants:
        with torch.device("meta"):
            build_model(variant.model, dataset.image_shape, dataset.num_classes)
        recipes[variant.model] = recipe_of(variant, dataset, epochs, recipe or {})
    plan = TuningPlan(
        dataset,
        variants,
        attack,
        mode,
        sizes,
        train_seed,
        recipes,
        models_from,
        images,
        batch_size,
        tolerance,
        Reference.parse(attack, reference),
        dimensions,
        sampler,
        seed,
        trials,
        workers,
        storage or default_storage(),
        name or "",
        device or default_device(),
        tuple(starts),
    )
    names = ",".join(map(str, variants))
    return plan if name else replace(plan, name=f"{dataset.name} {names} {attack} {mode} {plan.digest()}")
