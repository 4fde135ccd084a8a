"""The attack operators beside a copy of the same bytes: is a step as fast as the GPU's memory? Plain torch and Triton.

    PYTHONPATH=.:kernels python -m benchmarks.operators

Every operator on CIFAR-10's shapes as the Triton pass, as torch runs the reference and as torch.compile does, in one
process, in turns with the copy. Prints a table and writes benchmarks/results/operators-<gpu>.json anew. All of them
are timed inside CUDA graphs that repeat the call, as the attack loops run them: no side pays for Python.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from robustlab_kernels import (
    cw_start,
    cw_step,
    ifgsm_step,
    kernels_version,
    margin,
    ray_step,
    search_update,
    track_best,
)
from torch import Tensor

from benchmarks.gpu import clocks, graph_timer, smi
from benchmarks.machine import file_name, said
from benchmarks.summary import spread

RESULTS = Path(__file__).parent / "results"
SHAPE, CLASSES = (3, 32, 32), 10
BATCHES = (1024, 16384)
CONTENDERS = ("fused", "eager", "compiled", "copy")
TARGET = 0.9  # of the copy's bandwidth, at the largest batch


@dataclass
class Call:
    """An operator, its arguments by name, and how far its two passes may round apart, relative to 1 + the value."""

    name: str
    operator: Callable[..., Any]
    arguments: dict[str, Tensor]
    tolerance: float

    def copies(self) -> dict[str, Tensor]:
        """The arguments, for one contender to change."""
        return {name: value.clone() for name, value in self.arguments.items()}


def calls(batch: int) -> list[Call]:
    """Every operator with all images at work: the most that it has to move."""
    torch.manual_seed(0)
    on_gpu = partial(torch.rand, device="cuda")
    inputs, noise = on_gpu(batch, *SHAPE), on_gpu(batch, *SHAPE) - 0.5
    x, gradient = (inputs + 0.1 * noise).clamp(0.01, 0.99), on_gpu(batch, *SHAPE) - 0.5
    ones, always = torch.ones(batch, device="cuda"), torch.ones(batch, device="cuda", dtype=torch.bool)
    w = torch.logit(x) / 2
    step = 5 * always.long()
    logits, labels = 4 * on_gpu(batch, CLASSES), torch.randint(CLASSES, (batch,), device="cuda")
    cw = {
        "w": w, "adv_inputs": x, "first_moment": 0.1 * noise, "second_moment": noise.square(), "inputs": inputs,
        "gradient": gradient, "const": 0.1 * ones, "step": step, "learning_rate": 0.01 * ones, "active": always,
    }  # fmt: skip
    start = {
        "w": w, "adv_inputs": x, "first_moment": 0.1 * noise, "second_moment": noise.square(),
        "squared_l2": ones, "inputs": inputs, "origin": x, "begins": always,
    }  # fmt: skip
    ifgsm = {
        "adv_inputs": x, "inputs": inputs, "gradient": gradient, "step_size": 0.01 * ones, "epsilon": 0.1 * ones,
        "active": always,
    }  # fmt: skip
    best = {
        "best": inputs, "best_distance": torch.inf * ones, "adv_inputs": x, "distance": ones, "adversarial": always,
    }  # fmt: skip
    ray = {
        "adv_inputs": x, "inputs": inputs, "margin": -0.1 * ones, "gradient": gradient, "turn": 0.5 * ones,
        "inside": 0.01 * ones, "limit": 0.2 * ones,
    }  # fmt: skip
    search = {
        "value": ones, "low": 0.5 * ones, "high": 3 * ones, "succeeded": always, "decided": always,
    }  # fmt: skip
    return [
        Call("cw_step", cw_step, cw, 1e-5),
        Call("cw_start", _cw_start, start, 1e-5),
        Call("ifgsm_step", ifgsm_step, ifgsm, 0),
        Call("track_best", track_best, best, 0),
        Call("ray_step", ray_step, ray, 1e-4),
        Call("margin", partial(_margin, soft=False), {"logits": logits, "labels": labels}, 0),
        Call("margin soft", partial(_margin, soft=True), {"logits": logits, "labels": labels}, 1e-5),
        Call("search_update", _search_update, search, 0),
    ]


def _margin(logits: Tensor, labels: Tensor, *, soft: bool, backend: str) -> tuple[Tensor, ...]:
    return tuple(margin(logits, labels, soft=soft, backend=backend))


def _cw_start(*arguments: Tensor, backend: str) -> None:
    cw_start(*arguments, 0.999, backend=backend)


def _search_update(*arguments: Tensor, backend: str) -> None:
    search_update(*arguments, 10.0, backend=backend)


def stated_bytes(operator: str, batch: int, row: int) -> int:
    """What the operator has to move for so many images at work, from its Triton pass's docstring."""
    module = importlib.import_module(f"robustlab_kernels.{operator}.fused")
    lines = re.findall(
        r"per ([\w ]+): (\d+) bytes read, (\d+) bytes written", getattr(module, operator).__doc__
    )
    sizes = {"pixel": row, "pixel of an active image": row, "logit": row, "image": 1}
    return batch * sum(sizes.get(unit, 0) * (int(read) + int(written)) for unit, read, written in lines)


def measure(batches: Sequence[int] = BATCHES, rounds: int = 30) -> dict[str, Any]:
    """Everything that the results file says; raises ``RuntimeError`` where a result differs from the reference."""
    report: dict[str, Any] = {
        "benchmark": "operators",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": said("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"),
        "uncommitted_changes": bool(
            said("git", "-C", str(Path(__file__).parents[1]), "status", "--porcelain", "--", "kernels", "benchmarks")
        ),
        "gpu": torch.cuda.get_device_name(),
        "kernels": kernels_version(),
        "versions": {
            "python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
            "driver": smi("driver_version"),
        },
        "shape": SHAPE,
        "dtype": "float32",
        "n": rounds,
        "clocks_before": clocks(),
        "operators": [],
    }  # fmt: skip
    for batch in batches:
        for call in calls(batch):
            refuse_a_difference(call)
            report["operators"].append(_row(call, batch, rounds))
            torch.cuda.empty_cache()
    report["clocks_after"] = clocks()
    return report


def refuse_a_difference(call: Call) -> None:
    """No time is worth reporting of a result that is not the reference's."""
    results = []
    for backend in ("fused", "reference"):
        arguments = call.copies()
        returned = call.operator(*arguments.values(), backend=backend)
        returned = () if returned is None else returned if isinstance(returned, tuple) else (returned,)
        results.append([*returned, *arguments.values()])
    for got, expected in zip(*results, strict=True):
        off = (got.double() - expected.double()).abs() > call.tolerance * (1 + expected.double().abs())
        if off.any() or not torch.equal(got.isnan(), expected.isnan()):
            raise RuntimeError(
                f"{call.name}: the Triton pass differs from the reference; nothing is reported"
            )


def _row(call: Call, batch: int, rounds: int) -> dict[str, Any]:
    row = CLASSES if call.name.startswith("margin") else torch.Size(SHAPE).numel()
    size_bytes = stated_bytes(call.name.split()[0], batch, row)
    repeats = 5 if size_bytes > 2**28 else 20
    timers = {
        "fused": _timer(call, partial(call.operator, backend="fused"), repeats),
        "eager": _timer(call, partial(call.operator, backend="reference"), repeats),
        "compiled": _timer(
            call, torch.compile(partial(call.operator, backend="reference"), fullgraph=True, dynamic=False), repeats
        ),
        "copy": _copy_timer(size_bytes, repeats),
    }  # fmt: skip
    times: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    for number in range(rounds):
        for contender in CONTENDERS if number % 2 == 0 else reversed(CONTENDERS):
            times[contender].append(timers[contender]())
    time_s = {contender: spread(values) for contender, values in times.items()}
    return {
        "operator": call.name,
        "batch": batch,
        "size_bytes": size_bytes,
        "time_s": time_s,
        "gb_per_s": {contender: size_bytes / time_s[contender]["median"] / 1e9 for contender in CONTENDERS},
        "share_of_copy": time_s["copy"]["median"] / time_s["fused"]["median"],
    }


def _timer(call: Call, operator: Callable[..., Any], repeats: int) -> Callable[[], float]:
    """Seconds of one call, from a graph that repeats it."""
    arguments = call.copies()
    # A distance that was taken over is no improvement the second time: every repeat has its own.
    own = [value.clone() for value in [arguments.get("best_distance")] * repeats if value is not None]
    versions = [arguments | {"best_distance": value} for value in own] or [arguments] * repeats

    def reset() -> None:
        for value in own:
            value.fill_(torch.inf)

    return graph_timer(lambda: [operator(*version.values()) for version in versions], reset, repeats)


def _copy_timer(size_bytes: int, repeats: int) -> Callable[[], float]:
    """Seconds of a device-to-device copy that reads one half of the bytes and writes the other."""
    source = torch.zeros(max(size_bytes // 2, 1), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return graph_timer(lambda: [target.copy_(source) for _ in range(repeats)], lambda: None, repeats)


def table(report: dict[str, Any]) -> str:
    """The rows as Markdown; the times are medians (20 to 80 % quantile) in microseconds."""
    lines = [
        f"{report['gpu']}, {report['kernels']}, torch {report['versions']['torch']}, n = {report['n']}; times in us",
        "",
        "| operator | batch | MB | fused | eager | torch.compile | copy | fused GB/s | of the copy's | target |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    largest = max(row["batch"] for row in report["operators"])
    for row in report["operators"]:
        times = " | ".join(_microseconds(row["time_s"][contender]) for contender in CONTENDERS)
        reached = "reached" if row["share_of_copy"] >= TARGET else "missed"
        lines.append(
            f"| {row['operator']} | {row['batch']} | {row['size_bytes'] / 1e6:.1f} | {times} "
            f"| {row['gb_per_s']['fused']:.0f} | {row['share_of_copy']:.0%} "
            f"| {reached if row['batch'] == largest else ''} |"
        )
    return "\n".join(lines)


def _microseconds(time_s: dict[str, float]) -> str:
    median, p20, p80 = (1e6 * time_s[key] for key in ("median", "p20", "p80"))
    return f"{median:.1f} ({p20:.1f}-{p80:.1f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operators", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=30, help="times that every contender is timed")
    parser.add_argument("--out", type=Path, help="write the results here instead")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("the operators' benchmark needs a CUDA device, and torch sees none here", file=sys.stderr)
        raise SystemExit(2)
    if kernels_version() == "reference":
        print(
            "the operators' benchmark needs triton, which is not installed: pip install triton",
            file=sys.stderr,
        )
        raise SystemExit(2)
    try:
        report = measure(rounds=options.rounds)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from error
    out = options.out or RESULTS / f"operators-{file_name(report['gpu'])}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    print(f"written: {out}", file=sys.stderr)
    print(table(report))


if __name__ == "__main__":
    main()
