"""Studentised bootstrap over images and seeds: how the differences between a curve's sizes vary by chance alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustlab.evidence.curve import Curve, Floats

DRAWS = 10_000
_CHUNK = 2_000  # draws at a time: 1,000 images then take 16 MB of weights


@dataclass(frozen=True, eq=False)
class Resampled:
    """A curve's chance variation.

    Attributes:
        standard_error: (sizes,) of the scores.
        draws: (draws, sizes), chance values of (score - truth) / standard error.
        pair_error: (sizes, sizes), standard error of score[t] - score[s]; 0 on the diagonal.
        pair_draws: (draws, sizes, sizes), chance values of (difference - truth) / pair_error; antisymmetric.
        pair_flips: the same with the signs of the images' differences drawn in place of the images.
        seed_share: (sizes, sizes), the fraction of each difference's variance that comes from the seeds.
    """

    standard_error: Floats
    draws: Floats
    pair_error: Floats
    pair_draws: Floats
    pair_flips: Floats
    seed_share: Floats


def resample(curve: Curve, draws: int = DRAWS, seed: int = 0) -> Resampled:
    """Draw the chance variation of a curve's scores and of all differences between its sizes.

    Images are drawn with replacement, the same ones for all sizes and seeds (paired), and every draw is divided by its
    own standard error (bootstrap-t, Efron 1979): that follows skewed distances, where plain percentiles do not. Sign
    flips are exact where differences are symmetric; a test that asks both holds its level for 100 images already.

    With several seeds, normal noise with the variance between seeds is added and the sum is divided by the root of a
    chi-squared draw with that variance's degrees of freedom (Satterthwaite's for the sum): for many images that is
    Student's t. Resampling two or three seeds themselves would give a half or a third of their variance away. The
    variance of a difference between sizes is the larger of its own and the one pooled over all sizes.

    Args:
        draws: bootstrap draws.
        seed: of the random numbers; the same curve gives the same result.
    """
    sizes, seeds = len(curve.sizes), curve.seeds
    first, second = np.triu_indices(sizes, k=1)
    influence = curve.influence()
    count = len(influence)
    contrasts = influence[:, first] - influence[:, second]
    columns = np.hstack([influence, contrasts])
    image_variance = (columns**2).sum(axis=0) / (count * max(1, count - 1))
    rng = np.random.default_rng(seed)
    studentised = _bootstrap_t(columns, draws, rng)
    flips = _sign_flips(influence, contrasts, (first, second), draws, rng)

    scores = curve.seed_scores
    seed_variance = np.zeros(columns.shape[1])
    if seeds > 1:
        seed_variance[:sizes] = scores.var(axis=0, ddof=1) / seeds
        if sizes > 1:
            residual = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()
            pooled = 2 * (residual**2).sum() / ((seeds - 1) * (sizes - 1))
            own = (scores[:, first] - scores[:, second]).var(axis=0, ddof=1)
            seed_variance[sizes:] = np.maximum(own, pooled) / seeds
    variance = image_variance + seed_variance
    real = variance > _tiny(curve) ** 2
    share = np.divide(seed_variance, variance, out=np.zeros_like(variance), where=real)
    single, paired = studentised[:, :sizes], studentised[:, sizes:]
    if seeds > 1:
        noise = rng.standard_normal((draws, sizes))
        single = _add_seeds(single, noise, share[:sizes], _chi(seeds - 1, share[:sizes], draws, rng))
        if sizes > 1:
            # Differences of one size's noise, so that contrasts that share a size move together.
            noise = (noise[:, first] - noise[:, second]) / np.sqrt(2)
            chi = _chi((seeds - 1) * (sizes - 1), share[sizes:].max(keepdims=True), draws, rng)
            paired = _add_seeds(paired, noise, share[sizes:], chi)
            flips = _add_seeds(flips, noise, share[sizes:], chi)

    error = np.where(real, np.sqrt(variance), 0.0)

    def square(values: Floats, sign: int) -> Floats:
        full = np.zeros((*values.shape[:-1], sizes, sizes))
        full[..., first, second] = values
        full[..., second, first] = sign * values
        return full

    return Resampled(
        standard_error=error[:sizes],
        draws=single,
        pair_error=square(error[sizes:], 1),
        pair_draws=square(paired, -1),
        pair_flips=square(flips, -1),
        seed_share=square(share[sizes:], 1),
    )


def _bootstrap_t(columns: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """(draws, columns): mean over its own standard error of resampled rows; the columns have mean 0."""
    count = len(columns)
    both = np.hstack([columns, columns**2])
    out = np.zeros((draws, columns.shape[1]))
    for start in range(0, draws, _CHUNK):
        weights = _weights(min(_CHUNK, draws - start), count, rng)
        moments = weights @ both / count
        mean, square = np.split(moments, 2, axis=1)
        error = np.sqrt(np.maximum(square - mean**2, 0) / max(1, count - 1))
        floor = 1e-12 * np.sqrt((columns**2).mean(axis=0))
        block = out[start : start + len(weights)]
        np.divide(mean, error, out=block, where=error > floor)
    return out


def _weights(draws: int, count: int, rng: np.random.Generator) -> Floats:
    """(draws, count): how often each of ``count`` images is drawn in ``count`` draws with replacement."""
    picked: NDArray[np.int64] = rng.integers(0, count, size=(draws, count))
    picked += np.arange(draws)[:, None] * count
    return np.bincount(picked.ravel(), minlength=draws * count).reshape(draws, count).astype(np.float64)


def _sign_flips(
    influence: Floats,
    contrasts: Floats,
    pairs: tuple[NDArray[np.intp], NDArray[np.intp]],
    draws: int,
    rng: np.random.Generator,
) -> Floats:
    """(draws, contrasts): mean over standard error when each image's differences change sign together at random."""
    count = len(influence)
    square = (contrasts**2).mean(axis=0)
    out = np.zeros((draws, contrasts.shape[1]))
    for start in range(0, draws, _CHUNK):
        signs = rng.integers(0, 2, size=(min(_CHUNK, draws - start), count)) * 2.0 - 1.0
        by_size = signs @ influence / count
        mean = by_size[:, pairs[0]] - by_size[:, pairs[1]]
        error = np.sqrt(np.maximum(square - mean**2, 0) / max(1, count - 1))
        np.divide(mean, error, out=out[start : start + len(signs)], where=error > 1e-12 * np.sqrt(square))
    return out


def _add_seeds(draws: Floats, noise: Floats, share: Floats, chi: Floats) -> Floats:
    """Images' and seeds' chance values in proportion to their variances, over the seeds' estimated deviation."""
    total: Floats = (np.sqrt(1 - share) * draws + np.sqrt(share) * noise) / chi
    return total


def _chi(freedom: int, share: Floats, draws: int, rng: np.random.Generator) -> Floats:
    """Root of chi-squared over its degrees of freedom; near 1 where little of the variance is between seeds."""
    estimated = np.minimum(freedom / np.maximum(share, 1e-6) ** 2, 1e9)
    chi: Floats = np.sqrt(rng.chisquare(estimated, (draws, len(share))) / estimated)
    return np.where(estimated < 1e9, chi, 1.0)  # beyond, its scatter is only rounding made visible


def _tiny(curve: Curve) -> float:
    """Below this a standard error is rounding: float32 distances carry seven digits."""
    return 1e-9 * float(np.abs(curve.scores).max(initial=0.0)) + 1e-300
