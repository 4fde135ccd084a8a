"""The tables for the terminal."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table

from robustlab.linear_example import linear_example
from robustlab.models import TABLE_1
from robustlab.study import tables
from robustlab.study.cell import Cell, CellResult
from robustlab.study.tables import linear_table, results_table, table1_table


def printed(table: Table, width: int = 80) -> list[str]:
    """The lines a user sees in a terminal of that width."""
    console = Console(width=width, file=StringIO(), color_system=None)
    console.print(table)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in output.splitlines()]


def result(
    model: str = "simple_cnn", size: int = 100_000, seed: int = 0, augmented: bool = True
) -> CellResult:
    """A made-up cell with the widest entries there are."""
    cell = Cell("tinyimagenet", model, augmented, size, seed)
    return CellResult(cell, 1.0, 0.5, 0.25, 0.0125, 10_000, 1.0, 1.0, 1.0, 1.0)


def row_of(lines: list[str], start: str) -> list[str]:
    """The entries of the one row that starts like this."""
    (line,) = [line for line in lines if line.strip().startswith(start)]
    return line.split()


def test_means_over_seeds_in_percent() -> None:
    """Accuracies are percentages, distortions pixel units, each the mean over the seeds."""
    results = [result(), replace(result(seed=1), test_accuracy=0.6, l2=0.35, linf=0.0175)]
    row = row_of(printed(results_table(results)), "simple_cnn+aug")
    assert row[1:] == ["100,000", "100.0", "55.0", "0.3000", "0.01500", "100.0", "100.0", "10,000"]


def test_a_row_per_variant_and_size_in_order() -> None:
    """Rows stand in the order of the architectures, plain first, then by size, whatever came first."""
    results = [
        result(model, size, augmented=augmented)
        for size in (2_000, 1_000)
        for model in ("densenet", "perceptron")
        for augmented in (True, False)
    ]
    lines = printed(results_table(results))
    rows = [tuple(line.split()[:2]) for line in lines if "00.0" in line]
    variants = ("perceptron", "perceptron+aug", "densenet", "densenet+aug")
    assert rows == [(variant, size) for variant in variants for size in ("1,000", "2,000")]


def test_the_worst_seed_is_shown() -> None:
    """A missed image shows in the success rate, which is never rounded up to 100, and takes the mean away."""
    results = [result(), replace(result(seed=1), l2=None, l2_success_rate=0.9999, images=31)]
    row = row_of(printed(results_table(results)), "simple_cnn+aug")
    assert row[4:] == ["-", "0.01250", "99.9", "100.0", "31"]


def test_an_unfinished_seed_leaves_no_mean() -> None:
    """A size at which a seed's cell never finished has no mean: it would compare different seeds."""
    results = [result(size=100_000), result(size=100_000, seed=1), result(size=200_000)]
    lines = printed(results_table(results))
    assert "0.2500" in row_of(lines, "simple_cnn+aug  100,000")
    assert row_of(lines, "simple_cnn+aug  200,000")[2:6] == ["-"] * 4


def test_attacks_that_were_not_run_are_missing() -> None:
    """Without an attack there is neither a score nor a success rate."""
    row = row_of(printed(results_table([replace(result(), linf=None, linf_success_rate=None)])), "simple")
    assert (row[5], row[7]) == ("-", "-")


def test_small_counts_are_flagged() -> None:
    """Fewer than 30 images carry a mark that is explained below; enough images carry none."""
    lines = printed(results_table([replace(result(), images=29)]))
    assert row_of(lines, "simple_cnn+aug")[-1] == "29!"
    assert any("fewer than 30 images" in line for line in lines)
    assert "!" not in "".join(printed(results_table([replace(result(), images=30)])))


def test_several_data_sets_are_named() -> None:
    """With more than one data set each stands under its name."""
    other = replace(result(), cell=Cell("mnist", "perceptron", False, 1_000, 0))
    lines = [line.strip() for line in printed(results_table([result(), other]))]
    assert lines.index("mnist") < lines.index("tinyimagenet")
    assert "tinyimagenet" not in "".join(printed(results_table([result()])))


def test_table_1_has_twelve_equal_rows() -> None:
    """Every row of Table 1 shows the paper's count, ours and that they are equal."""
    lines = printed(table1_table())
    for row in TABLE_1:
        (line,) = [line for line in lines if line.split()[:2] == [row.dataset, row.model]]
        assert line.split()[-3:] == [f"{row.parameters:,}", f"{row.parameters:,}", "yes"]


def test_table_1_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of another size is not called equal."""
    monkeypatch.setattr(tables, "TABLE_1", (replace(TABLE_1[0], parameters=814_091),))
    assert row_of(printed(table1_table()), "mnist")[-3:] == ["814,091", "814,090", "no"]


def test_linear_example_beside_the_paper() -> None:
    """Section 2 shows both errors and robustness values beside the paper's, and what differs."""
    lines = printed(linear_table(linear_example()))
    assert row_of(lines, "M1")[-4:] == ["0.0450", "0.0450", "0.15990", "0.2194"]
    assert row_of(lines, "M2")[-4:] == ["0.0396", "0.0396", "0.15645", "0.2125"]
    assert "differ from the paper's" in " ".join(lines).replace("  ", " ")


@pytest.mark.parametrize(
    "table",
    [
        results_table([replace(result(), images=29)]),
        results_table([]),
        table1_table(),
        linear_table(linear_example()),
    ],
    ids=["results", "no results", "table 1", "linear"],
)
def test_readable_at_80_columns(table: Table) -> None:
    """Nothing is cut off in a terminal of 80 columns."""
    lines = printed(table)
    assert max(len(line) for line in lines) <= 80
    assert "…" not in "".join(lines)


def test_overestimates_carry_a_mark() -> None:
    """The score that other attacks showed to be too high has a question mark, the other norm's has none."""
    doubtful = replace(result(), suspicion="Linf: the score is an overestimate: other attacks come nearer")
    lines = printed(results_table([doubtful]))
    assert row_of(lines, "simple_cnn+aug")[4:6] == ["0.2500", "0.01250?"]
    assert any(line.strip().startswith("?: an overestimate") for line in lines)
    assert "?" not in "".join(printed(results_table([result()])))
