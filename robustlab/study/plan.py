"""What a study will do, checked whole before anything is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from robustlab.attacks import IFGSM, CarliniWagnerL2
from robustlab.data import Augmentation, DataSet, check_sizes
from robustlab.errors import InputError
from robustlab.models import MODEL_NAMES, build_model
from robustlab.recipes import Recipe, default_recipe
from robustlab.study.cell import AUGMENTED_SUFFIX, Cell
from robustlab.study.cross_check import DEFAULT_IMAGES

ATTACK_NAMES = ("cw", "ifgsm")
TRAIN_BUDGETS = ("epochs", "steps")

# The models that are drawn when the user names none; the paper has no DenseNet on MNIST, and the digits stay quick.
_DEFAULT_VARIANTS = {
    "digits": ("perceptron", "simple_cnn", "resnet"),
    "mnist": ("perceptron", "simple_cnn", "resnet", "resnet+aug"),
    "cifar10": ("perceptron", "simple_cnn", "resnet", "resnet+aug", "densenet", "densenet+aug"),
    "stl10": ("simple_cnn", "resnet", "resnet+aug", "densenet", "densenet+aug"),
    "tinyimagenet": ("simple_cnn", "resnet", "resnet+aug", "densenet", "densenet+aug"),
}
_OTHER_VARIANTS = ("simple_cnn", "resnet", "resnet+aug")


@dataclass(frozen=True)
class Variant:
    """An architecture with or without augmentation: one row's line in the figure, one registered model."""

    model: str
    augmented: bool

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Read ``resnet`` or ``resnet+aug``."""
        model, plus, _ = text.partition(AUGMENTED_SUFFIX)
        if model not in MODEL_NAMES or text not in (model, model + AUGMENTED_SUFFIX):
            raise InputError(
                f"unknown model {text!r}; choose from {', '.join(MODEL_NAMES)}, each also with {AUGMENTED_SUFFIX}"
            )
        return cls(model, bool(plus))

    def __str__(self) -> str:
        return self.model + (AUGMENTED_SUFFIX if self.augmented else "")

    def augmentation(self, dataset: DataSet) -> Augmentation | None:
        """The paper's ResNet+D (shift and flip) and DenseNet+D (rotation too); no flip where it changes the class."""
        if not self.augmented:
            return None
        return Augmentation(shift=True, flip=dataset.mirror_invariant, rotation=self.model == "densenet")


@dataclass(frozen=True)
class StudyPlan:
    """A grid (variants x sizes x seeds) on one data set, with all that decides its results.

    ``reuse_models``: take a model that an earlier study trained exactly so instead of training it again.
    """

    dataset: DataSet
    variants: tuple[Variant, ...]
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    recipes: dict[str, Recipe]
    attacks: tuple[str, ...]
    attack_images: int
    cw: CarliniWagnerL2
    ifgsm: IFGSM
    device: torch.device
    constants_origin: Mapping[str, str] = field(default_factory=dict)
    reuse_models: bool = True
    # Checks results and changes none, so it is no part of a digest.
    cross_check: int = DEFAULT_IMAGES

    def cells(self, variant: Variant, seed: int) -> list[Cell]:
        """The cells of one curve, smallest size first."""
        return [Cell(self.dataset.name, variant.model, variant.augmented, size, seed) for size in self.sizes]

    def curves(self) -> Iterator[tuple[Variant, int]]:
        """Every (variant, seed), in the order in which they are worked off."""
        return ((variant, seed) for variant in self.variants for seed in self.seeds)

    @property
    def cell_count(self) -> int:
        return len(self.variants) * len(self.seeds) * len(self.sizes)

    def cell_digest(self, cell: Cell) -> str:
        """The digest by which a cell that was done before is found again."""
        return cell.digest(self.settings(Variant(cell.model, cell.augmented)))

    def curve_digest(self, variant: Variant, seed: int) -> str:
        """The digest of a curve: its cells are attacked on the same images, so they are shared as a whole."""
        curve = Cell(self.dataset.name, variant.model, variant.augmented, 0, seed)
        return curve.digest(self.settings(variant))

    def digest(self, kind: str) -> str:
        """The digest of the whole grid, by which the same command finds its study again."""
        curves = sorted(self.curve_digest(variant, seed) for variant, seed in self.curves())
        return hashlib.sha256(" ".join([kind, *curves]).encode()).hexdigest()[:16]

    def training_digest(self, cell: Cell, subset_digest: str) -> str:
        """The digest of a cell's training alone: what it is attacked with and beside which sizes does not matter."""
        settings = self._training_settings(Variant(cell.model, cell.augmented))
        return cell.digest({**settings, "subset_digest": subset_digest})

    def _training_settings(self, variant: Variant) -> dict[str, object]:
        augmentation = variant.augmentation(self.dataset)
        return {
            "dataset_digest": self.dataset.digest,
            "augmentation": "none" if augmentation is None else _enabled(augmentation),
            **{f"recipe.{name}": value for name, value in asdict(self.recipes[variant.model]).items()},
        }

    def settings(self, variant: Variant) -> dict[str, object]:
        """Everything beside the cell that changes its results, flat, as logged and hashed."""
        return {
            **self._training_settings(variant),
            "tuning_images": len(self.dataset.tuning),  # these test images are held out
            "grid.sizes": ",".join(map(str, self.sizes)),
            "attacks": ",".join(self.attacks),
            "attack_images": self.attack_images,
            **{f"cw.{name}": value for name, value in asdict(self.cw).items() if "cw" in self.attacks},
            **{
                f"ifgsm.{name}": value
                for name, value in asdict(self.ifgsm).items()
                if "ifgsm" in self.attacks
            },
        }


def plan_study(
    dataset: DataSet,
    *,
    models: Sequence[str] = (),
    sizes: Sequence[int] = (),
    seeds: Sequence[int] = (0,),
    attacks: Sequence[str] = ATTACK_NAMES,
    attack_images: int = 100,
    train_budget: str = "epochs",
    epochs: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    cw: CarliniWagnerL2 | None = None,
    ifgsm: IFGSM | None = None,
    constants_origin: Mapping[str, str] | None = None,
    device: torch.device | None = None,
    cross_check: int = DEFAULT_IMAGES,
) -> StudyPlan:
    """Resolve defaults and check everything that can be checked before training.

    Args:
        models: variants as the user writes them; the data set's own list if empty.
        sizes: training sizes, ascending multiples of the class count; the paper's grid if empty.
        attacks: none at all trains only.
        attack_images: attack at most that many of the common-correct images per curve; 0 means all.
        train_budget: ``epochs`` (every size sees its images equally often) or ``steps`` (every size gets the
            optimiser steps of the largest).
        epochs: instead of the recipes' own; recipe: other fields of every model's recipe (``RECIPE_OPTIONS``).
        constants_origin: by attack, where its constants were taken from; told, never part of a cell's digest.
        cross_check: other attacks check each cell's scores on so many of its images; 0: none.

    Raises:
        InputError: anything unknown, repeated, out of range, or an image too small for an architecture.
    """
    default_models = _DEFAULT_VARIANTS.get(dataset.name, _OTHER_VARIANTS)
    variants = tuple(Variant.parse(text) for text in (models or default_models))
    _check_unique("models", [str(variant) for variant in variants])
    sizes = tuple(sizes or dataset.default_sizes)
    check_sizes(sizes, dataset.train.labels, dataset.num_classes)
    _check_unique("seeds", seeds)
    if not seeds or min(seeds) < 0:
        raise InputError(f"seeds must be one or more numbers from 0 on, not {list(seeds)}")
    _check_unique("attacks", attacks)
    for attack in attacks:
        if attack not in ATTACK_NAMES:
            raise InputError(f"unknown attack {attack!r}; choose from {', '.join(ATTACK_NAMES)}")
    if attack_images < 0:
        raise InputError(f"attack_images must be 0 (all) or a positive count, not {attack_images}")
    if cross_check < 0:
        raise InputError(f"cross_check must be 0 (none) or a positive count of images, not {cross_check}")
    if train_budget not in TRAIN_BUDGETS:
        raise InputError(f"unknown train budget {train_budget!r}; choose from {', '.join(TRAIN_BUDGETS)}")
    recipes = {}
    for variant in variants:
        with torch.device("meta"):  # raises for an image that is too small, without building anything
            build_model(variant.model, dataset.image_shape, dataset.num_classes)
        chosen = recipe_of(variant, dataset, epochs, recipe or {})
        recipes[variant.model] = chosen.with_equal_steps(sizes[-1]) if train_budget == "steps" else chosen
    return StudyPlan(
        dataset,
        variants,
        sizes,
        tuple(seeds),
        recipes,
        tuple(attacks),
        attack_images,
        cw or CarliniWagnerL2(),
        ifgsm or IFGSM(),
        device or default_device(),
        dict(constants_origin or {}),
        cross_check=cross_check,
    )


def recipe_of(variant: Variant, dataset: DataSet, epochs: int | None, changes: Mapping[str, Any]) -> Recipe:
    """The variant's own recipe for images of that side, with other epochs and fields where they are given."""
    recipe = default_recipe(variant.model, min(dataset.image_shape[1:]))
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    return replace(recipe, **changes)


def default_device() -> torch.device:
    """The first CUDA device, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _check_unique(what: str, values: Sequence[object]) -> None:
    repeated = {value for value in values if list(values).count(value) > 1}
    if repeated:
        raise InputError(f"{what} holds {', '.join(map(str, repeated))} more than once; name each once")


def _enabled(augmentation: Augmentation) -> str:
    return "+".join(name for name, enabled in asdict(augmentation).items() if enabled)
