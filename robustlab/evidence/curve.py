"""One curve's measurements: distances of the same images at every training size, for one or several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """What a (data set, variant, norm) measured.

    Attributes:
        sizes: training sizes, increasing.
        images: per seed, the test indices (images,) of the common-correct images; seeds may differ in them.
        distances: per seed, (images, sizes) in units of the [0, 1] pixel range, all found.
        accuracies: (seeds, sizes), test accuracy as a fraction.
        left_out: one sentence for each size or seed that could not be used.
    """

    sizes: tuple[int, ...]
    images: tuple[NDArray[np.int64], ...]
    distances: tuple[Floats, ...]
    accuracies: Floats
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(later <= earlier for earlier, later in pairwise(self.sizes)):
            raise ValueError(f"sizes have to increase, got {list(self.sizes)}")
        seeds = len(self.distances)
        if len(self.images) != seeds or self.accuracies.shape != (seeds, len(self.sizes)):
            raise ValueError(
                "images, distances and accuracies need one entry per seed, accuracies one per size"
            )
        for images, distances in zip(self.images, self.distances, strict=True):
            if distances.shape != (len(images), len(self.sizes)):
                raise ValueError(f"distances have shape {distances.shape}, not (images, sizes)")
            if len(np.unique(images)) != len(images):
                raise ValueError("a test image appears twice in one seed")
            if not np.isfinite(distances).all():
                raise ValueError(
                    "every distance has to be finite: leave out a size where the attack missed images"
                )

    @property
    def seeds(self) -> int:
        """How many seeds were measured."""
        return len(self.distances)

    @property
    def fewest_images(self) -> int:
        """The number of images of the seed with the fewest; 0 without seeds."""
        return min((len(images) for images in self.images), default=0)

    @property
    def seed_scores(self) -> Floats:
        """(seeds, sizes): mean distance over each seed's own images."""
        return np.array([distances.mean(axis=0) for distances in self.distances])

    @property
    def scores(self) -> Floats:
        """(sizes,): mean over the seeds of the mean distance."""
        scores: Floats = self.seed_scores.mean(axis=0)
        return scores

    def influence(self) -> Floats:
        """(union of images, sizes): how far each test image moves ``scores``, times the number of images.

        For one seed this is distance minus score. An image that several seeds attacked counts once, with its mean
        effect: its difficulty is shared by all models, so seeds are no independent sample of images.
        """
        union = np.unique(np.concatenate(self.images))
        total = np.zeros((len(union), len(self.sizes)))
        for images, distances in zip(self.images, self.distances, strict=True):
            centred = distances - distances.mean(axis=0)
            total[np.searchsorted(union, images)] += centred * (len(union) / len(images) / self.seeds)
        return total


def curve_of_cells(
    cells: Mapping[tuple[int, int], tuple[NDArray[np.int64], Floats, float] | str],
) -> Curve | None:
    """Put the cells of one curve together, using the sizes that every seed has measured in full.

    A mean over different seeds at different sizes would bend a curve by itself, so a size that one seed lacks is left
    out and said so.

    Args:
        cells: per (seed, size), either (test indices, distances, test accuracy) or why the cell has no score.

    Returns:
        None where no size is left.
    """
    seeds = sorted({seed for seed, _ in cells})
    used, left_out = [], []
    for size in sorted({size for _, size in cells}):
        reasons = []
        for seed in seeds:
            cell = cells.get((seed, size), "never finished")
            if isinstance(cell, str):
                reasons.append(f"seed {seed}: {cell}")
            elif not np.isfinite(cell[1]).all():
                reasons.append(f"seed {seed}: the attack missed images")
        if reasons:
            left_out.append(f"size {size:,} left out ({'; '.join(reasons)})")
        else:
            used.append(size)
    if not used:
        return None
    images, distances, accuracies = [], [], []
    for seed in seeds:
        of_seed = [cells[seed, size] for size in used]
        shared = _shared_images([cell[0] for cell in of_seed if not isinstance(cell, str)])
        if not len(shared):
            return None
        images.append(shared)
        distances.append(np.stack([_rows(cell, shared) for cell in of_seed], axis=1))
        accuracies.append([cell[2] for cell in of_seed if not isinstance(cell, str)])
    return Curve(tuple(used), tuple(images), tuple(distances), np.array(accuracies), tuple(left_out))


def _shared_images(indices: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    shared = np.unique(indices[0])
    for other in indices[1:]:
        shared = np.intersect1d(shared, other)
    return shared.astype(np.int64)


def _rows(cell: tuple[NDArray[np.int64], Floats, float] | str, images: NDArray[np.int64]) -> Floats:
    assert not isinstance(cell, str)
    indices, distances, _ = cell
    order = np.argsort(indices)
    rows: Floats = distances[order[np.searchsorted(indices[order], images)]].astype(np.float64)
    return rows
