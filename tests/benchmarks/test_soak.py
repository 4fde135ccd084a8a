"""One process that does many cells stays as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.soak import MOST_KB_A_CELL, Sample, judge


def samples(kb_a_cell: float = 0.0, handles_a_cell: float = 0.0) -> list[Sample]:
    """Made-up samples of 100 cells, growing as given after the tenth."""
    grown = [max(0, number - 10) for number in range(100)]
    return [
        Sample(number, number, int(4e5 + kb_a_cell * more), int(20 + handles_a_cell * more), 5, 2)
        for number, more in enumerate(grown, start=1)
    ]


def test_growth_is_told_from_rest() -> None:
    """Memory or handles that grow with the cells are not flat, whatever there was at first is."""
    assert judge(samples(), 20)["flat"]
    assert not judge(samples(kb_a_cell=1.5 * MOST_KB_A_CELL), 20)["flat"]
    assert not judge(samples(handles_a_cell=0.1), 20)["flat"]


def test_a_file_that_is_open_for_a_moment_is_no_leak() -> None:
    """One sample with two handles more is not growth; two more in every sample of the last fifth are."""
    found = samples()
    assert judge([replace(one, handles=22) if one.cells == 95 else one for one in found], 20)["flat"]
    assert not judge([replace(one, handles=22) if one.cells > 80 else one for one in found], 20)["flat"]


@pytest.mark.slow
def test_sixty_cells_in_one_process(tmp_path: Path) -> None:
    """Handles, threads, connections and memory after 60 cells are those after 20."""
    out = tmp_path / "soak.json"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--cells", "60", "--settle", "20", "--out", str(out)],
        env={**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        check=True,
        timeout=300,
    )
    figures = json.loads(out.read_text())["figures"]
    assert figures["cells"] == 60
    assert figures["flat"], figures
