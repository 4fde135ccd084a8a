"""Weights as safetensors beside a readable description: no pickle, loadable for ever."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from robustlab.errors import InputError
from robustlab.models import build_model

WEIGHTS_FILE = "model.safetensors"
DESCRIPTION_FILE = "model.json"


def save_checkpoint(
    model: nn.Module, name: str, image_shape: tuple[int, int, int], num_classes: int, folder: Path
) -> None:
    """Write the weights and what is needed to build the model around them into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)
    description = {"model": name, "image_shape": list(image_shape), "num_classes": num_classes}
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")


def load_checkpoint(folder: Path) -> nn.Module:
    """Build the described model with the stored weights, in evaluation mode.

    Raises:
        InputError: a file is missing, damaged, or the two do not fit.
    """
    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_text())
        model = build_model(
            description["model"], tuple(description["image_shape"]), int(description["num_classes"])
        )
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except InputError:
        raise
    except Exception as error:  # safetensors, json and torch each have their own for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"cannot load a model from {folder}: {reason}; give a folder made by a study"
        ) from error
    return model.eval()
