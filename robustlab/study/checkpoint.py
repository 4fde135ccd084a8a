"""Weights as safetensors beside a readable description: no pickle, loadable for ever."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from robustlab.errors import InputError
from robustlab.files import file_digest
from robustlab.models import build_model
from robustlab.training import TrainingState

CHECKPOINT = "checkpoint"  # the folder among a run's artifacts
WEIGHTS_FILE = "model.safetensors"
DESCRIPTION_FILE = "model.json"
STATE_FILE = "training.safetensors"
STATE_DESCRIPTION_FILE = "training.json"


def save_checkpoint(
    model: nn.Module, name: str, image_shape: tuple[int, int, int], num_classes: int, folder: Path
) -> str:
    """Write the weights and what is needed to build the model around them; returns the weights' SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)
    digest = file_digest(folder / WEIGHTS_FILE)
    description = {
        "model": name, "image_shape": list(image_shape), "num_classes": num_classes, "sha256": digest,
    }  # fmt: skip
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")
    return digest


def load_checkpoint(folder: Path) -> nn.Module:
    """Build the described model with the stored weights, in evaluation mode.

    Raises:
        InputError: a file is missing, damaged, not the one that was written, or the two do not fit.
    """
    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_text())
        # Checkpoints of older versions name no digest.
        _check_digest(folder / WEIGHTS_FILE, description.get("sha256"))
        name, shape = description["model"], tuple(description["image_shape"])
        weights = load_file(folder / WEIGHTS_FILE)
        with torch.device("meta"):  # what the description asks for, before any memory is taken for it
            build_model(name, shape, int(description["num_classes"])).load_state_dict(weights, assign=True)
        model = build_model(name, shape, int(description["num_classes"]))
        model.load_state_dict(weights)
    except InputError:
        raise
    except Exception as error:  # safetensors, json and torch each have their own for a damaged file
        raise _unreadable("a model", folder, error) from error
    return model.eval()


def save_training_state(state: TrainingState, folder: Path) -> None:
    """Write a training that is under way: tensors as safetensors, the rest and the tensors' SHA-256 as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state.tensors, folder / STATE_FILE)
    description = {
        "losses": state.losses,
        "steps": state.steps,
        "train_s": state.train_s,
        "sha256": file_digest(folder / STATE_FILE),
    }
    (folder / STATE_DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")


def load_training_state(folder: Path) -> TrainingState:
    """Read what ``save_training_state`` wrote.

    Raises:
        InputError: a file is missing, damaged or not the one that was written.
    """
    try:
        description = json.loads((folder / STATE_DESCRIPTION_FILE).read_text())
        _check_digest(folder / STATE_FILE, description["sha256"])
        return TrainingState(
            load_file(folder / STATE_FILE),
            tuple(description["losses"]),
            int(description["steps"]),
            float(description["train_s"]),
        )
    except InputError:
        raise
    except Exception as error:
        raise _unreadable("a training", folder, error) from error


def _check_digest(path: Path, expected: str | None) -> None:
    if expected is not None and file_digest(path) != expected:
        raise InputError(
            f"{path} is not the file that was written (its SHA-256 differs: truncated or altered); train it again"
        )


def _unreadable(what: str, folder: Path, error: Exception) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"cannot load {what} from {folder}: {reason}; give a folder made by a study")
