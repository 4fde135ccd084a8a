"""Clean image, adversarial image and perturbation of the same test images across sizes, as pictures in the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from robustlab.study.report.charts import model_name
from robustlab.study.report.curves import NORM_NAMES, NORMS, variants_of
from robustlab.study.report.record import CellRecord, StudyRecord

_MOST_BYTES = 2_500_000  # of pictures in one page, so that several studies stay under 8 MB
_MOST_SIZES = 4


@dataclass(frozen=True)
class Shot:
    """One model's adversarial image; both pictures are data addresses, empty where nothing was found."""

    size: int
    picture: str
    perturbation: str
    strength: str
    distance: str
    predicted: str


@dataclass(frozen=True)
class Row:
    """One test image: the clean picture, its label, and a shot per size."""

    index: int
    picture: str
    label: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class Gallery:
    """One model and norm."""

    title: str
    rows: tuple[Row, ...]


def galleries(study: StudyRecord, budget: int = _MOST_BYTES) -> list[Gallery]:
    """As many images per curve, seed of the first kind, as fit the budget: the same number for every curve."""
    groups = []
    for dataset, variant in variants_of(study):
        cells = [cell for cell in study.cells if cell.result.cell.variant == variant]
        first_seed = min((cell.result.cell.seed for cell in cells), default=0)
        cells = [cell for cell in cells if cell.result.cell.seed == first_seed]
        cells = [cells[i] for i in _spread(len(cells))]
        name = f"{model_name(dataset, variant.partition('+')[0])}{', augmented' if '+' in variant else ''}"
        groups += [
            (f"{name}, {NORM_NAMES[norm]}", norm, cells)
            for norm in NORMS
            if cells and all(norm in cell.examples for cell in cells)
        ]
    for count in (3, 2, 1):
        made = [Gallery(title, _rows(study, norm, cells, count)) for title, norm, cells in groups]
        if sum(map(_size, made)) <= budget:
            return [gallery for gallery in made if gallery.rows]
    return []


def _rows(study: StudyRecord, norm: str, cells: list[CellRecord], count: int) -> tuple[Row, ...]:
    names = study.dataset.get("class_names")
    first = cells[0]
    rows = []
    for position in range(min(count, *(len(cell.examples[norm].test_indices) for cell in cells))):
        example = first.examples[norm]
        shots = tuple(_shot(cell, norm, position, names) for cell in cells)
        label = _label(names, first.arrays["labels"][position])
        picture = _picture(example.inputs[position])
        rows.append(Row(int(example.test_indices[position]), picture, label, shots))
    return tuple(rows)


def _shot(cell: CellRecord, norm: str, position: int, names: Any) -> Shot:
    size = cell.result.cell.train_size
    example = cell.examples[norm]
    if not cell.arrays[f"{norm}_success"][position]:
        return Shot(size, "", "", "", "nothing found", "")
    perturbation = example.perturbations[position]
    largest = float(np.abs(perturbation).max()) or 1.0
    return Shot(
        size,
        _picture(example.inputs[position] + perturbation),
        _picture(0.5 + 0.5 * perturbation / largest),
        f"{1 / largest:,.0f}" if largest < 0.5 else f"{1 / largest:.1f}",
        f"{float(cell.arrays[f'{norm}_distance'][position]):.{4 if norm == 'l2' else 5}f}",
        _label(names, cell.arrays[f"{norm}_adv_labels"][position]),
    )


def _picture(values: np.ndarray) -> str:
    """(channels, height, width) in [0, 1] as a data address; one channel is grey, more than three show the first."""
    pixels = (values.clip(0, 1) * 255).round().astype(np.uint8)
    pixels = pixels.transpose(1, 2, 0)[..., :3] if len(pixels) >= 3 else pixels[0]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _label(names: Any, label: Any) -> str:
    known = isinstance(names, list) and int(label) < len(names)
    return str(names[int(label)]) if known else str(int(label))


def _spread(count: int) -> list[int]:
    """At most ``_MOST_SIZES`` positions, the first and the last among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, _MOST_SIZES))}) if count else []


def _size(gallery: Gallery) -> int:
    return sum(
        len(row.picture) + sum(len(shot.picture) + len(shot.perturbation) for shot in row.shots)
        for row in gallery.rows
    )
