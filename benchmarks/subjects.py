"""What is attacked: three models trained here (and kept outside the repository), and the images."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from robustlab.data import DataSet, LabelledImages, load_dataset
from robustlab.errors import InputError
from robustlab.models import build_model
from robustlab.models.initialize import he_initialize
from robustlab.recipes import Recipe, default_recipe
from robustlab.training import channel_statistics, correctly_classified, to_inputs, train

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """One model to attack: the data set, the architecture, how many epochs it is trained for by default."""

    name: str
    dataset: str
    architecture: str
    epochs: int


PLANS = (
    Plan("mnist-simple-cnn", "mnist", "simple_cnn", 3),
    Plan("cifar10-simple-cnn", "cifar10", "simple_cnn", 6),
    Plan("cifar10-resnet20", "cifar10", "resnet20", 10),
)


@dataclass(frozen=True)
class Subject:
    """A trained model with the images to attack.

    Attributes:
        inputs, labels: (B, C, H, W) in [0, 1] and (B,), correctly classified test images in the test set's order.
        clean_accuracy: on the whole test set.
        description: what the results file says of the model (JSON values).
    """

    name: str
    model: nn.Module
    inputs: Tensor
    labels: Tensor
    clean_accuracy: float
    description: dict[str, object]


def open_dataset(name: str, data_dir: str | None, say: Say) -> DataSet:
    """The data set, or the embedded digits where its files are not there."""
    try:
        return load_dataset(name, data_dir, download=False)
    except InputError as error:
        say(f"{error}; attacking the embedded digits instead")
        return load_dataset("digits")


def build(architecture: str, dataset: DataSet, mean: list[float], std: list[float]) -> nn.Sequential:
    """``simple_cnn`` as the package has it; ``resnet20`` at any number of channels.

    The package's ResNet is 32 layers deep on colour images of 32 pixels and 20 elsewhere (Table 1), so the
    20-layer one is built for grey images of that size and given a first convolution for the channels.
    """
    if architecture != "resnet20":
        return build_model(architecture, dataset.image_shape, dataset.num_classes, mean, std)
    channels, height, width = dataset.image_shape
    model = build_model("resnet", (1, height, width), dataset.num_classes, mean, std)
    model[1] = nn.Conv2d(channels, model[1].out_channels, 3, padding=1)
    he_initialize(model[1])
    return model


def prepare(
    plan: Plan,
    dataset: DataSet,
    cache: Path,
    *,
    images: int,
    skip: int = 0,
    epochs: int | None = None,
    train_images: int | None = None,
    say: Say = print,
) -> Subject:
    """Train the model, or take it from the cache, and choose the images.

    Args:
        images: the first so many correctly classified test images ...
        skip: ... after so many that are left out, because constants were chosen on them.
        epochs, train_images: shorten the training; None: the plan's epochs, all images.
    """
    subset = LabelledImages(dataset.train.images[:train_images], dataset.train.labels[:train_images])
    name = "resnet" if plan.architecture == "resnet20" else plan.architecture
    side = min(dataset.image_shape[1:])
    recipe = replace(default_recipe(name, side), epochs=epochs or plan.epochs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(plan.architecture, dataset, *channel_statistics(subset.images))
    contiguous = copy.deepcopy(model)  # training leaves channels-last weights; a user's loaded model has not
    weights = cache / f"{dataset.name}-{plan.architecture}-{_digest(recipe, dataset, subset)}.pt"
    if not weights.exists():
        say(f"training {plan.architecture} on {len(subset)} images of {dataset.name}, {recipe.epochs} epochs")
        _train(model, subset, recipe, weights, say)
    model = contiguous
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    correct = correctly_classified(model, dataset.test)
    chosen = (correct[skip:].nonzero().flatten() + skip)[:images]
    if len(chosen) == 0:
        raise InputError(f"{plan.name}: no correctly classified test image after the first {skip}")
    return Subject(
        name=plan.name if dataset.name == plan.dataset else f"{dataset.name}-{plan.architecture}",
        model=model,
        inputs=to_inputs(dataset.test.images[chosen]),
        labels=dataset.test.labels[chosen],
        clean_accuracy=correct.float().mean().item(),
        description={
            "dataset": dataset.name,
            "architecture": plan.architecture,
            "train_images": len(subset),
            "recipe": vars(recipe),
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "images": len(chosen),
            "test_indices": chosen.tolist(),
        },
    )


def _train(model: nn.Module, subset: LabelledImages, recipe: Recipe, weights: Path, say: Say) -> None:
    train(
        model,
        subset,
        recipe,
        seed=0,
        on_epoch=lambda done, total, loss: say(f"  epoch {done} of {total}: loss {loss:.3f}"),
    )
    weights.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and renamed: an interrupted run leaves no half a model behind.
    unfinished = weights.with_suffix(".unfinished")
    torch.save(model.state_dict(), unfinished)
    unfinished.replace(weights)


def _digest(recipe: Recipe, dataset: DataSet, subset: LabelledImages) -> str:
    """Twelve hex digits that change with whatever changes the trained weights."""
    return hashlib.sha256(f"{recipe} {dataset.digest} {len(subset)}".encode()).hexdigest()[:12]
