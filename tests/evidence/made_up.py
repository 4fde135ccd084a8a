"""Curves with a known truth, with distances as skewed and as related across sizes as measured ones are."""

from __future__ import annotations

import numpy as np

from robustlab.evidence import Curve

SIZES = (1_000, 5_000, 10_000, 20_000, 40_000, 50_000)


def distances(rng: np.random.Generator, images: int, sizes: int, kind: str) -> np.ndarray:
    """(images, sizes) with mean 1 at every size; an image's difficulty is shared by all sizes."""
    shared = rng.standard_normal((images, 1))
    own = rng.standard_normal((images, sizes))
    if kind == "neighbours":  # nested training sets: a model resembles the next larger one
        for size in range(1, sizes):
            own[:, size] = 0.8 * own[:, size - 1] + 0.6 * own[:, size]
    if kind == "normal":
        return 1 + 0.35 * shared + 0.2 * own
    if kind == "heavy":
        return 1 + 0.35 * shared + 0.15 * rng.standard_t(3, (images, sizes))
    made: np.ndarray = np.exp(0.5 * shared + 0.3 * own - (0.25 + 0.09) / 2)
    return made


def curve(
    rng: np.random.Generator,
    shape: tuple[float, ...] | None = None,
    images: int = 150,
    seeds: int = 1,
    kind: str = "skewed",
    training_noise: float = 0.0,
    rising_accuracy: bool = True,
) -> Curve:
    """A curve whose true scores are ``shape``; each model's score is off by ``training_noise`` as a fraction."""
    truth = np.array(shape or (1.0,) * len(SIZES))
    of_seeds = [
        distances(rng, images, len(truth), kind)
        * truth
        * (1 + training_noise * rng.standard_normal(len(truth)))
        for _ in range(seeds)
    ]
    accuracy = np.linspace(0.5, 0.9, len(truth))
    if not rising_accuracy:
        accuracy = accuracy[::-1]
    return Curve(
        SIZES[-len(truth) :],
        (np.arange(images),) * seeds,
        tuple(of_seeds),
        np.tile(accuracy, (seeds, 1)),
    )
