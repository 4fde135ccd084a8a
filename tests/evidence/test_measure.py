"""Intervals and tests of one curve against SciPy, closed forms and what must not change them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from robustlab.evidence import Curve, curve_of_cells, measure, resample
from tests.evidence.made_up import SIZES, curve, distances


def single(values: np.ndarray, sizes: tuple[int, ...] = SIZES) -> Curve:
    """One seed's distances as a curve whose accuracy rises."""
    accuracy = np.linspace(0.5, 0.9, values.shape[1])[None]
    return Curve(sizes[: values.shape[1]], (np.arange(len(values)),), (values,), accuracy)


def test_a_scores_interval_is_students(rng: np.random.Generator) -> None:
    """For normal distances of one seed, the bootstrap-t interval is Student's t interval of the mean."""
    values = rng.normal(1, 0.3, (60, 2))
    for interval, column in zip(measure(single(values)).scores, values.T, strict=True):
        low, high = stats.ttest_1samp(column, 0).confidence_interval(0.95)
        assert interval.value == pytest.approx(column.mean())
        assert interval.low == pytest.approx(low, abs=0.06 * (high - low))
        assert interval.high == pytest.approx(high, abs=0.06 * (high - low))


def test_a_skewed_scores_interval_leans_as_scipys_does(rng: np.random.Generator) -> None:
    """For skewed distances the interval reaches further up than down, like SciPy's bias-corrected one."""
    values = np.exp(0.8 * rng.standard_normal((150, 1)))
    interval = measure(single(values)).scores[0]
    scipy = stats.bootstrap((values[:, 0],), np.mean, method="BCa", rng=rng).confidence_interval
    width = scipy.high - scipy.low
    assert interval.high - interval.value > 1.1 * (interval.value - interval.low)
    assert interval.low == pytest.approx(scipy.low, abs=0.08 * width)
    assert interval.high == pytest.approx(scipy.high, abs=0.15 * width)


def test_two_sizes_of_one_seed_are_a_paired_t_test(rng: np.random.Generator) -> None:
    """Nothing to choose between: the p value is the one-sided paired t test's over the images."""
    values = distances(rng, 200, 2, "normal")
    for shift in (0.0, 0.02, 0.04):
        moved = values - [0, shift]
        expected = stats.ttest_rel(moved[:, 0], moved[:, 1], alternative="greater").pvalue
        assert measure(single(moved)).p_fall == pytest.approx(expected, abs=0.015)


def test_two_sizes_of_several_seeds_are_a_paired_t_test_over_seeds(rng: np.random.Generator) -> None:
    """Where images leave no doubt the seeds are the sample: Student's t with one degree of freedom fewer than seeds."""
    noise = np.array([[0.05, 0.0], [0.01, -0.02], [0.04, 0.02], [0.03, -0.01]])
    one_image = np.ones((50, 2)) + 1e-6 * rng.standard_normal((50, 2))
    several = Curve(
        SIZES[:2],
        (np.arange(50),) * 4,
        tuple(one_image + seed for seed in noise),
        np.tile([0.5, 0.9], (4, 1)),
    )
    evidence = measure(several, draws=40_000)
    expected = stats.ttest_rel(noise[:, 0], noise[:, 1], alternative="greater")
    assert evidence.p_fall == pytest.approx(expected.pvalue, rel=0.1)
    low, high = stats.ttest_1samp(1 + noise[:, 0], 0).confidence_interval(0.95)
    assert evidence.scores[0].low == pytest.approx(low, abs=0.05 * (high - low))
    assert evidence.scores[0].high == pytest.approx(high, abs=0.05 * (high - low))
    assert evidence.seed_share > 0.99


def test_the_choice_of_the_peak_is_paid_for(rng: np.random.Generator) -> None:
    """With independent sizes the p value is that of the largest of as many, as Dunnett's test in SciPy has it."""
    values = rng.normal(1, 0.3, (300, 6))
    values[:, 2] += 0.04
    expected = stats.dunnett(
        *values[:, :5].T, control=values[:, 5], alternative="greater", rng=rng
    ).pvalue.min()
    assert measure(single(values)).p_fall == pytest.approx(expected, abs=0.03)


def test_standard_errors_are_the_closed_form(rng: np.random.Generator) -> None:
    """Of a score: the sample's deviation over the root of n; of a difference: that of the paired differences."""
    values = distances(rng, 120, 3, "skewed")
    chance = resample(single(values), draws=10)
    assert chance.standard_error == pytest.approx(stats.sem(values), rel=1e-9)
    assert chance.pair_error[0, 2] == pytest.approx(stats.sem(values[:, 0] - values[:, 2]), rel=1e-9)


def test_pairing_makes_the_interval_of_the_fall_narrow(rng: np.random.Generator) -> None:
    """Images differ far more from each other than a model does from the next: only differences count."""
    values = rng.uniform(0.2, 3, (100, 1)) + 0.01 * rng.standard_normal((100, 3)) - [0.0, 0.0, 0.1]
    evidence = measure(single(values))
    assert evidence.fall.high - evidence.fall.low < 0.02
    assert evidence.scores[0].high - evidence.scores[0].low > 0.2
    assert evidence.fall.low < 0.1 < evidence.fall.high


def test_the_peak_and_its_confidence_set(rng: np.random.Generator) -> None:
    """A clear peak stands alone; two sizes that cannot be told apart are both in the set."""
    values = 1 + 0.05 * rng.standard_normal((200, 5)) + [0.0, 0.2, 0.2, 0.1, 0.0]
    evidence = measure(single(values))
    assert set(evidence.peak_sizes) == {SIZES[1], SIZES[2]}
    values[:, 1] -= 0.1
    assert measure(single(values)).peak_sizes == (SIZES[2],)


def test_the_last_doubling_starts_at_the_best_size_of_at_most_half(rng: np.random.Generator) -> None:
    """Not at one that is hard to tell from the largest because its distances vary more: that one only decides p."""
    values = 1 + 0.01 * rng.standard_normal((100, 3)) + [0.0, 0.10, 0.14]
    values[:, 0] += rng.normal(0, 0.5, 100)  # far below on average, but no image says so clearly
    evidence = measure(single(values, (100, 200, 400)))
    gain = values[:, 2].mean() - values[:, 1].mean()
    assert evidence.last_doubling is not None
    assert evidence.last_doubling.value == pytest.approx(gain)
    assert evidence.p_rise > 0.0005  # size 200 alone is surpassed beyond any doubt


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_set_excludes_the_largest_size_exactly_when_the_test_rejects(
    rng: np.random.Generator, seeds: int
) -> None:
    """Interval and test cannot contradict each other: one is the other's inversion."""
    for _ in range(25):
        evidence = measure(curve(rng, seeds=seeds, training_noise=0.02 * (seeds > 1), images=80), draws=999)
        assert (SIZES[-1] in evidence.peak_sizes) == (evidence.p_fall > 0.05)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["skewed", "neighbours", "heavy"]), st.integers(2, 4))
def test_identical_seeds_never_widen_an_interval(number: int, kind: str, copies: int) -> None:
    """The same models again are no news: all intervals and p values stay as they are."""
    one = curve(np.random.default_rng(number), kind=kind, images=60)
    several = Curve(
        one.sizes, one.images * copies, one.distances * copies, np.tile(one.accuracies, (copies, 1))
    )
    before, after = measure(one, draws=500), measure(several, draws=500)
    assert after.p_fall == pytest.approx(before.p_fall, abs=1e-6)
    for old, new in zip((*before.scores, before.fall), (*after.scores, after.fall), strict=True):
        assert new.high - new.low <= (old.high - old.low) * (1 + 1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3), st.integers(1, 3))
def test_names_order_and_unit_do_not_matter(number: int, factor: float, seeds: int) -> None:
    """Other test indices, seeds in another order, another pixel range: the same verdict."""
    rng = np.random.default_rng(number)
    one = curve(rng, seeds=seeds, training_noise=0.02, images=50)
    other = Curve(
        one.sizes,
        tuple(images + 1_000 for images in one.images[::-1]),
        tuple(values * factor for values in one.distances[::-1]),
        one.accuracies,
    )
    first, second = measure(one, draws=300), measure(other, draws=300)
    assert (first.p_fall, first.peak, first.peak_sizes) == (second.p_fall, second.peak, second.peak_sizes)
    assert second.fall.high == pytest.approx(factor * first.fall.high)
    assert second.relative_fall.high == pytest.approx(first.relative_fall.high)


def test_the_order_of_images_does_not_matter(rng: np.random.Generator) -> None:
    """Rows that are put together in another order, each with its own index, give the same evidence."""
    values = distances(rng, 80, 3, "skewed")
    order = rng.permutation(80)

    def of(rows: np.ndarray) -> Curve | None:
        return curve_of_cells({(0, SIZES[i]): (rows, values[rows, i], 0.1 * i) for i in range(3)})

    one, other = of(np.arange(80)), of(order)
    assert one is not None
    assert other is not None
    assert measure(one, draws=300).fall == measure(other, draws=300).fall


def test_an_image_that_several_seeds_share_counts_once(rng: np.random.Generator) -> None:
    """Seeds that attack the same images know no more of other images than one does."""
    values = distances(rng, 100, 3, "skewed")
    same = Curve(SIZES[:3], (np.arange(100),) * 2, (values,) * 2, np.ones((2, 3)))
    apart = replace(same, images=(np.arange(100), np.arange(100, 200)))
    shared, separate = resample(same, 50).pair_error, resample(apart, 50).pair_error
    assert separate[0, 1] == pytest.approx(shared[0, 1] / np.sqrt(2), rel=0.02)


def test_sizes_without_a_full_score_are_left_out_and_named() -> None:
    """A missing cell, a missed image: the size goes, for every seed, and the curve says so."""
    indices, full = np.arange(40), np.ones(40)
    missed = np.where(indices == 3, np.inf, 1.0)
    cells = {
        (seed, size): (indices, missed if (seed, size) == (1, 300) else full, 0.5)
        for seed in (0, 1)
        for size in (100, 200, 300, 400)
        if (seed, size) != (0, 200)
    }
    made = curve_of_cells(cells)
    assert made is not None
    assert made.sizes == (100, 400)
    assert made.left_out == (
        "size 200 left out (seed 0: never finished)",
        "size 300 left out (seed 1: the attack missed images)",
    )
    assert curve_of_cells({(0, 100): "training diverged"}) is None


def test_bad_curves_are_refused() -> None:
    """Sizes that do not rise, an infinite distance, an image twice: an error, not a number."""
    good = Curve((1, 2), (np.arange(3),), (np.ones((3, 2)),), np.ones((1, 2)))
    with pytest.raises(ValueError, match="have to increase"):
        replace(good, sizes=(2, 2))
    with pytest.raises(ValueError, match="finite"):
        replace(good, distances=(np.full((3, 2), np.inf),))
    with pytest.raises(ValueError, match="twice"):
        replace(good, images=(np.array([1, 1, 2]),))


def test_no_variation_is_no_division_by_zero() -> None:
    """Identical images leave no doubt at all: a fall is certain, no fall is none."""
    falling = np.ones((40, 1)) * [1.0, 2.0, 1.5]
    evidence = measure(single(falling), draws=999)
    assert (evidence.p_fall, evidence.fall.low, evidence.peak_sizes) == (0.001, 0.5, (SIZES[1],))
    flat = measure(single(np.ones((40, 3))), draws=999)
    assert (flat.p_fall, flat.within_margin) == (1.0, True)
