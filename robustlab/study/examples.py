"""A few adversarial images per cell, kept for the report's gallery: the first images that every size attacks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from robustlab.errors import InputError
from robustlab.shapes import Float
from robustlab.study.artifacts import read_arrays

KEPT_IMAGES = 4
FILE_NAME = "examples.npz"
_STEPS = 127  # of int8 on either side: a perturbation to 1 % of its largest value, in a quarter of the bytes


@dataclass(frozen=True, eq=False)
class Examples:
    """Clean images and one adversarial image each.

    Attributes:
        test_indices: (images,), into the data set's test images.
        inputs: (images, channels, height, width) in [0, 1].
        perturbations: adversarial minus clean image, the same shape.
    """

    test_indices: np.ndarray
    inputs: np.ndarray
    perturbations: np.ndarray


def save_examples(
    folder: Path,
    test_indices: Tensor,
    inputs: Float[Tensor, "batch channels height width"],
    adv_inputs: dict[str, Tensor],
) -> None:
    """Write the first images of a cell and what each attack made of them, a few KB.

    Args:
        adv_inputs: adversarial images by norm, at least as many as are kept.
    """
    clean = inputs[:KEPT_IMAGES].cpu()
    arrays = {
        "test_indices": test_indices[:KEPT_IMAGES].numpy(),
        "inputs": (clean * 255).round().byte().numpy(),
    }
    for norm, images in adv_inputs.items():
        perturbation = images[:KEPT_IMAGES].cpu() - clean
        largest = perturbation.flatten(1).abs().amax(dim=1) if len(clean) else perturbation.new_zeros(0)
        scale = (largest / _STEPS).clamp_min(1e-12).reshape(-1, 1, 1, 1)
        arrays[f"{norm}_perturbation"] = (perturbation / scale).round().char().numpy()
        arrays[f"{norm}_scale"] = scale.flatten().numpy()
    np.savez_compressed(folder / FILE_NAME, **arrays)  # type: ignore[arg-type]


def read_examples(path: Path) -> dict[str, Examples]:
    """The kept images by norm, as ``save_examples`` wrote them.

    Raises:
        InputError: the file is damaged.
    """
    stored = read_arrays(path)
    try:
        inputs = stored["inputs"].astype(np.float32) / 255
        return {
            norm: Examples(
                stored["test_indices"],
                inputs,
                stored[f"{norm}_perturbation"].astype(np.float32)
                * stored[f"{norm}_scale"].reshape(-1, 1, 1, 1),
            )
            for norm in ("l2", "linf")
            if f"{norm}_perturbation" in stored
        }
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path.name} does not hold what a study keeps ({type(error).__name__})") from error
