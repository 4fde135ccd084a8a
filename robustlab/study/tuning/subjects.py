"""What a tuning attacks: several models of one variant, and the slice's images that all of them get right."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from robustlab.attacks.result import AttackResult
from robustlab.data import DataSet, LabelledImages, nested_subsets
from robustlab.errors import InputError
from robustlab.recipes import Recipe
from robustlab.robustness import common_correct
from robustlab.study.attacking import chosen_images
from robustlab.study.checkpoint import load_checkpoint, save_checkpoint
from robustlab.study.plan import Variant
from robustlab.study.tuning.reference import Reference
from robustlab.training import TrainingDiverged, correctly_classified, initial_model, to_inputs, train

_TENSORS, _NAMES = "subjects.safetensors", "subjects.json"

Report = Callable[[str, int, int], None]
"""Called as ``report(stage, done, total)``."""


def subject_name(variant: Variant, size: int) -> str:
    """What a model is called: ``resnet+aug 1000``."""
    return f"{variant} {size}"


@dataclass(frozen=True)
class Outcome:
    """Per model and image (M, B): distance (inf where missed) and propagations (forwards + backwards)."""

    distance: Tensor
    propagations: Tensor

    @classmethod
    def of(cls, results: Sequence[AttackResult]) -> Outcome:
        """Put the results of the models together."""
        distance = torch.stack([result.distance.cpu() for result in results])
        passes = torch.stack([(result.forwards + result.backwards).cpu() for result in results])
        return cls(distance, passes)

    def images(self, chosen: Tensor) -> Outcome:
        """Only the chosen images."""
        return Outcome(self.distance[:, chosen], self.propagations[:, chosen])

    def batch(self, model: int, images: slice) -> Outcome:
        """One model's part, (1, B')."""
        row = slice(model, model + 1)
        return Outcome(self.distance[row, images], self.propagations[row, images])


@dataclass(frozen=True)
class Subjects:
    """Models, images, and what the reference and the untuned defaults reached on them.

    Attributes:
        models: by name, one per variant and training size, in evaluation mode, on ``inputs``'s device.
        inputs, labels: (B, C, H, W) in [0, 1], and (B,); every model gets every image right, the reference finds all.
        reference, untuned: what these reached.
        slice_images, common: images in the slice, and how many of them all models get right.
        missed: images that were left out because the reference found nothing.
    """

    models: dict[str, nn.Module]
    inputs: Tensor
    labels: Tensor
    reference: Outcome
    untuned: Outcome
    slice_images: int
    common: int
    missed: int


def train_models(
    dataset: DataSet, variant: Variant, sizes: Sequence[int], recipe: Recipe, seed: int, report: Report
) -> dict[str, nn.Module]:
    """Train one model per size as a study does; by ``subject_name``."""
    subsets = nested_subsets(dataset.train.labels, dataset.num_classes, sizes, seed)
    models: dict[str, nn.Module] = {}
    for size in sizes:
        indices = subsets[size].to(dataset.train.images.device)
        subset = LabelledImages(dataset.train.images[indices], dataset.train.labels[indices])
        model = initial_model(variant.model, dataset, subset, seed).to(subset.images.device)

        def show(done: int, total: int, _loss: float, size: int = size) -> None:
            report(f"training {variant} {size:,}", done, total)

        try:
            train(model, subset, recipe, seed=seed, augmentation=variant.augmentation(dataset), on_epoch=show)
        except TrainingDiverged as error:
            raise InputError(f"{variant} cannot be tuned on {size:,} images: {error}") from None
        models[subject_name(variant, size)] = model.eval()
    return models


def make_subjects(
    dataset: DataSet,
    models: dict[str, nn.Module],
    reference: Reference,
    most_images: int,
    report: Report,
) -> Subjects:
    """Choose the images and run the reference and the defaults on them.

    Args:
        dataset: on the models' device.
        most_images: at most so many, mixed by class; 0: all.

    Raises:
        InputError: the slice is empty, no image is right in all models, or the reference finds none.
    """
    held_out = dataset.tuning
    if len(held_out) == 0:
        raise InputError(
            f"{dataset.name} has too few test images a class for a tuning slice (at least 5); tune on another data set"
        )
    common = common_correct(
        torch.stack([correctly_classified(model, held_out) for model in models.values()])
    ).cpu()
    if not common.any():
        raise InputError(
            f"no image of the tuning slice ({len(held_out)} images) is classified correctly by all "
            f"{len(models)} models; train them better (--epochs) or take larger --sizes"
        )
    chosen = chosen_images(common, held_out.labels.cpu(), most_images).to(held_out.images.device)
    inputs, labels = to_inputs(held_out.images[chosen]), held_out.labels[chosen]

    def attack_all(name: str, attack: Reference) -> Outcome:
        results = []
        for title, model in models.items():

            def show(done: int, total: int, title: str = title) -> None:
                report(f"{name} {title}", done, total)

            results.append(attack.run(model, inputs, labels, show))
        return Outcome.of(results)

    reached = attack_all("reference", reference)
    found = (reached.distance < torch.inf).all(dim=0)
    if not found.any():
        raise InputError(f"the reference {reference} misses every image; give one with more iterations")
    same = reference.searches == 0
    untuned = reached if same else attack_all("untuned", Reference(reference.attack, 0, 0))
    return Subjects(
        models,
        inputs[found.to(inputs.device)],
        labels[found.to(labels.device)],
        reached.images(found),
        untuned.images(found),
        len(held_out),
        int(common.sum()),
        int((~found).sum()),
    )


def save_subjects(subjects: Subjects, dataset: DataSet, folder: Path) -> None:
    """Write everything into ``folder``, for workers, for a tuning that goes on, and for whoever looks later."""
    for title, model in subjects.models.items():
        architecture = Variant.parse(title.partition(" ")[0]).model
        save_checkpoint(
            model, architecture, dataset.image_shape, dataset.num_classes, folder / _folder(title)
        )
    tensors = {"inputs": subjects.inputs, "labels": subjects.labels}
    for name, outcome in (("reference", subjects.reference), ("untuned", subjects.untuned)):
        tensors |= {
            f"{name}.distance": outcome.distance.clone(),
            f"{name}.propagations": outcome.propagations.clone(),
        }
    save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, folder / _TENSORS)
    counts = {name: getattr(subjects, name) for name in ("slice_images", "common", "missed")}
    (folder / _NAMES).write_text(json.dumps({"models": list(subjects.models), **counts}) + "\n")


def _folder(title: str) -> str:
    return title.replace("+", "-")  # MLflow takes no plus in the tag that names a file's digest


def load_subjects(folder: Path, device: torch.device) -> Subjects:
    """Read what ``save_subjects`` wrote.

    Raises:
        InputError: a file is missing or damaged.
    """
    try:
        tensors = load_file(folder / _TENSORS)
        names = json.loads((folder / _NAMES).read_text())
        titles = names.pop("models")
    except Exception as error:  # safetensors and json each have their own
        raise InputError(
            f"cannot read the tuning's models and images in {folder} ({type(error).__name__}); give another --name"
        ) from error
    return Subjects(
        {title: load_checkpoint(folder / _folder(title)).to(device) for title in titles},
        tensors["inputs"].to(device),
        tensors["labels"].to(device),
        Outcome(tensors["reference.distance"], tensors["reference.propagations"]),
        Outcome(tensors["untuned.distance"], tensors["untuned.propagations"]),
        **names,
    )
