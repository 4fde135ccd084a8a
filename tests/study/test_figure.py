"""The study's figure: what it draws, what it refuses to draw, how it is saved."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import BinaryIO

import matplotlib.backends.backend_agg
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustlab.errors import InputError
from robustlab.study.cell import Cell, CellResult
from robustlab.study.figure import draw_study, save_figure

CIFAR_SIZES = (1_000, *range(5_000, 50_001, 5_000))


def made_up(
    dataset: str = "cifar10",
    variants: tuple[str, ...] = ("simple_cnn", "resnet", "resnet+aug"),
    sizes: tuple[int, ...] = CIFAR_SIZES,
    seeds: tuple[int, ...] = (0, 1),
    images: int = 400,
) -> list[CellResult]:
    """Curves whose distortion is largest in the middle, and larger by 0.02 for each further seed."""
    results = []
    for number, variant in enumerate(variants):
        model, _, augmented = variant.partition("+")
        for seed in seeds:
            for index, size in enumerate(sizes):
                bend = 1 - ((index - len(sizes) // 2) / len(sizes)) ** 2
                l2 = 0.1 * (number + 1) * bend + 0.02 * seed
                cell = Cell(dataset, model, bool(augmented), size, seed)
                accuracy = 0.5 + 0.4 * index / len(sizes)
                results.append(CellResult(cell, 0.99, accuracy, l2, l2 / 20, images, 1.0, 1.0, 1.0, 1.0))
    return results


def texts(axis: Axes) -> str:
    """Everything written into a panel but its ticks."""
    return "\n".join([axis.get_title(loc="left"), *(text.get_text() for text in axis.texts)])


def bold_lines(axis: Axes) -> list[np.ndarray]:
    """The heights of the lines that show means."""
    return [np.asarray(line.get_ydata(), dtype=float) for line in axis.lines if line.get_linewidth() == 1.6]


def test_layout_is_the_papers() -> None:
    """A row per architecture, columns accuracy, L2 and Linf with units; the augmented variant beside."""
    axes = np.reshape(draw_study(made_up(), "title").axes, (2, 3))
    assert [row[0].get_title(loc="left") for row in axes] == ["Simple CNN, 7 layers", "ResNet-32"]
    labels = [axis.get_ylabel() for axis in axes[0]]
    assert labels[0] == "accuracy (%)"
    assert all("distortion\n([0, 1] pixel range)" in label for label in labels[1:])
    assert [len(bold_lines(axis)) for axis in axes[:, 1]] == [1, 2]
    assert [axis.get_xlabel() for axis in axes[1]] == ["training images"] * 3


def test_mean_over_seeds_and_units() -> None:
    """The bold line is the mean over the seeds, accuracy in percent with train dashed and test solid."""
    results = made_up(variants=("resnet",), seeds=(0, 1, 2))
    accuracy, l2, linf = draw_study(results, "title").axes
    expected = [np.mean([r.l2 for r in results if r.cell.train_size == size]) for size in CIFAR_SIZES]
    assert bold_lines(l2)[0] == pytest.approx(expected)
    assert bold_lines(linf)[0] == pytest.approx(np.array(expected) / 20)
    by_dash = {line.get_linestyle(): line for line in accuracy.lines if line.get_linewidth() == 1.6}
    assert np.asarray(by_dash["--"].get_ydata()) == pytest.approx(99)
    assert np.asarray(by_dash["-"].get_ydata())[0] == pytest.approx(50)


def test_seeds_are_a_band_and_thin_lines() -> None:
    """With several seeds a band spans their range and each is a thin line; one seed has neither."""
    _, several, _ = draw_study(made_up(variants=("resnet",), seeds=(0, 1, 2)), "title").axes
    thin = [line for line in several.lines if line.get_linewidth() < 1]
    assert len(thin) == 3
    heights = several.collections[0].get_paths()[0].vertices[:, 1]
    lowest, highest = (end(np.concatenate([np.asarray(t.get_ydata()) for t in thin])) for end in (min, max))
    assert (heights.min(), heights.max()) == pytest.approx((lowest, highest))
    _, one, _ = draw_study(made_up(variants=("resnet",), seeds=(0,)), "title").axes
    assert len(one.collections) == 0
    assert all(line.get_linewidth() > 1 for line in one.lines)


def test_rows_of_a_data_set_share_their_scale() -> None:
    """Distortions of one data set can be compared by height; another data set has its own scale."""
    other = [replace(result, l2=5.0) for result in made_up("mnist", ("perceptron",))]
    figure = draw_study([*made_up(), *other], "title")
    rows = {row[0].get_title(loc="left"): row for row in np.reshape(figure.axes, (3, 3))}
    cnn, resnet = rows["cifar10: Simple CNN, 7 layers"], rows["cifar10: ResNet-32"]
    assert [axis.get_ylim() for axis in cnn] == [axis.get_ylim() for axis in resnet]
    largest = max(result.l2 or 0 for result in made_up())
    assert cnn[1].get_ylim()[0] == 0
    assert largest < cnn[1].get_ylim()[1] < 1.3 * largest
    assert rows["mnist: 2-layer perceptron"][1].get_ylim()[1] > 5


def test_peak_is_marked_and_named() -> None:
    """The star stands on the size with the largest mean distortion, and the panel names it."""
    _, l2, _ = draw_study(made_up(variants=("resnet",)), "title").axes
    (star,) = [line for line in l2.lines if line.get_marker() == "*"]
    assert list(star.get_xdata()) == [CIFAR_SIZES[len(CIFAR_SIZES) // 2]]
    assert "peak at 25,000" in texts(l2)


def test_a_rising_curve_has_no_peak() -> None:
    """Where robustness still rises nothing is marked, in the panel or in the legend."""
    rising = [replace(r, l2=r.test_accuracy, linf=r.test_accuracy) for r in made_up(variants=("resnet",))]
    figure = draw_study(rising, "title")
    assert all(line.get_marker() != "*" for axis in figure.axes for line in axis.lines)
    assert "peak" not in "".join(text.get_text() for text in figure.legends[0].get_texts())


def test_the_number_of_images_is_shown() -> None:
    """Each distortion panel says over how many images it averages, and when they are too few."""
    results = made_up(variants=("resnet",), images=1_234)
    results += made_up(variants=("resnet+aug",), seeds=(0,), images=12)
    _, l2, linf = draw_study(results, "title").axes
    for axis in (l2, linf):
        assert "n = 1,234" in texts(axis)
        assert "+aug: n = 12 (too few)" in texts(axis)


@pytest.mark.parametrize("missing", [None, math.inf, math.nan], ids=str)
def test_a_missing_score_leaves_a_gap(missing: float | None) -> None:
    """Where one seed has no score the mean has a gap, neither a zero nor the other seed's value."""
    results = made_up(variants=("resnet",))
    cell = Cell("cifar10", "resnet", False, 10_000, 1)
    results = [replace(result, l2=missing) if result.cell == cell else result for result in results]
    _, l2, _ = draw_study(results, "title").axes
    (heights,) = bold_lines(l2)
    assert np.isnan(heights).tolist() == [size == 10_000 for size in CIFAR_SIZES]
    assert "with gaps" in texts(l2)


def test_an_unfinished_cell_leaves_a_gap() -> None:
    """A cell that never finished is a gap in accuracy and distortion alike."""
    results = [r for r in made_up(variants=("resnet",)) if (r.cell.train_size, r.cell.seed) != (10_000, 1)]
    for axis in draw_study(results, "title").axes:
        assert all(np.isnan(heights[2]) and np.isfinite(heights[3]) for heights in bold_lines(axis))


@pytest.mark.parametrize(
    ("images", "rate", "reason"),
    [
        (0, None, "no common-correct images"),
        (50, 0.9, "no mean: images missed by the attack"),
        (50, None, "not attacked"),
    ],
)
def test_an_empty_curve_says_why(images: int, rate: float | None, reason: str) -> None:
    """A panel without a single score draws nothing and says why."""
    results = [
        replace(r, l2=None, linf=None, images=images, l2_success_rate=rate, linf_success_rate=rate)
        for r in made_up(variants=("resnet",))
    ]
    accuracy, l2, linf = draw_study(results, "title").axes
    for axis in (l2, linf):
        assert reason in texts(axis)
        assert len(axis.lines) == 0
    assert len(bold_lines(accuracy)) == 2


def test_no_result_says_so() -> None:
    """A study without a finished cell gives a figure that says it."""
    assert "no finished cells to draw" in [text.get_text() for text in draw_study([], "title").texts]


def test_the_order_of_results_does_not_matter(tmp_path: Path) -> None:
    """Cells finish in any order; the figure is the same to the byte, as PNG and as SVG."""
    results = made_up(sizes=(10, 20, 30))
    written = []
    for name, order in (("a", results), ("b", results[::-1])):
        paths = save_figure(draw_study(order, "title"), tmp_path / name)
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
    assert b"dc:date" not in written[0][1]


def test_a_single_size_and_seed_is_drawn(tmp_path: Path) -> None:
    """The smallest study there is gives one point in each panel, with train and test told apart."""
    accuracy, l2, _ = (
        figure := draw_study(made_up(sizes=(100,), seeds=(0,), variants=("resnet",)), "t")
    ).axes
    assert [len(heights) for heights in bold_lines(l2)] == [1]
    assert len({line.get_marker() for line in accuracy.lines}) == 2
    save_figure(figure, tmp_path)


def test_size_labels_have_separators_and_room() -> None:
    """All paper sizes are labelled, with separators; a crowded size keeps its tick without a label."""
    axis = draw_study(made_up(variants=("resnet",)), "title").axes[0]
    assert list(axis.get_xticks()) == sorted(CIFAR_SIZES, reverse=True)
    formatter = axis.xaxis.get_major_formatter()
    assert [formatter(size) for size in (1_000, 50_000)] == ["1,000", "50,000"]
    crowded = draw_study(made_up(variants=("resnet",), sizes=(10, 20, 1_000, 2_000)), "title").axes[0]
    assert sorted(crowded.get_xticks()) == [20, 1_000, 2_000]
    assert sorted(crowded.get_xticks(minor=True)) == [10]


def test_no_text_overlaps() -> None:
    """Titles, axis labels, notes and legend keep clear of each other, also with the longest notes."""
    results = made_up(variants=("resnet", "resnet+aug"), images=12)
    results = [
        replace(result, l2=None, linf=None, images=29) if result.cell.train_size == 50_000 else result
        for result in results
    ]
    figure = draw_study(results, "A title")
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure).draw()
    written = [
        text for axis in figure.axes for text in (axis._left_title, axis.yaxis.label, axis.xaxis.label)
    ]
    written += [figure._suptitle, *figure.legends[0].get_texts()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in written if text.get_text()]
    assert any("(too few), with gaps, peak at" in text for text, _ in boxes)
    for (one, box), (other, other_box) in combinations(boxes, 2):
        assert not box.overlaps(other_box), f"{one!r} runs into {other!r}"
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for _, box in boxes)


def test_saving_replaces_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted save leaves the earlier file as it was and no remains beside it."""
    figure = draw_study(made_up(sizes=(10, 20), variants=("resnet",)), "title")
    png, svg = save_figure(figure, tmp_path)
    before = {path: path.read_bytes() for path in (png, svg)}

    def interrupted(_figure: Figure, file: BinaryIO, **_: object) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_figure(figure, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    """Where no folder can be made, the user reads one line that names it."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"^cannot write the figure to .*file.*; choose a writable folder$"):
        save_figure(draw_study([], "title"), tmp_path / "file" / "folder")
    assert os.listdir(tmp_path) == ["file"]


def test_only_a_tested_turning_point_is_starred() -> None:
    """With verdicts at hand the star stands where the test found one, and nowhere else, whatever the largest mean."""
    results = made_up(variants=("resnet",))
    _, l2, linf = draw_study(results, "title", {("cifar10", "resnet", "linf"): 15_000}).axes
    assert not [line for line in l2.lines if line.get_marker() == "*"]
    assert "peak" not in texts(l2)
    (star,) = [line for line in linf.lines if line.get_marker() == "*"]
    assert list(star.get_xdata()) == [15_000]
    assert "turning point at 15,000" in texts(linf)
