"""Models from the registry, from runs, from folders and from model libraries; never by running pickled code."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from safetensors.torch import load_file
from torch import nn

from robustlab.errors import InputError
from robustlab.models.normalize import Normalize
from robustlab.study.artifacts import digests, fetch_files
from robustlab.study.checkpoint import CHECKPOINT, DESCRIPTION_FILE, load_checkpoint
from robustlab.study.model_log import load_logged_model

LIBRARIES = ("torchvision", "timm")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load_model(uri: str) -> nn.Module:
    """A trained model in evaluation mode, with input gradients.

    A model of a study comes from its checkpoint, whose digest is checked; another one from MLflow's own files, if
    those are pt2 and so hold no pickle.

    Args:
        uri: ``models:/...``, ``runs:/...`` or a folder: a checkpoint, or a model that MLflow saved.

    Raises:
        InputError: there is no such model, its files are damaged, or loading it would run pickled code.
    """
    run_id = run_of_model(uri)
    if run_id is not None and (uri.startswith("models:") or uri.count("/") <= 1):
        with tempfile.TemporaryDirectory(prefix="robustlab-") as folder:
            place = _checkpoint(run_id, Path(folder))
            if place is not None:
                return load_checkpoint(place)
    if (Path(uri) / DESCRIPTION_FILE).exists():
        return load_checkpoint(Path(uri))
    if uri.startswith("runs:") and uri.count("/") <= 1:
        uri = f"{uri}/model"
    try:
        with _no_pickle():
            return load_logged_model(uri)
    except Exception as error:  # MLflow, zip files and torch each have their own for what cannot be loaded
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"cannot load the model {uri!r} ({reason}); give models:/<name>@<alias>, models:/<name>/<version>, "
            "runs:/<run id> or a folder"
        ) from error


def run_of_model(uri: str) -> str | None:
    """The run that logged the model at the address; None for a folder or a model of no run.

    Raises:
        InputError: the address names a registered model, alias, version or run that does not exist.
    """
    client = MlflowClient()
    try:
        if uri.startswith("runs:/"):
            return str(client.get_run(uri.removeprefix("runs:/").partition("/")[0]).info.run_id)
        if not uri.startswith("models:/"):
            return None
        name = uri.removeprefix("models:/")
        if "@" in name:
            return client.get_model_version_by_alias(*name.split("@", 1)).run_id
        return mlflow.models.get_model_info(uri).run_id
    except (MlflowException, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(
            f"cannot load the model {uri!r} ({reason}); MLflow's page Models lists the names, versions and aliases"
        ) from error


def load_library_model(name: str, weights: str, num_classes: int) -> nn.Module:
    """A model of torchvision or timm that takes images in [0, 1]: its normalisation is made part of it.

    Args:
        name: ``torchvision:resnet18`` or ``timm:resnet18``.
        weights: ``auto`` (those that the library publishes, fetched by it), ``random``, or a file of weights, as
            safetensors or as a torch file that holds tensors only.
        num_classes: of the data; published weights have their own.

    Raises:
        InputError: unknown library or name, weights that cannot be had, read, or do not fit.
    """
    library, _, architecture = name.partition(":")
    own = weights == "auto"
    try:
        model, (mean, std) = _build(library, architecture, own, num_classes)
        if weights not in ("auto", "random"):
            model.load_state_dict(_read_weights(Path(weights)))
    except ImportError:
        raise InputError(
            f"{name} needs the package {library}; install it with: pip install {library}"
        ) from None
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"cannot load {name} with --weights {weights} ({reason})") from error
    return nn.Sequential(Normalize(list(mean), list(std)), model).eval()


def _build(
    library: str, architecture: str, own_weights: bool, num_classes: int
) -> tuple[nn.Module, tuple[tuple[float, ...], tuple[float, ...]]]:
    if library == "torchvision":
        from torchvision import models

        if not own_weights:
            return models.get_model(architecture, weights=None, num_classes=num_classes), _IMAGENET
        chosen = models.get_model_weights(architecture).DEFAULT
        transforms = chosen.transforms()
        return models.get_model(architecture, weights=chosen), (tuple(transforms.mean), tuple(transforms.std))
    if library == "timm":
        import timm

        arguments = {"pretrained": True} if own_weights else {"num_classes": num_classes}
        model = timm.create_model(architecture, **arguments)
        published: Any = model.pretrained_cfg
        return model, (tuple(published["mean"]), tuple(published["std"]))
    raise ValueError(f"unknown library {library!r}; choose from {', '.join(LIBRARIES)}")


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    loaded: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def _checkpoint(run_id: str, folder: Path) -> Path | None:
    """The run's checkpoint; None where it never had one."""
    client = MlflowClient()
    run = client.get_run(run_id)
    if not digests(run, CHECKPOINT) and not client.list_artifacts(run_id, CHECKPOINT):
        return None
    return fetch_files(client, run, CHECKPOINT, folder)


@contextmanager
def _no_pickle() -> Iterator[None]:
    names = ("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "MLFLOW_ALLOW_MODEL_CODE_EXECUTION")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "false"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
