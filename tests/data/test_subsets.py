"""Nested, balanced subsets."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlab.data import balanced_order, check_sizes, largest_balanced_size, nested_subsets, subset_digest
from robustlab.data.subsets import spaced_sizes, split_balanced
from robustlab.errors import InputError

LABELS = torch.arange(1000) * 7 % 10


@st.composite
def labelled_sizes(draw: st.DrawFn) -> tuple[torch.Tensor, int, list[int]]:
    """Labels in any order and number, with rising sizes that a balanced subset of them can have."""
    num_classes = draw(st.integers(2, 7))
    counts = draw(st.lists(st.integers(1, 30), min_size=num_classes, max_size=num_classes))
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    shuffled = draw(st.permutations(labels))
    per_class = draw(st.sets(st.integers(1, min(counts)), min_size=1, max_size=6))
    return torch.tensor(shuffled), num_classes, [k * num_classes for k in sorted(per_class)]


@given(case=labelled_sizes(), seed=st.integers(-(2**40), 2**40))
@settings(deadline=None)
def test_subsets_are_strictly_nested_and_balanced(
    case: tuple[torch.Tensor, int, list[int]], seed: int
) -> None:
    """Each subset has the asked size, equal class counts, no repeats, and all of the smaller ones."""
    labels, num_classes, sizes = case
    subsets = nested_subsets(labels, num_classes, sizes, seed)
    smaller: set[int] = set()
    for size in sizes:
        indices = subsets[size].tolist()
        assert len(indices) == len(set(indices)) == size
        counts = torch.bincount(labels[subsets[size]], minlength=num_classes)
        assert counts.tolist() == [size // num_classes] * num_classes
        assert smaller < set(indices)
        smaller = set(indices)


def test_order_is_the_same_on_every_machine_and_version() -> None:
    """The index list of known labels and seeds hashes to fixed values."""
    digests = {seed: subset_digest("golden", balanced_order(LABELS, seed)) for seed in (0, 1, -5)}
    assert digests == GOLDEN


GOLDEN = {
    0: "23a76db293521718fda9ae0e7d930acd63ddb5bd8d5c4aff876d861eff7afd0f",
    1: "17e771c95bf01f78c3a8d9bffe189ac8096d7142a86fa8afad3135aab28eccb6",
    -5: "4c859a447e51f9bb703cb99e12a6354455a38da6d41d620b34dc88779686c71e",
}


def test_order_ranks_by_hash_within_a_class() -> None:
    """Rank comes first, class second, and the rank is that of SHA-256 of seed and index."""
    order = balanced_order(torch.tensor([1, 0, 1, 0, 1]), seed=3)
    rank = {i: hashlib.sha256(f"3:{i}".encode()).hexdigest() for i in range(5)}
    zeros, ones = sorted([1, 3], key=rank.__getitem__), sorted([0, 2, 4], key=rank.__getitem__)
    assert order.tolist() == [zeros[0], ones[0], zeros[1], ones[1]]


def test_seeds_draw_different_subsets() -> None:
    """Another seed gives another list, not a rotation of the same images."""
    first, second = (set(balanced_order(LABELS, seed)[:100].tolist()) for seed in (0, 1))
    assert len(first & second) < 40


def test_order_is_on_the_cpu_as_int64_and_empty_without_labels() -> None:
    """The result indexes any tensor; no labels give no indices."""
    assert balanced_order(LABELS.to(torch.int32), 0).dtype == torch.int64
    assert balanced_order(torch.tensor([], dtype=torch.int64), 0).tolist() == []


def test_subset_digest_tells_data_sets_order_and_indices_apart() -> None:
    """Another data set, another index or another order gives another digest."""
    base = subset_digest("a", torch.tensor([1, 2]))
    others = [("b", [1, 2]), ("a", [1, 3]), ("a", [2, 1]), ("a", [1]), ("a", [258])]
    assert len({base} | {subset_digest(name, torch.tensor(indices)) for name, indices in others}) == 6
    assert base == hashlib.sha256(b"a" + bytes([1, *[0] * 7, 2, *[0] * 7])).hexdigest()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([], "no training sizes"),
        ([0], "must be positive, not 0"),
        ([-10], "must be positive, not -10"),
        ([10, 25], "25 is not a multiple of the 10 classes.* 20 or 30"),
        ([3], "3 is not a multiple of the 10 classes.*: 10$"),
        ([10, 2000], "2000 is too large: the largest balanced subset has 1000 images"),
        ([10, 20, 20], "20 was given more than once"),
        ([30, 10], "must rise, not 30,10; give 10,30"),
    ],
)
def test_impossible_sizes_are_refused_in_one_line(sizes: list[int], message: str) -> None:
    """The message says which size is wrong, why, and what would do."""
    with pytest.raises(InputError, match=message) as error:
        check_sizes(sizes, LABELS, 10)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError):
        nested_subsets(LABELS, 10, sizes, 0)


def test_largest_balanced_size_follows_the_rarest_class() -> None:
    """The rarest class limits all others; a class without images leaves nothing."""
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    assert largest_balanced_size(labels, 3) == 6
    assert largest_balanced_size(labels, 4) == 0


@pytest.mark.parametrize(("per_class", "sizes"), [(100, range(20, 201, 20)), (3, (2, 4, 6)), (25, None)])
def test_spaced_sizes_are_usable_and_end_at_the_largest(per_class: int, sizes: range | None) -> None:
    """Default sizes of a folder pass the check that all sizes pass."""
    labels = torch.arange(2 * per_class) % 2
    found = spaced_sizes(labels, 2)
    check_sizes(found, labels, 2)
    assert found[-1] == 2 * per_class
    assert sizes is None or found == tuple(sizes)


def test_split_is_balanced_and_complete() -> None:
    """Every image is either in train or in test, and test has the asked count of each class."""
    train, test = split_balanced(LABELS, 30)
    assert sorted(train.tolist() + test.tolist()) == list(range(1000))
    assert torch.bincount(LABELS[test]).tolist() == [30] * 10
