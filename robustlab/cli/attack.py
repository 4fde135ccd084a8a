"""The verb ``attack``: attack one logged or registered model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from mlflow import MlflowClient
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from robustlab.cli import options
from robustlab.cli.study import open_dataset
from robustlab.data import DataSet
from robustlab.errors import InputError
from robustlab.study.attacking import ATTACKS, Attacked, attack_images, chosen_images
from robustlab.study.cross_check import DEFAULT_IMAGES
from robustlab.study.load import LIBRARIES, load_library_model, load_model, run_of_model
from robustlab.study.parent import check_store, parent_run
from robustlab.study.plan import default_device
from robustlab.study.store import StudyStore
from robustlab.training import correctly_classified, to_inputs


def attack(
    model: Annotated[
        str,
        typer.Option(
            help="models:/<name>@<alias>, models:/<name>/<version>, runs:/<run id>, a folder with a model, or a "
            "library's model: torchvision:<name> or timm:<name>."
        ),
    ],
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            "--data",
            help="Data set or image folder to attack on; auto: the one that it was trained on.",
        ),
    ] = options.AUTO,
    attacks: options.Attacks = "cw,ifgsm",
    images: Annotated[
        int, typer.Option(help="Attack the first so many correctly classified test images; 0: all.")
    ] = 100,
    cross_check: options.CrossCheck = DEFAULT_IMAGES,
    weights: Annotated[
        str,
        typer.Option(
            help="Weights of a library's model: auto (those that the library publishes), random, or a file "
            "(.safetensors, or a torch file of tensors)."
        ),
    ] = options.AUTO,
    constants: options.AttackConstants = "default",
    cw: options.CW = options.AUTO,
    ifgsm: options.Ifgsm = options.AUTO,
    data_dir: options.DataDir = options.AUTO,
    download: options.Download = True,
    device: options.Device = options.AUTO,
) -> None:
    """Attack one model on the test images that it gets right, and log the distances as a run."""
    names = options.parse_list("attacks", attacks, str)
    if not names or set(names) - set(ATTACKS):
        raise InputError(f"--attacks is {attacks!r}; choose from {', '.join(ATTACKS)}")
    changes = {"cw": cw, "ifgsm": ifgsm}
    options.resolve_constants(
        "untuned", "", names, changes
    )  # what is wrong with them is said before anything loads
    if images < 0:
        raise InputError(f"--images is {images}; give 0 (all) or a positive count")
    if cross_check < 0:
        raise InputError(f"--cross-check is {cross_check}; give 0 (none) or a positive count of images")
    place = options.parse_device(device) or default_device()
    check_store()
    console = Console()
    from_library = model.partition(":")[0] in LIBRARIES
    network, trained_on = (None, None) if from_library else _load(model)
    if Path(dataset).is_dir():
        dataset = f"imagefolder:{dataset}"
    if options.is_auto(dataset):
        if trained_on is None:
            raise InputError(f"{model} does not say what it was trained on; name the data set with --dataset")
        dataset = trained_on
    chosen_constants = options.resolve_constants(constants, dataset, names, changes)
    attack_constants = {name: one.constants for name, one in chosen_constants.items()}
    data = open_dataset(dataset, data_dir, download, console)
    if network is None:
        network = load_library_model(model, "auto" if options.is_auto(weights) else weights, data.num_classes)
    network = network.to(place)
    _check_fits(network, data, model, place)
    correct = correctly_classified(network, data.test.to(place)).cpu()
    chosen = chosen_images(correct, data.test.labels, images)
    inputs, labels = to_inputs(data.test.images[chosen]).to(place), data.test.labels[chosen].to(place)
    with parent_run(f"attack {model}", {"robustlab.kind": "attack"}, f"Attack on {model}, {dataset}") as run:
        store = StudyStore(run)
        run_id = run.info.run_id
        store.log_params(
            run_id, {"attacked.model": model, "attacked.dataset": dataset, "attacked.images": len(chosen)}
        )
        for name in names:
            values = vars(attack_constants[name]).items()
            store.log_params(run_id, {f"{name}.{key}": value for key, value in values})
            store.log_params(run_id, {f"constants.{name}": chosen_constants[name].origin})
        with Progress(console=console, transient=True, disable=not console.is_terminal) as display:
            tasks = {name: display.add_task(name, total=len(chosen)) for name in names}
            attacked = attack_images(
                names,
                network,
                inputs,
                labels,
                attack_constants,
                lambda name, done, _: display.update(tasks[name], completed=done),
                check_images=cross_check,
            )
        store.log_tags(run_id, attacked.tags)
        store.log_metrics(run_id, {**attacked.metrics, "test_accuracy": correct.double().mean().item()})
        with store.artifacts(run_id) as folder:
            arrays: dict[str, np.ndarray] = {"test_indices": chosen.numpy(), **attacked.arrays}
            np.savez_compressed(folder / "distances.npz", **arrays)  # type: ignore[arg-type]
    console.print(f"{model} on {dataset}: test accuracy {correct.double().mean():.2%}", highlight=False)
    console.print(_table(attacked))
    for sentence in attacked.check.suspicions.values():
        console.print(f"suspicion: {sentence}", style="red", highlight=False, soft_wrap=True)
    for sentence in attacked.warnings:
        console.print(f"warning: {sentence}", style="yellow", highlight=False, soft_wrap=True)


def _table(attacked: Attacked) -> Table:
    table = Table("norm", "images", "success", "mean distance", "median", "passes an image")
    for norm, score in attacked.scores.items():
        cells = [
            (f"{score.images:,}", score.images),
            ("{:.1%}", score.success_rate),
            ("{:.5f}", score.mean),
            ("{:.5f}", attacked.metrics[f"{norm}_median"]),
            ("{:.0f}", attacked.metrics[f"{norm}_backwards_per_image"]),
        ]
        table.add_row(norm, *("-" if value is None else form.format(value) for form, value in cells))
    return table


def _load(model: str) -> tuple[torch.nn.Module, str | None]:
    """A model by its address, and the data set that a study trained it on."""
    network = load_model(model)
    run_id = run_of_model(model)
    if run_id is None:
        return network, None
    return network, MlflowClient().get_run(run_id).data.params.get("dataset")


def _check_fits(network: torch.nn.Module, data: DataSet, model: str, place: torch.device) -> None:
    """Try one image: its shape has to suit the model, and the model's classes the data's."""
    try:
        with torch.no_grad():
            classes = network(to_inputs(data.test.images[:1]).to(place)).shape[1]
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(
            f"{model} does not take images of shape {data.image_shape} ({reason}); check --dataset"
        ) from None
    if classes != data.num_classes:
        raise InputError(
            f"{model} tells {classes} classes apart, {data.name} has {data.num_classes}; check --dataset"
        )
