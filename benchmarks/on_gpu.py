"""Everything that is measured on a CUDA device, in one results file. ``make bench-gpu`` runs it.

    PYTHONPATH=.:kernels python -m benchmarks.on_gpu

Plain Python with torch, triton and numpy is enough; the peers take part where they are installed. Writes
benchmarks/results/<gpu>.json anew and prints its tables last. Without a CUDA device it says so and ends with status 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from robustlab_kernels import kernels_version

from benchmarks import attack_steps, operators
from benchmarks.gpu import clocks
from benchmarks.machine import file_name

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.on_gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30, help="times that every operator is timed")
    parser.add_argument("--step-rounds", type=int, default=3, help="times that every attack step is timed")
    parser.add_argument("--out", type=Path, help="write the results here instead")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available() or kernels_version() == "reference":
        missing = "a CUDA device, and torch sees none here" if not torch.cuda.is_available() else "triton"
        print(f"the benchmark on GPUs needs {missing}", file=sys.stderr)
        raise SystemExit(2)
    report = operators.measure(rounds=options.rounds)
    report["benchmark"] = "on_gpu"
    out = options.out or RESULTS / f"{file_name(report['gpu'])}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    # Written after each part: what was measured stays when the rest is cut short.
    out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    print(operators.table(report), flush=True)
    report["attacks"] = attack_steps.measure(options.step_rounds)
    report["clocks_after"] = clocks()
    out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    print(f"written: {out}", file=sys.stderr)
    print("\n" + operators.table(report) + "\n\n" + attack_steps.tables(report["attacks"]))


if __name__ == "__main__":
    main()
