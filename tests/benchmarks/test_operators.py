"""The operators' benchmark: what it refuses, what it counts, what it prints."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import operators


def test_without_a_gpu_it_refuses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line on stderr and exit status 2; nothing is measured and nothing written."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        operators.main([])
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert said.out == ""
    assert said.err == "the operators' benchmark needs a CUDA device, and torch sees none here\n"


def test_bytes_are_those_of_the_tensors() -> None:
    """cw_step reads six images and writes four; ray_step reads three and writes one; scalars come on top."""
    assert operators.stated_bytes("cw_step", 10, 3072) == 10 * (3072 * 4 * (6 + 4) + 17 + 4)
    assert operators.stated_bytes("ray_step", 10, 3072) == 10 * (3072 * 4 * (3 + 1) + 16)
    assert operators.stated_bytes("margin", 10, 5) == 10 * (5 * 4 * (1 + 1) + 8 + 13)


@pytest.mark.parametrize(
    ("shift", "scale", "refused"),
    [(0.0, 1.0, False), (0.01, 1.0, True), (0.0, 0.0, True), (0.0, torch.nan, True)],
)
def test_a_different_result_is_not_timed(shift: float, scale: float, refused: bool) -> None:
    """A pass that returns or writes anything else than the reference is refused before it is timed."""

    def operator(value: Tensor, *, backend: str) -> Tensor:
        value += shift if backend == "fused" else 0
        return torch.ones(3) * (scale if backend == "fused" else 1)

    call = operators.Call("try", operator, {"value": torch.rand(3) + 1}, 1e-5)
    with pytest.raises(RuntimeError, match="try: the Triton pass differs") if refused else nullcontext():
        operators.refuse_a_difference(call)


def test_the_table_shows_the_target_at_the_largest_batch() -> None:
    """Medians with their spread, bandwidth, and whether the fused pass reaches its share of the copy's."""
    rows = [row("cw_step", 1024, 80e-6), row("cw_step", 16384, 100e-6), row("margin", 16384, 120e-6)]
    report = {"gpu": "GPU", "kernels": "triton 3.9.0", "versions": {"torch": "2"}, "n": 3, "operators": rows}
    lines = operators.table(report).splitlines()[-3:]
    assert lines[0].endswith("| 500 | 112% |  |")
    assert lines[1].endswith("| 400 | 90% | reached |")
    assert lines[2].endswith("| 333 | 75% | missed |")
    assert "| 100.0 (100.0-100.0) |" in lines[1]


def row(name: str, batch: int, fused_s: float) -> dict[str, Any]:
    times = {"fused": fused_s, "eager": 1e-3, "compiled": 2e-4, "copy": 90e-6}
    return {
        "operator": name,
        "batch": batch,
        "size_bytes": 40_000_000,
        "time_s": {key: {"median": value, "p20": value, "p80": value} for key, value in times.items()},
        "gb_per_s": {"fused": 0.04 / fused_s},
        "share_of_copy": 90e-6 / fused_s,
    }


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # torch.compile has things to say about the GPU
def test_it_runs_to_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two rounds of everything: the file holds both batches of every operator, the table comes last."""
    operators.main(["--rounds", "2", "--out", str(tmp_path / "gpu.json")])
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert len(report["operators"]) == 14
    assert capsys.readouterr().out.rstrip().splitlines()[-1].startswith("| search_update | 16384 |")
